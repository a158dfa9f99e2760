//! Operands: general-purpose registers, memory, the stack.

use iced_x86::{Instruction, OpKind, Register};

use super::Machine;
use crate::cpu::memory::{is_range, read_number, write_number};
use crate::cpu::{Context, Exception, Host, is_canonical};

impl<H: Host> Machine<'_, H> {
    /// A general-purpose register, zero-extended. The parts AH, CH, DH and BH are no operand of any
    /// sensitive instruction.
    pub(super) fn get(&mut self, register: Register) -> u64 {
        *slot(self.context, register) & mask(register.size())
    }

    /// Sets a register: 32-bit operands clear the upper half, shorter ones leave the rest.
    pub(super) fn set(&mut self, register: Register, value: u64) {
        let written = mask(register.size());
        let slot = slot(self.context, register);
        let kept = if register.size() < 4 { *slot & !written } else { 0 };
        *slot = kept | value & written;
    }

    /// The linear address of the memory operand.
    pub(super) fn linear_address(&mut self) -> u64 {
        let instruction = self.instruction;
        let mut offset = instruction.memory_displacement64();
        if !instruction.is_ip_rel_memory_operand() {
            if instruction.memory_base() != Register::None {
                offset = offset.wrapping_add(self.get(instruction.memory_base()));
            }
            if instruction.memory_index() != Register::None {
                let scale = u64::from(instruction.memory_index_scale());
                offset = offset.wrapping_add(self.get(instruction.memory_index()).wrapping_mul(scale));
            }
        }
        let offset = if is_short_address(instruction) { offset & mask(4) } else { offset };
        self.segment_base(instruction.memory_segment()).wrapping_add(offset)
    }

    /// The linear address of the memory operand, if it is canonical. It is #SS otherwise where the
    /// stack is meant (SDM Vol. 2A, 2.2.1.3; Vol. 1, 3.3.7.1).
    pub(super) fn address(&mut self) -> Result<u64, Exception> {
        let address = self.linear_address();
        match is_canonical(address) {
            true => Ok(address),
            false if self.instruction.memory_segment() == Register::SS => Err(Exception::STACK),
            false => Err(Exception::PROTECTION),
        }
    }

    /// In 64-bit mode only FS and GS have a base.
    pub(super) fn segment_base(&mut self, segment: Register) -> u64 {
        match segment {
            Register::FS => self.host.fs_base(),
            Register::GS => self.host.gs_base(),
            _ => 0,
        }
    }

    /// An operand of two bytes, the only one or the last: the lower part of a register, or memory.
    pub(super) fn load_selector(&mut self) -> Result<u16, Exception> {
        let operand = self.instruction.op_count() - 1;
        let value = if self.instruction.op_kind(operand) == OpKind::Register {
            self.get(self.instruction.op_register(operand))
        } else {
            let address = self.address()?;
            self.read(address, 2)?
        };
        Ok(value as u16)
    }

    /// Stores to the first operand: a register of any size, or two bytes of memory.
    pub(super) fn store(&mut self, value: u64) -> Result<(), Exception> {
        if self.instruction.op0_kind() == OpKind::Register {
            self.set(self.instruction.op0_register(), value);
            return Ok(());
        }
        let address = self.address()?;
        write_number(self.host, address, 2, value, self.context.is_user())
    }

    /// Reads bytes as a number, with the rights of the context.
    pub(super) fn read(&mut self, address: u64, bytes: usize) -> Result<u64, Exception> {
        read_number(self.host, address, bytes, self.context.is_user())
    }

    /// Reads slots of the stack, without popping them.
    pub(super) fn peek<const N: usize>(&mut self, bytes: usize) -> Result<[u64; N], Exception> {
        let mut buffer = [0; 40];
        let whole = &mut buffer[..N * bytes];
        let stack = self.context.rsp;
        if !is_range(stack, whole.len()) {
            return Err(Exception::STACK);
        }
        self.host.read(stack, whole, self.context.is_user())?;
        let mut slots = [0; N];
        for (slot, from) in slots.iter_mut().zip(whole.chunks_exact(bytes)) {
            let mut number = [0; 8];
            number[..bytes].copy_from_slice(from);
            *slot = u64::from_le_bytes(number);
        }
        Ok(slots)
    }

    /// Pushes slots, the first at the lowest address.
    pub(super) fn push(&mut self, slots: &[u64], bytes: usize) -> Result<(), Exception> {
        let mut buffer = [0; 16];
        let whole = &mut buffer[..slots.len() * bytes];
        for (to, slot) in whole.chunks_exact_mut(bytes).zip(slots) {
            to.copy_from_slice(&slot.to_le_bytes()[..bytes]);
        }
        let stack = self.context.rsp.wrapping_sub(whole.len() as u64);
        if !is_range(stack, whole.len()) {
            return Err(Exception::STACK);
        }
        self.host.write(stack, whole, self.context.is_user())?;
        self.context.rsp = stack;
        Ok(())
    }

    /// How many bytes the instruction pushes or pops.
    pub(super) fn stack_bytes(&self) -> usize {
        self.instruction.stack_pointer_increment().unsigned_abs() as usize
    }
}

/// Whether the memory operand has a 32-bit address (prefix 67).
fn is_short_address(instruction: &Instruction) -> bool {
    let bytes = instruction.memory_base().size() | instruction.memory_index().size();
    bytes == 4 || bytes == 0 && instruction.memory_displ_size() == 4
}

/// The lower bytes.
pub(super) const fn mask(bytes: usize) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 }
}

fn slot(context: &mut Context, register: Register) -> &mut u64 {
    let registers = &mut context.registers;
    match register.full_register() {
        Register::RAX => &mut registers.rax,
        Register::RCX => &mut registers.rcx,
        Register::RDX => &mut registers.rdx,
        Register::RBX => &mut registers.rbx,
        Register::RBP => &mut registers.rbp,
        Register::RSI => &mut registers.rsi,
        Register::RDI => &mut registers.rdi,
        Register::R8 => &mut registers.r8,
        Register::R9 => &mut registers.r9,
        Register::R10 => &mut registers.r10,
        Register::R11 => &mut registers.r11,
        Register::R12 => &mut registers.r12,
        Register::R13 => &mut registers.r13,
        Register::R14 => &mut registers.r14,
        Register::R15 => &mut registers.r15,
        _ => &mut context.rsp,
    }
}
