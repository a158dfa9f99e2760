//! The process that serves directories ([`share`](super::share)). It is a copy of the wedge's, made
//! before the guest runs: it has the wedge's instructions and the guest's memory, and nothing of
//! the guest runs in it. It ends with the wedge's.
//!
//! What it is asked is an allegation, as all that comes from the guest's side ([`Request`],
//! [`Server`]). Its own filter of system calls leaves it those by which [`Directory`] reaches
//! files.

use linux_raw_sys::errno::EINTR;
use linux_raw_sys::general as raw;
use linux_raw_sys::prctl::PR_SET_PDEATHSIG;
use wedge::platform::virtio::MOST_SHARES;
use wedge::platform::virtio::p9::{Fid, Server};

use super::files::Directory;
use super::filter::{SERVERS, from_window};
use super::memory::{FIDS, Memory, READ_AND_WRITE, pointer};
use super::requests::{LENGTH, Request};
use super::system::{self, Answer, Errno, File, call, ignore};
use crate::runtime::window;

/// The directories to be served, and whether each is read-only.
pub(super) type Served = [Option<(File, bool)>; MOST_SHARES];

/// How many files a guest may know of at a time, in a directory: each takes a descriptor, too.
const MOST_FIDS: u64 = 1 << 18;

/// Bytes of a table of them.
const TABLE: u64 = MOST_FIDS * size_of::<Fid<File>>() as u64;

/// A directory, and who answers for it.
type Pair = (Directory, Server<'static, File>);

/// Serves directories until the wedge ends. What is said first is whether it can: 0 or an error.
pub(super) fn run(served: &Served, socket: File, memory: Memory, parent: u32) -> ! {
    match begin(served, socket, memory, parent) {
        Ok(mut pairs) => {
            if socket.write(&0_u32.to_ne_bytes()).is_ok() {
                serve(&mut pairs, socket);
            }
        }
        Err(Errno(error)) => _ = socket.write(&error.to_ne_bytes()),
    }
    system::exit(1)
}

/// Gives up all that it does not need.
fn begin(served: &Served, socket: File, memory: Memory, parent: u32) -> Answer<[Option<Pair>; MOST_SHARES]> {
    system::call_by_numbers(raw::__NR_prctl, [PR_SET_PDEATHSIG.into(), raw::SIGKILL.into()])?;
    if system::call_by_numbers(raw::__NR_getppid, [0; 2])? != u64::from(parent) {
        system::exit(1);
    }
    // The end comes with the wedge's, and not before. A file that grows beyond a limit is an error.
    for number in [raw::SIGHUP, raw::SIGINT, raw::SIGQUIT, raw::SIGTERM, raw::SIGPIPE, raw::SIGXFSZ] {
        ignore(number);
    }
    close_all_but(served, socket)?;
    allow_many_files()?;
    // The guest's kernel has applied that of its program.
    system::call_by_numbers(raw::__NR_umask, [0; 2])?;
    let descriptors = File::open_directory(c"/proc/self/fd")?;
    let mut pairs = [const { None }; MOST_SHARES];
    for (number, (place, served)) in (0..).zip(pairs.iter_mut().zip(served)) {
        let Some((directory, read_only)) = *served else { continue };
        let table = FIDS + number * TABLE;
        // SAFETY: nothing is there; and a fid that is all zeros is unused.
        let fids = unsafe {
            system::map(table, TABLE, READ_AND_WRITE, None)?;
            core::slice::from_raw_parts_mut(pointer(table), MOST_FIDS as usize)
        };
        *place = Some((Directory::new(directory, descriptors, memory)?, Server::new(fids, read_only)));
    }
    system::restrict(from_window(window(), &SERVERS).instructions())?;
    Ok(pairs)
}

/// Closes all descriptors but those of directories, the way to the wedge, and the log.
fn close_all_but(served: &Served, socket: File) -> Answer {
    let is_kept = |number: u32| {
        [socket, File::OUTPUT]
            .into_iter()
            .chain(served.iter().flatten().map(|(file, _)| *file))
            .any(|file| file.0 == number)
    };
    // Descriptors are the smallest that are free: all that are kept are below.
    let behind = served.iter().flatten().map(|(file, _)| file.0).chain([socket.0]).max().unwrap_or(0) + 1;
    for number in (0..behind).filter(|number| !is_kept(*number)) {
        File(number).close();
    }
    system::call_by_numbers(raw::__NR_close_range, [behind.into(), u32::MAX.into()]).map(drop)
}

/// As many descriptors as Linux allows (`getrlimit(2)`).
fn allow_many_files() -> Answer {
    let mut limits = [0_u64; 2];
    let place = (&raw mut limits).expose_provenance() as u64;
    // SAFETY: it writes to `limits`, and reads from there.
    unsafe {
        call(raw::__NR_getrlimit, [raw::RLIMIT_NOFILE.into(), place, 0, 0, 0, 0])?;
        let most = (&raw const limits[1]).read_volatile();
        (&raw mut limits[0]).write_volatile(most);
        call(raw::__NR_setrlimit, [raw::RLIMIT_NOFILE.into(), place, 0, 0, 0, 0]).map(drop)
    }
}

/// Answers, as long as there is somebody who asks.
fn serve(pairs: &mut [Option<Pair>; MOST_SHARES], socket: File) {
    // One byte more than a request has: what is longer is none.
    let mut bytes = [0; LENGTH + 1];
    loop {
        let length = match socket.read(&mut bytes) {
            Err(Errno(EINTR)) => continue,
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let request = Request::decode(&bytes[..length]);
        let answer = request.as_ref().and_then(|request| {
            let (directory, server) = pairs.get_mut(request.directory())?.as_mut()?;
            Some(server.answer(request.request(), request.reply(), directory))
        });
        if socket.write(&answer.unwrap_or(0).to_ne_bytes()).is_err() {
            return;
        }
    }
}
