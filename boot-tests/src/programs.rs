//! Builds the guests' own programs, `testdata/programs/NAME.c`, and reads the verdicts that they print.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{cache, command};

/// Builds static programs into a directory.
///
/// # Errors
///
/// When one does not compile.
pub fn build(names: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
    names.iter().map(|name| build_one(name, directory)).collect()
}

/// Without a red zone, for some of the programs push in inline assembly.
fn build_one(name: &str, directory: &Path) -> Result<PathBuf> {
    let program = directory.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args([
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

/// The verdicts in a boot's log, by name: lines `ok NAME: TEXT`, `FAIL NAME: TEXT` and `skip NAME: TEXT` of a guest. A value
/// holds the whole verdict, so that two boots can be compared.
#[must_use]
pub fn verdicts(log: &str) -> BTreeMap<String, String> {
    log.lines().filter_map(verdict).collect()
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
    fn every_program_compiles() {
        let directory = tempfile::tempdir().unwrap();
        let names = [
            "costs",
            "frames",
            "hostile-descriptors",
            "hostile-evictions",
            "hostile-frames",
            "hostile-instructions",
            "hostile-limits",
            "hostile-memory",
            "hostile-registers",
            "hostile-stacks",
            "hostile-traced",
            "load",
            "mixed",
            "msr",
            "segments",
            "sensitive",
            "syscall-mix",
            "timers",
            "xstate",
        ];
        assert_eq!(build(&names, directory.path()).unwrap().len(), names.len());
    }
}
