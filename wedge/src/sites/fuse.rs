//! An instruction and its pad made one.
//!
//! On bare hardware a site keeps its instruction, and the only cost of having been padded is the
//! NOP behind it: one more instruction to fetch, decode and retire. The bytes are there; they can
//! as well be *prefixes*. A CS override does nothing in 64-bit mode (SDM Vol. 1, 3.4.2.1; its
//! meaning as a branch hint exists on conditional jumps only, SDM Vol. 2A, 2.1.1, which are not
//! sensitive), and assemblers pad with it for the same reason (GNU as,
//! `-malign-branch-prefix-size`). Where the instruction has a segment override of its own, that one
//! is repeated, for of two the last would count.
//!
//! * In a sequence the prefixes go before the second instruction. So the interrupt shadow of `sti`
//!   still covers `hlt`, and a context that was interrupted between the two goes on at the same
//!   address.
//! * The start of the site does not move, which is what exception tables and symbols mean.
//! * Nothing is relative to the site's address but displacements from RIP, and those count from
//!   the *end* of the instruction: where the instruction's end moves, they are corrected.
//! * Segment overrides may stand before VEX and EVEX, unlike 66, F2, F3, F0 and REX (SDM Vol. 2A,
//!   2.3.2 to 2.3.4).
//! * Hypercalls are left alone: a hypervisor may replace `vmcall` by `vmmcall` and vice versa, 3
//!   bytes at RIP (Linux's KVM does, `kvm_fix_hypercall`), and would find a prefix there.

use super::bytes::Bytes;

/// The longest instruction (SDM Vol. 2A, 2.3.11).
const LONGEST: u8 = 15;

/// Single-byte NOPs.
pub(super) const SINGLE_NOPS: Bytes = Bytes(u128::from_le_bytes([0x90; 16]));

/// The instructions of a site as they stand in its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct InSlot {
    /// The slot.
    pub(super) bytes: Bytes,
    /// Its length.
    pub(super) slot: u8,
    /// Length of the instruction or sequence.
    pub(super) length: u8,
    /// Where the second instruction of a sequence starts.
    pub(super) second: u8,
    /// Where the displacement from RIP stands; 0 if there is none.
    pub(super) displacement: u8,
}

impl InSlot {
    /// The slot, if what stands in it counts its displacement from RIP from so many bytes further
    /// down.
    pub(super) fn moved(&self, by: i64) -> Option<Bytes> {
        if self.displacement == 0 { Some(self.bytes) } else { self.bytes.displaced(self.displacement, by) }
    }
}

/// The bytes of the slot with a prefix, as often as it fits, in front of the last instruction.
/// `None` if a corrected displacement has no room.
pub(super) fn fuse(site: &InSlot, prefix: u8) -> Option<Bytes> {
    let (second, length) = (site.second, site.length);
    let pad = site.slot.checked_sub(length)?;
    let prefixes = pad.min(LONGEST.checked_sub(length.checked_sub(second)?)?);
    let bytes = site.moved(-i64::from(prefixes))?;
    let first = bytes.before(second);
    let last = bytes.before(length).behind(second).up(prefixes);
    let filler = Bytes(u128::from_le_bytes([prefix; 16])).before(second + prefixes).behind(second);
    let nops = SINGLE_NOPS.before(site.slot).behind(length + prefixes);
    Some(first.or(filler).or(last).or(nops))
}
