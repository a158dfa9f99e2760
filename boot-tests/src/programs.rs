//! Builds the guests' own programs, `testdata/programs/NAME.c`, and reads the verdicts that they
//! print.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::guest::Guest;
use crate::{cache, command};

/// Builds static programs into a directory.
///
/// # Errors
///
/// When one does not compile.
pub fn build(names: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
    names.iter().map(|name| build_one(name, directory)).collect()
}

/// Without a red zone, for some of the programs push in inline assembly. Names that end in `-32`
/// are those of 32-bit programs.
fn build_one(name: &str, directory: &Path) -> Result<PathBuf> {
    let program = directory.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args([
        if name.ends_with("-32") { "-m32" } else { "-m64" },
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-D_GNU_SOURCE",
        "-mno-red-zone",
        "-static",
        "-no-pie",
        "-pthread",
    ]);
    gcc.arg("-o").arg(&program).arg(cache::testdata(&format!("programs/{name}.c")));
    command::output(&mut gcc)?;
    Ok(program)
}

/// The verdicts in a boot's log, by name: lines `ok NAME: TEXT`, `FAIL NAME: TEXT` and `skip NAME:
/// TEXT` of a guest. A value holds the whole verdict, so that two boots can be compared.
#[must_use]
pub fn verdicts(log: &str) -> BTreeMap<String, String> {
    log.lines().filter_map(verdict).collect()
}

/// A verdict that is not the same in two boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is in the first boot, if it is there.
    pub there: Option<&'a str>,
    /// What it is in the second.
    pub here: Option<&'a str>,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, there, here } = self;
        write!(f, "{name}:\n  there {}\n  here  {}", there.unwrap_or("none"), here.unwrap_or("none"))
    }
}

/// The verdicts of two boots that differ, in the order of their names.
#[must_use]
pub fn differences<'a>(there: &'a BTreeMap<String, String>, here: &'a BTreeMap<String, String>) -> Vec<Difference<'a>> {
    let names: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
    let all = names.into_iter().map(|name| Difference {
        name,
        there: there.get(name).map(String::as_str),
        here: here.get(name).map(String::as_str),
    });
    all.filter(|difference| difference.there != difference.here).collect()
}

/// Differences in lines, for a message.
#[must_use]
pub fn listed(differences: &[Difference<'_>]) -> String {
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    format!("{} verdicts differ:\n{}", lines.len(), lines.join("\n"))
}

/// A guest with programs from `testdata/programs`. The directory holds them until the guest has
/// been booted.
///
/// # Errors
///
/// When one does not compile.
pub fn guest_with(guest: Guest, names: &[&str]) -> Result<(Guest, TempDir)> {
    let directory = tempfile::tempdir()?;
    let programs = build(names, directory.path())?;
    Ok((Guest { programs, ..guest }, directory))
}

fn verdict(line: &str) -> Option<(String, String)> {
    let (_, text) = line.split_once("guest: ")?;
    let (head, what) = text.split_once(": ")?;
    let (verdict, name) = head.split_once(' ')?;
    let known = ["ok", "FAIL", "skip"].contains(&verdict) && !name.contains(' ');
    known.then(|| (name.to_owned(), format!("{verdict}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_from_a_log() {
        let log = "[    1.0] Linux version 6.1\n[    2.0] guest: script starts on Linux: yes\n\
                   [    3.0] guest: ok frame-cs-null: signal 11, vector 13, error 0\n\
                   [    3.1] guest: FAIL msr: status 1\n[    3.2] guest: skip xstate: no XSAVE\n";
        let verdicts: Vec<_> = verdicts(log).into_iter().collect();
        let expected = [
            ("frame-cs-null", "ok: signal 11, vector 13, error 0"),
            ("msr", "FAIL: status 1"),
            ("xstate", "skip: no XSAVE"),
        ];
        assert_eq!(verdicts, expected.map(|(name, what)| (name.to_owned(), what.to_owned())));
    }

    #[test]
    fn verdicts_differ_by_value_and_by_being_there() {
        let boot = |lines: &[(&str, &str)]| -> BTreeMap<String, String> {
            lines.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect()
        };
        let (there, here) = (
            boot(&[("a", "ok: 1"), ("b", "ok: 2"), ("c", "ok: 3")]),
            boot(&[("a", "ok: 1"), ("c", "FAIL: 3"), ("d", "ok: 4")]),
        );
        let found = differences(&there, &here);
        let expected = [("b", Some("ok: 2"), None), ("c", Some("ok: 3"), Some("FAIL: 3")), ("d", None, Some("ok: 4"))];
        assert_eq!(found, expected.map(|(name, there, here)| Difference { name, there, here }));
        assert!(listed(&found).starts_with("3 verdicts differ:\nb:\n  there ok: 2\n  here  none\n"));
        assert_eq!(differences(&there, &there), []);
    }

    #[test]
    fn every_program_compiles() {
        let directory = tempfile::tempdir().unwrap();
        let names = [
            "calls-32",
            "costs",
            "floating-point",
            "frames",
            "hostile-descriptors",
            "hostile-evictions",
            "hostile-floating-point",
            "hostile-frames",
            "hostile-instructions",
            "hostile-limits",
            "hostile-memory",
            "hostile-registers",
            "hostile-stacks",
            "hostile-sysenter",
            "hostile-traced",
            "load",
            "local-code-32",
            "local-tables",
            "mixed",
            "msr",
            "narrow-stack",
            "programs-32",
            "segments",
            "sensitive",
            "syscall-mix",
            "thread-areas",
            "timers",
            "unprivileged",
            "xstate",
        ];
        assert_eq!(build(&names, directory.path()).unwrap().len(), names.len());
    }
}
