//! The source line of an address, by DWARF.
//!
//! DWARF names code by address, and in a relocatable object every section starts at address 0 until
//! something relocates the debug sections. So they are relocated here, on the fly as gimli reads
//! them, with each executable section at a base of its own; references from one debug section to
//! another (`R_X86_64_32` against a section symbol) have base 0, as gimli expects. In a linked file
//! the bases are the sections' addresses and there is nothing to relocate. Relocations are about
//! contents: where a section is compressed, about what it decompresses to.
//!
//! The line is that of the line table, which for inlined code is the innermost function's: where
//! the instruction was written. With split DWARF the line table stays in the object, and `.dwo`
//! files are not needed.
//!
//! A file without debug information knows no lines. Debug information that is there and cannot be
//! read is another matter, which [`Sources::trouble`] tells; so is some that alleges more than it
//! holds (`proportion`).

mod proportion;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use addr2line::Context;
use gimli::{AbbreviationsCacheStrategy, Dwarf, EndianArcSlice, EndianSlice, LittleEndian, RelocateReader, SectionId};
use serde::Serialize;

use super::elf::{Elf, Inflater, Place, Relocation, Section, Target};
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

type Borrowed<'data> = RelocateReader<EndianSlice<'data, LittleEndian>, Relocated>;
type Inflated = RelocateReader<EndianArcSlice<LittleEndian>, Relocated>;

/// The line tables of a file: in the file, or decompressed.
enum Lines<'data> {
    Borrowed(Context<Borrowed<'data>>),
    Inflated(Context<Inflated>),
}

/// The debug information of a file.
pub struct Sources<'data> {
    lines: Option<Lines<'data>>,
    /// Base address of each section.
    bases: Vec<u64>,
    trouble: RefCell<Option<String>>,
}

impl<'data> Sources<'data> {
    /// Opens the debug information. A file without, or with some that cannot be read, knows no
    /// lines.
    #[must_use]
    pub fn of(elf: &Elf<'data>) -> Self {
        let bases = bases(elf);
        let (lines, trouble) = match Sections::of(elf, &bases).and_then(Sections::lines) {
            Ok(lines) => (lines, None),
            Err(trouble) => (None, Some(trouble)),
        };
        Self { lines, bases, trouble: RefCell::new(trouble) }
    }

    /// Why lines are missing, if there is debug information and it could not be read.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// The source line of a place.
    #[must_use]
    pub fn line(&self, place: Place) -> Option<SourceLine> {
        let address = self.bases.get(place.section)?.checked_add(place.offset)?;
        // addr2line asks for the range from the address to the next one.
        address.checked_add(1)?;
        let found = match self.lines.as_ref()? {
            Lines::Borrowed(context) => context.find_location(address),
            Lines::Inflated(context) => context.find_location(address),
        };
        let found = found.unwrap_or_else(|error| {
            self.trouble.borrow_mut().get_or_insert_with(|| unreadable(error));
            None
        })?;
        Some(SourceLine { file: found.file?.to_owned(), line: found.line? })
    }

    /// Looks up a location's source line.
    pub fn complete(&self, location: &mut Location<'_>) {
        location.source = self.line(location.origin);
    }
}

fn unreadable(error: gimli::Error) -> String {
    format!("the debug information cannot be read: {error}")
}

/// What lines need: units, their line tables and ranges, and the strings in them.
const NEEDED: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

/// The debug sections of a file.
struct Sections<'data> {
    sections: Vec<(SectionId, Cow<'data, [u8]>, Relocated)>,
    /// Where executable sections lie, in order.
    text: Vec<Range<u64>>,
}

impl<'data> Sections<'data> {
    /// Reads, and if need be decompresses, what there is.
    fn of(elf: &Elf<'data>, bases: &[u64]) -> Result<Self, String> {
        let inflater = Inflater::of(elf);
        let mut sections = Vec::new();
        for id in NEEDED {
            let contents = inflater.debug_section(id.name()).map_err(|error| error.to_string())?;
            if let Some((index, contents)) = contents {
                sections.push((id, contents, Relocated::of(elf, index, bases)));
            }
        }
        let range = |(index, section): (usize, &Section<'_>)| {
            let base = bases[index];
            base..base.saturating_add(section.size)
        };
        let mut text: Vec<_> = elf.executable().map(range).collect();
        text.sort_unstable_by_key(|range| range.start);
        Ok(Self { sections, text })
    }

    /// The line tables in them, if there are any.
    fn lines(self) -> Result<Option<Lines<'data>>, String> {
        if self.sections.iter().all(|(id, ..)| *id != SectionId::DebugInfo) {
            return Ok(None);
        }
        if self.sections.iter().all(|(_, contents, _)| matches!(contents, Cow::Borrowed(_))) {
            let reader = |id| {
                let (bytes, relocated) = match self.find(id) {
                    Some((_, Cow::Borrowed(bytes), relocated)) => (*bytes, relocated.clone()),
                    _ => Default::default(),
                };
                RelocateReader::new(EndianSlice::new(bytes, LittleEndian), relocated)
            };
            return self.context(reader).map(|context| Some(Lines::Borrowed(context)));
        }
        let reader = |id| {
            let (bytes, relocated) = self
                .find(id)
                .map_or_else(Default::default, |(_, contents, relocated)| (Arc::from(&**contents), relocated.clone()));
            RelocateReader::new(EndianArcSlice::new(bytes, LittleEndian), relocated)
        };
        self.context(reader).map(|context| Some(Lines::Inflated(context)))
    }

    /// Opens the debug information that a reader of each section gives.
    fn context<R: gimli::Reader<Offset = usize>>(&self, reader: impl Fn(SectionId) -> R) -> Result<Context<R>, String> {
        let mut dwarf = Dwarf::load(|id| Ok(reader(id))).map_err(unreadable)?;
        let size = self.sections.iter().map(|(_, contents, _)| contents.len()).sum();
        proportion::check_abbreviations(&dwarf, size)?;
        dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
        proportion::check_units(&dwarf, size, &self.text)?;
        Context::from_dwarf(dwarf).map_err(unreadable)
    }

    fn find(&self, wanted: SectionId) -> Option<&(SectionId, Cow<'data, [u8]>, Relocated)> {
        self.sections.iter().find(|(id, ..)| *id == wanted)
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

/// The relocated fields of one debug section: offset and value, by offset. None in a linked file,
/// not even where the linker kept the relocations (`--emit-relocs`): they are applied already.
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
