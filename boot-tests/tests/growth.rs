//! What annotation costs: bytes, instructions of a boot, and time of the build.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::icount;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::qemu::Machine;
use object::{Object as _, ObjectSection as _, SectionKind};

/// Prints both values and by how much the second is larger, in percent.
#[expect(clippy::cast_precision_loss, reason = "the values are far below 2^52")]
fn growth(what: &str, plain: u64, annotated: u64) -> f64 {
    let percent = 100.0 * (annotated as f64 / plain as f64 - 1.0);
    println!("{what}: {plain} plain, {annotated} annotated, {percent:+.2} %");
    percent
}

/// Executable bytes before the final link, which aligns parts of them to 2 MB.
fn executable_bytes(vmlinux_object: &Path) -> Result<u64> {
    let data = fs::read(vmlinux_object).with_context(|| format!("reading {}", vmlinux_object.display()))?;
    let file = object::File::parse(&*data)?;
    Ok(file.sections().filter(|section| section.kind() == SectionKind::Text).map(|section| section.size()).sum())
}

#[test]
fn text_grows_by_at_most_one_percent() -> Result<()> {
    let plain = executable_bytes(&Variant::MIN_PLAIN.build()?.vmlinux_object())?;
    let annotated = executable_bytes(&Variant::MIN.build()?.vmlinux_object())?;
    let percent = growth("executable bytes of min", plain, annotated);
    ensure!(percent > 0.0 && percent <= 1.0, "{percent:+.2} %");
    Ok(())
}

/// Kernel instructions of a boot that does nothing but start a shell script and end.
fn boot_instructions(kernel: &Kernel, name: &str) -> Result<u64> {
    let guest = Guest::script("nothing", Vec::new()).initramfs()?;
    let machine = Machine::new(kernel.vmlinux(), guest.path());
    Ok(icount::boot(&machine, name, &Expectations::read("nothing")?, 0..0)?.kernel)
}

#[test]
fn a_boot_grows_by_at_most_three_in_a_thousand() -> Result<()> {
    let kernel = Variant::MIN_PLAIN.build()?;
    let plain = boot_instructions(&kernel, "icount-plain")?;
    let again = boot_instructions(&kernel, "icount-plain-again")?;
    ensure!(plain == again, "the same boot took {plain} and then {again} instructions");
    let annotated = boot_instructions(&Variant::MIN.build()?, "icount-annotated")?;
    let percent = growth("kernel instructions of a boot of min", plain, annotated);
    ensure!(percent > 0.0 && percent <= 0.3, "{percent:+.2} %");
    Ok(())
}

/// The goal is 1.02; the limit leaves room for what else a shared machine does between the two builds.
#[test]
fn a_build_takes_hardly_longer() -> Result<()> {
    const LIMIT: f64 = 1.05;
    let plain = Variant::MIN_PLAIN.build()?.cpu_seconds()?;
    let annotated = Variant::MIN.build()?.cpu_seconds()?;
    let ratio = annotated / plain;
    println!("user and system time of a build of min: {plain:.1} s plain, {annotated:.1} s annotated, {ratio:.3}x");
    ensure!(ratio <= LIMIT, "{ratio:.3}x");
    Ok(())
}
