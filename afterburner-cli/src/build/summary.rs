//! The summary of a build: what became of the objects, and what was found in the kernel and its
//! modules.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use annotate::object::report::{Count, Miss, Problem, Report};
use annotate::object::sources::Sources;
use annotate::object::{Elf, verify};
use anyhow::Context as _;
use serde::Serialize;

use super::products::Products;
use crate::accept::{Acceptance, Accepted};
use crate::journal::{Entry, Outcome};
use crate::verify::{complain_of, percent};

/// How many findings of a kind are printed; the report has all.
const SHOWN: usize = 20;

/// What there is to say of a build.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) objects: Objects,
    pub(super) files: Vec<File>,
    /// Objects that came ready-made.
    pub(super) accepted: Vec<Acceptance>,
    /// What the build should have made and cannot be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
}

/// What became of the texts that the shims saw.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Objects {
    annotated: usize,
    /// There was nothing to annotate.
    plain: usize,
    /// Left alone, by reason.
    excluded: BTreeMap<String, Vec<PathBuf>>,
    /// Should have been annotated, and why that could not be.
    pub(super) missed: BTreeMap<PathBuf, String>,
}

/// What was found in one file.
#[derive(Debug, Serialize)]
pub(super) struct File {
    #[serde(rename = "file")]
    pub(super) path: PathBuf,
    /// Padded and recorded.
    pub(super) sites: usize,
    pub(super) pad_bytes: u64,
    pub(super) executable_bytes: u64,
    pub(super) classes: BTreeMap<&'static str, Count>,
    /// Sites by function.
    pub(super) functions: BTreeMap<String, usize>,
    pub(super) excused: BTreeMap<&'static str, usize>,
    pub(super) misses: Vec<Finding>,
    pub(super) problems: Vec<Finding>,
}

/// A miss or a record that does not hold.
#[derive(Debug, Serialize)]
pub(super) struct Finding(pub(super) String);

impl Objects {
    /// An object that was assembled several times counts as what it was last.
    fn of(journal: &[Entry]) -> Self {
        let last: BTreeMap<&Path, &Outcome> =
            journal.iter().map(|entry| (entry.object.as_path(), &entry.outcome)).collect();
        let mut objects = Self::default();
        for (object, outcome) in last {
            match outcome {
                Outcome::Annotated(_) => objects.annotated += 1,
                Outcome::Plain => objects.plain += 1,
                Outcome::Excluded(reason) => {
                    objects.excluded.entry(reason.clone()).or_default().push(object.to_owned());
                }
                Outcome::Missed(why) => drop(objects.missed.insert(object.to_owned(), why.clone())),
            }
        }
        objects
    }

    fn excluded(&self) -> usize {
        self.excluded.values().map(Vec::len).sum()
    }
}

impl File {
    fn of(path: &Path, accepted: &mut Accepted) -> anyhow::Result<Self> {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let elf = Elf::parse(&data).with_context(|| path.display().to_string())?;
        let mut report = verify(&elf).with_context(|| path.display().to_string())?;
        accepted.excuse(&elf, &mut report).with_context(|| path.display().to_string())?;
        if !report.holds() {
            let sources = Sources::of(&elf);
            report.find_sources(&sources);
            complain_of(path, &sources);
        }
        Ok(Self::new(path, &report))
    }

    fn new(path: &Path, report: &Report<'_>) -> Self {
        let mut functions = BTreeMap::new();
        for function in report.sites.iter().filter_map(|site| site.location.function) {
            *functions.entry(function.name.to_owned()).or_default() += 1;
        }
        Self {
            path: path.to_owned(),
            sites: report.classes().values().map(|count| count.sites).sum(),
            pad_bytes: report.pad_bytes(),
            executable_bytes: report.executable_bytes,
            classes: report.classes().into_iter().map(|(class, count)| (class.name(), count)).collect(),
            functions,
            excused: report.reasons(),
            misses: report.misses.iter().map(Miss::to_string).map(Finding).collect(),
            problems: report.problems.iter().map(Problem::to_string).map(Finding).collect(),
        }
    }

    /// The path as text.
    pub(super) fn name(&self) -> Cow<'_, str> {
        self.path.to_string_lossy()
    }

    pub(super) fn is_image(&self) -> bool {
        self.path.extension().is_none_or(|extension| extension != "o")
    }

    /// Whether the compiler went around the shims.
    fn is_bypassed(&self) -> bool {
        self.sites == 0 && !self.misses.is_empty()
    }
}

impl Summary {
    /// Verifies the files.
    pub(super) fn of(journal: &[Entry], products: Products, mut accepted: Accepted) -> anyhow::Result<Self> {
        let files = products.files.iter().map(|path| File::of(path, &mut accepted)).collect::<anyhow::Result<_>>()?;
        let (objects, missing) = (Objects::of(journal), products.missing);
        Ok(Self { objects, files, accepted: accepted.list(), missing })
    }

    /// Whether all that is sensitive is annotated, or left alone for a reason.
    pub(super) fn holds(&self) -> bool {
        let is_whole = |file: &File| file.misses.is_empty() && file.problems.is_empty();
        let is_useful = |acceptance: &Acceptance| acceptance.instructions > 0;
        self.missing.is_none()
            && self.accepted.iter().all(is_useful)
            && self.objects.missed.is_empty()
            && self.files.iter().all(is_whole)
    }

    fn census(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut total = BTreeMap::<&str, Count>::new();
        for (class, count) in self.files.iter().flat_map(|file| &file.classes) {
            let sum = total.entry(class).or_default();
            sum.sites += count.sites;
            sum.excused += count.excused;
            sum.misses += count.misses;
        }
        let mut rows: Vec<_> = total.into_iter().collect();
        rows.sort_by_key(|(class, count)| (std::cmp::Reverse(count.sites), *class));
        if !rows.is_empty() {
            writeln!(f, "    {:<14} {:>8} {:>8} {:>8}", "class", "padded", "excused", "misses")?;
        }
        for (class, Count { sites, excused, misses }) in rows {
            writeln!(f, "    {class:<14} {sites:>8} {excused:>8} {misses:>8}")?;
        }
        Ok(())
    }

    fn findings(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(missing) = &self.missing {
            writeln!(
                f,
                "afterburner: error: no {missing} was found to verify, neither where make was told to build nor around \
                 the objects"
            )?;
        } else if !self.files.iter().any(File::is_image) {
            writeln!(f, "afterburner: no kernel or module was verified")?;
        }
        for acceptance in &self.accepted {
            let kind = if acceptance.instructions > 0 { "" } else { "error: " };
            writeln!(f, "afterburner: {kind}{acceptance}")?;
        }
        for (object, why) in &self.objects.missed {
            writeln!(f, "afterburner: error: {}: {why}", object.display())?;
        }
        for file in &self.files {
            let path = file.path.display();
            if file.is_bypassed() {
                writeln!(
                    f,
                    "afterburner: error: {path}: nothing in it is annotated: the compiler did not use the shim"
                )?;
            }
            for findings in [&file.misses, &file.problems] {
                for Finding(finding) in findings.iter().take(SHOWN) {
                    writeln!(f, "afterburner: error: {path}: {finding}")?;
                }
                if findings.len() > SHOWN {
                    let more = findings.len() - SHOWN;
                    writeln!(f, "afterburner: error: {path}: and {more} more: `afterburner verify {path}` lists them")?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Objects { annotated, plain, excluded, missed } = &self.objects;
        let all = annotated + plain + self.objects.excluded() + missed.len();
        write!(f, "afterburner: objects: {all} assembled, {annotated} annotated, {plain} with nothing to annotate")?;
        writeln!(f, ", {} left alone, {} missed", self.objects.excluded(), missed.len())?;
        for (reason, objects) in excluded {
            writeln!(f, "    {} left alone: {reason}", objects.len())?;
        }
        for file in self.files.iter().filter(|file| file.is_image()) {
            writeln!(f, "afterburner: {file}")?;
        }
        self.census(f)?;
        self.findings(f)
    }
}

impl Display for File {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { sites, pad_bytes, executable_bytes, .. } = self;
        let share = percent(*pad_bytes, executable_bytes.saturating_sub(*pad_bytes));
        write!(f, "{}: sites {sites}, pads {pad_bytes} of {executable_bytes} bytes (+{share})", self.path.display())?;
        self.excused.iter().try_for_each(|(reason, count)| write!(f, ", {count} left alone: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_once() {
        let (object, directory) = (PathBuf::from("/a.o"), PathBuf::from("/"));
        let entry = |outcome| Entry { object: object.clone(), directory: directory.clone(), outcome };
        let journal = [entry(Outcome::Missed("why".to_owned())), entry(Outcome::Annotated(3))];
        let objects = Objects::of(&journal);
        assert_eq!(objects, Objects { annotated: 1, ..Objects::default() });
    }
}
