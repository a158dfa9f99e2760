//! Where the initramfs goes.
//!
//! It comes in pieces: the one in the image, and whatever modules the boot loader has brought.
//! Linux takes one range of memory, in which archives may follow one another, each at a multiple of
//! four bytes, with zeros between (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//! So several pieces are copied to one place. A single one may stay where it is, unless the kernel
//! is going to be loaded there, and provided that it has its pages to itself: Linux frees the whole
//! of the last page, and complains about a first one that it shares with others
//! (`free_init_pages()`).
//!
//! A boot loader puts modules where it likes, the kernel's place included: GRUB takes the lowest
//! memory that is free. And there may be no room for them beside themselves. So where no other
//! place is free, they are moved to one that they lie in themselves, in two steps: slid together in
//! the order of their addresses, in which none has to pass another, and then exchanged until the
//! order is theirs.

use core::fmt;
use core::ops::Range;

use crate::memory::{MemoryMap, OutOfMemory, PhysicalMemory, overlap};
use crate::x86::paging::PAGE;

/// Linux's archives start at multiples of this.
const ALIGNMENT: u64 = 4;

/// A copied initramfs lies below this address, which is what `initrd_addr_max` of the boot protocol
/// says in every 64-bit kernel, or, where there is no memory, above it: such a kernel may be loaded
/// there, and reads the upper half of the address, too (Documentation/x86/boot.rst,
/// `XLF_CAN_BE_LOADED_ABOVE_4G`). A domU may have all its memory there.
const LIMIT: u64 = 2 << 30;

/// What an initramfs is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Archives<'a> {
    /// The image's own archive, which comes first.
    pub own: &'a [u8],
    /// The physical memory that the boot loader's lie in.
    pub modules: &'a [Range<u64>],
}

impl Archives<'_> {
    /// Each module, with its offset in the initramfs.
    fn modules(&self) -> impl Iterator<Item = (u64, &Range<u64>)> {
        self.modules.iter().scan(self.own.len() as u64, |end, module| {
            let start = start_behind(*end);
            *end = start.saturating_add(length(module));
            Some((start, module))
        })
    }

    /// Bytes of the initramfs.
    fn length(&self) -> u64 {
        self.modules().last().map_or(self.own.len() as u64, |(start, module)| start.saturating_add(length(module)))
    }

    /// The modules that are not empty.
    fn filled(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> {
        self.modules.iter().filter(|module| !module.is_empty())
    }

    /// Whether no byte belongs to two modules.
    fn are_disjoint(&self) -> bool {
        self.modules
            .iter()
            .enumerate()
            .all(|(number, module)| self.modules[..number].iter().all(|other| !overlap(module, other)))
    }

    /// Of modules that are disjoint, the bytes that those in front of an address take when they
    /// stand one behind the other.
    fn in_front(&self, address: u64) -> u64 {
        self.filled().filter(|module| module.start < address).map(block).sum()
    }
}

/// Bytes of a module.
fn length(module: &Range<u64>) -> u64 {
    module.end.saturating_sub(module.start)
}

/// Bytes of a module, and those up to the next one's start.
fn block(module: &Range<u64>) -> u64 {
    start_behind(length(module))
}

/// An initramfs with its place.
#[derive(Clone, Copy, Debug)]
pub struct Initramfs<'a> {
    archives: Archives<'a>,
    /// Physical address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    way: Way,
}

/// How an initramfs comes to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is there.
    Stays,
    /// By copying its pieces, none of which lies there.
    Copied,
    /// By moving its pieces, some of which lie there.
    Moved,
}

/// There is no room for the initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes.
    pub length: u64,
}

impl<'a> Initramfs<'a> {
    /// Finds a place for the archives, which is not busy, nor in the kernel's extent; `None` if
    /// there is no archive.
    ///
    /// # Errors
    ///
    /// When there is no such place.
    pub fn place(
        archives: Archives<'a>,
        kernel: &Range<u64>,
        map: &MemoryMap,
        busy: &[Range<u64>],
    ) -> Result<Option<Self>, NoRoom> {
        let mut filled = archives.filled();
        let alone = match (archives.own, filled.next(), filled.next()) {
            ([], None, _) => return Ok(None),
            ([], Some(module), None) => Some(module),
            _ => None,
        };
        let may_stay = |module: &&Range<u64>| {
            let pages = module.start..module.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            pages.start.is_multiple_of(PAGE) && map.is_usable(&pages) && !overlap(&pages, kernel)
        };
        if let Some(module) = alone.filter(may_stay) {
            return Ok(Some(Self { archives, address: module.start, length: length(module), way: Way::Stays }));
        }
        let length = archives.length();
        let room = length.checked_next_multiple_of(PAGE).ok_or(NoRoom { length })?;
        let busy = busy.iter().chain([kernel]).cloned();
        let copied = |limit| {
            let place = map.place(busy.clone().chain(archives.modules.iter().cloned()), room, PAGE, limit);
            place.map(|address| (address, Way::Copied))
        };
        let moved = |limit| {
            let place = || map.place(busy.clone(), room, PAGE, limit);
            archives.are_disjoint().then(place)?.map(|address| (address, Way::Moved))
        };
        let place = [LIMIT, u64::MAX].into_iter().find_map(|limit| copied(limit).or_else(|| moved(limit)));
        let (address, way) = place.ok_or(NoRoom { length })?;
        Ok(Some(Self { archives, address, length, way }))
    }

    /// The physical memory that it takes.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.address..self.address + self.length
    }

    /// Brings the archives to their place.
    ///
    /// # Errors
    ///
    /// When it is not memory; then nothing has been written. When a module does not lie in memory.
    pub fn load(&self, memory: &mut impl PhysicalMemory) -> Result<(), OutOfMemory> {
        if self.way == Way::Stays {
            return Ok(());
        }
        memory.bytes(self.address, self.length)?;
        if self.way == Way::Moved {
            self.slide(memory)?;
            self.exchange(memory)?;
        } else {
            for (offset, module) in self.archives.modules() {
                memory.copy(module.start, self.address + offset, length(module))?;
            }
        }
        let own = self.archives.own;
        memory.bytes(self.address, own.len() as u64)?.copy_from_slice(own);
        let mut end = own.len() as u64;
        for (start, module) in self.archives.modules() {
            memory.bytes(self.address + end, start - end)?.fill(0);
            end = start + length(module);
        }
        Ok(())
    }

    /// Where the modules' part begins.
    fn modules_start(&self) -> u64 {
        self.address + start_behind(self.archives.own.len() as u64)
    }

    /// Moves the modules together in the order of their addresses. Those that go down, from the
    /// first on, and those that go up, from the last on: so none is moved to where one lies that
    /// has yet to be moved.
    fn slide(&self, memory: &mut impl PhysicalMemory) -> Result<(), OutOfMemory> {
        let archives = &self.archives;
        let place = |module: &Range<u64>| self.modules_start() + archives.in_front(module.start);
        let mut next = archives.filled().min_by_key(|module| module.start);
        while let Some(module) = next {
            if place(module) < module.start {
                memory.copy(module.start, place(module), length(module))?;
            }
            next = archives.filled().filter(|other| other.start > module.start).min_by_key(|other| other.start);
        }
        let mut next = archives.filled().max_by_key(|module| module.start);
        while let Some(module) = next {
            if place(module) > module.start {
                memory.copy(module.start, place(module), length(module))?;
            }
            next = archives.filled().filter(|other| other.start < module.start).max_by_key(|other| other.start);
        }
        Ok(())
    }

    /// Brings modules that have been slid together into their own order: each in turn to the front
    /// of those that follow it.
    fn exchange(&self, memory: &mut impl PhysicalMemory) -> Result<(), OutOfMemory> {
        let mut start = self.modules_start();
        for (number, module) in self.archives.modules.iter().enumerate().filter(|(_, module)| !module.is_empty()) {
            let behind = Archives { modules: &self.archives.modules[number..], ..self.archives };
            let distance = behind.in_front(module.start);
            if distance > 0 {
                let passed = memory.bytes(start, distance + block(module))?;
                passed.rotate_right(usize::try_from(block(module)).unwrap_or(0));
            }
            start += block(module);
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
        write!(
            f,
            "no room for {} bytes of initramfs in one piece: it must be smaller, or the memory larger",
            self.length
        )
    }
}

impl core::error::Error for NoRoom {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::synthetic::poisoned;
    use crate::memory::{Kind, Region};

    const KERNEL: Range<u64> = 0x10_0000..0x20_0000;

    /// One usable region: 1 MB to 4 MB.
    fn map() -> MemoryMap {
        let mut map = MemoryMap::default();
        map.add(Region { start: 0x10_0000, end: 0x40_0000, kind: Kind::Usable }).unwrap();
        map
    }

    fn module(address: u64, length: u64) -> Range<u64> {
        address..address + length
    }

    fn try_place<'a>(
        own: &'a [u8],
        modules: &'a [Range<u64>],
        busy: &[Range<u64>],
    ) -> Result<Option<Initramfs<'a>>, NoRoom> {
        Initramfs::place(Archives { own, modules }, &KERNEL, &map(), busy)
    }

    /// Address, length, and how it comes there.
    fn place(modules: &[Range<u64>], busy: Range<u64>) -> Result<Option<(u64, u64, Way)>, NoRoom> {
        let initramfs = try_place(&[], modules, &[busy])?;
        Ok(initramfs.map(|initramfs| (initramfs.address, initramfs.length, initramfs.way)))
    }

    #[test]
    fn a_single_module_stays_unless_it_is_in_the_way_or_shares_its_pages() {
        use Way::{Copied, Stays};
        let highest = 0x3f_f000;
        for (address, length, expected) in [
            (0x30_0000, 5, (0x30_0000, 5, Stays)),
            (0x20_0000, 5, (0x20_0000, 5, Stays)),
            (0x3f_f000, 4096, (0x3f_f000, 4096, Stays)),
            // Where the kernel goes, from before it, and at the end of it.
            (0x10_0000, 5, (highest, 5, Copied)),
            (0x1f_f000, 4097, (0x3f_e000, 4097, Copied)),
            // Not at the start of a page; in memory that is not the guest's.
            (0x30_0004, 5, (highest, 5, Copied)),
            (0x0f_f000, 5, (highest, 5, Copied)),
            (0x40_0000, 5, (highest, 5, Copied)),
        ] {
            assert_eq!(place(&[module(address, length)], 0..0), Ok(Some(expected)), "{address:#x}");
        }
    }

    #[test]
    fn memory_above_the_limit_is_for_when_there_is_none_below() {
        let archives = Archives { own: &[1; 5], modules: &[] };
        let high = Region { start: 5 << 30, end: (5 << 30) + 0x2000, kind: Kind::Usable };
        let mut map = map();
        map.add(high).unwrap();
        let address = |map: &MemoryMap, busy: &[Range<u64>]| {
            Initramfs::place(archives, &KERNEL, map, busy).map(|place| place.map(|initramfs| initramfs.address))
        };
        assert_eq!(address(&map, &[]), Ok(Some(0x3f_f000)));
        let low = 0..1 << 30;
        assert_eq!(address(&map, core::slice::from_ref(&low)), Ok(Some(high.start + 0x1000)));
        assert_eq!(address(&map, &[low, high.start..high.end]), Err(NoRoom { length: 5 }));
    }

    #[test]
    fn several_modules_go_to_the_highest_place_that_is_free_and_else_to_where_they_are() {
        let modules = [module(0x3f_f000, 5), module(0x3f_e000, 3)];
        assert_eq!(place(&modules, 0..0), Ok(Some((0x3f_d000, 11, Way::Copied))));
        assert_eq!(place(&modules, 0x20_1000..0x3f_e000), Ok(Some((0x20_0000, 11, Way::Copied))));
        assert_eq!(place(&modules, 0x20_0800..0x3f_e000), Ok(Some((0x3f_f000, 11, Way::Moved))));
        assert_eq!(place(&modules, 0x20_0800..0x40_0000), Err(NoRoom { length: 11 }));
        // The same bytes twice would have to be at two places.
        let twice = [module(0x3f_f000, 5), module(0x3f_f004, 5)];
        assert_eq!(place(&twice, 0x20_0800..0x3f_f000), Err(NoRoom { length: 13 }));
    }

    #[test]
    fn without_a_filled_archive_there_is_no_initramfs() {
        assert_eq!(place(&[], 0..0), Ok(None));
        assert_eq!(place(&[module(0x30_0000, 0), module(0, 0)], 0..0), Ok(None));
        assert_eq!(place(&[module(0, 0), module(0x30_0000, 1)], 0..0), Ok(Some((0x30_0000, 1, Way::Stays))));
    }

    #[test]
    fn archives_are_copied_each_to_a_multiple_of_four() {
        let modules = [module(0x3f_e010, 0), module(0x3f_e020, 4), module(0x3f_e031, 1)];
        let initramfs = try_place(&[1; 5], &modules, &[]).unwrap().unwrap();
        assert_eq!(initramfs.range(), 0x3f_f000..0x3f_f00d);
        let mut memory = poisoned(0x3f_e000, 0x1014);
        memory.bytes[0x20..0x24].fill(2);
        memory.bytes[0x31] = 3;
        initramfs.load(&mut memory).unwrap();
        let expected = [1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 3, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee];
        assert_eq!(memory.bytes[0x1000..], expected);
        assert!(initramfs.load(&mut poisoned(initramfs.address, 12)).is_err());
        assert!(initramfs.load(&mut poisoned(initramfs.address, 20)).is_err(), "no module there");
    }
}
