//! What differs between versions of seL4: the numbers of invocations, and the shape of what the
//! kernel tells at the start.
//!
//! The numbers are in no message: they are generated from `libsel4/include/interfaces/*.xml` and
//! its like, in the order of the methods, less what the configuration leaves out. So each version
//! that is served has a table here. Which version it is, the shape of the bootinfo tells
//! ([`BootInfo::find`](super::bootinfo::BootInfo::find)): 5.0.0 packs the structure, and has the
//! frequency of the time-stamp counter in it.
//!
//! What is the same in both is said where it is used: the system calls and their registers, fault
//! messages, object types, capabilities of the first thread.

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

/// A version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Version {
    /// 5.0.0, of 2017, which crates.io has.
    V5 = 5,
    /// 16.0.0-dev, and those whose numbers are the same.
    Current = 16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5.0.0",
            Self::Current => "16.0.0 or one like it",
        })
    }
}

/// Numbers of invocations ("labels"), without SMP, MCS, IOMMU, VTX and the debugging API.
#[derive(Debug)]
pub(super) struct Abi {
    pub(super) untyped_retype: u64,
    pub(super) tcb_read_registers: u64,
    pub(super) tcb_write_registers: u64,
    pub(super) tcb_set_priority: u64,
    pub(super) tcb_set_ipc_buffer: u64,
    pub(super) tcb_set_space: u64,
    pub(super) tcb_bind_notification: u64,
    pub(super) cnode_delete: u64,
    pub(super) cnode_copy: u64,
    pub(super) cnode_mint: u64,
    pub(super) irq_ack: u64,
    pub(super) irq_set_handler: u64,
    pub(super) pdpt_map: u64,
    pub(super) page_directory_map: u64,
    pub(super) page_table_map: u64,
    pub(super) page_map: u64,
    pub(super) page_unmap: u64,
    pub(super) asid_pool_assign: u64,
    /// Of the control of I/O ports; 5.0.0 has one capability for all ports instead.
    pub(super) io_port_control_issue: Option<u64>,
    /// Of one byte; two and four follow.
    pub(super) io_port_in: u64,
    pub(super) io_port_out: u64,
    pub(super) irq_control_get_ioapic: u64,
    /// How many registers of a thread there are: with the GS base, or without.
    pub(super) registers: usize,
    /// By how many bits the size of a CNode's guard is shifted in the word that says it.
    pub(super) guard_shift: u32,
    /// Whether a capability is an argument of the setting of a priority.
    pub(super) priority_needs_authority: bool,
}

/// seL4 5.0.0: `libsel4/include/interfaces/sel4.xml`, `libsel4/sel4_arch_include/x86_64/` and
/// `libsel4/arch_include/x86/interfaces/sel4arch.xml`; `libsel4/include/sel4/types_64.bf`, `Guard`.
static V5: Abi = Abi {
    untyped_retype: 1,
    tcb_read_registers: 2,
    tcb_write_registers: 3,
    tcb_set_priority: 6,
    tcb_set_ipc_buffer: 8,
    tcb_set_space: 9,
    tcb_bind_notification: 12,
    cnode_delete: 15,
    cnode_copy: 17,
    cnode_mint: 18,
    irq_ack: 24,
    irq_set_handler: 25,
    pdpt_map: 28,
    page_directory_map: 30,
    page_table_map: 33,
    page_map: 37,
    page_unmap: 39,
    asid_pool_assign: 43,
    io_port_control_issue: None,
    io_port_in: 44,
    io_port_out: 47,
    irq_control_get_ioapic: 50,
    registers: 19,
    guard_shift: 2,
    priority_needs_authority: false,
};

/// seL4 16.0.0-dev: `libsel4/include/interfaces/object-api.xml`, and those of `x86_64` and `x86`;
/// `libsel4/include/sel4/shared_types.bf`, `seL4_CNode_CapData`.
static CURRENT: Abi = Abi {
    untyped_retype: 1,
    tcb_read_registers: 2,
    tcb_write_registers: 3,
    tcb_set_priority: 6,
    tcb_set_ipc_buffer: 9,
    tcb_set_space: 10,
    tcb_bind_notification: 13,
    cnode_delete: 18,
    cnode_copy: 20,
    cnode_mint: 21,
    irq_ack: 27,
    irq_set_handler: 28,
    pdpt_map: 33,
    page_directory_map: 35,
    page_table_map: 37,
    page_map: 39,
    page_unmap: 40,
    asid_pool_assign: 43,
    io_port_control_issue: Some(44),
    io_port_in: 45,
    io_port_out: 48,
    irq_control_get_ioapic: 51,
    registers: 20,
    guard_shift: 0,
    priority_needs_authority: true,
};

static VERSION: AtomicU8 = AtomicU8::new(0);

/// From here on this version is spoken.
pub(super) fn use_version(version: Version) {
    VERSION.store(version as u8, Ordering::Relaxed);
}

/// The version that was found.
pub(super) fn version() -> Version {
    if VERSION.load(Ordering::Relaxed) == Version::Current as u8 { Version::Current } else { Version::V5 }
}

/// Its numbers.
pub(super) fn abi() -> &'static Abi {
    match version() {
        Version::V5 => &V5,
        Version::Current => &CURRENT,
    }
}

/// What an invocation says instead of an answer (`seL4_Error`, `libsel4/include/sel4/errors.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) u64);

impl Refused {
    /// A table that should lead to an address is missing.
    pub(super) const FAILED_LOOKUP: Self = Self(6);
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 11] = [
            "no error",
            "invalid argument",
            "invalid capability",
            "illegal operation",
            "range error",
            "alignment error",
            "failed lookup",
            "truncated message",
            "delete first",
            "revoke first",
            "not enough memory",
        ];
        match usize::try_from(self.0).ok().and_then(|number| NAMES.get(number)) {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}
