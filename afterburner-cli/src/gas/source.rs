//! What an assembler command reads.
//!
//! A file can be read again by the real assembler; a pipe cannot, so that gets a copy in its place.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal as _};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::arguments::{Arguments, Input};
use crate::assembly::line_marker;
use crate::scratch::Scratch;
use crate::tool::{is_same, read_text};

/// The text of a command.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// All inputs, one behind the other.
    pub(super) text: Vec<u8>,
    /// What the assembler calls the (first) input.
    pub(super) name: String,
    /// The part that came from standard input, which is now at its end.
    stdin: Option<Range<usize>>,
    /// Copies of what can be read only once, by path.
    copies: Vec<(PathBuf, Scratch)>,
    /// Whether the assembler has something to say that the text does not show: its end is not that
    /// of a line, or it consists of several files, each of which must be complete.
    pub(super) is_peculiar: bool,
}

/// What the assembler calls its standard input.
const STANDARD_INPUT: &str = "{standard input}";

impl Source {
    /// Reads the inputs. `None`, before anything was consumed, where the assembler would complain,
    /// or where there is no object to be made.
    pub(super) fn read(arguments: &Arguments) -> anyhow::Result<Option<Self>> {
        let output = fs::metadata(arguments.output()).ok();
        if output.as_ref().is_some_and(|output| !output.is_file()) || arguments.output() == "-" {
            return Ok(None);
        }
        for path in arguments.inputs.iter().filter_map(Input::path) {
            let Ok(input) = fs::metadata(path) else { return Ok(None) };
            if input.is_dir() || is_null(&input) || is_same(&input, output.as_ref()) {
                return Ok(None);
            }
        }
        let mut source = Self { is_peculiar: arguments.inputs.len() > 1, ..Self::default() };
        for input in &arguments.inputs {
            match input {
                Input::StandardInput => source.append_standard_input()?,
                Input::File(path) => source.append_file(path)?,
            }
        }
        source.is_peculiar |= source.ends_within_line();
        Ok(Some(source))
    }

    fn append_standard_input(&mut self) -> anyhow::Result<()> {
        let text = match File::open("/proc/self/fd/0").and_then(|file| file.metadata()) {
            Ok(metadata) if is_endless(&metadata) && !io::stdin().is_terminal() => {
                bail!("standard input is a device, not a text")
            }
            _ => read_text(io::stdin().lock()).context("cannot read standard input")?,
        };
        let at = self.append(STANDARD_INPUT, &text);
        self.stdin.get_or_insert(at..self.text.len());
        Ok(())
    }

    fn append_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.to_string_lossy();
        let cannot_read = || format!("cannot read {name}");
        let file = File::open(path).with_context(cannot_read)?;
        let metadata = file.metadata().with_context(cannot_read)?;
        if is_endless(&metadata) && !file.is_terminal() {
            bail!("{name} is a device, not a text");
        }
        let text = read_text(file).with_context(cannot_read)?;
        if !metadata.is_file() {
            let copy = [line_marker(1, &name), text.clone()].concat();
            self.copies.push((path.to_owned(), Scratch::with(&copy)?));
        }
        self.append(&name, &text);
        Ok(())
    }

    /// Appends an input; returns where it starts.
    fn append(&mut self, name: &str, text: &[u8]) -> usize {
        if self.name.is_empty() {
            name.clone_into(&mut self.name);
        } else {
            if self.ends_within_line() {
                self.text.push(b'\n');
            }
            self.text.extend(line_marker(1, name));
        }
        let at = self.text.len();
        self.text.extend_from_slice(text);
        at
    }

    /// What the real assembler is to find on its standard input, if that is no longer what it was
    /// for this program.
    pub(super) fn stdin(&self) -> Option<&[u8]> {
        let replayed = self.stdin.clone().map(|part| &self.text[part]);
        replayed.or((!self.copies.is_empty()).then_some(&[]))
    }

    /// The real assembler's arguments, of these: with the copies.
    pub(super) fn replace_in(&self, arguments: Vec<OsString>) -> Vec<OsString> {
        let replaced = |argument: OsString| {
            let copy = self.copies.iter().find(|(path, _)| path.as_os_str() == argument);
            copy.map_or(argument, |(_, copy)| copy.path().into())
        };
        arguments.into_iter().map(replaced).collect()
    }

    /// Whether the real assembler needs other arguments.
    pub(super) fn has_copies(&self) -> bool {
        !self.copies.is_empty()
    }

    fn ends_within_line(&self) -> bool {
        self.text.last().is_some_and(|&byte| byte != b'\n')
    }
}

/// Whether a device may never come to an end.
fn is_endless(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_block_device() || (kind.is_char_device() && !is_null(metadata))
}

/// Whether it is `/dev/null`, which stands for no text in questions to the assembler.
fn is_null(metadata: &Metadata) -> bool {
    const NULL: u64 = (1 << 8) | 3;
    metadata.file_type().is_char_device() && metadata.rdev() == NULL
}
