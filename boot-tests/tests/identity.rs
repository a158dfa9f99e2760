//! Kernels whose every site runs through a stub boot to a shell.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::icount;
use boot_tests::identity::{self, Report};
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::no_self_tests;
use boot_tests::qemu::Machine;
use boot_tests::unnamed::Unnamed;

fn patched(kernel: &Kernel) -> Result<(Unnamed, Report)> {
    let path = kernel.vmlinux();
    let vmlinux = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let (vmlinux, report) = identity::patch(vmlinux)?;
    print!("{report}");
    ensure!(report.patched() * 10 > report.sites() * 9, "less than nine in ten sites are patched");
    Ok((Unnamed::new(&vmlinux)?, report))
}

fn flags_hold(variant: Variant) -> Result<()> {
    let (_, report) = patched(&variant.build()?)?;
    ensure!(report.contradictions.is_empty(), "{:#?}", report.contradictions);
    Ok(())
}

#[test]
fn flags_agree_with_linux_tables() -> Result<()> {
    flags_hold(Variant::MIN)?;
    flags_hold(Variant::NET)?;
    flags_hold(Variant::HARD)?;
    flags_hold(Variant::TINY_LLVM)?;
    flags_hold(Variant::TINY_CLANG_GAS)
}

fn boots(variant: Variant, append: &str) -> Result<()> {
    let kernel = variant.build()?;
    let (vmlinux, _) = patched(&kernel)?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
    for cpu in ["qemu64", "max"] {
        let machine = Machine { cpu, append: append.into(), ..Machine::new(vmlinux.path(), guest.path()) };
        machine.boot(&format!("identity-{}-{cpu}", variant.name()), &Expectations::read("shell")?)?;
    }
    Ok(())
}

#[test]
fn min() -> Result<()> {
    boots(Variant::MIN, "rodata=off nopti")
}

#[test]
fn net() -> Result<()> {
    boots(Variant::NET, "rodata=off nopti")
}

#[test]
fn hard() -> Result<()> {
    boots(Variant::HARD, concat!(no_self_tests!(), " rodata=off nopti"))
}

/// The stubs are what runs: millions of their instructions are executed.
#[test]
fn the_stubs_run() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let (vmlinux, report) = patched(&kernel)?;
    let guest = Guest::script("nothing", Vec::new()).initramfs()?;
    let machine = Machine { append: "rodata=off nopti".into(), ..Machine::new(vmlinux.path(), guest.path()) };
    let count = icount::boot(&machine, &kernel, "identity-icount", &Expectations::read("nothing")?, report.stubs)?;
    println!("{} of {} instructions executed in stubs", count.range, count.kernel);
    ensure!(count.range > 1_000_000, "only {} instructions executed in stubs", count.range);
    Ok(())
}
