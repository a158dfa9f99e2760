//! Physical memory before the guest runs: the first 4 GB, at their own addresses.

use core::ops::Range;

use wedge::memory::{MemoryMap, OutOfMemory, PhysicalMemory, overlap};

use crate::boot::ReadMemory;

/// What the entry code has mapped.
const MAPPED: u64 = 4 << 30;

/// The bytes at a physical address. Address 0 cannot be a reference, and nothing that anybody looks
/// for is there.
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
    /// No reference may exist into what is going to be asked for: the caller has planned what is
    /// written where.
    pub(super) unsafe fn new(map: &'a MemoryMap, own: Range<u64>) -> Self {
        Self { map, own }
    }
}

impl Usable<'_> {
    /// Where bytes are that may be written.
    fn place(&self, address: u64, length: u64) -> Result<(*mut u8, usize), OutOfMemory> {
        let place = pointer(address, length).filter(|_| {
            let range = address..address + length;
            self.map.is_usable(&range) && !overlap(&range, &self.own)
        });
        place.ok_or(OutOfMemory { address, length })
    }
}

impl PhysicalMemory for Usable<'_> {
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory> {
        let (place, length) = self.place(address, length)?;
        // SAFETY: mapped, memory, not the wedge's; and by `new`, nobody else's.
        Ok(unsafe { core::slice::from_raw_parts_mut(place, length) })
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<(), OutOfMemory> {
        let (source, _) = pointer(from, length).ok_or(OutOfMemory { address: from, length })?;
        let (place, length) = self.place(to, length)?;
        // SAFETY: any byte that is mapped may be read; the others as in `bytes`.
        unsafe { core::ptr::copy(source, place, length) };
        Ok(())
    }
}
