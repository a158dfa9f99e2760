//! The machine's I/O ports, by a capability for all of them.

use wedge::cpu::Size;

use super::abi::{Refused, abi};
use super::kernel::{Kernel, Slot, initial};
use super::objects::{Failure, Objects, refused};

/// The ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    kernel: Kernel,
    slot: Slot,
}

impl Ports {
    /// Those that seL4 has given the first thread, or that it gives when it is asked.
    pub(super) fn get(objects: &mut Objects) -> Result<Self, Failure> {
        let kernel = objects.kernel;
        let Some(issue) = abi().io_port_control_issue else { return Ok(Self { kernel, slot: initial::IO_PORTS }) };
        let slot = objects.initial_slots(1)?;
        let words = [0, 0xffff, slot, 64];
        kernel.invoke(initial::IO_PORTS, issue, &[initial::CNODE], &words).map_err(refused("the I/O ports"))?;
        Ok(Self { kernel, slot })
    }

    fn step(size: Size) -> u64 {
        match size {
            Size::Byte => 0,
            Size::Word => 1,
            Size::Long => 2,
        }
    }

    /// Reads a port. All ones if seL4 keeps it.
    pub(super) fn read(self, port: u16, size: Size) -> u32 {
        let answer: Result<_, Refused> =
            self.kernel.invoke(self.slot, abi().io_port_in + Self::step(size), &[], &[port.into()]);
        answer.map_or(size.ones(), |[value, ..]| value as u32 & size.ones())
    }

    /// Writes to a port, unless seL4 keeps it.
    pub(super) fn write(self, port: u16, size: Size, value: u32) {
        let words = [port.into(), value.into()];
        let _ = self.kernel.invoke(self.slot, abi().io_port_out + Self::step(size), &[], &words);
    }

    /// Reads a byte.
    pub(super) fn byte(self, port: u16) -> u8 {
        self.read(port, Size::Byte) as u8
    }

    /// Writes a byte.
    pub(super) fn set_byte(self, port: u16, value: u8) {
        self.write(port, Size::Byte, value.into());
    }
}
