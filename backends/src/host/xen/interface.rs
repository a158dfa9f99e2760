//! Xen's structures and numbers, as the public headers of Xen 4.17 have them
//! (`xen/include/public/`).

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Selectors of Xen's own segments, the same for kernel and user mode (`arch-x86/xen-x86_64.h`:
/// `FLAT_RING3_CS64`, `FLAT_RING3_SS64`).
pub(super) const KERNEL_CS: u64 = 0xe033;
pub(super) const KERNEL_SS: u64 = 0xe02b;

/// Where every guest finds the table from machine to pseudo-physical frames
/// (`MACH2PHYS_VIRT_START`).
pub(super) const MACHINE_TO_PHYSICAL: u64 = 0xffff_8000_0000_0000;

/// What a PV guest is told (`xen.h`, `struct start_info`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct StartInfo {
    pub(super) magic: [u8; 32],
    pub(super) nr_pages: u64,
    /// Machine address.
    pub(super) shared_info: u64,
    pub(super) flags: u32,
    pub(super) store_mfn: u64,
    pub(super) store_event_channel: u32,
    /// Of a domU: frame of the console's ring, and its event channel.
    pub(super) console_mfn: u64,
    pub(super) console_event_channel: u32,
    pub(super) pt_base: u64,
    pub(super) nr_pt_frames: u64,
    pub(super) mfn_list: u64,
    pub(super) mod_start: u64,
    pub(super) mod_len: u64,
    pub(super) command_line: [u8; 1024],
    pub(super) first_p2m_pfn: u64,
    pub(super) nr_p2m_frames: u64,
}

impl StartInfo {
    /// Flag: this is the domain that the host's hardware belongs to (`SIF_INITDOMAIN`).
    pub(super) const INITIAL_DOMAIN: u32 = 1 << 1;
    /// Flag: `mod_start` is a frame number (`SIF_MOD_START_PFN`).
    pub(super) const MODULE_IS_FRAME: u32 = 1 << 3;
}

/// How virtual time follows from the time-stamp counter (`xen.h`, `struct vcpu_time_info`).
#[derive(Debug)]
#[repr(C)]
pub(super) struct TimeInfo {
    pub(super) version: AtomicU32,
    pad: u32,
    pub(super) tsc_timestamp: AtomicU64,
    pub(super) system_time: AtomicU64,
    pub(super) tsc_to_system_mul: AtomicU32,
    /// Signed.
    pub(super) tsc_shift: AtomicU8,
    flags: u8,
    pad1: [u8; 2],
}

/// `xen.h`, `struct vcpu_info`.
#[derive(Debug)]
#[repr(C)]
pub(super) struct VcpuInfo {
    pub(super) pending: AtomicU8,
    pub(super) mask: AtomicU8,
    pad: [u8; 6],
    pub(super) pending_selector: AtomicU64,
    pub(super) cr2: AtomicU64,
    pad1: u64,
    pub(super) time: TimeInfo,
}

/// `xen.h`, `struct shared_info`, as far as it is used.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SharedInfo {
    pub(super) vcpu: [VcpuInfo; 32],
    pub(super) pending: [AtomicU64; 64],
    pub(super) masked: [AtomicU64; 64],
    pub(super) wall_clock_version: AtomicU32,
    pub(super) wall_clock_seconds: AtomicU32,
    pub(super) wall_clock_nanoseconds: AtomicU32,
    pub(super) wall_clock_seconds_high: AtomicU32,
}

const _: () = assert!(size_of::<VcpuInfo>() == 64);

/// An entry of the trap table (`arch-x86/xen.h`, `struct trap_info`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TrapInfo {
    pub(super) vector: u8,
    /// Privilege level from which INT may be used; 4: events are masked.
    pub(super) flags: u8,
    pub(super) cs: u16,
    pub(super) address: u64,
}

/// `xen.h`, `struct mmu_update`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct MmuUpdate {
    /// Machine address of the entry; the low bits say what is done.
    pub(super) address: u64,
    pub(super) value: u64,
}

/// `xen.h`, `struct mmuext_op`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct MmuExtended {
    pub(super) command: u32,
    pub(super) argument: u64,
    pub(super) argument2: u64,
}

/// Commands of `mmuext_op`.
pub(super) mod mmuext {
    pub(crate) const PIN_L3_TABLE: u32 = 2;
    pub(crate) const PIN_L4_TABLE: u32 = 3;
    pub(crate) const UNPIN_TABLE: u32 = 4;
    pub(crate) const NEW_BASEPTR: u32 = 5;
    pub(crate) const TLB_FLUSH_LOCAL: u32 = 6;
    pub(crate) const INVLPG_LOCAL: u32 = 7;
    pub(crate) const SET_LDT: u32 = 13;
    pub(crate) const NEW_USER_BASEPTR: u32 = 15;
    pub(crate) const CLEAR_PAGE: u32 = 16;
    pub(crate) const COPY_PAGE: u32 = 17;
}

/// Domain numbers with a meaning of their own (`xen.h`).
pub(super) const DOMID_SELF: u64 = 0x7ff0;
pub(super) const DOMID_IO: u64 = 0x7ff1;

/// Virtual interrupts (`xen.h`, `VIRQ_*`).
pub(super) const VIRQ_TIMER: u32 = 0;
pub(super) const VIRQ_CONSOLE: u32 = 2;
