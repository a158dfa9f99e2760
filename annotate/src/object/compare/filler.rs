//! NOPs that the assembler puts before an aligned place, or before a branch that it aligns.
//!
//! How many depends on all that stands before, so two texts that differ by pads differ by filler
//! too. It is recognised by its effect:
//!
//! * *Alignment*, as the text asks for it (`.p2align`): filler ends at a multiple of a power of two
//!   that is greater than its length, and that the section's alignment permits; on both sides.
//! * *Aligned branches*, as options ask for them (`-malign-branch-boundary=`,
//!   `-mbranches-within-32B-boundaries`): a branch, or a comparison and the branch that it fuses
//!   with, may not reach a multiple of 16, 32 ... A side where it would has NOPs before it, no more
//!   than it has bytes, up to that multiple. The other side may have none. (Or the assembler puts
//!   prefixes on instructions before it: [`super::prefixes`].)
//!
//! There is no certainty in that: a NOP of the text that was lost just before an aligned place
//! would pass.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use super::prefixes::without_idle_prefixes;

/// A run of NOPs and INT3s.
pub(super) struct Run<'data> {
    bytes: &'data [u8],
    start: usize,
    /// Where each ends.
    ends: Vec<usize>,
}

impl<'data> Run<'data> {
    /// The run that starts at an offset, at most up to another.
    pub(super) fn of(bytes: &'data [u8], start: usize, limit: usize) -> Self {
        let mut ends = Vec::new();
        let mut position = start;
        while let Some(length) = nop_length(&bytes[position..limit]) {
            position += length;
            ends.push(position);
        }
        Self { bytes, start, ends }
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The length of the branch behind the run, with the comparison that it fuses with, if there is
    /// one.
    fn branch(&self) -> Option<usize> {
        let end = self.bound(self.ends.len());
        branch_length(&self.bytes[end..])
    }

    /// The bytes of each.
    pub(super) fn nops(&self) -> impl DoubleEndedIterator<Item = &'data [u8]> + ExactSizeIterator {
        (0..self.ends.len()).map(|number| &self.bytes[self.bound(number)..self.bound(number + 1)])
    }

    /// How many it shares with the start of another.
    pub(super) fn shared_with(&self, other: &Self) -> usize {
        self.nops().zip(other.nops()).take_while(|(a, b)| is_same_nop(a, b)).count()
    }

    /// How many it shares with the end of another.
    fn shared_at_end_with(&self, other: &Self) -> usize {
        self.nops().rev().zip(other.nops().rev()).take_while(|(a, b)| is_same_nop(a, b)).count()
    }

    fn bound(&self, number: usize) -> usize {
        if number == 0 { self.start } else { self.ends[number - 1] }
    }

    /// What is left of the run without some NOPs before and after.
    fn middle(&self, before: usize, after: usize) -> Middle {
        Middle { start: self.bound(before), end: self.bound(self.ends.len() - after) }
    }
}

fn is_same_nop(a: &[u8], b: &[u8]) -> bool {
    a == b || without_idle_prefixes(a, 64) == without_idle_prefixes(b, 64)
}

/// The length of the NOP or INT3 at the start of the bytes.
fn nop_length(bytes: &[u8]) -> Option<usize> {
    // INT3, NOP, the multi-byte NOP (SDM Vol. 2B, NOP), and the prefixes that GAS and LLVM put
    // before them.
    if !matches!(bytes, [0xcc | 0x90 | 0x66 | 0x2e | 0x36 | 0x3e, ..] | [0x0f, 0x1f, ..]) {
        return None;
    }
    let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3).then_some(instruction.len())
}

/// The length of the branch at the start of the bytes, with the comparison before it if they fuse
/// (SDM Vol. 1, "Macrofusion"; GAS and LLVM take these for the ones that do).
fn branch_length(bytes: &[u8]) -> Option<usize> {
    const MOST_NOPS: usize = 8;
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let first = decoder.decode();
    if is_branch(&first) {
        return Some(first.len());
    }
    let is_comparison = matches!(
        first.mnemonic(),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::And | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Inc | Mnemonic::Dec
    );
    if !is_comparison {
        return None;
    }
    // Behind what it takes for data, as a pad may be, GAS does not see that they fuse: it aligns
    // the branch alone.
    let mut rest = std::iter::repeat_with(|| decoder.decode()).take(MOST_NOPS + 1);
    let second = rest.find(|instruction| instruction.mnemonic() != Mnemonic::Nop)?;
    (second.flow_control() == FlowControl::ConditionalBranch).then(|| first.len() + second.len())
}

fn is_branch(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Return
            | FlowControl::Call
            | FlowControl::IndirectCall
    )
}

/// Part of a run, from here to there.
#[derive(Clone, Copy)]
struct Middle {
    start: usize,
    end: usize,
}

impl Middle {
    fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether this may be filler, be it of no bytes, in a section of this alignment.
    fn aligns(self, section: u64) -> bool {
        const LEAST: usize = 4;
        let alignment = (self.end - self.start + 1).next_power_of_two();
        let is_aligned = alignment as u64 <= section && self.end.is_multiple_of(alignment);
        self.end.is_multiple_of(LEAST) && (self.is_empty() || is_aligned)
    }

    /// Whether this may keep the branch of this length behind it from a boundary, in a section of
    /// this alignment. That is raised to the boundary.
    fn aligns_branch(self, length: Option<usize>, section: u64) -> bool {
        const LEAST: usize = 16;
        let reaches_boundary = |length| self.end - self.start <= length && self.end.is_multiple_of(LEAST);
        length.is_some_and(|length| self.is_empty() || section >= LEAST as u64 && reaches_boundary(length))
    }
}

/// What makes two runs differ.
#[derive(Clone, Copy)]
pub(super) struct Filler {
    /// The number of NOPs that the runs share before it.
    pub(super) before: usize,
    /// Where it ends on either side.
    pub(super) ends: (usize, usize),
}

/// The filler by which two runs, each in a section of some alignment, differ; of no bytes if they
/// are equal.
///
/// NOPs that the runs share at either end may belong to the text: Linux's `clear_bhb_loop` puts
/// INT3s behind an alignment. How many do is tried.
pub(super) fn filler_between(plain: (&Run<'_>, u64), padded: (&Run<'_>, u64)) -> Option<Filler> {
    const SHARED: usize = 64;
    let ((plain, align), (padded, padded_align)) = (plain, padded);
    let shortest = plain.ends.len().min(padded.ends.len());
    let (leading, trailing) = (plain.shared_with(padded), plain.shared_at_end_with(padded));
    let afters = |before: usize| (0..=trailing.min(shortest - before).min(SHARED)).rev();
    (leading.saturating_sub(SHARED)..=leading)
        .rev()
        .flat_map(|before| afters(before).map(move |after| (before, after)))
        .find_map(|(before, after)| {
            let (middle, counterpart) = (plain.middle(before, after), padded.middle(before, after));
            let is_none = middle.is_empty() && counterpart.is_empty();
            let aligns = middle.aligns(align) && counterpart.aligns(padded_align);
            let aligns_branch = || {
                after == 0
                    && middle.aligns_branch(plain.branch(), align)
                    && counterpart.aligns_branch(padded.branch(), padded_align)
            };
            (is_none || aligns || aligns_branch()).then_some(Filler { before, ends: (middle.end, counterpart.end) })
        })
}
