//! Assembling an annotated text so that nobody can tell, but for the object.
//!
//! The padded text goes to the real tool first. As long as that is silent and successful, the object is there and there
//! is nothing else to know. Otherwise what the tool has to say must be said of the *user's* text: the original command
//! runs, untouched and seen by the user, and decides. Only if it succeeds does the padded text get another chance.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Output, Stdio};

use annotate::object::{compare, has_records};
use annotate::text::Annotated;
use anyhow::Context as _;

use crate::complain;
use crate::journal::{self, Outcome};
use crate::tool::{Tool, exit_code};

/// The command that the user gave, for the real tool.
#[derive(Clone, Copy)]
pub(crate) struct Original<'a> {
    /// The real tool.
    pub(crate) tool: &'a Tool,
    /// Its arguments.
    pub(crate) arguments: &'a [OsString],
    /// What its standard input held, if that had to be read.
    pub(crate) stdin: Option<&'a [u8]>,
}

impl Original<'_> {
    /// Lets the real tool do it all.
    pub(crate) fn hand_over(&self) -> anyhow::Result<ExitCode> {
        match self.stdin {
            None => Err(self.tool.exec(self.arguments)),
            Some(_) => Ok(exit_code(self.run(Stdio::inherit)?)),
        }
    }

    fn run(&self, messages: fn() -> Stdio) -> anyhow::Result<ExitStatus> {
        let mut command = self.tool.command(self.arguments);
        command.stdout(messages()).stderr(messages());
        match self.stdin {
            None => self.tool.status(command),
            Some(text) => Ok(self.tool.feed(command, |stdin| stdin.write_all(text))?.status),
        }
    }
}

/// An annotated text and the way to its object.
pub(crate) struct Assembly<'a> {
    /// The user's command.
    pub(crate) original: Original<'a>,
    /// The options that make the real tool assemble its standard input as the original command would, but for the output.
    pub(crate) options: &'a [OsString],
    /// The object.
    pub(crate) object: &'a Path,
    /// The plain text.
    pub(crate) text: &'a [u8],
    /// What messages and debug information are to call it.
    pub(crate) name: &'a str,
    /// The annotated text.
    pub(crate) annotated: Annotated<'a>,
    /// Whether the original command has more to do than to make the object.
    pub(crate) original_first: bool,
    /// Hold the object against what the tool makes of the plain text.
    pub(crate) check: bool,
}

impl Assembly<'_> {
    /// Makes the object.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if self.original_first {
            return self.original_then_padded(None);
        }
        let padded = self.padded()?;
        if let Some(rejection) = rejection(&padded) {
            return self.original_then_padded(Some(rejection));
        }
        if !padded.stdout.is_empty() || !padded.stderr.is_empty() {
            return self.original_then_padded(None);
        }
        if !self.holds_records()? {
            journal::note(self.object, Outcome::Plain);
            return self.original.hand_over();
        }
        Ok(self.finish())
    }

    /// The original command in view of the user, then the padded text over its object, unless that is known to fail.
    fn original_then_padded(&self, rejection: Option<String>) -> anyhow::Result<ExitCode> {
        let status = self.original.run(Stdio::inherit)?;
        if !status.success() {
            return Ok(exit_code(status));
        }
        if let Some(rejection) = rejection {
            return Ok(self.missed(&rejection));
        }
        if let Some(rejection) = self::rejection(&self.padded()?) {
            self.original.run(Stdio::null)?;
            return Ok(self.missed(&rejection));
        }
        if self.holds_records()? {
            return Ok(self.finish());
        }
        journal::note(self.object, Outcome::Plain);
        Ok(exit_code(self.original.run(Stdio::null)?))
    }

    fn finish(&self) -> ExitCode {
        if self.check
            && let Err(difference) = self.compare()
        {
            complain(&difference.context(format!("{} does more than the plain object", self.object.display())));
            let _ = fs::remove_file(self.object);
            return ExitCode::FAILURE;
        }
        journal::note(self.object, Outcome::Annotated(self.annotated.sites().count()));
        ExitCode::SUCCESS
    }

    /// The plain object stays; `afterburner build` will not let that pass.
    fn missed(&self, rejection: &str) -> ExitCode {
        journal::note(self.object, Outcome::Missed(format!("the assembler rejects the padded text: {rejection}")));
        ExitCode::SUCCESS
    }

    fn padded(&self) -> anyhow::Result<Output> {
        let mut command = self.command(self.object);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.original.tool.feed(command, |stdin| {
            let mut stdin = BufWriter::with_capacity(PIPE, stdin);
            self.annotated.write_to(self.name, &mut stdin)?;
            stdin.flush()
        })
    }

    fn command(&self, object: &Path) -> Command {
        let output = [OsStr::new("-o"), object.as_os_str(), OsStr::new("-")];
        self.original.tool.command(self.options.iter().map(OsString::as_os_str).chain(output))
    }

    /// Where every site stands in a macro body or a conditional, perhaps none was assembled. Then the object is to be what
    /// the plain text gives, to the byte.
    fn holds_records(&self) -> anyhow::Result<bool> {
        Ok(self.annotated.is_certain() || has_records(&read(self.object)?))
    }

    fn compare(&self) -> anyhow::Result<()> {
        let plain = tempfile::NamedTempFile::new().context("cannot create a temporary object")?;
        let mut command = self.command(plain.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.original.tool.feed(command, |stdin| stdin.write_all(self.text))?;
        compare(&read(plain.path())?, &read(self.object)?)?;
        Ok(())
    }
}

/// What a pipe holds.
const PIPE: usize = 1 << 16;

fn read(object: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(object).with_context(|| format!("cannot read {}", object.display()))
}

/// The first error of a tool that failed.
fn rejection(output: &Output) -> Option<String> {
    if output.status.success() {
        return None;
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    let is_error = |line: &&str| line.to_ascii_lowercase().contains("error");
    let line = messages.lines().find(is_error).or(messages.lines().next());
    Some(line.map_or_else(|| output.status.to_string(), str::to_owned))
}
