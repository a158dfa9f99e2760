//! Segment registers, and what may be asked about selectors.

use iced_x86::{Mnemonic, OpKind, Register};

use super::operands::mask;
use super::{Flow, Machine, Outcome};
use crate::cpu::memory::{SYSTEM, read_u64};
use crate::cpu::segment::may_use;
use crate::cpu::{Exception, Host, Segment, is_canonical};
use crate::x86::control::cr4;
use crate::x86::flags::ZERO;
use crate::x86::segment::{Descriptor, Selector, system};

impl<H: Host> Machine<'_, H> {
    /// MOV from a segment register: to memory two bytes, whatever the operand size.
    pub(super) fn move_from_segment(&mut self, source: Register) -> Outcome {
        let selector = self.selector(source);
        self.store(u64::from(selector))?;
        Ok(Flow::Next)
    }

    /// MOV to a segment register. CS cannot be loaded so.
    pub(super) fn move_to_segment(&mut self, destination: Register) -> Outcome {
        if destination == Register::CS {
            return Err(Exception::INVALID_OPCODE);
        }
        let selector = self.load_selector()?;
        self.load(destination, Selector(selector))?;
        Ok(Flow::Next)
    }

    /// PUSH of FS or GS, or of a general-purpose register: the flags that a POPF behind it takes.
    pub(super) fn push_register(&mut self) -> Outcome {
        let source = self.instruction.op0_register();
        if self.instruction.op0_kind() != OpKind::Register {
            return Ok(Flow::Unhandled);
        }
        let value = if source.is_segment_register() { self.selector(source).into() } else { self.get(source) };
        self.push(&[value], self.stack_bytes())?;
        Ok(Flow::Next)
    }

    /// POP to FS or GS, or to a general-purpose register: the flags that a PUSHF in front of it has
    /// left. The stack pointer moves first, so that it may be what is popped to (SDM Vol. 2B, POP).
    pub(super) fn pop_register(&mut self) -> Outcome {
        let destination = self.instruction.op0_register();
        if self.instruction.op0_kind() != OpKind::Register {
            return Ok(Flow::Unhandled);
        }
        let bytes = self.stack_bytes();
        let [slot] = self.peek(bytes)?;
        if destination.is_segment_register() {
            self.load(destination, Selector::of(slot))?;
        }
        self.context.rsp = self.context.rsp.wrapping_add(bytes as u64);
        if !destination.is_segment_register() {
            self.set(destination, slot);
        }
        Ok(Flow::Next)
    }

    /// LSS, LFS, LGS.
    pub(super) fn load_far_pointer(&mut self) -> Outcome {
        let segment = match self.instruction.mnemonic() {
            Mnemonic::Lss => Register::SS,
            Mnemonic::Lfs => Register::FS,
            _ => Register::GS,
        };
        let bytes = self.offset_bytes();
        let address = self.address()?;
        let offset = self.read(address, bytes)?;
        let selector = self.read(address.wrapping_add(bytes as u64), 2)?;
        self.load(segment, Selector::of(selector))?;
        self.set(self.instruction.op0_register(), offset);
        Ok(Flow::Next)
    }

    /// The size of the offset in a far pointer in memory; the selector is behind it.
    pub(super) fn offset_bytes(&self) -> usize {
        self.instruction.memory_size().size() - 2
    }

    fn selector(&mut self, register: Register) -> u16 {
        match register {
            Register::CS => self.context.cs as u16,
            Register::SS => self.context.ss as u16,
            other => self.host.read_segment(kept_by_host(other)),
        }
    }

    fn load(&mut self, register: Register, selector: Selector) -> Result<(), Exception> {
        let cpl = self.context.cpl();
        if register == Register::SS {
            if selector.is_null() && selector.rpl() != cpl {
                return Err(Exception::PROTECTION);
            }
            self.cpu.check_stack_segment(selector, cpl, true, self.host)?;
            self.context.ss = u64::from(selector.0);
            return Ok(());
        }
        let segment = kept_by_host(register);
        let descriptor = self.cpu.data_segment(selector, cpl, self.host)?;
        self.cpu.selectors[segment as usize] = selector;
        self.host.load_segment(segment, selector.0, descriptor.map(|descriptor| descriptor.0));
        // A null selector clears the base, as CPUID says, whatever the real processor does.
        match segment {
            Segment::Fs if descriptor.is_none() => self.host.set_fs_base(0),
            Segment::Gs if descriptor.is_none() => self.host.set_gs_base(0),
            _ => {}
        }
        Ok(())
    }

    /// LAR: bytes 7:4 of the descriptor without base and limit.
    pub(super) fn load_access_rights(&mut self) -> Outcome {
        let types = [system::LDT, system::AVAILABLE_TSS, system::BUSY_TSS, system::CALL_GATE];
        self.inspect(&types, |descriptor| descriptor.0 >> 32 & 0xf0_ff00)
    }

    /// LSL.
    pub(super) fn load_segment_limit(&mut self) -> Outcome {
        let types = [system::LDT, system::AVAILABLE_TSS, system::BUSY_TSS];
        self.inspect(&types, |descriptor| u64::from(descriptor.limit()))
    }

    /// Something of a descriptor to the first operand and ZF, if the program may know.
    fn inspect(&mut self, system_types: &[u8], what: impl Fn(Descriptor) -> u64) -> Outcome {
        let visible = |descriptor: Descriptor| !descriptor.is_system() || system_types.contains(&descriptor.kind());
        let found = self.accessible()?.filter(|descriptor| visible(*descriptor));
        if let Some(descriptor) = found {
            let destination = self.instruction.op0_register();
            self.set(destination, what(descriptor) & mask(destination.size()));
        }
        Ok(self.set_zero_flag(found.is_some()))
    }

    /// VERR, VERW.
    pub(super) fn verify(&mut self, allowed: fn(Descriptor) -> bool) -> Outcome {
        let found = self.accessible()?;
        Ok(self.set_zero_flag(found.is_some_and(allowed)))
    }

    /// The descriptor of the selector in the last operand, if there is one and privilege lets it be
    /// seen.
    fn accessible(&mut self) -> Result<Option<Descriptor>, Exception> {
        let selector = Selector(self.load_selector()?);
        let address = self.cpu.descriptor_address(selector, 8).filter(|_| !selector.is_null());
        let Some(address) = address else { return Ok(None) };
        let descriptor = Descriptor(read_u64(self.host, address, SYSTEM)?);
        Ok(may_use(descriptor, selector, self.context.cpl()).then_some(descriptor))
    }

    fn set_zero_flag(&mut self, on: bool) -> Flow {
        self.context.rflags = self.context.rflags & !ZERO | if on { ZERO } else { 0 };
        Flow::Next
    }

    /// RDFSBASE, RDGSBASE.
    pub(super) fn read_segment_base(&mut self) -> Outcome {
        self.has_base_instructions()?;
        let base = match self.instruction.mnemonic() {
            Mnemonic::Rdfsbase => self.host.fs_base(),
            _ => self.host.gs_base(),
        };
        self.set(self.instruction.op0_register(), base);
        Ok(Flow::Next)
    }

    /// WRFSBASE, WRGSBASE.
    pub(super) fn write_segment_base(&mut self) -> Outcome {
        self.has_base_instructions()?;
        let base = self.get(self.instruction.op0_register());
        if !is_canonical(base) {
            return Err(Exception::PROTECTION);
        }
        match self.instruction.mnemonic() {
            Mnemonic::Wrfsbase => self.host.set_fs_base(base),
            _ => self.host.set_gs_base(base),
        }
        Ok(Flow::Next)
    }

    fn has_base_instructions(&self) -> Result<(), Exception> {
        if self.cpu.cr4 & cr4::FSGSBASE == 0 { Err(Exception::INVALID_OPCODE) } else { Ok(()) }
    }

    /// SWAPGS.
    pub(super) fn swap_gs(&mut self) -> Outcome {
        self.privileged()?;
        self.host.swap_gs();
        Ok(Flow::Next)
    }
}

fn kept_by_host(register: Register) -> Segment {
    match register {
        Register::ES => Segment::Es,
        Register::FS => Segment::Fs,
        Register::GS => Segment::Gs,
        _ => Segment::Ds,
    }
}
