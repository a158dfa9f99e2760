//! PVH: `struct hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h). Its addresses are 0 if
//! there is nothing.
//!
//! Later versions are promised to add fields only, so whatever is not version 0 is read as
//! version 1.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::headers::PVH_START_MAGIC;
use super::reader::{MapBuilder, MapEntry, Reader};
use super::{BootInformation, InvalidBootInformation, Modules, Problem};

/// What all versions have.
#[derive(FromBytes)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    _flags: U32,
    nr_modules: U32,
    modlist_paddr: U64,
    cmdline_paddr: U64,
    rsdp_paddr: U64,
}

/// What version 1 has behind it.
#[derive(FromBytes)]
#[repr(C)]
struct Version1 {
    memmap_paddr: U64,
    memmap_entries: U32,
    _reserved: U32,
}

/// `struct hvm_modlist_entry`.
#[derive(FromBytes)]
#[repr(C)]
struct ModuleEntry {
    paddr: U64,
    size: U64,
    _cmdline_paddr: U64,
    _reserved: U64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(FromBytes)]
#[repr(C)]
struct MemoryMapEntry {
    entry: MapEntry,
    _reserved: U32,
}

const START_INFO: &str = "hvm_start_info";

pub(super) fn read<'a>(reader: &Reader<'a>, address: u64) -> Result<BootInformation<'a>, InvalidBootInformation> {
    let start: StartInfo = reader.structure(START_INFO, address)?;
    if start.magic.get() != PVH_START_MAGIC {
        return Err(reader.error(START_INFO, address, Problem::Magic(start.magic.get())));
    }
    if start.version.get() == 0 {
        return Err(reader.error(START_INFO, address, Problem::VersionWithoutMemoryMap(0)));
    }
    let behind = address + size_of::<StartInfo>() as u64;
    let version1: Version1 = reader.structure(START_INFO, behind)?;
    let memory = memory_map(reader, address, &version1)?;
    let modules = modules(reader, &start)?;
    let command_line = match start.cmdline_paddr.get() {
        0 => "",
        at => reader.string("cmdline_paddr", at)?,
    };
    let rsdp = match start.rsdp_paddr.get() {
        0 => None,
        at => Some(reader.rsdp("rsdp_paddr", at, u64::MAX)?),
    };
    Ok(BootInformation { protocol: reader.protocol, memory, command_line, modules, rsdp, framebuffer: None })
}

fn memory_map(
    reader: &Reader<'_>,
    address: u64,
    version1: &Version1,
) -> Result<wedge::memory::MemoryMap, InvalidBootInformation> {
    const FIELD: &str = "memmap_paddr";
    let (at, entries) = (version1.memmap_paddr.get(), version1.memmap_entries.get());
    if at == 0 || entries == 0 {
        return Err(reader.error(FIELD, address, Problem::NoMemoryMap));
    }
    let bytes = reader.bytes(FIELD, at, u64::from(entries) * size_of::<MemoryMapEntry>() as u64)?;
    let mut map = MapBuilder::default();
    for entry in bytes.chunks_exact(size_of::<MemoryMapEntry>()) {
        let Ok(MemoryMapEntry { entry, .. }) = MemoryMapEntry::read_from_bytes(entry) else { continue };
        map.add_entry(&entry).map_err(|problem| reader.error(FIELD, at, problem))?;
    }
    map.finish().map_err(|problem| reader.error(FIELD, at, problem))
}

fn modules(reader: &Reader<'_>, start: &StartInfo) -> Result<Modules, InvalidBootInformation> {
    const FIELD: &str = "modlist_paddr";
    let mut modules = Modules::default();
    let at = start.modlist_paddr.get();
    for index in 0..u64::from(start.nr_modules.get()) {
        let entry_at = at.saturating_add(index * size_of::<ModuleEntry>() as u64);
        let ModuleEntry { paddr, size, .. } = reader.structure(FIELD, entry_at)?;
        let (start, length) = (paddr.get(), size.get());
        reader.bytes("module", start, length)?;
        modules.add(start..start + length).map_err(|problem| reader.error(FIELD, at, problem))?;
    }
    Ok(modules)
}
