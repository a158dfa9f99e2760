//! A guest while it runs.
//!
//! What happens between an entry and an exit is the same on every host that does not let the
//! guest's kernel have its privileges. An entry is an exception, an event, or a site that calls;
//! the host says which. Most exceptions are page faults that the shadow answers; the others are the
//! guest's, and are delivered as the processor would have done it. An instruction that should not
//! have been executed natively, for nobody has annotated it, is emulated too, and counted.
//!
//! [`Vm`] is such a guest. It consists of what belongs to one processor ([`Vcpu`]), of the machine
//! behind that ([`Machine`]: memory, devices, the real processor), of the guest's rewritten text
//! ([`Text`]), and of what the host keeps for itself. What a host is, is written in [`Host`], on a
//! page: a host enters by [`Vm::event`], [`Vm::exception`], [`Vm::site_called`] and their like, and
//! leaves by [`Vm::leave`].
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
mod space;
mod text;
mod traps;

use core::fmt;

pub use account::Account;
pub use execute::Decoded;
pub use host::{Board, End, Host, Memory, Peephole, Processor};
pub use machine::{Machine, paging_mode};
pub use space::{Reached, Space, is_in_page, parts};
pub use text::Text;

use crate::cpu::{Context, Event, VirtualCpu, deliver};
use crate::x86::flags;

/// A guest on a host.
#[derive(Debug)]
pub struct Vm<H: Host> {
    /// Its processor.
    pub vcpu: Vcpu,
    /// What is behind that.
    pub machine: Machine<H>,
    /// The rewritten text of its kernel and its modules.
    pub text: Text,
    /// What the host keeps.
    pub host: H,
}

/// What belongs to one processor of a guest, whatever the host.
#[derive(Debug)]
pub struct Vcpu {
    /// The registers that the guest believes in.
    pub cpu: VirtualCpu,
    /// A page that the guest has just been told to map.
    pub wanted: Option<u64>,
    /// Whether user mode was ever entered: until then, the kernel's stack may be anywhere.
    pub has_run_user: bool,
    /// Sites that were emulated lately.
    pub decoded: Decoded,
}

impl Vcpu {
    /// A processor that has not run yet.
    #[must_use]
    pub const fn new(cpu: VirtualCpu) -> Self {
        Self { cpu, wanted: None, has_run_user: false, decoded: Decoded::NONE }
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

impl<H: Host> Vm<H> {
    /// Something has come in from outside.
    #[inline]
    pub fn event(&mut self, context: &mut Context) {
        self.present(context);
        self.machine.touched = true;
        self.machine.board.collect(&mut self.machine.platform);
    }

    /// Delivers what is due, and says where the guest goes on with the context.
    #[inline]
    pub fn leave(&mut self, context: &mut Context) -> Exit {
        let Machine { platform, board, touched, .. } = &mut self.machine;
        if *touched {
            platform.advance(board);
        }
        if platform.has_interrupt() {
            self.interrupt(context);
        }
        let Machine { platform, board, touched, .. } = &mut self.machine;
        if core::mem::take(touched) {
            board.set_timer(platform);
        }
        self.look_at_modules();
        if context.is_user() {
            self.vcpu.has_run_user = true;
            if let Some(address) = self.vcpu.wanted.take() {
                self.machine.space.shadow.prefill(address, &mut self.machine.space.memory);
            }
            H::enter_user(self, context);
            Exit::User
        } else {
            // A program's AC is left set by an exception, and means nothing in ring 0; in ring 3
            // the kernel's own accesses would be held against it (SDM Vol. 3A, 2.3).
            context.rflags &= !flags::ALIGNMENT;
            (context.cs, context.ss) = (H::KERNEL_CS, H::KERNEL_SS);
            H::enter_kernel(self, context);
            Exit::Kernel
        }
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
        if !core::mem::take(&mut self.machine.flushed) {
            return;
        }
        if self.text.look(self.vcpu.cpu.cr3, &mut self.machine.space.memory, H::say) {
            self.vcpu.decoded.forget();
            self.machine.account.in_modules = self.text.engine.in_modules();
            self.machine.account.of_modules = *self.text.tally();
        }
    }

    /// Delivers something to the guest.
    #[inline]
    pub fn deliver(&mut self, context: &mut Context, event: Event) {
        if deliver(&mut self.vcpu.cpu, context, event, &mut self.machine).is_err() {
            H::say(format_args!("triple fault at {:#x}: {event:x?}", context.rip));
            H::stop(End::Reset);
        }
        H::registers_changed(self, false);
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
