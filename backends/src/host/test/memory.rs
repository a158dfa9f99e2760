//! The machine's memory, in a vector, and tables that nothing but the interpreter reads.

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::vec::Vec;

use wedge::memory::{OutOfMemory, PhysicalMemory};
use wedge::shadow::{Flush, Frame, Host, Level, Link, Table};
use wedge::sites::STUB_SIZE;
use wedge::vm::modules::{ModuleMemory, PAGE_LENGTH};
use wedge::vm::{Memory, Peephole, Reached};
use wedge::x86::paging::PAGE;

/// Memory from physical address 0 on. The machine accesses it by itself, so it consists of atomic
/// words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ram(&'static [AtomicU64]);

impl Ram {
    /// So many bytes, a multiple of the size of a page.
    pub(super) fn new(bytes: usize) -> Self {
        let words: Vec<AtomicU64> = (0..bytes / 8 + 512).map(|_| AtomicU64::new(0)).collect();
        let words = Box::leak(words.into_boxed_slice());
        let skip = words.as_ptr().align_offset(PAGE_LENGTH) % 512;
        Self(&words[skip..skip + bytes / 8])
    }

    /// Its length in bytes.
    pub(super) fn length(self) -> u64 {
        8 * self.0.len() as u64
    }

    /// A word, if there is memory at its address.
    pub(super) fn word(self, address: u64) -> Option<&'static AtomicU64> {
        self.0.get(usize::try_from(address / 8).ok()?)
    }

    fn bytes_at(self, address: u64, length: u64) -> Option<*mut u8> {
        let end = address.checked_add(length)?;
        (end <= self.length()).then(|| self.0.as_ptr().cast::<u8>().cast_mut().wrapping_add(address as usize))
    }

    /// Copies from an address. Whether there is memory.
    pub(super) fn load(self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.bytes_at(address, bytes.len() as u64) else { return false };
        // SAFETY: within the words, which are never Rust objects of another kind; one thread uses
        // them.
        unsafe { core::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Room for stubs, for the rewriter alone to write to. The interpreter reads them by
    /// [`Self::load`], as a processor would.
    pub(super) fn stubs(self, address: u64, count: usize) -> &'static mut [[u8; STUB_SIZE]] {
        let place = self.bytes_at(address, (count * STUB_SIZE) as u64).expect("within the window");
        // SAFETY: within the words; called once, and nobody else writes there.
        unsafe { core::slice::from_raw_parts_mut(place.cast(), count) }
    }

    /// Copies to an address. Whether there is memory.
    pub(super) fn store(self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.bytes_at(address, bytes.len() as u64) else { return false };
        // SAFETY: as above; atomic words may be written to behind a shared reference.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        true
    }
}

/// Memory while the guest is loaded.
pub(super) struct Usable(pub(super) Ram);

impl PhysicalMemory for Usable {
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory> {
        let place = self.0.bytes_at(address, length).ok_or(OutOfMemory { address, length })?;
        // SAFETY: within the words; nobody else accesses them before the guest runs.
        Ok(unsafe { core::slice::from_raw_parts_mut(place, length as usize) })
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<(), OutOfMemory> {
        let source = self.0.bytes_at(from, length).ok_or(OutOfMemory { address: from, length })?;
        let place = self.0.bytes_at(to, length).ok_or(OutOfMemory { address: to, length })?;
        // SAFETY: as above.
        unsafe { core::ptr::copy(source, place, length as usize) };
        Ok(())
    }
}

impl ModuleMemory for Ram {
    fn table(&mut self, _: u8, physical: u64) -> Option<&[AtomicU64; 512]> {
        self.0.get(usize::try_from(physical / 8).ok()?..)?.first_chunk()
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        let place = self.bytes_at(physical, PAGE)?;
        // SAFETY: within the words; the guest does not run, so nobody writes to it.
        Some(unsafe { &*place.cast_const().cast() })
    }
}

/// Tables, and the memory that they lead to.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) ram: Ram,
    entries: Vec<[Link; 512]>,
    free: Vec<Table>,
    /// The roots in force: the kernel's and the programs'.
    roots: [Table; 2],
}

impl Tables {
    /// So many, all free.
    pub(super) fn new(ram: Ram, count: u32) -> Self {
        let entries = (0..count).map(|_| [Link::Absent; 512]).collect();
        Self { ram, entries, free: (0..count).rev().map(Table).collect(), roots: [Table(0); 2] }
    }

    /// How the hardware sees an address: the guest-physical address behind it.
    pub(super) fn walk(&self, address: u64, user: bool, write: bool) -> Option<u64> {
        let mut table = self.roots[usize::from(user)];
        for level in (2..=4).rev() {
            match self.entries[table.0 as usize][(address >> (3 + 9 * level) & 511) as usize] {
                Link::Own(next) => table = next,
                _ => return None,
            }
        }
        match self.entries[table.0 as usize][(address >> 12 & 511) as usize] {
            Link::Leaf(leaf) if leaf.writable || !write => Some(leaf.address | address & (PAGE - 1)),
            _ => None,
        }
    }
}

impl Host for Tables {
    fn guest_entry(&self, address: u64) -> Option<u64> {
        self.ram.word(address).map(|word| word.load(Ordering::Relaxed))
    }

    fn set_guest_bits(&mut self, address: u64, old: u64, new: u64) -> bool {
        let Some(word) = self.ram.word(address) else { return false };
        word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn frame(&self, address: u64) -> Frame {
        if address < self.ram.length() { Frame::Memory(address) } else { Frame::Nothing }
    }

    fn linear(&self, _: u64) -> bool {
        false
    }

    fn allocate(&mut self, _: Level, _: u64) -> Option<Table> {
        let table = self.free.pop()?;
        self.entries[table.0 as usize] = [Link::Absent; 512];
        Some(table)
    }

    fn release(&mut self, table: Table, _: Level) {
        self.free.push(table);
    }

    fn set(&mut self, table: Table, _: Level, index: usize, link: Link) {
        self.entries[table.0 as usize][index] = link;
    }

    fn commit(&mut self) {}

    fn flush(&mut self, _: Flush) {}

    fn switch(&mut self, kernel: Table, user: Table) {
        self.roots = [kernel, user];
    }
}

impl Peephole for Tables {
    fn open(&mut self, pages: &[u64], offset: usize, length: usize) -> Option<&mut [u8]> {
        let [page] = pages else { return None };
        let place = self.ram.bytes_at(page + offset as u64, length as u64)?;
        // SAFETY: within the words; the guest does not run, and there is one such view at a time.
        Some(unsafe { core::slice::from_raw_parts_mut(place, length) })
    }
}

impl Memory for Tables {
    type Physical = Ram;

    fn physical(&self) -> Ram {
        self.ram
    }

    fn is_known(&self, address: u64, write: bool) -> bool {
        self.walk(address, false, write).is_some()
    }

    fn is_mapped(&mut self, address: u64, write: bool) -> bool {
        self.is_known(address, write)
    }

    fn load(&self, from: Reached, bytes: &mut [u8]) {
        let found = self.walk(from.address(), false, false).is_some_and(|physical| self.ram.load(physical, bytes));
        assert!(found, "{from:x?} is not mapped");
    }

    fn store(&mut self, to: Reached, bytes: &[u8]) {
        let found = self.walk(to.address(), false, true).is_some_and(|physical| self.ram.store(physical, bytes));
        assert!(found, "{to:x?} is not mapped");
    }

    fn has_physical(&self, address: u64, length: usize) -> bool {
        address + length as u64 <= self.ram.length()
    }

    fn load_physical(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.ram.load(address, bytes)
    }

    fn store_physical(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.ram.store(address, bytes)
    }

    fn refused(&self) -> u64 {
        0
    }
}
