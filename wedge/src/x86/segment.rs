//! Selectors and descriptors (SDM Vol. 3A, 3.4).

#![expect(clippy::cast_possible_truncation, reason = "a cast takes the field that is at the bottom")]

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

    /// RSP when a return to code that is not of 64 bits has loaded a new one with this stack
    /// segment: as much of it as the stack's B flag says (SDM Vol. 3A, 3.4.5; APM Vol. 3, IRET,
    /// where it is `RSP.s`). Of 16 bits, the others stay.
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
    /// A 64-bit interrupt gate.
    pub const INTERRUPT_GATE: u8 = 14;
    /// A 64-bit trap gate.
    pub const TRAP_GATE: u8 = 15;
}

/// A 64-bit code segment of privilege level 0.
pub const FLAT_CODE: Descriptor = Descriptor(0x00af_9a00_0000_ffff);
/// A data segment of privilege level 0, of 4 GB.
pub const FLAT_DATA: Descriptor = Descriptor(0x00cf_9200_0000_ffff);
