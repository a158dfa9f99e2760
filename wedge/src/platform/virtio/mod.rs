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
//! What a disk does is in [`block`], and how it is found and told where its queue is in
//! [`function`]. The devices share one interrupt line, which is level-triggered, as the firmware of
//! a PC would have set it.
//!
//! The host gives a device what it needs by a trait: a disk is a [`Block`].

mod block;
mod function;
mod queue;

pub use block::SECTOR;
pub use queue::{Fault, Piece};

use function::Function;

use super::Board;
use crate::cpu::Size;

/// How many disks there may be: each has a digit in its name.
pub const MOST_DISKS: usize = MOST as usize;
const MOST: u8 = 8;

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

/// The disk of a host that has none.
#[derive(Clone, Copy, Debug)]
pub enum NoDisk {}

impl GuestMemory for NoDisk {
    fn load(&self, _: u64, _: &mut [u8]) -> bool {
        match *self {}
    }

    fn store(&mut self, _: u64, _: &[u8]) -> bool {
        match *self {}
    }
}

impl Block for NoDisk {
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

/// The bus: a host bridge in the first slot, and a disk in each of those behind it for which the
/// host has one.
#[derive(Debug)]
pub(super) struct Bus {
    disks: [Function; MOST_DISKS],
}

impl Bus {
    pub(super) const fn new() -> Self {
        let mut disks = [const { Function::new(0) }; MOST_DISKS];
        let mut number = 0;
        while number < MOST {
            disks[number as usize] = Function::new(number);
            number += 1;
        }
        Self { disks }
    }

    /// A register of configuration space, of four bytes.
    pub(super) fn configuration(&self, slot: u8, register: u8, board: &mut impl Board) -> u32 {
        match usize::from(slot).checked_sub(1) {
            None => function::bridge(register),
            Some(number) => match (self.disks.get(number), board.disk(number)) {
                (Some(function), Some(_)) => function.configuration(register),
                _ => Size::Long.ones(),
            },
        }
    }

    /// Writes those bytes of a register that the mask has.
    pub(super) fn configure(&mut self, slot: u8, register: u8, mask: u32, value: u32) {
        let number = usize::from(slot).checked_sub(1);
        if let Some(function) = number.and_then(|number| self.disks.get_mut(number)) {
            function.configure(register, mask, value);
        }
    }

    /// Reads a port, if it is a device's.
    pub(super) fn read(&mut self, port: u16, size: Size, board: &mut impl Board) -> Option<u32> {
        let (number, offset) = self.find(port, size)?;
        Some(self.disks[number].read(offset, size, board.disk(number)?))
    }

    /// Writes to a port. Whether it is a device's.
    pub(super) fn write(&mut self, port: u16, size: Size, value: u32, board: &mut impl Board) -> bool {
        let Some((number, offset)) = self.find(port, size) else { return false };
        let Some(disk) = board.disk(number) else { return false };
        self.disks[number].write(offset, size, value, disk);
        true
    }

    /// Whose port it is, and which of its registers.
    fn find(&self, port: u16, size: Size) -> Option<(usize, u16)> {
        let mut disks = self.disks.iter().enumerate();
        disks.find_map(|(number, function)| Some((number, function.offset(port, size)?)))
    }

    /// Whether a device asserts the line.
    pub(super) fn line(&self) -> bool {
        self.disks.iter().any(Function::line)
    }
}
