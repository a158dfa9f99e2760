//! A build through `afterburner` prints no warning that the plain build does not print; objtool's
//! are among them.

use anyhow::{Result, ensure};
use boot_tests::kernel::Variant;
use boot_tests::warnings;

fn no_new_warning(variant: Variant) -> Result<()> {
    let log = variant.build()?.log()?;
    ensure!(log.contains(" vmlinux"), "the log does not show the link of vmlinux");
    let unexpected = warnings::unexpected(&log, &variant.release.tree()?, &variant.name())?;
    println!("{}: {} unexpected warnings", variant.name(), unexpected.len());
    ensure!(unexpected.is_empty(), "{}: {unexpected:#?}", variant.name());
    Ok(())
}

#[test]
fn min() -> Result<()> {
    no_new_warning(Variant::MIN)
}

#[test]
fn tiny_llvm() -> Result<()> {
    no_new_warning(Variant::TINY_LLVM)
}

#[test]
fn tiny_clang_gas() -> Result<()> {
    no_new_warning(Variant::TINY_CLANG_GAS)
}

#[test]
fn net() -> Result<()> {
    no_new_warning(Variant::NET)
}

#[test]
fn hard() -> Result<()> {
    no_new_warning(Variant::HARD)
}

#[test]
fn min_of_linux_6_12() -> Result<()> {
    no_new_warning(Variant::MIN_6_12)
}
