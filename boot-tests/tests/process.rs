//! What a kernel does as a process of Linux is what it does on a machine, and what its programs see
//! is what they see on the machine at hand.
//!
//! The guests are those of the other hosts. The processor is that of the build machine, and no
//! model of QEMU's. So verdicts are compared with those of the same programs on the build machine:
//! of a program nothing is emulated.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::programs::{self, Difference};
use boot_tests::qemu::Machine;
use boot_tests::server;

/// Programs that do what none should, and no more than a kernel in the lower half gives them.
const HOSTILE: [&str; 8] = [
    "hostile-calls",
    "hostile-descriptors",
    "hostile-frames",
    "hostile-instructions",
    "hostile-memory",
    "hostile-registers",
    "hostile-stacks",
    "hostile-traced",
];

/// Hardly more page tables and mappings than have to be there at the same time: what can be dropped
/// is dropped all the time.
const FEW_TABLES: &str = "afterburn.tables=64";

/// Programs about the processor.
const PROCESSOR: [&str; 3] = ["frames", "sensitive", "xstate"];

/// Programs of 32 bits, and 64-bit ones about what is there for such.
const NARROW: [&str; 4] = ["calls-32", "programs-32", "segments", "thread-areas"];

/// Verdicts that differ, by what their names start with, and why.
const DIFFERENT: [(&str, &str); 14] = [
    ("frame-cs-local", "a kernel in the lower half is configured without local descriptor tables"),
    ("frame-local", "the same"),
    ("frame-ss-local", "the same"),
    ("frame-rip-0x7fffffffe000", "an address of the kernel's, in the lower half"),
    ("frame-rip-0xffffffffff600001", "the build machine's kernel has calls at fixed addresses (vsyscall)"),
    ("frame-rsp-push-0x7fffffff", "an address of the kernel's, in the lower half"),
    ("stack-", "0x7ffffffff000 is the kernel's, in the lower half"),
    ("local-tables", "a kernel in the lower half is configured without local descriptor tables"),
    ("segments-local", "the same"),
    ("not-needed", "the kernel is configured without `madvise`"),
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

/// A guest whose programs come and go without an end.
struct Guests {
    process: Child,
    log: tempfile::NamedTempFile,
}

impl Guests {
    fn start(image: &Path, initramfs: &Path) -> Result<Self> {
        Self::start_with(image, initramfs, &[])
    }

    fn start_with(image: &Path, initramfs: &Path, options: &[&str]) -> Result<Self> {
        Self::start_saying(image, initramfs, options, "forks: begins")
    }

    /// Starts one, and waits until it says something.
    fn start_saying(image: &Path, initramfs: &Path, options: &[&str], first: &str) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(image);
        command.args(options).args(["--memory", "128", "--initrd"]).arg(initramfs).args([
            "quiet",
            "panic=-1",
            "printk.devkmsg=on",
        ]);
        let output: File = log.reopen()?;
        let process = command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output).spawn()?;
        let guests = Self { process, log };
        guests.wait_for(first, 1)?;
        Ok(guests)
    }

    fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log.path())?).into_owned())
    }

    /// Waits until it has said something so many times.
    fn wait_for(&self, what: &str, times: usize) -> Result<()> {
        let start = Instant::now();
        while self.said()?.matches(what).count() < times {
            ensure!(start.elapsed() < Duration::from_secs(60), "not {times} times `{what}`:\n{}", self.said()?);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether its programs still come and go.
    fn goes_on(&self) -> Result<()> {
        let already = self.said()?.matches("forks: alive").count();
        self.wait_for("forks: alive", already + 2)
    }

    /// The processes that its programs run in.
    fn stubs(&self) -> Result<Vec<String>> {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        Ok(children.split_whitespace().map(str::to_owned).collect())
    }

    /// Ends it as nothing can prevent, and waits until processes that it has started are gone.
    fn kill(self, others: &[String]) -> Result<()> {
        kill("KILL", &[self.process.id().to_string()])?;
        self.end()?;
        let start = Instant::now();
        while others.iter().any(runs) {
            ensure!(start.elapsed() < Duration::from_secs(60), "killed: other processes are left");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// How it ends, within a minute.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok((status.code(), self.said()?));
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "it does not end:\n{}", self.said()?);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal.
fn kill(signal: &str, processes: &[String]) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).args(processes).status()?;
    ensure!(status.success(), "kill -{signal} {processes:?}: {status}");
    Ok(())
}

/// Whether a process is there, and has not ended.
fn runs(process: &String) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}

#[test]
fn what_others_do_to_its_processes_is_outlived_or_said() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let initramfs = Guest::script("forks", Vec::new()).initramfs()?;
    let start = || Guests::start(&image, initramfs.path());

    let guests = start()?;
    let status = fs::read_to_string(format!("/proc/{}/status", guests.process.id()))?;
    ensure!(status.contains("Seccomp:\t2"), "its own system calls are not filtered:\n{status}");
    let all = |guests: &Guests| -> Result<Vec<String>> {
        Ok(std::iter::once(guests.process.id().to_string()).chain(guests.stubs()?).collect())
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
    let stubs = guests.stubs()?;
    kill("TERM", &[guests.process.id().to_string()])?;
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
    guests.kill(&stubs)
}

/// What is written to a disk is in the host's file, and what is not to be written is not.
#[test]
fn disks_keep_what_is_written_to_them() -> Result<()> {
    const MB: u64 = 1 << 20;
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    for (name, length) in [("files", 32 * MB), ("pattern", 8 * MB), ("large", 1024 * MB)] {
        File::create(path(name))?.set_len(length)?;
    }
    let read_only = b"read-only".iter().copied().chain(0..=255).cycle().take(4096).collect::<Vec<u8>>();
    fs::write(path("still"), &read_only)?;
    let kept = vec![b'x'; 32768];
    fs::write(path("kept"), &kept)?;
    let run = |script: &'static str, disks: &[&str]| {
        let initramfs = Guest::script(script, Vec::new()).initramfs()?;
        let machine = Host::Process.machine(&kernel, initramfs.path())?;
        // Beyond a limit, Linux takes nothing, as it does when there is no room.
        let limited = path("limited");
        let image = machine.kernel.clone().context("an image")?;
        fs::write(&limited, format!("#!/bin/sh\nexec prlimit --fsize={} {} \"$@\"\n", 512 * MB, image.display()))?;
        fs::set_permissions(&limited, fs::Permissions::from_mode(0o755))?;
        let options = disks.iter().flat_map(|disk| ["--disk".into(), path(disk).into()]).collect();
        let machine = Machine { kernel: Some(limited), options, timeout: Duration::from_secs(600), ..machine };
        machine.boot(&format!("process-{script}"), &Expectations::read(script)?)
    };
    let log = run("disk", &["files", "pattern", "still,ro", "large", "kept,snapshot"])?;
    ensure!(log.contains("large: Linux refuses to write it, error 27 (file too large)"), "the log has no reason");
    let pattern = fs::read(path("pattern"))?;
    let expected = b"what the guest has written\n".iter().copied().cycle().take(4 << 20);
    ensure!(pattern[1 << 20..5 << 20].iter().copied().eq(expected), "the host's file has not what was written");
    ensure!(pattern[..1 << 20].iter().chain(&pattern[5 << 20..]).all(|byte| *byte == 0), "more than that was written");
    ensure!(fs::read(path("still"))? == read_only, "a disk that cannot be written was");
    ensure!(fs::read(path("kept"))? == kept, "a snapshot has changed its file");
    let files = fs::read(path("files"))?;
    run("disk-again", &["files,ro"])?;
    ensure!(fs::read(path("files"))? == files, "a disk that cannot be written was");
    Ok(())
}

/// What is no disk is refused before the guest runs, with its name and the reason.
#[test]
fn what_is_no_disk_is_refused() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    File::create(path("odd"))?.set_len(1000)?;
    File::create(path("empty"))?;
    let used = File::create(path("used"))?;
    used.set_len(1024)?;
    used.lock()?;
    fs::create_dir(path("directory"))?;
    let status = Command::new("mkfifo").arg(path("pipe")).status()?;
    ensure!(status.success(), "mkfifo");
    let machine = Machine::image(boot_tests::host::image(&kernel)?);
    for (name, reason) in [
        ("odd", "has 1000 bytes, which is no multiple of 512"),
        ("odd,ro", "has 1000 bytes, which is no multiple of 512"),
        ("odd,snapshot", "has 1000 bytes, which is no multiple of 512"),
        ("used,snapshot", "another process has locked it"),
        ("empty", "has no bytes"),
        ("used", "another process has locked it"),
        ("used,ro", "another process has locked it"),
        ("missing", "cannot be opened, error 2 (no such file or directory)"),
        ("directory", "cannot be opened, error 21 (is a directory)"),
        ("directory,ro", "neither a file nor a block device"),
        ("pipe", "neither a file nor a block device"),
        ("pipe,ro", "neither a file nor a block device"),
    ] {
        let options = vec!["--disk".into(), path(name).into()];
        let machine = Machine { process: true, options, ..machine.clone() };
        let output = machine.command("stdio").stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let file = path(name.split(',').next().unwrap_or(name));
        ensure!(said.contains(&format!("--disk {}: {reason}", file.display())), "{name}: {said}");
        ensure!(output.status.code() == Some(1) && !said.contains("Linux version"), "{name}: {:?}", output.status);
    }
    Ok(())
}

/// What the guest does in a directory is what the host finds there, and nothing outside.
#[test]
fn directories_are_shared() -> Result<()> {
    const BIG: u32 = 20_000_003;
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::create_dir_all(path("share/thousand"))?;
    fs::create_dir(path("still"))?;
    fs::create_dir(path("outside"))?;
    let big: Vec<u8> = (0..BIG).map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
    for (name, contents) in [
        ("share/greeting", &b"from the host\n"[..]),
        ("share/big", &big),
        ("share/closed", b"?"),
        ("still/file", b"still\n"),
        ("outside/secret", b"the host's\n"),
    ] {
        fs::write(path(name), contents)?;
    }
    let sum = Command::new("sha256sum").stdin(File::open(path("share/big"))?).output()?;
    fs::write(path("share/sum"), sum.stdout)?;
    fs::set_permissions(path("share/closed"), fs::Permissions::from_mode(0o0))?;
    for number in 0..1000 {
        fs::write(path(&format!("share/thousand/entry-{number:0width$}", width = number % 200 + 1)), "line\n")?;
    }
    std::os::unix::fs::symlink("/host-only", path("share/outside"))?;
    let before = fs::read_dir(path("outside"))?.count();

    let initramfs = Guest::script("share", Vec::new()).initramfs()?;
    let machine = Host::Process.machine(&kernel, initramfs.path())?;
    // Without the rights of root to files, if it is root who tests.
    let image = machine.kernel.clone().context("an image")?;
    let without = path("without");
    let text = "[ \"$(id -u)\" != 0 ] || without='setpriv --bounding-set=-chown,-dac_override,-dac_read_search,-mknod'";
    write_script(&without, &format!("{text}\nexec $without {} \"$@\"", image.display()))?;
    let still = format!("{},ro", path("still").display());
    let options = vec!["--share".into(), path("share").into(), "--share".into(), still.into()];
    let machine = Machine { kernel: Some(without), options, timeout: Duration::from_secs(600), ..machine };
    machine.boot("process-share", &Expectations::read("share")?)?;

    ensure!(fs::read(path("share/copy"))? == big, "the host has not what the guest has copied");
    for cache in ["none", "mmap", "loose"] {
        let answer = fs::read_to_string(path(&format!("share/answer-{cache}")))?;
        ensure!(answer == format!("by way of {cache}\nand more\n"), "{answer}");
    }
    ensure!(fs::read_dir(path("share/made"))?.count() == 888, "the host finds other entries");
    ensure!(fs::metadata(path("share/to/file"))?.len() == 100_000, "the file is not as long as it was made");
    ensure!(fs::metadata(path("share/to/file"))?.permissions().mode() & 0o7777 == 0o640, "other permissions");
    ensure!(fs::read_link(path("share/to/root"))? == Path::new("/"), "another link");
    ensure!(fs::read_dir(path("outside"))?.count() == before, "something outside has changed");
    ensure!(fs::read_dir(path("still"))?.count() == 1 && fs::read(path("still/file"))? == b"still\n", "it has changed");
    Ok(())
}

#[test]
fn a_guest_outlives_whoever_serves_its_directories() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("file"), "still there\n")?;
    let initramfs = Guest::script("share-ended", Vec::new()).initramfs()?;
    let share = directory.path().to_string_lossy().into_owned();
    let guests = Guests::start_saying(&image, initramfs.path(), &["--share", &share], "share: still there")?;
    // It is the one with the directory open.
    let has_it_open = |process: &String| {
        let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == directory.path())
    };
    let servers: Vec<_> = guests.stubs()?.into_iter().filter(has_it_open).collect();
    ensure!(servers.len() == 1, "{servers:?} serve the directory");
    // It does not end by what ends the guest.
    for signal in ["TERM", "INT", "KILL"] {
        kill(signal, &servers)?;
    }
    let (status, said) = guests.end()?;
    ensure!(status == Some(0) && said.contains("share: I/O errors"), "{status:?}\n{said}");
    let log = format!("--share {share}: the process that serves it does not answer");
    ensure!(said.contains(&log), "the log does not say so: {said}");
    Ok(())
}

#[test]
fn what_is_no_directory_is_refused() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::write(path("file"), "")?;
    for (name, reason) in [
        ("missing", "cannot be opened, error 2 (no such file or directory)"),
        ("missing,ro", "cannot be opened, error 2 (no such file or directory)"),
        ("file", "is no directory"),
    ] {
        let output = Command::new(&image).arg("--share").arg(path(name)).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let shown = path(name.split(',').next().unwrap_or(name));
        ensure!(said.contains(&format!("--share {}: {reason}", shown.display())), "{name}: {said}");
        ensure!(output.status.code() == Some(1) && !said.contains("Linux version"), "{name}: {:?}", output.status);
    }
    Ok(())
}

/// An image, or a script that starts one with other programs at hand.
fn wrapped(image: &Path, directory: &Path) -> Result<std::path::PathBuf> {
    let path = directory.join("image");
    write_script(&path, &format!("PATH={} exec {} \"$@\"", directory.display(), image.display()))?;
    Ok(path)
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Boots a guest with a network, by another program than the image, which starts that.
fn boot_with_network(guest: &Guest, name: &'static str, image: Option<&Path>, net: &str) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = Host::Process.machine(&Variant::LOW.build()?, initramfs.path())?;
    let kernel = image.map(Path::to_owned).or(machine.kernel);
    let options = vec!["--net".into(), net.into()];
    let machine = Machine { kernel, options, timeout: Duration::from_secs(120), ..machine };
    machine.boot(&format!("process-{name}"), &Expectations::read(name)?)
}

/// Some MB go each way without a byte lost or changed, and passt ends with the guest.
#[test]
fn a_network_carries_what_is_sent() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    let passt = directory.path().join("passt");
    let id = directory.path().join("id");
    // The number stays.
    write_script(&passt, &format!("echo $$ > {}\nexec /usr/bin/passt \"$@\"", id.display()))?;
    let wrapped = wrapped(&image, directory.path())?;
    let mut guest = Guest::script("net-user", Vec::new());
    guest.files.push(("port", server::start()?.to_string()));
    // Debian 12's passt may come to loop, which is no fault of the guest's.
    let boot = || boot_with_network(&guest, "net-user", Some(&wrapped), "user");
    boot().or_else(|error| {
        println!("once more: {error:#}");
        boot()
    })?;
    let passts_id = || Ok::<_, anyhow::Error>(fs::read_to_string(&id)?.trim().to_owned());
    ensure!(!Path::new("/proc").join(passts_id()?).exists(), "passt is left, and nobody has waited for it");

    let initramfs = Guest::script("forks", Vec::new()).initramfs()?;
    let guests = Guests::start_with(&wrapped, initramfs.path(), &["--net", "user"])?;
    let passt = passts_id()?;
    ensure!(runs(&passt), "passt does not run");
    guests.kill(&[passt])
}

#[test]
fn a_guest_outlives_its_network() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    write_script(&directory.path().join("passt"), "exit 1")?;
    let guest = Guest::script("net-down", Vec::new());
    let log = boot_with_network(&guest, "net-down", Some(&wrapped(&image, directory.path())?), "user")?;
    ensure!(log.contains("--net user: passt has ended: the guest's network is down"), "the log does not say so");
    Ok(())
}

#[test]
fn without_passt_a_network_is_refused() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    let run = || -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&image);
        command.args(["--net", "user"]).env("PATH", directory.path()).stdin(Stdio::null());
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (status, said) = run()?;
    ensure!(status == Some(1) && said.contains("--net user: there is no program `passt`"), "{status:?} {said}");
    // It may be executed, and is no program.
    let passt = directory.path().join("passt");
    fs::write(&passt, "?")?;
    fs::set_permissions(&passt, fs::Permissions::from_mode(0o755))?;
    let (status, said) = run()?;
    ensure!(status == Some(1) && said.contains("--net user: passt cannot be started, error 8"), "{status:?} {said}");
    Ok(())
}

/// In a network of its own, an interface, a server behind it, and somebody who asks the guest's
/// server and then starts another guest; the guest, which it all ends with.
const AT_AN_INTERFACE: &str = r#"
set -e
cd DIRECTORY
busybox tunctl -t burn0 > /dev/null
busybox ifconfig burn0 10.9.8.1 netmask 255.255.255.0 up
busybox ip link show burn0 > link
seq 600000 > numbers
timeout 300 busybox httpd -f -h . &
server=$!
ask() {
    for turn in $(seq 300); do
        if busybox wget -q -O got http://10.9.8.2/numbers && cmp -s got numbers && busybox ping -q -c 3 10.9.8.2 > ping; then
            IMAGE --net tap:burn0 > second < /dev/null || echo "status $?" >> second
            echo same > verdict
            return
        fi
        sleep 0.3
    done
}
ask 2> /dev/null &
asker=$!
status=0
IMAGE "$@" || status=$?
kill $server $asker 2> /dev/null || true
exit $status
"#;

/// Some MB go each way without a byte lost or changed, whoever begins.
#[test]
fn an_interface_carries_what_is_sent() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let mut possible = Command::new("unshare");
    possible.args(["--net", "busybox", "tunctl", "-t", "burn0"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !possible.status().is_ok_and(|status| status.success()) {
        println!("nobody may make a TAP interface here: what is refused is tried, and nothing else");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let script = AT_AN_INTERFACE.replace("IMAGE", &image.display().to_string());
    write_script(&path("inside"), &script.replace("DIRECTORY", &directory.path().display().to_string()))?;
    write_script(&path("image"), &format!("exec unshare --net {} \"$@\"", path("inside").display()))?;
    let log = boot_with_network(&Guest::script("net-tap", Vec::new()), "net-tap", Some(&path("image")), "tap:burn0")?;

    let second = fs::read_to_string(path("second"))?;
    let busy = "--net tap:burn0: another program has the interface, error 16 (device or resource busy)";
    ensure!(second.contains(busy) && second.contains("status 1") && !second.contains("Linux version"), "{second}");
    let link = fs::read_to_string(path("link"))?;
    let interface = link.split("link/ether ").nth(1).and_then(|rest| rest.get(..17)).context("its address")?;
    let card = log.split("the card has ").nth(1).and_then(|rest| rest.get(..17)).context("the card's address")?;
    let last = |address: &str| u8::from_str_radix(&address[15..], 16);
    ensure!(
        card[2..15] == interface[2..15] && last(card)? == last(interface)? ^ 0x80,
        "the interface has {interface}, the card {card}"
    );
    Ok(())
}

/// What cannot be had is refused before the guest runs, with its name and the reason.
#[test]
fn what_is_no_interface_of_the_users_is_refused() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let no_device = "--net tap:lo: /dev/net/tun cannot be opened, error";
    let hidden = format!("mount -t tmpfs none /dev/net && exec {} --net tap:lo", image.display());
    let cases: [(&str, Vec<&str>, [&str; 2]); 3] = [
        ("--net tap:nobodys", vec![], ["--net tap:nobodys: there is no such interface, error 19"; 2]),
        (
            "--net tap:lo",
            vec![],
            ["--net tap:lo: this is no TAP interface, or one with several queues, error 22", no_device],
        ),
        // As whoever may do everything here, or nothing.
        ("", vec!["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &hidden], [no_device, "unshare"]),
    ];
    for (arguments, wrapper, reasons) in cases {
        let mut command = Command::new(wrapper.first().map_or(image.as_os_str(), |program| program.as_ref()));
        command.args(wrapper.iter().skip(1)).args(arguments.split_whitespace()).stdin(Stdio::null());
        let output = command.output()?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        ensure!(reasons.iter().any(|reason| said.contains(reason)), "{arguments}: {said}");
        ensure!(output.status.code() == Some(1) && !said.contains("Linux version"), "{arguments}: {:?}", output.status);
    }
    Ok(())
}
