//! What clang's driver would do: the programs that it runs, and what it says while it plans them.
//!
//! `clang -###` prints one line for each program (`Command::Print` in LLVM's
//! `clang/lib/Driver/Job.cpp`): a space, then every argument in double quotes, with a backslash
//! before `"`, `\` and `$`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// A program that the driver runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

/// A plan of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Jobs {
    pub(super) jobs: Vec<Job>,
    /// Whether the driver has anything to say, a warning say.
    pub(super) has_words: bool,
}

/// What the driver prints before the jobs, whatever the command.
const HEADERS: &[&str] =
    &["Target: ", "Thread model: ", "InstalledDir: ", "Configuration file: ", "Build config: ", " (in-process)"];

impl Jobs {
    /// Reads what `-###` prints.
    pub(super) fn parse(printed: &[u8]) -> Self {
        let mut jobs = Self::default();
        let mut rest = printed;
        while !rest.is_empty() {
            if rest.starts_with(b" \"") {
                let (arguments, behind) = quoted_line(rest);
                rest = behind;
                let mut arguments = arguments.into_iter();
                let program = PathBuf::from(arguments.next().unwrap_or_default());
                jobs.jobs.push(Job { program, arguments: arguments.collect() }.without_the_question());
                continue;
            }
            let (line, behind) = rest.split_at(rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()));
            rest = behind.strip_prefix(b"\n").unwrap_or(behind);
            let line = String::from_utf8_lossy(line);
            let is_header = HEADERS.iter().any(|header| line.starts_with(header));
            jobs.has_words |= !is_header && !line.contains("clang version ");
        }
        jobs
    }
}

/// The quoted arguments of a line, and what follows it.
fn quoted_line(mut rest: &[u8]) -> (Vec<OsString>, &[u8]) {
    let mut arguments = Vec::new();
    while let Some(quoted) = rest.strip_prefix(b" \"") {
        let mut argument = Vec::new();
        rest = quoted;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            match (byte, behind.split_first()) {
                (b'"', _) => break,
                (b'\\', Some((&escaped, behind))) => {
                    argument.push(escaped);
                    rest = behind;
                }
                _ => argument.push(byte),
            }
        }
        arguments.push(OsString::from_vec(argument));
    }
    (arguments, rest.strip_prefix(b"\n").unwrap_or(rest))
}

impl Job {
    /// What is recorded of the command line in the object, without what asked for the plan.
    fn without_the_question(mut self) -> Self {
        let behind = |option: &OsString| option == "-record-command-line" || option == "-dwarf-debug-flags";
        for at in 1..self.arguments.len() {
            if behind(&self.arguments[at - 1]) {
                let recorded = self.arguments[at].to_string_lossy().replacen(" -###", "", 1);
                self.arguments[at] = OsString::from(recorded);
            }
        }
        self
    }

    /// Whether it is the compiler proper.
    pub(super) fn is_compiler(&self) -> bool {
        self.arguments.first().is_some_and(|first| first == "-cc1")
    }

    /// Whether it is the integrated assembler.
    pub(super) fn is_assembler(&self) -> bool {
        self.arguments.first().is_some_and(|first| first == "-cc1as")
    }

    /// Whether it is an assembler of its own.
    pub(super) fn is_external_assembler(&self) -> bool {
        let name = self.program.file_name().unwrap_or_default().as_bytes();
        name == b"as" || name.ends_with(b"-as")
    }

    /// Whether it has this option.
    pub(super) fn has(&self, option: &str) -> bool {
        self.arguments.iter().any(|argument| argument == option)
    }

    /// Whether an option of it starts so.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        self.arguments.iter().any(|argument| argument.as_bytes().starts_with(prefix.as_bytes()))
    }

    /// The argument behind the last option of this name.
    pub(super) fn value(&self, option: &str) -> Option<&OsStr> {
        let at = self.arguments.iter().rposition(|argument| argument == option)?;
        self.arguments.get(at + 1).map(OsString::as_os_str)
    }

    /// What it reads.
    pub(super) fn input(&self) -> &Path {
        Path::new(self.arguments.last().map_or(OsStr::new(""), OsString::as_os_str))
    }

    /// What it writes.
    pub(super) fn output(&self) -> &Path {
        Path::new(self.value("-o").unwrap_or_default())
    }

    /// Removes an option with its argument, and returns the argument.
    pub(super) fn take(&mut self, option: &str) -> Option<OsString> {
        let at = self.arguments.iter().rposition(|argument| argument == option)?;
        if at + 1 == self.arguments.len() {
            return None;
        }
        self.arguments.drain(at..at + 2).nth(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read() {
        let printed = b"Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\nThread model: posix\nInstalledDir: /usr/bin\n \
            (in-process)\n \"/usr/bin/clang\" \"-cc1\" \"-D\" \"X=\\\"a \\$b\\\\\\\"\" \"\" \"-o\" \"two\nlines.o\" \"a.c\"\n";
        let jobs = Jobs::parse(printed);
        assert!(!jobs.has_words);
        let [job] = &jobs.jobs[..] else { panic!("{jobs:?}") };
        assert_eq!(job.program, Path::new("/usr/bin/clang"));
        assert_eq!(job.arguments, ["-cc1", "-D", "X=\"a $b\\\"", "", "-o", "two\nlines.o", "a.c"]);
        assert!(job.is_compiler() && !job.is_assembler() && !job.is_external_assembler());
        assert_eq!((job.input(), job.output()), (Path::new("a.c"), Path::new("two\nlines.o")));
    }

    #[test]
    fn words_are_told_from_headers() {
        let header = "Debian clang version 14.0.6 (x)\nConfiguration file: /etc/c.cfg\n";
        assert!(!Jobs::parse(header.as_bytes()).has_words);
        assert!(Jobs::parse(format!("{header}clang: warning: -lm: unused\n").as_bytes()).has_words);
        assert!(Jobs::parse(b" \"unterminated").jobs.len() == 1);
    }

    #[test]
    fn options_are_taken_with_their_arguments() {
        let arguments = ["-cc1as", "-o", "x", "-o", "y", "-g", "-I"].map(OsString::from).to_vec();
        let mut job = Job { program: PathBuf::from("/usr/bin/x-as"), arguments };
        assert!(job.is_external_assembler() && job.is_assembler() && job.has("-g") && job.has_prefix("-cc1"));
        assert_eq!(job.take("-o"), Some("y".into()));
        assert_eq!(job.take("-I"), None);
        assert_eq!(job.arguments, ["-cc1as", "-o", "x", "-g", "-I"]);
    }
}
