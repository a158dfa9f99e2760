//! What the wedge needs as a program of its own, on whatever host: its parameters, memory, a log, and an end.
#![expect(unsafe_code, reason = "the wedge is placed and described by its linker script and by `afterburner pack`")]

pub(crate) mod arena;
pub(crate) mod exclusive;
mod heap;
pub(crate) mod log;
pub(crate) mod modules;
pub(crate) mod sites;

use wedge::image::{LOAD_ADDRESS, Parameters, Span};

pub(crate) use log::say;

/// Where the wedge is linked, and stays.
pub(crate) const WINDOW: u64 = 0xffff_ffff_7f00_0000;
/// Bytes of the window from there on.
pub(crate) const WINDOW_LENGTH: u64 = 16 << 20;
/// Size of a page.
pub(crate) const PAGE: u64 = 4096;

unsafe extern "C" {
    /// The end of what is linked, in whole pages.
    static image_end: u8;
}

/// Bytes of the wedge itself.
pub(crate) fn own_length() -> u64 {
    (&raw const image_end).addr() as u64 - WINDOW - LOAD_ADDRESS
}

/// Written by `afterburner pack`.
#[unsafe(link_section = ".parameters")]
#[used]
static mut PARAMETERS: Parameters =
    Parameters { load_address: 0, arena: Span { offset: 0, length: 0 }, payload: Span { offset: 0, length: 0 } };

/// What `afterburner pack` has written.
pub(crate) fn parameters() -> Parameters {
    // SAFETY: written by `afterburner pack`, and by nobody at run time.
    unsafe { (&raw const PARAMETERS).read_volatile() }
}

/// The time-stamp counter.
pub(crate) fn timestamp() -> u64 {
    // SAFETY: every 64-bit processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Random bits: the processor's, if it has any (RDRAND: CPUID 1, ECX bit 30), and the time since it was started.
pub(crate) fn entropy() -> u64 {
    let has_rdrand = core::arch::x86_64::__cpuid(1).ecx & 1 << 30 != 0;
    let mut random: u64 = 0;
    if has_rdrand {
        // SAFETY: the processor has the instruction.
        unsafe { core::arch::asm!("rdrand {}", inout(reg) random, options(nomem, nostack)) };
    }
    (random ^ timestamp()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("{info}");
    log::stop()
}
