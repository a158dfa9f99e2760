//! Debian runs on every host as it does on the build machine: apt, Perl's and Python's own tests, gcc, a tree of 100 MB on
//! the disk, a transfer over the network, and a login.

use anyhow::{Result, ensure};
use boot_tests::debian::Disk;
use boot_tests::host::Host;
use boot_tests::kernel::Variant;

/// Words for a kernel that is to see an old PC's interrupt controller and no more, as guests of some hosts do.
const OLD_PC: &str = "acpi=off noapic nolapic";

/// The hosts, the one that the others are compared with first; words for the kernel's command line, and the interrupt
/// controller that it must then find.
const HOSTS: [(Host, &str, &str); 2] = [(Host::Plain, OLD_PC, "XT-PIC"), (Host::Xen, "", "XT-PIC")];

#[test]
fn debian_runs_alike_on_every_host() -> Result<()> {
    let kernel = Variant::NET.build()?;
    let disk = Disk::build()?;
    let mut first = None;
    for (host, append, controller) in HOSTS {
        let session = disk.boot(host, &kernel, append, &format!("debian-{host}"))?;
        let interrupts = session.log.lines().find(|line| line.contains("guest: interrupts ")).unwrap_or_default();
        ensure!(interrupts.contains(controller), "{host}: not by {controller}: {interrupts}");
        let first = first.get_or_insert_with(|| session.verdicts.clone());
        ensure!(session.verdicts == *first, "{:#?} on {host}, {first:#?} on {}", session.verdicts, HOSTS[0].0);
        println!("debian: {} verdicts on {host}", session.verdicts.len());
    }
    Ok(())
}
