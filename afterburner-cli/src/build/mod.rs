//! `afterburner build`: the user's make, with the shims in it, and what came of it.

mod goals;
mod interruption;
mod low;
mod make;
mod page;
mod products;
mod progress;
mod shims;
mod summary;
mod toolchain;
mod trial;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};

use self::interruption::Interruption;
use self::low::{Configuration, Layout};
use self::make::Make;
pub(crate) use self::shims::cache;
use self::summary::Summary;
use self::toolchain::{Compiler, Toolchain};
use crate::accept::{Accept, Accepted};
use crate::cli::{Without, words_for_a_shell};
use crate::journal::{Journal, MemoryFile};
use crate::session::Session;
use crate::tool::exit_code;
use crate::{atomic, complain};

/// Build an unmodified kernel tree so that the kernel can be afterburnt
///
/// Runs the make command with the assembler shim in its way, then verifies the kernel and every
/// module that it built: each sensitive instruction in them is annotated, or there is a stated
/// reason why not. Works with gcc and with clang, with either assembler (`LLVM=1`, `LLVM_IAS=0`),
/// with ccache, distcc or any other program in front, in and out of tree, for external modules and
/// packages, and through other makefiles. distcc's other machines need the directory of the shims
/// at the same path; it stays in the user's cache directory. With clang's integrated assembler its
/// `clang` has to be in their `DISTCC_CMDLIST`.
///
/// Make's output and input are left alone; the summary goes to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write the summary to a file: a page for a browser if its name ends in .html, else JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The compiler, where its name does not tell
    #[arg(long)]
    compiler: Option<Compiler>,
    #[command(flatten)]
    without: Without,
    #[command(flatten)]
    accept: Accept,
    /// The half of the address space that the kernel is linked into
    #[arg(long, value_name = "LAYOUT", default_value = "standard")]
    layout: Layout,
    /// With `--layout low`: switch off what the configuration must not have
    #[arg(long)]
    configure: bool,
    /// Assemble every object a second time, plain, and fail where they differ in more than pads
    #[arg(long)]
    check: bool,
    /// The command that builds the kernel
    #[arg(last = true, required = true, value_name = "MAKE")]
    command: Vec<OsString>,
}

/// Builds and verifies.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let interruption = Interruption::catch().context("cannot catch signals")?;
    let result = build(arguments, &interruption);
    interruption.finish();
    result
}

fn build(arguments: &Arguments, interruption: &Interruption) -> anyhow::Result<ExitCode> {
    let acceptances = arguments.accept.acceptances()?;
    let make = Make::ask(&arguments.command)?;
    let toolchain = Toolchain::of(&make, arguments.compiler)?;
    let cache = cache()?;
    let mut session = session(arguments, &toolchain);
    if make.is_external() && make.builds() {
        low::check_modules(arguments.layout, &make)?;
    }
    let is_low = arguments.layout == Layout::Low && make.builds();
    if is_low {
        session.low = Some(low::rewritten(&make, &toolchain)?);
        configure(arguments, &make)?;
    }
    let directory = shims::directory(&cache, session)?;
    if make.builds() {
        trial::run(&make, &toolchain, &cache, &directory)?;
    }
    let (journal, answers) = (Journal::create()?, MemoryFile::create()?);
    if !Path::new(&answers.path()).exists() {
        complain(&anyhow!(
            "there is no /proc: no objects will be listed, and what makefiles build elsewhere is not verified"
        ));
    }
    let mut words = make.with(&toolchain.flags_with(&directory), is_low.then(|| low::flags(&directory)).as_deref());
    words.extend(toolchain.cc_with(&directory).map(|cc| make::variable("CC", &cc)));
    if is_low {
        words.extend(low::variables(&directory).map(Into::into));
    }
    let mut command = interruption::bound(&words);
    command.envs(shims::cache_environment(&directory)).envs([journal.variable()]);
    command.envs(make::environment(&format!("{directory}/{}", shims::MAKEFILE), &answers.path()));
    let start = SystemTime::now();
    if interruption.has_come() {
        return Ok(ExitCode::FAILURE);
    }
    let status = progress::run(&mut command, &journal)
        .with_context(|| format!("cannot run {}", arguments.command[0].display()))?;
    let entries = journal.entries()?;
    if !status.success() || !make.builds() && entries.is_empty() {
        return Ok(exit_code(status));
    }
    // The same make may have configured what it built.
    if is_low && let Some(configuration) = Configuration::of(&make) {
        configuration.check()?;
    }
    let makes = Make::all(&String::from_utf8_lossy(&answers.content()?));
    let products = products::find(&make, &makes, &entries, start);
    let accepted = Accepted::read(&acceptances, &products.directories)?;
    let summary = Summary::of(&entries, products, accepted)?;
    let _ = write!(io::stderr(), "{summary}");
    if let Some(report) = &arguments.report {
        write_report(report, &summary)?;
    }
    Ok(if summary.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sees to it that the configuration fits the lower half, if it is there already.
fn configure(arguments: &Arguments, make: &Make) -> anyhow::Result<()> {
    let Some(configuration) = Configuration::of(make).filter(|_| !make.configures()) else { return Ok(()) };
    if arguments.configure {
        configuration.switch_off(make)?;
    }
    configuration.check()
}

fn session(arguments: &Arguments, toolchain: &Toolchain) -> Session {
    Session {
        assembler: toolchain.assembler(),
        clang: toolchain.wrapped(),
        without: arguments.without.classes().map(|class| class.name().to_owned()).collect(),
        objtool_hints: true,
        check: arguments.check,
        low: None,
        identity: 0,
    }
}

fn write_report(path: &Path, summary: &Summary) -> anyhow::Result<()> {
    if path.extension().is_some_and(|extension| extension == "html") {
        let page = page::page(summary, words_for_a_shell());
        return atomic::write(path, |file| file.write_all(page.html().as_bytes()));
    }
    atomic::write(path, |file| {
        serde_json::to_writer_pretty(&mut *file, summary)?;
        writeln!(file)
    })
}
