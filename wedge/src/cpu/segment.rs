//! Selectors and descriptors (SDM Vol. 3A, 3.4), and what may be loaded into a segment register.
//!
//! In 64-bit mode bases and limits of ES, CS, SS and DS count for nothing, but the checks of a load do (SDM Vol. 3A,
//! 5.2.1): a kernel relies on them when it restores the selectors of a user program, which may have loaded anything.
//! The tables are the guest's, in its memory; they are read anew at each load, as the processor does.

use super::memory::{self, SYSTEM};
use super::{Exception, Host, VirtualCpu, is_canonical};

/// A segment selector (SDM Vol. 3A, 3.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub u16);

impl Selector {
    /// The selector in the lower bits of a register or stack slot.
    #[must_use]
    pub const fn of(slot: u64) -> Self {
        Self(slot as u16)
    }

    /// Requested privilege level.
    #[must_use]
    pub const fn rpl(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// Whether it names the first entry of the GDT, which is none.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }

    /// Whether it is of the LDT.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0 & 4 != 0
    }

    /// Where its descriptor starts in the table.
    #[must_use]
    pub const fn offset(self) -> u32 {
        (self.0 & !7) as u32
    }

    /// The same with another RPL.
    #[must_use]
    pub const fn with_rpl(self, rpl: u8) -> Self {
        Self(self.0 & !3 | rpl as u16 & 3)
    }
}

/// The first eight bytes of a descriptor (SDM Vol. 3A, 3.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    const fn bit(self, number: u32) -> bool {
        self.0 >> number & 1 != 0
    }

    /// The type field; what it means depends on [`is_system`](Self::is_system).
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.0 >> 40 & 0xf) as u8
    }

    /// Whether it is neither code nor data.
    #[must_use]
    pub const fn is_system(self) -> bool {
        !self.bit(44)
    }

    /// Descriptor privilege level.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    /// Whether the segment is present.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.bit(47)
    }

    /// Whether it is a code segment.
    #[must_use]
    pub const fn is_code(self) -> bool {
        !self.is_system() && self.bit(43)
    }

    /// Whether it is a conforming code segment.
    #[must_use]
    pub const fn is_conforming(self) -> bool {
        self.is_code() && self.bit(42)
    }

    /// Whether it is a data segment, or code that may be read.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        !self.is_system() && (!self.bit(43) || self.bit(41))
    }

    /// Whether it is a data segment that may be written.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        !self.is_system() && !self.bit(43) && self.bit(41)
    }

    /// Whether it was ever loaded.
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        self.bit(40)
    }

    /// L: a 64-bit code segment.
    #[must_use]
    pub const fn is_long(self) -> bool {
        self.bit(53)
    }

    /// D or B: 32-bit operands.
    #[must_use]
    pub const fn is_big(self) -> bool {
        self.bit(54)
    }

    /// RSP when a return to code that is not of 64 bits has loaded a new one with this stack segment: as much of it as
    /// the stack's B flag says (SDM Vol. 3A, 3.4.5; APM Vol. 3, IRET, where it is `RSP.s`). Of 16 bits, the others stay.
    #[must_use]
    pub const fn stack_pointer(self, old: u64, new: u64) -> u64 {
        if self.is_big() { new & 0xffff_ffff } else { old & !0xffff | new & 0xffff }
    }

    /// Offset of the last byte, in bytes.
    #[must_use]
    pub const fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.bit(55) { limit << 12 | 0xfff } else { limit }
    }

    /// Bits 31:0 of the base.
    #[must_use]
    pub const fn base(self) -> u32 {
        (self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000) as u32
    }
}

/// Types of system descriptors in IA-32e mode (SDM Vol. 3A, table 3-2).
pub mod system {
    /// An LDT.
    pub const LDT: u8 = 2;
    /// A 64-bit TSS that is not busy.
    pub const AVAILABLE_TSS: u8 = 9;
    /// A 64-bit TSS that TR was loaded with.
    pub const BUSY_TSS: u8 = 11;
    /// A 64-bit call gate.
    pub const CALL_GATE: u8 = 12;
}

impl VirtualCpu {
    /// Where the descriptor of a selector is, if its table holds `bytes` bytes there.
    #[must_use]
    pub fn descriptor_address(&self, selector: Selector, bytes: u32) -> Option<u64> {
        let (base, limit) = match selector.is_local() {
            false => (self.gdt.base, u32::from(self.gdt.limit)),
            true if self.ldt.selector.is_null() => return None,
            true => (self.ldt.base, self.ldt.limit),
        };
        let offset = selector.offset();
        (offset + (bytes - 1) <= limit).then(|| base.wrapping_add(u64::from(offset)))
    }

    /// The descriptor of a selector that is not null.
    ///
    /// # Errors
    ///
    /// #GP(selector) outside the table; a page fault.
    pub fn descriptor(&self, selector: Selector, host: &mut impl Host) -> Result<Descriptor, Exception> {
        let address = self.descriptor_address(selector, 8).ok_or(Exception::protection(selector))?;
        memory::read_u64(host, address, SYSTEM).map(Descriptor)
    }

    /// Sets bits of the type field of a descriptor in its table: accessed, busy.
    pub(super) fn mark(
        &self,
        selector: Selector,
        descriptor: Descriptor,
        bits: u8,
        host: &mut impl Host,
    ) -> Result<Descriptor, Exception> {
        let marked = Descriptor(descriptor.0 | u64::from(bits) << 40);
        if let (true, Some(address)) = (marked != descriptor, self.descriptor_address(selector, 8)) {
            memory::write_bytes(host, address.wrapping_add(5), &[(marked.0 >> 40) as u8], SYSTEM)?;
        }
        Ok(marked)
    }

    /// What a load of ES, DS, FS or GS checks (SDM Vol. 2B, MOV); `None` is a null selector.
    ///
    /// # Errors
    ///
    /// #GP(selector), #NP(selector), a page fault.
    pub fn data_segment(
        &self,
        selector: Selector,
        cpl: u8,
        host: &mut impl Host,
    ) -> Result<Option<Descriptor>, Exception> {
        if selector.is_null() {
            return Ok(None);
        }
        let descriptor = self.descriptor(selector, host)?;
        if !descriptor.is_readable() || !may_use(descriptor, selector, cpl) {
            return Err(Exception::protection(selector));
        }
        if !descriptor.is_present() {
            return Err(Exception::not_present(selector));
        }
        self.mark(selector, descriptor, 1, host).map(Some)
    }

    /// What a load of SS checks for code of a privilege level (SDM Vol. 2B, MOV; IRET and RET check the same of the
    /// level that they return to). A null selector is for 64-bit code in the kernel only; it has an empty descriptor.
    ///
    /// # Errors
    ///
    /// #GP(selector), #SS(selector), a page fault.
    pub fn check_stack_segment(
        &self,
        selector: Selector,
        cpl: u8,
        long: bool,
        host: &mut impl Host,
    ) -> Result<Descriptor, Exception> {
        if selector.is_null() {
            return if long && cpl != 3 { Ok(Descriptor(0)) } else { Err(Exception::PROTECTION) };
        }
        let descriptor = self.descriptor(selector, host)?;
        if selector.rpl() != cpl || !descriptor.is_writable() || descriptor.dpl() != cpl {
            return Err(Exception::protection(selector));
        }
        if !descriptor.is_present() {
            return Err(Exception::stack(selector));
        }
        self.mark(selector, descriptor, 1, host)
    }

    /// A descriptor that has 16 bytes (SDM Vol. 3A, 3.5.2), for LLDT and LTR: with its base, whose upper half is the
    /// second eight bytes.
    ///
    /// # Errors
    ///
    /// #GP(selector), #NP(selector), a page fault.
    pub(super) fn system_segment(
        &self,
        selector: Selector,
        kind: u8,
        host: &mut impl Host,
    ) -> Result<(Descriptor, u64), Exception> {
        let wrong = Exception::protection(selector);
        if selector.is_local() {
            return Err(wrong);
        }
        let address = self.descriptor_address(selector, 16).ok_or(wrong)?;
        let bytes: [u8; 16] = memory::read(host, address, SYSTEM)?;
        let whole = u128::from_le_bytes(bytes);
        let descriptor = Descriptor(whole as u64);
        if !descriptor.is_system() || descriptor.kind() != kind {
            return Err(wrong);
        }
        if !descriptor.is_present() {
            return Err(Exception::not_present(selector));
        }
        let base = ((whole >> 64) as u64) << 32 | u64::from(descriptor.base());
        if is_canonical(base) { Ok((descriptor, base)) } else { Err(wrong) }
    }
}

/// Whether privilege lets a data access through a selector (SDM Vol. 3A, 5.5).
#[must_use]
pub const fn may_use(descriptor: Descriptor, selector: Selector, cpl: u8) -> bool {
    descriptor.is_conforming() || (descriptor.dpl() >= cpl && descriptor.dpl() >= selector.rpl())
}
