extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::loader::synthetic::{ENTRY, HEADER, HEADERS, PHYSICAL, SIZE, VIRTUAL, poisoned, vmlinux};

/// Offsets in a program header.
const OFFSET: usize = 8;
const ADDRESS: usize = 16;
const PLACE: usize = 24;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;
const ALIGNMENT: usize = 48;

/// The kernel, with a word in it changed.
fn changed(at: usize, value: u64) -> Vec<u8> {
    let mut file = vmlinux();
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    file
}

fn refusal(file: &[u8]) -> ElfError {
    Kernel::parse(file).expect_err("the file is bad")
}

/// What an accepted kernel must be, whatever the file was.
fn assert_holds(kernel: &Kernel, file: &[u8]) {
    let extent = kernel.extent();
    for (number, segment) in kernel.segments().iter().enumerate() {
        assert!(segment.size > 0 && segment.content.len() as u64 <= segment.size);
        assert!(extent.start <= segment.range().start && segment.range().end <= extent.end);
        assert!(file.as_ptr_range().start <= segment.content.as_ptr_range().start);
        assert!(segment.content.as_ptr_range().end <= file.as_ptr_range().end);
        assert!(kernel.segments()[..number].iter().all(|other| !overlap(&other.range(), &segment.range())));
    }
    assert!(kernel.holds(&(kernel.entry()..kernel.entry() + 1)));
    let linked = kernel.virtual_extent();
    assert_eq!(linked.end - linked.start, extent.end - extent.start);
    assert_eq!(kernel.physical(linked.start), Some(extent.start));
    assert_eq!(kernel.physical(linked.end - 1), Some(extent.end - 1));
    assert_eq!(kernel.physical(linked.end), None);
}

#[test]
fn a_moved_kernel_keeps_its_virtual_addresses() {
    let file = vmlinux();
    let kernel = Kernel::parse(&file).unwrap();
    for place in [0, PHYSICAL, 0x1_2340_0000, !0 << 21] {
        let moved = kernel.clone().moved(place).unwrap();
        assert_holds(&moved, &file);
        assert_eq!((moved.entry(), moved.extent()), (place, place..place + SIZE));
        assert_eq!(moved.virtual_extent(), kernel.virtual_extent());
        assert_eq!(moved.linked_extent(), kernel.extent());
        assert_eq!(moved.physical(VIRTUAL + 0x2010), Some(place + 0x2010));
        let back = moved.moved(PHYSICAL).unwrap();
        assert_eq!((back.segments(), back.extent()), (kernel.segments(), kernel.extent()));
    }
    for place in [1, 0x1000, PHYSICAL + 0x10_0000, 0xffff_ffff_ffff_f000] {
        assert!(kernel.clone().moved(place).is_none(), "{place:#x}");
    }
}

#[test]
fn the_end_of_memory_is_no_place_for_a_kernel() {
    // Segments up to 3 MB: the last multiple of 2 MB has room for less.
    let file = changed(HEADERS + 2 * HEADER + MEMORY_SIZE, 0x30_0000);
    let kernel = Kernel::parse(&file).unwrap();
    assert!(kernel.clone().moved(!0 << 21).is_none());
    assert!(kernel.moved(!0 << 22).is_some());
}

#[test]
fn a_kernel_is_read_with_both_its_addresses() {
    let file = vmlinux();
    let kernel = Kernel::parse(&file).unwrap();
    assert_holds(&kernel, &file);
    assert_eq!(kernel.entry(), PHYSICAL);
    assert_eq!(kernel.extent(), PHYSICAL..PHYSICAL + SIZE);
    assert_eq!(kernel.virtual_extent(), VIRTUAL..VIRTUAL + SIZE);
    assert_eq!(kernel.segments().len(), 3);
    // Per-CPU data is linked at 0, but found in the image.
    assert_eq!(kernel.segments()[1].virtual_address, 0);
    assert_eq!(kernel.physical(VIRTUAL + 0x2010), Some(PHYSICAL + 0x2010));
    assert_eq!(kernel.physical(0x10), None);
    assert_eq!(kernel.physical(VIRTUAL - 1), None);
}

#[test]
fn a_segment_without_memory_is_none() {
    let mut file = changed(HEADERS + HEADER + FILE_SIZE, 0);
    file[HEADERS + HEADER + MEMORY_SIZE..][..8].fill(0);
    let kernel = Kernel::parse(&file).unwrap();
    let places: Vec<_> = kernel.segments().iter().map(|segment| segment.physical_address).collect();
    assert_eq!(places, [PHYSICAL, PHYSICAL + 0x3000]);
}

#[test]
fn only_what_the_file_holds_of_one_segment_is_held() {
    let file = vmlinux();
    let kernel = Kernel::parse(&file).unwrap();
    for (start, end, held) in [
        (0, 0x1000, true),
        (0, 0x1001, false),
        (0x20ff, 0x2100, true),
        (0x20ff, 0x2101, false),
        (0x2800, 0x2801, false),
        (0x31f8, 0x3200, true),
        (0x31f9, 0x3201, false),
        (0x10, 0x8, false),
    ] {
        assert_eq!(kernel.holds(&(PHYSICAL + start..PHYSICAL + end)), held, "{start:#x}-{end:#x}");
    }
}

#[test]
fn loading_copies_what_the_file_holds_and_zeroes_the_rest() {
    let file = vmlinux();
    let mut memory = poisoned(PHYSICAL - 0x10, 0x5000);
    Kernel::parse(&file).unwrap().load(&mut memory).unwrap();
    for (start, end, value) in [
        (0, 0x10, 0xee),
        (0x10, 0x1010, 1),
        (0x1010, 0x2010, 0xee),
        (0x2010, 0x2110, 2),
        (0x3010, 0x3210, 3),
        (0x3210, 0x4810, 0),
        (0x4810, 0x5000, 0xee),
    ] {
        assert!(memory.bytes[start..end].iter().all(|byte| *byte == value), "{start:#x}-{end:#x}");
    }
}

#[test]
fn nothing_is_written_if_not_all_of_the_extent_is_memory() {
    let file = vmlinux();
    let mut memory = poisoned(PHYSICAL, 0x47ff);
    let error = Kernel::parse(&file).unwrap().load(&mut memory);
    assert_eq!(error, Err(OutOfMemory { address: PHYSICAL, length: SIZE }));
    assert!(memory.bytes.iter().all(|byte| *byte == 0xee));
}

#[test]
fn a_refusal_names_the_program_header_and_what_is_wrong_with_it() {
    let wraps = |address| SegmentFault::Wraps { address, size: 0x1000 };
    for (number, field, value, fault) in [
        (0, OFFSET, 0x3000, SegmentFault::OutOfFile { offset: 0x3000, size: 0x1000 }),
        (0, OFFSET, u64::MAX - 0xfff, SegmentFault::OutOfFile { offset: u64::MAX - 0xfff, size: 0x1000 }),
        (0, ADDRESS, u64::MAX - 0xfff, wraps(u64::MAX - 0xfff)),
        (0, PLACE, u64::MAX - 0xffe, wraps(u64::MAX - 0xffe)),
        (0, FILE_SIZE, 0x1001, SegmentFault::Size { file: 0x1001, memory: 0x1000 }),
        (2, MEMORY_SIZE, 0x1ff, SegmentFault::Size { file: 0x200, memory: 0x1ff }),
        (1, ALIGNMENT, 0x1800, SegmentFault::Alignment(0x1800)),
        // Address and offset agree modulo 3, which is still no power of two.
        (2, ALIGNMENT, 3, SegmentFault::Alignment(3)),
        (1, ADDRESS, 0x800, SegmentFault::Alignment(0x1000)),
        (1, PLACE, PHYSICAL + 0xfff, SegmentFault::Overlap { physical_address: PHYSICAL }),
        (2, PLACE, PHYSICAL + 0x20ff, SegmentFault::Overlap { physical_address: PHYSICAL + 0x2000 }),
    ] {
        let error = refusal(&changed(HEADERS + number * HEADER + field, value));
        assert_eq!(error, ElfError::Segment { number, fault }, "{error}");
    }
}

#[test]
fn a_header_that_is_not_that_of_a_kernel_is_refused() {
    let headers = |offset, count, size| ElfError::ProgramHeaders { offset, count, size };
    let length = vmlinux().len() as u64;
    for (at, value, error) in [
        (0, 0x0001_0102_464c_457e, ElfError::Identification),
        (0, 0x0001_0101_464c_457f, ElfError::Identification),
        (0, 0x0001_0202_464c_457f, ElfError::Identification),
        (16, 0x0000_0001_003e_0001, ElfError::Type(1)),
        (16, 0x0000_0001_00b7_0002, ElfError::Machine(183)),
        (32, length - 223, headers(length - 223, 4, 56)),
        (32, u64::MAX, headers(u64::MAX, 4, 56)),
        (56, 0xffff, headers(64, 0xffff, 56)),
        (52, 0x0004_0020_0040, headers(64, 4, 32)),
        (56, 0, ElfError::Entry(PHYSICAL)),
        // Behind the text, in data that is executable but not in the file, and in data that is
        // neither.
        (ENTRY, PHYSICAL + 0x1000, ElfError::Entry(PHYSICAL + 0x1000)),
        (ENTRY, PHYSICAL + 0x3200, ElfError::Entry(PHYSICAL + 0x3200)),
        (ENTRY, PHYSICAL + 0x2000, ElfError::Entry(PHYSICAL + 0x2000)),
        (ENTRY, u64::MAX, ElfError::Entry(u64::MAX)),
        (HEADERS + ADDRESS, u64::MAX - 0x1fff, ElfError::Distance((u64::MAX - 0x1fff).wrapping_sub(PHYSICAL))),
    ] {
        assert_eq!(refusal(&changed(at, value)), error, "{error}");
    }
    assert_eq!(refusal(&[]), ElfError::Identification);
    assert_eq!(refusal(&vmlinux()[..63]), ElfError::Identification);
}

#[test]
fn a_kernel_may_have_many_segments_but_not_any_number() {
    let mut file = vmlinux();
    let at = file.len() as u64;
    let first = file[HEADERS..HEADERS + HEADER].to_vec();
    for number in 0..17 {
        let mut header = first.clone();
        header[PLACE..PLACE + 8].copy_from_slice(&(PHYSICAL + number * 0x1000).to_le_bytes());
        file.extend(header);
    }
    file[32..40].copy_from_slice(&at.to_le_bytes());
    file[56] = 16;
    assert_holds(&Kernel::parse(&file).unwrap(), &file);
    file[56] = 17;
    assert_eq!(refusal(&file), ElfError::TooManySegments);
}

/// Values that are likely to find the edge of a check.
fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x6000_u64,
        (0..0x6000_u64).prop_map(|offset| PHYSICAL + offset),
        (0..0x6000_u64).prop_map(|offset| VIRTUAL + offset),
        (0..0x6000_u64).prop_map(|offset| u64::MAX - offset),
        (0..64_u32).prop_map(|bit| 1 << bit),
    ]
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(file in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(kernel) = Kernel::parse(&file) {
            assert_holds(&kernel, &file);
        }
    }

    #[test]
    fn whatever_is_accepted_of_changed_headers_holds(
        changes in prop::collection::vec((0..(HEADERS + 4 * HEADER) / 8, edge()), 1..4),
        length in prop_oneof![Just(usize::MAX), 0..0x3200_usize],
    ) {
        let mut file = vmlinux();
        for (word, value) in changes {
            file[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        file.truncate(length);
        if let Ok(kernel) = Kernel::parse(&file) {
            assert_holds(&kernel, &file);
            let mut memory = poisoned(PHYSICAL, 0x8000);
            let _ = kernel.load(&mut memory);
        }
    }
}
