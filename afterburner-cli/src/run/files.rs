//! The files that a guest needs and the user does not have: a kernel out of an image, an initramfs
//! with a command in it.
//!
//! QEMU gets them without their ever having a name: each lies in memory, behind a descriptor that
//! QEMU inherits, and is gone with the last process that has it open. So nothing stays behind,
//! whatever ends us, and no file system has to have room.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::Context as _;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::build::cache;

/// Where they are.
pub(super) enum Files {
    /// In memory, for the programs that we start while this lives.
    Inherited(RefCell<Vec<OwnedFd>>),
    /// In a directory that stays: always the same.
    Kept(PathBuf),
}

impl Files {
    /// Files that are gone when this is, and the programs that were started meanwhile.
    pub(super) fn inherited() -> Self {
        Self::Inherited(RefCell::default())
    }

    /// Files that stay.
    pub(super) fn kept() -> anyhow::Result<Self> {
        let directory = cache()?.join("dry-run");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self::Kept(directory))
    }

    /// Writes a file, and returns the path by which a program that we start can open it.
    pub(super) fn write(&self, name: &str, contents: &[u8]) -> anyhow::Result<PathBuf> {
        match self {
            Self::Inherited(files) => {
                let file = in_memory(name, contents).with_context(|| format!("cannot hold the {name} in memory"))?;
                let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                files.borrow_mut().push(file);
                Ok(path)
            }
            Self::Kept(directory) => {
                let path = directory.join(name);
                fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(path)
            }
        }
    }
}

/// A file without a name, which stays open in the programs that we start.
fn in_memory(name: &str, contents: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::empty())?);
    file.write_all(contents)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_that_is_started_reads_them_by_their_paths() -> anyhow::Result<()> {
        let files = Files::inherited();
        let paths = [files.write("kernel", b"one")?, files.write("initramfs", b"two")?];
        let output = Command::new("cat").args(&paths).output()?;
        assert_eq!((output.stdout.as_slice(), output.status.success()), (b"onetwo".as_slice(), true));
        // Each time it is opened, it is read from the start.
        assert_eq!(fs::read(&paths[0])?, b"one");
        drop(files);
        assert!(fs::metadata(&paths[0]).is_err());
        Ok(())
    }
}
