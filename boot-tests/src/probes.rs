//! Where to set kprobes: the sites inside given functions of a kernel, as the guest script `probes`
//! takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object as _, ObjectSymbol as _, SymbolKind};

use crate::records;

/// Functions of the kernel `hard` that have sites, may be probed, and are executed by the script's
/// workload: by what it does, not only if a tick comes at the right time. They are those of Linux
/// 6.1.
pub const FUNCTIONS: [&str; 18] = [
    "__rdmsr_safe_on_cpu",
    "_flat_send_IPI_mask",
    "call_rcu",
    "copy_thread",
    "do_idle",
    "exit_to_user_mode_prepare",
    "flush_ldt",
    "load_new_mm_cr3",
    "mm_release",
    "native_flush_tlb_one_user",
    "note_gp_changes",
    "pci_conf1_read",
    "prb_reserve",
    "queue_delayed_work_on",
    "raise_softirq",
    "rcu_core",
    "tick_nohz_idle_enter",
    "vprintk_store",
];

/// Those that are parts of others in Linux 6.12.
const NOT_IN_ALL: [&str; 3] = ["_flat_send_IPI_mask", "exit_to_user_mode_prepare", "load_new_mm_cr3"];

/// Whether the script could probe all of these sites, and each function was executed with probes in
/// it, which did not end the kernel.
///
/// # Errors
///
/// With what is otherwise.
pub fn check(verdicts: &BTreeMap<String, String>, sites: &str) -> Result<()> {
    let functions: BTreeSet<_> = sites.lines().filter_map(|line| line.split('+').next()).collect();
    let (sites, functions) = (sites.lines().count(), functions.len());
    ensure!(functions >= FUNCTIONS.len() - NOT_IN_ALL.len(), "only {functions} functions");
    for optimised in [0, 1] {
        for (name, expected) in [
            ("set", format!("ok: {sites} sites, 0 refused")),
            ("hit", format!("ok: {functions} functions")),
            ("removed", "ok: the kernel lives".to_owned()),
        ] {
            let verdict = verdicts.get(&format!("probes-{name}-{optimised}"));
            ensure!(verdict == Some(&expected), "{name}, {optimised}: {verdict:?}, not {expected}");
        }
    }
    let failed: Vec<_> = verdicts.iter().filter(|(_, verdict)| !verdict.starts_with("ok")).collect();
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// Lines `FUNCTION+0xOFFSET`, one for each padded site in one of the functions.
///
/// # Errors
///
/// When the kernel cannot be read, a function is in it more than once, or has no site, or when it
/// lacks one that all releases have.
pub fn sites(vmlinux: &Path, functions: &[&str]) -> Result<String> {
    let data = fs::read(vmlinux).with_context(|| format!("reading {}", vmlinux.display()))?;
    let file = object::File::parse(&*data).with_context(|| vmlinux.display().to_string())?;
    let records = records::read(&file)?;
    let mut lines = String::new();
    let mut missing = Vec::new();
    for &name in functions {
        let Some(function) = function(&file, name)? else {
            missing.push(name);
            continue;
        };
        let sites = records.iter().filter(|(_, record)| record.unpadded_reason().is_none());
        let sites = sites.map(|((_, address), _)| *address).filter(|address| function.contains(address));
        let found: Vec<_> = sites.map(|address| format!("{name}+{:#x}\n", address - function.start)).collect();
        ensure!(!found.is_empty(), "{name} has no site");
        lines.extend(found);
    }
    ensure!(missing.iter().all(|name| NOT_IN_ALL.contains(name)), "no functions {missing:?}");
    Ok(lines)
}

/// Where a function is, if the kernel has it.
fn function(file: &object::File, name: &str) -> Result<Option<Range<u64>>> {
    let mut symbols = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0 && symbol.name() == Ok(name))
        .map(|symbol| symbol.address()..symbol.address() + symbol.size());
    let function = symbols.next();
    ensure!(symbols.next().is_none(), "more than one function {name}");
    Ok(function)
}
