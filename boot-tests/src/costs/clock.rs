//! What operations take by the clock, where no instructions can be counted: on this machine itself,
//! in an afterburnt kernel that is a process of it, and in the port of Linux that has the same
//! purpose, User-mode Linux.
//!
//! A machine is as busy as it is. So the systems take turns, several times in one run; what is
//! reported is the median of the turns with the least and the most, and what is compared are two
//! medians of the same run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::OPERATIONS;
use crate::guest::{BUSYBOX, Guest};
use crate::kernel::Variant;
use crate::{command, host, programs};

/// Debian's package `user-mode-linux` puts it there.
const UML: &str = "/usr/bin/linux.uml";

/// How often each system has its turn.
const TURNS: usize = 5;

/// As long as one turn may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What the guest of a kernel says at its end.
const END: &str = "guest: script ended with status ";

/// The columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// This machine.
    Native,
    /// The afterburnt kernel as a process.
    Process,
    /// User-mode Linux.
    Uml,
}

impl System {
    const ALL: [Self; 3] = [Self::Native, Self::Process, Self::Uml];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Process => "process",
            Self::Uml => "uml",
        }
    }
}

/// Rows that only this table has.
const MORE: [(&str, &str); 4] = [
    ("read", "read of a byte"),
    ("stat", "stat"),
    ("open-close", "open, close"),
    ("compute", "a million multiplications"),
];

/// The rows: those of the other table that are measured here, too, and [`MORE`].
fn operations() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS.into_iter().filter(|(name, _)| !["boot", "tsc-switch"].contains(name)).chain(MORE)
}

/// Nanoseconds of operations, by name.
type Turn = BTreeMap<String, f64>;

/// What all turns have shown.
#[derive(Debug)]
pub struct Clocked {
    /// For each of [`System::ALL`].
    turns: [Vec<Turn>; 3],
}

impl Clocked {
    /// Measures all systems in turns.
    ///
    /// # Errors
    ///
    /// When something cannot be built, or a system does not come to its end.
    pub fn measure() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let built = programs::build(&["costs"], directory.path())?;
        let program = built.first().context("no program")?.clone();
        let shell = directory.path().join("sh");
        symlink(BUSYBOX, &shell)?;
        let files = vec![("clock", String::new())];
        let guest = Guest { programs: built, files, ..Guest::script("costs", Vec::new()) }.initramfs()?;
        let image = host::image(&Variant::LOW.build()?)?;

        let mut turns = [const { Vec::new() }; 3];
        for turn in 1..=TURNS {
            for (system, turns) in System::ALL.into_iter().zip(&mut turns) {
                let said = match system {
                    System::Native => command::output(Command::new(&program).arg("clock").arg(&shell))?,
                    System::Process => said_by(process(&image, guest.path()))?,
                    System::Uml => said_by(uml(guest.path())?)?,
                };
                turns.push(nanoseconds(&said).with_context(|| format!("{}, turn {turn}:\n{said}", system.name()))?);
            }
        }
        Ok(Self { turns })
    }

    /// Least, median and most of an operation on a system; nothing if the system does not have it.
    fn spread(&self, operation: &str, system: System) -> Option<[f64; 3]> {
        let turns = &self.turns[system as usize];
        let mut values = turns.iter().map(|turn| turn.get(operation).copied()).collect::<Option<Vec<_>>>()?;
        values.sort_by(f64::total_cmp);
        Some([*values.first()?, *values.get(values.len() / 2)?, *values.last()?])
    }

    /// The medians of an operation on two systems, divided.
    fn ratio(&self, operation: &str, system: System, by: System) -> Option<f64> {
        Some(self.spread(operation, system)?[1] / self.spread(operation, by)?[1])
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{:<26}", "nanoseconds");
        for system in System::ALL {
            let _ = write!(text, "{:>34}", format!("{} (least to most)", system.name()));
        }
        let _ = writeln!(text, "{:>14}", "uml/process");
        for (operation, title) in operations() {
            let _ = write!(text, "{title:<26}");
            for system in System::ALL {
                let cell = self.spread(operation, system).map_or_else(
                    || "-".to_owned(),
                    |[least, median, most]| format!("{median:.0} ({least:.0} to {most:.0})"),
                );
                let _ = write!(text, "{cell:>34}");
            }
            let ratio = self.ratio(operation, System::Uml, System::Process);
            let _ = writeln!(text, "{:>14}", ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
        }
        text
    }

    /// How many times as fast as User-mode Linux the process is: the geometric mean.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let ratios = operations().filter_map(|(name, _)| self.ratio(name, System::Uml, System::Process));
        let logarithms: Vec<f64> = ratios.map(f64::ln).collect();
        let count = u32::try_from(logarithms.len()).ok().filter(|count| *count > 0)?;
        Some((logarithms.iter().sum::<f64>() / f64::from(count)).exp())
    }
}

fn process(image: &Path, initramfs: &Path) -> Command {
    let mut command = Command::new(image);
    command.args(["--memory", "256", "--initrd"]).arg(initramfs).args(["loglevel=5", "printk.devkmsg=on", "panic=-1"]);
    command
}

/// On one processor, as the afterburnt kernel keeps itself: it is two to four times as fast as
/// where Linux moves its processes about.
fn uml(initramfs: &Path) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(first_processor(&fs::read_to_string("/proc/self/status")?)?).arg(UML);
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

/// The lines `cost NAME N`, which are ticks, as nanoseconds.
fn nanoseconds(said: &str) -> Result<Turn> {
    const SCALE: &str = "ticks-of-millisecond";
    let mut ticks = BTreeMap::new();
    for line in said.lines() {
        if let Some((_, cost)) = line.split_once("cost ")
            && let Some((name, number)) = cost.trim_end().split_once(' ')
        {
            ticks.insert(name.to_owned(), number.parse::<f64>().with_context(|| format!("a number: {line}"))?);
        }
    }
    let scale = ticks.remove(SCALE).context("it did not say how fast its counter is")?;
    ensure!(scale > 0.0 && !ticks.is_empty(), "it has measured nothing");
    Ok(ticks.into_iter().map(|(name, ticks)| (name, ticks / scale * 1e6)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let said = "noise\ncost ticks-of-millisecond 2000000\n[ 1.0] guest: cost read 300\r\n";
        assert_eq!(nanoseconds(said).unwrap(), BTreeMap::from([("read".to_owned(), 150.0)]));
        for bad in ["cost read 300\n", "cost ticks-of-millisecond 2000\n", "cost ticks-of-millisecond x\n"] {
            assert!(nanoseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_median_is_compared_and_the_spread_is_shown() {
        let turn = |value: f64| BTreeMap::from([("read".to_owned(), value)]);
        let turns = [vec![turn(5.0)], vec![turn(30.0), turn(10.0), turn(20.0)], vec![turn(60.0)]];
        let clocked = Clocked { turns };
        let text = clocked.text();
        assert!(text.contains("20 (10 to 30)") && text.contains("3.00\n"), "{text}");
        assert!(text.contains("stat ") && text.contains('-'), "{text}");
        assert_eq!(clocked.mean().map(|mean| format!("{mean:.3}")).as_deref(), Some("3.000"));
    }

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
