//! `afterburner annotate`: the text stage by itself, from file to file.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate::instructions::ClassSet;
use annotate::text::{Options, annotate};
use anyhow::Context as _;

use crate::atomic;
use crate::cli::Without;

/// Pad and annotate a text for the assembler, without assembling it
///
/// Every line stays where it is, behind the two that are put in front: a prelude, and a line marker
/// that keeps the assembler's messages and debug information pointing at the original.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The text to annotate, as a compiler or a preprocessor gives it to the assembler; `-` is
    /// standard input
    #[arg(value_name = "IN.s")]
    input: PathBuf,
    /// Where to write the annotated text; `-` is standard output
    #[arg(short, long, value_name = "OUT.s", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    without: Without,
    /// Emit what keeps Linux's objtool from taking a record for a code pointer
    #[arg(long)]
    objtool_hints: bool,
}

/// Annotates a text.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (text, name) = read(&arguments.input)?;
    let mut classes = ClassSet::default();
    arguments.without.classes().for_each(|class| classes.remove(class));
    let options = Options { classes, objtool_hints: arguments.objtool_hints };
    let annotated = annotate(&text, &options);
    if is_standard(&arguments.output) {
        let mut output = io::stdout().lock();
        annotated
            .write_to(&name, &mut output)
            .and_then(|()| output.flush())
            .context("cannot write to standard output")?;
    } else {
        atomic::write(&arguments.output, |mut output| annotated.write_to(&name, &mut output))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<(Vec<u8>, String)> {
    if is_standard(path) {
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text).context("cannot read standard input")?;
        return Ok((text, "{standard input}".to_owned()));
    }
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((text, path.to_string_lossy().into_owned()))
}

fn is_standard(path: &Path) -> bool {
    path == "-"
}
