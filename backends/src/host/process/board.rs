//! What the virtual platform finds behind it: Linux's clocks, a timer that sends a signal, standard
//! input and output as the serial port, and files as disks.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as raw;
use wedge::cpu::Size;
use wedge::platform::{Board as PlatformBoard, Platform};
use wedge::vm::{Board as VmBoard, End, Host as _};

use super::affinity::Affinity;
use super::console::Console;
use super::cpu::CPU;
use super::disk::{Disk, Disks};
use super::guest::Process;
use super::system::{Answer, File, Timer, clock, wait_for};

/// What Linux has for the platform.
#[derive(Debug)]
pub(super) struct Board {
    timer: Timer,
    /// What the timer was last set to.
    set: Option<u64>,
    console: Console,
    disks: Disks,
    pub(super) affinity: Affinity,
}

impl Board {
    /// With a timer that is not set.
    pub(super) fn new(disks: Disks) -> Answer<Self> {
        Ok(Self { timer: Timer::new()?, set: None, console: Console::new(), disks, affinity: Affinity::new()? })
    }
}

/// The clock that never goes back, in nanoseconds.
pub(super) fn now() -> u64 {
    clock(raw::CLOCK_MONOTONIC)
}

impl PlatformBoard for Board {
    type Disk = Disk;

    fn now(&mut self) -> u64 {
        now()
    }

    fn wall_clock(&mut self) -> u64 {
        clock(raw::CLOCK_REALTIME) / 1_000_000_000
    }

    fn console_write(&mut self, bytes: &[u8]) {
        if File::OUTPUT.write(bytes).is_err() {
            Process::stop(End::Crash);
        }
    }

    fn console_read(&mut self) -> Option<u8> {
        self.console.read()
    }

    fn pass_read(&mut self, _: u16, size: Size) -> u32 {
        size.ones()
    }

    fn pass_write(&mut self, _: u16, _: Size, _: u32) {}

    fn end_of_interrupt(&mut self, _: u8) {}

    fn reset(&mut self) {
        Process::stop(End::Reset)
    }

    fn disk(&mut self, number: usize) -> Option<&mut Disk> {
        self.disks.get_mut(number)?.as_mut()
    }
}

impl VmBoard for Board {
    fn collect(&mut self, platform: &mut Platform) {
        CPU.pending.store(0, Ordering::Relaxed);
        self.set = None;
        platform.advance(self);
        if self.console.has_input() {
            platform.input(self);
        }
    }

    /// The timer may tell of the same moment; then there is nothing new.
    fn wait(&mut self, platform: &mut Platform) {
        let time = platform.deadline().map(|deadline| deadline.saturating_sub(now()));
        let mut files = [self.console.polled()];
        self.affinity.leave();
        let _ = wait_for(&mut files, time);
        self.affinity.settle();
        self.collect(platform);
    }

    fn set_timer(&mut self, platform: &Platform) {
        let deadline = platform.deadline();
        if deadline != self.set
            && let Some(moment) = deadline
        {
            self.timer.set(moment);
            self.set = deadline;
        }
    }
}
