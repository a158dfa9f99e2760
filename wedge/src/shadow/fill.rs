//! Filling the shadow: one page that is needed, and its neighbours.
//!
//! A fault costs some two thousand instructions, on its way through the host and back. An entry
//! filled in advance costs a quarter of that, and as much again when it is dropped: it must be more
//! likely needed than not. In a space's own part that is the case for the other page of a pair, if
//! it has been used before, which its accessed flag tells; farther away it is not, least of all
//! after a `fork`. A host where a fault costs much more fills larger groups
//! ([`Host::GROUP`]). In the kernel's part all that are present are filled: a fault on the stack
//! that the fault itself is pushed to cannot be taken, so a kernel stack has to be there as a whole
//! from its first touch on. But ahead of need only memory is mapped: a device is accessed by
//! whoever means it. And in the fixmap nothing is mapped ahead: there Linux maps pages for a
//! moment, with a flush for each, and many more than it accesses. In search of a table of
//! processors it maps all that is left of the BIOS's 64 KB for every 16 bytes of them
//! (`smp_scan_config`). A stack that begins in one block and ends in the next is filled by its
//! first store, too ([`Shadow::fill_below`]).
//!
//! Where no table is left, the ones that were filled least recently go, whosever they are: another
//! space's, the current one's, the kernel part's. What has just been filled goes last, so each fill
//! gets its access farther; and what is in use but was filled long ago costs a fault each time that
//! all others have had their turn.

use super::entry::Note;
use super::host::{BLOCK, Frame, Host, Level, Link};
use super::tables::MIXED;
use super::walk::{Source, Walk};
use super::{Access, OutOfTables, Outcome, Shadow};
use crate::guest::linux::STACK_PAGES;
use crate::x86::paging::entry::{ACCESSED, PRESENT};
use crate::x86::paging::{PAGE, index};

/// Why a page is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It was accessed in vain.
    Fault(Access),
    /// It is going to be accessed where no fault can be taken.
    Required,
    /// It may be accessed. Nothing is dropped for it, and no list changes its order: some are being
    /// walked.
    Ahead,
}

/// A page takes three tables at most, and each time that room is made there is one more at least.
const ATTEMPTS: usize = 4;

/// What a shadow entry has to become.
#[derive(Clone, Copy)]
pub(super) struct Target {
    address: u64,
    why: Why,
    leaf: Note,
}

impl Target {
    /// How it was accessed in vain.
    const fn fault(self) -> Option<Access> {
        match self.why {
            Why::Fault(access) => Some(access),
            Why::Required | Why::Ahead => None,
        }
    }
}

impl Shadow<'_> {
    /// The link for a leaf's note at a level; `None` if the host has nothing to link to.
    #[expect(
        clippy::inline_always,
        reason = "each fault makes several, and a link is returned through memory otherwise"
    )]
    #[inline(always)]
    pub(super) fn link(note: Note, level: Level, host: &impl Host) -> Option<Link> {
        if level == Level::L2 {
            return note.linear().filter(|linear| host.linear(linear.address)).map(Link::Linear);
        }
        match host.frame(note.address()) {
            Frame::Memory(address) | Frame::Substitute(address) => Some(Link::Leaf(note.page(address, false))),
            Frame::Device(address) => Some(Link::Leaf(note.page(address, true))),
            Frame::Nothing => None,
        }
    }

    /// Maps the page that a walk has led to, for an access that is allowed and has faulted, or in
    /// advance.
    pub(super) fn fill(&mut self, address: u64, why: Why, walk: &Walk, host: &mut impl Host) -> Outcome {
        let mut target = Target { address, why, leaf: Note::ABSENT };
        target.leaf = walk.note(self.mode, target.fault());
        if self.add(target, walk, host).is_some() {
            self.finish_page(address, host);
            return Outcome::Filled;
        }
        let since = self.time;
        for _ in 0..ATTEMPTS {
            match self.try_fill(target, walk, host) {
                Ok(outcome) => {
                    self.finish_page(address, host);
                    return outcome;
                }
                Err(OutOfTables) if why == Why::Ahead || !self.make_room(since, host) => break,
                Err(OutOfTables) => {}
            }
        }
        self.finish(host);
        Outcome::OutOfTables
    }

    /// The kernel has stored to a page that may be the top of a stack, and the stack may go on
    /// below the block that the page is in: then that is filled, too.
    pub(super) fn fill_below(&mut self, address: u64, host: &mut impl Host) {
        let within = (index(address, 1) % BLOCK) as u64;
        if self.is_kernel(address) && !self.fixmap.contains(&address) && within < STACK_PAGES - 1 {
            self.prefill((address & !(PAGE - 1)).wrapping_sub((within + 1) * PAGE), host);
        }
    }

    /// What nearly all fills of a space are: a page of a program's, in a table that it reaches,
    /// where there was none.
    fn add(&mut self, target: Target, walk: &Walk, host: &mut impl Host) -> Option<()> {
        let Target { address, leaf, .. } = target;
        if walk.level() > 1 || self.is_kernel(address) || !leaf.is_user() || !self.is_linked(index(address, 4)) {
            return None;
        }
        let (table, at) = (self.find_l1(address)?, index(address, 1));
        if self.note(table, at).is_present() {
            return None;
        }
        let link = Self::link(leaf, Level::L1, host)?;
        self.put(table, at, leaf, link, host);
        self.touch(table);
        self.statistics.fills += 1;
        self.fill_others(target, table, walk, host);
        Some(())
    }

    fn try_fill(&mut self, target: Target, walk: &Walk, host: &mut impl Host) -> Result<Outcome, OutOfTables> {
        let address = target.address;
        let top = self.reach_l3(address, host)?;
        let parent = self.reach_l2(address, top, host)?;
        if walk.level() > 1 {
            self.comes_from(parent, walk.level());
            let within = address & 0x1f_f000;
            let first = Note(target.leaf.0 - within);
            if let Some(link) = Self::link(first, Level::L2, host) {
                return Ok(self.fill_linear(Target { leaf: first, ..target }, top, parent, link, host));
            }
        }
        let Some(link) = Self::link(target.leaf, Level::L1, host) else {
            return Ok(Outcome::Nothing { address: walk.translate(address) });
        };
        let table = self.reach_l1(address, parent, host)?;
        self.comes_from(table, walk.level());
        let outcome = self.fill_entry(target, top, table, link, host);
        match outcome {
            Outcome::Filled if self.fixmap.contains(&address) => {}
            Outcome::Filled if self.is_kernel(address) => self.fill_block(target, table, walk, host),
            Outcome::Filled => self.fill_others(target, table, walk, host),
            _ => {}
        }
        if target.why != Why::Ahead {
            self.touch(table);
        }
        Ok(outcome)
    }

    /// Links to a ready-made table, in place of one of our own if there is one.
    fn fill_linear(&mut self, target: Target, top: u32, table: u32, link: Link, host: &mut impl Host) -> Outcome {
        let own = self.child(table, index(target.address, 2));
        if let Some(own) = own {
            self.remove(own, host);
        }
        let outcome = self.fill_entry(target, top, table, link, host);
        if outcome == Outcome::Filled {
            self.info(table).leaves = true;
            self.statistics.linear += 1;
        }
        outcome
    }

    fn fill_entry(&mut self, target: Target, top: u32, table: u32, link: Link, host: &mut impl Host) -> Outcome {
        let Target { address, leaf, .. } = target;
        let fault = target.fault();
        let level = self.info(table).level;
        let at = index(address, super::tables::number(level));
        let old = self.note(table, at);
        // Before the leaf is admitted, which may link what is spurious now.
        let linked = self.is_kernel(address) || self.is_linked(index(address, 4));
        if !self.is_kernel(address) {
            self.info(table).supervisor |= !leaf.is_user();
            self.admit(address, leaf, fault.is_some_and(|access| access.user), top, host);
        }
        if old.same(leaf) && (linked || !fault.is_some_and(|access| access.user)) {
            if fault.is_some() {
                self.statistics.spurious += 1;
                self.lowered(table, address);
            }
            return Outcome::Spurious;
        }
        if old.is_present() && !leaf.only_raises(old) {
            self.replaced(table, level, address);
        }
        self.put(table, at, leaf, link, host);
        self.unglobal(table, leaf, address);
        self.statistics.fills += 1;
        Outcome::Filled
    }

    /// What a change to a present entry means to the real TLB.
    pub(super) fn replaced(&mut self, table: u32, level: Level, address: u64) {
        if level == Level::L1 { self.lowered(table, address) } else { self.lowered_below(table) }
    }

    /// Notes that a kernel table has an entry that is not global.
    fn unglobal(&mut self, table: u32, leaf: Note, address: u64) {
        if self.is_kernel(address) && !leaf.is_global() {
            self.relist(table, MIXED);
        }
    }

    /// Fills the other pages of a group in a space's own part.
    fn fill_others<H: Host>(&mut self, target: Target, table: u32, walk: &Walk, host: &mut H) {
        const { assert!(H::GROUP.is_power_of_two() && H::GROUP <= BLOCK) };
        let at = index(target.address, 1);
        let first = at & !(H::GROUP - 1);
        for other in (first..first + H::GROUP).filter(|other| *other != at) {
            if !self.note(table, other).is_present() {
                let source = walk.source(self.mode, target.address, 1);
                let leaf = source.note(self.mode, other, source.entry(other, host), 1);
                if leaf.is_user() {
                    self.fill_neighbour(table, other, leaf, host);
                }
            }
        }
    }

    /// Fills the rest of a block in the kernel's part.
    fn fill_block(&mut self, target: Target, table: u32, walk: &Walk, host: &mut impl Host) {
        let address = target.address;
        let source = walk.source(self.mode, address, 1);
        let block = index(address, 1) / BLOCK;
        let present = self.info(table).block(block);
        let entries = source.entries(block, host);
        for (i, &entry) in entries.iter().enumerate().filter(|(i, _)| present >> i & 1 == 0) {
            let at = block * BLOCK + i;
            let entry = Self::mark_accessed(&source, at, entry, host);
            let leaf = source.note(self.mode, at, entry, 1);
            if leaf.is_present() {
                self.fill_neighbour(table, at, leaf, host);
                self.unglobal(table, leaf, address);
            }
        }
    }

    fn fill_neighbour(&mut self, table: u32, at: usize, leaf: Note, host: &mut impl Host) {
        if let Frame::Memory(address) = host.frame(leaf.address()) {
            self.put(table, at, leaf, Link::Leaf(leaf.page(address, false)), host);
            self.statistics.neighbours += 1;
        }
    }

    /// Sets the accessed flag of a present entry in the kernel's part. Returns what the entry is
    /// then.
    fn mark_accessed(source: &Source, index: usize, entry: u64, host: &mut impl Host) -> u64 {
        match source.place(index) {
            Some(place) if entry & (PRESENT | ACCESSED) == PRESENT => {
                let new = entry | ACCESSED;
                if host.set_guest_bits(place, entry, new) { new } else { entry }
            }
            _ => entry,
        }
    }
}
