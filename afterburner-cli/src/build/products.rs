//! What a build has made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::make::Make;
use crate::journal::{Entry, Outcome};

/// The kernel and modules to verify: what is newer than `start`; if nothing is, what was to be built and did not need to be;
/// if no kernel or module was to be built, the objects that were.
pub(super) fn find(make: &Make, journal: &[Entry], start: SystemTime) -> Vec<PathBuf> {
    let mut images = Vec::new();
    collect(&make.output_directory(), &mut images, true);
    images.sort();
    let is_new = |path: &&PathBuf| fs::metadata(path).and_then(|file| file.modified()).is_ok_and(|time| time >= start);
    let new: Vec<PathBuf> = images.iter().filter(is_new).cloned().collect();
    if !new.is_empty() {
        return new;
    }
    if make.builds_kernel() && !images.is_empty() {
        return images;
    }
    let is_kept = |entry: &&Entry| !matches!(entry.outcome, Outcome::Excluded(_)) && entry.object.is_file();
    let mut objects: Vec<PathBuf> = journal.iter().filter(is_kept).map(|entry| entry.object.clone()).collect();
    objects.sort();
    objects.dedup();
    objects
}

/// Collects `vmlinux` of the top directory, and every module.
fn collect(directory: &Path, images: &mut Vec<PathBuf>, is_top: bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        let is_module = path.extension().is_some_and(|extension| extension == "ko");
        if kind.is_dir() {
            collect(&path, images, false);
        } else if kind.is_file() && (is_module || is_top && entry.file_name() == "vmlinux") {
            images.push(path);
        }
    }
}
