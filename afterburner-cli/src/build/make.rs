//! The user's make command, as make itself reads it, and the makes that it runs.
//!
//! Where a build writes to, what it is to make, and with which compiler stands in options and
//! variables, and GNU make has many ways to write those: joined options (`-sC dir`), abbreviated
//! ones (`--dir=x`), `MAKEFLAGS`, `-e`, `O=$(HOME)/out`. So make is asked. An `--eval` put before
//! its arguments prints what it has understood, then stops it before it reads any makefile or
//! evaluates anything else (GNU make manual, "Summary of Options").
//!
//! A makefile may run make again, anywhere. So each make of the build is asked the same, by a
//! makefile that it reads before all others (`MAKEFILES`; manual, "The Variable `MAKEFILES`"), and
//! appends its answer to a file. For the others that makefile is not there: it is no goal, it is
//! never remade, and `MAKEFILE_LIST` does not have it.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// The environment variable that names the file of answers.
const ANSWERS: &str = "AFTERBURNER_MAKES";

/// The variables that say where the build writes to (Linux, Documentation/kbuild/kbuild.rst).
const PLACES: &[&str] = &["O", "KBUILD_OUTPUT", "M", "KBUILD_EXTMOD", "MO", "KBUILD_EXTMOD_OUTPUT"];

/// Those that say which compiler it is (Documentation/kbuild/llvm.rst).
const COMPILER: &[&str] = &["CC", "LLVM", "LLVM_IAS", "CROSS_COMPILE", "KCFLAGS", "KAFLAGS"];

/// Those that say which configuration it has (Documentation/kbuild/kconfig.rst).
const CONFIGURATION: &[&str] = &["KCONFIG_CONFIG", "ARCH"];

/// What an answer starts with, and what separates its fields: no text has it.
const MARK: char = '\x01';

/// A make command.
#[derive(Clone, Debug)]
pub(super) struct Make {
    command: Vec<OsString>,
    variables: BTreeMap<String, Variable>,
    answer: Option<Answer>,
}

/// A variable, as it is before any makefile is read.
#[derive(Clone, Debug)]
struct Variable {
    /// Whether it goes before what makefiles say, as those of the command line do.
    overrides: bool,
    /// As it was given.
    raw: String,
    /// Expanded.
    value: String,
}

/// What make is to do.
#[derive(Clone, Debug)]
struct Answer {
    directory: PathBuf,
    goals: Vec<String>,
    /// `-n`, `-q` or `-t`.
    is_dry: bool,
}

impl Make {
    /// The command as the user gave it, read by make. What is no make gets its variables read from
    /// its arguments.
    pub(super) fn ask(command: &[OsString]) -> anyhow::Result<Self> {
        let mut make = Self { command: command.to_vec(), variables: BTreeMap::new(), answer: None };
        match command.iter().position(|word| is_make(word)) {
            Some(position) => make.take(&answers(command, position)?),
            None => make.guess(),
        }
        Ok(make)
    }

    /// The makes of a build, by their answers.
    pub(super) fn all(answers: &str) -> Vec<Self> {
        let mut lines: Vec<&str> = answers.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        let make = |line| {
            let mut make = Self { command: Vec::new(), variables: BTreeMap::new(), answer: None };
            make.take(line);
            make.answer.is_some().then_some(make)
        };
        lines.into_iter().filter_map(make).collect()
    }

    fn take(&mut self, answers: &str) {
        let Some(answer) = answers.lines().find_map(|line| line.strip_prefix(MARK)) else { return };
        let mut fields = answer.split(MARK);
        let mut next = || fields.next().unwrap_or_default().to_owned();
        let (directory, goals, flags) = (next(), next(), next());
        let short = flags.strip_prefix('-').unwrap_or_default();
        let is_dry = short.chars().take_while(char::is_ascii_alphabetic).any(|flag| "nqt".contains(flag));
        let goals = goals.split_whitespace().map(str::to_owned).collect();
        self.answer = Some(Answer { directory: PathBuf::from(directory), goals, is_dry });
        for name in PLACES.iter().chain(COMPILER).chain(CONFIGURATION) {
            let (origin, value, raw) = (next(), next(), next());
            let overrides = matches!(origin.as_str(), "command line" | "environment override" | "override");
            if overrides || origin == "environment" {
                self.variables.insert((*name).to_owned(), Variable { overrides, raw, value });
            }
        }
    }

    fn guess(&mut self) {
        let inherited = |name: &&str| Some(((*name).to_owned(), env::var(name).ok()?));
        let given = self.command.iter().filter_map(|word| word.to_str()?.split_once('='));
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned(), true));
        let inherited = PLACES
            .iter()
            .chain(COMPILER)
            .chain(CONFIGURATION)
            .filter_map(inherited)
            .map(|(name, value)| (name, value, false));
        let all: Vec<_> = inherited.chain(given).collect();
        for (name, value, overrides) in all {
            self.variables.insert(name, Variable { overrides, raw: value.clone(), value });
        }
    }

    /// The value of a variable that goes before what the makefiles say.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.variables.get(name).filter(|variable| variable.overrides).map(|variable| variable.value.as_str())
    }

    /// The value of a variable that was given to make or stands in the environment.
    pub(super) fn given_or_inherited(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|variable| variable.value.as_str()).filter(|value| !value.is_empty())
    }

    /// The same, not expanded.
    fn raw(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", |variable| variable.raw.as_str())
    }

    /// Whether make is to do more than to say something. What it is to do is not known if it did
    /// not answer.
    pub(super) fn builds(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| !answer.is_dry)
    }

    /// The goals; `None` if it is not known what is to be built.
    pub(super) fn goals(&self) -> Option<&[String]> {
        self.answer.as_ref().map(|answer| answer.goals.as_slice())
    }

    /// Where make goes before it starts.
    pub(super) fn directory(&self) -> &Path {
        self.answer.as_ref().map_or(Path::new("."), |answer| &answer.directory)
    }

    /// The directories that the build may write kernels and modules to. A relative `O=` is relative
    /// to where make starts. A relative `M=` was so to `O=`, too, up to Linux 6.12, and with its
    /// successor objects go to `MO=` or to where make starts.
    pub(super) fn output_directories(&self) -> Vec<PathBuf> {
        let inherited =
            |names: [&str; 2]| names.into_iter().find_map(|name| self.given_or_inherited(name)).map(expand_home);
        let start = self.directory().to_owned();
        let objects = inherited(["O", "KBUILD_OUTPUT"]).map(|objects| start.join(objects));
        let Some(module) = inherited(["M", "KBUILD_EXTMOD"]) else { return vec![objects.unwrap_or(start)] };
        let mut directories = vec![start.join(&module)];
        directories.extend(objects.map(|objects| objects.join(&module)));
        directories.extend(inherited(["MO", "KBUILD_EXTMOD_OUTPUT"]).map(|objects| start.join(objects)));
        directories
    }

    /// Whether an external module is built, rather than a kernel.
    pub(super) fn is_external(&self) -> bool {
        ["M", "KBUILD_EXTMOD"].iter().any(|name| self.given_or_inherited(name).is_some())
    }

    /// The directory that the kernel is built in, or was, for an external module.
    pub(super) fn kernel_directory(&self) -> PathBuf {
        let objects = ["O", "KBUILD_OUTPUT"].into_iter().find_map(|name| self.given_or_inherited(name));
        objects.map_or_else(|| self.directory().to_owned(), |objects| self.directory().join(expand_home(objects)))
    }

    /// The file of the kernel's configuration (`Documentation/kbuild/kconfig.rst`,
    /// `KCONFIG_CONFIG`).
    pub(super) fn configuration(&self) -> PathBuf {
        self.kernel_directory().join(self.given_or_inherited("KCONFIG_CONFIG").unwrap_or(".config"))
    }

    /// The variables that a make of the same kernel's configuration has to be given.
    pub(super) fn for_configuration(&self) -> impl Iterator<Item = OsString> {
        let names = ["O", "KBUILD_OUTPUT", "KCONFIG_CONFIG", "ARCH", "CC", "CROSS_COMPILE"];
        names.into_iter().filter_map(|name| Some(variable(name, self.given(name)?)))
    }

    /// Whether a goal of the build is a configuration.
    pub(super) fn configures(&self) -> bool {
        self.goals().is_some_and(|goals| goals.iter().any(|goal| goal.ends_with("config")))
    }

    /// The command with these flags before the user's own, and with more for C.
    pub(super) fn with(&self, flags: &str, for_c: Option<&str>) -> Vec<OsString> {
        let mut command = self.command.clone();
        for (name, more) in [("KCFLAGS", for_c), ("KAFLAGS", None)] {
            let words: Vec<&str> = [flags].into_iter().chain(more).filter(|words| !words.is_empty()).collect();
            if !words.is_empty() {
                let all = format!("{name}={} {}", words.join(" "), self.raw(name));
                command.push(OsString::from(all.trim_end()));
            }
        }
        command
    }
}

/// A variable, given to make.
pub(super) fn variable(name: &str, value: &str) -> OsString {
    format!("{name}={}", value.replace('$', "$$")).into()
}

/// An answer, in the terms of make.
fn question(names: &[&[&str]]) -> String {
    let defined = |name: &str, text: &str| format!("$(if $(filter undefined,$(origin {name})),,{text})");
    let variable = |name: &&str| {
        let value = defined(name, &format!("$({name})"));
        format!("{MARK}$(origin {name}){MARK}{value}{MARK}$(value {name})")
    };
    let goals = defined("MAKECMDGOALS", "$(MAKECMDGOALS)");
    let variables: String = names.iter().copied().flatten().map(variable).collect();
    format!("{MARK}$(CURDIR){MARK}{goals}{MARK}$(firstword -$(MAKEFLAGS)){variables}")
}

/// The makefile that has each make answer.
pub(super) fn makefile() -> String {
    let answer = question(&[PLACES]);
    format!(
        "# Tells `afterburner build` what each make of the build is to do.\n$(lastword $(MAKEFILE_LIST)): ;\n\
         $(if $(wildcard $({ANSWERS})),$(file >>$({ANSWERS}),{answer}))\nMAKEFILE_LIST :=\n"
    )
}

/// The variables of the environment for each make of a build, which are to read `makefile` and to
/// answer to `file`.
pub(super) fn environment(makefile: &str, file: &str) -> [(&'static str, OsString); 2] {
    let mut makefiles = OsString::from(makefile);
    if let Some(others) = env::var_os("MAKEFILES") {
        makefiles.push(" ");
        makefiles.push(others);
    }
    [("MAKEFILES", makefiles), (ANSWERS, OsString::from(file))]
}

/// Runs make up to its answer.
fn answers(command: &[OsString], position: usize) -> anyhow::Result<String> {
    let question = question(&[PLACES, COMPILER, CONFIGURATION]);
    let mut make = Command::new(&command[0]);
    make.args(&command[1..=position]).arg(format!("--eval=$(info {question})$(error stop)"));
    make.args(&command[position + 1..]).stdin(Stdio::null()).env_remove("MAKEFILES");
    let output = make.output().with_context(|| format!("cannot run {}", command[0].display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a word of a command is make: others, such as `nice` or `env`, may stand before it.
fn is_make(word: &OsStr) -> bool {
    let name = Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or_default();
    matches!(name, "make" | "gmake" | "remake") || name.starts_with("make-") || name.ends_with("-make")
}

/// A path with `~` for the user's home in it, which the shell that Linux's makefile asks would
/// replace.
fn expand_home(path: &str) -> PathBuf {
    let rest = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (rest, env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn ask(words: &[&str]) -> anyhow::Result<Make> {
        Make::ask(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn make_reads_its_arguments() -> anyhow::Result<()> {
        let lab = tempfile::tempdir()?;
        let root = fs::canonicalize(lab.path())?;
        fs::create_dir_all(root.join("t/u"))?;
        // If make got as far as this, the test would find another answer.
        fs::write(root.join("t/Makefile"), "$(info afterburner|directory||/wrong)\n")?;
        let t = root.join("t").display().to_string();
        let home = env::var("HOME")?;
        for (words, directories, goals, builds) in [
            (&["-C", &t] as &[&str], &["/t"] as &[&str], "", true),
            (&["-sC", &t, "O=out"], &["/t/out"], "", true),
            (&[&format!("-kC{t}"), "all"], &["/t"], "all", true),
            (&["--directory", &t, "-j", "4", "-l", "2.5", "-O", "vmlinux"], &["/t"], "vmlinux", true),
            (&[&format!("--direc={t}"), "-Cu", "--jobs", "3", "modules"], &["/t/u"], "modules", true),
            (&["-f", "/dev/null", "-C", &t, "--", "O=/abs", "x.ko"], &["/abs"], "x.ko", true),
            (&["O=first", "-C", &t, "O=$(CURDIR)/last", "--max=3"], &["/t/last"], "", true),
            (&["-C", &t, "O=a", "O+=b"], &["/t/a b"], "", true),
            (&["-C", &t, "--eval=O=out", "-E", "$(error not evaluated)"], &["/t"], "", true),
            (&["-C", &t, "M=m", "O=out"], &["/t/m", "/t/out/m"], "", true),
            (&["-C", &t, "M=/m", "MO=mo"], &["/m", "/t/mo"], "", true),
            (&["-C", &t, "KBUILD_EXTMOD=m", "KBUILD_OUTPUT=/out"], &["/t/m", "/out/m"], "", true),
            (&["-C", &t, "O=~/out"], &[&format!("~{home}/out")], "", true),
            (&["-C", &t, "-kn"], &["/t"], "", false),
            (&["-C", &t, "--dry", "--always-make"], &["/t"], "", false),
            (&["-C", &t, "--question"], &["/t"], "", false),
            (&["-C", &t, "--touch", "all"], &["/t"], "all", false),
            (&["-C", &t, "-p", "all"], &["/t"], "all", true),
        ] {
            let make = ask(&[&["nice", "-n", "0", "make"], words].concat())?;
            let place = |name: &&str| match name.strip_prefix('~') {
                Some(path) => PathBuf::from(path),
                None if name.starts_with("/t") => PathBuf::from(format!("{}{name}", root.display())),
                None => PathBuf::from(name),
            };
            assert_eq!(make.output_directories(), directories.iter().map(place).collect::<Vec<_>>(), "{words:?}");
            assert_eq!(make.goals().map(|goals| goals.join(" ")).as_deref(), Some(goals), "{words:?}");
            assert_eq!(make.builds(), builds, "{words:?}");
        }
        Ok(())
    }

    #[test]
    fn the_configuration_is_where_make_is_told() -> anyhow::Result<()> {
        for (words, expected) in [
            (&["make", "O=/b"][..], "/b/.config"),
            (&["make", "O=/b", "KCONFIG_CONFIG=mine"], "/b/mine"),
            (&["make", "O=/b", "KCONFIG_CONFIG=/c/mine"], "/c/mine"),
            (&["build-it", "O=/b", "KCONFIG_CONFIG=mine"], "/b/mine"),
        ] {
            let make = ask(words)?;
            assert_eq!(make.configuration(), Path::new(expected), "{words:?}");
            let is_given = make.for_configuration().any(|word| word == "KCONFIG_CONFIG=mine");
            assert_eq!(is_given, words.contains(&"KCONFIG_CONFIG=mine"), "{words:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_build_has_no_goals() -> anyhow::Result<()> {
        for words in [&["make", "--version"] as &[&str], &["make", "--no-such-option"], &["./build.sh", "all"]] {
            assert_eq!(ask(words)?.goals(), None, "{words:?}");
        }
        assert_eq!(ask(&["./build.sh", "CC=clang"])?.given("CC"), Some("clang"));
        let error = ask(&["/no/such/make"]).map(drop).map_err(|error| error.to_string());
        assert_eq!(error, Err("cannot run /no/such/make".to_owned()));
        Ok(())
    }

    #[test]
    fn flags_go_before_the_user_s_own_and_unexpanded() -> anyhow::Result<()> {
        let make = ask(&["make", "KCFLAGS=-DX=$(Y)", "Y=1"])?;
        assert_eq!(make.given("KCFLAGS"), Some("-DX=1"));
        assert_eq!(make.with("-B/s/", None)[3..], ["KCFLAGS=-B/s/ -DX=$(Y)", "KAFLAGS=-B/s/"]);
        assert_eq!(make.with("-B/s/", Some("-fPIE"))[3..], ["KCFLAGS=-B/s/ -fPIE -DX=$(Y)", "KAFLAGS=-B/s/"]);
        assert_eq!(make.with("", None).len(), 3);
        assert_eq!(variable("CC", "time /a$b/gcc"), "CC=time /a$$b/gcc");
        Ok(())
    }
}
