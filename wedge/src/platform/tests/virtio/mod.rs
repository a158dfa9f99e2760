//! Disks, as Linux's drivers find and use them (`drivers/virtio/virtio_pci_legacy.c`,
//! `drivers/block/virtio_blk.c`), and as no driver should ([`hostile`]).

#![expect(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

extern crate std;

mod hostile;
mod network;
mod share;

pub(super) use network::Cable;
pub(super) use share::Echo;

use std::cell::RefCell;
use std::ops::Range;
use std::vec;
use std::vec::Vec;

use super::{Bench, Pc, Pci, Platform};
use crate::cpu::Size;
use crate::platform::virtio::{Block, Fault, GuestMemory, IoError, MOST_DISKS, Piece, SECTOR};

/// Bytes of the guest's memory, and sectors of a disk.
const MEMORY: usize = 0x10000; // 16 pages
const SECTORS: u64 = 16;

/// The queue: descriptors, and the two rings behind them.
const PAGE: u32 = 1;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const USED_END: u64 = USED + 4 + 8 * 256;
const SIZE: u16 = 256;

/// Where the tests have headers, statuses and data.
const HEADERS: u64 = 0x5000;
const STATUSES: u64 = 0x6000;
const DATA: u64 = 0x8000;

/// Where the ports of the first disk are.
const PORTS: u16 = 0xc000;

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, the next.
type Descriptor = (u64, u32, u16, u16);

/// Pieces of data: address and length.
type Data<'a> = &'a [(u64, u32)];

/// A disk of the host's, and the guest's memory. What is done with them is noted.
#[derive(Debug)]
pub(super) struct Disk {
    memory: Vec<u8>,
    contents: Vec<u8>,
    read_only: bool,
    /// The host's disk is full, or broken.
    fails: bool,
    flushed: usize,
    faults: Vec<Fault>,
    /// Descriptors and headers that were read,
    loads: RefCell<Vec<Range<u64>>>,
    /// and what was written, with how many had been read before.
    stores: Vec<(usize, Range<u64>)>,
    /// What went to the disk, likewise.
    sources: Vec<(usize, Range<u64>)>,
}

impl Disk {
    fn new() -> Self {
        Self {
            memory: vec![0; MEMORY],
            contents: (0..SECTORS).flat_map(|sector| [sector as u8 + 1; SECTOR as usize]).collect(),
            read_only: false,
            fails: false,
            flushed: 0,
            faults: Vec::new(),
            loads: RefCell::default(),
            stores: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// The indices of a piece, if it is of memory.
    fn range(address: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(address).ok()?;
        let end = start.checked_add(length).filter(|end| *end <= MEMORY)?;
        Some(start..end)
    }

    fn so_far(&self) -> usize {
        self.loads.borrow().len()
    }
}

impl GuestMemory for Disk {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(range) = Self::range(address, bytes.len()) else { return false };
        self.loads.borrow_mut().push(address..address + bytes.len() as u64);
        bytes.copy_from_slice(&self.memory[range]);
        true
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(range) = Self::range(address, bytes.len()) else { return false };
        self.stores.push((self.so_far(), address..address + bytes.len() as u64));
        self.memory[range].copy_from_slice(bytes);
        true
    }
}

impl Block for Disk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, at: u64, into: Piece) -> Result<(), IoError> {
        let at = usize::try_from(at).unwrap();
        let bytes = self.contents[at..at + into.length as usize].to_vec();
        if !self.fails && self.store(into.address, &bytes) { Ok(()) } else { Err(IoError) }
    }

    fn write(&mut self, at: u64, from: Piece) -> Result<(), IoError> {
        assert!(!self.read_only, "a disk that must not be written to");
        let at = usize::try_from(at).unwrap();
        let range = Self::range(from.address, from.length as usize).filter(|_| !self.fails).ok_or(IoError)?;
        self.sources.push((self.so_far(), from.address..from.address + u64::from(from.length)));
        self.contents[at..at + from.length as usize].copy_from_slice(&self.memory[range]);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoError> {
        self.flushed += 1;
        if self.fails { Err(IoError) } else { Ok(()) }
    }

    fn broken(&mut self, fault: Fault) {
        self.faults.push(fault);
    }
}

/// A kind of request, as in its header.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

/// Statuses, and what is there before.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;
const NONE: u8 = 0xee;

/// What the driver knows of: flushing.
const KNOWS_FLUSH: u32 = 1 << 9;

/// A PC with disks, and a driver that has found the first.
impl Pc {
    fn with_disks(count: usize) -> Self {
        let board = Bench { disks: (0..count).map(|_| Disk::new()).collect(), ..Bench::default() };
        let mut pc = Self { platform: Platform::new(Pci::Virtual), board, access: 0 };
        pc.initialise(0xffff);
        pc
    }

    /// With a disk, whose driver has begun.
    fn driven(features: u32) -> Self {
        let mut pc = Self::with_disks(1);
        // `pci_set_master`
        pc.configure(1, 0x04, Size::Word, 0x5);
        for status in [0, 1, 3] {
            pc.out(18, Size::Byte, status);
        }
        let offered = pc.features();
        pc.out(4, Size::Long, features & offered);
        pc.out(14, Size::Word, 0);
        assert_eq!((pc.input(12, Size::Word), pc.input(8, Size::Long)), (SIZE.into(), 0));
        pc.out(8, Size::Long, PAGE);
        assert_eq!(pc.input(8, Size::Long), PAGE);
        pc.out(18, Size::Byte, 7);
        pc
    }

    fn input(&mut self, register: u16, size: Size) -> u32 {
        self.platform.read(PORTS + register, size, &mut self.board)
    }

    fn out(&mut self, register: u16, size: Size, value: u32) {
        self.platform.write(PORTS + register, size, value, &mut self.board);
    }

    fn features(&mut self) -> u32 {
        self.input(0, Size::Long)
    }

    fn select(&mut self, slot: u32, register: u32) {
        self.platform.write(0xcf8, Size::Long, 1 << 31 | slot << 11 | register & 0xfc, &mut self.board);
    }

    fn configuration(&mut self, slot: u32, register: u32, size: Size) -> u32 {
        self.select(slot, register);
        self.platform.read(0xcfc + (register & 3) as u16, size, &mut self.board)
    }

    fn configure(&mut self, slot: u32, register: u32, size: Size, value: u32) {
        self.select(slot, register);
        self.platform.write(0xcfc + (register & 3) as u16, size, value, &mut self.board);
    }

    fn disk(&mut self) -> &mut Disk {
        &mut self.board.disks[0]
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = usize::try_from(address).unwrap();
        self.disk().memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get<const LENGTH: usize>(&mut self, address: u64) -> [u8; LENGTH] {
        let at = usize::try_from(address).unwrap();
        self.disk().memory[at..at + LENGTH].try_into().unwrap()
    }

    fn word(&mut self, address: u64) -> u16 {
        u16::from_le_bytes(self.get(address))
    }

    fn put_descriptor(&mut self, number: u16, (address, length, flags, next): Descriptor) {
        let at = DESCRIPTORS + 16 * u64::from(number);
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &length.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    fn offer(&mut self, head: u16) {
        let index = self.word(AVAILABLE + 2);
        self.put(AVAILABLE + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.put(AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
    }

    /// Puts a request into the queue, from the given descriptor on: header, data, status.
    fn request(&mut self, first: u16, kind: u32, sector: u64, data: Data<'_>) {
        let header = HEADERS + 16 * u64::from(first);
        let status = STATUSES + u64::from(first);
        self.put(header, &kind.to_le_bytes());
        self.put(header + 8, &sector.to_le_bytes());
        self.put(status, &[NONE]);
        self.put_descriptor(first, (header, 16, NEXT, first + 1));
        let mut number = first + 1;
        let write = if kind == OUT { 0 } else { WRITE };
        for (address, length) in data {
            self.put_descriptor(number, (*address, *length, NEXT | write, number + 1));
            number += 1;
        }
        self.put_descriptor(number, (status, 1, WRITE, 0));
        self.offer(first);
    }

    fn notify(&mut self) {
        self.out(16, Size::Word, 0);
    }

    /// A request by itself: its status, and what the ring says was written.
    fn complete(&mut self, kind: u32, sector: u64, data: Data<'_>) -> (u8, u32) {
        let before = self.word(USED + 2);
        self.request(0, kind, sector, data);
        self.notify();
        assert_eq!(self.word(USED + 2), before.wrapping_add(1));
        let entry = u64::from_le_bytes(self.get(USED + 4 + 8 * u64::from(before % SIZE)));
        assert_eq!(entry & 0xffff_ffff, 0, "the number of the first descriptor");
        (self.get::<1>(STATUSES)[0], (entry >> 32) as u32)
    }

    /// Takes the interrupt as `vp_interrupt` does.
    fn take_interrupt(&mut self) -> bool {
        let Some(line) = self.take() else { return false };
        assert_eq!(line, 10);
        self.end(line);
        assert_eq!(self.input(19, Size::Byte), 1);
        true
    }
}

#[test]
fn a_scan_of_the_bus_finds_a_bridge_and_the_disks() {
    let mut pc = Pc::with_disks(2);
    // `pci_check_type1`, which also writes a byte that means nothing here
    pc.outb(0xcfb, 1);
    pc.platform.write(0xcf8, Size::Long, 0x8000_0000, &mut pc.board);
    assert_eq!(pc.platform.read(0xcf8, Size::Long, &mut pc.board), 0x8000_0000);
    assert_eq!(pc.configuration(0, 0x0a, Size::Word), 0x0600);
    let found = (0..32).filter(|slot| pc.configuration(*slot, 0, Size::Long) != u32::MAX);
    assert_eq!(found.collect::<Vec<_>>(), [0, 1, 2]);
    for (slot, ports) in [(1, 0xc001), (2, 0xc041)] {
        assert_eq!(pc.configuration(slot, 0, Size::Long), 0x1001_1af4);
        assert_eq!(pc.configuration(slot, 0x08, Size::Byte), 0, "revision");
        assert_eq!(pc.configuration(slot, 0x0e, Size::Byte), 0, "header type: one function");
        assert_eq!(pc.configuration(slot, 0x2e, Size::Word), 2, "subsystem");
        assert_eq!(pc.configuration(slot, 0x3c, Size::Word), 0x010a, "line and pin");
        // `pci_size`
        assert_eq!(pc.configuration(slot, 0x10, Size::Long), ports);
        pc.configure(slot, 0x10, Size::Long, u32::MAX);
        assert_eq!(pc.configuration(slot, 0x10, Size::Long) & 0xffff, 0xffc1);
        pc.configure(slot, 0x10, Size::Long, ports);
        assert_eq!(pc.configuration(slot, 0x14, Size::Long), 0);
    }
    // Another function, and another bus.
    assert_eq!(
        (pc.configuration(1 << 5 | 1, 0, Size::Long), pc.configuration(0, 1 << 8, Size::Long)),
        (u32::MAX, 0x0008_1b36)
    );
    for address in [0x8000_0900, 0x8001_0800] {
        pc.platform.write(0xcf8, Size::Long, address, &mut pc.board);
        assert_eq!(pc.platform.read(0xcfc, Size::Long, &mut pc.board), u32::MAX);
        pc.platform.write(0xcfc, Size::Long, 0, &mut pc.board);
    }
    assert!(pc.board.reads.is_empty() && pc.board.writes.is_empty(), "nothing is passed through");
}

#[test]
fn ports_move_with_the_base_address_and_answer_while_they_are_enabled() {
    let mut pc = Pc::driven(0);
    let capacity = |pc: &mut Pc, base: u16| pc.platform.read(base + 20, Size::Long, &mut pc.board);
    assert_eq!(capacity(&mut pc, PORTS), SECTORS as u32);
    pc.configure(1, 0x10, Size::Long, 0x1240);
    assert_eq!(capacity(&mut pc, 0x1240), SECTORS as u32);
    assert!(pc.board.reads.is_empty());
    let _ = capacity(&mut pc, PORTS);
    assert_eq!(pc.board.reads, [(PORTS + 20, Size::Long)]);
    pc.configure(1, 0x04, Size::Word, 0x4);
    let _ = capacity(&mut pc, 0x1240);
    assert_eq!(pc.board.reads.len(), 2);
    // Another disk than there is has no ports.
    let _ = capacity(&mut pc, 0xc040);
    assert_eq!(pc.board.reads.len(), 3);
}

#[test]
fn the_registers_say_what_the_disk_is() {
    let mut pc = Pc::with_disks(MOST_DISKS);
    assert_eq!(pc.features(), 1 << 2 | 1 << 9);
    let bytes: Vec<_> = (20..36).map(|register| pc.input(register, Size::Byte) as u8).collect();
    assert_eq!(bytes, [16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0]);
    pc.disk().read_only = true;
    assert_eq!(pc.features(), 1 << 2 | 1 << 5 | 1 << 9);
    // There is one queue.
    pc.out(14, Size::Word, 1);
    assert_eq!((pc.input(12, Size::Word), pc.input(8, Size::Long)), (0, 0));
    pc.out(8, Size::Long, 5);
    pc.out(14, Size::Word, 0);
    assert_eq!(pc.input(8, Size::Long), 0);
    // What was not offered is not taken, and a reset forgets all.
    pc.out(4, Size::Long, u32::MAX);
    assert_eq!(pc.input(4, Size::Long), 1 << 2 | 1 << 5 | 1 << 9);
    pc.out(18, Size::Byte, 0);
    assert_eq!((pc.input(4, Size::Long), pc.input(18, Size::Byte)), (0, 0));
}

#[test]
fn requests_are_executed_at_the_notification_with_one_interrupt() {
    let mut pc = Pc::driven(KNOWS_FLUSH);
    pc.put(DATA, &[0xaa; 1024]);
    pc.request(0, OUT, 3, &[(DATA, 512), (DATA + 512, 512)]);
    pc.request(10, FLUSH, 0, &[]);
    pc.request(20, IN, 3, &[(DATA + 0x1000, 0x200), (DATA + 0x2000, 0x400)]);
    assert_eq!((pc.disk().contents[3 * 512], pc.take()), (4, None), "nothing before the notification");
    pc.notify();
    assert!(pc.take_interrupt() && !pc.take_interrupt(), "one interrupt for three requests");
    assert_eq!(pc.word(USED + 2), 3);
    let entries: [u64; 3] = [0, 1, 2].map(|number| u64::from_le_bytes(pc.get(USED + 4 + 8 * number)));
    assert_eq!(entries, [1 << 32, 1 << 32 | 0xa, 0x601 << 32 | 0x14]);
    for status in [STATUSES, STATUSES + 10, STATUSES + 20] {
        assert_eq!(pc.get::<1>(status), [DONE]);
    }
    assert_eq!(pc.disk().contents[3 * 512..5 * 512], [0xaa; 1024]);
    assert_eq!((pc.disk().contents[5 * 512], pc.disk().flushed), (6, 1));
    assert_eq!((pc.get(DATA + 0x1000), pc.get(DATA + 0x2000)), ([0xaa_u8; 512], [0xaa_u8; 512]));
    assert_eq!(pc.get::<512>(DATA + 0x2200), [6; 512]);
}

#[test]
fn the_line_is_a_level_that_reading_the_isr_lowers() {
    let mut pc = Pc::driven(0);
    assert_eq!(pc.inb(0x4d1), 1 << 2, "as the firmware would have set it");
    pc.complete(IN, 0, &[(DATA, 512)]);
    assert_eq!(pc.take(), Some(10));
    pc.end(10);
    assert_eq!(pc.take(), Some(10), "not yet served");
    pc.end(10);
    assert_eq!(pc.configuration(1, 0x06, Size::Word), 1 << 3);
    assert_eq!((pc.input(19, Size::Byte), pc.input(19, Size::Byte)), (1, 0));
    assert_eq!((pc.take(), pc.configuration(1, 0x06, Size::Word)), (None, 0));
    // By the bit of PCI there is none, until it is cleared.
    pc.configure(1, 0x04, Size::Word, 0x405);
    pc.complete(IN, 0, &[(DATA, 512)]);
    assert_eq!(pc.take(), None);
    pc.configure(1, 0x04, Size::Word, 0x5);
    assert!(pc.take_interrupt());
    // The driver may ask for none.
    pc.put(AVAILABLE, &[1]);
    pc.complete(IN, 0, &[(DATA, 512)]);
    assert_eq!((pc.take(), pc.input(19, Size::Byte)), (None, 0));
    pc.put(AVAILABLE, &[0]);
    pc.notify();
    assert_eq!(pc.take(), None, "there was nothing to do");
    // A reset takes it back.
    pc.complete(IN, 0, &[(DATA, 512)]);
    pc.out(18, Size::Byte, 0);
    assert_eq!(pc.take(), None);
}

#[test]
fn a_driver_that_does_not_know_of_flushing_finds_all_flushed() {
    for (features, flushed) in [(0, 1), (KNOWS_FLUSH, 0)] {
        let mut pc = Pc::driven(features);
        assert_eq!(pc.complete(OUT, 0, &[(DATA, 512)]), (DONE, 1));
        assert_eq!(pc.disk().flushed, flushed);
    }
}

#[test]
fn what_cannot_be_done_is_answered() {
    let beyond = MEMORY as u64 - 256;
    let cases: [(u32, u64, Data<'_>, u8, u32); 16] = [
        (IN, SECTORS - 1, &[(DATA, 512)], DONE, 513),
        (IN, SECTORS - 1, &[(DATA, 1024)], FAILED, 0),
        (IN, SECTORS, &[(DATA, 512)], FAILED, 0),
        (IN, u64::MAX, &[(DATA, 512)], FAILED, 0),
        (IN, u64::MAX / 512 + 1, &[(DATA, 512)], FAILED, 0),
        (IN, 0, &[(DATA, 500)], FAILED, 0),
        (IN, 0, &[(DATA, 512), (beyond, 512)], FAILED, 512),
        (IN, 0, &[(DATA, 100), (DATA + 0x1000, 924)], DONE, 1025),
        (IN, 0, &[(DATA, u32::MAX), (DATA, 1)], FAILED, 0),
        (OUT, SECTORS, &[(DATA, 512)], FAILED, 1),
        (OUT, 0, &[(DATA, 511)], FAILED, 1),
        (OUT, 0, &[(beyond, 512)], FAILED, 1),
        (GET_ID, 0, &[(DATA, 20)], DONE, 21),
        (GET_ID, 0, &[(DATA, 4), (DATA + 4, 100)], DONE, 20),
        (2, 0, &[(DATA, 512)], UNSUPPORTED, 0),
        (0x8000_0001, 0, &[(DATA, 512)], UNSUPPORTED, 0),
    ];
    for (kind, sector, data, status, written) in cases {
        let mut pc = Pc::driven(KNOWS_FLUSH);
        let before = pc.disk().contents.clone();
        assert_eq!(pc.complete(kind, sector, data), (status, written), "{kind} {sector} {data:x?}");
        assert!(pc.take_interrupt() && pc.disk().faults.is_empty() && pc.disk().contents == before);
        if kind == GET_ID {
            assert_eq!(&pc.get::<20>(DATA), b"afterburner-0\0\0\0\0\0\0\0");
        }
    }
}

#[test]
fn a_disk_that_fails_or_must_not_be_written_says_so() {
    let mut pc = Pc::driven(KNOWS_FLUSH);
    pc.disk().fails = true;
    for (kind, data) in [(IN, &[(DATA, 512)][..]), (OUT, &[(DATA, 512)]), (FLUSH, &[])] {
        assert_eq!(pc.complete(kind, 0, data).0, FAILED);
    }
    pc.disk().fails = false;
    pc.disk().read_only = true;
    assert_eq!(pc.complete(OUT, 0, &[(DATA, 512)]).0, FAILED);
    assert_eq!(pc.complete(IN, 0, &[(DATA, 512)]).0, DONE);
    assert_eq!(pc.complete(FLUSH, 0, &[]).0, DONE);
}

/// Virtio does not say how a request lies in its pieces (`VIRTIO_F_ANY_LAYOUT`).
#[test]
fn header_data_and_status_may_lie_in_any_pieces() {
    let mut pc = Pc::driven(KNOWS_FLUSH);
    pc.put(HEADERS, &OUT.to_le_bytes());
    pc.put(HEADERS + 8, &2_u64.to_le_bytes());
    pc.put(HEADERS + 16, &[0xbb; 600]);
    for (number, descriptor) in [
        (7, (HEADERS, 5, NEXT, 9)),
        (9, (HEADERS + 5, 0, NEXT, 8)),
        (8, (HEADERS + 5, 100, NEXT, 3)),
        (3, (HEADERS + 105, 423, NEXT, 4)),
        (4, (STATUSES, 3, WRITE, 0)),
    ] {
        pc.put_descriptor(number, descriptor);
    }
    pc.put(STATUSES, &[NONE; 3]);
    pc.offer(7);
    pc.notify();
    assert_eq!(pc.disk().contents[2 * 512..3 * 512], [0xbb; 512]);
    assert_eq!(pc.get(STATUSES), [NONE, NONE, DONE]);
}

#[test]
fn a_device_that_may_not_reach_memory_does_not() {
    let mut pc = Pc::driven(KNOWS_FLUSH);
    pc.configure(1, 0x04, Size::Word, 0x1);
    pc.request(0, IN, 0, &[(DATA, 512)]);
    pc.notify();
    assert!(pc.disk().loads.borrow().is_empty() && pc.disk().stores.is_empty());
    pc.configure(1, 0x04, Size::Word, 0x5);
    pc.notify();
    assert_eq!(pc.get::<1>(STATUSES), [DONE]);
}

#[test]
fn indices_wrap() {
    let mut pc = Pc::driven(KNOWS_FLUSH);
    for number in 0..0x1_0003_u32 {
        let (status, _) = pc.complete(FLUSH, 0, &[]);
        assert_eq!(status, DONE, "request {number}");
        pc.disk().loads.borrow_mut().clear();
        pc.disk().stores.clear();
    }
    assert_eq!(pc.word(USED + 2), 3);
}
