//! Counts the instructions of a boot, exactly.
//!
//! Under `-icount` with `sleep=off` and a virtual clock, time is the number of executed
//! instructions and idle time is skipped, so the guest does the same on every run (QEMU,
//! docs/devel/tcg-icount.rst). The guest's own TSC would count the skipped idle time too; a TCG
//! plugin counts what was executed, and tells kernel from user by the address.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::expect::Expectations;
use crate::kernel::Kernel;
use crate::qemu::Machine;
use crate::{cache, command};

/// Executed instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// In the kernel half of the address space. The few thousand that run at physical addresses,
    /// before the kernel has turned to its page tables, are not among them.
    pub kernel: u64,
    /// In the range asked for.
    pub range: u64,
}

/// Boots the machine, with this kernel, with deterministic time and counts from the kernel's entry
/// point on, `startup_64`: what a loader does before is not counted.
///
/// # Errors
///
/// When the plugin cannot be built, or the boot fails.
pub fn boot(
    machine: &Machine,
    kernel: &Kernel,
    name: &str,
    expectations: &Expectations,
    range: Range<u64>,
) -> Result<Count> {
    let directory = tempfile::tempdir()?;
    let plugin = build_plugin("count", directory.path())?;
    let out = directory.path().join("count");
    let entry = kernel.entry()?;
    let plugin = format!(
        "{},out={},low={:x},high={:x},start={entry:x}",
        plugin.display(),
        out.display(),
        range.start,
        range.end
    );
    let mut machine = deterministic(machine);
    machine.options.extend(["-plugin".into(), plugin.into()]);
    machine.boot(name, expectations)?;

    let text = fs::read_to_string(&out).context("reading what the QEMU plugin counted")?;
    let (kernel, range) = text.trim().split_once(' ').context("the QEMU plugin's output")?;
    Ok(Count { kernel: kernel.parse()?, range: range.parse()? })
}

/// Compiles a QEMU plugin, `plugin/NAME.c`, into the directory.
pub(crate) fn build_plugin(name: &str, directory: &Path) -> Result<PathBuf> {
    let source = cache::repository().join("boot-tests/plugin").join(name).with_extension("c");
    let plugin = directory.join("plugin.so");
    command::output(
        Command::new("gcc").args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&plugin).arg(&source),
    )?;
    Ok(plugin)
}

/// The machine with time that depends on nothing but the instructions it executes.
pub(crate) fn deterministic<'a>(machine: &Machine<'a>) -> Machine<'a> {
    let mut machine = machine.clone();
    for option in ["-icount", "shift=0,sleep=off", "-rtc", "base=2020-01-01T00:00:00,clock=vm", "-seed", "1"] {
        machine.options.push(option.into());
    }
    machine
}
