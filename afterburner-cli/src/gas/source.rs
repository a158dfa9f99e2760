//! What an assembler command reads.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

use super::arguments::{Arguments, Input};
use crate::tool::is_same;

/// The text of a command.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// All inputs, one behind the other.
    pub(super) text: Vec<u8>,
    /// What the assembler calls the (first) input.
    pub(super) name: String,
    /// Whether the text came from standard input, which is now at its end.
    pub(super) is_stdin: bool,
    /// Whether the assembler has something to say that the text does not show: its end is not that of a line, or it
    /// consists of several files, each of which must be complete.
    pub(super) is_peculiar: bool,
}

impl Source {
    /// Reads the inputs. `None`, before anything was consumed, where the assembler would complain, or where a second
    /// reader would find something else.
    pub(super) fn read(arguments: &Arguments) -> Option<Self> {
        let output = fs::metadata(arguments.output()).ok();
        if output.as_ref().is_some_and(|output| !output.is_file()) || arguments.output() == "-" {
            return None;
        }
        if let [Input::StandardInput] = arguments.inputs[..] {
            return Self::from_stdin();
        }
        let mut source = Self { is_peculiar: arguments.inputs.len() > 1, ..Self::default() };
        for input in &arguments.inputs {
            let Input::File(path) = input else { return None };
            source.append(path, output.as_ref())?;
        }
        source.is_peculiar |= source.ends_within_line();
        Some(source)
    }

    fn from_stdin() -> Option<Self> {
        let mut source = Self { name: "{standard input}".to_owned(), is_stdin: true, ..Self::default() };
        let is_whole = io::stdin().lock().read_to_end(&mut source.text).is_ok();
        source.is_peculiar = source.ends_within_line();
        (is_whole || !source.text.is_empty()).then_some(source)
    }

    fn append(&mut self, path: &Path, output: Option<&Metadata>) -> Option<()> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.is_file() || is_same(&metadata, output) {
            return None;
        }
        let text = fs::read(path).ok()?;
        let name = path.to_string_lossy();
        if self.name.is_empty() {
            self.name = name.into_owned();
            self.text = text;
        } else {
            let newline = if self.ends_within_line() { "\n" } else { "" };
            let name = name.replace('\\', "\\\\").replace('"', "\\\"");
            self.text.extend_from_slice(format!("{newline}# 1 \"{name}\"\n").as_bytes());
            self.text.extend_from_slice(&text);
        }
        Some(())
    }

    fn ends_within_line(&self) -> bool {
        self.text.last().is_some_and(|&byte| byte != b'\n')
    }
}
