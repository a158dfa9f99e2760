//! What the wedge port tells of a guest without privileges: the account of the sites, of
//! instructions that nobody annotated, and of the shadow.

use core::fmt::{self, Write as _};

use crate::shadow::Statistics;
use crate::sites::{Engine, Mode};

use super::modules::Tally;
use super::port::{Command, Commands, Line, More, counted};
use super::profile::{Calls, Profile};

/// What has been counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// By how much the kernel was moved.
    pub moved: u64,
    /// Sites of the kernel.
    pub sites: u32,
    /// Those of them that are rewritten.
    pub rewritten: u32,
    /// Sites of modules that are rewritten now.
    pub in_modules: usize,
    /// What became of all that there were.
    pub of_modules: Tally,
    /// Instructions of the guest's kernel that nobody annotated and that were emulated.
    pub unannotated: u64,
    /// The sites before this one are in the answer that is being read.
    pub answered: usize,
}

/// The port's answers.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    pub(super) host: &'static str,
    pub(super) account: &'a mut Account,
    pub(super) engine: &'a mut Engine<'static>,
    pub(super) profile: &'a mut Profile,
    pub(super) calls: Calls,
    pub(super) shadow: &'a Statistics,
    /// Page-table entries that the host has refused.
    pub(super) refused: u64,
}

impl Answers<'_> {
    fn status(&self, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        let Self { account, shadow, .. } = self;
        match number {
            0 => write!(line, "backend {}", self.host)?,
            1 => write!(line, "mode {}", if self.engine.counts() { Mode::Profile } else { Mode::Deprivileged })?,
            2 => write!(line, "state on")?,
            3 => write!(line, "offset {:#x}", account.moved)?,
            4 => write!(line, "sites {}", account.sites)?,
            5 => write!(line, "rewritten {}", account.rewritten)?,
            6 => write!(line, "modules {}", account.in_modules)?,
            7 => write!(line, "unannotated {}", account.unannotated)?,
            8 => write!(line, "shadow tables {}", shadow.tables.iter().sum::<u32>())?,
            9 => write!(line, "shadow fills {} neighbours {}", shadow.fills, shadow.neighbours)?,
            10 => write!(line, "shadow resyncs {} changes {}", shadow.resyncs, shadow.changes)?,
            11 => write!(line, "shadow evictions {} kernel {}", shadow.evictions, shadow.kernel_evictions)?,
            12 => write!(line, "refused {}", self.refused)?,
            _ => return account.of_modules.line(number - 13, line),
        }
        Ok(More::Line)
    }
}

impl Commands for Answers<'_> {
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Counters => {
                self.account.answered = 0;
                self.engine.snapshot();
                self.profile.snapshot(&self.calls);
            }
            Command::Zero => {
                self.engine.zero();
                self.profile.zero(&self.calls);
            }
            Command::Status | Command::SwitchOff | Command::SwitchOn => {}
        }
    }

    fn answer(&mut self, command: Command, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        match (command, number) {
            (Command::Status, _) => self.status(number, line),
            (Command::Counters, _) if self.engine.counts() => {
                match counted(self.engine, &mut self.account.answered, line)? {
                    More::Line => Ok(More::Line),
                    More::End => self.profile.line(&self.calls, line),
                }
            }
            (Command::Zero, _) if self.engine.counts() => Ok(More::End),
            (Command::Counters | Command::Zero, 0) => {
                write!(line, "error: without afterburn.mode={} nothing is counted", Mode::Profile)?;
                Ok(More::Line)
            }
            (Command::SwitchOff | Command::SwitchOn, 0) => {
                write!(line, "error: mode {} cannot be switched", Mode::Deprivileged)?;
                Ok(More::Line)
            }
            _ => Ok(More::End),
        }
    }
}
