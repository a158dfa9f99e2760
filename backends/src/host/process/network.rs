//! The guest's network: `passt`, a program of the Linux below that makes ordinary sockets of what
//! the guest sends, so that nobody needs a privilege.
//!
//! passt is a child of the wedge, and frames go to it and come from it on a socket
//! ([`frames`](super::frames)). The socket never blocks. While it takes nothing, the guest's frames
//! stay in the guest's queue, and while the guest has no buffer, those for it stay in the socket.
//! Linux tells of frames that come by a signal (SIGIO), as it does of the timer.
//!
//! Where Debian 12's passt (2023-03) finds several frames at once, of one TCP connection that
//! begins or ends, it may never come to an end, as was seen. So what begins or ends one is sent
//! when all before it has been read, and so are the next two frames.
//!
//! passt ends with the wedge: the wedge ends it, and if the wedge cannot, its end of the socket is
//! gone, and Linux has been asked to end passt then (`PR_SET_PDEATHSIG`; passt may lose that when
//! it gives up its rights). If passt ends before, the guest's link is down.

use core::ffi::CStr;
use core::fmt;

use linux_raw_sys::errno::{EAGAIN, EINTR, ENOENT};
use linux_raw_sys::general as raw;
use linux_raw_sys::prctl::PR_SET_PDEATHSIG;
use wedge::platform::virtio::{Dropped, Fault, GuestMemory, LONGEST_FRAME, Network as Device};

use super::frames::{Incoming, Outgoing, begins_or_ends};
use super::memory::Memory;
use super::processes::note;
use super::system::{self, Answer, Carries, Errno, File, ignore};
use super::texts::Decimal;
use crate::runtime::exclusive::Exclusive;
use crate::runtime::say;

/// The card's address: one that is nobody's (IEEE 802, "locally administered").
const ADDRESS: [u8; 6] = [0x02, b'a', b'b', b'u', b'r', b'n'];

/// The name of a program may have so many bytes (`PATH_MAX`).
const NAME_LENGTH: usize = 4096;

/// Where programs are, if the environment does not say.
const USUAL: &CStr = c"/usr/local/bin:/usr/bin:/bin";

/// Where passt was found.
static PROGRAM: Exclusive<[u8; NAME_LENGTH]> = Exclusive::new([0; _]);

/// What comes is read in portions.
static INCOMING: Exclusive<[u8; 1 << 16]> = Exclusive::new([0; _]);

/// Why there is no network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    what: &'static str,
    error: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--net user: {}, {}", self.what, self.error)
    }
}

/// Says what there is not.
fn refused(what: &'static str) -> impl Fn(Errno) -> Refused {
    move |error| Refused { what, error }
}

/// Looks for passt, in the directories that the environment names.
pub(super) fn find(path: Option<&CStr>) -> Result<&'static CStr, Refused> {
    let missing =
        Refused { what: "there is no program `passt`, which Debian's package of that name has", error: Errno(ENOENT) };
    let place = PROGRAM.take();
    let directories = path.unwrap_or(USUAL).to_bytes().split(|byte| *byte == b':');
    for directory in directories.filter(|directory| directory.starts_with(b"/")) {
        const NAME: &[u8] = b"/passt\0";
        let end = directory.len() + NAME.len();
        let Some(name) = place.get_mut(..end) else { continue };
        name[..directory.len()].copy_from_slice(directory);
        name[directory.len()..].copy_from_slice(NAME);
        if CStr::from_bytes_with_nul(name).is_ok_and(system::is_program) {
            return CStr::from_bytes_with_nul(&place[..end]).map_err(|_| missing);
        }
    }
    Err(missing)
}

/// How often, and how long each time, in nanoseconds, passt is waited for to read a frame.
const LOOKS: usize = 8;
const PAUSE: u64 = 25_000;

/// So many frames go alone: one that begins or ends a connection, and those behind it.
const ALONE: u8 = 3;

/// How long the guest may sleep, in nanoseconds, while its frames wait.
pub(super) const WHILE_FRAMES_WAIT: u64 = 1_000_000;

/// The network of a guest.
#[derive(Debug)]
pub(super) struct Network {
    socket: File,
    incoming: Incoming<'static>,
    outgoing: Outgoing,
    memory: Memory,
    is_up: bool,
    /// Frames of the guest's wait for passt to read the last.
    frames_wait: bool,
    /// So many go alone, the one that is being written among them.
    alone: u8,
    /// The guest does not know yet that the link is down.
    changed: bool,
    /// Frames that the guest has sent to nobody, and that did not fit.
    dropped: u64,
    /// Of those that came from passt, how many the log knows of.
    told: u64,
}

impl Network {
    /// Starts passt.
    pub(super) fn start(program: &CStr, memory: Memory) -> Result<Self, Refused> {
        let [socket, theirs] = system::socket_pair(Carries::Bytes).map_err(refused("Linux has no socket"))?;
        let child = start(program, theirs).map_err(refused("passt cannot be started"))?;
        theirs.close();
        note(child);
        socket.tell_of_input(system::process()).map_err(refused("Linux does not tell of frames"))?;
        // Who writes to passt when that has ended finds an error, and not the end.
        ignore(raw::SIGPIPE);
        let incoming = Incoming::new(INCOMING.take());
        Ok(Self {
            socket,
            incoming,
            outgoing: Outgoing::new(),
            memory,
            is_up: true,
            frames_wait: false,
            alone: 0,
            changed: false,
            dropped: 0,
            told: 0,
        })
    }

    /// The socket, to be waited for: for frames, if the guest has room for one, and until the rest
    /// of one can be written.
    pub(super) fn polled(&self, has_room: bool) -> raw::pollfd {
        let events = if has_room { raw::POLLIN } else { 0 }
            | if self.outgoing.is_empty() || self.frames_wait { 0 } else { raw::POLLOUT };
        let mut file = self.socket.polled(events);
        if !self.is_up || events == 0 {
            file.fd = -1;
        }
        file
    }

    /// Whether frames of the guest's wait, of which Linux does not tell when they can be sent.
    pub(super) const fn frames_wait(&self) -> bool {
        self.frames_wait
    }

    /// Whether passt has read all that it was sent, soon.
    fn has_read_all(&self) -> bool {
        (0..LOOKS).any(|look| {
            if look > 0 {
                let _ = system::wait_for(&mut [], Some(PAUSE));
            }
            self.socket.unread() == Ok(0)
        })
    }

    /// Writes the rest of a frame, when it may go.
    pub(super) fn flush(&mut self) {
        let socket = self.socket;
        self.frames_wait = self.is_up && self.alone > 0 && self.outgoing.is_whole() && !self.has_read_all();
        if self.is_up
            && !self.frames_wait
            && let Err(error) = self.outgoing.flush(|bytes| socket.write_some(bytes))
        {
            self.failed(error);
        }
    }

    /// The socket takes or has nothing now, or passt has ended.
    fn failed(&mut self, error: Errno) {
        if ![EAGAIN, EINTR].contains(&error.0) {
            say!("--net user: passt has ended: the guest's network is down");
            (self.is_up, self.changed) = (false, true);
        }
    }
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
        ADDRESS
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
        !self.is_up || self.outgoing.is_empty()
    }

    fn send(&mut self, frame: &[u8]) {
        if self.is_up {
            self.outgoing.put(frame);
            self.alone = if begins_or_ends(frame) { ALONE } else { self.alone.saturating_sub(1) };
            self.flush();
        }
    }

    fn has_frame(&mut self) -> bool {
        const END: Errno = Errno(0);
        let socket = self.socket;
        if !self.is_up {
            return false;
        }
        let read = |bytes: &mut [u8]| match socket.read(bytes) {
            Ok(0) => Err(END),
            other => other,
        };
        let found = self.incoming.has_frame(read);
        let dropped = self.incoming.dropped();
        if dropped != core::mem::replace(&mut self.told, dropped) {
            tell_dropped(dropped, format_args!("passt sends what is no frame, or is too long"));
        }
        found.unwrap_or_else(|error| {
            self.failed(error);
            false
        })
    }

    fn receive(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize {
        self.incoming.take(frame)
    }

    fn dropped(&mut self, why: Dropped) {
        self.dropped += 1;
        tell_dropped(self.dropped, format_args!("{why}"));
    }

    fn broken(&mut self, fault: Fault) {
        say!("--net user: the guest's driver breaks virtio's rules: {fault}");
    }
}

/// Tells the log of frames that were dropped, of so few that no guest can fill it.
fn tell_dropped(count: u64, why: fmt::Arguments<'_>) {
    if count.is_power_of_two() {
        say!("--net user: {why}: dropped, {count} so far");
    }
}

/// Starts passt with its end of the socket. Its number.
fn start(program: &CStr, socket: File) -> Answer<u32> {
    let number = Decimal::new(socket.0);
    let arguments: [&CStr; 7] = [c"passt", c"--foreground", c"--quiet", c"--mtu", c"1500", c"--fd", number.text()];
    let mut places = [core::ptr::null(); 8];
    for (place, argument) in places.iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    // It is closed when the program begins; before, it says why that does not.
    let [reader, writer] = system::pipe()?;
    let parent = system::process();
    let child = system::fork()?;
    if child == 0 {
        let Errno(error) = become_program(program, &places, socket, parent);
        let _ = writer.write(&error.to_ne_bytes());
        system::exit(1);
    }
    writer.close();
    let mut error = [0; 4];
    let read = reader.read(&mut error);
    reader.close();
    match read {
        Ok(0) => Ok(child),
        Ok(_) => Err(Errno(u32::from_ne_bytes(error))),
        Err(error) => Err(error),
    }
}

/// Becomes another program. Returns only if that fails.
fn become_program(program: &CStr, arguments: &[*const core::ffi::c_char; 8], socket: File, parent: u32) -> Errno {
    let place = arguments.as_ptr().addr() as u64;
    let environment = place + 7 * 8;
    // SAFETY: nothing is written but the process's own state.
    let become_it = || unsafe {
        system::call(raw::__NR_prctl, [PR_SET_PDEATHSIG.into(), raw::SIGKILL.into(), 0, 0, 0, 0])?;
        if system::call(raw::__NR_getppid, [0; 6])? != u64::from(parent) {
            system::exit(1);
        }
        socket.keep_open()?;
        let name = program.as_ptr().addr() as u64;
        system::call(raw::__NR_execve, [name, place, environment, 0, 0, 0])
    };
    become_it().err().unwrap_or(Errno(ENOENT))
}
