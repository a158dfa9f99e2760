//! Where the initramfs goes.
//!
//! It comes in pieces: the one in the image, and whatever modules the boot loader has brought. Linux takes one range of
//! memory, in which archives may follow one another, each at a multiple of four bytes, with zeros between
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`). So several pieces are copied to one place. A single one
//! may stay where it is, unless the kernel is going to be loaded there, and provided that it has its pages to itself:
//! Linux frees the whole of the last page, and complains about a first one that it shares with others (`free_init_pages()`).

use core::fmt;
use core::ops::Range;

use crate::memory::{MemoryMap, OutOfMemory, PhysicalMemory, overlap};

/// Linux's archives start at multiples of this.
const ALIGNMENT: u64 = 4;

const PAGE: u64 = 4096;

/// A copied initramfs lies below this address, which is what `initrd_addr_max` of the boot protocol says in every 64-bit kernel,
/// or, where there is no memory, above it: such a kernel may be loaded there, and reads the upper half of the address, too
/// (Documentation/x86/boot.rst, `XLF_CAN_BE_LOADED_ABOVE_4G`). A domU may have all its memory there.
const LIMIT: u64 = 2 << 30;

/// One archive.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Its physical address.
    pub address: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Piece<'_> {
    /// The physical memory that it takes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.bytes.len() as u64)
    }

    fn pages(&self) -> Range<u64> {
        self.address..self.range().end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
    }
}

/// An initramfs with its place.
#[derive(Clone, Copy, Debug)]
pub struct Initramfs<'a> {
    pieces: &'a [Piece<'a>],
    /// Physical address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Whether it has to be copied there.
    pub copied: bool,
}

/// There is no room for the initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes.
    pub length: u64,
}

impl<'a> Initramfs<'a> {
    /// Finds a place for the pieces, which is not busy, nor in the kernel's extent; `None` if there is no piece.
    ///
    /// # Errors
    ///
    /// When there is no such place.
    pub fn place(
        pieces: &'a [Piece<'a>],
        kernel: &Range<u64>,
        map: &MemoryMap,
        busy: &[Range<u64>],
    ) -> Result<Option<Self>, NoRoom> {
        let length = pieces.iter().fold(0_u64, |end, piece| start_behind(end).saturating_add(piece.bytes.len() as u64));
        let mut filled = pieces.iter().filter(|piece| !piece.bytes.is_empty());
        let alone = match (filled.next(), filled.next()) {
            (None, _) => return Ok(None),
            (Some(piece), None) => Some(piece),
            _ => None,
        };
        if let Some(piece) = alone.filter(|piece| {
            piece.address.is_multiple_of(PAGE) && map.is_usable(&piece.pages()) && !overlap(&piece.pages(), kernel)
        }) {
            let Piece { address, bytes } = *piece;
            return Ok(Some(Self { pieces, address, length: bytes.len() as u64, copied: false }));
        }
        let busy = busy.iter().chain([kernel]).cloned().chain(pieces.iter().map(Piece::range));
        length
            .checked_next_multiple_of(PAGE)
            .and_then(|room| [LIMIT, u64::MAX].into_iter().find_map(|limit| map.place(busy.clone(), room, PAGE, limit)))
            .map(|address| Some(Self { pieces, address, length, copied: true }))
            .ok_or(NoRoom { length })
    }

    /// The physical memory that it takes.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.address..self.address + self.length
    }

    /// Copies the pieces to their place, where that is another.
    ///
    /// # Errors
    ///
    /// When it is not memory; then nothing has been written.
    pub fn load(&self, memory: &mut impl PhysicalMemory) -> Result<(), OutOfMemory> {
        if !self.copied {
            return Ok(());
        }
        let out_of_memory = OutOfMemory { address: self.address, length: self.length };
        let mut rest = memory.bytes(self.address, self.length)?;
        let mut end = 0;
        for piece in self.pieces {
            let start = start_behind(end);
            let padding = usize::try_from(start - end).map_err(|_| out_of_memory)?;
            let (gap, behind) = rest.split_at_mut_checked(padding).ok_or(out_of_memory)?;
            let (to, behind) = behind.split_at_mut_checked(piece.bytes.len()).ok_or(out_of_memory)?;
            gap.fill(0);
            to.copy_from_slice(piece.bytes);
            rest = behind;
            end = start + piece.bytes.len() as u64;
        }
        Ok(())
    }
}

/// Where the next archive starts, behind one that ends at an offset.
const fn start_behind(end: u64) -> u64 {
    end.saturating_add(ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for {} bytes of initramfs", self.length)
    }
}

impl core::error::Error for NoRoom {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::loader::synthetic::Memory;
    use crate::memory::{Kind, Region};

    const KERNEL: Range<u64> = 0x10_0000..0x20_0000;

    /// One usable region: 1 MB to 4 MB.
    fn map() -> MemoryMap {
        let mut map = MemoryMap::default();
        map.add(Region { start: 0x10_0000, end: 0x40_0000, kind: Kind::Usable }).unwrap();
        map
    }

    fn piece(address: u64, bytes: &[u8]) -> Piece<'_> {
        Piece { address, bytes }
    }

    /// Address, length, and whether it is copied.
    fn place(pieces: &[Piece], busy: Range<u64>) -> Result<Option<(u64, u64, bool)>, NoRoom> {
        let initramfs = Initramfs::place(pieces, &KERNEL, &map(), &[busy])?;
        Ok(initramfs.map(|initramfs| (initramfs.address, initramfs.length, initramfs.copied)))
    }

    #[test]
    fn a_single_piece_stays_unless_it_is_in_the_way_or_shares_its_pages() {
        let highest = 0x3f_f000;
        for (address, length, expected) in [
            (0x30_0000, 5, (0x30_0000, 5, false)),
            (0x20_0000, 5, (0x20_0000, 5, false)),
            (0x3f_f000, 4096, (0x3f_f000, 4096, false)),
            // Where the kernel goes, from before it, and at the end of it.
            (0x10_0000, 5, (highest, 5, true)),
            (0x1f_f000, 4097, (0x3f_e000, 4097, true)),
            // Not at the start of a page; in memory that is not the guest's.
            (0x30_0004, 5, (highest, 5, true)),
            (0x0f_f000, 5, (highest, 5, true)),
            (0x40_0000, 5, (highest, 5, true)),
        ] {
            let bytes = std::vec![1; length];
            assert_eq!(place(&[piece(address, &bytes)], 0..0), Ok(Some(expected)), "{address:#x}");
        }
        // Where it is, nothing else can be meant by what is busy.
        assert_eq!(place(&[piece(0x30_0000, &[1])], 0..0x40_0000), Ok(Some((0x30_0000, 1, false))));
    }

    #[test]
    fn memory_above_the_limit_is_for_when_there_is_none_below() {
        let pieces = [piece(0, &[1; 5])];
        let high = Region { start: 5 << 30, end: (5 << 30) + 0x2000, kind: Kind::Usable };
        let mut map = map();
        map.add(high).unwrap();
        let address = |map: &MemoryMap, busy: &[Range<u64>]| {
            Initramfs::place(&pieces, &KERNEL, map, busy).map(|place| place.map(|initramfs| initramfs.address))
        };
        assert_eq!(address(&map, &[]), Ok(Some(0x3f_f000)));
        let low = 0..1 << 30;
        assert_eq!(address(&map, core::slice::from_ref(&low)), Ok(Some(high.start + 0x1000)));
        assert_eq!(address(&map, &[low, high.start..high.end]), Err(NoRoom { length: 5 }));
    }

    #[test]
    fn several_pieces_go_to_the_highest_place_that_is_free() {
        let pieces = [piece(0x3f_f000, &[1; 5]), piece(0x3f_e000, &[2; 3])];
        assert_eq!(place(&pieces, 0..0), Ok(Some((0x3f_d000, 11, true))));
        assert_eq!(place(&pieces, 0x20_0800..0x40_0000), Err(NoRoom { length: 11 }));
        assert_eq!(place(&pieces, 0x20_1000..0x40_0000), Ok(Some((0x20_0000, 11, true))));
    }

    #[test]
    fn without_a_filled_piece_there_is_no_initramfs() {
        assert_eq!(place(&[], 0..0), Ok(None));
        assert_eq!(place(&[piece(0x30_0000, &[]), piece(0, &[])], 0..0), Ok(None));
        assert_eq!(place(&[piece(0, &[]), piece(0x30_0000, &[1])], 0..0), Ok(Some((0x30_0000, 1, false))));
    }

    #[test]
    fn pieces_are_copied_each_to_a_multiple_of_four() {
        let pieces = [piece(0, &[1; 5]), piece(0x10, &[]), piece(0x20, &[2; 4]), piece(0x30, &[3])];
        let initramfs = Initramfs::place(&pieces, &KERNEL, &map(), &[]).unwrap().unwrap();
        let mut memory = Memory::new(initramfs.address, 20);
        initramfs.load(&mut memory).unwrap();
        assert_eq!(memory.bytes, [1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 3, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
        assert_eq!(initramfs.range(), initramfs.address..initramfs.address + 13);
        assert!(initramfs.load(&mut Memory::new(initramfs.address, 12)).is_err());
    }

    proptest! {
        #[test]
        fn a_copied_initramfs_overlaps_nothing(
            starts in prop::collection::vec((0..0x50_0000_u64, 0..0x3000_usize), 0..4),
            busy in prop::collection::vec((0..0x50_0000_u64, 0..0x10_0000_u64), 0..4),
        ) {
            let bytes = std::vec![0; 0x3000];
            let pieces: Vec<_> = starts.iter().map(|(start, length)| piece(*start, &bytes[..*length])).collect();
            let busy: Vec<_> = busy.iter().map(|(start, length)| *start..start + length).collect();
            if let Ok(Some(initramfs)) = Initramfs::place(&pieces, &KERNEL, &map(), &busy) {
                prop_assert!(map().is_usable(&initramfs.range()));
                prop_assert!(!overlap(&initramfs.range(), &KERNEL));
                prop_assert!(initramfs.address.is_multiple_of(PAGE));
                if initramfs.copied {
                    prop_assert!(busy.iter().all(|range| !overlap(range, &initramfs.range())));
                    prop_assert!(pieces.iter().all(|piece| !overlap(&piece.range(), &initramfs.range())));
                    prop_assert_eq!(initramfs.load(&mut Memory::new(0, 0x40_0000)), Ok(()));
                }
            }
        }
    }
}
