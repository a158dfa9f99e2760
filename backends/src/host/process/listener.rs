//! How Linux tells the wedge of system calls that programs' processes make, and has them wait for
//! an answer (`seccomp_unotify(2)`).
//!
//! That a process waits is what Linux says, not the process. So memory that has been taken from a
//! program can be given to another one: whoever waits accesses nothing. What a call's arguments are
//! is what Linux says, too, and nobody can change them behind the question.

use core::arch::global_asm;
use core::mem::offset_of;

use linux_raw_sys::errno::EINTR;
use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace as tracing;

use super::cpu::{CPU, Cpu};
use super::filter::ARCHITECTURE;
use super::orders::BY_INTERRUPT;
use super::system::{self, Answer, Errno, File};

/// A question of a process: a system call that it makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    id: u64,
    pub(super) process: u32,
    /// With [`BY_INTERRUPT`] for one of 32-bit programs.
    pub(super) number: u64,
    pub(super) arguments: [u64; 6],
}

/// Where questions come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener(File);

/// `SECCOMP_IOCTL_NOTIF_*` (`linux/seccomp.h`), as `_IOWR` and `_IOW` make them.
const RECEIVE: u64 = request(3, 0, size_of::<tracing::seccomp_notif>());
const SEND: u64 = request(3, 1, size_of::<tracing::seccomp_notif_resp>());
const SET_FLAGS: u64 = request(1, 4, size_of::<u64>());

const _: () = assert!(RECEIVE == 0xc050_2100 && SEND == 0xc018_2101 && SET_FLAGS == 0x4008_2104);

/// The number of a request (`asm-generic/ioctl.h`).
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    const TYPE: u64 = b'!' as u64;
    direction << 30 | (size as u64) << 16 | TYPE << 8 | number
}

impl Listener {
    /// That of a file. Who waits for an answer is on the same processor as the wedge: where Linux
    /// can be told so (6.6), a change between them does not look for another.
    pub(super) fn new(file: File) -> Self {
        let wakes = tracing::SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
        // SAFETY: the third argument is a number.
        let _ = unsafe { system::call(raw::__NR_ioctl, [file.0.into(), SET_FLAGS, wakes.into(), 0, 0, 0]) };
        Self(file)
    }

    /// Waits for the next question. Not at all if something has come in before, or a child has
    /// ended: `EINTR` as well.
    pub(super) fn receive(self) -> Answer<Question> {
        self.receive_by(|[file, request, place]| {
            // SAFETY: it writes to `place`.
            let result = unsafe { process_receive(file, request, place) };
            if result < 0 { Err(Errno(result.unsigned_abs() as u32)) } else { Ok(()) }
        })
    }

    /// Waits for it for at most so many nanoseconds, whatever has come in: then `EINTR`.
    pub(super) fn receive_within(self, nanoseconds: u64) -> Answer<Question> {
        if system::wait_for(&mut [self.0.polled(raw::POLLIN)], Some(nanoseconds))? == 0 {
            return Err(Errno(EINTR));
        }
        self.receive_by(|[file, request, place]| {
            // SAFETY: it writes to `place`.
            unsafe { system::call(raw::__NR_ioctl, [file, request, place, 0, 0, 0]) }.map(drop)
        })
    }

    fn receive_by(self, receive: impl Fn([u64; 3]) -> Answer) -> Answer<Question> {
        let data = tracing::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
        let mut question = tracing::seccomp_notif { id: 0, pid: 0, flags: 0, data };
        receive([self.0.0.into(), RECEIVE, (&raw mut question).addr() as u64])?;
        // SAFETY: written by Linux.
        let tracing::seccomp_notif { id, pid: process, data, .. } = unsafe { (&raw const question).read_volatile() };
        let mark = if data.arch == ARCHITECTURE { 0 } else { BY_INTERRUPT };
        let number = u64::from(data.nr.cast_unsigned()) | mark;
        Ok(Question { id, process, number, arguments: data.args })
    }

    /// Has a call executed. `ENOENT` if the process does not wait for that any more: it has ended,
    /// or was stopped from outside, and will ask again.
    pub(super) fn allow(self, question: &Question) -> Answer {
        let flags = tracing::SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        let response = tracing::seccomp_notif_resp { id: question.id, val: 0, error: 0, flags };
        let place = (&raw const response).addr() as u64;
        loop {
            // SAFETY: it reads `response`.
            match unsafe { system::call(raw::__NR_ioctl, [self.0.0.into(), SEND, place, 0, 0, 0]) } {
                Err(Errno(EINTR)) => {}
                result => return result.map(drop),
            }
        }
    }
}

unsafe extern "C" {
    /// `ioctl(2)`, unless something has come in, or a child has ended: then it is as if that had
    /// interrupted the call.
    fn process_receive(file: u64, request: u64, place: u64) -> i64;
    /// Whoever is interrupted from here on, up to
    pub(super) static process_receive_gap: u8;
    /// here, the system call, goes back to the first, to look again.
    pub(super) static process_receive_call: u8;
}

global_asm!(
    r#"
    .code64
    .text
process_receive:
    .globl process_receive_gap
process_receive_gap:
    cmpb $0, {cpu}+{pending}(%rip)
    jne 1f
    cmpb $0, {cpu}+{ended}(%rip)
    jne 1f
    movl ${IOCTL}, %eax
    .globl process_receive_call
process_receive_call:
    syscall
    ret
1:  movq $-{EINTR}, %rax
    ret
    "#,
    cpu = sym CPU,
    pending = const offset_of!(Cpu, pending),
    ended = const offset_of!(Cpu, ended),
    IOCTL = const raw::__NR_ioctl,
    EINTR = const EINTR,
    options(att_syntax)
);
