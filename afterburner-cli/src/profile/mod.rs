//! `afterburner profile`: which sensitive instructions a command executes, how often, and where.

mod counters;
mod page;
mod paths;
mod symbols;
mod table;
mod tool;

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use self::symbols::{Symbols, Whereabouts};
use self::table::{By, Site};
use crate::CANNOT_RUN;
use crate::atomic;
use crate::cli::words_for_a_shell;
use crate::run::{Ended, Host, Job, MachineArguments, Mode, Script, boot};
use crate::verify::{complain_of, named, read};

/// Count the sensitive instructions that a command executes in a guest
///
/// Boots an image of `afterburner pack` with every site counted by the wedge
/// (`afterburn.mode=profile`), runs the command as `afterburner run` does, and prints the table of
/// what was executed meanwhile in the kernel: by the guest's shell too, which starts the command,
/// and by the program that reads the counters. The guest's console goes to standard error.
///
/// Functions and source lines are those of the kernel that `--kernel` names, which must be the one
/// in the image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_STATUS, after_long_help = long_help())]
pub(crate) struct Arguments {
    /// An image
    image: PathBuf,
    /// What the guest runs on. On a host that runs the kernel without its privileges, what the
    /// wedge was entered for is shown as well, and what it called the host for
    #[arg(long, value_enum, default_value_t = Host::Bare)]
    host: Host,
    /// What to count by
    #[arg(long, value_enum, default_value_t = By::Class)]
    by: By,
    /// Print no more than this many rows
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Print JSON, with every site
    #[arg(long)]
    json: bool,
    /// Write all that there is to see to a file as well, as a page for a browser
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Count from the start of the kernel, not from that of the command
    #[arg(long)]
    boot: bool,
    /// The kernel in the image, with its symbols
    #[arg(long, value_name = "VMLINUX")]
    kernel: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// A command for the guest's shell; several words are put together with blanks
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const EXIT_STATUS: &str = "\
Exit status:
  That of the command.
  2    the command line or an input is wrong, or the wedge does not answer
  124  the time was up
  125  the guest ended without a verdict: its console shows why
  127  there is no qemu-system-x86_64";

const IN_THE_GUEST: &str = "\
In the guest:
  /afterburner/wedge-port ?|0|1|c|z   asks the wedge, by way of /dev/port
    ?  status
    0  switch the wedge off: every site as it was
    1  switch it on again
    c  the counters that are not zero: address of the site, class, count
    z  zero the counters
  A small C program, compiled here by `cc -static`. The command may use it too, for example to zero
  the counters itself. Its exit status is 0, or 1 if the wedge refused, or 2 if there is none.";

fn long_help() -> String {
    format!("{IN_THE_GUEST}\n\n{EXIT_STATUS}")
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    ensure!(
        arguments.kernel.is_some() || arguments.by == By::Class,
        "functions and lines are known by the kernel's symbols: --kernel VMLINUX"
    );
    let kernel = arguments.kernel.as_deref().map(read).transpose()?;
    let symbols = kernel
        .as_deref()
        .zip(arguments.kernel.as_deref())
        .map(|(data, path)| Symbols::of(data).map_err(|error| named(path, error)));
    let symbols = symbols.transpose()?;
    if let Some((symbols, path)) = symbols.as_ref().zip(arguments.kernel.as_deref()) {
        complain_of(path, symbols.sources());
    }
    let script = Script {
        before: (!arguments.boot).then_some(include_str!("../../guest/profile-before")),
        after: Some(include_str!("../../guest/profile-after")),
        programs: vec![(tool::NAME, tool::program()?)],
        ..Script::new(&arguments.command)
    };
    let job = Job {
        image: &arguments.image,
        host: Some(arguments.host),
        mode: Some(Mode::Profile),
        machine: &arguments.machine,
        script: Some(&script),
        terminal: io::stdin().is_terminal(),
    };
    let Some(ended) = boot(&job, &mut io::stderr())? else { return Ok(ExitCode::from(CANNOT_RUN)) };
    report(arguments, symbols.as_ref(), &ended)
}

fn report(arguments: &Arguments, symbols: Option<&Symbols<'_>>, ended: &Ended) -> anyhow::Result<ExitCode> {
    let messages = ended.messages();
    if messages.iter().any(|message| message.starts_with("zero")) {
        counters::answer(messages, "zero")?;
    } else if ended.verdict().is_none() {
        return Ok(ended.status(true));
    }
    let counters = counters::parse(&counters::answer(messages, "counters")?)?;
    let offset = counters::offset(&counters::answer(messages, "wedge")?)?;
    let site = |counter: &counters::Counter| Site {
        address: counter.address,
        class: counter.class,
        count: counter.count,
        whereabouts: symbols
            .map_or_else(Whereabouts::default, |symbols| symbols.find(counter.address.wrapping_sub(offset))),
    };
    let sites: Vec<Site<'_>> = counters.sites.iter().map(site).collect();
    let paths = &counters.paths;
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        table::print_json(&sites, paths, ended.verdict(), &mut out)?;
    } else {
        table::print(&sites, arguments.by, arguments.top, &mut out)?;
        paths.print(&mut out)?;
    }
    out.flush()?;
    if let Some(path) = &arguments.report {
        let page = page::page(&sites, paths, arguments.kernel.is_some(), words_for_a_shell());
        atomic::write(path, |file| file.write_all(page.html().as_bytes()))?;
    }
    Ok(ended.status(true))
}
