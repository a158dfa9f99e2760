//! The files that a guest needs and the user does not have: a kernel out of an image, an initramfs with a command in it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::build::cache;

/// A directory for them.
pub(super) struct Files {
    directory: PathBuf,
    _temporary: Option<TempDir>,
}

impl Files {
    /// One that is gone when this is.
    pub(super) fn temporary() -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("afterburner-").tempdir().context("cannot make a temporary directory")?;
        Ok(Self { directory: directory.path().to_owned(), _temporary: Some(directory) })
    }

    /// One that stays: always the same.
    pub(super) fn kept() -> anyhow::Result<Self> {
        let directory = cache()?.join("dry-run");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory, _temporary: None })
    }

    /// Writes a file.
    pub(super) fn write(&self, name: &str, contents: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
