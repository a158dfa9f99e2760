//! Programs that do what no program should, and a load of everything at once: the same ends on
//! every host.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::programs;
use boot_tests::qemu::Machine;
use boot_tests::soak::Soak;

/// The one that the others are compared with first.
const HOSTS: [Host; 3] = [Host::Plain, Host::Native, Host::Xen];

/// The model of CPU that Xen gets too, so that what user mode sees of it is the same.
const CPU: &str = "max,-smap";

/// On Xen there are hardly more page tables than have to be there at the same time: what can be
/// dropped is dropped all the time.
const FEW_TABLES: &str = "afterburn.tables=64";

const PROGRAMS: [&str; 10] = [
    "hostile-descriptors",
    "hostile-evictions",
    "hostile-frames",
    "hostile-instructions",
    "hostile-limits",
    "hostile-memory",
    "hostile-registers",
    "hostile-stacks",
    "hostile-sysenter",
    "hostile-traced",
];

fn verdicts(host: Host, kernel: &Kernel, guest: &Guest) -> Result<BTreeMap<String, String>> {
    let initramfs = guest.initramfs()?;
    let timeout = Duration::from_secs(900);
    let machine = host.machine(kernel, initramfs.path())?;
    let append = if host == Host::Xen { FEW_TABLES.to_owned() } else { machine.append.clone() };
    let machine = Machine { cpu: CPU, timeout, append, ..machine };
    let log = machine.boot(&format!("hostile-{host}"), &Expectations::read("hostile")?)?;
    Ok(programs::verdicts(&log))
}

#[test]
fn hostile_programs_come_to_the_same_end_everywhere() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let (guest, _programs) = programs::guest_with(Guest::script("hostile", Vec::new()), &PROGRAMS)?;
    let (first, others) = HOSTS.split_first().context("no host")?;
    let there = verdicts(*first, &kernel, &guest)?;
    ensure!(there.len() > 600, "only {} verdicts on {first}", there.len());
    for host in others {
        let here = verdicts(*host, &kernel, &guest)?;
        let differences = programs::differences(&there, &here);
        ensure!(differences.is_empty(), "on {first} and on {host}, {}", programs::listed(&differences));
        println!("hostile: {} verdicts on {host} as on {first}", here.len());
    }
    Ok(())
}

#[test]
fn a_few_boots_and_a_short_load_succeed() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    for host in [Host::Native, Host::Xen] {
        let report = Soak { host, boots: 2, seconds: 15 }.run(&kernel)?;
        println!("{report}");
        ensure!(report.good(), "{report}\n{}", report.failures().join("\n"));
    }
    Ok(())
}
