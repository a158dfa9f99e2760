//! The memory behind the wedge: what the rewriter needs per site.

use core::ops::Range;
use core::slice;

use wedge::image::{LOAD_ADDRESS, Span};
use wedge::sites::{Memory, STUB_SIZE, Site};

use super::PAGE;

/// The memory behind the wedge: stubs first, since they are executed, then counters, snapshot,
/// sites, order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arena {
    span: Span,
    sites: usize,
}

impl Arena {
    /// As many sites as fit into a part of the image.
    pub(crate) fn new(span: Span) -> Self {
        let span = Span { offset: LOAD_ADDRESS + span.offset, ..span };
        // Each of the five parts may be followed by most of a page.
        let length = usize::try_from(span.length.saturating_sub(5 * PAGE)).unwrap_or(0);
        Self { span, sites: length / Memory::EACH }
    }

    /// Its end, as an offset in the window.
    pub(crate) fn end(&self) -> u64 {
        self.span.offset + self.span.length
    }

    /// The stubs, as offsets in the window, in whole pages.
    pub(crate) fn stubs(&self) -> Range<u64> {
        let length = (self.sites * STUB_SIZE) as u64;
        self.span.offset..self.span.offset + length.next_multiple_of(PAGE)
    }

    /// The arena in the window that begins at an address.
    ///
    /// # Safety
    ///
    /// It is mapped there, and this is called once.
    pub(crate) unsafe fn memory(&self, window: u64) -> Memory<'static> {
        let stubs = self.stubs();
        let counters = window + stubs.end;
        let bytes = (self.sites * size_of::<u64>()) as u64;
        let snapshot = (counters + bytes).next_multiple_of(PAGE);
        let entries = (snapshot + bytes).next_multiple_of(PAGE);
        let order = (entries + (self.sites * size_of::<Option<Site>>()) as u64).next_multiple_of(PAGE);
        let stubs_address = window + stubs.start;
        let empty = place::<Option<Site>>(entries);
        for number in 0..self.sites {
            // SAFETY: in the arena, by `new`, and aligned to a page.
            unsafe { empty.wrapping_add(number).write(None) };
        }
        // SAFETY: five pieces of the arena that do not overlap, aligned to pages; zeroed by the
        // boot loader, or just initialised.
        unsafe {
            Memory {
                sites: slice::from_raw_parts_mut(empty, self.sites),
                stubs: slice::from_raw_parts_mut(place(stubs_address), self.sites),
                stubs_address,
                counters: slice::from_raw_parts(place(counters), self.sites),
                counters_address: counters,
                snapshot: slice::from_raw_parts_mut(place(snapshot), self.sites),
                order: slice::from_raw_parts_mut(place(order), self.sites),
            }
        }
    }
}

/// What lies at an address of the wedge's.
fn place<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}
