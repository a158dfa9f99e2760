//! What `afterburner build` tells the shims that its make runs.
//!
//! It stands in a file beside the shim, not in the environment: make, ccache and distcc may all
//! drop variables, and a directory that holds everything can be copied to another machine as it is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use annotate::instructions::{Class, ClassSet};
use annotate::text::Options;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::assembly::Rewritten;

/// Name of the file.
pub(crate) const FILE: &str = "session";

/// What it starts with.
const MAGIC: &[u8; 8] = b"AFTRBRN\x02";

/// The settings of the shims in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The real assembler; `None` is the one in `PATH`.
    pub(crate) assembler: Option<PathBuf>,
    /// The real clang; `None` is the one in `PATH`.
    pub(crate) clang: Option<PathBuf>,
    /// Names of the classes that are not padded.
    pub(crate) without: BTreeSet<String>,
    /// Keep Linux's objtool from taking records for code pointers.
    pub(crate) objtool_hints: bool,
    /// Hold every object against what the real tool makes of the plain text.
    pub(crate) check: bool,
    /// Rewrite texts for the lower half of the address space.
    pub(crate) low: Option<Rewritten>,
    /// Stands for the shim and the real tools: a compiler cache that sees this file sees a change
    /// of any of them.
    pub(crate) identity: u64,
}

impl Session {
    /// The session of the directory that this program lies in. There is none if it was not put
    /// there by a build.
    pub(crate) fn current() -> anyhow::Result<Self> {
        match env::current_exe().ok().as_deref().and_then(Path::parent) {
            Some(directory) if is_shims(directory) => Self::read(&directory.join(FILE)),
            _ => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::decode(&bytes).with_context(|| format!("{} is no session of this version of afterburner", path.display()))
    }

    /// The contents of the file.
    pub(crate) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(bincode::serde::encode_to_vec(self, bincode::config::standard())?);
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        let Some(payload) = bytes.strip_prefix(MAGIC) else { bail!("it starts differently") };
        let (session, length) = bincode::serde::decode_from_slice(payload, bincode::config::standard())?;
        if length != payload.len() {
            bail!("it is too long");
        }
        Ok(session)
    }

    /// What the text stage is to do.
    pub(crate) fn options(&self) -> Options {
        let mut classes = ClassSet::default();
        self.without.iter().filter_map(|name| Class::from_name(name)).for_each(|class| classes.remove(class));
        Options { classes, objtool_hints: self.objtool_hints }
    }
}

/// Whether the directory holds shims and their session.
pub(crate) fn is_shims(directory: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    let read = File::open(directory.join(FILE)).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_survives_its_file() -> anyhow::Result<()> {
        let session = Session {
            assembler: Some(PathBuf::from("/usr/bin/as")),
            without: BTreeSet::from(["cpuid".to_owned()]),
            objtool_hints: true,
            identity: u64::MAX,
            ..Session::default()
        };
        assert_eq!(Session::decode(&session.encode()?)?, session);
        assert!(!session.options().classes.contains(Class::Cpuid));
        Ok(())
    }

    #[test]
    fn another_file_is_refused() -> anyhow::Result<()> {
        let mut bytes = Session::default().encode()?;
        bytes.push(0);
        assert!(Session::decode(&bytes).is_err());
        assert!(Session::decode(b"").is_err());
        assert!(Session::decode(&bytes[..MAGIC.len()]).is_err());
        Ok(())
    }
}
