use super::*;

pub(super) const AT: u64 = 0x9500;
const MAP: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x3000;
const MODULES: u64 = 0x4000;
const MODULE: u64 = 0x20_0000;

/// Offsets in the structure.
const FLAGS: u64 = 0;
const MEMORY_UPPER: u64 = 8;
const MODULE_COUNT: u64 = 20;
const MAP_LENGTH: u64 = 44;
const SCREEN: u64 = 88;

pub(super) fn memory() -> Memory {
    let mut memory = Memory::default();
    let [map, command_line, modules, module] =
        [MAP, COMMAND_LINE, MODULES, MODULE].map(|address| u32::try_from(address).unwrap());
    let mut information = vec![0x104d, 639, 0x1_ffc0, 0x8000_ffff, command_line, 1, modules, 0, 0, 0, 0, 76, map];
    information.extend([0; 9]);
    information.extend([0xfd00_0000, 0, 3200, 800, 600, 0x120, 0x0808_0810, 0x800]);
    memory.set_words(AT, &information);
    let map = [
        &[20, 0, 0, 0x9_fc00, 0, 1][..],
        &[24, 0x9_fc00, 0, 0x400, 0, 2, 0xffff_ffff],
        &[20, 0x10_0000, 0, 0x7ff0_0000, 0, 1],
    ];
    memory.set_words(MAP, &map.concat());
    memory.set(COMMAND_LINE, "console=ttyS0 naïve\0");
    memory.set_words(MODULES, &[module, module + 16, 0, 0]);
    memory.set(MODULE, [0; 16]);
    memory
}

#[test]
fn the_information_is_understood() {
    let memory = memory();
    let information = BootInformation::read(LoaderProtocol::Multiboot1, &memory, AT).unwrap();
    assert_eq!(information.protocol, LoaderProtocol::Multiboot1);
    assert_eq!(information.command_line, "console=ttyS0 naïve");
    assert_eq!(information.modules.iter().collect::<Vec<_>>(), [&(MODULE..MODULE + 16)]);
    assert_eq!(information.rsdp, None);
    let channel = |position| Channel { position, size: 8 };
    let framebuffer = Framebuffer {
        address: 0xfd00_0000,
        pitch: 3200,
        width: 800,
        height: 600,
        depth: 32,
        pixels: Pixels::Direct { red: channel(16), green: channel(8), blue: channel(0) },
    };
    assert_eq!(information.framebuffer, Some(framebuffer));
    let expected = [
        region(0, 0x9_fc00, Kind::Usable),
        region(0x9_fc00, 0xa_0000, Kind::Reserved),
        region(0x10_0000, 0x8000_0000, Kind::Usable),
    ];
    assert_eq!(information.memory.regions(), expected);
}

#[test]
fn without_its_flag_a_field_says_nothing() {
    let mut memory = memory();
    memory.cut(AT, 88);
    memory.change_word(AT + FLAGS, 1);
    let information = BootInformation::read(LoaderProtocol::Multiboot1, &memory, AT).unwrap();
    assert_eq!((information.command_line, information.modules.len(), information.framebuffer), ("", 0, None));
    let expected = [region(0, 639 << 10, Kind::Usable), region(1 << 20, (1 << 20) + (0x1_ffc0 << 10), Kind::Usable)];
    assert_eq!(information.memory.regions(), expected);
}

#[test]
fn a_screen_may_be_text_or_of_a_kind_yet_unknown() {
    for (kind, depth, expected) in [(0, 8, Some(Pixels::Indexed)), (2, 16, Some(Pixels::Text)), (3, 8, None)] {
        let mut memory = memory();
        memory.change(AT + SCREEN + 20, [depth, kind]);
        let information = BootInformation::read(LoaderProtocol::Multiboot1, &memory, AT).unwrap();
        assert_eq!(information.framebuffer.map(|framebuffer| framebuffer.pixels), expected);
    }
}

#[test]
fn each_fault_of_the_information_is_found() {
    let faults: &[Fault] = &[
        (|memory| memory.cut(AT, 87), "multiboot_info", AT, Problem::Unreadable { length: 88 }),
        (|memory| memory.cut(AT, 117), "framebuffer_addr", AT + SCREEN, Problem::Unreadable { length: 30 }),
        (|memory| memory.change_word(AT + FLAGS, 0), "flags", AT, Problem::NoMemoryMap),
        (
            |memory| {
                memory.change_word(AT + FLAGS, 1);
                memory.change(AT + MEMORY_UPPER - 4, [0; 8]);
            },
            "mem_upper",
            AT,
            Problem::NoUsableMemory,
        ),
        (|memory| memory.change_word(AT + MAP_LENGTH, 77), "mmap_addr", MAP, Problem::Unreadable { length: 77 }),
        (|memory| memory.change_word(AT + MAP_LENGTH, 0), "mmap_addr", MAP, Problem::NoUsableMemory),
        (|memory| memory.change_word(AT + MAP_LENGTH, 75), "mmap_addr", MAP + 52, Problem::Overrun { length: 24 }),
        (|memory| memory.change_word(AT + MAP_LENGTH, 54), "mmap_addr", MAP + 52, Problem::Overrun { length: 24 }),
        (|memory| memory.change_word(MAP, 19), "mmap_addr", MAP, Problem::Short { length: 19, least: 20 }),
        (
            |memory| memory.change_word(MAP + 24, u32::MAX),
            "mmap_addr",
            MAP + 24,
            Problem::Overrun { length: 0x1_0000_0003 },
        ),
        (
            |memory| memory.change(MAP + 52 + 12, [0xff; 8]),
            "mmap_addr",
            MAP + 52,
            Problem::EndlessRegion { start: 0x10_0000, length: u64::MAX },
        ),
        (
            |memory| {
                let entries: Vec<_> = (0..129u32).map(|entry| [20, entry * 0x2000, 0, 0x1000, 0, 1]).collect();
                memory.set_words(0x1_0000, entries.as_flattened());
                memory.change_word(AT + MAP_LENGTH, 129 * 24);
                memory.change_word(AT + MAP_LENGTH + 4, 0x1_0000);
            },
            "mmap_addr",
            0x1_0000,
            Problem::TooManyRegions,
        ),
        (|memory| memory.cut(MODULES, 15), "mods_addr", MODULES, Problem::Unreadable { length: 16 }),
        (
            |memory| memory.change_word(AT + MODULE_COUNT, u32::MAX),
            "mods_addr",
            MODULES + 16,
            Problem::Unreadable { length: 16 },
        ),
        (
            |memory| memory.change_word(MODULES + 4, 0x1f_ffff),
            "mods_addr",
            MODULES,
            Problem::Module { start: MODULE, end: 0x1f_ffff },
        ),
        (|memory| memory.cut(MODULE, 15), "module", MODULE, Problem::Unreadable { length: 16 }),
        (
            |memory| {
                memory.change_word(AT + MODULE_COUNT, 9);
                memory.set_words(MODULES, &[0x20_0000, 0x20_0010, 0, 0].repeat(9));
            },
            "mods_addr",
            MODULES + 8 * 16,
            Problem::TooManyModules,
        ),
        (|memory| memory.cut(COMMAND_LINE, 20), "cmdline", COMMAND_LINE + 20, Problem::Unreadable { length: 1 }),
        (|memory| memory.change(COMMAND_LINE, [0xff]), "cmdline", COMMAND_LINE, Problem::NotUtf8),
        (|memory| memory.change_word(AT + SCREEN + 8, 3199), "framebuffer_addr", AT + SCREEN, Problem::Geometry),
        (|memory| memory.change_word(AT + SCREEN + 12, 0), "framebuffer_addr", AT + SCREEN, Problem::Geometry),
        (|memory| memory.change_word(AT + SCREEN + 16, 0), "framebuffer_addr", AT + SCREEN, Problem::Geometry),
        (|memory| memory.change(AT + SCREEN + 20, [0]), "framebuffer_addr", AT + SCREEN, Problem::Geometry),
        (|memory| memory.change(AT + SCREEN + 24, [25]), "framebuffer_addr", AT + SCREEN, Problem::Geometry),
        (|memory| memory.change(AT + SCREEN, [0xff; 8]), "framebuffer_addr", AT + SCREEN, Problem::Geometry),
    ];
    assert_faults(LoaderProtocol::Multiboot1, AT, &memory(), faults);
}
