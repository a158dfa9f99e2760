//! Kernel objects: what memory they are made of, and where the capabilities for them are.
//!
//! seL4 allocates nothing by itself. All memory is *untyped* until whoever has the capability for
//! it makes objects of it, and what was made comes back only when nothing of that piece is left. So
//! all memory is cut into *granules* of 4 MB first. Most are the guest's, as pages. The wedge keeps
//! some, and what is too small for the guest, for objects: those that stay are laid one behind the
//! other; those that come and go (tables, address spaces, threads) have a piece of untyped memory
//! of a page each ([`Pool`]), which is whole again when the one object in it is deleted.
//!
//! The first thread's CNode has room for the image, and for little else. So there is one more level
//! above it: the first 65,536 addresses are that CNode's, as before, and each further 65,536 begin
//! with the 4,096 slots of a CNode of the wedge's. To change a slot takes a capability for its
//! CNode that is not in that tree: those are in the first CNode.

use core::ops::Range;

use super::abi::{Refused, abi};
use super::bootinfo::{BootInfo, Untyped};
use super::kernel::{Kernel, Slot, initial, object, rights};
use crate::runtime::{PAGE, say};

/// The binary logarithm of a granule's size.
pub(super) const GRANULE_BITS: u8 = 22;
/// The size of a granule.
pub(super) const GRANULE: u64 = 1 << GRANULE_BITS;
/// How many there are at most: 8 GB.
pub(super) const GRANULES: usize = 2048;
/// Physical addresses that are served.
pub(super) const LIMIT: u64 = GRANULES as u64 * GRANULE;

/// Slots of a CNode of the wedge's, as a binary logarithm.
const NODE_BITS: u64 = 12;
/// And of the node above them.
const TOP_BITS: u64 = 12;
/// What is left of an address for slots of one node.
const INDEX_BITS: u64 = 16;
/// The binary logarithm of a slot's size.
const SLOT_BITS: u64 = 5;
/// As many objects are made in one go (`CONFIG_RETYPE_FAN_OUT_LIMIT`).
pub(super) const FAN_OUT: u64 = 256;

/// Why there are no objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No memory is left for objects.
    NoMemory,
    /// The first thread's CNode is full.
    NoSlots,
    /// seL4 refuses something.
    Refused { what: &'static str, error: Refused },
    /// What stores a program's registers came upon something else than its end: the message's label.
    Stub(u64),
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMemory => write!(f, "no memory is left for objects of seL4's: give the machine more"),
            Self::NoSlots => write!(f, "the first thread's CNode is full: seL4 needs a larger ROOT_CNODE_SIZE_BITS"),
            Self::Refused { what, error } => write!(f, "seL4 refuses {what}: {error}"),
            Self::Stub(label) => write!(f, "a program's registers are not stored: seL4 tells of fault {label}"),
        }
    }
}

pub(super) fn refused(what: &'static str) -> impl Fn(Refused) -> Failure {
    move |error| Failure::Refused { what, error }
}

/// A piece of untyped memory of 4 MB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granule {
    pub(super) slot: Slot,
    pub(super) address: u64,
}

/// What objects are made of.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) kernel: Kernel,
    /// Free slots of the first CNode.
    initial: Range<Slot>,
    /// The node above, once there is one,
    top: Option<Slot>,
    /// how many nodes are below it, beside the first,
    nodes: u64,
    /// and capabilities for these, one behind the other.
    node_slots: Range<Slot>,
    /// Free slots of the last.
    free: Range<Slot>,
    /// Pieces that are too small for the guest, and granules that are kept from it.
    small: [Option<Untyped>; SMALL],
    kept: &'static [Granule],
    /// What the next object comes from, small or large: its slot, how many of its bytes are used,
    /// and how many there are. Each has its own, for a large object behind a small one begins where
    /// a multiple of its size is.
    current: [(Slot, u64, u64); 2],
}

/// More small pieces are left alone.
const SMALL: usize = 64;
/// As many nodes there may be.
const NODES: u64 = 2048;

impl Objects {
    /// With the first CNode's slots that are free, and without memory.
    pub(super) const fn new(kernel: Kernel, initial: Range<Slot>) -> Self {
        Self {
            kernel,
            initial,
            top: None,
            nodes: 0,
            node_slots: 0..0,
            free: 0..0,
            small: [None; SMALL],
            kept: &[],
            current: [(0, 0, 0); 2],
        }
    }

    /// Cuts all memory into granules, in the order of their addresses. `used` was used before. What
    /// lies too high, or would be too many, is left alone, which is said.
    pub(super) fn cut(
        &mut self,
        info: &BootInfo,
        used: Slot,
        granules: &'static mut [Granule; GRANULES],
    ) -> Result<&'static mut [Granule], Failure> {
        let mut count = 0;
        let mut small = 0;
        let mut left = 0;
        for piece in info.untyped().filter(|piece| !piece.is_device && piece.slot != used) {
            if piece.bits < GRANULE_BITS {
                if u64::from(piece.bits) >= PAGE.ilog2().into() && small < SMALL {
                    self.small[small] = Some(piece);
                    small += 1;
                }
                continue;
            }
            let all = 1_u64 << (piece.bits - GRANULE_BITS);
            let served = (LIMIT.saturating_sub(piece.address) / GRANULE).min((GRANULES - count) as u64);
            let parts = all.min(served);
            left += all - parts;
            if parts == 0 {
                continue;
            }
            let first = if all == 1 {
                piece.slot
            } else {
                let first = self.initial_slots(parts)?;
                self.make(piece.slot, object::UNTYPED, GRANULE_BITS.into(), first, parts)?;
                first
            };
            for part in 0..parts {
                granules[count] = Granule { slot: first + part, address: piece.address + part * GRANULE };
                count += 1;
            }
        }
        if left != 0 {
            say!("{} MB of memory are left alone: addresses from {LIMIT:#x} on are not served", (left * GRANULE) >> 20);
        }
        let found = &mut granules[..count];
        found.sort_unstable_by_key(|granule| granule.address);
        Ok(found)
    }

    /// Keeps granules for objects.
    pub(super) fn keep(&mut self, granules: &'static [Granule]) {
        self.kept = granules;
    }

    /// Slots of the first CNode, one behind the other.
    pub(super) fn initial_slots(&mut self, count: u64) -> Result<Slot, Failure> {
        let first = self.initial.start;
        if first + count > self.initial.end {
            return Err(Failure::NoSlots);
        }
        self.initial.start += count;
        Ok(first)
    }

    /// Makes objects of a piece of untyped memory, at slots that follow each other in one CNode.
    pub(super) fn make(&self, untyped: Slot, kind: u64, bits: u64, at: Slot, count: u64) -> Result<(), Failure> {
        /// The node is the one that the capability is for, and not one below it.
        const THIS_NODE: [u64; 2] = [0, 0];
        let (node, index, _) = self.node_of(at);
        let [place, depth] = THIS_NODE;
        let mut done = 0;
        while done < count {
            let part = (count - done).min(FAN_OUT);
            let words = [kind, bits, place, depth, index + done, part];
            self.kernel.invoke(untyped, abi().untyped_retype, &[node], &words).map_err(refused("to make objects"))?;
            done += part;
        }
        Ok(())
    }

    /// The capability for the CNode that a slot is in, the slot's number there, and how many bits
    /// that has.
    pub(super) fn node_of(&self, slot: Slot) -> (Slot, u64, u64) {
        match slot >> INDEX_BITS {
            0 => (initial::CNODE, slot, 64),
            number => (self.node_slots.start + number - 1, slot & ((1 << NODE_BITS) - 1), NODE_BITS),
        }
    }

    /// A piece of memory for objects of a size together, a power of two.
    pub(super) fn memory(&mut self, bits: u64) -> Result<Slot, Failure> {
        const LARGE: u64 = 1 << 20;
        let size = 1 << bits;
        let kind = usize::from(size >= LARGE);
        loop {
            let (slot, used, length) = self.current[kind];
            let start = used.next_multiple_of(size);
            if start + size <= length {
                self.current[kind].1 = start + size;
                return Ok(slot);
            }
            self.current[kind] = self.next_piece(size)?;
        }
    }

    fn next_piece(&mut self, size: u64) -> Result<(Slot, u64, u64), Failure> {
        if let Some(piece) = self.small.iter_mut().find(|piece| piece.is_some_and(|piece| 1 << piece.bits >= size)) {
            let Untyped { slot, bits, .. } = piece.take().ok_or(Failure::NoMemory)?;
            return Ok((slot, 0, 1 << bits));
        }
        let (first, rest) = self.kept.split_first().ok_or(Failure::NoMemory)?;
        self.kept = rest;
        Ok((first.slot, 0, GRANULE))
    }

    /// An object that stays, at a slot; `bits` is its size, and `user_bits` what seL4 is told of
    /// it.
    pub(super) fn object(&mut self, kind: u64, bits: u64, user_bits: u64, at: Slot) -> Result<(), Failure> {
        let from = self.memory(bits)?;
        self.make(from, kind, user_bits, at, 1)
    }

    /// An object that stays, at a slot of the first CNode.
    pub(super) fn initial_object(&mut self, kind: u64, bits: u64) -> Result<Slot, Failure> {
        let slot = self.initial_slots(1)?;
        self.object(kind, bits, 0, slot)?;
        Ok(slot)
    }

    /// Makes the node above, and has the wedge's thread use it; `endpoint` is where its faults go.
    pub(super) fn begin_tree(&mut self) -> Result<Slot, Failure> {
        let top = self.initial_slots(1)?;
        self.object(object::CNODE, TOP_BITS + SLOT_BITS, TOP_BITS, top)?;
        let words = [0, TOP_BITS, initial::CNODE, 64, rights::ALL, 0];
        self.kernel
            .invoke(top, abi().cnode_mint, &[initial::CNODE], &words)
            .map_err(refused("the first CNode as a part of another"))?;
        self.top = Some(top);
        self.node_slots = self.initial_slots(NODES)?..0;
        self.node_slots.end = self.node_slots.start + NODES;
        Ok(top)
    }

    /// What tells seL4 the guard of the node above, where it is a thread's root.
    pub(super) fn top_guard() -> u64 {
        (64 - TOP_BITS - INDEX_BITS) << abi().guard_shift
    }

    /// A new node's slots.
    fn add_node(&mut self) -> Result<Range<Slot>, Failure> {
        let top = self.top.ok_or(Failure::NoSlots)?;
        let number = self.nodes + 1;
        let node = self.node_slots.start + self.nodes;
        if node >= self.node_slots.end {
            return Err(Failure::NoSlots);
        }
        self.object(object::CNODE, NODE_BITS + SLOT_BITS, NODE_BITS, node)?;
        let guard = (INDEX_BITS - NODE_BITS) << abi().guard_shift;
        let words = [number, TOP_BITS, node, 64, rights::ALL, guard];
        self.kernel
            .invoke(top, abi().cnode_mint, &[initial::CNODE], &words)
            .map_err(refused("a CNode as a part of another"))?;
        self.nodes = number;
        let first = number << INDEX_BITS;
        Ok(first..first + (1 << NODE_BITS))
    }

    /// So many free slots that follow each other in one CNode, a power of two up to a CNode's.
    pub(super) fn slots(&mut self, count: u64) -> Result<Slot, Failure> {
        if self.free.start + count > self.free.end {
            self.free = self.add_node()?;
        }
        let first = self.free.start;
        self.free.start += count;
        Ok(first)
    }

    /// A copy of a capability, with so many rights.
    pub(super) fn copy(&self, from: Slot, to: Slot, rights: u64) -> Result<(), Refused> {
        let (from_node, from_index, from_depth) = self.node_of(from);
        let (to_node, to_index, to_depth) = self.node_of(to);
        let words = [to_index, to_depth, from_index, from_depth, rights];
        self.kernel.invoke(to_node, abi().cnode_copy, &[from_node], &words).map(|_| ())
    }

    /// A copy of a capability with a badge, and with so many rights.
    pub(super) fn mint(&self, from: Slot, to: (Slot, u64, u64), rights: u64, badge: u64) -> Result<(), Refused> {
        let (from_node, from_index, from_depth) = self.node_of(from);
        let (to_node, to_index, to_depth) = to;
        let words = [to_index, to_depth, from_index, from_depth, rights, badge];
        self.kernel.invoke(to_node, abi().cnode_mint, &[from_node], &words).map(|_| ())
    }

    /// Deletes a capability, and what only it was for.
    pub(super) fn delete(&self, slot: Slot) -> Result<(), Refused> {
        let (node, index, depth) = self.node_of(slot);
        self.kernel.invoke(node, abi().cnode_delete, &[], &[index, depth]).map(|_| ())
    }
}

/// Pieces of untyped memory of a page each, for one object at a time.
#[derive(Debug)]
pub(super) struct Pool {
    /// The first piece of each row, and of the objects in them.
    rows: [(Slot, Slot); ROWS],
    count: usize,
    /// The first free piece, and the one behind each that is free.
    free: u32,
    next: &'static mut [u32],
}

/// Rows of a pool.
pub(super) const ROWS: usize = 256;
/// No piece.
pub(super) const NONE: u32 = u32::MAX;

/// One of a pool's pieces, with an object in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece(pub(super) u32);

impl Pool {
    /// Without any.
    pub(super) const fn new(next: &'static mut [u32]) -> Self {
        Self { rows: [(0, 0); ROWS], count: 0, free: NONE, next }
    }

    /// Adds a row.
    pub(super) fn grow(&mut self, objects: &mut Objects) -> Result<(), Failure> {
        let has_room = (self.count + 1) * FAN_OUT as usize <= self.next.len();
        let place = self.rows.get_mut(self.count).filter(|_| has_room).ok_or(Failure::NoMemory)?;
        let (pieces, slots) = (objects.slots(FAN_OUT)?, objects.slots(FAN_OUT)?);
        let from = objects.memory(20)?;
        objects.make(from, object::UNTYPED, PAGE.ilog2().into(), pieces, FAN_OUT)?;
        *place = (pieces, slots);
        for number in 0..FAN_OUT as u32 {
            let piece = (self.count as u32) * FAN_OUT as u32 + number;
            self.next[piece as usize] = self.free;
            self.free = piece;
        }
        self.count += 1;
        Ok(())
    }

    fn untyped(&self, piece: Piece) -> Slot {
        self.rows[piece.0 as usize / FAN_OUT as usize].0 + u64::from(piece.0) % FAN_OUT
    }

    /// The capability for the object in a piece.
    pub(super) fn slot(&self, piece: Piece) -> Slot {
        self.rows[piece.0 as usize / FAN_OUT as usize].1 + u64::from(piece.0) % FAN_OUT
    }

    /// An object of a page at most; `None` if there is no room.
    pub(super) fn take(&mut self, objects: &Objects, kind: u64, bits: u64) -> Result<Option<Piece>, Failure> {
        if self.free == NONE {
            return Ok(None);
        }
        let piece = Piece(self.free);
        objects.make(self.untyped(piece), kind, bits, self.slot(piece), 1)?;
        self.free = self.next[piece.0 as usize];
        Ok(Some(piece))
    }

    /// Deletes an object. Its piece is free.
    pub(super) fn give_back(&mut self, objects: &Objects, piece: Piece) -> Result<(), Failure> {
        objects.delete(self.slot(piece)).map_err(refused("to delete an object"))?;
        self.next[piece.0 as usize] = self.free;
        self.free = piece.0;
        Ok(())
    }
}
