//! Whether a kernel lies as the wedge takes it to lie (Linux 6.1 to 6.12, `arch/x86`).
//!
//! What the wedge does not know about a kernel it takes for granted: that the image is mapped where
//! Linux has mapped it since there is an x86-64, that it can be moved by large pages, that one
//! entry of its page tables is free, that modules begin where the image may not reach. A kernel of
//! which that is not true would boot into anything, some way behind the wedge's last word. So it is
//! refused here, where somebody reads why.

use annotate::linux::tables::{ALTERNATIVES, alternatives};
use anyhow::ensure;
use wedge::guest::linux::symbol::{DIRECTORY, ENTRY, POINTERS, ROOT};
use wedge::loader::elf::STEP;
use wedge::x86::paging::PAGE;
use wedge::x86::paging::entry::{ADDRESS, PRESENT};

use super::facts::{image_space, place};
use super::kernel::Kernel;

/// Linux's `KERNEL_IMAGE_SIZE`, without and with `CONFIG_RANDOMIZE_BASE`
/// (`include/asm/page_64_types.h`).
const IMAGE_SPACES: [u64; 2] = [512 << 20, 1 << 30];

/// Refuses a kernel that the wedge cannot serve.
pub(super) fn check(kernel: &Kernel<'_>) -> anyhow::Result<()> {
    check_place(kernel)?;
    check_entry(kernel)?;
    check_sites(kernel)?;
    check_tables(kernel)?;
    check_alternatives(kernel)
}

/// Where it is to be loaded, and what it has mapped there. Where it is linked its layout says
/// (`kernel.rs`).
fn check_place(kernel: &Kernel<'_>) -> anyhow::Result<()> {
    let physical = kernel.loaded.extent();
    ensure!(
        physical.start.is_multiple_of(STEP),
        kernel.error(format_args!(
            "is to be loaded at {:#x}, which is no multiple of {STEP:#x}: it cannot be moved by large pages",
            physical.start
        ))
    );
    let space = image_space(kernel)?;
    ensure!(
        IMAGE_SPACES.contains(&space),
        kernel.error(format_args!(
            "level2_kernel_pgt maps {space:#x} bytes for its image, not {:#x} or {:#x}: where its modules are is not known",
            IMAGE_SPACES[0], IMAGE_SPACES[1]
        ))
    );
    ensure!(
        physical.end <= space,
        kernel.error(format_args!(
            "ends at {:#x}, behind the {space:#x} bytes that level2_kernel_pgt maps for its image",
            physical.end
        ))
    );
    Ok(())
}

/// The wedge enters it as a bzImage's decompressor does.
fn check_entry(kernel: &Kernel<'_>) -> anyhow::Result<()> {
    let Ok(startup) = place(kernel, ENTRY) else { return Ok(()) };
    let (entry, startup) = (kernel.loaded.entry(), kernel.loaded.physical(kernel.elf.address(startup)));
    ensure!(
        startup == Some(entry),
        kernel
            .error(format_args!("its entry point, {entry:#x}, is not its {ENTRY}, by which the wedge would enter it"))
    );
    Ok(())
}

/// All sites are in the image: from elsewhere no branch reaches the window.
fn check_sites(kernel: &Kernel<'_>) -> anyhow::Result<()> {
    let linked = kernel.loaded.virtual_extent();
    let outside = kernel.report.sites.iter().find(|site| !linked.contains(&site.site.address));
    match outside {
        None => Ok(()),
        Some(site) => Err(kernel.error(format_args!(
            "{}: the site at {:#x} is outside the image, {:#x}-{:#x}, and from there no branch reaches the wedge",
            site.location, site.site.address, linked.start, linked.end
        ))),
    }
}

/// The entry that the window goes into is free, and the one behind it leads to what maps the image.
fn check_tables(kernel: &Kernel<'_>) -> anyhow::Result<()> {
    for name in [POINTERS, DIRECTORY, ROOT] {
        let address = kernel.elf.address(place(kernel, name)?);
        ensure!(
            address.is_multiple_of(PAGE),
            kernel.error(format_args!("{name} lies at {address:#x}, where no page begins"))
        );
    }
    let entry = kernel.layout.window_index(3) as u64;
    let [window, image] = [entry, entry + 1].map(|entry| kernel.word(POINTERS, entry));
    let (window, image) = (window?, image?);
    ensure!(
        window == 0,
        kernel.error(format_args!(
            "entry {entry} of {POINTERS} is {window:#x}, not free: the wedge's window cannot go there"
        ))
    );
    let directory = kernel.loaded.physical(kernel.elf.address(place(kernel, DIRECTORY)?));
    ensure!(
        image & PRESENT == 0 || Some(image & ADDRESS) == directory,
        kernel.error(format_args!(
            "entry {} of {POINTERS} is {image:#x}, which does not lead to {DIRECTORY}: what maps its image is not known",
            entry + 1
        ))
    );
    Ok(())
}

/// The table that says where replacements are copied to can be read.
fn check_alternatives(kernel: &Kernel<'_>) -> anyhow::Result<()> {
    let size = kernel.elf.section_named(ALTERNATIVES).map_or(0, |(_, section)| section.size);
    ensure!(
        size == 0 || !alternatives(&kernel.elf).is_empty(),
        kernel.error(format_args!(
            "{ALTERNATIVES}: its {size} bytes are neither entries of 12 bytes (Linux 6.1) nor of 14 (since 6.3)"
        ))
    );
    Ok(())
}
