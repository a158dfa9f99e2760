//! A guest in a process of Linux, as a type: what is done with it is in [`traps`](super::traps).

use wedge::vm;

/// The host.
#[derive(Debug)]
pub(super) struct Process;

/// A guest in a process.
pub(super) type Machine = vm::Machine<Process>;

/// It, on one of its processors.
pub(super) type Vm<'a> = vm::Vm<'a, Process>;
