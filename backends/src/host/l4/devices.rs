//! The registers and memory of the machine's devices, which the guest's own drivers use.
//!
//! seL4 gives all physical addresses that are no memory as untyped pieces, large ones. Frames can
//! only be made of the first free addresses of a piece; so a piece is cut into halves, and these
//! again, until one is so small that all of it can become frames in one go.

use super::bootinfo::{BootInfo, Untyped};
use super::kernel::{Slot, object};
use super::objects::{FAN_OUT, Failure, Objects};
use crate::runtime::PAGE;

/// More pieces are not cut.
const PIECES: usize = 1024;

/// Below, a PC has its BIOS, and the guest has memory.
const LOWEST: u64 = 1 << 20;

/// A piece of the addresses of devices.
#[derive(Clone, Copy, Debug)]
struct Piece {
    slot: Slot,
    address: u64,
    bits: u8,
    /// It has been cut into halves, or into frames, of which the slot is the first.
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untyped,
    Cut,
    Frames,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Devices {
    pieces: [Piece; PIECES],
    count: usize,
}

impl Devices {
    /// None.
    #[expect(clippy::large_stack_arrays, reason = "what a static begins with is on no stack")]
    pub(super) const NONE: Self =
        Self { pieces: [Piece { slot: 0, address: 0, bits: 0, state: State::Untyped }; PIECES], count: 0 };

    /// What seL4 gives.
    pub(super) fn find(&mut self, info: &BootInfo) {
        for Untyped { slot, address, bits, .. } in info.untyped().filter(|piece| piece.is_device) {
            self.add(Piece { slot, address, bits, state: State::Untyped });
        }
    }

    fn add(&mut self, piece: Piece) -> Option<()> {
        *self.pieces.get_mut(self.count)? = piece;
        self.count += 1;
        Some(())
    }

    /// The number of the piece that an address lies in, and that is whole.
    fn piece_at(&self, address: u64) -> Option<usize> {
        let is_there = |piece: &Piece| {
            piece.state != State::Cut && address.checked_sub(piece.address).is_some_and(|at| at >> piece.bits == 0)
        };
        self.pieces[..self.count].iter().position(is_there).filter(|_| address >= LOWEST)
    }

    /// Whether an address is of a device's.
    pub(super) fn has(&self, address: u64) -> bool {
        self.piece_at(address).is_some()
    }

    /// The capability for the frame of the page around an address; `None` if there is none.
    pub(super) fn frame(&mut self, address: u64, objects: &mut Objects) -> Result<Option<Slot>, Failure> {
        loop {
            let Some(number) = self.piece_at(address) else { return Ok(None) };
            let piece = self.pieces[number];
            if piece.state == State::Frames {
                return Ok(Some(piece.slot + (address - piece.address) / PAGE));
            }
            let pages = (1 << piece.bits) / PAGE;
            if pages <= FAN_OUT {
                let slot = objects.slots(pages)?;
                objects.make(piece.slot, object::PAGE, 0, slot, pages)?;
                self.pieces[number] = Piece { slot, state: State::Frames, ..piece };
                continue;
            }
            let bits = piece.bits - 1;
            let halves = objects.slots(2)?;
            objects.make(piece.slot, object::UNTYPED, bits.into(), halves, 2)?;
            self.pieces[number].state = State::Cut;
            for half in 0..2 {
                let address = piece.address + (half << bits);
                let added = self.add(Piece { slot: halves + half, address, bits, state: State::Untyped });
                added.ok_or(Failure::NoMemory)?;
            }
        }
    }
}
