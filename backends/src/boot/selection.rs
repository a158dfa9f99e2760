//! Which backend serves: the entry decides what is possible, the command line what is wanted.
//!
//! A host's way of starting a program leaves a machine behind that only the backend for that host
//! can run on: a Xen PV guest starts in ring 3 without a GDT of its own, a multiboot image in ring
//! 0 without paging. So nothing is probed. Asking for another backend than the entry's is a mistake
//! of whoever wrote the command line, and the message says what to do instead. The hypervisor's
//! signature decides nothing, since under any of them a virtual machine looks like bare hardware;
//! it makes the message more to the point.

use core::fmt;

use crate::Backend;

/// The protocol of a boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderProtocol {
    /// PVH (Xen, docs/misc/pvh.pandoc), which QEMU's `-kernel` speaks too.
    Pvh,
    /// Multiboot Specification 0.6.96.
    Multiboot1,
    /// Multiboot2 Specification 2.0.
    Multiboot2,
}

impl LoaderProtocol {
    /// The name for the boot log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pvh => "PVH",
            Self::Multiboot1 => "multiboot 1",
            Self::Multiboot2 => "multiboot 2",
        }
    }
}

impl fmt::Display for LoaderProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The way the wedge was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By a boot loader, on a machine without paging.
    BootLoader(LoaderProtocol),
    /// By Xen, as a paravirtualized guest (Xen, public/xen.h, `struct start_info`).
    XenPv,
    /// By Linux, as a program (System V ABI, AMD64 supplement, 3.4.1).
    Linux,
    /// By seL4, as its first thread (seL4 manual, 9, "System Bootstrapping").
    SeL4,
}

impl Protocol {
    /// The name for the boot log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BootLoader(protocol) => protocol.name(),
            Self::XenPv => "Xen PV",
            Self::Linux => "Linux's program loader",
            Self::SeL4 => "seL4",
        }
    }

    /// The backend for machines that are entered like this.
    #[must_use]
    pub const fn backend(self) -> Backend {
        match self {
            Self::BootLoader(_) => Backend::Bare,
            Self::XenPv => Backend::Xen,
            Self::Linux => Backend::Process,
            Self::SeL4 => Backend::L4,
        }
    }
}

impl From<LoaderProtocol> for Protocol {
    fn from(protocol: LoaderProtocol) -> Self {
        Self::BootLoader(protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Signature that Xen gives to virtual machines (Xen, public/arch-x86/cpuid.h).
const XEN_SIGNATURE: [u8; 12] = *b"XenVMMXenVMM";

/// A backend that this machine cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// The backend that the command line asks for.
    pub asked: Backend,
    /// How the wedge was entered.
    pub entered: Protocol,
    /// Signature of the hypervisor that the machine runs under.
    pub hypervisor: Option<[u8; 12]>,
}

/// The backend to use: the one asked for, else that of the entry. `hypervisor` is the signature
/// from CPUID leaf 40000000H (EBX, ECX, EDX), if CPUID says that there is a hypervisor.
///
/// # Errors
///
/// When the entry is not that of the backend asked for.
pub fn select(
    asked: Option<Backend>,
    entered: impl Into<Protocol>,
    hypervisor: Option<[u8; 12]>,
) -> Result<Backend, Impossible> {
    let entered = entered.into();
    match asked {
        Some(asked) if asked != entered.backend() => Err(Impossible { asked, entered, hypervisor }),
        _ => Ok(entered.backend()),
    }
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, entered, hypervisor } = self;
        let needed = match asked {
            Backend::Bare => "a PVH or multiboot entry",
            Backend::Xen => "a Xen PV entry",
            Backend::Process => "to be started as a program of Linux",
            Backend::L4 => "to be started by seL4, as its root task",
        };
        write!(f, "afterburn.backend={asked}: this backend needs {needed}; this machine was entered by {entered}")?;
        match hypervisor {
            Some(XEN_SIGNATURE) if *asked == Backend::Xen => {
                write!(f, ", in a fully virtualized Xen guest: Xen must start it as a PV guest")
            }
            Some(signature) => {
                let padding = signature.iter().rev().take_while(|byte| **byte == 0).count();
                write!(f, ", under the hypervisor \"{}\"", signature[..signature.len() - padding].escape_ascii())
            }
            None => Ok(()),
        }
    }
}

impl core::error::Error for Impossible {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    const BARE_ENTRIES: [LoaderProtocol; 3] =
        [LoaderProtocol::Pvh, LoaderProtocol::Multiboot1, LoaderProtocol::Multiboot2];

    #[test]
    fn boot_loaders_of_bare_hardware_lead_to_the_bare_backend() {
        for entered in BARE_ENTRIES {
            for hypervisor in [None, Some(*b"KVMKVMKVM\0\0\0"), Some(XEN_SIGNATURE)] {
                assert_eq!(select(None, entered, hypervisor), Ok(Backend::Bare), "{entered}");
                assert_eq!(select(Some(Backend::Bare), entered, hypervisor), Ok(Backend::Bare), "{entered}");
            }
        }
    }

    #[test]
    fn xen_leads_to_its_own_backend() {
        for asked in [None, Some(Backend::Xen)] {
            assert_eq!(select(asked, Protocol::XenPv, Some(XEN_SIGNATURE)), Ok(Backend::Xen));
        }
    }

    #[test]
    fn sel4_leads_to_the_l4_backend() {
        for asked in [None, Some(Backend::L4)] {
            assert_eq!(select(asked, Protocol::SeL4, None), Ok(Backend::L4));
        }
    }

    #[test]
    fn linux_leads_to_the_process_backend() {
        for asked in [None, Some(Backend::Process)] {
            assert_eq!(select(asked, Protocol::Linux, None), Ok(Backend::Process));
        }
    }

    #[test]
    fn another_backend_than_the_entrys_is_refused_with_a_reason() {
        for (asked, entered, hypervisor, message) in [
            (
                Backend::Xen,
                LoaderProtocol::Multiboot2.into(),
                None,
                "afterburn.backend=xen: this backend needs a Xen PV entry; this machine was entered by multiboot 2",
            ),
            (
                Backend::Xen,
                LoaderProtocol::Pvh.into(),
                Some(XEN_SIGNATURE),
                "afterburn.backend=xen: this backend needs a Xen PV entry; this machine was entered by PVH, in a fully \
                 virtualized Xen guest: Xen must start it as a PV guest",
            ),
            (
                Backend::Bare,
                Protocol::XenPv,
                None,
                "afterburn.backend=bare: this backend needs a PVH or multiboot entry; this machine was entered by Xen PV",
            ),
            (
                Backend::Process,
                LoaderProtocol::Pvh.into(),
                None,
                "afterburn.backend=process: this backend needs to be started as a program of Linux; this machine was \
                 entered by PVH",
            ),
            (
                Backend::Bare,
                Protocol::Linux,
                None,
                "afterburn.backend=bare: this backend needs a PVH or multiboot entry; this machine was entered by Linux's \
                 program loader",
            ),
            (
                Backend::Xen,
                LoaderProtocol::Multiboot1.into(),
                Some(*b"KVMKVMKVM\0\0\0"),
                "afterburn.backend=xen: this backend needs a Xen PV entry; this machine was entered by multiboot 1, under \
                 the hypervisor \"KVMKVMKVM\"",
            ),
        ] {
            let impossible = select(Some(asked), entered, hypervisor).unwrap_err();
            assert_eq!(impossible.to_string(), message);
        }
    }
}
