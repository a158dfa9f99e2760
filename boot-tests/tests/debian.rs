//! Debian runs on every host as it does on the build machine: apt, Perl's and Python's own tests,
//! gcc, a tree of 100 MB on the disk, a transfer over the network, and a login.

use anyhow::{Result, ensure};
use boot_tests::debian::{Boot, Disk};
use boot_tests::host::Host;
use boot_tests::kernel::Variant;

/// The hosts; words for the kernel's command line, and the interrupt controller that it must then
/// find. The disk was made in a session on the build machine itself, with which each boot is
/// compared. So the machine without a wedge need not be in the list: `(Host::Plain,
/// Variant::NET, "acpi=off noapic nolapic", "XT-PIC")` and `(Host::Native, Variant::NET, "",
/// "IO-APIC")` do as well.
const HOSTS: [(Host, Variant, &str, &str); 3] = [
    (Host::Process, Variant::LOW, "", "XT-PIC"),
    (Host::Xen, Variant::NET, "", "XT-PIC"),
    (Host::L4, Variant::LOW, "", "XT-PIC"),
];

#[test]
fn debian_runs_alike_on_every_host() -> Result<()> {
    let disk = Disk::build()?;
    for (host, variant, append, controller) in HOSTS {
        let kernel = variant.build()?;
        let session = disk.boot(Boot::new(host, &kernel, append), &format!("debian-{host}"))?;
        let interrupts = session.log.lines().find(|line| line.contains("guest: interrupts ")).unwrap_or_default();
        ensure!(interrupts.contains(controller), "{host}: not by {controller}: {interrupts}");
        println!("debian: {} verdicts on {host}", session.verdicts.len());
    }
    Ok(())
}
