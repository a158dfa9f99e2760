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
    /// The bits that must be clear in an entry at a level.
    const fn reserved(self, entry: u64, level: u8) -> u64 {
        let beyond = ADDRESS & !((1 << self.physical_bits) - 1);
        let execute = if self.no_execute { 0 } else { NO_EXECUTE };
        let size = match level {
            4 => LARGE,
            2 | 3 if entry & LARGE != 0 => ((1 << shift(level)) - 1) & !0x1fff,
            _ => 0,
        };
        beyond | execute | size
    }

    /// What an entry cannot be used for, whatever is accessed.
    const fn dead(self, entry: u64, level: u8) -> Option<Dead> {
        if entry & PRESENT == 0 {
            return Some(Dead::NotPresent);
        }
        if entry & self.reserved(entry, level) != 0 { Some(Dead::Reserved) } else { None }
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

/// A walk that has come to its end: at a leaf, or where it was to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Guest-physical addresses of the entries on the way, by level less one.
    addresses: [u64; 4],
    /// The entries.
    entries: [u64; 4],
    /// Rights of the entries above the last, their execute-disable bits inverted.
    path: u64,
    /// The level of the last entry.
    level: u8,
}

impl Walk {
    /// Walks from a root to the leaf for an address, or to its entry at the level `stop`.
    pub(super) fn new(mode: Mode, root: u64, address: u64, stop: u8, host: &impl Host) -> Result<Self, Dead> {
        let mut walk = Self { addresses: [0; 4], entries: [0; 4], path: RIGHTS, level: 4 };
        let mut table = root;
        loop {
            let place = table + index(address, walk.level) as u64 * 8;
            let entry = host.guest_entry(place).unwrap_or(0);
            if let Some(dead) = mode.dead(entry, walk.level) {
                return Err(dead);
            }
            let at = usize::from(walk.level - 1);
            walk.addresses[at] = place;
            walk.entries[at] = entry;
            if walk.level == stop || walk.is_large() {
                return Ok(walk);
            }
            walk.path &= entry ^ NO_EXECUTE;
            table = entry & ADDRESS;
            walk.level -= 1;
        }
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
    pub(super) fn is_accessed(&self) -> bool {
        self.entries[usize::from(self.level - 1)..].iter().all(|entry| entry & ACCESSED != 0)
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
        for level in (self.level..=4).rev() {
            let at = usize::from(level - 1);
            let old = self.entries[at];
            let new = old | ACCESSED | if dirty && level == self.level { DIRTY } else { 0 };
            if new != old && !host.set_guest_bits(self.addresses[at], old, new) {
                return false;
            }
            self.entries[at] = new;
        }
        true
    }

    /// The note for the 4 KB page at an address.
    pub(super) fn note(&self, mode: Mode, address: u64, fault: Option<Access>) -> Note {
        let within = (1 << shift(self.level)) - 0x1000;
        let note = mode.note(self.last(), self.path, self.level).at(address & within);
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
        let (table, path) = if self.level > level {
            (self.last() & ADDRESS, self.rights())
        } else {
            (self.addresses[usize::from(level - 1)] & !0xfff, self.path)
        };
        Source::Table { address: table, path }
    }
}

/// Where the entries of a shadow table come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Nowhere: there is no path.
    None,
    /// A table of the guest, by a path with these rights.
    Table { address: u64, path: u64 },
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

    /// The address of an entry, if it has one.
    pub(super) const fn place(&self, index: usize) -> Option<u64> {
        match self {
            Self::Table { address, .. } => Some(*address + index as u64 * 8),
            _ => None,
        }
    }

    /// The note of the leaf with an index in a table of a level (1 or 2), given the guest's entry.
    pub(super) fn note(&self, mode: Mode, index: usize, entry: u64, level: u8) -> Note {
        match *self {
            Self::Page { first, .. } => first.at((index as u64) << shift(level)),
            Self::Table { path, .. } if entry & ACCESSED != 0 && mode.dead(entry, level).is_none() => {
                if level > 1 && entry & LARGE == 0 { Note::ABSENT } else { mode.note(entry, path, level) }
            }
            _ => Note::ABSENT,
        }
    }
}
