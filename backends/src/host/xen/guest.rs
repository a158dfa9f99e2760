//! A guest on Xen: what Xen adds to one ([`wedge::vm`]).
//!
//! What is kept stands here; what is done with it is in the module that it is named after:
//! `stacks`, `narrow_stack`, `eviction`.

use wedge::guest::linux::{STACK_PAGES, StackSwitch};
use wedge::shadow::Table;
use wedge::vm;

use crate::boot::options::Stack;
use crate::runtime::PAGE;

/// A guest on Xen.
pub(super) type Machine = vm::Machine<Xen>;

/// It, on one of its processors.
pub(super) type Vm<'a> = vm::Vm<'a, Xen>;

/// The host.
#[derive(Debug)]
pub(super) struct Xen;

/// What Xen adds to a guest.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) stacks: Stacks,
    /// The number of the site that returns from system calls. Its slot is a jump that says nothing
    /// of it; should there be several, they differ by nothing but their address.
    pub(super) sysret: usize,
    /// What is evicted all the time, for a test.
    pub(super) eviction: Option<Eviction>,
}

/// Where the kernel changes stacks, and what has been done about that.
#[derive(Debug)]
pub(super) struct Stacks {
    /// The site behind which the kernel goes to the unwritable stack in RAX, if there is one.
    pub(super) unwritable: Option<u64>,
    /// The sites of SYSRET: of SYSCALL's entry code, and of that for compatibility mode.
    pub(super) returns: [u64; 2],
    /// Tables of the kernel's part that had been dropped when all stacks were mapped last.
    pub(super) evictions: u64,
    /// Where the kernel goes from one thread's stack to another's, if that is known.
    pub(super) switch: Option<StackSwitch>,
    /// Whether threads' stacks can be missing: there is a breakpoint, or it has been said that
    /// there can be none.
    pub(super) watched: bool,
    /// The word from which SYSCALL's entry code loads RSP.
    pub(super) named_by_entry: Option<u64>,
    /// The guest's entry point for SYSCALL from compatibility mode, if what it accesses first is
    /// known to be mapped.
    pub(super) prepared32: Option<u64>,
}

/// Where the springboard is, and what maps it for user mode.
#[derive(Debug)]
pub(super) struct Springboard {
    /// A table of level 3, in no root while it is not in use. It is pinned: Xen looks at all
    /// entries of tables that come into use, and goes on doing so with each return otherwise.
    pub(super) pointers: Table,
    /// Where user mode has it, while it is in use.
    pub(super) address: Option<u64>,
}

/// What is evicted.
#[derive(Debug)]
pub(super) struct Eviction {
    pub(super) stack: Stack,
    /// Exits since the last eviction at one.
    pub(super) exits: u32,
    /// An address on the stack of interrupts, if there has been one; else 0.
    pub(super) interrupts: u64,
    /// Pages that must be mapped when the guest goes on, and are not now. Where there is none, 0.
    pub(super) missing: Pages,
}

/// Addresses, or 0.
pub(super) type Pages = [u64; 7];

/// When something is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the wedge does anything: it may write a frame.
    Entry,
    /// Before the kernel goes to the unwritable stack in RAX.
    Unwritable,
    /// Before the kernel goes on.
    Kernel,
    /// Before a program goes on.
    User,
}

/// The stacks that the guest's tables and code name; 0 where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NamedStacks {
    pub(super) rsp0: u64,
    pub(super) ist: [u64; 7],
    /// That of SYSCALL's entry code.
    pub(super) entry: u64,
}

/// Bytes of a stack of the kernel's, at most.
pub(super) const STACK_LENGTH: u64 = STACK_PAGES * PAGE;
