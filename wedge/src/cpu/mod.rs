//! The virtual CPU: what a guest kernel sees of the processor when it really runs in ring 3.
//!
//! In ring 3 a sensitive instruction either faults or, worse, does something else without a word.
//! So each of them is carried out here instead, on a state of our own, with the meaning that it has
//! at the privilege level that the guest *believes* to run at: bits 1:0 of the virtual CS. The
//! manual's pseudo-code is the specification, down to the error codes, since Linux probes with
//! instructions that may fault and repairs what it finds.
//!
//! Nothing here knows a hypercall. What must reach the real machine (page tables, segment
//! registers, ports, MSRs) leaves through [`Host`]; memory is read and written through it too, at
//! the guest's addresses and with the guest's rights. So the whole CPU is tested as an ordinary
//! program.
//!
//! The mode is 64-bit mode, from the beginning on: the guest is entered there, and nothing lets it
//! leave (clearing CR0.PG in 64-bit mode is #GP, SDM Vol. 3A, 4.1.2). Compatibility mode exists for
//! the guest's user programs only; they enter through gates and leave through IRET and SYSRET like
//! others, but only 64-bit code is emulated.
//!
//! * [`control`], [`mod@cpuid`], [`msr`]: which values are legal, what the CPU says of itself,
//!   model-specific registers.
//! * [`segment`], [`gate`]: descriptors. [`deliver()`](deliver::deliver), [`transfer`]: in and out
//!   of the kernel.
//! * [`emulate()`](emulate::emulate): one instruction.

#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are wider than most of what is in them: a cast takes the lower part, as the processor does"
)]

mod accessed;
pub mod control;
pub mod cpuid;
pub mod deliver;
pub mod emulate;
mod exception;
pub mod gate;
mod host;
mod memory;
pub mod msr;
pub mod segment;
pub mod transfer;

#[cfg(test)]
mod tests;

pub use accessed::accessed;
pub use control::{Control, Limits};
pub use cpuid::{CpuidResult, cpuid};
pub use deliver::{Event, Shutdown, deliver, software_interrupt};
pub use emulate::{Flow, decode, emulate};
pub use exception::Exception;
pub use host::{ControlRegister, DescriptorTable, FloatingPoint, Host, Segment, Size};
pub use transfer::{Frame, ReturnTo, check_return, drop_privileged_segments, syscall, sysenter};

use crate::x86::control::{cr0, cr4, efer, xcr0};
use crate::x86::segment::Selector;

/// General-purpose registers but RSP, in the order in which an entry point pushes them: R15 at the
/// lowest address.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
}

/// What an entry point saves. All values are virtual: CS and SS are the guest's selectors,
/// RFLAGS.IF and IOPL its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Context {
    /// General-purpose registers.
    pub registers: Registers,
    /// The vector of the exception; the host's business otherwise.
    pub vector: u64,
    /// Its error code, or 0.
    pub error: u64,
    /// Where the guest is.
    pub rip: u64,
    /// Its CS; bits 1:0 are the current privilege level.
    pub cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its SS; a null selector in the kernel, more often than not.
    pub ss: u64,
}

impl Context {
    /// The current privilege level that the guest believes to run at.
    #[must_use]
    pub const fn cpl(&self) -> u8 {
        (self.cs & 3) as u8
    }

    /// Whether memory is accessed with the rights of user mode.
    #[must_use]
    pub const fn is_user(&self) -> bool {
        self.cpl() == 3
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Linear address of the table.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u16,
}

/// LDTR or TR with the descriptor that it was loaded from. Nothing can be accessed through a null
/// selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadedSegment {
    /// The selector.
    pub selector: Selector,
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u32,
}

/// State of the CPU that is neither in a [`Context`] nor in a real register.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug)]
pub struct VirtualCpu {
    pub cr0: u64,
    pub cr2: u64,
    /// Bit 63 is not kept.
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub xcr0: u64,
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub apic_base: u64,
    pub misc_enable: u64,
    pub tsc_aux: u32,
    pub gdt: Table,
    pub idt: Table,
    pub ldt: LoadedSegment,
    pub tr: LoadedSegment,
    /// What [`emulate()`](emulate::emulate) last loaded into ES, DS, FS, GS (by [`Segment`]), for
    /// hosts whose real registers cannot hold it.
    pub selectors: [Selector; 4],
    /// Which bits of the registers exist.
    pub limits: Limits,
}

impl VirtualCpu {
    /// A CPU as a boot loader leaves it in 64-bit mode; what depends on the loader (CR3, GDT ...)
    /// is to be filled in.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            cr0: cr0::PE | cr0::ET | cr0::NE | cr0::PG,
            cr2: 0,
            cr3: 0,
            cr4: cr4::PAE,
            cr8: 0,
            xcr0: xcr0::X87,
            efer: efer::LME | efer::LMA,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: msr::PAT_AT_RESET,
            apic_base: msr::APIC_BASE_AT_RESET,
            misc_enable: msr::FAST_STRINGS,
            tsc_aux: 0,
            gdt: Table { base: 0, limit: 0 },
            idt: Table { base: 0, limit: 0 },
            ldt: LoadedSegment { selector: Selector(0), base: 0, limit: 0 },
            tr: LoadedSegment { selector: Selector(0), base: 0, limit: 0 },
            selectors: [Selector(0); 4],
            limits,
        }
    }
}

/// Whether bits 63:47 of an address are equal: with 4-level paging, all others are refused (SDM
/// Vol. 1, 3.3.7.1).
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    address.wrapping_add(1 << 47) < 1 << 48
}
