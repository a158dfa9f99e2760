//! Where in the guest a context is that was interrupted in a stub, or in a routine that a stub leads to.
//!
//! The guest must see neither. [`wedge::sites::Engine::interrupted`] knows the stubs; what is added here are the first
//! instructions of the routines, before which events are not masked yet.

use core::sync::atomic::Ordering;

use wedge::cpu::Context;
use wedge::sites::{Entry, Interrupted, Word};

use super::entry::{SITE, xen_emulate_without_stack, xen_iret, xen_unmasked};
use super::interface::KERNEL_CS;
use super::traps::{INTERRUPT_FLAG, Resident};

impl Resident {
    /// A context that was interrupted in a stub is presented where it belongs in the guest.
    pub(super) fn present(&mut self, context: &mut Context) {
        if context.is_user() {
            return;
        }
        self.present_routine(context);
        match self.engine.interrupted(context.rip) {
            None => {}
            Some(Interrupted::At(address)) => context.rip = address,
            Some(Interrupted::Pushed(address, word)) => {
                self.take_back(context, word);
                context.rip = address;
            }
            Some(Interrupted::Caller(offset)) => {
                let caller = self.machine.word(context.rsp).unwrap_or(0);
                context.rip = caller.wrapping_add_signed(offset);
                context.rsp += 8;
            }
            Some(Interrupted::Returned) => self.return_by_frame(context),
            Some(Interrupted::Returning(address)) => self.present_return(context, address),
        }
    }

    /// Takes back a word that a stub has pushed.
    fn take_back(&mut self, context: &mut Context, word: Word) {
        const KEPT: u64 = INTERRUPT_FLAG | 3 << 12;
        let pushed = self.machine.word(context.rsp).unwrap_or(0);
        match word {
            Word::Dropped => {}
            Word::Rcx => context.registers.rcx = pushed,
            Word::Flags => context.rflags = context.rflags & KEPT | pushed & !KEPT,
        }
        context.rsp += 8;
    }

    /// An event may have come in before one of the routines that stubs lead to has masked events. The routine has done
    /// nothing yet but push: what it has pushed is taken back, and the context is in the stub again.
    fn present_routine(&mut self, context: &mut Context) {
        let routine = |routine: unsafe extern "C" fn()| routine as *const () as u64;
        let number = SITE.load(Ordering::Relaxed) as usize;
        let site = self.engine.entry(number).map_or(0, Entry::address);
        if context.rip == routine(xen_iret) {
            return self.present_return(context, site);
        }
        if context.rip == routine(xen_emulate_without_stack) {
            context.rip = site;
            return;
        }
        // SAFETY: filled in by the assembler.
        let [emulate, interrupt] = unsafe { xen_unmasked };
        let pushed = |addresses: [u64; 5]| addresses.into_iter().position(|address| address == context.rip);
        let (pushed, called) = match (pushed(emulate), pushed(interrupt)) {
            (Some(pushed), _) => (pushed, 5),
            (_, Some(pushed)) => (pushed, 0),
            _ => return,
        };
        let words = pushed.min(3) as u64;
        if pushed == 4 {
            context.registers.rax = self.machine.word(context.rsp + 16).unwrap_or(0);
        }
        context.rsp += 8 * words;
        // Before the call of `emulate`, nothing of the site has been done; behind that of `interrupt`, all.
        context.rip = self.machine.word(context.rsp).unwrap_or(0) - called;
        context.rsp += 8;
    }

    /// An IRETQ with the frame on the stack: if that leads to the kernel with IF set, it is as good as executed.
    fn present_return(&mut self, context: &mut Context, address: u64) {
        let to_kernel =
            self.machine.word(context.rsp + 8).is_some_and(|cs| cs.trailing_zeros() >= 2 || cs == KERNEL_CS);
        let enabled = self.machine.word(context.rsp + 16).is_some_and(|flags| flags & INTERRUPT_FLAG != 0);
        if to_kernel && enabled {
            self.return_by_frame(context);
        } else {
            context.rip = address;
        }
    }

    /// An IRETQ to the kernel that is as good as executed.
    fn return_by_frame(&mut self, context: &mut Context) {
        let frame = context.rsp;
        let mut word = |number: u64| self.machine.word(frame + 8 * number).unwrap_or(0);
        (context.rip, context.rflags, context.rsp) = (word(0), word(2), word(3));
    }
}
