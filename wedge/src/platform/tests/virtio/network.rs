//! A network card, as Linux's driver uses it (`drivers/net/virtio_net.c`), and as no driver should.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::platform::virtio::{Dropped, LONGEST_FRAME, Network, SHORTEST_FRAME};

/// The ports of the card, its slot, and the two queues by their pages.
const PORTS: u16 = 0xc200;
const SLOT: u32 = 9;
const RECEIVING: u64 = 0x1000;
const SENDING: u64 = 0x5000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x8000;
const HEADER: usize = 10;

/// The other end of the cable, and the guest's memory. What is done with them is noted.
#[derive(Debug, Default)]
pub(in crate::platform::tests) struct Cable {
    memory: Vec<u8>,
    sent: Vec<Vec<u8>>,
    /// How many more frames it takes.
    room: usize,
    coming: VecDeque<Vec<u8>>,
    is_down: bool,
    changed: bool,
    dropped: Vec<Dropped>,
    faults: Vec<Fault>,
    loads: RefCell<usize>,
    stores: Vec<Range<u64>>,
}

impl GuestMemory for Cable {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        *self.loads.borrow_mut() += 1;
        let Some(range) = Disk::range(address, bytes.len()) else { return false };
        bytes.copy_from_slice(&self.memory[range]);
        true
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(range) = Disk::range(address, bytes.len()) else { return false };
        self.stores.push(address..address + bytes.len() as u64);
        self.memory[range].copy_from_slice(bytes);
        true
    }
}

impl Network for Cable {
    fn address(&self) -> [u8; 6] {
        [2, 3, 4, 5, 6, 7]
    }

    fn is_up(&self) -> bool {
        !self.is_down
    }

    fn link_has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn can_send(&mut self) -> bool {
        self.room > 0
    }

    fn send(&mut self, frame: &[u8]) {
        self.room -= 1;
        self.sent.push(frame.to_vec());
    }

    fn has_frame(&mut self) -> bool {
        !self.coming.is_empty()
    }

    fn receive(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize {
        let next = self.coming.pop_front().expect("it was asked for");
        frame[..next.len()].copy_from_slice(&next);
        next.len()
    }

    fn dropped(&mut self, why: Dropped) {
        self.dropped.push(why);
    }

    fn broken(&mut self, fault: Fault) {
        self.faults.push(fault);
    }
}

/// A PC with a card whose driver has begun.
struct Wired(Pc);

impl Wired {
    fn new() -> Self {
        let cable = Cable { memory: vec![0; MEMORY], room: usize::MAX, ..Cable::default() };
        let board = Bench { cable: Some(cable), ..Bench::default() };
        let mut pc = Pc { platform: Platform::new(Pci::Virtual), board, access: 0 };
        pc.initialise(0xffff);
        pc.configure(SLOT, 0x04, Size::Word, 0x5);
        let mut wired = Self(pc);
        for status in [0, 1, 3] {
            wired.out(18, Size::Byte, status);
        }
        for (number, place) in [(0, RECEIVING), (1, SENDING)] {
            wired.out(14, Size::Word, number);
            assert_eq!((wired.input(12, Size::Word), wired.input(8, Size::Long)), (SIZE.into(), 0));
            wired.out(8, Size::Long, (place >> 12) as u32);
        }
        wired.out(18, Size::Byte, 7);
        wired
    }

    fn cable(&mut self) -> &mut Cable {
        self.0.board.cable.as_mut().unwrap()
    }

    fn input(&mut self, register: u16, size: Size) -> u32 {
        self.0.platform.read(PORTS + register, size, &mut self.0.board)
    }

    fn out(&mut self, register: u16, size: Size, value: u32) {
        self.0.platform.write(PORTS + register, size, value, &mut self.0.board);
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = usize::try_from(address).unwrap();
        self.cable().memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get(&mut self, address: u64, length: usize) -> Vec<u8> {
        let at = usize::try_from(address).unwrap();
        self.cable().memory[at..at + length].to_vec()
    }

    fn word(&mut self, address: u64) -> u16 {
        u16::from_le_bytes(self.get(address, 2).try_into().unwrap())
    }

    fn put_descriptor(&mut self, queue: u64, number: u16, (address, length, flags, next): Descriptor) {
        let at = queue + 16 * u64::from(number);
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &length.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    fn offer(&mut self, queue: u64, head: u16) {
        let index = self.word(queue + AVAILABLE + 2);
        self.put(queue + AVAILABLE + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.put(queue + AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
    }

    /// A chain, from a descriptor on.
    fn chain(&mut self, queue: u64, first: u16, pieces: &[(u64, u32)]) {
        let write = if queue == RECEIVING { WRITE } else { 0 };
        for (number, (address, length)) in (first..).zip(pieces) {
            let last = usize::from(number - first) + 1 == pieces.len();
            let next = if last { 0 } else { NEXT };
            self.put_descriptor(queue, number, (*address, *length, write | next, number + 1));
        }
        self.offer(queue, first);
    }

    fn notify(&mut self, number: u32) {
        self.out(16, Size::Word, number);
    }

    /// What the used ring says: chains, and how many bytes were written into each.
    fn used(&mut self, queue: u64) -> Vec<(u32, u32)> {
        let count = self.word(queue + USED + 2);
        let entry = |number: u16| {
            let bytes: [u8; 8] = self.get(queue + USED + 4 + 8 * u64::from(number % SIZE), 8).try_into().unwrap();
            let entry = u64::from_le_bytes(bytes);
            (entry as u32, (entry >> 32) as u32)
        };
        (0..count).map(entry).collect()
    }

    fn come(&mut self, frames: &[&[u8]]) {
        let frames: Vec<_> = frames.iter().map(|frame| frame.to_vec()).collect();
        self.cable().coming.extend(frames);
        self.0.platform.serve_network(&mut self.0.board);
    }

    /// The cause of an interrupt, if there is one.
    fn interrupt(&mut self) -> Option<u32> {
        let line = self.0.take()?;
        assert_eq!(line, 10);
        self.0.end(line);
        Some(self.input(19, Size::Byte))
    }

    fn has_room(&mut self) -> bool {
        self.0.platform.has_room_for_frame(&mut self.0.board)
    }
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

#[test]
fn a_card_is_in_the_slot_behind_the_disks() {
    let mut wired = Wired::new();
    for (register, size, expected) in [
        (0x00, Size::Long, 0x1000_1af4),
        (0x08, Size::Long, 0x0200_0000),
        (0x10, Size::Long, 0xc201),
        (0x2c, Size::Long, 0x0001_1af4),
        (0x3c, Size::Word, 0x010a),
    ] {
        assert_eq!(wired.0.configuration(SLOT, register, size), expected, "{register:#x}");
    }
    let found = (0..32).filter(|slot| wired.0.configuration(*slot, 0, Size::Long) != u32::MAX);
    assert_eq!(found.collect::<Vec<_>>(), [0, 9]);
    assert_eq!(wired.input(0, Size::Long), 1 << 5 | 1 << 16);
    let own: Vec<_> = (20..28).map(|register| wired.input(register, Size::Byte)).collect();
    assert_eq!(own, [2, 3, 4, 5, 6, 7, 1, 0]);
    wired.out(14, Size::Word, 2);
    assert_eq!((wired.input(12, Size::Word), wired.input(8, Size::Long)), (0, 0), "there are two queues");
    // Ports may move to those of a disk that there is not.
    wired.0.configure(SLOT, 0x10, Size::Long, 0xc000);
    assert_eq!(wired.0.platform.read(0xc000, Size::Long, &mut wired.0.board), 1 << 5 | 1 << 16);
    let mut pc = Pc::with_disks(1);
    assert_eq!(pc.configuration(SLOT, 0, Size::Long), u32::MAX, "without a network there is none");
}

#[test]
fn frames_are_sent_at_the_notification_and_wait_while_the_host_is_busy() {
    let mut wired = Wired::new();
    let frames = [frame(60, 1), frame(LONGEST_FRAME, 2), frame(SHORTEST_FRAME, 3)];
    let mut at = BUFFERS;
    for (number, frame) in (0_u16..).zip(&frames) {
        wired.put(at + HEADER as u64, frame);
        let length = frame.len() as u32;
        // The header by itself, as Linux has it, and the rest in two.
        wired.chain(SENDING, 10 * number, &[(at, 10), (at + 10, 5), (at + 15, length - 5)]);
        at += 0x800;
    }
    wired.cable().room = 2;
    wired.notify(1);
    assert_eq!(wired.cable().sent, frames[..2]);
    assert_eq!(wired.used(SENDING), [(0, 0), (10, 0)]);
    assert_eq!(wired.interrupt(), Some(1));
    wired.notify(1);
    assert_eq!((wired.cable().sent.len(), wired.interrupt()), (2, None));
    wired.cable().room = 2;
    wired.0.platform.serve_network(&mut wired.0.board);
    assert_eq!((wired.cable().sent.clone(), wired.interrupt()), (frames.to_vec(), Some(1)));
}

#[test]
fn frames_that_come_wait_for_buffers_and_are_delivered_whole_and_in_order() {
    let mut wired = Wired::new();
    let frames = [frame(60, 1), frame(LONGEST_FRAME, 2), frame(SHORTEST_FRAME, 3)];
    wired.come(&[&frames[0], &frames[1]]);
    assert!(!wired.has_room() && wired.interrupt().is_none() && wired.cable().coming.len() == 2);
    let room = (HEADER + LONGEST_FRAME) as u32;
    wired.chain(RECEIVING, 0, &[(BUFFERS, room)]);
    wired.chain(RECEIVING, 10, &[(BUFFERS + 0x1000, 4), (BUFFERS + 0x1100, 100), (BUFFERS + 0x1200, room - 104)]);
    wired.chain(RECEIVING, 20, &[(BUFFERS + 0x2000, room)]);
    assert!(wired.has_room());
    wired.put(BUFFERS, &[0xff; HEADER]);
    wired.notify(0);
    assert_eq!(wired.used(RECEIVING), [(0, 70), (10, room)]);
    assert_eq!((wired.interrupt(), wired.has_room()), (Some(1), true));
    wired.come(&[&frames[2], &frames[0]]);
    assert_eq!(wired.used(RECEIVING)[2..], [(20, 24)]);
    assert_eq!((wired.interrupt(), wired.has_room(), wired.cable().coming.len()), (Some(1), false, 1));
    assert_eq!(wired.get(BUFFERS, 70), [&[0; HEADER][..], &frames[0]].concat());
    let pieces = [
        wired.get(BUFFERS + 0x1000, 4),
        wired.get(BUFFERS + 0x1100, 100),
        wired.get(BUFFERS + 0x1200, room as usize - 104),
    ];
    assert_eq!(pieces.concat(), [&[0; HEADER][..], &frames[1]].concat());
    assert_eq!(wired.get(BUFFERS + 0x2000, 24), [&[0; HEADER][..], &frames[2]].concat());
    assert!(wired.cable().dropped.is_empty() && wired.cable().faults.is_empty());
}

#[test]
fn what_does_not_fit_or_is_no_frame_is_dropped_and_told_and_the_next_goes_on() {
    let beyond = MEMORY as u64 - 30;
    let sends: [(&[(u64, u32)], Dropped); 5] = [
        (&[(BUFFERS, 10)], Dropped::Length(0)),
        (&[(BUFFERS, 23)], Dropped::Length(13)),
        (&[(BUFFERS, 10), (BUFFERS, LONGEST_FRAME as u32 + 1)], Dropped::Length(LONGEST_FRAME as u64 + 1)),
        (&[(BUFFERS, u32::MAX), (BUFFERS, u32::MAX)], Dropped::Length(2 * 0xffff_ffff - 10)),
        (&[(BUFFERS, 10), (BUFFERS, 20), (beyond, 60)], Dropped::Memory),
    ];
    for (pieces, why) in sends {
        let mut wired = Wired::new();
        wired.chain(SENDING, 0, pieces);
        wired.chain(SENDING, 20, &[(BUFFERS, 70)]);
        wired.notify(1);
        assert_eq!((wired.cable().dropped.clone(), wired.cable().sent.len()), (vec![why], 1), "{pieces:x?}");
        assert_eq!(wired.used(SENDING), [(0, 0), (20, 0)]);
    }
    let buffers: [(&[(u64, u32)], Dropped); 4] = [
        (&[(BUFFERS, 0)], Dropped::Room(0)),
        (&[(BUFFERS, 10)], Dropped::Room(0)),
        (&[(BUFFERS, 9), (BUFFERS + 9, 60)], Dropped::Room(59)),
        (&[(BUFFERS, 20), (beyond, 60)], Dropped::Memory),
    ];
    for (pieces, why) in buffers {
        let mut wired = Wired::new();
        wired.chain(RECEIVING, 0, pieces);
        wired.chain(RECEIVING, 20, &[(BUFFERS + 0x1000, 70)]);
        wired.come(&[&frame(60, 1), &frame(60, 2)]);
        assert_eq!(wired.cable().dropped, [why], "{pieces:x?}");
        assert_eq!(wired.used(RECEIVING), [(0, 0), (20, 70)]);
        assert_eq!(wired.get(BUFFERS + 0x100a, 60), frame(60, 2));
    }
}

#[test]
fn a_queue_that_breaks_the_rules_stops_and_the_other_goes_on() {
    let mut wired = Wired::new();
    wired.put_descriptor(RECEIVING, 0, (BUFFERS, 100, WRITE | NEXT, 300));
    wired.offer(RECEIVING, 0);
    wired.come(&[&frame(60, 1)]);
    wired.come(&[&frame(60, 1)]);
    assert_eq!(wired.cable().faults, [Fault::Descriptor(300)]);
    assert!(!wired.has_room() && wired.interrupt().is_none());
    wired.chain(SENDING, 0, &[(BUFFERS, 70)]);
    wired.chain(SENDING, 5, &[(BUFFERS, 9)]);
    wired.notify(1);
    wired.notify(1);
    assert_eq!(wired.cable().faults, [Fault::Descriptor(300), Fault::Header]);
    assert_eq!((wired.cable().sent.len(), wired.used(SENDING)), (1, vec![(0, 0)]));
    wired.out(18, Size::Byte, 0);
    wired.come(&[]);
    assert_eq!(wired.cable().faults.len(), 2);
}

#[test]
fn a_link_that_goes_down_is_told_by_an_interrupt_of_its_own() {
    let mut wired = Wired::new();
    wired.cable().is_down = true;
    wired.cable().changed = true;
    wired.come(&[]);
    assert_eq!(wired.interrupt(), Some(2));
    assert_eq!((wired.input(26, Size::Word), wired.interrupt()), (0, None));
}

#[test]
fn a_card_that_may_not_reach_memory_does_not() {
    let mut wired = Wired::new();
    wired.chain(RECEIVING, 0, &[(BUFFERS, 100)]);
    wired.0.configure(SLOT, 0x04, Size::Word, 0x1);
    *wired.cable().loads.borrow_mut() = 0;
    wired.come(&[&frame(60, 1)]);
    wired.notify(1);
    assert!(!wired.has_room() && *wired.cable().loads.borrow() == 0 && wired.cable().stores.is_empty());
    wired.0.configure(SLOT, 0x04, Size::Word, 0x5);
    wired.come(&[]);
    assert_eq!(wired.used(RECEIVING), [(0, 70)]);
}

/// A descriptor: mostly of memory, mostly with a next.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![6 => BUFFERS..MEMORY as u64, 2 => 0..MEMORY as u64, 1 => any::<u64>()];
    let length = prop_oneof![3 => 0..40_u32, 3 => 0..2000_u32, 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..4_u16, 1 => any::<u16>()];
    (address, length, flags, prop_oneof![12 => 0..24_u16, 1 => any::<u16>()])
}

fn queue() -> impl Strategy<Value = (Vec<Descriptor>, Vec<u16>, Option<u16>)> {
    let heads = prop::collection::vec(prop_oneof![12 => 0..24_u16, 1 => any::<u16>()], 0..16);
    let index = prop_oneof![8 => Just(None), 1 => any::<u16>().prop_map(Some)];
    (prop::collection::vec(descriptor(), 24), heads, index)
}

proptest! {
    /// Whatever is in the queues: the card ends, writes nothing but used rings and where
    /// descriptors of the first queue say, each frame goes at most once, and none is lost without a
    /// word.
    #[test]
    fn hostile_queues_get_nothing(
        queues in (queue(), queue()),
        lengths in prop::collection::vec(SHORTEST_FRAME..=LONGEST_FRAME, 0..40),
        room in 0..20_usize,
        notifications in prop::collection::vec(0..3_u32, 1..5),
    ) {
        let mut wired = Wired::new();
        let descriptors = queues.0.0.clone();
        for (place, (descriptors, heads, index)) in [(RECEIVING, queues.0), (SENDING, queues.1)] {
            for (number, descriptor) in (0..).zip(&descriptors) {
                wired.put_descriptor(place, number, *descriptor);
            }
            for head in &heads {
                wired.offer(place, *head);
            }
            if let Some(index) = index {
                wired.put(place + AVAILABLE + 2, &index.to_le_bytes());
            }
        }
        wired.cable().room = room;
        let count = lengths.len();
        wired.cable().coming = lengths.into_iter().map(|length| frame(length, 9)).collect();
        for number in notifications {
            let before = *wired.cable().loads.borrow();
            wired.notify(number);
            let loads = *wired.cable().loads.borrow() - before;
            prop_assert!(loads <= 2 * (256 * (1 + 2 * 256) + 2), "{loads} loads");
        }
        let delivered = wired.used(RECEIVING).iter().filter(|(_, length)| *length > 0).count();
        let cable = wired.cable();
        prop_assert!(cable.faults.len() <= 2);
        prop_assert!(cable.sent.iter().all(|frame| (SHORTEST_FRAME..=LONGEST_FRAME).contains(&frame.len())));
        prop_assert!(cable.sent.len() <= room);
        let is_used_ring = |range: &Range<u64>| {
            [RECEIVING, SENDING].iter().any(|queue| range.start >= queue + USED && range.end <= queue + USED + 4 + 8 * 256)
        };
        // What says so may have been overwritten.
        if cable.stores.iter().all(|range| is_used_ring(range) && range.end - range.start <= 8 || range.start >= BUFFERS) {
            let taken = count - cable.coming.len();
            prop_assert!(delivered <= taken && taken <= delivered + cable.dropped.len());
        }
        for range in &cable.stores {
            let is_buffer = descriptors.iter().any(|(address, length, flags, _)| {
                let end = address.saturating_add((*length).into());
                flags & WRITE != 0 && *address <= range.start && range.end <= end
            });
            let tables_overwritten = cable.stores.iter().any(|range| range.start < RECEIVING + 16 * 256 && range.end > RECEIVING);
            prop_assert!(is_used_ring(range) || is_buffer || tables_overwritten, "{range:x?} is written");
        }
    }
}
