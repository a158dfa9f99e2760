//! What the guest's page tables say of the range of its modules.
//!
//! Entries: SDM Vol. 3A, 4.5.4, tables 4-15 to 4-20. Another processor may change them at any time, so each is read once.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Size of a page.
pub const PAGE: u64 = PAGE_LENGTH as u64;
/// The same.
pub const PAGE_LENGTH: usize = 4096;
/// What one page table maps.
pub const REGION: u64 = 512 * PAGE;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The guest's memory, by physical addresses. What is not memory is `None`.
pub trait ModuleMemory {
    /// A page table; a PML4 is of level 3, a page table proper of level 0.
    fn table(&mut self, level: usize, physical: u64) -> Option<&[AtomicU64; 512]>;

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

    /// What entries of a page table say, below entries with these rights: all bits that forbid, and those that allow, of those.
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

    fn add(&mut self, bits: u64, entry: u64) {
        if entry & NO_EXECUTE == 0 {
            self.executable |= bits;
        } else if entry & WRITABLE == 0 {
            self.constant |= bits;
        }
    }
}

/// An entry with no more rights than those above it leave.
fn restricted(entry: u64, above: u64) -> u64 {
    (entry & !WRITABLE) | (entry & above & WRITABLE) | (above & NO_EXECUTE)
}

/// What maps [`REGION`] bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mapped {
    /// Nothing, nor so many regions from here on: at least one.
    Absent(usize),
    /// One large page; its entry.
    Large(u64),
    /// A page table, and the rights that the entries above leave.
    Table { table: u64, rights: u64 },
}

impl Mapped {
    /// What each of the region's pages is, in eight pieces of 64.
    pub(super) fn seen(self, piece: usize, memory: &mut impl ModuleMemory) -> Seen {
        match self {
            Self::Absent(_) => Seen::NOTHING,
            Self::Large(entry) => {
                let mut seen = Seen::NOTHING;
                seen.add(u64::MAX, entry);
                seen
            }
            Self::Table { table, rights } => {
                let entries = memory.table(0, table).and_then(|table| table.get(64 * piece..64 * (piece + 1)));
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
        let (mut table, mut rights) = (self.root & ADDRESS, WRITABLE);
        for level in [3, 2, 1] {
            let index = index(address, level);
            let Some(entries) = self.memory.table(level, table) else { return Mapped::Absent(1) };
            let entry = entries[index].load(Ordering::Relaxed);
            if entry & PRESENT == 0 {
                let absent = |entry: &&AtomicU64| entry.load(Ordering::Relaxed) & PRESENT == 0;
                let rest = if level == 1 { entries[index..].iter().take_while(absent).count() } else { 1 };
                return Mapped::Absent(rest.max(1));
            }
            let entry = restricted(entry, rights);
            if entry & LARGE != 0 && level < 3 {
                let offset = address & ((REGION << (9 * (level - 1))) - REGION);
                return Mapped::Large((entry & !(REGION - PAGE)) + offset);
            }
            (table, rights) = (entry & ADDRESS, entry);
        }
        Mapped::Table { table, rights }
    }

    /// The page at an address.
    pub(super) fn page(&mut self, address: u64) -> Option<Page> {
        let entry = match self.region(address) {
            Mapped::Absent(_) => return None,
            Mapped::Large(entry) => entry + (address & (REGION - PAGE)),
            Mapped::Table { table, rights } => {
                let entry = self.memory.table(0, table)?[index(address, 0)].load(Ordering::Relaxed);
                (entry & PRESENT != 0).then(|| restricted(entry, rights))?
            }
        };
        let (writable, executable) = (entry & WRITABLE != 0, entry & NO_EXECUTE == 0);
        Some(Page { physical: entry & ADDRESS, writable, executable })
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

    /// The address of the first word in a range that has a value. Words lie at multiples of their size, as in notes.
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

/// Index of an address in the table of a level, 0 being a page table.
fn index(address: u64, level: usize) -> usize {
    (address >> (12 + 9 * level) & 511) as usize
}
