//! The platform as a guest's programs see it: ports only, the sequences those of Linux 6.1.

extern crate std;

mod clock;
mod interrupts;
mod ports;
mod serial;
mod timer;
mod virtio;

use std::collections::VecDeque;
use std::vec::Vec;

use super::time::SECOND;
use super::{Board, Pci, Platform};
use crate::cpu::Size;

/// A host whose clock stands still until it is moved.
#[derive(Debug, Default)]
struct Bench {
    now: u64,
    /// What time it was on the wall, in nanoseconds, when `now` was 0.
    epoch: u64,
    written: Vec<Vec<u8>>,
    typed: VecDeque<u8>,
    /// Ports passed through: read, and written with what.
    reads: Vec<(u16, Size)>,
    writes: Vec<(u16, Size, u32)>,
    ended: Vec<u8>,
    resets: usize,
    disks: Vec<virtio::Disk>,
    cable: Option<virtio::Cable>,
    shares: Vec<virtio::Echo>,
}

impl Board for Bench {
    type Disk = virtio::Disk;
    type Network = virtio::Cable;
    type Share = virtio::Echo;

    fn disk(&mut self, number: usize) -> Option<&mut virtio::Disk> {
        self.disks.get_mut(number)
    }

    fn network(&mut self) -> Option<&mut virtio::Cable> {
        self.cable.as_mut()
    }

    fn share(&mut self, number: usize) -> Option<&mut virtio::Echo> {
        self.shares.get_mut(number)
    }

    fn now(&mut self) -> u64 {
        self.now
    }

    fn wall_clock(&mut self) -> u64 {
        (self.epoch + self.now) / SECOND
    }

    fn console_write(&mut self, bytes: &[u8]) {
        self.written.push(bytes.to_vec());
    }

    fn console_read(&mut self) -> Option<u8> {
        self.typed.pop_front()
    }

    fn pass_read(&mut self, port: u16, size: Size) -> u32 {
        self.reads.push((port, size));
        0x8765_4321
    }

    fn pass_write(&mut self, port: u16, size: Size, value: u32) {
        self.writes.push((port, size, value));
    }

    fn end_of_interrupt(&mut self, line: u8) {
        self.ended.push(line);
    }

    fn reset(&mut self) {
        self.resets += 1;
    }
}

/// The platform and its host.
struct Pc {
    platform: Platform,
    board: Bench,
    /// How long an access to a port takes, in nanoseconds.
    access: u64,
}

/// The vector of line 0, as Linux has it (`ISA_IRQ_VECTOR`).
const VECTOR: u8 = 0x30;

impl Pc {
    fn new() -> Self {
        Self { platform: Platform::new(Pci::PassedThrough), board: Bench::default(), access: 0 }
    }

    /// With interrupt controllers as `init_8259A` leaves them, and the given lines unmasked.
    fn initialised(lines: u16) -> Self {
        let mut pc = Self::new();
        pc.initialise(lines);
        pc
    }

    fn initialise(&mut self, lines: u16) {
        self.outb(0x21, 0xff);
        for (port, value) in [(0x20, 0x11), (0x21, VECTOR), (0x21, 4), (0x21, 1)] {
            self.outb(port, value);
        }
        for (port, value) in [(0xa0, 0x11), (0xa1, VECTOR + 8), (0xa1, 2), (0xa1, 1)] {
            self.outb(port, value);
        }
        self.set_mask(!(lines | 4));
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.board.now += self.access;
        u8::try_from(self.platform.read(port, Size::Byte, &mut self.board)).unwrap()
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.board.now += self.access;
        self.platform.write(port, Size::Byte, value.into(), &mut self.board);
    }

    fn set_mask(&mut self, mask: u16) {
        let [first, second] = mask.to_le_bytes();
        self.outb(0x21, first);
        self.outb(0xa1, second);
    }

    /// The line of the interrupt that the processor gets.
    fn take(&mut self) -> Option<u8> {
        let announced = self.platform.has_interrupt();
        let vector = self.platform.acknowledge();
        assert_eq!(vector.is_some(), announced);
        vector.map(|vector| vector - VECTOR)
    }

    /// Specific end of interrupt, as in `mask_and_ack_8259A`.
    fn end(&mut self, line: u8) {
        if line >= 8 {
            self.outb(0xa0, 0x60 + (line & 7));
            self.outb(0x20, 0x62);
        } else {
            self.outb(0x20, 0x60 + line);
        }
    }

    /// Moves the clock, and lets the platform notice.
    fn advance_to(&mut self, now: u64) {
        assert!(now >= self.board.now);
        self.board.now = now;
        self.platform.advance(&mut self.board);
    }

    /// Moves the clock to the next deadline.
    fn advance_to_deadline(&mut self) {
        let deadline = self.platform.deadline().unwrap();
        self.advance_to(deadline);
    }

    fn cmos_read(&mut self, index: u8) -> u8 {
        self.outb(0x70, index);
        self.inb(0x71)
    }

    fn cmos_write(&mut self, index: u8, value: u8) {
        self.outb(0x70, index);
        self.outb(0x71, value);
    }
}
