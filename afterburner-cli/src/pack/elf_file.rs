//! ELF files, written from front to back.
//!
//! The `object` crate writes the structures. What it leaves open is their order: headers can only
//! be written when all that they point to has its place.

use object::Endianness;
use object::elf::{EM_X86_64, ET_EXEC, STB_LOCAL};
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, SinglePhaseWriter, Sym, Writer};

/// A section of a file to be written. Its name is separate, for the table of names comes last.
pub(super) struct Section<'a> {
    pub(super) name: &'a [u8],
    pub(super) header: SectionHeader,
}

/// A symbol, with its name.
pub(super) struct Symbol<'a> {
    pub(super) name: &'a [u8],
    pub(super) symbol: Sym,
}

/// Writes an executable with this entry point and number of segments. `contents` writes what lies
/// between the headers at the front and the tables at the end, and returns what the headers say of
/// it. Local symbols have to come first.
pub(super) fn write<'a>(
    entry: u64,
    segments: usize,
    symbols: &[Symbol<'a>],
    contents: impl FnOnce(&mut SinglePhaseWriter<'_>) -> anyhow::Result<(Vec<ProgramHeader>, Vec<Section<'a>>)>,
) -> anyhow::Result<Vec<u8>> {
    let (mut bytes, mut headers) = (Vec::new(), Vec::new());
    let mut writer = Writer::new_single_phase(Endianness::Little, true, &mut bytes);
    writer.write_file_header(&FileHeader {
        e_type: ET_EXEC,
        e_machine: EM_X86_64,
        e_entry: entry,
        ..FileHeader::default()
    })?;
    writer.write_program_headers_placeholder(u32::try_from(segments)?);
    let (segments, sections) = contents(&mut writer)?;
    write_tables(&mut writer, symbols, &sections)?;
    writer.write_headers_to(&mut headers, &segments)?;
    drop(writer);
    bytes[..headers.len()].copy_from_slice(&headers);
    Ok(bytes)
}

/// Writes symbols, names, and section headers.
fn write_tables<'a>(
    writer: &mut SinglePhaseWriter<'a>,
    symbols: &[Symbol<'a>],
    sections: &[Section<'a>],
) -> anyhow::Result<()> {
    let names: Vec<_> = symbols.iter().map(|symbol| writer.add_string(symbol.name)).collect();
    if !symbols.is_empty() {
        writer.write_strtab()?;
        writer.write_null_symbol();
    }
    for (symbol, name) in symbols.iter().zip(names) {
        let st_name = writer.string_offset(Some(name));
        writer.write_symbol(&Sym { st_name, ..symbol.symbol.clone() });
    }
    let names: Vec<_> = sections.iter().map(|section| writer.add_section_name(section.name)).collect();
    writer.write_shstrtab()?;
    writer.write_null_section_header();
    for (section, name) in sections.iter().zip(names) {
        let sh_name = writer.section_name_offset(Some(name));
        writer.write_section_header(&SectionHeader { sh_name, ..section.header.clone() });
    }
    let local = 1 + symbols.iter().take_while(|symbol| symbol.symbol.st_info.st_bind() == STB_LOCAL).count();
    writer.write_strtab_section_header();
    writer.write_symtab_section_header(u32::try_from(local)?);
    writer.write_shstrtab_section_header();
    Ok(())
}

/// The index that the section at a position will have: before it there is the null section.
pub(super) fn section_index(position: usize) -> u32 {
    u32::try_from(position).map_or(0, |position| position + 1)
}
