//! The walk over the text that finds its sites.
//!
//! It goes over the text once, statement by statement. Whether a statement is a site depends on
//! what came before, and on a little of what comes behind; so the walk carries the state of the
//! assembler with it, as far as it matters: section, size of code, syntax, macros. The parts of
//! that are in modules of their own. What is here is their order, which is the hard thing.
//!
//! * *Directives* change what the same letters mean: in `.rodata` they are no code, behind
//!   `.code32` a site gets a record and no pad, under `.intel_syntax` operands stand the other way
//!   round.
//! * *What a statement says of others*: labels, and places that it reaches by a number. That holds
//!   of every statement, also of those that are no site, and must be known when all sites are: no
//!   site between a place and what counts to it is padded. So sites are collected, and the decision
//!   about pads is made at the end ([`Stage::finish`]).
//! * *Whether it is a site* comes then. A sequence goes before its parts, bytes before an
//!   instruction that could be spelled like them, and the prefix on a line of its own is part of
//!   what stands behind it.
//! * *Macros* are not expanded. A body is walked where it is defined, for sites in it are padded
//!   there, although the section is not known. Arguments of a call that are code are walked where
//!   they stand.
//!
//! The walk never fails. What it does not understand it passes over: the assembler reads the same
//! text, and says what is wrong with it in its own words; and a sensitive instruction that was
//! missed is found by the census in the object.

use std::ops::Range;

use rustc_hash::FxHashSet;

use super::Options;
use super::bytes::puts_bytes;
use super::distance::{Counted, counted, definition, is_data, reach};
use super::emit::{Carrier, Insertion, Kind, LABELS};
use super::expression::Sum;
use super::flow::{Flow, is_filler, is_transfer, may_precede_transfer};
use super::gaps::{is_silent, puts_nothing};
use super::inline::Inline;
use super::lookup::{Mnemonic, lookup, sensitive};
use super::macros::Macros;
use super::operands::Syntax;
use super::references::{References, words};
use super::scan::{Item, Scanner, Statement, lowercase};
use super::sections::{Section, Sections};
use crate::instructions::{Class, ClassSet, Row};
use crate::linux::{self, EXCEPTION_TABLE};
use crate::record::{Flags, Liveness, MINIMUM_SLOT};

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the text")]
pub(super) struct Stage<'a> {
    pub(super) source: &'a [u8],
    pub(super) options: &'a Options,
    pub(super) insertions: Vec<Insertion>,
    pub(super) sections: Sections,
    pub(super) macros: Macros<'a>,
    pub(super) references: References<'a>,
    pub(super) inline: Inline<'a>,
    pub(super) flow: Flow,
    pub(super) counted: Vec<Counted>,
    /// The labels in executable sections.
    code_labels: Vec<Range<usize>>,
    /// The section outside the macro body that the text is in.
    outside: Option<Section>,
    pub(super) syntax: Syntax,
    pub(super) long_mode: bool,
    /// In a macro argument: the code ends up in another place, perhaps in a replacement.
    pub(super) in_argument: bool,
    /// Sections of the text are in groups.
    pub(super) has_groups: bool,
    conditionals: usize,
    is_certain: bool,
    labels_collide: bool,
    decides_by_distance: bool,
    pub(super) has_sites_in_bodies: bool,
    /// Names that are defined by others.
    aliases: FxHashSet<&'a [u8]>,
    /// Names that stand for plain numbers.
    constants: FxHashSet<&'a [u8]>,
    function_flags: Flags,
    /// The labels directly before the statement.
    pub(super) labels: Vec<Range<usize>>,
    /// The number of the section that they are in.
    labelled: usize,
    /// The instruction directly before the statement, if it is not part of a site.
    previous: Option<Statement>,
    /// The last instruction or macro call, and the number of the section that it is in.
    pub(super) before: Option<(usize, Statement)>,
    /// The last label that is no number, if there was no code behind it.
    pub(super) object: Option<Range<usize>>,
    /// Up to here, bytes are known to be no sites.
    pub(super) no_sites_until: usize,
    /// The instructions that pushed sections have come behind.
    interrupted: Vec<Option<Statement>>,
    /// The section that data in others has interrupted, and the instruction that it has come
    /// behind.
    away: Option<(usize, Statement)>,
}

/// What the stage has found.
pub(super) struct Found<'a> {
    pub(super) insertions: Vec<Insertion>,
    /// A site is sure to be assembled.
    pub(super) is_certain: bool,
    /// What a pad changes cannot be told from the text alone.
    pub(super) is_doubtful: bool,
    pub(super) macros: Macros<'a>,
}

/// A sensitive instruction, perhaps of several statements, before it becomes an insertion.
pub(super) struct Candidate {
    pub(super) class: Class,
    pub(super) range: Range<usize>,
    pub(super) least_length: u8,
    pub(super) slot: u8,
}

impl<'a> Stage<'a> {
    pub(super) fn new(source: &'a [u8], options: &'a Options) -> Self {
        let inline = Inline::of(source);
        Self {
            source,
            options,
            insertions: Vec::new(),
            sections: Sections::default(),
            macros: Macros::new(source),
            references: References::of(source, inline.has_marks()),
            inline,
            flow: Flow::default(),
            counted: Vec::new(),
            code_labels: Vec::new(),
            outside: None,
            syntax: Syntax::default(),
            long_mode: true,
            in_argument: false,
            has_groups: Sections::has_groups(source),
            conditionals: 0,
            is_certain: false,
            labels_collide: false,
            decides_by_distance: false,
            has_sites_in_bodies: false,
            aliases: FxHashSet::default(),
            constants: FxHashSet::default(),
            function_flags: Flags::empty(),
            labels: Vec::new(),
            labelled: 0,
            previous: None,
            before: None,
            object: None,
            no_sites_until: 0,
            interrupted: Vec::new(),
            away: None,
        }
    }

    pub(super) fn finish(mut self) -> Found<'a> {
        if self.labels_collide {
            self.insertions.clear();
        }
        let mut is_doubtful = self.decides_by_distance || !self.aliases.is_empty() || !self.inline.has_marks();
        if !self.insertions.is_empty() {
            let by_number = self.flow.finish(self.source.len());
            let by_count = reach(self.source, &self.counted, &self.code_labels, &self.aliases);
            let everything = by_number.everything || by_count.everything;
            let parts = merged([by_number.parts, by_count.parts].concat());
            is_doubtful |= everything || !parts.is_empty() || self.has_sites_in_bodies;
            for insertion in &mut self.insertions {
                let first = parts.partition_point(|part| part.end <= insertion.start);
                if everything || parts.get(first).is_some_and(|part| part.start < insertion.end) {
                    insertion.unpad();
                }
            }
        }
        Found { insertions: self.insertions, is_certain: self.is_certain, is_doubtful, macros: self.macros }
    }

    pub(super) fn run(&mut self, range: Range<usize>) {
        let mut scanner = Scanner::new(self.source, range);
        while let Some(item) = scanner.next() {
            match item {
                Item::Label(name) => self.label(name),
                Item::Statement(statement) if is_instruction(self.source, &statement) => {
                    self.instruction(&statement, &mut scanner);
                    self.labels.clear();
                }
                Item::Statement(statement) => {
                    let was_in_debug = self.sections.current().debug;
                    let name = lowercase(statement.head(self.source));
                    if puts_nothing(&name, statement.operands(self.source)) {
                        continue;
                    }
                    if let Some((name, value)) = definition(self.source, &statement) {
                        if self.define(name, value, &statement) {
                            continue;
                        }
                    } else if *name == *b".end" {
                        return;
                    } else if self.directive(&name, &statement, &mut scanner) {
                        continue;
                    }
                    self.part_from_labels(was_in_debug);
                }
            }
        }
    }

    /// A statement stands between the labels and what follows. One of debug information parts
    /// nothing, as long as the text goes on where it was.
    fn part_from_labels(&mut self, was_in_debug: bool) {
        let now = self.sections.current();
        if !now.debug && (!was_in_debug || now.number != self.labelled) {
            self.labels.clear();
        }
    }

    fn label(&mut self, name: Range<usize>) {
        let text = &self.source[name.clone()];
        match text.first() {
            Some(b'0'..=b'9') => self.labels_collide |= LABELS.iter().any(|label| label.as_bytes() == text),
            _ if text.starts_with(b".L") => {}
            Some(b'.' | b'\\') | None => self.object = Some(name.clone()),
            Some(_) => {
                self.object = Some(name.clone());
                self.function_flags = std::str::from_utf8(text).map_or(Flags::empty(), linux::function_flags);
            }
        }
        if self.sections.current().executable {
            self.code_labels.push(name.clone());
            if self.inline.has_marks() || self.references.reaches(&name) {
                self.flow.label(name.start);
            }
        }
        if !self.sections.current().debug {
            self.labelled = self.sections.current().number;
            self.labels.push(name);
        }
    }

    /// Whether nothing leads to the statement but what stands before it.
    pub(super) fn is_unlabelled(&self) -> bool {
        !self.labels.iter().any(|label| self.references.names_local(label))
    }

    /// Follows a directive; `true` if it changes nothing here.
    fn directive(&mut self, name: &[u8], statement: &Statement, scanner: &mut Scanner<'a>) -> bool {
        if self.repeats_mode(name, statement) {
            return true;
        }
        if let Some(is_same) = self.section(name, statement) {
            if self.sections.current().debug {
                *scanner = scanner.behind(self.inline.end_of_debug(statement.end));
            }
            return is_same;
        }
        self.previous = None;
        if puts_bytes(name) && self.bytes(statement, scanner) {
            return false;
        }
        if self.macro_directive(name, statement) {
            return false;
        }
        let operands = statement.operands(self.source);
        match name {
            b".code64" => self.long_mode = true,
            b".code32" | b".code16" | b".code16gcc" => self.long_mode = false,
            b".intel_syntax" | b".att_syntax" => {
                let intel = name == b".intel_syntax";
                let bare_registers = match operands {
                    b"noprefix" => true,
                    b"prefix" => false,
                    _ => intel,
                };
                self.syntax = Syntax { intel, bare_registers };
            }
            b".endif" => {
                self.conditionals = self.conditionals.saturating_sub(1);
                self.flow.condition();
            }
            _ if name.starts_with(b".else") => {
                self.flow.condition();
                self.decides_by_distance |= self.is_about_places(operands);
            }
            _ if name.starts_with(b".if") => {
                self.conditionals += 1;
                self.flow.condition();
                self.decides_by_distance |= is_numeric_condition(name) && self.is_about_places(operands);
            }
            _ if is_data(name) || name == b".reloc" => self.count(statement, operands, false),
            _ => {}
        }
        false
    }

    /// Whether a directive says that the text is written as it is anyway.
    pub(super) fn repeats_mode(&self, name: &[u8], statement: &Statement) -> bool {
        match name {
            b".code64" => self.long_mode,
            b".att_syntax" => self.syntax == Syntax::default() && statement.operands(self.source) != b"noprefix",
            _ => false,
        }
    }

    /// Whether the value of an expression may depend on where something stands: it has names that
    /// are no plain numbers.
    fn is_about_places(&self, expression: &[u8]) -> bool {
        let is_place = |text: &[u8]| {
            let mut names =
                words(text).filter(|word| !word.iter().all(u8::is_ascii_alphanumeric) || !word[0].is_ascii_digit());
            names.any(|name| !self.constants.contains(name))
        };
        if !self.macros.mentions_parameter(expression) {
            return is_place(expression);
        }
        self.macros.expansions(expression).is_none_or(|texts| texts.iter().any(|text| is_place(text)))
    }

    /// Follows a definition; `true` if it is one of a number, which changes nothing here.
    fn define(&mut self, name: &'a [u8], value: &'a [u8], statement: &Statement) -> bool {
        let sum = Sum::read(value);
        let mut names = sum.iter().flat_map(|sum| sum.added.iter().chain(&sum.subtracted));
        if sum.is_some() && names.all(|name| self.constants.contains(name)) {
            self.constants.insert(name);
        } else {
            self.constants.remove(name);
            self.aliases.insert(name);
        }
        let is_number = sum.is_some_and(|sum| sum.constant().is_some());
        if !is_number {
            self.previous = None;
            self.count(statement, value, false);
        }
        is_number
    }

    /// Notes the places that a statement reaches by a number: an instruction by one in an operand;
    /// data, a definition and a macro call in each expression.
    fn count(&mut self, statement: &Statement, operands: &[u8], is_instruction: bool) {
        if statement.may_add && !self.sections.current().debug {
            self.counted.extend(counted(self.source, self.syntax, statement, operands, !is_instruction));
        }
    }

    /// Follows a directive that changes the section; tells whether it comes back to where nothing
    /// has happened since.
    fn section(&mut self, name: &[u8], statement: &Statement) -> Option<bool> {
        let before = self.sections.current();
        if !self.sections.follow(name, statement.operands(self.source)) {
            return None;
        }
        let now = self.sections.current();
        if before.number == now.number && !matches!(name, b".pushsection" | b".popsection") {
            return Some(true);
        }
        match name {
            b".pushsection" => {
                // A site that spans the excursion must not span another one.
                self.interrupted.push(self.previous.take().filter(|_| !now.executable));
                self.flow.interrupt(statement.start);
            }
            b".popsection" => {
                self.previous = self.interrupted.pop().flatten();
                self.flow.resume(statement.start);
                return Some(self.previous.is_some());
            }
            _ => {
                self.flow.change(before.number, now.number, statement.start);
                if let Some(previous) = self.previous.take() {
                    self.away = Some((before.number, previous));
                }
                if now.executable {
                    self.previous = self.away.take().filter(|(section, _)| *section == now.number).map(|(_, at)| at);
                    return Some(self.previous.is_some());
                }
            }
        }
        Some(false)
    }

    /// Follows a directive of macros. The section that a macro will be expanded in is not known
    /// where it is defined: its body counts as executable, and what it does to the section ends
    /// with it.
    fn macro_directive(&mut self, name: &[u8], statement: &Statement) -> bool {
        let (was_in_macro, was_deep) = (self.macros.in_macro(), self.macros.depth());
        let Some(defined) = self.macros.follow(name, statement) else { return false };
        let defining = self.macros.defining().map(<[u8]>::to_vec);
        match (was_in_macro, self.macros.in_macro()) {
            (false, true) => self.outside = Some(self.sections.replace(Section::TEXT)),
            (true, false) => {
                if let Some(outside) = self.outside.take() {
                    self.sections.replace(outside);
                }
            }
            _ => {}
        }
        if self.macros.depth() > was_deep {
            self.flow.start_body(defining, statement.start);
        } else if self.macros.depth() < was_deep {
            self.flow.end_body(defined, statement.end);
        }
        self.decides_by_distance |= name == b".rept" && self.is_about_places(statement.operands(self.source));
        if matches!(name, b".irp" | b".macro") {
            self.count(statement, statement.operands(self.source), false);
        }
        true
    }

    /// An instruction whose prefix, at `start`, is a statement of its own.
    pub(super) fn prefixed(&mut self, start: usize, scanner: &mut Scanner<'a>) -> bool {
        let mut ahead = scanner.clone();
        let Some(next) = self.next_code(&mut ahead) else { return false };
        let Some((row, length)) = self.sensitive(&next) else { return false };
        *scanner = ahead;
        let range = start..next.end;
        self.site(&Candidate { class: row.class, range, least_length: length + 1, slot: row.slot }, scanner);
        true
    }

    fn instruction(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) {
        let previous = self.previous.replace(statement.clone());
        let head = statement.head(self.source);
        let is_call = self.macros.is_call(head);
        self.count(statement, statement.operands(self.source), !is_call);
        if !self.sections.current().executable {
            return;
        }
        if is_call {
            if self.flow.puts_bytes(&lowercase(head)) && self.is_table(scanner) {
                self.flow.reach_everything();
            }
            self.follow_call(statement);
            return self.macro_call(statement);
        }
        self.follow(statement);
        if self.is_forced(statement, scanner) {
            return;
        }
        let mentions_parameter = self.macros.mentions_parameter(&self.source[statement.range()]);
        let is_decided = !mentions_parameter || !self.macros.is_alternate() || !self.macros.mentions_parameter(head);
        if is_decided && let Some((row, length)) = self.sensitive(statement) {
            let found = Candidate { class: row.class, range: statement.range(), least_length: length, slot: row.slot };
            let found = match self.pushed(&found, previous.as_ref()) {
                Some(sequence) => sequence,
                None => self.joined(found, scanner),
            };
            return self.site(&found, scanner);
        }
        let is_bare = statement.head_end == statement.end;
        if is_bare && matches!(lookup(head), Some(Mnemonic::Prefix)) {
            self.prefixed(statement.start, scanner);
        } else if mentions_parameter {
            self.dispatched(statement);
        } else {
            self.macro_call(statement);
        }
    }

    /// Follows the way that control takes.
    fn follow(&mut self, statement: &Statement) {
        self.object = None;
        self.before = Some((self.sections.current().number, statement.clone()));
        if self.in_argument {
            return;
        }
        let mut head = statement.head(self.source);
        if may_precede_transfer(head) {
            let operands = statement.operands(self.source);
            head = operands.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        }
        if !self.flow.is_unreached() || !is_filler(head) {
            self.flow.instruction(is_transfer(head), self.inline.part(statement.start));
        }
    }

    fn follow_call(&mut self, statement: &Statement) {
        self.object = None;
        self.before = Some((self.sections.current().number, statement.clone()));
        if !self.in_argument {
            let name = lowercase(statement.head(self.source));
            self.flow.call(&name, self.inline.part(statement.start), statement.start);
        }
    }

    /// The row of a statement that is sensitive, and a lower bound for its length.
    pub(super) fn sensitive(&self, statement: &Statement) -> Option<(&'static Row, u8)> {
        sensitive(self.source, self.syntax, statement)
    }

    /// Annotates the arguments of a macro call that are code.
    fn macro_call(&mut self, statement: &Statement) {
        if self.in_argument || !self.macros.may_be_called() {
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

    /// The flags of a site of this class here; `None` if it leaves no record.
    pub(super) fn flags(&self, class: Class) -> Option<Flags> {
        let section = self.sections.current();
        let mut flags = section.flags | self.function_flags;
        // A class that is never annotated unless asked for leaves no record.
        let is_wanted = self.options.classes.contains(class);
        if !is_wanted && !ClassSet::default().contains(class) {
            return None;
        }
        flags.set(Flags::CODE32, !self.long_mode);
        flags.set(Flags::SWITCHED_OFF, self.long_mode && !is_wanted);
        // A record of what a linker drops, and no group says so, would keep the objects from being
        // linked.
        (!section.link_once).then_some(flags)
    }

    /// Records a site, which ends where `scanner` goes on.
    pub(super) fn site(&mut self, found: &Candidate, scanner: &Scanner<'a>) {
        self.previous = None;
        let Some(mut flags) = self.flags(found.class) else { return };
        if self.casts_shadow(found.class, scanner) {
            flags |= Flags::SHADOW;
        }
        flags.set(Flags::HINTED, self.is_hinted(found.class, scanner));
        let (mut liveness, mut slot) = (Liveness::UNKNOWN, MINIMUM_SLOT);
        if !flags.contains(Flags::REPLACEMENT) && !self.in_argument {
            slot = found.slot;
            if self.is_exception_table_target(scanner) {
                flags |= Flags::EXTABLE;
            } else if self.is_unlabelled() && !self.syntax.intel && !self.macros.in_body() {
                liveness = self.liveness(scanner.clone());
            }
        }
        let is_padded = flags.intersection(Flags::UNPADDED).is_empty();
        let pad = if is_padded { slot.saturating_sub(found.least_length) } else { 0 };
        self.insert(found.range.clone(), Kind::Site(found.class), pad, liveness, flags);
    }

    pub(super) fn insert(&mut self, range: Range<usize>, kind: Kind, pad: u8, liveness: Liveness, flags: Flags) {
        self.has_sites_in_bodies |= self.macros.in_body();
        self.is_certain |= !self.macros.in_body() && !self.in_argument && self.conditionals == 0;
        // Which section a macro or a condition leaves the text in is known to the assembler only.
        let grouped = self.has_groups;
        let carrier = Carrier { grouped, by_macro: self.macros.hides_labels() || grouped && self.in_argument };
        let Range { start, end } = range;
        self.insertions.push(Insertion { start, end, kind, pad, liveness, flags, carrier });
    }

    /// Whether a change of context that comes back is followed by a hint for the unwinder, as
    /// objtool wants it in functions (`validate_branch` in `tools/objtool/check.c`).
    fn is_hinted(&self, class: Class, scanner: &Scanner<'a>) -> bool {
        if !matches!(class, Class::Syscall | Class::Sysenter) || !self.options.objtool_hints {
            return false;
        }
        let mut statements = scanner.clone().filter_map(|item| match item {
            Item::Statement(statement) => Some(statement),
            Item::Label(_) => None,
        });
        let next = statements.find(|statement| !is_silent(self.source, statement));
        next.is_some_and(|next| {
            let names = |text: &[u8], name: &str| text.starts_with(name.as_bytes());
            let is_hint = names(next.operands(self.source), linux::UNWIND_HINTS);
            names(next.head(self.source), linux::UNWIND_HINT_MACRO)
                || next.head(self.source) == b".pushsection" && is_hint
        })
    }

    /// Whether a label of the site is named in the exception table within the next statements.
    fn is_exception_table_target(&self, scanner: &Scanner<'a>) -> bool {
        const WITHIN: usize = 24;
        let mut labels: Vec<&[u8]> = self.labels.iter().map(|label| &self.source[label.clone()]).collect();
        // The number of the next field, while in the table.
        let mut field = None;
        let mut scanner = scanner.clone();
        let mut seen = 0;
        while seen < WITHIN && !labels.is_empty() {
            let statement = match scanner.next() {
                None => break,
                // A numeric label may be defined again, and then the old one cannot be named any
                // more.
                Some(Item::Label(name)) => {
                    labels.retain(|label| *label != &self.source[name.clone()]);
                    continue;
                }
                Some(Item::Statement(statement)) => statement,
            };
            seen += usize::from(!is_silent(self.source, &statement));
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

/// Whether the statement is an instruction or a macro call, and neither a directive nor an
/// assignment.
pub(super) fn is_instruction(source: &[u8], statement: &Statement) -> bool {
    source[statement.start] != b'.' && statement.operands(source).first() != Some(&b'=')
}

/// The parts in order, those that touch as one.
fn merged(mut parts: Vec<Range<usize>>) -> Vec<Range<usize>> {
    parts.sort_unstable_by_key(|part| part.start);
    parts.dedup_by(|next, part| {
        let touches = next.start <= part.end;
        part.end = if touches { part.end.max(next.end) } else { part.end };
        touches
    });
    parts
}

/// Whether the condition is a number, and not about names or texts (GAS manual, 7.47 "`.if`").
fn is_numeric_condition(directive: &[u8]) -> bool {
    matches!(directive, b".if" | b".ifeq" | b".ifne" | b".ifge" | b".ifgt" | b".ifle" | b".iflt")
}

/// Whether an expression names the label, a numeric one by `Nb`.
fn names(expression: &[u8], label: &[u8]) -> bool {
    let is_numeric = label.first().is_some_and(u8::is_ascii_digit);
    expression
        .split(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$')))
        .any(|word| if is_numeric { word.strip_suffix(b"b") == Some(label) } else { word == label })
}
