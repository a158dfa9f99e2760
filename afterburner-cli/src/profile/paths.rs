//! What the wedge was entered for, and what it called the host for, on a host that runs the guest's
//! kernel without its privileges.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::iter;

use report::{Content, Section, Table};
use serde::Serialize;

use crate::verify::percent;

/// What took the wedge or the host some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Spent {
    /// A class of sites, or something else that the wedge was entered for; or a call of the host.
    pub(super) name: String,
    /// How often.
    pub(super) count: u64,
    /// Of the time-stamp counter, in all.
    pub(super) ticks: u64,
}

/// All of it; nothing on bare hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Paths {
    /// What the wedge was entered for.
    pub(super) paths: Vec<Spent>,
    /// What the host was called for, which is part of that.
    pub(super) calls: Vec<Spent>,
}

/// The rows of a table: the number, ticks in all, their share of those, ticks each, and the name.
fn rows(spent: &[Spent]) -> impl Iterator<Item = [String; 5]> {
    let all = spent.iter().fold(0_u64, |sum, spent| sum.saturating_add(spent.ticks));
    spent.iter().map(move |Spent { name, count, ticks }| {
        let each = ticks / (*count).max(1);
        [count.to_string(), ticks.to_string(), percent(*ticks, all), each.to_string(), name.clone()]
    })
}

impl Paths {
    /// What took most comes first.
    pub(super) fn sort(&mut self) {
        for spent in [&mut self.paths, &mut self.calls] {
            spent.sort_by_key(|spent| (Reverse(spent.ticks), spent.name.clone()));
        }
    }

    /// Prints a table of each, if there is anything in it.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (heading, what, spent) in [("entered", "for", &self.paths), ("called", "of the host", &self.calls)] {
            if spent.is_empty() {
                continue;
            }
            writeln!(out)?;
            let headings = [heading, "ticks", "share", "each", what].map(str::to_owned);
            for [count, ticks, share, each, name] in iter::once(headings).chain(rows(spent)) {
                writeln!(out, "{count:>15}  {ticks:>14}  {share:>8}  {each:>9}  {name}")?;
            }
        }
        Ok(())
    }

    /// The same for a page.
    pub(super) fn sections(&self) -> Vec<Section> {
        let section = |heading: &str, text: &str, spent: &[Spent]| Section {
            heading: heading.to_owned(),
            text: vec![text.to_owned()],
            content: Content::Table(Table {
                headings: ["what", "times", "ticks", "share", "ticks each"].map(str::to_owned).to_vec(),
                rows: rows(spent)
                    .map(|[count, ticks, share, each, name]| vec![name, count, ticks, share, each])
                    .collect(),
            }),
        };
        let paths = section(
            "What the wedge was entered for",
            "Ticks are those of the time-stamp counter, between the entry and the exit.",
            &self.paths,
        );
        let calls = section("What the host was called for", "These ticks are among those above.", &self.calls);
        let given = [(paths, &self.paths), (calls, &self.calls)];
        given.into_iter().filter(|(_, spent)| !spent.is_empty()).map(|(section, _)| section).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        let spent = |name: &str, count, ticks| Spent { name: name.to_owned(), count, ticks };
        let (paths, calls) =
            (vec![spent("event", 2, 100), spent("mov-to-cr", 3, 300)], vec![spent("mmu_update", 4, 80)]);
        let mut paths = Paths { paths, calls };
        paths.sort();
        paths
    }

    #[test]
    fn what_took_most_comes_first() {
        let mut out = Vec::new();
        paths().print(&mut out).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "\n        entered           ticks     share       each  for\n\
             \u{20}             3             300   75.00 %        100  mov-to-cr\n\
             \u{20}             2             100   25.00 %         50  event\n\
             \n         called           ticks     share       each  of the host\n\
             \u{20}             4              80  100.00 %         20  mmu_update\n"
        );
    }

    #[test]
    fn where_nothing_is_counted_nothing_is_said() {
        let mut out = Vec::new();
        Paths::default().print(&mut out).expect("memory");
        assert!(out.is_empty());
        assert!(Paths::default().sections().is_empty());
        let headings: Vec<String> = paths().sections().into_iter().map(|section| section.heading).collect();
        assert_eq!(headings, ["What the wedge was entered for", "What the host was called for"]);
    }
}
