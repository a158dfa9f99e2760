//! The assembler shim: GNU as, except that the object is padded and annotated.
//!
//! Whatever is not plainly the assembly of a text into an object is the real assembler's business,
//! and gets there with the arguments as they are.

mod arguments;
mod source;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use annotate::text::{annotate, to_lower_half};

use self::arguments::Arguments;
use self::source::Source;
use crate::assembly::{Assembler, Assembly, Original};
use crate::complain;
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
    let Some(expanded) = response::expand(arguments) else { return Err(tool.exec(arguments)) };
    let Some(parsed) = Arguments::parse(&expanded) else { return Err(tool.exec(arguments)) };
    let source = match Source::read(&parsed) {
        Ok(Some(source)) => source,
        Ok(None) => return Err(tool.exec(arguments)),
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::FAILURE);
        }
    };
    if source.has_copies() {
        let (arguments, _file) = response::shorten(source.replace_in(expanded))?;
        return assemble(&session, &tool, &arguments, &parsed, &source);
    }
    assemble(&session, &tool, arguments, &parsed, &source)
}

fn assemble(
    session: &Session,
    tool: &Tool,
    arguments: &[OsString],
    parsed: &Arguments,
    source: &Source,
) -> anyhow::Result<ExitCode> {
    let object = parsed.output();
    let original = Original { tool, arguments, stdin: source.stdin() };
    if let Some(reason) = exclusion(parsed, source) {
        journal::note(object, Outcome::Excluded(reason.to_owned()));
        return original.hand_over();
    }
    if holds_intermediate_code(&source.text) {
        journal::note(object, Outcome::Missed("-flto keeps code from the assembler: build without it".to_owned()));
        return original.hand_over();
    }
    let options = session.options();
    let search = Search::of_gas(Search::directories(&parsed.options));
    let expanded = includes::expand(&source.text, &source.name, &search);
    let text = expanded.as_ref().unwrap_or(&source.text);
    let lowered = if session.low.is_some() { to_lower_half(text) } else { Cow::Borrowed(text.as_slice()) };
    let annotated = annotate(&lowered, &options);
    let is_changed = annotated.is_changed();
    if !is_changed && session.low.is_none() {
        journal::note(object, Outcome::Plain);
        return original.hand_over();
    }
    let assembly = Assembly {
        original,
        assembler: Assembler { tool, options: &parsed.options, quotes: false },
        object,
        split_debug: None,
        text: &lowered,
        name: &source.name,
        annotated,
        original_first: source.is_peculiar || parsed.has_side_outputs || expanded.is_some(),
        is_expanded: expanded.is_some(),
        rewritten: session.low,
        check: session.check,
    };
    if is_changed { assembly.run() } else { assembly.run_plain() }
}

/// Whether the text is gcc's with `-flto`: code that gcc is to compile when it links. Its sections
/// are the first.
fn holds_intermediate_code(text: &[u8]) -> bool {
    const WITHIN: usize = 10;
    text.split(|&byte| byte == b'\n').take(WITHIN).any(|line| line.starts_with(b"\t.section\t.gnu.lto_"))
}

fn exclusion(parsed: &Arguments, source: &Source) -> Option<&'static str> {
    if parsed.is_32_bit {
        return Some("16- or 32-bit code");
    }
    exclusions::of_path(parsed.output()).or_else(|| exclusions::of_text(&source.text))
}
