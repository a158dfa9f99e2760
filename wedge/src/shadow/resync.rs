//! Flushing: comparing the shadow with the guest's tables.
//!
//! A flush allows the TLB to keep what still holds. So nothing is dropped that the next access
//! would bring back as it was: an entry whose origin is unchanged costs a comparison, instead of a
//! fault. The notes have the origin of each entry, so that the host need not be asked.

use super::Shadow;
use super::entry::Note;
use super::host::{BLOCK, Host, Level};
use super::tables::{GLOBAL, MIXED, NONE, TableInfo, number};
use super::walk::Source;
use crate::x86::paging::{index, shift};

impl Shadow<'_> {
    /// Compares all of a space, with the tables that its root leads to. Tables behind which there
    /// is nothing any more go.
    pub(super) fn resync_space(&mut self, space: usize, host: &mut impl Host) {
        let root = self.spaces[space].root;
        let mut table = self.lists[space].last;
        while table != NONE {
            let previous = self.previous(table);
            self.resync_table(table, root, host);
            if self.info(table).level != Level::L1 && self.info(table).is_empty() {
                self.remove(table, host);
            }
            table = previous;
        }
    }

    /// Compares one of the two lists of kernel tables.
    pub(super) fn resync_list(&mut self, list: usize, host: &mut impl Host) {
        let root = self.root();
        let mut table = self.lists[list].last;
        while table != NONE {
            let previous = self.previous(table);
            self.resync_table(table, root, host);
            table = previous;
        }
    }

    /// Compares a page: the larger one that it is a part of, if it is.
    pub(super) fn resync_page(&mut self, address: u64, host: &mut impl Host) {
        let Some(parent) = self.find_l2(address) else { return };
        let root = self.root();
        if self.info(parent).whole {
            return self.resync_below(parent, root, host);
        }
        match self.child(parent, index(address, 2)) {
            Some(table) if self.info(table).whole => self.resync_table(table, root, host),
            Some(table) => self.resync_entry(table, 1, address, host),
            None => self.resync_entry(parent, 2, address, host),
        }
    }

    /// Compares a level-2 table's leaves, and those of all below it.
    fn resync_below(&mut self, table: u32, root: u64, host: &mut impl Host) {
        self.resync_table(table, root, host);
        for at in 0..512 {
            if let Some(child) = self.child(table, at) {
                self.resync_table(child, root, host);
            }
        }
    }

    fn resync_entry(&mut self, table: u32, level: u8, address: u64, host: &mut impl Host) {
        let at = index(address, level);
        let old = self.note(table, at);
        if !old.is_present() || old.table().is_some() {
            return;
        }
        let source = Source::find(self.mode, self.root(), address, level, host);
        if let Source::Page { level, .. } = source {
            self.comes_from(table, level);
        }
        let new = source.note(self.mode, at, source.entry(at, host), level);
        if !self.resync_leaf(table, at, new, host) && self.is_kernel(address) {
            self.relist(table, MIXED);
        }
    }

    /// Compares a table's leaves.
    fn resync_table(&mut self, table: u32, root: u64, host: &mut impl Host) {
        let TableInfo { base, level, leaves, .. } = *self.info(table);
        if level != Level::L1 && !leaves {
            return;
        }
        self.statistics.resyncs += 1;
        let source = Source::find(self.mode, root, base, number(level), host);
        if level == Level::L1 {
            if matches!(source, Source::None) {
                return self.remove(table, host);
            }
            self.info(table).whole = matches!(source, Source::Page { .. });
        }
        if let Source::Page { level, .. } = source {
            self.comes_from(table, level);
        }
        let global = if level == Level::L1 {
            self.resync_leaves(table, 1, &source, host)
        } else {
            self.resync_leaves(table, 2, &source, host)
        };
        if self.is_kernel(base) {
            self.relist(table, if global { GLOBAL } else { MIXED });
        }
    }

    /// Compares all leaves of a table of a level. Whether all that remain are global.
    #[expect(clippy::inline_always, reason = "for each level, which decides about each of its entries")]
    #[inline(always)]
    fn resync_leaves(&mut self, table: u32, level: u8, source: &Source, host: &mut impl Host) -> bool {
        let mut global = true;
        for word in 0..8 {
            let mut rest = self.info(table).present[word];
            while rest != 0 {
                let at = 64 * word + rest.trailing_zeros() as usize;
                rest &= rest - 1;
                if level == 1 || self.note(table, at).table().is_none() {
                    let new = source.note(self.mode, at, source.entry(at, host), level);
                    global &= self.resync_leaf(table, at, new, host);
                }
            }
        }
        global
    }

    /// Compares a leaf with what it has to be now. Whether it is global, or gone.
    #[expect(clippy::inline_always, reason = "a change of processes compares hundreds, and finds none different")]
    #[inline(always)]
    fn resync_leaf(&mut self, table: u32, at: usize, new: Note, host: &mut impl Host) -> bool {
        let old = self.note(table, at);
        if old.same(new) {
            self.set_note(table, at, new);
            return new.is_global();
        }
        self.change(table, at, old, new, host);
        new.is_global() || !self.note(table, at).is_present()
    }

    /// Makes a leaf what it has become, or drops it if that is for a fault to decide.
    #[cold]
    fn change(&mut self, table: u32, at: usize, old: Note, new: Note, host: &mut impl Host) {
        let TableInfo { base, level, .. } = *self.info(table);
        let address = base + ((at as u64) << shift(number(level)));
        let reachable = new.is_present() && (self.is_kernel(base) || new.is_user());
        let link = Self::link(new, level, host).filter(|_| reachable);
        self.statistics.changes += 1;
        if link.is_none() || !new.only_raises(old) {
            self.replaced(table, level, address);
        }
        if let Some(link) = link {
            return self.put(table, at, new, link, host);
        }
        self.clear(table, at, host);
        if level == Level::L2 && self.is_kernel(base) {
            self.refill(address, host);
        }
    }

    /// Fills what a large page of the kernel's part has been split into. A stack may be there that
    /// is not in use now: it was mapped, so no fault may be taken on it.
    fn refill(&mut self, base: u64, host: &mut impl Host) {
        for first in (0..512).step_by(BLOCK) {
            let mut pages = (first..first + BLOCK).map(|page| base + ((page as u64) << 12));
            pages.any(|page| self.prefill(page, host));
        }
    }

    /// Drops the leaves of a table that user mode must not reach.
    pub(super) fn drop_supervisor_leaves(&mut self, table: u32, host: &mut impl Host) {
        let TableInfo { base, level, present, .. } = *self.info(table);
        for at in (0..512).filter(|at| present[at / 64] >> (at % 64) & 1 != 0) {
            let leaf = self.note(table, at);
            if leaf.table().is_none() && !leaf.is_user() {
                self.replaced(table, level, base + ((at as u64) << shift(number(level))));
                self.clear(table, at, host);
            }
        }
    }
}
