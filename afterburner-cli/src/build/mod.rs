//! `afterburner build`: the user's make, with the shims in it, and what came of it.

mod make;
mod products;
mod progress;
mod shims;
mod summary;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;

use self::make::{Compiler, Make, Toolchain};
pub(crate) use self::shims::cache;
use self::summary::Summary;
use crate::cli::Without;
use crate::session::Session;
use crate::tool::exit_code;
use crate::{atomic, journal};

/// Build an unmodified kernel tree so that the kernel can be afterburnt
///
/// Runs the make command with the assembler shim in its way, then verifies the kernel and every module that it built: each
/// sensitive instruction in them is annotated, or there is a stated reason why not. Works with gcc and with clang, with either
/// assembler (`LLVM=1`, `LLVM_IAS=0`), with ccache, sccache or distcc in front, in and out of tree, and for external modules.
/// distcc's other machines need the directory of the shims at the same path; it stays in the user's cache directory. With
/// clang's integrated assembler its `clang` has to be in their `DISTCC_CMDLIST`.
///
/// Make's output and input are left alone; the summary goes to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write the summary to a file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The compiler, where its name does not tell
    #[arg(long)]
    compiler: Option<Compiler>,
    #[command(flatten)]
    without: Without,
    /// Assemble every object a second time, plain, and fail where they differ in more than pads
    #[arg(long)]
    check: bool,
    /// The command that builds the kernel
    #[arg(last = true, required = true, value_name = "MAKE")]
    command: Vec<OsString>,
}

/// Builds and verifies.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let make = Make::new(&arguments.command);
    let toolchain = make.toolchain(arguments.compiler)?;
    let directory = shims::directory(&cache()?, session(arguments, &toolchain))?;
    let journal =
        tempfile::Builder::new().prefix("afterburner-journal-").tempfile().context("cannot create a journal")?;
    let start = SystemTime::now();
    let mut command = make.with_shims(&toolchain.way, &directory);
    command.envs(shims::cache_environment(&directory)).env(journal::VARIABLE, journal.path());
    let status = progress::run(&mut command, journal.path())
        .with_context(|| format!("cannot run {}", arguments.command[0].display()))?;
    if !status.success() {
        return Ok(exit_code(status));
    }
    let entries = journal::read(journal.path())?;
    let summary = Summary::of(&entries, &products::find(&make, &entries, start))?;
    let _ = write!(io::stderr(), "{summary}");
    if let Some(report) = &arguments.report {
        write_report(report, &summary)?;
    }
    Ok(if summary.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn session(arguments: &Arguments, toolchain: &Toolchain) -> Session {
    let clang = matches!(toolchain.way, make::Way::Wrapper { .. }).then(|| toolchain.compiler_path()).flatten();
    Session {
        assembler: toolchain.assembler(),
        clang,
        without: arguments.without.classes().map(|class| class.name().to_owned()).collect(),
        objtool_hints: true,
        check: arguments.check,
        identity: 0,
    }
}

fn write_report(path: &Path, summary: &Summary) -> anyhow::Result<()> {
    atomic::write(path, |file| {
        serde_json::to_writer_pretty(&mut *file, summary)?;
        writeln!(file)
    })
}
