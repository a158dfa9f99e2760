//! What a program's process may ask of Linux: the filter of its system calls (`seccomp(2)`).
//!
//! It is the second of two fences. A program's system calls are not executed, for the process runs
//! in a mode in which Linux only tells them to the wedge ([`programs`](super::programs)). Should
//! one be executed all the same, or come by a way that this mode does not cover, as the calls at
//! fixed addresses do (`vsyscall`), this filter turns it into a signal, which the wedge gets. What
//! it lets pass are the few calls that the wedge orders, at the one instruction that makes them.

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP, sock_filter};

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

/// The calls that are ordered.
const ALLOWED: [u32; 3] = [raw::__NR_mmap, raw::__NR_munmap, raw::__NR_clone];

/// Instructions of the filter.
pub(super) const LENGTH: usize = 7 + ALLOWED.len() + 3;

/// The filter for a process whose orders are carried out by a call that returns to an address.
pub(super) fn filter(returns_to: u64) -> [sock_filter; LENGTH] {
    const ALLOW: usize = LENGTH - 1;
    const TRAP: usize = LENGTH - 2;
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    // Goes on if the word is equal, and elsewhere if it is not.
    let unless = |at: usize, k, other: usize| sock_filter { code: JUMP_EQUAL, jt: 0, jf: (other - at - 1) as u8, k };
    let mut program = [statement(RETURN, SECCOMP_RET_KILL_PROCESS); LENGTH];
    program[0] = statement(LOAD, ARCH);
    program[1] = unless(1, ARCHITECTURE, TRAP);
    program[2] = statement(LOAD, INSTRUCTION);
    program[3] = unless(3, returns_to as u32, TRAP);
    program[4] = statement(LOAD, INSTRUCTION + 4);
    program[5] = unless(5, (returns_to >> 32) as u32, TRAP);
    program[6] = statement(LOAD, NUMBER);
    for (place, number) in ALLOWED.into_iter().enumerate() {
        let at = 7 + place;
        program[at] = sock_filter { code: JUMP_EQUAL, jt: (ALLOW - at - 1) as u8, jf: 0, k: number };
    }
    // Behind the last comparison any other call ends the process.
    program[TRAP] = statement(RETURN, SECCOMP_RET_TRAP);
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
    fn only_what_is_ordered_passes() {
        for number in 0..500 {
            let expected = if ALLOWED.contains(&number) { SECCOMP_RET_ALLOW } else { SECCOMP_RET_KILL_PROCESS };
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
