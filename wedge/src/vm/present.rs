//! Where in the guest a context is that was interrupted in a stub, or in a routine that a stub
//! leads to.
//!
//! The guest must see neither. [`Engine::interrupted`](crate::sites::Engine::interrupted) knows the
//! stubs; the host knows the first instructions of its routines, before which events are not masked
//! yet.

use crate::cpu::Context;
use crate::guest::linux;
use crate::sites::{Interrupted, Word};
use crate::x86::flags;

use super::{Host, Vm};

impl<H: Host> Vm<'_, H> {
    /// A context that was interrupted in a stub is presented where it belongs in the guest.
    pub fn present(&mut self, context: &mut Context) {
        if context.is_user() {
            return;
        }
        H::present_routine(self, context);
        match self.machine.text.engine.interrupted(context.rip) {
            None => {}
            Some(Interrupted::At(address)) => context.rip = address,
            Some(Interrupted::Pushed(address, word)) => {
                self.take_back(context, word);
                context.rip = address;
            }
            Some(Interrupted::Caller(offset)) => {
                let caller = self.machine.space.word(context.rsp).unwrap_or(0);
                context.rip = caller.wrapping_add_signed(offset);
                context.rsp += 8;
            }
            Some(Interrupted::Returned) => self.return_by_frame(context),
            Some(Interrupted::Returning(address)) => self.present_return(context, address),
        }
    }

    /// Takes back a word that a stub has pushed.
    fn take_back(&mut self, context: &mut Context, word: Word) {
        const KEPT: u64 = flags::INTERRUPT | flags::IOPL;
        let pushed = self.machine.space.word(context.rsp).unwrap_or(0);
        match word {
            Word::Dropped => {}
            Word::Rcx => context.registers.rcx = pushed,
            Word::Flags => context.rflags = context.rflags & KEPT | pushed & !KEPT,
        }
        context.rsp += 8;
    }

    /// An IRETQ with the frame on the stack: if that leads to the kernel with IF set, it is as good
    /// as executed.
    pub fn present_return(&mut self, context: &mut Context, address: u64) {
        let [_, cs, rflags] = self.machine.space.words(context.rsp).unwrap_or([0, 3, 0]);
        // The real selector, too, if it is not that of programs.
        let to_kernel = cs.trailing_zeros() >= 2 || cs == H::KERNEL_CS && cs != linux::USER_CS;
        if to_kernel && rflags & flags::INTERRUPT != 0 {
            self.return_by_frame(context);
        } else {
            context.rip = address;
        }
    }

    /// An IRETQ to the kernel that is as good as executed.
    fn return_by_frame(&mut self, context: &mut Context) {
        let frame = context.rsp;
        let mut word = |number: u64| self.machine.space.word(frame + 8 * number).unwrap_or(0);
        (context.rip, context.rflags, context.rsp) = (word(0), word(2), word(3));
    }
}
