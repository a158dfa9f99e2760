//! The assembler shim: GNU as, except that the object is padded and annotated.
//!
//! Whatever is not plainly the assembly of a text into an object is the real assembler's business, and gets there with
//! the arguments as they are.

mod arguments;
mod source;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use annotate::text::annotate;

use self::arguments::Arguments;
use self::source::Source;
use crate::assembly::{Assembler, Assembly, Original};
use crate::exclusions;
use crate::includes::{self, Search};
use crate::journal::{self, Outcome};
use crate::response;
use crate::session::Session;
use crate::tool::Tool;

/// Stands in for the assembler of this name.
pub(crate) fn run(name: &OsStr, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let session = Session::current()?;
    let tool = match session.assembler.clone() {
        Some(path) => Tool::new(path, name),
        None => Tool::find(name)?,
    };
    let parsed = response::expand(arguments).and_then(|expanded| Arguments::parse(&expanded));
    match parsed.and_then(|parsed| Some((Source::read(&parsed)?, parsed))) {
        Some((source, parsed)) => assemble(&session, &tool, arguments, &parsed, &source),
        None => Err(tool.exec(arguments)),
    }
}

fn assemble(
    session: &Session,
    tool: &Tool,
    arguments: &[OsString],
    parsed: &Arguments,
    source: &Source,
) -> anyhow::Result<ExitCode> {
    let object = parsed.output();
    let original = Original { tool, arguments, stdin: source.is_stdin.then_some(source.text.as_slice()) };
    if let Some(reason) = exclusion(parsed, source) {
        journal::note(object, Outcome::Excluded(reason.to_owned()));
        return original.hand_over();
    }
    let options = session.options();
    let search = Search::of_gas(Search::directories(&parsed.options));
    let expanded = includes::expand(&source.text, &source.name, &search);
    let text = expanded.as_ref().unwrap_or(&source.text);
    let annotated = annotate(text, &options);
    if !annotated.is_changed() {
        journal::note(object, Outcome::Plain);
        return original.hand_over();
    }
    let assembly = Assembly {
        original,
        assembler: Assembler { tool, options: &parsed.options, quotes: false },
        object,
        split_debug: None,
        text,
        name: &source.name,
        annotated,
        original_first: source.is_peculiar || parsed.has_side_outputs || expanded.is_some(),
        check: session.check || expanded.is_some(),
    };
    assembly.run()
}

fn exclusion(parsed: &Arguments, source: &Source) -> Option<&'static str> {
    if parsed.is_32_bit {
        return Some("16- or 32-bit code");
    }
    exclusions::of_path(parsed.output()).or_else(|| exclusions::of_text(&source.text))
}
