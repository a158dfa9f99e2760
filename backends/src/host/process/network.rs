//! The guest's network: a card, and what is at the other end of its cable, [`passt`](super::passt)
//! or a [TAP interface](super::tap).
//!
//! The other end is a file that never blocks. While it takes nothing, the guest's frames stay in
//! the guest's queue, and while the guest has no buffer, those for it stay in the file, or with the
//! cable. Linux tells
//! of frames that come by a signal (SIGIO), as it does of the timer. When the other end is gone,
//! the guest's link is down.

use core::ffi::CStr;
use core::fmt;
use core::ops::Range;

use linux_raw_sys::errno::{EAGAIN, EINTR};
use linux_raw_sys::general as raw;
use wedge::platform::virtio::{Dropped, Fault, GuestMemory, LONGEST_FRAME, Network as Device};

use super::arguments::{Interface, Net};
use super::memory::Memory;
use super::passt::{self, Passt};
use super::system::{Answer, Errno, File};
use super::tap::Tap;
use crate::runtime::say;

/// The card's address at a cable of its own: one that is nobody's (IEEE 802, "locally
/// administered").
const ADDRESS: [u8; 6] = [0x02, b'a', b'b', b'u', b'r', b'n'];

/// How long the guest may sleep, in nanoseconds, while its frames wait.
pub(super) const WHILE_FRAMES_WAIT: u64 = 1_000_000;

/// Why there is no network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    net: Net,
    what: &'static str,
    error: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { net, what, error } = self;
        write!(f, "{net}: {what}, {error}")
    }
}

/// Says what there is not.
pub(super) fn refused(net: Net, what: &'static str) -> impl Fn(Errno) -> Refused {
    move |error| Refused { net, what, error }
}

/// The other end of the cable. To a caller, an error of EAGAIN or EINTR means that there is nothing
/// to be done now, and any other that there is nobody any more.
pub(super) trait Cable {
    /// What is said when there is nobody any more,
    const ENDED: &'static str;
    /// and of frames that were dropped here.
    const DROPS: &'static str;

    /// Where frames go to and come from.
    fn file(&self) -> File;

    /// Whether all that was put in is written: then there is room for a frame.
    fn can_put(&self) -> bool;

    /// Takes in what has come, where frames are kept that the guest has no room for.
    fn take_in(&mut self) -> Answer;

    /// Whether there is room for more of them.
    fn takes_more(&self) -> bool;

    /// Whether frames wait of which Linux does not tell when they can be written.
    fn frames_wait(&self) -> bool;

    /// Puts a frame in, when there is room.
    fn put(&mut self, frame: &[u8]);

    /// Writes what was put in, when it may go.
    fn flush(&mut self) -> Answer;

    /// Whether a frame has come.
    fn has_frame(&mut self) -> Answer<bool>;

    /// Takes it. Its length.
    fn take(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize;

    /// How many frames were dropped.
    fn dropped(&self) -> u64;
}

/// What can be told of a network before the arguments are gone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Where passt is.
    Passt(&'static CStr),
    /// An interface, which is asked for later.
    Tap(Interface),
}

/// Looks for what a network needs, programs in the directories that the environment names.
pub(super) fn find(net: Net, path: Option<&CStr>) -> Result<Found, Refused> {
    match net {
        Net::User => passt::find(path).map(Found::Passt),
        Net::Tap(interface) => Ok(Found::Tap(interface)),
    }
}

/// Each kind of cable.
#[derive(Debug)]
enum Kind {
    Passt(Passt),
    Tap(Tap),
}

/// Does the same with either.
macro_rules! either {
    ($kind:expr, $cable:ident => $what:expr) => {
        match $kind {
            Kind::Passt($cable) => $what,
            Kind::Tap($cable) => $what,
        }
    };
}

/// The network of a guest.
#[derive(Debug)]
pub(super) struct Network {
    net: Net,
    kind: Kind,
    address: [u8; 6],
    memory: Memory,
    is_up: bool,
    /// The guest does not know yet that the link is down.
    changed: bool,
    /// Frames that the guest has sent to nobody, and that did not fit.
    dropped: u64,
    /// Of those that the other end has dropped, how many the log knows of.
    told: u64,
}

impl Network {
    /// Starts it.
    pub(super) fn start(found: Found, memory: Memory) -> Result<Self, Refused> {
        let (net, kind, address) = match found {
            Found::Passt(program) => (Net::User, Kind::Passt(Passt::start(program)?), ADDRESS),
            Found::Tap(interface) => {
                let (tap, address) = Tap::open(interface)?;
                (Net::Tap(interface), Kind::Tap(tap), address)
            }
        };
        Ok(Self { net, kind, address, memory, is_up: true, changed: false, dropped: 0, told: 0 })
    }

    /// Its file, to be waited for: for frames, if there is room for one, and until what is put in
    /// can be written.
    pub(super) fn polled(&self, has_room: bool) -> raw::pollfd {
        let (file, writes) = either!(&self.kind, cable => (cable.file(), !cable.can_put() && !cable.frames_wait()));
        let reads = has_room || either!(&self.kind, cable => cable.takes_more());
        let events = if reads { raw::POLLIN } else { 0 } | if writes { raw::POLLOUT } else { 0 };
        let mut file = file.polled(events);
        if !self.is_up || events == 0 {
            file.fd = -1;
        }
        file
    }

    /// Whether frames of the guest's wait, of which Linux does not tell when they can be sent.
    pub(super) fn frames_wait(&self) -> bool {
        self.is_up && either!(&self.kind, cable => cable.frames_wait())
    }

    /// Takes in what has come, and writes what waits.
    pub(super) fn look(&mut self) {
        if self.is_up
            && let Err(error) = either!(&mut self.kind, cable => cable.take_in())
        {
            self.failed(error);
        }
        self.flush();
    }

    /// Writes what waits, when it may go.
    fn flush(&mut self) {
        if self.is_up
            && let Err(error) = either!(&mut self.kind, cable => cable.flush())
        {
            self.failed(error);
        }
        self.tell_of_drops();
    }

    /// The other end takes or has nothing now, or is gone.
    fn failed(&mut self, error: Errno) {
        if ![EAGAIN, EINTR].contains(&error.0) {
            let ended = either!(&self.kind, cable => ended(cable));
            say!("{}: {ended}: the guest's network is down", self.net);
            (self.is_up, self.changed) = (false, true);
        }
    }

    fn tell_of_drops(&mut self) {
        let (dropped, why) = either!(&self.kind, cable => drops(cable));
        let told = core::mem::replace(&mut self.told, dropped);
        self.tell_dropped(&(told..dropped), format_args!("{why}"));
    }

    /// Tells the log of frames that were dropped, so many until now: so seldom that no guest can
    /// fill it.
    fn tell_dropped(&self, count: &Range<u64>, why: fmt::Arguments<'_>) {
        if reaches_power_of_two(count) {
            say!("{}: {why}: dropped, {} so far", self.net, count.end);
        }
    }
}

/// Whether a power of two lies behind the first number, up to the second.
fn reaches_power_of_two(count: &Range<u64>) -> bool {
    count.start.checked_ilog2() < count.end.checked_ilog2()
}

fn ended<C: Cable>(_: &C) -> &'static str {
    C::ENDED
}

fn drops<C: Cable>(cable: &C) -> (u64, &'static str) {
    (cable.dropped(), C::DROPS)
}

impl GuestMemory for Network {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.load_all(address, bytes)
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.memory.store_all(address, bytes)
    }
}

impl Device for Network {
    fn address(&self) -> [u8; 6] {
        self.address
    }

    fn is_up(&self) -> bool {
        self.is_up
    }

    fn link_has_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// What is sent when the link is down goes nowhere.
    fn can_send(&mut self) -> bool {
        self.flush();
        !self.is_up || either!(&self.kind, cable => cable.can_put())
    }

    fn send(&mut self, frame: &[u8]) {
        if self.is_up {
            either!(&mut self.kind, cable => cable.put(frame));
            self.flush();
        }
    }

    fn has_frame(&mut self) -> bool {
        if !self.is_up {
            return false;
        }
        let found = either!(&mut self.kind, cable => cable.has_frame());
        self.tell_of_drops();
        found.unwrap_or_else(|error| {
            self.failed(error);
            false
        })
    }

    fn receive(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize {
        either!(&mut self.kind, cable => cable.take(frame))
    }

    fn dropped(&mut self, why: Dropped) {
        let before = self.dropped;
        self.dropped += 1;
        self.tell_dropped(&(before..self.dropped), format_args!("{why}"));
    }

    fn broken(&mut self, fault: Fault) {
        say!("{}: the guest's driver breaks virtio's rules: {fault}", self.net);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Several frames may have been dropped since the log was told.
    #[test]
    fn the_log_is_told_whenever_the_count_has_reached_a_power_of_two() {
        for (count, expected) in [
            (0..0, false),
            (0..1, true),
            (0..3, true),
            (1..2, true),
            (2..3, false),
            (3..3, false),
            (3..5, true),
            (4..4, false),
            (5..7, false),
            (3..11, true),
            (8..16, true),
            (16..31, false),
        ] {
            assert_eq!(reaches_power_of_two(&count), expected, "{count:?}");
        }
    }
}
