//! Queues of drivers that break the rules.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

#[test]
fn a_driver_that_breaks_the_rules_is_told_once_and_gets_nothing_until_a_reset() {
    let header = (HEADERS, 16, NEXT, 1);
    let status = (STATUSES, 1, WRITE, 0);
    let cases: [(&[Descriptor], Fault); 14] = [
        (&[(HEADERS, 16, NEXT, 0)], Fault::Endless),
        (&[header, (DATA, 0, WRITE | NEXT, 1)], Fault::Endless),
        (&[header, (DATA, 0, WRITE | NEXT, 2), (DATA, 0, WRITE | NEXT, 1)], Fault::Endless),
        (&[(HEADERS, 16, NEXT, 256)], Fault::Descriptor(256)),
        (&[(HEADERS, 16, NEXT, 0xffff)], Fault::Descriptor(0xffff)),
        (&[(HEADERS, 16, INDIRECT, 0)], Fault::Indirect),
        (&[header, (DATA, 16, WRITE | INDIRECT, 0)], Fault::Indirect),
        (&[header, (STATUSES, 1, WRITE | NEXT, 2), (DATA, 512, 0, 0)], Fault::Order),
        (&[header, (u64::MAX, 2, WRITE, 0)], Fault::Address(u64::MAX)),
        (&[(HEADERS, 15, NEXT, 1), status], Fault::Header),
        (&[status], Fault::Header),
        (&[(MEMORY as u64 - 15, 16, NEXT, 1), status], Fault::Header),
        (&[(HEADERS, 16, 0, 0)], Fault::Status),
        (&[header, (MEMORY as u64, 1, WRITE, 0)], Fault::Status),
    ];
    for (descriptors, fault) in cases {
        let mut pc = Pc::driven(KNOWS_FLUSH);
        pc.request(100, IN, 1, &[(DATA, 512)]);
        for (number, descriptor) in (0..).zip(descriptors) {
            pc.put_descriptor(number, *descriptor);
        }
        pc.offer(0);
        pc.request(110, IN, 1, &[(DATA, 512)]);
        for _ in 0..2 {
            pc.notify();
            assert_eq!(pc.disk().faults, [fault], "{descriptors:x?}");
            assert_eq!((pc.word(USED + 2), pc.get::<1>(STATUSES + 110)), (1, [NONE]), "what was before is done");
        }
        pc.out(18, Size::Byte, 0);
        pc.put(AVAILABLE + 2, &[0; 2]);
        pc.put(USED + 2, &[0; 2]);
        pc.out(8, Size::Long, PAGE);
        assert_eq!(pc.complete(IN, 0, &[(DATA, 512)]).0, DONE);
    }
}

#[test]
fn rings_that_are_not_in_memory_or_say_too_much_are_faults() {
    for (page, fault) in [(0x10, Fault::Tables), (u32::MAX, Fault::Tables), (0xe, Fault::Tables)] {
        let mut pc = Pc::driven(KNOWS_FLUSH);
        pc.out(8, Size::Long, page);
        // The available ring of the last is in memory, the used ring is not.
        pc.put(0xf002, &[1, 0]);
        pc.put(0xe000, &HEADERS.to_le_bytes());
        pc.put(0xe008, &[16, 0, 0, 0, 1, 0, 1]);
        pc.put(0xe010, &STATUSES.to_le_bytes());
        pc.put(0xe018, &[1, 0, 0, 0, 2]);
        pc.notify();
        assert_eq!(pc.disk().faults, [fault]);
    }
    let mut pc = Pc::driven(KNOWS_FLUSH);
    pc.put(AVAILABLE + 2, &257_u16.to_le_bytes());
    pc.notify();
    assert_eq!(pc.word(USED + 2), 0);
    assert_eq!(pc.disk().faults, [Fault::Available]);
}

/// Of a queue whose tables are overwritten by what is read from the disk, no more is executed than
/// there was at the notification.
#[test]
fn a_request_that_overwrites_the_ring_ends() {
    let mut pc = Pc::driven(KNOWS_FLUSH);
    pc.disk().contents.fill(2);
    pc.request(0, IN, 0, &[(AVAILABLE, 512)]);
    pc.notify();
    assert_eq!((pc.word(USED + 2), pc.word(AVAILABLE + 2)), (1, 0x0202));
    pc.notify();
    assert_eq!(pc.disk().faults, [Fault::Available]);
}

/// A descriptor: mostly of memory, mostly with a next.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        4 => 0..MEMORY as u64,
        2 => (0..16_u64).prop_map(|page| page * 0x1000),
        6 => (0..16_u64).prop_map(|number| HEADERS + 16 * number),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![3 => (0..4_u32).prop_map(|sectors| sectors * 512), 3 => 0..40_u32, 3 => Just(16), 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..4_u16, 1 => any::<u16>()];
    (address, length, flags, prop_oneof![12 => 0..24_u16, 1 => any::<u16>()])
}

/// What a driver puts into the available ring.
#[derive(Clone, Debug)]
enum Offered {
    /// Any number.
    Head(u16),
    /// A request that could be one: its kind, its sector, its data.
    Request(u32, u64, Vec<(u64, u32)>),
}

fn offered() -> impl Strategy<Value = Offered> {
    let kind = prop_oneof![4 => 0..2_u32, 2 => 0..10_u32, 1 => any::<u32>()];
    let sector = prop_oneof![4 => 0..SECTORS, 1 => any::<u64>()];
    let address =
        prop_oneof![8 => 0..MEMORY as u64, 2 => (0..16_u64).prop_map(|page| page * 0x1000), 1 => any::<u64>()];
    let length = prop_oneof![6 => (0..4_u32).prop_map(|sectors| sectors * 512), 1 => 0..40_u32, 1 => any::<u32>()];
    let data = prop::collection::vec((address, length), 0..4);
    prop_oneof![
        1 => (0..24_u16).prop_map(Offered::Head),
        6 => (kind, sector, data).prop_map(|(kind, sector, data)| Offered::Request(kind, sector, data)),
    ]
}

/// Memory, and what the descriptors in it say.
fn descriptors(memory: &[u8]) -> Vec<Descriptor> {
    let table = &memory[DESCRIPTORS as usize..][..16 * usize::from(SIZE)];
    let word = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let parse = |bytes: &[u8]| {
        let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        (u64::from_le_bytes(bytes[..8].try_into().unwrap()), length, word(bytes, 12), word(bytes, 14))
    };
    table.chunks(16).map(parse).collect()
}

proptest! {
    /// Whatever is in the queue: the device ends, reads no more than it must, writes nothing but
    /// the used ring and where a descriptor that it has read says that it writes, and sends nothing
    /// to the disk but what one says that it reads.
    #[test]
    fn a_hostile_queue_gets_nothing(
        stray in prop::collection::vec(descriptor(), 24),
        offered in prop::collection::vec(offered(), 1..16),
        index in prop_oneof![8 => Just(None), 1 => any::<u16>().prop_map(Some)],
        read_only in any::<bool>(),
        notifications in 1..4_usize,
    ) {
        let mut pc = Pc::driven(KNOWS_FLUSH);
        pc.disk().read_only = read_only;
        for (number, descriptor) in (0..).zip(&stray) {
            pc.put_descriptor(number, *descriptor);
        }
        for (number, offered) in (0..).zip(&offered) {
            match offered {
                Offered::Head(head) => pc.offer(*head),
                Offered::Request(kind, sector, data) => pc.request(32 + 8 * number, *kind, *sector, data),
            }
        }
        if let Some(index) = index {
            pc.put(AVAILABLE + 2, &index.to_le_bytes());
        }
        let contents = pc.disk().contents.clone();
        let descriptors = descriptors(&pc.disk().memory);
        for _ in 0..notifications {
            let (before, written) = (pc.disk().so_far(), pc.disk().stores.len());
            pc.notify();
            let most = 256 * (1 + 256 + 16 + 1) + 2;
            prop_assert!(pc.disk().so_far() - before <= most, "{} loads", pc.disk().so_far() - before);
            prop_assert!(pc.disk().stores.len() - written <= 256 * (256 + 3));
        }
        prop_assert!(pc.disk().faults.len() <= 1);
        prop_assert!(!read_only || pc.disk().contents == contents);
        check_accesses(pc.disk(), &descriptors)?;
    }
}

/// Holds what was written, and read for the disk, against the descriptors. Their table may have
/// been overwritten: then only those are known that were read before.
fn check_accesses(disk: &Disk, descriptors: &[Descriptor]) -> Result<(), TestCaseError> {
    let table = DESCRIPTORS..DESCRIPTORS + 16 * u64::from(SIZE);
    let overwritten = disk.stores.iter().find(|(_, range)| range.start < table.end && range.end > table.start);
    let known = overwritten.map_or(usize::MAX, |(loads, _)| *loads);
    let loads = disk.loads.borrow();
    let says = |until: usize, writes: bool, range: &Range<u64>| {
        loads[..until].iter().filter(|load| load.end - load.start == 16 && table.contains(&load.start)).any(|load| {
            let number = usize::try_from((load.start - table.start) / 16).unwrap();
            let (address, length, flags, _) = descriptors.get(number).copied().unwrap_or_default();
            let end = address.saturating_add(length.into());
            (flags & WRITE != 0) == writes && address <= range.start && range.end <= end
        })
    };
    for (until, range) in disk.stores.iter().filter(|(until, _)| *until <= known) {
        let is_used_ring = range.start >= USED && range.end <= USED_END;
        prop_assert!(is_used_ring || says(*until, true, range), "{range:x?} is written");
    }
    for (until, range) in disk.sources.iter().filter(|(until, _)| *until <= known) {
        prop_assert!(says(*until, false, range), "{range:x?} goes to the disk");
    }
    Ok(())
}
