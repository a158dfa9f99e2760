//! The source line of an address, by DWARF.
//!
//! DWARF names code by address, and in a relocatable object every section starts at address 0 until something relocates
//! the debug sections. So they are relocated here, on the fly as gimli reads them, with each executable section at a base
//! of its own; references from one debug section to another (`R_X86_64_32` against a section symbol) have base 0, as gimli
//! expects. In a linked file the bases are the sections' addresses and there is nothing to relocate.
//!
//! The line is that of the line table, which for inlined code is the innermost function's: where the instruction was
//! written.

use std::fmt;
use std::sync::Arc;

use addr2line::Context;
use gimli::{EndianSlice, LittleEndian, RelocateReader, SectionId};
use serde::Serialize;

use super::elf::{Elf, Place, Relocation, Section, Target};
use super::report::Location;

/// A line of a source file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SourceLine {
    /// The file, as the debug information spells it.
    pub file: String,
    /// The line.
    pub line: u32,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

type Reader<'data> = RelocateReader<EndianSlice<'data, LittleEndian>, Relocated>;

/// The debug information of a file.
pub struct Sources<'data> {
    context: Option<Context<Reader<'data>>>,
    /// Base address of each section.
    bases: Vec<u64>,
}

impl<'data> Sources<'data> {
    /// Opens the debug information. A file without, or with some that cannot be read, knows no lines.
    #[must_use]
    pub fn of(elf: &Elf<'data>) -> Self {
        let bases = bases(elf);
        let load = |id: SectionId| -> Result<Reader<'data>, gimli::Error> {
            let section = elf.section_named(id.name());
            let bytes = section.map_or(&[][..], |(_, section)| section.bytes);
            let relocated = section.map(|(index, _)| Relocated::of(elf, index, &bases)).unwrap_or_default();
            Ok(RelocateReader::new(EndianSlice::new(bytes, LittleEndian), relocated))
        };
        let context = gimli::Dwarf::load(load).ok().and_then(|dwarf| Context::from_dwarf(dwarf).ok());
        Self { context, bases }
    }

    /// The source line of a place.
    #[must_use]
    pub fn line(&self, place: Place) -> Option<SourceLine> {
        let address = self.bases.get(place.section)?.checked_add(place.offset)?;
        // addr2line asks for the range from the address to the next one.
        address.checked_add(1)?;
        let found = self.context.as_ref()?.find_location(address).ok()??;
        Some(SourceLine { file: found.file?.to_owned(), line: found.line? })
    }

    /// Looks up a location's source line.
    pub fn complete(&self, location: &mut Location<'_>) {
        location.source = self.line(location.origin);
    }
}

/// An address for each section, such that no two executable ones overlap; 0 for debug sections.
fn bases(elf: &Elf<'_>) -> Vec<u64> {
    // Nothing is at address 0: it stands for functions that the linker dropped.
    const FIRST: u64 = 0x1_0000;
    const GAP: u64 = 0x10;
    if !elf.relocatable() {
        return elf.sections().iter().map(|section| section.address).collect();
    }
    let mut next = FIRST;
    let base = |section: &Section<'_>| {
        let base = if section.executable { next } else { 0 };
        if section.executable {
            next = next.wrapping_add(section.size).next_multiple_of(GAP).wrapping_add(GAP);
        }
        base
    };
    elf.sections().iter().map(base).collect()
}

/// The relocated fields of one debug section: offset and value, by offset. None in a linked file, not even where the
/// linker kept the relocations (`--emit-relocs`): they are applied already.
#[derive(Clone, Debug, Default)]
struct Relocated {
    fields: Arc<[(usize, u64)]>,
}

impl Relocated {
    fn of(elf: &Elf<'_>, section: usize, bases: &[u64]) -> Self {
        if !elf.relocatable() {
            return Self::default();
        }
        let field = |relocation: &Relocation| {
            let Target::Place(place) = elf.target(relocation) else { return None };
            let base = bases.get(place.section)?;
            Some((usize::try_from(relocation.offset).ok()?, base.wrapping_add(place.offset)))
        };
        Self { fields: elf.relocations(section).iter().filter_map(field).collect() }
    }

    fn value(&self, offset: usize, unrelocated: u64) -> u64 {
        match self.fields.binary_search_by_key(&offset, |&(offset, _)| offset) {
            Ok(found) => self.fields[found].1,
            Err(_) => unrelocated,
        }
    }
}

impl gimli::Relocate for Relocated {
    fn relocate_address(&self, offset: usize, value: u64) -> gimli::Result<u64> {
        Ok(self.value(offset, value))
    }

    fn relocate_offset(&self, offset: usize, value: usize) -> gimli::Result<usize> {
        usize::try_from(self.value(offset, value as u64)).map_err(|_| gimli::Error::UnsupportedOffset)
    }
}
