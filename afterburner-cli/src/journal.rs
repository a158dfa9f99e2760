//! What the shims of one build tell `afterburner build`.
//!
//! Every shim appends one entry in a single write, so that any number of them may do so at once. It
//! says which objects were made, and so where to look for what they were linked into; but a
//! compiler cache answers without asking a shim, and on another machine there is no journal. The
//! final word is the verification of what was built.
//!
//! The journal is a file in memory that the shims open by way of `/proc`. It needs no place on a
//! disk that could be missing or full, and it ends with the build, however that ends. That holds of
//! the file that each make of the build writes to, too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, process};

use anyhow::Context as _;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;
use serde::{Deserialize, Serialize};

use crate::complain;

/// The environment variable that names the journal: its path and, to tell it from what may have
/// that path once the build has ended, its name.
pub(crate) const VARIABLE: &str = "AFTERBURNER_JOURNAL";

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The object.
    pub(crate) object: PathBuf,
    /// Where the shim was run.
    pub(crate) directory: PathBuf,
    /// What was done with it.
    pub(crate) outcome: Outcome,
}

/// What was done with the text of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It was annotated at this many places.
    Annotated(usize),
    /// There is nothing sensitive in it.
    Plain,
    /// It is left alone, for this reason.
    Excluded(String),
    /// It should have been annotated, and could not be.
    Missed(String),
}

/// A file in memory that other processes append to.
pub(crate) struct MemoryFile {
    file: File,
    name: String,
}

impl MemoryFile {
    /// An empty one.
    pub(crate) fn create() -> anyhow::Result<Self> {
        /// Who has kept the path for too long will hardly find a file there.
        const RARE: i32 = 600;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("afterburner-{}-{}", process::id(), time.as_nanos());
        let file = memfd_create(name.as_str(), MemfdFlags::CLOEXEC).context("cannot create a file in memory")?;
        let file = fcntl_dupfd_cloexec(&file, RARE).unwrap_or(file);
        Ok(Self { file: file.into(), name })
    }

    /// The path for other processes, as long as this one lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// What it holds so far.
    pub(crate) fn content(&self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = &self.file;
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("cannot read a file in memory")?;
        Ok(bytes)
    }
}

/// The journal of a build.
pub(crate) struct Journal(MemoryFile);

impl Journal {
    /// An empty one.
    pub(crate) fn create() -> anyhow::Result<Self> {
        Ok(Self(MemoryFile::create()?))
    }

    /// The environment variable for the shims.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        (VARIABLE, format!("{} {}", self.0.path(), self.0.name))
    }

    /// The entries so far. One that is just being written is left out.
    pub(crate) fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        decode(&self.0.content()?)
    }
}

/// Notes what became of an object, if there is a journal. Without an entry the build knows less;
/// the object is as good.
pub(crate) fn note(object: &Path, outcome: Outcome) {
    let Some(journal) = env::var_os(VARIABLE).and_then(|journal| journal.into_string().ok()) else { return };
    if let Err(error) = append(&journal, object, outcome) {
        complain(&error.context(format!("cannot tell the build what became of {}", object.display())));
    }
}

fn append(journal: &str, object: &Path, outcome: Outcome) -> anyhow::Result<()> {
    let Some((path, name)) = journal.split_once(' ') else { return Ok(()) };
    match fs::read_link(path) {
        Ok(target) if target == Path::new(&format!("/memfd:{name} (deleted)")) => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let object = std::path::absolute(object)?;
    let entry = encode(&Entry { object, directory: env::current_dir()?, outcome })?;
    OpenOptions::new().append(true).open(path)?.write_all(&entry)?;
    Ok(())
}

/// The entry behind its length.
fn encode(entry: &Entry) -> anyhow::Result<Vec<u8>> {
    let payload = bincode::serde::encode_to_vec(entry, bincode::config::standard())?;
    let mut bytes = u32::try_from(payload.len())?.to_le_bytes().to_vec();
    bytes.extend(payload);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> anyhow::Result<Vec<Entry>> {
    let mut rest = bytes;
    let mut entries = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk()
        && let Some((payload, next)) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)
    {
        let (entry, _) = bincode::serde::decode_from_slice(payload, bincode::config::standard())
            .with_context(|| format!("the journal is damaged at byte {}", bytes.len() - rest.len()))?;
        entries.push(entry);
        rest = next;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_up_to_the_unfinished_one() -> anyhow::Result<()> {
        let entry = |number: usize| Entry {
            object: PathBuf::from("a.o"),
            directory: PathBuf::from("/"),
            outcome: Outcome::Annotated(number),
        };
        let mut bytes = encode(&entry(1))?;
        bytes.extend(encode(&entry(2))?);
        assert_eq!(decode(&bytes)?, [entry(1), entry(2)]);
        assert_eq!(decode(&bytes[..bytes.len() - 1])?, [entry(1)]);
        Ok(())
    }

    #[test]
    fn entries_go_to_the_journal_that_is_meant_and_nowhere_else() -> anyhow::Result<()> {
        let (journal, other) = (Journal::create()?, Journal::create()?);
        let (_, variable) = journal.variable();
        append(&variable, Path::new("/a.o"), Outcome::Plain)?;
        append(&variable, Path::new("/b.o"), Outcome::Plain)?;
        let objects: Vec<PathBuf> = journal.entries()?.into_iter().map(|entry| entry.object).collect();
        assert_eq!(objects, [Path::new("/a.o"), Path::new("/b.o")]);
        // Another file has come to the descriptor since.
        let stale = format!("{} {}", other.0.path(), journal.0.name);
        append(&stale, Path::new("/c.o"), Outcome::Plain)?;
        append("/proc/0/fd/0 gone", Path::new("/c.o"), Outcome::Plain)?;
        assert_eq!(other.entries()?, []);
        Ok(())
    }
}
