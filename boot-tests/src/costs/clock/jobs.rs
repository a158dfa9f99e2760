//! Jobs, of which each row is one: the machine's own compiler and assembler, as a build starts them
//! once for each file, and an archive that is unpacked and packed again.
//!
//! They find all that they need beside them, wherever that is, and so are the same everywhere.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::guest::BUSYBOX;
use crate::{cache, command};

/// The jobs, as scripts. What they write is in memory.
const SCRIPTS: [(&str, &str); 2] = [
    (
        "compile",
        "$run $here/cc1 -quiet -fpreprocessed -O2 $here/source.i -o $work/source.s
         $run $here/as $work/source.s -o $work/source.o",
    ),
    (
        "tar",
        "$here/busybox tar -xf $here/tree.tar -C $work
         $here/busybox tar -cf $work/again.tar -C $work include",
    ),
];

/// In front of them. The libraries are the machine's, and so is what loads them.
const FRONT: &str = "set -e
here=${0%/*}
work=/dev/shm/afterburner-costs.$$
run=\"$here/loader --library-path $here\"
$here/busybox mkdir $work
";

/// Behind them.
const BACK: &str = "
$here/busybox rm -r $work
";

/// Puts the jobs into a directory, with all that they need, and adds to the list what is there. The
/// shell that executes them.
pub(super) fn add(directory: &Path, files: &mut Vec<PathBuf>) -> Result<PathBuf> {
    let path = |name: &str| directory.join(name);
    let preprocessed = cache::testdata("programs/costs.c");
    command::output(Command::new("gcc").args(["-E", "-D_GNU_SOURCE", "-o"]).arg(path("source.i")).arg(preprocessed))?;
    let headers = crate::source::Release::Chosen.tree()?;
    command::output(Command::new("tar").arg("-cf").arg(path("tree.tar")).arg("-C").arg(headers).arg("include/uapi"))?;
    for (name, script) in SCRIPTS {
        fs::write(path(name), format!("{FRONT}{script}{BACK}"))?;
    }
    let names = SCRIPTS.map(|(name, _)| name);
    files.extend(["source.i", "tree.tar"].into_iter().chain(names).map(path));

    let mut copies = BTreeSet::from([(BUSYBOX.to_owned(), "busybox".to_owned())]);
    for name in ["cc1", "as"] {
        let program = command::output(Command::new("gcc").arg(format!("-print-prog-name={name}")))?;
        let program = command::output(Command::new("which").arg(program.trim()))?.trim().to_owned();
        copies.extend(libraries(&command::output(Command::new("ldd").arg(&program))?));
        copies.insert((program, name.to_owned()));
    }
    for (from, name) in copies {
        fs::copy(&from, path(&name)).with_context(|| format!("copying {from}"))?;
        fs::set_permissions(path(&name), fs::Permissions::from_mode(0o755))?;
        files.push(path(&name));
    }
    symlink(path("busybox"), path("sh"))?;
    Ok(path("sh"))
}

/// The libraries of a program and what loads them, by what `ldd` says: where each is, and what it
/// is to be called.
fn libraries(said: &str) -> impl Iterator<Item = (String, String)> {
    said.lines().filter_map(|line| {
        let line = line.split(" (").next()?.trim();
        match line.split_once(" => ") {
            Some((name, place)) => Some((place.to_owned(), name.to_owned())),
            None => line.starts_with('/').then(|| (line.to_owned(), "loader".to_owned())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_needs_is_found() {
        let said = "\tlinux-vdso.so.1 (0x00007fe178e0b000)\n\tlibz.so.1 => /lib/libz.so.1 (0x00007fe178c7d000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fe178e0d000)\n";
        let expected = [("/lib/libz.so.1", "libz.so.1"), ("/lib64/ld-linux-x86-64.so.2", "loader")];
        let found: Vec<_> = libraries(said).collect();
        assert_eq!(found, expected.map(|(place, name)| (place.to_owned(), name.to_owned())));
    }
}
