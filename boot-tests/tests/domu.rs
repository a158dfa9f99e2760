//! The machine for domUs by itself: a stock kernel, which is known to run there, reaches its shell.

use anyhow::Result;
use boot_tests::domu::{self, Domu};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;

#[test]
fn a_stock_kernel_runs_as_a_domu() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ramdisk = Guest::script("domu", Vec::new()).initramfs()?;
    let kernel = domu::host()?.dom0;
    let words = "console=hvc0 printk.devkmsg=on panic=-1";
    let domu = Domu { kernel: &kernel, ramdisk: Some(ramdisk.path()), words };
    domu.machine(&directory.path().join("dom0.cpio"))?.boot("domu-stock", &Expectations::read("domu")?)?;
    Ok(())
}
