//! GNU as's own test suite for x86: the shim has to do with each of its texts what the real
//! assembler does.
//!
//! Exit status, standard output and standard error are the same to the byte, and so is the object
//! where nothing in it is sensitive. The corpus comes from Debian's package `binutils-source`; the
//! part that is needed is unpacked once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use annotate::object::has_records;

/// Where `binutils-source` puts its archive.
const ARCHIVES: &str = "/usr/src/binutils";
/// The part of it that is the corpus.
const PART: &str = "gas/testsuite/gas/i386";
const THREADS: usize = 2;

/// One call of the assembler.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    source: PathBuf,
    options: Vec<String>,
}

#[test]
fn every_text_is_assembled_as_by_the_real_assembler() {
    let corpus = corpus();
    let cases: Vec<Case> = cases(&corpus).into_iter().collect();
    assert!(cases.len() > 1500, "{} holds only {} cases", corpus.display(), cases.len());
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let annotated = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let directory = tempfile::tempdir().expect("a temporary directory");
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match run(case, directory.path()) {
                        Ok(has_records) => drop(annotated.fetch_add(has_records.into(), Ordering::Relaxed)),
                        Err(what) => failures.lock().expect("no thread has panicked").push(format!("{case:?}: {what}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread has panicked");
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(annotated.into_inner() > 100, "next to nothing was annotated");
}

/// Runs both assemblers; tells whether the object holds records, or what differs.
fn run(case: &Case, directory: &Path) -> Result<bool, String> {
    let (plain, plain_object) = assemble(Path::new("as"), case, directory);
    let (shim, object) = assemble(Path::new(env!("CARGO_BIN_EXE_afterburner")), case, directory);
    if shim.status != plain.status {
        return Err(format!("{} instead of {}", shim.status, plain.status));
    }
    for (name, shim, plain) in [("output", &shim.stdout, &plain.stdout), ("errors", &shim.stderr, &plain.stderr)] {
        if shim != plain {
            let [shim, plain] = [shim, plain].map(|text| String::from_utf8_lossy(text).into_owned());
            return Err(format!("{name}: {shim:?} instead of {plain:?}"));
        }
    }
    match (object, plain_object) {
        (None, None) => Ok(false),
        (Some(object), Some(_)) if has_records(&object) => Ok(true),
        (Some(object), Some(plain)) if object == plain => Ok(false),
        (Some(_), Some(_)) => Err("an object without records differs from the plain one".to_owned()),
        (object, _) => Err(format!("there is {} object", if object.is_some() { "an" } else { "no" })),
    }
}

fn assemble(program: &Path, case: &Case, directory: &Path) -> (Output, Option<Vec<u8>>) {
    let object = directory.join("out.o");
    let _ = fs::remove_file(&object);
    let mut command = Command::new(program);
    if program != Path::new("as") {
        command.arg("as");
    }
    let beside = case.source.parent().expect("a file in a directory");
    command.args(&case.options).arg("-I").arg(beside).args(["-o", "out.o"]).arg(&case.source);
    let output = command.current_dir(directory).output().expect("an assembler that can be run");
    (output, fs::read(&object).ok())
}

/// Every text as 64-bit code, and every call that the test suite makes itself.
fn cases(directory: &Path) -> BTreeSet<Case> {
    let mut cases = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("a readable corpus").flatten() {
        let file = entry.path();
        if file.is_dir() {
            cases.append(&mut self::cases(&file));
        } else if file.extension().is_some_and(|extension| extension == "s") {
            cases.insert(Case { source: file, options: vec!["--64".to_owned()] });
        } else if file.extension().is_some_and(|extension| extension == "d") {
            cases.extend(described(&file, directory));
        }
    }
    cases
}

/// The call that a `.d` file describes: `#source:` and `#as:`.
fn described(file: &Path, directory: &Path) -> Option<Case> {
    let text = fs::read(file).ok()?;
    let text = String::from_utf8_lossy(&text);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let source = value("#source:").map_or_else(|| file.with_extension("s"), |name| directory.join(name));
    let options = value("#as:").unwrap_or_default().replace("${srcdir}/$subdir", &directory.to_string_lossy());
    let options = options.split_whitespace().map(str::to_owned).collect();
    Some(Case { source: source.canonicalize().ok()?, options })
}

/// The unpacked corpus.
fn corpus() -> PathBuf {
    let archive = archive();
    let version = archive.file_name().unwrap_or_default().to_string_lossy().replace(".tar.xz", "");
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|cache| cache.is_absolute());
    let cache = cache.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").expect("HOME")).join(".cache"));
    let directory = cache.join("afterburner").join(format!("gas-corpus-{}", version.replace("binutils-", "")));
    if !directory.exists() {
        unpack(&archive, &format!("{version}/{PART}"), &directory);
    }
    directory
}

fn archive() -> PathBuf {
    let files = fs::read_dir(ARCHIVES).into_iter().flatten().flatten().map(|entry| entry.path());
    let archives = files.filter(|path| path.to_string_lossy().ends_with(".tar.xz"));
    archives.max().unwrap_or_else(|| {
        panic!("there is no archive in {ARCHIVES}: install Debian's binutils-source and xz-utils (apt-get install binutils-source xz-utils)")
    })
}

/// Unpacks one directory of the archive, under another name until it is complete.
fn unpack(archive: &Path, part: &str, directory: &Path) {
    let parent = directory.parent().expect("a directory in the cache");
    fs::create_dir_all(parent).expect("a cache that can be written");
    let unfinished = tempfile::tempdir_in(parent).expect("a cache that can be written");
    let levels = part.split('/').count();
    let status = Command::new("tar")
        .args(["--strip-components", &levels.to_string(), "-C"])
        .arg(unfinished.path())
        .arg("-xf")
        .arg(archive)
        .arg(part)
        .status()
        .expect("tar");
    assert!(status.success(), "cannot unpack {} (xz-utils missing?)", archive.display());
    fs::rename(unfinished.path(), directory).expect("a cache that can be written");
}
