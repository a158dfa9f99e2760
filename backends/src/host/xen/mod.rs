//! Xen, para-virtual: the guest's kernel runs in ring 3, in the mode that Xen calls kernel mode, its programs in user mode.
//!
//! What a site becomes is decided in `wedge` ([`wedge::sites`]); what is not done in place comes in by [`entry`], is looked
//! at in [`traps`], and is carried out on the virtual CPU ([`wedge::cpu`]). Behind that are, as the host: [`machine`] (memory,
//! segments, registers), [`tables`] (the page tables of [`wedge::shadow`]), [`board`] (clock, interrupts, console).
//! [`narrow_stack`] is a detour on the way to user mode, [`failsafe`] one on the way in. [`boot`] makes all of it from what Xen
//! leaves at the start; [`memory`] says who has which part of the domain's memory.
#![expect(unsafe_code, reason = "the machine is reached by hypercalls and addresses that Rust knows nothing of")]
#![expect(clippy::cast_possible_truncation, reason = "this is 64-bit code; narrower casts cut what is meant to be cut")]

mod account;
mod board;
mod boot;
pub(crate) mod console;
mod entry;
mod failsafe;
mod hypercall;
mod interface;
mod ldt;
mod machine;
mod memory;
mod modules;
mod narrow_stack;
mod present;
mod segments;
mod stacks;
mod tables;
mod traps;

use core::fmt;

use hypercall::{Reason, shutdown};
use interface::StartInfo;
use wedge::cpu::Context;

use crate::runtime::{log, say};

/// Entered by the code in [`entry`], once.
extern "C" fn start(information: *const StartInfo) -> ! {
    log::use_xen();
    // SAFETY: this is what Xen's ABI says of RSI at the entry.
    let information = unsafe { &*information };
    let failure = boot::boot(information);
    say!("{failure}");
    stop()
}

/// The end of a boot that cannot go on.
pub(crate) fn stop() -> ! {
    say!("stopped");
    shutdown(Reason::Crash)
}

/// The end of a guest that cannot be helped.
fn die(context: &Context, why: impl fmt::Display) -> ! {
    let cr2 = entry::SHARED_PAGE.info().vcpu[0].cr2.load(core::sync::atomic::Ordering::Relaxed);
    let Context { registers, vector, error, rip, cs, rflags, rsp, .. } = context;
    say!("entry {vector} {why}: RIP {rip:#x}, CS {cs:#x}, error code {error:#x}, CR2 {cr2:#x}");
    say!("RSP {rsp:#x}, RFLAGS {rflags:#x}, {registers:x?}");
    stop()
}
