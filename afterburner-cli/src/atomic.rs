//! Files that are there whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// Writes a file under another name beside `path`, then renames it. What is no file, a device or a
/// pipe, is written to and not replaced.
pub(crate) fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    write_with(path, 0o666, content)
}

/// Writes a program in this way: whoever may read it may execute it.
pub(crate) fn write_program(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    write_with(path, 0o777, content)
}

fn write_with(
    path: &Path,
    permissions: u32,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_special = fs::metadata(&path).is_ok_and(|existing| !existing.is_file());
    let written = if is_special { write_through(&path, content) } else { replace(&path, permissions, content) };
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_through(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::new(File::options().write(true).open(path)?);
    content(&mut writer)?;
    writer.flush()
}

/// The permissions are those of any new file or program.
fn replace(path: &Path, permissions: u32, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let permissions = Permissions::from_mode(permissions);
    let file = tempfile::Builder::new().prefix(".afterburner-").permissions(permissions).tempfile_in(directory)?;
    let mut writer = BufWriter::new(file);
    content(&mut writer)?;
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, symlink};
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("file");
        write(&path, |out| out.write_all(b"first"))?;
        assert!(write(&path, |out| out.write_all(b"sec").and(Err(io::Error::other("full")))).is_err());
        assert_eq!(fs::read(&path)?, b"first");
        let link = directory.path().join("link");
        symlink(&path, &link)?;
        write(&link, |out| out.write_all(b"second"))?;
        assert_eq!(fs::read(&path)?, b"second");
        assert_eq!(fs::read_dir(directory.path())?.count(), 2);
        Ok(())
    }

    #[test]
    fn a_program_can_be_executed_and_a_file_cannot() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let mode = |name: &str| fs::metadata(directory.path().join(name)).map(|file| file.permissions().mode() & 0o111);
        write(&directory.path().join("file"), |out| out.write_all(b"text"))?;
        write_program(&directory.path().join("program"), |out| out.write_all(b"text"))?;
        assert_eq!((mode("file")?, mode("program")? & 0o100), (0, 0o100));
        Ok(())
    }

    #[test]
    fn a_pipe_stays_a_pipe() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status()?.success());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read(path)
        });
        write(&path, |out| out.write_all(b"text"))?;
        assert!(reader.join().is_ok_and(|read| read.is_ok_and(|text| text == b"text")));
        assert!(fs::metadata(&path)?.file_type().is_fifo());
        Ok(())
    }
}
