//! The walk over the text that finds its sites.

use std::ops::Range;

use super::Options;
use super::bytes::{Encoded, Run};
use super::emit::{Insertion, Kind, LABELS};
use super::liveness;
use super::lookup::{Mnemonic, lookup};
use super::macros::Macros;
use super::operands::Syntax;
use super::scan::{Item, Scanner, Statement};
use super::sections::{Section, Sections};
use crate::instructions::{Class, ClassSet, Part, Row, SEQUENCES, When};
use crate::linux::{self, EXCEPTION_TABLE};
use crate::record::{Flags, Liveness, MINIMUM_SLOT};

/// Statements that a branch relative to `.` is taken to reach, on either side.
const DOT_REACH: usize = 16;

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the text")]
pub(super) struct Stage<'a> {
    pub(super) source: &'a [u8],
    options: &'a Options,
    pub(super) insertions: Vec<Insertion>,
    sections: Sections,
    pub(super) macros: Macros<'a>,
    /// The section outside the macro body that the text is in.
    outside: Option<Section>,
    pub(super) syntax: Syntax,
    pub(super) long_mode: bool,
    /// In a macro argument: the code ends up in another place, perhaps in a replacement.
    pub(super) in_argument: bool,
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
    /// Number of the statement.
    pub(super) statement: usize,
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
    pub(super) fn new(source: &'a [u8], options: &'a Options) -> Self {
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

    /// What is to be inserted, and whether a site is sure to be assembled.
    pub(super) fn finish(self) -> (Vec<Insertion>, bool) {
        if self.labels_collide { (Vec::new(), false) } else { (self.insertions, self.is_certain) }
    }

    pub(super) fn run(&mut self, range: Range<usize>) {
        let mut scanner = Scanner::new(self.source, range);
        while let Some(item) = scanner.next() {
            match item {
                Item::Label(name) => self.label(name),
                Item::Statement(statement) => {
                    self.statement += 1;
                    if self.macros.in_body() {
                        self.macros.note_use(&self.source[statement.range()]);
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
            Some(_) => self.function_flags = std::str::from_utf8(text).map_or(Flags::empty(), linux::function_flags),
        }
        if self.macros.in_body() {
            self.macros.note_use(&self.source[name.start..=name.end]);
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
        for Encoded { row, length, range, is_first } in run.sensitive() {
            if !is_first {
                self.labels.clear();
            }
            let behind = scanner.behind(range.end);
            self.site(&Found { class: row.class, range, least_length: length, slot: row.slot }, &behind);
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
            self.site(&Found { class: row.class, range, least_length: length + 1, slot: row.slot }, scanner);
        }
    }

    fn instruction(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) {
        let previous = self.previous.replace(statement.clone());
        if !self.sections.current().executable {
            return;
        }
        if let Some((row, length)) = self.sensitive(statement) {
            let found = self.sequence(row, length, statement, previous.as_ref(), scanner);
            return self.site(&found, scanner);
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
                        fits(candidate.row.when)
                            && (word.len() == suffixless(word).len() || candidate.row.when != When::Always)
                    })?;
                    return Some((
                        candidate.row,
                        candidate.length + prefixes + self.syntax.least_extra_length(operands),
                    ));
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
        previous: Option<&Statement>,
        scanner: &mut Scanner<'a>,
    ) -> Found {
        let this = Part::Class(row.class);
        for sequence in SEQUENCES.iter().filter(|sequence| self.options.classes.contains(sequence.class)) {
            if sequence.second == this
                && sequence.first == Part::PushRegister
                && let Some(previous) = previous
                && let Some(length) = self.register_form(previous, b"push")
            {
                let range = previous.start..statement.end;
                return Found {
                    class: sequence.class,
                    range,
                    least_length: length + least_length,
                    slot: sequence.slot,
                };
            }
            if sequence.first == this {
                let mut ahead = scanner.clone();
                if let Some((end, length)) = self.part(sequence.second, &mut ahead) {
                    *scanner = ahead;
                    let least_length = least_length + length;
                    return Found {
                        class: sequence.class,
                        range: statement.start..end,
                        least_length,
                        slot: sequence.slot,
                    };
                }
            }
        }
        Found { class: row.class, range: statement.range(), least_length, slot: row.slot }
    }

    /// The end and least length of the second half of a sequence, if it comes next.
    fn part(&self, part: Part, ahead: &mut Scanner<'a>) -> Option<(usize, u8)> {
        let Some(Item::Statement(next)) = ahead.next() else { return None };
        match part {
            Part::PopRegister => self.register_form(&next, b"pop").map(|length| (next.end, length)),
            Part::PushRegister => self.register_form(&next, b"push").map(|length| (next.end, length)),
            Part::Class(class) if next.head(self.source).eq_ignore_ascii_case(b".byte") => {
                let run = Run::read(self.source, &next, &mut ahead.clone());
                let first =
                    run.sensitive().into_iter().find(|encoded| encoded.is_first && encoded.row.class == class)?;
                *ahead = ahead.behind(first.range.end);
                Some((first.range.end, first.length))
            }
            Part::Class(class) => {
                let (row, length) = self.sensitive(&next)?;
                (row.class == class).then_some((next.end, length))
            }
        }
    }

    /// The length of the statement if it is `base` of a 64-bit general-purpose register.
    fn register_form(&self, statement: &Statement, base: &[u8]) -> Option<u8> {
        let head = statement.head(self.source).to_ascii_lowercase();
        let is_base = head.strip_prefix(base).is_some_and(|suffix| matches!(suffix, b"" | b"q"));
        let register = self.syntax.general_register(statement.operands(self.source))?;
        (is_base && register.bits == 64).then_some(1 + u8::from(register.number >= 8))
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

    /// Records a site, which ends where `scanner` goes on.
    fn site(&mut self, found: &Found, scanner: &Scanner<'a>) {
        self.previous = None;
        let mut flags = self.sections.current().flags | self.function_flags;
        if !self.long_mode {
            flags |= Flags::CODE32;
        } else if !self.options.classes.contains(found.class) {
            // A class that is never annotated unless asked for leaves no record.
            if !ClassSet::default().contains(found.class) {
                return;
            }
            flags |= Flags::SWITCHED_OFF;
        } else if self.statement <= self.dot_reaches_until {
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
        let Range { start, end } = found.range.clone();
        let (kind, statement) = (Kind::Site(found.class), self.statement);
        self.insertions.push(Insertion { start, end, kind, pad, liveness, flags, statement });
    }

    /// Whether a label of the site is named in the exception table within the next statements.
    fn is_exception_table_target(&self, scanner: &Scanner<'a>) -> bool {
        const WITHIN: usize = 24;
        let mut labels: Vec<&[u8]> = self.labels.iter().map(|label| &self.source[label.clone()]).collect();
        // The number of the next field, while in the table.
        let mut field = None;
        for item in scanner.clone().take(if labels.is_empty() { 0 } else { WITHIN }) {
            let statement = match item {
                // A numeric label may be defined again, and then the old one cannot be named any more.
                Item::Label(name) => {
                    labels.retain(|label| *label != &self.source[name.clone()]);
                    continue;
                }
                Item::Statement(statement) => statement,
            };
            let operands = statement.operands(self.source);
            match statement.head(self.source) {
                b".pushsection" | b".section" => {
                    field = memchr::memmem::find(operands, EXCEPTION_TABLE.as_bytes()).map(|_| 0);
                }
                b".popsection" | b".previous" => field = None,
                b".long" => {
                    for operand in operands.split(|&byte| byte == b',') {
                        let Some(number) = &mut field else { break };
                        let is_site = *number % linux::EXCEPTION_TABLE_FIELDS == 0;
                        if is_site && labels.iter().any(|label| names(operand, label)) {
                            return true;
                        }
                        *number += 1;
                    }
                }
                _ => {}
            }
        }
        false
    }
}

/// Whether an expression names the label, a numeric one by `Nb`.
fn names(expression: &[u8], label: &[u8]) -> bool {
    let is_numeric = label.first().is_some_and(u8::is_ascii_digit);
    expression
        .split(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$')))
        .any(|word| if is_numeric { word.strip_suffix(b"b") == Some(label) } else { word == label })
}

/// The mnemonic before a suffix that a macro parameter supplies (`mov\size`).
fn suffixless(word: &[u8]) -> &[u8] {
    match memchr::memchr(b'\\', word) {
        Some(at) => &word[..at],
        None => word,
    }
}
