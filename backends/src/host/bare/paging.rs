//! The wedge's place in the guest's address space.
//!
//! On bare hardware the guest's page tables are the machine's. What the wedge puts into them is one
//! entry: the one of the kernel's page-directory-pointer table that covers the GB below its image,
//! which the kernel leaves empty. It points to a directory of the wedge's own, so that from the
//! guest's first page table on, in every address space, the window is there. Where user mode runs
//! on tables of its own (page-table isolation), the same entry goes into those once they exist:
//! entry code runs on them.
//!
//! Nothing in the window is both writable and executable. What must be written while the guest
//! runs, stubs and the guest's text, is written with CR0.WP off (SDM Vol. 3A, 4.6.1).

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use wedge::guest::layout::{Layout, WINDOW_LENGTH};
use wedge::guest::linux::boot_params;
use wedge::image::LOAD_ADDRESS;
use wedge::vm::modules::PAGE_LENGTH;
use wedge::x86::paging::entry::{
    ACCESSED_AND_DIRTY, ADDRESS, CACHE_DISABLE, LARGE, NO_EXECUTE, PRESENT, WRITABLE, WRITE_THROUGH,
};
use wedge::x86::paging::index;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr0, Cr0Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};

use crate::runtime::exclusive::{PAGE_WORDS, Pages};
use crate::runtime::{PAGE, window};

/// Registers of devices are not cached.
const UNCACHED: u64 = WRITE_THROUGH | CACHE_DISABLE;

/// Of the boot tables, the PML4, the page-directory-pointer table that leads to the window, and the
/// table that is not in use.
const ROOT: usize = 0;
const POINTERS: usize = 2;
const SPARE: usize = 8;

/// The last pages of the window each show a physical page: one for each level of page tables, one
/// for memory, and one for a device. What lies in front of them may hold the wedge and its arena.
pub(super) const USABLE: u64 = WINDOW_LENGTH - 6 * PAGE;
const MEMORY: usize = 4;
const DEVICE: usize = 5;

type Table = [u64; 512];

/// The tables of the window: its directory, behind it its page tables, and behind those what tells
/// Linux to keep off them.
static TABLES: Pages<{ SETUP_DATA + 1 }> = Pages::new();

unsafe extern "C" {
    /// The tables that the entry code made: PML4, the page-directory-pointer tables for the first 4
    /// GB and for the window, the window's directory, four directories of the first 4 GB, and a
    /// spare one.
    static mut boot_tables: [Table; 9];
    static text_end: u8;
    static rodata_end: u8;
}

/// Offset in the window of something that is linked into it.
fn offset<T: ?Sized>(symbol: *const T) -> u64 {
    symbol.addr() as u64 - window()
}

/// Page tables of the window.
const PAGE_TABLES: usize = 8;

/// The page with the `struct setup_data`.
const SETUP_DATA: usize = 1 + PAGE_TABLES;

/// The entries for the window's pages.
fn pages() -> &'static [AtomicU64] {
    &TABLES.words()[PAGE_WORDS..][..PAGE_TABLES * PAGE_WORDS]
}

/// Has Linux keep off the memory of the wedge, and map it all the same, as usable memory: a kernel
/// that walks its own page tables reads those of the window by that mapping. Returns the physical
/// address of the `struct setup_data` that says so.
pub(super) fn keep(base: u64, memory: &Range<u64>) -> u64 {
    let node = TABLES.page(SETUP_DATA);
    for (word, value) in node.iter().zip(boot_params::kept(memory)) {
        word.store(value, Ordering::Relaxed);
    }
    base + offset(node)
}

/// The wedge's window.
#[derive(Debug)]
pub(super) struct Window {
    /// Physical address of its first byte.
    base: u64,
    /// Which one it is.
    layout: &'static Layout,
    /// The bit that forbids execution, if the processor has it.
    no_execute: u64,
    /// What the peepholes show to the processor that used them last.
    shown: [u64; 5],
    processor: u32,
}

impl Window {
    /// Makes the window's tables. `stubs` is what may be executed of the arena, `length` the end of
    /// the arena; offsets in the window.
    pub(super) fn new(base: u64, layout: &'static Layout, stubs: &Range<u64>, length: u64) -> Self {
        // CPUID 8000_0001, EDX bit 20: execute-disable. Linux sets EFER.NXE itself, but only after
        // it has turned to tables that contain ours.
        let has_no_execute = core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 20 != 0;
        if has_no_execute {
            // SAFETY: the bit is there, and no entry in use has bit 63 set.
            unsafe { Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE)) };
        }
        let no_execute = if has_no_execute { NO_EXECUTE } else { 0 };
        let window = Self { base, layout, no_execute, shown: [NOTHING; 5], processor: 0 };
        let (text, rodata) = (offset(&raw const text_end), offset(&raw const rodata_end));
        let entries = TABLES.page(0)[layout.window_index(2)..].iter();
        for (number, entry) in entries.enumerate().take(PAGE_TABLES) {
            let table = base + offset(TABLES.page(1 + number));
            entry.store(table | PRESENT | WRITABLE | ACCESSED_AND_DIRTY, Ordering::Relaxed);
        }
        let pages = (0..length.div_ceil(PAGE)).map(|number| number * PAGE).zip(pages());
        for (page, entry) in pages.skip_while(|(page, _)| *page < LOAD_ADDRESS) {
            let rights = if page < text || stubs.contains(&page) {
                0
            } else if page < rodata {
                window.no_execute
            } else {
                WRITABLE | window.no_execute
            };
            entry.store((base + page) | PRESENT | ACCESSED_AND_DIRTY | rights, Ordering::Relaxed);
        }
        window
    }

    /// The entry of a page-directory-pointer table that leads to the window.
    pub(super) fn entry(&self) -> u64 {
        (self.base + offset(TABLES.page(0))) | PRESENT | WRITABLE | ACCESSED_AND_DIRTY
    }

    /// Shows the window where code finds it that runs at its physical address: a branch that would
    /// lead from the linked address to the window leads from there to as far below the top of the
    /// address space. `moved` is how far above its linked address the kernel was put.
    pub(super) fn show_to_head_code(&self, moved: u64) {
        let alias = self.layout.window().start.wrapping_sub(self.layout.image).wrapping_sub(moved);
        let tables = &raw mut boot_tables;
        // SAFETY: the boot tables belong to the wedge until the guest turns to its own; these
        // entries are not in use.
        let tables = unsafe { &mut *tables };
        // A kernel is moved by less than 1 GB, so one directory will do.
        tables[ROOT][index(alias, 4)] = (self.base + offset(&raw const tables[POINTERS])) | PRESENT | WRITABLE;
        tables[POINTERS][index(alias, 3)] = (self.base + offset(&raw const tables[SPARE])) | PRESENT | WRITABLE;
        for page in (0..WINDOW_LENGTH).step_by(2 << 20) {
            tables[SPARE][index(alias + page, 2)] = (self.base + page) | PRESENT | WRITABLE | LARGE;
        }
        tlb::flush_all();
    }

    /// Says which processor uses the window now: what another one has looked at may not be in this
    /// one's TLB.
    pub(super) fn used_by(&mut self, processor: u32) {
        if self.processor != processor {
            (self.processor, self.shown) = (processor, [NOTHING; 5]);
        }
    }

    /// Shows a physical page at one of the last pages of the window.
    fn show(&mut self, at: u64, physical: u64, attributes: u64) {
        let page = usize::try_from((at - window()) / PAGE).unwrap_or(0);
        if let Some(entry) = pages().get(page) {
            let value = physical | PRESENT | WRITABLE | ACCESSED_AND_DIRTY | attributes | self.no_execute;
            entry.store(value, Ordering::Relaxed);
        }
        tlb::flush(VirtAddr::new_truncate(at));
    }

    /// Where a physical page is seen, through a peephole that stays as it is until it is used for
    /// another page.
    fn peephole(&mut self, number: usize, page: u64) -> u64 {
        let at = place_of(number);
        if self.shown[number] != page {
            self.show(at, page, 0);
            self.shown[number] = page;
        }
        at
    }

    /// The entry for an address in a table of a level.
    fn entry_for(&mut self, level: u8, table: u64, address: u64) -> *mut u64 {
        let place = self.peephole(usize::from(level) - 1, table) + 8 * index(address, level) as u64;
        core::ptr::with_exposed_provenance_mut(usize::try_from(place).unwrap_or(0))
    }

    /// A page table of a level, 1 being a page table proper.
    pub(super) fn table(&mut self, level: u8, physical: u64) -> &[AtomicU64; 512] {
        let place = self.peephole(usize::from(level) - 1, physical & ADDRESS);
        // SAFETY: what the guest has as a page table is memory, and the peephole shows it as long
        // as `self` is borrowed.
        unsafe { &*core::ptr::with_exposed_provenance(usize::try_from(place).unwrap_or(0)) }
    }

    /// A page of the guest's memory.
    pub(super) fn page(&mut self, physical: u64) -> &[u8; PAGE_LENGTH] {
        let place = self.peephole(MEMORY, physical & ADDRESS);
        // SAFETY: what the guest has mapped as a module's constants is memory, and nobody writes to
        // it; the peephole shows it as long as `self` is borrowed.
        unsafe { &*core::ptr::with_exposed_provenance(usize::try_from(place).unwrap_or(0)) }
    }

    fn read(&mut self, level: u8, table: u64, address: u64) -> u64 {
        let entry = self.entry_for(level, table, address);
        // SAFETY: what the guest has as a page table is memory, and the peephole shows it.
        unsafe { entry.read_volatile() }
    }

    /// A register of a device, 32 bits wide, at a physical address.
    pub(super) fn device(&mut self, physical: u64) -> *mut u32 {
        self.show(place_of(DEVICE), physical & ADDRESS, UNCACHED);
        core::ptr::with_exposed_provenance_mut(usize::try_from(place_of(DEVICE) + (physical & (PAGE - 1))).unwrap_or(0))
    }

    /// Puts the window into the tables that user mode runs on, if the guest has made them. `entry`
    /// is the physical address of their PML4 entry for the window. Returns whether the window is
    /// there now.
    pub(super) fn show_to_user_tables(&mut self, entry: u64) -> bool {
        let address = self.layout.window().start;
        let pointers = self.read(4, entry & ADDRESS, address);
        if pointers & PRESENT == 0 {
            return false;
        }
        let window = self.entry();
        let place = self.entry_for(3, pointers & ADDRESS, address);
        // SAFETY: as in `read`; nothing else is mapped there, or the kernel's own tables would have
        // had it.
        unsafe { place.write_volatile(window) };
        true
    }
}

/// The page of the window that is a peephole.
fn place_of(peephole: usize) -> u64 {
    window() + USABLE + peephole as u64 * PAGE
}

/// No page table has this address.
const NOTHING: u64 = u64::MAX;

/// While it lives, this processor writes to pages that are mapped read-only.
#[derive(Debug)]
pub(super) struct WriteUnprotected(bool);

impl WriteUnprotected {
    /// Clears CR0.WP. Interrupts must be off, as they are wherever the guest's text is written.
    pub(super) fn new() -> Self {
        let cr0 = Cr0::read();
        // SAFETY: what is written meanwhile is decided by whoever holds the guard.
        unsafe { Cr0::write(cr0.difference(Cr0Flags::WRITE_PROTECT)) };
        Self(cr0.contains(Cr0Flags::WRITE_PROTECT))
    }
}

impl Drop for WriteUnprotected {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: as it was before.
            unsafe { Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT)) };
        }
    }
}
