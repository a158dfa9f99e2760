//! What a build has made: the kernels and modules to verify.
//!
//! They are looked for where make was told to write, and each make that it ran; and around the
//! objects that the shims saw being made. *New* is what changed since the start (`st_ctime`, which
//! `cp -p` and `touch` cannot set back). What was there before is verified, too, where the goals
//! ask for it: that it did not need to be built again does not make it right. But a module that no
//! longer belongs to the tree is nobody's business, so where Linux lists them (`modules.order`),
//! the others are left out; where it does not, the old ones count only if there are no new ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::iter;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use object::LittleEndian;
use object::elf::{FileHeader64, SHF_EXECINSTR, SHT_NOBITS};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, SectionHeader as _};

use super::goals::{Wanted, is_module};
use super::make::Make;
use crate::exclusions;
use crate::journal::{Entry, Outcome};

/// What there is to verify.
#[derive(Debug, Default)]
pub(super) struct Products {
    /// Kernels and modules; if there are none, objects.
    pub(super) files: Vec<PathBuf>,
    /// What should be there and is not.
    pub(super) missing: Option<String>,
    /// Where the makes started and wrote to.
    pub(super) directories: Vec<PathBuf>,
}

/// A kernel or a module.
struct Image {
    is_new: bool,
    /// Whether it lies in a directory that make was told to write to, a kernel right there.
    is_expected: bool,
}

/// Finds out what a build has made since `start`, with the makes that it ran.
pub(super) fn find(make: &Make, others: &[Make], journal: &[Entry], start: SystemTime) -> Products {
    let asked = make.goals().map(Wanted::by).unwrap_or_default();
    let makes = || iter::once(make).chain(others);
    let directories: BTreeSet<PathBuf> = makes().flat_map(Make::output_directories).collect();
    let mut search = Search { start, seen: HashSet::new(), images: BTreeMap::new() };
    for directory in &directories {
        search.tree(directory, true);
    }
    for external in makes().filter(|make| make.is_external()) {
        search.tree(external.directory(), false);
    }
    search.around(journal);
    // A makefile without a goal may be anything; the default goal is what the user has asked for.
    let named = others.iter().filter_map(Make::goals).flatten().filter(|goal| *goal != "all");
    let wanted = asked.clone().or(Wanted::by(&named.cloned().collect::<Vec<_>>()));
    let lists = directories.iter().filter_map(|directory| modules(directory));
    let listed = lists.reduce(|all, more| all.into_iter().chain(more).collect());
    let has_no_modules = listed.as_ref().is_some_and(BTreeSet::is_empty);
    let images = select(search.images, &wanted, listed.as_ref());
    let missing = asked.missing(&images, has_no_modules);
    let files = if images.is_empty() { objects(journal) } else { images };
    let starts = makes().map(|make| make.directory().to_owned());
    Products { files, missing, directories: directories.iter().cloned().chain(starts).collect() }
}

/// Those that are new, and those that were to be made and did not need to be.
fn select(images: BTreeMap<PathBuf, Image>, wanted: &Wanted, listed: Option<&BTreeSet<OsString>>) -> Vec<PathBuf> {
    let has_new = images.values().any(|image| image.is_new);
    let is_listed = |path: &Path| match listed {
        Some(listed) => path.file_stem().is_some_and(|name| listed.contains(name)),
        None => !has_new,
    };
    let is_wanted = |path: &Path| {
        let by_kind = if is_module(path) { wanted.modules || wanted.any } else { wanted.kernel || wanted.any };
        by_kind && (!is_module(path) || is_listed(path)) || wanted.names(path)
    };
    let selected = images.into_iter().filter(|(path, image)| image.is_new || image.is_expected && is_wanted(path));
    selected.map(|(path, _)| path).collect()
}

/// The names of the modules that Linux lists, if it does.
fn modules(directory: &Path) -> Option<BTreeSet<OsString>> {
    let list = fs::read_to_string(directory.join("modules.order")).ok()?;
    let name = |line: &str| Path::new(line).file_stem().map(OsString::from);
    Some(list.lines().filter_map(name).collect())
}

/// The objects that were made and are still there.
fn objects(journal: &[Entry]) -> Vec<PathBuf> {
    let is_kept = |entry: &&Entry| !matches!(entry.outcome, Outcome::Excluded(_)) && entry.object.is_file();
    let objects: BTreeSet<PathBuf> = journal.iter().filter(is_kept).map(|entry| entry.object.clone()).collect();
    objects.into_iter().collect()
}

struct Search {
    start: SystemTime,
    /// Directories that were looked through with all that is in them.
    seen: HashSet<PathBuf>,
    images: BTreeMap<PathBuf, Image>,
}

impl Search {
    /// Looks through a directory and all that is in it.
    fn tree(&mut self, top: &Path, is_expected: bool) {
        let mut open = self.directory(top, is_expected, true);
        while let Some(directory) = open.pop() {
            if self.seen.insert(directory.clone()) {
                open.extend(self.directory(&directory, is_expected, false));
            }
        }
    }

    /// Looks at each directory above an object and above the place that it was made from, and in
    /// all of those that are the top of a tree.
    fn around(&mut self, journal: &[Entry]) {
        let of_kernel = journal.iter().filter(|entry| !matches!(entry.outcome, Outcome::Excluded(_)));
        let starts = of_kernel.flat_map(|entry| [entry.object.parent(), Some(entry.directory.as_path())]);
        let starts: BTreeSet<&Path> = starts.flatten().collect();
        let above: BTreeSet<&Path> = starts.into_iter().flat_map(Path::ancestors).collect();
        for directory in above {
            let is_top =
                ["vmlinux", "modules.order", "Module.symvers"].iter().any(|name| directory.join(name).is_file());
            if is_top {
                self.tree(directory, false);
            } else {
                self.directory(directory, false, false);
            }
        }
    }

    /// Takes the images of one directory, and returns the directories in it, by their real paths.
    fn directory(&mut self, directory: &Path, is_expected: bool, is_top: bool) -> Vec<PathBuf> {
        let entries = fs::canonicalize(directory).and_then(fs::read_dir);
        let mut directories = Vec::new();
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            let is_kernel = entry.file_name() == "vmlinux" && exclusions::of_path(&path).is_none();
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && (is_module(&path) || is_kernel) {
                self.take(path, is_expected && (is_top || !is_kernel));
            }
        }
        directories
    }

    fn take(&mut self, path: PathBuf, is_expected: bool) {
        let is_new = fs::metadata(&path).is_ok_and(|file| is_since(self.start, file.ctime(), file.ctime_nsec()));
        if (is_new || is_expected) && !is_for_debuggers(&path) {
            self.images.entry(path).or_insert(Image { is_new, is_expected: false }).is_expected |= is_expected;
        }
    }
}

/// Whether a file system's time is not before another. Its clock ticks no faster than Linux's
/// timer, and in some it counts only seconds.
fn is_since(start: SystemTime, seconds: i64, nanoseconds: i64) -> bool {
    const TICK: Duration = Duration::from_millis(10);
    let time = (start - TICK).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = (i64::try_from(time.as_secs()).unwrap_or(i64::MAX), i64::from(time.subsec_nanos()));
    (seconds, nanoseconds) >= start || nanoseconds == 0 && seconds == start.0
}

/// Whether a file has an image's debug information and none of its code
/// (`objcopy --only-keep-debug`).
fn is_for_debuggers(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let data = &ReadCache::new(file);
    let Ok(header) = FileHeader64::<LittleEndian>::parse(data) else { return false };
    let Ok(sections) = header.endian().and_then(|endian| header.sections(endian, data)) else { return false };
    let code = sections
        .iter()
        .filter(|section| section.sh_flags(LittleEndian).contains(SHF_EXECINSTR) && section.sh_size(LittleEndian) != 0);
    let is_there: Vec<bool> = code.map(|section| section.sh_type(LittleEndian) != SHT_NOBITS).collect();
    !is_there.is_empty() && !is_there.contains(&true)
}
