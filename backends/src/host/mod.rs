//! The hosts.
//!
//! `bare` lets the guest's kernel have its privileges; `xen`, `process` and `l4` do not. Hosts do
//! not know each other.

#[cfg(target_os = "none")]
pub mod bare;
#[cfg(target_os = "none")]
mod cause;
#[cfg(target_os = "none")]
mod entry;
#[cfg(any(target_os = "none", test))]
mod exceptions;
#[cfg(target_os = "none")]
pub mod l4;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "only the wedge uses all of it"))]
pub mod process;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "only the wedge uses all of it"))]
mod seen;
#[cfg(target_os = "none")]
mod soft;
#[cfg(target_os = "none")]
mod start;
#[cfg(test)]
mod test;
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
    /// A process of Linux.
    Process,
    /// seL4.
    L4,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Xen, Self::Process, Self::L4];

    /// The name that the command line and the boot log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Xen => "xen",
            Self::Process => "process",
            Self::L4 => "l4",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
