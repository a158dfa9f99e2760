//! `afterburner compare`: the padded object is the plain one, plus pads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate::object::compare::{Comparison, Difference, Which};

use crate::verify::{named, read};

/// Check that a padded object is the plain one plus padding, and nothing else
///
/// With the pads removed, every instruction of the padded object has to be that of the plain one,
/// and every branch, operand, relocation and symbol has to mean the corresponding place; data has
/// to be equal. What the assembler adds by address may differ: NOPs before an aligned place, and
/// NOPs and prefixes before an aligned branch. Ends with 0 where that is so, with 1 and the first
/// difference where it is not, with 2 where a file cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The object that the plain assembler made
    plain: PathBuf,
    /// The object that was made with the assembler stage
    padded: PathBuf,
}

impl Arguments {
    fn file(&self, which: Which) -> &Path {
        match which {
            Which::Plain => &self.plain,
            Which::Padded => &self.padded,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (plain, padded) = (read(&arguments.plain)?, read(&arguments.padded)?);
    match annotate::object::compare(&plain, &padded) {
        Ok(Comparison { sections, instructions, references, pads, resized_branches }) => {
            println!(
                "equal but for {pads} pads: {instructions} instructions in {sections} sections, {references} references, \
                 {resized_branches} branches of another size"
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(Difference::Unreadable(which, error)) => Err(named(arguments.file(which), error)),
        Err(error @ Difference::NotRelocatable(which)) => {
            Err(anyhow::Error::new(error).context(arguments.file(which).display().to_string()))
        }
        Err(difference) => {
            println!("{}: {difference}", arguments.padded.display());
            Ok(ExitCode::FAILURE)
        }
    }
}
