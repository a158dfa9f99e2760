//! Objects made of assembler text, in the shape that the assembler stage gives a site.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use annotate::instructions::Class;
use annotate::record::{Flags, UNPADDED_DISPLACEMENT};
use tempfile::TempDir;

/// Opens the note that the records of an object go to; once per text.
pub(crate) const PRELUDE: &str = r#"
.pushsection .note.afterburn,"a",@note
.balign 4
.long 12, 28114f-28113f, 1
.asciz "Afterburner"
28113:
.subsection 1
28114:
.popsection
"#;

/// A site of a class: the instruction, NOPs up to the slot, and its record.
pub(crate) fn site(instruction: &str, class: Class, slot: usize, flags: Flags) -> String {
    let mut text = format!("28110: {instruction}\n28111: .skip {slot} - (28111b - 28110b), 0x90\n28112:\n");
    text.push_str(&record("28110b", "28111b-28110b", "28112b-28110b", class as u8, flags.bits()));
    text
}

/// A padded site without flags.
pub(crate) fn padded(instruction: &str, class: Class) -> String {
    site(instruction, class, 5, Flags::empty())
}

/// A record by itself.
pub(crate) fn record(site: &str, length: &str, slot: &str, class: u8, flags: u16) -> String {
    let mut text = String::from(".pushsection .note.afterburn\n");
    let is_unpadded = Flags::from_bits_retain(flags).intersects(Flags::UNPADDED);
    let site = if is_unpadded { format!("{site}+{UNPADDED_DISPLACEMENT}") } else { site.to_owned() };
    let _ = writeln!(text, ".long {site}-.\n.byte {length},{slot},{class},0x7f\n.short 0xffff,{flags}\n.popsection");
    text
}

/// So many copies of a text, in which `#` is the number.
pub(crate) fn repeated(count: usize, text: &str) -> String {
    (0..count).map(|number| text.replace('#', &number.to_string())).collect()
}

/// A directory to assemble and link in.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Assembles a text, records or not, and returns the object's bytes. The object stays as
    /// `name.o`.
    pub(crate) fn assemble(&self, name: &str, text: &str, options: &[&str]) -> Vec<u8> {
        std::fs::write(self.path(&format!("{name}.s")), text).expect("a text");
        let object = self.path(&format!("{name}.o"));
        let source = format!("{name}.s");
        let mut arguments: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        arguments.extend([OsStr::new("-o"), object.as_os_str(), OsStr::new(&source)]);
        self.run("as", &arguments);
        read(&object)
    }

    /// Runs a tool in the directory.
    pub(crate) fn run(&self, tool: &str, arguments: &[&OsStr]) {
        let output = Command::new(tool).args(arguments).current_dir(self.directory.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{tool}: {error}"));
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a tool in the directory with arguments separated by blanks.
    pub(crate) fn shell(&self, tool: &str, arguments: &str) {
        self.run(tool, &arguments.split_whitespace().map(OsStr::new).collect::<Vec<_>>());
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        read(&self.path(name))
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Assembles a text.
pub(crate) fn assemble(text: &str) -> Vec<u8> {
    Workshop::new().assemble("text", text, &[])
}

/// Assembles a text with records.
pub(crate) fn annotated(text: &str) -> Vec<u8> {
    assemble(&format!("{PRELUDE}{text}"))
}
