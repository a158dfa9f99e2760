//! The annotation record: what the assembler stage tells the wedge about one site.
//!
//! A record has to survive an assembler, `ld -r`, objtool, a final link with or without relocation,
//! `insmod`, and a kernel image loaded at a random address, without anybody on that way knowing
//! what it is. So it is:
//!
//! * *self-relative*: `site` holds the distance from the field itself to the site. That is one
//!   `R_X86_64_PC32` relocation, resolved for good when the kernel is linked; KASLR moves both ends
//!   together.
//! * *fixed-size and little-endian*, read by `no_std` code that allocates nothing.
//! * carried in an ELF *note* (ELF gABI, "Note Section"). Linux's linker script collects `.note.*`
//!   without a patch, and the note's type is the version of the format. One note per object file; a
//!   link merely puts them end to end.
//!
//! The original bytes are not stored: they stand at the site until the wedge has decoded them.
//!
//! Everything here describes what a record *alleges*. Nothing may be written to a site before
//! [`crate::check`] has held the allegation against the bytes it talks about.

use bitflags::bitflags;

use crate::instructions::Class;

/// Version of the record format, the `type` of the ELF note that holds the records.
pub const VERSION: u32 = 1;

/// Name of the ELF note, with its terminating NUL (`namesz` counts it).
pub const NOTE_NAME: &[u8; 12] = b"Afterburner\0";

/// The section that holds the records in objects and modules.
pub const NOTE_SECTION: &str = ".note.afterburn";

/// The section that holds the records in a packed image.
pub const IMAGE_SECTION: &str = ".afterburn";

/// A slot is never shorter than `call rel32` or `jmp rel32` (SDM Vol. 2A, CALL and JMP: opcodes E8
/// and E9, 5 bytes), for that is what makes every site rewritable.
pub const MINIMUM_SLOT: u8 = 5;

/// Added to `site` in the record of a site that is not padded. Linux's objtool takes a relocation
/// that points at an instruction for a code pointer that escapes, and wants an ENDBR64 there
/// (`validate_ibt`). A padded site it can be told not to mind, but not one in 32-bit code, whose
/// boundaries it does not see. So such a record points nowhere.
pub const UNPADDED_DISPLACEMENT: i32 = 1 << 30;

bitflags! {
    /// What is known of a site beside its place and class. In a record that the text stage wrote, a
    /// clear bit says nothing: of a site in a macro or its arguments it cannot tell where that will
    /// be expanded. [`object::verify`] completes the flags from the object.
    ///
    /// [`object::verify`]: ../object/verify/index.html
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Flags: u16 {
        /// In text that is freed after boot (`.init.text`, `.exit.text`): never touch it later.
        const INIT = 1 << 0;
        /// No usable stack at the site (`.entry.text`, apart from functions that are called): a
        /// replacement must not push, nor call.
        const NO_STACK = 1 << 1;
        /// In `.altinstr_replacement`: copied over another place when the kernel applies
        /// alternatives.
        const REPLACEMENT = 1 << 2;
        /// In text that the guest copies elsewhere and runs there: a relative branch in it would
        /// break.
        const COPIED = 1 << 3;
        /// The exception table has an entry for the site.
        const EXTABLE = 1 << 4;
        /// Runs at its physical address, before the guest has set up paging (`.head.text`).
        const HEAD = 1 << 5;
        /// Not padded: 16- or 32-bit code.
        const CODE32 = 1 << 8;
        /// Not padded: the user switched the class off.
        const SWITCHED_OFF = 1 << 9;
        /// Not padded: the text counts the bytes of a distance over the site, or may do so.
        const COUNTED = 1 << 10;
        /// Not padded: its interrupt shadow has to reach the next instruction (SDM Vol. 2B, STI).
        const SHADOW = 1 << 11;
        /// Not padded: what tells the unwinder of a change of context has to stand directly behind
        /// it.
        const HINTED = 1 << 12;
        /// Not padded: no instruction at all, but data in text that would pass for one.
        const DATA = 1 << 13;
    }
}

impl Flags {
    /// The flags that say why a site was listed but not padded.
    pub const UNPADDED: Self = Self::CODE32
        .union(Self::SWITCHED_OFF)
        .union(Self::COUNTED)
        .union(Self::SHADOW)
        .union(Self::HINTED)
        .union(Self::DATA);

    /// The stated reason for an unpadded site, in words; `None` for a padded one.
    #[must_use]
    pub fn unpadded_reason(self) -> Option<&'static str> {
        if self.contains(Self::DATA) {
            Some("data in text")
        } else if self.contains(Self::CODE32) {
            Some("16- or 32-bit code")
        } else if self.contains(Self::SWITCHED_OFF) {
            Some("class switched off")
        } else if self.contains(Self::COUNTED) {
            Some("within a distance that the text counts in bytes")
        } else if self.contains(Self::SHADOW) {
            Some("its interrupt shadow has to reach the next instruction")
        } else if self.contains(Self::HINTED) {
            Some("a hint for the unwinder has to stand directly behind it")
        } else {
            None
        }
    }
}

bitflags! {
    /// Status flags (SDM Vol. 1, 3.4.3) that may be read after the site before they are written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct LiveFlags: u8 {
        /// Carry.
        const CF = 1 << 0;
        /// Parity.
        const PF = 1 << 1;
        /// Auxiliary carry.
        const AF = 1 << 2;
        /// Zero.
        const ZF = 1 << 3;
        /// Sign.
        const SF = 1 << 4;
        /// Overflow.
        const OF = 1 << 5;
        /// Direction.
        const DF = 1 << 6;
    }
}

bitflags! {
    /// General-purpose registers that may be read after the site before they are written; one bit
    /// per register, in encoding order (SDM Vol. 2A, Table 2-4: RAX is 0, R15 is 15). RSP is always
    /// live.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct LiveRegisters: u16 {
        /// RSP.
        const RSP = 1 << 4;
        // The other bits need no name of their own: see `register`.
        const _ = !0;
    }
}

impl LiveRegisters {
    /// The register with this number in an instruction's encoding.
    #[must_use]
    pub const fn register(number: u8) -> Self {
        Self::from_bits_retain(1 << (number & 15))
    }
}

/// Registers and flags whose value matters after the site. What is not known is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Liveness {
    /// General-purpose registers.
    pub registers: LiveRegisters,
    /// Status and direction flags.
    pub flags: LiveFlags,
}

impl Liveness {
    /// Nothing is known: everything is live.
    pub const UNKNOWN: Self = Self { registers: LiveRegisters::all(), flags: LiveFlags::all() };
}

/// One record as it stands in the file. All fields are little-endian; there is no padding and no
/// alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed)]
pub struct RawRecord {
    /// Address of the site minus the address of this field, plus [`UNPADDED_DISPLACEMENT`] if the
    /// site is not padded.
    pub site: i32,
    /// Bytes of the sensitive instruction, prefixes included, or of the sequence.
    pub length: u8,
    /// Bytes of the slot: `length` and the NOPs behind it.
    pub slot: u8,
    /// [`Class`] of the site.
    pub class: u8,
    /// [`LiveFlags`].
    pub live_flags: u8,
    /// [`LiveRegisters`].
    pub live_registers: u16,
    /// [`Flags`].
    pub flags: u16,
}

/// Size of a record in bytes.
pub const RECORD_SIZE: usize = size_of::<RawRecord>();

const _: () = assert!(RECORD_SIZE == 12);

impl RawRecord {
    /// Reads a record from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; RECORD_SIZE]) -> Self {
        let [s0, s1, s2, s3, length, slot, class, live_flags, r0, r1, f0, f1] = *bytes;
        Self {
            site: i32::from_le_bytes([s0, s1, s2, s3]),
            length,
            slot,
            class,
            live_flags,
            live_registers: u16::from_le_bytes([r0, r1]),
            flags: u16::from_le_bytes([f0, f1]),
        }
    }

    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; RECORD_SIZE] {
        let [s0, s1, s2, s3] = self.site.to_le_bytes();
        let [r0, r1] = self.live_registers.to_le_bytes();
        let [f0, f1] = self.flags.to_le_bytes();
        [s0, s1, s2, s3, self.length, self.slot, self.class, self.live_flags, r0, r1, f0, f1]
    }

    /// What was added to the distance from the record to the site.
    #[must_use]
    pub fn displacement(self) -> i32 {
        if Flags::from_bits_retain(self.flags).intersects(Flags::UNPADDED) { UNPADDED_DISPLACEMENT } else { 0 }
    }

    /// The distance from the record to the site.
    #[must_use]
    pub fn distance(self) -> i64 {
        i64::from(self.site) - i64::from(self.displacement())
    }

    /// What the record alleges about the site at `address` (the address of the record plus
    /// [`Self::distance`]).
    ///
    /// # Errors
    ///
    /// When the record is wrong by itself, whatever stands at the site.
    pub fn allegation(self, address: u64) -> Result<AllegedSite, RecordError> {
        let class = Class::from_number(self.class).ok_or(RecordError::Class(self.class))?;
        let flags = Flags::from_bits(self.flags).ok_or(RecordError::Flags(self.flags))?;
        let live_flags = LiveFlags::from_bits(self.live_flags).ok_or(RecordError::LiveFlags(self.live_flags))?;
        if self.length == 0 || self.length > self.slot {
            return Err(RecordError::Length { length: self.length, slot: self.slot });
        }
        let padded = flags.intersection(Flags::UNPADDED).is_empty();
        if padded && self.slot < MINIMUM_SLOT {
            return Err(RecordError::ShortSlot(self.slot));
        }
        if !padded && self.slot != self.length {
            return Err(RecordError::PaddedYetUnpadded { length: self.length, slot: self.slot });
        }
        let liveness = Liveness { registers: LiveRegisters::from_bits_retain(self.live_registers), flags: live_flags };
        Ok(AllegedSite { address, length: self.length, slot: self.slot, class, liveness, flags })
    }
}

/// What a well-formed record says of a site; not yet held against the bytes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllegedSite {
    /// Address of the first byte; in a relocatable object, the offset in its section.
    pub address: u64,
    /// Bytes of the sensitive instruction or sequence.
    pub length: u8,
    /// Bytes of the slot.
    pub slot: u8,
    /// Class of the instruction or sequence.
    pub class: Class,
    /// What is live after the site.
    pub liveness: Liveness,
    /// What else is known.
    pub flags: Flags,
}

/// A record that is wrong by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// No such class.
    Class(u8),
    /// Flag bits that no version of the format has defined.
    Flags(u16),
    /// Live-flag bits that no version of the format has defined.
    LiveFlags(u8),
    /// The instruction is empty or longer than its slot.
    Length {
        /// Length of the instruction.
        length: u8,
        /// Length of the slot.
        slot: u8,
    },
    /// The slot cannot hold a `call rel32`.
    ShortSlot(u8),
    /// The record states a reason for not padding the site, and pads it.
    PaddedYetUnpadded {
        /// Length of the instruction.
        length: u8,
        /// Length of the slot.
        slot: u8,
    },
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Class(class) => write!(f, "no class has the number {class}"),
            Self::Flags(flags) => write!(f, "undefined flags in {flags:#06x}"),
            Self::LiveFlags(flags) => write!(f, "undefined live flags in {flags:#04x}"),
            Self::Length { length, slot } => write!(f, "an instruction of {length} bytes in a slot of {slot}"),
            Self::ShortSlot(slot) => write!(f, "a slot of {slot} bytes, shorter than {MINIMUM_SLOT}"),
            Self::PaddedYetUnpadded { length, slot } => {
                write!(f, "marked as not padded, yet {length} bytes stand in a slot of {slot}")
            }
        }
    }
}

impl core::error::Error for RecordError {}
