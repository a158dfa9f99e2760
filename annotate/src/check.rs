//! An alleged site held against the bytes it talks about.
//!
//! A record comes out of a file that anybody may have written. Whoever acts on it writes to kernel
//! text, so every word of it is checked by decoding what really stands at the site: the instruction
//! or sequence is what the class says, ends where the length says, and nothing but NOPs fills the
//! slot behind it.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

use crate::instructions::{Class, decode_next, row_of, sequence};
use crate::record::{AllegedSite, Flags};

/// A site whose record agrees with the bytes at it.
#[derive(Clone, Copy, Debug)]
pub struct CheckedSite {
    alleged: AllegedSite,
    instruction: Instruction,
}

impl CheckedSite {
    /// What the record says, now known to be so. Liveness cannot be checked at the site: it is the
    /// assembler stage's word.
    #[must_use]
    pub fn site(&self) -> &AllegedSite {
        &self.alleged
    }

    /// The sensitive instruction at the site; of a sequence, the first one; of data, none.
    #[must_use]
    pub fn instruction(&self) -> &Instruction {
        &self.instruction
    }
}

/// How the bytes at a site contradict its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// The slot reaches beyond the text.
    OutOfText,
    /// The bytes at this offset in the slot are no instruction.
    Undecodable(u8),
    /// Another class stands there; `None` is an instruction that is not sensitive.
    Class(Option<Class>),
    /// The instruction or sequence has this length.
    Length(u8),
    /// What the record takes for the end of the instruction or sequence is that of an LFENCE behind
    /// it.
    Barrier,
    /// Something else than a NOP stands behind it, at this offset in the slot.
    NotPadding(u8),
}

impl core::fmt::Display for Contradiction {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::OutOfText => write!(f, "the slot reaches beyond its text"),
            Self::Undecodable(offset) => write!(f, "no instruction at byte {offset} of the slot"),
            Self::Class(Some(class)) => write!(f, "the instruction there is of class {class}"),
            Self::Class(None) => write!(f, "the instruction there is not sensitive"),
            Self::Length(length) => write!(f, "the instruction there is {length} bytes long"),
            Self::Barrier => {
                write!(f, "an LFENCE stands between the instruction and its pad (-mlfence-after-load)")
            }
            Self::NotPadding(offset) => write!(f, "byte {offset} of the slot starts something else than a NOP"),
        }
    }
}

impl core::error::Error for Contradiction {}

/// Holds an alleged site against `text`, the bytes from the site's address to the end of its
/// section.
///
/// # Errors
///
/// The first contradiction between the record and the bytes.
pub fn check(alleged: AllegedSite, text: &[u8]) -> Result<CheckedSite, Contradiction> {
    let slot = text.get(..usize::from(alleged.slot)).ok_or(Contradiction::OutOfText)?;
    // Data agrees with anything, and nobody writes to it.
    if alleged.flags.contains(Flags::DATA) {
        return Ok(CheckedSite { alleged, instruction: Instruction::default() });
    }
    let bitness = if alleged.flags.contains(Flags::CODE32) { 32 } else { 64 };
    let mut decoder = Decoder::with_ip(bitness, slot, alleged.address, DecoderOptions::NONE);
    let instruction = decode(&mut decoder, slot)?;
    check_class(alleged.class, &instruction, &mut decoder, slot)?;
    if decoder.position() != usize::from(alleged.length) {
        let length = position(&decoder);
        // Against load value injection GAS puts one behind each load. No replacement could keep it.
        let is_barrier = decode(&mut decoder, slot).is_ok_and(|next| next.mnemonic() == Mnemonic::Lfence);
        let reaches_behind = is_barrier && decoder.position() == usize::from(alleged.length);
        return Err(if reaches_behind { Contradiction::Barrier } else { Contradiction::Length(length) });
    }
    while decoder.can_decode() {
        let start = position(&decoder);
        if decode(&mut decoder, slot)?.mnemonic() != Mnemonic::Nop {
            return Err(Contradiction::NotPadding(start));
        }
    }
    Ok(CheckedSite { alleged, instruction })
}

/// Decodes the rest of the sequence, if the class is one.
fn check_class(
    alleged: Class,
    first: &Instruction,
    decoder: &mut Decoder<'_>,
    slot: &[u8],
) -> Result<(), Contradiction> {
    let found = row_of(first).map(|row| row.class);
    let Some(sequence) = sequence(alleged) else {
        return if found == Some(alleged) { Ok(()) } else { Err(Contradiction::Class(found)) };
    };
    if !sequence.first.matches(first) {
        return Err(Contradiction::Class(found));
    }
    let second = decode(decoder, slot)?;
    if sequence.second.matches(&second) {
        Ok(())
    } else {
        Err(Contradiction::Class(row_of(&second).map(|row| row.class)))
    }
}

fn decode(decoder: &mut Decoder<'_>, slot: &[u8]) -> Result<Instruction, Contradiction> {
    let start = position(decoder);
    let instruction = decode_next(decoder, slot);
    if instruction.is_invalid() { Err(Contradiction::Undecodable(start)) } else { Ok(instruction) }
}

/// The decoder reads from a slot, and no slot is longer than 255 bytes.
fn position(decoder: &Decoder<'_>) -> u8 {
    u8::try_from(decoder.position()).unwrap_or(u8::MAX)
}
