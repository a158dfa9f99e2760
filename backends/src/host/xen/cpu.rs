//! What belongs to one processor, as the entries and the sites see it.
//!
//! It lies at one address in the window, so that a site is the same code on every processor, and
//! needs no register to find its own: GS is the guest's. With several processors the page-table
//! root of each maps a page of its own there. All of it is written by code that knows nothing of
//! Rust's references, so it consists of atomic numbers.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use crate::runtime::exclusive::PAGE_WORDS;

/// The numbers. Offsets of fields are operands of the assembly code (`entry.rs`).
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Cpu {
    /// Where SYSCALL from user mode goes: the guest's entry point, or `xen_syscall_slow`.
    pub(super) syscall_target: AtomicU64,
    /// RSP of a site without a stack.
    pub(super) saved_rsp: AtomicU64,
    /// What SYSRET to 64-bit code loads into CS and SS (SDM Vol. 2B, SYSRET).
    pub(super) sysret_selectors: [AtomicU64; 2],
    /// The virtual control registers, by number, for sites that read one.
    pub(super) control: [AtomicU64; 5],
    /// Where the wedge sees the entries of the guest's global table that are the running thread's.
    /// While that is not known, there is work before user mode.
    pub(super) tls: AtomicU64,
    /// Number of the site that jumped.
    pub(super) site: AtomicU32,
    /// Not 0: there is something to do before user mode.
    pub(super) work: AtomicU8,
    /// 0xff: the virtual GS bases are exchanged against the real ones.
    pub(super) gs_swapped: AtomicU8,
    /// What the guest had in its global descriptor table when that was last looked at.
    pub(super) seen: [AtomicU64; PAGE_WORDS],
}

/// The processor at hand.
pub(super) static CPU: Cpu = Cpu {
    syscall_target: AtomicU64::new(0),
    saved_rsp: AtomicU64::new(0),
    sysret_selectors: [const { AtomicU64::new(0) }; 2],
    control: [const { AtomicU64::new(0) }; 5],
    tls: AtomicU64::new(0),
    site: AtomicU32::new(0),
    work: AtomicU8::new(0),
    gs_swapped: AtomicU8::new(0),
    seen: [const { AtomicU64::new(0) }; PAGE_WORDS],
};

// Two pages, of which the sites use the first.
const _: () = assert!(size_of::<Cpu>() == 2 * 4096 && offset_of!(Cpu, seen) < 4096);

/// The address of a number of the processor's.
pub(super) fn address<T>(of: &'static T) -> u64 {
    core::ptr::from_ref(of).addr() as u64
}
