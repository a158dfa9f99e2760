//! Xen's own file, found and unpacked, and that of seL4's kernel, found.
//!
//! Debian's package puts it into `/boot`, compressed, and makes it an entry of the boot loader's
//! menu. For those who do not want that, `scripts/xen` puts it into the cache. QEMU does not
//! decompress what it starts by multiboot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::files::Files;
use crate::build::cache;
use crate::tool::Tool;
use crate::verify::read;

/// Finds Xen, where the user says or where it usually is, and decompresses it into `files` if need
/// be.
pub(super) fn hypervisor(given: Option<&Path>, files: &Files) -> anyhow::Result<PathBuf> {
    const GZIP: &[u8] = b"\x1f\x8b"; // RFC 1952, 2.3.1
    let path = given.map_or_else(usual, |given| Ok(given.to_owned()))?;
    if !read(&path)?.starts_with(GZIP) {
        return Ok(path);
    }
    let gzip = Tool::find("gzip".as_ref())?;
    let output = gzip.output({
        let mut command: Command = gzip.command(["-dc"]);
        command.arg(&path);
        command
    })?;
    ensure!(output.status.success(), "cannot decompress {}", path.display());
    files.write("xen", &output.stdout)
}

/// Finds seL4's kernel, where the user says, or where `scripts/sel4` puts it.
pub(super) fn sel4(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(given) => given.to_owned(),
        None => cache()?.join("sel4").join("kernel.elf"),
    };
    ensure!(
        given.is_some() || path.exists(),
        "no seL4: --sel4 names none, and there is no {}; `scripts/sel4` in Afterburner's source builds it",
        path.display()
    );
    let data = read(&path)?;
    ensure!(
        !matches!(object::FileKind::parse(&*data), Ok(object::FileKind::Elf64)),
        "{}: a 64-bit ELF file, which QEMU does not start: `objcopy -O elf32-i386` makes one of 32 bits of it",
        path.display()
    );
    Ok(path)
}

fn usual() -> anyhow::Result<PathBuf> {
    let in_cache = newest(&cache()?.join("xen"), "");
    in_cache.or_else(|| newest(Path::new("/boot"), ".gz")).context(
        "no Xen: --xen names none, and there is no /boot/xen-*.gz; `scripts/xen` in Afterburner's source gets one (Debian: \
         xen-hypervisor-4.17-amd64)",
    )
}

/// The newest Xen in a directory, by the version in its name.
fn newest(directory: &Path, suffix: &str) -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?.strip_prefix("xen-")?.strip_suffix(suffix)?;
        name.split(['.', '-']).map_while(|number| number.parse().ok()).map(Some).collect()
    };
    let paths = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    paths.filter_map(|path| Some((version(&path)?, path))).max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_that_of_the_highest_version() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(newest(directory.path(), ".gz"), None);
        for name in ["xen-4.9-amd64.gz", "xen-4.17-amd64.gz", "xen-4.20-amd64.efi", "vmlinuz-6.1.gz"] {
            fs::write(directory.path().join(name), "").expect("a file");
        }
        assert_eq!(newest(directory.path(), ".gz"), Some(directory.path().join("xen-4.17-amd64.gz")));
    }
}
