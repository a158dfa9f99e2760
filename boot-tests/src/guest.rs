//! The guest's user space: an initramfs of `BusyBox`, kernel modules, and a script from
//! `testdata/guests`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use initramfs::Archive;

use crate::cache;
use crate::unnamed::Unnamed;

/// Debian's package `busybox-static` puts it there.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// What the guest runs.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// `testdata/guests/NAME.sh`, or nothing for an interactive shell.
    pub script: Option<&'static str>,
    /// Modules, to be found in `/modules`.
    pub modules: Vec<PathBuf>,
    /// Static programs, to be found in `/programs`.
    pub programs: Vec<PathBuf>,
    /// Other files: path without the leading slash, contents.
    pub files: Vec<(&'static str, String)>,
}

impl Guest {
    /// A guest that runs a script with these modules at hand.
    #[must_use]
    pub fn script(name: &'static str, modules: Vec<PathBuf>) -> Self {
        Self { script: Some(name), modules, ..Self::default() }
    }

    /// Writes the initramfs.
    ///
    /// # Errors
    ///
    /// When one of its files cannot be read, or there is no room for the archive.
    pub fn initramfs(&self) -> Result<Unnamed> {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "sys", "tmp", "modules", "programs"] {
            archive = archive.directory(directory);
        }
        // The kernel opens the console before anything could mount a devtmpfs.
        archive = archive.character_device("dev/console", 5, 1).file("bin/busybox", 0o755, &read(BUSYBOX)?).file(
            "init",
            0o755,
            &read(cache::testdata("guests/init"))?,
        );
        if let Some(script) = self.script {
            archive = archive.file("script", 0o644, &read(cache::testdata(&format!("guests/{script}.sh")))?);
        }
        let modules = self.modules.iter().map(|path| ("modules", 0o644, path));
        let programs = self.programs.iter().map(|path| ("programs", 0o755, path));
        for (directory, permissions, path) in modules.chain(programs) {
            let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
            archive = archive.file(&format!("{directory}/{}", name.display()), permissions, &read(path)?);
        }
        for (name, contents) in &self.files {
            archive = archive.file(name, 0o644, contents.as_bytes());
        }
        Unnamed::new(&archive.finish())
    }
}

/// The contents of a file.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
