//! Where built kernels, logs and the Linux source are kept between runs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/afterburner`, or `~/.cache/afterburner`; made if it is not there.
///
/// # Errors
///
/// When neither variable is set, or the directory cannot be made.
pub fn directory() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(base) if Path::new(&base).is_absolute() => PathBuf::from(base),
        _ => Path::new(&env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    made(base.join("afterburner"))
}

/// A directory below the cache; made if it is not there.
///
/// # Errors
///
/// When it cannot be made.
pub fn subdirectory(name: &str) -> Result<PathBuf> {
    made(directory()?.join(name))
}

/// Holds the lock with this name until the returned file is dropped, so that two processes do not
/// build the same thing.
///
/// # Errors
///
/// When the lock file cannot be opened or locked.
pub fn lock(name: &str) -> Result<File> {
    let path = subdirectory("locks")?.join(name);
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// The top of the checkout that this crate was built from.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A path below `testdata/`.
#[must_use]
pub fn testdata(path: &str) -> PathBuf {
    repository().join("testdata").join(path)
}

fn made(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}
