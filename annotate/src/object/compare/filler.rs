//! NOPs that the assembler puts before an aligned place.
//!
//! How many depends on all that stands before, so two texts that differ by pads differ by filler too. It is recognised by
//! its effect: it ends at a multiple of a power of two that is greater than its length, and that the section's alignment
//! permits. There is no certainty in that: a NOP of the text that was lost just before an aligned place would pass.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

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

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of each.
    pub(super) fn nops(&self) -> impl DoubleEndedIterator<Item = &'data [u8]> + ExactSizeIterator {
        (0..self.ends.len()).map(|number| &self.bytes[self.bound(number)..self.bound(number + 1)])
    }

    /// How many it shares with the start of another.
    pub(super) fn shared_with(&self, other: &Self) -> usize {
        self.nops().zip(other.nops()).take_while(|(a, b)| a == b).count()
    }

    /// How many it shares with the end of another.
    fn shared_at_end_with(&self, other: &Self) -> usize {
        self.nops().rev().zip(other.nops().rev()).take_while(|(a, b)| a == b).count()
    }

    fn bound(&self, number: usize) -> usize {
        if number == 0 { self.start } else { self.ends[number - 1] }
    }

    /// What is left of the run without some NOPs before and after.
    fn middle(&self, before: usize, after: usize) -> Middle {
        Middle { start: self.bound(before), end: self.bound(self.ends.len() - after) }
    }
}

/// The length of the NOP or INT3 at the start of the bytes.
fn nop_length(bytes: &[u8]) -> Option<usize> {
    // INT3, NOP, the multi-byte NOP (SDM Vol. 2B, NOP), and the prefixes that GAS puts before them.
    if !matches!(bytes, [0xcc | 0x90 | 0x66 | 0x2e, ..] | [0x0f, 0x1f, ..]) {
        return None;
    }
    let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3).then_some(instruction.len())
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
}

/// What makes two runs differ.
#[derive(Clone, Copy)]
pub(super) struct Filler {
    /// The number of NOPs that the runs share before it.
    pub(super) before: usize,
    /// Where it ends on either side.
    pub(super) ends: (usize, usize),
}

/// The filler by which two runs, each in a section of some alignment, differ; of no bytes if they are equal.
///
/// NOPs that the runs share at either end may belong to the text: Linux's `clear_bhb_loop` puts INT3s behind an alignment.
/// How many do is tried.
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
            (is_none || middle.aligns(align) && counterpart.aligns(padded_align))
                .then_some(Filler { before, ends: (middle.end, counterpart.end) })
        })
}
