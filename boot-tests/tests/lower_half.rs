//! A kernel of the lower half does as a process what it does on a machine, on its NOPs.
//!
//! Here the kernel is what is tested: Linux's own tests of its entry code, modules, and whatever
//! goes wrong once in many starts. What depends on the processor is compared with the build machine
//! itself (`process.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::programs::{self, Difference};
use boot_tests::qemu::Machine;
use boot_tests::soak::Soak;
use boot_tests::{selftests, test_modules};

/// For the kernel on its NOPs, about as much as a processor has. With SMAP QEMU 7.2 executes a far
/// return of user mode with the rights of the kernel.
const CPU: &str = "max,-smap";

/// With one processor the kernel makes LOCK a DS prefix, which QEMU 7.2 heeds in 64-bit mode.
const WORDS: &str = "noreplace-smp";

/// Verdicts that may differ, and why.
const DIFFERENT: [(&str, &str); 5] = [
    ("x86-sigaltstack", "it looks for AVX-512, which the build machine may have"),
    ("x86-sigaltstack_32", "the same"),
    ("x86-sigreturn_32", "QEMU 7.2's IRET leaves the privilege level of a null selector in FS"),
    ("x86-syscall_arg_fault", "in 64-bit code AMD's processors, and QEMU's, have no SYSENTER"),
    ("x86-syscall_arg_fault_32", "the build machine's processor may have no SYSENTER"),
];

/// A test of what a processor does; on some virtual machines ICEBP is told of in front of it, again
/// and again.
const OF_THE_PROCESSOR: [&str; 2] = ["mov_ss_trap", "mov_ss_trap_32"];

/// Boots a guest on a host. Its verdicts.
fn verdicts(host: Host, kernel: &Kernel, guest: &Guest, name: &str) -> Result<BTreeMap<String, String>> {
    let initramfs = guest.initramfs()?;
    let machine = host.machine(kernel, initramfs.path())?;
    let append = format!("{} {WORDS}", machine.append);
    let machine = Machine { append, timeout: Duration::from_secs(600), cpu: CPU, ..machine };
    let log = machine.boot(&format!("lower-half-{name}-{host}"), &Expectations::read("nothing")?)?;
    ensure!(!log.contains("emulated without an annotation"), "a sensitive instruction is not annotated");
    Ok(programs::verdicts(&log))
}

/// Boots a guest on both, and compares the verdicts. How many there are.
fn compare(kernel: &Kernel, guest: &Guest, name: &str) -> Result<usize> {
    let plain = verdicts(Host::Plain, kernel, guest, name)?;
    let process = verdicts(Host::Process, kernel, guest, name)?;
    let is_known = |difference: &Difference| DIFFERENT.iter().any(|(known, _)| difference.name == *known);
    let differences = programs::differences(&process, &plain);
    let wrong: Vec<_> = differences.into_iter().filter(|difference| !is_known(difference)).collect();
    ensure!(wrong.is_empty(), "on its NOPs, and in a process, {}", programs::listed(&wrong));
    Ok(plain.len())
}

#[test]
fn linux_tests_of_the_entry_code_have_the_same_verdicts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut programs = selftests::build(directory.path())?;
    programs.retain(|program| !OF_THE_PROCESSOR.iter().any(|name| program.ends_with(name)));
    let all = programs.len();
    let count = compare(&Variant::LOW.build()?, &Guest { programs, ..Guest::script("x86", Vec::new()) }, "x86")?;
    ensure!(count == all && all >= 40, "{count} verdicts of {all}");
    Ok(())
}

#[test]
fn modules_come_and_go() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let kernel = Variant::LOW.build()?;
    let mut modules = kernel.modules_named(&["msr", "cpuid"])?;
    modules.extend(test_modules::build(Variant::LOW, directory.path(), [40, 6])?);
    let count = compare(&kernel, &Guest::script("modules", modules), "modules")?;
    ensure!(count == 2, "{count} verdicts");
    Ok(())
}

#[test]
fn ten_starts_are_like_one() -> Result<()> {
    let report = Soak { host: Host::Process, boots: 10, seconds: 0 }.run(&Variant::LOW.build()?)?;
    println!("{report}");
    ensure!(report.good(), "{}", report.failures().join("\n"));
    Ok(())
}
