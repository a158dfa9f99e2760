//! The interrupt flag and images of RFLAGS.

use super::{Flow, Machine, Outcome};
use crate::cpu::transfer::flags_of_popf;
use crate::cpu::{Exception, Host};
use crate::x86::flags::{FIXED, INTERRUPT, RESUME, VIRTUAL_8086, iopl};

impl<H: Host> Machine<'_, H> {
    /// CLI, STI.
    pub(super) fn set_interrupt_flag(&mut self, on: bool) -> Outcome {
        if self.context.cpl() > iopl(self.context.rflags) {
            return Err(Exception::PROTECTION);
        }
        self.context.rflags = self.context.rflags & !INTERRUPT | if on { INTERRUPT } else { 0 };
        Ok(Flow::Next)
    }

    /// PUSHF.
    pub(super) fn push_flags(&mut self) -> Outcome {
        let image = self.context.rflags & !(RESUME | VIRTUAL_8086);
        self.push(&[image], self.stack_bytes())?;
        Ok(Flow::Next)
    }

    /// POPF. The operand of two bytes does not reach AC and ID.
    pub(super) fn pop_flags(&mut self) -> Outcome {
        let bytes = self.stack_bytes();
        let [image] = self.peek(bytes)?;
        let taken = flags_of_popf(self.context) & super::operands::mask(bytes);
        self.context.rflags = (self.context.rflags & !taken | image & taken | FIXED) & !RESUME;
        self.context.rsp = self.context.rsp.wrapping_add(bytes as u64);
        Ok(Flow::Next)
    }
}
