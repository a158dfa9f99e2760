//! The virtual platform: the devices of a PC that Linux uses when there is neither ACPI nor an
//! APIC.
//!
//! A guest that runs deprivileged has no timer, interrupt controller, clock or console of its own,
//! but it is an unmodified kernel that knows how to use those of every PC. So it gets them: two
//! 8259A (`pic`), an 8254 (`pit`), an MC146818 (`cmos`), a 16550A (`uart`), the ways to reset
//! (`reset`), and PCI configuration (`pci`): of the machine's bus if its devices are the guest's,
//! or of one with virtio devices (`virtio`), if the host has something to put there. All that a
//! stock kernel probes for and that a PC need not have is absent, and reads as all ones, so that
//! the probe ends at once. Any other port belongs to the host.
//!
//! No device keeps time: each computes its state from the host's clock when it is asked. The host
//! calls [`Platform::advance`] at [`Platform::deadline`], or at any other time, and nothing depends
//! on how often. Until then no device changes by itself, so that the way from a port and back, which
//! Linux takes eight times for each tick, need not ask them all.

mod calendar;
mod cmos;
mod interrupts;
mod pci;
mod pic;
mod pit;
mod reset;
#[cfg(test)]
mod tests;
mod time;
mod uart;
pub mod virtio;

pub use cmos::shown_by_machine;
pub use time::SECOND;

use cmos::{Cmos, Moment};
use interrupts::Interrupts;
use pci::Configuration;
use pit::Pit;
use uart::Uart;
use virtio::{Block, Bus, Network, Share};

use crate::cpu::Size;

/// Interrupt lines of the virtual devices.
const TIMER_LINE: u8 = 0;
const SERIAL_LINE: u8 = 4;
const CLOCK_LINE: u8 = 8;

/// What the platform needs of its host.
pub trait Board {
    /// A disk that the host gives the guest.
    type Disk: Block;

    /// What is at the other end of a network card's cable.
    type Network: Network;

    /// Who answers for a directory that the host gives the guest.
    type Share: Share;

    /// A clock that never goes back, in nanoseconds.
    fn now(&mut self) -> u64;

    /// Seconds since 1970, UTC.
    fn wall_clock(&mut self) -> u64;

    /// Output of the first serial port.
    fn console_write(&mut self, bytes: &[u8]);

    /// Input for the first serial port.
    fn console_read(&mut self) -> Option<u8>;

    /// Reads a port that is not virtual. All ones where there is no real one.
    fn pass_read(&mut self, port: u16, size: Size) -> u32;

    /// Writes to a port that is not virtual.
    fn pass_write(&mut self, port: u16, size: Size, value: u32);

    /// The guest has finished with a line that [`Platform::set_line`] raised: it may interrupt
    /// again.
    fn end_of_interrupt(&mut self, line: u8);

    /// The guest asked for a reset.
    fn reset(&mut self);

    /// The disk of a number, if there is one: the same as long as the guest runs.
    fn disk(&mut self, _number: usize) -> Option<&mut Self::Disk> {
        None
    }

    /// The network, if there is one: the same as long as the guest runs.
    fn network(&mut self) -> Option<&mut Self::Network> {
        None
    }

    /// Who answers for the directory of a number, if there is one: the same as long as the guest
    /// runs.
    fn share(&mut self, _number: usize) -> Option<&mut Self::Share> {
        None
    }
}

/// Whether the guest sees a PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pci {
    /// It finds none.
    Absent,
    /// It sees that of the machine.
    PassedThrough,
    /// It sees one of the wedge's own, with the disks of [`Board::disk`], the card of
    /// [`Board::network`] and the directories of [`Board::share`].
    Virtual,
}

/// Whose a port is. All virtual ports are a byte wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Interrupts,
    Timer,
    Clock,
    Serial,
    Reset,
    /// Nobody's, on purpose.
    Nothing,
    /// Not virtual.
    Host,
}

impl Device {
    const fn at(port: u16) -> Self {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => Self::Interrupts,
            0x40..=0x43 | 0x61 => Self::Timer,
            0x70 | 0x71 => Self::Clock,
            0x3f8..=0x3ff => Self::Serial,
            reset::KEYBOARD_DATA | reset::KEYBOARD_COMMAND | reset::CONTROL_A | reset::RESET_CONTROL => Self::Reset,
            // DMA controllers and page registers, with the POST port; the port that delays; the
            // other serial ports.
            0x00..=0x0f | 0x80..=0x8f | 0xc0..=0xdf | 0xed | 0x2e8..=0x2ef | 0x2f8..=0x2ff | 0x3e8..=0x3ef => {
                Self::Nothing
            }
            _ => Self::Host,
        }
    }
}

/// Whether an access touches a port that is virtual, and is made byte by byte.
fn is_virtual(port: u16, size: Size) -> bool {
    (0..size.bytes()).any(|offset| Device::at(port.wrapping_add(offset)) != Device::Host)
}

/// Whether a byte that is written to a port does nothing. Linux writes to one of these to wait for a
/// slow device, of which there is none here (6.1, `arch/x86/kernel/io_delay.c`).
#[must_use]
pub const fn ignores(port: u16) -> bool {
    matches!(Device::at(port), Device::Nothing)
}

/// The devices.
#[derive(Debug)]
pub struct Platform {
    interrupts: Interrupts,
    timer: Pit,
    clock: Cmos,
    serial: Uart,
    configuration: Configuration,
    bus: Bus,
    /// What [`Self::deadline`] tells.
    deadline: Option<u64>,
    /// It has changed since [`Self::take_moved`].
    moved: bool,
}

impl Platform {
    /// The platform after a reset.
    #[must_use]
    pub const fn new(pci: Pci) -> Self {
        Self {
            interrupts: Interrupts::new(match pci {
                Pci::Virtual => 1 << virtio::LINE,
                _ => 0,
            }),
            timer: Pit::new(),
            clock: Cmos::new(),
            serial: Uart::new(),
            configuration: Configuration::new(pci),
            bus: Bus::new(),
            deadline: None,
            moved: false,
        }
    }

    /// The guest reads a port. Bits above the size are 0.
    pub fn read(&mut self, port: u16, size: Size, board: &mut impl Board) -> u32 {
        if Configuration::covers(port) && !(port == reset::RESET_CONTROL && size == Size::Byte) {
            self.configuration.read(port, size, &self.bus, board) & size.ones()
        } else if is_virtual(port, size) {
            (0..size.bytes())
                .fold(0, |value, offset| value | self.read_byte(port.wrapping_add(offset), board) << (8 * offset))
        } else if self.configuration.has_bus()
            && let Some(value) = self.bus.read(port, size, board)
        {
            self.drive_bus();
            value
        } else {
            board.pass_read(port, size) & size.ones()
        }
    }

    /// The guest writes to a port. Bits above the size do not count.
    pub fn write(&mut self, port: u16, size: Size, value: u32, board: &mut impl Board) {
        if Configuration::covers(port) && !(port == reset::RESET_CONTROL && size == Size::Byte) {
            self.configuration.write(port, size, value & size.ones(), &mut self.bus, board);
            self.drive_bus();
        } else if size == Size::Byte && Device::at(port) != Device::Host {
            let [byte, ..] = value.to_le_bytes();
            self.write_byte(port, byte, board);
        } else if is_virtual(port, size) {
            for (offset, byte) in (0..size.bytes()).zip(value.to_le_bytes()) {
                self.write_byte(port.wrapping_add(offset), byte, board);
            }
        } else if self.configuration.has_bus() && self.bus.write(port, size, value & size.ones(), board) {
            self.drive_bus();
        } else {
            board.pass_write(port, size, value & size.ones());
        }
    }

    fn read_byte(&mut self, port: u16, board: &mut impl Board) -> u32 {
        let byte = match Device::at(port) {
            Device::Interrupts => {
                // A request is there as soon as a line is up.
                self.advance(board);
                self.interrupts.read(port)
            }
            Device::Timer => self.timer.read(port, board.now()),
            Device::Clock => {
                let byte = self.clock.read(port, moment(board));
                self.interrupts.drive(CLOCK_LINE, self.clock.line());
                self.find_deadline();
                byte
            }
            Device::Serial => {
                let byte = self.serial.read(port, board);
                self.interrupts.drive(SERIAL_LINE, self.serial.line());
                self.find_deadline();
                byte
            }
            Device::Reset => reset::read(port),
            Device::Nothing => 0xff,
            Device::Host => return board.pass_read(port, Size::Byte) & Size::Byte.ones(),
        };
        byte.into()
    }

    fn write_byte(&mut self, port: u16, value: u8, board: &mut impl Board) {
        match Device::at(port) {
            Device::Interrupts => self.interrupts.write(port, value, board),
            Device::Timer => {
                let now = board.now();
                self.catch_up(now, board);
                self.timer.write(port, value, now);
                self.interrupts.drive(TIMER_LINE, self.timer.line());
                self.find_deadline();
            }
            Device::Clock => {
                self.clock.write(port, value, moment(board));
                self.interrupts.drive(CLOCK_LINE, self.clock.line());
                self.find_deadline();
            }
            Device::Serial => {
                self.serial.write(port, value, board);
                self.interrupts.drive(SERIAL_LINE, self.serial.line());
                self.find_deadline();
            }
            Device::Reset if reset::resets(port, value) => {
                self.serial.flush(board);
                self.find_deadline();
                board.reset();
            }
            Device::Reset | Device::Nothing => {}
            Device::Host => board.pass_write(port, Size::Byte, value.into()),
        }
    }

    /// A passed-through device asserts its interrupt line, 0 to 15, or stops to. The line stays
    /// asserted until the guest has finished with it and [`Board::end_of_interrupt`] is called, and
    /// no longer.
    pub fn set_line(&mut self, line: u8, asserted: bool) {
        self.interrupts.set_real(line, asserted);
    }

    /// Whether there is an interrupt for the processor.
    #[must_use]
    pub fn has_interrupt(&self) -> bool {
        self.interrupts.has_interrupt()
    }

    /// The processor takes an interrupt: its vector. None if there is none any more.
    pub fn acknowledge(&mut self) -> Option<u8> {
        self.interrupts.acknowledge()
    }

    /// Brings the timers up to now. Afterwards there may be an interrupt.
    pub fn advance(&mut self, board: &mut impl Board) {
        let now = board.now();
        self.catch_up(now, board);
        self.interrupts.finish(board);
    }

    /// The same, without what the guest has finished with.
    #[inline]
    fn catch_up(&mut self, now: u64, board: &mut impl Board) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.meet_deadline(now, board);
        }
    }

    fn meet_deadline(&mut self, now: u64, board: &mut impl Board) {
        let due = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now);
        if self.timer.advance(now) {
            // A tick is an edge, even if the line is still up from the last.
            self.interrupts.drive(TIMER_LINE, false);
        }
        if due(self.clock.deadline()) {
            self.clock.advance(moment(board));
        }
        if due(self.serial.deadline()) {
            self.serial.flush(board);
        }
        self.interrupts.drive(TIMER_LINE, self.timer.line());
        self.interrupts.drive(SERIAL_LINE, self.serial.line());
        self.interrupts.drive(CLOCK_LINE, self.clock.line());
        self.find_deadline();
    }

    /// When [`Self::advance`] has to be called at the latest, on the clock of [`Board::now`].
    #[must_use]
    pub const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Whether the deadline has changed since the last time, and the host should know of it.
    #[must_use]
    pub const fn take_moved(&mut self) -> bool {
        core::mem::replace(&mut self.moved, false)
    }

    fn find_deadline(&mut self) {
        let deadlines = [self.timer.deadline(), self.clock.deadline(), self.serial.deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        self.moved |= deadline != self.deadline;
        self.deadline = deadline;
    }

    /// There may be input for the console.
    pub fn input(&mut self, board: &mut impl Board) {
        self.serial.input(board);
        self.interrupts.drive(SERIAL_LINE, self.serial.line());
        self.find_deadline();
    }

    /// Frames may have come for the guest, or there may be room for those that it sends.
    pub fn serve_network(&mut self, board: &mut impl Board) {
        self.bus.serve_network(board);
        self.drive_bus();
    }

    /// Whether the guest has room for a frame that comes.
    #[must_use]
    pub fn has_room_for_frame(&self, board: &mut impl Board) -> bool {
        self.bus.has_room_for_frame(board)
    }

    fn drive_bus(&mut self) {
        if self.configuration.has_bus() {
            self.interrupts.drive(virtio::LINE, self.bus.line());
        }
    }
}

fn moment(board: &mut impl Board) -> Moment {
    // In this order: a second of the wall clock must not be seen before it begins.
    let wall = board.wall_clock();
    Moment { now: board.now(), wall }
}
