//! Assembling an annotated text so that nobody can tell, but for the object.
//!
//! The padded text goes to the real tool first. As long as that is silent and successful, the
//! object is there and there is nothing else to know. Otherwise what the tool has to say must be
//! said of the *user's* text: the original command runs, untouched and seen by the user, and
//! decides. Only if it succeeds does the padded text get another chance, and it counts only if the
//! tool says of it what it says of the plain text: a directive that computes something else now
//! shows in a warning, if at all.
//!
//! An object is not believed because a tool made it. Each of its records is held against the text,
//! by the code of `afterburner verify`; and where people wrote the text, all of it is held against
//! the plain object: there is no end to the ways in which they count bytes. A text that allows no
//! pads gets records without them: the sites are known, stay as they are, and say so.
//!
//! The tool writes into memory. An object gets its name when it is known to be whole and right, its
//! first bytes last: what a killed shim leaves behind is no object.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Output, Stdio};

use annotate::object::low::obstacles;
use annotate::object::{Elf, compare, has_records, verify};
use annotate::text::Annotated;
use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};

use crate::complain;
use crate::journal::{self, Outcome};
use crate::response;
use crate::scratch::Scratch;
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
            Some(_) => Ok(exit_code(self.run()?)),
        }
    }

    fn run(&self) -> anyhow::Result<ExitStatus> {
        let command = self.tool.command(self.arguments);
        match self.stdin {
            None => self.tool.status(command),
            Some(text) => Ok(self.tool.feed(command, |stdin| stdin.write_all(text))?.status),
        }
    }
}

/// The assembler that makes objects of texts on its standard input.
#[derive(Clone, Copy)]
pub(crate) struct Assembler<'a> {
    pub(crate) tool: &'a Tool,
    /// The options that make it assemble as the original command would, but for inputs and outputs.
    pub(crate) options: &'a [OsString],
    /// Whether it quotes, below a message, the line that it is about, which is not the user's.
    pub(crate) quotes: bool,
}

/// A text and the way to its object.
pub(crate) struct Assembly<'a> {
    /// The user's command.
    pub(crate) original: Original<'a>,
    pub(crate) assembler: Assembler<'a>,
    /// The object.
    pub(crate) object: &'a Path,
    /// The file that gets the debug information, if that is not the object.
    pub(crate) split_debug: Option<&'a Path>,
    /// The plain text; what is said of the others is held against what is said of it.
    pub(crate) text: &'a [u8],
    /// What messages and debug information are to call it.
    pub(crate) name: &'a str,
    /// The text with its pads and records.
    pub(crate) annotated: Annotated<'a>,
    /// Whether the original command has more to do than to make the object.
    pub(crate) original_first: bool,
    /// Whether the text is not quite what the original command reads. A candidate must then have
    /// the code of its object.
    pub(crate) is_expanded: bool,
    /// The text is another than the one that the original command reads: it has been rewritten for
    /// the lower half. The object of the original command is then good for its messages only.
    pub(crate) rewritten: Option<Rewritten>,
    /// Hold the object against the plain one.
    pub(crate) check: bool,
}

/// What is asked of the objects of a text that has been rewritten for the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rewritten {
    /// The kernel adjusts the distances in alternative instructions.
    pub(crate) adjusts_copies: bool,
}

/// The assembler's standard input.
type Pipe<'a> = BufWriter<&'a mut dyn io::Write>;

/// What a pipe holds.
const PIPE: usize = 1 << 16;

/// What the assembler made of a text, and what it said.
struct Made {
    output: Output,
    object: Scratch,
    split_debug: Option<Scratch>,
}

impl Assembly<'_> {
    /// Makes the object of the padded text, or of the one without pads, if the tool takes it
    /// without a word that it would not have said anyway.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut first = if self.original_first { None } else { Some(self.padded(&self.annotated)?) };
        if let Some(made) = &first
            && made.is_silent()
            && self.fault(&self.annotated, made)?.is_none()
            && (!self.annotated.is_doubtful() || self.is_plain_but_for_pads(made)?)
        {
            return self.finish(&self.annotated, made, None);
        }
        let status = self.run_original()?;
        if !status.success() {
            return Ok(exit_code(status));
        }
        let plain = self.plain()?;
        let made = first.take().map_or_else(|| self.padded(&self.annotated), Ok)?;
        let Some(rejection) = self.rejection(&self.annotated, &made, &plain)? else {
            return self.finish(&self.annotated, &made, Some(&plain));
        };
        let unpadded = self.annotated.unpadded();
        let made = self.padded(&unpadded)?;
        if self.rejection(&unpadded, &made, &plain)?.is_none() {
            return self.finish(&unpadded, &made, Some(&plain));
        }
        Ok(self.missed(rejection))
    }

    /// Runs the original command. Of a text that has been rewritten its object is for the other
    /// half of the address space, and goes at once: whatever fails from here on must not leave it.
    fn run_original(&self) -> anyhow::Result<ExitStatus> {
        let status = self.original.run()?;
        if self.rewritten.is_some() {
            remove(self.object);
        }
        Ok(status)
    }

    /// The plain object stays; `afterburner build` will not let that pass. One for the other half
    /// of the address space would not even be linked.
    fn missed(&self, reason: String) -> ExitCode {
        if self.rewritten.is_some() {
            return self.fail(&anyhow!("{}: {reason}", self.name));
        }
        journal::note(self.object, Outcome::Missed(reason));
        ExitCode::SUCCESS
    }

    /// Whether an object is that of the plain text, of which the tool has nothing to say either.
    fn is_plain_but_for_pads(&self, made: &Made) -> anyhow::Result<bool> {
        let plain = self.plain()?;
        Ok(plain.is_silent() && compare(&plain.object.content()?, &made.object.content()?).is_ok())
    }

    /// Makes the object of the plain text, which costs less than the original command if that would
    /// have to make the text again.
    pub(crate) fn run_plain(&self) -> anyhow::Result<ExitCode> {
        if self.rewritten.is_some() {
            return self.run_rewritten();
        }
        journal::note(self.object, Outcome::Plain);
        if self.original_first {
            return self.original.hand_over();
        }
        let made = self.plain()?;
        if made.is_silent() && self.place(&made).is_ok() { Ok(ExitCode::SUCCESS) } else { self.original.hand_over() }
    }

    /// Makes the object of a text that has been rewritten and has no sites.
    fn run_rewritten(&self) -> anyhow::Result<ExitCode> {
        let made = self.plain()?;
        if self.original_first || !made.is_silent() {
            let status = self.run_original()?;
            if !status.success() {
                return Ok(exit_code(status));
            }
        }
        let fault = if made.output.status.success() { self.fault(&self.annotated, &made)? } else { Some(made.says()) };
        if let Some(fault) = fault {
            return Ok(self.missed(fault));
        }
        if let Err(error) = self.place(&made) {
            return Ok(self.fail(&error));
        }
        journal::note(self.object, Outcome::Plain);
        Ok(ExitCode::SUCCESS)
    }

    /// Puts what was made of a candidate in its place. Where the plain text was assembled, the
    /// original command has run.
    fn finish(&self, candidate: &Annotated, made: &Made, plain: Option<&Made>) -> anyhow::Result<ExitCode> {
        let object = made.object.content()?;
        // Where every site stands in a macro body or a conditional, perhaps none was assembled.
        // Then the object is to be what the plain text gives, to the byte.
        if !candidate.is_certain() && !has_records(&object) {
            if self.rewritten.is_some() {
                return self.run_rewritten();
            }
            journal::note(self.object, Outcome::Plain);
            return plain.map_or_else(|| self.original.hand_over(), |_| Ok(ExitCode::SUCCESS));
        }
        if self.check
            && let Err(difference) = self.compare(plain, &object)
        {
            let what = format!("{} does more than the plain object", self.object.display());
            return Ok(self.fail(&difference.context(what)));
        }
        if let Err(error) = self.place(made) {
            // The tool has its own words for that.
            let status = if plain.is_none() { self.run_original()? } else { ExitStatus::default() };
            return Ok(if status.success() { self.fail(&error) } else { exit_code(status) });
        }
        journal::note(self.object, Outcome::Annotated(candidate.sites().count()));
        Ok(ExitCode::SUCCESS)
    }

    fn fail(&self, error: &anyhow::Error) -> ExitCode {
        complain(error);
        remove(self.object);
        ExitCode::FAILURE
    }

    fn padded(&self, candidate: &Annotated) -> anyhow::Result<Made> {
        self.assemble(|stdin| candidate.write_to(self.name, stdin))
    }

    fn plain(&self) -> anyhow::Result<Made> {
        self.assemble(|stdin| {
            stdin.write_all(&line_marker(1, self.name))?;
            stdin.write_all(self.text)
        })
    }

    fn assemble(&self, text: impl FnOnce(&mut Pipe) -> io::Result<()> + Send) -> anyhow::Result<Made> {
        let object = Scratch::new()?;
        let split_debug = self.split_debug.map(|_| Scratch::new()).transpose()?;
        let mut arguments = self.assembler.options.to_vec();
        if let Some(file) = &split_debug {
            arguments.extend(["-split-dwarf-output".into(), file.path().into()]);
        }
        arguments.extend(["-o".into(), object.path().into(), "-".into()]);
        let (arguments, _file) = response::shorten(arguments)?;
        let mut command = self.assembler.tool.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.assembler.tool.feed(command, |stdin| {
            let mut stdin = Pipe::with_capacity(PIPE, stdin);
            text(&mut stdin)?;
            stdin.flush()
        })?;
        Ok(Made { output, object, split_debug })
    }

    fn place(&self, made: &Made) -> anyhow::Result<()> {
        if let (Some(path), Some(file)) = (self.split_debug, &made.split_debug) {
            place(path, &file.content()?)?;
        }
        place(self.object, &made.object.content()?)
    }

    fn compare(&self, plain: Option<&Made>, object: &[u8]) -> anyhow::Result<()> {
        let plain = match plain {
            Some(made) if self.rewritten.is_some() => made.object.content()?,
            // What the user's own command has made.
            Some(_) => fs::read(self.object).with_context(|| format!("cannot read {}", self.object.display()))?,
            None => self.plain()?.object.content()?,
        };
        compare(&plain, object)?;
        Ok(())
    }

    /// What is wrong with the object of a candidate, if there is anything. Where nothing is padded,
    /// a reference that goes astray does so in the plain object too.
    fn fault(&self, candidate: &Annotated, made: &Made) -> anyhow::Result<Option<String>> {
        let object = made.object.content()?;
        let elf = Elf::parse(&object)?;
        let problems = verify(&elf)?.problems;
        let fault = problems.iter().find(|problem| problem.record.is_some() || candidate.is_padded());
        if fault.is_some() {
            return Ok(fault.map(ToString::to_string));
        }
        let Some(Rewritten { adjusts_copies }) = self.rewritten else { return Ok(None) };
        Ok(obstacles(&elf, adjusts_copies).first().map(ToString::to_string))
    }

    /// Why an object is not that of the plain text but for its padding, as far as that can be told.
    fn rejection(&self, candidate: &Annotated, made: &Made, plain: &Made) -> anyhow::Result<Option<String>> {
        let [padded, expected] = [made, plain].map(|made| Words::of(&made.output, self.assembler.quotes));
        if !made.output.status.success() {
            let says = padded.error().map_or_else(|| made.output.status.to_string(), str::to_owned);
            return Ok(Some(format!("the assembler rejects the padded text: {says}")));
        }
        if let Some(difference) = padded.difference(&expected) {
            let what = "the assembler does not say of the padded text what it says of the plain one";
            return Ok(Some(format!("{what}: {difference}")));
        }
        if let Some(fault) = self.fault(candidate, made)? {
            return Ok(Some(fault));
        }
        if !self.is_expanded && !candidate.is_doubtful() {
            return Ok(None);
        }
        let difference = self.compare(Some(plain), &made.object.content()?).err();
        Ok(difference.map(|difference| format!("the padded object does more than the plain one: {difference:#}")))
    }
}

impl Made {
    /// What the tool says of a text that it does not assemble.
    fn says(&self) -> String {
        let words = Words::of(&self.output, false);
        words.error().map_or_else(|| self.output.status.to_string(), str::to_owned)
    }

    fn is_silent(&self) -> bool {
        self.output.status.success() && self.output.stdout.is_empty() && self.output.stderr.is_empty()
    }
}

/// What a tool says, without what depends on how a line is laid out.
#[derive(Debug, PartialEq, Eq)]
struct Words(Vec<String>);

impl Words {
    fn of(output: &Output, quotes: bool) -> Self {
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let lines = stdout.lines().chain(stderr.lines());
        Self(if quotes { lines.filter_map(message).collect() } else { lines.map(str::to_owned).collect() })
    }

    /// The first error, or whatever comes first.
    fn error(&self) -> Option<&str> {
        let is_error = |line: &&String| line.to_ascii_lowercase().contains("error");
        self.0.iter().find(is_error).or(self.0.first()).map(String::as_str)
    }

    /// The first line that only one of them has.
    fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let differ = |at: &usize| self.0.get(*at) != other.0.get(*at);
        let at = (0..self.0.len().max(other.0.len())).find(differ)?;
        self.0.get(at).or(other.0.get(at)).map(String::as_str)
    }
}

/// Clang's message without its column; `None` where the line is a quotation.
fn message(line: &str) -> Option<String> {
    let kinds = [": error: ", ": warning: ", ": note: "];
    let at = kinds.iter().filter_map(|kind| line.find(kind)).min()?;
    let (place, message) = line.split_at(at);
    let (place, _column) = place.rsplit_once(':')?;
    Some(format!("{place}{message}"))
}

/// What makes an assembler take the next line for this one.
pub(crate) fn line_marker(line: usize, name: &str) -> Vec<u8> {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("# {line} \"{name}\"\n").into_bytes()
}

/// Removes an object, but no device: what makefiles only try, they assemble into `/dev/null`
/// (libiberty, `unlink_if_ordinary`).
fn remove(path: &Path) {
    let is_ordinary = |found: fs::Metadata| found.is_file() || found.is_symlink();
    if fs::symlink_metadata(path).is_ok_and(is_ordinary) {
        let _ = fs::remove_file(path);
    }
}

/// Writes an object as GNU as does (bfd/cache.c, `bfd_open_file`; as/as.c): a file that is there
/// and not empty gives way to a new one, and after a failure there is none. The header comes last.
fn place(path: &Path, object: &[u8]) -> anyhow::Result<()> {
    const HEADER: usize = 64;
    if fs::metadata(path).is_ok_and(|existing| existing.len() > 0) {
        remove(path);
    }
    let (header, rest) = object.split_at(HEADER.min(object.len()));
    let write = || -> io::Result<()> {
        let file = File::create(path)?;
        file.write_all_at(rest, header.len() as u64)?;
        file.write_all_at(header, 0)
    };
    write().map_err(|error| {
        remove(path);
        anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn words(stderr: &str, quotes: bool) -> Words {
        let output = Output { status: ExitStatus::from_raw(0), stdout: Vec::new(), stderr: stderr.into() };
        Words::of(&output, quotes)
    }

    #[test]
    fn what_is_no_file_is_not_removed() {
        let lab = tempfile::tempdir().expect("a directory");
        let (file, link, pipe) = (lab.path().join("file"), lab.path().join("link"), lab.path().join("pipe"));
        fs::write(&file, "object").expect("a file");
        std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        for (path, stays) in [(&file, false), (&link, false), (&pipe, true)] {
            remove(path);
            assert_eq!(fs::symlink_metadata(path).is_ok(), stays, "{}", path.display());
        }
    }

    #[test]
    fn what_a_tool_quotes_does_not_matter() {
        let plain = words("a.s:2:1: warning: careful\n.warning \"careful\"\n^\n", true);
        let padded = words("a.s:2:30: warning: careful\n28110:cli;.warning \"careful\"\n         ^\n", true);
        assert_eq!(plain, padded);
        assert_eq!(plain.0, ["a.s:2: warning: careful"]);
        assert_eq!(padded.difference(&plain), None);
    }

    #[test]
    fn a_word_more_or_less_is_a_difference() {
        let said = "a.s: Assembler messages:\na.s:2: Warning: repeat count is negative; ignored\n";
        let [one, none] = [said, ""].map(|said| words(said, false));
        assert_eq!(one.difference(&none), Some("a.s: Assembler messages:"));
        assert_eq!(none.difference(&one), Some("a.s: Assembler messages:"));
        assert_eq!(one.difference(&words(said, false)), None);
    }
}
