//! What belongs to one processor.
//!
//! It lies at one address in the wedge's window. In front is what sites, entry points and the pager
//! read and write: code which knows nothing of Rust's references, and another thread. So it
//! consists of atomic numbers.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use wedge::vm::Vcpu;

use super::guest::L4;
use crate::runtime::exclusive::{Exclusive, Late, Pages};

/// Pages of the wedge's stack. The guest is loaded on it, too.
pub(super) const STACK_PAGES: usize = 32;
/// Pages of the pager's stack, and of that for faults of the wedge's own.
pub(super) const SMALL_STACK_PAGES: usize = 4;

/// The processor's. Offsets of fields are operands of the assembly code (`entry.rs`).
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Cpu {
    /// RAX and RSP of a site that has come to the wedge.
    pub(super) saved_rax: AtomicU64,
    pub(super) saved_rsp: AtomicU64,
    /// What the pager has found that the thread has come upon, and where.
    pub(super) vector: AtomicU64,
    pub(super) error: AtomicU64,
    pub(super) rip: AtomicU64,
    pub(super) rflags: AtomicU64,
    pub(super) rsp: AtomicU64,
    /// The address that the latest page fault was about.
    pub(super) fault_address: AtomicU64,
    /// The virtual control registers, by number, for sites that read one.
    pub(super) control: [AtomicU64; 5],
    /// Lines that are raised, as the badges of their notifications say.
    pub(super) lines: AtomicU64,
    /// Which program waits for an answer, and to what ([`Answer`](super::programs::Answer)).
    pub(super) answer: AtomicU64,
    /// Number of the site that jumped.
    pub(super) site: AtomicU32,
    /// Not 0: the virtual IF is clear, or the wedge runs.
    pub(super) mask: AtomicU8,
    /// Not 0: something has come in.
    pub(super) pending: AtomicU8,
    /// 0xff: the virtual GS bases are exchanged: the active one is the program's.
    pub(super) gs_swapped: AtomicU8,
    /// IPC buffers: the wedge's, the pager's.
    pub(super) buffer: Pages<1>,
    pub(super) pagers_buffer: Pages<1>,
    /// The wedge's stack, that for its own faults, and the pager's.
    pub(super) stack: Pages<STACK_PAGES>,
    pub(super) nested_stack: Pages<SMALL_STACK_PAGES>,
    pub(super) pagers_stack: Pages<SMALL_STACK_PAGES>,
    /// The virtual CPU.
    pub(super) vcpu: Exclusive<Late<Vcpu<L4>>>,
}

/// The one processor.
pub(super) static CPU: Cpu = Cpu {
    saved_rax: AtomicU64::new(0),
    saved_rsp: AtomicU64::new(0),
    vector: AtomicU64::new(0),
    error: AtomicU64::new(0),
    rip: AtomicU64::new(0),
    rflags: AtomicU64::new(0),
    rsp: AtomicU64::new(0),
    fault_address: AtomicU64::new(0),
    control: [const { AtomicU64::new(0) }; 5],
    lines: AtomicU64::new(0),
    answer: AtomicU64::new(0),
    site: AtomicU32::new(0),
    mask: AtomicU8::new(0),
    pending: AtomicU8::new(0),
    gs_swapped: AtomicU8::new(0),
    buffer: Pages::new(),
    pagers_buffer: Pages::new(),
    stack: Pages::new(),
    nested_stack: Pages::new(),
    pagers_stack: Pages::new(),
    vcpu: Exclusive::new(Late::Missing),
};

/// The address of a number of the processor's.
pub(super) fn address<T>(of: &'static T) -> u64 {
    core::ptr::from_ref(of).addr() as u64
}
