//! What becomes of the system calls of the guest's processes: three filters (`seccomp(2)`).
//!
//! *Programs.* Whatever a program executes, by whatever instruction, at fixed addresses
//! (`vsyscall`) too, is turned into a signal. Five instructions in the process are the wedge's
//! ([`stub`](super::stub)). From one a handler returns, which gives a program nothing but registers
//! that it could have anyway; another puts the stack for signals back, which such a return may have
//! moved. About the others the wedge is asked, each time, for a program may jump there: they stop
//! the process, and do the few things that the wedge orders.
//!
//! *The kernel.* The process of the wedge runs the guest's kernel, too. Nothing there makes system
//! calls but the wedge, in its window, and of those it makes few once the guest runs. Whoever gets
//! hold of the guest's kernel gets no more.
//!
//! *Directories.* The process that serves them opens files by names, and makes few other calls.

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP, SECCOMP_RET_USER_NOTIF, sock_filter};
use wedge::guest::layout::WINDOW_LENGTH;

use super::areas::SET_THREAD_AREA;

/// `AUDIT_ARCH_X86_64` (`linux/audit.h`).
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;

/// `AUDIT_ARCH_I386`: the numbers mean other calls.
const BY_INTERRUPT: u32 = 0x4000_0003;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const INSTRUCTION: u32 = 8;

/// Load a word; jump if it is equal; return (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;

/// The calls that the wedge orders.
const ORDERED: [u32; 7] = [
    raw::__NR_mmap,
    raw::__NR_munmap,
    raw::__NR_clone,
    raw::__NR_prctl,
    raw::__NR_unshare,
    raw::__NR_close_range,
    raw::__NR_modify_ldt,
];

/// What the calls of the wedge's in a program's process return to: all in one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sites {
    /// That by which it stops,
    pub(super) stop: u64,
    /// by which it carries out an order,
    pub(super) order: u64,
    /// or one by INT 80H,
    pub(super) interrupt: u64,
    /// by which it has its stack for signals again,
    pub(super) stack: u64,
    /// and by which it returns to the program.
    pub(super) leave: u64,
}

/// Instructions of the filter.
pub(super) const LENGTH: usize = INTERRUPT + 7 + 3;
/// Where the calls of the four sites with SYSCALL are told apart.
const STOP: usize = 9;
const LEAVE: usize = STOP + 2;
const STACK: usize = LEAVE + 2;
const ORDER: usize = STACK + 3;
/// Where calls by INT 80H are looked at.
const INTERRUPT: usize = ORDER + ORDERED.len() + 1;

/// The filter for a process with these calls of the wedge's.
pub(super) fn filter(sites: &Sites) -> [sock_filter; LENGTH] {
    const TRAP: usize = LENGTH - 3;
    const ASK: usize = LENGTH - 2;
    const ALLOW: usize = LENGTH - 1;
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    // Jumps if the word is equal, and if it is not; to the next where that is meant.
    let jump = |at: usize, k, equal: usize, other: usize| sock_filter {
        code: JUMP_EQUAL,
        jt: (equal - at - 1) as u8,
        jf: (other - at - 1) as u8,
        k,
    };
    let mut program = [statement(RETURN, SECCOMP_RET_TRAP); LENGTH];
    program[0] = statement(LOAD, ARCH);
    program[1] = jump(1, ARCHITECTURE, 2, INTERRUPT);
    program[2] = statement(LOAD, INSTRUCTION + 4);
    program[3] = jump(3, (sites.stop >> 32) as u32, 4, TRAP);
    program[4] = statement(LOAD, INSTRUCTION);
    program[5] = jump(5, sites.stop as u32, STOP, 6);
    program[6] = jump(6, sites.leave as u32, LEAVE, 7);
    program[7] = jump(7, sites.stack as u32, STACK, 8);
    program[8] = jump(8, sites.order as u32, ORDER - 1, TRAP);
    program[STOP] = statement(LOAD, NUMBER);
    program[STOP + 1] = jump(STOP + 1, raw::__NR_rt_sigprocmask, ASK, TRAP);
    program[LEAVE] = statement(LOAD, NUMBER);
    program[LEAVE + 1] = jump(LEAVE + 1, raw::__NR_rt_sigreturn, ALLOW, TRAP);
    program[STACK] = statement(LOAD, NUMBER);
    program[STACK + 1] = jump(STACK + 1, raw::__NR_sigaltstack, ALLOW, TRAP);
    program[ORDER - 1] = statement(LOAD, NUMBER);
    for (place, number) in ORDERED.into_iter().enumerate() {
        let at = ORDER + place;
        program[at] = jump(at, number, ASK, at + 1);
    }
    program[INTERRUPT] = jump(INTERRUPT, BY_INTERRUPT, INTERRUPT + 1, TRAP);
    program[INTERRUPT + 1] = statement(LOAD, INSTRUCTION + 4);
    program[INTERRUPT + 2] = jump(INTERRUPT + 2, (sites.interrupt >> 32) as u32, INTERRUPT + 3, TRAP);
    program[INTERRUPT + 3] = statement(LOAD, INSTRUCTION);
    program[INTERRUPT + 4] = jump(INTERRUPT + 4, sites.interrupt as u32, INTERRUPT + 5, TRAP);
    program[INTERRUPT + 5] = statement(LOAD, NUMBER);
    program[INTERRUPT + 6] = jump(INTERRUPT + 6, SET_THREAD_AREA, ASK, TRAP);
    program[ASK] = statement(RETURN, SECCOMP_RET_USER_NOTIF);
    program[ALLOW] = statement(RETURN, SECCOMP_RET_ALLOW);
    program
}

/// The calls that the wedge makes once the guest runs.
pub(super) const OWN: [u32; 18] = [
    raw::__NR_ioctl,
    raw::__NR_rt_sigreturn,
    raw::__NR_mmap,
    raw::__NR_munmap,
    raw::__NR_clock_gettime,
    raw::__NR_timer_settime,
    raw::__NR_ppoll,
    raw::__NR_tgkill,
    raw::__NR_wait4,
    raw::__NR_read,
    raw::__NR_write,
    raw::__NR_pread64,
    raw::__NR_pwrite64,
    raw::__NR_fdatasync,
    raw::__NR_sched_setaffinity,
    raw::__NR_getcpu,
    raw::__NR_modify_ldt,
    raw::__NR_exit_group,
];

/// Those of the process that serves directories.
pub(super) const SERVERS: [u32; 25] = [
    raw::__NR_read,
    raw::__NR_write,
    raw::__NR_pread64,
    raw::__NR_pwrite64,
    raw::__NR_openat2,
    raw::__NR_close,
    raw::__NR_fstat,
    raw::__NR_fstatfs,
    raw::__NR_fsync,
    raw::__NR_fdatasync,
    raw::__NR_ftruncate,
    raw::__NR_lseek,
    raw::__NR_getdents64,
    raw::__NR_readlinkat,
    raw::__NR_fchmodat,
    raw::__NR_fchownat,
    raw::__NR_utimensat,
    raw::__NR_mkdirat,
    raw::__NR_mknodat,
    raw::__NR_symlinkat,
    raw::__NR_linkat,
    raw::__NR_renameat,
    raw::__NR_unlinkat,
    raw::__NR_ppoll,
    raw::__NR_exit_group,
];

/// Instructions of a filter for calls of the wedge's, around those that allow one.
const FRAME: usize = 8 + 2;

/// A filter for a process whose calls come from the wedge's window.
#[derive(Debug)]
pub(super) struct FromWindow {
    program: [sock_filter; FRAME + SERVERS.len()],
    length: usize,
}

impl FromWindow {
    pub(super) fn instructions(&self) -> &[sock_filter] {
        &self.program[..self.length]
    }
}

/// The filter that allows calls, of which there are no more than [`SERVERS`], from the window: so
/// many bytes as [`WINDOW_LENGTH`], at a multiple of them.
pub(super) fn from_window(window: u64, calls: &[u32]) -> FromWindow {
    const MASK: u32 = !(WINDOW_LENGTH as u32 - 1);
    let length = FRAME + calls.len();
    let (trap, allow) = (length - 2, length - 1);
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let unless = |at: usize, k| sock_filter { code: JUMP_EQUAL, jt: 0, jf: (trap - at - 1) as u8, k };
    let mut program = [statement(RETURN, SECCOMP_RET_TRAP); _];
    program[0] = statement(LOAD, ARCH);
    program[1] = unless(1, ARCHITECTURE);
    program[2] = statement(LOAD, INSTRUCTION + 4);
    program[3] = unless(3, (window >> 32) as u32);
    program[4] = statement(LOAD, INSTRUCTION);
    program[5] = statement(AND, MASK);
    program[6] = unless(6, window as u32);
    program[7] = statement(LOAD, NUMBER);
    for (place, number) in calls.iter().enumerate() {
        let at = 8 + place;
        program[at] = sock_filter { code: JUMP_EQUAL, jt: (allow - at - 1) as u8, jf: 0, k: *number };
    }
    program[allow] = statement(RETURN, SECCOMP_RET_ALLOW);
    FromWindow { program, length }
}

const _: () = assert!(WINDOW_LENGTH.is_power_of_two() && WINDOW_LENGTH < 1 << 32);

#[cfg(test)]
mod tests {
    use super::*;

    const SITES: Sites = Sites {
        stop: 0x7300_0000_0029,
        order: 0x7300_0000_0077,
        interrupt: 0x7300_0000_0087,
        stack: 0x7300_0000_009b,
        leave: 0x7300_0000_00c3,
    };

    const ALL: [u64; 5] = [SITES.stop, SITES.order, SITES.interrupt, SITES.stack, SITES.leave];

    const WINDOW: u64 = 0x5fff_7f00_0000;

    fn run(number: u32, architecture: u32, instruction: u64) -> u32 {
        run_filter(&filter(&SITES), number, architecture, instruction)
    }

    /// Runs a filter, as Linux does, on `struct seccomp_data`.
    fn run_filter(program: &[sock_filter], number: u32, architecture: u32, instruction: u64) -> u32 {
        let words = [number, architecture, instruction as u32, (instruction >> 32) as u32];
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            match code {
                LOAD => word = words[k as usize / 4],
                AND => word &= k,
                JUMP_EQUAL => at += usize::from(if word == k { jt } else { jf }),
                RETURN => return k,
                _ => panic!("code {code:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn nothing_passes_without_a_question_but_the_return_of_a_handler_and_its_stack() {
        for number in 0..500 {
            let stops = number == raw::__NR_rt_sigprocmask;
            let takes_stack = number == raw::__NR_sigaltstack;
            let leaves = number == raw::__NR_rt_sigreturn;
            for (site, passes, expected) in [
                (SITES.stop, stops, SECCOMP_RET_USER_NOTIF),
                (SITES.order, ORDERED.contains(&number), SECCOMP_RET_USER_NOTIF),
                (SITES.interrupt, false, SECCOMP_RET_TRAP),
                (SITES.stack, takes_stack, SECCOMP_RET_ALLOW),
                (SITES.leave, leaves, SECCOMP_RET_ALLOW),
            ] {
                let expected = if passes { expected } else { SECCOMP_RET_TRAP };
                assert_eq!(run(number, ARCHITECTURE, site), expected, "{number} at {site:#x}");
            }
        }
    }

    #[test]
    fn elsewhere_nothing_passes() {
        let near = ALL.map(|site| [site - 1, site + 1, site & 0xffff_ffff, site | 1 << 63]);
        for instruction in near.as_flattened().iter().copied().chain([0]) {
            for number in 0..500 {
                for architecture in [ARCHITECTURE, BY_INTERRUPT, 0] {
                    let result = run(number, architecture, instruction);
                    assert_eq!(result, SECCOMP_RET_TRAP, "{number} at {instruction:#x}");
                }
            }
        }
    }

    #[test]
    fn of_calls_of_32_bit_programs_there_is_a_question_about_one_at_one_place() {
        for number in 0..500 {
            for site in ALL {
                let is_asked = site == SITES.interrupt && number == 243;
                let expected = if is_asked { SECCOMP_RET_USER_NOTIF } else { SECCOMP_RET_TRAP };
                assert_eq!(run(number, BY_INTERRUPT, site), expected, "{number} at {site:#x}");
                assert_eq!(run(number, BY_INTERRUPT + 1, site), SECCOMP_RET_TRAP, "{number} at {site:#x}");
            }
        }
    }

    #[test]
    fn the_wedge_makes_its_own_calls_from_its_window_only() {
        let inside = [WINDOW, WINDOW + 0x12_3456, WINDOW + WINDOW_LENGTH - 1];
        let outside = [0, WINDOW - 1, WINDOW + WINDOW_LENGTH, WINDOW & 0xffff_ffff, WINDOW | 1 << 63, SITES.stop];
        for calls in [&OWN[..], &SERVERS] {
            let filter = from_window(WINDOW, calls);
            let run = |number, architecture, at| run_filter(filter.instructions(), number, architecture, at);
            for number in 0..500 {
                let expected = if calls.contains(&number) { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
                for at in inside {
                    assert_eq!(run(number, ARCHITECTURE, at), expected, "{number} at {at:#x}");
                    assert_eq!(run(number, 0x4000_0003, at), SECCOMP_RET_TRAP, "{number} at {at:#x}");
                }
                for at in outside {
                    assert_eq!(run(number, ARCHITECTURE, at), SECCOMP_RET_TRAP, "{number} at {at:#x}");
                }
            }
        }
    }

    /// Nothing reaches a file by a name, where the guest's kernel runs.
    #[test]
    fn the_wedge_opens_nothing() {
        let named = [raw::__NR_open, raw::__NR_openat, raw::__NR_openat2, raw::__NR_execve, raw::__NR_unlinkat];
        assert!(named.iter().all(|number| !OWN.contains(number)));
    }
}
