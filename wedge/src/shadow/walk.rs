//! Walks through the guest's tables (SDM Vol. 3A, 4.5 to 4.8), and what the shadow takes from them.
//!
//! The shadow walks where hardware would: at a fault, to decide whether it is the guest's, and when
//! it fills or compares its own tables. The way through the tables is [`paging::Walk`]; here is
//! what a walk means to a processor in a certain mode.
//!
//! * *Rights are those of the whole path.* The shadow's tables above the leaves allow everything,
//!   so a leaf's note has the rights of all entries above it as well.
//! * *Flags are set as hardware sets them*: accessed in every entry on the way, dirty in the leaf,
//!   each by an exchange that fails if another processor has changed the entry since it was read.
//!   Then the walk starts over. A leaf that is not dirty is shadowed read-only, so that the first
//!   store faults and the flag can be set.
//! * *What has not been accessed is not cached.* Whatever is filled ahead of an access stops where
//!   the accessed flag is clear: the guest looks at that flag to tell what it can do without.
//! * *CR0.WP* lets the kernel write to what is read-only. Such a page is shadowed for the kernel
//!   alone, writable, until that is over ([`Note::overridden`]).

use core::ops::Deref;

use super::entry::Note;
use super::host::{BLOCK, Host};
use super::{Access, Mode};
use crate::x86::paging::entry::{ACCESSED, ADDRESS, DIRTY, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};
use crate::x86::paging::{self, Dead, EXECUTABLE, fault, index, reserved, shift};

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
            Some(Dead::Reserved) => fault::PRESENT | fault::RESERVED,
            None => fault::PRESENT,
        };
        if access.write {
            code |= fault::WRITE;
        }
        if access.user {
            code |= fault::USER;
        }
        if access.fetch && self.no_execute {
            code |= fault::FETCH;
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

/// A walk through the guest's tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk(paging::Walk);

impl Deref for Walk {
    type Target = paging::Walk;

    fn deref(&self) -> &paging::Walk {
        &self.0
    }
}

impl Walk {
    /// Walks from a root to the leaf for an address, or to its entry at the level `stop`.
    #[inline]
    pub(super) fn new(mode: Mode, root: u64, address: u64, stop: u8, host: &impl Host) -> Result<Self, Dead> {
        let read = |_, table, index| host.guest_entry(table + index as u64 * 8).unwrap_or(0);
        paging::Walk::new(root, address, stop, mode.never(), read).map(Self).map_err(|end| end.why)
    }

    /// The error code if the rights forbid an access.
    pub(super) fn check(&self, mode: Mode, access: Access) -> Result<(), u32> {
        if mode.allows(self.rights(), access) { Ok(()) } else { Err(mode.error(access, None)) }
    }

    /// Whether the page can be written, whatever CR0.WP says.
    pub(super) fn is_writable(&self) -> bool {
        self.rights() & WRITABLE != 0
    }

    /// Whether it has ended at a large page that can be written: in the kernel's part it is made
    /// dirty at once.
    pub(super) fn is_writable_large(&self) -> bool {
        self.is_large() && self.is_writable()
    }

    /// Sets the flags of an access; `false` if an entry has changed meanwhile.
    pub(super) fn mark(&mut self, dirty: bool, host: &mut impl Host) -> bool {
        self.is_accessed() && (!dirty || self.last() & DIRTY != 0) || self.set_flags(dirty, host)
    }

    #[cold]
    fn set_flags(&mut self, dirty: bool, host: &mut impl Host) -> bool {
        for level in (self.level()..=4).rev() {
            let old = self.entry(level);
            let new = old | ACCESSED | if dirty && level == self.level() { DIRTY } else { 0 };
            let place = self.table(level) + index(self.address(), level) as u64 * 8;
            if new != old && !host.set_guest_bits(place, old, new) {
                return false;
            }
            self.0.set(level, new);
        }
        true
    }

    /// The note for the 4 KB page at the address.
    #[inline]
    pub(super) fn note(&self, mode: Mode, fault: Option<Access>) -> Note {
        let within = (1 << shift(self.level())) - 0x1000;
        let note = mode.note(self.last(), self.path(), self.level()).at(self.address() & within);
        let overridden = fault.is_some_and(|access| access.write) && !self.is_writable();
        if overridden { note.overridden() } else { note }
    }

    /// Where the entries of the shadow table of `level` for an address come from.
    pub(super) fn source(&self, mode: Mode, address: u64, level: u8) -> Source {
        if self.level() > level && self.is_large() {
            let within = ((1 << shift(self.level())) - 1) & !((1 << shift(level + 1)) - 1);
            let first = mode.note(self.last(), self.path(), self.level()).at(address & within);
            return Source::Page { first, level: self.level() };
        }
        debug_assert!(self.level() >= level, "the path would have too many rights");
        let (table, path) = if self.level() > level {
            (self.last() & ADDRESS, self.rights())
        } else {
            (self.table(level), self.path())
        };
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
    /// Where the shadow table of a level (1 or 2) for an address has its entries from, by a path
    /// all of which has been accessed: what has not is not cached.
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
