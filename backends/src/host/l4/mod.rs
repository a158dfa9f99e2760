//! seL4, an L4: the guest's kernel runs in seL4's first thread, beside the wedge, and its programs
//! in threads and address spaces of their own. No privilege is needed.
//!
//! seL4 starts the image as its root task; [`early`] maps the wedge to its window, [`boot`] makes
//! the guest of what [`bootinfo`] tells, and starts the [`pager`], which is told what happens to
//! the first thread. What a site becomes is decided in `wedge` ([`wedge::sites`]); what is not done
//! in place comes in by [`entry`], and is told apart in [`traps`], which also runs programs
//! ([`programs`]). Behind [`wedge::vm`] are, as the host: [`processor`], [`tables`] (the page
//! tables of [`wedge::shadow`], in software) with what seL4 has mapped by them ([`vspace`]),
//! [`board`] (clock, timer, console, the machine's devices by [`ports`] and [`devices`]).
//! [`kernel`] is the way to seL4, [`abi`] what differs between its versions, [`objects`] what
//! memory becomes there.
#![expect(unsafe_code, reason = "the machine is reached by system calls and addresses that Rust knows nothing of")]
#![expect(clippy::cast_possible_truncation, reason = "this is 64-bit code; narrower casts cut what is meant to be cut")]

mod abi;
mod board;
mod boot;
mod bootinfo;
mod console;
mod cpu;
mod devices;
mod early;
mod end;
mod entry;
mod fixed;
mod floating;
mod guest;
mod kernel;
mod memory;
mod objects;
mod pager;
mod ports;
mod processor;
mod programs;
mod tables;
mod traps;
mod vspace;
