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
//! What a disk does is in [`block`], what a network card does in [`net`], what a directory of the
//! host's does in [`share`] and [`p9`], and how they are found and told where their queues are in
//! [`function`]. The devices share one interrupt line, which is level-triggered, as the firmware of
//! a PC would have set it.
//!
//! The host gives a device what it needs by a trait: a disk is a [`Block`], the other end of a
//! card's cable a [`Network`], who answers for a directory a [`Share`].

mod block;
mod function;
mod net;
pub mod p9;
mod queue;
mod share;

pub use block::SECTOR;
pub use net::{Dropped, LONGEST_FRAME, SHORTEST_FRAME};
pub use queue::{Fault, MOST_PIECES, Piece};

use block::Disk;
use function::Function;
use net::Card;
use share::Directory;

use super::Board;
use crate::cpu::Size;

/// How many disks there may be: each has a digit in its name.
pub const MOST_DISKS: usize = MOST as usize;
const MOST: u8 = 8;

/// How many directories there may be: each has a digit in its tag.
pub const MOST_SHARES: usize = MOST_DIRECTORIES as usize;
const MOST_DIRECTORIES: u8 = 8;

/// The slot of the network card, behind those of the disks, and that of the first directory.
const CARD_SLOT: usize = MOST_DISKS + 1;
const FIRST_SHARE_SLOT: usize = CARD_SLOT + 1;

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

/// Who answers for a directory of the host's: in place, by a [`p9::Server`], or from elsewhere.
pub trait Share: GuestMemory {
    /// Answers a message of 9P: what the guest has written, and where the answer goes. How many
    /// bytes that has; none if there can be no answer.
    fn answer(&mut self, request: &[Piece], reply: &[Piece]) -> u32;

    /// The guest's driver has broken the rules, as for [`Block::broken`].
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

impl Share for NoDevice {
    fn answer(&mut self, _: &[Piece], _: &[Piece]) -> u32 {
        match *self {}
    }

    fn broken(&mut self, _: Fault) {
        match *self {}
    }
}

/// The bus: a host bridge in the first slot, a disk in each of those behind it for which the host
/// has one, a network card in the next, and behind it the directories.
#[derive(Debug)]
pub(super) struct Bus {
    disks: [Function<1>; MOST_DISKS],
    card: Function<2>,
    shares: [Function<1>; MOST_SHARES],
}

/// Functions of a kind, with ports from those of this number on.
const fn functions<const COUNT: usize>(kind: &'static function::Kind, first: u8) -> [Function<1>; COUNT] {
    let mut functions = [const { Function::new(&block::KIND, 0) }; COUNT];
    let mut number = 0;
    while (number as usize) < COUNT {
        functions[number as usize] = Function::new(kind, first + number);
        number += 1;
    }
    functions
}

/// Whose port it is, of functions that there are, and which of its registers.
fn find(
    functions: &[Function<1>],
    port: u16,
    size: Size,
    mut is_there: impl FnMut(usize) -> bool,
) -> Option<(u8, u16)> {
    (0..).zip(functions).find_map(|(number, function)| {
        let offset = function.offset(port, size)?;
        is_there(usize::from(number)).then_some((number, offset))
    })
}

impl Bus {
    pub(super) const fn new() -> Self {
        Self {
            disks: functions(&block::KIND, 0),
            card: Function::new(&net::KIND, MOST),
            shares: functions(&share::KIND, MOST + 1),
        }
    }

    /// A register of configuration space, of four bytes.
    pub(super) fn configuration(&self, slot: u8, register: u8, board: &mut impl Board) -> u32 {
        let none = Size::Long.ones();
        let slot = usize::from(slot);
        let share = slot.checked_sub(FIRST_SHARE_SLOT);
        match (slot, share) {
            (0, _) => function::bridge(register),
            (CARD_SLOT, _) => board.network().map_or(none, |_| self.card.configuration(register)),
            (_, Some(number)) => match (self.shares.get(number), board.share(number)) {
                (Some(function), Some(_)) => function.configuration(register),
                _ => none,
            },
            _ => match (self.disks.get(slot - 1), board.disk(slot - 1)) {
                (Some(function), Some(_)) => function.configuration(register),
                _ => none,
            },
        }
    }

    /// Writes those bytes of a register that the mask has.
    pub(super) fn configure(&mut self, slot: u8, register: u8, mask: u32, value: u32) {
        let slot = usize::from(slot);
        if slot == CARD_SLOT {
            return self.card.configure(register, mask, value);
        }
        let function = match slot.checked_sub(FIRST_SHARE_SLOT) {
            Some(number) => self.shares.get_mut(number),
            None => slot.checked_sub(1).and_then(|number| self.disks.get_mut(number)),
        };
        if let Some(function) = function {
            function.configure(register, mask, value);
        }
    }

    /// Reads a port, if it is a device's.
    pub(super) fn read(&mut self, port: u16, size: Size, board: &mut impl Board) -> Option<u32> {
        if let Some((number, offset)) = find(&self.disks, port, size, |number| board.disk(number).is_some()) {
            let disk = Disk { disk: board.disk(number.into())?, number };
            return Some(self.disks[usize::from(number)].read(offset, size, &disk));
        }
        if let Some((number, offset)) = find(&self.shares, port, size, |number| board.share(number).is_some()) {
            let directory = Directory { share: board.share(number.into())?, number };
            return Some(self.shares[usize::from(number)].read(offset, size, &directory));
        }
        let offset = self.card.offset(port, size)?;
        Some(self.card.read(offset, size, &Card(board.network()?)))
    }

    /// Writes to a port. Whether it is a device's.
    pub(super) fn write(&mut self, port: u16, size: Size, value: u32, board: &mut impl Board) -> bool {
        if let Some((number, offset)) = find(&self.disks, port, size, |number| board.disk(number).is_some()) {
            let Some(disk) = board.disk(number.into()) else { return false };
            self.disks[usize::from(number)].write(offset, size, value, &mut Disk { disk, number });
            return true;
        }
        if let Some((number, offset)) = find(&self.shares, port, size, |number| board.share(number).is_some()) {
            let Some(share) = board.share(number.into()) else { return false };
            self.shares[usize::from(number)].write(offset, size, value, &mut Directory { share, number });
            return true;
        }
        let Some(offset) = self.card.offset(port, size) else { return false };
        let Some(network) = board.network() else { return false };
        self.card.write(offset, size, value, &mut Card(network));
        true
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
        self.disks.iter().chain(&self.shares).any(Function::line) || self.card.line()
    }
}
