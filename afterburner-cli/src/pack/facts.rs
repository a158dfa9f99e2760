//! What the wedge must know of a kernel and cannot find out at boot, from the kernel's symbols
//! (Linux 6.1 to 6.12, `arch/x86`).

use std::ops::Range;

use annotate::object::elf::Place;
use wedge::guest::linux::symbol;
use wedge::image::GuestFacts;
use wedge::x86::paging::PAGE;

use super::kernel::Kernel;

const TWO_PAGES: u64 = 2 * PAGE;
const LARGE_PAGE: u64 = 2 << 20;

/// Finds out what the wedge must know of a kernel.
pub(super) fn facts(kernel: &Kernel<'_>) -> anyhow::Result<GuestFacts> {
    let layout = kernel.layout;
    Ok(GuestFacts {
        image: layout.image,
        window_entry: physical(kernel, symbol::POINTERS)? + layout.window_index(3) as u64 * 8,
        user_window_entry: user_window_entry(kernel)?,
        modules_start: layout.image + image_space(kernel)?,
        modules_end: layout.modules_end(),
        stack_switch: address(kernel, symbol::STACK_SWITCH).unwrap_or(0),
    })
}

/// The entry for the 512 GB with the window in the page table of user mode. A kernel with
/// page-table isolation has `init_top_pgt` as two pages, of which the second is that of user mode
/// (`PGD_ALLOCATION_ORDER`, `include/asm/pgalloc.h`). It is filled up to the entry for the kernel's
/// image, which in the lower half is not the last of a page.
fn user_window_entry(kernel: &Kernel<'_>) -> anyhow::Result<u64> {
    const NAME: &str = symbol::ROOT;
    let size = table_size(kernel, NAME)?;
    match size.next_multiple_of(PAGE) {
        PAGE => Ok(0),
        TWO_PAGES => Ok(physical(kernel, NAME)? + PAGE + kernel.layout.window_index(4) as u64 * 8),
        _ => Err(kernel.error(format_args!(
            "{NAME} has {size:#x} bytes, neither a page nor, with page-table isolation, two: which it is cannot be told"
        ))),
    }
}

/// The size of a page table: what its symbol says, or else how far the next symbol is, which may be
/// one page more than need be.
fn table_size(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<u64> {
    let of_symbol = kernel.elf.symbols().find(|symbol| symbol.name == name).map_or(0, |symbol| symbol.size);
    if of_symbol > 0 {
        return Ok(of_symbol);
    }
    let start = address(kernel, name)?;
    let addresses = kernel.elf.symbols().filter_map(|symbol| Some(kernel.elf.address(symbol.place?)));
    let next = addresses.filter(|&address| address > start).min();
    Ok(next.map_or(0, |next| next - start))
}

/// `KERNEL_IMAGE_SIZE`, behind which the modules are: 1 GB where addresses can be randomised, 512
/// MB otherwise. That is what `level2_kernel_pgt` maps, from the first physical page on, by large
/// pages (`kernel/head_64.S`).
pub(super) fn image_space(kernel: &Kernel<'_>) -> anyhow::Result<u64> {
    const PRESENT: u64 = 1 << 0;
    const ADDRESS: u64 = 0x000f_ffff_ffe0_0000;
    const NAME: &str = symbol::DIRECTORY;
    place(kernel, NAME)?;
    let maps = |page: &u64| {
        kernel.word(NAME, *page).is_ok_and(|entry| entry & PRESENT != 0 && entry & ADDRESS == page * LARGE_PAGE)
    };
    match (0..512).take_while(maps).count() as u64 {
        0 => Err(kernel.error(format_args!("{NAME} does not map the kernel"))),
        pages => Ok(pages * LARGE_PAGE),
    }
}

fn physical(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<u64> {
    let address = kernel.loaded.physical(address(kernel, name)?);
    address.ok_or_else(|| kernel.error(format_args!("{name} does not lie in the image")))
}

/// The addresses between two symbols.
pub(super) fn range(kernel: &Kernel<'_>, names: [&str; 2]) -> anyhow::Result<Range<u64>> {
    let [start, end] = names.map(|name| address(kernel, name));
    Ok(start?..end?)
}

fn address(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<u64> {
    place(kernel, name).map(|place| kernel.elf.address(place))
}

pub(super) fn place(kernel: &Kernel<'_>, name: &str) -> anyhow::Result<Place> {
    let symbol = kernel.elf.symbols().find(|symbol| symbol.name == name);
    symbol.and_then(|symbol| symbol.place).ok_or_else(|| {
        kernel.error(format_args!("has no symbol {name}; a Linux kernel for x86-64 with its symbol table is needed"))
    })
}
