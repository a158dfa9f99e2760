//! What an image may say wrongly.

extern crate std;

use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const HEADER_SIZE: usize = size_of::<Header>();

/// The parts of [`payload`], one behind the other.
const PARTS: &[u8] =
    b"kernel;the records of two sites;\x01\0\0\0\0\0\0\089abcdef\x01\0\0\0\0\0\0\0;reloc;initramfs;quiet \xc3\xa9";

fn span(offset: usize, length: u64) -> Span {
    Span { offset: (HEADER_SIZE + offset) as u64, length }
}

fn header() -> Header {
    Header {
        magic: MAGIC,
        length: (HEADER_SIZE + PARTS.len()) as u64,
        checksum: 0,
        kernel: span(0, 6),
        sites: span(7, 24),
        sites_address: 0xffff_ffff_8160_0000,
        copies: span(32, 24),
        processor_numbers: span(PARTS.len(), 0),
        relocations: span(57, 5),
        initramfs: span(63, 9),
        command_line: span(73, 8),
        guest: GuestFacts {
            image: 0xffff_ffff_8000_0000,
            window_entry: 0x182_2fe8,
            user_window_entry: 0x182_1ff8,
            modules_start: 0xffff_ffff_a000_0000,
            modules_end: 0xffff_ffff_ff00_0000,
            stack_switch: 0xffff_ffff_8100_0000,
        },
    }
}

/// A payload with this header, its checksum put right.
fn payload(header: Header) -> Vec<u8> {
    let mut bytes = [&header.to_bytes(), PARTS].concat();
    let checksum = checksum(&bytes[CHECKED_FROM..]);
    bytes[..HEADER_SIZE].copy_from_slice(&Header { checksum, ..header }.to_bytes());
    bytes
}

#[test]
fn a_whole_payload_yields_its_parts() {
    // What is behind it in memory is not part of it.
    let bytes = [&payload(header())[..], &[0xee; 40]].concat();
    let payload = Payload::check(&bytes).unwrap();
    assert_eq!(payload.kernel, b"kernel");
    assert_eq!(payload.sites, b"the records of two sites");
    assert_eq!(payload.sites_address, 0xffff_ffff_8160_0000);
    assert_eq!(payload.relocations, b"reloc");
    assert_eq!(payload.initramfs, b"initramfs");
    assert_eq!(payload.command_line, "quiet \u{e9}");
    assert_eq!(payload.guest, header().guest);
    let copied = Copied { record: 1, address: u64::from_le_bytes(*b"89abcdef"), whole: 1 };
    assert_eq!(payload.copies().collect::<Vec<_>>(), [copied]);
}

#[test]
fn a_part_that_does_not_lie_in_the_payload_is_named() {
    let outside = |length| Span { length, ..span(PARTS.len(), 0) };
    let copy = |number, record| Damage::Copy { number, record, records: 2 };
    for (header, damage) in [
        (Header { kernel: outside(1), ..header() }, Damage::Part("kernel")),
        (Header { sites: outside(u64::MAX), ..header() }, Damage::Part("table of sites")),
        (Header { copies: outside(2), ..header() }, Damage::Part("list of copies")),
        (Header { processor_numbers: outside(1), ..header() }, Damage::Part("list of processor numbers")),
        (Header { relocations: Span { offset: u64::MAX, length: 1 }, ..header() }, Damage::Part("relocations")),
        (Header { initramfs: Span { offset: 0, length: u64::MAX }, ..header() }, Damage::Part("initramfs")),
        (Header { command_line: outside(1), ..header() }, Damage::Part("command line")),
        (Header { command_line: span(73, 7), ..header() }, Damage::CommandLine),
        (Header { copies: span(32, 15), ..header() }, Damage::CopiesLength(15)),
        (Header { copies: span(33, 24), ..header() }, copy(0, 0x3800_0000_0000_0000)),
        (Header { sites: span(7, 12), ..header() }, Damage::Copy { number: 0, record: 1, records: 1 }),
        (Header { sites: span(7, 0), ..header() }, Damage::Copy { number: 0, record: 1, records: 0 }),
        (Header { magic: *b"Afterburner 0001", ..header() }, Damage::Magic),
        (Header { length: 31, ..header() }, Damage::Magic),
    ] {
        assert_eq!(Payload::check(&payload(header)).unwrap_err(), damage, "{damage}");
    }
    assert!(Payload::check(&payload(Header { kernel: outside(0), ..header() })).is_ok());
}

/// The same with something behind it that the header is told of.
fn extended(more: &[u8], header: impl FnOnce(Span) -> Header) -> Vec<u8> {
    let header = header(span(PARTS.len(), more.len() as u64));
    let sealed = Header { length: header.length + more.len() as u64, ..header };
    let mut bytes = [&sealed.to_bytes()[..], PARTS, more].concat();
    let checksum = checksum(&bytes[CHECKED_FROM..]);
    bytes[..HEADER_SIZE].copy_from_slice(&Header { checksum, ..sealed }.to_bytes());
    bytes
}

#[test]
fn processor_numbers_lie_in_the_kernel_and_are_replaced_there() {
    let image = 0xffff_ffff_8100_0000..0xffff_ffff_8100_0010;
    let ask = |address, length| ProcessorNumber { address, length, zero: *b"ABCDEFGH" };
    let with = |processor_numbers: &[ProcessorNumber]| {
        let bytes: Vec<_> = processor_numbers.iter().flat_map(ProcessorNumber::to_bytes).collect();
        extended(&bytes, |processor_numbers| Header { processor_numbers, ..header() })
    };
    let bytes = with(&[ask(image.start, 3), ask(image.end - 8, 8)]);
    let payload = Payload::check(&bytes).unwrap();
    assert_eq!(payload.check_kernel(&image), Ok(()));
    let mut text = *b"0123456789abcdef";
    payload.zero_processor_numbers(&mut text, image.start);
    assert_eq!(&text, b"ABC34567ABCDEFGH");
    for number in [
        ask(image.start - 1, 3),
        ask(image.end, 1),
        ask(image.end - 2, 3),
        ask(image.start, 9),
        ask(u64::MAX, 8),
        ask(image.start, u64::MAX),
        ask(0, 1),
    ] {
        let bytes = with(&[ask(image.start, 3), number]);
        let payload = Payload::check(&bytes).unwrap();
        let damage = Damage::ProcessorNumber(number);
        assert_eq!(payload.check_kernel(&image), Err(damage), "{damage}");
        payload.zero_processor_numbers(&mut text, image.start);
        assert_eq!(&text, b"ABC34567ABCDEFGH");
    }
    let bytes = extended(&[0; 23], |processor_numbers| Header { processor_numbers, ..header() });
    assert_eq!(Payload::check(&bytes).unwrap().check_kernel(&image), Err(Damage::ProcessorNumbersLength(23)));
}

#[test]
fn copies_come_in_the_order_of_the_records() {
    let of = |records: &[u64]| {
        let copies: Vec<_> =
            records.iter().flat_map(|record| Copied { record: *record, address: 0, whole: 1 }.to_bytes()).collect();
        let bytes = extended(&copies, |copies| Header { copies, ..header() });
        Payload::check(&bytes).map(|payload| payload.copies().count())
    };
    assert_eq!(of(&[]).unwrap(), 0);
    assert_eq!(of(&[0, 0, 1, 1]).unwrap(), 4);
    for (records, number, record) in [(&[1, 0][..], 1, 0), (&[0, 2], 1, 2), (&[u64::MAX], 0, u64::MAX)] {
        assert_eq!(of(records).unwrap_err(), Damage::Copy { number, record, records: 2 });
    }
}

#[test]
fn what_is_said_of_the_kernel_is_within_what_any_kernel_is() {
    let facts = header().guest;
    let check = |guest| Payload::check(&payload(Header { guest, ..header() })).map(|_| ());
    let (start, end) = (facts.modules_start, facts.modules_end);
    assert_eq!(check(facts), Ok(()));
    assert_eq!(check(GuestFacts { user_window_entry: 0, modules_start: end, ..facts }), Ok(()));
    for (start, end) in [
        (0, end),
        (1 << 63, end),
        (0xffff_ffff_7fff_f000, end),
        (start + 1, end),
        (u64::MAX, end),
        (start, end + 0x1000),
        (start, end - 1),
        (start, start - 0x1000),
        (start, 0),
        (start, u64::MAX),
    ] {
        let facts = GuestFacts { modules_start: start, modules_end: end, ..facts };
        assert_eq!(check(facts), Err(Damage::Modules { start, end }));
    }
    for address in [0, 1, 0x182_2fe7, 0x182_2ff0, 0x182_2000, 1 << 63 | 0xfe8, u64::MAX - 0xfff + 0xfe8] {
        let facts = GuestFacts { window_entry: address, ..facts };
        assert_eq!(check(facts), Err(Damage::TableEntry(address)));
    }
    let low = GuestFacts {
        image: 0x5fff_8000_0000,
        window_entry: 0x182_2fe8,
        user_window_entry: 0x182_1000 + 191 * 8,
        modules_start: 0x5fff_a000_0000,
        modules_end: 0x5fff_ff00_0000,
        ..facts
    };
    assert_eq!(check(low), Ok(()));
    let mixed = GuestFacts { user_window_entry: facts.user_window_entry, ..low };
    assert_eq!(check(mixed), Err(Damage::TableEntry(mixed.user_window_entry)));
    let mixed = GuestFacts { image: facts.image, ..low };
    assert_eq!(check(mixed), Err(Damage::Modules { start: low.modules_start, end: low.modules_end }));
    for image in [0, 1, 0x7fff_8000_0000, 0xffff_8000_0000_0000, u64::MAX] {
        let damage = Damage::Layout(image);
        assert_eq!(check(GuestFacts { image, ..facts }), Err(damage), "{damage}");
    }
    for address in [1, 0x182_1ff0, 0x182_1ff9, 1 << 40 | 0xff8, u64::MAX, u64::MAX - 7] {
        let facts = GuestFacts { user_window_entry: address, ..facts };
        assert_eq!(check(facts), Err(Damage::TableEntry(address)));
    }
}

#[test]
fn a_kernel_and_its_window_are_where_the_layout_has_them() {
    let low = Header {
        guest: GuestFacts {
            image: 0x5fff_8000_0000,
            user_window_entry: 0,
            modules_start: 0x5fff_a000_0000,
            modules_end: 0x5fff_ff00_0000,
            ..header().guest
        },
        ..header()
    };
    let (standard, low) = (payload(header()), payload(low));
    let [standard, low] = [&standard, &low].map(|bytes| Payload::check(bytes).unwrap());
    let (high_image, low_image) = (0xffff_ffff_8100_0000..0xffff_ffff_8200_0000, 0x5fff_8100_0000..0x5fff_8200_0000);
    assert_eq!((standard.check_kernel(&high_image), low.check_kernel(&low_image)), (Ok(()), Ok(())));
    for (payload, image) in [
        (standard, low_image.clone()),
        (low, high_image.clone()),
        (low, 0x7fff_8100_0000..0x7fff_8200_0000),
        (low, 0x5fff_7fff_f000..0x5fff_8200_0000),
        (low, 0x5fff_8100_0000..0x5fff_ff00_1000),
        (standard, 0x100_0000..0x200_0000),
    ] {
        let damage = Damage::Kernel { start: image.start, end: image.end, layout: payload.layout };
        assert_eq!(payload.check_kernel(&image), Err(damage), "{damage}");
    }
    let (high_window, low_window) = (0xffff_ffff_7f00_0000, 0x5fff_7f00_0000);
    assert_eq!((standard.check_window(high_window), low.check_window(low_window)), (Ok(()), Ok(())));
    let damage = Damage::Window { window: low_window, expected: high_window };
    assert_eq!(standard.check_window(low_window), Err(damage), "{damage}");
    assert!(low.check_window(high_window).is_err() && low.check_window(0).is_err());
}

#[test]
fn an_arena_is_that_of_its_sites_and_lies_in_the_window_behind_the_wedge() {
    let bytes = payload(header());
    let payload = Payload::check(&bytes).unwrap();
    let (own, room) = (0x10_2000, 0x100_0000);
    let arena = Span { offset: 0x10_2000, length: arena_length(2) };
    let right = Parameters { load_address: LOAD_ADDRESS, arena, payload: Span { offset: 0x80_0000, length: 100 } };
    assert_eq!((right.check(own, room), payload.check_arena(arena)), (Ok(()), Ok(())));
    for (offset, length) in [
        (0, arena.length),
        (0x10_1000, arena.length),
        (0x10_2001, arena.length),
        (0x10_3000, arena.length),
        (room, arena.length),
        (room, 1),
        (0x10_2000, room - 0x10_2000 + 1),
        (0x10_2000, u64::MAX),
        (!0xfff, 0x1000),
        (!0xfff, arena.length),
        (1 << 63, 1 << 63),
    ] {
        let arena = Span { offset, length };
        let misplaced = Misplaced::Arena { arena, own, room };
        assert_eq!(Parameters { arena, ..right }.check(own, room), Err(misplaced), "{misplaced}");
    }
    for (offset, length) in
        [(0, 100), (0x30_1fff, 1), (0x80_0000, u64::MAX), (u64::MAX, 1), (0x80_0000, 4 << 30), (1 << 32, 0)]
    {
        let payload = Span { offset, length };
        let misplaced = Misplaced::Payload(payload);
        assert_eq!(Parameters { payload, ..right }.check(own, room), Err(misplaced), "{misplaced}");
    }
    for length in [0, 1, arena.length - 1, arena.length + 1, u64::MAX] {
        let damage = Damage::Arena { length, sites: 2 };
        assert_eq!(payload.check_arena(Span { length, ..arena }), Err(damage), "{damage}");
    }
}

#[test]
fn a_payload_that_was_cut_short_anywhere_is_refused() {
    let bytes = payload(header());
    for length in 0..bytes.len() {
        let damage = Payload::check(&bytes[..length]).unwrap_err();
        assert_eq!(damage == Damage::Magic, length < HEADER_SIZE, "{length}: {damage}");
    }
    let expected = bytes.len() as u64;
    let damage = Payload::check(&bytes[..bytes.len() - 1]).unwrap_err();
    assert_eq!(damage, Damage::Truncated { length: expected - 1, expected });
    assert_eq!(damage.to_string(), std::format!("the payload is cut short: {} bytes of {expected}", expected - 1));
}

#[test]
fn zeros_of_different_lengths_have_different_checksums() {
    let sums: std::collections::BTreeSet<_> = (0..200).map(|length| checksum(&[0; 200][..length])).collect();
    assert_eq!(sums.len(), 200);
}

#[test]
fn no_single_bit_can_change() {
    let bytes = payload(header());
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Payload::check(&bytes).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn a_header_survives_its_bytes(words: [u64; 32]) {
        let mut bytes = [0; HEADER_SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
    }

    #[test]
    fn whatever_the_header_says_it_does_not_panic(at in 16..HEADER_SIZE / 8 * 8 - 8, value: u64) {
        let mut bytes = header().to_bytes();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let _ = Payload::check(&payload(Header::from_bytes(&bytes)));
    }

    #[test]
    fn the_checksum_finds_a_changed_byte_a_swap_and_a_changed_length(
        bytes in prop::collection::vec(any::<u8>(), 1..200),
        at: prop::sample::Index, other: prop::sample::Index, change in 1..=u8::MAX,
    ) {
        let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
        let mut changed = bytes.clone();
        changed[at] ^= change;
        prop_assert_ne!(checksum(&changed), checksum(&bytes));
        let mut swapped = bytes.clone();
        swapped.swap(at, other);
        prop_assert_eq!(checksum(&swapped) == checksum(&bytes), swapped == bytes);
        prop_assert_ne!(checksum(&bytes[..at]), checksum(&bytes));
    }
}
