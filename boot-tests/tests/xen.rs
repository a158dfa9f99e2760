//! What a kernel does on the wedge below Xen is what it does without one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::qemu::Machine;
use boot_tests::{probes, programs, selftests, wedge_port};

/// The model of CPU that Xen gets, for the kernel without a wedge too: what is compared are not features.
const CPU: &str = "max,-smap";

/// The event tests of the `hard` kernel take half of its boot.
const HARD: &str = "trace_event=initcall";

/// Boots a guest on a host.
fn boot(host: Host, kernel: &Kernel, guest: &Guest, name: &str, expected: &str, append: &str) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = host.machine(kernel, initramfs.path())?;
    let append = format!("{} {append}", machine.append);
    let machine = Machine { append, cpu: CPU, timeout: Duration::from_secs(300), ..machine };
    let log = machine.boot(&format!("xen-{name}-{host}"), &Expectations::read(expected)?)?;
    if host == Host::Xen {
        let entered = "afterburner: backend xen, dom0, entered by Xen PV";
        ensure!(log.contains(entered), "the wedge did not say `{entered}`");
    }
    Ok(log)
}

/// Boots a guest without a wedge and on Xen, and compares its verdicts.
fn compare(kernel: &Kernel, guest: &Guest, name: &str, expected: &str, append: &str) -> Result<()> {
    let verdicts = |host: Host| -> Result<BTreeMap<String, String>> {
        Ok(programs::verdicts(&boot(host, kernel, guest, name, expected, append)?))
    };
    let (there, here) = (verdicts(Host::Plain)?, verdicts(Host::Xen)?);
    ensure!(!there.is_empty(), "no verdicts");
    let names: std::collections::BTreeSet<_> = there.keys().chain(here.keys()).collect();
    let differences: Vec<_> = names
        .iter()
        .filter(|name| there.get(**name) != here.get(**name))
        .map(|name| format!("{name}: {:?} without a wedge, {:?} on Xen", there.get(*name), here.get(*name)))
        .collect();
    ensure!(differences.is_empty(), "{} verdicts differ:\n{}", differences.len(), differences.join("\n"));
    println!("{name}: {} verdicts on Xen as without a wedge", here.len());
    Ok(())
}

/// A guest with programs from `testdata/programs`. The directory holds them until the guest has been booted.
fn with_programs(guest: Guest, names: &[&str]) -> Result<(Guest, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let programs = programs::build(names, directory.path())?;
    Ok((Guest { programs, ..guest }, directory))
}

#[test]
fn min_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot(Host::Xen, &kernel, &guest, "min", "shell", "").map(drop)
}

#[test]
fn hard_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot(Host::Xen, &kernel, &guest, "hard", "shell", HARD).map(drop)
}

fn exceptions(variant: Variant, expected: &str, append: &str) -> Result<()> {
    let kernel = variant.build()?;
    let names = ["msr", "frames", "segments", "xstate", "sensitive"];
    let (guest, _programs) = with_programs(Guest::script("exceptions", kernel.modules_named(&["msr"])?), &names)?;
    compare(&kernel, &guest, &format!("exceptions-{}", variant.name()), expected, append)
}

#[test]
fn exceptions_of_min_reach_the_kernels_fix_ups() -> Result<()> {
    exceptions(Variant::MIN, "exceptions", "")
}

#[test]
fn exceptions_of_hard_reach_the_kernels_fix_ups() -> Result<()> {
    exceptions(Variant::HARD, "exceptions-hard", HARD)
}

fn entry_code(variant: Variant, expected: &str, append: &str) -> Result<()> {
    let kernel = variant.build()?;
    let directory = tempfile::tempdir()?;
    let programs = selftests::build(directory.path())?;
    let guest = Guest { programs, ..Guest::script("x86", Vec::new()) };
    compare(&kernel, &guest, &format!("x86-{}", variant.name()), expected, append)
}

#[test]
fn linux_tests_of_the_entry_code_of_min() -> Result<()> {
    entry_code(Variant::MIN, "x86-min", "")
}

#[test]
fn linux_tests_of_the_entry_code_of_hard() -> Result<()> {
    entry_code(Variant::HARD, "x86", HARD)
}

#[test]
fn modules_come_and_go() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let guest = Guest::script("modules", kernel.modules_named(&["msr", "cpuid"])?);
    compare(&kernel, &guest, "modules", "modules", "")
}

#[test]
fn functions_full_of_sites_can_be_probed_and_traced() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let guest = Guest::script("probes", kernel.modules_named(&["msr"])?);
    let (mut guest, _programs) = with_programs(guest, &["load", "msr", "frames"])?;
    guest.files.push(("sites", probes::sites(&kernel.vmlinux(), &probes::FUNCTIONS)?));
    boot(Host::Xen, &kernel, &guest, "probes", "probes", HARD).map(drop)
}

/// cpuid.ko has one site, msr.ko two.
#[test]
fn the_sites_of_modules_are_rewritten_while_they_are_loaded() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let directory = tempfile::tempdir()?;
    let programs = vec![wedge_port::program(directory.path())?];
    let guest = Guest { programs, ..Guest::script("module-sites", kernel.modules_named(&["msr", "cpuid"])?) };
    boot(Host::Xen, &kernel, &guest, "module-sites", "module-sites", "").map(drop)
}
