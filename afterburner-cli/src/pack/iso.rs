//! An image behind GRUB, on an ISO 9660 file system.
//!
//! `grub-mkrescue` makes one that boots four ways: from CD and from disk, by BIOS and by UEFI. The
//! image is loaded by multiboot 2, which is what works on both; under BIOS there is also the older
//! multiboot. Words behind the file's name are added to the image's own command line.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::atomic;
use crate::tool::Tool;

/// Where GRUB's modules for a platform are.
const PLATFORMS: [(&str, &str); 2] =
    [("/usr/lib/grub/i386-pc", "grub-pc-bin"), ("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin")];

/// The programs that are needed, with the Debian packages that they come from.
const PROGRAMS: [(&str, &str); 3] = [(MKRESCUE, "grub-common"), ("xorriso", "xorriso"), ("mformat", "mtools")];

const MKRESCUE: &str = "grub-mkrescue";

/// What the menu needs; the rest of GRUB would take 20 MB. Of partition maps GRUB tries every kind
/// that it knows, and complains of each that is not there.
const MODULES: &str = "normal multiboot multiboot2 serial terminal echo test all_video iso9660 fat part_gpt part_msdos \
    part_apple part_acorn part_amiga part_bsd part_dfly part_dvh part_plan part_sun part_sunpc";

/// GRUB's menu. A machine without a serial port is left with its own console.
const MENU: &str = "\
insmod all_video
if serial --unit=0 --speed=115200; then
    terminal_input --append serial
    terminal_output --append serial
fi
set timeout=1

menuentry 'Afterburner' {
    multiboot2 /boot/afterburner
}
menuentry 'Afterburner: every site goes through the wedge (afterburn.mode=identity)' {
    multiboot2 /boot/afterburner afterburn.mode=identity
}
menuentry 'Afterburner: every site goes through the wedge and is counted (afterburn.mode=profile)' {
    multiboot2 /boot/afterburner afterburn.mode=profile
}
if [ \"$grub_platform\" = pc ]; then
    menuentry 'Afterburner, loaded by multiboot 1' {
        multiboot /boot/afterburner
    }
fi
";

/// Writes an ISO file with an image.
pub(super) fn write(image: &[u8], output: &Path) -> anyhow::Result<()> {
    let missing = missing();
    ensure!(missing.is_empty(), "--iso needs more programs; Debian has them in {}", missing.join(", "));
    let directory = TempDir::new().context("cannot make a temporary directory")?;
    let root = directory.path().join("root");
    let grub = root.join("boot/grub");
    fs::create_dir_all(&grub)
        .and_then(|()| fs::write(root.join("boot/afterburner"), image))
        .and_then(|()| fs::write(grub.join("grub.cfg"), MENU))
        .with_context(|| format!("cannot write to {}", root.display()))?;
    let iso = directory.path().join("iso");
    make(&root, &iso)?;
    let mut iso = File::open(&iso).with_context(|| iso.display().to_string())?;
    atomic::write(output, |out| io::copy(&mut iso, out).map(drop))
}

/// The Debian packages that are needed and not there.
fn missing() -> Vec<&'static str> {
    let programs = PROGRAMS.iter().filter(|(program, _)| Tool::find(OsStr::new(program)).is_err());
    let platforms = PLATFORMS.iter().filter(|(directory, _)| !Path::new(directory).is_dir());
    programs.chain(platforms).map(|&(_, package)| package).collect()
}

fn make(root: &Path, iso: &Path) -> anyhow::Result<()> {
    let tool = Tool::find(OsStr::new(MKRESCUE))?;
    let modules = format!("--install-modules={MODULES}");
    let options = ["--compress=xz", "--fonts=", "--locales=", "--themes=", &modules, "-o"].map(OsStr::new);
    let command = tool.command(options.into_iter().chain([iso.as_os_str(), root.as_os_str()]));
    let result = tool.output(command)?;
    if !result.status.success() {
        bail!("{MKRESCUE} failed:\n{}", String::from_utf8_lossy(&result.stderr).trim_end());
    }
    Ok(())
}
