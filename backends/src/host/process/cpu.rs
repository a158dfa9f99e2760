//! What the sites and the entry points see of the processor. It lies in the wedge's window, and is
//! written by code that knows nothing of Rust's references, so it consists of atomic numbers.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// The numbers. Offsets of fields are operands of the assembly code (`entry.rs`).
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Cpu {
    /// RAX and RSP of a site that has come to the wedge.
    pub(super) saved_rax: AtomicU64,
    pub(super) saved_rsp: AtomicU64,
    /// The virtual control registers, by number, for sites that read one.
    pub(super) control: [AtomicU64; 5],
    /// The address that the latest page fault was about.
    pub(super) fault_address: AtomicU64,
    /// Number of the site that jumped.
    pub(super) site: AtomicU32,
    /// The process that runs a program now, and gets the timer's signal, too; 0 if there is none.
    pub(super) running: AtomicU32,
    /// Not 0: the virtual IF is clear, or the wedge runs.
    pub(super) mask: AtomicU8,
    /// Not 0: something has come in.
    pub(super) pending: AtomicU8,
    /// Not 0: that process was sent the timer's signal.
    pub(super) signalled: AtomicU8,
    /// Not 0: a process has ended.
    pub(super) ended: AtomicU8,
    /// 0xff: the virtual GS bases are exchanged: the active one is the program's.
    pub(super) gs_swapped: AtomicU8,
}

/// The one processor.
pub(super) static CPU: Cpu = Cpu {
    saved_rax: AtomicU64::new(0),
    saved_rsp: AtomicU64::new(0),
    control: [const { AtomicU64::new(0) }; 5],
    fault_address: AtomicU64::new(0),
    site: AtomicU32::new(0),
    running: AtomicU32::new(0),
    mask: AtomicU8::new(1),
    pending: AtomicU8::new(0),
    signalled: AtomicU8::new(0),
    ended: AtomicU8::new(0),
    gs_swapped: AtomicU8::new(0),
};

/// The address of a number of the processor's.
pub(super) fn address<T>(of: &'static T) -> u64 {
    core::ptr::from_ref(of).addr() as u64
}
