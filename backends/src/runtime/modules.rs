//! The memory that the wedge watches modules with.

use core::cell::UnsafeCell;

use wedge::vm::modules::{REGIONS, Region};

struct Regions(UnsafeCell<[Region; REGIONS]>);

// SAFETY: only `regions` refers to it, which is called once.
unsafe impl Sync for Regions {}

static WATCHED: Regions = Regions(UnsafeCell::new([Region::EMPTY; REGIONS]));

/// What is kept of each region that modules may be in.
///
/// # Safety
///
/// This is called once.
pub(crate) unsafe fn regions() -> &'static mut [Region] {
    // SAFETY: by the above, nobody else refers to it.
    unsafe { &mut *WATCHED.0.get() }
}
