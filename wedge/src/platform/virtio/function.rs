//! A device as a PCI function: its configuration space (PCI Local Bus Specification 3.0, chapter
//! 6), and the legacy registers behind its first base address (virtio 1.1, section 4.1.4.8).
//!
//! The firmware of a PC would have given it ports and an interrupt line, and so they are given from
//! the start. Linux keeps them, and could move the ports.

use super::LINE;
use super::queue::{self, Queue};
use crate::cpu::Size;

/// How many ports a device has: a power of two.
const PORTS: u16 = 64;
/// Where those of the first are.
const FIRST_PORT: u16 = 0xc000;

/// The host bridge: Red Hat's, which no driver wants, of a class by which Linux knows that there is
/// a bus (`pci_sanity_check`).
const BRIDGE: u32 = 0x0008_1b36;
const BRIDGE_CLASS: u32 = 0x0600_0000;
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

/// How many of the device's own there may be, in bytes.
pub(super) const REGISTERS: usize = 16;

/// The reasons for an interrupt: a queue; the device's own registers have changed.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIGURATION: u8 = 2;

/// What a device is, in configuration space. The subsystem says which virtio device.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) identity: u32,
    pub(super) class: u32,
    pub(super) subsystem: u32,
}

/// What a device with so many queues does, behind the registers that all devices have.
pub(super) trait Device<const QUEUES: usize> {
    /// What it can do.
    fn features(&self) -> u32;

    /// Its own registers.
    fn registers(&self) -> [u8; REGISTERS];

    /// Does what there is to do, for a driver that knows of some features.
    fn serve(&mut self, queues: &mut [Queue; QUEUES], features: u32) -> Served;
}

/// What the driver is to be interrupted for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    /// Something is in the queues.
    pub(super) queue: bool,
    /// The device's own registers have changed.
    pub(super) configuration: bool,
}

/// What the host bridge has in a register.
pub(super) const fn bridge(register: u8) -> u32 {
    match register {
        IDENTITY => BRIDGE,
        CLASS => BRIDGE_CLASS,
        _ => 0,
    }
}

/// A device, as the guest's driver sees it.
#[derive(Debug)]
pub(super) struct Function<const QUEUES: usize> {
    kind: &'static Kind,
    command: u32,
    base_address: u32,
    /// What the guest finds as the number of the interrupt line. It means nothing to the device.
    line: u8,
    /// What the driver has said that it knows of.
    features: u32,
    /// The queue whose registers are shown.
    selected: u16,
    status: u8,
    isr: u8,
    queues: [Queue; QUEUES],
}

impl<const QUEUES: usize> Function<QUEUES> {
    /// A device, with the ports of this number.
    pub(super) const fn new(kind: &'static Kind, number: u8) -> Self {
        Self {
            kind,
            command: COMMAND_PORTS,
            base_address: (FIRST_PORT + number as u16 * PORTS) as u32 | IS_PORTS,
            line: LINE,
            features: 0,
            selected: 0,
            status: 0,
            isr: 0,
            queues: [const { Queue::new() }; QUEUES],
        }
    }

    /// A register of configuration space.
    pub(super) fn configuration(&self, register: u8) -> u32 {
        match register {
            IDENTITY => self.kind.identity,
            COMMAND_AND_STATUS => self.command | if self.isr == 0 { 0 } else { STATUS_INTERRUPT },
            CLASS => self.kind.class,
            BASE_ADDRESS => self.base_address,
            SUBSYSTEM => self.kind.subsystem,
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
    pub(super) fn read(&mut self, offset: u16, size: Size, device: &impl Device<QUEUES>) -> u32 {
        let registers = self.registers(device);
        let range = offset..offset + size.bytes();
        if range.contains(&ISR) {
            self.isr = 0;
        }
        range.rev().fold(0, |value, at| value << 8 | u32::from(registers[usize::from(at)]))
    }

    fn registers(&self, device: &impl Device<QUEUES>) -> [u8; PORTS as usize] {
        let mut registers = [0; PORTS as usize];
        let mut put = |at: usize, bytes: &[u8]| registers[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &device.features().to_le_bytes());
        put(DRIVER_FEATURES.into(), &self.features.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.selected)) {
            put(QUEUE_PAGE.into(), &queue.page().to_le_bytes());
            put(QUEUE_SIZE, &queue::SIZE.to_le_bytes());
        }
        put(QUEUE_SELECT.into(), &self.selected.to_le_bytes());
        put(STATUS.into(), &[self.status, self.isr]);
        put(DEVICE, &device.registers());
        registers
    }

    /// Writes a register of the transport, in its own size; any other write is for nothing.
    pub(super) fn write(&mut self, offset: u16, size: Size, value: u32, device: &mut impl Device<QUEUES>) {
        let low = (value & 0xffff) as u16;
        match (offset, size) {
            (DRIVER_FEATURES, Size::Long) => self.features = value & device.features(),
            (QUEUE_PAGE, Size::Long) => {
                if let Some(queue) = self.queues.get_mut(usize::from(self.selected)) {
                    queue.place(value);
                }
            }
            (QUEUE_SELECT, Size::Word) => self.selected = low,
            (NOTIFY, Size::Word) if usize::from(low) < QUEUES => self.serve(device),
            (STATUS, Size::Byte) if value == 0 => self.reset(),
            (STATUS, Size::Byte) => self.status = (value & 0xff) as u8,
            _ => {}
        }
    }

    /// As after power-on, but for what belongs to PCI.
    fn reset(&mut self) {
        let Self { kind, command, base_address, line, .. } = *self;
        *self = Self { command, base_address, line, ..Self::new(kind, 0) };
    }

    /// Does what there is to do: the driver has notified the device, or something has come in.
    pub(super) fn serve(&mut self, device: &mut impl Device<QUEUES>) {
        if self.command & COMMAND_MASTER == 0 {
            return;
        }
        let served = device.serve(&mut self.queues, self.features);
        self.isr |= if served.queue { ISR_QUEUE } else { 0 };
        self.isr |= if served.configuration { ISR_CONFIGURATION } else { 0 };
    }

    /// The queues, of a device that may reach memory.
    pub(super) fn queues(&self) -> Option<&[Queue; QUEUES]> {
        (self.command & COMMAND_MASTER != 0).then_some(&self.queues)
    }
}
