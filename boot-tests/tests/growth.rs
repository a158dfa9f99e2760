//! What annotation costs: bytes, instructions of a boot, and time of the build.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::icount;
use boot_tests::kernel::{self, Kernel, Variant};
use boot_tests::qemu::Machine;
use boot_tests::{cache, command};
use object::{Object as _, ObjectSection as _, SectionKind};
use tempfile::NamedTempFile;

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
    Ok(icount::boot(&machine, kernel, name, &Expectations::read("nothing")?, 0..0)?.kernel)
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

/// User and system time, in seconds, of one run of an assembler on a text.
fn assembly_seconds(assembler: &str, text: &Path) -> Result<f64> {
    const RUNS: u32 = 50;
    let object = text.with_extension("o");
    let command = format!("{assembler} --64 {} -o {}", text.display(), object.display());
    let script = format!("for i in $(seq {RUNS}); do {command} || exit; done");
    let time = NamedTempFile::new()?;
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["--format", "%U %S", "--output"]).arg(time.path()).args(["sh", "-c", &script]);
    command::output(&mut timed)?;
    fs::remove_file(&object).with_context(|| format!("removing {}", object.display()))?;
    let seconds = fs::read_to_string(time.path())?;
    let seconds: f64 = seconds.split_whitespace().map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(seconds / f64::from(RUNS))
}

/// Of two builds on a machine with other work, one may take half as much again as the other,
/// whatever is built. So the limit is held against what can be measured in turns: what the shim
/// adds to an object, times as if each object of the build had a site, and what `afterburner build`
/// takes when there is nothing to compile.
#[test]
fn a_build_takes_hardly_longer() -> Result<()> {
    const OBJECTS: f64 = 700.0;
    const ROUNDS: usize = 2;
    let plain = Variant::MIN_PLAIN.build()?.cpu_seconds()?;
    let annotated = Variant::MIN.build()?.cpu_seconds()?;
    println!("user and system time of a build of min: {plain:.1} s plain, {annotated:.1} s annotated");

    let text = NamedTempFile::with_suffix(".s")?;
    let sample = cache::testdata("bench/sample.c");
    command::output(Command::new("gcc").args(["-O2", "-S", "-o"]).arg(text.path()).arg(sample))?;
    let (gnu, shim) = ("as".to_owned(), format!("{} as", kernel::afterburner()?.display()));
    let [per_object, per_build] = [
        added(ROUNDS, || assembly_seconds(&gnu, text.path()), || assembly_seconds(&shim, text.path()))?,
        added(ROUNDS, || Variant::MIN_PLAIN.seconds_to_build_nothing(), || Variant::MIN.seconds_to_build_nothing())?,
    ];
    let share = (per_object * OBJECTS + per_build) / plain;
    println!(
        "added: {:.2} ms to an object with sites, {per_build:.2} s to a build, at most {:.2} %",
        per_object * 1e3,
        share * 1e2
    );
    ensure!(share <= 0.02, "annotation adds {:.2} % to a build", share * 1e2);
    Ok(())
}

/// By how much the second takes longer than the first; the least of each counts, of several rounds
/// in which they take turns.
fn added(rounds: usize, first: impl Fn() -> Result<f64>, second: impl Fn() -> Result<f64>) -> Result<f64> {
    let mut least = [f64::INFINITY; 2];
    for _ in 0..rounds {
        least = [least[0].min(first()?), least[1].min(second()?)];
    }
    Ok(least[1] - least[0])
}
