//! Where records lie in a file, and the sites they allege.
//!
//! * In objects, modules and kernels: ELF notes named [`NOTE_NAME`], of which a link may have put
//!   any number end to end, between other people's notes (Linux collects `.note.*` in one section
//!   `.notes`). The name is what counts, not the section. Notes are aligned to 4 bytes: the gABI
//!   asks for 8 in 64-bit files, yet only `NT_GNU_PROPERTY_TYPE_0` does so. Where a link put one of
//!   those behind ours, a zero word stands between them, and the section is aligned to 8.
//! * In a packed image: the section [`IMAGE_SECTION`], records and nothing else. It repeats what
//!   the kernel's notes say, so where it exists it is the only place looked at.
//!
//! A record's `site` is relative to the field itself. In a linked file that is plain arithmetic; in
//! a relocatable one the field carries an `R_X86_64_PC32` relocation, whose S + A is the site
//! (psABI, "Relocation Types").

use ::object::LittleEndian;
use ::object::elf::{FileHeader64, R_X86_64_PC32, RelocationType, SHT_NOTE};
use ::object::read::elf::{FileHeader as _, SectionHeader as _};

use super::elf::{Elf, Error, Place, Relocation, Section, Target};
use crate::record::{AllegedSite, IMAGE_SECTION, NOTE_NAME, RECORD_SIZE, RawRecord, RecordError, VERSION};

/// A well-formed record and the place it means. Nothing is known of the place yet, not even that it
/// is in its section.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Number of the record in the file, from 0.
    pub number: usize,
    /// Where the record lies.
    pub carrier: Place,
    /// Where the site lies.
    pub place: Place,
    /// What is said of it.
    pub alleged: AllegedSite,
}

impl Record {
    /// The first offset behind the slot.
    #[must_use]
    pub fn slot_end(&self) -> u64 {
        self.place.offset.saturating_add(self.alleged.slot.into())
    }

    /// The first offset behind the instruction or sequence.
    #[must_use]
    pub fn instruction_end(&self) -> u64 {
        self.place.offset.saturating_add(self.alleged.length.into())
    }
}

/// A record that says nothing usable.
#[derive(Clone, Debug)]
pub struct BadRecord {
    /// Number of the record in the file, from 0.
    pub number: usize,
    /// Where the record lies.
    pub carrier: Place,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What makes a record unusable before anybody has looked at its site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Wrong by itself.
    #[error(transparent)]
    Malformed(#[from] RecordError),
    /// In a relocatable object, the field `site` has none or several relocations.
    #[error("{0} relocations for its site instead of one")]
    Relocations(usize),
    /// The relocation is of another type than `R_X86_64_PC32`.
    #[error("relocation of type {} for its site instead of R_X86_64_PC32", .0.0)]
    RelocationType(RelocationType),
    /// The site is not in this file.
    #[error("the site is relative to `{0}`, which this file does not define")]
    Undefined(String),
    /// The site is in no section.
    #[error("the site, address {0:#x}, is in no section")]
    NoSection(u64),
}

/// The records of a file.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The well-formed ones, ordered by site.
    pub records: Vec<Record>,
    /// The others.
    pub bad: Vec<BadRecord>,
}

impl Records {
    /// Reads all records of a file.
    ///
    /// # Errors
    ///
    /// When a note cannot be read, is of another version, or does not hold whole records.
    pub fn read(elf: &Elf<'_>) -> Result<Self, Error> {
        let mut reader = Reader { elf, records: Self::default(), next: 0 };
        if let Some((index, section)) = elf.section_named(IMAGE_SECTION) {
            let descriptor = Descriptor { bytes: section.bytes, offset: 0 };
            reader.descriptors(index, section, &[descriptor])?;
        } else {
            for (index, section) in elf.sections().iter().enumerate().filter(|(_, section)| section.is_note()) {
                let descriptors = descriptors(section.bytes, section.align).map_err(|BadNote { offset, what }| {
                    Error::Note { section: section.name.to_owned(), offset, what }
                })?;
                reader.descriptors(index, section, &descriptors)?;
            }
        }
        let mut records = reader.records;
        records.records.sort_by_key(|record| (record.place, record.number));
        Ok(records)
    }
}

/// Whether a file seems to hold records: asks nothing but its section headers and its notes, and is
/// wrong only about files whose notes cannot be read.
#[must_use]
pub fn has_records(data: &[u8]) -> bool {
    let Ok(header) = FileHeader64::<LittleEndian>::parse(data) else { return false };
    let Ok(sections) = header.sections(LittleEndian, data) else { return false };
    // As much as the file is long: sections that share bytes are read by nobody.
    let mut left = data.len();
    sections.iter().any(|section| {
        let name = sections.section_name(LittleEndian, section).unwrap_or_default();
        let bytes = section.data(LittleEndian, data).unwrap_or_default();
        let is_image = name == IMAGE_SECTION.as_bytes() && !bytes.is_empty();
        if is_image || section.sh_type(LittleEndian) != SHT_NOTE {
            return is_image;
        }
        let Some(rest) = left.checked_sub(bytes.len()) else { return true };
        left = rest;
        let hold_some =
            |descriptors: &[Descriptor<'_>]| descriptors.iter().any(|descriptor| !descriptor.bytes.is_empty());
        descriptors(bytes, section.sh_addralign(LittleEndian)).map_or(true, |found| hold_some(&found))
    })
}

/// The descriptor of a note, or what else holds bare records.
struct Descriptor<'data> {
    bytes: &'data [u8],
    /// Offset in the section.
    offset: usize,
}

/// A note that cannot be read: its offset, and what is wrong.
struct BadNote {
    offset: usize,
    what: String,
}

/// The descriptors of our notes in a note section (ELF gABI, "Note Section": three words, name,
/// descriptor).
fn descriptors(notes: &[u8], align: u64) -> Result<Vec<Descriptor<'_>>, BadNote> {
    const HEADER: usize = 12;
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < notes.len() {
        let beyond = || BadNote { offset, what: "the note reaches beyond its section".to_owned() };
        if align == 8 && offset % 8 == 4 && notes[offset..].starts_with(&[0; 4]) {
            offset += 4;
            continue;
        }
        let words = notes[offset..].first_chunk::<HEADER>().ok_or_else(beyond)?;
        let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let (name_size, size, version) = (word(0) as usize, word(4) as usize, word(8));
        let start = aligned(offset + HEADER, name_size).ok_or_else(beyond)?;
        let name = notes.get(offset + HEADER..offset + HEADER + name_size).ok_or_else(beyond)?;
        let bytes = notes.get(start..).and_then(|rest| rest.get(..size)).ok_or_else(beyond)?;
        if name == NOTE_NAME {
            if version != VERSION {
                let what = format!("records of version {version}; this program reads version {VERSION}");
                return Err(BadNote { offset, what });
            }
            found.push(Descriptor { bytes, offset: start });
        }
        offset = aligned(start, size).ok_or_else(beyond)?;
    }
    Ok(found)
}

/// The next multiple of 4 behind `size` bytes at `start`.
fn aligned(start: usize, size: usize) -> Option<usize> {
    start.checked_add(size)?.checked_next_multiple_of(4)
}

struct Reader<'elf, 'data> {
    elf: &'elf Elf<'data>,
    records: Records,
    next: usize,
}

impl Reader<'_, '_> {
    fn descriptors(
        &mut self,
        index: usize,
        section: &Section<'_>,
        descriptors: &[Descriptor<'_>],
    ) -> Result<(), Error> {
        if descriptors.is_empty() {
            return Ok(());
        }
        let relocations = if self.elf.relocatable() { self.elf.relocations(index) } else { Vec::new() };
        for descriptor in descriptors {
            let (records, rest) = descriptor.bytes.as_chunks::<RECORD_SIZE>();
            if !rest.is_empty() {
                let what = format!("{} bytes are no whole number of records", descriptor.bytes.len());
                return Err(Error::Note { section: section.name.to_owned(), offset: descriptor.offset, what });
            }
            for (position, bytes) in records.iter().enumerate() {
                let offset = (descriptor.offset + position * RECORD_SIZE) as u64;
                self.record(Place { section: index, offset }, RawRecord::from_bytes(bytes), &relocations);
            }
        }
        Ok(())
    }

    fn record(&mut self, carrier: Place, raw: RawRecord, relocations: &[Relocation]) {
        let number = self.next;
        self.next += 1;
        let site = self.site(carrier, raw, relocations).and_then(|place| {
            let alleged = raw.allegation(self.elf.address(place))?;
            Ok(Record { number, carrier, place, alleged })
        });
        match site {
            Ok(record) => self.records.records.push(record),
            Err(fault) => self.records.bad.push(BadRecord { number, carrier, fault }),
        }
    }

    /// The place that a record's `site` means.
    fn site(&self, carrier: Place, raw: RawRecord, relocations: &[Relocation]) -> Result<Place, Fault> {
        if !self.elf.relocatable() {
            let address = self.elf.address(carrier).wrapping_add_signed(raw.distance());
            return self.elf.place_at(address).ok_or(Fault::NoSection(address));
        }
        let first = relocations.partition_point(|relocation| relocation.offset < carrier.offset);
        let after =
            relocations.partition_point(|relocation| relocation.offset < carrier.offset + size_of::<i32>() as u64);
        let [relocation] = &relocations[first..after] else { return Err(Fault::Relocations(after - first)) };
        if relocation.kind != R_X86_64_PC32 {
            return Err(Fault::RelocationType(relocation.kind));
        }
        if relocation.offset != carrier.offset {
            return Err(Fault::Relocations(0));
        }
        match self.elf.target(relocation) {
            Target::Place(Place { section, offset }) => {
                Ok(Place { section, offset: offset.wrapping_sub_signed(raw.displacement().into()) })
            }
            Target::Symbol(name, _) => Err(Fault::Undefined(name.to_owned())),
        }
    }
}
