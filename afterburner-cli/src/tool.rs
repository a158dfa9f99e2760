//! The real tools: finding and running them.
//!
//! A tool that is started and waited for must not outlive this program: whoever kills a compiler's
//! assembler, by SIGKILL too, wants no assembler. The kernel sees to that if the tool asks for it,
//! which it does not; so what is started is this program, which asks and then becomes the tool
//! ([`tethered`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, ExitStatus, Output, Stdio};
use std::{env, thread};

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::session;

/// The name under which this program becomes a tool that ends with its parent.
pub(crate) const TETHERED: &str = "afterburner-tethered";

/// A program that this one stands in for.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    path: PathBuf,
    /// What it is to take for its name; messages start with it.
    called: OsString,
}

impl Tool {
    /// The tool at `path`, under the name `called`.
    pub(crate) fn new(path: PathBuf, called: &OsStr) -> Self {
        Self { path, called: called.to_owned() }
    }

    /// The tool of this name in `PATH`, passing over ourselves.
    pub(crate) fn find(name: &OsStr) -> anyhow::Result<Self> {
        let path = search(name).with_context(|| format!("there is no `{}` in PATH but this one", name.display()))?;
        Ok(Self::new(path, name))
    }

    /// A command with these arguments, which ends when this program does.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(TETHERED)
            .arg(process::id().to_string())
            .args([self.path.as_os_str(), &self.called])
            .args(arguments);
        command
    }

    /// Becomes the tool. Returns only if that fails.
    pub(crate) fn exec<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Error {
        let error = Command::new(&self.path).arg0(&self.called).args(arguments).exec();
        self.cannot_run(error)
    }

    /// Runs the tool on what `text` writes, its input and output as the user set them but for that,
    /// and returns when it is done.
    pub(crate) fn feed(
        &self,
        mut command: Command,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send,
    ) -> anyhow::Result<Output> {
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| self.cannot_run(error))?;
        let stdin = child.stdin.take();
        let output = thread::scope(|scope| {
            // A tool that does not read to the end has its reasons, and says them.
            scope.spawn(move || stdin.map(|mut stdin| text(&mut stdin)));
            child.wait_with_output()
        });
        output.map_err(|error| self.cannot_run(error))
    }

    /// Runs the command to its end.
    pub(crate) fn output(&self, mut command: Command) -> anyhow::Result<Output> {
        command.output().map_err(|error| self.cannot_run(error))
    }

    /// Runs the command to its end, its output as set in the command.
    pub(crate) fn status(&self, mut command: Command) -> anyhow::Result<ExitStatus> {
        command.status().map_err(|error| self.cannot_run(error))
    }

    fn cannot_run(&self, error: io::Error) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("cannot run {}", self.path.display()))
    }
}

/// Becomes the tool of a [`Tool::command`]. Returns only if that fails.
pub(crate) fn tethered(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let [parent, path, called, arguments @ ..] = arguments else { bail!("{TETHERED} is for internal use") };
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask for the end of the parent")?;
    // It may have ended before.
    let is_parent = |pid: rustix::process::Pid| parent.to_str() == Some(&pid.as_raw_nonzero().to_string());
    if !getppid().is_some_and(is_parent) {
        return Ok(ExitCode::FAILURE);
    }
    Err(Tool::new(PathBuf::from(path), called).exec(arguments))
}

/// The status that the tool ended with, as a shell would report it.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    const KILLED: i32 = 128;
    let code = status.code().unwrap_or_else(|| KILLED + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Reads a text to its end, which has to come.
pub(crate) fn read_text(reader: impl Read) -> anyhow::Result<Vec<u8>> {
    const MOST: u64 = 1 << 30;
    let mut text = Vec::new();
    if reader.take(MOST + 1).read_to_end(&mut text)? as u64 > MOST {
        bail!("it is longer than 1 GB");
    }
    Ok(text)
}

/// The program of this name in `PATH`.
pub(crate) fn search(name: &OsStr) -> Option<PathBuf> {
    candidates(name).into_iter().next()
}

/// The programs of this name in `PATH`, in its order, but neither this one nor another directory's
/// shims.
pub(crate) fn candidates(name: &OsStr) -> Vec<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return vec![PathBuf::from(name)];
    }
    let ourselves = env::current_exe().and_then(fs::metadata).ok();
    let is_other = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| is_program(&found) && !is_same(&found, ourselves.as_ref()))
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).filter(|directory| !session::is_shims(directory));
    directories.map(|directory| directory.join(name)).filter(is_other).collect()
}

fn is_program(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// Whether the two are one file.
pub(crate) fn is_same(one: &Metadata, other: Option<&Metadata>) -> bool {
    other.is_some_and(|other| (one.dev(), one.ino()) == (other.dev(), other.ino()))
}
