//! The guest's memory, on hosts where the wedge sees all of it at an address of its own.
//!
//! Where that is, and what is memory at all, a host says by one function ([`Seen::range`]); what is
//! read and written there by it is the same everywhere.

#![expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits")]
#![expect(unsafe_code, reason = "the guest's memory is no Rust object")]

use core::fmt;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use wedge::memory::{MemoryMap, OutOfMemory, PhysicalMemory};
use wedge::vm::is_in_page;
use wedge::vm::modules::PAGE_LENGTH;

/// Something in memory at an address.
pub(super) fn pointer<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// Memory of the guest's.
///
/// # Safety
///
/// What [`range`](Self::range) finds is mapped for good, and is no Rust object.
pub(super) unsafe trait Seen: Copy + fmt::Debug {
    /// Where the wedge sees so many bytes from a guest-physical address on, if there are.
    fn range(self, address: u64, length: u64) -> Option<*mut u8>;

    /// Where it sees so many bytes that lie in one page.
    fn place(self, address: u64, length: usize) -> Option<*mut u8> {
        self.range(address, length as u64).filter(|_| is_in_page(address, length))
    }

    /// Whether there is memory for so many bytes, in one page.
    fn has(self, address: u64, length: usize) -> bool {
        self.place(address, length).is_some()
    }

    /// A word, at a multiple of 8.
    fn word(self, address: u64) -> Option<&'static AtomicU64> {
        // SAFETY: the guest's memory, of which any value may come; it stays mapped.
        self.range(address, 8).map(|place| unsafe { &*place.cast() })
    }

    /// Copies from an address. Whether there is memory, in one page.
    fn load(self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: the guest's memory, which is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Copies to an address. Whether there is memory, in one page.
    fn store(self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        true
    }

    /// A page as a page table.
    fn as_table(&self, physical: u64) -> Option<&[AtomicU64; 512]> {
        // SAFETY: a page of the guest's memory, of which any value may come.
        self.place(physical, PAGE_LENGTH).map(|place| unsafe { &*place.cast() })
    }

    /// A page, while the guest does not run.
    fn as_page(&self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        // SAFETY: as above; the guest does not run, so nobody writes to it.
        self.place(physical, PAGE_LENGTH).map(|place| unsafe { &*place.cast() })
    }
}

/// Memory that may be written while the guest is loaded.
#[derive(Debug)]
pub(super) struct Usable<'a, M> {
    map: &'a MemoryMap,
    memory: M,
}

impl<'a, M: Seen> Usable<'a, M> {
    /// # Safety
    ///
    /// No reference may exist into what is going to be asked for: the caller has planned what is
    /// written where.
    pub(super) unsafe fn new(map: &'a MemoryMap, memory: M) -> Self {
        Self { map, memory }
    }

    fn place(&self, address: u64, length: u64) -> Result<*mut u8, OutOfMemory> {
        let end = address.checked_add(length).filter(|end| self.map.is_usable(&(address..*end)));
        end.and_then(|_| self.memory.range(address, length)).ok_or(OutOfMemory { address, length })
    }
}

impl<M: Seen> PhysicalMemory for Usable<'_, M> {
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory> {
        let place = self.place(address, length)?;
        // SAFETY: the guest's memory, and by `new`, nobody else's.
        Ok(unsafe { slice::from_raw_parts_mut(place, length as usize) })
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<(), OutOfMemory> {
        let source = self.memory.range(from, length).ok_or(OutOfMemory { address: from, length })?;
        let place = self.place(to, length)?;
        // SAFETY: as above.
        unsafe { core::ptr::copy(source, place, length as usize) };
        Ok(())
    }
}

/// Replaces a word, if it still is `old`.
pub(super) fn exchange(word: &AtomicU64, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}
