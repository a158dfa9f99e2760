//! What becomes of the system calls of the guest's processes: two filters (`seccomp(2)`).
//!
//! *Programs.* //! Whatever a program executes, by whatever instruction, at fixed addresses (`vsyscall`) too, is
//! turned into a signal. One instruction in the process is the wedge's ([`stub`](super::stub)).
//! From there a handler may return, which gives a program nothing but registers that it could have
//! anyway; and the wedge is asked about the few calls that it orders, each time: a program may
//! jump there.
//!
//! *The kernel.* The process of the wedge runs the guest's kernel, too. Nothing there makes system
//! calls but the wedge, in its window, and of those it makes few once the guest runs. Whoever gets
//! hold of the guest's kernel gets no more.

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP, SECCOMP_RET_USER_NOTIF, sock_filter};
use wedge::guest::layout::WINDOW_LENGTH;

/// `AUDIT_ARCH_X86_64` (`linux/audit.h`).
const ARCHITECTURE: u32 = 0xc000_003e;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const INSTRUCTION: u32 = 8;

/// Load a word; jump if it is equal; return (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;

/// The call by which a process says that it has stopped: it is never executed.
pub(super) const STOP: u32 = raw::__NR_pause;

/// The calls that the wedge is asked about.
const ASKED: [u32; 7] = [
    STOP,
    raw::__NR_mmap,
    raw::__NR_munmap,
    raw::__NR_clone,
    raw::__NR_prctl,
    raw::__NR_unshare,
    raw::__NR_close_range,
];

/// Instructions of the filter.
pub(super) const LENGTH: usize = 8 + ASKED.len() + 3;

/// The filter for a process whose one call of the wedge's returns to an address.
pub(super) fn filter(returns_to: u64) -> [sock_filter; LENGTH] {
    const TRAP: usize = LENGTH - 3;
    const ASK: usize = LENGTH - 2;
    const ALLOW: usize = LENGTH - 1;
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    // Goes on if the word is equal, and elsewhere if it is not.
    let unless = |at: usize, k, other: usize| sock_filter { code: JUMP_EQUAL, jt: 0, jf: (other - at - 1) as u8, k };
    let if_equal = |at: usize, k, other: usize| sock_filter { code: JUMP_EQUAL, jt: (other - at - 1) as u8, jf: 0, k };
    let mut program = [statement(RETURN, SECCOMP_RET_TRAP); LENGTH];
    program[0] = statement(LOAD, ARCH);
    program[1] = unless(1, ARCHITECTURE, TRAP);
    program[2] = statement(LOAD, INSTRUCTION);
    program[3] = unless(3, returns_to as u32, TRAP);
    program[4] = statement(LOAD, INSTRUCTION + 4);
    program[5] = unless(5, (returns_to >> 32) as u32, TRAP);
    program[6] = statement(LOAD, NUMBER);
    program[7] = if_equal(7, raw::__NR_rt_sigreturn, ALLOW);
    for (place, number) in ASKED.into_iter().enumerate() {
        program[8 + place] = if_equal(8 + place, number, ASK);
    }
    program[ASK] = statement(RETURN, SECCOMP_RET_USER_NOTIF);
    program[ALLOW] = statement(RETURN, SECCOMP_RET_ALLOW);
    program
}

/// The calls that the wedge makes once the guest runs.
const OWN: [u32; 17] = [
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
    raw::__NR_exit_group,
];

/// Instructions of the filter for the wedge's own process.
pub(super) const OWN_LENGTH: usize = 8 + OWN.len() + 2;

/// The filter for the wedge's own process, whose calls come from its window: so many bytes as
/// [`WINDOW_LENGTH`], at a multiple of them.
pub(super) fn own_filter(window: u64) -> [sock_filter; OWN_LENGTH] {
    const TRAP: usize = OWN_LENGTH - 2;
    const ALLOW: usize = OWN_LENGTH - 1;
    const MASK: u32 = !(WINDOW_LENGTH as u32 - 1);
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let unless = |at: usize, k| sock_filter { code: JUMP_EQUAL, jt: 0, jf: (TRAP - at - 1) as u8, k };
    let mut program = [statement(RETURN, SECCOMP_RET_TRAP); OWN_LENGTH];
    program[0] = statement(LOAD, ARCH);
    program[1] = unless(1, ARCHITECTURE);
    program[2] = statement(LOAD, INSTRUCTION + 4);
    program[3] = unless(3, (window >> 32) as u32);
    program[4] = statement(LOAD, INSTRUCTION);
    program[5] = statement(AND, MASK);
    program[6] = unless(6, window as u32);
    program[7] = statement(LOAD, NUMBER);
    for (place, number) in OWN.into_iter().enumerate() {
        let at = 8 + place;
        program[at] = sock_filter { code: JUMP_EQUAL, jt: (ALLOW - at - 1) as u8, jf: 0, k: number };
    }
    program[ALLOW] = statement(RETURN, SECCOMP_RET_ALLOW);
    program
}

const _: () = assert!(WINDOW_LENGTH.is_power_of_two() && WINDOW_LENGTH < 1 << 32);

#[cfg(test)]
mod tests {
    use super::*;

    const RETURNS_TO: u64 = 0x7300_0000_0029;

    const WINDOW: u64 = 0x5fff_7f00_0000;

    fn run(number: u32, architecture: u32, instruction: u64) -> u32 {
        run_filter(&filter(RETURNS_TO), number, architecture, instruction)
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
    fn nothing_passes_without_a_question_but_the_return_of_a_handler() {
        for number in 0..500 {
            let expected = match number {
                raw::__NR_rt_sigreturn => SECCOMP_RET_ALLOW,
                number if ASKED.contains(&number) => SECCOMP_RET_USER_NOTIF,
                _ => SECCOMP_RET_TRAP,
            };
            assert_eq!(run(number, ARCHITECTURE, RETURNS_TO), expected, "{number}");
        }
    }

    #[test]
    fn elsewhere_nothing_passes() {
        for instruction in [0, RETURNS_TO - 1, RETURNS_TO + 1, RETURNS_TO & 0xffff_ffff, RETURNS_TO | 1 << 63] {
            for number in 0..500 {
                assert_eq!(run(number, ARCHITECTURE, instruction), SECCOMP_RET_TRAP, "{number} at {instruction:#x}");
            }
        }
    }

    /// `AUDIT_ARCH_I386`, by INT 80H: the numbers mean other calls.
    #[test]
    fn calls_of_32_bit_programs_do_not_pass() {
        for number in 0..500 {
            assert_eq!(run(number, 0x4000_0003, RETURNS_TO), SECCOMP_RET_TRAP, "{number}");
        }
    }

    #[test]
    fn the_wedge_makes_its_own_calls_from_its_window_only() {
        let program = own_filter(WINDOW);
        let inside = [WINDOW, WINDOW + 0x12_3456, WINDOW + WINDOW_LENGTH - 1];
        let outside = [0, WINDOW - 1, WINDOW + WINDOW_LENGTH, WINDOW & 0xffff_ffff, WINDOW | 1 << 63, RETURNS_TO];
        for number in 0..500 {
            let expected = if OWN.contains(&number) { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
            for at in inside {
                assert_eq!(run_filter(&program, number, ARCHITECTURE, at), expected, "{number} at {at:#x}");
                assert_eq!(run_filter(&program, number, 0x4000_0003, at), SECCOMP_RET_TRAP, "{number} at {at:#x}");
            }
            for at in outside {
                assert_eq!(run_filter(&program, number, ARCHITECTURE, at), SECCOMP_RET_TRAP, "{number} at {at:#x}");
            }
        }
    }
}
