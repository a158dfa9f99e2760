//! Which offset of the padded section is which offset of the plain one.

/// Pairs of offsets that mean the same: where corresponding instructions start, and where they end.
///
/// One offset of the plain section may mean several of the padded one, for instance both ends of a
/// run of filler that the plain object did not need.
#[derive(Debug, Default)]
pub(super) struct OffsetMap {
    /// Ordered by plain offset.
    pairs: Vec<(u64, u64)>,
}

impl OffsetMap {
    /// Adds a pair. Pairs are added in the order of both offsets.
    pub(super) fn push(&mut self, plain: u64, padded: u64) {
        if self.pairs.last() != Some(&(plain, padded)) {
            self.pairs.push((plain, padded));
        }
    }

    /// Whether two offsets mean the same. An offset between two pairs lies within an instruction,
    /// and corresponds to the one equally far from its start; one before the section (a bias like
    /// `table - 8`) is as far from its start, one behind it as far from its end.
    pub(super) fn maps(&self, plain: u64, padded: u64) -> bool {
        let before = plain.cast_signed() < 0;
        let after = if before { 0 } else { self.pairs.partition_point(|&(start, _)| start <= plain) };
        let Some(&(start, _)) = self.pairs[..after].last() else { return plain == padded };
        // The pairs are in order of both offsets, and there may be any number of one plain offset.
        self.pairs.binary_search(&(start, padded.wrapping_sub(plain - start))).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::OffsetMap;

    #[test]
    fn offsets_map_by_the_instruction_they_lie_in() {
        let mut map = OffsetMap::default();
        for (plain, padded) in [(0, 0), (1, 5), (4, 8), (4, 16), (9, 21)] {
            map.push(plain, padded);
        }
        for (plain, padded) in [(0, 0), (1, 5), (2, 6), (4, 8), (4, 16), (5, 9), (5, 17), (9, 21), (11, 23)] {
            assert!(map.maps(plain, padded), "{plain} -> {padded}");
        }
        for (plain, padded) in [(0, 4), (1, 1), (4, 12), (9, 9), (u64::MAX, 0)] {
            assert!(!map.maps(plain, padded), "{plain} -> {padded}");
        }
        assert!(map.maps(u64::MAX, u64::MAX), "a byte before the section");
    }
}
