//! The kernel without what is not loaded.
//!
//! Most of a vmlinux is symbols, relocations and debug information, which nobody needs at boot; an
//! image with them would take twice the time to load. What is left is an executable that boots by
//! itself as the whole one does: the same segments at the same addresses, the notes in them, and
//! headers for the sections in them, so that tools still find their way.

use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD, ProgramHeader64, SHF_ALLOC, SHT_NOBITS, SectionHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::write::elf::{ProgramHeader, SectionHeader, SinglePhaseWriter};

use super::elf_file::{self, Section};

/// Segments are aligned to this in the file, and not to the large pages that they are aligned to in
/// memory.
const PAGE: u64 = 4096;

/// Reduces a kernel, which has to be an executable that holds.
pub(super) fn reduced(data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let all = header.program_headers(LittleEndian, data)?;
    let loads: Vec<_> = all.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD).collect();
    let kept: Vec<_> = all.iter().filter(|segment| place(&loads, segment.file_range(LittleEndian)).is_some()).collect();
    let sections = header.sections(LittleEndian, data)?;
    elf_file::write(header.e_entry(LittleEndian), kept.len(), &[], |writer| {
        let offsets = contents(writer, &loads, data)?;
        let moved = |range| place(&loads, range).map(|(load, inside)| offsets[load] + inside);
        let headers = kept.iter().filter_map(|segment| {
            let p_offset = moved(segment.file_range(LittleEndian))?;
            let is_load = segment.p_type(LittleEndian) == PT_LOAD;
            let p_align = if is_load { PAGE } else { segment.p_align(LittleEndian) };
            Some(ProgramHeader { p_offset, p_align, ..ProgramHeader::from_raw(LittleEndian, *segment) })
        });
        let sections = sections.iter().filter_map(|section| {
            let name = sections.section_name(LittleEndian, section).ok()?;
            section_header(section, moved).map(|header| Section { name, header })
        });
        Ok((headers.collect(), sections.collect()))
    })
}

type Segment = ProgramHeader64<LittleEndian>;

/// Writes the contents of segments, and returns where.
fn contents(writer: &mut SinglePhaseWriter<'_>, loads: &[&Segment], data: &[u8]) -> anyhow::Result<Vec<u64>> {
    let write = |segment: &&Segment| {
        let Ok(bytes) = segment.data(LittleEndian, data) else { anyhow::bail!("a segment does not lie in the file") };
        // Offset and address have to agree modulo the alignment (ELF gABI, "Program Header").
        let ahead = segment.p_vaddr(LittleEndian).wrapping_sub(writer.offset()) % PAGE;
        writer.pad_until(writer.offset() + ahead);
        let offset = writer.offset();
        writer.write(bytes);
        Ok(offset)
    };
    loads.iter().map(write).collect()
}

/// The loaded segment that holds a range of the file, and how far inside.
fn place(loads: &[&Segment], (offset, size): (u64, u64)) -> Option<(usize, u64)> {
    loads.iter().enumerate().find_map(|(load, segment)| {
        let (start, length) = segment.file_range(LittleEndian);
        let inside = offset.checked_sub(start)?;
        (inside.checked_add(size)? <= length).then_some((load, inside))
    })
}

/// The header of a section that is loaded.
fn section_header(
    section: &SectionHeader64<LittleEndian>,
    moved: impl Fn((u64, u64)) -> Option<u64>,
) -> Option<SectionHeader> {
    if !section.sh_flags(LittleEndian).contains(SHF_ALLOC) {
        return None;
    }
    // What a section refers to is not there any more.
    let header = SectionHeader { sh_link: 0, sh_info: 0, ..SectionHeader::from_raw(LittleEndian, section) };
    if section.sh_type(LittleEndian) == SHT_NOBITS {
        return Some(SectionHeader { sh_offset: 0, ..header });
    }
    let sh_offset = moved((section.sh_offset(LittleEndian), section.sh_size(LittleEndian)))?;
    Some(SectionHeader { sh_offset, ..header })
}
