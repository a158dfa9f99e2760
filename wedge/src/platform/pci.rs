//! PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2): an address
//! register at 0xcf8, and a window at 0xcfc to 0xcff.
//!
//! The address register is virtual and the real one is written just before the window is used, so
//! that whoever else uses the real one in between does no harm.

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

    pub(super) fn read(&self, port: u16, size: Size, board: &mut impl Board) -> u32 {
        if self.pci == Pci::PassedThrough && port == ADDRESS && size == Size::Long {
            self.address
        } else if self.selects(port, size) {
            board.pass_write(ADDRESS, Size::Long, self.address);
            board.pass_read(port, size)
        } else {
            size.ones()
        }
    }

    pub(super) fn write(&mut self, port: u16, size: Size, value: u32, board: &mut impl Board) {
        if port == ADDRESS && size == Size::Long {
            self.address = value;
        } else if self.selects(port, size) {
            board.pass_write(ADDRESS, Size::Long, self.address);
            board.pass_write(port, size, value);
        }
    }

    /// Whether an access reaches a configuration register: it lies in the window, and the address
    /// is enabled.
    fn selects(&self, port: u16, size: Size) -> bool {
        self.pci == Pci::PassedThrough
            && self.address & ENABLE != 0
            && port >= WINDOW
            && port - WINDOW + size.bytes() <= 4
    }
}
