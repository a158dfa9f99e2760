//! The assembler stage: GAS text in, the same text with padded and recorded sites out.
//!
//! It works on text because that is the only place where every sensitive instruction of a kernel, compiled or
//! hand-written, passes by before any address is decided. It is deliberately not an assembler: it finds the statements
//! that are sensitive, inserts around them, and copies every other byte. What it does not understand it leaves alone, and
//! the census of the object (see [`crate::object`]) tells what it missed. So each rule here may be simple as long as it
//! errs to the side of leaving a statement alone; what it must never do is change what the text means.
//!
//! * [`scan`](self) cuts the text into labels and statements, [`sections`](self) follows where they go.
//! * `lookup` and `operands` decide whether a statement is sensitive, `bytes` whether a hand-encoded one is.
//! * `macros` knows what parameters can stand for, `liveness` what matters after a site.
//! * `emit` is the only one that knows what is inserted.

mod bytes;
mod emit;
mod linux;
mod liveness;
mod lookup;
mod macros;
mod operands;
mod scan;
mod sections;

use std::io::{self, Write};
use std::ops::Range;

use self::bytes::{Encoded, Run};
use self::emit::{Dispatch, Insertion, Kind, LABELS};
use self::lookup::{Mnemonic, lookup};
use self::macros::Macros;
use self::operands::{Syntax, split};
use self::scan::{Item, Scanner, Statement};
use self::sections::{Section, Sections};
use crate::instructions::{Class, ClassSet, Part, RegisterFile, Row, SEQUENCES, When};
use crate::record::{Flags, Liveness, MINIMUM_SLOT};

/// What to annotate, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The classes that are padded. A site of another class is recorded as switched off.
    pub classes: ClassSet,
    /// Emit what keeps Linux's objtool from taking a record for a code pointer (`.discard.noendbr`).
    pub objtool_hints: bool,
}

/// A site that the text stage has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its class; of a statement whose parameters decide when it is expanded, `None`.
    pub class: Option<Class>,
    /// Line of the text, from 1.
    pub line: u32,
    /// What the text tells of it.
    pub flags: Flags,
}

/// A text and what is to be inserted into it.
#[derive(Debug)]
pub struct Annotated<'a> {
    source: &'a [u8],
    insertions: Vec<Insertion>,
    objtool_hints: bool,
    is_certain: bool,
}

/// Finds the sites of a text.
#[must_use]
pub fn annotate<'a>(source: &'a [u8], options: &'a Options) -> Annotated<'a> {
    let mut stage = Stage::new(source, options);
    stage.run(0..source.len());
    if stage.labels_collide {
        stage.insertions.clear();
    }
    Annotated {
        source,
        insertions: stage.insertions,
        objtool_hints: options.objtool_hints,
        is_certain: stage.is_certain,
    }
}

impl Annotated<'_> {
    /// Whether there is anything to insert.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        !self.insertions.is_empty()
    }

    /// Whether the object will certainly have a record. Otherwise every site stands in a macro body or a conditional,
    /// which may never be assembled.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.is_certain && self.is_changed()
    }

    /// The sites, in the order of the text.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        let mut line = 1;
        let mut counted = 0;
        self.insertions.iter().map(move |insertion| {
            line += memchr::memchr_iter(b'\n', &self.source[counted..insertion.start]).count();
            counted = insertion.start;
            let class = match insertion.kind {
                Kind::Site(class) => Some(class),
                Kind::Dispatched(..) => None,
            };
            Site { class, line: u32::try_from(line).unwrap_or(u32::MAX), flags: insertion.flags }
        })
    }

    /// Writes the annotated text. `name` is what the assembler is to call it in messages and debug information.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_to(&self, name: &str, out: &mut impl Write) -> io::Result<()> {
        if !self.is_changed() {
            return out.write_all(self.source);
        }
        let dispatched = self.insertions.iter().any(|insertion| matches!(insertion.kind, Kind::Dispatched(..)));
        emit::prelude(dispatched, out)?;
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        writeln!(out, "\n# 1 \"{name}\"")?;
        let mut written = 0;
        for insertion in &self.insertions {
            out.write_all(&self.source[written..insertion.start])?;
            insertion.write(self.source, self.objtool_hints, out)?;
            written = insertion.end;
        }
        out.write_all(&self.source[written..])
    }
}

/// Statements that a branch relative to `.` is taken to reach, on either side.
const DOT_REACH: usize = 16;

struct Stage<'a> {
    source: &'a [u8],
    options: &'a Options,
    insertions: Vec<Insertion>,
    sections: Sections,
    macros: Macros<'a>,
    /// The section outside the macro body that the text is in.
    outside: Option<Section>,
    syntax: Syntax,
    long_mode: bool,
    /// In a macro argument: the code ends up in another place, perhaps in a replacement.
    in_argument: bool,
    conditionals: usize,
    is_certain: bool,
    labels_collide: bool,
    /// The text comes from a compiler.
    compiled: bool,
    function_flags: Flags,
    /// The labels directly before the statement.
    labels: Vec<Range<usize>>,
    /// The instruction directly before the statement.
    previous: Option<Statement>,
    statement: usize,
    dot_reaches_until: usize,
}

/// A sensitive instruction, perhaps of several statements, before it becomes an insertion.
struct Found {
    class: Class,
    range: Range<usize>,
    least_length: u8,
    slot: u8,
}

impl<'a> Stage<'a> {
    fn new(source: &'a [u8], options: &'a Options) -> Self {
        Self {
            source,
            options,
            insertions: Vec::new(),
            sections: Sections::default(),
            macros: Macros::new(source),
            outside: None,
            syntax: Syntax::default(),
            long_mode: true,
            in_argument: false,
            conditionals: 0,
            is_certain: false,
            labels_collide: false,
            compiled: memchr::memmem::find(source, b"#NO_APP").is_some(),
            function_flags: Flags::empty(),
            labels: Vec::new(),
            previous: None,
            statement: 0,
            dot_reaches_until: 0,
        }
    }

    fn run(&mut self, range: Range<usize>) {
        let mut scanner = Scanner::new(self.source, range);
        while let Some(item) = scanner.next() {
            match item {
                Item::Label(name) => self.label(name),
                Item::Statement(statement) => {
                    self.statement += 1;
                    if self.macros.in_body() {
                        self.macros.note_use(statement.range());
                    }
                    let head = statement.head(self.source);
                    if head.first() == Some(&b'.') {
                        if head.eq_ignore_ascii_case(b".end") {
                            return;
                        }
                        self.directive(&statement, &mut scanner);
                    } else {
                        self.instruction(&statement, &mut scanner);
                    }
                    self.labels.clear();
                }
            }
        }
    }

    fn label(&mut self, name: Range<usize>) {
        let text = &self.source[name.clone()];
        match text.first() {
            Some(b'0'..=b'9') => self.labels_collide |= LABELS.iter().any(|label| label.as_bytes() == text),
            Some(b'.' | b'\\') | None => {}
            Some(_) => self.function_flags = linux::function_flags(text),
        }
        if self.macros.in_body() {
            self.macros.note_use(name.start..name.end + 1);
        }
        self.labels.push(name);
        self.previous = None;
    }

    fn directive(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) {
        self.previous = None;
        let head = statement.head(self.source);
        if head.eq_ignore_ascii_case(b".byte") {
            return self.bytes(statement, scanner);
        }
        // Most directives of a compiler's output are of these two families.
        if head == b".loc" || head.starts_with(b".cfi_") {
            return;
        }
        let Ok(name) = std::str::from_utf8(head) else { return };
        let name = name.to_ascii_lowercase();
        let operands = statement.operands(self.source);
        let was_in_macro = self.macros.in_macro();
        if self.sections.follow(&name, operands) {
            return;
        }
        if self.macros.follow(&name, statement.end - operands.len()..statement.end) {
            return self.macro_boundary(was_in_macro);
        }
        match name.as_str() {
            ".code64" => self.long_mode = true,
            ".code32" | ".code16" | ".code16gcc" => self.long_mode = false,
            ".intel_syntax" | ".att_syntax" => {
                let intel = name == ".intel_syntax";
                let bare_registers = match operands {
                    b"noprefix" => true,
                    b"prefix" => false,
                    _ => intel,
                };
                self.syntax = Syntax { intel, bare_registers };
            }
            ".endif" => self.conditionals = self.conditionals.saturating_sub(1),
            _ if name.starts_with(".if") => self.conditionals += 1,
            _ => {}
        }
    }

    /// The section that a macro will be expanded in is not known where it is defined: its body counts as executable, and
    /// what it does to the section ends with it.
    fn macro_boundary(&mut self, was_in_macro: bool) {
        match (was_in_macro, self.macros.in_macro()) {
            (false, true) => self.outside = Some(self.sections.replace(Section::TEXT)),
            (true, false) => {
                if let Some(outside) = self.outside.take() {
                    self.sections.replace(outside);
                }
            }
            _ => {}
        }
    }

    fn bytes(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) {
        if !self.sections.current().executable || !self.long_mode {
            return;
        }
        let run = Run::read(self.source, statement, scanner);
        for Encoded { row, length, range, .. } in run.sensitive() {
            let behind = scanner.behind(range.end);
            self.site(Found { class: row.class, range, least_length: length, slot: row.slot }, &behind);
        }
        if run.is_prefix() {
            self.prefixed(statement.start, scanner);
        }
    }

    /// An instruction whose prefix, at `start`, is a statement of its own.
    fn prefixed(&mut self, start: usize, scanner: &mut Scanner<'a>) {
        let mut ahead = scanner.clone();
        let Some(Item::Statement(next)) = ahead.next() else { return };
        if let Some((row, length)) = self.sensitive(&next) {
            *scanner = ahead;
            let range = start..next.end;
            self.site(Found { class: row.class, range, least_length: length + 1, slot: row.slot }, scanner);
        }
    }

    fn instruction(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) {
        let previous = self.previous.replace(statement.clone());
        if !self.sections.current().executable {
            return;
        }
        if let Some((row, length)) = self.sensitive(statement) {
            let found = self.sequence(row, length, statement, previous, scanner);
            return self.site(found, scanner);
        }
        let is_bare = statement.head_end == statement.end;
        if is_bare && matches!(lookup(statement.head(self.source)), Some(Mnemonic::Prefix)) {
            self.prefixed(statement.start, scanner);
        } else if self.is_dot_relative(statement) {
            self.dot_relative();
        } else if self.macros.in_body() && self.source[statement.range()].contains(&b'\\') {
            self.dispatched(statement);
        } else {
            self.macro_call(statement);
        }
    }

    /// The row of a statement that is sensitive, and a lower bound for its length.
    fn sensitive(&self, statement: &Statement) -> Option<(&'static Row, u8)> {
        let mut head = statement.range();
        head.end = statement.head_end;
        let mut prefixes = 0;
        loop {
            let word = &self.source[head.clone()];
            let is_pseudo = word.first() == Some(&b'{');
            let mnemonic = if is_pseudo { Some(&Mnemonic::Prefix) } else { lookup(suffixless(word)) };
            match mnemonic? {
                Mnemonic::Candidate(candidates) => {
                    let operands = self.source[head.end..statement.end].trim_ascii();
                    // `in = 5` defines a symbol.
                    if operands.starts_with(b"=") {
                        return None;
                    }
                    let fits = |when| self.syntax.fits(when, word, operands);
                    let candidate = candidates.iter().find(|candidate| {
                        fits(candidate.row.when) && (word.len() == suffixless(word).len() || candidate.row.when != When::Always)
                    })?;
                    return Some((candidate.row, candidate.length + prefixes + self.syntax.least_extra_length(operands)));
                }
                Mnemonic::Prefix => {
                    prefixes += u8::from(!is_pseudo);
                    let rest = &self.source[head.end..statement.end];
                    let start = head.end + rest.len() - rest.trim_ascii_start().len();
                    let mut words = Scanner::new(self.source, start..statement.end);
                    let Some(Item::Statement(next)) = words.next() else { return None };
                    head = next.start..next.head_end;
                }
            }
        }
    }

    /// Joins the instruction with the one before or behind it, where the two share a slot.
    fn sequence(
        &self,
        row: &'static Row,
        least_length: u8,
        statement: &Statement,
        previous: Option<Statement>,
        scanner: &mut Scanner<'a>,
    ) -> Found {
        let this = Part::Class(row.class);
        for sequence in SEQUENCES.iter().filter(|sequence| self.options.classes.contains(sequence.class)) {
            if sequence.second == this
                && sequence.first == Part::PushRegister
                && let Some(previous) = &previous
                && self.is_register_form(previous, b"push")
            {
                let range = previous.start..statement.end;
                return Found { class: sequence.class, range, least_length: least_length + 1, slot: sequence.slot };
            }
            if sequence.first == this {
                let mut ahead = scanner.clone();
                if let Some((end, length)) = self.part(sequence.second, &mut ahead) {
                    *scanner = ahead;
                    let least_length = least_length + length;
                    return Found { class: sequence.class, range: statement.start..end, least_length, slot: sequence.slot };
                }
            }
        }
        Found { class: row.class, range: statement.range(), least_length, slot: row.slot }
    }

    /// The end and least length of the second half of a sequence, if it comes next.
    fn part(&self, part: Part, ahead: &mut Scanner<'a>) -> Option<(usize, u8)> {
        let Some(Item::Statement(next)) = ahead.next() else { return None };
        match part {
            Part::PopRegister => self.is_register_form(&next, b"pop").then_some((next.end, 1)),
            Part::PushRegister => self.is_register_form(&next, b"push").then_some((next.end, 1)),
            Part::Class(class) if next.head(self.source).eq_ignore_ascii_case(b".byte") => {
                let run = Run::read(self.source, &next, &mut ahead.clone());
                let first = run.sensitive().into_iter().find(|encoded| encoded.is_first && encoded.row.class == class)?;
                *ahead = ahead.behind(first.range.end);
                Some((first.range.end, first.length))
            }
            Part::Class(class) => {
                let (row, length) = self.sensitive(&next)?;
                (row.class == class).then_some((next.end, length))
            }
        }
    }

    /// Whether the statement is `base` (with any suffix) of a 64-bit general-purpose register.
    fn is_register_form(&self, statement: &Statement, base: &[u8]) -> bool {
        let head = statement.head(self.source).to_ascii_lowercase();
        let is_base = head.strip_prefix(base).is_some_and(|suffix| matches!(suffix, b"" | b"q"));
        is_base && self.syntax.general_register(statement.operands(self.source)).is_some_and(|r| r.bits == 64)
    }

    /// A branch like `jmp .+4`, which counts bytes.
    fn is_dot_relative(&self, statement: &Statement) -> bool {
        let head = statement.head(self.source);
        let is_branch = matches!(head.first(), Some(b'j' | b'J')) || head.starts_with(b"loop") || head == b"call";
        let target = statement.operands(self.source);
        let offset = target.strip_prefix(b".").or_else(|| target.strip_prefix(b"$")).map(<[u8]>::trim_ascii_start);
        is_branch && offset.is_some_and(|offset| matches!(offset.first(), Some(b'+' | b'-')))
    }

    fn dot_relative(&mut self) {
        self.dot_reaches_until = self.statement + DOT_REACH;
        let reached = self.statement.saturating_sub(DOT_REACH);
        for insertion in self.insertions.iter_mut().rev().take_while(|insertion| insertion.statement >= reached) {
            insertion.flags |= Flags::DOT_RELATIVE;
            insertion.pad = 0;
        }
    }

    /// Annotates the arguments of a macro call that are code.
    fn macro_call(&mut self, statement: &Statement) {
        if self.in_argument {
            return;
        }
        let operands = statement.operands(self.source);
        let operands = statement.end - operands.len()..statement.end;
        for argument in self.macros.code_arguments(statement.head(self.source), &operands) {
            self.in_argument = true;
            self.run(argument);
            self.in_argument = false;
        }
    }

    /// A statement of a macro body that a parameter may make sensitive.
    fn dispatched(&mut self, statement: &Statement) {
        if !self.long_mode || self.in_argument {
            return;
        }
        let dispatches = self.dispatches(statement);
        let Some(least_length) = dispatches.iter().map(|(dispatch, _)| dispatch.least_length()).min() else { return };
        self.insertions.push(Insertion {
            start: statement.start,
            end: statement.end,
            kind: Kind::Dispatched(dispatches),
            pad: MINIMUM_SLOT - least_length,
            liveness: Liveness::UNKNOWN,
            flags: Flags::empty(),
            statement: self.statement,
        });
    }

    /// What can decide that the statement is a site, if some expansion of it is one.
    fn dispatches(&self, statement: &Statement) -> Vec<(Dispatch, Range<usize>)> {
        let head = statement.head(self.source);
        if head.contains(&b'\\') {
            let is_always_sensitive = |word: &Vec<u8>| {
                let Some(Mnemonic::Candidate(candidates)) = lookup(word) else { return false };
                candidates.iter().any(|candidate| candidate.row.when == When::Always)
            };
            let is_site = self.macros.expansions(head).is_some_and(|words| words.iter().any(is_always_sensitive));
            return if is_site { vec![(Dispatch::Mnemonic, statement.start..statement.head_end)] } else { Vec::new() };
        }
        let Some(Mnemonic::Candidate(candidates)) = lookup(head) else { return Vec::new() };
        let operands = statement.operands(self.source);
        let start = statement.end - operands.len();
        let operands: Vec<&[u8]> = split(operands).map(<[u8]>::trim_ascii).collect();
        let mut dispatches = Vec::new();
        for candidate in candidates {
            let Some((dispatch, file, index)) = self.deciding_operand(candidate.row.when, operands.len()) else { continue };
            let Some(operand) = operands.get(index).filter(|operand| operand.contains(&b'\\')) else { continue };
            let in_file = |operand: &Vec<u8>| self.syntax.register_file(operand) == Some(file);
            if self.macros.expansions(operand).is_some_and(|operands| operands.iter().any(in_file)) {
                let at = start + operand.as_ptr().addr() - self.source[start..].as_ptr().addr();
                let dispatch = (dispatch, at..at + operand.len());
                if !dispatches.contains(&dispatch) {
                    dispatches.push(dispatch);
                }
            }
        }
        dispatches
    }

    /// Which of `count` operands decides, and how.
    fn deciding_operand(&self, when: When, count: usize) -> Option<(Dispatch, RegisterFile, usize)> {
        let last = count.checked_sub(1)?;
        let (source, destination) = if self.syntax.intel { (last, 0) } else { (0, last) };
        match when {
            When::Source(file) if count == 1 => Some((Dispatch::Push, file, source)),
            When::Source(file) => Some((Dispatch::From, file, source)),
            When::Destination(file) if count == 1 => Some((Dispatch::Pop, file, destination)),
            When::Destination(file) => Some((Dispatch::To, file, destination)),
            When::Always | When::Far => None,
        }
    }

    /// Records a site, which ends where `scanner` goes on.
    fn site(&mut self, found: Found, scanner: &Scanner<'a>) {
        self.previous = None;
        let mut flags = self.sections.current().flags | self.function_flags;
        if !self.long_mode {
            flags |= Flags::CODE32;
        } else if !self.options.classes.contains(found.class) {
            if self.is_off_by_default(found.class) {
                return;
            }
            flags |= Flags::SWITCHED_OFF;
        } else if self.statement <= self.dot_reaches_until && self.dot_reaches_until != 0 {
            flags |= Flags::DOT_RELATIVE;
        }
        let (mut liveness, mut slot) = (Liveness::UNKNOWN, MINIMUM_SLOT);
        if !flags.contains(Flags::REPLACEMENT) && !self.in_argument {
            slot = found.slot;
            if self.is_exception_table_target(scanner) {
                flags |= Flags::EXTABLE;
            } else if self.labels.is_empty() && !self.syntax.intel && !self.macros.in_body() {
                liveness = liveness::after(self.source, scanner.clone(), self.compiled);
            }
        }
        let is_padded = flags.intersection(Flags::UNPADDED).is_empty();
        let pad = if is_padded { slot.saturating_sub(found.least_length) } else { 0 };
        self.is_certain |= !self.macros.in_body() && !self.in_argument && self.conditionals == 0;
        let Range { start, end } = found.range;
        let (kind, statement) = (Kind::Site(found.class), self.statement);
        self.insertions.push(Insertion { start, end, kind, pad, liveness, flags, statement });
    }

    /// A class that is never annotated unless asked for leaves no record.
    fn is_off_by_default(&self, class: Class) -> bool {
        !ClassSet::default().contains(class)
    }

    /// Whether a label of the site is named in the exception table within the next statements.
    fn is_exception_table_target(&self, scanner: &Scanner<'a>) -> bool {
        const WITHIN: usize = 24;
        if self.labels.is_empty() {
            return false;
        }
        let mut in_table = false;
        for item in scanner.clone().take(WITHIN) {
            let Item::Statement(statement) = item else { continue };
            let text = &self.source[statement.range()];
            match statement.head(self.source) {
                b".pushsection" | b".section" => in_table = memchr::memmem::find(text, linux::EXTABLE.as_bytes()).is_some(),
                b".popsection" | b".previous" => in_table = false,
                _ if in_table && self.labels.iter().any(|label| names(text, &self.source[label.clone()])) => return true,
                _ => {}
            }
        }
        false
    }
}

/// Whether an expression names the label, a numeric one by `Nb`.
fn names(expression: &[u8], label: &[u8]) -> bool {
    let is_numeric = label.first().is_some_and(u8::is_ascii_digit);
    expression.split(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$'))).any(|word| {
        if is_numeric { word.strip_suffix(b"b") == Some(label) } else { word == label }
    })
}

/// The mnemonic before a suffix that a macro parameter supplies (`mov\size`).
fn suffixless(word: &[u8]) -> &[u8] {
    match memchr::memchr(b'\\', word) {
        Some(at) => &word[..at],
        None => word,
    }
}
