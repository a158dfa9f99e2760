//! Files that are there whole or not at all.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// Writes a file under another name beside `path`, then renames it. The permissions are those of any new file.
pub(crate) fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    write_with_mode(path, 0o666, content)
}

/// [`write`] with these permissions, less the umask.
pub(crate) fn write_with_mode(
    path: &Path,
    mode: u32,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let cannot_write = || format!("cannot write {}", path.display());
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new()
        .prefix(".afterburner-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)
        .with_context(cannot_write)?;
    let mut writer = BufWriter::new(file);
    content(&mut writer).with_context(cannot_write)?;
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error).with_context(cannot_write)?;
    file.persist(path).map_err(|error| error.error).with_context(cannot_write)?;
    Ok(())
}
