//! What is kept of a site, and how a site that is like another is recognised.
//!
//! Checking a record and deciding how its site is taken depends on the record and on the bytes in
//! the slot, not on where the site is. A kernel has thousands of sites but only a few hundred
//! different ones, so what was found out about one is taken over for those that are alike. Of that
//! only a displacement and the stub are corrected ([`moves`](super::moves)).

use core::ops::Deref;

use annotate::instructions::Class;
use annotate::record::{AllegedSite, Flags, LiveFlags, RECORD_SIZE};

use super::bytes::{Bytes, LONGEST_SLOT};
use super::fuse::InSlot;
use super::moves::Fields;
use super::policy::Template;
use super::policy::{Form, Hook};

/// A site that is taken.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub(super) address: u64,
    /// Where the kernel may have copied the site to, 0 if nowhere.
    pub(super) copy: u64,
    pub(super) kind: Kind,
}

// It is copied by the thousand: more than 64 bytes would be left to a routine.
const _: () = assert!(size_of::<Option<Site>>() == 64);

/// What a site has in common with those that are like it, but for the displacement in what its slot
/// becomes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) original: Bytes,
    /// What the slot becomes.
    pub(super) rewritten: Bytes,
    pub(super) key: Key,
    pub(super) class: Class,
    pub(super) second: u8,
    pub(super) displacement: u8,
    pub(super) form: Form,
    pub(super) hook: Option<Hook>,
    pub(super) flags_free: bool,
    /// What stands for the instruction, in deprivileged mode.
    pub(super) template: Option<Template>,
    /// Offset of the original in the stub; 0 in deprivileged mode.
    pub(super) body: u8,
}

/// The instruction or sequence of a site, without its pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    bytes: [u8; LONGEST_SLOT as usize],
    length: u8,
}

impl Deref for Original {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or(&[])
    }
}

/// What an instruction flushes, by the registers that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The page around an address.
    Page {
        /// The register with the address.
        base: u8,
    },
    /// What a change of CR4 makes void.
    Control {
        /// The register with the new value.
        value: u8,
    },
    /// What the operands of INVPCID say.
    Contexts {
        /// The register with the kind.
        kind: u8,
        /// The register by which the descriptor is found.
        base: u8,
        /// How far from there.
        displacement: i32,
    },
}

impl Flush {
    /// `0f 01 /7` with an address in a register.
    fn page(modrm: u8, extension: u8) -> Option<Self> {
        let plain = modrm >> 6 == 0 && !matches!(modrm & 7, 4 | 5);
        plain.then_some(Self::Page { base: modrm & 7 | extension })
    }

    /// The operands of `66 0f 38 82 /r`, with a descriptor at a distance from one register, which
    /// may be RSP.
    fn contexts(rex: u8, operands: &[u8]) -> Option<Self> {
        const NO_INDEX: u8 = 0x20;
        let (modrm, behind) = operands.split_first()?;
        let (base, behind) = match (modrm & 7, behind) {
            (4, [sib, behind @ ..]) if sib & 0xf8 == NO_INDEX && rex & 2 == 0 => (sib & 7, behind),
            (4, _) => return None,
            (base, behind) => (base, behind),
        };
        let displacement = match (modrm >> 6, behind) {
            (0, _) if base != 5 => 0,
            (1, [byte, ..]) => i32::from(byte.cast_signed()),
            (2, [d0, d1, d2, d3, ..]) => i32::from_le_bytes([*d0, *d1, *d2, *d3]),
            _ => return None,
        };
        Some(Self::Contexts { kind: modrm >> 3 & 7 | (rex & 4) << 1, base: base | (rex & 1) << 3, displacement })
    }
}

/// What matters of a record here but its place: its bytes, without the live registers, and with one
/// bit for all live flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    #[inline]
    pub(super) fn of(record: &[u8; RECORD_SIZE]) -> Self {
        const STATUS: u8 = LiveFlags::all().difference(LiveFlags::DF).bits();
        let [_, _, _, _, bytes @ ..] = *record;
        let all = u64::from_le_bytes(bytes);
        let live = u64::from(all & u64::from(STATUS) << 24 != 0);
        let dropped = u64::from_le_bytes([0, 0, 0, LiveFlags::all().bits(), 0xff, 0xff, 0, 0]);
        Self(all & !dropped | live << 24)
    }

    pub(super) fn from_site(site: &AllegedSite) -> Self {
        let [f0, f1] = site.flags.bits().to_le_bytes();
        Self::of(&[0, 0, 0, 0, site.length, site.slot, site.class as u8, site.liveness.flags.bits(), 0, 0, f0, f1])
    }

    #[inline]
    pub(super) fn length(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    #[inline]
    pub(super) fn slot(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    #[inline]
    pub(super) fn flags(self) -> Flags {
        let [.., f0, f1] = self.0.to_le_bytes();
        Flags::from_bits_retain(u16::from_le_bytes([f0, f1]))
    }
}

impl Kind {
    /// What the slot becomes if what that leads to is so many bytes further away.
    pub(super) fn moved(&self, by: u64) -> Option<Bytes> {
        let displacement = match self.form {
            Form::Fused | Form::Trap => return Some(self.rewritten),
            Form::Jump | Form::Call => 1,
            Form::Inline => match self.template?.single()?.1 {
                Some(displacement) => displacement,
                None => return Some(self.rewritten),
            },
        };
        self.rewritten.displaced(displacement, by.cast_signed())
    }
}

impl Site {
    /// Address of the site.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Class of the site.
    #[must_use]
    pub fn class(&self) -> Class {
        self.kind.class
    }

    /// What its slot becomes.
    #[must_use]
    pub fn form(&self) -> Form {
        self.kind.form
    }

    /// What the site flushes from the TLB, if that is known: SDM Vol. 2A, INVLPG and INVPCID, Vol.
    /// 2B, MOV to control registers, and table 2-2. Operands are in one of the forms that compilers
    /// write, with REX.B or without.
    #[must_use]
    pub fn flush(&self) -> Option<Flush> {
        match (self.class(), self.kind.original.array()) {
            (Class::Invlpg, [0x0f, 0x01, modrm, ..]) => Flush::page(modrm, 0),
            (Class::Invlpg, [0x41, 0x0f, 0x01, modrm, ..]) => Flush::page(modrm, 8),
            (Class::MovToCr, [0x0f, 0x22, modrm @ 0xe0..=0xe7, ..]) => Some(Flush::Control { value: modrm & 7 }),
            (Class::MovToCr, [0x41, 0x0f, 0x22, modrm @ 0xe0..=0xe7, ..]) => {
                Some(Flush::Control { value: modrm & 7 | 8 })
            }
            (Class::Invpcid, [0x66, 0x0f, 0x38, 0x82, operands @ ..]) => Flush::contexts(0, &operands),
            (Class::Invpcid, [0x66, rex @ 0x40..=0x4f, 0x0f, 0x38, 0x82, operands @ ..]) => {
                Flush::contexts(rex, &operands)
            }
            _ => None,
        }
    }

    /// The number of the register that an INVLPG takes its address from, if it is such a one.
    #[must_use]
    pub fn base_of_invlpg(&self) -> Option<u8> {
        if let Some(Flush::Page { base }) = self.flush() { Some(base) } else { None }
    }

    /// The hook in its stub.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        self.kind.hook
    }

    /// Length of the slot.
    #[must_use]
    pub fn slot(&self) -> u8 {
        self.kind.key.slot()
    }

    /// Length of the instruction or sequence.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.kind.key.length()
    }

    /// The address behind its slot.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address.wrapping_add(self.slot().into())
    }

    /// What stood in its slot, without the pad.
    #[must_use]
    pub fn original(&self) -> Original {
        Original { bytes: self.kind.original.array(), length: self.length() }
    }

    /// What its record says of it.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.kind.key.flags()
    }

    /// Whether its record says that there is a stack.
    pub(super) fn has_stack(&self) -> bool {
        !self.flags().intersects(Flags::NO_STACK.union(Flags::HEAD))
    }

    /// The instructions as they stand in the slot.
    pub(super) fn in_slot(&self) -> InSlot {
        let Kind { original: bytes, second, displacement, .. } = self.kind;
        InSlot { bytes, slot: self.slot(), length: self.length(), second, displacement }
    }

    /// The places that are the site's as long as the guest runs.
    pub(super) fn lasting(&self) -> impl Iterator<Item = u64> + use<> {
        let own = (!self.flags().intersects(Flags::INIT.union(Flags::REPLACEMENT))).then_some(self.address);
        own.into_iter().chain((self.copy != 0).then_some(self.copy))
    }
}

/// Where a site was that had the same record (but for its place) and the same bytes: what was found
/// out about one holds for the other. Most sites of a kernel are one of a few instructions.
pub(super) struct Seen {
    numbers: [u16; Self::PLACES],
    fields: [Fields; Self::PLACES],
}

impl Default for Seen {
    fn default() -> Self {
        Self { numbers: [u16::MAX; Self::PLACES], fields: [Fields::default(); Self::PLACES] }
    }
}

impl Seen {
    const PLACES: usize = 1024;

    /// The place where to look for one.
    #[inline]
    pub(super) fn place(key: Key, bytes: Option<Bytes>) -> usize {
        ((bytes.map_or(0, Bytes::low) ^ key.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
    }

    /// The number of a site that is alike, and what is different in its stub.
    #[inline]
    pub(super) fn like(&self, place: usize, key: Key, bytes: Bytes, sites: &[Option<Site>]) -> Option<(usize, Fields)> {
        let index = usize::from(self.numbers[place]);
        let Kind { key: other, original, .. } = sites.get(index)?.as_ref()?.kind;
        (other == key && original == bytes).then(|| (index, self.fields[place]))
    }

    #[inline]
    pub(super) fn remember(&mut self, place: usize, index: usize, fields: Fields) {
        self.numbers[place] = u16::try_from(index).unwrap_or(u16::MAX);
        self.fields[place] = fields;
    }
}
