//! Transfers of control.

use iced_x86::{Code, Mnemonic};

use super::{Flow, Machine, Outcome};
use crate::cpu::deliver::software_interrupt;
use crate::cpu::transfer::{self, FarTarget, Frame, Target, check_far, check_return, check_return_address};
use crate::cpu::{Exception, Host};
use crate::x86::flags;
use crate::x86::segment::Selector;

impl<H: Host> Machine<'_, H> {
    /// IRET. With operands of two bytes the upper flags stay.
    pub(super) fn iret(&mut self) -> Outcome {
        let bytes = match self.instruction.mnemonic() {
            Mnemonic::Iret => 2,
            Mnemonic::Iretd => 4,
            _ => 8,
        };
        let [rip, cs, popped, rsp, ss] = self.peek(bytes)?;
        let upper = if bytes == 2 { self.context.rflags & !0xffff } else { 0 };
        let frame = Frame { rip, cs, rflags: popped | upper, rsp, ss };
        let to = check_return(self.cpu, self.context, &frame, self.host)?;
        if to.cpl() > self.context.cpl() {
            transfer::drop_privileged_segments(self.cpu, self.host);
        }
        let Frame { rip, cs, rflags, rsp, ss } = to.frame;
        self.context.rip = rip;
        self.context.cs = cs;
        self.context.rflags = rflags;
        self.context.rsp = rsp;
        self.context.ss = ss;
        Ok(Flow::Jumped)
    }

    /// Far RET, with the number of bytes that the caller had pushed as parameters.
    pub(super) fn far_return(&mut self) -> Outcome {
        let (bytes, parameters) = match self.instruction.code() {
            Code::Retfw => (2, 0),
            Code::Retfd => (4, 0),
            Code::Retfq => (8, 0),
            Code::Retfw_imm16 => (2, self.instruction.immediate16()),
            Code::Retfd_imm16 => (4, self.instruction.immediate16()),
            _ => (8, self.instruction.immediate16()),
        };
        let [rip, cs] = self.peek(bytes)?;
        let cs = Selector::of(cs);
        let Target { rip, long } = check_return_address(self.cpu, self.context.cpl(), cs, rip, self.host)?;
        let behind = self.context.rsp.wrapping_add(2 * bytes as u64 + u64::from(parameters));
        if cs.rpl() > self.context.cpl() {
            self.return_outward(behind, u64::from(parameters), bytes, cs, long)?;
        } else {
            self.context.rsp = behind;
        }
        self.context.rip = rip;
        self.context.cs = u64::from(cs.0);
        Ok(Flow::Jumped)
    }

    /// The stack of the outer level is behind the parameters, which both stacks hold.
    fn return_outward(
        &mut self,
        at: u64,
        parameters: u64,
        bytes: usize,
        cs: Selector,
        long: bool,
    ) -> Result<(), Exception> {
        let rsp = self.read(at, bytes)?;
        let ss = Selector::of(self.read(at.wrapping_add(bytes as u64), bytes)?);
        let stack = self.cpu.check_stack_segment(ss, cs.rpl(), long, self.host)?;
        transfer::drop_privileged_segments(self.cpu, self.host);
        let rsp = rsp.wrapping_add(parameters);
        self.context.rsp = if long { rsp } else { stack.stack_pointer(self.context.rsp, rsp) };
        self.context.ss = u64::from(ss.0);
        Ok(())
    }

    /// Far JMP; a near one is not sensitive.
    pub(super) fn far_jump(&mut self) -> Outcome {
        if !self.instruction.is_jmp_far_indirect() {
            return Ok(Flow::Unhandled);
        }
        let (target, _) = self.far_target()?;
        let FarTarget::Code(cs, rip) = target else { return Ok(Flow::Unhandled) };
        self.context.rip = rip;
        self.context.cs = u64::from(cs.0);
        Ok(Flow::Jumped)
    }

    /// Far CALL; a near one is not sensitive. Call gates are not emulated: no Linux has one.
    pub(super) fn far_call(&mut self) -> Outcome {
        if !self.instruction.is_call_far_indirect() {
            return Ok(Flow::Unhandled);
        }
        let (target, bytes) = self.far_target()?;
        let FarTarget::Code(cs, rip) = target else { return Ok(Flow::Unhandled) };
        self.push(&[self.instruction.next_ip(), self.context.cs], bytes)?;
        self.context.rip = rip;
        self.context.cs = u64::from(cs.0);
        Ok(Flow::Jumped)
    }

    /// The far pointer in memory, and the size of its offset.
    fn far_target(&mut self) -> Result<(FarTarget, usize), Exception> {
        let bytes = self.offset_bytes();
        let address = self.address()?;
        let rip = self.read(address, bytes)?;
        let selector = Selector::of(self.read(address.wrapping_add(bytes as u64), 2)?);
        let target = check_far(self.cpu, self.context.cpl(), selector, rip, self.host)?;
        Ok((target, bytes))
    }

    /// SYSCALL.
    pub(super) fn syscall(&mut self) -> Outcome {
        transfer::syscall(self.cpu, self.context, self.instruction.next_ip(), true)?;
        Ok(Flow::Jumped)
    }

    /// SYSENTER.
    pub(super) fn sysenter(&mut self) -> Outcome {
        transfer::sysenter(self.cpu, self.context)?;
        Ok(Flow::Jumped)
    }

    /// SYSRET.
    pub(super) fn sysret(&mut self) -> Outcome {
        transfer::sysret(self.cpu, self.context, self.instruction.mnemonic() == Mnemonic::Sysretq)?;
        Ok(Flow::Jumped)
    }

    /// SYSEXIT.
    pub(super) fn sysexit(&mut self) -> Outcome {
        transfer::sysexit(self.cpu, self.context, self.instruction.mnemonic() == Mnemonic::Sysexitq)?;
        Ok(Flow::Jumped)
    }

    /// INT n, INT3.
    pub(super) fn software_interrupt(&mut self, vector: u8) -> Outcome {
        software_interrupt(self.cpu, self.context, vector, self.instruction.next_ip(), self.host)?;
        Ok(Flow::Jumped)
    }

    /// INT1: a trap that needs no privilege.
    pub(super) fn debug_trap(&mut self) -> Outcome {
        self.context.rip = self.instruction.next_ip();
        self.context.rflags &= !flags::RESUME;
        Err(Exception::DEBUG)
    }
}
