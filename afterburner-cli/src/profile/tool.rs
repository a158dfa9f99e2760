//! `wedge-port`, the program that talks to the wedge from inside the guest.
//!
//! It is compiled here, when it is first needed, by the compiler that the kernel was built with,
//! most likely: a static C program runs in any guest, and anybody can read what it does.

use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::build::cache;
use crate::tool::search;

/// Its name in the guest.
pub(super) const NAME: &str = "wedge-port";

/// Its source.
pub(super) const SOURCE: &str = include_str!("../../guest/wedge-port.c");

/// The program.
pub(super) fn program() -> anyhow::Result<Vec<u8>> {
    let cache = cache()?;
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    let path = cache.join(format!("{NAME}-{:016x}", hasher.finish()));
    if !path.exists() {
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = cache.join(NAME).with_extension("lock");
        let locked = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _locked = locked.with_context(|| format!("cannot lock {}", lock.display()))?;
        if !path.exists() {
            compile(&path)?;
        }
    }
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Compiles it under another name, then renames it. That name is always the same: what is left of a
/// run that was killed is written over.
fn compile(path: &Path) -> anyhow::Result<()> {
    let Some(compiler) = search("cc".as_ref()) else {
        bail!("a C compiler, `cc`, is needed for the program that asks the wedge, and there is none in PATH")
    };
    let program = path.with_extension("new");
    let mut command = Command::new(&compiler);
    command.args(["-O2", "-static", "-x", "c", "-", "-o"]).arg(&program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        // A compiler that does not read to the end says why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(SOURCE.as_bytes()));
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot run {}", compiler.display()))?;
    if !output.status.success() {
        bail!("{} -static failed:\n{}", compiler.display(), String::from_utf8_lossy(&output.stderr));
    }
    fs::set_permissions(&program, Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&program, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compiles_without_a_warning() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join(NAME);
        compile(&path)?;
        let usage = Command::new(&path).output()?;
        assert_eq!(usage.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&usage.stderr).starts_with("usage: wedge-port"), "{usage:?}");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/wedge-port.c");
        let strict = ["-O2", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source];
        assert!(Command::new("cc").args(strict).status()?.success());
        Ok(())
    }
}
