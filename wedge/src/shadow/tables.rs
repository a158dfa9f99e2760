//! Shadow tables: what is known of each, the lists they are in, how they come and go.
//!
//! Tables of a space's own part are in the space's list, in the order in which they were made, so
//! that a table comes behind the one that links to it. Tables of the kernel's part are in one of
//! two lists: those with entries that a change of CR3 does not flush, and those that have others,
//! too.

use super::entry::Note;
use super::host::{BLOCK, Flush, Host, Level, Link, Table};
use super::spaces::SPACES;
use super::{OutOfTables, Shadow};
use crate::x86::paging::{index, shift};

/// No table.
pub(super) const NONE: u32 = u32::MAX;

/// The list of kernel tables all of whose entries are global.
pub(super) const GLOBAL: usize = SPACES;
/// The list of kernel tables that have entries which are not.
pub(super) const MIXED: usize = SPACES + 1;
/// How many lists there are.
pub(super) const LISTS: usize = SPACES + 2;

/// What is known of a table, by its number.
#[derive(Clone, Copy, Debug)]
pub struct TableInfo {
    /// The first virtual address that it covers.
    pub(super) base: u64,
    /// Which of its entries are present, the host's own aside.
    pub(super) present: [u64; 8],
    /// The table that links to it; none for a root, and for level 3 of the kernel's part, which all
    /// kernel roots link to.
    parent: u32,
    next: u32,
    previous: u32,
    pub(super) level: Level,
    list: u8,
    /// To how many tables it links.
    children: u16,
    /// When it was made, moved to another list, or filled last, in terms of [`Shadow::time`].
    touched: u64,
    /// In level 3, for all below: there may be leaves that user mode must not reach. In others: the
    /// table may have such.
    pub(super) supervisor: bool,
    /// In level 2: some of its entries are leaves.
    pub(super) leaves: bool,
    /// Some of its entries come from one larger page of the guest, and are flushed together.
    pub(super) whole: bool,
}

impl TableInfo {
    /// Of a table that is not in use.
    pub const UNUSED: Self = Self {
        base: 0,
        present: [0; 8],
        parent: NONE,
        next: NONE,
        previous: NONE,
        level: Level::L1,
        list: 0,
        children: 0,
        touched: 0,
        supervisor: false,
        leaves: false,
        whole: false,
    };

    /// Which of a block's entries are present.
    pub(super) const fn block(&self, block: usize) -> u64 {
        let first = block * BLOCK;
        self.present[first / 64] >> (first % 64) & ((1 << BLOCK) - 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present.iter().fold(0, |all, word| all | word) == 0
    }
}

/// A list of tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) first: u32,
    pub(super) last: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };
}

/// What the real TLB has to forget before an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    Nothing,
    Page(u64),
    More,
}

/// The level of a table of level 1, 2, or 3.
pub(super) const fn number(level: Level) -> u8 {
    match level {
        Level::L1 => 1,
        Level::L2 => 2,
        Level::L3 => 3,
        Level::KernelRoot | Level::UserRoot => 4,
    }
}

impl Shadow<'_> {
    pub(super) fn info(&mut self, table: u32) -> &mut TableInfo {
        &mut self.memory.tables[table as usize]
    }

    pub(super) fn note(&self, table: u32, index: usize) -> Note {
        Note(self.memory.notes[table as usize][index])
    }

    pub(super) fn set_note(&mut self, table: u32, index: usize, note: Note) {
        self.memory.notes[table as usize][index] = note.0;
    }

    /// The table that a note in a table links to.
    pub(super) fn child(&self, table: u32, index: usize) -> Option<u32> {
        self.note(table, index).table().map(|Table(number)| number)
    }

    /// Writes an entry.
    pub(super) fn put(&mut self, table: u32, index: usize, note: Note, link: Link, host: &mut impl Host) {
        self.set_note(table, index, note);
        let info = self.info(table);
        info.present[index / 64] |= 1 << (index % 64);
        let level = info.level;
        host.set(Table(table), level, index, link);
    }

    /// Empties an entry.
    pub(super) fn clear(&mut self, table: u32, index: usize, host: &mut impl Host) {
        self.set_note(table, index, Note::ABSENT);
        let info = self.info(table);
        info.present[index / 64] &= !(1 << (index % 64));
        let level = info.level;
        host.set(Table(table), level, index, Link::Absent);
    }

    /// Notes that the real TLB may know of a page what no longer holds, if the page's list of
    /// tables is in force.
    pub(super) fn lowered(&mut self, table: u32, address: u64) {
        if self.is_in_force(table) {
            self.stale = match self.stale {
                Stale::Nothing => Stale::Page(address),
                Stale::Page(same) if same == address => Stale::Page(address),
                _ => Stale::More,
            };
        }
    }

    /// Notes that the real TLB may know of a table, or of more than a page, what no longer holds.
    pub(super) fn lowered_below(&mut self, table: u32) {
        if self.is_in_force(table) {
            self.stale = Stale::More;
        }
    }

    fn is_in_force(&mut self, table: u32) -> bool {
        let list = usize::from(self.info(table).list);
        list == self.current || list >= SPACES
    }

    /// Ends an operation, or a part of it behind which tables can be used for something else.
    pub(super) fn finish(&mut self, host: &mut impl Host) {
        match core::mem::replace(&mut self.stale, Stale::Nothing) {
            Stale::Nothing => host.commit(),
            Stale::Page(address) => host.commit_page(address, true),
            Stale::More => {
                host.commit();
                host.flush(Flush::All);
            }
        }
    }

    /// Ends an operation that was about a page.
    pub(super) fn finish_page(&mut self, address: u64, host: &mut impl Host) {
        if self.stale == Stale::Nothing { host.commit_page(address, false) } else { self.finish(host) }
    }

    /// Notes the level of the page that leaves of a table, of level 1 or 2, come from: what comes
    /// from one page is flushed together.
    pub(super) fn comes_from(&mut self, table: u32, page: u8) {
        let info = self.info(table);
        info.whole |= page > number(info.level);
        let parent = info.parent;
        if info.level == Level::L1 {
            self.info(parent).whole |= page > 2;
        }
    }

    /// A table from the host.
    pub(super) fn allocate(&mut self, level: Level, base: u64, host: &mut impl Host) -> Result<u32, OutOfTables> {
        let table = host.allocate(level, base).ok_or(OutOfTables)?;
        if table.0 as usize >= self.memory.tables.len().min(self.memory.notes.len()) {
            host.release(table, level);
            return Err(OutOfTables);
        }
        *self.info(table.0) = TableInfo { base, level, ..TableInfo::UNUSED };
        self.memory.notes[table.0 as usize] = [0; 512];
        self.statistics.tables[level as usize] += 1;
        Ok(table.0)
    }

    pub(super) fn release(&mut self, table: u32, host: &mut impl Host) {
        let level = self.info(table).level;
        self.statistics.tables[level as usize] -= 1;
        host.release(Table(table), level);
    }

    fn append(&mut self, table: u32, list: usize) {
        let end = core::mem::replace(&mut self.lists[list].last, table);
        match end {
            NONE => self.lists[list].first = table,
            end => self.info(end).next = table,
        }
        self.time += 1;
        let touched = self.time;
        let info = self.info(table);
        info.list = u8::try_from(list).unwrap_or(u8::MAX);
        info.previous = end;
        info.next = NONE;
        info.touched = touched;
    }

    /// Notes that a table of level 1 has been filled for an access. Not while a list is walked: its
    /// order changes.
    pub(super) fn touch(&mut self, table: u32) {
        let list = usize::from(self.info(table).list);
        if self.lists[list].last == table {
            self.time += 1;
            self.info(table).touched = self.time;
        } else {
            self.unlist(table);
            self.append(table, list);
        }
    }

    /// The table that has gone longest without being filled, of those that can be dropped and were
    /// not touched after `since`.
    pub(super) fn oldest_table(&self, since: u64) -> Option<u32> {
        let touched = |table: &u32| self.memory.tables[*table as usize].touched;
        let candidates = (0..LISTS).filter_map(|list| self.oldest_in(list));
        candidates.filter(|table| touched(table) <= since).min_by_key(touched)
    }

    fn oldest_in(&self, list: usize) -> Option<u32> {
        let mut table = self.lists[list].first;
        while table != NONE && !self.is_droppable(table) {
            table = self.memory.tables[table as usize].next;
        }
        (table != NONE).then_some(table)
    }

    /// Whether a table can be dropped: no other hangs on it, it does not map the stack in use, and
    /// in the kernel's part it is no part of what all roots link to, nor of the linear mapping.
    fn is_droppable(&self, table: u32) -> bool {
        let TableInfo { base, level, children, leaves, .. } = self.memory.tables[table as usize];
        let covered = 1 << shift(number(level) + 1);
        let is_kept = self.is_kernel(base) && (level == Level::L3 || leaves);
        children == 0 && !is_kept && self.held & !(covered - 1) != base
    }

    /// Drops a table, and the tables of a space's own part that led to nothing else.
    pub(super) fn drop_table(&mut self, mut table: u32, host: &mut impl Host) {
        let TableInfo { base, .. } = *self.info(table);
        let count =
            if self.is_kernel(base) { &mut self.statistics.kernel_evictions } else { &mut self.statistics.evictions };
        *count += 1;
        loop {
            let parent = self.info(table).parent;
            self.remove(table, host);
            let is_root = parent == NONE || matches!(self.info(parent).level, Level::KernelRoot | Level::UserRoot);
            if is_root || self.is_kernel(base) || !self.info(parent).is_empty() {
                return;
            }
            table = parent;
        }
    }

    fn unlist(&mut self, table: u32) {
        let TableInfo { list, next, previous, .. } = *self.info(table);
        let list = usize::from(list);
        match previous {
            NONE => self.lists[list].first = next,
            previous => self.info(previous).next = next,
        }
        match next {
            NONE => self.lists[list].last = previous,
            next => self.info(next).previous = previous,
        }
    }

    /// Moves a kernel table to the list that it belongs to.
    pub(super) fn relist(&mut self, table: u32, list: usize) {
        if usize::from(self.info(table).list) != list {
            self.unlist(table);
            self.append(table, list);
        }
    }

    /// The table in front of one in its list.
    pub(super) fn previous(&mut self, table: u32) -> u32 {
        self.info(table).previous
    }

    /// The table behind one in its list.
    pub(super) fn next(&mut self, table: u32) -> u32 {
        self.info(table).next
    }

    /// The level-3 table for an address of the current space.
    pub(super) fn find_l3(&self, address: u64) -> Option<u32> {
        let slot = index(address, 4);
        if self.is_kernel(address) {
            return Some(self.kernel[slot - self.slots.first()]).filter(|&table| table != NONE);
        }
        self.child(self.spaces[self.current].kernel, slot)
    }

    /// The level-2 table for an address of the current space.
    pub(super) fn find_l2(&self, address: u64) -> Option<u32> {
        self.child(self.find_l3(address)?, index(address, 3))
    }

    /// The level-1 table for an address of the current space.
    pub(super) fn find_l1(&self, address: u64) -> Option<u32> {
        self.child(self.find_l2(address)?, index(address, 2))
    }

    /// The level-3 table for an address of the current space; it is made if need be.
    pub(super) fn reach_l3(&mut self, address: u64, host: &mut impl Host) -> Result<u32, OutOfTables> {
        if let Some(table) = self.find_l3(address) {
            return Ok(table);
        }
        let slot = index(address, 4);
        let table = self.allocate(Level::L3, address & (!0 << 39), host)?;
        if self.is_kernel(address) {
            self.append(table, GLOBAL);
            self.kernel[slot - self.slots.first()] = table;
            for space in self.spaces.iter().filter(|space| space.is_live()) {
                host.set(Table(space.kernel), Level::KernelRoot, slot, Link::Own(Table(table)));
            }
        } else {
            self.append(table, self.current);
            let root = self.spaces[self.current].kernel;
            self.info(table).parent = root;
            self.info(root).children += 1;
            self.put(root, slot, Note::own(Table(table)), Link::Own(Table(table)), host);
        }
        Ok(table)
    }

    /// The level-2 table for an address under its level-3 table; it is made if need be.
    pub(super) fn reach_l2(&mut self, address: u64, parent: u32, host: &mut impl Host) -> Result<u32, OutOfTables> {
        match self.child(parent, index(address, 3)) {
            Some(table) => Ok(table),
            None => self.make(Level::L2, address, parent, host),
        }
    }

    /// The level-1 table for an address under its level-2 table; it is made if need be, in place of
    /// a ready-made one.
    pub(super) fn reach_l1(&mut self, address: u64, parent: u32, host: &mut impl Host) -> Result<u32, OutOfTables> {
        match self.child(parent, index(address, 2)) {
            Some(table) => Ok(table),
            None => self.make(Level::L1, address, parent, host),
        }
    }

    fn make(&mut self, level: Level, address: u64, parent: u32, host: &mut impl Host) -> Result<u32, OutOfTables> {
        let above = number(level) + 1;
        let table = self.allocate(level, address & (!0 << shift(above)), host)?;
        let at = index(address, above);
        if self.note(parent, at).is_present() {
            self.lowered_below(parent);
        }
        let list = if self.is_kernel(address) { GLOBAL } else { self.current };
        self.append(table, list);
        self.info(table).parent = parent;
        self.info(parent).children += 1;
        self.put(parent, at, Note::own(Table(table)), Link::Own(Table(table)), host);
        Ok(table)
    }

    /// Takes a table out of the shadow: one of level 1, or one that is empty, of a space's own
    /// part.
    pub(super) fn remove(&mut self, table: u32, host: &mut impl Host) {
        let TableInfo { base, parent, level, list, .. } = *self.info(table);
        self.lowered_below(table);
        self.clear(parent, index(base, number(level) + 1), host);
        self.info(parent).children -= 1;
        if level == Level::L3 {
            self.unlink_user(usize::from(list), index(base, 4), host);
        }
        self.unlist(table);
        self.release(table, host);
    }

    /// Gives back all tables of a list, to which nothing links any more.
    pub(super) fn release_list(&mut self, list: usize, host: &mut impl Host) {
        let mut table = core::mem::replace(&mut self.lists[list], List::EMPTY).first;
        while table != NONE {
            let next = self.next(table);
            self.release(table, host);
            table = next;
        }
    }
}
