//! The descriptor tables that the processor really uses.
//!
//! Xen wants the pages of a descriptor table read-only. The guest writes its tables as it likes. So
//! the wedge has tables of its own, and copies into them what user mode may see: code and data
//! segments of privilege level 3, at the guest's own numbers, so that selectors are the guest's own
//! too. What only the guest's kernel may load is never there; the kernel itself runs on Xen's
//! segments.
//!
//! A store into a table is seen by nobody. What counts is what a load finds, so the copy is brought
//! up to date before there can be one: for each load of the kernel's, which is a site, the entry
//! that it names; and the global table whenever the kernel returns to user mode, which loads what
//! it likes, when it likes. The guest's table is compared with what it was the last time. Most
//! returns compare only the entries that Linux writes when it changes threads ([`TLS_ENTRIES`]),
//! those that do not come by Rust (`entry.rs`), too. The others Linux writes while it starts; a
//! return from an interrupt compares them all.
//!
//! The local table, which may be large, is in [`ldt`](super::ldt).

use core::sync::atomic::Ordering;

use wedge::guest::linux::TLS_ENTRIES;
use wedge::x86::paging::entry;

use super::cpu::CPU;
use super::descriptors::{update, visible};
use super::hypercall::{self, Refused};
use super::ldt::Ldt;
use super::memory::{Memory, pointer};
use crate::runtime::exclusive::PAGE_WORDS;
use crate::runtime::{PAGE, window};

/// The real tables.
#[derive(Debug)]
pub(super) struct Segments {
    /// Machine address of the global one.
    gdt: u64,
    /// Entries of the guest's global table that were looked at.
    entries: usize,
    /// Where the guest's global table is: its page, and where the wedge sees it.
    place: Option<(u64, u64)>,
    pub(super) ldt: Ldt,
}

impl Segments {
    /// Makes the tables' pages read-only, and loads the global one, which is empty.
    pub(super) fn new(memory: &'static Memory) -> Result<Self, Refused> {
        let address = CPU.gdt.address(0);
        debug_assert!(address >= window());
        let gdt = memory.machine_of(address);
        // SAFETY: the wedge only reads the page from here on.
        unsafe { hypercall::update_va_mapping(address, gdt | entry::PRESENT | entry::ACCESSED_AND_DIRTY)? };
        Memory::protect_in_linear_mapping(gdt)?;
        // SAFETY: the page holds zeros, and is mapped read-only.
        unsafe { hypercall::set_gdt(&[gdt / PAGE], PAGE_WORDS as u64)? };
        CPU.work.store(1, Ordering::Relaxed);
        Ok(Self { gdt, entries: 0, place: None, ldt: Ldt::new(memory)? })
    }

    /// The descriptor that the processor finds for a selector; 0 for one of Xen's own.
    pub(super) fn descriptor(&self, selector: u16) -> u64 {
        let index = usize::from(selector >> 3);
        match selector >> 2 & 1 {
            0 if index < PAGE_WORDS => Self::real(index),
            0 => 0,
            _ => self.ldt.descriptor(index),
        }
    }

    fn real(index: usize) -> u64 {
        CPU.gdt.page(0)[index].load(Ordering::Relaxed)
    }

    /// A descriptor that is about to be loaded. A local one's page is mapped.
    pub(super) fn prepare(&mut self, selector: u16, descriptor: u64) {
        let index = usize::from(selector >> 3);
        if selector >> 2 & 1 == 1 {
            self.ldt.update(index, descriptor);
        } else if index < PAGE_WORDS {
            self.see(index, descriptor);
            self.entries = self.entries.max(index + 1);
        }
    }

    /// Brings an entry of the global table up to date with the guest's.
    fn see(&self, index: usize, guests: u64) {
        CPU.seen[index].store(guests, Ordering::Relaxed);
        update(Self::real(index), self.gdt + 8 * index as u64, visible(guests));
    }

    /// The guest's global table may be elsewhere from here on.
    pub(super) fn forget_place(&mut self) {
        self.place = None;
        CPU.work.store(1, Ordering::Relaxed);
    }

    /// The guest's global table may be elsewhere, if an address is in its page.
    pub(super) fn forget_place_in(&mut self, address: u64) {
        if self.place.is_some_and(|(page, _)| page == address & !(PAGE - 1)) {
            self.forget_place();
        }
    }

    /// Where the wedge sees the guest's global table at an address, if that is known.
    pub(super) fn place(&self, base: u64) -> Option<u64> {
        self.place.map(|(_, place)| place + base % PAGE)
    }

    /// The guest's global table is at an address, in a page that the wedge sees at `place`.
    pub(super) fn found(&mut self, base: u64, place: u64) {
        self.place = Some((base & !(PAGE - 1), place));
        CPU.tls.store(place + base % PAGE + 8 * TLS_ENTRIES.start as u64, Ordering::Relaxed);
    }

    /// Looks at the guest's global table, of so many entries, at a place: at all of it, or at what
    /// Linux changes.
    pub(super) fn look(&mut self, place: u64, count: usize, all: bool) {
        // SAFETY: the guest's memory, of which any value may come.
        let guests = |index: usize| unsafe { pointer::<u64>(place + 8 * index as u64).read_unaligned() };
        let differs = |index: usize| guests(index) != CPU.seen[index].load(Ordering::Relaxed);
        if all || count < TLS_ENTRIES.end {
            for index in (0..count).filter(|index| differs(*index)) {
                self.see(index, guests(index));
            }
            self.forget_behind(count);
        } else {
            for index in TLS_ENTRIES.filter(|index| differs(*index)) {
                self.see(index, guests(index));
            }
        }
    }

    /// The guest's global table has no more than so many entries.
    pub(super) fn forget_behind(&mut self, count: usize) {
        for index in count..self.entries {
            self.see(index, 0);
        }
        self.entries = count;
    }
}
