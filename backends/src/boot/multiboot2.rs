//! Multiboot 2: one piece of memory with everything in it, as a list of tags (Multiboot2
//! Specification 2.0, 3.6). Each has a type and a size, and starts at a multiple of eight bytes. Of
//! tags that are there twice the last counts, except modules.

use core::ops::Range;

use wedge::memory::{Kind, MemoryMap};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::framebuffer::{Framebuffer, RawFramebuffer};
use super::reader::{MapBuilder, MapEntry, Reader};
use super::{BootInformation, InvalidBootInformation, Modules, Problem};

const ALIGNMENT: usize = 8;

/// Types of tags.
const END: u32 = 0;
const COMMAND_LINE: u32 = 1;
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
const FRAMEBUFFER: u32 = 8;
const OLD_RSDP: u32 = 14;
const NEW_RSDP: u32 = 15;
const EFI_MEMORY_MAP: u32 = 17;
const BOOT_SERVICES: u32 = 18;

/// The start of the structure.
#[derive(FromBytes)]
#[repr(C)]
struct Fixed {
    total_size: U32,
    _reserved: U32,
}

/// The start of a tag.
#[derive(FromBytes)]
#[repr(C)]
struct TagHeader {
    kind: U32,
    size: U32,
}

const TAG_HEADER: usize = size_of::<TagHeader>();

/// What all tags are called in errors that concern no known one.
const TAG: &str = "tag";

/// A tag.
#[derive(Clone, Copy)]
struct Tag<'a> {
    name: &'static str,
    address: u64,
    /// What is behind its header.
    body: &'a [u8],
}

/// The tags that count.
#[derive(Default)]
struct Tags<'a> {
    command_line: Option<Tag<'a>>,
    modules: Modules,
    memory_map: Option<Tag<'a>>,
    efi_memory_map: Option<Tag<'a>>,
    old_rsdp: Option<Tag<'a>>,
    new_rsdp: Option<Tag<'a>>,
    framebuffer: Option<Tag<'a>>,
}

pub(super) fn read<'a>(reader: &Reader<'a>, address: u64) -> Result<BootInformation<'a>, InvalidBootInformation> {
    const FIELD: &str = "total_size";
    if !address.is_multiple_of(ALIGNMENT as u64) {
        return Err(reader.error(FIELD, address, Problem::Misaligned));
    }
    let fixed: Fixed = reader.structure(FIELD, address)?;
    let information = reader.bytes(FIELD, address, fixed.total_size.into())?;
    let tags = tags(reader, address, information)?;
    let command_line = match tags.command_line {
        None => "",
        Some(tag) => reader.string_within(tag.name, tag.address, tag.body)?,
    };
    let memory = match (tags.memory_map, tags.efi_memory_map) {
        (Some(tag), _) => memory_map(reader, tag)?,
        (None, Some(tag)) => efi_memory_map(reader, tag)?,
        (None, None) => return Err(reader.error("tags", address, Problem::NoMemoryMap)),
    };
    Ok(BootInformation {
        protocol: reader.protocol,
        memory,
        command_line,
        modules: tags.modules,
        rsdp: tags
            .new_rsdp
            .or(tags.old_rsdp)
            .map(|tag| reader.rsdp(tag.name, tag.address + TAG_HEADER as u64, tag.body.len() as u64))
            .transpose()?,
        framebuffer: tags.framebuffer.map(|tag| framebuffer(reader, tag)).transpose()?.flatten(),
    })
}

/// Reads the list up to its end.
fn tags<'a>(reader: &Reader<'_>, address: u64, information: &'a [u8]) -> Result<Tags<'a>, InvalidBootInformation> {
    let mut tags = Tags::default();
    let mut offset = size_of::<Fixed>();
    loop {
        let at = address.saturating_add(offset as u64);
        let rest = information.get(offset..).unwrap_or_default();
        let (header, _) =
            TagHeader::read_from_prefix(rest).map_err(|_| reader.error(TAG, at, Problem::Unterminated))?;
        let length = header.size.get() as usize;
        let tag = |name| tag(reader, name, at, rest, length);
        match header.kind.get() {
            END => return Ok(tags),
            COMMAND_LINE => tags.command_line = Some(tag("command line tag")?),
            MODULE => {
                let module = module(reader, tag("module tag")?)?;
                tags.modules.add(module).map_err(|problem| reader.error("module tag", at, problem))?;
            }
            MEMORY_MAP => tags.memory_map = Some(tag("memory map tag")?),
            FRAMEBUFFER => tags.framebuffer = Some(tag("framebuffer tag")?),
            OLD_RSDP => tags.old_rsdp = Some(tag("ACPI old RSDP tag")?),
            NEW_RSDP => tags.new_rsdp = Some(tag("ACPI new RSDP tag")?),
            EFI_MEMORY_MAP => tags.efi_memory_map = Some(tag("EFI memory map tag")?),
            BOOT_SERVICES => {
                return Err(reader.error("EFI boot services not terminated tag", at, Problem::BootServices));
            }
            _ => {
                tag(TAG)?;
            }
        }
        offset += length.next_multiple_of(ALIGNMENT);
    }
}

/// A tag of this length, if it fits.
fn tag<'a>(
    reader: &Reader<'_>,
    name: &'static str,
    address: u64,
    rest: &'a [u8],
    length: usize,
) -> Result<Tag<'a>, InvalidBootInformation> {
    let problem = |problem| reader.error(name, address, problem);
    if length < TAG_HEADER {
        return Err(problem(Problem::Short { length: length as u64, least: TAG_HEADER as u64 }));
    }
    let body = rest.get(TAG_HEADER..length).ok_or(problem(Problem::Overrun { length: length as u64 }))?;
    Ok(Tag { name, address, body })
}

impl<'a> Tag<'a> {
    /// The first fields, and what is behind them.
    fn fields<T: FromBytes>(&self, reader: &Reader<'_>) -> Result<(T, &'a [u8]), InvalidBootInformation> {
        let length = (TAG_HEADER + self.body.len()) as u64;
        let short = Problem::Short { length, least: (TAG_HEADER + size_of::<T>()) as u64 };
        T::read_from_prefix(self.body).map_err(|_| reader.error(self.name, self.address, short))
    }

    /// The table behind two fields, the first of which is the size of an entry; each of at least
    /// `T`'s size.
    fn table<T: FromBytes>(
        &self,
        reader: &Reader<'_>,
    ) -> Result<impl Iterator<Item = T> + use<'a, T>, InvalidBootInformation> {
        let (TableHeader { entry_size, .. }, table) = self.fields(reader)?;
        let (size, least) = (entry_size.get() as usize, size_of::<T>());
        let problem = |problem| reader.error(self.name, self.address, problem);
        if size < least {
            return Err(problem(Problem::Short { length: size as u64, least: least as u64 }));
        }
        if !table.len().is_multiple_of(size) {
            return Err(problem(Problem::Overrun { length: size as u64 }));
        }
        Ok(table.chunks_exact(size).filter_map(|entry| Some(T::read_from_prefix(entry).ok()?.0)))
    }
}

/// The start of a tag with a table.
#[derive(FromBytes)]
#[repr(C)]
struct TableHeader {
    entry_size: U32,
    _entry_version: U32,
}

/// The start of a module's tag.
#[derive(FromBytes)]
#[repr(C)]
struct ModuleTag {
    start: U32,
    end: U32,
}

fn module(reader: &Reader<'_>, tag: Tag<'_>) -> Result<Range<u64>, InvalidBootInformation> {
    let (ModuleTag { start, end }, _) = tag.fields(reader)?;
    reader.module(tag.name, tag.address, start.into()..end.into())
}

fn memory_map(reader: &Reader<'_>, tag: Tag<'_>) -> Result<MemoryMap, InvalidBootInformation> {
    let mut map = MapBuilder::default();
    tag.table::<MapEntry>(reader)?
        .try_for_each(|entry| map.add_entry(&entry))
        .and_then(|()| map.finish())
        .map_err(|problem| reader.error(tag.name, tag.address, problem))
}

/// `EFI_MEMORY_DESCRIPTOR` (UEFI 2.10, 7.2.3).
#[derive(FromBytes)]
#[repr(C)]
struct EfiDescriptor {
    kind: U32,
    _padding: U32,
    physical_start: U64,
    _virtual_start: U64,
    number_of_pages: U64,
    _attribute: U64,
}

/// What memory of an EFI type is, once boot services have ended (UEFI 2.10, 7.2, table 7.10). Code
/// and data of runtime services (5 and 6) stay the firmware's.
fn efi_kind(kind: u32) -> Kind {
    match kind {
        1..=4 | 7 => Kind::Usable,
        8 => Kind::Unusable,
        9 => Kind::AcpiTables,
        10 => Kind::AcpiNonVolatile,
        _ => Kind::Reserved,
    }
}

fn efi_memory_map(reader: &Reader<'_>, tag: Tag<'_>) -> Result<MemoryMap, InvalidBootInformation> {
    const EFI_PAGE_SIZE: u64 = 4096;
    let mut map = MapBuilder::default();
    tag.table::<EfiDescriptor>(reader)?
        .try_for_each(|descriptor| {
            let start = descriptor.physical_start.get();
            let length = descriptor.number_of_pages.get().saturating_mul(EFI_PAGE_SIZE);
            map.add(start, length, efi_kind(descriptor.kind.get()))
        })
        .and_then(|()| map.finish())
        .map_err(|problem| reader.error(tag.name, tag.address, problem))
}

fn framebuffer(reader: &Reader<'_>, tag: Tag<'_>) -> Result<Option<Framebuffer>, InvalidBootInformation> {
    let (framebuffer, colours): (RawFramebuffer, _) = tag.fields(reader)?;
    framebuffer.check(colours).map_err(|problem| reader.error(tag.name, tag.address, problem))
}
