//! The table of sites in an image.
//!
//! The table comes with the kernel, and acting on it means writing to kernel text: one wrong record would put a call into
//! the middle of an instruction. So it is all or nothing. [`SiteTable::check`] reads every record against the text before
//! anything is written, and refuses the whole table at the first that does not hold, by its number. Only a checked table
//! yields sites.

use core::fmt;

use annotate::check::{CheckedSite, Contradiction, check};
use annotate::record::{RECORD_SIZE, RawRecord, RecordError};

/// The text that a table speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The address of the first.
    pub address: u64,
}

impl<'a> Text<'a> {
    /// The bytes from `address` to the end of the text.
    fn from(self, address: u64) -> Option<&'a [u8]> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        self.bytes.get(offset..).filter(|bytes| !bytes.is_empty())
    }
}

/// A table whose every record holds.
#[derive(Clone, Copy, Debug)]
pub struct SiteTable<'a> {
    records: &'a [[u8; RECORD_SIZE]],
    address: u64,
    text: Text<'a>,
}

/// Why a table is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its length is no multiple of a record's.
    Length(usize),
    /// A record does not hold.
    Record {
        /// The number of the record, from 0.
        number: usize,
        /// The address that it gives for its site.
        address: u64,
        /// What is wrong.
        reason: Reason,
    },
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The record is wrong by itself.
    Record(RecordError),
    /// The site is not in the text.
    OutOfText,
    /// The site does not lie behind the slot before it: out of order, or overlapping.
    Order,
    /// The text contradicts the record.
    Contradiction(Contradiction),
}

impl<'a> SiteTable<'a> {
    /// Holds a table, whose first byte is at `address`, against the text.
    ///
    /// # Errors
    ///
    /// At the first record that does not hold; records must be ordered by site.
    pub fn check(table: &'a [u8], address: u64, text: Text<'a>) -> Result<Self, Refusal> {
        let (records, rest) = table.as_chunks();
        if !rest.is_empty() {
            return Err(Refusal::Length(table.len()));
        }
        let table = Self { records, address, text };
        let mut free_from = text.address;
        for number in 0..records.len() {
            let checked = table.record(number)?;
            let site = checked.site();
            if site.address < free_from {
                return Err(Refusal::Record { number, address: site.address, reason: Reason::Order });
            }
            free_from = site.address + u64::from(site.slot);
        }
        Ok(table)
    }

    /// The sites, in the order of their addresses.
    pub fn sites(&self) -> impl Iterator<Item = CheckedSite> {
        (0..self.records.len()).filter_map(|number| self.record(number).ok())
    }

    fn record(&self, number: usize) -> Result<CheckedSite, Refusal> {
        let record = RawRecord::from_bytes(&self.records[number]);
        let field = self.address.wrapping_add((number * RECORD_SIZE) as u64);
        let address = field.wrapping_add_signed(record.distance());
        let refuse = |reason| Refusal::Record { number, address, reason };
        let alleged = record.allegation(address).map_err(|error| refuse(Reason::Record(error)))?;
        let bytes = self.text.from(address).ok_or(refuse(Reason::OutOfText))?;
        check(alleged, bytes).map_err(|contradiction| refuse(Reason::Contradiction(contradiction)))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a site table of {length} bytes, which is no multiple of {RECORD_SIZE}"),
            Self::Record { number, address, reason } => write!(f, "record {number}, site {address:#x}: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(error) => error.fmt(f),
            Self::OutOfText => write!(f, "the site is not in the text"),
            Self::Order => write!(f, "the site does not lie behind the slot of the record before"),
            Self::Contradiction(contradiction) => contradiction.fmt(f),
        }
    }
}

impl core::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use annotate::instructions::Class;
    use annotate::record::{Flags, LiveFlags};
    use proptest::prelude::*;

    use super::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const TABLE: u64 = 0xffff_ffff_8110_0000;

    /// `cli` and `rdmsr`, each in a slot of 5 bytes, with a `ret` between.
    const CODE: [u8; 11] = [0xfa, 0x0f, 0x1f, 0x40, 0x00, 0xc3, 0x0f, 0x32, 0x0f, 0x1f, 0x00];

    fn record(number: u64, offset: u64, length: u8, class: Class) -> [u8; RECORD_SIZE] {
        let field = TABLE + number * RECORD_SIZE as u64;
        let site = i32::try_from((TEXT + offset).cast_signed() - field.cast_signed()).unwrap();
        let (live_flags, flags) = (LiveFlags::all().bits(), Flags::empty().bits());
        RawRecord { site, length, slot: 5, class: class as u8, live_flags, live_registers: 0xffff, flags }.to_bytes()
    }

    fn table() -> Vec<u8> {
        [record(0, 0, 1, Class::Cli), record(1, 6, 2, Class::Rdmsr)].concat()
    }

    fn check_table(table: &[u8]) -> Result<Vec<u64>, Refusal> {
        let table = SiteTable::check(table, TABLE, Text { bytes: &CODE, address: TEXT })?;
        Ok(table.sites().map(|site| site.site().address).collect())
    }

    #[test]
    fn a_true_table_yields_its_sites() {
        assert_eq!(check_table(&table()), Ok(std::vec![TEXT, TEXT + 6]));
    }

    #[test]
    fn a_refusal_names_the_record() {
        for (number, offset, length, class, reason) in [
            (1, 6, 2, Class::Wrmsr, Reason::Contradiction(Contradiction::Class(Some(Class::Rdmsr)))),
            (1, 5, 1, Class::Cli, Reason::Contradiction(Contradiction::Class(None))),
            (1, 0, 1, Class::Cli, Reason::Order),
            (1, 11, 1, Class::Cli, Reason::OutOfText),
            (1, 7, 1, Class::Cli, Reason::Contradiction(Contradiction::OutOfText)),
            (1, 6, 1, Class::Rdmsr, Reason::Contradiction(Contradiction::Length(2))),
        ] {
            let mut table = table();
            table.truncate(RECORD_SIZE);
            table.extend(record(1, offset, length, class));
            let refusal = Refusal::Record { number, address: TEXT + offset, reason };
            assert_eq!(check_table(&table), Err(refusal), "{refusal}");
        }
        assert_eq!(check_table(&table()[1..]), Err(Refusal::Length(2 * RECORD_SIZE - 1)));
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(table in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_table(&table);
        }

        #[test]
        fn a_changed_byte_never_yields_another_site(at in 0..2 * RECORD_SIZE, value: u8) {
            let mut table = table();
            table[at] = value;
            if let Ok(sites) = check_table(&table) {
                prop_assert_eq!(sites, [TEXT, TEXT + 6]);
            }
        }
    }
}
