//! Physical memory: which ranges a machine has, and access to what lies in them.

mod pages;

pub use pages::UsablePages;

use core::fmt;
use core::ops::Range;

/// What a range of physical memory is (the numbers are those of the e820 interface: ACPI 6.4, 15,
/// table 15-374).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Free for use.
    Usable = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables, usable once they have been read.
    AcpiTables = 3,
    /// To be saved over sleep.
    AcpiNonVolatile = 4,
    /// Defective.
    Unusable = 5,
}

impl Kind {
    /// The kind with this number; what is unknown is reserved.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            3 => Self::AcpiTables,
            4 => Self::AcpiNonVolatile,
            5 => Self::Unusable,
            _ => Self::Reserved,
        }
    }
}

/// A range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// The byte behind the last.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
}

impl Region {
    const NONE: Self = Self { start: 0, end: 0, kind: Kind::Reserved };
}

/// The ranges of a machine's physical memory, in no particular order until [`MemoryMap::reserve`]
/// has sorted them.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    regions: [Region; Self::CAPACITY],
    length: usize,
}

/// The map has no room for another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRegions;

impl fmt::Display for TooManyRegions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine's memory map has more than {} regions", MemoryMap::CAPACITY)
    }
}

impl core::error::Error for TooManyRegions {}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl MemoryMap {
    /// As many as `boot_params` holds (Linux, `E820_MAX_ENTRIES_ZEROPAGE`).
    pub const CAPACITY: usize = 128;

    /// A map without regions.
    pub const EMPTY: Self = Self { regions: [Region::NONE; Self::CAPACITY], length: 0 };

    /// Adds a region; an empty one is left out.
    ///
    /// # Errors
    ///
    /// When there is no room.
    pub fn add(&mut self, region: Region) -> Result<(), TooManyRegions> {
        if region.start < region.end {
            *self.regions.get_mut(self.length).ok_or(TooManyRegions)? = region;
            self.length += 1;
        }
        Ok(())
    }

    /// The regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.length]
    }

    /// Whether a range lies in one usable region.
    #[must_use]
    pub fn is_usable(&self, range: &Range<u64>) -> bool {
        self.regions()
            .iter()
            .any(|region| region.kind == Kind::Usable && region.start <= range.start && range.end <= region.end)
    }

    /// The first address of a range that is not usable, or of another kind as well.
    #[must_use]
    pub fn first_unusable(&self, range: &Range<u64>) -> Option<u64> {
        let others = self.regions().iter().filter(|region| region.kind != Kind::Usable);
        let other =
            others.filter(|region| overlap(&(region.start..region.end), range)).map(|region| region.start).min();
        let end = other.map_or(range.end, |start| start.max(range.start));
        let mut address = range.start;
        while address < end {
            let around =
                |region: &&Region| region.kind == Kind::Usable && (region.start..region.end).contains(&address);
            match self.regions().iter().find(around) {
                Some(region) => address = region.end,
                None => return Some(address),
            }
        }
        other.map(|_| end)
    }

    /// Takes a range out of the usable regions, and lists it as reserved.
    ///
    /// # Errors
    ///
    /// When there is no room for the pieces.
    pub fn reserve(&mut self, range: &Range<u64>) -> Result<(), TooManyRegions> {
        if range.is_empty() {
            return Ok(());
        }
        let mut pieces = Self::default();
        for region in self.regions() {
            if region.kind == Kind::Usable {
                pieces.add(Region { end: region.end.min(range.start), ..*region })?;
                pieces.add(Region { start: region.start.max(range.end), ..*region })?;
            } else {
                pieces.add(*region)?;
            }
        }
        pieces.add(Region { start: range.start, end: range.end, kind: Kind::Reserved })?;
        pieces.regions[..pieces.length].sort_unstable_by_key(|region| region.start);
        *self = pieces;
        Ok(())
    }

    /// The highest multiple of `alignment` from which on `length` bytes are free: they lie in one
    /// usable region and below `limit`, and overlap neither another kind of region nor what is
    /// `busy`.
    #[must_use]
    pub fn place(
        &self,
        busy: impl Iterator<Item = Range<u64>> + Clone,
        length: u64,
        alignment: u64,
        limit: u64,
    ) -> Option<u64> {
        let of_kind = |usable| self.regions().iter().filter(move |region| (region.kind == Kind::Usable) == usable);
        let taken = busy.chain(of_kind(false).map(|region| region.start..region.end));
        let free = of_kind(true).map(|region| region.start..region.end.min(limit));
        free.filter_map(|free| highest(&free, &taken, length, alignment)).max()
    }
}

/// The highest multiple of `alignment` in a free range at which `length` bytes overlap nothing that
/// is taken.
fn highest(
    free: &Range<u64>,
    taken: &(impl Iterator<Item = Range<u64>> + Clone),
    length: u64,
    alignment: u64,
) -> Option<u64> {
    let mut end = free.end;
    loop {
        let highest = end.checked_sub(length)?;
        let address = highest - highest.checked_rem(alignment)?;
        if address < free.start {
            return None;
        }
        let place = address..address + length;
        match taken.clone().filter(|taken| overlap(taken, &place)).map(|taken| taken.start).min() {
            None => return Some(address),
            Some(start) => end = start,
        }
    }
}

/// Whether two ranges have an address in common.
#[must_use]
pub fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start.max(other.start) < one.end.min(other.end)
}

/// Access to physical memory.
pub trait PhysicalMemory {
    /// The bytes from a physical address on.
    ///
    /// # Errors
    ///
    /// When they are not all memory that may be written.
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory>;

    /// Copies bytes, as if by way of a buffer: the ranges may overlap.
    ///
    /// # Errors
    ///
    /// When those to copy are not all memory, of whatever kind, or those to be written are none
    /// that may be.
    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<(), OutOfMemory>;
}

/// Bytes that stand for physical memory from an address on.
#[derive(Clone, Debug)]
pub struct Buffer<B> {
    /// The address of the first.
    pub start: u64,
    /// All of them.
    pub bytes: B,
}

impl<B: AsMut<[u8]>> Buffer<B> {
    /// Where in the buffer some physical memory is.
    fn place(&mut self, address: u64, length: u64) -> Result<Range<usize>, OutOfMemory> {
        let mut place = || {
            let start = usize::try_from(address.checked_sub(self.start)?).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= self.bytes.as_mut().len()).then_some(start..end)
        };
        place().ok_or(OutOfMemory { address, length })
    }
}

impl<B: AsMut<[u8]>> PhysicalMemory for Buffer<B> {
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory> {
        let place = self.place(address, length)?;
        Ok(&mut self.bytes.as_mut()[place])
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<(), OutOfMemory> {
        let (from, to) = (self.place(from, length)?, self.place(to, length)?);
        self.bytes.as_mut().copy_within(from, to.start);
        Ok(())
    }
}

/// A range that is no memory, or none that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} bytes of memory at {:#x}", self.length, self.address)
    }
}

impl core::error::Error for OutOfMemory {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn map(regions: &[(u64, u64, Kind)]) -> MemoryMap {
        let mut map = MemoryMap::default();
        for (start, end, kind) in regions {
            map.add(Region { start: *start, end: *end, kind: *kind }).unwrap();
        }
        map
    }

    fn regions(map: &MemoryMap) -> Vec<(u64, u64, Kind)> {
        map.regions().iter().map(|region| (region.start, region.end, region.kind)).collect()
    }

    #[test]
    fn an_unknown_kind_is_reserved() {
        for number in 0..10 {
            let expected = if (1..=5).contains(&number) { number } else { 2 };
            assert_eq!(Kind::from_number(number) as u32, expected);
        }
    }

    #[test]
    fn a_map_holds_as_many_regions_as_it_says_and_no_empty_ones() {
        let mut map = MemoryMap::default();
        let region = |start, end| Region { start, end, kind: Kind::Usable };
        for number in 0..MemoryMap::CAPACITY as u64 {
            assert_eq!(map.add(region(number, number + 1)), Ok(()));
        }
        assert_eq!(map.add(region(1000, 1001)), Err(TooManyRegions));
        assert_eq!((map.add(region(7, 7)), map.add(region(8, 7))), (Ok(()), Ok(())));
        assert_eq!(map.regions().len(), MemoryMap::CAPACITY);
        assert_eq!(map.reserve(&(0..1)), Ok(()));
        assert_eq!(map.reserve(&(2000..2001)), Err(TooManyRegions));
        assert_eq!(map.regions().len(), MemoryMap::CAPACITY);
    }

    #[test]
    fn a_reserved_range_is_taken_out_of_what_is_usable_and_listed() {
        use Kind::{AcpiTables, Reserved, Usable};
        let whole = map(&[(50, 60, AcpiTables), (10, 40, Usable)]);
        for (range, expected) in [
            (20..30, &[(10, 20, Usable), (20, 30, Reserved), (30, 40, Usable), (50, 60, AcpiTables)][..]),
            (0..20, &[(0, 20, Reserved), (20, 40, Usable), (50, 60, AcpiTables)]),
            (30..55, &[(10, 30, Usable), (30, 55, Reserved), (50, 60, AcpiTables)]),
            (0..100, &[(0, 100, Reserved), (50, 60, AcpiTables)]),
            (20..20, &[(50, 60, AcpiTables), (10, 40, Usable)]),
            (Range { start: 30, end: 20 }, &[(50, 60, AcpiTables), (10, 40, Usable)]),
        ] {
            let mut map = whole;
            map.reserve(&range).unwrap();
            assert_eq!(regions(&map), expected, "{range:?}");
        }
    }

    #[test]
    fn the_place_found_is_the_highest_that_is_free() {
        use Kind::{Reserved, Usable};
        let map = map(&[(0x1000, 0x9000, Usable), (0xa000, 0xc800, Usable), (0xb000, 0xb800, Reserved)]);
        for (busy, length, alignment, limit, expected) in [
            (&[][..], 0x1000, 0x1000, u64::MAX, Some(0xa000)),
            (&[], 0x1000, 0x800, u64::MAX, Some(0xb800)),
            (&[], 0x1001, 0x800, u64::MAX, Some(0x7800)),
            (&[], 0x8000, 0x1000, u64::MAX, Some(0x1000)),
            (&[], 0x8001, 0x1000, u64::MAX, None),
            (&[], 0x1000, 0x1000, 0x3fff, Some(0x2000)),
            (&[], 0x1000, 0x1000, 0x1fff, None),
            (&[], 1, 0, u64::MAX, None),
            (&[], u64::MAX, 1, u64::MAX, None),
            (&[(0xa000, 0xa001)], 0x1000, 0x1000, u64::MAX, Some(0x8000)),
            (&[(0xa000, 0xa001), (0x8fff, 0x9000), (0x7000, 0x7001)], 0x1000, 0x1000, u64::MAX, Some(0x6000)),
            (&[(0xa800, 0xa800), (0, 0), (0x9000, 0xa000)], 0x1000, 0x1000, u64::MAX, Some(0xa000)),
            (&[(0, u64::MAX)], 1, 1, u64::MAX, None),
        ] {
            let found = map.place(busy.iter().map(|(start, end)| *start..*end), length, alignment, limit);
            assert_eq!(found, expected, "{busy:x?} {length:#x} {alignment:#x} {limit:#x}");
        }
    }

    fn ranges(count: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0..200_u64, 0..60_u64), 0..count)
    }

    proptest! {
        #[test]
        fn reserving_makes_just_that_range_unusable(usable in ranges(5), start in 0..250_u64, length in 0..60_u64) {
            let before: Vec<_> = usable.iter().map(|(start, length)| (*start, start + length, Kind::Usable)).collect();
            let before = map(&before);
            let mut after = before;
            after.reserve(&(start..start + length)).unwrap();
            for address in 0..320 {
                let byte = address..address + 1;
                let reserved = (start..start + length).contains(&address);
                prop_assert_eq!(after.is_usable(&byte), before.is_usable(&byte) && !reserved, "{}", address);
            }
        }

        #[test]
        fn the_first_unusable_address_is_that_of_a_search(
            usable in ranges(5), reserved in ranges(2), start in 0..250_u64, length in 0..60_u64,
        ) {
            let of = |address: u64, ranges: &[(u64, u64)]| {
                ranges.iter().any(|(start, length)| (*start..start + length).contains(&address))
            };
            let regions = |ranges: &[(u64, u64)], kind| -> Vec<_> {
                ranges.iter().map(|(start, length)| (*start, start + length, kind)).collect()
            };
            let map = map(&[regions(&usable, Kind::Usable), regions(&reserved, Kind::AcpiTables)].concat());
            let range = start..start + length;
            let expected = range.clone().find(|address| !of(*address, &usable) || of(*address, &reserved));
            prop_assert_eq!(map.first_unusable(&range), expected);
        }

        #[test]
        fn a_search_byte_by_byte_finds_the_same_place(
            usable in ranges(4), reserved in ranges(3), busy in ranges(4),
            length in 1..20_u64, power in 0..4_u32, limit in 0..300_u64,
        ) {
            let of_kind = |ranges: &[(u64, u64)], kind| -> Vec<_> {
                ranges.iter().map(|(start, length)| (*start, start + length, kind)).collect()
            };
            let map = map(&[of_kind(&usable, Kind::Usable), of_kind(&reserved, Kind::Reserved)].concat());
            let taken: Vec<_> = [reserved, busy.clone()].concat();
            let free = |address: u64| {
                let place = address..address + length;
                place.end <= limit && map.is_usable(&place) && place.into_iter().all(|byte| {
                    taken.iter().all(|(start, length)| !(*start..start + length).contains(&byte))
                })
            };
            let expected = (0..300).rev().filter(|address| address % (1 << power) == 0).find(|address| free(*address));
            let busy = busy.into_iter().map(|(start, length)| start..start + length);
            prop_assert_eq!(map.place(busy, length, 1 << power, limit), expected);
        }
    }
}
