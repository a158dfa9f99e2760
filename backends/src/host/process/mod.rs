//! A process of Linux: the guest's kernel runs in this process, beside the wedge, and each address
//! space of its programs in one of its own. No privilege is needed.
//!
//! Linux starts the image as a program; [`entry`] moves the wedge to its window. [`boot`] makes the
//! guest of what [`arguments`] say. What a site becomes is decided in `wedge` ([`wedge::sites`]);
//! what is not done in place comes in by [`entry`] or as a signal, and is told apart in [`guest`],
//! which also runs programs ([`programs`], until they stop, [`stops`]; [`areas`], [`locals`] and
//! [`compatibility`] say what those of 32 bits take, and [`descriptions`] how Linux is told).
//! Behind [`wedge::vm`] are, as the host: [`processor`] (segment bases, registers), [`tables`] (the
//! page tables of [`wedge::shadow`], in software) with what Linux has mapped by them ([`mappings`],
//! [`resident`], [`switch`]), [`board`] (clock, timer, console, [`disk`]s, [`network`], [`share`]d
//! directories), [`affinity`] (the processor that all of it runs on). [`system`] is the way to
//! Linux. With `--fast` programs run in this process, too ([`fast`]), their calls go straight to
//! the kernel ([`calls`], [`rewritten`]).
#![cfg_attr(
    any(target_os = "none", test),
    expect(unsafe_code, reason = "the machine is reached by system calls and addresses that Rust knows nothing of")
)]
#![expect(clippy::cast_possible_truncation, reason = "this is 64-bit code; narrower casts cut what is meant to be cut")]

#[cfg(target_os = "none")]
mod affinity;
mod areas;
mod arguments;
#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod boot;
mod calls;
#[cfg(target_os = "none")]
mod compatibility;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
mod descriptions;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod end;
#[cfg(target_os = "none")]
mod entry;

#[cfg(target_os = "none")]
mod fast;
#[cfg(any(target_os = "none", test))]
mod files;
mod filter;
mod frames;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod listener;
#[cfg(any(target_os = "none", test))]
mod locals;
mod mappings;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "only files are reached in tests"))]
mod memory;
#[cfg(target_os = "none")]
mod mother;
#[cfg(target_os = "none")]
mod names;
#[cfg(target_os = "none")]
mod network;
mod orders;
#[cfg(target_os = "none")]
mod passt;
#[cfg(target_os = "none")]
mod processes;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod programs;
#[cfg(target_os = "none")]
mod questions;
#[cfg(target_os = "none")]
mod registers;
mod requests;
mod resident;
#[cfg(target_os = "none")]
mod rewritten;
#[cfg(target_os = "none")]
mod server;
#[cfg(target_os = "none")]
mod share;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod state;
#[cfg(target_os = "none")]
mod stops;
#[cfg(target_os = "none")]
mod stub;
#[cfg(target_os = "none")]
mod switch;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "only files are reached in tests"))]
mod system;
#[cfg(target_os = "none")]
mod tables;
#[cfg(target_os = "none")]
mod tap;
#[cfg(any(target_os = "none", test))]
mod texts;
#[cfg(target_os = "none")]
mod traps;
