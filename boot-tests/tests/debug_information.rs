//! Debug information changes neither text nor records: every second object of a kernel that has
//! sites, with and without `-g`. All of them take minutes.

use anyhow::{Result, ensure};
use boot_tests::debug_information;
use boot_tests::kernel::Variant;

/// `at_least` guards against a comparison of nothing: so many objects of the kernel are known to
/// have sites.
fn makes_no_difference(variant: Variant, at_least: usize) -> Result<()> {
    let comparison = debug_information::compare(&variant.build()?)?;
    println!("{}: {comparison}", variant.name());
    ensure!(comparison.different.is_empty(), "{}: {:#?}", variant.name(), comparison.different);
    ensure!(comparison.by_compiler.is_empty(), "{}: {:#?}", variant.name(), comparison.by_compiler);
    ensure!(comparison.compared >= at_least, "only {} objects have records", comparison.compared);
    Ok(())
}

#[test]
fn min() -> Result<()> {
    makes_no_difference(Variant::MIN, 100)
}
