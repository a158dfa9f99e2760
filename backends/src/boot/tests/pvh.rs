use super::*;

pub(super) const AT: u64 = 0x1000;
const MAP: u64 = 0x2000;
const COMMAND_LINE: u64 = 0x3000;
const MODULES: u64 = 0x4000;
const MODULE: u64 = 0x20_0000;
const RSDP: u64 = 0xf_5000;

/// Offsets in `hvm_start_info`.
const VERSION: u64 = 4;
const MODULE_COUNT: u64 = 12;
const MODULE_LIST: u64 = 16;
const COMMAND_LINE_ADDRESS: u64 = 24;
const MAP_ADDRESS: u64 = 40;
const MAP_ENTRIES: u64 = 48;

pub(super) fn memory() -> Memory {
    let mut memory = Memory::default();
    let [map, command_line, modules, rsdp_at, module] =
        [MAP, COMMAND_LINE, MODULES, RSDP, MODULE].map(|address| u32::try_from(address).unwrap());
    let pointers = [modules, 0, command_line, 0, rsdp_at, 0, map, 0, 4, 0];
    memory.set_words(AT, &[&[headers::PVH_START_MAGIC, 1, 0, 1], &pointers[..]].concat());
    let map = [
        [0, 0, 0x9_fc00, 0, 1, 0],
        [0x9_fc00, 0, 0x400, 0, 2, 0],
        [0x10_0000, 0, 0x7fef_0000, 0, 1, 0],
        [0, 1, 0x8000_0000, 0, 1, 0],
    ];
    memory.set_words(MAP, map.as_flattened());
    memory.set(COMMAND_LINE, b"console=ttyS0 quiet\0");
    memory.set_words(MODULES, &[module, 0, 16, 0, 0, 0, 0, 0]);
    memory.set(MODULE, [0; 16]);
    memory.set(RSDP, rsdp(2));
    memory
}

#[test]
fn start_info_is_understood() {
    let memory = memory();
    let information = BootInformation::read(LoaderProtocol::Pvh, &memory, AT).unwrap();
    assert_eq!(information.protocol, LoaderProtocol::Pvh);
    assert_eq!(information.command_line, "console=ttyS0 quiet");
    assert_eq!(information.modules.iter().collect::<Vec<_>>(), [&(MODULE..MODULE + 16)]);
    assert_eq!(information.rsdp, Some(RSDP..RSDP + 36));
    assert_eq!(information.framebuffer, None);
    let expected = [
        region(0, 0x9_fc00, Kind::Usable),
        region(0x9_fc00, 0xa_0000, Kind::Reserved),
        region(0x10_0000, 0x7fff_0000, Kind::Usable),
        region(0x1_0000_0000, 0x1_8000_0000, Kind::Usable),
    ];
    assert_eq!(information.memory.regions(), expected);
}

#[test]
fn what_start_info_leaves_out_is_absent() {
    let mut memory = memory();
    memory.change(AT + MODULE_COUNT, [0; 28]);
    memory.change_word(AT + VERSION, 2);
    let information = BootInformation::read(LoaderProtocol::Pvh, &memory, AT).unwrap();
    assert_eq!((information.command_line, information.modules.len(), information.rsdp), ("", 0, None));
}

#[test]
fn each_fault_of_start_info_is_found() {
    let faults: &[Fault] = &[
        (|memory| memory.cut(AT, 39), "hvm_start_info", AT, Problem::Unreadable { length: 40 }),
        (|memory| memory.cut(AT, 55), "hvm_start_info", AT + 40, Problem::Unreadable { length: 16 }),
        (|memory| memory.change_word(AT, 0x336e_c579), "hvm_start_info", AT, Problem::Magic(0x336e_c579)),
        (|memory| memory.change_word(AT + VERSION, 0), "hvm_start_info", AT, Problem::VersionWithoutMemoryMap(0)),
        (|memory| memory.change_word(AT + MAP_ENTRIES, 0), "memmap_paddr", AT, Problem::NoMemoryMap),
        (|memory| memory.change_word(AT + MAP_ADDRESS, 0), "memmap_paddr", AT, Problem::NoMemoryMap),
        (|memory| memory.cut(MAP, 95), "memmap_paddr", MAP, Problem::Unreadable { length: 96 }),
        (
            |memory| memory.change_word(AT + MAP_ENTRIES, u32::MAX),
            "memmap_paddr",
            MAP,
            Problem::Unreadable { length: 24 * 0xffff_ffff },
        ),
        (
            |memory| memory.change(MAP + 3 * 24 + 8, u64::MAX.to_le_bytes()),
            "memmap_paddr",
            MAP,
            Problem::EndlessRegion { start: 0x1_0000_0000, length: u64::MAX },
        ),
        (
            |memory| (0..4).for_each(|entry| memory.change_word(MAP + entry * 24 + 16, 2)),
            "memmap_paddr",
            MAP,
            Problem::NoUsableMemory,
        ),
        (
            |memory| {
                let entries: Vec<_> = (0..129u32).map(|entry| [entry * 0x2000, 0, 0x1000, 0, 1, 0]).collect();
                memory.set_words(MAP, entries.as_flattened());
                memory.change_word(AT + MAP_ENTRIES, 129);
            },
            "memmap_paddr",
            MAP,
            Problem::TooManyRegions,
        ),
        (|memory| memory.cut(MODULES, 31), "modlist_paddr", MODULES, Problem::Unreadable { length: 32 }),
        (
            |memory| memory.change_word(AT + MODULE_COUNT, u32::MAX),
            "modlist_paddr",
            MODULES + 32,
            Problem::Unreadable { length: 32 },
        ),
        (
            |memory| memory.change(AT + MODULE_LIST, [0xff; 8]),
            "modlist_paddr",
            u64::MAX,
            Problem::Unreadable { length: 32 },
        ),
        (|memory| memory.cut(MODULE, 15), "module", MODULE, Problem::Unreadable { length: 16 }),
        (|memory| memory.change(MODULES + 8, [0xff; 8]), "module", MODULE, Problem::Unreadable { length: u64::MAX }),
        (
            |memory| {
                memory.change_word(AT + MODULE_COUNT, 9);
                let module = [u32::try_from(MODULE).unwrap(), 0, 16, 0, 0, 0, 0, 0];
                memory.set_words(MODULES, [module; 9].as_flattened());
            },
            "modlist_paddr",
            MODULES,
            Problem::TooManyModules,
        ),
        (|memory| memory.cut(COMMAND_LINE, 19), "cmdline_paddr", COMMAND_LINE + 19, Problem::Unreadable { length: 1 }),
        (
            |memory| {
                memory.set(0x30_0000, vec![b'x'; 70000]);
                memory.change_word(AT + COMMAND_LINE_ADDRESS, 0x30_0000);
            },
            "cmdline_paddr",
            0x30_0000,
            Problem::Unterminated,
        ),
        (|memory| memory.change(COMMAND_LINE, [0xff]), "cmdline_paddr", COMMAND_LINE, Problem::NotUtf8),
        (|memory| memory.cut(RSDP, 19), "rsdp_paddr", RSDP, Problem::Unreadable { length: 20 }),
        (|memory| memory.cut(RSDP, 35), "rsdp_paddr", RSDP, Problem::Unreadable { length: 36 }),
        (|memory| memory.change(RSDP, b"RSDPTR  "), "rsdp_paddr", RSDP, Problem::Rsdp),
        (|memory| memory.change(RSDP + 9, b"X"), "rsdp_paddr", RSDP, Problem::Rsdp),
        (|memory| memory.change(RSDP + 35, b"X"), "rsdp_paddr", RSDP, Problem::Rsdp),
        (|memory| memory.change_word(RSDP + 20, 0), "rsdp_paddr", RSDP, Problem::Rsdp),
    ];
    assert_faults(LoaderProtocol::Pvh, AT, &memory(), faults);
}
