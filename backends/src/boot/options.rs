//! The words of the command line that are for the wedge: `afterburn.backend=`, `afterburn.mode=`,
//! `afterburn.tables=` and `afterburn.evict=`.
//!
//! The guest's command line is the only one there is, so its rules are Linux's: quotes, the last of
//! several words for one thing, and `--` (see [`wedge::loader::command_line`]). Unlike in Linux, a
//! word for the wedge that the wedge does not know stops the boot: a mistyped one would silently
//! measure, or prove, something else.

use core::fmt;

use wedge::loader::command_line::words;
use wedge::sites::Mode;

use crate::Backend;

const PREFIX: &str = "afterburn.";
const BACKEND: &str = "backend";
const MODE: &str = "mode";
const TABLES: &str = "tables";
const EVICT: &str = "evict";

/// With fewer page tables not even what must be mapped at the same time can be.
const FEWEST_TABLES: u32 = 64;

/// What the command line asks of the wedge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The backend, if one is asked for.
    pub backend: Option<Backend>,
    /// What to do with the sites.
    pub mode: Mode,
    /// How many page tables a shadow may have at most, where there is one.
    pub tables: Option<u32>,
    /// Whose page tables to drop all the time, where there is a shadow: a test.
    pub evict: Option<Stack>,
}

/// A way by which RSP comes to a stack of the kernel's, on a host that pushes frames there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Where it is when the kernel goes on.
    Current,
    /// RSP0 of the TSS.
    TssRsp0,
    /// The interrupt stack table of the TSS.
    TssIst,
    /// What the entry code of SYSCALL loads, and that code.
    Syscall,
    /// The same from compatibility mode.
    Syscall32,
    /// The interrupted stack, from that of interrupts.
    Interrupted,
    /// That of interrupts.
    Interrupts,
    /// That of another thread.
    Thread,
    /// One that cannot be written.
    Unwritable,
    /// A program's, just before SYSRET.
    Sysret,
}

impl Stack {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Current,
        Self::TssRsp0,
        Self::TssIst,
        Self::Syscall,
        Self::Syscall32,
        Self::Interrupted,
        Self::Interrupts,
        Self::Thread,
        Self::Unwritable,
        Self::Sysret,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::TssRsp0 => "tss-rsp0",
            Self::TssIst => "tss-ist",
            Self::Syscall => "syscall",
            Self::Syscall32 => "syscall32",
            Self::Interrupted => "interrupted",
            Self::Interrupts => "interrupts",
            Self::Thread => "thread",
            Self::Unwritable => "unwritable",
            Self::Sysret => "sysret",
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word for the wedge that it does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidOption<'a> {
    /// No option has this name (without the prefix).
    Unknown(&'a str),
    /// The option has no value, or an empty one.
    NoValue(&'a str),
    /// No backend has this name.
    Backend(&'a str),
    /// No mode has this name.
    Mode(&'a str),
    /// This is no number of page tables that a guest can run with.
    Tables(&'a str),
    /// No stack that can be evicted has this name.
    Evict(&'a str),
}

impl Options {
    /// Parses a command line.
    ///
    /// # Errors
    ///
    /// When a word that starts with `afterburn.` is not one of those that exist, also if a later
    /// one would override it.
    pub fn parse(command_line: &str) -> Result<Self, InvalidOption<'_>> {
        let mut options = Self::default();
        for word in words(command_line) {
            let Some(option) = word.name.strip_prefix(PREFIX) else { continue };
            if ![BACKEND, MODE, TABLES, EVICT].contains(&option) {
                return Err(InvalidOption::Unknown(option));
            }
            let value = word.value.filter(|value| !value.is_empty()).ok_or(InvalidOption::NoValue(option))?;
            match option {
                BACKEND => {
                    let named = Backend::ALL.into_iter().find(|backend| backend.name() == value);
                    options.backend = Some(named.ok_or(InvalidOption::Backend(value))?);
                }
                MODE => options.mode = Mode::from_name(value).ok_or(InvalidOption::Mode(value))?,
                EVICT => {
                    let named = Stack::ALL.into_iter().find(|stack| stack.name() == value);
                    options.evict = Some(named.ok_or(InvalidOption::Evict(value))?);
                }
                _ => {
                    let number = value.parse().ok().filter(|&number| number >= FEWEST_TABLES);
                    options.tables = Some(number.ok_or(InvalidOption::Tables(value))?);
                }
            }
        }
        Ok(options)
    }
}

impl fmt::Display for InvalidOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown(option) => {
                write!(f, "{PREFIX}{option}: no such option; there are ")?;
                write!(f, "{PREFIX}{BACKEND}=, {PREFIX}{MODE}=, {PREFIX}{TABLES}= and {PREFIX}{EVICT}=")
            }
            Self::NoValue(TABLES) => {
                write!(f, "{PREFIX}{TABLES}=: a value is missing, a number from {FEWEST_TABLES} on")
            }
            Self::NoValue(option @ BACKEND) => write_existing(f, option, ": a value is missing", &Backend::ALL),
            Self::NoValue(option @ EVICT) => write_existing(f, option, ": a value is missing", &Stack::ALL),
            Self::NoValue(option) => write_existing(f, option, ": a value is missing", &Mode::ALL),
            Self::Backend(value) => write_existing(f, BACKEND, format_args!("{value}: no such backend"), &Backend::ALL),
            Self::Mode(value) => write_existing(f, MODE, format_args!("{value}: no such mode"), &Mode::ALL),
            Self::Evict(value) => write_existing(f, EVICT, format_args!("{value}: no such stack"), &Stack::ALL),
            Self::Tables(value) => {
                write!(f, "{PREFIX}{TABLES}={value}: not a number of page tables, from {FEWEST_TABLES} on")
            }
        }
    }
}

fn write_existing(
    f: &mut fmt::Formatter<'_>,
    option: &str,
    complaint: impl fmt::Display,
    existing: &[impl fmt::Display],
) -> fmt::Result {
    write!(f, "{PREFIX}{option}={complaint}; there are")?;
    existing.iter().try_for_each(|value| write!(f, " {value}"))
}

impl core::error::Error for InvalidOption<'_> {}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::{String, ToString};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_command_line_names_backend_and_mode() {
        let options = |backend, mode| Ok(Options { backend, mode, ..Options::default() });
        for (command_line, expected) in [
            ("console=ttyS0 quiet", options(None, Mode::Native)),
            ("afterburn.backend=xen console=ttyS0", options(Some(Backend::Xen), Mode::Native)),
            ("afterburn.mode=profile afterburn.backend=bare", options(Some(Backend::Bare), Mode::Profile)),
            ("afterburn.backend=xen afterburn.backend=bare", options(Some(Backend::Bare), Mode::Native)),
            ("afterburn.mode=\"identity\"", options(None, Mode::Identity)),
            ("\"afterburn.mode=identity\"", options(None, Mode::Identity)),
            ("dyndbg=\"x afterburn.mode=identity\"", options(None, Mode::Native)),
            ("afterburner.mode=identity afterburn=1 my.afterburn.mode=x", options(None, Mode::Native)),
            ("quiet -- afterburn.backend=xen", options(None, Mode::Native)),
            ("--x afterburn.mode=identity", options(None, Mode::Identity)),
            ("--=x afterburn.mode=identity", options(None, Mode::Identity)),
            ("afterburn.tables=64 afterburn.tables=100", Ok(Options { tables: Some(100), ..Options::default() })),
            ("afterburn.evict=thread", Ok(Options { evict: Some(Stack::Thread), ..Options::default() })),
            ("afterburn.evict=Thread", Err(InvalidOption::Evict("Thread"))),
            ("afterburn.evict=", Err(InvalidOption::NoValue("evict"))),
            ("afterburn.tables=63", Err(InvalidOption::Tables("63"))),
            ("afterburn.tables=4294967296", Err(InvalidOption::Tables("4294967296"))),
            ("afterburn.tables=0x100", Err(InvalidOption::Tables("0x100"))),
            ("afterburn.tables=", Err(InvalidOption::NoValue("tables"))),
            ("afterburn.backend=kvm", Err(InvalidOption::Backend("kvm"))),
            ("afterburn.backend=l4", options(Some(Backend::L4), Mode::Native)),
            ("afterburn.backend=sel4", Err(InvalidOption::Backend("sel4"))),
            ("afterburn.backend=Xen", Err(InvalidOption::Backend("Xen"))),
            ("afterburn.backend=kvm afterburn.backend=xen", Err(InvalidOption::Backend("kvm"))),
            ("afterburn.backend=", Err(InvalidOption::NoValue("backend"))),
            ("afterburn.backend=\"\"", Err(InvalidOption::NoValue("backend"))),
            ("afterburn.mode", Err(InvalidOption::NoValue("mode"))),
            ("afterburn.mode=fast", Err(InvalidOption::Mode("fast"))),
            ("afterburn.modes=native", Err(InvalidOption::Unknown("modes"))),
            ("afterburn.", Err(InvalidOption::Unknown(""))),
        ] {
            assert_eq!(Options::parse(command_line), expected, "{command_line}");
        }
    }

    #[test]
    fn a_message_lists_what_exists() {
        for (command_line, message) in [
            ("afterburn.backend=kvm", "afterburn.backend=kvm: no such backend; there are bare xen process l4"),
            ("afterburn.mode=fast", "afterburn.mode=fast: no such mode; there are native identity profile"),
            ("afterburn.mode=", "afterburn.mode=: a value is missing; there are native identity profile"),
            ("afterburn.backend", "afterburn.backend=: a value is missing; there are bare xen process l4"),
            (
                "afterburn.trace=1",
                "afterburn.trace: no such option; there are afterburn.backend=, afterburn.mode=, afterburn.tables= \
                 and afterburn.evict=",
            ),
            (
                "afterburn.evict=all",
                "afterburn.evict=all: no such stack; there are current tss-rsp0 tss-ist syscall syscall32 interrupted \
                 interrupts thread unwritable sysret",
            ),
            ("afterburn.tables=9", "afterburn.tables=9: not a number of page tables, from 64 on"),
            ("afterburn.tables=", "afterburn.tables=: a value is missing, a number from 64 on"),
        ] {
            assert_eq!(Options::parse(command_line).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn any_command_line_parses_or_is_refused(line in any::<String>()) {
            let _ = Options::parse(&line);
        }

        #[test]
        fn what_stands_around_an_option_does_not_matter(
            before in "[a-z]{1,8}(=\"[a-z ]{0,8}\")?",
            after in "[a-z]{1,8}",
        ) {
            let line = format!("{before} afterburn.mode=profile {after} -- afterburn.mode=native");
            prop_assert_eq!(Options::parse(&line).map(|options| options.mode), Ok(Mode::Profile));
        }
    }
}
