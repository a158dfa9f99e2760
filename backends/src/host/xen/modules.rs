//! The guest's modules, found in its page tables as they come and go.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::slice;
use core::sync::atomic::AtomicU64;

use annotate::record::AllegedSite;
use wedge::sites::{Engine, GuestText, Left, Reason};
use wedge::vm::modules::{ModuleMemory, Modules, PAGE_LENGTH, Region, Rewriter, Tally, translate};

use super::hypercall;
use super::memory::{Memory, entry, pointer};
use crate::runtime::{PAGE, say};

/// What is known of them.
#[derive(Debug)]
pub(super) struct LiveModules {
    modules: Modules<'static>,
}

impl LiveModules {
    /// Nothing is known of this range of addresses yet.
    pub(super) fn new(range: Range<u64>, regions: &'static mut [Region]) -> Self {
        Self { modules: Modules::new(range, regions) }
    }

    /// Looks at them: what is new is rewritten, what is gone is forgotten. `root` is the guest's CR3. Returns whether anything
    /// has changed.
    pub(super) fn look(&mut self, root: u64, engine: &mut Engine<'static>, memory: &'static Memory) -> bool {
        let text = Text { root, memory: Mapped(memory), range: self.modules.range() };
        self.modules.look(root, &mut Mapped(memory), &mut LiveRewriter { engine, text }, |event| say!("{event}"))
    }

    /// What became of all sites so far.
    pub(super) fn tally(&self) -> &Tally {
        self.modules.tally()
    }
}

/// The memory that they are in, by the linear mapping.
struct Mapped(&'static Memory);

impl ModuleMemory for Mapped {
    fn table(&mut self, _: usize, physical: u64) -> Option<&[AtomicU64; 512]> {
        // SAFETY: a page of the guest's memory, of which any value may come.
        self.0.place(physical).map(|place| unsafe { &*pointer(place) })
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        // SAFETY: as above; the guest does not run, so nobody writes to it.
        self.0.place(physical).map(|place| unsafe { &*pointer(place) })
    }
}

/// Two pages of the window through which text is written that the guest may not write to itself.
#[repr(C, align(4096))]
struct Peephole(UnsafeCell<[u8; 2 * PAGE_LENGTH]>);

// SAFETY: only its address is used.
unsafe impl Sync for Peephole {}

static PEEPHOLE: Peephole = Peephole(UnsafeCell::new([0; 2 * PAGE_LENGTH]));

/// The guest's text where it runs.
struct Text {
    root: u64,
    memory: Mapped,
    range: Range<u64>,
}

impl GuestText for Text {
    fn slot(&mut self, address: u64, length: usize) -> Option<&mut [u8]> {
        let end = address.checked_add(length as u64)?;
        if address < self.range.start || end > self.range.end {
            return None;
        }
        let (page, offset) = (address & !(PAGE - 1), address % PAGE);
        let peephole = PEEPHOLE.0.get().addr() as u64;
        for number in 0..(offset + length as u64).div_ceil(PAGE) {
            let physical = translate(self.root, page + number * PAGE, &mut self.memory)?;
            let value = physical & entry::ADDRESS | entry::TABLE & !entry::USER | entry::NO_EXECUTE;
            // SAFETY: nothing but this looks through the peephole.
            unsafe { hypercall::update_va_mapping(peephole + number * PAGE, value).ok()? };
        }
        // SAFETY: within the peephole, which shows the guest's text; the guest does not run.
        Some(unsafe { slice::from_raw_parts_mut(pointer(peephole + offset), length) })
    }
}

/// The engine, with the text that it is to work on.
struct LiveRewriter<'a> {
    engine: &'a mut Engine<'static>,
    text: Text,
}

impl Rewriter for LiveRewriter<'_> {
    fn add(&mut self, site: &AllegedSite) -> Result<Result<(), Left>, Reason> {
        self.engine.add(site, &mut self.text)
    }

    fn forget(&mut self, range: &Range<u64>) {
        self.engine.forget(range, |_| false);
    }
}
