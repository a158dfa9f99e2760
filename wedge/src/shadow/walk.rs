//! Walks through the guest's tables (SDM 3, 4.5 to 4.8).

use super::entry::{
    ACCESSED, ADDRESS, DIRTY, EXECUTABLE, LARGE, NO_EXECUTE, Note, PRESENT, RIGHTS, USER, WRITABLE, index, is_kernel,
    shift,
};
use super::host::{BLOCK, Host};
use super::{Access, Mode};

/// Bits of a page fault's error code (SDM 3, 4.7).
mod error {
    pub(super) const PRESENT: u32 = 1;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
}

/// Why a walk has ended before a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dead {
    NotPresent,
    Reserved,
}

impl Mode {
    /// The bits that must be clear in every entry.
    const fn never(self) -> u64 {
        let beyond = ADDRESS & !((1 << self.physical_bits) - 1);
        beyond | if self.no_execute { 0 } else { NO_EXECUTE }
    }

    /// The error code of a fault.
    pub(super) const fn error(self, access: Access, dead: Option<Dead>) -> u32 {
        let mut code = match dead {
            Some(Dead::NotPresent) => 0,
            Some(Dead::Reserved) => error::PRESENT | error::RESERVED,
            None => error::PRESENT,
        };
        if access.write {
            code |= error::WRITE;
        }
        if access.user {
            code |= error::USER;
        }
        if access.fetch && self.no_execute {
            code |= error::FETCH;
        }
        code
    }

    /// Whether rights allow an access (SDM 3, 4.6.1).
    const fn allows(self, rights: u64, access: Access) -> bool {
        let write = rights & WRITABLE != 0 || !access.user && !self.write_protect;
        (!access.user || rights & USER != 0) && (!access.write || write) && (!access.fetch || rights & EXECUTABLE != 0)
    }

    /// A leaf's note; global only if that has a meaning.
    const fn note(self, entry: u64, path: u64, level: u8) -> Note {
        let note = Note::leaf(entry, path, level);
        if self.global { note } else { note.local() }
    }
}

/// The bits that must be clear in an entry because of its level.
const fn reserved(entry: u64, level: u8) -> u64 {
    match level {
        4 => LARGE,
        2 | 3 if entry & LARGE != 0 => ((1 << shift(level)) - 1) & !0x1fff,
        _ => 0,
    }
}

/// What an entry cannot be used for; `never` must be clear in all.
const fn dead(entry: u64, level: u8, never: u64) -> Option<Dead> {
    if entry & PRESENT == 0 {
        return Some(Dead::NotPresent);
    }
    if entry & (never | reserved(entry, level)) != 0 { Some(Dead::Reserved) } else { None }
}

/// A walk that has come to its end: at a leaf, or where it was to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    root: u64,
    /// The virtual address.
    address: u64,
    /// The entries on the way, by level less one.
    entries: [u64; 4],
    /// Rights of the entries above the last, their execute-disable bits inverted.
    path: u64,
    /// Bits that are set in all entries.
    all: u64,
    /// The level of the last entry.
    level: u8,
}

impl Walk {
    /// Walks from a root to the leaf for an address, or to its entry at the level `stop`.
    #[inline]
    pub(super) fn new(mode: Mode, root: u64, address: u64, stop: u8, host: &impl Host) -> Result<Self, Dead> {
        let never = mode.never();
        let mut walk = Self { root, address, entries: [0; 4], path: RIGHTS, all: !0, level: 4 };
        let mut table = root;
        for level in [4, 3, 2, 1] {
            let entry = host.guest_entry(table + index(address, level) as u64 * 8).unwrap_or(0);
            if let Some(dead) = dead(entry, level, never) {
                return Err(dead);
            }
            walk.entries[usize::from(level - 1)] = entry;
            walk.level = level;
            walk.all &= entry;
            if level == stop || level > 1 && entry & LARGE != 0 {
                break;
            }
            walk.path &= entry ^ NO_EXECUTE;
            table = entry & ADDRESS;
        }
        Ok(walk)
    }

    /// The guest-physical address of the table that has the entry of a level.
    const fn table(&self, level: u8) -> u64 {
        if level == 4 { self.root } else { self.entries[level as usize] & ADDRESS }
    }

    const fn last(&self) -> u64 {
        self.entries[(self.level - 1) as usize]
    }

    /// The level of the last entry: of the leaf.
    pub(super) const fn level(&self) -> u8 {
        self.level
    }

    /// Whether it has ended at a large page.
    const fn is_large(&self) -> bool {
        self.level > 1 && self.last() & LARGE != 0
    }

    const fn rights(&self) -> u64 {
        self.path & (self.last() ^ NO_EXECUTE)
    }

    /// Whether user mode may use the page.
    pub(super) const fn is_user(&self) -> bool {
        self.rights() & USER != 0
    }

    /// Whether the accessed flag is set all the way.
    pub(super) const fn is_accessed(&self) -> bool {
        self.all & ACCESSED != 0
    }

    /// The error code if the rights forbid an access.
    pub(super) const fn check(&self, mode: Mode, access: Access) -> Result<(), u32> {
        if mode.allows(self.rights(), access) { Ok(()) } else { Err(mode.error(access, None)) }
    }

    /// The guest-physical address.
    pub(super) const fn translate(&self, address: u64) -> u64 {
        let within = (1 << shift(self.level)) - 1;
        self.last() & ADDRESS & !within | address & within
    }

    /// Whether a large page of the kernel half can be written: it is made dirty at once.
    pub(super) const fn is_kernel_large(&self, address: u64) -> bool {
        is_kernel(address) && self.is_large() && self.rights() & WRITABLE != 0
    }

    /// Sets the flags of an access; `false` if an entry has changed meanwhile.
    pub(super) fn mark(&mut self, dirty: bool, host: &mut impl Host) -> bool {
        if self.is_accessed() && (!dirty || self.last() & DIRTY != 0) {
            return true;
        }
        for level in (self.level..=4).rev() {
            let at = usize::from(level - 1);
            let old = self.entries[at];
            let new = old | ACCESSED | if dirty && level == self.level { DIRTY } else { 0 };
            if new != old && !host.set_guest_bits(self.table(level) + index(self.address, level) as u64 * 8, old, new) {
                return false;
            }
            self.entries[at] = new;
        }
        self.all |= ACCESSED;
        true
    }

    /// The note for the 4 KB page at the address.
    #[inline]
    pub(super) fn note(&self, mode: Mode, fault: Option<Access>) -> Note {
        let within = (1 << shift(self.level)) - 0x1000;
        let note = mode.note(self.last(), self.path, self.level).at(self.address & within);
        let overridden = fault.is_some_and(|access| access.write) && self.rights() & WRITABLE == 0;
        if overridden { note.overridden() } else { note }
    }

    /// Where the entries of the shadow table of `level` for an address come from.
    pub(super) fn source(&self, mode: Mode, address: u64, level: u8) -> Source {
        if self.level > level && self.is_large() {
            let within = ((1 << shift(self.level)) - 1) & !((1 << shift(level + 1)) - 1);
            let first = mode.note(self.last(), self.path, self.level).at(address & within);
            return Source::Page { first, level: self.level };
        }
        debug_assert!(self.level >= level, "the path would have too many rights");
        let (table, path) =
            if self.level > level { (self.last() & ADDRESS, self.rights()) } else { (self.table(level), self.path) };
        Source::Table { address: table, path, never: mode.never() }
    }
}

/// Where the entries of a shadow table come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Nowhere: there is no path.
    None,
    /// A table of the guest, by a path with these rights; bits that must be clear in its entries.
    Table { address: u64, path: u64, never: u64 },
    /// A page of a higher level; the note is of the first page in the table.
    Page { first: Note, level: u8 },
}

impl Source {
    /// Where the shadow table of a level (1 or 2) for an address has its entries from, by a path all of which has been
    /// accessed: what has not is not cached.
    pub(super) fn find(mode: Mode, root: u64, address: u64, level: u8, host: &impl Host) -> Self {
        match Walk::new(mode, root, address, level + 1, host) {
            Ok(walk) if walk.is_accessed() => walk.source(mode, address, level),
            _ => Self::None,
        }
    }

    /// The guest's entries of a block; nothing if they come from one page.
    pub(super) fn entries(&self, block: usize, host: &impl Host) -> [u64; BLOCK] {
        match self {
            Self::Table { address, .. } => host.guest_entries(address + (block * BLOCK * 8) as u64),
            _ => [0; BLOCK],
        }
    }

    /// The guest's entry with an index; nothing if all come from one page.
    pub(super) fn entry(&self, index: usize, host: &impl Host) -> u64 {
        self.place(index).and_then(|place| host.guest_entry(place)).unwrap_or(0)
    }

    /// The address of an entry, if it has one.
    pub(super) const fn place(&self, index: usize) -> Option<u64> {
        match self {
            Self::Table { address, .. } => Some(*address + index as u64 * 8),
            _ => None,
        }
    }

    /// The note of the leaf with an index in a table of a level (1 or 2), given the guest's entry.
    #[inline]
    pub(super) fn note(&self, mode: Mode, index: usize, entry: u64, level: u8) -> Note {
        const USED: u64 = PRESENT | ACCESSED;
        match *self {
            Self::Page { first, .. } => first.at((index as u64) << shift(level)),
            Self::Table { path, never, .. } if entry & (USED | never | reserved(entry, level)) == USED => {
                if level > 1 && entry & LARGE == 0 { Note::ABSENT } else { mode.note(entry, path, level) }
            }
            _ => Note::ABSENT,
        }
    }
}
