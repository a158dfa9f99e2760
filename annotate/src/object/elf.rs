//! An x86-64 ELF file, read as an allegation.
//!
//! The rest of the object side asks four things of a file: its sections, its symbols, its
//! relocations, and which place a relocation or an address means. A *place* is a section and an
//! offset in it, for objects, modules and linked kernels alike: the gABI gives `st_value` and
//! `r_offset` two meanings, offsets in `ET_REL` and addresses elsewhere (ELF gABI, "Symbol
//! Values"), and this module is where they become one.
//!
//! The file is checked once, here: every section lies in the file, every relocation section holds
//! whole entries. Numbers that the file chooses (offsets, addends, symbol indices) are never
//! trusted further than that: arithmetic on them wraps or is checked, and a place may lie outside
//! its section.
//!
//! Nor may a file allege more than it holds. Whoever reads it does some work for each byte of each
//! section, and for each byte of each symbol's name; so sections that share bytes, and names that
//! share more of a string table than any linker makes them share, are refused. All that follows is
//! linear in the size of the file.

mod compression;

use ::object::elf::{
    EM_X86_64, ET_DYN, ET_EXEC, ET_REL, FileHeader64, R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX, R_X86_64_PC8,
    R_X86_64_PC16, R_X86_64_PC32, R_X86_64_PC64, R_X86_64_PLT32, R_X86_64_REX_GOTPCRELX, RelocationType, SHF_ALLOC,
    SHF_COMPRESSED, SHF_EXECINSTR, SHT_NOBITS, SHT_NOTE, SHT_NULL, SHT_RELA, SectionType, Sym64, SymbolType,
};
use ::object::read::elf::{ElfFile64, FileHeader as _, SectionHeader as _, Sym as _};
use ::object::{
    FileKind, LittleEndian, Object as _, ObjectSection as _, RelocationFlags, RelocationTarget, SectionIndex,
    SymbolIndex,
};

pub(super) use compression::Inflater;

/// A file that the object side cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An `ar` archive.
    #[error("an archive: give its members instead")]
    Archive,
    /// Not ELF, or ELF for another machine.
    #[error("not a 64-bit x86-64 ELF file")]
    NotX86Elf,
    /// Neither relocatable, nor executable, nor shared.
    #[error("an ELF file of type {0}, which is neither an object nor an executable")]
    FileType(u16),
    /// The headers or tables contradict the file.
    #[error("malformed ELF: {0}")]
    Malformed(String),
    /// A section's header contradicts the file.
    #[error("section {name} (number {index}): {what}")]
    Section {
        /// Name of the section.
        name: String,
        /// Its index in the section header table.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Two sections share bytes of the file.
    #[error("sections {0} and {1} share bytes of the file: no assembler or linker makes that")]
    Overlap(String, String),
    /// A note that cannot be read.
    #[error("section {section}, offset {offset:#x}: {what}")]
    Note {
        /// Name of the section.
        section: String,
        /// Offset of the note.
        offset: usize,
        /// What is wrong.
        what: String,
    },
}

impl From<::object::Error> for Error {
    fn from(error: ::object::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A section and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Index of the section.
    pub section: usize,
    /// Offset from the start of the section.
    pub offset: u64,
}

/// One section.
#[derive(Clone, Copy, Debug)]
pub struct Section<'data> {
    /// Its name; `?` if it is not UTF-8.
    pub name: &'data str,
    /// Its address, 0 in a relocatable object.
    pub address: u64,
    /// Its size in memory.
    pub size: u64,
    /// Its alignment, at least 1.
    pub align: u64,
    /// Its bytes in the file, none for `SHT_NOBITS` and `SHF_COMPRESSED`.
    pub bytes: &'data [u8],
    /// Where its contents lie in the file; empty for `SHT_NOBITS`.
    pub file_range: (u64, u64),
    /// Its type.
    pub kind: SectionType,
    /// Whether it takes memory at run time.
    pub alloc: bool,
    /// Whether it holds code: `SHF_EXECINSTR`.
    pub executable: bool,
}

impl Section<'_> {
    /// Whether it is a note section.
    #[must_use]
    pub fn is_note(&self) -> bool {
        self.kind == SHT_NOTE
    }
}

/// One symbol.
#[derive(Clone, Copy, Debug)]
pub struct Symbol<'data> {
    /// Its name; `?` if it is not UTF-8.
    pub name: &'data str,
    /// Its type.
    pub kind: SymbolType,
    /// Its binding and type.
    pub info: u8,
    /// What it names, `None` if that is in no section of this file.
    pub place: Option<Place>,
    /// Its size.
    pub size: u64,
}

/// One relocation.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    /// Offset of the field in its section.
    pub offset: u64,
    /// Its type, `R_X86_64_*`.
    pub kind: RelocationType,
    /// Symbol that it refers to.
    pub symbol: Option<SymbolIndex>,
    /// Its addend.
    pub addend: i64,
}

impl Relocation {
    /// Whether the field holds a distance from itself (psABI, table "Relocation Types": `S + A -
    /// P`).
    #[must_use]
    pub fn is_relative(&self) -> bool {
        matches!(
            self.kind,
            R_X86_64_PC8
                | R_X86_64_PC16
                | R_X86_64_PC32
                | R_X86_64_PC64
                | R_X86_64_PLT32
                | R_X86_64_GOTPCREL
                | R_X86_64_GOTPCRELX
                | R_X86_64_REX_GOTPCRELX
        )
    }
}

/// What a relocation refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'data> {
    /// A place in this file: symbol plus addend.
    Place(Place),
    /// A symbol that this file does not define, and the addend.
    Symbol(&'data str, i64),
}

/// The file.
pub struct Elf<'data> {
    file: ElfFile64<'data, LittleEndian>,
    data: &'data [u8],
    sections: Vec<Section<'data>>,
    /// By index; the first is the null symbol.
    symbols: Vec<Symbol<'data>>,
    /// Start, end and index of the sections that have an address, in order of it.
    by_address: Vec<(u64, u64, usize)>,
    relocatable: bool,
}

impl<'data> Elf<'data> {
    /// Reads the headers of a file.
    ///
    /// # Errors
    ///
    /// When the file is not an x86-64 object or executable, or its headers contradict it.
    pub fn parse(data: &'data [u8]) -> Result<Self, Error> {
        match FileKind::parse(data) {
            Ok(FileKind::Elf64) => {}
            Ok(FileKind::Archive) => return Err(Error::Archive),
            _ => return Err(Error::NotX86Elf),
        }
        let header = FileHeader64::<LittleEndian>::parse(data).map_err(|_| Error::NotX86Elf)?;
        let endian = header.endian().map_err(|_| Error::NotX86Elf)?;
        if header.e_machine(endian) != EM_X86_64 {
            return Err(Error::NotX86Elf);
        }
        let relocatable = match header.e_type(endian) {
            ET_REL => true,
            ET_EXEC | ET_DYN => false,
            other => return Err(Error::FileType(other.0)),
        };
        let file = ElfFile64::parse(data)?;
        let mut names = Names::of(data);
        let sections = sections(&file, data, relocatable, &mut names)?;
        check_overlap(&sections)?;
        let symbols = symbols(&file, &sections, &mut names)?;
        let by_address = if relocatable { Vec::new() } else { by_address(&sections) };
        Ok(Self { file, data, sections, symbols, by_address, relocatable })
    }

    /// Whether this is `ET_REL`: an object or a module.
    #[must_use]
    pub fn relocatable(&self) -> bool {
        self.relocatable
    }

    /// All sections, by index.
    #[must_use]
    pub fn sections(&self) -> &[Section<'data>] {
        &self.sections
    }

    /// The executable sections, with their indices.
    pub fn executable(&self) -> impl Iterator<Item = (usize, &Section<'data>)> {
        self.sections.iter().enumerate().filter(|(_, section)| section.executable)
    }

    /// The section of this name, with its index.
    #[must_use]
    pub fn section_named(&self, name: &str) -> Option<(usize, &Section<'data>)> {
        self.sections.iter().enumerate().find(|(_, section)| section.name == name)
    }

    /// The address of a place: its offset in a relocatable object, its virtual address in a linked
    /// file.
    #[must_use]
    pub fn address(&self, place: Place) -> u64 {
        let base = self.sections.get(place.section).map_or(0, |section| section.address);
        base.wrapping_add(place.offset)
    }

    /// The place at an address of a linked file.
    #[must_use]
    pub fn place_at(&self, address: u64) -> Option<Place> {
        let after = self.by_address.partition_point(|&(start, ..)| start <= address);
        let &(start, end, section) = self.by_address[..after].last()?;
        (address < end).then(|| Place { section, offset: address - start })
    }

    /// All symbols but the null one.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol<'data>> {
        self.symbols.iter().skip(1).copied()
    }

    /// The relocations of a section, in order of their offsets.
    #[must_use]
    pub fn relocations(&self, section: usize) -> Vec<Relocation> {
        let Ok(handle) = self.file.section_by_index(SectionIndex(section)) else { return Vec::new() };
        let mut relocations: Vec<Relocation> = handle
            .relocations()
            .filter_map(|(offset, relocation)| {
                let RelocationFlags::Elf { r_type: kind } = relocation.flags() else { return None };
                let symbol = match relocation.target() {
                    RelocationTarget::Symbol(index) => Some(index),
                    _ => None,
                };
                Some(Relocation { offset, kind, symbol, addend: relocation.addend() })
            })
            .collect();
        relocations.sort_by_key(|relocation| relocation.offset);
        relocations
    }

    /// The symbol that a relocation refers to.
    #[must_use]
    pub fn symbol_of(&self, relocation: &Relocation) -> Option<Symbol<'data>> {
        self.symbols.get(relocation.symbol?.0).copied()
    }

    /// What a relocation refers to: symbol plus addend.
    #[must_use]
    pub fn target(&self, relocation: &Relocation) -> Target<'data> {
        let addend = relocation.addend;
        match self.symbol_of(relocation) {
            Some(Symbol { place: Some(Place { section, offset }), .. }) => {
                Target::Place(Place { section, offset: offset.wrapping_add_signed(addend) })
            }
            Some(symbol) => Target::Symbol(symbol.name, addend),
            None => Target::Symbol("", addend),
        }
    }
}

type Header = ::object::elf::SectionHeader64<LittleEndian>;

/// Takes the names of a file, as long as they are in proportion to it.
struct Names {
    left: usize,
}

impl Names {
    /// A string table is shared where one name is the end of another, so names may come to more
    /// than it.
    fn of(data: &[u8]) -> Self {
        const RATIO: usize = 8;
        Self { left: data.len().saturating_mul(RATIO) }
    }

    fn take<'data>(&mut self, name: &'data [u8]) -> Result<&'data str, Error> {
        // Reports repeat names. Linux takes symbols of 512 bytes (`KSYM_NAME_LEN`,
        // include/linux/kallsyms.h).
        const LONGEST: usize = 4096;
        if name.len() > LONGEST {
            return Err(Error::Malformed(format!("a name of more than {LONGEST} bytes")));
        }
        let left = self.left.checked_sub(name.len());
        self.left = left.ok_or_else(|| Error::Malformed("more names than the file can hold".to_owned()))?;
        Ok(std::str::from_utf8(name).unwrap_or("?"))
    }
}

fn sections<'data>(
    file: &ElfFile64<'data, LittleEndian>,
    data: &'data [u8],
    relocatable: bool,
    names: &mut Names,
) -> Result<Vec<Section<'data>>, Error> {
    let table = file.elf_section_table();
    let section = |(index, header): (usize, &'data Header)| {
        let name = names.take(table.section_name(LittleEndian, header).unwrap_or_default())?;
        section(header, name, data, relocatable).map_err(|what| Error::Section { name: name.to_owned(), index, what })
    };
    table.iter().enumerate().map(section).collect()
}

fn section<'data>(
    header: &'data Header,
    name: &'data str,
    data: &'data [u8],
    relocatable: bool,
) -> Result<Section<'data>, &'static str> {
    let kind = header.sh_type(LittleEndian);
    let flags = header.sh_flags(LittleEndian);
    let bytes = header.data(LittleEndian, data).map_err(|_| "it reaches beyond the end of the file")?;
    if kind == SHT_RELA && header.rela(LittleEndian, data).is_err() {
        return Err("it does not hold whole relocations");
    }
    let address = if relocatable { 0 } else { header.sh_addr(LittleEndian) };
    let size = header.sh_size(LittleEndian);
    if address.checked_add(size).is_none() {
        return Err("it reaches beyond the end of the address space");
    }
    let alloc = flags.contains(SHF_ALLOC);
    if alloc && flags.contains(SHF_COMPRESSED) {
        // ELF gABI, "Section Compression": the two exclude each other. Code must not hide there.
        return Err("it is loaded, and yet compressed");
    }
    let start = header.sh_offset(LittleEndian);
    Ok(Section {
        name,
        address,
        size,
        align: header.sh_addralign(LittleEndian).max(1),
        bytes: if flags.contains(SHF_COMPRESSED) { &[] } else { bytes },
        file_range: (start, start.saturating_add(bytes.len() as u64)),
        kind,
        alloc,
        executable: alloc && flags.contains(SHF_EXECINSTR) && kind != SHT_NOBITS,
    })
}

/// Refuses sections that share bytes of the file.
fn check_overlap(sections: &[Section<'_>]) -> Result<(), Error> {
    // The null section's size may be the number of sections (ELF gABI, "ELF Header", `e_shnum`).
    let has_bytes = |index: &usize| {
        let Section { kind, file_range: (start, end), .. } = sections[*index];
        kind != SHT_NULL && start < end
    };
    let mut filled: Vec<usize> = (0..sections.len()).filter(has_bytes).collect();
    filled.sort_unstable_by_key(|&index| (sections[index].file_range, index));
    let overlap = filled.windows(2).find(|pair| sections[pair[0]].file_range.1 > sections[pair[1]].file_range.0);
    let describe = |index: usize| format!("{} (number {index})", sections[index].name);
    overlap.map_or(Ok(()), |pair| Err(Error::Overlap(describe(pair[0]), describe(pair[1]))))
}

/// The symbols of a file, by index.
fn symbols<'data>(
    file: &ElfFile64<'data, LittleEndian>,
    sections: &[Section<'_>],
    names: &mut Names,
) -> Result<Vec<Symbol<'data>>, Error> {
    let table = file.elf_symbol_table();
    let symbol = |(index, symbol): (SymbolIndex, &'data Sym64<LittleEndian>)| {
        let section = table.symbol_section(LittleEndian, symbol, index).ok().flatten();
        let place = section.and_then(|SectionIndex(section)| {
            let base = sections.get(section)?.address;
            Some(Place { section, offset: symbol.st_value(LittleEndian).wrapping_sub(base) })
        });
        Ok(Symbol {
            name: names.take(table.symbol_name(LittleEndian, symbol).unwrap_or_default())?,
            kind: symbol.st_type(),
            info: symbol.st_info().0,
            place,
            size: symbol.st_size(LittleEndian),
        })
    };
    table.enumerate().map(symbol).collect()
}

/// Sections without an address of their own (not allocated) or without extent name no place.
fn by_address(sections: &[Section<'_>]) -> Vec<(u64, u64, usize)> {
    let mut ranges: Vec<_> = sections
        .iter()
        .enumerate()
        .filter(|(_, section)| section.alloc && section.size > 0)
        .map(|(index, section)| (section.address, section.address + section.size, index))
        .collect();
    ranges.sort_unstable();
    ranges
}
