//! Numbers of model-specific registers (SDM Vol. 4, chapter 2; APM Vol. 2, appendix A), without the
//! `IA32_` of their names.

#![expect(missing_docs, reason = "the architecture's names")]

pub const TSC: u32 = 0x10;
pub const PLATFORM_ID: u32 = 0x17;
pub const APIC_BASE: u32 = 0x1b;
pub const BIOS_SIGN_ID: u32 = 0x8b;
pub const SYSENTER_CS: u32 = 0x174;
pub const SYSENTER_ESP: u32 = 0x175;
pub const SYSENTER_EIP: u32 = 0x176;
pub const MISC_ENABLE: u32 = 0x1a0;
pub const DEBUGCTL: u32 = 0x1d9;
pub const PAT: u32 = 0x277;
pub const EFER: u32 = 0xc000_0080;
pub const STAR: u32 = 0xc000_0081;
pub const LSTAR: u32 = 0xc000_0082;
pub const CSTAR: u32 = 0xc000_0083;
pub const FMASK: u32 = 0xc000_0084;
pub const FS_BASE: u32 = 0xc000_0100;
pub const GS_BASE: u32 = 0xc000_0101;
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
pub const TSC_AUX: u32 = 0xc000_0103;
pub const AMD_SYSCFG: u32 = 0xc001_0010;
pub const AMD_HWCR: u32 = 0xc001_0015;
/// AMD's configuration of the northbridge (`NB_CFG1`): by which ports PCI is reached.
pub const AMD_NB_CFG: u32 = 0xc001_001f;
/// Interrupt pending message: Linux reads it on family 15 without a guard, to see whether C1E stops
/// the timer.
pub const AMD_INTERRUPT_PENDING: u32 = 0xc001_0055;
pub const AMD_TOP_MEM: u32 = 0xc001_001a;
pub const AMD_TOP_MEM2: u32 = 0xc001_001d;

/// Bits of `IA32_APIC_BASE` (SDM Vol. 3A, 11.4.4 and 11.12.1).
pub mod apic_base {
    /// The local APIC is enabled.
    pub const ENABLED: u64 = 1 << 11;
    /// It is in x2APIC mode.
    pub const X2APIC: u64 = 1 << 10;
}
