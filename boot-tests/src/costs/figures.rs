//! The figures of a table of costs for other readers: a page for a browser, and JSON for a program.

use anyhow::Result;
use report::{Bars, Content, Page, Row, Section, Table};
use serde::Serialize;
use serde_json::json;

/// A table of figures, whatever they count.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// What they count.
    pub unit: &'static str,
    /// How they were measured, in paragraphs.
    pub method: Vec<String>,
    /// The command that measures them.
    pub command: String,
    /// The systems, and what each is.
    pub systems: Vec<(&'static str, &'static str)>,
    /// The rows: what was measured, and on each system how much of it; `None` where it was not.
    pub rows: Vec<(&'static str, Vec<Option<f64>>)>,
    /// Which systems are compared with which: their places.
    pub comparisons: Vec<(usize, usize)>,
}

/// What is divided by what, and what comes out.
struct Quotients {
    name: String,
    rows: Vec<(&'static str, f64)>,
}

impl Quotients {
    /// The geometric mean.
    fn mean(&self) -> Option<f64> {
        let count = u32::try_from(self.rows.len()).ok().filter(|count| *count > 0)?;
        Some((self.rows.iter().map(|(_, ratio)| ratio.ln()).sum::<f64>() / f64::from(count)).exp())
    }
}

impl Figures {
    fn quotients(&self) -> impl Iterator<Item = Quotients> {
        self.comparisons.iter().map(|&(system, base)| {
            let quotient = |values: &[Option<f64>]| Some(values[system]? / values[base].filter(|base| *base > 0.0)?);
            let rows = self.rows.iter().filter_map(|(title, values)| Some((*title, quotient(values)?))).collect();
            Quotients { name: format!("{} / {}", self.systems[system].0, self.systems[base].0), rows }
        })
    }

    /// A line for each comparison: the geometric mean, and the row that is most out of line.
    #[must_use]
    pub fn means(&self) -> String {
        let line = |quotients: Quotients| {
            let (title, most) = quotients.rows.iter().max_by(|one, other| one.1.total_cmp(&other.1))?;
            let (mean, count) = (quotients.mean()?, quotients.rows.len());
            Some(format!(
                "{}: {mean:.3} in geometric mean of {count} rows, {most:.3} at most ({title})\n",
                quotients.name
            ))
        };
        self.quotients().filter_map(line).collect()
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut sections: Vec<_> = self.quotients().map(compared).collect();
        sections.push(self.side_by_side());
        sections.push(self.table());
        sections.push(Section {
            heading: "The systems".to_owned(),
            text: self.systems.iter().map(|(name, what)| format!("{name}: {what}.")).collect(),
            content: Content::Nothing,
        });
        sections.push(Section {
            heading: "How it was measured".to_owned(),
            text: self.method.clone(),
            content: Content::Nothing,
        });
        sections.push(Section {
            heading: "How to repeat it".to_owned(),
            text: vec![
                "In a clone of the project, on Debian 12, where the command installs what is missing:".to_owned(),
            ],
            content: Content::Commands(vec![self.command.clone()]),
        });
        Page { title: "What an afterburnt kernel costs".to_owned(), lead: self.lead(), sections }
    }

    fn lead(&self) -> Vec<String> {
        let mut lead = vec![format!("All figures are {}. Less is better.", self.unit)];
        lead.extend(self.means().lines().map(|line| format!("{line}.")));
        lead
    }

    /// Bars for each row and system, in terms of the first system.
    fn side_by_side(&self) -> Section {
        let base = self.systems.first().map_or("", |(name, _)| *name);
        let row = |(title, values): &(&'static str, Vec<Option<f64>>)| {
            let base = values.first().copied().flatten().filter(|base| *base > 0.0)?;
            let bar = |value: &Option<f64>| value.map(|value| (value / base, format!("{:.2}", value / base)));
            Some(Row { label: (*title).to_owned(), bars: values.iter().map(bar).collect() })
        };
        let series = self.systems.iter().map(|(name, _)| (*name).to_owned()).collect();
        let bars = Bars { series, rows: self.rows.iter().filter_map(row).collect(), mark: Some(1.0) };
        let text = vec![format!("What each costs, as a multiple of what it costs on {base}.")];
        Section { heading: "All systems".to_owned(), text, content: Content::Bars(bars) }
    }

    fn table(&self) -> Section {
        let names = self.systems.iter().map(|(name, _)| (*name).to_owned());
        let headings = [self.unit.to_owned()].into_iter().chain(names).collect();
        let row = |(title, values): &(&str, Vec<Option<f64>>)| {
            let cells = values.iter().map(|value| value.map_or("-".to_owned(), grouped));
            [(*title).to_owned()].into_iter().chain(cells).collect()
        };
        let rows = self.rows.iter().map(row).collect();
        Section { heading: "All figures".to_owned(), text: vec![], content: Content::Table(Table { headings, rows }) }
    }

    /// All of it as JSON.
    ///
    /// # Errors
    ///
    /// When a figure is no number.
    pub fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Figure<'a> {
            row: &'a str,
            system: &'a str,
            value: f64,
        }
        let figures = self.rows.iter().flat_map(|(row, values)| {
            let systems = self.systems.iter().map(|(system, _)| *system);
            systems.zip(values).filter_map(|(system, value)| Some(Figure { row, system, value: (*value)? }))
        });
        let means = self.quotients().map(|quotients| json!({ "quotient": quotients.name, "mean": quotients.mean() }));
        let all = json!({
            "unit": self.unit,
            "command": self.command,
            "figures": figures.collect::<Vec<_>>(),
            "geometric-means": means.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }
}

/// Bars for what is divided by what.
fn compared(quotients: Quotients) -> Section {
    let mean = quotients.mean().map_or(String::new(), |mean| format!(" The geometric mean is {mean:.3}."));
    let text = vec![format!("The line is at 1: a bar that ends before it is a row that costs less.{mean}")];
    let bar = |ratio: f64| vec![Some((ratio, format!("{ratio:.3}")))];
    let rows = quotients.rows.iter().map(|(title, ratio)| Row { label: (*title).to_owned(), bars: bar(*ratio) });
    let bars = Bars { series: vec![quotients.name.clone()], rows: rows.collect(), mark: Some(1.0) };
    Section { heading: quotients.name, text, content: Content::Bars(bars) }
}

/// A number with its digits in groups of three.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            unit: "instructions",
            method: vec!["Twice.".to_owned()],
            command: "scripts/costs".to_owned(),
            systems: vec![("plain", "make alone"), ("xen", "on Xen")],
            rows: vec![
                ("null", vec![Some(100.0), Some(400.0)]),
                ("stat", vec![Some(1000.0), Some(1_000_000.0)]),
                ("boot", vec![None, Some(7.0)]),
                ("free", vec![Some(0.0), Some(7.0)]),
            ],
            comparisons: vec![(1, 0)],
        }
    }

    #[test]
    fn what_was_not_measured_is_not_compared() {
        let means = figures().means();
        assert_eq!(means, "xen / plain: 63.246 in geometric mean of 2 rows, 1000.000 at most (stat)\n");
        let page = figures().page().html();
        for expected in ["1,000,000", "<td>-</td>", "63.246", "scripts/costs", "Twice.", "on Xen."] {
            assert!(page.contains(expected), "{expected} in {page}");
        }
        // The two quotients, and both systems side by side.
        assert_eq!(page.matches("<rect").count(), 2 + 4);
    }

    #[test]
    fn json_has_every_figure() {
        let json: serde_json::Value = serde_json::from_str(&figures().json().unwrap()).unwrap();
        assert_eq!(json["figures"].as_array().map(Vec::len), Some(7));
        assert_eq!(json["figures"][1], json!({ "row": "null", "system": "xen", "value": 400.0 }));
        assert_eq!(json["geometric-means"][0]["quotient"], "xen / plain");
    }

    #[test]
    fn digits_are_grouped() {
        for (value, text) in [(0.0, "0"), (999.0, "999"), (1000.0, "1,000"), (1_234_567.4, "1,234,567")] {
            assert_eq!(grouped(value), text);
        }
    }
}
