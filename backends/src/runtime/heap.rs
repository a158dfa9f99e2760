//! Memory for the decoder's tables.
//!
//! iced-x86 unpacks its tables into a heap when it is used for the first time, and keeps them.
//! Nothing else allocates, so nothing is ever given back.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::exclusive::Pages;

const PAGES: usize = 128;

struct Heap {
    memory: Pages<PAGES>,
    used: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap = Heap { memory: Pages::new(), used: AtomicUsize::new(0) };

// SAFETY: pieces are aligned, lie in the memory and do not overlap, since `used` only grows.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let reserve = |used: usize| {
            let end = used.checked_next_multiple_of(layout.align())?.checked_add(layout.size())?;
            (end <= size_of::<Pages<PAGES>>()).then_some(end)
        };
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve) {
            Ok(used) => self.memory.as_ptr().wrapping_add(used.next_multiple_of(layout.align())),
            Err(_) => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
