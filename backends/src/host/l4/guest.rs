//! A guest on seL4, as a type: what is done with it is in [`traps`](super::traps).

use wedge::vm;

/// The host.
#[derive(Debug)]
pub(super) struct L4;

/// A guest on seL4.
pub(super) type Machine = vm::Machine<L4>;

/// It, on one of its processors.
pub(super) type Vm<'a> = vm::Vm<'a, L4>;

/// What all threads really have in CS and SS (seL4, `SEL_CS_3`, `SEL_DS_3`: the fifth and sixth
/// descriptor, level 3).
pub(super) const REAL_CS: u64 = 0x2b;
/// See [`REAL_CS`].
pub(super) const REAL_SS: u64 = 0x33;
