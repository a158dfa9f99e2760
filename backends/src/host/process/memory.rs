//! The guest's memory: a file without a name, of which the wedge sees all at one place. Whatever
//! else is mapped, for the guest's kernel or for a program, is mapped from that file.
//!
//! The addresses of the wedge's own mappings lie between what a kernel of the low layout has at
//! 6a0000000000, its array of pages, and what it has at 7e0000000000, the stacks of exceptions.

use core::ops::Range;
use core::slice;
use core::sync::atomic::AtomicU64;

use linux_raw_sys::general as raw;
use wedge::shadow::Frame;
use wedge::vm::modules::{ModuleMemory, PAGE_LENGTH};

use super::system::{self, Answer, File};
use crate::host::seen::Seen;
pub(super) use crate::host::seen::pointer;
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

    /// So many bytes, before the guest runs: of nobody else's.
    pub(super) fn bytes(self, address: u64, length: u64) -> Option<&'static mut [u8]> {
        // SAFETY: the guest's memory; only what is loaded first is asked for in this way.
        self.range(address, length).map(|place| unsafe { slice::from_raw_parts_mut(place, length as usize) })
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

// SAFETY: all of it is mapped before the guest is loaded, where nothing of Rust's is, and stays so.
unsafe impl Seen for Memory {
    fn range(self, address: u64, length: u64) -> Option<*mut u8> {
        let end = address.checked_add(length)?;
        (end <= self.length).then(|| pointer(LINEAR + address))
    }
}

impl ModuleMemory for Memory {
    fn table(&mut self, _: u8, physical: u64) -> Option<&[AtomicU64; 512]> {
        self.as_table(physical)
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        self.as_page(physical)
    }
}
