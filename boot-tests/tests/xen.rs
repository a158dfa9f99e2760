//! What a kernel does on the wedge below Xen is what it does without one.
//!
//! The guests are those of `wedge.rs`. What is compared are not features: the model of CPU has next
//! to nothing that the virtual one hides. The few verdicts that differ all the same are listed,
//! each with its reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use boot_tests::expect::{Expectations, NMI_TEST};
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::no_self_tests;
use boot_tests::programs::Difference;
use boot_tests::qemu::Machine;
use boot_tests::{probes, programs, selftests, test_modules, wedge_port};

/// For the kernel without a wedge, too. Xen enables SVM where there is it, and that changes what
/// VMRUN does in user mode.
const CPU: &str = "max,-smap,-svm,-pku,-mpx";

/// On one processor Linux replaces LOCK
/// by a DS prefix, which QEMU 7.2 does not ignore in 64-bit mode: while a program has a segment
/// with a base in DS, the kernel would use it.
const HARD: &str = concat!(no_self_tests!(), " noreplace-smp");

/// Verdicts that differ: what they start with on Xen, and why.
const DIFFERENT: [(&str, &str, &str); 5] = [
    ("msr-0-read-apic-base", "ok: done, 0xfee00100", "there is no APIC"),
    ("msr-0-read-by-registers", "ok: done, 0xfee00100", "the same register"),
    ("msr-0-read-missing", "ok: Input/output error", "QEMU has a value for MSRs that do not exist"),
    ("msr-0-read-after-write-bad", "ok: Input/output error", "likewise"),
    ("x86-sigreturn_32", "ok: status 0", "QEMU 7.2's IRET leaves the privilege level of a null selector in FS"),
];

/// The stacks that can be evicted (`afterburn.evict=`).
const STACKS: [&str; 10] = [
    "current",
    "tss-rsp0",
    "tss-ist",
    "syscall",
    "syscall32",
    "interrupted",
    "interrupts",
    "thread",
    "unwritable",
    "sysret",
];

/// Programs that come to all of them: by signals, system calls of either kind on stacks that are
/// none, single steps, threads, stacks of 16 bits.
const EVICTING: [&str; 5] = ["calls-32", "hostile-stacks", "local-code-32", "narrow-stack", "thread-areas"];

/// Without being asked to, this guest evicts some 1,100 tables of the kernel half, for its stacks
/// of 16 bits.
const FEWEST_EVICTIONS: u64 = 2000;

/// Boots a guest on a host.
fn boot(host: Host, kernel: &Kernel, guest: &Guest, name: &str, expected: &str, append: &str) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = host.machine(kernel, initramfs.path())?;
    let append = format!("{} {append}", machine.append);
    let machine = Machine { append, cpu: CPU, timeout: Duration::from_secs(600), ..machine };
    let expectations = Expectations::read(expected)?;
    let expectations = if host == Host::Xen { expectations.allowing(&NMI_TEST) } else { expectations };
    let log = machine.boot(&format!("xen-{name}-{host}"), &expectations)?;
    if host == Host::Xen {
        let is_nmi_test = log.contains("| NMI testsuite:") && log.contains("BUG:   1 unexpected failures (out of   2)");
        for text in NMI_TEST {
            ensure!(
                log.matches(text).count() == usize::from(is_nmi_test),
                "`{text}` is not that of the NMI test alone"
            );
        }
        let entered = "afterburner: backend xen, dom0, entered by Xen PV";
        ensure!(log.contains(entered), "the wedge did not say `{entered}`");
        ensure!(!log.contains("emulated without an annotation"), "a sensitive instruction is not annotated");
    }
    Ok(log)
}

/// Boots a guest without a wedge and on Xen, and compares its verdicts.
fn compare(variant: Variant, guest: &Guest, name: &str, append: &str) -> Result<()> {
    let kernel = variant.build()?;
    let name = format!("{name}-{}", variant.name());
    let verdicts = |host: Host| -> Result<BTreeMap<String, String>> {
        Ok(programs::verdicts(&boot(host, &kernel, guest, &name, "nothing", append)?))
    };
    let (there, here) = (verdicts(Host::Plain)?, verdicts(Host::Xen)?);
    ensure!(!there.is_empty(), "no verdicts");
    let differences = programs::differences(&there, &here);
    let is_known = |difference: &Difference| {
        let verdict = difference.here.unwrap_or_default();
        DIFFERENT.iter().any(|(known, expected, _)| *known == difference.name && verdict.starts_with(expected))
    };
    let (explained, wrong): (Vec<_>, Vec<_>) = differences.into_iter().partition(is_known);
    ensure!(wrong.is_empty(), "without a wedge, and on Xen, {}", programs::listed(&wrong));
    let explained: Vec<_> = explained.iter().map(|difference| difference.name).collect();
    println!("{name}: {} verdicts on Xen as without a wedge, but {explained:?}", here.len() - explained.len());
    Ok(())
}

#[test]
fn min_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot(Host::Xen, &kernel, &guest, "min", "shell", "").map(drop)
}

/// The tables that map it do not fit into the wedge's window.
#[test]
fn a_domain_may_have_6_gb() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let initramfs = Guest::script("memory", Vec::new()).initramfs()?;
    let machine = Machine { memory: 6144, cpu: CPU, ..Host::Xen.machine(&kernel, initramfs.path())? };
    machine.boot("xen-6-gb", &Expectations::read("memory")?).map(drop)
}

#[test]
fn min_of_linux_6_12_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::MIN_6_12.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    boot(Host::Xen, &kernel, &guest, "min-6.12", "shell", "").map(drop)
}

#[test]
fn the_lower_half_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    let log = boot(Host::Xen, &kernel, &guest, "low", "shell", "")?;
    ensure!(log.contains("guest: text at 00005fff81000000"), "the kernel is not in the lower half");
    Ok(())
}

#[test]
fn net_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::NET.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid", "dummy"])?);
    boot(Host::Xen, &kernel, &guest, "net", "network-xen", "").map(drop)
}

#[test]
fn the_virtual_cpu_is_sane_and_idles() -> Result<()> {
    let guest = Guest::script("virtual-cpu", Vec::new());
    boot(Host::Xen, &Variant::MIN.build()?, &guest, "cpu", "virtual-cpu", "").map(drop)
}

#[test]
fn hard_boots_with_and_without_kaslr() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?);
    let fixed = "guest: text at ffffffff81000000";
    let log = boot(Host::Xen, &kernel, &guest, "hard-nokaslr", "shell", &format!("{HARD} nokaslr pti=on"))?;
    ensure!(log.contains("afterburner: pti=on has no effect on Xen"), "nothing is said of pti=on");
    ensure!(!log.contains("page tables isolation: force enabled"), "page tables are isolated");
    ensure!(log.contains(fixed), "without KASLR, text is elsewhere");
    // One boot in 497 lands at the default address by chance, two in a row in 247,009.
    let moved = || -> Result<bool> { Ok(!boot(Host::Xen, &kernel, &guest, "hard", "shell", HARD)?.contains(fixed)) };
    ensure!(moved()? || moved()?, "with KASLR, text is at its default address");
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
    // Hardly more page tables than have to be there at the same time.
    let hard = format!("{HARD} afterburn.tables=64");
    for (variant, append) in [(Variant::MIN, ""), (Variant::HARD, &hard)] {
        let modules = variant.build()?.modules_named(&["msr"])?;
        let (guest, _programs) = programs::guest_with(Guest::script("exceptions", modules), &names)?;
        compare(variant, &guest, "exceptions", append)?;
    }
    Ok(())
}

/// The ways to the stacks that Xen pushes frames on, each with that stack evicted all the time: who
/// maps it again does so in time. Each has its own boot, so that it is known which stack was
/// missing when Xen ended the guest.
#[test]
fn each_stack_is_mapped_again_before_it_is_needed() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let directory = tempfile::tempdir()?;
    let (mut guest, _programs) = programs::guest_with(Guest::script("evictions", Vec::new()), &EVICTING)?;
    guest.programs.push(wedge_port::program(directory.path())?);
    let log =
        |host, name: &str, append: &str| boot(host, &kernel, &guest, &format!("evict-{name}"), "evictions", append);
    let there = programs::verdicts(&log(Host::Plain, "nothing", HARD)?);
    ensure!(there.len() > 50, "only {} verdicts", there.len());
    let check = |stack: &str| -> Result<()> {
        let log = log(Host::Xen, stack, &format!("{HARD} afterburn.evict={stack}"))?;
        let here = programs::verdicts(&log);
        let differences = programs::differences(&there, &here);
        ensure!(differences.is_empty(), "without a wedge, and on Xen, {}", programs::listed(&differences));
        let count = log.lines().find_map(|line| line.split_once("guest: shadow evictions ")?.1.split_once(" kernel "));
        let count: u64 = count.context("nobody said what was evicted")?.1.trim().parse()?;
        ensure!(count > FEWEST_EVICTIONS, "only {count} evictions");
        println!("{stack}: {count} evictions");
        Ok(())
    };
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(stack) = STACKS.get(next.fetch_add(1, Ordering::Relaxed)) {
            check(stack).with_context(|| format!("with the stack `{stack}` evicted all the time"))?;
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(work);
        work()?;
        other.join().map_err(|_| anyhow!("a panic"))?
    })
}

/// The longest: of 701 system calls of one of the tests, most are traced.
#[test]
fn linux_tests_of_the_entry_code_have_the_same_verdicts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let programs = selftests::build(directory.path())?;
    let guest = Guest { programs, ..Guest::script("x86", Vec::new()) };
    compare(Variant::HARD, &guest, "x86", HARD)
}

#[test]
fn modules_come_and_go() -> Result<()> {
    let of_hard = ["msr", "cpuid", "test_fpu", "test_static_key_base", "test_static_keys"];
    for (variant, modules, copies, append) in
        [(Variant::MIN, &of_hard[..2], [120, 12], ""), (Variant::HARD, &of_hard, [3, 3], HARD)]
    {
        let directory = tempfile::tempdir()?;
        let mut modules = variant.build()?.modules_named(modules)?;
        modules.extend(test_modules::build(variant, directory.path(), copies)?);
        let guest = Guest::script("modules", modules);
        compare(variant, &guest, "modules", append)?;
    }
    Ok(())
}

#[test]
fn functions_full_of_sites_can_be_probed_and_traced() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let guest = Guest::script("probes", kernel.modules_named(&["msr"])?);
    let (mut guest, _programs) = programs::guest_with(guest, &["load", "msr", "frames"])?;
    // Without an APIC there is no IPI.
    let functions: Vec<_> = probes::FUNCTIONS.into_iter().filter(|name| *name != "_flat_send_IPI_mask").collect();
    let sites = probes::sites(&kernel.vmlinux(), &functions)?;
    guest.files.push(("sites", sites.clone()));
    let log = boot(Host::Xen, &kernel, &guest, "probes", "nothing", HARD)?;
    probes::check(&programs::verdicts(&log), &sites)
}

/// cpuid.ko has one site, msr.ko two; what they do natively in ring 3 would be counted as not
/// annotated.
#[test]
fn the_sites_of_modules_are_rewritten_while_they_are_loaded() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let directory = tempfile::tempdir()?;
    let programs = vec![wedge_port::program(directory.path())?];
    let mut modules = kernel.modules_named(&["msr", "cpuid"])?;
    modules.extend(test_modules::build(Variant::MIN, directory.path(), [0, 1])?);
    let guest = Guest { programs, ..Guest::script("module-sites", modules) };
    boot(Host::Xen, &kernel, &guest, "module-sites", "module-sites", "").map(drop)
}
