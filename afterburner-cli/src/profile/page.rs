//! A profile as a page for a browser: by class, by function and by line, the most executed first.

use report::{Bars, Content, Page, Row, Section, Table};

use super::paths::Paths;
use super::table::{By, Site, rows};
use crate::verify::percent;

/// How many of a kind have bars.
const SHOWN: usize = 40;

/// The page. Functions and lines are in it if they are `named`; `command` is what was measured.
pub(super) fn page(sites: &[Site<'_>], paths: &Paths, named: bool, command: String) -> Page {
    let all = sites.iter().fold(0_u64, |sum, site| sum.saturating_add(site.count));
    let lead = vec![format!("{all} sensitive instructions were executed in the kernel, at {} places.", sites.len())];
    let mut sections = vec![bars("Classes of instructions", sites, By::Class, all)];
    if named {
        sections.push(bars("Functions", sites, By::Function, all));
        if sites.iter().any(|site| site.whereabouts.source.is_some()) {
            sections.push(bars("Lines of the source", sites, By::Line, all));
        }
    }
    sections.extend(paths.sections());
    sections.push(places(sites));
    let text = vec!["The wedge has counted each site that was executed (afterburn.mode=profile).".to_owned()];
    sections.push(Section { heading: "The command".to_owned(), text, content: Content::Commands(vec![command]) });
    Page { title: "What was executed".to_owned(), lead, sections }
}

#[expect(clippy::cast_precision_loss, reason = "a bar need not be exact")]
fn bars(heading: &str, sites: &[Site<'_>], by: By, all: u64) -> Section {
    let rows = rows(sites, by);
    let text = match rows.len() {
        number if number > SHOWN => vec![format!("The {SHOWN} of {number} that come most often.")],
        _ => Vec::new(),
    };
    let bars = rows.into_iter().take(SHOWN).map(|row| {
        let words = format!("{} ({})", row.count, percent(row.count, all));
        Row { label: row.key, bars: vec![Some((row.count as f64, words))] }
    });
    let content = Content::Bars(Bars { series: vec!["executed".to_owned()], rows: bars.collect(), mark: None });
    Section { heading: heading.to_owned(), text, content }
}

/// The sites that come most often, each with its address.
fn places(sites: &[Site<'_>]) -> Section {
    let mut most: Vec<_> = sites.iter().collect();
    most.sort_by_key(|site| (std::cmp::Reverse(site.count), site.address));
    let row = |site: &&Site<'_>| {
        let place = By::Line.key(site);
        vec![format!("{:#x}", site.address), site.count.to_string(), site.class.to_string(), place]
    };
    let headings = ["address", "executed", "class", "line and function"].map(str::to_owned).to_vec();
    let table = Table { headings, rows: most.iter().take(SHOWN).map(row).collect() };
    let text = vec![format!("The {SHOWN} that come most often, if there are so many.")];
    Section { heading: "Places".to_owned(), text, content: Content::Table(table) }
}

#[cfg(test)]
mod tests {
    use super::super::table::sites_for_tests;
    use super::*;

    #[test]
    fn it_has_what_the_table_has() {
        let text =
            page(&sites_for_tests(), &Paths::default(), true, "afterburner profile image -- true".to_owned()).html();
        for expected in [
            "20 sensitive instructions were executed in the kernel, at 5 places.",
            "9 (45.00 %)",
            "irqflags.h:45 in f",
            "[module]",
            "0xffffffff81000004",
            "afterburner profile image -- true",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let text = page(&sites_for_tests(), &Paths::default(), false, String::new()).html();
        assert!(!text.contains("<h2>Functions"), "{text}");
    }
}
