//! What is noted of a shadow's page-table entries.

use super::{Leaf, Linear, Table};
use crate::x86::paging::entry::{
    ADDRESS, CACHE_DISABLE, DIRTY, GLOBAL, LARGE_PAT, PAT, PRESENT, USER, WRITABLE, WRITE_THROUGH,
};
use crate::x86::paging::{EXECUTABLE, RIGHTS, restricted, shift};

/// What a shadow's entry was made from: the guest's entry, with the rights of the whole path that
/// leads to it, or the number of a shadow table. 0 is an absent one.
///
/// A leaf's note has the format of a level-1 entry, except that bit 63 allows execution, and that
/// the writable bit is clear as long as the dirty bit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note(pub(super) u64);

impl Note {
    pub(super) const ABSENT: Self = Self(0);
    /// Marks the number of a table, in bits that are ignored in a leaf.
    const OWN: u64 = 1 << 9;
    /// What can be seen of a leaf in the shadow.
    const VISIBLE: u64 = !GLOBAL;

    /// The note of a shadow table.
    pub(super) const fn own(table: Table) -> Self {
        Self((table.0 as u64) << 12 | Self::OWN | PRESENT)
    }

    /// The note of the first page that a guest's present leaf at a level maps, with the rights of
    /// the path above it.
    pub(super) const fn leaf(entry: u64, path: u64, level: u8) -> Self {
        let mut rights = restricted(entry, path) & RIGHTS;
        if entry & DIRTY == 0 {
            rights &= !WRITABLE;
        }
        let kept = entry & (WRITE_THROUGH | CACHE_DISABLE | GLOBAL) | rights | PRESENT;
        if level == 1 {
            return Self(kept | entry & (ADDRESS | PAT));
        }
        let address = entry & ADDRESS & !((1 << shift(level)) - 1);
        Self(kept | address | if entry & LARGE_PAT == 0 { 0 } else { PAT })
    }

    /// The note of the page `offset` bytes into a large page.
    pub(super) const fn at(self, offset: u64) -> Self {
        Self(self.0 + offset)
    }

    /// The note of a page that the kernel can write to whatever its rights, because CR0.WP is
    /// clear. User mode cannot be given it.
    pub(super) const fn overridden(self) -> Self {
        Self(self.0 & !USER | WRITABLE)
    }

    /// The note without the global bit.
    pub(super) const fn local(self) -> Self {
        Self(self.0 & !GLOBAL)
    }

    pub(super) const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// The table whose note it is.
    pub(super) const fn table(self) -> Option<Table> {
        #[expect(clippy::cast_possible_truncation, reason = "a note was made from 32 bits")]
        let table = Table((self.0 >> 12) as u32);
        if self.0 & Self::OWN != 0 { Some(table) } else { None }
    }

    pub(super) const fn address(self) -> u64 {
        self.0 & ADDRESS
    }

    pub(super) const fn is_user(self) -> bool {
        self.0 & USER != 0
    }

    pub(super) const fn is_global(self) -> bool {
        self.0 & GLOBAL != 0
    }

    /// Whether two notes are the same entry in the shadow.
    pub(super) const fn same(self, other: Self) -> bool {
        (self.0 ^ other.0) & Self::VISIBLE == 0
    }

    /// Whether what the TLB has of `old` allows nothing that this does not.
    pub(super) const fn only_raises(self, old: Self) -> bool {
        (self.0 ^ old.0) & Self::VISIBLE & !RIGHTS == 0 && old.0 & RIGHTS & !self.0 == 0
    }

    const fn cache(self) -> u8 {
        ((self.0 >> 3) & 3) as u8 | if self.0 & PAT == 0 { 0 } else { 4 }
    }

    /// The entry for a page at a machine address.
    pub(super) const fn page(self, address: u64, device: bool) -> Leaf {
        Leaf {
            address,
            device,
            writable: self.0 & WRITABLE != 0,
            user: self.is_user(),
            executable: self.0 & EXECUTABLE != 0,
            cache: self.cache(),
        }
    }

    /// The entry for 2 MB of memory, if it is of the type that ready-made tables have.
    pub(super) const fn linear(self) -> Option<Linear> {
        if self.cache() != 0 {
            return None;
        }
        Some(Linear {
            address: self.address(),
            writable: self.0 & WRITABLE != 0,
            user: self.is_user(),
            executable: self.0 & EXECUTABLE != 0,
        })
    }
}
