//! `passt`, a program of the Linux below that makes ordinary sockets of what the guest sends, so
//! that nobody needs a privilege.
//!
//! passt is a child of the wedge, and frames go to it and come from it on a socket
//! ([`frames`](super::frames)).
//!
//! Where Debian 12's passt (2023-03) finds several frames at once, of one TCP connection that
//! begins or ends, it may never come to an end, as was seen. So what begins or ends one is sent
//! when all before it has been read, and so are the next two frames.
//!
//! What does not fit into the socket passt forgets, and the guest has to ask for it again. Debian
//! 12's may then send most of a stream many times, and in the end reset it, as it does with QEMU.
//! So the socket holds as much as it may (`net.core.wmem_max`), what is in there is taken out as
//! soon as the wedge gets round to it, and the guest is told to let nobody send it more at once
//! than would fit.
//!
//! passt ends with the wedge: the wedge ends it, and if the wedge cannot, its end of the socket is
//! gone, and Linux has been asked to end passt then (`PR_SET_PDEATHSIG`; passt may lose that when
//! it gives up its rights).

use core::ffi::CStr;

use linux_raw_sys::errno::ENOENT;
use linux_raw_sys::general as raw;
use linux_raw_sys::prctl::PR_SET_PDEATHSIG;
use wedge::platform::virtio::LONGEST_FRAME;

use super::arguments::Net;
use super::frames::{Incoming, Outgoing, begins_or_ends};
use super::memory::{FRAMES, READ_AND_WRITE, pointer};
use super::network::{Cable, Refused, refused};
use super::processes::note;
use super::system::{self, Answer, Carries, Errno, File, ignore};
use super::texts::Decimal;
use crate::runtime::exclusive::Exclusive;

/// The name of a program may have so many bytes (`PATH_MAX`).
const NAME_LENGTH: usize = 4096;

/// Where programs are, if the environment does not say.
const USUAL: &CStr = c"/usr/local/bin:/usr/bin:/bin";

/// Where passt was found.
static PROGRAM: Exclusive<[u8; NAME_LENGTH]> = Exclusive::new([0; _]);

/// As much of what comes is kept here, whether or not the guest takes it.
const KEPT: u64 = 16 << 20;

/// Looks for passt, in the directories that the environment names.
pub(super) fn find(path: Option<&CStr>) -> Result<&'static CStr, Refused> {
    let missing =
        refused(Net::User, "there is no program `passt`, which Debian's package of that name has")(Errno(ENOENT));
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

/// What the guest is to keep of each connection, so that the socket holds what passt sends at once:
/// the least, the usual, and the most. `None` if what Linux does by itself is no more.
pub(super) fn window() -> Option<[u64; 3]> {
    /// Linux's own, where there is much memory (`tcp_init`, `net/ipv4/tcp.c`).
    const LEAST: u64 = 4096;
    /// With less, nobody would get anywhere.
    const FEWEST: u64 = 1 << 16;
    const USUAL: u64 = 131_072;
    const MOST: u64 = 6 << 20;
    let sockets = system::socket_pair(Carries::Bytes).ok()?;
    let held = sockets[0].hold_much();
    for socket in sockets {
        socket.close();
    }
    let most = (held.ok()? / 2).max(FEWEST);
    (most < MOST).then_some([LEAST, USUAL.min(most), most])
}

/// How often, and how long each time, in nanoseconds, passt is waited for to read a frame.
const LOOKS: usize = 8;
const PAUSE: u64 = 25_000;

/// So many frames go alone: one that begins or ends a connection, and those behind it.
const ALONE: u8 = 3;

/// passt, at its end of a socket.
#[derive(Debug)]
pub(super) struct Passt {
    socket: File,
    incoming: Incoming<'static>,
    outgoing: Outgoing,
    /// Frames of the guest's wait for passt to read the last.
    frames_wait: bool,
    /// So many go alone, the one that is being written among them.
    alone: u8,
}

impl Passt {
    /// Starts it.
    pub(super) fn start(program: &CStr) -> Result<Self, Refused> {
        let refused = |what| refused(Net::User, what);
        let [socket, theirs] = system::socket_pair(Carries::Bytes).map_err(refused("Linux has no socket"))?;
        theirs.hold_much().and(socket.hold_much()).map_err(refused("a socket has no buffer"))?;
        let child = start(program, theirs).map_err(refused("passt cannot be started"))?;
        theirs.close();
        note(child);
        socket.tell_of_input(system::process()).map_err(refused("Linux does not tell of frames"))?;
        // Who writes to passt when that has ended finds an error, and not the end.
        ignore(raw::SIGPIPE);
        // SAFETY: nothing is there, and nobody else is given it.
        let kept = unsafe {
            system::map(FRAMES, KEPT, READ_AND_WRITE, None)
                .map(|()| core::slice::from_raw_parts_mut(pointer(FRAMES), KEPT as usize))
        };
        let incoming = Incoming::new(kept.map_err(refused("there is no memory for frames"))?);
        Ok(Self { socket, incoming, outgoing: Outgoing::new(), frames_wait: false, alone: 0 })
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
}

impl Cable for Passt {
    const ENDED: &'static str = "passt has ended";
    const DROPS: &'static str = "passt sends what is no frame, or is too long";

    fn file(&self) -> File {
        self.socket
    }

    fn can_put(&self) -> bool {
        self.outgoing.is_empty()
    }

    fn take_in(&mut self) -> Answer {
        let socket = self.socket;
        self.incoming.fill(|bytes| read(socket, bytes))
    }

    fn takes_more(&self) -> bool {
        self.incoming.has_room()
    }

    fn frames_wait(&self) -> bool {
        self.frames_wait
    }

    fn put(&mut self, frame: &[u8]) {
        self.outgoing.put(frame);
        self.alone = if begins_or_ends(frame) { ALONE } else { self.alone.saturating_sub(1) };
    }

    fn flush(&mut self) -> Answer {
        let socket = self.socket;
        self.frames_wait = self.alone > 0 && self.outgoing.is_whole() && !self.has_read_all();
        if self.frames_wait { Ok(()) } else { self.outgoing.flush(|bytes| socket.write_some(bytes)) }
    }

    fn has_frame(&mut self) -> Answer<bool> {
        let socket = self.socket;
        self.incoming.has_frame(|bytes| read(socket, bytes))
    }

    fn take(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize {
        self.incoming.take(frame)
    }

    fn dropped(&self) -> u64 {
        self.incoming.dropped()
    }
}

/// Reads what has come. When passt has closed its end, that is an error.
fn read(socket: File, bytes: &mut [u8]) -> Answer<usize> {
    const END: Errno = Errno(0);
    match socket.read(bytes) {
        Ok(0) => Err(END),
        other => other,
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
