//! The command line.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use annotate::instructions::Class;
use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::{StandIn, build, compare, complain, pack, profile, run, sites, text_file, unpack, verify};

const EXIT_STATUS: &str = "\
Exit status:
  0    done, and nothing was found
  1    a miss, a record that does not hold, or a failed check was found
  2    the command line or an input is wrong
  127  as, clang: the real tool cannot be run
  Otherwise the status is that of the tool that ran: of make, of the assembler, of clang.";

const AFTER_HELP: &str = "\
Examples:
  afterburner build -- make -j8                   the kernel in this directory, with gcc
  afterburner build -- make -j8 LLVM=1 O=../out   with clang, out of tree
  afterburner verify vmlinux drivers/net/tun.ko   every sensitive instruction has its record
  afterburner sites vmlinux --by function         where they are
  afterburner pack --kernel vmlinux -o image      wedge and kernel in one bootable file";

/// Prepares a kernel to run on any host, at the stage of the assembler
///
/// An afterburnt kernel is built from stock source by the usual compiler. Each of its sensitive
/// instructions is padded with NOPs and recorded, so that it still runs on bare hardware and can be
/// rewritten, when it is loaded, for whatever host it finds itself on.
#[derive(Debug, Parser)]
#[command(name = "afterburner", version, after_help = EXIT_STATUS, after_long_help = help())]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

fn help() -> String {
    format!("{AFTER_HELP}\n\n{EXIT_STATUS}")
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Arguments),
    Verify(verify::Arguments),
    Sites(sites::Arguments),
    Compare(compare::Arguments),
    Annotate(text_file::Arguments),
    Pack(pack::Arguments),
    Unpack(unpack::Arguments),
    Run(run::Arguments),
    Profile(profile::Arguments),
    /// The assembler: GNU as, except that the object is padded and annotated
    ///
    /// Also under the name `as` or one that ends in `-as`: a directory with a copy of, or a link
    /// to, this program called `as` does for `gcc -B`. Takes any option of GNU as, which does the
    /// work; what it prints and returns is its own. Texts that need no annotation, and 32-bit code,
    /// go to it as they are.
    #[command(disable_help_flag = true)]
    As(Passed),
    /// The compiler: clang with its integrated assembler, except that objects are padded and
    /// annotated
    ///
    /// Also under the name `clang` or one that starts with `clang-`. Takes any option of clang,
    /// which does the work; what is not the compilation of one C or assembly source to an object
    /// goes to it as it is.
    #[command(disable_help_flag = true)]
    Clang(Passed),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages, one for each command
    Man {
        /// The directory to write them to; without one, the main page is printed
        directory: Option<PathBuf>,
    },
}

/// The arguments of a stand-in.
#[derive(Debug, clap::Args)]
struct Passed {
    /// The arguments of the real tool
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The classes that are not to be annotated.
#[derive(Debug, clap::Args)]
pub(crate) struct Without {
    /// Leave a class of instructions as it is, for example `cpuid`; may be given several times
    #[arg(long = "without", value_name = "CLASS", value_parser = class)]
    without: Vec<Class>,
}

impl Without {
    /// The classes.
    pub(crate) fn classes(&self) -> impl Iterator<Item = Class> {
        self.without.iter().copied()
    }
}

fn class(name: &str) -> Result<Class, String> {
    Class::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
        format!("no such class; there are {}", names.join(", "))
    })
}

/// Runs the command that the user gave.
pub(crate) fn run() -> ExitCode {
    const WRONG: u8 = 2;
    CommandLine::parse().command.run().unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(WRONG)
    })
}

impl Command {
    fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Build(arguments) => build::run(arguments),
            Self::Verify(arguments) => verify::run(arguments),
            Self::Sites(arguments) => sites::run(arguments),
            Self::Compare(arguments) => compare::run(arguments),
            Self::Annotate(arguments) => text_file::run(arguments),
            Self::Pack(arguments) => pack::run(arguments),
            Self::Unpack(arguments) => unpack::run(arguments),
            Self::Run(arguments) => run::run(arguments),
            Self::Profile(arguments) => profile::run(arguments),
            Self::As(passed) => Ok(StandIn::Assembler.run("as".as_ref(), &passed.arguments)),
            Self::Clang(passed) => Ok(StandIn::Clang.run("clang".as_ref(), &passed.arguments)),
            Self::Completions { shell } => completions(*shell),
            Self::Man { directory } => manual(directory.as_ref()),
        }
    }
}

/// The command line of this program, for a shell.
pub(crate) fn words_for_a_shell() -> String {
    let words = env::args_os().skip(1).map(OsString::into_encoded_bytes).collect::<Vec<_>>();
    let line = shlex::bytes::try_join(words.iter().map(Vec::as_slice)).unwrap_or_default();
    format!("afterburner {}", String::from_utf8_lossy(&line))
}

fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "afterburner", &mut script);
    print(&script)
}

fn manual(directory: Option<&PathBuf>) -> anyhow::Result<ExitCode> {
    let command = CommandLine::command();
    if let Some(directory) = directory {
        clap_mangen::generate_to(command, directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    print(&page)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(text).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
