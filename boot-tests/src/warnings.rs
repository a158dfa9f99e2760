//! Warnings in the log of a kernel build.
//!
//! `testdata/warnings/NAME.txt` lists those that the plain builds of the same kernel print, of 6.1
//! and of 6.12; without that file, they print none. The place of the source tree is left out, and
//! offsets into functions are, for padding moves them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cache;

/// The warnings in the log of a build of `tree` that are not in the list of this name.
///
/// # Errors
///
/// When the list cannot be read.
pub fn unexpected(log: &str, tree: &Path, name: &str) -> Result<BTreeSet<String>> {
    let path = cache::testdata(&format!("warnings/{name}.txt"));
    let known = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let known: BTreeSet<String> = known.lines().map(without_offsets).collect();
    let log = log.replace(&format!("{}/", tree.display()), "");
    Ok(warnings(&log).filter(|warning| !known.contains(warning)).collect())
}

fn warnings(log: &str) -> impl Iterator<Item = String> {
    log.lines().filter(|line| line.to_ascii_lowercase().contains("warning")).map(without_offsets)
}

/// `function+0x2b` becomes `function+0x`.
fn without_offsets(line: &str) -> String {
    let mut parts = line.trim().split("+0x");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("+0x");
        plain.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_hexdigit()));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_do_not_matter() {
        assert_eq!(without_offsets("vmlinux.o: f+0x2b: RET"), "vmlinux.o: f+0x: RET");
    }

    #[test]
    fn finds_every_spelling() {
        let log = "  CC init/main.o\na.c:1: warning: unused\nWARNING: modpost: bad\nvmlinux.o: Warning: g+0x1f/0x20\n";
        let found: Vec<_> = warnings(log).collect();
        assert_eq!(found, ["a.c:1: warning: unused", "WARNING: modpost: bad", "vmlinux.o: Warning: g+0x/0x20"]);
    }

    #[test]
    fn only_known_warnings_pass() {
        let tree = Path::new("/home/user/linux");
        let known = "vmlinux.o: warning: objtool: __handle_intr_saferet+0x77: RET before UNTRAIN";
        assert!(unexpected(known, tree, "hard").unwrap().is_empty());
        assert_eq!(unexpected(known, tree, "min").unwrap().len(), 1);
        let placed = "/home/user/linux/fs/select.c:9:12: warning: new";
        assert_eq!(unexpected(placed, tree, "min").unwrap().first().unwrap(), "fs/select.c:9:12: warning: new");
    }
}
