//! Model-specific registers (SDM Vol. 4; APM Vol. 2, appendix A).
//!
//! There are those that belong to 64-bit mode, and a few more that Linux reads without being ready
//! for a fault. Any other is
//! #GP(0), as on a processor that does not have it: Linux takes that for an answer.

use super::control::legal;
use super::{Exception, Host, VirtualCpu, is_canonical};
use crate::x86::msr::{
    AMD_HWCR, AMD_INTERRUPT_PENDING, AMD_NB_CFG, AMD_SYSCFG, AMD_TOP_MEM, AMD_TOP_MEM2, APIC_BASE, BIOS_SIGN_ID, CSTAR,
    DEBUGCTL, EFER, FMASK, FS_BASE, GS_BASE, KERNEL_GS_BASE, LSTAR, MISC_ENABLE, PAT, PLATFORM_ID, STAR, SYSENTER_CS,
    SYSENTER_EIP, SYSENTER_ESP, TSC, TSC_AUX, apic_base,
};

/// `IA32_PAT` at reset: WB, WT, UC-, UC, twice (SDM Vol. 3A, 12.12.4).
pub const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;
/// `IA32_APIC_BASE`: of the bootstrap processor, disabled (SDM Vol. 3A, 11.4.4).
pub const APIC_BASE_AT_RESET: u64 = 0xfee0_0100;
/// `IA32_MISC_ENABLE`: fast strings (SDM Vol. 4, table 2-2).
pub const FAST_STRINGS: u64 = 1;
/// `IA32_APIC_BASE`: whatever makes use of it.
const APIC_ON: u64 = apic_base::ENABLED | apic_base::X2APIC;
/// `IA32_DEBUGCTL`: last-branch records, single-step on branches. They can be asked for, and do
/// nothing.
const BRANCHES: u64 = 3;
/// HWCR.TscFreqSel: the counter runs at the rate of P0. Linux complains of firmware otherwise.
const TSC_FREQUENCY_SELECT: u64 = 1 << 24;

impl VirtualCpu {
    /// RDMSR.
    ///
    /// # Errors
    ///
    /// #GP(0) if there is no such register.
    pub fn read_msr(&self, number: u32, host: &mut impl Host) -> Result<u64, Exception> {
        Ok(match number {
            FS_BASE => host.fs_base(),
            GS_BASE => host.gs_base(),
            KERNEL_GS_BASE => host.kernel_gs_base(),
            TSC => host.time_stamp(),
            EFER => self.efer,
            STAR => self.star,
            LSTAR => self.lstar,
            CSTAR => self.cstar,
            FMASK => self.fmask,
            SYSENTER_CS => self.sysenter_cs,
            SYSENTER_ESP => self.sysenter_esp,
            SYSENTER_EIP => self.sysenter_eip,
            PAT => self.pat,
            APIC_BASE => self.apic_base,
            MISC_ENABLE => self.misc_enable,
            TSC_AUX => u64::from(self.tsc_aux),
            AMD_HWCR => TSC_FREQUENCY_SELECT,
            // BIOS_SIGN_ID is the revision of the microcode, on AMD's processors as well: none.
            PLATFORM_ID
            | BIOS_SIGN_ID
            | DEBUGCTL
            | AMD_SYSCFG
            | AMD_TOP_MEM
            | AMD_TOP_MEM2
            | AMD_INTERRUPT_PENDING
            | AMD_NB_CFG => 0,
            _ => return Err(Exception::PROTECTION),
        })
    }

    /// WRMSR. The counter cannot be set: RDTSC runs in ring 3 and would tell another time.
    ///
    /// # Errors
    ///
    /// #GP(0) if there is no such register or the value is not legal.
    pub fn write_msr(&mut self, number: u32, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        match number {
            FS_BASE | GS_BASE | KERNEL_GS_BASE | LSTAR | CSTAR | SYSENTER_ESP | SYSENTER_EIP => {
                legal(is_canonical(value))?;
                self.write_address(number, value, host);
            }
            EFER => self.set_efer(value, host)?,
            STAR => self.star = value,
            FMASK => self.fmask = value & 0xffff_ffff,
            SYSENTER_CS => self.sysenter_cs = value & 0xffff_ffff,
            PAT => {
                legal(value.to_le_bytes().iter().all(|memory_type| matches!(memory_type, 0 | 1 | 4..=7)))?;
                self.pat = value;
            }
            APIC_BASE => {
                legal(value & APIC_ON == 0)?;
                self.apic_base = value;
            }
            MISC_ENABLE => self.misc_enable = value,
            TSC_AUX => self.tsc_aux = u32::try_from(value).map_err(|_| Exception::PROTECTION)?,
            DEBUGCTL => legal(value & !BRANCHES == 0)?,
            TSC | BIOS_SIGN_ID | AMD_SYSCFG | AMD_HWCR | AMD_TOP_MEM | AMD_TOP_MEM2 | AMD_NB_CFG => {}
            _ => return Err(Exception::PROTECTION),
        }
        Ok(())
    }

    fn write_address(&mut self, number: u32, value: u64, host: &mut impl Host) {
        match number {
            FS_BASE => host.set_fs_base(value),
            GS_BASE => host.set_gs_base(value),
            KERNEL_GS_BASE => host.set_kernel_gs_base(value),
            LSTAR => self.lstar = value,
            CSTAR => self.cstar = value,
            SYSENTER_ESP => self.sysenter_esp = value,
            _ => self.sysenter_eip = value,
        }
    }
}
