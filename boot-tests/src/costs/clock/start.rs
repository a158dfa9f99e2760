//! How the systems are started, each with the same program and the same files.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::{System, jobs};
use crate::guest::Guest;
use crate::kernel::Variant;
use crate::unnamed::Unnamed;
use crate::{command, host, programs};

/// Debian's package `user-mode-linux` puts it there.
const DEBIANS_UML: &str = "/usr/bin/linux.uml";

/// As long as one turn may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What the guest of a kernel says at its end.
const END: &str = "guest: script ended with status ";

/// All that is measured, ready to be started.
pub(super) struct Systems {
    _directory: TempDir,
    /// The program, and the shell that it starts.
    program: PathBuf,
    shell: PathBuf,
    initramfs: Unnamed,
    image: PathBuf,
    /// User-mode Linux.
    uml: PathBuf,
}

impl Systems {
    pub(super) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut programs = programs::build(&["costs"], directory.path())?;
        let program = programs.first().context("no program")?.clone();
        let shell = jobs::add(directory.path(), &mut programs)?;
        let files = vec![("clock", String::new())];
        let initramfs = Guest { programs, files, ..Guest::script("costs", Vec::new()) }.initramfs()?;
        let (image, uml) = (host::image(&Variant::LOW.build()?)?, Variant::UML.build()?.vmlinux());
        Ok(Self { _directory: directory, program, shell, initramfs, image, uml })
    }

    /// What the program says on a system.
    pub(super) fn said_by(&self, system: System) -> Result<String> {
        let initramfs = self.initramfs.path();
        match system {
            System::Native => command::output(self.measure(&mut Command::new(&self.program))),
            System::Process => said_by(process(&self.image, initramfs, &[])),
            System::Fast => said_by(process(&self.image, initramfs, &["--fast"])),
            System::DebiansUml => said_by(uml(Path::new(DEBIANS_UML), initramfs)?),
            System::Uml => said_by(uml(&self.uml, initramfs)?),
            System::Gvisor => command::output(self.measure(gvisor().arg(&self.program))),
        }
    }

    fn measure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("clock").arg(&self.shell)
    }
}

fn process(image: &Path, initramfs: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(image);
    command.args(options).args(["--memory", "256", "--initrd"]).arg(initramfs).args([
        "loglevel=5",
        "printk.devkmsg=on",
        "panic=-1",
    ]);
    command
}

/// By `ptrace`, which runs wherever processes do, with the files of this machine. It is faster
/// where Linux moves its processes about.
fn gvisor() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5".to_owned(), LIMIT.as_secs().to_string()]);
    command.args(["runsc", "--rootless", "--network=none", "--platform=ptrace", "do"]);
    command
}

/// On one processor, as the afterburnt kernel keeps itself: it is two to four times as fast as
/// where Linux moves its processes about.
fn uml(program: &Path, initramfs: &Path) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(first_processor(&fs::read_to_string("/proc/self/status")?)?).arg(program);
    command.arg("mem=256M").arg(format!("initrd={}", initramfs.display()));
    command.args(["con0=null,fd:1", "con=null", "loglevel=5", "printk.devkmsg=on", "panic=-1"]);
    Ok(command)
}

/// The first of the processors that a process may run on, by its status (`proc(5)`).
fn first_processor(status: &str) -> Result<&str> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("no processors")?;
    list.trim().split([',', '-']).next().context("no processor")
}

/// What a kernel says until its script has ended. It is ended then, with all of its processes.
fn said_by(mut command: Command) -> Result<String> {
    let mut kernel = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let output = kernel.stdout.take().context("its output")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    let mut said = String::new();
    let ended = loop {
        match lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            Ok(line) => {
                said.push_str(&line);
                said.push('\n');
                if line.contains(END) {
                    break true;
                }
            }
            Err(_) => break false,
        }
    };
    drop(lines);
    end(&mut kernel)?;
    reader.join().ok().context("reading what it says")?;
    if !ended {
        bail!("{command:?} does not come to its end:\n{said}");
    }
    Ok(said)
}

/// Ends all processes of a group.
fn end(leader: &mut Child) -> Result<()> {
    let group = format!("-{}", leader.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status()?;
    leader.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_is_found() {
        for (list, first) in [("0-1", "0"), ("3", "3"), ("2,5-7", "2")] {
            assert_eq!(first_processor(&format!("Name:\tx\nCpus_allowed_list:\t{list}\n")).unwrap(), first);
        }
        assert!(first_processor("Name:\tx\n").is_err());
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        let mut command = Command::new("echo");
        command.arg("nothing");
        assert!(said_by(command).unwrap_err().to_string().contains("does not come to its end:\nnothing"));
    }
}
