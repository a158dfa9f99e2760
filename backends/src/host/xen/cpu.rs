//! What belongs to one processor.
//!
//! It lies at one address in the window, so that a site is the same code on every processor, and
//! needs no register to find its own: GS is the guest's. With several processors the page-table
//! root of each maps pages of its own there. The first holds what entry points and sites read and
//! write. That is code which knows nothing of Rust's references, so it consists of atomic numbers.
//! Xen and user mode see some of the other pages; at the end is what only the wedge knows of.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use wedge::vm::Vcpu;

use super::guest::Xen;
use super::interface::{SharedInfo, VcpuInfo};
use crate::runtime::PAGE;
use crate::runtime::exclusive::{Exclusive, Late, PAGE_WORDS, Pages};

/// Pages of a local descriptor table, at most: 8,192 entries (SDM Vol. 3A, 3.4.2).
pub(super) const LDT_PAGES: usize = 16;

/// Local descriptor tables that have addresses (`ldt.rs`).
pub(super) const LDT_SLOTS: usize = 4;

/// Images of their pages: for all of one table, and for one of each of the others.
pub(super) const LDT_IMAGES: usize = LDT_PAGES + LDT_SLOTS - 1;

/// Pages of the wedge's stack. The first processor loads the guest on it, too.
pub(super) const STACK_PAGES: usize = 64;

/// A page of the guest's, as it was when it was looked at.
pub(super) type Source = [u8; PAGE as usize];

/// The processor's. Offsets of fields are operands of the assembly code (`entry.rs`).
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
    /// Not 0: user mode has not run since the wedge knew the base of its GS. An entry writes both.
    pub(super) users_gs_known: AtomicU8,
    /// What Xen's timer was last set to; 0 if it is not set.
    pub(super) timer: AtomicU64,
    /// What the guest had in its global descriptor table when that was last looked at.
    pub(super) seen: [AtomicU64; PAGE_WORDS],
    /// The real global descriptor table (`segments.rs`). Xen writes to it.
    pub(super) gdt: Pages<1>,
    /// The images of pages of local descriptor tables (`ldt.rs`). Xen writes to them.
    pub(super) ldt_images: Pages<LDT_IMAGES>,
    /// What the images were made from: the guest's descriptors.
    pub(super) ldt_sources: Exclusive<[Source; LDT_IMAGES]>,
    /// What becomes an image, by a copy of Xen's.
    pub(super) ldt_draft: Pages<1>,
    /// What user mode gets to see (`narrow_stack.rs`): IRETQ, and its frame.
    pub(super) springboard: Pages<1>,
    /// Where Xen's shared page is mapped.
    pub(super) shared: SharedPage,
    /// The wedge's stack.
    pub(super) stack: Pages<STACK_PAGES>,
    /// The virtual CPU. Events are masked in the wedge; an exception there is the end.
    pub(super) vcpu: Exclusive<Late<Vcpu<Xen>>>,
}

/// The place where Xen's shared page is mapped.
#[derive(Debug)]
pub(super) struct SharedPage(Pages<1>);

impl SharedPage {
    /// Its address.
    pub(super) fn address(&self) -> u64 {
        self.0.address(0)
    }

    /// What Xen shares, if its page is mapped there.
    pub(super) fn info(&self) -> &SharedInfo {
        // SAFETY: the page is larger than the structure, which consists of atomic integers; any
        // value is valid.
        unsafe { &*self.0.as_ptr().cast() }
    }

    /// What Xen shares with the processor at hand: the first, as long as there is one. Several
    /// would register their own (`vcpu.h`, `VCPUOP_register_vcpu_info`).
    pub(super) fn vcpu(&self) -> &VcpuInfo {
        &self.info().vcpu[0]
    }
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
    users_gs_known: AtomicU8::new(0),
    timer: AtomicU64::new(0),
    seen: [const { AtomicU64::new(0) }; PAGE_WORDS],
    gdt: Pages::new(),
    ldt_images: Pages::new(),
    ldt_sources: Exclusive::new([[0; _]; _]),
    ldt_draft: Pages::new(),
    springboard: Pages::new(),
    shared: SharedPage(Pages::new()),
    stack: Pages::new(),
    vcpu: Exclusive::new(Late::Missing),
};

// SYSCALL's entry writes both in one.
const _: () = assert!(offset_of!(Cpu, users_gs_known) == offset_of!(Cpu, gs_swapped) + 1);

// The sites use the first page, and nobody else's pages begin before the third.
const _: () = assert!(offset_of!(Cpu, seen) < PAGE as usize && offset_of!(Cpu, gdt) == 2 * PAGE as usize);

/// The address of a number of the processor's.
pub(super) fn address<T>(of: &'static T) -> u64 {
    core::ptr::from_ref(of).addr() as u64
}
