//! The guest's memory: pages of the machine, at the machine's own addresses, so that what the guest
//! tells a device to access is what the device will access.
//!
//! Below 1 MB, where a PC has its BIOS and seL4 gives nobody memory, the guest finds the first
//! pages that there are elsewhere. Where it has neither memory nor a device, one page stands for
//! all.
//!
//! All of it is mapped once more for the wedge, at physical address + [`LINEAR`]. The frames by
//! which that is done stay mapped; each other mapping is made by a copy of a frame's capability.

use core::ops::Range;
use core::sync::atomic::AtomicU64;

use wedge::memory::{Kind, MemoryMap, Region, TooManyRegions};
use wedge::shadow::Frame;
use wedge::vm::is_in_page;
use wedge::vm::modules::{ModuleMemory, PAGE_LENGTH};

use super::kernel::Slot;
use super::objects::{GRANULE, GRANULES, Granule, LIMIT};
use crate::host::seen::Seen;
pub(super) use crate::host::seen::pointer;
use crate::runtime::PAGE;

/// What the guest cannot have: the wedge's own mappings. A kernel of the low layout has nothing
/// there (`Layout::LOW`): its array of pages lies below, the stacks of exceptions above.
pub(super) const OWN: Range<u64> = 0x7000_0000_0000..0x7e00_0000_0000;
/// Where all of the guest's memory is mapped.
pub(super) const LINEAR: u64 = OWN.start;
/// Where the shadow works.
pub(super) const SHADOW: u64 = 0x7100_0000_0000;

/// Below this address the guest's memory is not the machine's.
const LOW: u64 = 1 << 20;
/// What the guest's memory map leaves out of its first granule: the memory that it finds below 1
/// MB, and the page that stands for all that is not there.
const LEFT_OUT: u64 = 2 << 20;

/// Pages in a granule.
pub(super) const PAGES: u64 = GRANULE / PAGE;

/// Slots of the frames of the guest's granules, by the number of the granule in physical memory; 0
/// where it has none.
pub(super) type Frames = [Slot; GRANULES];

/// The guest's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    frames: &'static Frames,
    /// The first granule's address.
    first: u64,
    pages: u64,
}

impl Memory {
    /// Granules that are mapped at [`LINEAR`], and the slots of their frames.
    pub(super) fn new(granules: &[Granule], frames: &'static Frames) -> Option<Self> {
        let first = granules.first()?.address;
        Some(Self { frames, first, pages: granules.len() as u64 * PAGES })
    }

    /// The guest's memory map.
    pub(super) fn map(self, granules: &[Granule]) -> Result<MemoryMap, TooManyRegions> {
        let mut map = MemoryMap::default();
        map.add(Region { start: PAGE, end: 0x9f000, kind: Kind::Usable })?;
        let mut rest = granules;
        while let Some(first) = rest.first() {
            let length = rest.iter().zip(0..).take_while(|(next, at)| next.address == first.address + at * GRANULE);
            let count = length.count();
            let start = first.address + if first.address == self.first { LEFT_OUT } else { 0 };
            map.add(Region { start, end: first.address + count as u64 * GRANULE, kind: Kind::Usable })?;
            rest = &rest[count..];
        }
        Ok(map)
    }

    /// How many pages there are.
    pub(super) fn pages(self) -> u64 {
        self.pages
    }

    /// The machine's address behind one of the guest's.
    fn machine(self, address: u64) -> u64 {
        if address < LOW { self.first + address } else { address }
    }

    /// The capability for the frame at an address of the machine's.
    pub(super) fn frame_slot(self, machine: u64) -> Option<Slot> {
        let first = *self.frames.get((machine / GRANULE) as usize)?;
        (first != 0).then_some(first + machine % GRANULE / PAGE)
    }

    /// Copies from an address of the machine's. Whether it is the guest's memory, in one page.
    pub(super) fn load_machine(self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.machine_place(address, bytes.len()) else { return false };
        // SAFETY: the guest's memory, which is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Copies to an address of the machine's. Whether it is the guest's memory, in one page.
    pub(super) fn store_machine(self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.machine_place(address, bytes.len()) else { return false };
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        true
    }

    fn machine_place(self, address: u64, length: usize) -> Option<*mut u8> {
        (is_in_page(address, length) && self.frame_slot(address).is_some()).then(|| pointer(LINEAR + address))
    }

    /// What the page around an address is.
    pub(super) fn frame(self, address: u64) -> Frame {
        let page = self.machine(address & !(PAGE - 1));
        if self.frame_slot(page).is_some() { Frame::Memory(page) } else { Frame::Substitute(self.first + LOW) }
    }
}

// SAFETY: all of it is mapped before the guest is loaded, where nothing of Rust's is, and stays so.
unsafe impl Seen for Memory {
    fn range(self, address: u64, length: u64) -> Option<*mut u8> {
        let end = address.checked_add(length).filter(|end| *end <= LIMIT)?;
        let start = self.machine(address);
        if address < LOW && end > LOW {
            return None;
        }
        let last = start + length.max(1) - 1;
        let mut granules = start / GRANULE..=last / GRANULE;
        granules.all(|granule| self.frames[granule as usize] != 0).then(|| pointer(LINEAR + start))
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
