//! What became of the sites that modules brought.

use core::fmt::{self, Write as _};
use core::ops::Range;

use crate::sites::{Left, Reason};
use crate::vm::port::{Line, More};

/// Why a site of a module stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its record holds, but it is not taken.
    Left(Left),
    /// Its record does not hold.
    Record(Reason),
    /// Too many modules were loaded at once.
    Forgotten,
}

impl Cause {
    /// How many kinds there are.
    const KINDS: usize = Left::ALL.len() + 5;

    fn kind(self) -> usize {
        let other = match self {
            Self::Left(left) => return left as usize,
            Self::Record(Reason::Record(_)) => 0,
            Self::Record(Reason::OutOfText) => 1,
            Self::Record(Reason::Order | Reason::Overlap) => 2,
            Self::Record(Reason::Contradiction(_)) => 3,
            Self::Forgotten => 4,
        };
        Left::ALL.len() + other
    }

    fn describe(kind: usize) -> &'static str {
        const OTHERS: [&str; 5] = [
            "a record that is wrong by itself",
            "not in a module's text",
            "the slot overlaps another's",
            "other text than the record's, as behind an alternative",
            "too many modules loaded at once",
        ];
        match Left::ALL.get(kind) {
            Some(left) => left.reason(),
            None => OTHERS.get(kind - Left::ALL.len()).copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left(left) => f.write_str(left.reason()),
            Self::Record(reason) => reason.fmt(f),
            Self::Forgotten => f.write_str(Self::describe(self.kind())),
        }
    }
}

/// Sites, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    rewritten: u64,
    left: [u32; Cause::KINDS],
}

impl Tally {
    fn count(&mut self, outcome: Result<(), Cause>) {
        match outcome {
            Ok(()) => self.rewritten += 1,
            Err(cause) => self.left[cause.kind()] += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.rewritten += other.rewritten;
        self.left.iter_mut().zip(other.left).for_each(|(own, other)| *own = own.saturating_add(other));
    }

    /// A line for the wedge port, numbered from 0, for each reason why sites stay as they are.
    ///
    /// # Errors
    ///
    /// Only those of the line.
    pub fn line(&self, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        let Some((count, reason)) = self.left().nth(number) else { return Ok(More::End) };
        write!(line, "left-in-modules {count} {reason}")?;
        Ok(More::Line)
    }

    /// How many sites stay as they are, and why.
    pub fn left(&self) -> impl Iterator<Item = (u32, &'static str)> {
        let all = self.left.iter().enumerate().filter(|(_, count)| **count != 0);
        all.map(|(kind, count)| (*count, Cause::describe(kind)))
    }
}

/// The sites of one piece of text.
#[derive(Default)]
pub(super) struct Account {
    pub(super) tally: Tally,
    /// The first that stays as it is.
    pub(super) first: Option<(u64, Cause)>,
}

impl Account {
    pub(super) fn count(&mut self, site: u64, outcome: Result<(), Cause>) {
        self.tally.count(outcome);
        if let (Err(cause), None) = (outcome, self.first) {
            self.first = Some((site, cause));
        }
    }
}

/// What is to be told of a look: a line of the log each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Not all sites of some text were rewritten.
    Left {
        /// What the text is in.
        memory: Range<u64>,
        /// All of its sites.
        tally: Tally,
        /// The first that stays, and why.
        first: (u64, Cause),
    },
    /// Text that may be written to while it is executed, and nothing beside it that could be its
    /// records.
    Writable {
        /// The text.
        text: Range<u64>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left { memory, tally, first: (site, cause) } => {
                write!(
                    f,
                    "module text at {:#x}: {} sites rewritten, left as they are:",
                    memory.start, tally.rewritten
                )?;
                for (number, (count, reason)) in tally.left().enumerate() {
                    write!(f, "{} {count}, {reason}", if number == 0 { "" } else { ";" })?;
                }
                write!(f, "; the first is {site:#x}: {cause}")
            }
            Self::Writable { text } => {
                write!(
                    f,
                    "module text at {:#x} is writable, and beside it are no records: it stays as it is",
                    text.start
                )
            }
        }
    }
}
