//! `afterburner sites`: where the sites of a file are.
//!
//! For people a table of counts; for programs (`--json`) the same table, and every site by itself.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate::object::report::Site;
use annotate::object::sources::Sources;
use annotate::object::{Elf, verify};
use clap::ValueEnum;
use serde::Serialize;

use crate::complain;
use crate::verify::{complain_of, named, percent, read};

/// Count the sites of a file, by class, function, source file or source line
///
/// Lists what each has, the most first: sites, their share, and the bytes of padding. Files and
/// lines come from debug information.
///
/// With --json an object: `file`; `by`; `pad_bytes`; `rows`, the table, of which each row has
/// `key`, the number of `sites` and `pad_bytes`; and `sites`, every site in the order of the text.
/// A site has its `section`, its `address` (hexadecimal; in an object or a module, the offset in
/// its section), the `length` of the instruction or sequence, that of its `slot`, its `class`, its
/// `flags`, the `reason` if it is not padded, the `function` and the offset in it, and the source
/// `line` and its `source_file`. What is not known is null.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// An object, a module, a linked kernel
    file: PathBuf,
    /// What to count by
    #[arg(long, value_enum, default_value_t = By::Class)]
    by: By,
    /// Print JSON, with every site
    #[arg(long)]
    json: bool,
}

/// What to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    /// Class of the instruction or sequence
    Class,
    /// Function
    Function,
    /// Source file
    File,
    /// Line of a source file
    Line,
}

impl By {
    /// The key that a site is counted under.
    fn key(self, site: &Site<'_>) -> String {
        const UNKNOWN: &str = "(unknown)";
        let source = site.location.source.as_ref();
        let key = match self {
            Self::Class => Some(site.site.class.to_string()),
            Self::Function => site.location.function.map(|function| function.name.to_owned()),
            Self::File => source.map(|source| source.file.clone()),
            Self::Line => source.map(ToString::to_string),
        };
        key.unwrap_or_else(|| UNKNOWN.to_owned())
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Function => "function",
            Self::File => "file",
            Self::Line => "line",
        }
    }
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    key: String,
    sites: u64,
    pad_bytes: u64,
}

/// The table.
#[derive(Debug)]
struct Table {
    by: By,
    sites: u64,
    pad_bytes: u64,
    rows: Vec<Row>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Listing<'a> {
    file: &'a Path,
    by: By,
    pad_bytes: u64,
    rows: &'a [Row],
    sites: Vec<Listed<'a>>,
}

/// A site by itself.
#[derive(Serialize)]
struct Listed<'a> {
    section: &'a str,
    address: String,
    length: u8,
    slot: u8,
    class: &'static str,
    flags: Vec<&'static str>,
    reason: Option<&'static str>,
    function: Option<&'a str>,
    function_offset: Option<u64>,
    source_file: Option<&'a str>,
    line: Option<u32>,
}

impl<'a> Listed<'a> {
    fn of(Site { location, site, .. }: &'a Site<'_>) -> Self {
        let source = location.source.as_ref();
        Self {
            section: location.section,
            address: format!("{:#x}", location.address.unwrap_or(location.offset)),
            length: site.length,
            slot: site.slot,
            class: site.class.name(),
            flags: site.flags.iter_names().map(|(name, _)| name).collect(),
            reason: site.flags.unpadded_reason(),
            function: location.function.map(|function| function.name),
            function_offset: location.function.map(|function| function.offset),
            source_file: source.map(|source| source.file.as_str()),
            line: source.map(|source| source.line),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let data = read(&arguments.file)?;
    let elf = Elf::parse(&data).map_err(|error| named(&arguments.file, error))?;
    let mut report = verify(&elf).map_err(|error| named(&arguments.file, error))?;
    if !report.problems.is_empty() {
        let file = arguments.file.display();
        complain(&anyhow::anyhow!("{file}: not all records hold; `afterburner verify` says why"));
    }
    if arguments.json || matches!(arguments.by, By::File | By::Line) {
        let sources = Sources::of(&elf);
        report.find_site_sources(&sources);
        complain_of(&arguments.file, &sources);
    }
    let table = table(arguments.by, &report.sites);
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        let Table { by, pad_bytes, rows, .. } = &table;
        let sites = report.sites.iter().map(Listed::of).collect();
        let listing = Listing { file: &arguments.file, by: *by, pad_bytes: *pad_bytes, rows, sites };
        serde_json::to_writer(&mut out, &listing)?;
        out.write_all(b"\n")?;
    } else {
        print(&table, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn table(by: By, sites: &[Site<'_>]) -> Table {
    let mut counts: HashMap<String, (u64, u64)> = HashMap::new();
    for site in sites {
        let count = counts.entry(by.key(site)).or_default();
        count.0 += 1;
        count.1 += site.pad();
    }
    let row = |(key, (sites, pad_bytes))| Row { key, sites, pad_bytes };
    let mut rows: Vec<Row> = counts.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.sites.cmp(&a.sites).then_with(|| a.key.cmp(&b.key)));
    let sites = rows.iter().map(|row| row.sites).sum();
    let pad_bytes = rows.iter().map(|row| row.pad_bytes).sum();
    Table { by, sites, pad_bytes, rows }
}

fn print(table: &Table, out: &mut impl Write) -> io::Result<()> {
    let mut line =
        |sites: &str, share: &str, pad: &str, key: &str| writeln!(out, "{sites:>7}  {share:>8}  {pad:>8}  {key}");
    line("sites", "share", "padding", table.by.heading())?;
    for Row { key, sites, pad_bytes } in &table.rows {
        line(&sites.to_string(), &percent(*sites, table.sites), &pad_bytes.to_string(), key)?;
    }
    line(&table.sites.to_string(), &percent(1, 1), &table.pad_bytes.to_string(), "in all")
}

#[cfg(test)]
mod tests {
    use annotate::object::elf::Place;
    use annotate::object::report::{Location, Within};
    use annotate::record::{AllegedSite, Flags, Liveness};

    use super::*;

    fn site(class: annotate::instructions::Class, function: Option<&'static str>) -> Site<'static> {
        let origin = Place { section: 1, offset: 0 };
        let function = function.map(|name| Within { name, offset: 0 });
        let location =
            Location { place: origin, origin, section: ".text", offset: 0, address: None, function, source: None };
        let site =
            AllegedSite { address: 0, length: 1, slot: 5, class, liveness: Liveness::UNKNOWN, flags: Flags::empty() };
        Site { location, record: 0, site }
    }

    #[test]
    fn sites_are_counted_by_key_the_most_first() {
        use annotate::instructions::Class::{Cli, Sti};
        let sites = [site(Cli, Some("f")), site(Sti, None), site(Sti, Some("g"))];
        let rows = |by| table(by, &sites).rows;
        let row = |key: &str, sites, pad_bytes| Row { key: key.to_owned(), sites, pad_bytes };
        assert_eq!(rows(By::Class), [row("sti", 2, 8), row("cli", 1, 4)]);
        assert_eq!(rows(By::Function), [row("(unknown)", 1, 4), row("f", 1, 4), row("g", 1, 4)]);
        assert_eq!(rows(By::Line), [row("(unknown)", 3, 12)]);
        let mut out = Vec::new();
        print(&table(By::Class, &sites), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("      3  100.00 %        12  in all\n"));
    }
}
