//! Multiboot 1: a structure of which each part is there if its flag is (Multiboot Specification
//! 0.6.96, 3.3).

use wedge::memory::{Kind, MemoryMap};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::framebuffer::{Framebuffer, RawFramebuffer};
use super::reader::{MapBuilder, MapEntry, Reader};
use super::{BootInformation, InvalidBootInformation, Modules, Problem};

/// The fields up to the framebuffer's, which older loaders do not have.
#[derive(FromBytes)]
#[repr(C)]
struct Information {
    flags: U32,
    mem_lower: U32,
    mem_upper: U32,
    _boot_device: U32,
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
    _syms: [U32; 4],
    mmap_length: U32,
    mmap_addr: U32,
    _drives_to_vbe: [U32; 9],
}

const _: () = assert!(size_of::<Information>() == 88);

/// The fields behind them.
#[derive(FromBytes)]
#[repr(C)]
struct Screen {
    framebuffer: RawFramebuffer,
    colour_info: [u8; 6],
}

/// Flags: which of the fields are valid.
const MEMORY: u32 = 1 << 0;
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const FRAMEBUFFER: u32 = 1 << 12;

/// An entry of the list of modules.
#[derive(FromBytes)]
#[repr(C)]
struct ModuleEntry {
    start: U32,
    end: U32,
    _string: U32,
    _reserved: U32,
}

impl Information {
    fn has(&self, flag: u32) -> bool {
        self.flags.get() & flag != 0
    }
}

pub(super) fn read<'a>(reader: &Reader<'a>, address: u64) -> Result<BootInformation<'a>, InvalidBootInformation> {
    let information: Information = reader.structure("multiboot_info", address)?;
    let command_line =
        if information.has(COMMAND_LINE) { reader.string("cmdline", information.cmdline.into())? } else { "" };
    Ok(BootInformation {
        protocol: reader.protocol,
        memory: memory(reader, address, &information)?,
        command_line,
        modules: modules(reader, &information)?,
        // The guest finds it where BIOS leaves it (ACPI 6.4, 5.2.5.1). After UEFI it has none: that
        // takes multiboot 2.
        rsdp: None,
        framebuffer: screen(reader, address, &information)?,
    })
}

/// The memory map, or what is known without one: the memory from 0 to at most 640 KB, and that from
/// 1 MB on.
fn memory(reader: &Reader<'_>, address: u64, information: &Information) -> Result<MemoryMap, InvalidBootInformation> {
    const KB: u64 = 1024;
    if information.has(MEMORY_MAP) {
        let (at, length) = (information.mmap_addr.into(), information.mmap_length.into());
        return memory_map(reader, at, length);
    }
    if !information.has(MEMORY) {
        return Err(reader.error("flags", address, Problem::NoMemoryMap));
    }
    let mut map = MapBuilder::default();
    map.add(0, u64::from(information.mem_lower) * KB, Kind::Usable)
        .and_then(|()| map.add(KB * KB, u64::from(information.mem_upper) * KB, Kind::Usable))
        .and_then(|()| map.finish())
        .map_err(|problem| reader.error("mem_upper", address, problem))
}

/// The entries of a memory map, each with a word before it that says how long it is, itself not
/// counted.
fn memory_map(reader: &Reader<'_>, at: u64, length: u64) -> Result<MemoryMap, InvalidBootInformation> {
    const FIELD: &str = "mmap_addr";
    const SIZE_LENGTH: u64 = size_of::<U32>() as u64;
    const LEAST: u64 = size_of::<MapEntry>() as u64;
    let end = at + length;
    reader.bytes(FIELD, at, length)?;
    let mut map = MapBuilder::default();
    let mut entry_at = at;
    while entry_at < end {
        let size = u64::from(reader.structure::<U32>(FIELD, entry_at)?);
        if size < LEAST {
            return Err(reader.error(FIELD, entry_at, Problem::Short { length: size, least: LEAST }));
        }
        if size + SIZE_LENGTH > end - entry_at {
            return Err(reader.error(FIELD, entry_at, Problem::Overrun { length: size + SIZE_LENGTH }));
        }
        let entry = reader.structure(FIELD, entry_at + SIZE_LENGTH)?;
        map.add_entry(&entry).map_err(|problem| reader.error(FIELD, entry_at, problem))?;
        entry_at += size + SIZE_LENGTH;
    }
    map.finish().map_err(|problem| reader.error(FIELD, at, problem))
}

fn modules(reader: &Reader<'_>, information: &Information) -> Result<Modules, InvalidBootInformation> {
    const FIELD: &str = "mods_addr";
    let mut modules = Modules::default();
    let count = if information.has(MODULES) { information.mods_count.get() } else { 0 };
    for index in 0..u64::from(count) {
        let at = u64::from(information.mods_addr) + index * size_of::<ModuleEntry>() as u64;
        let ModuleEntry { start, end, .. } = reader.structure(FIELD, at)?;
        let module = reader.module(FIELD, at, start.into()..end.into())?;
        modules.add(module).map_err(|problem| reader.error(FIELD, at, problem))?;
    }
    Ok(modules)
}

/// The framebuffer.
fn screen(
    reader: &Reader<'_>,
    address: u64,
    information: &Information,
) -> Result<Option<Framebuffer>, InvalidBootInformation> {
    const FIELD: &str = "framebuffer_addr";
    if !information.has(FRAMEBUFFER) {
        return Ok(None);
    }
    let at = address + size_of::<Information>() as u64;
    let screen: Screen = reader.structure(FIELD, at)?;
    screen.framebuffer.check(&screen.colour_info).map_err(|problem| reader.error(FIELD, at, problem))
}
