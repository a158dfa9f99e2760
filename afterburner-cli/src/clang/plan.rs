//! From the driver's plan to the steps that leave room for the text stage.
//!
//! The compiler proper gets the arguments that the driver would give it, so that every file it
//! writes beside the object, and every path that it writes into the object, is what it would be;
//! only that it prints its text instead of assembling it. The integrated assembler gets those of
//! the driver too where that runs it. Where it does not, it gets those of the compiler that it
//! knows: they are the same options of the same program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::jobs::Job;

/// The steps to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The source.
    pub(super) input: PathBuf,
    pub(super) object: PathBuf,
    /// The file that gets the debug information, if that is not the object.
    pub(super) split_debug: Option<PathBuf>,
    /// What has to run first, as it is.
    pub(super) before: Vec<Job>,
    pub(super) text: Text,
    /// Whether a file beside the object tells how that was made, so that only the user's own
    /// command writes it right.
    pub(super) needs_original: bool,
    /// The integrated assembler, without input and outputs.
    pub(super) assembler: Job,
}

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// A job prints it; it is yet to be told where.
    Printed(Job),
    /// It is in this file.
    File(PathBuf),
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The command makes no object of machine code.
    NoObject,
    /// The code is for another mode than 64-bit mode.
    Narrow(PathBuf),
    /// An assembler of its own is called, which may be a shim.
    ExternalAssembler,
    /// These objects should have been annotated.
    Missed(Vec<PathBuf>, &'static str),
}

/// Options of the compiler that the assembler has, too, with an argument of their own.
const WITH_ARGUMENT: &[&str] = &[
    "-I",
    "-main-file-name",
    "-mllvm",
    "-mrelocation-model",
    "-target-abi",
    "-target-cpu",
    "-target-feature",
    "-triple",
];

/// Those that are one argument.
#[rustfmt::skip]
const ALONE: &[&str] = &[
    "-gdwarf32", "-gdwarf64", "-massembler-fatal-warnings", "-massembler-no-warn", "-mincremental-linker-compatible",
    "-mnoexecstack", "-mrelax-all", "--mrelax-relocations", "-mrelax-relocations=no", "-msave-temp-labels",
];

/// Those that hold their argument.
#[rustfmt::skip]
const JOINED: &[&str] = &[
    "-compress-debug-sections=", "--compress-debug-sections=", "-dwarf-version=", "-fdebug-compilation-dir=", "-fdebug-prefix-map=",
    "-femit-dwarf-unwind=", "-target-sdk-version=",
];

/// Where `.include` looks, by any option.
const INCLUDE: &[&str] = &["-iquote", "-isystem"];

impl Plan {
    /// The plan for what the driver would do.
    pub(super) fn new(mut jobs: Vec<Job>) -> Result<Self, Obstacle> {
        if jobs.iter().any(Job::is_external_assembler) {
            return Err(Obstacle::ExternalAssembler);
        }
        let makes_object = |job: &&Job| job.has("-emit-obj") || job.is_assembler();
        let objects: Vec<PathBuf> = jobs.iter().filter(makes_object).map(|job| job.output().to_owned()).collect();
        if let Some(job) =
            jobs.iter().find(|job| job.is_compiler() && job.has_prefix("-flto") && job.has("-emit-llvm-bc"))
        {
            return Err(Obstacle::Missed(
                vec![job.output().to_owned()],
                "-flto keeps code from the assembler: build without it",
            ));
        }
        let Some(last) = jobs.pop_if(|job| makes_object(&&*job)) else { return Err(Obstacle::NoObject) };
        if objects.len() > 1 {
            return Err(Obstacle::Missed(
                objects,
                "clang assembles several sources in one command: compile each by its own",
            ));
        }
        if !is_wide(&last) {
            return Err(Obstacle::Narrow(last.output().to_owned()));
        }
        let input = jobs.first().unwrap_or(&last).input().to_owned();
        if last.is_assembler() {
            return Ok(Self::of_assembly(jobs, last, input));
        }
        if !jobs.is_empty() {
            return Err(Obstacle::Missed(
                objects,
                "clang compiles in steps that are not known: build without the option",
            ));
        }
        Ok(Self::of_compiler(last, input))
    }

    /// The driver calls the assembler: the text is the source, or what the job before makes.
    fn of_assembly(mut before: Vec<Job>, mut assembler: Job, input: PathBuf) -> Self {
        let file = PathBuf::from(assembler.arguments.pop().unwrap_or_default());
        // What the user wants to keep is written to where it is to be.
        let is_kept = |job: &Job| job.has_prefix("-save-temps");
        let mut needs_original = false;
        let text = match before.pop_if(|job| !is_kept(job)) {
            Some(mut job) => {
                needs_original = job.drop_trace();
                Text::Printed(job)
            }
            None => Text::File(file),
        };
        let object = PathBuf::from(assembler.take("-o").unwrap_or_default());
        let split_debug = assembler.take("-split-dwarf-output").map(PathBuf::from);
        Self { input, object, split_debug, before, text, needs_original, assembler }
    }

    /// The compiler would assemble, too.
    fn of_compiler(mut compiler: Job, input: PathBuf) -> Self {
        let object = compiler.output().to_owned();
        let split_debug = compiler.take("-split-dwarf-output").map(PathBuf::from);
        let assembler = Job { program: compiler.program.clone(), arguments: for_assembler(&compiler.arguments) };
        // Times, and remarks that count instructions by what the printer calls them.
        let needs_original = compiler.drop_trace() | compiler.has("-opt-record-file");
        for argument in &mut compiler.arguments {
            if argument == "-emit-obj" {
                *argument = OsString::from("-S");
            }
        }
        Self {
            input,
            object,
            split_debug,
            before: Vec::new(),
            text: Text::Printed(compiler),
            needs_original,
            assembler,
        }
    }
}

impl Job {
    /// Removes the option that has the compiler name a file after its output; tells whether it was
    /// there.
    fn drop_trace(&mut self) -> bool {
        let count = self.arguments.len();
        self.arguments.retain(|argument| !argument.as_bytes().starts_with(b"-ftime-trace"));
        self.arguments.len() < count
    }

    /// The job with another output.
    pub(super) fn writing(mut self, output: &Path) -> Self {
        let at = self.arguments.iter().rposition(|argument| argument == "-o").map(|at| at + 1);
        if let Some(old) = at.and_then(|at| self.arguments.get_mut(at)) {
            output.as_os_str().clone_into(old);
        }
        self
    }
}

/// Whether the job is for 64-bit mode.
fn is_wide(job: &Job) -> bool {
    let triple = job.value("-triple").and_then(OsStr::to_str).unwrap_or_default();
    triple.starts_with("x86_64") && !triple.ends_with("x32") && !triple.ends_with("code16")
}

/// The assembler's options for what the compiler with these has printed.
fn for_assembler(compiler: &[OsString]) -> Vec<OsString> {
    let mut options: Vec<OsString> = ["-cc1as", "-filetype", "obj"].map(OsString::from).to_vec();
    let mut arguments = compiler.iter();
    while let Some(argument) = arguments.next() {
        let is = |options: &[&str]| options.iter().any(|option| argument == option);
        let starts = |option: &&str| argument.as_bytes().starts_with(option.as_bytes());
        if is(WITH_ARGUMENT) {
            options.push(argument.clone());
            options.extend(arguments.next().cloned());
        } else if is(INCLUDE) {
            options.push(OsString::from("-I"));
            options.extend(arguments.next().cloned());
        } else if is(ALONE) || JOINED.iter().any(starts) {
            options.push(argument.clone());
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> Job {
        let mut words = line.split_whitespace();
        let program = PathBuf::from(words.next().unwrap_or_default());
        Job { program, arguments: words.map(OsString::from).collect() }
    }

    fn plan(lines: &[&str]) -> Result<Plan, Obstacle> {
        Plan::new(lines.iter().map(|line| job(line)).collect())
    }

    const C: &str = "clang -cc1 -triple x86_64-pc-linux-gnu -emit-obj -mrelax-all -I i -isystem s -target-cpu x86-64 \
        -dwarf-version=5 -debug-info-kind=constructor -mllvm -x -coverage-notes-file /d/sub/a.gcno \
        -split-dwarf-file sub/a.dwo -split-dwarf-output sub/a.dwo -ftime-trace -o sub/a.o -x c a.c";

    #[test]
    fn the_compiler_prints_and_the_assembler_gets_its_options() {
        let plan = plan(&[C]).expect("a plan");
        assert_eq!((plan.input.to_str(), plan.object.to_str()), (Some("a.c"), Some("sub/a.o")));
        assert_eq!(plan.split_debug, Some("sub/a.dwo".into()));
        let text = C.replace("-emit-obj", "-S").replace(" -split-dwarf-output sub/a.dwo -ftime-trace", "");
        assert_eq!(plan.text, Text::Printed(job(&text)));
        assert!(plan.needs_original && plan.before.is_empty());
        let options = "clang -cc1as -filetype obj -triple x86_64-pc-linux-gnu -mrelax-all -I i -I s -target-cpu x86-64 \
            -dwarf-version=5 -mllvm -x";
        assert_eq!(plan.assembler, job(options));
    }

    #[test]
    fn the_driver_s_own_assembler_is_taken() {
        let cpp = "clang -cc1 -E -o /tmp/a-1.s -x assembler-with-cpp a.S";
        let assembler = "clang -cc1as -triple x86_64-linux -split-dwarf-output a.dwo -o a.o ";
        let printed = plan(&[cpp, &format!("{assembler}/tmp/a-1.s")]).expect("a plan");
        assert_eq!((printed.text, printed.split_debug), (Text::Printed(job(cpp)), Some("a.dwo".into())));
        assert_eq!(printed.assembler, job("clang -cc1as -triple x86_64-linux"));
        let kept = cpp.replace("-E", "-E -save-temps=obj").replace("/tmp/a-1.s", "d/a.s");
        let kept = plan(&[&kept, &format!("{assembler}d/a.s")]).expect("a plan");
        assert_eq!((kept.text, kept.before.len(), kept.input), (Text::File("d/a.s".into()), 1, "a.S".into()));
        assert_eq!(plan(&[&format!("{assembler}a.s")]).map(|plan| plan.text), Ok(Text::File("a.s".into())));
    }

    #[test]
    fn what_cannot_be_annotated() {
        let narrow = Err(Obstacle::Narrow("sub/a.o".into()));
        for triple in ["i386-pc-linux-gnu", "x86_64-pc-linux-gnux32", "x86_64-pc-linux-code16", "aarch64-linux-gnu"] {
            assert_eq!(plan(&[&C.replace("x86_64-pc-linux-gnu", triple)]), narrow, "{triple}");
        }
        assert_eq!(plan(&[]), Err(Obstacle::NoObject));
        assert_eq!(plan(&["clang -cc1 -E -o - a.c"]), Err(Obstacle::NoObject));
        assert_eq!(plan(&["clang -cc1 -emit-llvm-bc -o a.bc a.c"]), Err(Obstacle::NoObject));
        assert_eq!(
            plan(&["clang -cc1 -S -o /tmp/a.s a.c", "/usr/bin/as -o a.o /tmp/a.s"]),
            Err(Obstacle::ExternalAssembler)
        );
        let missed = |lines: &[&str]| match plan(lines) {
            Err(Obstacle::Missed(objects, _)) => objects.len(),
            _ => 0,
        };
        assert_eq!(missed(&["clang -cc1 -emit-llvm-bc -flto=thin -o a.o a.c"]), 1);
        assert_eq!(missed(&["clang -cc1 -emit-llvm-bc -o /tmp/a.bc a.c", C]), 1);
        assert_eq!(missed(&[C, C]), 2);
    }
}
