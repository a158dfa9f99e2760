//! The table of sites in an image.
//!
//! The table comes with the kernel, and acting on it means writing to kernel text: one wrong record
//! would put a call into the middle of an instruction. So it is all or nothing: every record is
//! read and held against the text before anything is written ([`crate::sites`]), and the first that
//! does not hold refuses the whole table, by its number.

use core::fmt;

use annotate::check::Contradiction;
use annotate::record::{RECORD_SIZE, RawRecord, RecordError};

/// A table of records.
#[derive(Clone, Copy, Debug)]
pub struct SiteTable<'a> {
    records: &'a [[u8; RECORD_SIZE]],
    address: u64,
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
    /// The slot has bytes of another's that is taken.
    Overlap,
    /// The text contradicts the record.
    Contradiction(Contradiction),
}

impl<'a> SiteTable<'a> {
    /// A table whose first byte is to be taken to stand at `address`.
    ///
    /// # Errors
    ///
    /// When it does not consist of whole records.
    pub fn new(table: &'a [u8], address: u64) -> Result<Self, Refusal> {
        let (records, rest) = table.as_chunks();
        if rest.is_empty() { Ok(Self { records, address }) } else { Err(Refusal::Length(table.len())) }
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records, with their numbers and the addresses of their sites.
    pub(crate) fn records(&self) -> impl Iterator<Item = (usize, u64, &'a [u8; RECORD_SIZE])> + use<'a> {
        let mut field = self.address;
        self.records.iter().enumerate().map(move |(number, bytes)| {
            let address = field.wrapping_add_signed(RawRecord::from_bytes(bytes).distance());
            field = field.wrapping_add(RECORD_SIZE as u64);
            (number, address, bytes)
        })
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
            Self::Overlap => write!(f, "the slot overlaps another's"),
            Self::Contradiction(contradiction) => contradiction.fmt(f),
        }
    }
}

impl core::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use annotate::instructions::Class;
    use annotate::record::{Flags, LiveFlags};
    use proptest::prelude::*;

    use super::*;
    use crate::sites::{Applied, Engine, Hooks, Memory, Mode, Piece, STUB_SIZE};

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

    /// The sites that are rewritten.
    fn check_table(table: &[u8]) -> Result<Vec<u64>, Refusal> {
        let table = SiteTable::new(table, TABLE)?;
        let (mut text, mut entries, counters) = (CODE, [const { None }; 4], [const { AtomicU64::new(0) }; 4]);
        let memory = Memory {
            sites: &mut entries,
            stubs: &mut [[0; STUB_SIZE]; 4],
            stubs_address: TEXT - 0x1_0000,
            counters: &counters,
            counters_address: TEXT - 0x2_0000,
            snapshot: &mut [0; 4],
            order: &mut [0; 4],
        };
        let mut engine = Engine::new(Mode::Native, Hooks::default(), memory);
        let result = engine.rewrite(&table, |_| Applied::Somewhere, &mut Piece { bytes: &mut text, address: TEXT });
        assert!(result.is_ok() || text == CODE, "written to before all was checked");
        result.map(|_| engine.sites().map(|(_, entry)| entry.address()).collect())
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
            (1, 7, 1, Class::Cli, Reason::OutOfText),
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
                // With other flags a site may be left as it is.
                prop_assert!(sites.iter().all(|site| [TEXT, TEXT + 6].contains(site)), "{sites:x?}");
            }
        }
    }
}
