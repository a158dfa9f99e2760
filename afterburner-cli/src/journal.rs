//! What the shims of one build tell `afterburner build`.
//!
//! Every shim appends one entry in a single write, so that any number of them may do so at once. It serves the summary
//! only: a compiler cache answers without asking a shim, and on another machine there is no journal. The final word is
//! the verification of what was built.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The environment variable that names the journal's file.
pub(crate) const VARIABLE: &str = "AFTERBURNER_JOURNAL";

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The object.
    pub(crate) object: PathBuf,
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

/// Notes what became of an object, if there is a journal.
pub(crate) fn note(object: &Path, outcome: Outcome) {
    let Some(journal) = env::var_os(VARIABLE) else { return };
    let object = std::path::absolute(object).unwrap_or_else(|_| object.to_owned());
    let written = encode(&Entry { object, outcome }).and_then(|entry| {
        OpenOptions::new().append(true).open(journal)?.write_all(&entry)?;
        Ok(())
    });
    // Without a journal the build has less to tell; the object is as good.
    drop(written);
}

/// The entry behind its length.
fn encode(entry: &Entry) -> anyhow::Result<Vec<u8>> {
    let payload = bincode::serde::encode_to_vec(entry, bincode::config::standard())?;
    let mut bytes = u32::try_from(payload.len())?.to_le_bytes().to_vec();
    bytes.extend(payload);
    Ok(bytes)
}

/// The entries of a journal so far. One that is just being written is left out.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rest = bytes.as_slice();
    let mut entries = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk()
        && let Some((payload, next)) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)
    {
        let (entry, _) = bincode::serde::decode_from_slice(payload, bincode::config::standard())
            .with_context(|| format!("{} is damaged at byte {}", path.display(), bytes.len() - rest.len()))?;
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
        let entry = |number: usize| Entry { object: PathBuf::from("a.o"), outcome: Outcome::Annotated(number) };
        let file = tempfile::NamedTempFile::new()?;
        let mut bytes = encode(&entry(1))?;
        bytes.extend(encode(&entry(2))?);
        fs::write(file.path(), &bytes)?;
        assert_eq!(read(file.path())?, [entry(1), entry(2)]);
        fs::write(file.path(), &bytes[..bytes.len() - 1])?;
        assert_eq!(read(file.path())?, [entry(1)]);
        Ok(())
    }
}
