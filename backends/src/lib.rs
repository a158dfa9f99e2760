//! The hosts that a wedge can run on, and the wedge as a program of its own.
//!
//! * [`boot`]: what boot loaders tell, and are told; which host serves; and a boot as every host
//!   goes through it.
//! * [`host`]: the hosts. Each is the wedge's view of one machine: entry and exits, memory, tables,
//!   clock, console.
//! * `runtime`: what the wedge needs as a program of its own, whatever the host.
//!
//! All that does not depend on a host is in the crate `wedge`. The hosts exist in the wedge only,
//! that is, built for no operating system.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod boot;
pub mod host;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "only the wedge uses all of it"))]
mod runtime;

pub use host::Backend;
