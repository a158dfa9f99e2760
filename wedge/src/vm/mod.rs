//! A guest while it runs.
//!
//! What happens between a trap and an exit is the same on every host that does not let the guest's
//! kernel have its privileges. A trap is an exception, an event, or a site that calls; the host
//! says which. Most exceptions are page faults that the shadow answers; the others are the guest's,
//! and are delivered as the processor would have done it. An instruction that should not have been
//! executed natively, for nobody has annotated it, is emulated too, and counted.
//!
//! Such a guest lives in two parts. What belongs to one processor is a [`Vcpu`], which the host
//! keeps with all else that belongs to that processor. What all processors share is the
//! [`Machine`]: memory, devices, the guest's rewritten text ([`Text`]), and what the host keeps for
//! itself. A trap brings the two together: [`Vm`] is the guest on one of its processors. [`Host`]
//! says on one page what a host is. A host enters by [`Vm::event`], [`Vm::exception`],
//! [`Vm::site_called`] and their like, and leaves by [`Vm::leave`].
//!
//! [`modules`] and [`port`] serve hosts with and without privileges alike.

#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are wider than most of what is in them: a cast takes the lower part, as the processor does"
)]

mod account;
mod execute;
mod host;
mod machine;
pub mod modules;
pub mod port;
mod present;
mod profile;
mod space;
mod text;
mod traps;

use core::fmt;

pub use account::Account;
pub use execute::Decoded;
pub use host::{Board, End, Host, Memory, Peephole, Processor};
pub use machine::{Behind, Machine, paging_mode};
pub use profile::{Calls, Counts, Path, Profile};
pub use space::{Reached, Space, is_in_page, parts};
pub use text::Text;

use crate::cpu::{Context, Event, VirtualCpu, deliver};
use crate::x86::flags;

/// A guest on one of its processors, while that is in the wedge.
pub struct Vm<'a, H: Host> {
    /// What belongs to the processor.
    pub vcpu: &'a mut Vcpu<H>,
    /// What all processors share.
    pub machine: &'a mut Machine<H>,
}

impl<H: Host> fmt::Debug for Vm<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// What belongs to one processor of a guest.
pub struct Vcpu<H: Host> {
    /// The registers that the guest believes in.
    pub cpu: VirtualCpu,
    /// The registers that are real, and what the host keeps with them.
    pub processor: H::Processor,
    /// A page that the guest has just been told to map.
    pub wanted: Option<u64>,
    /// Whether user mode was ever entered: until then, the kernel's stack may be anywhere.
    pub has_run_user: bool,
    /// Sites that were emulated lately.
    pub decoded: Decoded,
}

impl<H: Host> Vcpu<H> {
    /// A processor that has not run yet.
    #[must_use]
    pub const fn new(cpu: VirtualCpu, processor: H::Processor) -> Self {
        Self { cpu, processor, wanted: None, has_run_user: false, decoded: Decoded::NONE }
    }
}

impl<H: Host> fmt::Debug for Vcpu<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("cpu", &self.cpu).finish_non_exhaustive()
    }
}

/// Where a guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// In its kernel.
    Kernel,
    /// In a program.
    User,
}

impl<H: Host> Vm<'_, H> {
    /// Something has come in from outside.
    #[inline]
    pub fn event(&mut self, context: &mut Context) {
        self.begin(Path::Event, context);
        self.present(context);
        self.machine.touched = true;
        self.machine.board.collect(&mut self.machine.platform);
    }

    /// Delivers what is due, and says where the guest goes on with the context.
    #[expect(clippy::inline_always, reason = "one way from an entry to an exit, on each host")]
    #[inline(always)]
    pub fn leave(&mut self, context: &mut Context) -> Exit {
        if self.machine.touched {
            self.machine.platform.advance(&mut self.machine.board);
        }
        if self.machine.platform.has_interrupt() {
            self.interrupt(context);
        }
        let Machine { platform, board, touched, .. } = &mut *self.machine;
        if *touched {
            *touched = false;
            board.set_timer(platform);
        }
        self.look_at_modules();
        let exit = self.enter(context);
        if self.machine.profile.is_on() {
            self.count_exit(context.rip);
        }
        exit
    }

    /// Does what is to be done before the context goes on, and says where that is.
    #[expect(clippy::inline_always, reason = "as `leave`")]
    #[inline(always)]
    fn enter(&mut self, context: &mut Context) -> Exit {
        if context.is_user() {
            self.vcpu.has_run_user = true;
            if let Some(address) = self.vcpu.wanted.take() {
                self.machine.space.shadow.prefill(address, &mut self.machine.space.memory);
            }
            H::enter_user(self, context);
            Exit::User
        } else {
            (context.cs, context.ss) = (H::KERNEL_CS, H::KERNEL_SS);
            H::enter_kernel(self, context);
            Exit::Kernel
        }
    }

    /// The wedge has been entered, if anybody counts.
    #[inline]
    fn begin(&mut self, path: Path, context: &Context) {
        if self.machine.profile.is_on() {
            self.count_entry(path, context.rip);
        }
    }

    #[cold]
    #[inline(never)]
    fn count_entry(&mut self, path: Path, rip: u64) {
        let now = self.vcpu.processor.time_stamp();
        self.machine.profile.begin(path, rip, now);
    }

    #[cold]
    #[inline(never)]
    fn count_exit(&mut self, rip: u64) {
        let now = self.vcpu.processor.time_stamp();
        self.machine.profile.end(rip, now);
    }

    /// Delivers an interrupt, if the guest takes one, and has it find what is left.
    #[cold]
    fn interrupt(&mut self, context: &mut Context) {
        if context.rflags & flags::INTERRUPT != 0
            && let Some(vector) = self.machine.platform.acknowledge()
        {
            self.deliver(context, Event::Interrupt(vector));
        }
        if self.machine.platform.has_interrupt() {
            H::note_pending(self);
        }
    }

    #[inline]
    fn look_at_modules(&mut self) {
        if !self.machine.flushed {
            return;
        }
        self.machine.flushed = false;
        if self.machine.text.look(self.vcpu.cpu.cr3, &mut self.machine.space.memory, H::say) {
            self.vcpu.decoded.forget();
            self.machine.account.in_modules = self.machine.text.engine.in_modules();
            self.machine.account.of_modules = *self.machine.text.tally();
        }
    }

    /// The virtual CPU, and what is behind it.
    #[inline]
    fn processor(&mut self) -> (&mut VirtualCpu, Behind<'_, H>) {
        let Vcpu { cpu, processor, .. } = &mut *self.vcpu;
        (cpu, self.machine.behind(processor))
    }

    /// Delivers something to the guest.
    ///
    /// A program's AC is left set by an exception, and means nothing in ring 0; in ring 3 the
    /// kernel's own accesses would be held against it (SDM Vol. 3A, 2.3). The frame has it.
    /// SYSENTER has none: there the flags stay, until the kernel has stored them.
    #[inline]
    pub fn deliver(&mut self, context: &mut Context, event: Event) {
        let (cpu, mut behind) = self.processor();
        let cr2 = cpu.cr2;
        if deliver(cpu, context, event, &mut behind).is_err() {
            H::say(format_args!("triple fault at {:#x}: {event:x?}", context.rip));
            H::stop(End::Reset);
        }
        if !context.is_user() {
            context.rflags &= !flags::ALIGNMENT;
        }
        if self.vcpu.cpu.cr2 != cr2 {
            H::registers_changed(self, false);
        }
    }

    /// The end of a guest that cannot be helped.
    pub fn die(context: &Context, why: impl fmt::Display) -> ! {
        let Context { registers, vector, error, rip, cs, rflags, rsp, .. } = context;
        let address = H::fault_address();
        H::say(format_args!("entry {vector} {why}: RIP {rip:#x}, CS {cs:#x}, error code {error:#x}, CR2 {address:#x}"));
        H::say(format_args!("RSP {rsp:#x}, RFLAGS {rflags:#x}, {registers:x?}"));
        H::stop(End::Crash)
    }
}
