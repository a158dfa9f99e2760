//! `afterburner unpack`: what is in an image.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate::record::{RECORD_SIZE, RawRecord};
use anyhow::{Context as _, bail, ensure};
use wedge::image::Payload;

use crate::atomic;
use crate::run::Input;
use crate::verify::read;

/// Take an image apart
///
/// Writes the guest's parts to files: the kernel (vmlinux), which boots by itself, the initramfs,
/// the command line (cmdline), the relocations (vmlinux.relocs), and the sites as a table to be
/// read (sites.txt). A damaged image is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What `afterburner pack` wrote, unless with --iso
    image: PathBuf,
    /// The directory to write to; made if it is not there
    #[arg(short, long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let file = arguments.image.display();
    let data = read(&arguments.image)?;
    let range = match Input::of(&data) {
        Ok(Input::Image { payload, .. }) => payload,
        Ok(Input::Iso) => {
            bail!("{file} is an ISO image; give the ELF image that `afterburner pack` makes without --iso")
        }
        Ok(Input::Kernel) => bail!("{file} is a kernel, not an image"),
        Err(what) => bail!("{file}: {what}"),
    };
    let payload = Payload::check(data.get(range).unwrap_or_default()).with_context(|| file.to_string())?;
    let sites = sites(&payload).with_context(|| file.to_string())?;
    fs::create_dir_all(&arguments.directory).with_context(|| arguments.directory.display().to_string())?;
    let command_line = format!("{}\n", payload.command_line);
    for (name, content) in [
        ("vmlinux", payload.kernel),
        ("vmlinux.relocs", payload.relocations),
        ("initramfs", payload.initramfs),
        ("cmdline", command_line.as_bytes()),
        ("sites.txt", sites.as_bytes()),
    ] {
        if !content.is_empty() {
            write(&arguments.directory.join(name), content)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    atomic::write(path, |out| out.write_all(content))?;
    println!("{}: {} bytes", path.display(), content.len());
    Ok(())
}

/// The sites, one per line.
fn sites(payload: &Payload<'_>) -> anyhow::Result<String> {
    let mut text = String::from("# address          length slot class           live flags, registers; flags\n");
    let (records, rest) = payload.sites.as_chunks::<RECORD_SIZE>();
    ensure!(rest.is_empty(), "the table of sites ends within a record");
    let mut field = payload.sites_address;
    for record in records.iter().map(RawRecord::from_bytes) {
        let site = record.allegation(field.wrapping_add_signed(record.distance()))?;
        field = field.wrapping_add(RECORD_SIZE as u64);
        let (live, registers) = (site.liveness.flags, site.liveness.registers.bits());
        let _ = write!(text, "{:#018x} {:>6} {:>4} {:<14} ", site.address, site.length, site.slot, site.class);
        let _ = writeln!(text, "{} {registers:#06x}; {}", names(live.iter_names()), names(site.flags.iter_names()));
    }
    Ok(text)
}

/// The names of bits.
fn names<T>(bits: impl Iterator<Item = (&'static str, T)>) -> String {
    let names: Vec<&str> = bits.map(|(name, _)| name).collect();
    if names.is_empty() { "-".to_owned() } else { names.join("|") }
}
