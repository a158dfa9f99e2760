//! What becomes of the system calls of a program's process: the filter (`seccomp(2)`).
//!
//! Whatever a program executes, by whatever instruction, at fixed addresses (`vsyscall`) too, is
//! turned into a signal. One instruction in the process is the wedge's ([`stub`](super::stub)).
//! From there a handler may return, which gives a program nothing but registers that it could have
//! anyway; and the wedge is asked about the few calls that it orders, each time: a program may
//! jump there.

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP, SECCOMP_RET_USER_NOTIF, sock_filter};

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

#[cfg(test)]
mod tests {
    use super::*;

    const RETURNS_TO: u64 = 0x7300_0000_0029;

    /// Runs the filter, as Linux does, on `struct seccomp_data`.
    fn run(number: u32, architecture: u32, instruction: u64) -> u32 {
        let words = [number, architecture, instruction as u32, (instruction >> 32) as u32];
        let program = filter(RETURNS_TO);
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            match code {
                LOAD => word = words[k as usize / 4],
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
}
