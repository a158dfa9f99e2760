//! What a kernel does on the wedge is what it does without one.
//!
//! Every test here runs the same guest on several hosts and compares what it says.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::no_self_tests;
use boot_tests::qemu::{Machine, TWO_CPUS};
use boot_tests::wedge_port::WINDOW;
use boot_tests::{class_counts, command, icount, identity, probes, programs, selftests, test_modules, wedge_port};

/// The virtual machine to run on, apart from its kernel.
#[derive(Clone, Copy)]
struct Hardware {
    cpu: &'static str,
    cpus: u32,
    append: &'static str,
}

const ONE_CPU: Hardware = Hardware { cpu: "qemu64", cpus: 1, append: "" };
const ONE_MAX: Hardware = Hardware { cpu: "max", ..ONE_CPU };
/// As to the timer, see [`TWO_CPUS`].
const HARD: Hardware = Hardware { cpu: "qemu64", cpus: 2, append: concat!(no_self_tests!(), " no_timer_check") };

impl Hardware {
    /// Boots a guest on a host.
    fn boot(self, host: Host, kernel: &Kernel, guest: &Guest, name: &str, expected: &str) -> Result<String> {
        self.boot_with(host, kernel, guest, name, expected, Vec::new())
    }

    /// The same, with commands for QEMU's monitor.
    fn boot_with(
        self,
        host: Host,
        kernel: &Kernel,
        guest: &Guest,
        name: &str,
        expected: &str,
        commands: Vec<(&'static str, String)>,
    ) -> Result<String> {
        let initramfs = guest.initramfs()?;
        let machine = host.machine(kernel, initramfs.path())?;
        let append = format!("{} {}", machine.append, self.append);
        let machine = Machine { append, cpu: self.cpu, cpus: self.cpus, commands, ..machine };
        let log = machine.boot(&format!("{name}-{}-{host}", self.cpu), &Expectations::read(expected)?)?;
        if let Some(mode) = host.mode() {
            let entered = format!("afterburner: backend bare, mode {mode}, entered by PVH");
            ensure!(log.contains(&entered), "the wedge did not say `{entered}`");
        }
        Ok(log)
    }

    /// Boots a guest on several hosts, and compares its verdicts with those on the first.
    fn compare(self, hosts: &[Host], kernel: &Kernel, guest: &Guest, name: &str, expected: &str) -> Result<()> {
        let verdicts = |host: Host| -> Result<BTreeMap<String, String>> {
            Ok(programs::verdicts(&self.boot(host, kernel, guest, name, expected)?))
        };
        let (first, others) = hosts.split_first().context("no host")?;
        let there = verdicts(*first)?;
        ensure!(!there.is_empty(), "no verdicts on {first}");
        for host in others {
            let here = verdicts(*host)?;
            let differences = programs::differences(&there, &here);
            ensure!(differences.is_empty(), "on {first} and on {host}, {}", programs::listed(&differences));
            println!("{name}: {} verdicts on {host} as on {first}", here.len());
        }
        Ok(())
    }
}

fn shell(kernel: &Kernel, modules: &[&str]) -> Result<Guest> {
    Ok(Guest::script("shell", kernel.modules_named(modules)?))
}

#[test]
fn min_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let guest = shell(&kernel, &["msr", "cpuid"])?;
    for host in Host::WEDGE {
        for hardware in [ONE_CPU, ONE_MAX] {
            hardware.boot(host, &kernel, &guest, "wedge-min", "shell")?;
        }
    }
    Ok(())
}

#[test]
fn min_of_linux_6_12_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::MIN_6_12.build()?;
    let guest = shell(&kernel, &["msr", "cpuid"])?;
    ONE_MAX.boot(Host::Native, &kernel, &guest, "wedge-min-6.12", "shell").map(drop)
}

#[test]
fn the_lower_half_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let guest = shell(&kernel, &["msr", "cpuid"])?;
    for host in Host::WEDGE {
        // Without FSGSBASE the kernel knows its own GS by the sign.
        for cpu in ["qemu64", "max"] {
            let hardware = Hardware { cpu, cpus: 2, append: TWO_CPUS };
            let log = hardware.boot(host, &kernel, &guest, "wedge-low", "shell")?;
            ensure!(log.contains("guest: text at 00005fff81000000"), "the kernel is not in the lower half");
            ensure!(log.contains("smp: Brought up 1 node, 2 CPUs"), "one processor did not come up");
        }
    }
    Ok(())
}

#[test]
fn net_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::NET.build()?;
    let guest = shell(&kernel, &["msr", "cpuid", "dummy"])?;
    for host in Host::WEDGE {
        ONE_CPU.boot(host, &kernel, &guest, "wedge-net", "network")?;
    }
    Ok(())
}

#[test]
fn hard_boots_with_and_without_kaslr_and_page_table_isolation() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let guest = shell(&kernel, &["msr", "cpuid"])?;
    for host in Host::WEDGE {
        let fixed = Hardware { append: concat!(no_self_tests!(), " nokaslr"), ..HARD };
        let log = fixed.boot(host, &kernel, &guest, "wedge-hard-nokaslr", "shell")?;
        ensure!(log.contains("guest: text at ffffffff81000000"), "without KASLR, text is elsewhere");
        let isolated = Hardware { append: concat!(no_self_tests!(), " pti=on"), cpu: "max", ..HARD };
        let log = isolated.boot(host, &kernel, &guest, "wedge-hard-pti", "shell")?;
        let walked = "x86/mm: Checked W+X mappings: passed, no W+X pages found.";
        ensure!(log.contains(walked), "{host}: the kernel does not find its page tables in order");
        ensure!(log.contains("Kernel/User page tables isolation: enabled"), "page-table isolation is off");
        // One boot in 497 lands at the default address by chance, two in a row in 247,009.
        let moved = |log: &str| !log.contains("guest: text at ffffffff81000000");
        ensure!(
            moved(&log) || moved(&HARD.boot(host, &kernel, &guest, "wedge-hard", "shell")?),
            "with KASLR, text is at its default address"
        );
    }
    Ok(())
}

#[test]
fn exceptions_at_sites_reach_the_kernels_fix_ups() -> Result<()> {
    let names = [
        "msr",
        "frames",
        "segments",
        "narrow-stack",
        "local-tables",
        "thread-areas",
        "xstate",
        "sensitive",
        "floating-point",
    ];
    for (variant, hardware, expected) in [
        (Variant::MIN, ONE_CPU, "exceptions"),
        (Variant::HARD, Hardware { cpu: "max", ..HARD }, "exceptions-hard"),
        (Variant::HARD, Hardware { append: concat!(no_self_tests!(), " pti=on"), ..HARD }, "exceptions-hard"),
    ] {
        let kernel = variant.build()?;
        let (guest, _programs) =
            programs::guest_with(Guest::script("exceptions", kernel.modules_named(&["msr"])?), &names)?;
        hardware.compare(&Host::ALL, &kernel, &guest, &format!("exceptions-{}", variant.name()), expected)?;
    }
    Ok(())
}

/// Signals, LDT, single steps, NT and odd selectors on the way in and out of the kernel: all that
/// depends on where exactly an exception in the entry code is raised.
#[test]
fn linux_tests_of_the_entry_code_have_the_same_verdicts() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let directory = tempfile::tempdir()?;
    let programs: Vec<PathBuf> = selftests::build(directory.path())?;
    let guest = Guest { programs, ..Guest::script("x86", Vec::new()) };
    // What `profile` counts at is what `identity` executes; it is the slowest.
    HARD.compare(&[Host::Plain, Host::Native, Host::Identity], &kernel, &guest, "x86", "x86")
}

#[test]
fn functions_full_of_sites_can_be_probed_and_traced() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let guest = Guest::script("probes", kernel.modules_named(&["msr"])?);
    let (mut guest, _programs) = programs::guest_with(guest, &["load", "msr", "frames"])?;
    let sites = probes::sites(&kernel.vmlinux(), &probes::FUNCTIONS)?;
    guest.files.push(("sites", sites.clone()));
    for host in [Host::Native, Host::Identity] {
        let log = HARD.boot(host, &kernel, &guest, "probes", "nothing")?;
        probes::check(&programs::verdicts(&log), &sites)?;
    }
    Ok(())
}

/// cpuid.ko has one site, msr.ko two; what is executed is a stub's instruction.
#[test]
fn the_sites_of_modules_are_rewritten_while_they_are_loaded() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let directory = tempfile::tempdir()?;
    let programs = vec![wedge_port::program(directory.path())?];
    let mut modules = kernel.modules_named(&["msr", "cpuid"])?;
    modules.extend(test_modules::build(Variant::MIN, directory.path(), [0, 1])?);
    let guest = Guest { programs, ..Guest::script("module-sites", modules) };
    for host in Host::WEDGE {
        let log = ONE_CPU.boot(host, &kernel, &guest, "module-sites", "module-sites")?;
        let counted = if host == Host::Profile { "guest: counted: 1" } else { "guest: counted: 0" };
        ensure!(log.contains(counted), "{host}: not `{counted}`");
    }
    Ok(())
}

#[test]
fn modules_come_and_go() -> Result<()> {
    for (variant, hardware, modules, copies, hosts) in [
        (Variant::MIN, ONE_CPU, &["msr", "cpuid"][..], [120, 12], &Host::ALL[..]),
        (
            Variant::HARD,
            HARD,
            &["msr", "cpuid", "test_fpu", "test_static_key_base", "test_static_keys"],
            [3, 3],
            &[Host::Plain, Host::Identity],
        ),
    ] {
        let kernel = variant.build()?;
        let directory = tempfile::tempdir()?;
        let mut modules = kernel.modules_named(modules)?;
        modules.extend(test_modules::build(variant, directory.path(), copies)?);
        let guest = Guest::script("modules", modules);
        hardware.compare(hosts, &kernel, &guest, &format!("modules-{}", variant.name()), "modules")?;
    }
    Ok(())
}

/// Physical address of a kernel that was not moved, and the length of its text in bytes.
fn text(kernel: &Kernel) -> Result<(u64, u64)> {
    const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
    let symbols = command::output(std::process::Command::new("nm").arg(kernel.vmlinux()))?;
    let symbol = |name: &str| -> Result<u64> {
        let line = symbols.lines().find(|line| line.ends_with(&format!(" {name}")));
        let address = line.and_then(|line| line.split(' ').next()).with_context(|| format!("no symbol {name}"))?;
        Ok(u64::from_str_radix(address, 16)?)
    };
    let start = symbol("_text")?;
    Ok((start - KERNEL_MAP, symbol("_etext")? - start))
}

/// The offsets of so many bytes at an address of the text.
fn in_text(address: u64, length: u64) -> Result<Range<usize>> {
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    let start = address.checked_sub(TEXT).context("an address in front of the text")?;
    Ok(usize::try_from(start)?..usize::try_from(start + length)?)
}

/// Longest slot of an IN or OUT in bytes.
const PORT_SLOT: u64 = 5;

/// The offsets in the text of the two instructions that the guest asks the wedge by, and that stay
/// hooked.
fn kept(log: &str) -> Result<Vec<Range<usize>>> {
    let addresses = log.lines().filter_map(|line| line.split("guest: kept ").nth(1));
    let slot = |address: &str| in_text(u64::from_str_radix(address.trim(), 16)?, PORT_SLOT);
    let kept = addresses.map(slot).collect::<Result<Vec<_>>>()?;
    ensure!(kept.len() == 2, "{} sites are kept, not one IN and one OUT", kept.len());
    Ok(kept)
}

/// Off and on again under load, until the text is looked at from outside the machine: with the
/// wedge off it is, byte for byte, the text of the same kernel booted without a wedge, but for the
/// slots of the two instructions that the wedge is asked by, and for addresses of memory, which is
/// elsewhere without a wedge.
fn switches(variant: Variant, hardware: Hardware) -> Result<()> {
    let kernel = variant.build()?;
    let (start, length) = text(&kernel)?;
    let pointers = identity::runtime_pointers(std::fs::read(kernel.vmlinux())?)?;
    let pointers = pointers.into_iter().map(|place| in_text(place.start, place.end - place.start));
    let pointers = pointers.collect::<Result<Vec<_>>>()?;
    let directory = tempfile::tempdir()?;
    let mut guest =
        programs::guest_with(Guest::script("switching", kernel.modules_named(&["msr", "cpuid"])?), &["load"])?;
    guest.0.programs.push(wedge_port::program(guest.1.path())?);
    let look = |host: Host, state: &str| directory.path().join(format!("{host}-{state}"));
    let save = |host: Host, state: &str| format!("pmemsave {start:#x} {length:#x} \"{}\"", look(host, state).display());
    let commands = |host| {
        vec![("guest: look at the text: off", save(host, "off")), ("guest: look at the text: on", save(host, "on"))]
    };

    let plain = Guest { script: Some("looked-at"), ..guest.0.clone() };
    hardware.boot_with(Host::Plain, &kernel, &plain, "looked-at", "looked-at", commands(Host::Plain))?;
    let plain = std::fs::read(look(Host::Plain, "off"))?;
    ensure!(plain.len() as u64 == length, "the text was not saved");
    for host in Host::WEDGE {
        let name = format!("switching-{}", variant.name());
        let log = hardware.boot_with(host, &kernel, &guest.0, &name, "switching", commands(host))?;
        let switched = log.lines().find(|line| line.contains("guest: switched ")).unwrap_or_default();
        let (off, on) = (std::fs::read(look(host, "off"))?, std::fs::read(look(host, "on"))?);
        let different = |one: &[u8]| one.iter().zip(&plain).filter(|(one, other)| one != other).count();
        println!("{name} on {host}: {} bytes differ when on, {} when off;{switched}", different(&on), different(&off));
        ensure!(different(&on) > 4000, "{host}: the sites are not rewritten");
        let mut kept = kept(&log)?;
        kept.extend(pointers.iter().cloned());
        let wrong = |(offset, (one, other)): &(usize, (&u8, &u8))| {
            one != other && !kept.iter().any(|slot| slot.contains(offset))
        };
        let wrong: Vec<_> = off.iter().zip(&plain).enumerate().filter(wrong).map(|(offset, _)| offset).collect();
        ensure!(wrong.is_empty(), "{host}: {} bytes are not restored, at offsets {wrong:x?}", wrong.len());
    }
    Ok(())
}

#[test]
fn every_byte_is_restored_when_the_wedge_is_switched_off_under_load() -> Result<()> {
    switches(Variant::MIN, ONE_CPU)
}

#[test]
fn every_byte_is_restored_on_two_processors() -> Result<()> {
    // Linux also patches what depends on whether it has found out the TSC's frequency, which it
    // does not always on a busy machine.
    let append = concat!(no_self_tests!(), " nokaslr tsc_early_khz=2500000");
    switches(Variant::HARD, Hardware { append, ..HARD })
}

#[test]
fn the_counters_are_exact() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let (mut guest, programs) = programs::guest_with(Guest::script("counters", Vec::new()), &["syscall-mix"])?;
    guest.programs.push(wedge_port::program(programs.path())?);
    let initramfs = guest.initramfs()?;
    let machine = Host::Profile.machine(&kernel, initramfs.path())?;
    let window = class_counts::Window {
        zero: Some(wedge_port::wedge_symbol("zero")?),
        snapshot: Some((wedge_port::wedge_symbol("snapshot")?, 1)),
    };
    let name = "counters";
    let counts = class_counts::boot(&machine, name, &Expectations::read(name)?, window)?;
    let outside = counts.inside(&wedge_port::stubs()?);

    let log = std::fs::read_to_string(boot_tests::cache::subdirectory("logs")?.join(format!("{name}.log")))?;
    let mut inside = BTreeMap::<String, u64>::new();
    for line in log.lines().filter_map(|line| line.split_once("guest: counter ")) {
        let [_, class, count] = line.1.split(' ').collect::<Vec<_>>()[..] else { continue };
        for instruction in class_counts::instructions_of(class) {
            *inside.entry(instruction.to_owned()).or_default() += count.parse::<u64>()?;
        }
    }
    println!("counted by the wedge: {inside:?}\ncounted from outside: {outside:?}");
    let left = counts.kernel_outside(&WINDOW);
    println!("executed by the kernel itself, at sites that were left: {left:?}");
    // `lfence; rdtsc`, a replacement that is longer than its site.
    ensure!(left.keys().all(|class| class == "rdtsc"), "not only RDTSC is left uncounted");
    ensure!(inside.len() > 10 && inside.values().sum::<u64>() > 100_000, "the workload is none");
    ensure!(inside == outside, "the counts differ");
    Ok(())
}

/// Kernel instructions of a boot and a mix of system calls. What the wedge executes in its window
/// is among them, what it does before the kernel runs as well.
fn instructions(host: Host, kernel: &Kernel, range: std::ops::Range<u64>) -> Result<icount::Count> {
    let (guest, _programs) = programs::guest_with(Guest::script("syscall-mix", Vec::new()), &["syscall-mix"])?;
    let initramfs = guest.initramfs()?;
    let machine = host.machine(kernel, initramfs.path())?;
    // No random addresses. Nothing that runs for a time, for whoever is faster does more of it: no
    // calibration of a timer, no search for entropy, and hardly a character for the console, which
    // polls until it is sent.
    let append = format!("{} tsc_early_khz=1000000 random.trust_cpu=on loglevel=5 nolapic norandmaps", machine.append);
    let machine = Machine { append, cpu: "max", ..machine };
    icount::boot(&machine, kernel, &format!("icount-{host}"), &Expectations::read("syscall-mix")?, range)
}

#[test]
fn native_costs_next_to_nothing() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let unannotated = instructions(Host::Plain, &Variant::MIN_PLAIN.build()?, WINDOW)?.kernel;
    let plain = instructions(Host::Plain, &kernel, WINDOW)?.kernel;
    let native = instructions(Host::Native, &kernel, WINDOW)?;
    println!("{unannotated} kernel instructions without annotations, {plain} on NOPs, {} on the wedge", native.kernel);
    println!("of those on the wedge, {} are executed in its window", native.range);
    #[expect(clippy::cast_precision_loss, reason = "the values are far below 2^52")]
    let ratio = native.kernel as f64 / unannotated as f64;
    println!("native: {ratio:.5}x");
    ensure!(ratio <= 1.005, "{ratio:.4}x");

    for host in [Host::Identity, Host::Profile] {
        instructions(host, &kernel, WINDOW)?;
    }
    for (host, limit) in [(Host::Native, 1_000_000), (Host::Identity, 1_500_000), (Host::Profile, 1_500_000)] {
        let rewriting = rewriting(host)?;
        println!("rewriting the sites of min, {host}: {rewriting} instructions");
        ensure!(rewriting < limit, "{host}: {rewriting} instructions");
    }
    Ok(())
}

/// What the rewriting has cost at the last such boot. Under icount, the time-stamp counter counts
/// instructions.
fn rewriting(host: Host) -> Result<u64> {
    let log = boot_tests::cache::subdirectory("logs")?.join(format!("icount-{host}.log"));
    let log = std::fs::read_to_string(log)?;
    let line = log.lines().find(|line| line.contains(" TSC ticks")).context("the wedge did not say what it cost")?;
    Ok(line.split(' ').rev().nth(2).context("the wedge's line")?.parse()?)
}
