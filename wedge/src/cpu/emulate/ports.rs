//! Port I/O, and who may do it (SDM Vol. 1, 19.5).
//!
//! IOPL is the guest's own, and so is the bitmap in its TSS: a guest kernel may let a program have
//! a port.

use iced_x86::{OpKind, Register};

use super::operands::mask;
use super::{Flow, Machine, Outcome};
use crate::cpu::memory::{SYSTEM, read_u16, write_number};
use crate::cpu::{Exception, Host, Size};
use crate::x86::flags::{DIRECTION, iopl};

/// Where a 64-bit TSS tells the offset of its bitmap (SDM Vol. 3A, figure 8-11).
const BITMAP_OFFSET: u32 = 102;

impl<H: Host> Machine<'_, H> {
    /// IN.
    pub(super) fn input(&mut self) -> Outcome {
        let accumulator = self.instruction.op0_register();
        let (port, size) = (self.port(1), size_of(accumulator));
        self.check_port(port, size)?;
        let value = self.host.port_in(port, size);
        self.set(accumulator, u64::from(value));
        Ok(Flow::Next)
    }

    /// OUT.
    pub(super) fn output(&mut self) -> Outcome {
        let accumulator = self.instruction.op1_register();
        let (port, size) = (self.port(0), size_of(accumulator));
        self.check_port(port, size)?;
        let value = self.get(accumulator) as u32;
        self.host.port_out(port, size, value);
        Ok(Flow::Next)
    }

    fn port(&self, operand: u32) -> u16 {
        match self.instruction.op_kind(operand) {
            OpKind::Register => self.context.registers.rdx as u16,
            _ => u16::from(self.instruction.immediate8()),
        }
    }

    /// INS. What was read from a port cannot be put back, so the memory is tried before.
    pub(super) fn input_string(&mut self) -> Outcome {
        let string = String::of(self.instruction.memory_size().size(), self.instruction.op0_kind(), Register::RDI);
        self.each(string, |machine, port, address| {
            let bytes = usize::from(string.size.bytes());
            let user = machine.context.is_user();
            let before = machine.read(address, bytes)?;
            write_number(machine.host, address, bytes, before, user)?;
            let value = machine.host.port_in(port, string.size);
            write_number(machine.host, address, bytes, u64::from(value), user)
        })
    }

    /// OUTS.
    pub(super) fn output_string(&mut self) -> Outcome {
        let string = String::of(self.instruction.memory_size().size(), self.instruction.op1_kind(), Register::RSI);
        self.each(string, |machine, port, address| {
            let value = machine.read(address, string.size.bytes().into())?;
            machine.host.port_out(port, string.size, value as u32);
            Ok(())
        })
    }

    /// One element, or with REP as many as RCX says. The registers tell how far it came, if one
    /// faults.
    fn each(
        &mut self,
        string: String,
        mut transfer: impl FnMut(&mut Self, u16, u64) -> Result<(), Exception>,
    ) -> Outcome {
        let repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        let port = self.context.registers.rdx as u16;
        self.check_port(port, string.size)?;
        let base = match string.index.full_register() {
            Register::RSI => self.segment_base(self.instruction.memory_segment()),
            _ => 0,
        };
        let step = u64::from(string.size.bytes());
        let step = if self.context.rflags & DIRECTION == 0 { step } else { step.wrapping_neg() };
        while !repeated || self.get(string.count) != 0 {
            let offset = self.get(string.index);
            let address = base.wrapping_add(offset);
            transfer(self, port, address)?;
            self.set(string.index, offset.wrapping_add(step));
            if !repeated {
                break;
            }
            let left = self.get(string.count).wrapping_sub(1);
            self.set(string.count, left);
        }
        Ok(Flow::Next)
    }

    /// #GP(0) for a port that the context may not access.
    #[inline]
    fn check_port(&mut self, port: u16, size: Size) -> Result<(), Exception> {
        if self.context.cpl() <= iopl(self.context.rflags) { Ok(()) } else { self.check_bitmap(port, size) }
    }

    /// Above IOPL each of the port's bits in the bitmap has to be clear. Two bytes of it are read,
    /// always, so the last one must have another behind.
    #[cold]
    fn check_bitmap(&mut self, port: u16, size: Size) -> Result<(), Exception> {
        let tss = self.cpu.tr;
        if tss.selector.is_null() || tss.limit < BITMAP_OFFSET + 1 {
            return Err(Exception::PROTECTION);
        }
        let bitmap = read_u16(self.host, tss.base.wrapping_add(u64::from(BITMAP_OFFSET)), SYSTEM)?;
        let offset = u32::from(bitmap) + u32::from(port / 8);
        if offset + 1 > tss.limit {
            return Err(Exception::PROTECTION);
        }
        let denied = read_u16(self.host, tss.base.wrapping_add(u64::from(offset)), SYSTEM)? >> (port % 8);
        if u64::from(denied) & mask(size.bytes().into()) & BITS[size as usize] == 0 {
            Ok(())
        } else {
            Err(Exception::PROTECTION)
        }
    }
}

/// One bit of the bitmap for each byte, by [`Size`].
const BITS: [u64; 3] = [1, 3, 15];

fn size_of(accumulator: Register) -> Size {
    size(accumulator.size())
}

const fn size(bytes: usize) -> Size {
    match bytes {
        1 => Size::Byte,
        2 => Size::Word,
        _ => Size::Long,
    }
}

/// What a string instruction counts with.
#[derive(Clone, Copy)]
struct String {
    size: Size,
    index: Register,
    count: Register,
}

impl String {
    /// By the kind of its memory operand: with prefix 67 the registers are the 32-bit ones.
    fn of(bytes: usize, operand: OpKind, index: Register) -> Self {
        let short = matches!(operand, OpKind::MemoryESEDI | OpKind::MemorySegESI);
        let (index, count) = match (short, index) {
            (false, index) => (index, Register::RCX),
            (true, Register::RDI) => (Register::EDI, Register::ECX),
            (true, _) => (Register::ESI, Register::ECX),
        };
        Self { size: size(bytes), index, count }
    }
}
