//! What a kernel does as a process of Linux is what it does on a machine, and what its programs see
//! is what they see on the machine at hand.
//!
//! The guests are those of the other hosts. The processor is that of the build machine, and no
//! model of QEMU's. So verdicts are compared with those of the same programs on the build machine:
//! of a program nothing is emulated.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::guest_process::{GuestProcess, kill, runs};
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::programs::{self, Difference};
use boot_tests::qemu::Machine;

/// Programs that do what none should, and no more than a kernel in the lower half gives them.
const HOSTILE: [&str; 9] = [
    "hostile-calls",
    "hostile-descriptors",
    "hostile-frames",
    "hostile-instructions",
    "hostile-memory",
    "hostile-registers",
    "hostile-stacks",
    "hostile-sysenter",
    "hostile-traced",
];

/// Hardly more page tables and mappings than have to be there at the same time: what can be dropped
/// is dropped all the time.
const FEW_TABLES: &str = "afterburn.tables=64";

/// Programs about the processor.
const PROCESSOR: [&str; 4] = ["floating-point", "frames", "sensitive", "xstate"];

/// Programs of 32 bits, and 64-bit ones about what is there for such.
const NARROW: [&str; 6] = ["calls-32", "local-code-32", "local-tables", "programs-32", "segments", "thread-areas"];

/// Verdicts that differ, by what their names start with, and why.
const DIFFERENT: [(&str, &str); 8] = [
    ("frame-rip-0x7fffffffe000", "an address of the kernel's, in the lower half"),
    ("frame-rip-0xffffffffff600001", "the build machine's kernel has calls at fixed addresses (vsyscall)"),
    ("frame-rsp-push-0x7fffffff", "an address of the kernel's, in the lower half"),
    ("stack-", "0x7ffffffff000 is the kernel's, in the lower half"),
    ("look-", "the limit of one segment is the number of the processor"),
    ("traced-watchpoint", "breakpoints in debug registers do not break"),
    ("hostile-traced", "the same"),
    ("traced-vsyscall", "the build machine's kernel has calls at fixed addresses (vsyscall)"),
];

/// What the image is told to run programs in the process of their kernel, and what it says then.
const FAST: &str = "--fast";
const ONE_DOMAIN: &str = "afterburner: --fast: one trust domain";

/// Boots a guest.
fn boot(kernel: &Kernel, guest: &Guest, name: &str, expected: &str) -> Result<String> {
    boot_with(kernel, guest, name, expected, "")
}

/// The same with words for the kernel.
fn boot_with(kernel: &Kernel, guest: &Guest, name: &str, expected: &str, append: &str) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = Host::Process.machine(kernel, initramfs.path())?;
    let machine = Machine { append: append.to_owned(), timeout: Duration::from_secs(600), ..machine };
    boot_machine(&machine, name, expected)
}

/// The same with programs in the process of their kernel.
fn boot_fast(kernel: &Kernel, guest: &Guest, name: &str, expected: &str, append: &str) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = Host::Process.machine(kernel, initramfs.path())?;
    let (options, append) = (vec![FAST.into()], append.to_owned());
    let machine = Machine { options, append, timeout: Duration::from_secs(600), ..machine };
    let log = boot_machine(&machine, &format!("fast-{name}"), expected)?;
    ensure!(log.contains(ONE_DOMAIN), "the wedge did not say `{ONE_DOMAIN}`");
    Ok(log)
}

fn boot_machine(machine: &Machine<'_>, name: &str, expected: &str) -> Result<String> {
    let log = machine.boot(&format!("process-{name}"), &Expectations::read(expected)?)?;
    let entered = "afterburner: backend process, entered by Linux's program loader";
    ensure!(log.contains(entered), "the wedge did not say `{entered}`");
    ensure!(!log.contains("emulated without an annotation"), "a sensitive instruction is not annotated");
    Ok(log)
}

/// The verdicts of programs on the build machine, and how they end.
fn verdicts_here(programs: &[&str], directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut log = String::new();
    for (program, path) in programs.iter().zip(programs::build(programs, directory)?) {
        let output = Command::new("timeout").arg("300").arg(path).output().context("timeout")?;
        // As the guest's script tells of them, and its shell of a signal.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let end = match output.status.code() {
            Some(0) => format!("ok {program}: ended"),
            status => format!("FAIL {program}: status {}", status.unwrap_or(139)),
        };
        for line in said.lines().chain([end.as_str()]) {
            writeln!(log, "guest: {line}")?;
        }
    }
    Ok(programs::verdicts(&log))
}

/// Compares verdicts, and says how many are the same.
fn compare(there: &BTreeMap<String, String>, here: &BTreeMap<String, String>) -> Result<usize> {
    let is_known = |difference: &Difference| DIFFERENT.iter().any(|(known, _)| difference.name.starts_with(known));
    let differences = programs::differences(there, here);
    let (known, wrong): (Vec<_>, Vec<_>) = differences.into_iter().partition(is_known);
    ensure!(wrong.is_empty(), "on the build machine, and in a process, {}", programs::listed(&wrong));
    Ok(here.len() - known.len())
}

#[test]
fn min_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot(&kernel, &guest, "min", "shell").map(drop)
}

#[test]
fn the_virtual_cpu_is_sane_and_idles() -> Result<()> {
    boot(&Variant::LOW.build()?, &Guest::script("virtual-cpu", Vec::new()), "cpu", "virtual-cpu").map(drop)
}

#[test]
fn hostile_programs_come_to_the_same_end_as_on_the_build_machine() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let there = verdicts_here(&HOSTILE, directory.path())?;
    let (guest, _programs) = programs::guest_with(Guest::script("hostile", Vec::new()), &HOSTILE)?;
    let here = programs::verdicts(&boot_with(&kernel, &guest, "hostile", "nothing", FEW_TABLES)?);
    let same = compare(&there, &here)?;
    ensure!(same > 500, "only {same} verdicts are the same");
    println!("hostile: {same} verdicts as on the build machine");
    Ok(())
}

/// All that a kernel does for programs at once, correct to the byte, while nearly nothing stays
/// mapped.
#[test]
fn a_mixed_load_succeeds_with_few_mappings() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let (mut guest, _programs) = programs::guest_with(Guest::script("mixed", Vec::new()), &["mixed", "timers"])?;
    guest.files.push(("seconds", "10".to_owned()));
    mixed_is_good(&boot_with(&kernel, &guest, "mixed", "nothing", FEW_TABLES)?)
}

fn mixed_is_good(log: &str) -> Result<()> {
    // How late timers are, and how often they come while one is handled, depends on the machine.
    let verdicts = programs::verdicts(log);
    let mixed: Vec<_> = verdicts.iter().filter(|(name, _)| name.starts_with("mixed")).collect();
    let good = !mixed.is_empty() && mixed.iter().all(|(_, verdict)| verdict.starts_with("ok"));
    ensure!(good && log.contains("guest: mixed ended with status 0"), "{mixed:?}");
    Ok(())
}

/// They find what the wedge has in their process, forge it, and jump to its instructions.
#[test]
fn programs_get_nothing_of_the_wedge() -> Result<()> {
    all_are_ok("hostile-stub", 33)
}

/// They leave a stack for signals and flags behind, in a process that others get.
#[test]
fn programs_find_nothing_of_what_others_leave() -> Result<()> {
    all_are_ok("hostile-inherited", 3)
}

/// They forge how they stop, and have their memory taken meanwhile.
#[test]
fn programs_get_nothing_of_each_other() -> Result<()> {
    all_are_ok("hostile-stale", 6)
}

fn all_are_ok(program: &str, fewest: usize) -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let (guest, _programs) = programs::guest_with(Guest::script("hostile", Vec::new()), &[program])?;
    are_ok(&boot(&kernel, &guest, program, "nothing")?, fewest)
}

fn are_ok(log: &str, fewest: usize) -> Result<()> {
    let verdicts = programs::verdicts(log);
    let failed: Vec<_> = verdicts.iter().filter(|(_, verdict)| !verdict.starts_with("ok")).collect();
    ensure!(verdicts.len() > fewest && failed.is_empty(), "{} verdicts, of these not ok {failed:?}", verdicts.len());
    Ok(())
}

/// Where programs run in the process of their kernel, a boot to a shell and the virtual CPU are as
/// ever.
#[test]
fn fast_boots_to_a_shell_and_the_virtual_cpu_is_sane() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot_fast(&kernel, &guest, "min", "shell", "")?;
    boot_fast(&kernel, &Guest::script("virtual-cpu", Vec::new()), "cpu", "virtual-cpu", "").map(drop)
}

/// System calls are right by whatever form, however often, and whatever the program does to its
/// text; with few mappings they are forgotten all the time.
#[test]
fn fast_calls_are_right() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let (guest, _programs) = programs::guest_with(Guest::script("hostile", Vec::new()), &["hostile-calls"])?;
    for append in ["", FEW_TABLES] {
        are_ok(&boot_fast(&kernel, &guest, "calls", "nothing", append)?, 17)?;
    }
    Ok(())
}

/// All at once, correct to the byte: processes that are made and end, signals, pipes, files.
#[test]
fn fast_a_mixed_load_succeeds() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let (mut guest, _programs) = programs::guest_with(Guest::script("mixed", Vec::new()), &["mixed", "timers"])?;
    guest.files.push(("seconds", "10".to_owned()));
    for append in ["", FEW_TABLES] {
        mixed_is_good(&boot_fast(&kernel, &guest, "mixed", "nothing", append)?)?;
    }
    Ok(())
}

#[test]
fn fast_programs_find_the_processor_of_the_build_machine() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let there = verdicts_here(&PROCESSOR, directory.path())?;
    let modules = kernel.modules_named(&["msr"])?;
    let (guest, _programs) = programs::guest_with(Guest::script("processor", modules), &PROCESSOR)?;
    let here = programs::verdicts(&boot_fast(&kernel, &guest, "processor", "nothing", "")?);
    let same = compare(&there, &here)?;
    ensure!(same > 50, "only {same} verdicts are the same");
    Ok(())
}

#[test]
fn programs_find_the_processor_of_the_build_machine() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let there = verdicts_here(&PROCESSOR, directory.path())?;
    let modules = kernel.modules_named(&["msr"])?;
    let (guest, _programs) = programs::guest_with(Guest::script("processor", modules), &PROCESSOR)?;
    let here = programs::verdicts(&boot(&kernel, &guest, "processor", "nothing")?);
    let same = compare(&there, &here)?;
    ensure!(same > 50, "only {same} verdicts are the same");
    println!("processor: {same} verdicts as on the build machine");
    Ok(())
}

/// Of a host that is on AMD's processors SYSCALL is theirs, and else SYSENTER.
#[test]
fn programs_of_32_bits_find_what_they_do_on_the_build_machine() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let there = verdicts_here(&NARROW, directory.path())?;
    for (name, append) in [("narrow", ""), ("narrow-few", FEW_TABLES)] {
        let (guest, _programs) = programs::guest_with(Guest::script("processor", Vec::new()), &NARROW)?;
        let here = programs::verdicts(&boot_with(&kernel, &guest, name, "nothing", append)?);
        let same = compare(&there, &here)?;
        ensure!(same > 30, "only {same} verdicts are the same");
        println!("{name}: {same} verdicts as on the build machine");
    }
    Ok(())
}

/// Each program of the guest has a process of its own. Where Linux allows fewer, it has one when
/// its turn comes.
#[test]
fn programs_share_the_processes_that_linux_allows() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let initramfs = Guest::script("many", Vec::new()).initramfs()?;
    let guest = GuestProcess::start_among_few(&image, initramfs.path(), "many: 40 have ended")?;
    let (status, said) = guest.end()?;
    ensure!(status == Some(0), "{status:?}\n{said}");
    Ok(())
}

/// Linux refuses the memory by a signal as well.
#[test]
fn a_limit_of_the_length_of_files_is_said() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let output = Command::new("prlimit").arg("--fsize=1000000").arg(image).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let refused = "afterburner: Linux refuses the guest's memory, error 27 (file too large)";
    ensure!(output.status.code() == Some(1) && said.contains(refused), "{:?}\n{said}", output.status);
    Ok(())
}

#[test]
fn what_others_do_to_its_processes_is_outlived_or_said() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let initramfs = Guest::script("forks", Vec::new()).initramfs()?;
    let start = || GuestProcess::start(&image, initramfs.path());

    let guests = start()?;
    let status = fs::read_to_string(format!("/proc/{}/status", guests.id()))?;
    ensure!(status.contains("Seccomp:\t2"), "its own system calls are not filtered:\n{status}");
    let all = |guests: &GuestProcess| -> Result<Vec<String>> {
        Ok(std::iter::once(guests.id().to_string()).chain(guests.stubs()?).collect())
    };
    for stopped in [all(&guests)?, guests.stubs()?] {
        // At many moments: whoever waits for the wedge asks it again.
        for pause in (0..50).map(|number| Duration::from_micros(number * 173)) {
            kill("STOP", &stopped)?;
            thread::sleep(pause);
            kill("CONT", &stopped)?;
            thread::sleep(pause);
        }
        guests.goes_on()?;
    }
    for signal in ["ALRM", "CHLD", "SEGV", "BUS", "ILL", "TRAP", "FPE", "SYS", "USR1", "WINCH", "INT", "TERM", "HUP"] {
        kill(signal, &guests.stubs()?)?;
        guests.goes_on()?;
    }
    for signal in ["ALRM", "CHLD", "IO", "SEGV", "BUS", "ILL", "TRAP", "FPE", "SYS"] {
        kill(signal, &[guests.id().to_string()])?;
        guests.goes_on()?;
    }
    ensure!(guests.said()?.matches("from outside: it is ignored").count() > 5, "nothing is said");
    let stubs = guests.stubs()?;
    kill("TERM", &[guests.id().to_string()])?;
    let (status, _) = guests.end()?;
    ensure!(status == Some(143) && !stubs.iter().any(runs), "SIGTERM: {status:?}");

    let guests = start()?;
    let stubs = guests.stubs()?;
    // The wedge ends all as soon as it sees that one has ended: the others may be gone already.
    let _ = kill("KILL", &stubs[1..]);
    let (status, said) = guests.end()?;
    ensure!(
        status == Some(1) && said.contains("was ended from outside"),
        "its programs' are killed: {status:?}\n{said}"
    );
    ensure!(!stubs.iter().any(runs), "something is left");

    let guests = start()?;
    let stubs = guests.stubs()?;
    guests.kill(&stubs)?;

    // What is accessed next is mapped, and has nothing behind it.
    let guests = start()?;
    let stubs = guests.stubs()?;
    guests.memory()?.set_len(0)?;
    let (status, said) = guests.end()?;
    ensure!(status == Some(1) && said.contains("Linux has no memory for "), "without memory: {status:?}\n{said}");
    ensure!(!stubs.iter().any(runs), "something is left");
    Ok(())
}
