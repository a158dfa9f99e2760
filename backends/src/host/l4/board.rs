//! What the virtual platform finds behind it: the time-stamp counter as a clock, the machine's
//! timer (Intel 8254) for one moment at a time, its serial port, its PCI devices.
//!
//! Interrupts come as notifications to the pager, by lines of the I/O APIC; a line is silent until
//! it is acknowledged.

use core::sync::atomic::Ordering;

use wedge::cpu::Size;
use wedge::platform::virtio::NoDevice;
use wedge::platform::{Board as PlatformBoard, Platform, SECOND, shown_by_machine};
use wedge::vm::{Board as VmBoard, End, Host as _};

use super::abi::abi;
use super::console;
use super::cpu::CPU;
use super::guest::L4;
use super::kernel::{Kernel, Slot, initial, object, rights};
use super::objects::{Failure, Objects, refused};
use super::pager::LINES;
use super::ports::Ports;
use super::programs::Answer;
use crate::runtime::{say, timestamp};

/// Interrupt lines of a PC.
const COUNT: usize = 16;
/// The timer's. The I/O APIC has it at another pin (ACPI specification, interrupt source override).
const TIMER: u8 = 0;
const TIMER_PIN: u64 = 2;
/// The first serial port's.
const SERIAL: u8 = 4;

/// Ports of the timer, and what has it count down once (data sheet, mode 0).
const COUNTER: u16 = 0x40;
const CONTROL: u16 = 0x43;
const ONCE: u8 = 0x30;
/// Its frequency.
const HERTZ: u64 = 1_193_182;
/// As long as it can count.
const LONGEST: u64 = 0xffff;

/// What seL4 and the machine have for the platform.
#[derive(Debug)]
pub(super) struct Board {
    kernel: Kernel,
    ports: Ports,
    /// By line, what acknowledges it.
    handlers: [Option<Slot>; COUNT],
    /// What wakes the wedge's thread.
    waker: Slot,
    clock: Clock,
    /// Seconds since 1970 when the clock was 0.
    epoch: u64,
    /// The moment that the timer counts down to.
    set: Option<u64>,
}

/// The time-stamp counter as a clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: u64,
    /// Nanoseconds for a tick, as a fraction of 2^32.
    scale: u64,
    pub(super) kilohertz: u64,
}

impl Clock {
    /// A counter that runs at so many MHz.
    pub(super) fn new(megahertz: u64) -> Self {
        Self { start: timestamp(), scale: (1000 << 32) / megahertz.max(1), kilohertz: megahertz * 1000 }
    }

    fn now(&self) -> u64 {
        let ticks = timestamp().wrapping_sub(self.start);
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }
}

impl Board {
    /// Takes the timer, and the serial port. Lines are told by notifications that `lines` is for.
    pub(super) fn new(
        objects: &mut Objects,
        ports: Ports,
        clock: Clock,
        lines: Slot,
        waker: Slot,
    ) -> Result<Self, Failure> {
        let kernel = objects.kernel;
        let epoch = shown_by_machine(|register| {
            ports.set_byte(0x70, register as u8);
            ports.byte(0x71)
        });
        let handlers = [None; COUNT];
        let mut board = Self { kernel, ports, handlers, waker, clock, epoch, set: None };
        board.take_line(objects, lines, TIMER, TIMER_PIN, false)?;
        board.take_line(objects, lines, SERIAL, SERIAL.into(), false)?;
        console::listen(ports);
        Ok(board)
    }

    fn take_line(
        &mut self,
        objects: &mut Objects,
        lines: Slot,
        line: u8,
        pin: u64,
        level: bool,
    ) -> Result<(), Failure> {
        let [handler, badged] = [objects.initial_slots(1)?, objects.initial_slots(1)?];
        let level = u64::from(level);
        // Of the first I/O APIC; a vector of its own, and a line that is low when it is raised if
        // it stays so.
        let words = [handler, 64, 0, pin, level, level, u64::from(line) + 1];
        self.kernel
            .invoke(initial::IRQ_CONTROL, abi().irq_control_get_ioapic, &[initial::CNODE], &words)
            .map_err(refused("an interrupt"))?;
        objects
            .mint(lines, (initial::CNODE, badged, 64), rights::SEND, LINES | 1 << line)
            .map_err(refused("a badge of a notification"))?;
        self.kernel
            .invoke(handler, abi().irq_set_handler, &[badged], &[])
            .map_err(refused("an interrupt's handler"))?;
        self.handlers[usize::from(line)] = Some(handler);
        self.acknowledge(line);
        Ok(())
    }

    fn acknowledge(&self, line: u8) {
        if let Some(handler) = self.handlers.get(usize::from(line)).copied().flatten() {
            let _ = self.kernel.invoke(handler, abi().irq_ack, &[], &[]);
        }
    }

    /// Takes over the interrupt lines that PCI devices have been given by the firmware.
    pub(super) fn take_lines(&mut self, objects: &mut Objects, lines: Slot) {
        for device in 0..32 {
            for function in 0..8 {
                let at = device << 11 | function << 8;
                if self.configuration(at) & 0xffff == 0xffff {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                let interrupt = self.configuration(at | 0x3c);
                let (line, pin) = (interrupt as u8, (interrupt >> 8) as u8);
                let is_free = self.handlers.get(usize::from(line)).is_some_and(Option::is_none);
                if pin != 0
                    && line >= 3
                    && is_free
                    && let Err(failure) = self.take_line(objects, lines, line, line.into(), true)
                {
                    say!("interrupt line {line}: {failure}: its devices will be silent");
                }
                let multifunction = self.configuration(at | 0xc) >> 23 & 1 == 1;
                if function == 0 && !multifunction {
                    break;
                }
            }
        }
    }

    /// A word of a device's configuration (PCI Local Bus Specification 3.0, 3.2.2.3.2: mechanism
    /// 1).
    fn configuration(&mut self, address: u32) -> u32 {
        self.ports.write(0xcf8, Size::Long, 1 << 31 | address);
        self.ports.read(0xcfc, Size::Long)
    }
}

impl PlatformBoard for Board {
    type Disk = NoDevice;
    type Network = NoDevice;
    type Share = NoDevice;

    fn now(&mut self) -> u64 {
        self.clock.now()
    }

    fn wall_clock(&mut self) -> u64 {
        self.epoch + self.clock.now() / SECOND
    }

    fn console_write(&mut self, bytes: &[u8]) {
        console::write(self.ports, bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        console::read(self.ports)
    }

    fn pass_read(&mut self, port: u16, size: Size) -> u32 {
        self.ports.read(port, size)
    }

    fn pass_write(&mut self, port: u16, size: Size, value: u32) {
        self.ports.write(port, size, value);
    }

    fn end_of_interrupt(&mut self, line: u8) {
        if line != TIMER && line != SERIAL {
            self.acknowledge(line);
        }
    }

    fn reset(&mut self) {
        L4::stop(End::Reset)
    }
}

impl VmBoard for Board {
    fn collect(&mut self, platform: &mut Platform) {
        CPU.pending.store(0, Ordering::SeqCst);
        let lines = CPU.lines.swap(0, Ordering::SeqCst);
        for line in (0..COUNT as u8).filter(|line| lines >> line & 1 == 1) {
            match line {
                TIMER => {
                    self.set = None;
                    self.acknowledge(line);
                }
                SERIAL => {
                    self.acknowledge(line);
                    platform.input(self);
                }
                line => platform.set_line(line, true),
            }
        }
        platform.advance(self);
    }

    fn wait(&mut self, platform: &mut Platform) {
        self.set_timer(platform);
        Answer::forget();
        self.kernel.receive(self.waker);
        self.collect(platform);
    }

    fn set_timer(&mut self, platform: &Platform) {
        let Some(deadline) = platform.deadline() else { return };
        // What comes too early is set again then.
        if self.set.is_some_and(|set| set <= deadline) {
            return;
        }
        let now = self.clock.now();
        let ticks = (deadline.saturating_sub(now).min(SECOND) * HERTZ).div_ceil(SECOND).clamp(1, LONGEST);
        self.ports.set_byte(CONTROL, ONCE);
        self.ports.set_byte(COUNTER, ticks as u8);
        self.ports.set_byte(COUNTER, (ticks >> 8) as u8);
        self.set = Some(now + ticks * SECOND / HERTZ);
    }
}

/// A notification.
pub(super) fn notification(objects: &mut Objects) -> Result<Slot, Failure> {
    const BITS: u64 = 5;
    objects.initial_object(object::NOTIFICATION, BITS)
}
