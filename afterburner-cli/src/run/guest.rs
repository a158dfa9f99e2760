//! What the guest runs: the initramfs that holds the user's command.
//!
//! It goes over whatever initramfs the image has, and relies on nothing in there: init and the
//! `BusyBox` that runs it are in a directory of its own, `/afterburner`. Only `/dev/console` is
//! outside, without which the kernel starts init with nowhere to print to.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use initramfs::Archive;

use super::console;

/// The word on the kernel's command line that makes it start our init.
pub(crate) const INIT: &str = "rdinit=/afterburner/init";

/// A `BusyBox` that needs no libraries; Debian's package `busybox-static` puts it there.
const BUSYBOX: &str = "/bin/busybox";

/// What init is to do.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The command, for the guest's shell.
    pub(crate) command: Vec<u8>,
    /// Sourced by init before the command.
    pub(crate) before: Option<&'static str>,
    /// Sourced by init after it.
    pub(crate) after: Option<&'static str>,
    /// Programs to be found in `/afterburner`.
    pub(crate) programs: Vec<(&'static str, Vec<u8>)>,
}

impl Script {
    /// The words after `--`, put together as a shell's `eval` does.
    pub(crate) fn new(words: &[std::ffi::OsString]) -> Self {
        let command = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&b' ');
        Self { command, ..Self::default() }
    }

    /// What init puts before its messages.
    pub(crate) fn mark(&self) -> String {
        console::mark(&self.command)
    }

    /// Writes the initramfs. `terminal` says whether somebody can type to the command.
    pub(crate) fn initramfs(&self, terminal: bool) -> anyhow::Result<Vec<u8>> {
        let mut archive = Archive::default()
            .directory("dev")
            .character_device("dev/console", 5, 1)
            .directory("afterburner")
            .file("afterburner/init", 0o755, include_bytes!("../../guest/init"))
            .file("afterburner/busybox", 0o755, &busybox()?)
            .file("afterburner/mark", 0o644, self.mark().as_bytes())
            .file("afterburner/command", 0o644, &[&self.command[..], b"\n"].concat());
        if terminal {
            archive = archive.file("afterburner/terminal", 0o644, &[]);
        }
        for (name, script) in [("before", self.before), ("after", self.after)] {
            if let Some(script) = script {
                archive = archive.file(&format!("afterburner/{name}"), 0o644, script.as_bytes());
            }
        }
        for (name, program) in &self.programs {
            archive = archive.file(&format!("afterburner/{name}"), 0o755, program);
        }
        Ok(archive.finish())
    }
}

fn busybox() -> anyhow::Result<Vec<u8>> {
    let program = match fs::read(BUSYBOX) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("a command in the guest needs {BUSYBOX}, statically linked (Debian: busybox-static)")
        }
        program => program.with_context(|| format!("cannot read {BUSYBOX}"))?,
    };
    static_program(&program, Path::new(BUSYBOX))?;
    Ok(program)
}

/// Refuses a program that the guest, which has no libraries, could not start.
fn static_program(program: &[u8], path: &Path) -> anyhow::Result<()> {
    use object::elf::{FileHeader64, PT_INTERP};
    use object::read::elf::{FileHeader as _, ProgramHeader as _};

    let segments = FileHeader64::<object::Endianness>::parse(program)
        .and_then(|header| Ok((header.endian()?, header.program_headers(header.endian()?, program)?)));
    let (endian, segments) = segments.with_context(|| format!("{} is no 64-bit program", path.display()))?;
    if segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP) {
        bail!("{} is not statically linked (Debian's package busybox-static has one that is)", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_words_become_one_command() {
        let script = Script::new(&["echo".into(), "a b".into(), "c".into()]);
        assert_eq!(script.command, b"echo a b c");
        assert_eq!(script.mark(), Script::new(&["echo a b c".into()]).mark());
        assert_ne!(script.mark(), Script::new(&["true".into()]).mark());
    }

    #[test]
    fn a_program_with_an_interpreter_is_refused() {
        use super::super::input::tests::elf_file;
        let path = Path::new("/bin/busybox");
        let error = static_program(&elf_file(3, 62, &[(3, b"/lib64/ld")]), path).expect_err("an interpreter");
        assert!(error.to_string().starts_with("/bin/busybox is not statically linked"), "{error}");
        assert!(static_program(b"#!/bin/sh", path).is_err());
        assert!(static_program(&elf_file(2, 62, &[(1, b"text")]), path).is_ok());
    }

    /// A shell reads init, which never runs here.
    #[test]
    fn the_scripts_are_scripts() {
        for script in ["init", "profile-before", "profile-after"] {
            let path = format!("{}/guest/{script}", env!("CARGO_MANIFEST_DIR"));
            assert!(Command::new("sh").arg("-n").arg(&path).status().is_ok_and(|status| status.success()), "{path}");
        }
    }
}
