//! The guest's rewritten text: its kernel's, and that of its modules, found in its page tables as
//! they come and go.

use core::fmt;
use core::ops::Range;

use annotate::record::AllegedSite;

use super::Memory;
use super::modules::{Modules, Region, Rewriter, Tally, translate};
use crate::sites::{Engine, GuestText, Left, Reason};
use crate::x86::paging::PAGE;

/// All of it.
#[derive(Debug)]
pub struct Text {
    /// The sites.
    pub engine: Engine<'static>,
    modules: Modules<'static>,
    /// The kernel's image.
    pub kernel: Range<u64>,
    /// How far above its address the kernel's head code really runs.
    pub head_distance: u64,
    /// The wedge's window, in which the stubs are.
    pub window: Range<u64>,
}

impl Text {
    /// A kernel whose sites are rewritten, without modules yet; they will lie in `modules`.
    #[must_use]
    pub fn new(
        engine: Engine<'static>,
        kernel: Range<u64>,
        head_distance: u64,
        window: Range<u64>,
        modules: Range<u64>,
        regions: &'static mut [Region],
    ) -> Self {
        Self { engine, modules: Modules::new(modules, regions), kernel, head_distance, window }
    }

    /// Looks at the modules: what is new is rewritten, what is gone is forgotten. `root` is the
    /// guest's CR3. Returns whether anything has changed.
    pub(super) fn look<M: Memory>(&mut self, root: u64, memory: &mut M, say: impl Fn(fmt::Arguments<'_>)) -> bool {
        let mut physical = memory.physical();
        let text = LiveText { root, physical, peephole: memory, range: self.modules.range() };
        let mut rewriter = LiveRewriter { engine: &mut self.engine, text };
        self.modules.look(root, &mut physical, &mut rewriter, |event| say(format_args!("{event}")))
    }

    /// What became of all sites of modules so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.modules.tally()
    }
}

/// Modules' text where it runs.
struct LiveText<'a, M: Memory> {
    root: u64,
    physical: M::Physical,
    peephole: &'a mut M,
    range: Range<u64>,
}

impl<M: Memory> GuestText for LiveText<'_, M> {
    fn slot(&mut self, address: u64, length: usize) -> Option<&mut [u8]> {
        let end = address.checked_add(length as u64)?;
        if address < self.range.start || end > self.range.end {
            return None;
        }
        let first = address & !(PAGE - 1);
        let last = (end - 1) & !(PAGE - 1);
        let pages = [first, last].map(|page| translate(self.root, page, &mut self.physical));
        let [Some(first_page), Some(last_page)] = pages else { return None };
        let count = if first == last { 1 } else { 2 };
        self.peephole.open(&[first_page, last_page][..count], (address % PAGE) as usize, length)
    }
}

/// The engine, with the text that it is to work on.
struct LiveRewriter<'a, M: Memory> {
    engine: &'a mut Engine<'static>,
    text: LiveText<'a, M>,
}

impl<M: Memory> Rewriter for LiveRewriter<'_, M> {
    fn add(&mut self, site: &AllegedSite) -> Result<Result<(), Left>, Reason> {
        self.engine.add(site, &mut self.text)
    }

    fn forget(&mut self, range: &Range<u64>) {
        self.engine.forget(range, |_| false);
    }
}
