//! A child that does not outlive us, whatever ends us.
//!
//! A signal that we can catch gives us time to end our child. For one that we cannot, Linux has the
//! parent-death signal (prctl(2), `PR_SET_PDEATHSIG`): a process asks for it itself, and it stays
//! when the process becomes another program. So what we start is ourselves once more, as a command
//! that nobody else needs; that asks, and becomes the program. (To ask between `fork` and `exec`
//! would be unsafe.) A parent that was gone before the question is known by its number: the child
//! has another parent then.
//!
//! The signal comes when the *thread* ends that started the child. It has to be one that lasts: the
//! main thread.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use crate::{CANNOT_RUN, complain};

/// The command: `afterburner end-with-parent PID SIGNAL PROGRAM [ARGUMENT]...`.
pub(crate) const COMMAND: &str = "end-with-parent";

/// Us, whatever has become of our file.
const OURSELVES: &str = "/proc/self/exe";

/// A command that runs `program`, which gets a signal when we end.
pub(super) fn command(program: &Path, signal: Signal) -> Command {
    let mut command = Command::new(OURSELVES);
    let numbers = [getpid().as_raw_nonzero().get(), signal.as_raw()];
    command.arg0("afterburner").arg(COMMAND).args(numbers.map(|number| number.to_string())).arg(program);
    command
}

/// Becomes the program. Returns only if that fails.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    complain(&become_program(arguments).unwrap_or_else(|error| error));
    ExitCode::from(CANNOT_RUN)
}

fn become_program(arguments: &[OsString]) -> anyhow::Result<anyhow::Error> {
    let [parent, signal, program, arguments @ ..] = arguments else {
        return Err(anyhow!("{COMMAND}: PID, SIGNAL and PROGRAM are needed"));
    };
    let number = |word: &OsStr| word.to_str().and_then(|word| word.parse::<i32>().ok());
    let parent = number(parent).and_then(Pid::from_raw).context("not the number of a process")?;
    let signal = number(signal).and_then(Signal::from_named_raw).context("not the number of a signal")?;
    set_parent_process_death_signal(Some(signal)).context("cannot ask for a signal when the parent ends")?;
    if getppid() != Some(parent) {
        return Err(anyhow!("ended before {} was started", program.display()));
    }
    let error = Command::new(program).args(arguments).exec();
    Ok(anyhow::Error::new(error).context(format!("cannot run {}", program.display())))
}
