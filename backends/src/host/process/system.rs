//! System calls of the Linux below: the one narrow way to it. There is no library in between.
//!
//! Numbers and structures are those of `linux-raw-sys`, but for the few that the kernel's headers
//! have for user space and that crate does not.

use core::arch::asm;
use core::ffi::CStr;
use core::fmt;
use core::mem::MaybeUninit;

use linux_raw_sys::errno::{EACCES, EAGAIN, EBUSY, EFBIG, EINTR, EIO, EISDIR, ENOENT, ENOSPC, EPERM, EROFS};
use linux_raw_sys::general as raw;
use linux_raw_sys::ioctl::{TCGETS, TCSETS, TIOCOUTQ, TUNSETOFFLOAD};
use linux_raw_sys::prctl::PR_SET_NO_NEW_PRIVS;
use linux_raw_sys::ptrace::{SECCOMP_SET_MODE_FILTER, sock_filter, sock_fprog};
use syscalls::Sysno;
use wedge::platform::SECOND;
use wedge::vm::{Calls, Counts};

use super::arguments::{INTERFACE_LENGTH, Interface};
use crate::runtime::timestamp;

/// `asm/prctl.h`.
const ARCH_SET_CPUID: u64 = 0x1012;

/// Why Linux refuses something (`errno(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub(super) u32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)?;
        self.reason().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

impl Errno {
    /// What it means, of those that a user can do something about.
    fn reason(self) -> Option<&'static str> {
        Some(match self.0 {
            ENOENT => "no such file or directory",
            EPERM | EACCES => "permission denied",
            EIO => "input/output error",
            EBUSY => "device or resource busy",
            EISDIR => "is a directory",
            EFBIG => "file too large",
            ENOSPC => "no space left on device",
            EROFS => "read-only file system",
            _ => return None,
        })
    }
}

/// What a system call answers.
pub(super) type Answer<T = ()> = Result<T, Errno>;

/// How often each system call was called.
static COUNTS: Counts<512> = Counts::new();

/// That, with names.
pub(super) fn calls() -> Calls {
    COUNTS.calls(|number| Sysno::new(number).map_or("system-call", |call| call.name()))
}

/// A system call (`syscall(2)`). Errors are the values from -4095 on.
///
/// # Safety
///
/// What the call does to memory, and to the process, is what the caller wants.
pub(super) unsafe fn call(number: u32, arguments: [u64; 6]) -> Answer<u64> {
    const LAST_ERROR: i64 = -4095;
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    let result: i64;
    let counted = COUNTS.begin(timestamp);
    // SAFETY: the instruction changes RAX, RCX and R11; all else is the caller's.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") i64::from(number) => result,
            in("rdi") rdi, in("rsi") rsi, in("rdx") rdx, in("r10") r10, in("r8") r8, in("r9") r9,
            lateout("rcx") _, lateout("r11") _, options(nostack)
        );
    }
    COUNTS.end(number as usize, counted, timestamp);
    match result {
        LAST_ERROR..0 => Err(Errno(result.unsigned_abs() as u32)),
        _ => Ok(result.cast_unsigned()),
    }
}

/// A call whose arguments are no addresses of memory that it writes to.
fn plain(number: u32, arguments: [u64; 6]) -> Answer<u64> {
    // SAFETY: it reads memory at most.
    unsafe { call(number, arguments) }
}

/// A call whose arguments are numbers.
pub(super) fn call_by_numbers(number: u32, [first, second]: [u64; 2]) -> Answer<u64> {
    plain(number, [first, second, 0, 0, 0, 0])
}

/// A descriptor of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File(pub(super) u32);

impl File {
    pub(super) const INPUT: Self = Self(0);
    pub(super) const OUTPUT: Self = Self(1);

    /// A file to be read (`open(2)`).
    pub(super) fn open(name: &CStr) -> Answer<Self> {
        let flags = raw::O_RDONLY | raw::O_CLOEXEC;
        plain(raw::__NR_open, [name.as_ptr().addr() as u64, flags.into(), 0, 0, 0, 0]).map(|file| Self(file as u32))
    }

    /// A file to be read, and written if it may be: whatever it is, that does not wait.
    pub(super) fn open_at_once(name: &CStr, read_only: bool) -> Answer<Self> {
        let rights = if read_only { raw::O_RDONLY } else { raw::O_RDWR };
        let flags = rights | raw::O_CLOEXEC | raw::O_NONBLOCK;
        plain(raw::__NR_open, [name.as_ptr().addr() as u64, flags.into(), 0, 0, 0, 0]).map(|file| Self(file as u32))
    }

    /// A directory, to find in it what it has, and for nothing else.
    pub(super) fn open_directory(name: &CStr) -> Answer<Self> {
        let flags = raw::O_PATH | raw::O_DIRECTORY | raw::O_CLOEXEC;
        plain(raw::__NR_open, [name.as_ptr().addr() as u64, flags.into(), 0, 0, 0, 0]).map(|file| Self(file as u32))
    }

    /// What it is, and its permissions (`fstat(2)`, `inode(7)`).
    pub(super) fn mode(self) -> Answer<u32> {
        let mut status = MaybeUninit::<raw::stat>::zeroed();
        // SAFETY: it writes to `status`, of which any value is valid.
        unsafe {
            call(raw::__NR_fstat, [self.0.into(), status.as_mut_ptr().addr() as u64, 0, 0, 0, 0])?;
            Ok(status.assume_init().st_mode)
        }
    }

    /// Locks it until it is closed, for this one alone or against such a lock (`flock(2)`). It does
    /// not wait.
    pub(super) fn lock(self, alone: bool) -> Answer {
        let kind = if alone { raw::LOCK_EX } else { raw::LOCK_SH };
        plain(raw::__NR_flock, [self.0.into(), (kind | raw::LOCK_NB).into(), 0, 0, 0, 0]).map(drop)
    }

    /// Reads from a byte of the file on (`pread(2)`). How many bytes.
    ///
    /// # Safety
    ///
    /// There is memory of that length, of which there is no reference.
    pub(super) unsafe fn read_at(self, place: *mut u8, at: u64, length: u64) -> Answer<u64> {
        // SAFETY: by the caller.
        uninterrupted(|| unsafe {
            call(raw::__NR_pread64, [self.0.into(), place.expose_provenance() as u64, length, at, 0, 0])
        })
    }

    /// Writes from a byte of the file on (`pwrite(2)`). How many bytes.
    pub(super) fn write_at(self, place: *const u8, at: u64, length: u64) -> Answer<u64> {
        uninterrupted(|| plain(raw::__NR_pwrite64, [self.0.into(), place.expose_provenance() as u64, length, at, 0, 0]))
    }

    /// Has all that was written to it survive a loss of power (`fdatasync(2)`).
    pub(super) fn flush(self) -> Answer {
        uninterrupted(|| plain(raw::__NR_fdatasync, [self.0.into(), 0, 0, 0, 0, 0])).map(drop)
    }

    /// Memory of so many bytes (`memfd_create(2)`).
    pub(super) fn memory(name: &CStr, length: u64) -> Answer<Self> {
        let arguments = [name.as_ptr().addr() as u64, raw::MFD_CLOEXEC.into(), 0, 0, 0, 0];
        let file = Self(plain(raw::__NR_memfd_create, arguments)? as u32);
        plain(raw::__NR_ftruncate, [file.0.into(), length, 0, 0, 0, 0])?;
        Ok(file)
    }

    /// Bytes of the file, if it is one that has an end (`lseek(2)`).
    pub(super) fn length(self) -> Answer<u64> {
        let length = plain(raw::__NR_lseek, [self.0.into(), 0, raw::SEEK_END.into(), 0, 0, 0])?;
        plain(raw::__NR_lseek, [self.0.into(), 0, raw::SEEK_SET.into(), 0, 0, 0])?;
        Ok(length)
    }

    /// Reads as much as there is at once (`read(2)`).
    pub(super) fn read(self, bytes: &mut [u8]) -> Answer<usize> {
        let arguments = [self.0.into(), bytes.as_mut_ptr().addr() as u64, bytes.len() as u64, 0, 0, 0];
        // SAFETY: it writes to `bytes`.
        unsafe { call(raw::__NR_read, arguments) }.map(|length| length as usize)
    }

    /// Writes all bytes, however long that takes (`write(2)`).
    pub(super) fn write(self, bytes: &[u8]) -> Answer {
        let mut rest = bytes;
        while !rest.is_empty() {
            let arguments = [self.0.into(), rest.as_ptr().addr() as u64, rest.len() as u64, 0, 0, 0];
            match plain(raw::__NR_write, arguments) {
                Ok(written) => rest = &rest[written as usize..],
                Err(Errno(EINTR)) => {}
                Err(Errno(EAGAIN)) => _ = wait_for(&mut [self.polled(raw::POLLOUT)], None),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes as much as it takes at once (`write(2)`).
    pub(super) fn write_some(self, bytes: &[u8]) -> Answer<usize> {
        let arguments = [self.0.into(), bytes.as_ptr().addr() as u64, bytes.len() as u64, 0, 0, 0];
        plain(raw::__NR_write, arguments).map(|written| written as usize)
    }

    /// How much of what was written to a socket is still there (`unix(7)`, SIOCOUTQ).
    pub(super) fn unread(self) -> Answer<u64> {
        let mut length = 0_u32;
        let place = (&raw mut length).addr() as u64;
        // SAFETY: it writes to `length`.
        unsafe {
            call(raw::__NR_ioctl, [self.0.into(), TIOCOUTQ.into(), place, 0, 0, 0])?;
            Ok((&raw const length).read_volatile().into())
        }
    }

    /// Asks about an interface, or for one (`netdevice(7)`).
    pub(super) fn ask_interface(self, what: u32, request: &mut InterfaceRequest) -> Answer {
        let place = (&raw mut *request).expose_provenance() as u64;
        // SAFETY: it writes to `request`, of which any value is valid.
        unsafe { call(raw::__NR_ioctl, [self.0.into(), what.into(), place, 0, 0, 0]) }.map(drop)
    }

    /// Says what a TAP interface may leave to whoever has it (`TUNSETOFFLOAD`).
    pub(super) fn set_offload(self, offload: u64) -> Answer {
        plain(raw::__NR_ioctl, [self.0.into(), TUNSETOFFLOAD.into(), offload, 0, 0, 0]).map(drop)
    }

    /// Has a program that this process becomes keep it (`fcntl(2)`).
    pub(super) fn keep_open(self) -> Answer {
        plain(raw::__NR_fcntl, [self.0.into(), raw::F_SETFD.into(), 0, 0, 0, 0]).map(drop)
    }

    /// Has it never wait, and Linux tell a process of all that comes, by SIGIO (`fcntl(2)`).
    pub(super) fn tell_of_input(self, process: u32) -> Answer {
        let flags = raw::O_NONBLOCK | raw::FASYNC;
        plain(raw::__NR_fcntl, [self.0.into(), raw::F_SETOWN.into(), process.into(), 0, 0, 0])?;
        plain(raw::__NR_fcntl, [self.0.into(), raw::F_SETFL.into(), flags.into(), 0, 0, 0]).map(drop)
    }

    /// What it does as a terminal, if it is one (`ioctl_tty(2)`).
    pub(super) fn terminal(self) -> Option<raw::termios> {
        let mut terminal = raw::termios { c_iflag: 0, c_oflag: 0, c_cflag: 0, c_lflag: 0, c_line: 0, c_cc: [0; 19] };
        let place = (&raw mut terminal).addr() as u64;
        // SAFETY: it writes to `terminal`.
        unsafe { call(raw::__NR_ioctl, [self.0.into(), TCGETS.into(), place, 0, 0, 0]) }.ok()?;
        Some(terminal)
    }

    /// Has it do something else.
    pub(super) fn set_terminal(self, terminal: &raw::termios) {
        let place = core::ptr::from_ref(terminal).addr() as u64;
        let _ = plain(raw::__NR_ioctl, [self.0.into(), TCSETS.into(), place, 0, 0, 0]);
    }

    /// Has a socket hold as much of what is sent as Linux allows: how much that is, in bytes
    /// (`socket(7)`; `include/uapi/asm-generic/socket.h`).
    pub(super) fn hold_much(self) -> Answer<u64> {
        const SOL_SOCKET: u64 = 1;
        const SO_SNDBUF: u64 = 7;
        let mut value = i32::MAX / 2;
        let mut length = size_of_val(&value) as u32;
        let place = (&raw mut value).expose_provenance() as u64;
        let place_of_length = (&raw mut length).expose_provenance() as u64;
        let file = u64::from(self.0);
        plain(raw::__NR_setsockopt, [file, SOL_SOCKET, SO_SNDBUF, place, length.into(), 0])?;
        // SAFETY: it writes to both.
        unsafe { call(raw::__NR_getsockopt, [file, SOL_SOCKET, SO_SNDBUF, place, place_of_length, 0])? };
        // SAFETY: written by Linux.
        Ok(unsafe { (&raw const value).read_volatile() }.unsigned_abs().into())
    }

    /// Closes it.
    pub(super) fn close(self) {
        let _ = plain(raw::__NR_close, [self.0.into(), 0, 0, 0, 0, 0]);
    }

    /// It, to be waited for.
    pub(super) const fn polled(self, events: u32) -> raw::pollfd {
        raw::pollfd { fd: self.0.cast_signed(), events: events as i16, revents: 0 }
    }
}

/// What Linux is asked of an interface, and answers (`struct ifreq` of `linux/if.h`).
#[derive(Debug)]
#[repr(C)]
pub(super) struct InterfaceRequest {
    name: [u8; INTERFACE_LENGTH],
    data: [u8; 24],
}

impl InterfaceRequest {
    /// About this one.
    pub(super) const fn new(interface: Interface) -> Self {
        Self { name: interface.0, data: [0; _] }
    }

    /// What it is to be.
    pub(super) fn set_flags(&mut self, flags: u16) {
        self.data = [0; _];
        self.data[..2].copy_from_slice(&flags.to_le_bytes());
    }

    /// The address that was answered, behind the number of its kind (`struct sockaddr`).
    pub(super) fn address(&self) -> [u8; 6] {
        let mut address = [0; 6];
        address.copy_from_slice(&self.data[2..8]);
        address
    }
}

/// Makes a call again that a signal has interrupted.
fn uninterrupted(call: impl Fn() -> Answer<u64>) -> Answer<u64> {
    loop {
        let answer = call();
        if answer != Err(Errno(EINTR)) {
            return answer;
        }
    }
}

/// Waits for files, at most so many nanoseconds (`ppoll(2)`). How many are ready.
pub(super) fn wait_for(files: &mut [raw::pollfd], nanoseconds: Option<u64>) -> Answer<u64> {
    let time = nanoseconds.map(timespec);
    let time = time.as_ref().map_or(0, |time| core::ptr::from_ref(time).addr() as u64);
    // SAFETY: it writes to `files`.
    unsafe { call(raw::__NR_ppoll, [files.as_mut_ptr().addr() as u64, files.len() as u64, time, 0, 8, 0]) }
}

/// A time of so many nanoseconds.
pub(super) fn timespec(nanoseconds: u64) -> raw::__kernel_timespec {
    let [seconds, rest] = [nanoseconds / SECOND, nanoseconds % SECOND].map(u64::cast_signed);
    raw::__kernel_timespec { tv_sec: seconds, tv_nsec: rest }
}

/// What a clock says, in nanoseconds (`clock_gettime(2)`).
pub(super) fn clock(number: u32) -> u64 {
    let mut time = timespec(0);
    // SAFETY: it writes to `time`.
    let _ = unsafe { call(raw::__NR_clock_gettime, [number.into(), (&raw mut time).addr() as u64, 0, 0, 0, 0]) };
    time.tv_sec.cast_unsigned() * SECOND + time.tv_nsec.cast_unsigned()
}

/// Ends the process (`exit_group(2)`).
pub(super) fn exit(status: u8) -> ! {
    loop {
        let _ = plain(raw::__NR_exit_group, [status.into(), 0, 0, 0, 0, 0]);
    }
}

/// As many processors as Linux can be built for, a bit each (`NR_CPUS` is 8192 at most).
pub(super) type Mask = [u64; 128];

/// The processors that this process may run on (`sched_getaffinity(2)`).
pub(super) fn affinity() -> Answer<Mask> {
    let mut mask: Mask = [0; _];
    let place = (&raw mut mask).addr() as u64;
    // SAFETY: it writes to `mask`.
    unsafe { call(raw::__NR_sched_getaffinity, [0, size_of::<Mask>() as u64, place, 0, 0, 0]) }?;
    Ok(mask)
}

/// Has a process, or this one (0), run on some processors only (`sched_setaffinity(2)`). That is a
/// wish: nothing depends on it.
pub(super) fn set_affinity(process: u32, mask: &Mask) {
    let place = core::ptr::from_ref(mask).addr() as u64;
    let _ = plain(raw::__NR_sched_setaffinity, [process.into(), size_of::<Mask>() as u64, place, 0, 0, 0]);
}

/// The processor that this runs on (`getcpu(2)`).
pub(super) fn processor() -> u32 {
    let mut number = 0_u32;
    // SAFETY: it writes to `number`.
    let _ = unsafe { call(raw::__NR_getcpu, [(&raw mut number).addr() as u64, 0, 0, 0, 0, 0]) };
    number
}

/// Whether a file may be executed as a program (`access(2)`).
pub(super) fn is_program(name: &CStr) -> bool {
    const EXECUTE: u64 = 1;
    plain(raw::__NR_access, [name.as_ptr().addr() as u64, EXECUTE, 0, 0, 0, 0]).is_ok()
}

/// What two sockets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// A stream (`SOCK_STREAM`).
    Bytes = 1,
    /// Packets, each whole (`SOCK_SEQPACKET`).
    Packets = 5,
}

/// Two sockets that are each other's ends (`socketpair(2)`). No program keeps them.
pub(super) fn socket_pair(carries: Carries) -> Answer<[File; 2]> {
    const UNIX: u64 = 1;
    pair(|place| [raw::__NR_socketpair.into(), UNIX, carries as u64 | u64::from(raw::O_CLOEXEC), 0, place])
}

/// What is written to the second can be read from the first (`pipe(2)`). No program keeps them.
pub(super) fn pipe() -> Answer<[File; 2]> {
    pair(|place| [raw::__NR_pipe2.into(), place, raw::O_CLOEXEC.into(), 0, 0])
}

/// Makes a call that writes two descriptors to the place that it is given.
fn pair(call_with: impl Fn(u64) -> [u64; 5]) -> Answer<[File; 2]> {
    let mut files = [0_u32; 2];
    let [number, arguments @ ..] = call_with((&raw mut files).expose_provenance() as u64);
    let [first, second, third, fourth] = arguments;
    // SAFETY: it writes to `files`.
    unsafe { call(number as u32, [first, second, third, fourth, 0, 0]) }?;
    // SAFETY: written by Linux.
    Ok(unsafe { (&raw const files).read_volatile() }.map(File))
}

/// Makes a copy of this process (`fork(2)`): its number, and 0 in the copy.
pub(super) fn fork() -> Answer<u32> {
    plain(raw::__NR_clone, [raw::SIGCHLD.into(), 0, 0, 0, 0, 0]).map(|number| number as u32)
}

/// The number of this process.
pub(super) fn process() -> u32 {
    plain(raw::__NR_getpid, [0; 6]).map_or(0, |number| number as u32)
}

/// Sends a signal to a process of one thread (`tgkill(2)`).
pub(super) fn signal(process: u32, number: u32) {
    let _ = plain(raw::__NR_tgkill, [process.into(), process.into(), number.into(), 0, 0, 0]);
}

/// Maps a part of a file (`mmap(2)`), or memory of nobody's; at this address, whatever is there.
///
/// # Safety
///
/// Nothing of Rust's is at the address.
pub(super) unsafe fn map(address: u64, length: u64, rights: u32, of: Option<(File, u64)>) -> Answer {
    let (kind, file, offset) = match of {
        Some((file, offset)) => (raw::MAP_SHARED, u64::from(file.0), offset),
        None => (raw::MAP_PRIVATE | raw::MAP_ANONYMOUS | raw::MAP_NORESERVE, u64::MAX, 0),
    };
    let flags = u64::from(kind | raw::MAP_FIXED);
    // SAFETY: by the caller.
    unsafe { call(raw::__NR_mmap, [address, length, rights.into(), flags, file, offset]) }.map(drop)
}

/// Maps a file, of which pages that are written to are this process's own (`MAP_PRIVATE`).
///
/// # Safety
///
/// Nothing of Rust's is at the address.
pub(super) unsafe fn map_copy(address: u64, length: u64, file: File) -> Answer {
    let rights = raw::PROT_READ | raw::PROT_WRITE;
    let flags = raw::MAP_PRIVATE | raw::MAP_NORESERVE | raw::MAP_FIXED;
    // SAFETY: by the caller.
    unsafe { call(raw::__NR_mmap, [address, length, rights.into(), flags.into(), file.0.into(), 0]) }.map(drop)
}

/// Unmaps a range (`munmap(2)`).
///
/// # Safety
///
/// Nothing of Rust's is in it.
pub(super) unsafe fn unmap(address: u64, length: u64) -> Answer {
    // SAFETY: by the caller.
    unsafe { call(raw::__NR_munmap, [address, length, 0, 0, 0, 0]) }.map(drop)
}

/// How a signal is handled (Linux, `struct sigaction` of `include/linux/signal_types.h`).
#[repr(C)]
struct Action {
    handler: *const (),
    flags: u64,
    restorer: *const (),
    held_off: u64,
}

/// Has a signal handled on the signal stack, with others held off meanwhile (`sigaction(2)`).
///
/// # Safety
///
/// `handler` takes the three arguments of `SA_SIGINFO`, and `restorer` calls `rt_sigreturn`.
pub(super) unsafe fn handle(number: u32, handler: *const (), restorer: *const (), held_off: u64) -> Answer {
    let flags = raw::SA_SIGINFO | raw::SA_ONSTACK | raw::SA_NODEFER | raw::SA_RESTORER;
    let action = Action { handler, flags: flags.into(), restorer, held_off };
    // SAFETY: by the caller.
    unsafe { call(raw::__NR_rt_sigaction, [number.into(), (&raw const action).addr() as u64, 0, 8, 0, 0]) }.map(drop)
}

/// Ignores a signal.
pub(super) fn ignore(number: u32) {
    const IGNORE: usize = 1;
    let handler = core::ptr::without_provenance(IGNORE);
    let action = Action { handler, flags: 0, restorer: core::ptr::null(), held_off: 0 };
    let _ = plain(raw::__NR_rt_sigaction, [number.into(), (&raw const action).addr() as u64, 0, 8, 0, 0]);
}

/// Has handlers run on a stack (`sigaltstack(2)`).
///
/// # Safety
///
/// The stack is nobody else's.
pub(super) unsafe fn use_signal_stack(address: u64, length: u64) -> Answer {
    let stack =
        raw::stack_t { ss_sp: core::ptr::with_exposed_provenance_mut(address as usize), ss_flags: 0, ss_size: length };
    // SAFETY: by the caller.
    unsafe { call(raw::__NR_sigaltstack, [(&raw const stack).addr() as u64, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Has `modify_ldt(2)` write an entry (`arch/x86/kernel/ldt.c`).
pub(super) const WRITE_LDT: u64 = 0x11;

/// Sets an entry of this process's local descriptor table (`modify_ldt(2)`, which returns errors in
/// 32 bits).
pub(super) fn set_local(description: &[u64; 2]) -> Answer {
    let arguments = [WRITE_LDT, description.as_ptr().addr() as u64, size_of_val(description) as u64, 0, 0, 0];
    let result = plain(raw::__NR_modify_ldt, arguments)? as i32;
    if result < 0 { Err(Errno(result.unsigned_abs())) } else { Ok(()) }
}

/// Has CPUID refused (#GP) to this process and to all copies that are made of it, or not any more
/// (`arch_prctl(2)`).
pub(super) fn refuse_cpuid(refused: bool) -> Answer {
    plain(raw::__NR_arch_prctl, [ARCH_SET_CPUID, u64::from(!refused), 0, 0, 0, 0]).map(drop)
}

/// Has a filter decide about this process's system calls from now on (`seccomp(2)`).
pub(super) fn restrict(program: &[sock_filter]) -> Answer {
    let description = sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    plain(raw::__NR_prctl, [PR_SET_NO_NEW_PRIVS.into(), 1, 0, 0, 0, 0])?;
    let place = (&raw const description).addr() as u64;
    plain(raw::__NR_seccomp, [SECCOMP_SET_MODE_FILTER.into(), 0, place, 0, 0, 0]).map(drop)
}

/// A timer that sends SIGALRM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer(u32);

impl Timer {
    /// A timer of the clock that never stops (`timer_create(2)`).
    pub(super) fn new() -> Answer<Self> {
        let mut number = 0_u32;
        let place = (&raw mut number).addr() as u64;
        // SAFETY: it writes to `number`. Without a description of what is to happen it is SIGALRM.
        unsafe { call(raw::__NR_timer_create, [raw::CLOCK_MONOTONIC.into(), 0, place, 0, 0, 0]) }?;
        Ok(Self(number))
    }

    /// Sets it to a moment of that clock (`timer_settime(2)`).
    pub(super) fn set(self, moment: u64) {
        const ABSOLUTE: u64 = 1;
        // A moment of 0 would switch it off.
        let time = raw::__kernel_itimerspec { it_interval: timespec(0), it_value: timespec(moment.max(1)) };
        let place = (&raw const time).addr() as u64;
        let _ = plain(raw::__NR_timer_settime, [self.0.into(), ABSOLUTE, place, 0, 0, 0]);
    }
}
