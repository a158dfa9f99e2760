//! PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2): an address
//! register at 0xcf8, and a window at 0xcfc to 0xcff.
//!
//! The address register is virtual and the real one is written just before the window is used, so
//! that whoever else uses the real one in between does no harm. A bus of the wedge's own has no
//! real one.

use super::virtio::Bus;
use super::{Board, Pci};
use crate::cpu::Size;

const ADDRESS: u16 = 0xcf8;
const WINDOW: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// The ports of the mechanism.
#[derive(Debug)]
pub(super) struct Configuration {
    pci: Pci,
    address: u32,
}

impl Configuration {
    pub(super) const fn new(pci: Pci) -> Self {
        Self { pci, address: 0 }
    }

    /// Whether an access belongs here. Of the bytes of the address register, none does.
    pub(super) const fn covers(port: u16) -> bool {
        matches!(port, ADDRESS..=0xcff)
    }

    /// Whether the bus is the wedge's own.
    pub(super) fn has_bus(&self) -> bool {
        self.pci == Pci::Virtual
    }

    pub(super) fn read(&self, port: u16, size: Size, bus: &Bus, board: &mut impl Board) -> u32 {
        if self.pci != Pci::Absent && port == ADDRESS && size == Size::Long {
            return self.address;
        }
        match self.pci {
            Pci::PassedThrough if self.selects(port, size) => {
                board.pass_write(ADDRESS, Size::Long, self.address);
                board.pass_read(port, size)
            }
            Pci::Virtual if self.selects(port, size) => {
                let Some((slot, register)) = self.selected() else { return size.ones() };
                bus.configuration(slot, register, board) >> (8 * (port - WINDOW))
            }
            _ => size.ones(),
        }
    }

    pub(super) fn write(&mut self, port: u16, size: Size, value: u32, bus: &mut Bus, board: &mut impl Board) {
        if port == ADDRESS && size == Size::Long {
            self.address = value;
            return;
        }
        match self.pci {
            Pci::PassedThrough if self.selects(port, size) => {
                board.pass_write(ADDRESS, Size::Long, self.address);
                board.pass_write(port, size, value);
            }
            Pci::Virtual if self.selects(port, size) => {
                let shift = 8 * (port - WINDOW);
                if let Some((slot, register)) = self.selected() {
                    bus.configure(slot, register, size.ones() << shift, value << shift);
                }
            }
            _ => {}
        }
    }

    /// Whether an access reaches a configuration register: it lies in the window, and the address
    /// is enabled.
    fn selects(&self, port: u16, size: Size) -> bool {
        self.address & ENABLE != 0 && port >= WINDOW && port - WINDOW + size.bytes() <= 4
    }

    /// The slot on the first bus, and the register in it, that the address is of. A device has one
    /// function.
    fn selected(&self) -> Option<(u8, u8)> {
        let [register, slot, bus, _] = self.address.to_le_bytes();
        (bus == 0 && slot.is_multiple_of(8)).then_some((slot / 8, register / 4))
    }
}
