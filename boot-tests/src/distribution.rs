//! A distribution's kernel: all its modules, those that its disk and network card need among them,
//! and code for hypervisors.
//!
//! Such a kernel can be a guest of Xen and of KVM by its own means. On the wedge it must not try:
//! what it finds is a PC, and it runs on that whether it has its privileges or not.

use anyhow::{Result, ensure};
use initramfs::Archive;

use crate::debian::{Boot, Disk};
use crate::host::Host;
use crate::kernel::Kernel;
use crate::unnamed::Unnamed;
use crate::{cache, guest};

/// The modules for the disk and the card.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_net"];

/// The hosts, and the number of CPUs on each.
const HOSTS: [(Host, u32); 3] = [(Host::Plain, 1), (Host::Native, 2), (Host::Xen, 1)];

/// Runs Debian on the kernel, on every host.
///
/// # Errors
///
/// When a boot fails, or says other than the build machine.
pub fn boot(kernel: &Kernel, name: &str) -> Result<()> {
    let disk = Disk::build()?;
    let initramfs = initramfs(kernel)?;
    for (host, cpus) in HOSTS {
        let how =
            Boot { initramfs: Some(initramfs.path()), cpus, expected: "distribution", ..Boot::new(host, kernel, "") };
        let session = disk.boot(how, &format!("{name}-{host}"))?;
        let is_complete = cpus == 1 || session.log.contains(&format!("Brought up 1 node, {cpus} CPUs"));
        ensure!(is_complete, "{host}: not all of {cpus} CPUs are there");
        println!("{name}: {} verdicts on {host} with {cpus} CPUs as on the build machine", session.verdicts.len());
    }
    Ok(())
}

/// An initramfs that loads the modules, mounts the disk and starts its init.
fn initramfs(kernel: &Kernel) -> Result<Unnamed> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "root"] {
        archive = archive.directory(directory);
    }
    archive = archive.character_device("dev/console", 5, 1).file("bin/busybox", 0o755, &guest::read(guest::BUSYBOX)?);
    archive = archive.file("init", 0o755, &guest::read(cache::testdata("guests/distribution-init"))?);
    for (number, module) in kernel.modules_in_order(&MODULES)?.iter().enumerate() {
        archive = archive.file(&format!("modules/{number:02}.ko"), 0o644, &guest::read(module)?);
    }
    Unnamed::new(&archive.finish())
}
