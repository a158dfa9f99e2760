//! The table of executed sensitive instructions.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use annotate::instructions::Class;
use annotate::object::report::Within;
use annotate::object::sources::SourceLine;
use clap::ValueEnum;
use serde::Serialize;

use super::paths::Paths;
use super::symbols::Whereabouts;
use crate::verify::percent;

/// What to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// Class of the instruction or sequence
    Class,
    /// Function
    Function,
    /// Line of a source file, and the function that it is executed in
    Line,
}

impl By {
    /// What a site is counted under.
    pub(super) fn key(self, site: &Site<'_>) -> String {
        const UNKNOWN: &str = "(unknown)";
        const MODULE: &str = "[module]";
        let other = if site.whereabouts.in_module { MODULE } else { UNKNOWN };
        let function = site.whereabouts.function.map_or(other, |function| function.name);
        match (self, &site.whereabouts.source) {
            (Self::Class, _) => site.class.to_string(),
            (Self::Line, Some(source)) => format!("{source} in {function}"),
            (Self::Line, None) if !site.whereabouts.in_module => format!("{UNKNOWN} in {function}"),
            (Self::Function | Self::Line, _) => function.to_owned(),
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Function => "function",
            Self::Line => "line",
        }
    }
}

/// A site that was executed.
#[derive(Clone, Debug)]
pub(super) struct Site<'data> {
    /// Its address at run time.
    pub(super) address: u64,
    pub(super) class: Class,
    pub(super) count: u64,
    pub(super) whereabouts: Whereabouts<'data>,
}

/// One line of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    #[serde(skip)]
    pub(super) key: String,
    pub(super) count: u64,
    sites: u64,
}

/// The rows, the most executed first.
pub(super) fn rows(sites: &[Site<'_>], by: By) -> Vec<Row> {
    let mut rows: HashMap<String, Row> = HashMap::new();
    for site in sites {
        let key = by.key(site);
        let row = rows.entry(key.clone()).or_insert(Row { key, ..Row::default() });
        row.count = row.count.saturating_add(site.count);
        row.sites += 1;
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
    rows
}

/// Prints the table: at most `top` rows, one for all others, and the sum.
pub(super) fn print(sites: &[Site<'_>], by: By, top: Option<usize>, out: &mut impl Write) -> io::Result<()> {
    let mut rows = rows(sites, by);
    let all = sum("in all".to_owned(), &rows);
    let rest = rows.split_off(rows.len().min(top.unwrap_or(usize::MAX)));
    if !rest.is_empty() {
        rows.push(sum(format!("({} others)", rest.len()), &rest));
    }
    let mut line =
        |count: &str, share: &str, sites: &str, key: &str| writeln!(out, "{count:>15}  {share:>8}  {sites:>6}  {key}");
    line("executed", "share", "sites", by.heading())?;
    for Row { key, count, sites } in rows.iter().chain([&all]) {
        line(&count.to_string(), &percent(*count, all.count), &sites.to_string(), key)?;
    }
    Ok(())
}

fn sum(key: String, rows: &[Row]) -> Row {
    let count = rows.iter().fold(0_u64, |sum, row| sum.saturating_add(row.count));
    Row { key, count, sites: rows.iter().map(|row| row.sites).sum() }
}

/// A site as readers of JSON want it. Its address is text: JSON numbers are doubles to most
/// readers, which cannot hold a kernel address.
#[derive(Serialize)]
struct SiteFields<'a> {
    address: String,
    class: &'static str,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<Within<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a SourceLine>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    module: bool,
}

impl<'a> SiteFields<'a> {
    fn of(site: &'a Site<'_>) -> Self {
        let Whereabouts { function, source, in_module } = &site.whereabouts;
        let (address, class, count) = (format!("{:#x}", site.address), site.class.name(), site.count);
        Self { address, class, count, function: *function, source: source.as_ref(), module: *in_module }
    }
}

/// Prints JSON: the sum and the classes, what the wedge was entered for, then every site.
pub(super) fn print_json(
    sites: &[Site<'_>],
    paths: &Paths,
    status: Option<u8>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Profile<'a> {
        status: Option<u8>,
        count: u64,
        classes: BTreeMap<&'a str, &'a Row>,
        #[serde(flatten)]
        paths: &'a Paths,
        sites: Vec<SiteFields<'a>>,
    }

    let rows = rows(sites, By::Class);
    let count = sum(String::new(), &rows).count;
    let classes = rows.iter().map(|row| (row.key.as_str(), row)).collect();
    let sites = sites.iter().map(SiteFields::of).collect();
    serde_json::to_writer(&mut *out, &Profile { status, count, classes, paths, sites })?;
    out.write_all(b"\n")?;
    Ok(())
}

#[cfg(test)]
fn site_for_tests(class: Class, count: u64, function: Option<&'static str>, line: Option<u32>) -> Site<'static> {
    let function = function.map(|name| Within { name, offset: 4 });
    let source = line.map(|line| SourceLine { file: "irqflags.h".to_owned(), line });
    let whereabouts = Whereabouts { function, source, in_module: false };
    Site { address: 0xffff_ffff_8100_0004, class, count, whereabouts }
}

#[cfg(test)]
pub(super) fn sites_for_tests() -> Vec<Site<'static>> {
    let mut sites = vec![
        site_for_tests(Class::Cli, 5, Some("f"), Some(40)),
        site_for_tests(Class::Sti, 6, Some("f"), Some(45)),
        site_for_tests(Class::Cli, 4, Some("g"), Some(40)),
        site_for_tests(Class::Hlt, 1, None, None),
        site_for_tests(Class::In, 4, None, None),
    ];
    sites[4].whereabouts.in_module = true;
    sites
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(by: By, top: Option<usize>) -> String {
        let mut out = Vec::new();
        print(&sites_for_tests(), by, top, &mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_most_executed_comes_first() {
        assert_eq!(
            printed(By::Class, None),
            "       executed     share   sites  class\n\
             \u{20}             9   45.00 %       2  cli\n\
             \u{20}             6   30.00 %       1  sti\n\
             \u{20}             4   20.00 %       1  in\n\
             \u{20}             1    5.00 %       1  hlt\n\
             \u{20}            20  100.00 %       5  in all\n"
        );
    }

    #[test]
    fn sites_are_named_as_far_as_they_are_known() {
        let keys = |by| rows(&sites_for_tests(), by).into_iter().map(|row| (row.key, row.count)).collect::<Vec<_>>();
        let expect = |expected: &[(&str, u64)]| expected.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!(keys(By::Function), expect(&[("f", 11), ("[module]", 4), ("g", 4), ("(unknown)", 1)]));
        assert_eq!(
            keys(By::Line),
            expect(&[
                ("irqflags.h:45 in f", 6),
                ("irqflags.h:40 in f", 5),
                ("[module]", 4),
                ("irqflags.h:40 in g", 4),
                ("(unknown) in (unknown)", 1)
            ])
        );
    }

    #[test]
    fn a_short_table_says_what_it_leaves_out() {
        let table = printed(By::Class, Some(1));
        let keys: Vec<&str> = table.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
        assert_eq!(keys, ["class", "cli", "(3 others)", "in all"]);
        assert!(table.contains("             11   55.00 %       3  (3 others)\n"), "{table}");
        assert_eq!(printed(By::Class, Some(4)), printed(By::Class, None));
    }

    #[test]
    fn no_counters_make_an_empty_table() {
        let mut out = Vec::new();
        print(&[], By::Class, Some(3), &mut out).expect("memory");
        assert!(String::from_utf8(out).expect("text").ends_with("              0    0.00 %       0  in all\n"));
    }

    #[test]
    fn json_has_the_classes_and_every_site() {
        let mut out = Vec::new();
        print_json(&sites_for_tests(), &Paths::default(), Some(3), &mut out).expect("memory");
        let json: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(json["status"], 3);
        assert_eq!(json["count"], 20);
        assert_eq!(json["paths"], serde_json::json!([]));
        assert_eq!(json["classes"]["cli"], serde_json::json!({"count": 9, "sites": 2}));
        assert_eq!(
            json["sites"][0],
            serde_json::json!({
                "address": "0xffffffff81000004", "class": "cli", "count": 5,
                "function": {"name": "f", "offset": 4}, "source": {"file": "irqflags.h", "line": 40}
            })
        );
        assert_eq!(json["sites"][4]["module"], true);
        assert_eq!(json["sites"].as_array().map(Vec::len), Some(5));
    }
}
