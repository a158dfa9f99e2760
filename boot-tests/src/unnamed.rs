//! Files without a name: nothing of them stays behind, whatever ends a test.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};

/// A file that is gone when this is.
#[derive(Debug)]
pub struct Unnamed {
    _file: File,
    path: PathBuf,
}

impl Unnamed {
    /// Writes one.
    ///
    /// # Errors
    ///
    /// When there is no room for it.
    pub fn new(contents: &[u8]) -> Result<Self> {
        let mut file = tempfile::tempfile().context("making a temporary file")?;
        file.write_all(contents).context("writing a temporary file")?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()));
        Ok(Self { _file: file, path })
    }

    /// Where other programs find it, as long as it is there.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::command;

    #[test]
    fn another_program_reads_it_from_its_start_each_time() -> Result<()> {
        let file = Unnamed::new(b"text")?;
        for _ in 0..2 {
            assert_eq!(command::output(Command::new("cat").arg(file.path()))?, "text");
        }
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
        Ok(())
    }
}
