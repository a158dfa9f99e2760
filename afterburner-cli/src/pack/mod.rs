//! `afterburner pack`: wedge and guest in one file that boots by itself.
//!
//! What the wedge finds at boot is all decided here, where there is room to think and somebody to
//! read a message: whether the annotations hold ([`kernel`]), what the wedge has to know of this
//! kernel ([`facts`]), where everything lies in memory ([`image`]). The wedge then checks again
//! what it is given ([`wedge::image`], [`wedge::sites`]); so does this command, with the wedge's
//! own code, as its last step. An image that is refused at boot is a damaged one.
//!
//! * [`kernel`]: the vmlinux, read and verified; [`sites`]: its table of sites; [`facts`]: what its
//!   symbols tell.
//! * [`layout`]: whether it lies as the wedge needs it; [`relocations`]: what lets it be moved, if
//!   that is its own.
//! * [`reduced`]: the vmlinux without what is not loaded. [`vdso`]: where programs
//!   ask for the number of their processor. [`payload`]: all that is the guest's, in one piece.
//! * [`wedge_file`]: the wedge, found and checked. [`image`]: both in one ELF file. [`iso`]: that
//!   file behind GRUB. [`change`]: that file for another command.

mod addresses;
pub(crate) mod change;
mod elf_file;
mod facts;
mod image;
mod iso;
mod kernel;
mod layout;
mod payload;
mod reduced;
mod relocations;
mod sites;
mod vdso;
mod wedge_file;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use self::kernel::Kernel;
use self::payload::Contents;
use self::relocations::Relocations;
use self::wedge_file::Wedge;
use crate::atomic;
use crate::verify::read;

/// Make one bootable image of an annotated kernel and the wedge
///
/// The image is an ELF file which QEMU boots with -kernel, GRUB with `multiboot2` or `multiboot`,
/// and any loader that knows PVH. If the kernel is linked into the lower half, Linux starts the
/// image as a program: `IMAGE [--memory MB] [--initrd FILE] [WORD...]`. In it are the wedge, the
/// kernel, the table of its sites, an initramfs and a command line. At boot the wedge finds out
/// what host it is on, rewrites the sites for it, and starts the kernel. Words that the boot loader
/// gives are added to the command line, and its modules to the initramfs.
///
/// A kernel whose annotations do not verify is refused: what is wrong is listed as `afterburner
/// verify` does, and the status is 1. With --iso, what is written is an ISO image in which GRUB
/// boots the image by BIOS or by UEFI; it can be written to a USB stick as it is.
///
/// Words of the command line that are for the wedge: afterburn.backend=bare, xen, process or l4;
/// afterburn.mode=native (the default), identity or profile.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The kernel: the vmlinux that `afterburner build` made, in the top directory of the kernel's
    /// build
    #[arg(long, value_name = "VMLINUX")]
    kernel: PathBuf,
    /// The initramfs, compressed or not
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    cmdline: String,
    /// The kernel's relocations, which let it be moved in virtual memory (KASLR); by default those
    /// of its build, from arch/x86/boot/compressed/vmlinux.relocs or vmlinux.relocs beside it.
    /// Those of another build are refused
    #[arg(long, value_name = "FILE")]
    relocs: Option<PathBuf>,
    /// The wedge; by default the file that `$AFTERBURNER_WEDGE` names, or `afterburner-wedge`
    /// beside this program
    #[arg(long, value_name = "FILE")]
    wedge: Option<PathBuf>,
    /// Write an ISO image for CD or USB stick, which boots the image through GRUB by BIOS and by
    /// UEFI
    #[arg(long)]
    iso: bool,
    /// The file to write
    #[arg(short, long, value_name = "IMAGE")]
    output: PathBuf,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let data = read(&arguments.kernel)?;
    let Some(kernel) = Kernel::verified(&arguments.kernel, &data)? else { return Ok(ExitCode::FAILURE) };
    let wedge = Wedge::find(arguments.wedge.as_deref())?;
    let initramfs = arguments.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
    layout::check(&kernel)?;
    let relocations = Relocations::find(&kernel, arguments.relocs.as_deref())?;
    let contents = Contents::of(&kernel, relocations, initramfs, &arguments.cmdline)?;
    let image = image::write(&wedge, kernel.layout, &contents)?;
    if arguments.iso {
        iso::write(&image.bytes, &arguments.output)?;
    } else {
        atomic::write_program(&arguments.output, |out| out.write_all(&image.bytes))?;
    }
    summarize(arguments, &kernel, &wedge, &contents, &image)?;
    Ok(ExitCode::SUCCESS)
}

fn summarize(
    arguments: &Arguments,
    kernel: &Kernel<'_>,
    wedge: &Wedge,
    contents: &Contents,
    image: &image::Image,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let size = std::fs::metadata(&arguments.output).map_or(image.bytes.len() as u64, |written| written.len());
    let (parameters, extent) = (&image.parameters, &contents.extent);
    let (start, end) = (parameters.load_address, parameters.load_address + image::end_of_arena(parameters));
    writeln!(out, "{}: {size} bytes", arguments.output.display())?;
    writeln!(out, "  wedge        {} bytes, with its arena at {start:#x}-{end:#x}", wedge.size())?;
    writeln!(out, "  kernel       {} bytes, at {:#x}-{:#x}", contents.kernel.len(), extent.start, extent.end)?;
    let (sites, copies) = (contents.sites.count(), contents.sites.copies.len());
    writeln!(out, "  sites        {sites}; the kernel copies replacements to {copies} places")?;
    writeln!(out, "  relocations  {}", contents.relocations)?;
    writeln!(out, "  initramfs    {} bytes", contents.initramfs.len())?;
    writeln!(out, "  command line {}", contents.command_line)?;
    out.flush()?;
    if let Some(complaint) = contents.relocations.complaint() {
        crate::complain(&kernel.error(complaint));
    }
    Ok(())
}
