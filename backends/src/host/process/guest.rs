//! A guest in a process of Linux, as a type: what is done with it is in [`traps`](super::traps).

use wedge::vm;

/// The host.
#[derive(Debug)]
pub(super) struct Process;

/// A guest in a process.
pub(super) type Machine = vm::Machine<Process>;

/// It, on one of its processors.
pub(super) type Vm<'a> = vm::Vm<'a, Process>;

/// What the guest's kernel really has in CS and SS: what all programs of Linux have
/// (`arch/x86/include/asm/segment.h`, `__USER_CS`, `__USER_DS`).
pub(super) const REAL_CS: u64 = 0x33;
/// See [`REAL_CS`].
pub(super) const REAL_SS: u64 = 0x2b;
