use super::*;

pub(super) const AT: u64 = 0x1_0000;
const MODULE: u64 = 0x20_0000;

/// A tag: type and what is behind the size.
type Tag = (u32, Vec<u8>);

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn command_line() -> Tag {
    (1, b"console=ttyS0 quiet\0".to_vec())
}

fn module() -> Tag {
    (3, [words(&[0x20_0000, 0x20_0010]), b"initrd\0".to_vec()].concat())
}

fn memory_map() -> Tag {
    let entries = [[0, 0, 0x9_fc00, 0, 1, 0], [0x9_fc00, 0, 0x400, 0, 2, 0], [0x10_0000, 0, 0x7ff0_0000, 0, 1, 0]];
    (6, words(&[&[24, 0], entries.as_flattened()].concat()))
}

/// With descriptors of 48 bytes, as OVMF has them.
fn efi_memory_map() -> Tag {
    let descriptor =
        |kind, start, pages| [kind, 0, start, 0, 0xdead_beef, 0xdead_beef, pages, 0, 0xf, 0, 0xdead_beef, 0];
    let descriptors = [
        descriptor(7, 0, 0x9f),
        descriptor(3, 0x10_0000, 0x100),
        descriptor(2, 0x20_0000, 0x100),
        descriptor(7, 0x30_0000, 0x1000),
        descriptor(5, 0x130_0000, 0x10),
        descriptor(6, 0x131_0000, 0x10),
        descriptor(9, 0x132_0000, 0x10),
        descriptor(10, 0x133_0000, 0x10),
        descriptor(8, 0x134_0000, 0x10),
        descriptor(11, 0xffc0_0000, 0x400),
    ];
    (17, words(&[&[48, 1], descriptors.as_flattened()].concat()))
}

fn framebuffer(kind: u8, depth: u8, colours: &[u8]) -> Tag {
    (8, [words(&[0x8000_0000, 0, 5120, 1280, 800]), vec![depth, kind, 0, 0], colours.to_vec()].concat())
}

/// The structure with these tags.
fn with_tags(tags: &[Tag]) -> Memory {
    let mut bytes = vec![0; 8];
    for (kind, body) in tags.iter().chain([&(0, vec![])]) {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(u32::try_from(8 + body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let mut memory = Memory::default();
    memory.set(AT, bytes);
    memory.set(MODULE, [0; 16]);
    memory
}

pub(super) fn memory() -> Memory {
    with_tags(&[
        command_line(),
        (2, b"GRUB 2.06\0".to_vec()),
        module(),
        memory_map(),
        framebuffer(1, 32, &[16, 8, 8, 8, 0, 8]),
        (14, rsdp(0)),
        (15, rsdp(2)),
        efi_memory_map(),
        (21, words(&[0x10_0000])),
    ])
}

/// Offset of the first tag of this type.
fn tag_at(memory: &Memory, kind: u32) -> u64 {
    let bytes = &memory.0[&AT];
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut offset = 8;
    while word(offset) != kind {
        offset += (word(offset + 4) as usize).next_multiple_of(8);
    }
    AT + offset as u64
}

fn read(memory: &Memory) -> Result<BootInformation<'_>, InvalidBootInformation> {
    BootInformation::read(LoaderProtocol::Multiboot2, memory, AT)
}

#[test]
fn the_tags_are_understood() {
    let memory = memory();
    let information = read(&memory).unwrap();
    assert_eq!(information.protocol, LoaderProtocol::Multiboot2);
    assert_eq!(information.command_line, "console=ttyS0 quiet");
    assert_eq!(information.modules.iter().collect::<Vec<_>>(), [&(MODULE..MODULE + 16)]);
    let rsdp = tag_at(&memory, 15) + 8;
    assert_eq!(information.rsdp, Some(rsdp..rsdp + 36), "the new one, not the old one");
    let channel = |position| Channel { position, size: 8 };
    let framebuffer = Framebuffer {
        address: 0x8000_0000,
        pitch: 5120,
        width: 1280,
        height: 800,
        depth: 32,
        pixels: Pixels::Direct { red: channel(16), green: channel(8), blue: channel(0) },
    };
    assert_eq!(information.framebuffer, Some(framebuffer));
    let expected = [
        region(0, 0x9_fc00, Kind::Usable),
        region(0x9_fc00, 0xa_0000, Kind::Reserved),
        region(0x10_0000, 0x8000_0000, Kind::Usable),
    ];
    assert_eq!(information.memory.regions(), expected, "the ordinary map, not EFI's");
}

#[test]
fn without_an_ordinary_map_efis_is_used_and_runtime_services_keep_their_memory() {
    let memory = with_tags(&[efi_memory_map()]);
    let expected = [
        region(0, 0x9_f000, Kind::Usable),
        region(0x10_0000, 0x130_0000, Kind::Usable),
        region(0x130_0000, 0x132_0000, Kind::Reserved),
        region(0x132_0000, 0x133_0000, Kind::AcpiTables),
        region(0x133_0000, 0x134_0000, Kind::AcpiNonVolatile),
        region(0x134_0000, 0x135_0000, Kind::Unusable),
        region(0xffc0_0000, 0x1_0000_0000, Kind::Reserved),
    ];
    assert_eq!(read(&memory).unwrap().memory.regions(), expected);
}

#[test]
fn without_its_tag_a_thing_is_absent() {
    let memory = with_tags(&[memory_map()]);
    let information = read(&memory).unwrap();
    assert_eq!((information.command_line, information.modules.len()), ("", 0));
    assert_eq!((information.rsdp, information.framebuffer), (None, None));
}

#[test]
fn the_old_rsdp_serves_where_there_is_no_new_one() {
    let memory = with_tags(&[memory_map(), (14, rsdp(0))]);
    let at = tag_at(&memory, 14) + 8;
    assert_eq!(read(&memory).unwrap().rsdp, Some(at..at + 20));
}

#[test]
fn entries_of_the_map_may_be_longer() {
    let memory = with_tags(&[(6, words(&[32, 1, 0x10_0000, 0, 0x1000, 0, 1, 0, 7, 7]))]);
    assert_eq!(read(&memory).unwrap().memory.regions(), [region(0x10_0000, 0x10_1000, Kind::Usable)]);
}

#[test]
fn a_text_screen_has_no_colours() {
    let memory = with_tags(&[memory_map(), framebuffer(2, 16, &[])]);
    assert_eq!(read(&memory).unwrap().framebuffer.map(|framebuffer| framebuffer.pixels), Some(Pixels::Text));
}

#[test]
fn each_fault_of_the_structure_is_found() {
    let end = AT + memory().0[&AT].len() as u64;
    let faults: &[Fault] = &[
        (|memory| memory.cut(AT, 7), "total_size", AT, Problem::Unreadable { length: 8 }),
        (|memory| memory.change_word(AT, 0x1_0000), "total_size", AT, Problem::Unreadable { length: 0x1_0000 }),
        (|memory| memory.change_word(AT, 0), "tag", AT + 8, Problem::Unterminated),
        (|memory| memory.change_word(AT, 15), "tag", AT + 8, Problem::Unterminated),
        (
            |memory| {
                let length = memory.0[&AT].len();
                memory.change_word(AT, u32::try_from(length).unwrap() - 8);
            },
            "tag",
            end - 8,
            Problem::Unterminated,
        ),
        (|memory| memory.change_word(AT + 12, 0), "command line tag", AT + 8, Problem::Short { length: 0, least: 8 }),
        (
            |memory| memory.change_word(AT + 12, u32::MAX),
            "command line tag",
            AT + 8,
            Problem::Overrun { length: 0xffff_ffff },
        ),
        (|memory| memory.change_word(AT + 12, 27), "command line tag", AT + 8, Problem::Unterminated),
        (|memory| memory.change(AT + 16, [0xff]), "command line tag", AT + 8, Problem::NotUtf8),
        (|memory| memory.change(AT + 8, [99, 0, 0, 0, 7]), "tag", AT + 8, Problem::Short { length: 7, least: 8 }),
    ];
    assert_faults(LoaderProtocol::Multiboot2, AT, &memory(), faults);
    let misaligned = InvalidBootInformation {
        protocol: LoaderProtocol::Multiboot2,
        field: "total_size",
        address: AT + 4,
        problem: Problem::Misaligned,
    };
    assert_eq!(BootInformation::read(LoaderProtocol::Multiboot2, &memory(), AT + 4).map(|_| ()), Err(misaligned));
}

#[test]
fn each_fault_of_a_tag_is_found() {
    let endless = words(&[24, 0, 0x10_0000, 0, 0xffff_ffff, 0xffff_ffff, 1, 0]);
    let endless_efi = words(&[40, 1, 7, 0, 0x1000, 0, 0, 0, 0xffff_ffff, 0xffff_ffff, 0, 0]);
    let many: Vec<_> = (0..129u32).flat_map(|entry| [entry * 0x2000, 0, 0x1000, 0, 1, 0]).collect();
    let all = u64::MAX;
    for (tags, field, problem) in [
        (vec![], "tags", Problem::NoMemoryMap),
        (vec![(18, vec![])], "EFI boot services not terminated tag", Problem::BootServices),
        (vec![(6, words(&[24]))], "memory map tag", Problem::Short { length: 12, least: 16 }),
        (vec![(6, words(&[0, 0]))], "memory map tag", Problem::Short { length: 0, least: 20 }),
        (vec![(6, words(&[16, 0, 0, 0, 0, 0]))], "memory map tag", Problem::Short { length: 16, least: 20 }),
        (vec![(6, words(&[24, 0, 0, 0, 0, 0]))], "memory map tag", Problem::Overrun { length: 24 }),
        (vec![(6, words(&[24, 0]))], "memory map tag", Problem::NoUsableMemory),
        (vec![(6, endless)], "memory map tag", Problem::EndlessRegion { start: 0x10_0000, length: all }),
        (vec![(6, words(&[&[24, 0], &many[..]].concat()))], "memory map tag", Problem::TooManyRegions),
        (vec![(17, words(&[32, 1]))], "EFI memory map tag", Problem::Short { length: 32, least: 40 }),
        (vec![(17, endless_efi)], "EFI memory map tag", Problem::EndlessRegion { start: 0x1000, length: all }),
        (vec![(3, words(&[0x20_0000]))], "module tag", Problem::Short { length: 12, least: 16 }),
        (vec![(3, words(&[2, 1]))], "module tag", Problem::Module { start: 2, end: 1 }),
        (vec![(3, words(&[0x20_0000, 0x20_0011]))], "module", Problem::Unreadable { length: 17 }),
        (vec![module(); 9], "module tag", Problem::TooManyModules),
        (vec![memory_map(), (8, vec![0; 23])], "framebuffer tag", Problem::Short { length: 31, least: 32 }),
        (vec![memory_map(), framebuffer(1, 32, &[16, 8])], "framebuffer tag", Problem::Geometry),
        (vec![memory_map(), framebuffer(1, 24, &[17, 8, 8, 8, 0, 8])], "framebuffer tag", Problem::Geometry),
        (vec![memory_map(), framebuffer(0, 33, &[])], "framebuffer tag", Problem::Geometry),
        (vec![memory_map(), (14, rsdp(0)[..19].to_vec())], "ACPI old RSDP tag", Problem::Overrun { length: 20 }),
        (vec![memory_map(), (15, rsdp(2)[..35].to_vec())], "ACPI new RSDP tag", Problem::Overrun { length: 36 }),
        (vec![memory_map(), (15, vec![0; 36])], "ACPI new RSDP tag", Problem::Rsdp),
    ] {
        let memory = with_tags(&tags);
        let error = read(&memory).map(|_| ()).unwrap_err();
        assert_eq!((error.field, error.problem), (field, problem), "{error}");
    }
}
