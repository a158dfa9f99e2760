//! What the guest's page tables say of the range of its modules.
//!
//! Another processor may change them at any time, so each entry is read once.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

pub use crate::x86::paging::PAGE;
use crate::x86::paging::entry::{ADDRESS, PRESENT, WRITABLE};
use crate::x86::paging::{Dead, DeadEnd, EXECUTABLE, Walk, index, restricted};

/// Size of a page.
pub const PAGE_LENGTH: usize = PAGE as usize;
/// What one page table maps.
pub const REGION: u64 = 512 * PAGE;

/// The guest's memory, by physical addresses. What is not memory is `None`.
pub trait ModuleMemory {
    /// A page table; a PML4 is of level 4, a page table proper of level 1.
    fn table(&mut self, level: u8, physical: u64) -> Option<&[AtomicU64; 512]>;

    /// A page.
    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]>;
}

/// What a virtual address leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) physical: u64,
    pub(super) writable: bool,
    pub(super) executable: bool,
}

/// What 64 pages are: a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Executable.
    pub(super) executable: u64,
    /// Neither executable nor writable.
    pub(super) constant: u64,
}

impl Seen {
    pub(super) const NOTHING: Self = Self { executable: 0, constant: 0 };

    /// What entries of a page table say, below entries that leave these rights.
    fn read(entries: &[AtomicU64], rights: u64) -> Self {
        let mut seen = Self::NOTHING;
        for (bit, entry) in entries.iter().enumerate() {
            let entry = entry.load(Ordering::Relaxed);
            if entry & PRESENT != 0 {
                seen.add(1 << bit, restricted(entry, rights));
            }
        }
        seen
    }

    fn add(&mut self, bits: u64, rights: u64) {
        if rights & EXECUTABLE != 0 {
            self.executable |= bits;
        } else if rights & WRITABLE == 0 {
            self.constant |= bits;
        }
    }
}

/// What maps [`REGION`] bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mapped {
    /// Nothing, nor so many regions from here on: at least one.
    Absent(usize),
    /// One large page, with these rights.
    Large(u64),
    /// A page table, and the rights that the entries above leave.
    Table { table: u64, rights: u64 },
}

impl Mapped {
    /// What each of the region's pages is, in eight pieces of 64.
    pub(super) fn seen(self, piece: usize, memory: &mut impl ModuleMemory) -> Seen {
        match self {
            Self::Absent(_) => Seen::NOTHING,
            Self::Large(rights) => {
                let mut seen = Seen::NOTHING;
                seen.add(u64::MAX, rights);
                seen
            }
            Self::Table { table, rights } => {
                let entries = memory.table(1, table).and_then(|table| table.get(64 * piece..64 * (piece + 1)));
                entries.map_or(Seen::NOTHING, |entries| Seen::read(entries, rights))
            }
        }
    }
}

/// The tables, and the memory that they lead to.
pub(super) struct Tables<'a, M> {
    pub(super) root: u64,
    pub(super) memory: &'a mut M,
}

impl<M: ModuleMemory> Tables<'_, M> {
    /// What maps the region around an address.
    pub(super) fn region(&mut self, address: u64) -> Mapped {
        match self.walk(address, 2) {
            Ok(walk) if walk.is_large() => Mapped::Large(walk.rights()),
            Ok(walk) => Mapped::Table { table: walk.last() & ADDRESS, rights: walk.rights() },
            Err(DeadEnd { why: Dead::NotPresent, table, level: 2 }) => Mapped::Absent(self.absent(table, address)),
            Err(_) => Mapped::Absent(1),
        }
    }

    /// How many entries of a directory are absent, from that of an address on, which is.
    fn absent(&mut self, directory: u64, address: u64) -> usize {
        let absent = |entry: &&AtomicU64| entry.load(Ordering::Relaxed) & PRESENT == 0;
        let entries = self.memory.table(2, directory).map(|entries| &entries[index(address, 2)..]);
        entries.map_or(1, |entries| entries.iter().take_while(absent).count().max(1))
    }

    /// The page at an address.
    pub(super) fn page(&mut self, address: u64) -> Option<Page> {
        let walk = self.walk(address, 1).ok()?;
        let rights = walk.rights();
        Some(Page {
            physical: walk.translate(address & !(PAGE - 1)),
            writable: rights & WRITABLE != 0,
            executable: rights & EXECUTABLE != 0,
        })
    }

    /// Walks to the leaf for an address, or to its entry at a level. What is not memory has no
    /// entries.
    fn walk(&mut self, address: u64, stop: u8) -> Result<Walk, DeadEnd> {
        Walk::new(self.root & ADDRESS, address, stop, 0, |level, table, index| {
            self.memory.table(level, table).map_or(0, |entries| entries[index].load(Ordering::Relaxed))
        })
    }

    /// Reads bytes, no more than a page of them. Returns whether they are there.
    pub(super) fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        let in_page = PAGE_LENGTH - (address & (PAGE - 1)) as usize;
        let (first, rest) = bytes.split_at_mut(bytes.len().min(in_page));
        let next = (address & !(PAGE - 1)).wrapping_add(PAGE);
        self.read_in_page(address, first).is_some() && (rest.is_empty() || self.read_in_page(next, rest).is_some())
    }

    fn read_in_page(&mut self, address: u64, bytes: &mut [u8]) -> Option<()> {
        let page = self.page(address)?;
        let from = self.memory.page(page.physical)?.get((address & (PAGE - 1)) as usize..)?;
        bytes.copy_from_slice(from.get(..bytes.len())?);
        Some(())
    }

    /// The address of the first word in a range that has a value. Words lie at multiples of their
    /// size, as in notes.
    pub(super) fn find_word(&mut self, range: &Range<u64>, value: u32) -> Option<u64> {
        let mut address = range.start;
        while address < range.end {
            let end = (address & !(PAGE - 1)) + PAGE;
            if let Some(page) = self.page(address)
                && let Some(bytes) = self.memory.page(page.physical)
                && let (words, _) = bytes[(address & (PAGE - 1)) as usize..].as_chunks::<4>()
                && let Some(number) = words.iter().position(|word| *word == value.to_le_bytes())
            {
                return Some(address + 4 * number as u64).filter(|found| *found < range.end);
            }
            address = end;
        }
        None
    }
}

/// The physical address behind a virtual one of a module's, by the tables at `root`.
pub fn translate(root: u64, address: u64, memory: &mut impl ModuleMemory) -> Option<u64> {
    Tables { root, memory }.page(address).map(|page| page.physical + address % PAGE)
}
