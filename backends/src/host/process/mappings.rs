//! What Linux has mapped for the guest, as a cache of the soft tables.
//!
//! The shadow's tables are plain memory here ([`tables`](super::tables)), which no processor reads.
//! What the guest accesses has to be mapped by Linux, and so Linux's mappings are to the soft
//! tables what a TLB is to real ones. They are made when an access faults, and dropped when an
//! entry changes. As a TLB has so many places, so a process may have so many mappings
//! (`vm.max_map_count`): when they could be used up, all are dropped, and made anew as they are
//! needed.
//!
//! How many there are is not asked of Linux, which joins neighbours: each change is counted as what
//! it may cost at most.

use core::ops::Range;

use linux_raw_sys::general as raw;

/// What may be done with a page, beside reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) writable: bool,
    pub(super) executable: bool,
}

/// A range of addresses to be mapped from the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The first virtual address.
    pub(super) address: u64,
    /// Bytes.
    pub(super) length: u64,
    /// Where in the guest's memory.
    pub(super) physical: u64,
    pub(super) rights: Rights,
}

impl Mapping {
    /// The rights as `mmap(2)` takes them. What is mapped can be read.
    pub(super) const fn protection(&self) -> u32 {
        raw::PROT_READ
            | if self.rights.writable { raw::PROT_WRITE } else { 0 }
            | if self.rights.executable { raw::PROT_EXEC } else { 0 }
    }

    /// Whether another follows on it in both numberings, with the same rights.
    fn goes_on_with(&self, other: &Self) -> bool {
        self.address + self.length == other.address
            && self.physical + self.length == other.physical
            && self.rights == other.rights
    }

    /// What of it lies at an address or above; `None` if nothing does.
    pub(super) fn from(self, lowest: u64) -> Option<Self> {
        let skip = lowest.saturating_sub(self.address);
        (skip < self.length).then(|| Self {
            address: self.address + skip,
            length: self.length - skip,
            physical: self.physical + skip,
            ..self
        })
    }
}

/// Joins mappings, in the order of their addresses, where one goes on with the next.
pub(super) fn joined(mappings: impl Iterator<Item = Mapping>) -> impl Iterator<Item = Mapping> {
    let mut rest = mappings.peekable();
    core::iter::from_fn(move || {
        let mut first = rest.next()?;
        while let Some(next) = rest.next_if(|next| first.goes_on_with(next)) {
            first.length += next.length;
        }
        Some(first)
    })
}

/// How many mappings a process may have, and how many it has at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    limit: u32,
    used: u32,
}

impl Budget {
    /// With so many in all.
    pub(super) const fn new(limit: u32) -> Self {
        Self { limit, used: 0 }
    }

    /// One more range is mapped or unmapped: it may split the one that it is a part of. Whether
    /// there is room for that.
    pub(super) fn take(&mut self) -> bool {
        const EACH: u32 = 2;
        let room = self.used + EACH <= self.limit;
        self.used += if room { EACH } else { 0 };
        room
    }

    /// All have been dropped.
    pub(super) fn reset(&mut self) {
        self.used = 0;
    }

    /// Whether there may be any.
    pub(super) const fn is_used(self) -> bool {
        self.used != 0
    }
}

/// Ranges that a process must not have mapped any more when it runs next.
#[derive(Clone, Debug)]
pub(super) struct Stale {
    ranges: [Range<u64>; Self::CAPACITY],
    count: usize,
    all: bool,
}

impl Stale {
    /// Beyond that, everything is dropped.
    pub(super) const CAPACITY: usize = 32;

    /// None.
    pub(super) const NONE: Self = Self { ranges: [const { 0..0 }; Self::CAPACITY], count: 0, all: false };

    /// Adds a range, and joins it with the last if they touch.
    pub(super) fn add(&mut self, range: Range<u64>) {
        if let Some(last) = self.ranges[..self.count].last_mut()
            && last.start <= range.end
            && range.start <= last.end
        {
            *last = last.start.min(range.start)..last.end.max(range.end);
            return;
        }
        match self.ranges.get_mut(self.count) {
            Some(place) => {
                *place = range;
                self.count += 1;
            }
            None => self.all = true,
        }
    }

    /// All of it, or everything if there is more than is kept. Nothing is stale afterwards.
    pub(super) fn take(&mut self) -> Option<([Range<u64>; Self::CAPACITY], usize)> {
        let taken = core::mem::replace(self, Self::NONE);
        (!taken.all).then_some((taken.ranges, taken.count))
    }

    /// Whether there is none.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0 && !self.all
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::vec::Vec;

    use super::*;

    pub(in super::super) const NONE: Rights = Rights { writable: false, executable: false };
    pub(in super::super) const WRITABLE: Rights = Rights { writable: true, executable: false };

    pub(in super::super) const fn mapping(address: u64, length: u64, physical: u64, rights: Rights) -> Mapping {
        Mapping { address, length, physical, rights }
    }

    #[test]
    fn mappings_are_joined_where_linux_would_join_them() {
        let pages = [
            mapping(0x1000, 0x1000, 0x5000, WRITABLE),
            mapping(0x2000, 0x1000, 0x6000, WRITABLE),
            mapping(0x3000, 0x1000, 0x7000, NONE),
            mapping(0x4000, 0x1000, 0x9000, NONE),
            mapping(0x6000, 0x1000, 0xb000, NONE),
        ];
        let found: Vec<_> = joined(pages.into_iter()).collect();
        assert_eq!(found, [mapping(0x1000, 0x2000, 0x5000, WRITABLE), pages[2], pages[3], pages[4]]);
    }

    #[test]
    fn what_lies_too_low_is_cut_off() {
        let whole = mapping(0, 0x20_0000, 0x40_0000, NONE);
        assert_eq!(whole.from(0x1_0000), Some(mapping(0x1_0000, 0x1f_0000, 0x41_0000, NONE)));
        assert_eq!(mapping(0x1000, 0x1000, 0, NONE).from(0x1_0000), None);
        assert_eq!(mapping(0x1_0000, 0x1000, 0, NONE).from(0x1_0000), Some(mapping(0x1_0000, 0x1000, 0, NONE)));
    }

    #[test]
    fn rights_are_those_of_the_entry() {
        for (writable, executable, protection) in
            [(false, false, 1), (true, false, 3), (false, true, 5), (true, true, 7)]
        {
            assert_eq!(mapping(0, 1, 0, Rights { writable, executable }).protection(), protection);
        }
    }

    #[test]
    fn a_budget_is_never_exceeded() {
        let mut budget = Budget::new(5);
        assert!(!budget.is_used());
        assert_eq!([budget.take(), budget.take(), budget.take()], [true, true, false]);
        assert!(budget.is_used());
        budget.reset();
        assert!(budget.take());
    }

    #[test]
    fn stale_ranges_are_all_told_or_everything_is_stale() {
        let mut stale = Stale::NONE;
        assert!(stale.is_empty());
        for page in [4, 5, 9] {
            stale.add(page << 12..(page + 1) << 12);
        }
        assert!(!stale.is_empty());
        let (ranges, count) = stale.take().unwrap();
        assert_eq!(&ranges[..count], [0x4000..0x6000, 0x9000..0xa000]);
        assert!(stale.is_empty());
        for page in 0..=Stale::CAPACITY as u64 {
            stale.add(page << 13..(page << 13) + 0x1000);
        }
        assert!(!stale.is_empty());
        assert!(stale.take().is_none());
    }
}
