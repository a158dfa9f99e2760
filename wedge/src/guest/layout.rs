//! Where a guest's kernel lies in the address space, and with it the wedge.
//!
//! Linux for x86-64 has always had the upper half to itself: the image 2 GB below the top, modules
//! behind it, and whatever asks "kernel or program?" looks at the sign of an address. A host that
//! runs its guest as one of its own programs (seL4 and the other L4s, a Linux process) has no upper
//! half to give. A kernel for it is linked into the lower half, and keeps its programs in a smaller
//! part of that. So what used to be one fact about Linux is a value here, a [`Layout`], and all
//! that follows from it is derived: where `pack` puts the wedge, which page-table entries lead to
//! it, what `pack` and the wedge believe of a kernel and of its modules, which part of the address
//! space the shadow keeps once for all spaces.
//!
//! What holds of every layout is asserted below, and is why the wedge can serve all of them in the
//! same way. The *window*, in which the wedge lies, ends where the image begins, so that a `jmp
//! rel32` reaches the kernel's text and every module from it, and it from there. It lies in a GB of
//! its own, whose page-table entry the kernel leaves empty. And a branch from code that still runs
//! at its physical address arrives as far below the top of the address space as the window is below
//! the image.
//!
//! `pack` chooses the layout by where the kernel is linked; nobody can be asked, and no other fact
//! of a kernel decides it. A kernel of another layout is refused there, by its address, and once
//! more at boot.
//!
//! # How the wedge gets into another window
//!
//! There is one wedge for all layouts. It is linked as a position-independent executable at address
//! 0, and `pack` moves it into the window that goes with the kernel: it adds the address to each
//! word in the linker's list of relative relocations. What the wedge has to know of its own place
//! is the address of its first byte. The alternatives were worse. One wedge for each layout doubles
//! what is built, shipped and tested, and has `pack` look for the right one. A wedge that moves
//! itself when it starts carries the list, and code that runs before its pointers hold. And it
//! costs nothing: code for x86-64 refers to its data by a distance from RIP whether the linker
//! knows the address or not, so the templates, the stubs and the entry code are the same bytes as
//! those of a wedge that was linked in place. What did compare an address with a constant, which
//! were the gates of exceptions on bare hardware, takes four instructions more.

use core::fmt;
use core::ops::Range;

use super::linux::BEHIND_MODULES;
use crate::image::LOAD_ADDRESS;
use crate::x86::paging::{index, shift};

/// Bytes of the window.
pub const WINDOW_LENGTH: u64 = 16 << 20;

/// How many addresses a slot of the top-level page table covers: 512 GB.
const SLOT: u64 = 1 << shift(4);

/// A part of the address space: slots of the top-level page table that follow each other, in one
/// half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    start: u64,
    length: u64,
}

impl Slots {
    /// From the slot `first` up to `end`, which is none of them.
    ///
    /// # Panics
    ///
    /// When these are not slots of one half.
    #[must_use]
    pub const fn new(first: u16, end: u16) -> Self {
        const HALF: u16 = 256;
        assert!(first < end && end <= 2 * HALF && (first >= HALF || end <= HALF));
        let start = (first as u64 * SLOT) | if first >= HALF { 0xffff << 48 } else { 0 };
        Self { start, length: (end - first) as u64 * SLOT }
    }

    /// Whether a canonical address lies in one of them.
    #[inline]
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.length
    }

    /// The number of the first.
    #[must_use]
    pub const fn first(self) -> usize {
        index(self.start, 4)
    }

    /// The number of the one behind the last.
    #[must_use]
    pub const fn end(self) -> usize {
        index(self.start + (self.length - SLOT), 4) + 1
    }
}

/// Where a kernel lies, and the wedge that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its name.
    pub name: &'static str,
    /// What the kernel has to itself: programs have nothing there, and all address spaces have the
    /// same.
    pub kernel: Slots,
    /// Where the map of the kernel's image begins: physical address 0, were it mapped there (Linux,
    /// `__START_KERNEL_map`, `arch/x86/include/asm/page_64_types.h`).
    pub image: u64,
}

impl Layout {
    /// Linux as it is: the upper half (6.1 to 6.12, `Documentation/x86/x86_64/mm.rst`).
    pub const STANDARD: Self = Self { name: "standard", kernel: Slots::new(256, 512), image: 0xffff_ffff_8000_0000 };

    /// Linux in the lower half. Its programs end at 8 TB, where the kernel's part begins. The image
    /// lies away from where a Linux process, should it be the host, has its stack and libraries.
    pub const LOW: Self = Self { name: "low", kernel: Slots::new(16, 256), image: 0x5fff_8000_0000 };

    /// All that there are.
    pub const ALL: [&'static Self; 2] = [&Self::STANDARD, &Self::LOW];

    /// The layout in which the map of the kernel's image begins at an address.
    #[must_use]
    pub fn of_image(image: u64) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|layout| layout.image == image)
    }

    /// The addresses of the window.
    #[must_use]
    pub const fn window(&self) -> Range<u64> {
        self.image - WINDOW_LENGTH..self.image
    }

    /// The GB that ends with the window: what one table of level 2 maps, and the guest does
    /// without.
    #[must_use]
    pub const fn reserved(&self) -> Range<u64> {
        self.image - (1 << 30)..self.image
    }

    /// The address of the wedge's first byte. The first megabyte of the window shows the first of
    /// memory, which is not the wedge's.
    #[must_use]
    pub const fn wedge(&self) -> u64 {
        self.window().start + LOAD_ADDRESS
    }

    /// The index of the entry that leads to the window, in a page table of a level.
    #[must_use]
    pub const fn window_index(&self, level: u8) -> usize {
        index(self.window().start, level)
    }

    /// Where the modules' range ends (`MODULES_END`, `pgtable_64_types.h`). Kernels that trace
    /// origins of memory (KMSAN) end it earlier; what lies behind holds no text. Where it begins
    /// the kernel says: behind its image's map.
    #[must_use]
    pub const fn modules_end(&self) -> u64 {
        const IMAGE_AND_MODULES: u64 = 2 << 30;
        self.image.wrapping_add(IMAGE_AND_MODULES).wrapping_sub(BEHIND_MODULES as u64)
    }

    /// The addresses behind the modules' range, where the kernel maps single pages for a moment:
    /// the fixmap (`arch/x86/include/asm/fixmap.h`). No stack lies there.
    #[must_use]
    pub const fn fixmap(&self) -> Range<u64> {
        // The last may be the last of all addresses, which is not used.
        self.modules_end()..self.modules_end() + (BEHIND_MODULES as u64 - 1)
    }

    /// Where the kernel's image and its modules are: all that branches from the window reach.
    #[must_use]
    pub const fn text(&self) -> Range<u64> {
        self.image..self.modules_end()
    }

    const fn holds(&self) -> bool {
        const GB: u64 = 1 << 30;
        let window = self.window();
        self.image.is_multiple_of(GB)
            && self.kernel.contains(window.start)
            && self.kernel.contains(self.modules_end())
            && index(window.start, 3) == index(window.end - 1, 3)
            && self.modules_end() - window.start <= 2 * GB
    }
}

/// All layouts, as messages have them: where the maps of images begin.
#[derive(Clone, Copy, Debug)]
pub struct Layouts;

impl fmt::Display for Layouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, layout) in Layout::ALL.into_iter().enumerate() {
            let before = if number == 0 { "" } else { " and " };
            write!(f, "{before}{:#x} ({})", layout.image, layout.name)?;
        }
        Ok(())
    }
}

const _: () = {
    assert!(Layout::STANDARD.holds() && Layout::LOW.holds());
    // The wedge and what is in front of it, by large pages.
    assert!(WINDOW_LENGTH.is_multiple_of(2 << 20) && LOAD_ADDRESS < 2 << 20);
};

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString as _;

    use super::*;

    #[test]
    fn the_kernels_part_is_told_by_the_address() {
        let (standard, low) = (Layout::STANDARD.kernel, Layout::LOW.kernel);
        for (address, of_standard, of_low) in [
            (0, false, false),
            (0x7ff_ffff_f000, false, false),
            (0x800_0000_0000, false, true),
            (0x5fff_8100_0000, false, true),
            (0x7fff_ffff_ffff, false, true),
            (0xffff_8000_0000_0000, true, false),
            (0xffff_ffff_8100_0000, true, false),
            (u64::MAX, true, false),
        ] {
            assert_eq!((standard.contains(address), low.contains(address)), (of_standard, of_low), "{address:#x}");
        }
        assert_eq!((standard.first(), standard.end(), low.first(), low.end()), (256, 512, 16, 256));
    }

    #[test]
    fn a_window_is_where_its_kernels_page_tables_have_room() {
        let [standard, low] = Layout::ALL.map(|layout| [4, 3, 2].map(|level| layout.window_index(level)));
        assert_eq!((standard, low), ([511, 509, 504], [191, 509, 504]));
        assert_eq!(Layout::ALL.map(Layout::wedge), [0xffff_ffff_7f10_0000, 0x5fff_7f10_0000]);
        assert_eq!(Layout::ALL.map(Layout::modules_end), [0xffff_ffff_ff00_0000, 0x5fff_ff00_0000]);
        for layout in Layout::ALL {
            assert_eq!(Layout::of_image(layout.image), Some(layout));
        }
        assert_eq!(Layout::of_image(0x7fff_8000_0000), None);
        assert_eq!(Layouts.to_string(), "0xffffffff80000000 (standard) and 0x5fff80000000 (low)");
    }
}
