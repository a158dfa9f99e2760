//! What is seen of a build while it runs.
//!
//! Make's output is the user's and left alone. Where it goes elsewhere, a line on the terminal says
//! how far the build is; what compilers complain of in the meantime is put above it.

use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;

use crate::journal::{Journal, Outcome};

/// How often the line is renewed.
const PERIOD: Duration = Duration::from_millis(250);

/// Runs make to its end.
pub(super) fn run(make: &mut Command, journal: &Journal) -> io::Result<ExitStatus> {
    if io::stdout().is_terminal() || !io::stderr().is_terminal() {
        return make.status();
    }
    let mut child = make.stderr(Stdio::piped()).spawn()?;
    let line = ProgressBar::new_spinner();
    let messages = child.stderr.take();
    thread::scope(|scope| {
        scope.spawn(|| messages.map(|messages| pass_on(BufReader::new(messages), &line)));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            line.set_message(state(journal));
            line.tick();
            thread::sleep(PERIOD);
        };
        line.finish_and_clear();
        Ok(status)
    })
}

fn pass_on(mut messages: impl io::BufRead, line: &ProgressBar) -> io::Result<()> {
    let mut message = Vec::new();
    while messages.read_until(b'\n', &mut message)? != 0 {
        line.suspend(|| io::stderr().write_all(&message))?;
        message.clear();
    }
    Ok(())
}

fn state(journal: &Journal) -> String {
    let entries = journal.entries().unwrap_or_default();
    let sites: usize =
        entries.iter().map(|entry| if let Outcome::Annotated(sites) = entry.outcome { sites } else { 0 }).sum();
    format!("{} objects, {sites} sites", entries.len())
}
