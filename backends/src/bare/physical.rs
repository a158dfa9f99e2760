//! Physical memory before the guest runs: the first 4 GB, at their own addresses.

use core::ops::Range;

use wedge::memory::{MemoryMap, OutOfMemory, PhysicalMemory, overlap};

use crate::boot_information::ReadMemory;

/// What the entry code has mapped.
const MAPPED: u64 = 4 << 30;

/// The bytes at a physical address. Address 0 cannot be a reference, and nothing that anybody looks for is there.
fn pointer(address: u64, length: u64) -> Option<(*mut u8, usize)> {
    let end = address.checked_add(length)?;
    let place = core::ptr::with_exposed_provenance_mut(usize::try_from(address).ok()?);
    (address != 0 && end <= MAPPED).then_some((place, usize::try_from(length).ok()?))
}

/// Memory with what a boot loader and the firmware have written.
#[derive(Debug)]
pub(super) struct Firmware;

impl ReadMemory for Firmware {
    fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
        let (place, length) = pointer(address, length)?;
        // SAFETY: the entry code has mapped it, any byte may be read, and only the wedge runs.
        Some(unsafe { core::slice::from_raw_parts(place, length) })
    }
}

/// Memory that may be written: usable by the machine's map, and not the wedge's own.
#[derive(Debug)]
pub(super) struct Usable<'a> {
    map: &'a MemoryMap,
    own: Range<u64>,
}

impl<'a> Usable<'a> {
    /// # Safety
    ///
    /// No reference may exist into what is going to be asked for: the caller has planned what is written where.
    pub(super) unsafe fn new(map: &'a MemoryMap, own: Range<u64>) -> Self {
        Self { map, own }
    }
}

impl PhysicalMemory for Usable<'_> {
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory> {
        let refused = OutOfMemory { address, length };
        let (place, bytes) = pointer(address, length).ok_or(refused)?;
        let range = address..address + length;
        if !self.map.is_usable(&range) || overlap(&range, &self.own) {
            return Err(refused);
        }
        // SAFETY: mapped, memory, not the wedge's; and by `new`, nobody else's.
        Ok(unsafe { core::slice::from_raw_parts_mut(place, bytes) })
    }
}
