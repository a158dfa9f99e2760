//! Code that is reached by its number.
//!
//! What stands behind a branch or return is reached by its label. Code without one is reached all
//! the same where it is an entry of a table, and whoever goes there multiplies the entry's number
//! by its size: `table + 8 * n`. A pad would make the entry longer, and nobody could tell from the
//! object. So from the table's label on, up to the next label, nothing is padded. A label that
//! nothing names is none: it may be there for the reader of the text.
//!
//! Compilers write no such tables, and what they put behind a branch has a label that they name. In
//! their output only inline assembly is looked at.

use std::mem;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::distance::Reach;

/// How the text goes on behind a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the text")]
struct Outline {
    /// There is code in it.
    has_code: bool,
    /// There are instructions in it, and not only bytes that may be code.
    has_instructions: bool,
    /// A label stands before its first code.
    starts_with_label: bool,
    /// Its last code branches or returns for good.
    ends_in_transfer: bool,
}

/// The way through the section, or through a body.
#[derive(Clone, Debug, Default)]
struct Way {
    outline: Outline,
    /// Where the last label stands, or where the text has come back to this way.
    since: usize,
    /// The parts between the label and there.
    parts: Vec<Range<usize>>,
    /// Something behind it is reached by number.
    by_number: bool,
    /// A macro is called behind it.
    has_call: bool,
    /// In a compiler's output, the inline assembly that the transfer stands in.
    block: usize,
    /// The last code branches or returns for good, whatever labels stand behind it.
    is_over: bool,
}

impl Way {
    fn from(since: usize) -> Self {
        Self { since, ..Self::default() }
    }

    /// The text leaves this way.
    fn leave(&mut self, offset: usize) {
        self.parts.push(self.since..offset);
        self.since = offset;
    }

    /// Code that stands here, and whether the way ends behind it.
    fn code(&mut self, is_transfer: bool, block: usize) {
        if self.outline.ends_in_transfer && self.block == block {
            self.by_number = true;
        }
        self.outline.has_code = true;
        self.outline.ends_in_transfer = is_transfer;
        self.is_over = is_transfer;
        self.block = block;
    }
}

/// Follows the text.
#[derive(Debug, Default)]
pub(super) struct Flow {
    way: Way,
    /// The ways that sections and bodies have interrupted.
    interrupted: Vec<Way>,
    /// The ways of other sections, by their numbers.
    left: FxHashMap<usize, Way>,
    macros: FxHashMap<Vec<u8>, Outline>,
    /// The bodies that the text is in: of macros, by name, and of loops; and where each starts.
    bodies: Vec<(Option<Vec<u8>>, usize)>,
    reach: Reach,
}

impl Flow {
    /// What is reached by number.
    pub(super) fn finish(mut self, end: usize) -> Reach {
        self.close(end);
        // What was left has its parts, and none that goes on to the end.
        let left: Vec<Way> = self.left.drain().map(|(_, way)| way).collect();
        for way in left.into_iter().chain(mem::take(&mut self.interrupted)) {
            let since = way.since;
            self.way = way;
            self.close(since);
        }
        self.reach
    }

    /// Whether no label leads here, and no code before.
    pub(super) fn is_unreached(&self) -> bool {
        let Outline { has_code, starts_with_label, ends_in_transfer, .. } = self.way.outline;
        ends_in_transfer || !has_code && !starts_with_label
    }

    /// Whether the last code before this place branches or returns for good, whatever labels stand
    /// in between.
    pub(super) fn is_behind_transfer(&self) -> bool {
        self.way.is_over
    }

    /// Whether there has been any code in the section since the text came to it.
    pub(super) fn has_code(&self) -> bool {
        self.way.outline.has_code
    }

    /// Whether the way that this one has interrupted is over.
    pub(super) fn is_behind_interrupted(&self) -> bool {
        self.interrupted.last().is_some_and(|way| way.is_over || !way.outline.has_code)
    }

    fn close(&mut self, end: usize) {
        if self.way.by_number {
            if self.way.has_call {
                self.reach.everything = true;
            }
            self.reach.parts.append(&mut self.way.parts);
            self.reach.parts.push(self.way.since..end);
        }
    }

    /// A label that something names.
    pub(super) fn label(&mut self, offset: usize) {
        self.close(offset);
        let mut outline = self.way.outline;
        outline.starts_with_label |= !outline.has_code;
        outline.ends_in_transfer = false;
        self.way = Way { outline, is_over: self.way.is_over, ..Way::from(offset) };
    }

    /// An instruction; `block` is the number of the inline assembly it stands in.
    pub(super) fn instruction(&mut self, is_transfer: bool, block: usize) {
        self.way.code(is_transfer, block);
        self.way.outline.has_instructions = true;
    }

    /// Whether the macro of this name puts nothing but bytes.
    pub(super) fn puts_bytes(&self, name: &[u8]) -> bool {
        self.macros.get(name).is_some_and(|outline| outline.has_code && !outline.has_instructions)
    }

    /// Bytes that only the assembler can find are data.
    pub(super) fn reach_everything(&mut self) {
        self.reach.everything = true;
    }

    /// Bytes that are code.
    pub(super) fn code(&mut self, is_transfer: bool, block: usize) {
        self.way.code(is_transfer, block);
    }

    /// Data, behind which nothing goes on.
    pub(super) fn data(&mut self) {
        self.way.outline.ends_in_transfer = true;
        self.way.is_over = true;
    }

    /// A call of a macro.
    pub(super) fn call(&mut self, name: &[u8], block: usize, offset: usize) {
        let unknown =
            Outline { has_code: true, has_instructions: true, starts_with_label: true, ends_in_transfer: false };
        if self.bodies.iter().any(|(defining, _)| defining.as_deref() == Some(name)) {
            // Its expansions follow each other.
            self.way.by_number |= !self.way.outline.starts_with_label;
            self.way.has_call = true;
            return;
        }
        let outline = self.macros.get(name).copied().unwrap_or(unknown);
        self.body(outline, block, offset);
        self.way.has_call |= outline.has_code;
    }

    /// What a body puts here.
    fn body(&mut self, outline: Outline, block: usize, offset: usize) {
        if outline.has_code {
            if outline.starts_with_label {
                self.label(offset);
            }
            self.way.code(outline.ends_in_transfer, block);
            self.way.outline.has_instructions |= outline.has_instructions;
        }
    }

    /// Another way is followed for a while: a section is pushed.
    pub(super) fn interrupt(&mut self, offset: usize) {
        self.way.leave(offset);
        self.interrupted.push(mem::replace(&mut self.way, Way::from(offset)));
    }

    /// The interrupted way goes on.
    pub(super) fn resume(&mut self, offset: usize) {
        self.close(offset);
        self.way = self.interrupted.pop().unwrap_or_default();
        self.way.since = offset;
    }

    /// A body starts, of the macro with this name or of a loop.
    pub(super) fn start_body(&mut self, name: Option<Vec<u8>>, offset: usize) {
        self.bodies.push((name, offset));
        self.interrupt(offset);
    }

    /// A body ends: of the macro with this name, or of a loop, which is taken several times here.
    pub(super) fn end_body(&mut self, name: Option<Vec<u8>>, offset: usize) {
        let outline = self.way.outline;
        let has_call = self.way.has_call;
        let start = self.bodies.pop().map_or(offset, |(_, start)| start);
        self.resume(offset);
        if let Some(name) = name {
            self.macros.insert(name, outline);
            return;
        }
        self.way.parts.push(start..offset);
        // Whoever enters a sled does so by number, too; and an entry that ends in a branch may have
        // a label for another purpose, as for a fault in it.
        if outline.has_code && (!outline.starts_with_label || outline.ends_in_transfer) {
            self.reach.parts.push(start..offset);
        }
        for _ in 0..2 {
            self.body(outline, self.way.block, offset);
        }
        self.way.has_call |= has_call;
    }

    /// The text goes on in another section.
    pub(super) fn change(&mut self, from: usize, to: usize, offset: usize) {
        self.way.leave(offset);
        let way = Way { since: offset, ..self.left.remove(&to).unwrap_or_default() };
        self.left.insert(from, mem::replace(&mut self.way, way));
    }

    /// What stands behind a condition may be reached by what stands before.
    pub(super) fn condition(&mut self) {
        self.way.outline.ends_in_transfer = false;
        self.way.is_over = false;
    }
}

/// Whether control never goes on behind the instruction of this name.
pub(super) fn is_transfer(head: &[u8]) -> bool {
    const TRANSFERS: [&[u8]; 9] = [b"jmp", b"ljmp", b"ret", b"lret", b"iret", b"sysret", b"sysexit", b"uiret", b"eret"];
    let is = |transfer: &&[u8]| head.get(..transfer.len()).is_some_and(|start| start.eq_ignore_ascii_case(transfer));
    matches!(head.first(), Some(b'j' | b'l' | b'r' | b'i' | b's' | b'u' | b'e' | b'A'..=b'Z'))
        && TRANSFERS.iter().any(is)
}

/// Whether the word may be a prefix of a branch or return (GAS manual, 9.16.7).
pub(super) fn may_precede_transfer(head: &[u8]) -> bool {
    matches!(head, b"bnd" | b"notrack" | b"rep" | b"repe" | b"repz" | b"repne" | b"repnz" | b"data16" | b"cs" | b"ds")
}

/// Whether the instruction of this name may stand behind a branch to fill room or to stop
/// speculation.
pub(super) fn is_filler(head: &[u8]) -> bool {
    [&b"nop"[..], b"nopw", b"nopl", b"int3", b"ud2", b"hlt", b"lfence"]
        .iter()
        .any(|filler| head.eq_ignore_ascii_case(filler))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters for what happens: `L` label, `c` code, `t` transfer, `(` and `)` loop, `[` and `]`
    /// macro `m`, `m` its call, `?` condition, `1` and `2` sections. Returns the parts that are
    /// reached by number.
    fn parts(events: &str) -> Vec<&str> {
        let mut flow = Flow::default();
        for (offset, event) in events.char_indices() {
            match event {
                'L' => flow.label(offset),
                'c' => flow.code(false, 0),
                't' => flow.code(true, 0),
                '(' => flow.start_body(None, offset),
                '[' => flow.start_body(Some(b"m".to_vec()), offset),
                '1' | '2' => flow.change(usize::from(event == '1') + 1, usize::from(event == '2') + 1, offset),
                ')' => flow.end_body(None, offset),
                ']' => flow.end_body(Some(b"m".to_vec()), offset),
                'm' => flow.call(b"m", 0, offset),
                _ => flow.condition(),
            }
        }
        let reach = flow.finish(events.len());
        let parts = reach.parts.into_iter().filter(|part| !part.is_empty()).map(|part| &events[part]);
        if reach.everything { vec!["everything"] } else { parts.collect() }
    }

    #[test]
    fn code_behind_a_transfer_without_a_label() {
        for (events, expected) in [
            ("LctLct", vec![]),
            ("Lctct", vec!["Lctct"]),
            ("LcLtcLc", vec!["Ltc"]),
            ("L(ct)", vec!["(ct", "L", "(ct", ")"]),
            ("L(Lct)", vec!["(Lct"]),
            ("L(cc)t", vec!["(cc"]),
            ("L(Lcc)t", vec![]),
            ("[ct]Lm", vec![]),
            ("[ct]Lmm", vec!["everything"]),
            ("[Lct]mm", vec![]),
            ("[Lct]Lctctm", vec!["Lctct"]),
            ("[cc]Lmmt", vec![]),
            ("Lt?c", vec![]),
            ("[ct?m]Lm", vec!["everything"]),
            ("Lt2cc1Lc", vec![]),
            ("Lt2cc1c", vec!["Lt", "1c"]),
        ] {
            assert_eq!(parts(events), expected, "{events}");
        }
    }
}
