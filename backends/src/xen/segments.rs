//! The descriptor tables that the processor really uses.
//!
//! Xen wants the pages of a descriptor table read-only. The guest writes its tables as it likes. So the wedge has tables of its
//! own, and copies into them what user mode may see: code and data segments of privilege level 3, at the guest's own
//! numbers, so that selectors are the guest's own too. What only the guest's kernel may load is never there; the kernel itself
//! runs on Xen's segments.
//!
//! The copy is brought up to date when the guest loads a table or a segment register, and when user mode fails to load one.

use wedge::cpu::VirtualCpu;

use super::hypercall::{self, Refused};
use super::interface::{MmuExtended, mmuext};
use super::memory::{Memory, entry};
use crate::freestanding::{PAGE, WINDOW, say};

/// Entries of a page.
const PAGE_ENTRIES: usize = 512;
/// Pages of a local descriptor table, at most.
const LDT_PAGES: usize = 16;

/// The tables' pages.
#[repr(C, align(4096))]
struct Pages(core::cell::UnsafeCell<[[u64; PAGE_ENTRIES]; 1 + LDT_PAGES]>);

// SAFETY: read only, and written by Xen.
unsafe impl Sync for Pages {}

static PAGES: Pages = Pages(core::cell::UnsafeCell::new([[0; PAGE_ENTRIES]; 1 + LDT_PAGES]));

/// The real tables.
#[derive(Debug)]
pub(super) struct Segments {
    /// Machine address of the first page of each.
    memory: &'static Memory,
    /// Entries of the local table that may differ from zero.
    ldt_entries: usize,
}

fn page_address(page: usize) -> u64 {
    PAGES.0.get().addr() as u64 + page as u64 * PAGE
}

impl Segments {
    /// Makes the tables' pages read-only, and loads the global one, which is empty.
    pub(super) fn new(memory: &'static Memory) -> Result<Self, Refused> {
        for page in 0..=LDT_PAGES {
            let value = memory.machine_of(page_address(page)) | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
            // SAFETY: the wedge only reads the page from here on.
            unsafe { hypercall::update_va_mapping(page_address(page), value)? };
            Memory::protect_in_linear_mapping(memory.machine_of(page_address(page)))?;
        }
        debug_assert!(page_address(0) >= WINDOW);
        let frame = memory.machine_of(page_address(0)) / PAGE;
        // SAFETY: the page holds zeros, and is mapped read-only.
        unsafe { hypercall::set_gdt(&[frame], PAGE_ENTRIES as u64)? };
        Ok(Self { memory, ldt_entries: 0 })
    }

    /// The descriptor that the processor finds for a selector; 0 for one of Xen's own.
    pub(super) fn descriptor(selector: u16) -> u64 {
        let index = usize::from(selector >> 3);
        match selector >> 2 & 1 {
            0 if index < PAGE_ENTRIES => Self::real(0, index),
            0 => 0,
            _ => Self::real(1 + index / PAGE_ENTRIES, index % PAGE_ENTRIES),
        }
    }

    fn real(page: usize, index: usize) -> u64 {
        // SAFETY: within the pages.
        unsafe { (*PAGES.0.get())[page][index] }
    }

    /// Brings an entry up to date.
    fn update(&self, page: usize, index: usize, guests: u64) {
        let wanted = if is_users(guests) { guests } else { 0 };
        // Xen sets the accessed bit where it likes (bit 40: SDM Vol. 3A, 3.4.5.1).
        if (Self::real(page, index) ^ wanted) & !(1 << 40) == 0 {
            return;
        }
        let address = self.memory.machine_of(page_address(page)) + 8 * index as u64;
        if let Err(Refused(error)) = hypercall::update_descriptor(address, wanted) {
            say!("Xen refuses the descriptor {guests:#x}, error {error}: it cannot be loaded");
            let _ = hypercall::update_descriptor(address, 0);
        }
    }

    /// A descriptor that is about to be loaded.
    pub(super) fn prepare(&self, selector: u16, descriptor: u64) {
        let index = usize::from(selector >> 3);
        let local = selector >> 2 & 1 == 1;
        if local {
            self.update(1 + index / PAGE_ENTRIES, index % PAGE_ENTRIES, descriptor);
        } else if index < PAGE_ENTRIES {
            self.update(0, index, descriptor);
        }
    }

    /// Copies the global table. `read` reads the guest's memory.
    pub(super) fn copy_gdt(&self, cpu: &VirtualCpu, mut read: impl FnMut(u64) -> Option<u64>) {
        let count = (usize::from(cpu.gdt.limit) + 1) / 8;
        for index in 0..PAGE_ENTRIES {
            // Behind what Linux uses there is nothing, and nothing to be compared.
            let guests = if index < count { read(cpu.gdt.base + 8 * index as u64).unwrap_or(0) } else { 0 };
            self.update(0, index, guests);
            if index >= count.max(32) {
                break;
            }
        }
    }

    /// Copies the local table, and loads it.
    pub(super) fn copy_ldt(&mut self, cpu: &VirtualCpu, mut read: impl FnMut(u64) -> Option<u64>) {
        let present = cpu.ldt.selector.0 & !3 != 0;
        let bytes = if present { cpu.ldt.limit as usize + 1 } else { 0 };
        let count = (bytes / 8).min(LDT_PAGES * PAGE_ENTRIES);
        if count == 0 && self.ldt_entries == 0 {
            return;
        }
        Self::load_ldt(0);
        for index in 0..count.max(self.ldt_entries) {
            let guests = if index < count { read(cpu.ldt.base + 8 * index as u64).unwrap_or(0) } else { 0 };
            self.update(1 + index / PAGE_ENTRIES, index % PAGE_ENTRIES, guests);
        }
        self.ldt_entries = count;
        Self::load_ldt(count);
    }

    fn load_ldt(entries: usize) {
        let argument = if entries == 0 { 0 } else { page_address(1) };
        let operation = MmuExtended { command: mmuext::SET_LDT, argument, argument2: entries as u64 };
        // SAFETY: the wedge uses no segment of it.
        if let Err(Refused(error)) = unsafe { hypercall::mmuext(&[operation]) } {
            say!("Xen refuses a local descriptor table of {entries} entries, error {error}");
        }
    }
}

/// Whether a descriptor is user mode's: of privilege level 3, and not a system descriptor (SDM Vol. 3A, 3.4.5). One that is
/// not present cannot be loaded, but LAR and LSL see it.
fn is_users(descriptor: u64) -> bool {
    const LEVEL_3: u64 = 3 << 45;
    const CODE_OR_DATA: u64 = 1 << 44;
    let all = LEVEL_3 | CODE_OR_DATA;
    descriptor & all == all
}
