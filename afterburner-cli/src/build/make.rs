//! The user's make command: what it builds, where, with which compiler, and how the shims come into it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::tool;

/// Programs that run a compiler for others.
const LAUNCHERS: &[&str] = &["ccache", "distcc", "icecc", "sccache"];

/// Who turns the compiler's text into an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Compiler {
    /// GNU C
    Gcc,
    /// LLVM
    Clang,
}

/// A make command.
#[derive(Clone, Debug)]
pub(super) struct Make {
    command: Vec<OsString>,
    /// Looks up a variable of the environment.
    environment: fn(&str) -> Option<String>,
}

/// How the shims come into a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `-B` in the flags of the compiler: it looks there for `as`.
    Flags,
    /// `-B` in the name of the compiler: clang would look elsewhere first.
    Prefix {
        /// All of `CC`.
        cc: String,
    },
    /// A wrapper in place of the compiler, which has its assembler built in.
    Wrapper {
        /// What stands before the compiler in `CC`.
        launchers: Vec<String>,
    },
}

/// The compiler of a build and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// The compiler itself.
    pub(super) compiler: String,
    pub(super) way: Way,
}

impl Make {
    /// The command as the user gave it.
    pub(super) fn new(command: &[OsString]) -> Self {
        Self { command: command.to_vec(), environment: |name| env::var(name).ok() }
    }

    /// The arguments behind make's own name.
    fn arguments(&self) -> impl Iterator<Item = &str> {
        self.command.iter().skip(1).filter_map(|argument| argument.to_str())
    }

    /// The value of a variable that was given to make.
    fn given(&self, name: &str) -> Option<String> {
        let assignments = self.arguments().filter_map(assignment).filter(|(given, _)| *given == name);
        assignments.last().map(|(_, value)| value.to_owned())
    }

    /// The value of a variable that was given to make or, if make takes it from there, stands in the environment.
    fn given_or_inherited(&self, name: &str) -> Option<String> {
        self.given(name).or_else(|| (self.environment)(name))
    }

    /// Finds out about the compiler.
    pub(super) fn toolchain(&self, compiler: Option<Compiler>) -> anyhow::Result<Toolchain> {
        let llvm = self.given_or_inherited("LLVM").filter(|value| !value.is_empty());
        let cc = self.given("CC").unwrap_or_else(|| match llvm.as_deref() {
            Some(prefix) if prefix.ends_with('/') => format!("{prefix}clang"),
            Some(suffix) if suffix.starts_with('-') => format!("clang{suffix}"),
            Some(_) => "clang".to_owned(),
            None => format!("{}gcc", self.given_or_inherited("CROSS_COMPILE").unwrap_or_default()),
        });
        let words: Vec<&str> = cc.split_whitespace().collect();
        let is_launcher = |word: &&str| LAUNCHERS.contains(&file_name(word));
        let launchers = words.iter().copied().take_while(is_launcher).count();
        let Some(&word) = words.get(launchers) else { bail!("CC={cc} names no compiler") };
        let is_clang = match compiler {
            Some(compiler) => compiler == Compiler::Clang,
            None => file_name(word).contains("clang"),
        };
        let is_integrated = self.given_or_inherited("LLVM_IAS").is_none_or(|value| value != "0");
        let way = match (is_clang, is_integrated) {
            (false, _) => Way::Flags,
            (true, false) => Way::Prefix { cc: cc.clone() },
            (true, true) if words.len() > launchers + 1 => {
                bail!("CC={cc}: give the options of clang in KCFLAGS and KAFLAGS, a wrapper takes its place")
            }
            (true, true) => {
                let given = words[..launchers].iter().copied().map(str::to_owned);
                Way::Wrapper { launchers: given.chain(masquerading(word)).collect() }
            }
        };
        Ok(Toolchain { compiler: word.to_owned(), way })
    }

    /// The command with the shims in it.
    pub(super) fn with_shims(&self, way: &Way, directory: &str) -> Command {
        let mut command = Command::new(self.command.first().map_or(OsStr::new("make"), OsString::as_os_str));
        command.args(self.command.iter().skip(1));
        match way {
            Way::Flags => {
                for name in ["KCFLAGS", "KAFLAGS"] {
                    let flags = self.given_or_inherited(name).unwrap_or_default();
                    command.arg(format!("{name}=-B{directory}/ {flags}").trim_end());
                }
            }
            Way::Prefix { cc } => {
                command.arg(format!("CC={cc} -B{directory}/"));
            }
            Way::Wrapper { launchers } => {
                let cc = [launchers.as_slice(), &[format!("{directory}/clang")]].concat();
                command.arg(format!("CC={}", cc.join(" ")));
            }
        }
        command
    }

    /// Whether the command asks for a kernel or its modules, rather than for a configuration or single objects.
    pub(super) fn builds_kernel(&self) -> bool {
        let goals = self.goals();
        let is_image = |goal: &&str| {
            let is_module = Path::new(goal).extension().is_some_and(|extension| extension == "ko");
            is_module || goal.ends_with("-pkg") || matches!(file_name(goal), "all" | "vmlinux" | "bzImage" | "modules")
        };
        goals.is_empty() || goals.iter().any(is_image)
    }

    /// What is neither an option, nor its value, nor a variable.
    fn goals(&self) -> Vec<&str> {
        const VALUED: &[&str] = &["-C", "-E", "-f", "-I", "-o", "-W"];
        let mut goals = Vec::new();
        let mut arguments = self.arguments();
        while let Some(argument) = arguments.next() {
            let is_option = argument.starts_with('-');
            // The values of `-j` and `-l` may be left out.
            let is_number = argument.parse::<f64>().is_ok();
            if VALUED.contains(&argument) {
                arguments.next();
            } else if !is_option && !is_number && assignment(argument).is_none() {
                goals.push(argument);
            }
        }
        goals
    }

    /// The directory that the build writes kernels and modules to.
    pub(super) fn output_directory(&self) -> PathBuf {
        let directory = self.directory();
        let modules = self.given("M").or_else(|| self.given_or_inherited("KBUILD_EXTMOD"));
        let objects = modules.or_else(|| self.given("O")).or_else(|| self.given_or_inherited("KBUILD_OUTPUT"));
        objects.filter(|objects| !objects.is_empty()).map_or(directory.clone(), |objects| directory.join(objects))
    }

    /// Where make goes before it starts.
    fn directory(&self) -> PathBuf {
        let mut directory = PathBuf::new();
        let mut arguments = self.arguments();
        while let Some(argument) = arguments.next() {
            if argument == "-C" {
                directory.push(arguments.next().unwrap_or_default());
            } else if let Some(joined) = argument.strip_prefix("-C").or_else(|| argument.strip_prefix("--directory=")) {
                directory.push(joined);
            }
        }
        if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory }
    }
}

/// A variable and its value, if the argument assigns one (GNU make manual, "Setting Variables").
fn assignment(argument: &str) -> Option<(&str, &str)> {
    let (name, value) = argument.split_once('=').filter(|_| !argument.starts_with('-'))?;
    Some((name.trim_end_matches([':', '+', '?', '!']), value))
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

impl Toolchain {
    /// The compiler's own file, if it can be found.
    pub(super) fn compiler_path(&self) -> Option<PathBuf> {
        tool::candidates(OsStr::new(&self.compiler)).into_iter().find(|path| launcher(path).is_none())
    }

    /// The assembler that the compiler would run.
    pub(super) fn assembler(&self) -> Option<PathBuf> {
        let output = Command::new(&self.compiler).arg("-print-prog-name=as").output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        tool::search(OsStr::new(name.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(line: &str) -> Make {
        let command = line.split(' ').map(|word| OsString::from(word.replace('_', " "))).collect();
        Make { command, environment: |_| None }
    }

    fn arguments(line: &str) -> anyhow::Result<Vec<String>> {
        let make = make(line);
        let command = make.with_shims(&make.toolchain(None)?.way, "/s");
        Ok(command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn gcc_finds_the_shim_by_its_flags() -> anyhow::Result<()> {
        assert_eq!(arguments("make -j2")?, ["-j2", "KCFLAGS=-B/s/", "KAFLAGS=-B/s/"]);
        let merged = arguments("make CC=ccache_gcc KCFLAGS=-O3_-g all")?;
        assert_eq!(merged[3..], ["KCFLAGS=-B/s/ -O3 -g", "KAFLAGS=-B/s/"]);
        Ok(())
    }

    #[test]
    fn clang_is_wrapped_or_prefixed() -> anyhow::Result<()> {
        assert_eq!(arguments("make LLVM=1")?, ["LLVM=1", "CC=/s/clang"]);
        assert_eq!(arguments("make LLVM=1 CC=ccache_clang")?[2], "CC=ccache /s/clang");
        let toolchain = make("make LLVM=-14").toolchain(None)?;
        assert_eq!(toolchain.compiler, "clang-14");
        let prefix = Way::Prefix { cc: "clang".to_owned() };
        let command = make("make").with_shims(&prefix, "/s");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["CC=clang -B/s/"]);
        assert!(make("make CC=clang_-v").toolchain(None).is_err());
        assert!(make("make CC=").toolchain(None).is_err());
        assert_eq!(make("make CC=cc").toolchain(Some(Compiler::Clang))?.way, Way::Wrapper { launchers: Vec::new() });
        Ok(())
    }

    #[test]
    fn directories() {
        assert_eq!(make("make").output_directory(), Path::new("."));
        assert_eq!(make("make -C /src O=../out").output_directory(), Path::new("/src/../out"));
        assert_eq!(make("make -C/src M=/mod").output_directory(), Path::new("/mod"));
    }

    #[test]
    fn goals() {
        for line in ["make", "make -j 4", "make -C dir -j8 V=1", "make all", "make drivers/net/tun.ko"] {
            assert!(make(line).builds_kernel(), "{line}");
        }
        for line in ["make defconfig", "make -s kernel/fork.o", "make kernelrelease"] {
            assert!(!make(line).builds_kernel(), "{line}");
        }
    }
}
