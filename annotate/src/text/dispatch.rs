//! Statements of macro bodies that a parameter makes sensitive in some expansions: `\op`, `mov \from, \to`.
//!
//! The same line of a body must work in all of them, so the decision is left to the assembler (see [`super::emit`]). That
//! is asked for only where an argument somewhere in the file can make the statement a site: most macros never do.

use std::ops::Range;

use super::emit::{Dispatch, Insertion, Kind};
use super::lookup::{Mnemonic, lookup};
use super::operands::split;
use super::scan::Statement;
use super::stage::Stage;
use crate::instructions::{RegisterFile, When};
use crate::record::{Flags, Liveness, MINIMUM_SLOT};

impl Stage<'_> {
    /// A statement of a macro body that a parameter may make sensitive.
    pub(super) fn dispatched(&mut self, statement: &Statement) {
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
            let Some((dispatch, file, index)) = self.deciding_operand(candidate.row.when, operands.len()) else {
                continue;
            };
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
}
