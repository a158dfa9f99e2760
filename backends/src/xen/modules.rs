//! The guest's modules, found in its page tables as they come and go.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::slice;

use annotate::record::AllegedSite;
use wedge::modules::{Event, ModuleMemory, Modules, Rewriter, Run};
use wedge::rewrite::{Engine, GuestText};

use super::hypercall;
use super::machine::Machine;
use super::memory::{Memory, entry, pointer};
use crate::freestanding::{PAGE, say};

/// What is known of them.
#[derive(Debug)]
pub(super) struct LiveModules {
    modules: Modules,
    range: Range<u64>,
}

impl LiveModules {
    /// Nothing is known of this range of addresses yet.
    pub(super) fn new(range: Range<u64>) -> Self {
        Self { modules: Modules::new(range.clone()), range }
    }

    /// Looks at them: what is new is rewritten, what is gone is forgotten. `root` is the guest's CR3.
    pub(super) fn look(&mut self, root: u64, engine: &mut Engine<'static>, machine: &mut Machine) {
        let walk = Walk { memory: machine.tables.memory, root: root & entry::ADDRESS };
        let mut memory = Mapped { walk, machine };
        let mut rewriter = LiveRewriter { engine, text: Text { walk, range: self.range.clone() } };
        self.modules.look(&mut memory, &mut rewriter, |event| match event {
            Event::Rewritten { .. } => {}
            Event::Refused { start, site, reason } => {
                say!("module text at {start:#x} stays as it is: site {site:#x}: {reason}");
            }
            Event::TooMany => say!("more pieces of module text than can be watched"),
        });
    }
}

/// What a virtual address leads to in the guest's tables.
#[derive(Clone, Copy, Debug)]
struct Page {
    physical: u64,
    executable: bool,
}

/// A walk through the guest's tables that leaves no trace in them.
#[derive(Clone, Copy, Debug)]
struct Walk {
    memory: &'static Memory,
    root: u64,
}

impl Walk {
    fn entry(&self, table: u64, level: u32, address: u64) -> u64 {
        let place = self.memory.place(table + 8 * (address >> (3 + 9 * level) & 511));
        // SAFETY: the guest's memory, of which any value may come.
        place.map_or(0, |place| unsafe { pointer::<u64>(place).read_volatile() })
    }

    /// The page at an address, or how many bytes there is none.
    fn page(&self, address: u64) -> Result<Page, u64> {
        const LARGE: u64 = 1 << 7;
        let (mut table, mut executable) = (self.root, true);
        for level in (1..=4).rev() {
            let span = PAGE << (9 * (level - 1));
            let found = self.entry(table, level, address);
            if found & entry::PRESENT == 0 {
                return Err(span - (address & (span - 1)));
            }
            executable &= found & entry::NO_EXECUTE == 0;
            if level == 1 || found & LARGE != 0 && level < 4 {
                let physical = found & entry::ADDRESS & !(span - 1) | address & (span - 1);
                return Ok(Page { physical, executable });
            }
            table = found & entry::ADDRESS;
        }
        Err(PAGE)
    }
}

/// The pages in the range of the guest's modules.
struct Mapped<'a> {
    walk: Walk,
    machine: &'a mut Machine,
}

impl ModuleMemory for Mapped<'_> {
    fn next_run(&mut self, from: u64, to: u64) -> Option<Run> {
        let mut start = from;
        let first = loop {
            if start >= to {
                return None;
            }
            match self.walk.page(start) {
                Ok(page) => break page,
                Err(hole) => start = start.checked_add(hole)?,
            }
        };
        let mut run = Run { start, end: start + PAGE, frame: first.physical, executable: first.executable };
        while let Ok(next) = self.walk.page(run.end) {
            run.end += PAGE;
            run.executable |= next.executable;
        }
        Some(run)
    }

    fn bytes(&mut self, run: &Run) -> &[u8] {
        let mapped = (run.start..run.end).step_by(PAGE as usize).all(|page| {
            let Machine { shadow, tables, .. } = &mut *self.machine;
            shadow.require(page, false, tables) == Ok(true)
        });
        if !mapped {
            return &[];
        }
        // SAFETY: all of the run is mapped, and nothing changes that before the guest runs again.
        unsafe { slice::from_raw_parts(pointer(run.start), (run.end - run.start) as usize) }
    }
}

/// Two pages of the window through which text is written that the guest may not write to itself.
#[repr(C, align(4096))]
struct Peephole(UnsafeCell<[u8; 2 * PAGE as usize]>);

// SAFETY: only its address is used.
unsafe impl Sync for Peephole {}

static PEEPHOLE: Peephole = Peephole(UnsafeCell::new([0; 2 * PAGE as usize]));

/// The guest's text where it runs.
struct Text {
    walk: Walk,
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
            let physical = self.walk.page(page + number * PAGE).ok()?.physical;
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
    fn add(&mut self, site: &AllegedSite) -> bool {
        matches!(self.engine.add(site, &mut self.text), Ok(Ok(())))
    }

    fn forget(&mut self, range: &Range<u64>) {
        self.engine.forget(range);
    }
}
