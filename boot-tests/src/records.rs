//! A reader of annotation records, straight from the file format: no code is shared with the crate
//! that writes them.
//!
//! An ELF note with the name `Afterburner` and type 1 holds records of 12 little-endian bytes: `i32
//! site` (minus the address of this field, plus 1 GiB if the site is not padded), `u8 length`, `u8
//! slot`, `u8 class`, `u8 live_flags`, `u16 live_registers`, `u16 flags`. In a linked kernel the
//! notes are in `.notes`; in an object or a module they are in `.note.afterburn`, and each `site`
//! has a relocation.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use object::{
    Object as _, ObjectKind, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget, SectionKind, elf,
};

const NAME: &[u8] = b"Afterburner\0";
const VERSION: u32 = 1;
const SIZE: usize = 12;
const UNPADDED_DISPLACEMENT: i64 = 1 << 30;

/// In text that is copied and run elsewhere.
pub const COPIED: u16 = 1 << 3;
/// In `.altinstr_replacement`.
pub const REPLACEMENT: u16 = 1 << 2;
/// Not padded, with the reason stated.
pub const UNPADDED: [(u16, &str); 6] = [
    (1 << 8, "16- or 32-bit code"),
    (1 << 9, "class switched off"),
    (1 << 10, "within a distance that is counted"),
    (1 << 11, "casts an interrupt shadow"),
    (1 << 12, "before a hint for the unwinder"),
    (1 << 13, "data"),
];

/// A place in a file: the name of a section, and the address that `objdump` prints there (an offset
/// in an object).
pub type Place = (String, u64);

/// What a record says of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes of the sensitive instruction or sequence.
    pub length: u8,
    /// Bytes of the slot.
    pub slot: u8,
    /// Bits; see the constants of this module.
    pub flags: u16,
}

impl Record {
    /// The stated reason for not padding the site.
    #[must_use]
    pub fn unpadded_reason(self) -> Option<&'static str> {
        UNPADDED.iter().find(|(flag, _)| self.flags & flag != 0).map(|(_, reason)| *reason)
    }
}

/// Every record of the file, by place.
///
/// # Errors
///
/// When the file is not ELF, or a record is cut short, lacks its relocation, lies in no executable
/// section, or there is a second one for the same place.
pub fn read(file: &object::File) -> Result<BTreeMap<Place, Record>> {
    let relocatable = file.kind() == ObjectKind::Relocatable;
    let section_name = if relocatable { ".note.afterburn" } else { ".notes" };
    let mut records = BTreeMap::new();
    for section in file.sections().filter(|section| section.name() == Ok(section_name)) {
        let data = section.data()?;
        // A relocatable kernel keeps its relocations after the link; those are done.
        let relocations = if relocatable { relocations(file, &section)? } else { BTreeMap::new() };
        for at in record_offsets(data)? {
            let bytes = &data[at..at + SIZE];
            let field = at as u64;
            let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
            let displacement =
                if UNPADDED.iter().any(|(flag, _)| flags & flag != 0) { UNPADDED_DISPLACEMENT } else { 0 };
            let place = if relocatable {
                let place = relocations.get(&field).cloned();
                let (section, offset) = place.with_context(|| format!("the record at {field:#x} has no relocation"))?;
                (section, offset.wrapping_sub_signed(displacement))
            } else {
                let distance = i64::from(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                executable_place(file, (section.address() + field).wrapping_add_signed(distance - displacement))?
            };
            let record = Record { length: bytes[4], slot: bytes[5], flags };
            ensure!(records.insert(place.clone(), record).is_none(), "two records for {}+{:#x}", place.0, place.1);
        }
    }
    Ok(records)
}

/// The offsets of all records in a note section.
fn record_offsets(data: &[u8]) -> Result<Vec<usize>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = data.get(at..at + 4).context("a note is cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let mut offsets = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let (name_size, size, kind) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let name = at + 12;
        let start = name + name_size.next_multiple_of(4);
        let end = start + size;
        ensure!(end <= data.len(), "the note at {at:#x} is cut short");
        if &data[name..name + name_size] == NAME {
            ensure!(kind == VERSION as usize, "the note at {at:#x} has version {kind}");
            ensure!(size.is_multiple_of(SIZE), "the note at {at:#x} holds half a record");
            offsets.extend((start..end).step_by(SIZE));
        }
        at = end.next_multiple_of(4);
    }
    Ok(offsets)
}

/// The places that the PC-relative relocations of a section point at, by the offset of the
/// relocated field.
fn relocations(file: &object::File, section: &object::Section) -> Result<BTreeMap<u64, Place>> {
    let mut places = BTreeMap::new();
    for (offset, relocation) in section.relocations() {
        let RelocationFlags::Elf { r_type: elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 } = relocation.flags() else {
            bail!("unexpected relocation {:?} at {offset:#x}", relocation.flags());
        };
        let RelocationTarget::Symbol(index) = relocation.target() else { bail!("relocation without a symbol") };
        let symbol = file.symbol_by_index(index)?;
        let target = file.section_by_index(symbol.section_index().context("a site in another file")?)?;
        let address = symbol.address().wrapping_add_signed(relocation.addend());
        places.insert(offset, (target.name()?.to_owned(), address));
    }
    Ok(places)
}

fn executable_place(file: &object::File, address: u64) -> Result<Place> {
    let section = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .find(|section| (section.address()..section.address() + section.size()).contains(&address))
        .with_context(|| format!("a record for {address:#x}, which no executable section holds"))?;
    Ok((section.name()?.to_owned(), address))
}
