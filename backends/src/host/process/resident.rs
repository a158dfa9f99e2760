//! What of the current space's own part is mapped in this process: what the kernel has read and
//! written of its program's memory, and all that the program needs where it runs here, too.
//!
//! It is known as long as it is not much, for the next change of spaces
//! ([`switch`](super::switch)).

use core::ops::Range;

use super::mappings::{Mapping, Rights};

/// What a space has had mapped of its own part in the process of the kernel since it was entered,
/// or when it was left last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    /// And whether all of it is still mapped, if any is.
    mappings: [(Mapping, bool); Self::CAPACITY],
    count: usize,
    /// There is more than that.
    more: bool,
}

impl Resident {
    /// Beyond that, it is not known what is mapped.
    pub(super) const CAPACITY: usize = 24;

    /// Nothing.
    pub(super) const NONE: Self = Self {
        mappings: [(
            Mapping { address: 0, length: 0, physical: 0, rights: Rights { writable: false, executable: false } },
            false,
        ); Self::CAPACITY],
        count: 0,
        more: false,
    };

    /// A mapping has been made, over what was there.
    pub(super) fn add(&mut self, mapping: &Mapping) {
        let end = mapping.address + mapping.length;
        for (other, is_whole) in &mut self.mappings[..self.count] {
            *is_whole &= other.address >= end || mapping.address >= other.address + other.length;
        }
        let same = |other: &Mapping| other.address == mapping.address && other.length == mapping.length;
        match self.mappings[..self.count].iter().position(|(other, _)| same(other)) {
            Some(place) => self.mappings[place] = (*mapping, true),
            None => match self.mappings.get_mut(self.count) {
                Some(place) => {
                    *place = (*mapping, true);
                    self.count += 1;
                }
                None => self.more = true,
            },
        }
    }

    /// All of them, and whether they are still as they were made; `None` if there is more.
    pub(super) fn all(&self) -> Option<&[(Mapping, bool)]> {
        (!self.more).then_some(&self.mappings[..self.count])
    }

    /// Whether one of those that are known is at all of a range.
    pub(super) fn covers(&self, range: Range<u64>) -> bool {
        let covers =
            |mapping: &Mapping| mapping.address <= range.start && range.end <= mapping.address + mapping.length;
        self.mappings[..self.count].iter().any(|(mapping, _)| covers(mapping))
    }

    /// Whether nothing is mapped.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0 && !self.more
    }

    /// The addresses of those that are known.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.mappings[..self.count].iter().map(|(mapping, _)| mapping.address)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mappings::tests::{NONE, WRITABLE, mapping};
    use super::*;

    #[test]
    fn what_is_mapped_over_is_not_whole_any_more() {
        let mut resident = Resident::NONE;
        let mappings = [
            mapping(0x1000, 0x3000, 0x5000, NONE),
            mapping(0x2000, 0x1000, 0x9000, WRITABLE),
            mapping(0x8000, 0x1000, 0xa000, NONE),
            mapping(0x8000, 0x1000, 0xb000, WRITABLE),
        ];
        for mapping in &mappings {
            resident.add(mapping);
        }
        let expected = [(mappings[0], false), (mappings[1], true), (mappings[3], true)];
        assert_eq!(resident.all(), Some(&expected[..]));
        assert!(resident.addresses().eq([0x1000, 0x2000, 0x8000]));
        assert!(resident.covers(0x1000..0x4000) && !resident.covers(0x3000..0x5000));
        for page in 0..Resident::CAPACITY as u64 {
            resident.add(&mapping(0x10_0000 + page * 0x1000, 0x1000, 0, NONE));
        }
        assert!(resident.all().is_none());
    }
}
