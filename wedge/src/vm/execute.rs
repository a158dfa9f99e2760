//! Sites that call: their instructions are carried out on the virtual CPU.

use core::ops::Range;

use annotate::instructions::Class;
use iced_x86::Instruction;

use crate::cpu::{Context, Event, Exception, Flow, VirtualCpu, decode, emulate, is_canonical};
use crate::guest::linux;
use crate::sites::{Form, Site};
use crate::x86::flags;

use super::{Host, Vm};

/// Sites that were emulated lately, decoded: decoding costs more than emulating.
#[derive(Debug)]
pub struct Decoded([Option<(u64, Instruction)>; 64]);

impl Decoded {
    /// None yet.
    pub(super) const NONE: Self = Self([None; 64]);

    /// A site's instruction, at an address; `None` if it is none. A site's bytes do not change
    /// while it is one; when modules come and go, everything is forgotten.
    #[inline]
    fn of(&mut self, site: &Site, at: u64) -> Option<Instruction> {
        let place = &mut self.0[(at >> 2) as usize % 64];
        match place {
            Some((address, instruction)) if *address == at => Some(*instruction),
            _ => {
                *place = Some((at, decode(&site.original(), at)?));
                place.map(|(_, instruction)| instruction)
            }
        }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::NONE;
    }
}

impl<H: Host> Vm<H> {
    /// A site has called: the return address says which.
    #[inline]
    pub fn site_called(&mut self, context: &mut Context) {
        let Some(site) = self.text.engine.at_stub(context.rip).copied() else {
            Self::die(context, "called from no site");
        };
        let (at, end) = if site.form() == Form::Call {
            let end = self.machine.space.word(context.rsp).unwrap_or(0);
            context.rsp += 8;
            (end.wrapping_sub(u64::from(site.slot())), end)
        } else {
            (site.address(), site.end())
        };
        self.emulate_site(context, &site, at, end);
    }

    /// A site without a stack has jumped, and has left its number behind.
    #[inline]
    pub fn site_jumped(&mut self, context: &mut Context, number: usize) {
        let Some(site) = self.text.engine.site(number).copied() else {
            Self::die(context, "jumped from no site");
        };
        self.emulate_site(context, &site, site.address(), site.end());
    }

    /// An IRETQ, if it leads to a program in the plainest way: with the selectors of 64-bit
    /// programs and interrupts on. Whether it did.
    #[inline]
    pub fn return_plainly(&mut self, context: &mut Context) -> bool {
        let Some([rip, cs, rflags, rsp, ss]) = self.machine.space.words(context.rsp) else { return false };
        let user = is_canonical(rip) && rip >> 63 == 0;
        let plain = (cs, ss) == (linux::USER_CS, linux::USER_DS) && user && rflags & flags::INTERRUPT != 0;
        if plain {
            (context.rip, context.cs, context.rflags, context.rsp, context.ss) = (rip, cs, rflags, rsp, ss);
        }
        plain
    }

    /// Carries out a site's instructions for a context that is at `at`; behind them it is at `end`.
    #[inline]
    pub fn emulate_site(&mut self, context: &mut Context, site: &Site, at: u64, end: u64) {
        context.rip = at;
        let Some(first) = self.vcpu.decoded.of(site, at) else {
            Self::die(context, "at a site that does not decode");
        };
        let original = site.original();
        let second = original.get(first.len()..).filter(|rest| !rest.is_empty());
        match second.and_then(|bytes| decode(bytes, at + first.len() as u64)) {
            Some(second) => {
                if self.execute(context, site, first, second.ip()) {
                    self.execute(context, site, second, end);
                }
            }
            None => _ = self.execute(context, site, first, end),
        }
        if !self.vcpu.has_run_user && site.class() == Class::MovToCr {
            // The kernel may go on, on a stack in its image, in tables that nobody has used yet.
            self.reach_image(self.text.kernel.clone());
        }
        H::registers_changed(self, site.class() == Class::Wrmsr);
    }

    /// Executes one instruction of a site; says whether what is at `next` comes next.
    #[inline]
    fn execute(&mut self, context: &mut Context, site: &Site, mut instruction: Instruction, next: u64) -> bool {
        instruction.set_next_ip(next);
        match emulate(&mut self.vcpu.cpu, context, &instruction, &mut self.machine) {
            Ok(Flow::Next) => {
                context.rip = next;
                return true;
            }
            Ok(Flow::Jumped) => {}
            Ok(Flow::Unhandled) => Self::die(context, format_args!("{} is not emulated", site.class())),
            Err(exception) => self.deliver(context, Event::Exception(exception)),
        }
        false
    }

    /// Makes sure that the kernel's image can be accessed where it is loaded: it is about to run
    /// there, on a stack in it.
    pub fn reach_image(&mut self, image: Range<u64>) {
        for page in image.step_by(2 << 20) {
            self.machine.space.reach_for_writing(page);
        }
    }

    /// A way into the kernel that is not an exception: SYSCALL, SYSENTER.
    pub fn transfer(
        &mut self,
        context: &mut Context,
        how: impl FnOnce(&VirtualCpu, &mut Context) -> Result<(), Exception>,
    ) {
        if let Err(exception) = how(&self.vcpu.cpu, context) {
            self.deliver(context, Event::Exception(exception));
        }
    }
}
