//! What the virtual platform finds behind it: Linux's clocks, a timer that sends a signal, standard
//! input and output as the serial port, files as disks, a program or an interface as the network,
//! and directories.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as raw;
use wedge::cpu::Size;
use wedge::platform::{Board as PlatformBoard, Platform, SECOND};
use wedge::vm::{Board as VmBoard, End, Host as _};

use super::affinity::Affinity;
use super::console::Console;
use super::cpu::CPU;
use super::disk::{Disk, Disks};
use super::guest::Process;
use super::network::{Network, WHILE_FRAMES_WAIT};
use super::share::{Share, Shares};
use super::system::{Answer, File, Timer, clock, wait_for};

/// What Linux has for the platform.
#[derive(Debug)]
pub(super) struct Board {
    timer: Timer,
    /// What the timer was last set to.
    set: Option<u64>,
    console: Console,
    disks: Disks,
    network: Option<Network>,
    shares: Shares,
    pub(super) affinity: Affinity,
}

impl Board {
    /// With a timer that is not set.
    pub(super) fn new(disks: Disks, network: Option<Network>, shares: Shares) -> Answer<Self> {
        let (timer, affinity) = (Timer::new()?, Affinity::new()?);
        Ok(Self { timer, set: None, console: Console::new(), disks, network, shares, affinity })
    }
}

/// The clock that never goes back, in nanoseconds.
pub(super) fn now() -> u64 {
    clock(raw::CLOCK_MONOTONIC)
}

impl PlatformBoard for Board {
    type Disk = Disk;
    type Network = Network;
    type Share = Share;

    fn now(&mut self) -> u64 {
        now()
    }

    fn wall_clock(&mut self) -> u64 {
        clock(raw::CLOCK_REALTIME) / SECOND
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

    fn network(&mut self) -> Option<&mut Network> {
        self.network.as_mut()
    }

    fn share(&mut self, number: usize) -> Option<&mut Share> {
        self.shares.get(number, &self.affinity)
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
        if let Some(network) = &mut self.network {
            network.look();
            platform.serve_network(self);
        }
    }

    /// The timer may tell of the same moment; then there is nothing new.
    fn wait(&mut self, platform: &mut Platform) {
        let mut time = platform.deadline().map(|deadline| deadline.saturating_sub(now()));
        if self.network.as_ref().is_some_and(Network::frames_wait) {
            time = Some(time.map_or(WHILE_FRAMES_WAIT, |time| time.min(WHILE_FRAMES_WAIT)));
        }
        let has_room = platform.has_room_for_frame(self);
        let nothing = raw::pollfd { fd: -1, events: 0, revents: 0 };
        let frames = self.network.as_ref().map_or(nothing, |network| network.polled(has_room));
        let mut files = [self.console.polled(), frames];
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
