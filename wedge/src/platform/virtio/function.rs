//! A device as a PCI function: its configuration space (PCI Local Bus Specification 3.0, chapter
//! 6), and the legacy registers behind its first base address (virtio 1.1, section 4.1.4.8).
//!
//! The firmware of a PC would have given it ports and an interrupt line, and so they are given from
//! the start. Linux keeps them, and could move the ports.

use super::block::{self, FLUSH};
use super::queue::{self, Queue};
use super::{Block, LINE};
use crate::cpu::Size;

/// How many ports a device has: a power of two.
const PORTS: u16 = 64;
/// Where those of the first are.
const FIRST_PORT: u16 = 0xc000;

/// The host bridge: Red Hat's, which no driver wants, of a class by which Linux knows that there is
/// a bus (`pci_sanity_check`).
const BRIDGE: u32 = 0x0008_1b36;
const BRIDGE_CLASS: u32 = 0x0600_0000;
/// A legacy block device, in the class of mass storage.
const DISK: u32 = 0x1001_1af4;
const DISK_CLASS: u32 = 0x0100_0000;
/// The subsystem says which virtio device it is.
const DISK_SUBSYSTEM: u32 = 0x0002_1af4;
/// The first interrupt pin.
const PIN: u32 = 1 << 8;

/// Registers of configuration space, of four bytes each.
const IDENTITY: u8 = 0;
const COMMAND_AND_STATUS: u8 = 1;
const CLASS: u8 = 2;
const BASE_ADDRESS: u8 = 4;
const SUBSYSTEM: u8 = 11;
const INTERRUPT: u8 = 15;

/// Command: ports answer; the device reaches memory; it does not interrupt.
const COMMAND_PORTS: u32 = 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTERRUPT: u32 = 1 << 10;
const COMMAND: u32 = COMMAND_PORTS | COMMAND_MASTER | COMMAND_NO_INTERRUPT;
/// Status: it asks for an interrupt.
const STATUS_INTERRUPT: u32 = 1 << 19;
/// A base address of ports.
const IS_PORTS: u32 = 1;

/// Legacy registers.
const DRIVER_FEATURES: u16 = 4;
const QUEUE_PAGE: u16 = 8;
const QUEUE_SIZE: usize = 12;
const QUEUE_SELECT: u16 = 14;
const NOTIFY: u16 = 16;
const STATUS: u16 = 18;
const ISR: u16 = 19;
const DEVICE: usize = 20;

/// The reason for an interrupt that there is here: a queue.
const ISR_QUEUE: u8 = 1;

/// What the host bridge has in a register.
pub(super) const fn bridge(register: u8) -> u32 {
    match register {
        IDENTITY => BRIDGE,
        CLASS => BRIDGE_CLASS,
        _ => 0,
    }
}

/// A disk, as the guest's driver sees it.
#[derive(Debug)]
pub(super) struct Function {
    /// Which of the disks it is: one digit.
    number: u8,
    command: u32,
    base_address: u32,
    /// What the guest finds as the number of the interrupt line. It means nothing to the device.
    line: u8,
    /// What the driver has said that it knows of.
    features: u32,
    /// The queue whose registers are shown. There is one, of number 0.
    selected: u16,
    status: u8,
    isr: u8,
    queue: Queue,
}

impl Function {
    /// The disk of this number.
    pub(super) const fn new(number: u8) -> Self {
        Self {
            number,
            command: COMMAND_PORTS,
            base_address: (FIRST_PORT + number as u16 * PORTS) as u32 | IS_PORTS,
            line: LINE,
            features: 0,
            selected: 0,
            status: 0,
            isr: 0,
            queue: Queue::new(),
        }
    }

    /// A register of configuration space.
    pub(super) fn configuration(&self, register: u8) -> u32 {
        match register {
            IDENTITY => DISK,
            COMMAND_AND_STATUS => self.command | if self.isr == 0 { 0 } else { STATUS_INTERRUPT },
            CLASS => DISK_CLASS,
            BASE_ADDRESS => self.base_address,
            SUBSYSTEM => DISK_SUBSYSTEM,
            INTERRUPT => PIN | u32::from(self.line),
            _ => 0,
        }
    }

    /// Writes those bits of a register that the mask has.
    pub(super) fn configure(&mut self, register: u8, mask: u32, value: u32) {
        let changed = |old: u32, can: u32| old & !(mask & can) | value & mask & can;
        match register {
            COMMAND_AND_STATUS => self.command = changed(self.command, COMMAND),
            BASE_ADDRESS => self.base_address = changed(self.base_address, !(u32::from(PORTS) - 1)),
            INTERRUPT => self.line = (changed(self.line.into(), 0xff) & 0xff) as u8,
            _ => {}
        }
    }

    /// The register that an access to a port reaches.
    pub(super) fn offset(&self, port: u16, size: Size) -> Option<u16> {
        let offset = u32::from(port).checked_sub(self.base_address & !IS_PORTS)?;
        let reached = self.command & COMMAND_PORTS != 0 && offset + u32::from(size.bytes()) <= u32::from(PORTS);
        u16::try_from(offset).ok().filter(|_| reached)
    }

    /// Whether the device asserts its interrupt line.
    pub(super) const fn line(&self) -> bool {
        self.isr != 0 && self.command & COMMAND_NO_INTERRUPT == 0
    }

    /// Reads registers, in whatever size. To read the ISR is to take the interrupt.
    pub(super) fn read(&mut self, offset: u16, size: Size, disk: &impl Block) -> u32 {
        let registers = self.registers(disk);
        let range = offset..offset + size.bytes();
        if range.contains(&ISR) {
            self.isr = 0;
        }
        range.rev().fold(0, |value, at| value << 8 | u32::from(registers[usize::from(at)]))
    }

    fn registers(&self, disk: &impl Block) -> [u8; PORTS as usize] {
        let mut registers = [0; PORTS as usize];
        let mut put = |at: usize, bytes: &[u8]| registers[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &block::features(disk).to_le_bytes());
        put(DRIVER_FEATURES.into(), &self.features.to_le_bytes());
        if self.selected == 0 {
            put(QUEUE_PAGE.into(), &self.queue.page().to_le_bytes());
            put(QUEUE_SIZE, &queue::SIZE.to_le_bytes());
        }
        put(QUEUE_SELECT.into(), &self.selected.to_le_bytes());
        put(STATUS.into(), &[self.status, self.isr]);
        put(DEVICE, &block::registers(disk));
        registers
    }

    /// Writes a register of the transport, in its own size; any other write is for nothing.
    pub(super) fn write(&mut self, offset: u16, size: Size, value: u32, disk: &mut impl Block) {
        let low = (value & 0xffff) as u16;
        match (offset, size) {
            (DRIVER_FEATURES, Size::Long) => self.features = value & block::features(disk),
            (QUEUE_PAGE, Size::Long) if self.selected == 0 => self.queue.place(value),
            (QUEUE_SELECT, Size::Word) => self.selected = low,
            (NOTIFY, Size::Word) if low == 0 => self.notified(disk),
            (STATUS, Size::Byte) if value == 0 => self.reset(),
            (STATUS, Size::Byte) => self.status = (value & 0xff) as u8,
            _ => {}
        }
    }

    /// As after power-on, but for what belongs to PCI.
    fn reset(&mut self) {
        let Self { number, command, base_address, line, .. } = *self;
        *self = Self { command, base_address, line, ..Self::new(number) };
    }

    /// Executes what is in the queue.
    fn notified(&mut self, disk: &mut impl Block) {
        if self.command & COMMAND_MASTER == 0 {
            return;
        }
        let (number, flushes) = (self.number, self.features & FLUSH != 0);
        match self.queue.serve(disk, |chain, disk| block::execute(chain, disk, number, flushes)) {
            Ok(true) => self.isr = ISR_QUEUE,
            Ok(false) => {}
            Err(fault) => disk.broken(fault),
        }
    }
}
