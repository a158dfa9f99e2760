//! The summary of a build as a page for a browser: what was padded, where, how much the kernel has
//! grown by it, and what was not found.

use std::collections::BTreeMap;

use report::{Bars, Content, Page, Row, Section, Table};

use super::summary::{File, Finding, Summary};
use crate::verify::percent;

/// How many functions, and how many files, have bars.
const SHOWN: usize = 40;

/// The page; `command` is what has built.
pub(super) fn page(summary: &Summary, command: String) -> Page {
    let images = || summary.files.iter().filter(|file| file.is_image());
    let verdict = if summary.holds() {
        "Each sensitive instruction in what was built is annotated, or there is a stated reason why not."
    } else {
        "Not all that is sensitive is annotated: see what was not found."
    };
    let classes = sum(&summary.files, |file| file.classes.iter().map(|(class, count)| (*class, count.sites)));
    let functions = sum(&summary.files, |file| file.functions.iter().map(|(name, sites)| (name.as_str(), *sites)));
    let files = images().map(|file| (file.name(), file.sites)).collect();
    let sections = vec![
        growth(images()),
        bars("Classes of instructions", ["sites", "classes"], classes),
        bars("Functions", ["sites", "functions"], functions),
        bars("Kernel and modules", ["sites", "files"], files),
        left_alone(summary),
        findings(summary),
        Section { heading: "The command".to_owned(), content: Content::Commands(vec![command]), ..Section::default() },
    ];
    Page { title: "What was afterburnt".to_owned(), lead: vec![verdict.to_owned()], sections }
}

/// How often each key comes in all files.
fn sum<'a, I>(files: &'a [File], of: impl Fn(&'a File) -> I) -> Vec<(&'a str, usize)>
where
    I: Iterator<Item = (&'a str, usize)>,
{
    let mut sums = BTreeMap::new();
    for (key, count) in files.iter().flat_map(of) {
        *sums.entry(key).or_default() += count;
    }
    sums.into_iter().collect()
}

/// Bars, the longest first; what has none is left out.
#[expect(clippy::cast_precision_loss, reason = "the values are far below 2^52")]
fn bars(heading: &str, [unit, kind]: [&str; 2], mut counts: Vec<(impl AsRef<str> + Ord, usize)>) -> Section {
    counts.retain(|(_, count)| *count > 0);
    counts.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let (all, number) = (counts.iter().map(|(_, count)| count).sum::<usize>(), counts.len());
    let mut text = vec![format!("{all} {unit}, in {number} {kind}.")];
    if number > SHOWN {
        text.push(format!("The {SHOWN} with most are shown."));
    }
    let row = |(key, count): &(_, usize)| Row {
        label: AsRef::<str>::as_ref(key).to_owned(),
        bars: vec![Some((*count as f64, count.to_string()))],
    };
    let rows = counts.iter().take(SHOWN).map(row).collect();
    let content = Content::Bars(Bars { series: vec![unit.to_owned()], rows, mark: None });
    Section { heading: heading.to_owned(), text, content }
}

fn growth<'a>(files: impl Iterator<Item = &'a File>) -> Section {
    let headings = ["file", "executable bytes", "of them pads", "growth", "sites"].map(str::to_owned).to_vec();
    let row = |file: &File| {
        let File { executable_bytes, pad_bytes, sites, .. } = file;
        let growth = percent(*pad_bytes, executable_bytes.saturating_sub(*pad_bytes));
        vec![file.name().into_owned(), executable_bytes.to_string(), pad_bytes.to_string(), growth, sites.to_string()]
    };
    let table = Table { headings, rows: files.map(row).collect() };
    Section { heading: "Growth".to_owned(), content: Content::Table(table), ..Section::default() }
}

fn left_alone(summary: &Summary) -> Section {
    let reasons = sum(&summary.files, |file| file.excused.iter().map(|(reason, count)| (*reason, *count)));
    bars("Left alone, by reason", ["instructions", "groups"], reasons)
}

/// Misses, and records that do not hold, with their places.
fn findings(summary: &Summary) -> Section {
    let of_file = |file: &'_ File| {
        let found = file.misses.iter().chain(&file.problems);
        found.map(|Finding(finding)| vec![finding.clone(), file.name().into_owned()]).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = summary.files.iter().flat_map(of_file).collect();
    let missed = summary.objects.missed.iter();
    rows.extend(missed.map(|(object, why)| vec![why.clone(), object.display().to_string()]));
    let heading = "What was not found".to_owned();
    if rows.is_empty() {
        return Section { heading, text: vec!["Nothing.".to_owned()], content: Content::Nothing };
    }
    let headings = ["finding", "file"].map(str::to_owned).to_vec();
    Section { heading, text: vec![], content: Content::Table(Table { headings, rows }) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use annotate::object::report::Count;

    use super::*;

    fn file(path: &str, misses: Vec<Finding>) -> File {
        File {
            path: PathBuf::from(path),
            sites: 7,
            pad_bytes: 10,
            executable_bytes: 1010,
            classes: BTreeMap::from([("cli", Count { sites: 5, ..Count::default() }), ("hlt", Count::default())]),
            functions: BTreeMap::from([("cpu_idle".to_owned(), 2)]),
            excused: BTreeMap::from([("32-bit code", 3)]),
            misses,
            problems: Vec::new(),
        }
    }

    #[test]
    fn it_has_classes_functions_files_growth_and_misses() {
        let mut summary = Summary { files: vec![file("vmlinux", vec![]), file("a.ko", vec![])], ..Summary::default() };
        let text = page(&summary, "afterburner build make".to_owned()).html();
        for expected in [
            "10 sites, in 1 classes.",
            "cpu_idle",
            "vmlinux",
            "a.ko",
            "1.00 %",
            "32-bit code",
            "Nothing.",
            "afterburner build make",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert!(!text.contains("hlt"), "a class without a site has a bar: {text}");
        summary.files.push(file("b.ko", vec![Finding("f+0x1: cli (fa) has no record, at a.c:7".to_owned())]));
        let text = page(&summary, String::new()).html();
        assert!(text.contains("at a.c:7") && text.contains("Not all that is sensitive"), "{text}");
    }
}
