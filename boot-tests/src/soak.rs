//! What goes wrong seldom: many boots in a row, and minutes of the mixed load.
//!
//! Every boot is judged as if it were the only one, and a failing one does not end the row: how
//! many fail of how many is what one wants to know. Their logs are kept, each under its number.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::expect::Expectations;
use crate::guest::Guest;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::qemu::Machine;
use crate::{programs, wedge_port};

/// What is asked of a host.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// The host.
    pub host: Host,
    /// Boots to a shell.
    pub boots: u32,
    /// Seconds of the mixed load, within one more boot; without any there is no such boot.
    pub seconds: u32,
}

/// What became of it.
#[derive(Debug)]
pub struct Report {
    soak: Soak,
    /// How long each boot that succeeded took.
    took: Vec<Duration>,
    /// What was wrong with each of the others.
    failures: Vec<String>,
    /// What the load says that it has done.
    load: Option<String>,
}

impl Soak {
    /// Boots again and again, then loads.
    ///
    /// # Errors
    ///
    /// When nothing could be booted at all: an image, a program or a file of the guest's is
    /// missing. A boot that fails is in the report.
    pub fn run(self, kernel: &Kernel) -> Result<Report> {
        let mut report = Report { soak: self, took: Vec::new(), failures: Vec::new(), load: None };
        let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
        let machine = self.host.machine(kernel, guest.path())?;
        let expected = Expectations::read("shell")?;
        for number in 1..=self.boots {
            let started = Instant::now();
            match machine.boot(&format!("soak-{}-{number}", self.host), &expected) {
                Ok(_) => report.took.push(started.elapsed()),
                Err(error) => report.failures.push(format!("{error:#}")),
            }
        }
        if self.seconds > 0 {
            match self.load(kernel) {
                Ok(load) => report.load = Some(load),
                Err(error) => report.failures.push(format!("{error:#}")),
            }
        }
        Ok(report)
    }

    /// One boot with the mixed load, and the line that sums it up.
    fn load(self, kernel: &Kernel) -> Result<String> {
        let directory = tempfile::tempdir()?;
        let mut programs = programs::build(&["mixed", "timers"], directory.path())?;
        if self.host != Host::Plain {
            programs.push(wedge_port::program(directory.path())?);
        }
        let guest = Guest {
            programs,
            files: vec![("seconds", self.seconds.to_string())],
            ..Guest::script("mixed", Vec::new())
        };
        let guest = guest.initramfs()?;
        // It is all in there; minutes of load follow, which somebody may cut short.
        drop(directory);
        let machine = self.host.machine(kernel, guest.path())?;
        // A guest's second is longer than one of ours where the emulation does not keep up.
        let timeout = machine.timeout + 3 * Duration::from_secs(self.seconds.into());
        let machine = Machine { timeout, ..machine };
        let log = machine.boot(&format!("soak-{}-load", self.host), &Expectations::read("mixed")?)?;
        let verdicts = programs::verdicts(&log);
        let said = |name: &str| verdicts.get(name).and_then(|verdict| verdict.strip_prefix("ok: "));
        let load = said("mixed").context("the load does not say what it did")?;
        Ok(said("shadow").map_or(load.to_owned(), |shadow| format!("{load}; shadow {shadow}")))
    }
}

impl Report {
    /// Whether every boot succeeded.
    #[must_use]
    pub fn good(&self) -> bool {
        self.failures.is_empty()
    }

    /// What was wrong, boot by boot.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Soak { host, boots, seconds } = self.soak;
        write!(f, "soak on {host}: {} of {boots} boots succeeded", self.took.len())?;
        if let (Some(least), Some(most)) = (self.took.iter().min(), self.took.iter().max()) {
            write!(f, ", in {:.1} to {:.1} s each", least.as_secs_f64(), most.as_secs_f64())?;
        }
        match &self.load {
            Some(load) => write!(f, "; {seconds} s of mixed load: {load}"),
            None if seconds > 0 => write!(f, "; {seconds} s of mixed load failed"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOAK: Soak = Soak { host: Host::Native, boots: 3, seconds: 20 };

    #[test]
    fn a_report_counts_what_failed() {
        let took = vec![Duration::from_millis(2500), Duration::from_secs(4)];
        let report =
            Report { soak: SOAK, took, failures: vec!["a panic".to_owned()], load: Some("forks 5".to_owned()) };
        assert!(!report.good());
        assert_eq!(
            report.to_string(),
            "soak on native: 2 of 3 boots succeeded, in 2.5 to 4.0 s each; 20 s of mixed load: forks 5"
        );
    }

    #[test]
    fn a_load_that_failed_is_not_passed_over() {
        let report = Report { soak: SOAK, took: Vec::new(), failures: vec!["a panic".to_owned()], load: None };
        assert_eq!(report.to_string(), "soak on native: 0 of 3 boots succeeded; 20 s of mixed load failed");
    }
}
