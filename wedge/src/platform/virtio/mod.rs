//! Virtio devices on a PCI bus of the wedge's own, for hosts that have no devices for the guest.
//!
//! Of the ways in which a virtio device can be reached, this is the oldest: *legacy*, by ports
//! (virtio 1.1, section 4.1; "Legacy Interfaces"). Every access to a port is a site of the kernel,
//! which calls the wedge and costs no trap; memory-mapped registers would cost one each. And all
//! that the devices keep is a few registers, for the data moves between the guest's memory and the
//! host without being copied here.
//!
//! A driver puts requests into a [`queue`] in its memory, as many as it has, and notifies the
//! device by one write. That executes them all, and the interrupt comes once, when they are done.
//! What a disk does is in [`block`], what a network card does in [`net`], and how they are found
//! and told where their queues are in [`function`]. The devices share one interrupt line, which is
//! level-triggered, as the firmware of a PC would have set it.
//!
//! The host gives a device what it needs by a trait: a disk is a [`Block`], the other end of a
//! card's cable a [`Network`].

mod block;
mod function;
mod net;
mod queue;

pub use block::SECTOR;
pub use net::{Dropped, LONGEST_FRAME, SHORTEST_FRAME};
pub use queue::{Fault, Piece};

use block::Disk;
use function::Function;
use net::Card;

use super::Board;
use crate::cpu::Size;

/// How many disks there may be: each has a digit in its name.
pub const MOST_DISKS: usize = MOST as usize;
const MOST: u8 = 8;

/// The slot of the network card, behind those of the disks.
const CARD_SLOT: usize = MOST_DISKS + 1;

/// Their interrupt line, and that of any other device here.
pub(super) const LINE: u8 = 10;

/// The guest's memory, as a device reaches it.
pub trait GuestMemory {
    /// Copies from a guest-physical address. Whether all of it is memory; otherwise nothing is
    /// copied.
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool;

    /// Copies to a guest-physical address, likewise.
    fn store(&mut self, address: u64, bytes: &[u8]) -> bool;
}

/// The host could not read, write or flush, or the guest has no such memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoError;

/// A disk that the host gives the guest.
pub trait Block: GuestMemory {
    /// How many sectors it has, of [`SECTOR`] bytes each.
    fn sectors(&self) -> u64;

    /// Whether it must not be written to.
    fn is_read_only(&self) -> bool;

    /// Reads from a byte of the disk on into the guest's memory. All of it is on the disk.
    ///
    /// # Errors
    ///
    /// When not all could be read, or there is no such memory.
    fn read(&mut self, at: u64, into: Piece) -> Result<(), IoError>;

    /// Writes to the disk from a byte on, what is in the guest's memory. All of it is on the disk,
    /// which may be written to.
    ///
    /// # Errors
    ///
    /// When not all could be written, or there is no such memory.
    fn write(&mut self, at: u64, from: Piece) -> Result<(), IoError>;

    /// Returns when all that was written would survive a loss of power.
    ///
    /// # Errors
    ///
    /// When that is not sure.
    fn flush(&mut self) -> Result<(), IoError>;

    /// The guest's driver has broken the rules: nothing more happens until it resets the device.
    fn broken(&mut self, fault: Fault);
}

/// What the host has at the other end of a network card's cable.
pub trait Network: GuestMemory {
    /// The card's address.
    fn address(&self) -> [u8; 6];

    /// Whether there is somebody at the other end.
    fn is_up(&self) -> bool;

    /// Whether that has changed since this was last asked.
    fn link_has_changed(&mut self) -> bool;

    /// Whether a frame can be sent now. Otherwise it stays with the guest.
    fn can_send(&mut self) -> bool;

    /// Sends a frame, after [`Self::can_send`] has said so.
    fn send(&mut self, frame: &[u8]);

    /// Whether a frame has come.
    fn has_frame(&mut self) -> bool;

    /// Takes the oldest that has come, after [`Self::has_frame`] has said so. Its length.
    fn receive(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize;

    /// A frame was dropped.
    fn dropped(&mut self, why: Dropped);

    /// The guest's driver has broken the rules, as for [`Block::broken`]. The other queue goes on.
    fn broken(&mut self, fault: Fault);
}

/// A device that a host does not have.
#[derive(Clone, Copy, Debug)]
pub enum NoDevice {}

impl GuestMemory for NoDevice {
    fn load(&self, _: u64, _: &mut [u8]) -> bool {
        match *self {}
    }

    fn store(&mut self, _: u64, _: &[u8]) -> bool {
        match *self {}
    }
}

impl Block for NoDevice {
    fn sectors(&self) -> u64 {
        match *self {}
    }

    fn is_read_only(&self) -> bool {
        match *self {}
    }

    fn read(&mut self, _: u64, _: Piece) -> Result<(), IoError> {
        match *self {}
    }

    fn write(&mut self, _: u64, _: Piece) -> Result<(), IoError> {
        match *self {}
    }

    fn flush(&mut self) -> Result<(), IoError> {
        match *self {}
    }

    fn broken(&mut self, _: Fault) {
        match *self {}
    }
}

impl Network for NoDevice {
    fn address(&self) -> [u8; 6] {
        match *self {}
    }

    fn is_up(&self) -> bool {
        match *self {}
    }

    fn link_has_changed(&mut self) -> bool {
        match *self {}
    }

    fn can_send(&mut self) -> bool {
        match *self {}
    }

    fn send(&mut self, _: &[u8]) {
        match *self {}
    }

    fn has_frame(&mut self) -> bool {
        match *self {}
    }

    fn receive(&mut self, _: &mut [u8; LONGEST_FRAME]) -> usize {
        match *self {}
    }

    fn dropped(&mut self, _: Dropped) {
        match *self {}
    }

    fn broken(&mut self, _: Fault) {
        match *self {}
    }
}

/// The bus: a host bridge in the first slot, a disk in each of those behind it for which the host
/// has one, and a network card in the next.
#[derive(Debug)]
pub(super) struct Bus {
    disks: [Function<1>; MOST_DISKS],
    card: Function<2>,
}

impl Bus {
    pub(super) const fn new() -> Self {
        let mut disks = [const { Function::new(&block::KIND, 0) }; MOST_DISKS];
        let mut number = 0;
        while number < MOST {
            disks[number as usize] = Function::new(&block::KIND, number);
            number += 1;
        }
        Self { disks, card: Function::new(&net::KIND, MOST) }
    }

    /// A register of configuration space, of four bytes.
    pub(super) fn configuration(&self, slot: u8, register: u8, board: &mut impl Board) -> u32 {
        let none = Size::Long.ones();
        match usize::from(slot) {
            0 => function::bridge(register),
            CARD_SLOT => board.network().map_or(none, |_| self.card.configuration(register)),
            slot => match (self.disks.get(slot - 1), board.disk(slot - 1)) {
                (Some(function), Some(_)) => function.configuration(register),
                _ => none,
            },
        }
    }

    /// Writes those bytes of a register that the mask has.
    pub(super) fn configure(&mut self, slot: u8, register: u8, mask: u32, value: u32) {
        match usize::from(slot) {
            CARD_SLOT => self.card.configure(register, mask, value),
            slot => {
                let function = slot.checked_sub(1).and_then(|number| self.disks.get_mut(number));
                if let Some(function) = function {
                    function.configure(register, mask, value);
                }
            }
        }
    }

    /// Reads a port, if it is a device's.
    pub(super) fn read(&mut self, port: u16, size: Size, board: &mut impl Board) -> Option<u32> {
        if let Some((number, offset)) = self.find_disk(port, size, board) {
            let disk = Disk { disk: board.disk(number.into())?, number };
            return Some(self.disks[usize::from(number)].read(offset, size, &disk));
        }
        let offset = self.card.offset(port, size)?;
        Some(self.card.read(offset, size, &Card(board.network()?)))
    }

    /// Writes to a port. Whether it is a device's.
    pub(super) fn write(&mut self, port: u16, size: Size, value: u32, board: &mut impl Board) -> bool {
        if let Some((number, offset)) = self.find_disk(port, size, board) {
            let Some(disk) = board.disk(number.into()) else { return false };
            self.disks[usize::from(number)].write(offset, size, value, &mut Disk { disk, number });
            return true;
        }
        let Some(offset) = self.card.offset(port, size) else { return false };
        let Some(network) = board.network() else { return false };
        self.card.write(offset, size, value, &mut Card(network));
        true
    }

    /// Whose port it is, of the disks that there are, and which of its registers.
    fn find_disk(&self, port: u16, size: Size, board: &mut impl Board) -> Option<(u8, u16)> {
        let mut disks = (0..MOST).zip(&self.disks);
        disks.find_map(|(number, function)| {
            let offset = function.offset(port, size)?;
            board.disk(number.into()).map(|_| (number, offset))
        })
    }

    /// Frames may have come, or can be sent again.
    pub(super) fn serve_network(&mut self, board: &mut impl Board) {
        if let Some(network) = board.network() {
            self.card.serve(&mut Card(network));
        }
    }

    /// Whether the guest has room for a frame.
    pub(super) fn has_room_for_frame(&self, board: &mut impl Board) -> bool {
        board.network().zip(self.card.queues()).is_some_and(|(network, queues)| net::has_room(queues, network))
    }

    /// Whether a device asserts the line.
    pub(super) fn line(&self) -> bool {
        self.disks.iter().any(Function::line) || self.card.line()
    }
}
