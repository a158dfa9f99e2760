//! What the wedge port tells on Xen: the account of the sites, of instructions that nobody annotated, and of the shadow.

use core::fmt::{self, Write as _};

use wedge::shadow::Statistics;
use wedge::sites::Mode;
use wedge::vm::modules::Tally;
use wedge::vm::port::{Command, Commands, Line, More};

use crate::Backend;

/// What has been counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// By how much the kernel was moved.
    pub(super) moved: u64,
    /// Sites of the kernel, and how many of them are rewritten.
    pub(super) sites: u32,
    pub(super) rewritten: u32,
    /// Sites of modules that are rewritten now.
    pub(super) in_modules: usize,
    /// What became of all that there were.
    pub(super) of_modules: Tally,
    /// Instructions of the guest's kernel that nobody annotated and that were emulated.
    pub(super) unannotated: u64,
}

/// The port's answers.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    pub(super) account: &'a Account,
    pub(super) shadow: &'a Statistics,
    /// Page-table entries that Xen has refused.
    pub(super) refused: u64,
}

impl Answers<'_> {
    fn status(&self, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        let Self { account, shadow, .. } = self;
        match number {
            0 => write!(line, "backend {}", Backend::Xen)?,
            1 => write!(line, "mode {}", Mode::Virtual)?,
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
    fn carry_out(&mut self, _: Command) {}

    fn answer(&mut self, command: Command, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        match (command, number) {
            (Command::Status, _) => self.status(number, line),
            (_, 0) => {
                write!(line, "error: mode {} cannot be switched, and counts nothing", Mode::Virtual)?;
                Ok(More::Line)
            }
            _ => Ok(More::End),
        }
    }
}
