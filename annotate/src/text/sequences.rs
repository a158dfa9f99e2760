//! Two instructions that share a slot.
//!
//! Some have a far shorter replacement together than apart. Others must not be parted: the
//! interrupt shadow of `sti` covers the next instruction, so that no interrupt comes between it and
//! `hlt`, which would sleep through it. Where such a pair cannot have one slot, because something
//! leads to the second half or the first does not know its second, the first gets no pad.
//!
//! And what a hypervisor is to emulate is one with the prefix that says so: UD2 and letters, which
//! are no instructions.

use super::bytes::{Run, puts_bytes};
use super::lookup::{Mnemonic, lookup};
use super::scan::{Item, Scanner, Statement, lowercase};
use super::stage::{Candidate, Stage, is_instruction};
use crate::instructions::{Class, Part, SEQUENCES, Sequence};
use crate::record::{Flags, MINIMUM_SLOT};

impl<'a> Stage<'a> {
    /// Joins `popf` with a `push` before it.
    pub(super) fn pushed(&self, second: &Candidate, previous: Option<&Statement>) -> Option<Candidate> {
        let this = Part::Class(second.class);
        let pushes = |sequence: &&Sequence| sequence.second == this && sequence.first == Part::PushRegister;
        let sequence = self.sequences().find(pushes)?;
        let previous = previous.filter(|_| self.is_unlabelled())?;
        let length = self.register_form(previous, b"push")?;
        Some(Candidate {
            class: sequence.class,
            range: previous.start..second.range.end,
            least_length: length + second.least_length,
            slot: sequence.slot,
        })
    }

    /// Joins an instruction with the one behind it, where the two share a slot.
    pub(super) fn joined(&self, first: Candidate, scanner: &mut Scanner<'a>) -> Candidate {
        for sequence in self.sequences().filter(|sequence| sequence.first == Part::Class(first.class)) {
            let mut ahead = scanner.clone();
            if let Some((end, length)) = self.part(sequence.second, &mut ahead) {
                *scanner = ahead;
                return Candidate {
                    class: sequence.class,
                    range: first.range.start..end,
                    least_length: first.least_length + length,
                    slot: sequence.slot,
                };
            }
        }
        first
    }

    fn sequences(&self) -> impl Iterator<Item = &'static Sequence> {
        SEQUENCES.iter().filter(|sequence| self.options.classes.contains(sequence.class))
    }

    /// The end and least length of the second half of a sequence, if it comes next.
    fn part(&self, part: Part, ahead: &mut Scanner<'a>) -> Option<(usize, u8)> {
        let next = self.next_code(ahead)?;
        match part {
            Part::PopRegister => self.register_form(&next, b"pop").map(|length| (next.end, length)),
            Part::PushRegister => self.register_form(&next, b"push").map(|length| (next.end, length)),
            // What `forced` finds.
            Part::EmulationPrefix | Part::Any => None,
            Part::Class(class) if puts_bytes(&lowercase(next.head(self.source))) => {
                let run = Run::read(self, &next, &mut ahead.clone());
                let first =
                    run.decode()?.sensitive.into_iter().find(|encoded| encoded.is_first() && encoded.class == class)?;
                let range = first.range.clone()?;
                *ahead = ahead.behind(range.end);
                Some((range.end, first.length()))
            }
            Part::Class(class) => {
                let (row, length) = self.sensitive(&next).filter(|_| !self.macros.is_call(next.head(self.source)))?;
                (row.class == class).then_some((next.end, length))
            }
        }
    }

    /// An instruction that a hypervisor is to emulate, behind the prefix that says so and starts at
    /// `start`.
    pub(super) fn forced(&mut self, start: usize, scanner: &mut Scanner<'a>) -> bool {
        let mut ahead = scanner.clone();
        let Some(next) = self.next_code(&mut ahead).filter(|next| is_instruction(self.source, next)) else {
            return false;
        };
        let head = next.head(self.source);
        if self.macros.is_call(head) || matches!(lookup(head), Some(Mnemonic::Prefix)) {
            return false;
        }
        *scanner = ahead;
        // It is longer than a slot has to be, and gets no pad.
        let (range, slot) = (start..next.end, MINIMUM_SLOT);
        self.site(&Candidate { class: Class::ForcedEmulation, range, least_length: slot, slot }, scanner);
        true
    }

    /// Whether the statement is UD2, and with the letters behind it a prefix of what a hypervisor
    /// is to emulate.
    pub(super) fn is_forced(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) -> bool {
        /// SDM Vol. 2B, UD.
        const UD2: &[u8] = &[0x0f, 0x0b];
        if !self.long_mode || !statement.head(self.source).eq_ignore_ascii_case(b"ud2") {
            return false;
        }
        let mut ahead = scanner.clone();
        let Some(next) = self.next_code(&mut ahead).filter(|next| puts_bytes(&lowercase(next.head(self.source))))
        else {
            return false;
        };
        if !Run::read(self, &next, &mut ahead).is_emulation_prefix(UD2) || !self.forced(statement.start, &mut ahead) {
            return false;
        }
        *scanner = ahead;
        true
    }

    /// Whether the interrupt shadow of a `sti` that is a site of its own may have to reach what
    /// stands behind it: an instruction that waits for interrupts, which a branch leads to as well,
    /// or what is not known here.
    pub(super) fn casts_shadow(&self, class: Class, scanner: &Scanner<'a>) -> bool {
        let waits = |next: &Part| self.sequences().any(|s| s.first == Part::Class(class) && s.second == *next);
        if !SEQUENCES.iter().any(|s| s.first == Part::Class(class) && matches!(s.second, Part::Class(_))) {
            return false;
        }
        let mut scanner = scanner.clone();
        let Some(next) = self.next_statement(&mut scanner, false) else {
            // More than data in other sections comes next, or nothing, which in an argument is not
            // the end. Behind an alternative stands what stands behind its original.
            let is_replacement = !self.in_argument && self.sections.current().flags.contains(Flags::REPLACEMENT);
            return match is_replacement.then(|| self.next_instruction(&mut scanner)).flatten() {
                Some(next) => self.may_wait(&next, &mut scanner, waits),
                None => self.in_argument || scanner.next().is_some(),
            };
        };
        self.may_wait(&next, &mut scanner, waits)
    }

    /// The next instruction or macro call, whatever directives and labels stand before it.
    fn next_instruction(&self, scanner: &mut Scanner<'a>) -> Option<Statement> {
        scanner.find_map(|item| match item {
            Item::Statement(statement) if statement.head(self.source).first() != Some(&b'.') => Some(statement),
            _ => None,
        })
    }

    /// Whether a statement may be an instruction that waits for interrupts.
    fn may_wait(&self, next: &Statement, scanner: &mut Scanner<'a>, waits: impl Fn(&Part) -> bool) -> bool {
        let head = next.head(self.source);
        if puts_bytes(&lowercase(head)) {
            let decoded = Run::read(self, next, scanner).decode().unwrap_or_default();
            let first = decoded.sensitive.first().filter(|site| site.is_first());
            return first.is_some_and(|site| waits(&Part::Class(site.class)));
        }
        match self.sensitive(next) {
            _ if self.macros.is_call(head) || self.macros.mentions_parameter(head) => true,
            Some((row, _)) => waits(&Part::Class(row.class)),
            None => is_open_ended(head),
        }
    }

    /// The length of the statement if it is `base` of a 64-bit general-purpose register.
    fn register_form(&self, statement: &Statement, base: &[u8]) -> Option<u8> {
        let head = statement.head(self.source).to_ascii_lowercase();
        let is_base = head.strip_prefix(base).is_some_and(|suffix| matches!(suffix, b"" | b"q"));
        let register = self.syntax.general_register(statement.operands(self.source))?;
        let is_call = self.macros.is_call(&head);
        (is_base && register.bits == 64 && !is_call).then_some(1 + u8::from(register.number >= 8))
    }
}

/// Whether what the directive is followed by is known only when it is assembled.
fn is_open_ended(directive: &[u8]) -> bool {
    let lower = directive.to_ascii_lowercase();
    lower.starts_with(b".if")
        || lower.starts_with(b".else")
        || [&b".rept"[..], b".irp", b".irpc", b".include", b".endm", b".endr", b".endif"].contains(&lower.as_slice())
}
