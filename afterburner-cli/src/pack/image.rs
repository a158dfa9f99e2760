//! The image: one file that several boot loaders take for theirs.
//!
//! QEMU, GRUB and Xen all load an ELF file by its program headers, to `p_paddr`. The wedge with its
//! arena lies in front of the kernel's place ([`LOAD_ADDRESS`]), the payload behind it. Linux loads
//! it to `p_vaddr`, as a program that moves its wedge to the window by itself.
//!
//! Two things are as they are because of GRUB. It looks for `e_entry`, which other loaders take for
//! a physical address, among the *virtual* addresses of the segments (`grub_multiboot_load_elf64`);
//! so these are the physical ones too, and it has to lie below 4 GB, where no kernel's window is.
//! Where the wedge is linked, the addresses of its sections and symbols say. And the large sections
//! have addresses, since GRUB takes those without for symbols and loads them once more.
//!
//! Where in the file the headers lie that loaders look for, and why QEMU must not find one of them,
//! is told in `backends::boot::headers`.

use annotate::object::{Elf, elf};
use annotate::record::IMAGE_SECTION;
use anyhow::{Context as _, ensure};
use backends::boot::headers::{
    MULTIBOOT1_OFFSETS, MULTIBOOT2_ALIGNMENT, NOTE_ALIGNMENT, multiboot1_header, multiboot2_header, pvh_note,
    xen_pv_notes,
};
use object::elf::{
    PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, SHF_ALLOC, SHF_EXECINSTR, SHT_NOBITS, SHT_NOTE, SHT_PROGBITS, SHT_RELA,
    STB_LOCAL, STT_FILE, STT_SECTION, SectionFlags, SymbolInfo, SymbolOther, SymbolSection,
};
use object::write::elf::{ProgramHeader, SectionHeader, SinglePhaseWriter, Sym};
use wedge::guest::layout::{Layout, WINDOW_LENGTH};
use wedge::image::{Header, LOAD_ADDRESS, Parameters, Span, arena_length};
use wedge::x86::paging::PAGE;

use super::elf_file::{self, Section, Symbol, section_index};
use super::payload::Contents;
use super::wedge_file::Wedge;

/// The end of the window, which the wedge needs besides: on bare hardware to look at other memory,
/// on Xen for the fewest page tables that a guest can do with.
const KEPT_FREE: u64 = 2 << 20;

/// An image.
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    pub(super) parameters: Parameters,
}

/// Writes an image.
pub(super) fn write(wedge: &Wedge, layout: &Layout, contents: &Contents) -> anyhow::Result<Image> {
    let (payload, header) = contents.payload();
    let parameters = parameters(wedge, contents, payload.len() as u64)?;
    let entry = u32::try_from(parameters.load_address + wedge.entry)?;
    let elf = wedge.elf()?;
    let symbols = symbols(&elf, layout);
    let bytes = elf_file::write(entry.into(), 3, &symbols, |writer| {
        let notes = write_headers(writer, wedge, layout, entry);
        let mut content = wedge.content_in(layout);
        let place = content.get_mut(wedge.parameters..).and_then(<[u8]>::first_chunk_mut);
        *place.context("the wedge's parameters are not in the file")? = parameters.to_bytes();
        let start = writer.write_align(PAGE);
        writer.write(&content);
        let payload_start = writer.write_align(PAGE);
        writer.write(&payload);
        let segments = vec![
            load(start, &parameters, Span { offset: 0, length: content.len() as u64 }, end_of_arena(&parameters)),
            load(payload_start, &parameters, parameters.payload, parameters.payload.length),
            note_segment(notes),
        ];
        let mut sections = wedge_sections(&elf, layout, start);
        sections.push(note_section(notes));
        sections.extend(payload_sections(&header, &parameters, payload_start));
        Ok((segments, sections))
    })?;
    Ok(Image { bytes, parameters })
}

/// Where everything is in memory.
fn parameters(wedge: &Wedge, contents: &Contents, length: u64) -> anyhow::Result<Parameters> {
    let arena =
        Span { offset: wedge.length.next_multiple_of(PAGE), length: arena_length(contents.sites.count() as u64) };
    let load_address = LOAD_ADDRESS;
    let end = load_address + arena.offset + arena.length;
    let in_window = WINDOW_LENGTH - LOAD_ADDRESS - KEPT_FREE;
    let room = in_window.min(contents.extent.start.saturating_sub(load_address));
    ensure!(
        end - load_address <= room,
        "the wedge and its arena for {} sites take {:#x} bytes; in its window, and in front of the kernel, there are {room:#x}",
        contents.sites.count(),
        end - load_address,
    );
    let payload = Span { offset: contents.extent.end.next_multiple_of(PAGE) - load_address, length };
    let end = payload.offset.checked_add(length).and_then(|size| size.checked_add(load_address));
    ensure!(
        end.is_some_and(|end| end < 1 << 32),
        "the image does not fit below 4 GB: the payload has {length:#x} bytes"
    );
    Ok(Parameters { load_address, arena, payload })
}

/// How much memory the wedge has with its arena.
pub(super) fn end_of_arena(parameters: &Parameters) -> u64 {
    parameters.arena.offset + parameters.arena.length
}

/// Writes what boot loaders look for, and returns where the notes are.
fn write_headers(writer: &mut SinglePhaseWriter<'_>, wedge: &Wedge, layout: &Layout, entry: u32) -> Span {
    writer.write_align(MULTIBOOT2_ALIGNMENT);
    writer.write(&multiboot2_header(entry));
    let mut notes = vec![pvh_note(entry)];
    let xen_entry = wedge.xen_entry.map(|offset| layout.wedge() + offset);
    notes.extend(xen_entry.into_iter().flat_map(|entry| xen_pv_notes(entry, layout.window().start)));
    let offset = writer.write_align(NOTE_ALIGNMENT);
    writer.write(notes.as_flattened());
    // Behind the place where QEMU looks, which would refuse a 64-bit file; GRUB looks here too.
    writer.pad_until(*MULTIBOOT1_OFFSETS.start());
    writer.write(&multiboot1_header());
    Span { offset, length: notes.as_flattened().len() as u64 }
}

/// The segment with a part of the image, which takes so much memory.
fn load(p_offset: u64, parameters: &Parameters, part: Span, p_memsz: u64) -> ProgramHeader {
    let address = parameters.load_address + part.offset;
    ProgramHeader {
        p_type: PT_LOAD,
        p_flags: PF_R | PF_W | PF_X,
        p_offset,
        p_vaddr: address,
        p_paddr: address,
        p_filesz: part.length,
        p_memsz,
        p_align: PAGE,
    }
}

fn note_segment(notes: Span) -> ProgramHeader {
    ProgramHeader {
        p_type: PT_NOTE,
        p_flags: PF_R,
        p_offset: notes.offset,
        p_vaddr: 0,
        p_paddr: 0,
        p_filesz: notes.length,
        p_memsz: notes.length,
        p_align: NOTE_ALIGNMENT,
    }
}

fn note_section(notes: Span) -> Section<'static> {
    let header = SectionHeader { sh_type: SHT_NOTE, sh_addralign: NOTE_ALIGNMENT, ..part(notes, 0) };
    Section { name: b".note.Xen", header }
}

/// The payload's parts that tools may want to see.
fn payload_sections(header: &Header, parameters: &Parameters, start: u64) -> Vec<Section<'static>> {
    let physical = |span: Span| parameters.load_address + parameters.payload.offset + span.offset;
    let section = |name, span: Span, sh_addr| Section {
        name,
        header: SectionHeader { sh_addr, ..part(Span { offset: start + span.offset, ..span }, 8) },
    };
    // Records are relative to themselves, so where the table is said to be is part of what it says.
    let mut sections = vec![section(IMAGE_SECTION.as_bytes(), header.sites, header.sites_address)];
    for (name, span) in [(&b".kernel"[..], header.kernel), (b".initramfs", header.initramfs)] {
        if span.length > 0 {
            sections.push(section(name, span, physical(span)));
        }
    }
    sections
}

/// The header of a section that holds a part of the file.
fn part(span: Span, sh_addralign: u64) -> SectionHeader {
    SectionHeader {
        sh_name: 0,
        sh_type: SHT_PROGBITS,
        sh_flags: SectionFlags(0),
        sh_addr: 0,
        sh_offset: span.offset,
        sh_size: span.length,
        sh_link: 0,
        sh_info: 0,
        sh_addralign,
        sh_entsize: 0,
    }
}

/// Whether a section of the wedge is loaded: not what it was moved by, which lies behind its end.
fn is_loaded(section: &elf::Section<'_>) -> bool {
    section.alloc && section.kind != SHT_RELA
}

/// The sections of the wedge that are loaded; its first byte is at an offset of the file.
fn wedge_sections<'data>(elf: &Elf<'data>, layout: &Layout, start: u64) -> Vec<Section<'data>> {
    let loaded = elf.sections().iter().filter(|section| is_loaded(section));
    let header = loaded.map(|section| {
        let is_bss = section.kind == SHT_NOBITS;
        let offset = if is_bss { 0 } else { start + section.address };
        let executable = if section.executable { SHF_EXECINSTR } else { SectionFlags(0) };
        let header = SectionHeader {
            sh_type: section.kind,
            sh_flags: SHF_ALLOC | executable,
            sh_addr: layout.wedge().wrapping_add(section.address),
            ..part(Span { offset, length: section.size }, section.align)
        };
        Section { name: section.name.as_bytes(), header }
    });
    header.collect()
}

/// The symbols of the wedge's loaded sections, local ones first.
fn symbols<'data>(elf: &Elf<'data>, layout: &Layout) -> Vec<Symbol<'data>> {
    let loaded = elf.sections().iter().enumerate().filter(|(_, section)| is_loaded(section)).map(|(index, _)| index);
    let loaded: Vec<usize> = loaded.collect();
    let symbol = |symbol: elf::Symbol<'data>| {
        let place = symbol.place.filter(|_| symbol.kind != STT_SECTION && symbol.kind != STT_FILE)?;
        let position = loaded.iter().position(|&index| index == place.section)?;
        let entry = Sym {
            section: Some(section_index(position)),
            st_name: 0,
            st_info: SymbolInfo(symbol.info),
            st_other: SymbolOther(0),
            st_shndx: SymbolSection(0),
            st_value: layout.wedge().wrapping_add(elf.address(place)),
            st_size: symbol.size,
        };
        Some(Symbol { name: symbol.name.as_bytes(), symbol: entry })
    };
    let mut symbols: Vec<_> = elf.symbols().filter_map(symbol).collect();
    symbols.sort_by_key(|symbol| symbol.symbol.st_info.st_bind() != STB_LOCAL);
    symbols
}
