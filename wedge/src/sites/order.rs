//! The sites of modules in the order of their addresses.
//!
//! The number of a site is that of its stub, so it cannot change when a site before it comes or
//! goes. The kernel's sites come once, in order, and stay. Those of modules take whatever number is
//! free: their order is a list of its own. By it a site is found by its address, and two sites that
//! overlap are seen to.

use core::ops::Range;

use super::site::Site;

/// Numbers of sites, ordered by address.
#[derive(Debug)]
pub(super) struct Order<'a> {
    numbers: &'a mut [u32],
    count: usize,
}

impl<'a> Order<'a> {
    /// No sites, and room for as many as the list is long.
    pub(super) fn new(numbers: &'a mut [u32]) -> Self {
        Self { numbers, count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn numbers(&self) -> &[u32] {
        self.numbers.get(..self.count).unwrap_or_default()
    }

    /// How many sites lie in front of an address.
    fn before(&self, address: u64, sites: &[Option<Site>]) -> usize {
        self.numbers().partition_point(|number| {
            let site = sites.get(*number as usize).and_then(Option::as_ref);
            site.is_some_and(|site| site.address < address)
        })
    }

    fn at<'s>(&self, place: usize, sites: &'s [Option<Site>]) -> Option<(usize, &'s Site)> {
        let number = *self.numbers().get(place)? as usize;
        Some((number, sites.get(number)?.as_ref()?))
    }

    /// The site that starts at an address.
    pub(super) fn find<'s>(&self, address: u64, sites: &'s [Option<Site>]) -> Option<(usize, &'s Site)> {
        self.at(self.before(address, sites), sites).filter(|(_, site)| site.address == address)
    }

    /// The last site that starts in front of an address.
    pub(super) fn last_before<'s>(&self, address: u64, sites: &'s [Option<Site>]) -> Option<(usize, &'s Site)> {
        self.at(self.before(address, sites).checked_sub(1)?, sites)
    }

    /// Whether a slot has bytes in a range.
    pub(super) fn overlaps(&self, range: &Range<u64>, sites: &[Option<Site>]) -> bool {
        self.last_before(range.end, sites).is_some_and(|(_, site)| site.end() > range.start)
    }

    /// Takes in a site.
    pub(super) fn insert(&mut self, number: usize, address: u64, sites: &[Option<Site>]) {
        let place = self.before(address, sites);
        if let (Ok(number), Some(longer)) = (u32::try_from(number), self.numbers.get_mut(place..=self.count)) {
            longer.rotate_right(1);
            longer[0] = number;
            self.count += 1;
        }
    }

    /// Drops every site whose slot has bytes in a range, unless it is to be kept. Calls `drop` with
    /// the number of each.
    pub(super) fn remove(
        &mut self,
        range: &Range<u64>,
        sites: &mut [Option<Site>],
        keep: impl Fn(&Site) -> bool,
        mut drop: impl FnMut(usize),
    ) {
        let (mut start, end) = (self.before(range.start, sites), self.before(range.end, sites));
        // Slots do not overlap, so at most one reaches into the range from the front.
        let reaches = |place| self.at(place, sites).is_some_and(|(_, site)| site.end() > range.start);
        start -= usize::from(start > 0 && reaches(start - 1));
        let mut kept = start;
        for place in start..end {
            let number = self.numbers[place];
            match sites.get_mut(number as usize) {
                Some(Some(site)) if keep(site) => {
                    self.numbers[kept] = number;
                    kept += 1;
                }
                Some(site) => {
                    *site = None;
                    drop(number as usize);
                }
                None => {}
            }
        }
        self.numbers.copy_within(end..self.count, kept);
        self.count -= end - kept;
    }
}
