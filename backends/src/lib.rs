//! The hosts that a wedge can run on, and the wedge as a program of its own.
//!
//! Which host it is, the wedge finds out by the way it was entered ([`selection`]); `afterburn.backend=` on the guest's
//! command line says which one it must be ([`options`]). What boot loaders tell, and are told, is in
//! [`boot_information`].
//!
//! The backends themselves exist in the wedge only, that is, built for no operating system: `bare`, where the guest's
//! kernel keeps its privileges, and `xen`, where it has none. What the two share is in `freestanding`; all that does
//! not depend on a host is in the crate `wedge`.

#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(target_os = "none")]
pub mod bare;
pub mod boot_information;
#[cfg(target_os = "none")]
mod freestanding;
pub mod options;
pub mod selection;
#[cfg(target_os = "none")]
pub mod xen;

use core::fmt;

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Bare hardware, or a virtual machine that looks like it.
    Bare,
    /// Xen, para-virtual.
    Xen,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bare, Self::Xen];

    /// The name that the command line and the boot log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Xen => "xen",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
