//! Which pages of physical memory are usable, without a search.
//!
//! Whoever walks a guest's page tables asks that of each table, several times a page fault. A
//! memory map answers by a search through its regions, which takes longer than the walk. So the
//! pages are noted once. Nearly all groups of 512 pages are usable as a whole or not at all; only
//! those in which a region begins or ends have a bitmap of their own, with a bit for each page.

use super::{Kind, MemoryMap};
use crate::x86::paging::{PAGE, index};

/// The size of a group of pages: what an entry of a level-2 page table maps.
const GROUP: u64 = 512 * PAGE;

/// The bitmap of groups without a usable page.
const NONE: u16 = 0;
/// Of groups all of whose pages are in one usable region: they have no bitmap.
const ALL: u16 = u16::MAX;
/// That of [`NONE`], and one for each group in which a region begins or ends.
const BITMAPS: usize = 1 + 2 * MemoryMap::CAPACITY;

/// The usable pages of the first `GROUPS` times 2 MB.
#[derive(Debug)]
pub struct UsablePages<const GROUPS: usize> {
    /// The number of each group's bitmap, or [`ALL`].
    groups: [u16; GROUPS],
    bitmaps: [[u64; 8]; BITMAPS],
    /// How many groups have a bitmap of their own.
    own: u16,
}

impl<const GROUPS: usize> UsablePages<GROUPS> {
    /// No pages.
    #[expect(clippy::large_stack_arrays, reason = "it is the initial value of a static")]
    pub const EMPTY: Self = Self { groups: [NONE; GROUPS], bitmaps: [[0; 8]; BITMAPS], own: 0 };

    /// Notes the pages of a map that are usable as a whole and lie at `from` or above, in place of
    /// those that were noted before.
    pub fn set(&mut self, map: &MemoryMap, from: u64) {
        self.groups.fill(NONE);
        self.own = 0;
        let limit = GROUPS as u64 * GROUP;
        for region in map.regions().iter().filter(|region| region.kind == Kind::Usable) {
            let mut address = region.start.max(from).min(limit).next_multiple_of(PAGE);
            let end = region.end.min(limit) & !(PAGE - 1);
            while address < end {
                let next = end.min((address + 1).next_multiple_of(GROUP));
                self.add(address, next);
                address = next;
            }
        }
    }

    /// Notes pages of one group.
    fn add(&mut self, start: u64, end: u64) {
        let group = Self::group(start);
        if end - start == GROUP {
            self.groups[group] = ALL;
            return;
        }
        if self.groups[group] == NONE {
            self.own += 1;
            self.bitmaps[usize::from(self.own)] = [0; 8];
            self.groups[group] = self.own;
        }
        // There may be none: regions may overlap.
        if let Some(bitmap) = self.bitmaps.get_mut(usize::from(self.groups[group])) {
            for page in index(start, 1)..=index(end - 1, 1) {
                bitmap[page / 64] |= 1 << (page % 64);
            }
        }
    }

    const fn group(address: u64) -> usize {
        (address / GROUP) as usize
    }

    /// Whether the page around an address is one of them.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: u64) -> bool {
        match self.groups.get(Self::group(address)) {
            None => false,
            Some(&ALL) => true,
            Some(&bitmap) => {
                let page = index(address, 1);
                self.bitmaps[usize::from(bitmap)][page / 64] >> (page % 64) & 1 != 0
            }
        }
    }

    /// Whether all pages of the group around an address are, and lie in one region.
    #[must_use]
    #[inline]
    pub fn contains_group(&self, address: u64) -> bool {
        self.groups.get(Self::group(address)) == Some(&ALL)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::Region;
    use super::*;

    const GROUPS: usize = 4;
    type Pages = UsablePages<GROUPS>;

    fn map(regions: &[(u64, u64, Kind)]) -> MemoryMap {
        let mut map = MemoryMap::default();
        for &(start, end, kind) in regions {
            map.add(Region { start, end, kind }).unwrap();
        }
        map
    }

    fn pages(map: &MemoryMap, from: u64) -> Box<Pages> {
        let mut pages = Box::new(Pages::EMPTY);
        pages.set(map, from);
        pages
    }

    /// What the map itself says.
    fn check(pages: &Pages, map: &MemoryMap, from: u64) -> Result<(), TestCaseError> {
        for page in (0..(GROUPS as u64 + 1) * GROUP / PAGE).map(|number| number * PAGE) {
            let usable = page >= from && page < GROUPS as u64 * GROUP && map.is_usable(&(page..page + PAGE));
            for address in [page, page + 8, page + PAGE - 1] {
                prop_assert_eq!(pages.contains(address), usable, "{:#x}", address);
            }
            let group = page & !(GROUP - 1);
            let whole = group >= from && group < GROUPS as u64 * GROUP && map.is_usable(&(group..group + GROUP));
            prop_assert_eq!(pages.contains_group(page), whole, "{:#x}", page);
        }
        Ok(())
    }

    #[test]
    fn nothing_is_usable_where_there_is_no_group() {
        let map = map(&[(0, u64::MAX, Kind::Usable)]);
        let pages = pages(&map, 0);
        for address in [GROUPS as u64 * GROUP, 1 << 52, u64::MAX] {
            assert!(!pages.contains(address) && !pages.contains_group(address), "{address:#x}");
        }
        assert!(pages.contains(GROUPS as u64 * GROUP - 1));
        assert!(!Pages::EMPTY.contains(0) && !Pages::EMPTY.contains_group(0));
    }

    #[test]
    fn there_is_room_for_the_ends_of_all_regions_of_a_map() {
        const MANY: usize = 2 * MemoryMap::CAPACITY;
        let ends = |region: u64| ((2 * region + 1) * GROUP - PAGE, (2 * region + 1) * GROUP + PAGE, Kind::Usable);
        let regions: Vec<_> = (0..MemoryMap::CAPACITY as u64).map(ends).collect();
        let mut pages = Box::new(UsablePages::<MANY>::EMPTY);
        for _ in 0..2 {
            pages.set(&map(&regions), 0);
            for (start, end, _) in &regions {
                assert!([*start, end - PAGE].iter().all(|&page| pages.contains(page)));
                assert!([start - PAGE, *end].iter().all(|&page| !pages.contains(page)));
            }
        }
    }

    proptest! {
        #[test]
        fn a_page_is_usable_as_the_map_says(
            regions in prop::collection::vec(
                (0..GROUP, 0..2 * GROUP, any::<bool>(), prop::sample::select(std::vec![1, PAGE, GROUP / 2])), 0..6),
            from in 0..2_u64,
        ) {
            // In order, and each at multiples of its unit.
            let mut end = 0_u64;
            let regions: Vec<_> = regions.into_iter().map(|(gap, length, usable, unit)| {
                let start = (end + gap).next_multiple_of(unit);
                end = (start + length).next_multiple_of(unit);
                (start, end, if usable { Kind::Usable } else { Kind::Reserved })
            }).collect();
            let map = map(&regions);
            let mut pages = pages(&map, from * (1 << 20));
            check(&pages, &map, from * (1 << 20))?;
            pages.set(&MemoryMap::default(), 0);
            check(&pages, &MemoryMap::default(), 0)?;
        }
    }
}
