//! Xen, para-virtual: the guest's kernel runs in ring 3, in the mode that Xen calls kernel mode,
//! its programs in user mode.
//!
//! What a site becomes is decided in `wedge` ([`wedge::sites`]); what is not done in place comes in
//! by [`entry`], is told from other entries in [`traps`], and is carried out by [`wedge::vm`].
//! Behind that are, as the host: [`processor`] (segments, registers), [`tables`] (the page tables
//! of [`wedge::shadow`]), [`board`] (clock, interrupts, console). [`narrow_stack`] is a detour on
//! the way to user mode, [`failsafe`] one on the way in. [`boot`] makes all of it from what Xen
//! leaves at the start; [`memory`] says who has which part of the domain's memory.
#![expect(unsafe_code, reason = "the machine is reached by hypercalls and addresses that Rust knows nothing of")]
#![expect(clippy::cast_possible_truncation, reason = "this is 64-bit code; narrower casts cut what is meant to be cut")]

mod board;
mod boot;
mod console;
mod cpu;
mod descriptors;
mod entry;
mod eviction;
mod failsafe;
mod guest;
mod hypercall;
mod interface;
mod ldt;
mod memory;
mod narrow_stack;
mod peephole;
mod processor;
mod segments;
mod stacks;
mod tables;
mod traps;

use hypercall::{Reason, shutdown};
use interface::StartInfo;

use crate::runtime::log::{self, use_console};
use crate::runtime::say;

/// What the wedge writes to, and how it ends.
static CONSOLE: log::Console = log::Console { write: console::write_log, stop };

/// Entered by the code in [`entry`], once.
#[unsafe(no_mangle)]
extern "C" fn xen_start(information: *const StartInfo) -> ! {
    use_console(&CONSOLE);
    // SAFETY: this is what Xen's ABI says of RSI at the entry.
    let information = unsafe { &*information };
    boot::boot(information);
    stop()
}

/// The end of a boot that cannot go on.
fn stop() -> ! {
    say!("stopped");
    shutdown(Reason::Crash)
}
