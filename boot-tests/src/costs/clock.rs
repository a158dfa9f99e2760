//! What operations take by the clock, where no instructions can be counted: on this machine itself,
//! in an afterburnt kernel that is a process of it, and in what else has the same purpose: the port
//! of Linux to itself, User-mode Linux, as Debian has it and built of the same tree, and gVisor, a
//! kernel that is a program.
//!
//! A machine is as busy as it is. So the systems take turns, several times in one run; what is
//! reported is the median of the turns with the least and the most, and what is compared are two
//! medians of the same run. What does not run on this machine has no figures, but a reason, and the
//! others go on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::{Figures, OPERATIONS};

mod jobs;
mod start;

use start::Systems;

/// How often each system has its turn.
const TURNS: usize = 5;

/// The columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// This machine.
    Native,
    /// The afterburnt kernel as a process.
    Process,
    /// The same with its programs in it, too.
    Fast,
    /// User-mode Linux, Debian's.
    DebiansUml,
    /// User-mode Linux of the afterburnt kernel's source, and of its configuration, as far as it
    /// has that.
    Uml,
    /// gVisor.
    Gvisor,
}

impl System {
    const ALL: [Self; 6] = [Self::Native, Self::Process, Self::Fast, Self::DebiansUml, Self::Uml, Self::Gvisor];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Process => "process",
            Self::Fast => "process --fast",
            Self::DebiansUml => "Debian's UML",
            Self::Uml => "UML",
            Self::Gvisor => "gVisor",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Native => "this machine itself",
            Self::Process => "the afterburnt kernel as a process of it",
            Self::Fast => "the same, with its programs in the kernel's process",
            Self::DebiansUml => "User-mode Linux, as Debian has it",
            Self::Uml => "User-mode Linux of the afterburnt kernel's source",
            Self::Gvisor => "gVisor's runsc",
        }
    }

    /// Whether the process is compared with it.
    const fn is_peer(self) -> bool {
        matches!(self, Self::DebiansUml | Self::Uml | Self::Gvisor)
    }

    fn peers() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|system| system.is_peer())
    }
}

/// Rows that only this table has.
const MORE: [(&str, &str); 6] = [
    ("read", "read of a byte"),
    ("stat", "stat"),
    ("open-close", "open, close"),
    ("compute", "a million multiplications"),
    ("compile", "compile and assemble a file of C"),
    ("tar", "unpack and pack Linux's headers"),
];

/// The rows: those of the other table that are measured here, too, and [`MORE`].
fn operations() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS.into_iter().filter(|(name, _)| !["boot", "tsc-switch"].contains(name)).chain(MORE)
}

/// Nanoseconds of operations, by name.
type Turn = BTreeMap<String, f64>;

/// What the turns of a system have shown, or why it does not run here.
type Column = Result<Vec<Turn>, String>;

/// What all turns have shown.
#[derive(Debug)]
pub struct Clocked {
    /// For each of [`System::ALL`].
    columns: [Column; System::ALL.len()],
}

impl Clocked {
    /// Measures all systems in turns.
    ///
    /// # Errors
    ///
    /// When something cannot be built, or the machine itself or the process does not come to its
    /// end.
    pub fn measure() -> Result<Self> {
        let systems = Systems::new()?;
        let mut columns = [const { Ok(Vec::new()) }; System::ALL.len()];
        for turn in 1..=TURNS {
            for (system, column) in System::ALL.into_iter().zip(&mut columns) {
                let Ok(turns) = column else { continue };
                println!("turn {turn} of {TURNS}: {}", system.name());
                match systems.said_by(system).and_then(|said| nanoseconds(&said).with_context(|| said)) {
                    Ok(turn) => turns.push(turn),
                    Err(error) if system.is_peer() => *column = Err(format!("{error:#}")),
                    Err(error) => return Err(error.context(format!("{}, turn {turn}", system.name()))),
                }
            }
        }
        Ok(Self { columns })
    }

    /// Least, median and most of an operation on a system; nothing if the system does not have it.
    fn spread(&self, operation: &str, system: System) -> Option<[f64; 3]> {
        let turns = self.columns[system as usize].as_ref().ok()?;
        let mut values = turns.iter().map(|turn| turn.get(operation).copied()).collect::<Option<Vec<_>>>()?;
        values.sort_by(f64::total_cmp);
        Some([*values.first()?, *values.get(values.len() / 2)?, *values.last()?])
    }

    /// The medians of an operation on a system and on the process, divided.
    fn ratio(&self, operation: &str, system: System) -> Option<f64> {
        Some(self.spread(operation, system)?[1] / self.spread(operation, System::Process)?[1])
    }

    /// The table, as Markdown, and behind it why a system has no figures.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "| nanoseconds |".to_owned();
        for system in System::ALL {
            let _ = write!(text, " {} |", system.name());
        }
        for system in System::peers() {
            let _ = write!(text, " {} / process |", system.name());
        }
        let columns = System::ALL.len() + System::peers().count();
        let _ = writeln!(text, "\n|---|{}", "---:|".repeat(columns));
        for (operation, title) in operations() {
            let _ = write!(text, "| {title} |");
            for system in System::ALL {
                let cell = self
                    .spread(operation, system)
                    .map(|[least, median, most]| format!("{median:.0} ({least:.0} to {most:.0})"));
                let _ = write!(text, " {} |", cell.as_deref().unwrap_or("-"));
            }
            for system in System::peers() {
                let ratio = self.ratio(operation, system).map(|ratio| format!("{ratio:.2}"));
                let _ = write!(text, " {} |", ratio.as_deref().unwrap_or("-"));
            }
            text.push('\n');
        }
        for (system, column) in System::ALL.into_iter().zip(&self.columns) {
            if let Err(reason) = column {
                let _ = writeln!(text, "\n{} does not run here: {reason}", system.name());
            }
        }
        text
    }

    /// For other readers.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let method = format!(
            "The systems take turns on one processor of this machine, {TURNS} times in one run. A figure is the median of \
             the turns, and that of a turn is the median of many rounds."
        );
        let median = |name: &str, system| self.spread(name, system).map(|[_, median, _]| median);
        let row = |(name, title)| (title, System::ALL.map(|system| median(name, system)).to_vec());
        let comparisons = System::peers().map(|peer| (System::Process as usize, peer as usize));
        Figures {
            unit: "nanoseconds",
            method: vec![method],
            command: "scripts/costs process".to_owned(),
            systems: System::ALL.map(|system| (system.name(), system.description())).to_vec(),
            rows: operations().map(row).collect(),
            comparisons: [(System::Process as usize, System::Native as usize)].into_iter().chain(comparisons).collect(),
        }
    }
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
        let three = vec![turn(30.0), turn(10.0), turn(20.0)];
        let reason = Err("it is not installed".to_owned());
        let (native, fast, uml) = (Ok(vec![turn(5.0)]), Ok(vec![turn(2.0)]), Ok(vec![turn(60.0)]));
        let clocked = Clocked { columns: [native, Ok(three), fast, uml, Ok(Vec::new()), reason] };
        let text = clocked.text();
        let row =
            "| read of a byte | 5 (5 to 5) | 20 (10 to 30) | 2 (2 to 2) | 60 (60 to 60) | - | - | 3.00 | - | - |\n";
        assert!(text.contains(row), "{text}");
        assert!(
            text.contains("| stat | - |") && text.ends_with("\ngVisor does not run here: it is not installed\n"),
            "{text}"
        );
        let means = clocked.figures().means();
        assert!(means.contains("process / Debian's UML: 0.333 in geometric mean of 1 rows"), "{means}");
    }
}
