//! Modules of our own, from `testdata/modules`, in as many copies as are wanted: each with another
//! name, all else the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cache;
use crate::kernel::Variant;

/// A module that says what its sites are worth; one of these has sites that an alternative is
/// applied over.
const MODULES: [(&str, &str); 2] = [("nested", "nested_000"), ("ordered", "ordered_000")];

/// Builds them for a kernel, so many copies of each, in a directory.
///
/// # Errors
///
/// When they cannot be built or copied.
pub fn build(variant: Variant, directory: &Path, copies: [usize; 2]) -> Result<Vec<PathBuf>> {
    let sources = cache::testdata("modules");
    for entry in fs::read_dir(&sources).with_context(|| format!("reading {}", sources.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), directory.join(entry.file_name()))?;
    }
    variant.build_modules(directory)?;
    let mut paths = Vec::new();
    for ((prefix, name), copies) in MODULES.into_iter().zip(copies) {
        let module = fs::read(directory.join(format!("{name}.ko"))).with_context(|| format!("reading {name}.ko"))?;
        for number in 0..copies {
            let copy = format!("{prefix}_{number:03}");
            let path = directory.join(format!("{copy}.ko"));
            fs::write(&path, renamed(&module, name.as_bytes(), copy.as_bytes())?)?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// A module's file with another name of the same length in all places.
fn renamed(module: &[u8], from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
    ensure!(from.len() == to.len(), "names of different lengths");
    let mut copy = module.to_vec();
    let places: Vec<_> = (0..module.len()).filter(|place| module[*place..].starts_with(from)).collect();
    ensure!(!places.is_empty(), "the name is nowhere in the module");
    for place in places {
        copy[place..place + to.len()].copy_from_slice(to);
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_replaced_everywhere() {
        assert_eq!(renamed(b"m_0.m_0", b"m_0", b"m_1").unwrap(), b"m_1.m_1");
        assert!(renamed(b"m_0", b"m_0", b"m_10").is_err());
        assert!(renamed(b"", b"m_0", b"m_1").is_err());
    }
}
