//! The processor: an interpreter for as much of x86-64 as a small kernel and the stubs of its sites
//! consist of.
//!
//! It runs everything in ring 3, as a real processor would below the wedge: what needs a privilege
//! is #GP, and what does something else in ring 3 does that. CPUID is refused, as a processor can
//! be told to (CPUID faulting). An instruction that it does not know
//! is a panic with the instruction's text, so it cannot be silently wrong.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use wedge::x86::{flags, vector};

/// Registers of the processor. The selector says only which of the two roots is in force.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: by their number in encodings.
    pub(super) registers: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) user: bool,
}

/// The number of RSP.
pub(super) const RSP: usize = 4;

/// Memory as the processor accesses it.
pub(super) trait Bus {
    /// Reads; `Err` is a page fault at that address.
    fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Fault>;
    /// Writes.
    fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Fault>;
}

/// An exception of the processor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) vector: u64,
    pub(super) error: u64,
    /// For a page fault.
    pub(super) address: u64,
}

const PROTECTION: Fault = Fault { vector: vector::PROTECTION as u64, error: 0, address: 0 };

impl State {
    /// Executes one instruction. After a fault nothing has changed.
    pub(super) fn step(&mut self, bus: &mut impl Bus) -> Result<(), Fault> {
        let mut next = *self;
        let instruction = next.fetch(bus)?;
        next.rip = instruction.next_ip();
        next.execute(&instruction, bus)?;
        *self = next;
        Ok(())
    }

    fn fetch(&self, bus: &mut impl Bus) -> Result<Instruction, Fault> {
        let mut bytes = [0; 15];
        let mut length = 0;
        for byte in &mut bytes {
            let mut one = [0];
            match bus.read(self.rip + length, &mut one, self.user) {
                Ok(()) => *byte = one[0],
                Err(fault) if length == 0 => return Err(fault),
                Err(_) => break,
            }
            length += 1;
        }
        let mut decoder = Decoder::with_ip(64, &bytes[..length as usize], self.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        assert!(!instruction.is_invalid(), "{bytes:02x?} at {:#x}", self.rip);
        Ok(instruction)
    }

    fn register(&self, register: Register) -> u64 {
        if register == Register::RIP {
            return self.rip;
        }
        let value = self.registers[register.full_register().number()];
        match register.size() {
            1 if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) => value >> 8 & 0xff,
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    fn set_register(&mut self, register: Register, value: u64) {
        let place = &mut self.registers[register.full_register().number()];
        let mask = mask(register.size());
        // Writing 32 bits clears the upper half (SDM Vol. 1, 3.4.1.1).
        let kept = if register.size() < 4 { *place & !mask } else { 0 };
        *place = kept | value & mask;
    }

    fn address(&self, instruction: &Instruction) -> u64 {
        let in_memory = (0..instruction.op_count()).find(|number| instruction.op_kind(*number) == OpKind::Memory);
        let register = |register, _, _| Some(self.segment_or_register(register));
        let address = in_memory.and_then(|number| instruction.virtual_address(number, 0, register));
        address.unwrap_or_else(|| panic!("{instruction}: no address"))
    }

    fn segment_or_register(&self, register: Register) -> u64 {
        if register.is_segment_register() { 0 } else { self.register(register) }
    }

    fn operand(&self, instruction: &Instruction, number: u32, bus: &mut impl Bus) -> Result<u64, Fault> {
        Ok(match instruction.op_kind(number) {
            OpKind::Register => self.register(instruction.op_register(number)),
            OpKind::Memory => self.read(self.address(instruction), instruction.memory_size().size(), bus)?,
            _ => instruction.immediate(number),
        })
    }

    fn set_operand(&mut self, instruction: &Instruction, value: u64, bus: &mut impl Bus) -> Result<(), Fault> {
        if instruction.op0_kind() == OpKind::Register {
            self.set_register(instruction.op0_register(), value);
            return Ok(());
        }
        let bytes = value.to_le_bytes();
        bus.write(self.address(instruction), &bytes[..instruction.memory_size().size()], self.user)
    }

    fn read(&self, address: u64, size: usize, bus: &mut impl Bus) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        bus.read(address, &mut bytes[..size], self.user)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn push(&mut self, value: u64, bus: &mut impl Bus) -> Result<(), Fault> {
        let rsp = self.registers[RSP].wrapping_sub(8);
        bus.write(rsp, &value.to_le_bytes(), self.user)?;
        self.registers[RSP] = rsp;
        Ok(())
    }

    fn pop(&mut self, bus: &mut impl Bus) -> Result<u64, Fault> {
        let value = self.read(self.registers[RSP], 8, bus)?;
        self.registers[RSP] = self.registers[RSP].wrapping_add(8);
        Ok(value)
    }

    fn size(instruction: &Instruction) -> usize {
        match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        }
    }

    fn execute(&mut self, instruction: &Instruction, bus: &mut impl Bus) -> Result<(), Fault> {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Nop | M::Endbr64 => {}
            M::Mov | M::Movzx if !touches_system_register(instruction) => {
                let value = self.operand(instruction, 1, bus)?;
                self.set_operand(instruction, value, bus)?;
            }
            M::Lea => self.set_register(instruction.op0_register(), self.address(instruction)),
            M::Add | M::Sub | M::Cmp | M::And | M::Or | M::Xor | M::Test => self.arithmetic(instruction, bus)?,
            M::Not => {
                let value = self.operand(instruction, 0, bus)?;
                self.set_operand(instruction, !value, bus)?;
            }
            M::Shr | M::Shl => {
                let (value, count) = (self.operand(instruction, 0, bus)?, self.operand(instruction, 1, bus)? & 63);
                let value = if instruction.mnemonic() == M::Shr { value >> count } else { value << count };
                self.set_status(value, false, Self::size(instruction));
                self.set_operand(instruction, value, bus)?;
            }
            M::Bt => {
                let (value, bit) = (self.operand(instruction, 0, bus)?, self.operand(instruction, 1, bus)? & 63);
                self.rflags = self.rflags & !1 | value >> bit & 1;
            }
            M::Push => {
                let value = self.operand(instruction, 0, bus)?;
                self.push(value, bus)?;
            }
            M::Pop => {
                let value = self.pop(bus)?;
                self.set_operand(instruction, value, bus)?;
            }
            // In ring 3 the real IF is always set, and POPF changes neither it nor IOPL (SDM Vol.
            // 2B, POPF, table 4-16).
            M::Pushfq => self.push(self.rflags | flags::INTERRUPT, bus)?,
            M::Popfq => self.rflags = self.pop(bus)? & flags::OF_USER | flags::FIXED | flags::INTERRUPT,
            M::Iretq => self.interrupt_return(bus)?,
            M::Call | M::Ret | M::Jmp => self.jump(instruction, bus)?,
            _ if instruction.is_jcc_short_or_near() => {
                if self.condition(instruction) {
                    self.rip = instruction.near_branch_target();
                }
            }
            M::Int => {
                let error = u64::from(instruction.immediate8()) << 3 | 2;
                return Err(Fault { vector: vector::PROTECTION.into(), error, address: 0 });
            }
            M::Int3 => return Err(Fault { vector: vector::BREAKPOINT.into(), error: 0, address: 0 }),
            M::Ud2 => return Err(Fault { vector: vector::INVALID_OPCODE.into(), error: 0, address: 0 }),
            _ if needs_privilege(instruction) => return Err(PROTECTION),
            _ => panic!("{instruction} at {:#x} is not interpreted", instruction.ip()),
        }
        Ok(())
    }

    fn arithmetic(&mut self, instruction: &Instruction, bus: &mut impl Bus) -> Result<(), Fault> {
        use Mnemonic as M;
        let size = Self::size(instruction);
        let (a, b) = (self.operand(instruction, 0, bus)? & mask(size), self.operand(instruction, 1, bus)? & mask(size));
        let (result, carry) = match instruction.mnemonic() {
            M::Add => (a.wrapping_add(b), u128::from(a) + u128::from(b) > u128::from(mask(size))),
            M::Sub | M::Cmp => (a.wrapping_sub(b), a < b),
            M::Or => (a | b, false),
            M::Xor => (a ^ b, false),
            _ => (a & b, false),
        };
        if !matches!(instruction.mnemonic(), M::Cmp | M::Test) {
            self.set_operand(instruction, result, bus)?;
        }
        self.set_status(result, carry, size);
        Ok(())
    }

    /// CF, ZF and SF. Nothing here looks at PF, AF and OF.
    fn set_status(&mut self, result: u64, carry: bool, size: usize) {
        let zero = result & mask(size) == 0;
        let sign = result >> (8 * size - 1) & 1;
        self.rflags = self.rflags & !flags::STATUS | u64::from(carry) | u64::from(zero) << 6 | sign << 7;
    }

    fn condition(&self, instruction: &Instruction) -> bool {
        use Mnemonic as M;
        let (carry, zero) = (self.rflags & 1 != 0, self.rflags & flags::ZERO != 0);
        match instruction.mnemonic() {
            M::Je => zero,
            M::Jne => !zero,
            M::Jb => carry,
            M::Jae => !carry,
            M::Js => self.rflags >> 7 & 1 == 1,
            M::Jns => self.rflags >> 7 & 1 == 0,
            _ => panic!("{instruction} at {:#x} is not interpreted", instruction.ip()),
        }
    }

    fn jump(&mut self, instruction: &Instruction, bus: &mut impl Bus) -> Result<(), Fault> {
        let target = match instruction.code() {
            Code::Retnq => self.pop(bus)?,
            _ if instruction.op0_kind() == OpKind::NearBranch64 => instruction.near_branch_target(),
            _ => self.operand(instruction, 0, bus)?,
        };
        if instruction.mnemonic() == Mnemonic::Call {
            self.push(instruction.next_ip(), bus)?;
        }
        self.rip = target;
        Ok(())
    }

    /// IRETQ in ring 3, to ring 3 (SDM Vol. 2A, IRET).
    fn interrupt_return(&mut self, bus: &mut impl Bus) -> Result<(), Fault> {
        let frame = self.registers[RSP];
        let mut word = |number: u64| self.read(frame + 8 * number, 8, bus);
        let (rip, rflags, rsp) = (word(0)?, word(2)?, word(3)?);
        self.rip = rip;
        self.rflags = rflags & flags::OF_USER | flags::FIXED | flags::INTERRUPT;
        self.registers[RSP] = rsp;
        Ok(())
    }
}

fn mask(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size)
}

fn touches_system_register(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|number| {
        let register = instruction.op_register(number);
        instruction.op_kind(number) == OpKind::Register && (register.is_cr() || register.is_dr())
    })
}

/// Whether ring 3 may not execute it (SDM Vol. 3A, 5.9; IOPL is 0).
fn needs_privilege(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    touches_system_register(instruction)
        || matches!(
            instruction.mnemonic(),
            M::Cli | M::Sti | M::Hlt | M::In | M::Out | M::Lgdt | M::Lidt | M::Ltr | M::Cpuid
        )
}
