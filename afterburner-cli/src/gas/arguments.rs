//! The command line of GNU as, as far as it decides whether and how a text can be annotated.
//!
//! The options are those of binutils 2.40 (`gas/as.c`, `parse_args`; `gas/config/tc-i386.c`,
//! `md_longopts`), read by the rules of `getopt_long_only`: one dash or two, `-oFILE` or `-o FILE`,
//! several short options in one argument. An option that is not in the table, an abbreviated one,
//! one that changes the language, and one that makes `as` do something else than assemble: all mean
//! that the real assembler gets the command as it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// A command that assembles texts into an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// What is read, in this order.
    pub(super) inputs: Vec<Input>,
    /// The object.
    pub(super) output: Option<PathBuf>,
    /// The options that shape the object: everything but inputs, output, and what leaves a trace
    /// elsewhere.
    pub(super) options: Vec<OsString>,
    /// Whether something else than the object and diagnostics is asked for: a listing,
    /// dependencies, statistics.
    pub(super) has_side_outputs: bool,
    /// Whether the code is for another mode than 64-bit mode.
    pub(super) is_32_bit: bool,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    StandardInput,
    File(PathBuf),
}

impl Input {
    /// The file's path.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::StandardInput => None,
            Self::File(path) => Some(path),
        }
    }
}

/// Whether an option takes an argument of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// In the same argument, behind `=`, or joined to a short option.
    Optionally,
    /// In the same argument or the next one.
    Argument,
}

/// What an option means for us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It shapes the object.
    Object,
    /// It leaves a trace elsewhere.
    Elsewhere,
    /// It names the object.
    Output,
    /// It selects 32-bit code or pointers.
    Narrow,
    /// It calls for the real assembler and nothing else.
    HandOver,
}

use Effect::{Elsewhere, HandOver, Narrow, Object, Output};
use Takes::{Argument, Nothing, Optionally};

#[rustfmt::skip]
const LONG: &[(&[u8], Takes, Effect)] = &[
    (b"32", Nothing, Narrow), (b"64", Nothing, Object), (b"x32", Nothing, Narrow),
    (b"a", Optionally, Elsewhere), (b"al", Optionally, Elsewhere),
    (b"alternate", Nothing, HandOver),
    (b"compress-debug-sections", Optionally, Object), (b"nocompress-debug-sections", Nothing, Object),
    (b"debug-prefix-map", Argument, Object), (b"defsym", Argument, Object),
    (b"divide", Nothing, Object),
    (b"dump-config", Nothing, HandOver), (b"emulation", Argument, HandOver),
    (b"execstack", Nothing, Object), (b"noexecstack", Nothing, Object),
    (b"size-check", Argument, Object), (b"elf-stt-common", Argument, Object), (b"sectname-subst", Nothing, Object),
    (b"generate-missing-build-notes", Argument, Object), (b"gsframe", Nothing, Object),
    (b"fatal-warnings", Nothing, Object), (b"warn", Nothing, Object), (b"no-warn", Nothing, Object),
    (b"gdwarf-2", Nothing, Object), (b"gdwarf-3", Nothing, Object), (b"gdwarf-4", Nothing, Object),
    (b"gdwarf-5", Nothing, Object), (b"gdwarf2", Nothing, Object), (b"gdwarf-sections", Nothing, Object),
    (b"gdwarf-cie-version", Argument, Object), (b"gen-debug", Nothing, Object),
    (b"gstabs", Nothing, Object), (b"gstabs+", Nothing, Object),
    (b"hash-size", Argument, Object), (b"reduce-memory-overheads", Nothing, Object),
    (b"help", Nothing, HandOver), (b"target-help", Nothing, HandOver), (b"version", Nothing, HandOver),
    (b"verbose", Nothing, Elsewhere), (b"statistics", Nothing, Elsewhere), (b"MD", Argument, Elsewhere),
    (b"keep-locals", Nothing, Object), (b"strip-local-absolute", Nothing, Object),
    (b"listing-lhs-width", Argument, Elsewhere), (b"listing-lhs-width2", Argument, Elsewhere),
    (b"listing-rhs-width", Argument, Elsewhere), (b"listing-cont-lines", Argument, Elsewhere),
    (b"mri", Nothing, HandOver), (b"nocpp", Nothing, Object), (b"no-pad-sections", Nothing, Object),
    (b"traditional-format", Nothing, Object), (b"multibyte-handling", Argument, Object),
    (b"march", Argument, Object), (b"mtune", Argument, Object), (b"mshared", Nothing, Object),
    (b"mmnemonic", Argument, HandOver), (b"msyntax", Argument, HandOver),
    (b"mindex-reg", Nothing, Object), (b"mnaked-reg", Nothing, HandOver),
    (b"msse2avx", Nothing, Object), (b"muse-unaligned-vector-move", Nothing, Object),
    (b"msse-check", Argument, Object), (b"moperand-check", Argument, Object),
    (b"mavxscalar", Argument, Object), (b"mvexwig", Argument, Object),
    (b"mevexlig", Argument, Object), (b"mevexwig", Argument, Object), (b"mevexrcig", Argument, Object),
    (b"madd-bnd-prefix", Nothing, Object), (b"mx86-used-note", Argument, Object),
    (b"momit-lock-prefix", Argument, Object), (b"mfence-as-lock-add", Argument, Object),
    (b"mrelax-relocations", Argument, Object),
    (b"malign-branch-boundary", Argument, Object), (b"malign-branch-prefix-size", Argument, Object),
    (b"malign-branch", Argument, Object), (b"mbranches-within-32B-boundaries", Nothing, Object),
    (b"mlfence-after-load", Argument, Object), (b"mlfence-before-indirect-branch", Argument, Object),
    (b"mlfence-before-ret", Argument, Object),
    (b"mamd64", Nothing, Object), (b"mintel64", Nothing, Object),
];

#[rustfmt::skip]
const SHORT: &[(u8, Takes, Effect)] = &[
    (b'a', Optionally, Elsewhere), (b'D', Nothing, Elsewhere), (b'f', Nothing, HandOver), (b'g', Optionally, Object),
    (b'I', Argument, Object), (b'J', Nothing, Object), (b'k', Nothing, Object), (b'K', Nothing, Object),
    (b'L', Nothing, Object), (b'M', Nothing, HandOver), (b'n', Nothing, Object), (b'o', Argument, Output),
    (b'O', Optionally, Object), (b'q', Nothing, Object), (b'Q', Argument, Object), (b'R', Nothing, Object),
    (b's', Nothing, Object), (b'v', Nothing, Elsewhere), (b'V', Nothing, Elsewhere), (b'w', Nothing, Object),
    (b'W', Nothing, Object), (b'X', Nothing, Object), (b'Z', Nothing, Object),
];

impl Arguments {
    /// Reads a command line; response files must be expanded. `None` calls for the real assembler.
    pub(super) fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut parsed = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"" => return None,
                b"-" => parsed.inputs.push(Input::StandardInput),
                // What follows is not even looked at.
                b"--" => break,
                [b'-', ..] => parsed.option(argument, &mut arguments)?,
                _ => parsed.inputs.push(Input::File(PathBuf::from(argument))),
            }
        }
        if parsed.inputs.is_empty() {
            parsed.inputs.push(Input::StandardInput);
        }
        Some(parsed)
    }

    /// The object, by default `a.out`.
    pub(super) fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new("a.out"))
    }

    fn option<'a>(&mut self, argument: &'a OsStr, rest: &mut impl Iterator<Item = &'a OsString>) -> Option<()> {
        let bytes = argument.as_bytes();
        let is_lone_letter = bytes.len() == 2 && find_short(bytes[1]).is_some();
        let name = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-").filter(|_| !is_lone_letter));
        let Some(name) = name else { return self.short(argument, rest) };
        let (name, joined) = match name.iter().position(|&byte| byte == b'=') {
            Some(at) => (&name[..at], Some(&name[at + 1..])),
            None => (name, None),
        };
        let Some(&(_, takes, effect)) = LONG.iter().find(|(long, ..)| *long == name) else {
            let is_abbreviated = LONG.iter().any(|(long, ..)| long.starts_with(name));
            return if bytes[1] == b'-' || is_abbreviated { None } else { self.short(argument, rest) };
        };
        let separate = match (takes, joined) {
            (Nothing, Some(_)) => return None,
            (Argument, None) => Some(rest.next()?),
            _ => None,
        };
        let arguments = std::iter::once(argument).chain(separate.map(OsString::as_os_str));
        self.apply(effect, arguments)
    }

    /// An argument of short options: any number that take nothing, then perhaps one that takes the
    /// rest.
    fn short<'a>(&mut self, argument: &'a OsStr, rest: &mut impl Iterator<Item = &'a OsString>) -> Option<()> {
        let bytes = argument.as_bytes();
        for (at, &letter) in bytes.iter().enumerate().skip(1) {
            let (takes, effect) = find_short(letter)?;
            let joined = &bytes[at + 1..];
            if takes == Nothing {
                let option = OsString::from(format!("-{}", char::from(letter)));
                self.apply(effect, std::iter::once(option.as_os_str()))?;
                continue;
            }
            let separate = if takes == Argument && joined.is_empty() { Some(rest.next()?.as_os_str()) } else { None };
            if effect == Output {
                self.output = Some(PathBuf::from(separate.unwrap_or(OsStr::from_bytes(joined))));
                return Some(());
            }
            let option = OsString::from_iter([OsStr::new("-"), OsStr::from_bytes(&bytes[at..])]);
            return self.apply(effect, std::iter::once(option.as_os_str()).chain(separate));
        }
        Some(())
    }

    fn apply<'a>(&mut self, effect: Effect, arguments: impl Iterator<Item = &'a OsStr>) -> Option<()> {
        match effect {
            HandOver | Output => return None,
            Elsewhere => self.has_side_outputs = true,
            Narrow => self.is_32_bit = true,
            Object => {}
        }
        if effect != Elsewhere {
            self.options.extend(arguments.map(OsStr::to_owned));
        }
        Some(())
    }
}

fn find_short(letter: u8) -> Option<(Takes, Effect)> {
    SHORT.iter().find(|(short, ..)| *short == letter).map(|&(_, takes, effect)| (takes, effect))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Arguments> {
        Arguments::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn options(line: &str) -> Vec<OsString> {
        parse(line).map(|arguments| arguments.options).unwrap_or_default()
    }

    #[test]
    fn a_compiler_driver_s_command() {
        let parsed = parse("-I ./include -I. --gdwarf-5 --64 -march=generic64 -o a.o /tmp/cc.s").unwrap_or_default();
        assert_eq!(parsed.inputs, [Input::File("/tmp/cc.s".into())]);
        assert_eq!(parsed.output(), Path::new("a.o"));
        assert_eq!(parsed.options, ["-I", "./include", "-I.", "--gdwarf-5", "--64", "-march=generic64"]);
        assert!(!parsed.has_side_outputs && !parsed.is_32_bit);
    }

    #[test]
    fn inputs() {
        let inputs = |line| parse(line).map(|arguments| arguments.inputs).unwrap_or_default();
        assert_eq!(inputs("-o x"), [Input::StandardInput]);
        assert_eq!(inputs("-o x -"), [Input::StandardInput]);
        assert_eq!(inputs("-o x -- y.s"), [Input::StandardInput]);
        assert_eq!(inputs("a.s -L b.s"), [Input::File("a.s".into()), Input::File("b.s".into())]);
        assert_eq!(inputs("--defsym a=1 a.s"), [Input::File("a.s".into())]);
        assert_eq!(inputs("--MD a.d a.s"), [Input::File("a.s".into())]);
        assert_eq!(inputs("-march generic64 a.s"), [Input::File("a.s".into())]);
    }

    #[test]
    fn outputs() {
        let output = |line| parse(line).map(|arguments| arguments.output().to_owned()).unwrap_or_default();
        assert_eq!(output("a.s"), Path::new("a.out"));
        assert_eq!(output("-oa.o a.s"), Path::new("a.o"));
        assert_eq!(output("-o a.o -o b.o a.s"), Path::new("b.o"));
        assert_eq!(output("-nLo a.o a.s"), Path::new("a.o"));
    }

    #[test]
    fn short_options_in_one_argument() {
        assert_eq!(options("-nLI dir -g -Qy -O2 x.s"), ["-n", "-L", "-I", "dir", "-g", "-Qy", "-O2"]);
        assert_eq!(options("-W -gdwarf-4"), ["-W", "-gdwarf-4"]);
    }

    #[test]
    fn what_leaves_a_trace_is_told_apart() {
        for line in ["-al=x.lst", "-alh", "-a", "--MD x.d", "--statistics", "-v", "--listing-lhs-width=2", "-D"] {
            let parsed = parse(&format!("--64 {line} x.s")).unwrap_or_default();
            assert!(parsed.has_side_outputs, "{line}");
            assert_eq!(parsed.options, ["--64"], "{line}");
        }
        assert!(parse("--32 x.s").is_some_and(|arguments| arguments.is_32_bit));
    }

    #[test]
    fn everything_else_is_the_assembler_s() {
        for line in [
            "--version",
            "--help",
            "--target-help",
            "--dump-config",
            "--fatal-warning",
            "--no-such-option",
            "-y",
            "-Ly",
            "-o",
            "--defsym",
            "--64=1",
            "-f",
            "-M",
            "--alternate",
            "-msyntax=intel",
            "-mnaked-reg",
            "-noexec",
            "--emulation=x",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(Arguments::parse(&[OsString::new()]), None);
    }
}
