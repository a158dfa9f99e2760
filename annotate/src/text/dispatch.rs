//! Statements of macro bodies that a parameter makes sensitive in some expansions: `\op`, `mov
//! \from, \to`, `mov %cr\n, %rax`.
//!
//! The same line of a body must work in all of them, so the decision is left to the assembler (see
//! [`super::emit`]). That is asked for only where an argument somewhere in the file can make the
//! statement a site: most macros never do. Where one word decides, a mnemonic or a register, any of
//! its kind may come; otherwise the whole statement has to be one of those that the calls in the
//! file can make of it.

use super::emit::{Carrier, Decision, Dispatch, Insertion, Kind};
use super::lookup::{Mnemonic, lookup, sensitive};
use super::operands::split;
use super::scan::{Item, Scanner, Statement};
use super::stage::Stage;
use crate::instructions::{Class, RegisterFile, When};
use crate::record::{Flags, Liveness, MINIMUM_SLOT};

impl Stage<'_> {
    /// A statement of a macro body that a parameter may make sensitive.
    pub(super) fn dispatched(&mut self, statement: &Statement) {
        if !self.long_mode || self.in_argument || self.source[statement.range()].contains(&b'"') {
            return;
        }
        let decisions = self.decisions(statement);
        self.has_sites_in_bodies |= !decisions.is_empty();
        let Some(least_length) = decisions.iter().map(|decision| decision.least_length).min() else { return };
        self.insertions.push(Insertion {
            start: statement.start,
            end: statement.end,
            kind: Kind::Dispatched(decisions),
            pad: MINIMUM_SLOT.saturating_sub(least_length),
            liveness: Liveness::UNKNOWN,
            flags: Flags::empty(),
            carrier: Carrier { grouped: self.has_groups, by_macro: self.macros.hides_labels() },
        });
    }

    /// What can decide that the statement is a site, if some expansion of it is one.
    fn decisions(&self, statement: &Statement) -> Vec<Decision> {
        let head = statement.head(self.source);
        let mut decisions = Vec::new();
        if self.macros.mentions_parameter(head) {
            let is_mnemonic = |word: &Vec<u8>| self.is_sensitive_mnemonic(word);
            if self.macros.expansions(head).is_some_and(|words| words.iter().any(is_mnemonic)) {
                decisions.push(self.word(Dispatch::Mnemonic, head, 1));
            }
        } else if let Some(Mnemonic::Candidate(candidates)) = lookup(head) {
            let operands: Vec<&[u8]> = split(statement.operands(self.source)).map(<[u8]>::trim_ascii).collect();
            for when in candidates.iter().map(|candidate| candidate.row.when) {
                decisions.extend(self.operand(when, &operands));
            }
            decisions.dedup_by(|a, b| a.dispatch == b.dispatch && a.word == b.word);
        }
        if decisions.is_empty() || self.macros.mentions_parameter(head) {
            decisions.extend(self.whole(statement, !decisions.is_empty()));
        }
        decisions
    }

    fn word(&self, dispatch: Dispatch, word: &[u8], least_length: u8) -> Decision {
        Decision { dispatch, word: self.macros.named(word), texts: Vec::new(), least_length }
    }

    fn is_sensitive_mnemonic(&self, word: &[u8]) -> bool {
        let Some(Mnemonic::Candidate(candidates)) = lookup(word) else { return false };
        candidates.iter().any(|candidate| candidate.row.when == When::Always) && !self.macros.is_defined_anywhere(word)
    }

    /// The operand that decides, if some expansion of it is a privileged register.
    fn operand(&self, when: When, operands: &[&[u8]]) -> Option<Decision> {
        let (dispatch, file, index) = self.deciding_operand(when, operands.len())?;
        let operand = operands.get(index).filter(|operand| self.macros.mentions_parameter(operand))?;
        let in_file = |operand: &Vec<u8>| self.syntax.register_file(operand) == Some(file);
        let is_site = self.macros.expansions(operand)?.iter().any(in_file);
        // The prelude knows registers by their names with a percent sign.
        let sign: &[u8] = if self.syntax.bare_registers && !operand.starts_with(b"%") { b"%" } else { b"" };
        is_site.then(|| self.word(dispatch, &[sign, operand].concat(), 2))
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
            When::Always | When::Far | When::Vector => None,
        }
    }

    /// The statement as a whole, if one of the texts that it can become is sensitive, beside those
    /// that are `by_mnemonic`.
    fn whole(&self, statement: &Statement, by_mnemonic: bool) -> Option<Decision> {
        let template = scrubbed(&self.source[statement.range()]);
        let mut texts = Vec::new();
        let mut least_length = MINIMUM_SLOT;
        for text in self.macros.expansions(&template)? {
            let Some((class, length)) = self.sensitive_text(&text) else { continue };
            let mnemonic = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            if by_mnemonic && self.is_sensitive_mnemonic(mnemonic) {
                continue;
            }
            least_length = least_length.min(length);
            let normal = scrubbed(&text);
            if normal != text {
                texts.push((normal, class));
            }
            texts.push((text, class));
        }
        let word = self.macros.named(&template);
        (!texts.is_empty()).then_some(Decision { dispatch: Dispatch::Statement, word, texts, least_length })
    }

    /// The class of a text that is one sensitive instruction, and a lower bound for its length.
    fn sensitive_text(&self, text: &[u8]) -> Option<(Class, u8)> {
        let mut items = Scanner::new(text, 0..text.len());
        let Some(Item::Statement(statement)) = items.next() else { return None };
        let is_plain =
            items.next().is_none() && statement.end == text.len() && !text.iter().any(|byte| b"\"\\".contains(byte));
        if !is_plain || self.macros.is_defined_anywhere(statement.head(text)) {
            return None;
        }
        let (row, length) = sensitive(text, self.syntax, &statement)?;
        let is_annotated = self.options.classes.contains(row.class);
        is_annotated.then_some((row.class, length))
    }
}

/// The text with its blanks as GAS leaves them (`app.c`): one between two words, none around
/// commas. Comments are blanks.
fn scrubbed(text: &[u8]) -> Vec<u8> {
    let mut result: Vec<u8> = Vec::with_capacity(text.len());
    let mut blank = false;
    let mut rest = text.trim_ascii();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if let Some(comment) = rest.strip_prefix(b"*").filter(|_| byte == b'/') {
            rest = memchr::memmem::find(comment, b"*/").map_or(&[][..], |end| &comment[end + 2..]);
            blank = true;
            continue;
        }
        if byte.is_ascii_whitespace() {
            blank = true;
            continue;
        }
        let joins = |byte: u8| matches!(byte, b',' | b'+' | b':');
        if blank && !joins(byte) && !result.last().copied().is_some_and(joins) {
            result.push(b' ');
        }
        blank = false;
        result.push(byte);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::scrubbed;

    #[test]
    fn blanks_are_those_that_the_assembler_leaves() {
        for (text, expected) in [
            ("mov %cr0, %rax", "mov %cr0,%rax"),
            ("mov\t%cr0  ,\t%rax ", "mov %cr0,%rax"),
            ("mov $ 5 + 3, %eax", "mov $ 5+3,%eax"),
            ("movl %es : 4(%rax) , %eax", "movl %es:4(%rax),%eax"),
            ("rep  insb", "rep insb"),
            ("mov /* , */ %cr0,/*x*/%rax", "mov %cr0,%rax"),
        ] {
            assert_eq!(scrubbed(text.as_bytes()), expected.as_bytes());
        }
    }
}
