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
//! Where Xen looks is a *slot*: addresses for one table. There are a few, so that processes which
//! take turns each find their own again, and Xen needs to be told no more than which it is. The
//! page of a slot that was shown last stays mapped, for it is likely to be the next that is used.
//! It is compared by LLDT already; if it differs, it goes. All other pages go when another table is
//! loaded.
//!
//! A page that is shown is not compared again before LLDT. Linux never writes to a table that is
//! loaded (`arch/x86/kernel/ldt.c`, `struct ldt_struct`: it is immutable), and what its own loads
//! of segment registers find is brought up to date each time.

use core::sync::atomic::Ordering;

use wedge::guest::layout::WINDOW_LENGTH;
use wedge::x86::paging::entry;

use super::cpu::{CPU, LDT_IMAGES, LDT_PAGES, LDT_SLOTS, Source};
use super::descriptors::{update, visible, without_accessed};
use super::hypercall::{self, Refused};
use super::interface::{MmuExtended, mmuext};
use super::memory::{LINEAR, Memory, pointer};
use crate::runtime::exclusive::PAGE_WORDS;
use crate::runtime::{PAGE, say, window};

/// Pages of a table, at most.
const PAGES: usize = LDT_PAGES;
/// As many tables keep a page.
const SLOTS: usize = LDT_SLOTS;
/// With more entries different than that, an image is written anew as a whole.
const FEW: usize = 8;

/// What user mode may see of a page of the guest's.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    /// Where the guest's page is; 0 if there was none yet.
    of: u64,
    /// When it was last shown.
    shown: u64,
    /// It is mapped in a slot.
    mapped: bool,
}

/// Addresses for one of the guest's tables.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Where the guest's table is, and its entries.
    base: u64,
    entries: usize,
    /// When it was last loaded.
    loaded: u64,
    /// The image that is mapped at each page.
    mapped: [Option<usize>; PAGES],
    /// Which pages these are, as bits.
    pages: u16,
    /// The page that was shown last, if it is mapped.
    last: Option<usize>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Ldt {
    memory: &'static Memory,
    slots: [Slot; SLOTS],
    /// The slot of the guest's table.
    current: usize,
    /// Its entries; 0 if there is no table.
    entries: usize,
    images: [Image; LDT_IMAGES],
    /// How often an image was shown, or a table loaded.
    time: u64,
}

/// The descriptors of a page.
fn descriptors(page: &Source) -> impl Iterator<Item = u64> {
    page.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

impl Ldt {
    /// An empty table, of which no page is mapped.
    pub(super) fn new(memory: &'static Memory) -> Result<Self, Refused> {
        for image in 0..LDT_IMAGES {
            let machine = memory.machine_of(CPU.ldt_images.address(image));
            let value = machine | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
            // SAFETY: the wedge only reads the page from here on.
            unsafe { hypercall::update_va_mapping(CPU.ldt_images.address(image), value)? };
            Memory::protect_in_linear_mapping(machine)?;
        }
        for page in 0..SLOTS * PAGES {
            // SAFETY: nobody accesses the page there.
            unsafe { hypercall::update_va_mapping(Self::address(0, page), 0)? };
        }
        let slots = [Slot::default(); SLOTS];
        Ok(Self { memory, slots, current: 0, entries: 0, images: [Image::default(); LDT_IMAGES], time: 0 })
    }

    /// The address of a page of a slot: at the end of the window, where nobody looks for the pages
    /// of the pool that are there at first.
    fn address(slot: usize, page: usize) -> u64 {
        window() + WINDOW_LENGTH - ((SLOTS - slot) * PAGES - page) as u64 * PAGE
    }

    /// The number of the entry at an address, if that is the table's.
    pub(super) fn entry_at(&self, address: u64) -> Option<usize> {
        let offset = address.wrapping_sub(Self::address(self.current, 0));
        (offset < PAGES as u64 * PAGE).then_some(offset as usize / 8)
    }

    /// Whether an entry is in the table, but in a page that is not mapped.
    pub(super) const fn lacks(&self, index: usize) -> bool {
        index < self.entries && self.slots[self.current].mapped[index / PAGE_WORDS].is_none()
    }

    /// Where a page of the guest's table is.
    pub(super) const fn page_address(&self, page: usize) -> u64 {
        self.slots[self.current].base.wrapping_add(page as u64 * PAGE)
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
        self.memory.machine_of(CPU.ldt_images.address(image))
    }

    fn read(&self, image: usize, index: usize) -> u64 {
        // SAFETY: a page of the wedge's own, mapped there to be read.
        unsafe { pointer::<u64>(LINEAR + self.machine(image) + 8 * index as u64).read_volatile() }
    }

    /// Has a new table in place of the old one: the guest's at an address. At most one page of it
    /// is mapped, the one that `is_same` has been asked about: whether the guest has there what the
    /// image was made from.
    pub(super) fn replace(&mut self, base: u64, entries: usize, is_same: impl FnOnce(&Source, u64, usize) -> bool) {
        let entries = entries.min(PAGES * PAGE_WORDS);
        let (old, old_entries) = (self.current, self.entries);
        let mut changed = self.unmap(old, self.slots[old].last);
        if entries != 0 {
            self.current = self.slot_for(base, entries);
        }
        self.entries = entries;
        if let Some(page) = self.slots[self.current].last.filter(|_| entries != 0)
            && let Some(image) = self.slots[self.current].mapped[page]
            && !is_same(&CPU.ldt_sources.borrow()[image], self.page_address(page), self.bytes_of(page))
        {
            changed |= self.unmap(self.current, None);
        }
        self.tell(old, old_entries, changed);
    }

    /// The slot for a table: its own, or the one that was not loaded for longest.
    fn slot_for(&mut self, base: u64, entries: usize) -> usize {
        let slots = self.slots.iter().enumerate();
        let best = slots.min_by_key(|(_, slot)| ((slot.base, slot.entries) != (base, entries), slot.loaded));
        let number = best.map_or(0, |(number, _)| number);
        self.time += 1;
        if (self.slots[number].base, self.slots[number].entries) != (base, entries) {
            self.unmap(number, None);
            (self.slots[number].base, self.slots[number].entries) = (base, entries);
        }
        self.slots[number].loaded = self.time;
        number
    }

    /// Takes all pages out of a slot but one. Whether there were any.
    fn unmap(&mut self, slot: usize, but: Option<usize>) -> bool {
        let but = but.map_or(0, |page| 1 << page);
        let gone = self.slots[slot].pages & !but;
        if gone == 0 {
            return false;
        }
        let Slot { mapped, pages, last, .. } = &mut self.slots[slot];
        *pages &= but;
        *last = last.filter(|page| but >> page & 1 != 0);
        for (page, image) in mapped.iter_mut().enumerate().filter(|(page, _)| gone >> page & 1 != 0) {
            if let Some(image) = image.take() {
                self.images[image].mapped = false;
            }
            // SAFETY: nobody accesses the page there; Xen follows the tables, not the TLB.
            let _ = unsafe { hypercall::write_va_mapping(Self::address(slot, page), 0) };
        }
        true
    }

    /// Tells Xen which table it is, unless that is the one that Xen has. The pages that Xen has
    /// found are dropped with a table that is another, by address or by length.
    fn tell(&self, old: usize, old_entries: usize, changed: bool) {
        let load = |entries: usize| MmuExtended {
            command: mmuext::SET_LDT,
            argument: Self::address(self.current, 0),
            argument2: entries as u64,
        };
        let operations = [load(0), load(self.entries)];
        let needed = match (old_entries, self.entries) {
            (0, 0) => return,
            (_, 0) => &operations[..1],
            (same, entries) if (old, same) == (self.current, entries) => {
                if !changed {
                    return;
                }
                &operations[..]
            }
            _ => &operations[1..],
        };
        // SAFETY: the wedge uses no segment of it.
        if let Err(Refused(error)) = unsafe { hypercall::mmuext(needed) } {
            say!("Xen refuses a local descriptor table of {} entries, error {error}", self.entries);
        }
    }

    /// The image for a page of the guest's: its own, or the one that was not shown for longest. One
    /// is free while a page of the table is not mapped, for the other slots have one each.
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
        match unsafe { hypercall::write_va_mapping(Self::address(self.current, page), value) } {
            Ok(_) => {
                self.images[image].mapped = true;
                let Slot { mapped, pages, last, .. } = &mut self.slots[self.current];
                (mapped[page], *last) = (Some(image), Some(page));
                *pages |= 1 << page;
            }
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
        if let Some(Some(image)) = self.slots[self.current].mapped.get(index / PAGE_WORDS) {
            let index = index % PAGE_WORDS;
            CPU.ldt_sources.borrow()[*image].as_chunks_mut().0[index] = descriptor.to_le_bytes();
            update(self.read(*image, index), self.machine(*image) + 8 * index as u64, visible(descriptor));
        }
    }

    /// The descriptor that the processor finds.
    pub(super) fn descriptor(&self, index: usize) -> u64 {
        match self.slots[self.current].mapped.get(index / PAGE_WORDS) {
            Some(Some(image)) if index < self.entries => self.read(*image, index % PAGE_WORDS),
            _ => 0,
        }
    }
}
