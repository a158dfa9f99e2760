//! Paging with four levels of tables (SDM Vol. 3A, 4.5).
//!
//! A guest's tables are walked for several reasons: for an access that has faulted, to fill the
//! shadow ahead of one, to find modules. The reasons differ in what they read the tables with and
//! in what they do at the end. Where a walk goes and ends, and which rights are left there, must be
//! the same for all. So there is one, [`Walk`], which is handed the reading.

/// Size of a page.
pub const PAGE: u64 = 4096;

/// Bits of page-table entries (SDM Vol. 3A, 4.5.4, tables 4-15 to 4-20).
#[expect(missing_docs, reason = "the architecture's names")]
pub mod entry {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const WRITE_THROUGH: u64 = 1 << 3;
    pub const CACHE_DISABLE: u64 = 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    /// Above level 1: the entry maps a large page.
    pub const LARGE: u64 = 1 << 7;
    /// PAT, at level 1.
    pub const PAT: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    /// PAT, of a large page.
    pub const LARGE_PAT: u64 = 1 << 12;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    pub const NO_EXECUTE: u64 = 1 << 63;

    /// What the processor would set in an entry that is used to write.
    pub const ACCESSED_AND_DIRTY: u64 = ACCESSED | DIRTY;
    /// What leads to another table, whatever that allows.
    pub const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED_AND_DIRTY;
}

/// Bits of a page fault's error code (SDM Vol. 3A, 4.7).
#[expect(missing_docs, reason = "the architecture's names")]
pub mod fault {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
    pub const PROTECTION_KEY: u32 = 1 << 5;
}

use entry::{ACCESSED, ADDRESS, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};

/// Where rights say that a page can be executed: the inverse of an entry's bit, so that all rights
/// combine by `&`.
pub const EXECUTABLE: u64 = NO_EXECUTE;
/// All rights that entries can give.
pub const RIGHTS: u64 = WRITABLE | USER | EXECUTABLE;

/// How many bits of a virtual address lie below an entry's index at a level (1 to 4).
#[must_use]
pub const fn shift(level: u8) -> u32 {
    3 + 9 * level as u32
}

/// The index of an address's entry in a table of a level (1 to 4).
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "nine bits")]
pub const fn index(address: u64, level: u8) -> usize {
    (address >> shift(level)) as usize & 511
}

/// The bits that must be clear in an entry because of its level.
#[must_use]
pub const fn reserved(entry: u64, level: u8) -> u64 {
    match level {
        4 => LARGE,
        2 | 3 if entry & LARGE != 0 => ((1 << shift(level)) - 1) & !0x1fff,
        _ => 0,
    }
}

/// Whether an entry at a level says that it maps a large page.
const fn is_large(entry: u64, level: u8) -> bool {
    level > 1 && entry & LARGE != 0
}

/// Why an entry leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// It is not present.
    NotPresent,
    /// A bit that must be clear is set.
    Reserved,
}

/// What an entry cannot be used for; `never` must be clear in all.
const fn dead(entry: u64, level: u8, never: u64) -> Option<Dead> {
    if entry & PRESENT == 0 {
        return Some(Dead::NotPresent);
    }
    let reserved = entry & never != 0 || is_large(entry, level) && entry & reserved(entry, level) != 0;
    if reserved { Some(Dead::Reserved) } else { None }
}

/// Where a walk has ended that has come to no leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadEnd {
    /// Why.
    pub why: Dead,
    /// The table whose entry leads nowhere.
    pub table: u64,
    /// Its level.
    pub level: u8,
}

/// A walk that has come to its end: at a leaf, or where it was to stop.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    root: u64,
    address: u64,
    /// The entries on the way, by level less one.
    entries: [u64; 4],
    /// What all entries above the last allow: their bits, with [`NO_EXECUTE`] inverted.
    path: u64,
    /// What all entries allow.
    all: u64,
    level: u8,
}

impl Walk {
    /// Walks from a root to the leaf for a virtual address, or to its entry at the level `stop`.
    /// `never` are the bits that must be clear in all entries; `read` reads the entry with an index
    /// from the table of a level at a physical address.
    ///
    /// # Errors
    ///
    /// Where the walk ends before that.
    #[inline]
    pub fn new(
        root: u64,
        address: u64,
        stop: u8,
        never: u64,
        mut read: impl FnMut(u8, u64, usize) -> u64,
    ) -> Result<Self, DeadEnd> {
        let mut walk = Self { root, address, entries: [0; 4], path: !0, all: !0, level: 4 };
        let mut table = root;
        for level in [4, 3, 2, 1] {
            let entry = read(level, table, index(address, level));
            if let Some(why) = dead(entry, level, never) {
                return Err(DeadEnd { why, table, level });
            }
            walk.entries[usize::from(level - 1)] = entry;
            walk.level = level;
            walk.path = walk.all;
            walk.all = restricted(entry, walk.path);
            if level == stop || is_large(entry, level) {
                break;
            }
            table = entry & ADDRESS;
        }
        Ok(walk)
    }

    /// The virtual address.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// The physical address of the table that has the entry of a level.
    #[must_use]
    pub const fn table(&self, level: u8) -> u64 {
        if level == 4 { self.root } else { self.entries[level as usize] & ADDRESS }
    }

    /// The entry of a level.
    #[must_use]
    pub const fn entry(&self, level: u8) -> u64 {
        self.entries[(level - 1) as usize]
    }

    /// Notes that bits were set in the entry of a level.
    pub fn set(&mut self, level: u8, bits: u64) {
        self.entries[usize::from(level - 1)] |= bits;
        let above = self.entries[usize::from(self.level)..].iter();
        self.path = above.fold(!0, |path, &entry| restricted(entry, path));
        self.all = restricted(self.last(), self.path);
    }

    /// The last entry: the leaf.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.entry(self.level)
    }

    /// The level of the last entry.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// Whether it has ended at a large page.
    #[must_use]
    pub const fn is_large(&self) -> bool {
        is_large(self.last(), self.level)
    }

    /// The rights that the entries above the last leave.
    #[must_use]
    pub const fn path(&self) -> u64 {
        self.path & RIGHTS
    }

    /// The rights that all entries leave.
    #[must_use]
    pub const fn rights(&self) -> u64 {
        self.all & RIGHTS
    }

    /// Whether user mode may use the page.
    #[must_use]
    pub const fn is_user(&self) -> bool {
        self.rights() & USER != 0
    }

    /// Whether the accessed flag is set all the way.
    #[must_use]
    pub const fn is_accessed(&self) -> bool {
        self.all & ACCESSED != 0
    }

    /// The physical address behind a virtual one in the same page.
    #[must_use]
    pub const fn translate(&self, address: u64) -> u64 {
        let within = (1 << shift(self.level)) - 1;
        self.last() & ADDRESS & !within | address & within
    }
}

/// The rights of an entry below others that leave these.
#[must_use]
pub const fn restricted(entry: u64, above: u64) -> u64 {
    above & (entry ^ NO_EXECUTE)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;

    use super::entry::{DIRTY, TABLE};
    use super::*;

    const ROOT: u64 = 0x1000;
    const ALL: u64 = PRESENT | WRITABLE | USER;

    /// A walk through tables at 1000H, 2000H, 3000H, 4000H, one for each level. An entry is at the
    /// index that the address has.
    fn walk(address: u64, stop: u8, never: u64, entries: [u64; 4]) -> Result<Walk, DeadEnd> {
        let places = [4u8, 3, 2, 1].map(|level| (ROOT * u64::from(5 - level), index(address, level)));
        let memory: BTreeMap<_, _> = places.into_iter().zip(entries).collect();
        Walk::new(ROOT, address, stop, never, |_, table, index| memory.get(&(table, index)).copied().unwrap_or(0))
    }

    #[test]
    fn a_walk_ends_at_the_leaf() {
        let address = 0xffff_8123_4567_89ab;
        for (entries, level, physical) in [
            ([0x2000 | ALL, 0x3000 | ALL, 0x4000 | ALL, 0x5000 | ALL], 1, 0x59ab),
            ([0x2000 | ALL, 0x3000 | ALL, 0x8020_0000 | ALL | LARGE, 0], 2, 0x8020_0000 | address & 0x1f_ffff),
            ([0x2000 | ALL, 0x40_4000_0000 | ALL | LARGE, 0, 0], 3, 0x40_4000_0000 | address & 0x3fff_ffff),
        ] {
            let walk = walk(address, 1, 0, entries).unwrap();
            assert_eq!((walk.level(), walk.translate(address), walk.is_large()), (level, physical, level > 1));
            assert_eq!(walk.table(level), ROOT * u64::from(5 - level));
        }
    }

    #[test]
    fn a_walk_stops_where_it_is_to_stop() {
        let entries = [0x2000 | ALL, 0x3000 | ALL, 0x4000 | ALL, 0];
        for stop in [4, 3, 2] {
            let walk = walk(0, stop, 0, entries).unwrap();
            assert_eq!((walk.level(), walk.last()), (stop, entries[usize::from(4 - stop)]));
            assert!(!walk.is_large());
        }
    }

    #[test]
    fn what_leads_nowhere() {
        let good = [0x2000 | ALL, 0x3000 | ALL, 0x4000 | ALL, 0x5000 | ALL];
        for (level, entry, never, why) in [
            (4, 0, 0, Dead::NotPresent),
            (1, 0x5000 | WRITABLE, 0, Dead::NotPresent),
            (4, 0x2000 | ALL | LARGE, 0, Dead::Reserved),
            (3, 0x3000 | ALL | LARGE, 0, Dead::Reserved),
            (2, 0x4000 | ALL | LARGE, 0, Dead::Reserved),
            (1, 0x5000 | ALL | NO_EXECUTE, NO_EXECUTE, Dead::Reserved),
            (3, 1 << 45 | ALL, 1 << 45, Dead::Reserved),
        ] {
            let mut entries = good;
            entries[usize::from(4 - level)] = entry;
            let end = DeadEnd { why, table: ROOT * u64::from(5 - level), level };
            assert_eq!(walk(0x1234, 1, never, entries).unwrap_err(), end, "level {level}: {entry:#x}");
        }
    }

    #[test]
    fn rights_and_flags_are_those_of_the_whole_path() {
        for level in [4u8, 3, 2, 1] {
            for (bits, rights) in [
                (PRESENT | USER, USER | EXECUTABLE),
                (PRESENT | WRITABLE, WRITABLE | EXECUTABLE),
                (ALL | NO_EXECUTE, WRITABLE | USER),
            ] {
                let mut entries = [0x2000, 0x3000, 0x4000, 0x5000].map(|address| address | TABLE & !DIRTY);
                entries[usize::from(4 - level)] = entries[usize::from(4 - level)] & !TABLE | bits;
                let walk = walk(0, 1, 0, entries).unwrap();
                assert_eq!(walk.rights(), rights, "level {level}: {bits:#x}");
                assert_eq!(walk.is_user(), rights & USER != 0);
                assert!(!walk.is_accessed());
            }
        }
        assert!(walk(0, 1, 0, [0x2000, 0x3000, 0x4000, 0x5000].map(|address| address | TABLE)).unwrap().is_accessed());
    }
}
