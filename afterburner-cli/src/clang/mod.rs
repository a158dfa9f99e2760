//! The clang wrapper: for the integrated assembler, which leaves no room for a shim.
//!
//! A compilation becomes three steps: clang to the text, the text stage, clang from the text to the object. That is so even
//! where there is nothing to annotate: to run the original command after all would be to compile most files twice.

mod arguments;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::{env, fs};

use annotate::text::annotate;

use self::arguments::{Compilation, Obstacle, Request};
use crate::assembly::{Assembler, Assembly, Original};
use crate::exclusions;
use crate::journal::{self, Outcome};
use crate::session::Session;
use crate::tool::Tool;

/// Stands in for the clang of this name.
pub(crate) fn run(name: &OsStr, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let session = Session::current()?;
    let tool = match session.clang.clone() {
        // Clang looks at its own name to find its version and its target.
        Some(path) => Tool::new(path.clone(), path.as_os_str()),
        None => Tool::find(name)?,
    };
    match Request::parse(arguments) {
        Request::Compile(compilation) => compile(&session, &tool, arguments, &compilation),
        Request::ExternalAssembler => Err(tool.exec(with_shim(arguments))),
        Request::Other => Err(tool.exec(arguments)),
    }
}

/// The arguments behind the one that has clang find the assembler shim.
fn with_shim(arguments: &[OsString]) -> Vec<OsString> {
    let directory = env::current_exe().ok().and_then(|shim| shim.parent().map(PathBuf::from));
    let shim = directory.filter(|directory| directory.join("as").is_file());
    let prefix = shim.map(|directory| OsString::from_iter([OsStr::new("-B"), directory.as_os_str(), OsStr::new("/")]));
    prefix.into_iter().chain(arguments.iter().cloned()).collect()
}

fn compile(
    session: &Session,
    tool: &Tool,
    arguments: &[OsString],
    compilation: &Compilation,
) -> anyhow::Result<ExitCode> {
    let object = compilation.object.as_path();
    let original = Original { tool, arguments, stdin: None };
    let leave = |outcome: Option<Outcome>| {
        if let Some(outcome) = outcome {
            journal::note(object, outcome);
        }
        original.hand_over()
    };
    if fs::metadata(object).is_ok_and(|object| !object.is_file()) {
        return leave(None);
    }
    if let Some(outcome) = obstacle(compilation) {
        return leave(Some(outcome));
    }
    let Some((text, is_silent)) = text(tool, compilation)? else { return leave(None) };
    if let Some(reason) = exclusions::of_text(&text) {
        return leave(Some(Outcome::Excluded(reason.to_owned())));
    }
    let options = session.options();
    let annotated = annotate(&text, &options);
    let is_changed = annotated.is_changed();
    let assembly = Assembly {
        original,
        assembler: Assembler { tool, options: &compilation.to_object(), quotes: true },
        object,
        split_debug: None,
        text: &text,
        name: &compilation.input.to_string_lossy(),
        candidates: &[annotated],
        original_first: !is_silent,
        check: session.check,
    };
    if is_changed { assembly.run() } else { assembly.run_plain() }
}

/// Why the object is left alone.
fn obstacle(compilation: &Compilation) -> Option<Outcome> {
    let excluded = exclusions::of_path(&compilation.object).or_else(|| exclusions::of_path(&compilation.input));
    match (excluded, compilation.obstacle) {
        (Some(reason), _) => Some(Outcome::Excluded(reason.to_owned())),
        (None, Some(Obstacle::Narrow)) => Some(Outcome::Excluded("16- or 32-bit code".to_owned())),
        (None, Some(Obstacle::Option(option))) => {
            Some(Outcome::Missed(format!("{option} keeps code from the assembler: build without it")))
        }
        (None, None) => None,
    }
}

/// The text for the assembler, and whether clang made it without a word. `None` if there is none; the original command
/// will say why.
fn text(tool: &Tool, compilation: &Compilation) -> anyhow::Result<Option<(Vec<u8>, bool)>> {
    let Some(arguments) = compilation.to_text() else {
        return Ok(fs::read(&compilation.input).ok().map(|text| (text, true)));
    };
    let mut command = tool.command(arguments);
    command.stdin(Stdio::null());
    let output = tool.output(command)?;
    Ok(output.status.success().then_some((output.stdout, output.stderr.is_empty())))
}
