//! Debug information that would come to more than it holds.
//!
//! DWARF shares: units share a table of abbreviations, a line table, a list of ranges, and every
//! name of a file begins with that of its directory. Compilers share little, or what is read once.
//! A file may allege more: a thousand units of one large table, or units that all claim the same
//! text. What reading it comes to is counted here, unit by unit, and bounded by what there is to
//! read.

use std::collections::HashSet;
use std::ops::Range;

use gimli::{Dwarf, Reader, Section as _, Unit, UnitType};

/// What may be read, as a multiple of what there is.
const RATIO: usize = 8;
/// The names of source files, likewise: an entry of five bytes may stand for a path of some
/// hundred.
const NAMES_RATIO: usize = 128;
/// The units that may claim one address.
const UNITS: usize = 64;
/// And what is little enough for any file.
const LEAST: usize = 1 << 20;

/// How much more may be read.
struct Budget(usize);

impl Budget {
    fn of(size: usize, ratio: usize) -> Self {
        Self(size.saturating_mul(ratio).saturating_add(LEAST))
    }

    fn take(&mut self, size: usize) -> Result<(), String> {
        self.0 = self.0.checked_sub(size).ok_or("the debug information alleges more than its file can hold")?;
        Ok(())
    }
}

/// Holds the tables of abbreviations against the size of the debug information, `size` bytes.
pub(super) fn check_abbreviations<R: Reader<Offset = usize>>(dwarf: &Dwarf<R>, size: usize) -> Result<(), String> {
    let (mut budget, mut tables) = (Budget::of(size, RATIO), HashSet::new());
    let mut units = dwarf.units();
    while let Some(header) = units.next().map_err(super::unreadable)? {
        let table = header.debug_abbrev_offset();
        if tables.insert(table.0) {
            budget.take(abbreviations_size(dwarf, table.0).map_err(super::unreadable)?)?;
        }
    }
    Ok(())
}

/// The size of the table of abbreviations at an offset (DWARF 5, 7.5.3).
fn abbreviations_size<R: Reader<Offset = usize>>(dwarf: &Dwarf<R>, offset: usize) -> gimli::Result<usize> {
    let mut reader = dwarf.debug_abbrev.reader().clone();
    reader.skip(offset)?;
    let before = reader.len();
    while reader.read_uleb128()? != 0 {
        let (_tag, _has_children) = (reader.read_uleb128()?, reader.read_u8()?);
        loop {
            let (name, form) = (reader.read_uleb128()?, reader.read_uleb128()?);
            if form == u64::from(gimli::DW_FORM_implicit_const.0) {
                reader.read_sleb128()?;
            }
            if (name, form) == (0, 0) {
                break;
            }
        }
    }
    Ok(before - reader.len())
}

/// Holds what units allege against the size of the debug information, `size` bytes. `text` is where
/// executable sections lie, in order.
pub(super) fn check_units<R>(dwarf: &Dwarf<R>, size: usize, text: &[Range<u64>]) -> Result<(), String>
where
    R: Reader<Offset = usize>,
{
    let (mut budget, mut names) = (Budget::of(size, RATIO), Budget::of(size, NAMES_RATIO));
    let mut claims = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().map_err(super::unreadable)? {
        let has_ranges = matches!(header.type_(), UnitType::Compilation | UnitType::Skeleton(_));
        // A unit that cannot be opened would be left out without a word.
        let unit = dwarf.unit(header).map_err(super::unreadable)?;
        budget.take(lines(dwarf, &unit, has_ranges, &mut names)?)?;
        if has_ranges {
            let mut ranges = dwarf.unit_ranges(&unit).map_err(super::unreadable)?;
            while let Some(range) = ranges.next().map_err(super::unreadable)? {
                budget.take(2)?;
                claims.push(range.begin..range.end);
            }
        }
    }
    check_claims(claims, text)
}

/// The size of what is read of a unit's line table: all of it, or its header. The names of its
/// files are taken from theirs.
fn lines<R: Reader<Offset = usize>>(
    dwarf: &Dwarf<R>,
    unit: &Unit<R>,
    is_read: bool,
    names: &mut Budget,
) -> Result<usize, String> {
    let Some(program) = &unit.line_program else { return Ok(0) };
    let header = program.header();
    if !is_read {
        return Ok(header.header_length());
    }
    let length = |value| dwarf.attr_string(unit, value).map_or(0, |name| name.len());
    let directory = unit.comp_dir.as_ref().map_or(0, Reader::len);
    for file in header.file_names() {
        let within = file.directory(header).map_or(0, length);
        names.take(directory + within + length(file.path_name()))?;
    }
    Ok(header.unit_length())
}

/// Whether no address of the text is claimed by too many units. Where there is no text, linkers
/// leave any number of them: what they have dropped.
fn check_claims(mut claims: Vec<Range<u64>>, text: &[Range<u64>]) -> Result<(), String> {
    let in_text = |claim: &Range<u64>| {
        let after = text.partition_point(|range| range.start < claim.end);
        text[..after].last().is_some_and(|range| claim.start < range.end)
    };
    claims.retain(|claim| claim.start < claim.end && in_text(claim));
    claims.sort_unstable_by_key(|claim| claim.start);
    let mut ends = std::collections::BinaryHeap::new();
    for claim in claims {
        while ends.peek().is_some_and(|&std::cmp::Reverse(end)| end <= claim.start) {
            ends.pop();
        }
        ends.push(std::cmp::Reverse(claim.end));
        if ends.len() > UNITS {
            return Err(format!(
                "more than {UNITS} units of the debug information claim the code at {:#x}",
                claim.start
            ));
        }
    }
    Ok(())
}
