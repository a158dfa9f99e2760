//! The wedge: what runs between a kernel and the host that the kernel finds itself on.
//!
//! So far it is the part that every host shares: the table of sites, believed only after it was held against the text.

#![no_std]

pub mod image;
pub mod loader;
pub mod memory;
pub mod modules;
pub mod port;
pub mod rewrite;
pub mod sites;
