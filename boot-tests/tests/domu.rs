//! Xen domains other than the first: a stock kernel, which says that the machine for them is in
//! order, and an afterburnt one.

use anyhow::Result;
use boot_tests::domu::{self, Domu};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::kernel::Variant;
use boot_tests::qemu::WORDS;
use boot_tests::{cache, host};

#[test]
fn a_stock_kernel_runs_as_a_domu() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ramdisk = Guest::script("domu", Vec::new()).initramfs()?;
    let kernel = domu::host()?.dom0;
    let words = "console=hvc0 printk.devkmsg=on panic=-1";
    let domu = Domu { kernel: &kernel, ramdisk: Some(ramdisk.path()), words, typed: None };
    domu.machine(&directory.path().join("dom0.cpio"))?.boot("domu-stock", &Expectations::read("domu")?)?;
    Ok(())
}

/// What is typed into its console is answered; xl sees it reboot, starts it again, and sees it end.
#[test]
fn an_afterburnt_kernel_has_a_shell_reboots_and_ends_as_a_domu() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ramdisk = Guest::default().initramfs()?;
    let image = host::image(&Variant::MIN.build()?)?;
    let typed = cache::testdata("guests/domu-typed");
    let domu = Domu { kernel: &image, ramdisk: Some(ramdisk.path()), words: WORDS, typed: Some(&typed) };
    domu.machine(&directory.path().join("dom0.cpio"))?.boot("domu-min", &Expectations::read("domu-typed")?)?;
    Ok(())
}
