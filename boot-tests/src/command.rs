//! Running other programs.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Runs the command and returns what it wrote to its standard output.
///
/// # Errors
///
/// When it cannot be started or fails; the message holds its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}

/// Runs the command with its output appended to a log file.
///
/// # Errors
///
/// When it cannot be started or fails; the message holds the end of the log and its path.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file =
        File::options().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
    let errors = file.try_clone().context("duplicating a file descriptor")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        let text = std::fs::read(log).unwrap_or_default();
        bail!("{command:?}: {status}\n{}\nlog: {}", tail(&String::from_utf8_lossy(&text), 30), log.display());
    }
    Ok(())
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
