//! The root task of seL4: a kernel of the lower half does there what it does on a machine, on its
//! NOPs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::{Host, image, sel4, sel4_for_others};
use boot_tests::kernel::{Kernel, Variant, afterburner};
use boot_tests::programs::{self, Difference};
use boot_tests::qemu::Machine;
use boot_tests::{selftests, test_modules};

/// With one processor the kernel makes LOCK a DS prefix, which QEMU 7.2 heeds in 64-bit mode.
const WORDS: &str = "noreplace-smp";

/// Verdicts that differ, by what their names start with, and why.
const DIFFERENT: [(&str, &str); 21] = [
    ("frame-32-bit", "seL4 has no descriptor for code of 32 bits: such a program is ended"),
    ("frame-cs-0", "the same"),
    ("frame-cs-2", "the same"),
    ("hostile-frames", "its status says so"),
    ("no-execution", "seL4 does not enable EFER.NXE: what is mapped can be executed"),
    ("hostile-memory", "its status says so"),
    ("traced-watchpoint", "the debug registers are seL4's, which programs its own threads by"),
    ("hostile-traced", "its status says so"),
    ("instruction-int_0xf3", "QEMU 7.2 tells a program of the machine itself twice the number"),
    ("instruction-sysenter", "it is seL4's own system call"),
    ("hostile-instructions", "its status says so"),
    ("user-rdfsbase", "seL4, as it is built here, does not enable CR4.FSGSBASE"),
    ("x86-fsgsbase", "seL4 5.0.0 has no GS base: that of a program has no effect"),
    ("x86-ldt_gdt", "seL4 has no local descriptors"),
    ("x86-nx_stack", "seL4 does not enable EFER.NXE"),
    ("x86-mov_ss_trap", "SYSENTER ends it on the machine itself"),
    ("x86-syscall_arg_fault", "seL4's SYSENTER takes RIP and RSP from RDX and RCX"),
    ("x86-sigreturn", "it loads selectors of 16 and 32 bits"),
    ("x86-single_step_syscall", "behind SYSENTER, which is refused, TF is clear"),
    ("x86-sysret_ss_attrs", "it goes on in code of 32 bits"),
    ("x86-programs-32", "they are of 32 bits"),
];

/// Boots a guest on seL4.
fn boot(kernel: &Kernel, guest: &Guest, name: &str, expected: &str) -> Result<String> {
    boot_with(kernel, guest, name, expected, Vec::new())
}

/// The same, with options of QEMU's.
fn boot_with(kernel: &Kernel, guest: &Guest, name: &str, expected: &str, options: Vec<OsString>) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = Host::L4.machine(kernel, initramfs.path())?;
    let machine = Machine { append: WORDS.to_owned(), timeout: Duration::from_secs(600), options, ..machine };
    let log = machine.boot(&format!("l4-{name}"), &Expectations::read(expected)?)?;
    let entered = "afterburner: backend l4, seL4 5.0.0, entered by seL4";
    ensure!(log.contains(entered), "the wedge did not say `{entered}`");
    ensure!(!log.contains("emulated without an annotation"), "a sensitive instruction is not annotated");
    Ok(log)
}

/// The verdicts of a guest on its NOPs, on the same processor.
fn verdicts_on_nops(kernel: &Kernel, guest: &Guest, name: &str) -> Result<BTreeMap<String, String>> {
    let initramfs = guest.initramfs()?;
    let cpu = Host::L4.machine(kernel, initramfs.path())?.cpu;
    let machine = Host::Plain.machine(kernel, initramfs.path())?;
    let machine = Machine { append: WORDS.to_owned(), timeout: Duration::from_secs(600), cpu, ..machine };
    Ok(programs::verdicts(&machine.boot(&format!("l4-{name}-plain"), &Expectations::read("nothing")?)?))
}

/// Boots a guest on both, and compares the verdicts. How many are the same.
fn compare(kernel: &Kernel, guest: &Guest, name: &str) -> Result<usize> {
    let plain = verdicts_on_nops(kernel, guest, name)?;
    let here = programs::verdicts(&boot(kernel, guest, name, "nothing")?);
    let is_known = |difference: &Difference| DIFFERENT.iter().any(|(known, _)| difference.name.starts_with(known));
    let differences = programs::differences(&plain, &here);
    let (known, wrong): (Vec<_>, Vec<_>) = differences.into_iter().partition(is_known);
    ensure!(wrong.is_empty(), "on its NOPs, and on seL4, {}", programs::listed(&wrong));
    Ok(plain.len() - known.len())
}

#[test]
fn min_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot(&kernel, &guest, "min", "shell").map(drop)
}

#[test]
fn memory_is_served_up_to_8_gigabytes() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    for (megabytes, least) in [("2048", 1700 << 10), ("9216", 6100 << 10)] {
        let options = ["-m", megabytes].map(OsString::from).into();
        let log = boot_with(&kernel, &guest, &format!("memory-{megabytes}"), "shell", options)?;
        // Memory: AVAILABLEK/TOTALK available (...)
        let total = log.split_once("Memory: ").and_then(|(_, rest)| rest.split(['/', 'K']).nth(2)?.parse::<u64>().ok());
        ensure!(total.is_some_and(|total| total > least), "of {megabytes} MB Linux has {total:?} KB");
        ensure!(
            log.contains(" MB of memory are left alone") == (megabytes == "9216"),
            "what is left alone is not said"
        );
    }
    Ok(())
}

/// What `run` returns when the time was up.
const TIMED_OUT: i32 = 124;

/// What `run` says of a machine, or of a seL4, that the wedge cannot run on.
fn refused(how: Option<&str>, arguments: &[&str], message: &str, status: i32) -> Result<()> {
    let kernel = how.map_or_else(sel4, sel4_for_others)?;
    let mut run = Command::new(afterburner()?);
    let seconds = if status == TIMED_OUT { "10" } else { "60" };
    run.args(["run", "--host", "l4", "--timeout", seconds, "--sel4"]).arg(kernel).args(arguments);
    let output = run.arg(image(&Variant::LOW.build()?)?).args(["--", "true"]).output()?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    ensure!(said.contains(message), "{how:?} {arguments:?}: no `{message}` in\n{said}");
    ensure!(output.status.code() == Some(status), "{how:?} {arguments:?}: {}", output.status);
    Ok(())
}

#[test]
fn what_it_cannot_run_on_is_named() -> Result<()> {
    const OTHER: &str = "afterburner: seL4 does not map the wedge's window: it has to be built for one processor";
    const SILENT: &str = "afterburner: seL4 stopped before the wedge could say anything";
    const LARGE: &str = "qemu64,vendor=GenuineIntel,+fsgsbase,+pdpe1gb";
    refused(Some("smp"), &[], OTHER, 125)?;
    refused(Some("huge-pages"), &["--cpu", LARGE], OTHER, 125)?;
    refused(Some("huge-pages"), &[], SILENT, 125)?;
    refused(Some("syscall"), &[], SILENT, 125)?;
    refused(None, &["--memory", "40"], SILENT, 125)?;
    // seL4 waits without end, for its own image, or for the timer.
    for arguments in [["--memory", "20"], ["--qemu-opts", "-machine pc,pit=off"]] {
        refused(None, &arguments, "the time was up before the wedge could say anything", TIMED_OUT)?;
    }
    Ok(())
}

#[test]
fn the_virtual_cpu_is_sane_and_idles() -> Result<()> {
    // seL4 5.0.0, as it is built here, has neither in CR4.
    let files = vec![("absent", "fsgsbase xsave".to_owned())];
    let guest = Guest { files, ..Guest::script("virtual-cpu", Vec::new()) };
    boot(&Variant::LOW.build()?, &guest, "cpu", "virtual-cpu").map(drop)
}

#[test]
fn the_machines_devices_are_the_guests() -> Result<()> {
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(32 << 20)?;
    let drive = format!("file={},if=none,id=disk,format=raw", disk.path().display());
    let options = ["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"];
    let network = ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network"];
    let options = options.into_iter().chain(network).map(OsString::from).collect();
    let guest = Guest::script("devices", Vec::new());
    boot_with(&Variant::LOW.build()?, &guest, "devices", "devices", options).map(drop)
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
fn programs_see_the_processor_that_there_is() -> Result<()> {
    const PROGRAMS: [&str; 4] = ["floating-point", "frames", "sensitive", "xstate"];
    let kernel = Variant::LOW.build()?;
    let (guest, _programs) = programs::guest_with(Guest::script("processor", Vec::new()), &PROGRAMS)?;
    let count = compare(&kernel, &guest, "processor")?;
    ensure!(count > 90, "only {count} verdicts are the same");
    Ok(())
}

#[test]
fn hostile_programs_come_to_the_same_end() -> Result<()> {
    const HOSTILE: [&str; 9] = [
        "hostile-calls",
        "hostile-floating-point",
        "hostile-frames",
        "hostile-instructions",
        "hostile-memory",
        "hostile-registers",
        "hostile-stacks",
        "hostile-sysenter",
        "hostile-traced",
    ];
    let kernel = Variant::LOW.build()?;
    let (guest, _programs) = programs::guest_with(Guest::script("hostile", Vec::new()), &HOSTILE)?;
    let count = compare(&kernel, &guest, "hostile")?;
    ensure!(count > 500, "only {count} verdicts are the same");
    Ok(())
}

#[test]
fn linux_tests_of_the_entry_code_have_the_same_verdicts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut programs = selftests::build(directory.path())?;
    programs.retain(|program| !program.to_string_lossy().ends_with("_32"));
    let all = programs.len();
    let guest = Guest { programs, ..Guest::script("x86", Vec::new()) };
    let count = compare(&Variant::LOW.build()?, &guest, "x86")?;
    ensure!(count <= all && count >= 10, "{count} verdicts of {all} are the same");
    Ok(())
}
