//! A machine on which Xen runs Debian's kernel as dom0, and that one domU.
//!
//! A domU exists only by the tools of a dom0, and those need a dom0 of their own kind: Linux with
//! Xen's drivers. So dom0 is Debian's, unchanged, with an initramfs made by
//! `scripts/domu-initramfs`. The domU's console is dom0's, which is Xen's, which is the serial
//! port: a log shows the hypervisor's lines, then dom0's, then the domU's.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::qemu::Machine;
use crate::{cache, command};

/// What dom0 prints when its domU has ended, after its own uptime.
pub const ENDED: &str = "the domU ended";

/// Xen's words: it takes the serial port; dom0 gets memory for its tools and for what it unpacks.
const XEN_WORDS: &str = "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all dom0_mem=400M,max:400M";

/// Dom0's words.
const DOM0_WORDS: &str = "console=hvc0 panic=-1 quiet";

/// What runs in the domU.
#[derive(Clone, Copy, Debug)]
pub struct Domu<'a> {
    /// Any kernel that Xen starts as a PV guest.
    pub kernel: &'a Path,
    /// The module that Xen hands it.
    pub ramdisk: Option<&'a Path>,
    /// Its command line.
    pub words: &'a str,
    /// A file of lines that dom0 types, one at each prompt; a domU that reboots is started again
    /// then.
    pub typed: Option<&'a Path>,
}

impl Domu<'_> {
    /// A machine that runs it and ends with it; dom0's initramfs is written to `initramfs`.
    ///
    /// # Errors
    ///
    /// When Debian's packages cannot be had, or a file cannot be read.
    pub fn machine<'a>(&self, initramfs: &Path) -> Result<Machine<'a>> {
        let mut script = script();
        let nothing = Path::new("");
        script.arg(initramfs).arg(self.kernel).arg(self.ramdisk.unwrap_or(nothing)).arg(self.words);
        script.arg(self.typed.unwrap_or(nothing));
        command::output(&mut script)?;
        let host = host()?;
        Ok(Machine {
            append: XEN_WORDS.to_owned(),
            // Xen's SMAP and QEMU 7.2: an IRET of dom0 faults, for QEMU takes its stack for the
            // supervisor's.
            // XSAVE: on a busy machine a program of dom0 ended now and then with a heap that was
            // not in order, in 3 of 8 boots. Without it there was none in 7: two domains that have
            // vector registers in turn are too much for QEMU 7.2, or for Xen's lazy change of them.
            cpu: "max,-smap,-xsave",
            memory: 1024,
            options: vec!["-initrd".into(), modules(&host.dom0, initramfs)?],
            kernel: Some(host.xen),
            ..Machine::firmware(Vec::new())
        })
    }
}

/// Xen and a dom0 of the same release as the tools.
#[derive(Clone, Debug)]
pub struct HostFiles {
    /// The hypervisor, as QEMU loads it.
    pub xen: PathBuf,
    /// Debian's kernel.
    pub dom0: PathBuf,
}

/// Downloads them into the cache the first time.
///
/// # Errors
///
/// When Debian's packages cannot be had.
pub fn host() -> Result<HostFiles> {
    let paths = command::output(script().arg("--host"))?;
    let (xen, dom0) = paths.trim_end().split_once('\n').context("scripts/domu-initramfs --host: two lines")?;
    Ok(HostFiles { xen: xen.into(), dom0: dom0.into() })
}

fn script() -> Command {
    Command::new(cache::repository().join("scripts/domu-initramfs"))
}

/// Xen's modules as QEMU is told of them: each with its command line, commas between them, two for
/// one in a name.
fn modules(kernel: &Path, initramfs: &Path) -> Result<OsString> {
    let name = |path: &Path| -> Result<String> {
        let path = fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))?;
        Ok(path.to_str().context("a path that is not UTF-8")?.replace(',', ",,"))
    };
    Ok(format!("{} {DOM0_WORDS},{}", name(kernel)?, name(initramfs)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_name_separates_no_modules() {
        let directory = tempfile::tempdir().unwrap();
        let [kernel, initramfs] = ["a,b", "c"].map(|name| directory.path().join(name));
        fs::write(&kernel, "").unwrap();
        fs::write(&initramfs, "").unwrap();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let modules = modules(&kernel, &initramfs).unwrap();
        let expected = format!("{0}/a,,b {DOM0_WORDS},{0}/c", directory.display());
        assert_eq!(modules, OsString::from(expected));
    }
}
