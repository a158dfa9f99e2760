//! What is sensitive on x86-64, how a site is padded, and what an annotation is.
//!
//! * [`instructions`]: the one table of sensitive instructions.
//! * [`pad`]: the NOPs of a slot.
//! * [`record`]: the annotation record; [`check`]: an allegation held against the bytes it talks
//!   about.
//! * [`linux`]: what is known of Linux.
//! * [`text`]: the assembler stage, GAS text in and GAS text out.
//! * [`object`]: the other side, objects and kernels: reading records, verifying them, the census.
//!
//! The first four know no host and, without the `std` feature, no operating system: the wedge uses
//! them at boot.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod check;
pub mod instructions;
pub mod linux;
pub mod pad;
pub mod record;

#[cfg(feature = "std")]
pub mod object;
#[cfg(feature = "std")]
pub mod text;
