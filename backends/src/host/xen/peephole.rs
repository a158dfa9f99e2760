//! The guest's memory by its physical addresses, and two pages of the window through which text is
//! written that the guest may not write to itself.

use core::slice;
use core::sync::atomic::AtomicU64;

use wedge::vm::Peephole;
use wedge::vm::modules::{ModuleMemory, PAGE_LENGTH};
use wedge::x86::paging::entry;

use super::hypercall;
use super::memory::{Memory, pointer};
use super::tables::Tables;
use crate::runtime::PAGE;
use crate::runtime::exclusive::Pages;

impl ModuleMemory for &'static Memory {
    fn table(&mut self, _: u8, physical: u64) -> Option<&[AtomicU64; 512]> {
        // SAFETY: a page of the guest's memory, of which any value may come.
        self.place(physical).map(|place| unsafe { &*pointer(place) })
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        // SAFETY: as above; the guest does not run, so nobody writes to it.
        self.place(physical).map(|place| unsafe { &*pointer(place) })
    }
}

static PEEPHOLE: Pages<2> = Pages::new();

impl Peephole for Tables {
    fn open(&mut self, pages: &[u64], offset: usize, length: usize) -> Option<&mut [u8]> {
        if pages.len() > 2 || offset + length > pages.len() * PAGE_LENGTH {
            return None;
        }
        let peephole = PEEPHOLE.address(0);
        for (number, physical) in pages.iter().enumerate() {
            let value = physical & entry::ADDRESS | entry::TABLE & !entry::USER | entry::NO_EXECUTE;
            // SAFETY: nothing but this looks through the peephole, and there is one `Tables`.
            unsafe { hypercall::update_va_mapping(peephole + number as u64 * PAGE, value).ok()? };
        }
        // SAFETY: within the peephole, which shows the guest's text; the guest does not run.
        Some(unsafe { slice::from_raw_parts_mut(pointer(peephole + offset as u64), length) })
    }
}
