//! Files that only this process and its children see.
//!
//! They are in memory, so they need neither `TMPDIR` nor room on a disk, and whatever ends this
//! process removes them. Children open them by their path under `/proc`, which is also how a tool
//! that has a file name for its output writes one.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process;

use anyhow::Context as _;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// An anonymous file.
#[derive(Debug)]
pub(crate) struct Scratch(File);

impl Scratch {
    /// An empty file.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let create = |flags| memfd_create("afterburner", MemfdFlags::CLOEXEC | flags);
        // Where executable ones are forbidden, that has to be said; older kernels do not know the
        // word.
        let file = create(MemfdFlags::NOEXEC_SEAL).or_else(|error| match error {
            Errno::INVAL => create(MemfdFlags::empty()),
            error => Err(error),
        });
        Ok(Self(File::from(file.context("cannot create a file in memory")?)))
    }

    /// A file with this content.
    pub(crate) fn with(content: &[u8]) -> anyhow::Result<Self> {
        let scratch = Self::new()?;
        (&scratch.0).write_all(content).context("cannot write a file in memory")?;
        Ok(scratch)
    }

    /// Where this process and its children find it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()))
    }

    /// What it holds.
    pub(crate) fn content(&self) -> anyhow::Result<Vec<u8>> {
        let read = || -> io::Result<Vec<u8>> {
            let mut content = Vec::new();
            (&self.0).rewind()?;
            (&self.0).read_to_end(&mut content)?;
            Ok(content)
        };
        read().context("cannot read a file in memory")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn another_process_writes_and_reads_it() -> anyhow::Result<()> {
        let [from, to] = [Scratch::with(b"text")?, Scratch::new()?];
        let status = Command::new("dd")
            .arg("if=".to_owned() + &from.path().to_string_lossy())
            .arg("of=".to_owned() + &to.path().to_string_lossy())
            .stderr(process::Stdio::null())
            .status()?;
        assert!(status.success());
        assert_eq!(to.content()?, b"text");
        let path = to.path();
        drop(to);
        assert!(fs::metadata(path).is_err());
        Ok(())
    }
}
