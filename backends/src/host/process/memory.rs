//! The guest's memory: a file without a name, of which the wedge sees all at one place. Whatever
//! else is mapped, for the guest's kernel or for a program, is mapped from that file.
//!
//! The addresses of the wedge's own mappings lie between what a kernel of the low layout has at
//! 6a0000000000, its array of pages, and what it has at 7e0000000000, the stacks of exceptions.

use core::ops::Range;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as raw;
use wedge::memory::{MemoryMap, OutOfMemory, PhysicalMemory};
use wedge::shadow::Frame;
use wedge::vm::is_in_page;
use wedge::vm::modules::{ModuleMemory, PAGE_LENGTH};

use super::system::{self, Answer, File};
use crate::runtime::PAGE;

/// What the guest cannot have: the wedge's own mappings.
pub(super) const OWN: Range<u64> = 0x7000_0000_0000..0x7e00_0000_0000;
/// Where all of the guest's memory is mapped.
const LINEAR: u64 = OWN.start;
/// Where the shadow works.
pub(super) const SHADOW: u64 = 0x7100_0000_0000;
/// Two pages that show what is to be rewritten.
pub(super) const PEEPHOLE: u64 = 0x7200_0000_0000;
/// The pages that a program's process has of the wedge's.
pub(super) const STUB: u64 = 0x7300_0000_0000;
/// Where the wedge sees the stacks of programs' processes.
pub(super) const STACKS: u64 = 0x7500_0000_0000;
/// Where disks are whose writes are forgotten.
pub(super) const SNAPSHOTS: u64 = 0x7600_0000_0000;
/// How long such a disk may be.
pub(super) const SNAPSHOT_LENGTH: u64 = 1 << 40;
/// The local descriptor tables that were set in programs' processes.
pub(super) const LOCALS: u64 = 0x7700_0000_0000;
/// Frames that have come from passt.
pub(super) const FRAMES: u64 = 0x7780_0000_0000;
/// Tables of fids, in the process that serves directories.
pub(super) const FIDS: u64 = 0x7480_0000_0000;
/// The stack that signals are handled on.
pub(super) const SIGNAL_STACK: Range<u64> = 0x7400_0000_0000..0x7400_0004_0000;

/// Guest-physical addresses that are served.
pub(super) const LIMIT: u64 = 64 << 30;

/// To read and to write.
pub(super) const READ_AND_WRITE: u32 = raw::PROT_READ | raw::PROT_WRITE;

/// Something in memory at an address.
pub(super) fn pointer<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// The guest's memory, from guest-physical address 0 on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    file: File,
    length: u64,
}

impl Memory {
    /// So many bytes, and behind them the page that stands for all that is not there.
    pub(super) fn new(length: u64) -> Answer<Self> {
        let file = File::memory(c"afterburner guest", length + PAGE)?;
        // SAFETY: nothing of Rust's is in that part of the address space.
        unsafe { system::map(LINEAR, length + PAGE, READ_AND_WRITE, Some((file, 0)))? };
        Ok(Self { file, length })
    }

    /// Bytes.
    pub(super) fn length(self) -> u64 {
        self.length
    }

    /// What it is mapped from.
    pub(super) fn file(self) -> File {
        self.file
    }

    /// Where the wedge sees so many bytes of it, if there are.
    pub(super) fn range(self, address: u64, length: u64) -> Option<*mut u8> {
        let end = address.checked_add(length)?;
        (end <= self.length).then(|| pointer(LINEAR + address))
    }

    /// So many bytes, before the guest runs: of nobody else's.
    pub(super) fn bytes(self, address: u64, length: u64) -> Option<&'static mut [u8]> {
        // SAFETY: the guest's memory; only what is loaded first is asked for in this way.
        self.range(address, length).map(|place| unsafe { slice::from_raw_parts_mut(place, length as usize) })
    }

    /// Where the wedge sees so many bytes that lie in one page.
    fn place(self, address: u64, length: usize) -> Option<*mut u8> {
        self.range(address, length as u64).filter(|_| is_in_page(address, length))
    }

    /// A word, at a multiple of 8.
    pub(super) fn word(self, address: u64) -> Option<&'static AtomicU64> {
        // SAFETY: the guest's memory, of which any value may come; it stays mapped.
        self.range(address, 8).map(|place| unsafe { &*place.cast() })
    }

    /// Copies from an address. Whether there is memory, in one page.
    pub(super) fn load(self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: the guest's memory, which is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Copies to an address. Whether there is memory, in one page.
    pub(super) fn store(self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        true
    }

    /// Copies from an address. Whether all of it is memory.
    pub(super) fn load_all(self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.range(address, bytes.len() as u64) else { return false };
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Copies to an address. Whether all of it is memory.
    pub(super) fn store_all(self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.range(address, bytes.len() as u64) else { return false };
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        true
    }

    /// Whether there is memory for so many bytes, in one page.
    pub(super) fn has(self, address: u64, length: usize) -> bool {
        self.place(address, length).is_some()
    }

    /// What the page around an address is.
    pub(super) fn frame(self, address: u64) -> Frame {
        let page = address & !(PAGE - 1);
        if page < self.length { Frame::Memory(page) } else { Frame::Substitute(self.length) }
    }

    /// Bytes from an address on, through the peephole.
    pub(super) fn open(&mut self, pages: &[u64], offset: usize, length: usize) -> Option<&mut [u8]> {
        if pages.len() > 2 || offset + length > pages.len() * PAGE_LENGTH {
            return None;
        }
        for (number, page) in pages.iter().enumerate() {
            self.place(*page, PAGE_LENGTH)?;
            let place = PEEPHOLE + number as u64 * PAGE;
            // SAFETY: nothing but this looks through the peephole.
            unsafe { system::map(place, PAGE, READ_AND_WRITE, Some((self.file, *page))).ok()? };
        }
        // SAFETY: within the peephole, which shows the guest's text; the guest does not run, and
        // there is one such view at a time.
        Some(unsafe { slice::from_raw_parts_mut(pointer(PEEPHOLE + offset as u64), length) })
    }
}

impl ModuleMemory for Memory {
    fn table(&mut self, _: u8, physical: u64) -> Option<&[AtomicU64; 512]> {
        // SAFETY: a page of the guest's memory, of which any value may come.
        self.place(physical, PAGE_LENGTH).map(|place| unsafe { &*place.cast() })
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        // SAFETY: as above; the guest does not run, so nobody writes to it.
        self.place(physical, PAGE_LENGTH).map(|place| unsafe { &*place.cast() })
    }
}

/// Memory that may be written while the guest is loaded.
#[derive(Debug)]
pub(super) struct Usable<'a> {
    map: &'a MemoryMap,
    memory: Memory,
}

impl<'a> Usable<'a> {
    /// # Safety
    ///
    /// No reference may exist into what is going to be asked for: the caller has planned what is
    /// written where.
    pub(super) unsafe fn new(map: &'a MemoryMap, memory: Memory) -> Self {
        Self { map, memory }
    }

    fn place(&self, address: u64, length: u64) -> Result<*mut u8, OutOfMemory> {
        let end = address.checked_add(length).filter(|end| self.map.is_usable(&(address..*end)));
        end.and_then(|_| self.memory.range(address, length)).ok_or(OutOfMemory { address, length })
    }
}

impl PhysicalMemory for Usable<'_> {
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
