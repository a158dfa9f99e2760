//! What seL4 tells the first thread (`libsel4/include/sel4/bootinfo_types.h`).
//!
//! 5.0.0 packs the structure, later versions do not, and have other fields in the end. Up to the
//! size of the first thread's CNode both are the same. What follows tells which it is: 5.0.0 has
//! the frequency of the time-stamp counter there, where the others have bytes of a number that is
//! 0.

use core::ops::Range;

use super::abi::Version;
use super::memory::pointer;
use crate::runtime::PAGE;

/// A piece of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untyped {
    pub(super) slot: u64,
    pub(super) address: u64,
    pub(super) bits: u8,
    pub(super) is_device: bool,
}

/// The structure, at an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootInfo {
    address: u64,
    pub(super) version: Version,
}

/// Offsets that are the same.
const EXTRA_LENGTH: u64 = 0;
const NODES: u64 = 16;
const IPC_BUFFER: u64 = 32;
const EMPTY: u64 = 40;
const IMAGE_FRAMES: u64 = 72;
const EXTRA_PAGES: u64 = 120;
const CNODE_BITS: u64 = 136;

impl BootInfo {
    /// # Safety
    ///
    /// seL4 has put its structure there, and it is mapped.
    pub(super) unsafe fn find(address: u64) -> Self {
        // SAFETY: by the caller.
        let behind = unsafe { pointer::<u64>(address + CNODE_BITS + 8).read_unaligned() };
        Self { address, version: if behind == 0 { Version::Current } else { Version::V5 } }
    }

    fn word(&self, offset: u64) -> u64 {
        debug_assert!(offset + 8 <= PAGE);
        // SAFETY: by `find`.
        unsafe { pointer::<u64>(self.address + offset).read_unaligned() }
    }

    fn slots(&self, offset: u64) -> Range<u64> {
        self.word(offset)..self.word(offset + 8)
    }

    /// The first thread's IPC buffer.
    pub(super) fn ipc_buffer(&self) -> u64 {
        self.word(IPC_BUFFER)
    }

    /// How many processors seL4 runs on.
    pub(super) fn nodes(&self) -> u64 {
        self.word(NODES)
    }

    /// Slots of the first thread's CNode that are free.
    pub(super) fn empty(&self) -> Range<u64> {
        self.slots(EMPTY)
    }

    /// The frames of the image, in the order of their addresses.
    pub(super) fn image_frames(&self) -> Range<u64> {
        self.slots(IMAGE_FRAMES)
    }

    /// The frame of the image that is at an address. The IPC buffer lies behind the last.
    pub(super) fn image_frame(&self, address: u64) -> u64 {
        let frames = self.image_frames();
        let start = self.ipc_buffer() - (frames.end - frames.start) * PAGE;
        frames.start + (address - start) / PAGE
    }

    /// All frames that are mapped for the first thread: bootinfo, IPC buffer, what else is told,
    /// the image.
    pub(super) fn low_frames(&self) -> impl Iterator<Item = u64> {
        const BOOT_INFO: u64 = 9;
        const BUFFER: u64 = 10;
        [BOOT_INFO, BUFFER].into_iter().chain(self.slots(EXTRA_PAGES)).chain(self.image_frames())
    }

    /// Where the list of untyped memory is, how long each entry is, and where in it the size is.
    fn list(&self) -> (u64, u64, u64) {
        match self.version {
            Version::V5 => (153, 12, 10),
            Version::Current => (152, 16, 8),
        }
    }

    /// All memory, and what are devices.
    pub(super) fn untyped(&self) -> impl Iterator<Item = Untyped> {
        const MOST: u64 = 230;
        let info = *self;
        let (offset, each, size) = info.list();
        let slots = info.slots(offset);
        let count = slots.end.saturating_sub(slots.start).min(MOST);
        (0..count).map(move |number| {
            let entry = offset + 16 + number * each;
            let [bits, is_device] = [0, 1].map(|at| info.byte(entry + size + at));
            Untyped { slot: slots.start + number, address: info.word(entry), bits, is_device: is_device != 0 }
        })
    }

    fn byte(&self, offset: u64) -> u8 {
        // SAFETY: as above.
        unsafe { pointer::<u8>(self.address + offset).read() }
    }

    /// The frequency of the time-stamp counter in MHz, if seL4 says.
    pub(super) fn megahertz(&self) -> Option<u64> {
        const FREQUENCY: u64 = 145;
        const HEADER_FREQUENCY: u64 = 5;
        if self.version == Version::V5 {
            return Some(self.word(FREQUENCY));
        }
        let mut at = self.address + PAGE;
        let end = at + self.word(EXTRA_LENGTH);
        while at + 16 <= end {
            // SAFETY: seL4 has put its structures there, one behind the other.
            let (kind, length) = unsafe { (pointer::<u64>(at).read(), pointer::<u64>(at + 8).read()) };
            if kind == HEADER_FREQUENCY {
                // SAFETY: as above.
                return Some(u64::from(unsafe { pointer::<u32>(at + 16).read_unaligned() }));
            }
            at += length.max(16);
        }
        None
    }
}
