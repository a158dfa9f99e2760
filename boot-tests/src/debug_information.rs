//! Debug information and the sites: an object of a kernel, made once more with debug information,
//! has the same text and the same records.
//!
//! With `-g` the compiler's output is full of what assembles to nothing: `.loc` and `.cfi_*`
//! between any two instructions, labels for ranges and for variables' places. A stage that takes
//! two instructions for one site, or knows which registers are dead behind one, must not be led
//! astray by them. GCC promises the same code (gcc(1), `-fcompare-debug`), so whatever differs is
//! ours; unless GNU as alone makes a difference, too, which is looked at then.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind};

use crate::command;
use crate::kernel::{Kernel, afterburner};

/// The kinds of debug information, each for a part of the objects: all of them for each would take
/// minutes.
const KINDS: [&str; 3] = ["-g", "-gdwarf-4", "-gdwarf-5"];

/// What became of the objects with records.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many were compared.
    pub compared: usize,
    /// What differs, by object.
    pub different: BTreeMap<PathBuf, String>,
    /// Objects that plain GNU as makes differently, too.
    pub by_compiler: Vec<PathBuf>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { compared, different, by_compiler } = self;
        write!(f, "{compared} objects compared, {} different, {} by the compiler", different.len(), by_compiler.len())
    }
}

/// How an object of the kernel was made.
#[derive(Debug)]
struct Object {
    /// Relative to the kernel's directory.
    path: PathBuf,
    /// The compiler's command, but for what it writes.
    command: String,
    /// Whether it was made from a text for the assembler.
    assembly: bool,
}

/// Makes every second object of a kernel that has records once more, with debug information, and
/// compares.
///
/// # Errors
///
/// When a tool fails.
pub fn compare(kernel: &Kernel) -> Result<Comparison> {
    let objects: Vec<_> = objects(kernel.directory())?.into_iter().step_by(2).collect();
    let shim = afterburner()?;
    let directory = tempfile::tempdir()?;
    let (next, comparison) = (AtomicUsize::new(0), Mutex::new(Comparison::default()));
    let work = |worker: usize| -> Result<()> {
        let laboratory = Laboratory { kernel, shim: &shim, stem: directory.path().join(worker.to_string()) };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(object) = objects.get(number) else { return Ok(()) };
            let difference = laboratory.difference(object, KINDS[number % KINDS.len()]);
            let difference = difference.with_context(|| object.path.display().to_string())?;
            let by_compiler = difference.is_some() && laboratory.compiler_differs(object)?;
            let mut comparison = comparison.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            comparison.compared += 1;
            match difference {
                Some(_) if by_compiler => comparison.by_compiler.push(object.path.clone()),
                Some(difference) => _ = comparison.different.insert(object.path.clone(), difference),
                None => {}
            }
        }
    };
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(comparison.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The objects of a build that have records, with their commands, which Kbuild keeps beside each.
fn objects(directory: &Path) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    let find = ["-name", ".*.o.cmd", "-printf", "%P\\n"];
    let listed = command::output(Command::new("find").arg(directory).args(find))?;
    for path in listed.lines().map(|path| directory.join(path)) {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        objects.extend(object(&text).filter(|object| has_records(&directory.join(&object.path))));
    }
    objects.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(objects)
}

/// The object that a file of Kbuild's is about, if a compiler made it: `cmd_PATH := COMMAND`, since
/// 6.3 `savedcmd_PATH`.
fn object(text: &str) -> Option<Object> {
    let line = text.lines().next()?;
    let (path, command) = line.strip_prefix("saved").unwrap_or(line).strip_prefix("cmd_")?.split_once(" := ")?;
    // Behind it is objtool's.
    let command = command.split(" ; ").next()?.replace("$$", "$").replace("\\#", "#");
    let (options, source) = command.split_once(&format!(" -c -o {path} "))?;
    let options = options.split(' ').filter(|word| !word.starts_with("-Wp,-MMD,")).collect::<Vec<_>>().join(" ");
    let assembly = Path::new(source.trim_end()).extension().is_some_and(|extension| extension == "S");
    Some(Object { path: path.into(), command: format!("{options} {source}"), assembly })
}

fn has_records(object: &Path) -> bool {
    let Ok(data) = fs::read(object) else { return false };
    object::File::parse(&*data).is_ok_and(|file| file.section_by_name(".note.afterburn").is_some())
}

/// Where objects are made.
struct Laboratory<'a> {
    kernel: &'a Kernel,
    shim: &'a Path,
    /// What the names of files here begin with.
    stem: PathBuf,
}

impl Laboratory<'_> {
    /// What differs between the object of the kernel, which was made without, and the same with
    /// debug information.
    fn difference(&self, object: &Object, kind: &str) -> Result<Option<String>> {
        let text = self.text(object, kind)?;
        let mut shim = Command::new(self.shim);
        let made = self.assembled(shim.arg("as"), &text, object, kind)?;
        let built = self.kernel.directory().join(&object.path);
        Ok(Contents::read(&built)?.difference(&Contents::read(&made)?).map(|what| format!("{kind}: {what}")))
    }

    /// Whether GNU as makes a difference of the compiler's output, too.
    fn compiler_differs(&self, object: &Object) -> Result<bool> {
        let contents = |kind: &str| {
            let text = self.text(object, kind)?;
            Contents::read(&self.assembled(&mut Command::new("as"), &text, object, kind)?)
        };
        Ok(contents("-g0")?.difference(&contents("-g")?).is_some())
    }

    /// What the compiler gives to the assembler.
    fn text(&self, object: &Object, kind: &str) -> Result<PathBuf> {
        let text = self.stem.with_extension("s");
        let output = if object.assembly { "-E" } else { "-S" };
        let command = format!("{} {output} {kind} -o {}", object.command, text.display());
        command::output(Command::new("sh").current_dir(self.kernel.directory()).args(["-c", &command]))?;
        Ok(text)
    }

    /// The object that an assembler makes of a text. The debug information of a text for the
    /// assembler is the assembler's.
    fn assembled(&self, assembler: &mut Command, text: &Path, object: &Object, kind: &str) -> Result<PathBuf> {
        let path = self.stem.with_extension("o");
        let own = (object.assembly && kind != "-g0").then_some("--gdwarf-5");
        assembler.current_dir(self.kernel.directory()).arg("--64").args(own).arg("-o").arg(&path).arg(text);
        command::output(assembler)?;
        Ok(path)
    }
}

/// Text and records of an object: of each section its bytes, and what its relocations refer to.
#[derive(Debug, PartialEq, Eq)]
struct Contents(BTreeMap<String, (Vec<u8>, Vec<String>)>);

impl Contents {
    fn read(path: &Path) -> Result<Self> {
        let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let file = object::File::parse(&*data).with_context(|| path.display().to_string())?;
        let mut sections = BTreeMap::new();
        for section in file.sections() {
            let name = section.name()?;
            if section.kind() != SectionKind::Text && name != ".note.afterburn" {
                continue;
            }
            let target = |target| match target {
                RelocationTarget::Symbol(index) => {
                    let symbol = file.symbol_by_index(index)?;
                    let of_section = symbol.section_index().filter(|_| symbol.kind() == object::SymbolKind::Section);
                    match of_section {
                        Some(section) => file.section_by_index(section)?.name(),
                        None => symbol.name(),
                    }
                }
                _ => Ok("?"),
            };
            let relocations = section.relocations().map(|(offset, relocation)| {
                let target = target(relocation.target())?;
                Ok(format!("{offset:#x} {:?} {target}{:+#x}", relocation.flags(), relocation.addend()))
            });
            let relocations = relocations.collect::<Result<Vec<_>>>()?;
            ensure!(
                sections.insert(name.to_owned(), (section.data()?.to_vec(), relocations)).is_none(),
                "{}: two sections are called {name}",
                path.display()
            );
        }
        Ok(Self(sections))
    }

    /// The first that another object has otherwise.
    fn difference(&self, other: &Self) -> Option<String> {
        let Self(sections) = self;
        if let Some(name) = sections
            .keys()
            .chain(other.0.keys())
            .find(|name| sections.contains_key(*name) != other.0.contains_key(*name))
        {
            return Some(format!("only one has {name}"));
        }
        sections.iter().zip(&other.0).find_map(|((name, (bytes, relocations)), (_, (others, other_relocations)))| {
            if bytes != others {
                let at = bytes
                    .iter()
                    .zip(others)
                    .position(|(one, other)| one != other)
                    .unwrap_or(bytes.len().min(others.len()));
                return Some(format!(
                    "{name}: {} and {} bytes, which differ from {at:#x} on",
                    bytes.len(),
                    others.len()
                ));
            }
            let differ = relocations.iter().zip(other_relocations).find(|(one, other)| one != other);
            differ.map(|(one, other)| format!("{name}: relocations {one} and {other}")).or_else(|| {
                (relocations.len() != other_relocations.len()).then(|| format!("{name}: number of relocations"))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_compilers() {
        let command =
            "gcc -Wp,-MMD,init/.main.o.d -O2 -D'X=\\#' -c -o init/main.o /tree/init/main.c   ; objtool init/main.o";
        for start in ["cmd", "savedcmd"] {
            let found = object(&format!("{start}_init/main.o := {command}\n\nsource_init/main.o := x\n")).unwrap();
            assert_eq!(found.path, Path::new("init/main.o"));
            assert_eq!(found.command.trim_end(), "gcc -O2 -D'X=#' /tree/init/main.c");
            assert!(!found.assembly);
        }
        assert!(object("cmd_a.o := gcc -c -o a.o a.S ; objtool a.o").unwrap().assembly);
        for other in ["cmd_a.o := ld -r -o a.o b.o c.o", "cmd_a.o := rm -f a.o", "deps_a.o := b.h", ""] {
            assert!(object(other).is_none(), "{other}");
        }
    }

    fn contents(text: &str) -> Contents {
        let directory = tempfile::tempdir().unwrap();
        let (source, object) = (directory.path().join("x.s"), directory.path().join("x.o"));
        fs::write(&source, text).unwrap();
        command::output(Command::new("as").arg("-o").arg(&object).arg(&source)).unwrap();
        Contents::read(&object).unwrap()
    }

    #[test]
    fn text_relocations_and_records_are_compared_and_nothing_else() {
        let text =
            "cli\ncall f\n.section .note.afterburn,\"a\",@note\n.long 1b-.\n1:\n.data\n.long 1\n".replace("1b", "1f");
        let plain = contents(&text);
        assert_eq!(plain.0.len(), 2);
        assert_eq!(plain.difference(&contents(&text.replace(".long 1\n", ".long 2\n"))), None);
        for (old, new, what) in [
            ("cli", "sti", ".text: 6 and 6 bytes, which differ from 0x0 on"),
            ("cli", "cli; nop", ".text: 6 and 7 bytes, which differ from 0x1 on"),
            ("call f", "call g", ".text: relocations 0x2 "),
            ("call f", ".byte 0xe8; .long 0", ".text: number of relocations"),
            (".long 1f-.", ".long 1f-.+1", ".note.afterburn: 4 and 4 bytes, which differ from 0x0 on"),
            (".note.afterburn", ".note.afterglow", "only one has .note.afterburn"),
        ] {
            let difference = plain.difference(&contents(&text.replace(old, new))).unwrap();
            assert!(difference.starts_with(what), "{difference}");
        }
    }
}
