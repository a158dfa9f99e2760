//! The `afterburner` command.
//!
//! Under its own name it is an ordinary command line (`cli`). Under the name of an assembler or of
//! clang, or as `afterburner as` and `afterburner clang`, it stands in for that tool (`gas`,
//! `clang`), once per object of a build: that way must not cost time, and what it prints and
//! returns is the tool's.

mod accept;
mod assembly;
mod atomic;
mod build;
mod clang;
mod cli;
mod compare;
mod exclusions;
mod gas;
mod includes;
mod journal;
mod pack;
mod profile;
mod response;
mod run;
mod scratch;
mod session;
mod sites;
mod text_file;
mod tool;
mod unpack;
mod verify;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use signal_hook::consts::SIGXFSZ;

/// The status of a shell that cannot run a command.
const CANNOT_RUN: u8 = 127;

fn main() -> ExitCode {
    file_limits_are_errors();
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or(&called).to_owned();
    let arguments: Vec<OsString> = arguments.collect();
    if name == tool::TETHERED {
        return ended(tool::tethered(&arguments));
    }
    match (StandIn::named(&name), arguments.split_first()) {
        (Some(stand_in), _) => stand_in.run(&name, &arguments),
        (None, Some((command, rest))) if command == "as" || command == "clang" => run_stand_in(command, rest),
        (None, Some((command, rest))) if command == run::parent_death::COMMAND => run::parent_death::run(rest),
        _ => cli::run(),
    }
}

/// A write behind the limit of the length of files (`RLIMIT_FSIZE`) fails, and does not end the
/// command with a file half written. The signal is caught, not ignored, which programs that are
/// started would inherit.
fn file_limits_are_errors() {
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        complain(&anyhow::Error::new(error).context("catching SIGXFSZ"));
    }
}

/// `afterburner as` and `afterburner clang`.
fn run_stand_in(command: &OsStr, arguments: &[OsString]) -> ExitCode {
    let stand_in = if command == "as" { StandIn::Assembler } else { StandIn::Clang };
    stand_in.run(command, arguments)
}

/// The tools that the command stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StandIn {
    Assembler,
    Clang,
}

impl StandIn {
    /// The tool of this name: `as`, `x86_64-linux-gnu-as`, `clang`, `clang-14`.
    fn named(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?;
        if name == "as" || name.ends_with("-as") {
            Some(Self::Assembler)
        } else if name == "clang" || name.starts_with("clang-") {
            Some(Self::Clang)
        } else {
            None
        }
    }

    fn run(self, name: &OsStr, arguments: &[OsString]) -> ExitCode {
        ended(match self {
            Self::Assembler => gas::run(name, arguments),
            Self::Clang => clang::run(name, arguments),
        })
    }
}

/// The status to end with.
fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(CANNOT_RUN)
    })
}

/// Says what went wrong. Where nobody listens, nothing is said.
fn complain(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "afterburner: {error:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_known_by_name() {
        let named = |name: &str| StandIn::named(OsStr::new(name));
        assert_eq!(named("as"), Some(StandIn::Assembler));
        assert_eq!(named("x86_64-linux-gnu-as"), Some(StandIn::Assembler));
        assert_eq!(named("clang"), Some(StandIn::Clang));
        assert_eq!(named("clang-14"), Some(StandIn::Clang));
        assert_eq!(named("afterburner"), None);
        assert_eq!(named("gas"), None);
    }
}
