//! What the virtual platform finds behind it: Xen's clock, its console, its event channels, and
//! real ports.
//!
//! The platform is a PC that keeps no time of its own, and Xen has no PC: it has a clock that never
//! stops, one timer for one moment, and event channels. So everything that happens to the guest
//! from outside comes in as an event, and is told to the platform as the line of a device. An event
//! may be lost on the way only if it says nothing new: the timer only says that the time has come
//! to ask the platform, and whoever asks too often or too early learns the same. A physical
//! interrupt is masked by Xen until the guest has finished with it, so its line cannot come twice.

use core::sync::atomic::Ordering;

use wedge::cpu::Size;
use wedge::platform::virtio::NoDevice;
use wedge::platform::{Board as PlatformBoard, Platform, SECOND};
use wedge::vm::Board as VmBoard;
use x86_64::instructions::port::Port;

use super::console;
use super::cpu::CPU;
use super::hypercall::{self, Reason, Refused, shutdown};
use super::interface::{VIRQ_CONSOLE, VIRQ_TIMER};
use crate::runtime::{say, timestamp};

/// Interrupt lines of a PC.
const LINES: usize = 16;

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    None,
    Timer,
    Console,
    Line(u8),
}

/// What Xen has for the platform.
#[derive(Debug)]
pub(super) struct Board {
    /// By port.
    sources: [Source; 64],
    /// All ports in use.
    ports: [u32; 2 + LINES],
    port_count: usize,
    /// By line, the physical interrupt.
    pirqs: [Option<u32>; LINES],
    /// Whether real ports can be used.
    privileged: bool,
}

impl Board {
    /// Binds timer and console. `console_port` is that of the console's ring, in a domain that has
    /// one.
    pub(super) fn new(privileged: bool, console_port: Option<u32>) -> Result<Self, Refused> {
        let mut board = Self {
            sources: [Source::None; 64],
            ports: [0; 2 + LINES],
            port_count: 0,
            pirqs: [None; LINES],
            privileged,
        };
        board.listen(hypercall::bind_virq(VIRQ_TIMER)?, Source::Timer);
        let console = match console_port {
            Some(port) => port,
            None => hypercall::bind_virq(VIRQ_CONSOLE)?,
        };
        board.listen(console, Source::Console);
        hypercall::stop_periodic_timer()?;
        if privileged {
            hypercall::set_iopl(1)?;
        }
        Ok(board)
    }

    fn listen(&mut self, port: u32, source: Source) {
        let Some(place) = self.sources.get_mut(port as usize) else {
            say!("event channel {port} is not looked at: there are only {}", self.sources.len());
            return;
        };
        *place = source;
        self.ports[self.port_count] = port;
        self.port_count += 1;
        CPU.shared.info().masked[0].fetch_and(!(1 << port), Ordering::SeqCst);
    }

    /// Takes over the interrupt lines that PCI devices have been given by the firmware.
    pub(super) fn take_lines(&mut self) {
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
                if pin != 0 && (3..LINES as u8).contains(&line) {
                    self.take_line(line);
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
        self.pass_write(0xcf8, Size::Long, 1 << 31 | address);
        self.pass_read(0xcfc, Size::Long)
    }

    fn take_line(&mut self, line: u8) {
        if self.pirqs[usize::from(line)].is_some() {
            return;
        }
        let _ = hypercall::setup_gsi(line.into());
        let bound = hypercall::map_gsi(line.into()).and_then(|pirq| Ok((pirq, hypercall::bind_pirq(pirq)?)));
        match bound {
            Ok((pirq, port)) => {
                self.pirqs[usize::from(line)] = Some(pirq);
                self.listen(port, Source::Line(line));
            }
            Err(Refused(error)) => say!("Xen refuses interrupt line {line}, error {error}: its devices will be silent"),
        }
    }
}

/// The frequency of the time-stamp counter in kHz: the inverse of Xen's scale from ticks to
/// nanoseconds.
pub(super) fn ticks_per_millisecond() -> u64 {
    let time = &CPU.shared.vcpu().time;
    let scale = u128::from(time.tsc_to_system_mul.load(Ordering::Relaxed).max(1));
    let shift = time.tsc_shift.load(Ordering::Relaxed).cast_signed();
    let ticks = (1_000_000_u128 << 32) / scale;
    (if shift < 0 { ticks << -shift } else { ticks >> shift }) as u64
}

impl PlatformBoard for Board {
    type Disk = NoDevice;
    type Network = NoDevice;
    type Share = NoDevice;

    /// Xen's system time (`xen.h`, `struct vcpu_time_info`): ticks since a moment, scaled.
    fn now(&mut self) -> u64 {
        let time = &CPU.shared.vcpu().time;
        loop {
            let version = time.version.load(Ordering::Acquire);
            let ticks = timestamp().wrapping_sub(time.tsc_timestamp.load(Ordering::Relaxed));
            let shift = time.tsc_shift.load(Ordering::Relaxed).cast_signed();
            let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
            let scaled = (u128::from(shifted) * u128::from(time.tsc_to_system_mul.load(Ordering::Relaxed))) >> 32;
            let now = time.system_time.load(Ordering::Relaxed).wrapping_add(scaled as u64);
            if version & 1 == 0 && version == time.version.load(Ordering::Acquire) {
                return now;
            }
        }
    }

    fn wall_clock(&mut self) -> u64 {
        let info = CPU.shared.info();
        loop {
            let version = info.wall_clock_version.load(Ordering::Acquire);
            let low = info.wall_clock_seconds.load(Ordering::Relaxed);
            let high = info.wall_clock_seconds_high.load(Ordering::Relaxed);
            let nanoseconds = info.wall_clock_nanoseconds.load(Ordering::Relaxed);
            if version & 1 == 0 && version == info.wall_clock_version.load(Ordering::Acquire) {
                let start = u64::from(high) << 32 | u64::from(low);
                return start + (u64::from(nanoseconds) + self.now()) / SECOND;
            }
        }
    }

    fn console_write(&mut self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        console::read()
    }

    fn pass_read(&mut self, port: u16, size: Size) -> u32 {
        if !self.privileged {
            return u32::MAX;
        }
        // SAFETY: the domain has been given the hardware; what Xen needs of it, it does not give.
        unsafe {
            match size {
                Size::Byte => Port::<u8>::new(port).read().into(),
                Size::Word => Port::<u16>::new(port).read().into(),
                Size::Long => Port::<u32>::new(port).read(),
            }
        }
    }

    fn pass_write(&mut self, port: u16, size: Size, value: u32) {
        if !self.privileged {
            return;
        }
        // SAFETY: as above.
        unsafe {
            match size {
                Size::Byte => Port::<u8>::new(port).write(value as u8),
                Size::Word => Port::<u16>::new(port).write(value as u16),
                Size::Long => Port::<u32>::new(port).write(value),
            }
        }
    }

    fn end_of_interrupt(&mut self, line: u8) {
        if let Some(pirq) = self.pirqs.get(usize::from(line)).copied().flatten() {
            hypercall::end_of_interrupt(pirq);
        }
    }

    fn reset(&mut self) {
        shutdown(Reason::Reboot)
    }
}

impl VmBoard for Board {
    /// Looks at all event channels.
    fn collect(&mut self, platform: &mut Platform) {
        let info = CPU.shared.info();
        let vcpu = CPU.shared.vcpu();
        vcpu.pending.store(0, Ordering::SeqCst);
        if vcpu.pending_selector.swap(0, Ordering::SeqCst) & 1 == 0 {
            return;
        }
        let mut events = info.pending[0].load(Ordering::SeqCst) & !info.masked[0].load(Ordering::SeqCst);
        info.pending[0].fetch_and(!events, Ordering::SeqCst);
        while events != 0 {
            let port = events.trailing_zeros() as usize;
            events &= events - 1;
            match self.sources[port] {
                Source::None => {}
                Source::Timer => {
                    CPU.timer.store(0, Ordering::Relaxed);
                    platform.advance(self);
                }
                Source::Console => platform.input(self),
                Source::Line(line) => platform.set_line(line, true),
            }
        }
    }

    fn wait(&mut self, platform: &mut Platform) {
        let until = platform.deadline().unwrap_or(0);
        hypercall::poll(&self.ports[..self.port_count], until);
        self.collect(platform);
        platform.advance(self);
    }

    fn set_timer(&mut self, platform: &Platform) {
        let deadline = platform.deadline().unwrap_or(0);
        if deadline != 0 && CPU.timer.swap(deadline, Ordering::Relaxed) != deadline {
            hypercall::set_timer(deadline);
        }
    }
}
