//! Control registers: which values are legal (SDM Vol. 3A, 2.5).
//!
//! A bit exists if the CPUID that the guest sees says so; [`Limits`] holds what follows from that,
//! computed once.

use super::cpuid::{self, Register};
use super::{ControlRegister, Exception, Host, VirtualCpu};
use crate::x86::control::{cr0, cr3, cr4, efer, xcr0};

/// Which bits of the control registers exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of CR4.
    pub cr4: u64,
    /// Of EFER.
    pub efer: u64,
    /// Of XCR0; 0 without XSAVE.
    pub xcr0: u64,
    /// Width of a physical address.
    pub physical_bits: u8,
}

/// A control register that MOV can name.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
}

/// A bit of CR4 that exists if a bit of CPUID is set.
const CR4_FEATURES: [(u32, Register, u32, u64); 10] = [
    (1, Register::Edx, 2, cr4::DE),
    (1, Register::Edx, 3, cr4::PSE),
    (1, Register::Edx, 4, cr4::TSD),
    (1, Register::Edx, 6, cr4::PAE),
    (1, Register::Edx, 13, cr4::PGE),
    (1, Register::Edx, 24, cr4::OSFXSR),
    (1, Register::Edx, 25, cr4::OSXMMEXCPT),
    (1, Register::Ecx, 17, cr4::PCIDE),
    (1, Register::Ecx, 26, cr4::OSXSAVE),
    (7, Register::Ebx, 0, cr4::FSGSBASE),
];

impl Limits {
    /// What the CPUID says that the guest sees.
    pub fn of(host: &mut impl Host) -> Self {
        let mut has = |leaf, register, bit: u32| cpuid::policy(host, leaf, 0).get(register) >> bit & 1 != 0;
        let existing = |(leaf, register, bit, cr4)| if has(leaf, register, bit) { cr4 } else { 0 };
        let cr4 = CR4_FEATURES.into_iter().map(existing).fold(cr4::PCE, |all, bit| all | bit);
        let nxe = if has(0x8000_0001, Register::Edx, 20) { efer::NXE } else { 0 };
        let xcr0 = if cr4 & cr4::OSXSAVE == 0 { 0 } else { u64::from(cpuid::policy(host, 0xd, 0).eax) };
        let physical_bits = cpuid::policy(host, 0x8000_0008, 0).eax as u8;
        Self { cr4, efer: efer::SCE | efer::LME | efer::LMA | nxe, xcr0, physical_bits }
    }
}

impl VirtualCpu {
    /// MOV from a control register.
    #[must_use]
    pub const fn control(&self, register: Control) -> u64 {
        match register {
            Control::Cr0 => self.cr0,
            Control::Cr2 => self.cr2,
            Control::Cr3 => self.cr3,
            Control::Cr4 => self.cr4,
            Control::Cr8 => self.cr8,
        }
    }

    /// MOV to a control register (SDM Vol. 2B, MOV).
    ///
    /// # Errors
    ///
    /// #GP(0) for a value that is not legal.
    pub fn set_control(&mut self, register: Control, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        match register {
            Control::Cr0 => self.set_cr0(value, host),
            Control::Cr2 => {
                self.cr2 = value;
                Ok(())
            }
            Control::Cr3 => self.set_cr3(value, host),
            Control::Cr4 => self.set_cr4(value, host),
            Control::Cr8 => self.set_cr8(value, host),
        }
    }

    /// Reserved bits in the lower half are ignored. PE and PG stay set: see the essay of the
    /// [module](super).
    fn set_cr0(&mut self, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        let uncached = value & (cr0::CD | cr0::NW);
        legal(value >> 32 == 0 && value & cr0::PE != 0 && value & cr0::PG != 0 && uncached != cr0::NW)?;
        let old = core::mem::replace(&mut self.cr0, value & cr0::ALL | cr0::ET);
        self.announce(ControlRegister::Cr0, old, self.cr0, host);
        Ok(())
    }

    /// Bit 63 means something only with PCIDs (SDM Vol. 3A, 4.10.4.1), and is never kept.
    fn set_cr3(&mut self, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        let keep = self.cr4 & cr4::PCIDE != 0 && value & cr3::KEEP != 0;
        let root = if keep { value & !cr3::KEEP } else { value };
        legal(root >> self.limits.physical_bits == 0)?;
        self.cr3 = root;
        host.load_root(self, keep);
        Ok(())
    }

    /// PAE stays set in IA-32e mode; PCIDE can be set only while the current PCID is 0 (SDM Vol.
    /// 3A, 4.10.1).
    fn set_cr4(&mut self, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        let sets_pcide = value & !self.cr4 & cr4::PCIDE != 0;
        legal(value & !self.limits.cr4 == 0 && value & cr4::PAE != 0 && !(sets_pcide && self.cr3 & cr3::PCID != 0))?;
        let old = core::mem::replace(&mut self.cr4, value);
        self.announce(ControlRegister::Cr4, old, value, host);
        Ok(())
    }

    fn set_cr8(&mut self, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        legal(value < 16)?;
        let old = core::mem::replace(&mut self.cr8, value);
        self.announce(ControlRegister::Cr8, old, value, host);
        Ok(())
    }

    /// WRMSR to EFER: LMA is read-only, LME cannot be changed while paging is on (SDM Vol. 3A,
    /// 4.1.2).
    pub(super) fn set_efer(&mut self, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        legal(value & !self.limits.efer == 0 && value & efer::LME == self.efer & efer::LME)?;
        let old = self.efer;
        self.efer = value & !efer::LMA | old & efer::LMA;
        self.announce(ControlRegister::Efer, old, self.efer, host);
        Ok(())
    }

    /// XSETBV (SDM Vol. 1, 13.3): x87 state is always on, AVX needs SSE, AVX-512 needs AVX and
    /// comes as a whole.
    pub(super) fn set_xcr0(&mut self, value: u64, host: &mut impl Host) -> Result<(), Exception> {
        let avx = value & xcr0::AVX == 0 || value & xcr0::SSE != 0;
        let avx512 = match value & xcr0::AVX512 {
            0 => true,
            bits => bits == xcr0::AVX512 && value & xcr0::AVX != 0,
        };
        legal(value & !self.limits.xcr0 == 0 && value & xcr0::X87 != 0 && avx && avx512)?;
        self.xcr0 = value;
        host.set_xcr0(value);
        Ok(())
    }

    fn announce(&self, register: ControlRegister, old: u64, new: u64, host: &mut impl Host) {
        if old != new {
            host.control_changed(self, register, old);
        }
    }
}

pub(super) fn legal(condition: bool) -> Result<(), Exception> {
    if condition { Ok(()) } else { Err(Exception::PROTECTION) }
}
