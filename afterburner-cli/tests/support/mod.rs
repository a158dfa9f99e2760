//! What the tests of the command share: a directory, files in it, and programs run there.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;

use annotate::object::has_records;
use tempfile::TempDir;

/// The command under test.
pub(crate) const AFTERBURNER: &str = env!("CARGO_BIN_EXE_afterburner");

/// A sensitive instruction, in a function.
pub(crate) const SENSITIVE: &str = "\t.globl f\nf:\n\tcli\n\tmovl %eax, %ebx\n\tret\n";

/// None.
pub(crate) const PLAIN: &str = "\t.globl f\nf:\n\tmovl %eax, %ebx\n\tret\n";

/// A directory to work in.
pub(crate) struct Lab {
    directory: TempDir,
}

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Result {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Result {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The result, which has to be a success without a word.
    #[track_caller]
    pub(crate) fn silent_success(self) {
        assert!(self.status.success() && self.stdout.is_empty() && self.stderr.is_empty(), "{self:?}");
    }

    /// The result, which has to be a success.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().expect("a temporary directory") }
    }

    /// A lab with these files.
    pub(crate) fn with(files: &[(&str, &[u8])]) -> Self {
        let lab = Self::new();
        lab.write_all(files);
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    pub(crate) fn write_all(&self, files: &[(&str, impl AsRef<[u8]>)]) {
        for (name, content) in files {
            self.write(name, content);
        }
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn has_records(&self, name: &str) -> bool {
        has_records(&self.read(name))
    }

    /// A command that runs here.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        for variable in
            ["AFTERBURNER_JOURNAL", "KCFLAGS", "KAFLAGS", "LLVM", "LLVM_IAS", "MAKEFLAGS", "MAKELEVEL", "MAKEFILES"]
        {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result {
        Result::of(self.command(program, arguments).output().expect("a program that can be run"))
    }

    /// Runs `afterburner as` and the like.
    pub(crate) fn afterburner(&self, arguments: &[&str]) -> Result {
        self.run(AFTERBURNER, arguments)
    }

    /// A directory that holds the shim under these names.
    pub(crate) fn shims(&self, names: &[&str]) -> PathBuf {
        let directory = self.path("shims");
        fs::create_dir_all(&directory).expect("a directory");
        for name in names {
            std::os::unix::fs::symlink(AFTERBURNER, directory.join(name)).expect("a link");
        }
        directory
    }

    /// A copy of the command under this name, made by another process: what a thread has open for
    /// writing another one's `fork` keeps open until its `exec`, and a program that anybody has
    /// open for writing cannot be executed.
    pub(crate) fn copy_of_the_command(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        let mut install = self.command("install", &["-D", "-m", "755", AFTERBURNER]);
        Result::of(install.arg(&copy).output().expect("install")).silent_success();
        copy
    }

    /// Removes all that is here.
    pub(crate) fn clear(&self) {
        for entry in fs::read_dir(self.directory.path()).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .expect("what can be removed");
        }
    }

    /// All files here, by name.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(self.directory.path(), Path::new(""), &mut files);
        files
    }
}

/// Runs a program on this standard input.
pub(crate) fn feed(mut command: Command, input: &[u8]) -> Result {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a program that can be run");
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    });
    Result::of(output.expect("a program that ends"))
}

fn collect(directory: &Path, prefix: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let name = prefix.join(entry.file_name());
        if entry.path().is_dir() {
            collect(&entry.path(), &name, files);
        } else {
            files.insert(name, fs::read(entry.path()).unwrap_or_default());
        }
    }
}

/// Does the same twice in one place, with the real tool and with ours, and compares what is said,
/// what is returned and what is left behind. Objects with records may differ; returns whether there
/// was one.
#[track_caller]
pub(crate) fn compare(tool: &str, files: &[(&str, &[u8])], input: Option<&[u8]>, arguments: &[&str]) -> bool {
    let lab = Lab::new();
    let run = |mut command: Command| {
        lab.clear();
        lab.write_all(files);
        let result = match input {
            Some(input) => feed(command, input),
            None => Result::of(command.output().expect("a program that can be run")),
        };
        (result, lab.files())
    };
    let (real, theirs) = run(lab.command(tool, arguments));
    let (shim, ours) = run(lab.command(AFTERBURNER, &[&[tool], arguments].concat()));
    assert_eq!(shim, real, "{tool} {arguments:?}");
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{tool} {arguments:?}");
    let (annotated, others): (Vec<_>, Vec<_>) = ours.iter().partition(|(_, content)| has_records(content));
    for (name, content) in others {
        assert!(*content == theirs[name], "{tool} {arguments:?}: {} differs", name.display());
    }
    !annotated.is_empty()
}
