//! The local descriptor table that the processor really uses.
//!
//! A process may have a table of 8,192 entries, may replace it as often as it likes, and two such processes may take turns. So
//! nothing is copied when a table is loaded: Xen is told of a table whose pages are not mapped. When somebody loads a selector,
//! Xen looks for the page that it is in, finds none, and hands on a page fault at that address
//! (`xen/arch/x86/pv/descriptor-tables.c`, `pv_map_ldt_shadow_page`). Only then is the page filled, and mapped there.
//!
//! What it is filled with is an *image*: what user mode may see of the guest's page. Images outlive the table that they were
//! made for, and are found again by the guest's memory that they are of. Whatever that holds by then, it is compared with a
//! copy of what the image was made from before the image is shown, so that a process which takes up its table again costs a
//! comparison, and one that has filled another page in the same place gets what it wrote.
//!
//! A page that is shown is not compared again before LLDT. Linux never writes to a table that is loaded
//! (`arch/x86/kernel/ldt.c`, `struct ldt_struct`: it is immutable), and what its own loads of segment registers find is brought
//! up to date each time.

use core::cell::UnsafeCell;

use super::hypercall::{self, Refused};
use super::interface::{MmuExtended, mmuext};
use super::memory::{LINEAR, Memory, entry, pointer};
use super::segments::{update, visible, without_accessed};
use crate::runtime::{PAGE, say};

/// Entries of a page.
pub(super) const PAGE_ENTRIES: usize = 512;
/// Pages of a table, at most, and images.
const PAGES: usize = 16;
/// With more entries different than that, an image is written anew as a whole.
const FEW: usize = 8;

#[repr(C, align(4096))]
struct Pages<const COUNT: usize>(UnsafeCell<[[u64; PAGE_ENTRIES]; COUNT]>);

// SAFETY: the images are written by Xen, and read where the linear mapping shows them; the others are used by one processor,
// which is in the wedge once at a time.
unsafe impl<const COUNT: usize> Sync for Pages<COUNT> {}

/// The addresses of the table; the memory that was there at first is that of the images.
static TABLE: Pages<PAGES> = Pages(UnsafeCell::new([[0; PAGE_ENTRIES]; PAGES]));
/// What the images were made from: the guest's descriptors.
static SOURCES: Pages<PAGES> = Pages(UnsafeCell::new([[0; PAGE_ENTRIES]; PAGES]));
/// What becomes an image.
static DRAFT: Pages<1> = Pages(UnsafeCell::new([[0; PAGE_ENTRIES]; 1]));

/// What user mode may see of a page of the guest's.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    /// Where the guest's page is; 0 if there was none yet.
    of: u64,
    /// When it was last shown.
    shown: u64,
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

fn page_address(page: usize) -> u64 {
    TABLE.0.get().addr() as u64 + page as u64 * PAGE
}

impl Ldt {
    /// An empty table, of which no page is mapped.
    pub(super) fn new(memory: &'static Memory) -> Result<Self, Refused> {
        for page in 0..PAGES {
            // SAFETY: nobody accesses the page there.
            unsafe { hypercall::update_va_mapping(page_address(page), 0)? };
            Memory::protect_in_linear_mapping(memory.machine_of(page_address(page)))?;
        }
        Ok(Self { memory, base: 0, entries: 0, mapped: [None; PAGES], images: [Image::default(); PAGES], time: 0 })
    }

    /// The number of the entry at an address, if that is the table's.
    pub(super) fn entry_at(address: u64) -> Option<usize> {
        let offset = address.wrapping_sub(page_address(0));
        (offset < PAGES as u64 * PAGE).then_some(offset as usize / 8)
    }

    /// Whether an entry is in the table, but in a page that is not mapped.
    pub(super) const fn lacks(&self, index: usize) -> bool {
        index < self.entries && self.mapped[index / PAGE_ENTRIES].is_none()
    }

    /// Where the guest's table is.
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    /// What an image was made from.
    fn source(image: usize) -> &'static mut [u64; PAGE_ENTRIES] {
        // SAFETY: see `Pages`; no two references live at a time.
        unsafe { &mut (*SOURCES.0.get())[image] }
    }

    /// Entries of a page of the table.
    fn entries_of(&self, page: usize) -> usize {
        (self.entries - page * PAGE_ENTRIES).min(PAGE_ENTRIES)
    }

    /// The bytes of a page of the table, as far as it goes, that an image was made from.
    pub(super) fn source_of(&self, image: usize, page: usize) -> &'static mut [u8] {
        let entries = self.entries_of(page);
        let source = Self::source(image).as_mut_ptr().cast();
        // SAFETY: within the page; any value is a descriptor.
        unsafe { core::slice::from_raw_parts_mut(source, 8 * entries) }
    }

    fn machine(&self, image: usize) -> u64 {
        self.memory.machine_of(page_address(image))
    }

    fn read(&self, image: usize, index: usize) -> u64 {
        // SAFETY: a page of the wedge's own, mapped there to be read.
        unsafe { pointer::<u64>(LINEAR + self.machine(image) + 8 * index as u64).read_volatile() }
    }

    /// Has a new table in place of the old one: the guest's at an address, of which no page is mapped.
    pub(super) fn replace(&mut self, base: u64, entries: usize) {
        let entries = entries.min(PAGES * PAGE_ENTRIES);
        self.base = base;
        let old = core::mem::replace(&mut self.entries, entries);
        for (page, image) in self.mapped.iter_mut().enumerate() {
            if image.take().is_some() {
                // SAFETY: nobody accesses the page there; Xen follows the tables, not the TLB.
                let _ = unsafe { hypercall::write_va_mapping(page_address(page), 0) };
            }
        }
        let load = |entries: usize| MmuExtended {
            command: mmuext::SET_LDT,
            argument: page_address(0),
            argument2: entries as u64,
        };
        // The pages that Xen has found are dropped with a table that is another, by address or by length.
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

    /// The image for a page of the guest's: its own, or the one that was not shown for longest. One is free while a page of the
    /// table is not mapped.
    pub(super) fn image_for(&self, of: u64) -> usize {
        let free = || (0..PAGES).filter(|image| !self.mapped.contains(&Some(*image)));
        let own = free().find(|image| self.images[*image].of == of);
        own.or_else(|| free().min_by_key(|image| self.images[*image].shown)).unwrap_or(0)
    }

    /// Maps an image at a page of the table. If its source is not what it was, neither is the image.
    pub(super) fn show(&mut self, page: usize, image: usize, of: u64, is_new: bool) {
        if is_new {
            self.make(image, self.entries_of(page));
        }
        self.time += 1;
        self.images[image] = Image { of, shown: self.time };
        let value = self.machine(image) | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
        // SAFETY: nobody but Xen accesses the page there.
        match unsafe { hypercall::write_va_mapping(page_address(page), value) } {
            Ok(_) => self.mapped[page] = Some(image),
            Err(Refused(error)) => say!("Xen refuses a page of a local descriptor table, error {error}"),
        }
    }

    /// Makes an image of its source, of which only so many entries are new.
    fn make(&self, image: usize, entries: usize) {
        let source = Self::source(image);
        let differs =
            |(index, guests): (usize, &u64)| without_accessed(self.read(image, index) ^ visible(*guests)) != 0;
        if source[..entries].iter().enumerate().filter(|entry| differs(*entry)).count() > FEW {
            return self.copy(image);
        }
        for (index, guests) in source[..entries].iter().enumerate() {
            update(self.read(image, index), self.machine(image) + 8 * index as u64, visible(*guests));
        }
    }

    /// Writes an image as a whole. Xen has no use for it now, so that it may be written: by Xen.
    fn copy(&self, image: usize) {
        // SAFETY: see `Pages`.
        let draft = unsafe { &mut (*DRAFT.0.get())[0] };
        for (descriptor, guests) in draft.iter_mut().zip(Self::source(image)) {
            *descriptor = visible(*guests);
        }
        let draft = self.memory.machine_of(DRAFT.0.get().addr() as u64);
        let operation =
            MmuExtended { command: mmuext::COPY_PAGE, argument: self.machine(image) / PAGE, argument2: draft / PAGE };
        // SAFETY: the image is not mapped to be written, and no Rust object.
        if let Err(Refused(error)) = unsafe { hypercall::mmuext(&[operation]) } {
            say!("Xen does not copy descriptors, error {error}");
        }
    }

    /// Brings one entry of a page that is mapped up to date.
    pub(super) fn update(&self, index: usize, descriptor: u64) {
        if let Some(Some(image)) = self.mapped.get(index / PAGE_ENTRIES) {
            let index = index % PAGE_ENTRIES;
            Self::source(*image)[index] = descriptor;
            update(self.read(*image, index), self.machine(*image) + 8 * index as u64, visible(descriptor));
        }
    }

    /// The descriptor that the processor finds.
    pub(super) fn descriptor(&self, index: usize) -> u64 {
        match self.mapped.get(index / PAGE_ENTRIES) {
            Some(Some(image)) if index < self.entries => self.read(*image, index % PAGE_ENTRIES),
            _ => 0,
        }
    }
}
