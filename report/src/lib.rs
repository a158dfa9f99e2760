//! Pages of figures for a browser: what a command prints as a table, with bars to compare by, how
//! it was measured, and how to measure it again.
//!
//! Such a page is sent to somebody, or kept with the build that it is about. So it is one file that
//! needs nothing else: no network, no script, no font. Bars are SVG whose lengths are percentages,
//! so that they fit a telephone as well as a wide screen; colours are those of the reader's choice,
//! light or dark. Whatever comes from a kernel (names of functions, of files) is text, and never
//! markup.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What it is about.
    pub title: String,
    /// What it shows, in a paragraph or two.
    pub lead: Vec<String>,
    /// Its parts.
    pub sections: Vec<Section>,
}

/// A part of a page, with a heading of its own.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// Paragraphs in front of what there is to see.
    pub text: Vec<String>,
    /// What there is to see.
    pub content: Content,
}

/// What a section shows.
#[derive(Clone, Debug, Default)]
pub enum Content {
    /// Nothing but its text.
    #[default]
    Nothing,
    /// Bars, a group to a row.
    Bars(Bars),
    /// Cells, in rows.
    Table(Table),
    /// Lines for a shell.
    Commands(Vec<String>),
}

/// Bars that can be compared with each other: all begin at nothing, and have one scale.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    /// What is measured: a name for each of the bars of a row.
    pub series: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// A value to hold them against, which is marked by a line.
    pub mark: Option<f64>,
}

/// A row of bars.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What the row is about.
    pub label: String,
    /// For each of the series, its value and the words for it; `None` where it was not measured.
    pub bars: Vec<Option<(f64, String)>>,
}

/// A table. All columns but the first have numbers.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What the columns are.
    pub headings: Vec<String>,
    /// The rows, each as long as the headings.
    pub rows: Vec<Vec<String>>,
}

/// As many series have a colour of their own.
const COLOURS: usize = 5;

const STYLE: &str = include_str!("style.css");

impl Page {
    /// The page as a file for a browser.
    #[must_use]
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (self.title) }
                        @for paragraph in &self.lead { p.lead { (paragraph) } }
                        @for section in &self.sections { (section.markup()) }
                    }
                }
            }
        };
        page.into_string()
    }
}

impl Section {
    fn markup(&self) -> Markup {
        html! {
            section {
                h2 { (self.heading) }
                @for paragraph in &self.text { p { (paragraph) } }
                @match &self.content {
                    Content::Nothing => {}
                    Content::Bars(bars) => (bars.markup()),
                    Content::Table(table) => (table.markup()),
                    Content::Commands(lines) => pre { code { (lines.join("\n")) } },
                }
            }
        }
    }
}

impl Bars {
    /// What the whole width stands for.
    fn longest(&self) -> f64 {
        let values = self.rows.iter().flat_map(|row| &row.bars).flatten().map(|(value, _)| *value);
        values.chain(self.mark).fold(0.0, f64::max)
    }

    fn markup(&self) -> Markup {
        let longest = self.longest();
        let share = |value: f64| if longest > 0.0 { 100.0 * value.max(0.0) / longest } else { 0.0 };
        html! {
            @if self.series.len() > 1 {
                ul.legend {
                    @for (number, name) in self.series.iter().enumerate() {
                        li { span.{ "key colour" (number % COLOURS) } {} (name) }
                    }
                }
            }
            div.bars role="table" {
                @for row in &self.rows {
                    div.row role="row" {
                        div.label role="rowheader" { (row.label) }
                        div.group role="cell" {
                            @for (number, bar) in row.bars.iter().enumerate() {
                                @if let Some((value, words)) = bar {
                                    (self.bar(number, share(*value), self.mark.map(share), words))
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn bar(&self, number: usize, percent: f64, mark: Option<f64>, words: &str) -> Markup {
        let name = self.series.get(number).map_or("", String::as_str);
        html! {
            div.bar {
                svg role="img" aria-label={ (name) " " (words) } {
                    rect.{ "colour" (number % COLOURS) } width={ (format!("{percent:.2}%")) } height="100%" {}
                    @if let Some(mark) = mark {
                        line.mark x1={ (format!("{mark:.2}%")) } x2={ (format!("{mark:.2}%")) } y1="0" y2="100%" {}
                    }
                }
                span.words { (words) }
            }
        }
    }
}

impl Table {
    fn markup(&self) -> Markup {
        html! {
            div.scroll tabindex="0" {
                table {
                    thead { tr { @for heading in &self.headings { th scope="col" { (heading) } } } }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                @for (column, cell) in row.iter().enumerate() {
                                    @if column == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bars: Bars) -> String {
        let section = Section { heading: "Bars".to_owned(), content: Content::Bars(bars), ..Section::default() };
        Page { title: "A page".to_owned(), sections: vec![section], ..Page::default() }.html()
    }

    fn row(values: &[Option<f64>]) -> Row {
        let bars = values.iter().map(|value| value.map(|value| (value, format!("{value} units")))).collect();
        Row { label: "a row".to_owned(), bars }
    }

    #[test]
    fn the_longest_bar_is_the_scale() {
        let series = vec!["one".to_owned(), "other".to_owned()];
        let text =
            page(Bars { series, rows: vec![row(&[Some(5.0), None]), row(&[Some(20.0), Some(10.0)])], mark: None });
        for expected in [r#"width="25.00%""#, r#"width="100.00%""#, r#"width="50.00%""#, "10 units", "one", "other"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert_eq!(text.matches("<rect").count(), 3);
    }

    #[test]
    fn a_mark_is_within_the_scale() {
        let text = page(Bars { series: vec!["ratio".to_owned()], rows: vec![row(&[Some(0.5)])], mark: Some(1.0) });
        assert!(text.contains(r#"width="50.00%""#) && text.contains(r#"x1="100.00%""#), "{text}");
    }

    #[test]
    fn nothing_is_as_long_as_nothing() {
        assert!(page(Bars { series: vec![], rows: vec![row(&[Some(0.0)])], mark: None }).contains(r#"width="0.00%""#));
        assert!(!page(Bars::default()).contains("<rect"));
    }

    #[test]
    fn names_are_text_and_nothing_is_loaded() {
        let evil = "</title><script>alert(1)</script> & \"so\"".to_owned();
        let section = Section {
            heading: evil.clone(),
            text: vec![evil.clone()],
            content: Content::Table(Table { headings: vec![evil.clone()], rows: vec![vec![evil.clone()]] }),
        };
        let commands = Section { content: Content::Commands(vec![evil.clone()]), ..Section::default() };
        let bars = Bars {
            series: vec![evil.clone(); 2],
            rows: vec![Row { label: evil.clone(), bars: vec![Some((1.0, evil.clone()))] }],
            mark: None,
        };
        let bars = Section { content: Content::Bars(bars), ..Section::default() };
        let text = Page { title: evil.clone(), lead: vec![evil], sections: vec![section, commands, bars] }.html();
        assert!(!text.contains("<script") && text.contains("&lt;script&gt;"), "{text}");
        for loads in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!text.contains(loads), "{loads} in {text}");
        }
    }
}
