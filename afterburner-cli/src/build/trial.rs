//! A compilation of one line, before make starts: whatever keeps the compiler from using the shims
//! shows there, and not after hours of a plain build.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use annotate::object::has_records;
use anyhow::{Context as _, bail};

use super::make::Make;
use super::toolchain::{Toolchain, shell};
use crate::journal::{Journal, Outcome};

/// A sensitive instruction.
const SOURCE: &str = "void trial(void);\nvoid trial(void)\n{\n\t__asm__ __volatile__(\"cli\");\n}\n";

/// Compiles with the compiler and the flags that make will be given. Where they are of no use
/// without the shims either, make will say so.
pub(super) fn run(make: &Make, toolchain: &Toolchain, cache: &Path, directory: &str) -> anyhow::Result<()> {
    let place = tempfile::Builder::new().prefix(".trial-").tempdir_in(cache).or_else(|_| tempfile::tempdir());
    let place = place.context("there is no place to try the compiler in")?;
    let source = place.path().join("trial.c");
    fs::write(&source, SOURCE).context("cannot try the compiler")?;
    let trial = Trial { make, source: &source, object: &place.path().join("trial.o"), journal: Journal::create()? };
    let cc = toolchain.cc_with(directory);
    let cc = cc.as_deref().unwrap_or(toolchain.cc());
    let shims = toolchain.flags_with(directory);
    // The user's flags may refer to what only the makefiles say.
    for user in [make.given_or_inherited("KCFLAGS").unwrap_or_default(), ""] {
        let padded = trial.compile(cc, &format!("{shims} {} {user}", toolchain.flags_of_linux()))?;
        if padded.status.success() {
            return trial.judge(directory).with_context(|| format!("CC={}", toolchain.cc()));
        }
        if trial.compile(toolchain.cc(), user)?.status.success() {
            let message = String::from_utf8_lossy(&padded.stderr).trim().to_owned();
            bail!("CC={}: it fails with the shims in {directory}: {message}", toolchain.cc());
        }
    }
    Ok(())
}

struct Trial<'a> {
    make: &'a Make,
    source: &'a Path,
    object: &'a Path,
    journal: Journal,
}

impl Trial<'_> {
    fn compile(&self, cc: &str, flags: &str) -> anyhow::Result<Output> {
        let (object, source) = (self.object.display(), self.source.display());
        let mut command = shell(&format!("{cc} {flags} -c -o {object} {source}"), self.make.directory());
        command.envs([self.journal.variable()]).output().context("cannot run /bin/sh")
    }

    /// Says why the object is plain, if it is.
    fn judge(&self, directory: &str) -> anyhow::Result<()> {
        let object = fs::read(self.object).context("the compiler makes no object")?;
        if has_records(&object) {
            return Ok(());
        }
        let shim = Path::new(directory).join("as");
        if let Err(error) = Command::new(&shim).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
            bail!("the shim cannot be run: {}: {error}; XDG_CACHE_HOME names another place for it", shim.display());
        }
        match self.journal.entries()?.into_iter().next_back().map(|entry| entry.outcome) {
            Some(Outcome::Missed(reason) | Outcome::Excluded(reason)) => bail!("nothing would be annotated: {reason}"),
            _ => bail!("nothing would be annotated: the compiler does not use the shim in {directory}"),
        }
    }
}
