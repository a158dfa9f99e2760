//! Assembles a text plain and padded, runs both, and compares what they compute.

use std::cell::RefCell;
use std::fmt;
use std::fs;

use object::{Object as _, ObjectSection as _};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::support::{Lab, Result as Run};

/// What may become of a text without anybody being misled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The assembler refuses it, and so do we, in the same words.
    Invalid,
    /// It assembles, and we refuse it and say why.
    Refused,
    /// `verify` finds fault with the object.
    Rejected,
    /// Both objects compute the same.
    Equal {
        /// There is a record.
        recorded: bool,
        /// There are pads.
        padded: bool,
    },
}

/// A directory in which texts are assembled, linked with the driver, and run.
pub(crate) struct Oracle {
    lab: Lab,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        lab.write("driver.c", include_bytes!("driver.c"));
        let arguments = ["-O1", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-c", "driver.c"];
        lab.run("gcc", &arguments).silent_success();
        Self { lab }
    }

    /// What becomes of this text; an error if it is something that nobody says.
    pub(crate) fn judge(&self, text: &str) -> Result<Outcome, String> {
        let _ = fs::remove_file(self.lab.path("padded.o"));
        self.lab.write("text.s", text);
        let plain = self.lab.run("as", &["text.s", "-o", "plain.o"]);
        let padded = self.lab.afterburner(&["as", "text.s", "-o", "padded.o"]);
        if !plain.status.success() {
            return if padded == plain {
                Ok(Outcome::Invalid)
            } else {
                Err(format!("as: {plain:#?}\nbut: {padded:#?}"))
            };
        }
        if !padded.status.success() {
            let left = self.lab.path("padded.o").exists();
            let clear = padded.status.code() == Some(1) && !padded.stderr.is_empty() && !left;
            return if clear { Ok(Outcome::Refused) } else { Err(format!("an object is left: {left}; {padded:#?}")) };
        }
        let verdict = self.lab.afterburner(&["verify", "padded.o"]);
        match verdict.status.code() {
            Some(0) => {}
            Some(1) => return Ok(Outcome::Rejected),
            _ => return Err(format!("verify: {verdict:#?}")),
        }
        let (expected, found) = (self.execute("plain"), self.execute("padded"));
        if !expected.status.success() {
            return Err(format!("the test is wrong, the plain program does not run: {expected:?}"));
        }
        if found != expected {
            return Err(format!("plain: {expected:#?}\npadded: {found:#?}"));
        }
        let (plain, padded) = (self.lab.read("plain.o"), self.lab.read("padded.o"));
        let recorded = !section(&padded, ".note.afterburn").is_empty();
        Ok(Outcome::Equal { recorded, padded: code_size(&padded) > code_size(&plain) })
    }

    /// Whether we say of this text what the assembler says, or refuse what it takes; an error if
    /// not.
    pub(crate) fn messages(&self, text: &str) -> Result<(), String> {
        self.lab.write("text.s", text);
        let plain = self.lab.run("as", &["text.s", "-o", "plain.o"]);
        let padded = self.lab.afterburner(&["as", "text.s", "-o", "padded.o"]);
        let refused = plain.status.success() && !padded.status.success();
        if padded == plain || refused { Ok(()) } else { Err(format!("as: {plain:#?}\nbut: {padded:#?}")) }
    }

    fn execute(&self, name: &str) -> Run {
        let object = format!("{name}.o");
        let linked = self.lab.run("ld", &["-z", "noexecstack", "-o", name, "driver.o", &object]);
        if linked.status.success() { self.lab.run(self.lab.path(name), &[]) } else { linked }
    }
}

/// How often each outcome was seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    cases: u32,
    invalid: u32,
    refused: u32,
    rejected: u32,
    equal: u32,
    recorded: u32,
    padded: u32,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        self.cases += 1;
        match outcome {
            Outcome::Invalid => self.invalid += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Rejected => self.rejected += 1,
            Outcome::Equal { recorded, padded } => {
                self.equal += 1;
                self.recorded += u32::from(recorded);
                self.padded += u32::from(padded);
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, invalid, refused, rejected, equal, recorded, padded } = self;
        write!(out, "{cases} texts: {invalid} invalid, {refused} refused, {rejected} rejected by verify, ")?;
        write!(out, "{equal} equal, {recorded} of them with records, {padded} with pads")
    }
}

/// What keeps a property from being true of nothing: the least share, in per cent, of texts that
/// are equal with records, and of texts that are equal with pads.
pub(crate) struct Least {
    pub(crate) recorded: u32,
    pub(crate) padded: u32,
}

/// What tries half as many cases as elsewhere, for each one starts seven programs. What fails
/// belongs into a list of forms.
pub(crate) fn runner() -> TestRunner {
    let default = ProptestConfig::default();
    TestRunner::new(ProptestConfig { cases: default.cases.div_ceil(2), failure_persistence: None, ..default })
}

/// Judges programs that are made of such fragments.
pub(crate) fn nothing_is_silently_wrong(fragment: impl Strategy<Value = String>, least: &Least) {
    let oracle = Oracle::new();
    let tally = RefCell::new(Tally::default());
    let programs = prop::collection::vec(fragment, 1..3).prop_map(|fragments| program(&fragments));
    let mut runner = runner();
    let cases = runner.config().cases;
    let verdict = runner.run(&programs, |text| {
        let outcome = oracle.judge(&text).map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{text}")))?;
        tally.borrow_mut().count(outcome);
        Ok(())
    });
    let tally = tally.into_inner();
    eprintln!("{tally}");
    if let Err(error) = verdict {
        panic!("{error}");
    }
    assert!(tally.invalid * 10 <= tally.cases, "too many that do not assemble: {tally}");
    if cases >= 64 {
        assert!(tally.recorded * 100 >= tally.cases * least.recorded, "too few with records: {tally}");
        assert!(tally.padded * 100 >= tally.cases * least.padded, "too few with pads: {tally}");
    }
}

/// Judges a program of each of these fragments, and names all that are wrong and nobody says so.
#[track_caller]
pub(crate) fn none_is_silently_wrong(fragments: &[String]) {
    judge_each(fragments, |outcome| outcome != Outcome::Invalid);
}

/// Judges a program of each of these fragments, and names all that are not annotated and the same.
#[track_caller]
pub(crate) fn all_compute_the_same(fragments: &[String]) {
    judge_each(fragments, |outcome| matches!(outcome, Outcome::Equal { .. }));
}

#[track_caller]
fn judge_each(fragments: &[String], right: impl Fn(Outcome) -> bool) {
    let texts: Vec<_> = fragments.iter().map(|fragment| program(std::slice::from_ref(fragment))).collect();
    judge_all(&texts, right);
}

/// Judges each of these texts, and names all that are wrong.
#[track_caller]
pub(crate) fn judge_all(texts: &[String], right: impl Fn(Outcome) -> bool) {
    let oracle = Oracle::new();
    let mut wrong = Vec::new();
    for text in texts {
        match oracle.judge(text) {
            Ok(outcome) if right(outcome) => {}
            Ok(outcome) => wrong.push(format!("{outcome:?}:\n{text}")),
            Err(error) => wrong.push(format!("{error}\n{text}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

/// A text with these functions; in each, `%%` stands for its number.
pub(crate) fn program(fragments: &[String]) -> String {
    let mut text = String::from("\t.text\n");
    for (number, fragment) in fragments.iter().enumerate() {
        text += &format!("{fragment}\n\t.pushsection functions, \"aw\"\n\t.quad compute%%\n\t.popsection\n")
            .replace("%%", &number.to_string());
    }
    text
}

/// What a section holds; nothing if there is none.
pub(crate) fn section(file: &[u8], name: &str) -> Vec<u8> {
    let file = object::File::parse(file).expect("an object");
    file.section_by_name(name).map(|section| section.data().expect("its content").to_vec()).unwrap_or_default()
}

fn code_size(file: &[u8]) -> u64 {
    let file = object::File::parse(file).expect("an object");
    file.sections().filter(|section| section.kind() == object::SectionKind::Text).map(|section| section.size()).sum()
}
