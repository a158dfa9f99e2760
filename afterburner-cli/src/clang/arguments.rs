//! The command line of clang, as far as it decides whether and how a compilation can be annotated.
//!
//! As with the assembler, what is not known to be the compilation of one source into one object is clang's own business.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// One source to one object, by the integrated assembler.
    Compile(Compilation),
    /// One source to one object, by an external assembler.
    ExternalAssembler,
    /// Anything else.
    Other,
}

/// One source and its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compilation {
    pub(super) language: Language,
    pub(super) input: PathBuf,
    pub(super) object: PathBuf,
    /// Why no text of 64-bit code comes out of it.
    pub(super) obstacle: Option<Obstacle>,
    /// Everything but `-c`, `-o`, `-x` and the input.
    options: Vec<ClangOption>,
}

/// What the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// C, preprocessed or not (`-x`).
    C(&'static str),
    /// Assembly for the preprocessor.
    AssemblyWithCpp,
    Assembly,
}

/// Why a compilation cannot be annotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It need not be: code for another mode.
    Narrow,
    /// It should be, but this option keeps the code, or a part of it, away from the assembler.
    Option(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ClangOption {
    purpose: Purpose,
    arguments: Vec<OsString>,
}

/// Which step an option is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Either.
    Any,
    /// It has a dependency file written.
    Dependencies,
    /// It brings in source.
    Include,
    /// It has debug information made; compiled C brings its own to the assembler.
    Debug,
    /// It is the assembler's.
    Assembler,
}

/// Options whose argument may be the next one.
#[rustfmt::skip]
const SEPARATE: &[&str] = &[
    "-A", "-B", "-D", "-F", "-G", "-I", "-L", "-MF", "-MJ", "-MQ", "-MT", "-T", "-U", "-Xanalyzer", "-Xassembler", "-Xclang",
    "-Xlinker", "-Xpreprocessor", "-arch", "-b", "-dumpbase", "-dumpdir", "-e", "-idirafter", "-iframework", "-imacros",
    "-imultilib", "-include", "-include-pch", "-iprefix", "-iquote", "-isysroot", "-isystem", "-ivfsoverlay", "-iwithprefix",
    "-iwithprefixbefore", "-iwithsysroot", "-l", "-mllvm", "-mthread-model", "-o", "-resource-dir", "-serialize-diagnostics",
    "-target", "-u", "-working-directory", "-x", "-z", "--config", "--param", "--prefix", "--serialize-diagnostics", "--sysroot",
];

/// Options that ask for something else than an object, or for more.
#[rustfmt::skip]
const OTHER: &[&str] = &[
    "-###", "-E", "-M", "-MM", "-S", "-emit-ast", "-emit-llvm", "-fsyntax-only", "-ftime-trace", "-save-temps", "-v", "--analyze",
    "--help", "--precompile", "--save-temps", "--version",
];

impl Request {
    /// Reads a command line.
    pub(super) fn parse(arguments: &[OsString]) -> Self {
        let is_response_file = |argument: &OsString| argument.as_bytes().starts_with(b"@");
        if arguments.iter().any(is_response_file) {
            return Self::Other;
        }
        Parser::default().parse(arguments).unwrap_or(Self::Other)
    }
}

#[derive(Default)]
struct Parser {
    compiles: bool,
    external_assembler: bool,
    obstacle: Option<Obstacle>,
    language: Option<OsString>,
    inputs: Vec<PathBuf>,
    object: Option<PathBuf>,
    options: Vec<ClangOption>,
}

impl Parser {
    fn parse(mut self, arguments: &[OsString]) -> Option<Request> {
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(text) = argument.to_str() else {
                self.inputs.push(PathBuf::from(argument));
                continue;
            };
            if !text.starts_with('-') || text == "-" {
                self.inputs.push(PathBuf::from(argument));
            } else if SEPARATE.contains(&text) {
                self.separate(text, rest.next()?);
            } else if OTHER.iter().any(|other| is_option(text, other)) {
                return None;
            } else {
                self.joined(text, argument);
            }
        }
        self.finish()
    }

    fn separate(&mut self, option: &str, value: &OsString) {
        match option {
            "-o" => self.object = Some(PathBuf::from(value)),
            "-x" => self.language = Some(value.clone()),
            _ => {
                if option == "-target" {
                    self.target(value.to_str().unwrap_or_default());
                }
                self.keep(option, vec![OsString::from(option), value.clone()]);
            }
        }
    }

    fn joined(&mut self, option: &str, argument: &OsString) {
        match option {
            "-c" => self.compiles = true,
            "-fno-integrated-as" | "-no-integrated-as" => self.external_assembler = true,
            "-fintegrated-as" | "-integrated-as" => self.external_assembler = false,
            "-m16" | "-m32" | "-mx32" => self.obstacle = Some(Obstacle::Narrow),
            "-m64" => self.obstacle = self.obstacle.filter(|obstacle| *obstacle != Obstacle::Narrow),
            "-fno-lto" => self.obstacle = self.obstacle.filter(|obstacle| *obstacle != Obstacle::Option("-flto")),
            "-gsplit-dwarf" => self.obstacle = self.obstacle.or(Some(Obstacle::Option("-gsplit-dwarf"))),
            _ if is_option(option, "-flto") => self.obstacle = self.obstacle.or(Some(Obstacle::Option("-flto"))),
            _ => {}
        }
        if let Some(object) = option.strip_prefix("-o") {
            self.object = Some(PathBuf::from(object));
        } else if let Some(language) = option.strip_prefix("-x") {
            self.language = Some(OsString::from(language));
        } else if option != "-c" {
            if let Some(target) = option.strip_prefix("--target=") {
                self.target(target);
            }
            self.keep(option, vec![argument.clone()]);
        }
    }

    fn target(&mut self, triple: &str) {
        if !triple.starts_with("x86_64") {
            self.obstacle = Some(Obstacle::Narrow);
        }
    }

    fn keep(&mut self, option: &str, arguments: Vec<OsString>) {
        let purpose = match option {
            _ if option.starts_with("-M") || option.starts_with("-Wp,-M") => Purpose::Dependencies,
            "-include" | "-imacros" | "-include-pch" => Purpose::Include,
            _ if option.starts_with("-gz") || option.starts_with("-gcc") => Purpose::Any,
            _ if option.starts_with("-g") => Purpose::Debug,
            "-Xassembler" => Purpose::Assembler,
            _ if option.starts_with("-Wa,") => Purpose::Assembler,
            _ => Purpose::Any,
        };
        self.options.push(ClangOption { purpose, arguments });
    }

    fn finish(self) -> Option<Request> {
        if !self.compiles {
            return None;
        }
        let [input] = self.inputs.try_into().ok()?;
        let language = language(self.language.as_deref(), &input)?;
        if self.external_assembler {
            return Some(Request::ExternalAssembler);
        }
        let object =
            self.object.unwrap_or_else(|| Path::new(input.file_name().unwrap_or_default()).with_extension("o"));
        Some(Request::Compile(Compilation { language, input, object, obstacle: self.obstacle, options: self.options }))
    }
}

/// Whether the argument is this option, perhaps with a value behind `=`.
fn is_option(argument: &str, option: &str) -> bool {
    argument.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

fn language(explicit: Option<&OsStr>, input: &Path) -> Option<Language> {
    let extension = input.extension().and_then(OsStr::to_str);
    match explicit.filter(|language| *language != "none").map(OsStr::to_str) {
        None => match extension? {
            "c" => Some(Language::C("c")),
            "i" => Some(Language::C("cpp-output")),
            "S" => Some(Language::AssemblyWithCpp),
            "s" => Some(Language::Assembly),
            _ => None,
        },
        // Without an extension it is a question to the compiler (`-x c /dev/null`) rather than a source.
        Some(language) => extension.and_then(|_| match language? {
            "c" => Some(Language::C("c")),
            "cpp-output" => Some(Language::C("cpp-output")),
            "assembler-with-cpp" => Some(Language::AssemblyWithCpp),
            "assembler" => Some(Language::Assembly),
            _ => None,
        }),
    }
}

impl Compilation {
    /// The command that prints the text for the assembler, and writes the dependency file if one is asked for. `None` where
    /// the input is that text.
    pub(super) fn to_text(&self) -> Option<Vec<OsString>> {
        let (step, language) = match self.language {
            Language::C(language) => ("-S", language),
            Language::AssemblyWithCpp => ("-E", "assembler-with-cpp"),
            Language::Assembly => return None,
        };
        let mut arguments = self.options_for(|purpose| purpose != Purpose::Assembler);
        arguments.extend(self.dependency_options());
        arguments.extend([step, "-o", "-", "-x", language].map(OsString::from));
        arguments.push(self.input.clone().into());
        Some(arguments)
    }

    /// The options that assemble the text on standard input.
    pub(super) fn to_object(&self) -> Vec<OsString> {
        let has_debug_information = matches!(self.language, Language::C(_));
        let mut arguments = self.options_for(|purpose| match purpose {
            Purpose::Any | Purpose::Assembler => true,
            Purpose::Dependencies | Purpose::Include => false,
            Purpose::Debug => !has_debug_information,
        });
        arguments.extend(["-Qunused-arguments", "-c", "-x", "assembler"].map(OsString::from));
        arguments
    }

    fn options_for(&self, wanted: impl Fn(Purpose) -> bool) -> Vec<OsString> {
        let options = self.options.iter().filter(|option| wanted(option.purpose));
        options.flat_map(|option| &option.arguments).cloned().collect()
    }

    /// What keeps a dependency file as it would be if the object were written by the same command.
    fn dependency_options(&self) -> Vec<OsString> {
        let given = |names: &[&str]| {
            let first = self.options.iter().filter_map(|option| option.arguments[0].to_str());
            first.into_iter().any(|argument| names.iter().any(|name| argument.starts_with(name)))
        };
        let mut options = Vec::new();
        if !given(&["-MD", "-MMD", "-Wp,-MD", "-Wp,-MMD"]) {
            return options;
        }
        if !given(&["-MT", "-MQ"]) {
            options.extend(["-MQ".into(), self.object.clone().into()]);
        }
        if !given(&["-MF", "-Wp,-MD,", "-Wp,-MMD,"]) {
            options.extend(["-MF".into(), self.object.with_extension("d").into()]);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Request {
        Request::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn compilation(line: &str) -> Option<Compilation> {
        match parse(line) {
            Request::Compile(compilation) => Some(compilation),
            _ => None,
        }
    }

    #[test]
    fn a_compilation_of_c_in_two_steps() {
        let line = "-Wp,-MMD,d/.m.o.d -nostdinc -I inc -include k.h --target=x86_64-linux-gnu -fintegrated-as -g -c -o d/m.o s/m.c";
        let compilation = compilation(line).expect("a compilation");
        let text = compilation.to_text().unwrap_or_default().join(OsStr::new(" "));
        assert_eq!(
            text,
            "-Wp,-MMD,d/.m.o.d -nostdinc -I inc -include k.h --target=x86_64-linux-gnu -fintegrated-as -g \
             -MQ d/m.o -S -o - -x c s/m.c"
        );
        let object = compilation.to_object().join(OsStr::new(" "));
        assert_eq!(
            object,
            "-nostdinc -I inc --target=x86_64-linux-gnu -fintegrated-as -Qunused-arguments -c -x assembler"
        );
        assert_eq!(compilation.object, Path::new("d/m.o"));
    }

    #[test]
    fn a_compilation_of_assembly_keeps_debug_and_assembler_options() {
        let compilation = compilation("-MMD -g -Wa,-gdwarf-5 -c d/e.S").expect("a compilation");
        let text = compilation.to_text().unwrap_or_default().join(OsStr::new(" "));
        assert_eq!(text, "-MMD -g -MQ e.o -MF e.d -E -o - -x assembler-with-cpp d/e.S");
        let object = compilation.to_object().join(OsStr::new(" "));
        assert_eq!(object, "-g -Wa,-gdwarf-5 -Qunused-arguments -c -x assembler");
    }

    #[test]
    fn languages() {
        let language = |line: &str| compilation(line).map(|compilation| compilation.language);
        assert_eq!(language("-c a.i"), Some(Language::C("cpp-output")));
        assert_eq!(language("-c -x cpp-output a.tmp"), Some(Language::C("cpp-output")));
        assert_eq!(language("-c -xassembler a.tmp"), Some(Language::Assembly));
        assert_eq!(language("-c a.cc"), None);
    }

    #[test]
    fn what_cannot_be_annotated() {
        let obstacle = |line: &str| compilation(line).and_then(|compilation| compilation.obstacle);
        assert_eq!(obstacle("-m32 -c a.c"), Some(Obstacle::Narrow));
        assert_eq!(obstacle("-target i386-linux -c a.c"), Some(Obstacle::Narrow));
        assert_eq!(obstacle("-flto=thin -c a.c"), Some(Obstacle::Option("-flto")));
        assert_eq!(obstacle("-flto -fno-lto -c a.c"), None);
        assert_eq!(obstacle("-gsplit-dwarf -c a.c"), Some(Obstacle::Option("-gsplit-dwarf")));
    }

    #[test]
    fn everything_else_is_clang_s() {
        for line in [
            "--version",
            "-c -x c /dev/null -o /dev/null",
            "-c -x c -",
            "a.c -o a",
            "-c a.c b.c",
            "-E a.c",
            "-S a.c",
            "-c -v a.c",
            "-### -c a.c",
            "-c -save-temps=obj a.c",
            "-c @file",
            "-c a.c -o",
        ] {
            assert_eq!(parse(line), Request::Other, "{line}");
        }
        assert_eq!(parse("-fno-integrated-as -c a.c"), Request::ExternalAssembler);
    }
}
