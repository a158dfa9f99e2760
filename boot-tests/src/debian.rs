//! A real userland: Debian on a virtual disk, with a network card whose other end is a server in
//! this process.
//!
//! The other guests are an initramfs of one program. This one has what makes a system large: a disk
//! that is written and read again, a dynamic linker, thousands of processes, an init, a login. Its
//! disk is made by `scripts/debian-disk` and used as a snapshot, so that every boot begins with the
//! same one; and what runs there has run in a chroot on the build machine before, so that its
//! verdicts have an oracle which is no virtual machine at all.
//!
//! The end is a conversation, for only somebody who logs in can tell a login prompt from its
//! picture. QEMU's standard input is the guest's keyboard, and an answer is typed when its prompt
//! has been read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use initramfs::Archive;

use crate::expect::Expectations;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::qemu::{Machine, Running};
use crate::unnamed::Unnamed;
use crate::{cache, command, programs};

/// What decides how the disk looks.
const SOURCES: [&str; 5] = [
    "scripts/debian-disk",
    "testdata/debian/deflate.c",
    "testdata/debian/inittab",
    "testdata/debian/session",
    "testdata/debian/transfer.py",
];

/// Prompts of the guest, and what is typed there. `scripts/debian-disk` sets the name of the
/// machine and the password.
const CONVERSATION: [(&str, &str); 3] = [
    ("afterburner login: ", "root\n"),
    ("Password: ", "afterburner\n"),
    ("root@afterburner:~# ", "/afterburner/session farewell\n"),
];

/// Bytes that go each way through the network; `transfer.py` knows the number too.
const TRANSFER: usize = 8_000_000;

/// Memory of the guest in MB: gcc takes 100 of them, the rest caches the disk.
const MEMORY: u32 = 512;
const MEMORY_OF_A_LARGE_KERNEL: u32 = 1024;

/// A boot takes two minutes where nothing else runs, and is given up after this time.
const TIMEOUT: Duration = Duration::from_secs(900);

/// How it is booted.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// On what.
    pub host: Host,
    /// Which kernel.
    pub kernel: &'a Kernel,
    /// Words for its command line.
    pub append: &'a str,
    /// What mounts the disk. Without one, the kernel does.
    pub initramfs: Option<&'a Path>,
    /// Number of CPUs.
    pub cpus: u32,
    /// The name of the expectations.
    pub expected: &'a str,
}

impl<'a> Boot<'a> {
    /// By a kernel that has all it takes, on one CPU.
    #[must_use]
    pub fn new(host: Host, kernel: &'a Kernel, append: &'a str) -> Self {
        Self { host, kernel, append, initramfs: None, cpus: 1, expected: "debian" }
    }
}

/// The disk and what its programs must say.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Makes the disk, or finds it made.
    ///
    /// # Errors
    ///
    /// When `scripts/debian-disk` fails; the message holds the end of its log.
    pub fn build() -> Result<Self> {
        let _lock = cache::lock("debian")?;
        let disk = Self { directory: cache::subdirectory("debian")? };
        let stamp = SOURCES.map(|path| fs::read_to_string(cache::repository().join(path)));
        let stamp = stamp.into_iter().collect::<Result<String, _>>().context("reading what the disk is made of")?;
        let stamp_path = disk.directory.join("stamp");
        if fs::read_to_string(&stamp_path).is_ok_and(|made| made == stamp) && disk.path().exists() {
            return Ok(disk);
        }
        let log = disk.directory.join("log");
        println!("disk of Debian: making, log in {}", log.display());
        let started = Instant::now();
        fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        command::logged(Command::new(cache::repository().join(SOURCES[0])).arg(&disk.directory), &log)?;
        fs::write(&stamp_path, stamp).with_context(|| format!("writing {}", stamp_path.display()))?;
        println!("disk of Debian: made in {:.0} s", started.elapsed().as_secs_f64());
        Ok(disk)
    }

    /// What its programs said on the build machine, by name.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds nothing.
    pub fn verdicts(&self) -> Result<BTreeMap<String, String>> {
        let path = self.directory.join("verdicts");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let verdicts = programs::verdicts(&text);
        ensure!(!verdicts.is_empty(), "{} is empty", path.display());
        Ok(verdicts)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// Options of QEMU, or of the image, for the disk, which no boot changes, and for a network
    /// card.
    fn options(&self, host: Host) -> Vec<OsString> {
        if host == Host::Process {
            let disk = format!("{},snapshot", self.path().display());
            return ["--disk", &disk, "--net", "user"].map(OsString::from).into();
        }
        let drive = format!("file={},format=raw,if=none,id=disk,snapshot=on", self.path().display());
        let disk = ["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"];
        let card = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="];
        disk.iter().chain(&card).map(OsString::from).collect()
    }

    /// Boots it, talks to it, and returns what it said. The log is kept in the cache.
    ///
    /// # Errors
    ///
    /// When the machine cannot be started, the time runs out, an expectation is not met, the guest
    /// did not receive what was sent to it, or a verdict is not the build machine's.
    pub fn boot(&self, boot: Boot<'_>, name: &str) -> Result<Session> {
        let Boot { host, kernel, append, initramfs, cpus, expected } = boot;
        let peer = Peer::listen()?;
        let nothing = no_initramfs()?;
        let machine = host.machine(kernel, initramfs.unwrap_or(nothing.path()))?;
        let network = if host == Host::Process { Network::of_passt()? } else { Network::of_qemu() };
        let append = format!("{} {append} root=/dev/vda rw {}", machine.append, network.words(peer.port));
        let options = machine.options.iter().cloned().chain(self.options(host)).collect();
        let memory = if initramfs.is_some() { MEMORY_OF_A_LARGE_KERNEL } else { MEMORY };
        let machine = Machine { append, options, memory, cpus, timeout: TIMEOUT, ..machine };
        let log = converse(&machine, name, &Expectations::read(expected)?)?;
        let verdicts = programs::verdicts(&log);
        let transferred = peer.transferred.try_recv().context("the guest did not end its transfer")??;
        let network = verdicts.get("network");
        ensure!(network == Some(&transferred), "network: {transferred} here, {network:?}");
        for (test, here) in self.verdicts()? {
            let there = verdicts.get(&test);
            ensure!(there == Some(&here), "{test}: {here} on the build machine, {there:?} on {host}");
        }
        Ok(Session { log, verdicts })
    }
}

/// What a boot left.
#[derive(Debug)]
pub struct Session {
    /// All that was on the console.
    pub log: String,
    /// The verdicts, by name.
    pub verdicts: BTreeMap<String, String>,
}

/// How the guest reaches this process.
struct Network {
    /// Its own address, and how many bits of that are the network's.
    address: String,
    /// The address behind which the other end has the build machine's loopback interface.
    peer: String,
}

impl Network {
    /// QEMU's user network (QEMU documentation, "System Emulation", "Using the user mode network
    /// stack").
    fn of_qemu() -> Self {
        Self { address: "10.0.2.15/24".to_owned(), peer: "10.0.2.2".to_owned() }
    }

    /// By passt the guest has the address of the build machine, and its gateway (passt(1)).
    fn of_passt() -> Result<Self> {
        let ask = |arguments: &[&str]| command::output(Command::new("ip").args(["-4", "-oneline"]).args(arguments));
        let behind = |text: &str, word: &str| {
            let mut words = text.split_whitespace();
            words.find(|found| *found == word).and_then(|_| words.next()).map(str::to_owned)
        };
        let route = ask(&["route", "show", "default"])?;
        let (peer, interface) = behind(&route, "via").zip(behind(&route, "dev")).context("no default route")?;
        let addresses = ask(&["address", "show", "dev", &interface])?;
        let address = behind(&addresses, "inet").with_context(|| format!("{interface} has no address"))?;
        Ok(Self { address, peer })
    }

    /// What the session on the disk reads of it, and where this process listens.
    fn words(&self, port: u16) -> String {
        format!("debian.address={} debian.peer={} debian.port={port}", self.address, self.peer)
    }
}

/// The server that the guest transfers to and from, for one connection.
struct Peer {
    port: u16,
    /// The verdict that the guest must come to.
    transferred: Receiver<Result<String>>,
}

impl Peer {
    fn listen() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let port = listener.local_addr().context("the port")?.port();
        let (sender, transferred) = mpsc::channel();
        thread::spawn(move || {
            let transfer = || transfer(listener.accept()?.0);
            // Nobody listens any more if the guest connects after its boot was given up.
            let _ = sender.send(transfer());
        });
        Ok(Self { port, transferred })
    }
}

/// Sends and receives at once.
fn transfer(mut guest: TcpStream) -> Result<String> {
    let mut sending = guest.try_clone()?;
    let noise = noise();
    let sent = sha256(&noise)?;
    let sender = thread::spawn(move || -> Result<()> {
        sending.write_all(&noise)?;
        Ok(sending.shutdown(Shutdown::Write)?)
    });
    let mut received = Vec::new();
    guest.read_to_end(&mut received)?;
    sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    Ok(format!("ok: received {sent}, sent {}", sha256(&received)?))
}

/// Bytes without a pattern, the same each time. Xorshift with the shifts of Marsaglia, "Xorshift
/// RNGs", 2003.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(TRANSFER / 8).flatten().collect()
}

fn sha256(data: &[u8]) -> Result<String> {
    let file = Unnamed::new(data)?;
    let line = command::output(Command::new("sha256sum").arg(file.path()))?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

/// An archive of nothing, with which the kernel mounts the disk as its root. Every host takes an
/// initramfs, and those with one take [`WORDS`](crate::qemu::WORDS) along.
fn no_initramfs() -> Result<Unnamed> {
    Unnamed::new(&Archive::default().finish())
}

/// Boots a machine, answers its prompts, and holds what it printed against the expectations.
fn converse(machine: &Machine, name: &str, expectations: &Expectations) -> Result<String> {
    let path = cache::subdirectory("logs")?.join(format!("{name}.log"));
    let started = Instant::now();
    let directory = tempfile::tempdir()?;
    let packed = machine.packed(directory.path())?;
    let mut command = packed.as_ref().unwrap_or(machine).command("stdio");
    let mut qemu = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let keyboard = qemu.0.stdin.take().context("QEMU's standard input")?;
    let console = qemu.0.stdout.take().context("QEMU's standard output")?;
    let talk = talk(&read(console), keyboard, started + machine.timeout);
    drop(qemu);
    let Talk { log, answers, ended } = talk?;
    fs::write(&path, &log).with_context(|| format!("writing {}", path.display()))?;
    let verdict = expectations.check(&log).and_then(|()| {
        let unanswered = CONVERSATION.get(answers).map_or("", |(prompt, _)| prompt);
        ensure!(ended, "no end after {} s, waiting for `{unanswered}`", machine.timeout.as_secs());
        Ok(())
    });
    verdict.with_context(|| format!("boot {name}:\n{}\nlog: {}", command::tail(&log, 40), path.display()))?;
    println!("boot {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    Ok(log)
}

struct Talk {
    log: String,
    /// Prompts that were answered.
    answers: usize,
    /// Whether the machine ended before the time ran out.
    ended: bool,
}

fn talk(console: &Receiver<Vec<u8>>, mut keyboard: impl Write, deadline: Instant) -> Result<Talk> {
    let mut printed = Vec::new();
    let mut answered = 0;
    let mut prompts = CONVERSATION.iter().peekable();
    let ended = loop {
        match console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => printed.extend(bytes),
            Err(error) => break error == RecvTimeoutError::Disconnected,
        }
        while let Some((_, answer)) = prompts.next_if(|(prompt, _)| {
            let at = find(&printed[answered..], prompt.as_bytes());
            answered = at.map_or(answered, |at| answered + at + prompt.len());
            at.is_some()
        }) {
            keyboard.write_all(answer.as_bytes()).context("typing")?;
        }
    };
    let log = String::from_utf8_lossy(&printed).replace('\r', "");
    Ok(Talk { log, answers: CONVERSATION.len() - prompts.len(), ended })
}

fn find(text: &[u8], searched: &[u8]) -> Option<usize> {
    text.windows(searched.len()).position(|window| window == searched)
}

/// What the console prints, as it comes.
fn read(mut console: ChildStdout) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = console.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk_to(parts: &[&str]) -> (Talk, String) {
        let (sender, receiver) = mpsc::channel();
        for part in parts {
            sender.send(part.as_bytes().to_vec()).unwrap();
        }
        drop(sender);
        let mut typed = Vec::new();
        let talk = talk(&receiver, &mut typed, Instant::now() + Duration::from_secs(60)).unwrap();
        (talk, String::from_utf8(typed).unwrap())
    }

    #[test]
    fn prompts_are_answered_in_their_order() {
        let everything = "login\r\nafterburner login: root\r\nPassword: \r\n";
        for (parts, answers, typed) in [
            (&["nothing"][..], 0, ""),
            (&["Password: afterburner login: "], 1, "root\n"),
            (&[everything], 2, "root\nafterburner\n"),
            (
                &["after", "burner lo", "gin: P", "assword: ", "root@afterburner:~# "],
                3,
                "root\nafterburner\n/afterburner/session farewell\n",
            ),
        ] {
            let (talk, was_typed) = talk_to(parts);
            assert_eq!((talk.answers, was_typed.as_str(), talk.ended), (answers, typed, true), "{parts:?}");
            assert_eq!(talk.log, parts.concat().replace('\r', ""));
        }
    }

    #[test]
    fn a_machine_that_says_nothing_more_is_given_up() {
        let (_sender, receiver) = mpsc::channel();
        assert!(!talk(&receiver, Vec::new(), Instant::now()).unwrap().ended);
    }

    #[test]
    fn a_transfer_is_judged_by_what_came() {
        let peer = Peer::listen().unwrap();
        let mut guest = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port)).unwrap();
        guest.write_all(b"abc").unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        guest.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), TRANSFER);
        // The digest of "abc" is that of FIPS 180-2, appendix B.1.
        let expected = format!(
            "ok: received {}, sent ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            sha256(&received).unwrap()
        );
        assert_eq!(peer.transferred.recv().unwrap().unwrap(), expected);
    }
}
