//! The clang wrapper: for the integrated assembler, which leaves no room for a shim.
//!
//! A compilation becomes three steps: clang to the text, the text stage, clang from the text to the
//! object. That is so even where there is nothing to annotate: to run the original command after
//! all would be to compile most files twice. What the first and the last step are is up to the
//! driver, which is asked for its plan.
//!
//! * `arguments` tells from a command line whether to ask, `jobs` reads the answer, `plan` makes
//!   the steps of it.

mod arguments;
mod jobs;
mod plan;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output, Stdio};

use annotate::text::annotate;
use anyhow::Context as _;

use self::arguments::Request;
use self::jobs::{Job, Jobs};
use self::plan::{Obstacle, Plan, Text};
use crate::assembly::{Assembler, Assembly, Original};
use crate::exclusions;
use crate::includes::{self, Search};
use crate::journal::{self, Outcome};
use crate::session::Session;
use crate::tool::{Tool, read_text};

/// Stands in for the clang of this name.
pub(crate) fn run(name: &OsStr, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let session = Session::current()?;
    let tool = match session.clang.clone() {
        // Clang looks at its own name to find its version and its target.
        Some(path) => Tool::new(path.clone(), path.as_os_str()),
        None => Tool::find(name)?,
    };
    let Request::Object { driver_writes } = Request::parse(arguments) else { return Err(tool.exec(arguments)) };
    let Some(Jobs { jobs, has_words }) = ask(&tool, arguments)? else { return Err(tool.exec(arguments)) };
    let leave = |object: &Path, outcome: Outcome| {
        journal::note(object, outcome);
        Err(tool.exec(arguments))
    };
    match Plan::new(jobs) {
        Ok(plan) if !is_ordinary(&plan) => Err(tool.exec(arguments)),
        Ok(plan) => match exclusions::of_path(&plan.object).or_else(|| exclusions::of_path(&plan.input)) {
            Some(reason) => leave(&plan.object, Outcome::Excluded(reason.to_owned())),
            None => compile(&session, &tool, arguments, &plan, driver_writes || has_words || plan.needs_original),
        },
        Err(Obstacle::NoObject) => Err(tool.exec(arguments)),
        Err(Obstacle::ExternalAssembler) => Err(tool.exec(with_shim(arguments))),
        Err(Obstacle::Narrow(object)) => leave(&object, Outcome::Excluded("16- or 32-bit code".to_owned())),
        Err(Obstacle::Missed(objects, reason)) => {
            let is_excluded = |object: &&PathBuf| exclusions::of_path(object).is_some();
            for object in objects.iter().filter(|object| !is_excluded(object)) {
                journal::note(object, Outcome::Missed(reason.to_owned()));
            }
            Err(tool.exec(arguments))
        }
    }
}

/// The arguments behind the one that has clang find the assembler shim.
fn with_shim(arguments: &[OsString]) -> Vec<OsString> {
    let directory = env::current_exe().ok().and_then(|shim| shim.parent().map(PathBuf::from));
    let shim = directory.filter(|directory| directory.join("as").is_file());
    let prefix = shim.map(|directory| OsString::from_iter([OsStr::new("-B"), directory.as_os_str(), OsStr::new("/")]));
    prefix.into_iter().chain(arguments.iter().cloned()).collect()
}

/// What the driver would do. `None` where it would complain.
fn ask(tool: &Tool, arguments: &[OsString]) -> anyhow::Result<Option<Jobs>> {
    let mut command = tool.command([OsString::from("-###")].iter().chain(arguments));
    command.stdin(Stdio::null());
    let output = tool.output(command)?;
    Ok(output.status.success().then(|| Jobs::parse(&output.stderr)))
}

/// Whether the source can be read and the object be replaced. Otherwise it is a question to the
/// compiler (`-x c /dev/null`) rather than a compilation.
fn is_ordinary(plan: &Plan) -> bool {
    let source = plan.input == Path::new("-") || fs::metadata(&plan.input).is_ok_and(|source| source.is_file());
    source && plan.object != Path::new("-") && fs::metadata(&plan.object).map_or(true, |object| object.is_file())
}

fn compile(
    session: &Session,
    tool: &Tool,
    arguments: &[OsString],
    plan: &Plan,
    original_first: bool,
) -> anyhow::Result<ExitCode> {
    let is_stdin = plan.input == Path::new("-");
    let stdin = is_stdin.then(|| read_text(io::stdin().lock()).context("cannot read standard input")).transpose()?;
    let original = Original { tool, arguments, stdin: stdin.as_deref() };
    let Some((text, is_silent)) = text(plan, stdin.as_deref())? else { return original.hand_over() };
    if let Some(reason) = exclusions::of_text(&text) {
        journal::note(&plan.object, Outcome::Excluded(reason.to_owned()));
        return original.hand_over();
    }
    let options = session.options();
    let name = plan.input.to_string_lossy();
    let search = Search::of_llvm(Search::directories(&plan.assembler.arguments));
    let expanded = includes::expand(&text, &name, &search);
    let text = expanded.as_ref().unwrap_or(&text);
    let annotated = annotate(text, &options);
    let is_changed = annotated.is_changed();
    let assembly = Assembly {
        original,
        assembler: Assembler { tool: &of(&plan.assembler), options: &plan.assembler.arguments, quotes: true },
        object: &plan.object,
        split_debug: plan.split_debug.as_deref(),
        text,
        name: &name,
        annotated,
        original_first: !is_silent || original_first || expanded.is_some(),
        is_expanded: expanded.is_some(),
        rewritten: None,
        check: session.check,
    };
    if is_changed { assembly.run() } else { assembly.run_plain() }
}

/// The text for the assembler, and whether clang made it without a word. `None` if there is none;
/// the original command will say why.
fn text(plan: &Plan, stdin: Option<&[u8]>) -> anyhow::Result<Option<(Vec<u8>, bool)>> {
    let mut is_silent = true;
    for job in &plan.before {
        let output = perform(job, stdin)?;
        if !output.status.success() {
            return Ok(None);
        }
        is_silent &= output.stdout.is_empty() && output.stderr.is_empty();
    }
    match &plan.text {
        Text::File(path) if path == "-" => Ok(stdin.map(|text| (text.to_vec(), true))),
        Text::File(path) => Ok(fs::read(path).ok().map(|text| (text, is_silent))),
        Text::Printed(job) => {
            let output = perform(&job.clone().writing(Path::new("-")), stdin)?;
            Ok(output.status.success().then_some((output.stdout, output.stderr.is_empty())))
        }
    }
}

fn perform(job: &Job, stdin: Option<&[u8]>) -> anyhow::Result<Output> {
    let tool = of(job);
    let mut command = tool.command(&job.arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    tool.feed(command, |pipe| pipe.write_all(stdin.unwrap_or_default()))
}

fn of(job: &Job) -> Tool {
    Tool::new(job.program.clone(), job.program.as_os_str())
}
