//! Alternatives by place: which start here, which reach here.
//!
//! A kernel has thousands of alternatives, and whoever follows its text asks at every instruction.
//! The answers take a search. An original or a replacement is at most 255 bytes long, so what
//! reaches a place starts not far before it; but a file may allege any number of alternatives of
//! one place, so there is a bound, and "too many" is an answer.

use super::tables::Alternative;
use crate::object::elf::Place;

/// The most alternatives of one original. Linux has three.
const MOST: usize = 64;
/// The most that are looked at to find those which reach a place: there may be one in every byte,
/// and empty ones between.
const NEAR: usize = 512;

/// The alternatives of a file.
pub struct Originals {
    /// In the order of the originals.
    by_original: Vec<Alternative>,
    /// In the order of the replacements.
    by_replacement: Vec<Alternative>,
    /// The bytes of originals but for the first of each: start and end, ordered, none overlapping.
    middles: Vec<(Place, u64)>,
}

impl Originals {
    /// Orders alternatives.
    #[must_use]
    pub fn of(alternatives: Vec<Alternative>) -> Self {
        let mut by_replacement = alternatives.clone();
        by_replacement.sort_by_key(|alternative| alternative.replacement);
        let mut by_original = alternatives;
        by_original.sort_by_key(|alternative| alternative.original);
        let mut middles: Vec<(Place, u64)> = Vec::new();
        for &Alternative { original, original_length, .. } in &by_original {
            let (start, end) = (original.offset.saturating_add(1), end(original, original_length).offset);
            match middles.last_mut().filter(|(last, end)| last.section == original.section && start <= *end) {
                Some((_, last)) => *last = end.max(*last),
                None if start < end => middles.push((Place { offset: start, ..original }, end)),
                None => {}
            }
        }
        Self { by_original, by_replacement, middles }
    }

    /// Those whose original starts at a place; `None` if there are too many.
    #[must_use]
    pub fn starting_at(&self, place: Place) -> Option<&[Alternative]> {
        let first = self.by_original.partition_point(|alternative| alternative.original < place);
        let after = self.by_original.partition_point(|alternative| alternative.original <= place);
        Some(&self.by_original[first..after]).filter(|starting| starting.len() <= MOST)
    }

    /// Whether a place lies in an original, behind its start.
    #[must_use]
    pub fn is_in_the_middle(&self, place: Place) -> bool {
        let after = self.middles.partition_point(|(start, _)| *start <= place);
        self.middles[..after].last().is_some_and(|(start, end)| start.section == place.section && place.offset < *end)
    }

    /// Those whose replacement a place lies in; `None` if there are too many to look at.
    #[must_use]
    pub fn replaced_by(&self, place: Place) -> Option<Vec<Alternative>> {
        let before = self.by_replacement.partition_point(|alternative| alternative.replacement <= place);
        let before = &self.by_replacement[..before];
        reaching(before, place, |alternative| (alternative.replacement, alternative.replacement_length))
    }

    /// One whose original a place lies in; `None` if there are too many to look at.
    #[must_use]
    pub fn original_around(&self, place: Place) -> Option<Option<Alternative>> {
        let before = self.by_original.partition_point(|alternative| alternative.original <= place);
        let before = &self.by_original[..before];
        let found = reaching(before, place, |alternative| (alternative.original, alternative.original_length))?;
        Some(found.first().copied())
    }
}

/// Those of the alternatives, which all start at a place or before it, in order, that reach it.
fn reaching(
    before: &[Alternative],
    place: Place,
    range: impl Fn(&Alternative) -> (Place, u8),
) -> Option<Vec<Alternative>> {
    let is_near = |alternative: &&Alternative| {
        let (start, _) = range(alternative);
        start.section == place.section && place.offset - start.offset < u8::MAX.into()
    };
    let near = before.iter().rev().take_while(is_near).take(NEAR + 1);
    let near: Vec<Alternative> = near.copied().collect();
    let reaches = |alternative: &Alternative| {
        let (start, length) = range(alternative);
        place < end(start, length)
    };
    (near.len() <= NEAR).then(|| near.into_iter().rev().filter(reaches).collect())
}

fn end(start: Place, length: u8) -> Place {
    Place { offset: start.offset.saturating_add(length.into()), ..start }
}
