//! Directories of the Linux below that the guest shares, on the guest's side.
//!
//! Who reaches files by their names is a process of its own ([`server`](super::server)), and not
//! this one: the guest's kernel runs here, nothing protects the wedge from it, and no filter of
//! system calls can tell a name in the directory from any other. So what is here opens the
//! directories, starts that process, and from then on hands each message over to it and waits. What
//! a guest can do is what it can ask there.
//!
//! If that process has been ended, from outside, the guest's programs find I/O errors there, and
//! the log says so.

use core::fmt;

use linux_raw_sys::errno::{EINTR, EIO, ENOTDIR, EPIPE};
use linux_raw_sys::general as raw;
use wedge::platform::virtio::p9::{self, refuse};
use wedge::platform::virtio::{Fault, GuestMemory, MOST_SHARES, Piece, Share as Device};

use super::affinity::Affinity;
use super::arguments::{Directories, Name};
use super::memory::Memory;
use super::names::Path;
use super::processes::note;
use super::requests::{LENGTH, Request};
use super::server::{self, Served};
use super::system::{self, Answer, Carries, Errno, File, ignore};
use crate::runtime::say;

/// Why a directory is refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Which; if it is none, directories as such.
    name: Option<Name<'static>>,
    error: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.error) {
            (Some(name), Errno(ENOTDIR)) => write!(f, "--share {name}: is no directory"),
            (Some(name), error) => write!(f, "--share {name}: cannot be opened, {error}"),
            (None, error) => write!(f, "--share: Linux refuses a process that serves directories, {error}"),
        }
    }
}

/// A directory of the guest's.
#[derive(Debug)]
pub(super) struct Share {
    name: Name<'static>,
    number: u8,
    /// Where messages go, and answers come from.
    server: File,
    memory: Memory,
    /// The log knows that nobody answers.
    told: bool,
}

/// All directories of a guest.
#[derive(Debug)]
pub(super) struct Shares {
    each: [Option<Share>; MOST_SHARES],
    /// Who serves them, and on which processor that is.
    server: Option<(u32, Option<u32>)>,
}

/// Opens directories, and starts the process that serves them.
pub(super) fn start(given: &Directories<'static>, memory: Memory) -> Result<Shares, Refused> {
    let mut shares = Shares { each: [const { None }; _], server: None };
    if given[0].is_none() {
        return Ok(shares);
    }
    let mut opened: Served = [None; _];
    for (place, directory) in opened.iter_mut().zip(given.iter().flatten()) {
        let file = File::open_directory(Path::new(directory.name).text());
        let file = file.map_err(|error| Refused { name: Some(directory.name), error })?;
        *place = Some((file, directory.read_only));
    }
    let (server, process) = start_server(&opened, memory).map_err(|error| Refused { name: None, error })?;
    for ((number, place), directory) in (0..).zip(&mut shares.each).zip(given.iter().flatten()) {
        *place = Some(Share { name: directory.name, number, server, memory, told: false });
    }
    shares.server = Some((process, None));
    Ok(shares)
}

/// Starts the process, and waits until it can serve. The way to it, and its number.
fn start_server(opened: &Served, memory: Memory) -> Answer<(File, u32)> {
    let [ours, theirs] = system::socket_pair(Carries::Packets)?;
    let parent = system::process();
    let child = system::fork()?;
    if child == 0 {
        server::run(opened, theirs, memory, parent);
    }
    note(child);
    theirs.close();
    for (directory, _) in opened.iter().flatten() {
        directory.close();
    }
    // Who writes to it when it has ended finds an error, and not the end.
    ignore(raw::SIGPIPE);
    match receive(ours)? {
        0 => Ok((ours, child)),
        error => Err(Errno(error)),
    }
}

/// Waits for a number, whatever comes in meanwhile.
fn receive(socket: File) -> Answer<u32> {
    let mut bytes = [0; 4];
    loop {
        match socket.read(&mut bytes) {
            Err(Errno(EINTR)) => {}
            Err(error) => return Err(error),
            Ok(4) => return Ok(u32::from_ne_bytes(bytes)),
            Ok(_) => return Err(Errno(EPIPE)),
        }
    }
}

impl Shares {
    /// Whether there are any.
    pub(super) const fn is_empty(&self) -> bool {
        self.server.is_none()
    }

    /// One, by its number; who serves it is where the guest is.
    pub(super) fn get(&mut self, number: usize, affinity: &Affinity) -> Option<&mut Share> {
        if let Some((process, place)) = &mut self.server {
            *place = affinity.fetch(*process, *place);
        }
        self.each.get_mut(number)?.as_mut()
    }
}

impl Share {
    /// Has a message answered.
    fn ask(&self, request: &[Piece], reply: &[Piece]) -> Answer<u32> {
        let mut bytes = [0; LENGTH];
        let request = Request::new(self.number, request, reply).ok_or(Errno(EIO))?;
        self.server.write(request.encode(&mut bytes))?;
        receive(self.server)
    }
}

impl GuestMemory for Share {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.load_all(address, bytes)
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.memory.store_all(address, bytes)
    }
}

impl Device for Share {
    fn answer(&mut self, request: &[Piece], reply: &[Piece]) -> u32 {
        self.ask(request, reply).unwrap_or_else(|error| {
            if !core::mem::replace(&mut self.told, true) {
                say!("--share {}: the process that serves it does not answer, {error}: I/O errors", self.name);
            }
            refuse(request, reply, p9::Errno::IO, self)
        })
    }

    fn broken(&mut self, fault: Fault) {
        say!("--share {}: the guest's driver breaks virtio's rules: {fault}", self.name);
    }
}
