//! What the wedge must know of a kernel and cannot find out at boot, from the kernel's symbols (Linux 6.1, `arch/x86`).

use annotate::object::elf::Place;
use wedge::image::GuestFacts;

use super::kernel::Kernel;
use super::wedge_file::WINDOW;

/// `__START_KERNEL_map` (`include/asm/page_64_types.h`): where physical address 0 is mapped in the kernel's image.
const KERNEL_MAP: u64 = WINDOW.end;

/// `MODULES_END` (`include/asm/pgtable_64_types.h`). Kernels that trace origins of memory (KMSAN) end it earlier; what lies
/// behind holds no text.
const MODULES_END: u64 = 0xffff_ffff_ff00_0000;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;

/// Finds out what the wedge must know of a kernel.
pub(super) fn facts(kernel: &Kernel<'_>) -> anyhow::Result<GuestFacts> {
    Ok(GuestFacts {
        window_entry: physical(kernel, "level3_kernel_pgt")? + index(WINDOW.start, 30) * 8,
        user_window_entry: user_window_entry(kernel)?,
        modules_start: KERNEL_MAP + image_space(kernel)?,
        modules_end: MODULES_END,
    })
}

/// The index of an address in the page-table level whose entries map 2^`shift` bytes.
fn index(address: u64, shift: u32) -> u64 {
    (address >> shift) & 511
}

/// The entry for the upper 512 GB in the page table of user mode. A kernel with page-table isolation has `init_top_pgt` as
/// two pages, of which the second is that of user mode (`PGD_ALLOCATION_ORDER`, `include/asm/pgalloc.h`).
fn user_window_entry(kernel: &Kernel<'_>) -> anyhow::Result<u64> {
    let top = address(kernel, "init_top_pgt")?;
    let addresses = kernel.elf.symbols().filter_map(|symbol| Some(kernel.elf.address(symbol.place?)));
    let next = addresses.filter(|&address| address > top).min().unwrap_or(u64::MAX);
    if next - top < 2 * PAGE {
        return Ok(0);
    }
    Ok(physical(kernel, "init_top_pgt")? + PAGE + index(WINDOW.start, 39) * 8)
}

/// `KERNEL_IMAGE_SIZE`, behind which the modules are: 1 GB where addresses can be randomised, 512 MB otherwise. That is what
/// `level2_kernel_pgt` maps, from the first physical page on, by large pages (`kernel/head_64.S`).
fn image_space(kernel: &Kernel<'_>) -> anyhow::Result<u64> {
    const PRESENT: u64 = 1 << 0;
    const ADDRESS: u64 = 0x000f_ffff_ffe0_0000;
    const NAME: &str = "level2_kernel_pgt";
    let place = place(kernel, NAME)?;
    let bytes = kernel.elf.sections().get(place.section).zip(usize::try_from(place.offset).ok());
    let bytes = bytes.and_then(|(section, offset)| section.bytes.get(offset..)).unwrap_or_default();
    let entries = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).take(512);
    let mapped = entries
        .zip((0..).step_by(2 << 20))
        .take_while(|&(entry, page)| entry & PRESENT != 0 && entry & ADDRESS == page);
    match mapped.count() as u64 {
        0 => Err(kernel.error(format_args!("{NAME} does not map the kernel"))),
        pages => Ok(pages * LARGE_PAGE),
    }
}

fn physical(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<u64> {
    let address = kernel.loaded.physical(address(kernel, name)?);
    address.ok_or_else(|| kernel.error(format_args!("{name} does not lie in the image")))
}

fn address(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<u64> {
    place(kernel, name).map(|place| kernel.elf.address(place))
}

fn place(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<Place> {
    let symbol = kernel.elf.symbols().find(|symbol| symbol.name == name);
    symbol.and_then(|symbol| symbol.place).ok_or_else(|| {
        kernel.error(format_args!("has no symbol {name}; a Linux kernel for x86-64 with its symbol table is needed"))
    })
}
