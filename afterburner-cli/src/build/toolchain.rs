//! The compiler of a build, and how the shims come into it.
//!
//! `CC` is a piece of a shell command: a compiler, its options behind it, and before it any
//! programs that run it. Which of the words is the compiler is found out by asking them; a list of
//! launchers would never be complete.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::bail;

use super::make::Make;
use crate::tool;

/// Programs that run a compiler for others, under its name.
const LAUNCHERS: &[&str] = &["ccache", "distcc", "icecc", "sccache"];

/// Who turns the compiler's text into an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Compiler {
    /// GNU C
    Gcc,
    /// LLVM
    Clang,
}

/// How the shims come into a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `-B` in the flags of the compiler: it looks there for `as`.
    Flags,
    /// `-B` behind the name of the compiler: clang would look elsewhere first.
    Prefix,
    /// A wrapper in place of this word of `CC`: the compiler has its assembler built in.
    Wrapper(usize),
}

/// The compiler of a build and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// All of `CC`.
    cc: String,
    /// Where make starts.
    directory: PathBuf,
    way: Way,
}

impl Toolchain {
    /// Finds out about the compiler.
    pub(super) fn of(make: &Make, compiler: Option<Compiler>) -> anyhow::Result<Self> {
        let cc = match (make.given("CC"), make.given_or_inherited("LLVM")) {
            (Some(cc), _) => cc.to_owned(),
            (None, Some(prefix)) if prefix.ends_with('/') => format!("{prefix}clang"),
            (None, Some(suffix)) if suffix.starts_with('-') => format!("clang{suffix}"),
            (None, Some(_)) => "clang".to_owned(),
            (None, None) => format!("{}gcc", make.given_or_inherited("CROSS_COMPILE").unwrap_or_default()),
        };
        let words: Vec<&str> = cc.split_whitespace().collect();
        let Some(position) = compiler_among(&words, make.directory()) else {
            bail!("CC={cc} names no compiler: none of its words answers -dumpmachine as gcc and clang do")
        };
        let is_clang = match compiler {
            Some(compiler) => compiler == Compiler::Clang,
            None => is_clang(words[position], make.directory()),
        };
        let way = match (is_clang, make.given_or_inherited("LLVM_IAS")) {
            (false, _) => Way::Flags,
            (true, Some("0")) => Way::Prefix,
            (true, _) => Way::Wrapper(position),
        };
        Ok(Self { cc, directory: make.directory().to_owned(), way })
    }

    /// All of `CC`, as the user gave it.
    pub(super) fn cc(&self) -> &str {
        &self.cc
    }

    /// What `CC` is to be instead, with the shims in this directory.
    pub(super) fn cc_with(&self, directory: &str) -> Option<String> {
        match self.way {
            Way::Flags => None,
            Way::Prefix => Some(format!("{} -B{directory}/", self.cc)),
            Way::Wrapper(position) => {
                let words: Vec<&str> = self.cc.split_whitespace().collect();
                let mut replaced: Vec<String> = words[..position].iter().map(ToString::to_string).collect();
                replaced.extend(masquerading(words[position]));
                replaced.push(format!("{directory}/clang"));
                replaced.extend(words[position + 1..].iter().map(ToString::to_string));
                Some(replaced.join(" "))
            }
        }
    }

    /// What the compiler needs among its flags, to find the shims in this directory.
    pub(super) fn flags_with(&self, directory: &str) -> String {
        if self.is_gcc() { format!("-B{directory}/") } else { String::new() }
    }

    /// Whether it is gcc.
    pub(super) fn is_gcc(&self) -> bool {
        self.way == Way::Flags
    }

    /// What Linux has among the flags because of `LLVM_IAS` (scripts/Makefile.clang).
    pub(super) fn flags_of_linux(&self) -> &'static str {
        if self.way == Way::Prefix { "-fno-integrated-as" } else { "" }
    }

    /// The file of the compiler that a wrapper takes the place of.
    pub(super) fn wrapped(&self) -> Option<PathBuf> {
        let Way::Wrapper(position) = self.way else { return None };
        let word = self.cc.split_whitespace().nth(position)?;
        let found = tool::candidates(OsStr::new(word)).into_iter().find(|path| launcher(path).is_none())?;
        // What has no directory before it was found in PATH.
        if word.contains('/') { std::path::absolute(self.directory.join(found)).ok() } else { Some(found) }
    }

    /// The assembler that the compiler would run.
    pub(super) fn assembler(&self) -> Option<PathBuf> {
        let output = shell(&format!("{} -print-prog-name=as", self.cc), &self.directory).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        tool::search(OsStr::new(name.trim()))
    }
}

/// The shell that make would give a command to.
pub(super) fn shell(command: &str, directory: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).current_dir(directory).stdin(Stdio::null());
    shell
}

/// Which of the words of `CC` is the compiler: the last that says what it compiles for or, where it
/// is not installed, is called like one.
fn compiler_among(words: &[&str], directory: &Path) -> Option<usize> {
    let is_program = |word: &str| !word.starts_with('-') && !word.contains('=');
    let answers = |word: &&str| is_program(word) && is_compiler(word, directory);
    let is_called_so = |word: &&str| {
        let name = file_name(word);
        is_program(word) && (name.contains("clang") || name.contains("gcc") || name == "cc")
    };
    words.iter().rposition(answers).or_else(|| words.iter().rposition(is_called_so))
}

fn ask(word: &str, option: &str, directory: &Path) -> Option<Output> {
    let program = if word.contains('/') { directory.join(word) } else { PathBuf::from(word) };
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output().ok()?;
    output.status.success().then_some(output)
}

fn is_compiler(word: &str, directory: &Path) -> bool {
    let target =
        ask(word, "-dumpmachine", directory).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    target.is_some_and(|target| target.contains('-') && !target.contains(char::is_whitespace))
}

fn is_clang(word: &str, directory: &Path) -> bool {
    ask(word, "--version", directory).map_or_else(
        || file_name(word).contains("clang"),
        |output| String::from_utf8_lossy(&output.stdout).contains("clang"),
    )
}

fn file_name(word: &str) -> &str {
    Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or(word)
}

/// The launchers that are found in `PATH` under a compiler's name.
fn masquerading(compiler: &str) -> Vec<String> {
    let found = tool::candidates(OsStr::new(compiler)).into_iter();
    found.map_while(|path| launcher(&path)).map(|path| path.to_string_lossy().into_owned()).collect()
}

/// The launcher that a file really is.
fn launcher(path: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let name = path.file_name()?.to_str()?;
    LAUNCHERS.contains(&name).then_some(path)
}
