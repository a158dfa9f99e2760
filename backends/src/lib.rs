//! The hosts that a wedge can run on, and how one is named.
//!
//! Which one it is, the wedge finds out by the way it was entered and by CPUID; `afterburn.backend=` on the guest's command
//! line overrides that.

#![no_std]

use core::fmt;

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Bare hardware, or a virtual machine that looks like it.
    Bare,
    /// Xen, para-virtual.
    Xen,
    /// An L4 microkernel.
    L4,
}

/// A name that no backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownBackend<'a>(pub &'a str);

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bare, Self::Xen, Self::L4];

    /// The name that the command line and the boot log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Xen => "xen",
            Self::L4 => "l4",
        }
    }

    /// The backend that the guest's command line asks for, if it does. The last word counts, as in Linux, and what stands
    /// behind `--` is for init.
    ///
    /// # Errors
    ///
    /// When it names one that does not exist.
    pub fn asked_for(command_line: &str) -> Result<Option<Self>, UnknownBackend<'_>> {
        let words = command_line.split_ascii_whitespace().take_while(|word| *word != "--");
        match words.filter_map(|word| word.strip_prefix("afterburn.backend=")).last() {
            None => Ok(None),
            Some(name) => match Self::ALL.into_iter().find(|backend| backend.name() == name) {
                Some(backend) => Ok(Some(backend)),
                None => Err(UnknownBackend(name)),
            },
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for UnknownBackend<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "afterburn.backend={}: no such backend; there are", self.0)?;
        Backend::ALL.iter().try_for_each(|backend| write!(f, " {backend}"))
    }
}

impl core::error::Error for UnknownBackend<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_a_backend() {
        for (command_line, expected) in [
            ("console=ttyS0 quiet", Ok(None)),
            ("afterburn.backend=xen console=ttyS0", Ok(Some(Backend::Xen))),
            ("afterburn.backend=xen afterburn.backend=bare", Ok(Some(Backend::Bare))),
            ("quiet -- afterburn.backend=xen", Ok(None)),
            ("afterburn.backend=kvm", Err(UnknownBackend("kvm"))),
            ("afterburn.backend=", Err(UnknownBackend(""))),
        ] {
            assert_eq!(Backend::asked_for(command_line), expected, "{command_line}");
        }
    }
}
