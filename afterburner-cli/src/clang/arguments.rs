//! The command line of clang, as far as the driver's plan ([`super::jobs`]) does not tell.
//!
//! The plan says what is compiled, how, and where everything goes. To ask for it costs the start of
//! a clang, so commands that certainly make no object are not asked about; and a few options have
//! the driver itself write a file, which it does not do for a plan.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use crate::response;

/// Options that have the driver write something beside what its jobs write, or that may stand for
/// such.
const DRIVER: &[&str] = &["-MJ", "-gen-cdb-fragment-path", "--gen-cdb-fragment-path", "-fproc-stat-report", "--config"];

/// Options that ask for something else than an object.
#[rustfmt::skip]
const OTHER: &[&str] = &[
    "-###", "-E", "-M", "-MM", "-S", "-cc1", "-cc1as", "-cc1gen-reproducer", "-emit-ast", "-fsyntax-only", "--analyze", "--help",
    "--precompile", "--version",
];

/// What a command line may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Perhaps an object.
    Object {
        /// And something that only the whole command makes.
        driver_writes: bool,
    },
    /// Anything else.
    Other,
}

impl Request {
    /// Reads a command line.
    pub(super) fn parse(arguments: &[OsString]) -> Self {
        let Some(arguments) = response::expand(arguments) else { return Self::Other };
        let is = |options: &[&str]| arguments.iter().any(|argument| options.iter().any(|option| argument == option));
        let starts = |option: &str| arguments.iter().any(|argument| argument.as_bytes().starts_with(option.as_bytes()));
        if is(OTHER) || !(is(&["-c", "--compile"]) || starts("--config")) {
            return Self::Other;
        }
        Self::Object { driver_writes: DRIVER.iter().any(|option| starts(option)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Request {
        Request::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_makes_no_object_is_clang_s() {
        for line in
            ["--version", "a.c -o a", "-E a.c", "-S a.c", "-### -c a.c", "-cc1 -c a.c", "-c -fsyntax-only a.c", ""]
        {
            assert_eq!(parse(line), Request::Other, "{line}");
        }
    }

    #[test]
    fn response_files_are_read() -> std::io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), "-c 'a b.c'")?;
        let line = format!("@{}", file.path().display());
        assert_eq!(parse(&line), Request::Object { driver_writes: false });
        std::fs::write(file.path(), "-### -c a.c")?;
        assert_eq!(parse(&line), Request::Other);
        Ok(())
    }

    #[test]
    fn what_the_driver_writes_is_seen() {
        let driver_writes = |line: &str| parse(line) == Request::Object { driver_writes: true };
        assert!(
            driver_writes("-c a.c -MJ a.json") && driver_writes("-MJa.json -c a.c") && driver_writes("--config x a.c")
        );
        assert!(!driver_writes("-c a.c -MD -MF a.d"));
    }
}
