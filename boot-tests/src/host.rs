//! What a kernel runs on: the machine itself, or the wedge in one of its modes.
//!
//! What must hold on one of them must hold on all: a test names what it runs, and runs it on a list
//! of hosts.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::kernel::{Kernel, afterburner};
use crate::qemu::Machine;
use crate::{cache, command};

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The machine, without a wedge: an annotated kernel runs on its NOPs.
    Plain,
    /// The wedge's bare backend in `mode=native`.
    Native,
    /// In `mode=identity`.
    Identity,
    /// In `mode=profile`.
    Profile,
    /// The wedge's Xen backend, as dom0.
    Xen,
    /// The wedge's process backend, without QEMU: for kernels in the lower half.
    Process,
    /// The wedge's L4 backend, as the root task of seL4: for kernels in the lower half.
    L4,
}

impl Host {
    /// All without a hypervisor, the one that the others are compared with first.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Native, Self::Identity, Self::Profile];

    /// Those with a wedge.
    pub const WEDGE: [Self; 3] = [Self::Native, Self::Identity, Self::Profile];

    /// The wedge's mode, where it can be chosen.
    #[must_use]
    pub const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Xen | Self::Process | Self::L4 => None,
            Self::Native => Some("native"),
            Self::Identity => Some("identity"),
            Self::Profile => Some("profile"),
        }
    }

    /// A machine that boots the kernel on this host. A randomisable kernel is not moved by a boot
    /// as [`Host::Plain`] from its vmlinux; the wedge moves it, unless `nokaslr` is added to the
    /// command line.
    ///
    /// # Errors
    ///
    /// When the wedge cannot be built, the kernel not packed, or Xen not found.
    pub fn machine<'a>(self, kernel: &Kernel, initramfs: &Path) -> Result<Machine<'a>> {
        if self == Self::Plain {
            return Ok(Machine::new(kernel.vmlinux(), initramfs));
        }
        let machine = Machine::new(image(kernel)?, initramfs);
        match self.mode() {
            Some(mode) => Ok(Machine { append: format!("afterburn.mode={mode}"), ..machine }),
            None if self == Self::Process => Ok(Machine { process: true, ..machine }),
            None if self == Self::L4 => Machine::new(kernel.vmlinux(), initramfs).on_sel4(),
            None => machine.on_xen(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.mode().unwrap_or(match self {
            Self::Xen => "xen",
            Self::Process => "process",
            Self::L4 => "l4",
            _ => "plain",
        }))
    }
}

/// The wedge, built by the project's script.
///
/// # Errors
///
/// When it cannot be built; the message holds what the script printed.
pub fn wedge() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BUILT.get() {
        return Ok(path.clone());
    }
    let _lock = cache::lock("wedge")?;
    // Another thread may have built it meanwhile, and somebody may be reading it.
    if let Some(path) = BUILT.get() {
        return Ok(path.clone());
    }
    let path = cache::subdirectory("wedge")?.join("afterburner-wedge");
    let new = path.with_extension("new");
    command::output(Command::new(cache::repository().join("scripts/wedge")).arg(&new))?;
    // Another process may be reading the old one.
    fs::rename(&new, &path).with_context(|| format!("renaming {}", new.display()))?;
    Ok(BUILT.get_or_init(|| path).clone())
}

/// The hypervisor, from where the project's script finds it.
///
/// # Errors
///
/// When there is none, and none can be downloaded; the message holds what the script printed.
pub fn xen() -> Result<PathBuf> {
    let _lock = cache::lock("xen")?;
    let path = command::output(&mut Command::new(cache::repository().join("scripts/xen")))?;
    Ok(path.trim_end().into())
}

/// The kernel of seL4, from where the project's script builds it.
///
/// # Errors
///
/// When there is none, and none can be built; the message holds what the script printed.
pub fn sel4() -> Result<PathBuf> {
    sel4_built(&[])
}

/// One that was built in a way that the script knows by its name, and the wedge does not run on.
///
/// # Errors
///
/// The same.
pub fn sel4_for_others(how: &str) -> Result<PathBuf> {
    sel4_built(&[how])
}

fn sel4_built(arguments: &[&str]) -> Result<PathBuf> {
    let _lock = cache::lock("sel4")?;
    let path = command::output(Command::new(cache::repository().join("scripts/sel4")).args(arguments))?;
    Ok(path.trim_end().into())
}

/// Packs a kernel, without an initramfs or command line of its own: those come from the boot
/// loader.
///
/// # Errors
///
/// When it cannot be packed.
pub fn image(kernel: &Kernel) -> Result<PathBuf> {
    let vmlinux = kernel.vmlinux();
    let directory = vmlinux.parent().context("the kernel's directory")?;
    let image = directory.join("image");
    let _lock = cache::lock("image")?;
    pack(kernel, &[], &image)?;
    Ok(image)
}

/// Packs a kernel with further options of `afterburner pack`, and returns what that printed.
///
/// # Errors
///
/// When it cannot be packed.
pub fn pack(kernel: &Kernel, options: &[&OsStr], image: &Path) -> Result<String> {
    pack_file(&kernel.vmlinux(), options, image)
}

/// The same, of a kernel's file.
///
/// # Errors
///
/// The same.
pub fn pack_file(vmlinux: &Path, options: &[&OsStr], image: &Path) -> Result<String> {
    let mut pack = Command::new(afterburner()?);
    pack.arg("pack").arg("--kernel").arg(vmlinux).arg("--wedge").arg(wedge()?).args(options);
    command::output(pack.arg("-o").arg(image))
}
