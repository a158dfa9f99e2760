//! The wedge: what runs between a kernel and the host that the kernel finds itself on.
//!
//! This is the part that every host shares; it knows no hypercall and no real device. What differs
//! from host to host is handed in: memory ([`memory::PhysicalMemory`],
//! [`vm::modules::ModuleMemory`]), text that can be written ([`sites::GuestText`]), routines that
//! stubs call ([`sites::Hooks`], [`sites::Deprivileged`]), and what is behind the virtual CPU, the
//! shadow and the devices ([`cpu::Host`], [`shadow::Host`], [`platform::Board`]). So all of it can
//! be tested as an ordinary program.
//!
//! [`x86`] has the architecture's facts. The rest, in the order in which a boot needs it:
//!
//! * [`image`]: what `afterburner pack` has put together; [`memory`]: what the machine has.
//! * [`loader`]: the guest's boot loader. It knows that the guest is Linux.
//! * [`sites`]: the table of sites, all or nothing; from a checked site to rewritten bytes, and
//!   back.
//! * [`vm`]: the guest while it runs: its modules, and how its user space talks to the wedge.
//! * [`guest`]: what has to be known of the guest.
//!
//! For a host that does not let the guest's kernel have its privileges:
//!
//! * [`cpu`]: the virtual CPU of a kernel that runs in ring 3.
//! * [`shadow`]: its page tables, as a virtual TLB.
//! * [`platform`]: the devices of a PC.

#![no_std]

pub mod cpu;
pub mod guest;
pub mod image;
pub mod loader;
pub mod memory;
pub mod platform;
pub mod shadow;
pub mod sites;
pub mod vm;
pub mod x86;
