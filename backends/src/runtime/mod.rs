//! What the wedge needs as a program of its own, on whatever host: its parameters, memory, a log,
//! and an end.
#![expect(unsafe_code, reason = "registers of the processor are read, and memory becomes what it is used for")]

pub(crate) mod arena;
pub(crate) mod exclusive;
#[cfg(target_os = "none")]
mod heap;
pub(crate) mod log;
pub(crate) mod modules;
#[cfg(target_os = "none")]
mod program;
pub(crate) mod sites;

pub(crate) use log::say;
#[cfg(target_os = "none")]
pub(crate) use program::{own_length, parameters, window};
pub(crate) use wedge::x86::paging::PAGE;

/// The time-stamp counter.
pub(crate) fn timestamp() -> u64 {
    // SAFETY: every 64-bit processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Random bits: the processor's, if it has any (RDRAND: CPUID 1, ECX bit 30), and the time since it
/// was started.
pub(crate) fn entropy() -> u64 {
    let has_rdrand = core::arch::x86_64::__cpuid(1).ecx & 1 << 30 != 0;
    let mut random: u64 = 0;
    if has_rdrand {
        // SAFETY: the processor has the instruction.
        unsafe { core::arch::asm!("rdrand {}", inout(reg) random, options(nomem, nostack)) };
    }
    (random ^ timestamp()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}
