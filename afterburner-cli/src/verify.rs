//! `afterburner verify`: every sensitive instruction has its record, and every record holds.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate::object::report::{Count, Report};
use annotate::object::sources::Sources;
use annotate::object::{Elf, verify};
use anyhow::Context as _;
use serde::Serialize;

use crate::accept::{Accept, Accepted};
use crate::complain;

/// Check that every sensitive instruction has its record, and that every record holds
///
/// Decodes all executable sections of objects, modules or linked kernels. Lists each sensitive
/// instruction that has neither a record nor a stated reason, each record that does not agree with
/// the text, and each reference (branch, operand, word of data) to a place within a slot or an
/// instruction, with its source line where the file has debug information. What is accepted
/// (`--accept`) is counted with its reason. Ends with 0 only where there is nothing to list, with 1
/// where there is, with 2 where a file cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Objects, modules, linked kernels
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    accept: Accept,
    /// Print JSON: an array with an object for each file
    #[arg(long)]
    json: bool,
}

/// What became of one file.
enum Outcome {
    Holds,
    Fails,
    Unreadable,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    const UNREADABLE: u8 = 2;
    let mut accepted = Accepted::read(&arguments.accept.acceptances()?, &[])?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut outcomes = Vec::new();
    for (number, path) in arguments.files.iter().enumerate() {
        if arguments.json {
            out.write_all(if number == 0 { b"[" } else { b",\n" })?;
        }
        outcomes.push(file(path, &mut accepted, arguments.json, &mut out)?);
    }
    if arguments.json {
        out.write_all(b"]\n")?;
    }
    out.flush()?;
    for object in accepted.useless() {
        complain(&anyhow::anyhow!("{object}"));
        outcomes.push(Outcome::Fails);
    }
    Ok(if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unreadable)) {
        ExitCode::from(UNREADABLE)
    } else if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Fails)) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn file(path: &Path, accepted: &mut Accepted, json: bool, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let data = match read(path) {
        Ok(data) => data,
        Err(error) => return unreadable(path, &error, json, out),
    };
    let report = match report(&data, path, accepted) {
        Ok(report) => report,
        Err(error) => return unreadable(path, &error, json, out),
    };
    if json {
        print_json(path, &report, out)?;
    } else {
        print(path, &report, out)?;
    }
    Ok(if report.holds() { Outcome::Holds } else { Outcome::Fails })
}

/// What there is to say of a file with this content.
fn report<'data>(data: &'data [u8], path: &Path, accepted: &mut Accepted) -> anyhow::Result<Report<'data>> {
    let elf = Elf::parse(data).map_err(|error| named(path, error))?;
    let mut report = verify(&elf).map_err(|error| named(path, error))?;
    accepted.excuse(&elf, &mut report).with_context(|| path.display().to_string())?;
    if !report.holds() {
        let sources = Sources::of(&elf);
        report.find_sources(&sources);
        complain_of(path, &sources);
    }
    Ok(report)
}

/// Reads a whole file; the error names it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// An error about a file, with the file's name.
pub(crate) fn named(path: &Path, error: annotate::object::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(path.display().to_string())
}

/// Says why lines are missing, if there is debug information and it could not be read.
pub(crate) fn complain_of(path: &Path, sources: &Sources<'_>) {
    if let Some(trouble) = sources.trouble() {
        complain(&anyhow::anyhow!("{}: {trouble}; source lines are missing", path.display()));
    }
}

fn unreadable(path: &Path, error: &anyhow::Error, json: bool, out: &mut impl Write) -> anyhow::Result<Outcome> {
    #[derive(Serialize)]
    struct Unread<'a> {
        file: &'a Path,
        error: String,
    }

    complain(error);
    if json {
        serde_json::to_writer(out, &Unread { file: path, error: format!("{error:#}") })?;
    }
    Ok(Outcome::Unreadable)
}

fn print_json(path: &Path, report: &Report<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Verified<'a> {
        file: &'a Path,
        holds: bool,
        pad_bytes: u64,
        classes: BTreeMap<&'static str, Count>,
        reasons: BTreeMap<&'static str, usize>,
        #[serde(flatten)]
        report: &'a Report<'a>,
    }

    let classes = report.classes().into_iter().map(|(class, count)| (class.name(), count)).collect();
    let (holds, pad_bytes, reasons) = (report.holds(), report.pad_bytes(), report.reasons());
    serde_json::to_writer(out, &Verified { file: path, holds, pad_bytes, classes, reasons, report })?;
    Ok(())
}

/// Prints a report.
pub(crate) fn print(path: &Path, report: &Report<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let file = path.display();
    for miss in &report.misses {
        writeln!(out, "{file}: {miss}")?;
    }
    for problem in &report.problems {
        writeln!(out, "{file}: {problem}")?;
    }
    let (pads, code) = (report.pad_bytes(), report.executable_bytes);
    let sites = counted(report.sites.len(), "site");
    writeln!(out, "{file}: {sites}, {pads} bytes of padding in {code} bytes of code ({})", percent(pads, code))?;
    if report.sites.is_empty() && report.excused.is_empty() && report.holds() {
        return Ok(());
    }
    let mut classes: Vec<_> = report.classes().into_iter().filter(|(_, count)| count.sites > 0).collect();
    classes.sort_by_key(|(class, count)| (std::cmp::Reverse(count.sites), *class));
    let classes: Vec<String> = classes.iter().map(|(class, count)| format!("{} {class}", count.sites)).collect();
    if !classes.is_empty() {
        writeln!(out, "  padded: {}", classes.join(", "))?;
    }
    for (reason, count) in report.reasons() {
        writeln!(out, "  not padded: {count} ({reason})")?;
    }
    let misses = counted(report.misses.len(), "miss");
    let problems = counted(report.problems.len(), "problem");
    writeln!(out, "  {misses}, {problems}")?;
    Ok(())
}

fn counted(count: usize, noun: &str) -> String {
    let plural = match (count, noun.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {noun}{plural}")
}

/// A share in percent, to two places.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::{counted, percent};

    #[test]
    fn shares_are_given_to_two_places() {
        assert_eq!(percent(1, 3), "33.33 %");
        assert_eq!(percent(5, 1000), "0.50 %");
        assert_eq!(percent(0, 0), "0.00 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.00 %");
    }

    #[test]
    fn nouns_are_counted() {
        assert_eq!(counted(1, "miss"), "1 miss");
        assert_eq!(counted(0, "miss"), "0 misses");
        assert_eq!(counted(2, "problem"), "2 problems");
    }
}
