//! Every sensitive instruction of a kernel and its modules has a record, by a census that shares
//! nothing with the tool.

use std::path::Path;

use anyhow::{Result, ensure};
use boot_tests::census;
use boot_tests::kernel::Variant;

/// How many sensitive instructions there are; all have records.
fn census_of_file(path: &Path) -> Result<usize> {
    let census = census::take(path)?;
    println!("{}: {census}", path.display());
    ensure!(census.misses.is_empty(), "{}: {:#?}", path.display(), census.misses);
    Ok(census.sensitive)
}

/// `at_least` guards against a census of nothing: the kernel is known to have that many sites.
fn census_of(variant: Variant, at_least: usize) -> Result<()> {
    let kernel = variant.build()?;
    let sites = census_of_file(&kernel.vmlinux())?;
    ensure!(sites >= at_least, "only {sites} sensitive instructions in vmlinux");
    kernel.modules()?.iter().try_for_each(|module| census_of_file(module).map(drop))
}

#[test]
fn min() -> Result<()> {
    census_of(Variant::MIN, 3000)
}

#[test]
fn min_of_linux_6_12() -> Result<()> {
    census_of(Variant::MIN_6_12, 3000)
}

#[test]
fn tiny_llvm() -> Result<()> {
    census_of(Variant::TINY_LLVM, 3000)
}

#[test]
fn tiny_clang_gas() -> Result<()> {
    census_of(Variant::TINY_CLANG_GAS, 3000)
}

#[test]
fn net() -> Result<()> {
    census_of(Variant::NET, 4000)
}

#[test]
fn hard() -> Result<()> {
    census_of(Variant::HARD, 1500)
}
