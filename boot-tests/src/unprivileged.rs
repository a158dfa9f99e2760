//! What a program without any privilege can have the kernel do on Xen costs no more than some times
//! what it costs without.
//!
//! What it costs is what it takes from all others. So it is not enough that the common operations
//! are cheap ([`costs`](crate::costs)): these are the ones by which a program reaches what the
//! wedge has to copy, to compare, or to look through, made as large as the kernel allows. They are
//! measured by the guest itself (`testdata/programs/unprivileged.c`), in instructions, on a kernel
//! with local descriptor tables and 32-bit programs.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::costs::{self, operations};
use crate::expect::{Expectations, NMI_TEST};
use crate::guest::Guest;
use crate::host::Host;
use crate::icount;
use crate::kernel::Variant;
use crate::no_self_tests;
use crate::programs;
use crate::qemu::Machine;

/// How many times as much an operation may cost.
const TIMES: u64 = 5;

/// What one change of the machine may cost on top of that, in instructions: a hypercall, with the
/// way into the wedge and back.
const HYPERCALL: u64 = 2000;

/// Words for the kernel: its tests of events take half of its boot, and QEMU 7.2 heeds the prefix
/// that Linux puts in place of LOCK on one processor.
const WORDS: &str = concat!(no_self_tests!(), " noreplace-smp");

/// The operations that the guest measures.
pub const OPERATIONS: [&str; 19] = [
    "null-syscall",
    "fork-exit",
    "yield",
    "set-thread-area",
    "yield-thread-areas",
    "set-base",
    "map-unmap-sparse",
    "protect-sparse",
    "narrow-stack-signal",
    "ldt-1-write",
    "ldt-1-write-load",
    "ldt-1-yield",
    "ldt-1-yield-load",
    "ldt-1024-write",
    "ldt-1024-write-load",
    "ldt-1024-yield",
    "ldt-1024-yield-load",
    "ldt-8192-write",
    "ldt-8192-write-load",
];

/// What an operation may cost on Xen, if it costs so much without.
#[must_use]
pub const fn limit(plain: u64) -> u64 {
    TIMES * plain + HYPERCALL
}

/// What the guest measures on a host, by name.
///
/// # Errors
///
/// When something cannot be built, or the boot fails.
pub fn measure(host: Host) -> Result<BTreeMap<String, u64>> {
    let kernel = Variant::HARD.build()?;
    let (guest, _programs) = programs::guest_with(Guest::script("unprivileged", Vec::new()), &["unprivileged"])?;
    let initramfs = guest.initramfs()?;
    let machine = host.machine(&kernel, initramfs.path())?;
    let append = format!("{} {} {WORDS}", machine.append, costs::WORDS);
    let machine = icount::deterministic(&Machine { append, cpu: costs::CPU, ..machine });
    let expectations = Expectations::read("unprivileged")?.allowing(&NMI_TEST);
    let log = machine.boot(&format!("unprivileged-{host}"), &expectations)?;
    Ok(operations(&log))
}

/// Holds what the operations cost on Xen against what they cost without, and returns both as a
/// table.
///
/// # Errors
///
/// When one was not measured, or costs too much.
pub fn check(plain: &BTreeMap<String, u64>, xen: &BTreeMap<String, u64>) -> Result<String> {
    let of =
        |costs: &BTreeMap<String, u64>, name| costs.get(name).copied().with_context(|| format!("no cost of {name}"));
    let mut lines = String::new();
    let mut dear = Vec::new();
    for name in OPERATIONS {
        let (plain, xen) = (of(plain, name)?, of(xen, name)?);
        let limit = limit(plain);
        let line = format!("{name:20} plain {plain:8} xen {xen:8} limit {limit:8}");
        if xen > limit {
            dear.push(line.clone());
        }
        lines += &line;
        lines.push('\n');
    }
    ensure!(dear.is_empty(), "too dear on Xen:\n{}\nof\n{lines}", dear.join("\n"));
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_too_much_is_named() {
        let plain: BTreeMap<_, _> = OPERATIONS.iter().map(|name| (name.to_string(), 100)).collect();
        let mut xen: BTreeMap<_, _> = OPERATIONS.iter().map(|name| (name.to_string(), limit(100))).collect();
        assert!(check(&plain, &xen).is_ok());
        *xen.get_mut("yield").unwrap() += 1;
        let message = check(&plain, &xen).unwrap_err().to_string();
        assert!(message.starts_with("too dear on Xen:\nyield "), "{message}");
        xen.remove("yield");
        assert!(check(&plain, &xen).is_err());
    }
}
