//! A page as a browser shows it: at the width of a telephone and of a screen, light and dark.
//!
//! Conditions covered: nothing is wider than the window, no text is cut off or lies over another,
//! each bar is as long as it should be, and the colours are those asked for. Chromium is Debian's.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use report::{Bars, Content, Page, Row, Section, Table};

/// What the browser is asked, in place of a reader's eyes: the answer is put into the title.
const QUESTIONS: &str = "<script>
const box = element => element.getBoundingClientRect();
const all = selector => [...document.querySelectorAll(selector)];
const wide = document.documentElement.scrollWidth - window.innerWidth;
const cut = all('.words, .label, h1, h2, p').filter(e => box(e).right > window.innerWidth + 1 || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline').length;
const over = all('.bar').filter(e => box(e.children[0]).right > box(e.children[1]).left + 1).length;
const lengths = all('rect').map(e => Math.round(100 * box(e).width / box(e.parentElement).width));
const ground = getComputedStyle(document.body).backgroundColor;
document.title = JSON.stringify([wide, cut, over, lengths.join(' '), ground]);
</script>";

fn page() -> Page {
    let row = |label: &str, values: [f64; 2]| Row {
        label: label.to_owned(),
        bars: values.map(|value| Some((value, format!("{value} instructions")))).to_vec(),
    };
    let rows = vec![
        row("null system call", [25.0, 50.0]),
        row("a_function_with_a_name_that_is_longer_than_any_telephone_is_wide.constprop.0", [100.0, 1.0]),
    ];
    let bars = Bars { series: vec!["plain".to_owned(), "xen".to_owned()], rows, mark: Some(50.0) };
    let table = Table {
        headings: (0..12).map(|number| format!("column {number}")).collect(),
        rows: vec![vec!["1,234,567,890".to_owned(); 12]],
    };
    let section = |heading: &str, content| Section { heading: heading.to_owned(), text: vec![], content };
    Page {
        title: "What it costs".to_owned(),
        lead: vec!["Executed instructions.".to_owned()],
        sections: vec![
            section("Bars", Content::Bars(bars)),
            section("Table", Content::Table(table)),
            section("Again", Content::Commands(vec!["scripts/costs ".repeat(30)])),
        ],
    }
}

/// The title of a file as Chromium shows it in a window.
fn title(file: &Path, directory: &Path, width: u32, dark: bool) -> Result<String> {
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000"]);
    if dark {
        chromium.arg("--blink-settings=preferredColorScheme=0");
    }
    chromium.arg(format!("--user-data-dir={}", directory.display())).arg(format!("--window-size={width},2000"));
    chromium.arg("--dump-dom").arg(format!("file://{}", file.display()));
    let output = chromium.output().context("no chromium: scripts/setup test installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let (title, _) = title.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(title.starts_with('['), "the browser answered {title}");
    Ok(title.to_owned())
}

#[test]
fn it_fits_a_telephone_and_a_screen() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("page.html");
    fs::write(&file, page().html().replace("</body>", &format!("{QUESTIONS}</body>")))?;
    for width in [400, 1280] {
        for (dark, ground) in [(false, "rgb(255, 255, 255)"), (true, "rgb(20, 23, 27)")] {
            let expected = format!(r#"[0,0,0,"25 50 100 1","{ground}"]"#);
            assert_eq!(title(&file, directory.path(), width, dark)?, expected, "{width} pixels, dark: {dark}");
        }
    }
    Ok(())
}
