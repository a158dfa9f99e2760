//! The local descriptor table that the processor really uses.
//!
//! A process may have a table of 8,192 entries, may replace it as often as it likes, and two such
//! processes may take turns. So nothing is copied when a table is loaded: Xen is told of a table
//! whose pages are not mapped. When somebody loads a selector, Xen looks for the page that it is
//! in, finds none, and hands on a page fault at that address
//! (`xen/arch/x86/pv/descriptor-tables.c`, `pv_map_ldt_shadow_page`). Only then is the page filled,
//! and mapped there.
//!
//! What it is filled with is an *image*: what user mode may see of the guest's page. Images outlive
//! the table that they were made for, and are found again by the guest's memory that they are of.
//! Whatever that holds by then, it is compared with a copy of what the image was made from before
//! the image is shown, so that a process which takes up its table again costs a comparison, and one
//! that has filled another page in the same place gets what it wrote.
//!
//! A page that is shown is not compared again before LLDT. Linux never writes to a table that is
//! loaded (`arch/x86/kernel/ldt.c`, `struct ldt_struct`: it is immutable), and what its own loads
//! of segment registers find is brought up to date each time.

use core::sync::atomic::Ordering;

use wedge::x86::paging::entry;

use super::cpu::{CPU, LDT_PAGES, Source};
use super::descriptors::{update, visible, without_accessed};
use super::hypercall::{self, Refused};
use super::interface::{MmuExtended, mmuext};
use super::memory::{LINEAR, Memory, pointer};
use crate::runtime::exclusive::PAGE_WORDS;
use crate::runtime::{PAGE, say};

/// Pages of a table, at most, and images.
const PAGES: usize = LDT_PAGES;
/// With more entries different than that, an image is written anew as a whole.
const FEW: usize = 8;

/// What user mode may see of a page of the guest's.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    /// Where the guest's page is; 0 if there was none yet.
    of: u64,
    /// When it was last shown.
    shown: u64,
    /// It is shown now.
    mapped: bool,
}

/// The table.
#[derive(Debug)]
pub(super) struct Ldt {
    memory: &'static Memory,
    /// Where the guest's is.
    base: u64,
    entries: usize,
    /// The image that is mapped at each page of the table.
    mapped: [Option<usize>; PAGES],
    images: [Image; PAGES],
    /// How often an image was shown.
    time: u64,
}

/// The descriptors of a page.
fn descriptors(page: &Source) -> impl Iterator<Item = u64> {
    page.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

impl Ldt {
    /// An empty table, of which no page is mapped.
    pub(super) fn new(memory: &'static Memory) -> Result<Self, Refused> {
        for page in 0..PAGES {
            // SAFETY: nobody accesses the page there.
            unsafe { hypercall::update_va_mapping(CPU.ldt.address(page), 0)? };
            Memory::protect_in_linear_mapping(memory.machine_of(CPU.ldt.address(page)))?;
        }
        Ok(Self { memory, base: 0, entries: 0, mapped: [None; PAGES], images: [Image::default(); PAGES], time: 0 })
    }

    /// The number of the entry at an address, if that is the table's.
    pub(super) fn entry_at(address: u64) -> Option<usize> {
        let offset = address.wrapping_sub(CPU.ldt.address(0));
        (offset < PAGES as u64 * PAGE).then_some(offset as usize / 8)
    }

    /// Whether an entry is in the table, but in a page that is not mapped.
    pub(super) const fn lacks(&self, index: usize) -> bool {
        index < self.entries && self.mapped[index / PAGE_WORDS].is_none()
    }

    /// Where the guest's table is.
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    /// Entries of a page of the table.
    fn entries_of(&self, page: usize) -> usize {
        (self.entries - page * PAGE_WORDS).min(PAGE_WORDS)
    }

    /// The bytes of a page of the table, as far as it goes.
    pub(super) fn bytes_of(&self, page: usize) -> usize {
        8 * self.entries_of(page)
    }

    fn machine(&self, image: usize) -> u64 {
        self.memory.machine_of(CPU.ldt.address(image))
    }

    fn read(&self, image: usize, index: usize) -> u64 {
        // SAFETY: a page of the wedge's own, mapped there to be read.
        unsafe { pointer::<u64>(LINEAR + self.machine(image) + 8 * index as u64).read_volatile() }
    }

    /// Has a new table in place of the old one: the guest's at an address, of which no page is
    /// mapped.
    pub(super) fn replace(&mut self, base: u64, entries: usize) {
        let entries = entries.min(PAGES * PAGE_WORDS);
        self.base = base;
        let old = core::mem::replace(&mut self.entries, entries);
        for (page, image) in self.mapped.iter_mut().enumerate() {
            if let Some(image) = image.take() {
                self.images[image].mapped = false;
                // SAFETY: nobody accesses the page there; Xen follows the tables, not the TLB.
                let _ = unsafe { hypercall::write_va_mapping(CPU.ldt.address(page), 0) };
            }
        }
        let load = |entries: usize| MmuExtended {
            command: mmuext::SET_LDT,
            argument: CPU.ldt.address(0),
            argument2: entries as u64,
        };
        // The pages that Xen has found are dropped with a table that is another, by address or by
        // length.
        let operations = [load(0), load(entries)];
        let needed = match (old, entries) {
            (0, 0) => return,
            (_, 0) => &operations[..1],
            _ if old == entries => &operations[..],
            _ => &operations[1..],
        };
        // SAFETY: the wedge uses no segment of it.
        if let Err(Refused(error)) = unsafe { hypercall::mmuext(needed) } {
            say!("Xen refuses a local descriptor table of {entries} entries, error {error}");
        }
    }

    /// The image for a page of the guest's: its own, or the one that was not shown for longest. One
    /// is free while a page of the table is not mapped.
    pub(super) fn image_for(&self, of: u64) -> usize {
        let free = self.images.iter().enumerate().filter(|(_, image)| !image.mapped);
        let best = free.min_by_key(|(_, image)| (image.of != of, image.shown));
        best.map_or(0, |(number, _)| number)
    }

    /// Maps an image at a page of the table. If its source is not what it was, neither is the
    /// image.
    pub(super) fn show(&mut self, page: usize, image: usize, of: u64, is_new: bool) {
        if is_new {
            self.make(image, self.entries_of(page));
        }
        self.time += 1;
        self.images[image] = Image { of, shown: self.time, mapped: false };
        let value = self.machine(image) | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
        // SAFETY: nobody but Xen accesses the page there.
        match unsafe { hypercall::write_va_mapping(CPU.ldt.address(page), value) } {
            Ok(_) => (self.mapped[page], self.images[image].mapped) = (Some(image), true),
            Err(Refused(error)) => say!("Xen refuses a page of a local descriptor table, error {error}"),
        }
    }

    /// Makes an image of its source, of which only so many entries are new.
    fn make(&self, image: usize, entries: usize) {
        let source = &CPU.ldt_sources.borrow()[image];
        let guests = || descriptors(source).take(entries).enumerate();
        let differs =
            |&(index, guests): &(usize, u64)| without_accessed(self.read(image, index) ^ visible(guests)) != 0;
        if guests().filter(differs).count() > FEW {
            return self.copy(image, source);
        }
        for (index, guests) in guests() {
            update(self.read(image, index), self.machine(image) + 8 * index as u64, visible(guests));
        }
    }

    /// Writes an image as a whole. Xen has no use for it now, so that it may be written: by Xen.
    fn copy(&self, image: usize, source: &Source) {
        for (descriptor, guests) in CPU.ldt_draft.page(0).iter().zip(descriptors(source)) {
            descriptor.store(visible(guests), Ordering::Relaxed);
        }
        let draft = self.memory.machine_of(CPU.ldt_draft.address(0));
        let operation =
            MmuExtended { command: mmuext::COPY_PAGE, argument: self.machine(image) / PAGE, argument2: draft / PAGE };
        // SAFETY: the image is not mapped to be written, and no Rust object.
        if let Err(Refused(error)) = unsafe { hypercall::mmuext(&[operation]) } {
            say!("Xen does not copy descriptors, error {error}");
        }
    }

    /// Brings one entry of a page that is mapped up to date.
    pub(super) fn update(&self, index: usize, descriptor: u64) {
        if let Some(Some(image)) = self.mapped.get(index / PAGE_WORDS) {
            let index = index % PAGE_WORDS;
            CPU.ldt_sources.borrow()[*image].as_chunks_mut().0[index] = descriptor.to_le_bytes();
            update(self.read(*image, index), self.machine(*image) + 8 * index as u64, visible(descriptor));
        }
    }

    /// The descriptor that the processor finds.
    pub(super) fn descriptor(&self, index: usize) -> u64 {
        match self.mapped.get(index / PAGE_WORDS) {
            Some(Some(image)) if index < self.entries => self.read(*image, index % PAGE_WORDS),
            _ => 0,
        }
    }
}
