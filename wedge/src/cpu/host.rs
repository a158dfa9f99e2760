//! What the virtual CPU needs of the real machine.

use super::{Context, CpuidResult, Exception, VirtualCpu};

/// A segment register that a host keeps; CS and SS are part of a [`Context`].
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Es,
    Ds,
    Fs,
    Gs,
}

/// A register whose new value may concern the host. Changes of CR3 and XCR0 have a method of their
/// own.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRegister {
    Cr0,
    Cr4,
    Cr8,
    Efer,
}

/// A descriptor table, or the task register.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorTable {
    Gdt,
    Ldt,
    Idt,
    Tr,
}

/// How much one port access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Long,
}

impl Size {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Long => 4,
        }
    }

    /// What is read where nobody answers.
    #[must_use]
    pub const fn ones(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes())
    }
}

/// The x87 and SSE registers, as FXSAVE stores them (SDM Vol. 1, 10.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FloatingPoint(pub [u8; 512]);

impl FloatingPoint {
    /// As they are after FNINIT and a reset: all x87 and SSE exceptions are masked.
    pub const INITIAL: Self = {
        let mut state = [0; 512];
        (state[0], state[1]) = (0x7f, 0x03);
        (state[24], state[25]) = (0x80, 0x1f);
        Self(state)
    };

    /// A word of it.
    #[must_use]
    pub fn word(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
    }
}

/// The real machine, as far as the virtual CPU needs it.
pub trait Host {
    /// Reads guest memory at a linear address, with the rights of user mode or of the kernel. The
    /// whole range is canonical.
    ///
    /// # Errors
    ///
    /// The page fault to present to the guest, with its address.
    fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception>;

    /// Writes guest memory, likewise. If it fails, nothing was written.
    ///
    /// # Errors
    ///
    /// The page fault to present to the guest, with its address.
    fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception>;

    /// What the real CPUID says.
    fn raw_cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult;

    /// A register has a new value, which the CPU already holds.
    fn control_changed(&mut self, cpu: &VirtualCpu, register: ControlRegister, old: u64);

    /// CR3 was loaded; `keep`: bit 63 was set, so that what is cached for the PCID stays valid.
    fn load_root(&mut self, cpu: &VirtualCpu, keep: bool);

    /// INVLPG: the page in the current PCID, and global translations of it.
    fn flush_page(&mut self, address: u64);

    /// INVPCID type 0: one page of one PCID.
    fn flush_pcid_page(&mut self, pcid: u16, address: u64);

    /// INVPCID type 1: all of one PCID but global translations.
    fn flush_pcid(&mut self, pcid: u16);

    /// INVPCID types 2 and 3: all PCIDs, with or without global translations.
    fn flush_all(&mut self, include_global: bool);

    /// A segment register is loaded. All checks are done; `None` is a null selector.
    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>);

    /// The selector in a segment register.
    fn read_segment(&mut self, segment: Segment) -> u16;

    /// FS base.
    fn fs_base(&mut self) -> u64;

    /// Sets the FS base.
    fn set_fs_base(&mut self, base: u64);

    /// GS base: the one that the guest's next access uses.
    fn gs_base(&mut self) -> u64;

    /// Sets the GS base.
    fn set_gs_base(&mut self, base: u64);

    /// The GS base that SWAPGS would make active.
    fn kernel_gs_base(&mut self) -> u64;

    /// Sets the GS base that SWAPGS would make active.
    fn set_kernel_gs_base(&mut self, base: u64);

    /// SWAPGS.
    fn swap_gs(&mut self);

    /// A table register has a new value, which the CPU already holds.
    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable);

    /// A debug register: 0-3, 6 or 7.
    fn debug_register(&mut self, number: u8) -> u64;

    /// Sets a debug register; `false` if the host refuses the value.
    fn set_debug_register(&mut self, number: u8, value: u64) -> bool;

    /// Reads a port. Bits above the size are ignored.
    fn port_in(&mut self, port: u16, size: Size) -> u32;

    /// Writes a port. Bits above the size are zero.
    fn port_out(&mut self, port: u16, size: Size, value: u32);

    /// The time-stamp counter, as RDTSC reads it.
    fn time_stamp(&mut self) -> u64;

    /// XCR0 has a new, legal value.
    fn set_xcr0(&mut self, value: u64);

    /// The program's x87 and SSE registers, in the form with addresses of 64 bits, or with
    /// selectors; `false` if they are in the registers, so that the instruction itself does what it
    /// is to do.
    fn save_floating_point(&mut self, _state: &mut FloatingPoint, _wide: bool) -> bool {
        false
    }

    /// Sets them, where they are not in the registers. All checks are done.
    fn load_floating_point(&mut self, _state: &FloatingPoint, _wide: bool) {}

    /// HLT: returns when there is an interrupt to deliver. With interrupts off in the context there
    /// never will be.
    fn wait_for_interrupt(&mut self, cpu: &VirtualCpu, context: &Context);

    /// WBINVD.
    fn write_back_caches(&mut self);
}
