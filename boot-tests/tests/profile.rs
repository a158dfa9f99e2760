//! `afterburner profile` counts the same on every host, as far as the hosts do the same.
//!
//! How often a program calls its kernel, and how many pages it touches first, is known from
//! outside. What else the guest does meanwhile is little, and differs between the hosts; each class
//! has its own bounds. That counters are exact to the last instruction is shown on bare hardware
//! (`wedge.rs`).

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use boot_tests::command;
use boot_tests::host::{image, sel4, xen};
use boot_tests::kernel::{Variant, afterburner};
use serde_json::Value;

/// Reads and writes of a byte each: as many system calls, twice.
const CALLS: u64 = 20_000;

/// Pages of a buffer that is read into once.
const PAGES: u64 = 2_048;

/// What there is on the side: the shell that starts the command, and the end of it.
const ELSE: u64 = 1_000;

/// The same for what ticks execute, too: the slower a host, the more there are.
const TICKS: u64 = 2 * CALLS;

/// The profile of a command on a host.
fn profile(image: &Path, host: &str, command: &str) -> Result<Value> {
    let mut profile = Command::new(afterburner()?);
    profile.arg("profile").args(["--host", host, "--json", "--timeout", "300"]);
    match host {
        "xen" => profile.arg("--xen").arg(xen()?),
        "l4" => profile.arg("--sel4").arg(sel4()?),
        _ => &mut profile,
    };
    let printed = command::output(profile.arg(image).arg("--").arg(command))?;
    serde_json::from_str(&printed).with_context(|| format!("{host}: {printed}"))
}

/// How often the sites of a class were executed.
fn executed(profile: &Value, class: &str) -> u64 {
    profile["classes"][class]["count"].as_u64().unwrap_or(0)
}

/// How often the wedge was entered for something, and whether that took any time.
fn entered(profile: &Value, path: &str) -> Result<u64> {
    let found = profile["paths"].as_array().into_iter().flatten().find(|entry| entry["name"] == path);
    let Some(entry) = found else { return Ok(0) };
    let (entries, ticks) = (entry["count"].as_u64().unwrap_or(0), entry["ticks"].as_u64().unwrap_or(0));
    ensure!(ticks > entries, "{entries} entries for {path} took {ticks} ticks");
    Ok(entries)
}

fn in_bounds(what: &str, count: u64, expected: u64, more: u64) -> Result<()> {
    let bounds = expected..expected + more;
    ensure!(bounds.contains(&count), "{what}: {count} is not in {bounds:?}");
    Ok(())
}

/// What must hold on a host; `calls` are some that the wedge must have made.
fn host_counts(host: &str, calls: &[&str]) -> Result<()> {
    let image = image(&Variant::LOW.build()?)?;
    let reads = profile(&image, host, &format!("dd if=/dev/zero of=/dev/null bs=1 count={CALLS}"))?;
    for (class, more) in [("sysret", ELSE), ("cli", TICKS), ("sti", TICKS)] {
        let count = executed(&reads, class);
        println!("{host}: {count} {class}");
        in_bounds(&format!("{host}, {class}"), count, 2 * CALLS, more)?;
    }
    ensure!(reads["status"] == 0, "{host}: the command's status is {}", reads["status"]);
    if calls.is_empty() {
        let paths = reads["paths"].as_array().map(Vec::len);
        return ensure_none(host, paths);
    }
    in_bounds(&format!("{host}, entries for sysret"), entered(&reads, "sysret")?, 2 * CALLS, ELSE)?;
    let touches = profile(&image, host, &format!("dd if=/dev/zero of=/dev/null bs={} count=1", PAGES << 12))?;
    let faults = entered(&touches, "fault")?;
    println!("{host}: {faults} page faults, {} fills, {} calls", entered(&touches, "fill")?, touches["calls"]);
    in_bounds(&format!("{host}, page faults"), faults, PAGES, ELSE)?;
    for call in calls {
        let made = touches["calls"].as_array().into_iter().flatten();
        let count = made.filter(|made| made["name"] == *call).filter_map(|made| made["count"].as_u64()).sum::<u64>();
        ensure!(count > 0, "{host}: no call {call} in {}", touches["calls"]);
    }
    Ok(())
}

/// On bare hardware the wedge is not entered.
fn ensure_none(host: &str, paths: Option<usize>) -> Result<()> {
    ensure!(paths == Some(0), "{host}: {paths:?} paths");
    Ok(())
}

#[test]
fn bare_hardware() -> Result<()> {
    host_counts("bare", &[])
}

#[test]
fn on_xen() -> Result<()> {
    host_counts("xen", &["update_va_mapping", "set_timer_op"])
}

#[test]
fn in_a_process() -> Result<()> {
    host_counts("process", &["mmap", "timer_settime"])
}

#[test]
fn on_sel4() -> Result<()> {
    host_counts("l4", &["seL4_Call", "seL4_ReplyRecv"])
}
