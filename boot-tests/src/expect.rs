//! What a boot must print, and what it must never print.
//!
//! An expectation file stands beside the guest script it belongs to
//! (`testdata/guests/NAME.expect`). One expectation per line, each a plain substring:
//!
//! ```text
//! # a comment
//! text        some line contains this; the lines that match stand in the order of the file
//! ! text      no line contains this
//! [CONFIG_X] text    as `text`, where the kernel is configured with that option
//! ```
//!
//! `never.expect` holds what no boot may print, and is part of every other file.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::cache;
use crate::kernel::Kernel;

/// The expectations of one boot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    ordered: Vec<String>,
    never: Vec<String>,
}

/// Linux's test of NMIs, in `hard`, sends itself one by the APIC. Where that is not there, this is
/// what it prints.
pub const NMI_TEST: [&str; 2] = ["Call Trace", "BUG:"];

impl Expectations {
    /// Reads `testdata/guests/NAME.expect` and `never.expect`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or expects nothing.
    pub fn read(name: &str) -> Result<Self> {
        Self::read_where(name, |option| anyhow::bail!("{name}.expect asks for {option} of no kernel"))
    }

    /// The same, of a kernel whose configuration decides about some lines.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or expects nothing.
    pub fn read_for(name: &str, kernel: &Kernel) -> Result<Self> {
        Self::read_where(name, |option| kernel.is_configured_with(option))
    }

    fn read_where(name: &str, has: impl Fn(&str) -> Result<bool>) -> Result<Self> {
        let mut expectations = Self::default();
        for name in ["never", name] {
            let path = cache::testdata(&format!("guests/{name}.expect"));
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            expectations.parse(&text, &has)?;
        }
        ensure!(!expectations.ordered.is_empty(), "{name}.expect expects nothing");
        Ok(expectations)
    }

    /// These lines, in this order, and none of the others.
    #[must_use]
    pub fn new(ordered: &[&str], never: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self { ordered: owned(ordered), never: owned(never) }
    }

    /// The same, where these may be printed after all.
    #[must_use]
    pub fn allowing(mut self, texts: &[&str]) -> Self {
        self.never.retain(|never| !texts.contains(&never.as_str()));
        self
    }

    fn parse(&mut self, text: &str, has: impl Fn(&str) -> Result<bool>) -> Result<()> {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let condition = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
            match (line.strip_prefix('!'), condition) {
                (Some(never), _) => self.never.push(never.trim_start().to_owned()),
                (_, Some((option, text))) if option.starts_with("CONFIG_") => {
                    if has(option)? {
                        self.ordered.push(text.to_owned());
                    }
                }
                _ => self.ordered.push(line.to_owned()),
            }
        }
        Ok(())
    }

    /// The expectation that this line breaks by being there.
    #[must_use]
    pub fn forbids(&self, line: &str) -> Option<&str> {
        self.never.iter().map(String::as_str).find(|never| line.contains(never))
    }

    /// Holds a complete log against the expectations.
    ///
    /// # Errors
    ///
    /// The first line that must not be there, or else the first expectation that nothing meets.
    pub fn check(&self, log: &str) -> Result<()> {
        for line in log.lines() {
            if let Some(never) = self.forbids(line) {
                anyhow::bail!("`{never}` must never appear, but does: {line}");
            }
        }
        let mut lines = log.lines();
        let mut previous = "the start of the log";
        for expected in &self.ordered {
            ensure!(lines.any(|line| line.contains(expected)), "after {previous}, no line contains `{expected}`");
            previous = expected;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectations(text: &str) -> Expectations {
        let mut expectations = Expectations::default();
        expectations.parse(text, |option| Ok(option == "CONFIG_THERE")).expect("expectations");
        expectations
    }

    #[test]
    fn meets_lines_in_order() {
        let expected = expectations("# comment\n\none\n two \n! Oops\n");
        assert!(expected.check("zero\nline one\nand two\n").is_ok());
        assert_eq!(
            expected.check("two\none\n").unwrap_err().to_string(),
            "after one, no line contains `two`",
            "the order matters"
        );
        assert_eq!(
            expected.check("two\n").unwrap_err().to_string(),
            "after the start of the log, no line contains `one`"
        );
    }

    #[test]
    fn the_configuration_decides_about_some_lines() {
        let expected = expectations("[CONFIG_THERE] one\n[CONFIG_NOT_THERE] two\n[3] three");
        assert_eq!(expected.ordered, ["one", "[3] three"]);
        let of_no_kernel = Expectations::default().parse("[CONFIG_X] one", |option| anyhow::bail!("{option}"));
        assert_eq!(of_no_kernel.unwrap_err().to_string(), "CONFIG_X");
    }

    #[test]
    fn what_is_allowed_may_appear() {
        let expected = expectations("! Oops\n! BUG:").allowing(&["Oops"]);
        assert!(expected.check("Oops\n").is_ok());
        assert!(expected.check("BUG:\n").is_err());
    }

    #[test]
    fn one_line_meets_one_expectation() {
        assert!(expectations("a\na").check("a\n").is_err());
    }

    #[test]
    fn refuses_what_must_never_appear() {
        let expected = expectations("one\n! Oops");
        assert_eq!(
            expected.check("one\n[1.0] Oops: 0000\n").unwrap_err().to_string(),
            "`Oops` must never appear, but does: [1.0] Oops: 0000"
        );
    }
}
