//! Spaces: the part that is not the kernel's. One for each of the guest's roots that were used
//! lately.
//!
//! A guest that changes its address space means "forget" or, with process-context identifiers,
//! "these are the translations of number n". It has few of these numbers (Linux uses six) and many
//! processes, so a number goes from one to the next, and all that is known by it is to be
//! forgotten. But nothing is thrown away: the space of the process that loses the number is kept
//! for its root, *stale*. Its tables are compared with the guest's when that root is loaded again,
//! by whatever number. What holds then is what a TLB that had forgotten would find. So it does not
//! matter what has become of the root meanwhile: it may be another process's, or no root at all.
//!
//! * *A root that nobody knows* gets the space of a process that has ended, if there is one: most
//!   of what it had still holds, for processes that follow on each other in a shell share most of
//!   their pages. Otherwise it gets a new one.
//! * *Two roots.* A host that runs kernel and programs in the same ring tells them apart by the
//!   root in force. The user root has nothing of the kernel's part, and links to a level-3 table of
//!   the other part only if nothing under it is withheld from programs; which ones it links to is
//!   noted in the space.
//! * *One kernel's part.* It is in no space: all kernel roots link to the same level-3 tables.
//! * *Without identifiers* all loads are of one number, and all make the space stale.
//! * *Room.* Page tables are finite. If they run out, the tables go that were filled least
//!   recently, and then the space that was not used for longest. The current space stays, and so do
//!   tables that were touched since the fault that needs room.

use super::entry::Note;
use super::host::{Host, Level, Link, Table};
use super::tables::{MIXED, NONE};
use super::{Mode, OutOfTables, Shadow};
use crate::x86::control::cr3::PCID;
use crate::x86::paging::entry::{ADDRESS, PRESENT};
use crate::x86::paging::{index, shift};

/// How many spaces are kept.
pub const SPACES: usize = 64;

/// No process-context identifier: the space is nobody's, but its root's.
const UNTAGGED: u16 = u16::MAX;

/// An address space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// The process-context identifier.
    tag: u16,
    /// Its tables have to be compared with the guest's before it is used again.
    stale: bool,
    /// The guest-physical address of the guest's level-4 table.
    pub(super) root: u64,
    /// The root for the guest's kernel; its notes are those of a space's own part.
    pub(super) kernel: u32,
    /// The root for its programs.
    user: u32,
    /// Which level-3 tables the user root links to.
    linked: [u64; 4],
    /// When it was last loaded.
    used: u64,
}

impl Space {
    pub(super) const FREE: Self =
        Self { tag: UNTAGGED, stale: false, root: 0, kernel: NONE, user: NONE, linked: [0; 4], used: 0 };

    pub(super) const fn is_live(&self) -> bool {
        self.kernel != NONE
    }
}

impl Shadow<'_> {
    /// The root of the guest's tables in force.
    pub(super) fn root(&self) -> u64 {
        self.spaces[self.current].root
    }

    /// Whether the user root of the current space links to the level-3 table of a slot.
    pub(super) fn is_linked(&self, slot: usize) -> bool {
        self.spaces[self.current].linked[slot / 64] >> (slot % 64) & 1 != 0
    }

    /// Lets the user root of the current space link to the level-3 table of a slot.
    pub(super) fn link_user(&mut self, slot: usize, table: u32, host: &mut impl Host) {
        let space = &mut self.spaces[self.current];
        space.linked[slot / 64] |= 1 << (slot % 64);
        host.set(Table(space.user), Level::UserRoot, slot, Link::Own(Table(table)));
    }

    /// Takes a slot out of a user root.
    pub(super) fn unlink_user(&mut self, space: usize, slot: usize, host: &mut impl Host) {
        let space = &mut self.spaces[space];
        if space.linked[slot / 64] >> (slot % 64) & 1 != 0 {
            space.linked[slot / 64] &= !(1 << (slot % 64));
            host.set(Table(space.user), Level::UserRoot, slot, Link::Absent);
        }
    }

    /// Makes the tables that every kernel root must have for what the host keeps in them.
    pub(super) fn reach_reserved(&mut self, host: &mut impl Host) -> Result<(), OutOfTables> {
        const SLOT: u64 = 1 << shift(4);
        for range in self.reserved {
            for end in [range.start, range.end.wrapping_sub(1)] {
                let slot = end & !(SLOT - 1);
                let whole = range.start <= slot && range.end.wrapping_sub(1) >= slot | (SLOT - 1);
                if !whole && self.is_kernel(slot) {
                    self.reach_l3(slot, host)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a space in a free place.
    pub(super) fn create(&mut self, place: usize, cr3: u64, host: &mut impl Host) -> Result<(), OutOfTables> {
        let kernel = self.allocate(Level::KernelRoot, 0, host)?;
        let Ok(user) = self.allocate(Level::UserRoot, 0, host) else {
            self.release(kernel, host);
            return Err(OutOfTables);
        };
        let tag = Self::tag(self.mode, cr3);
        self.spaces[place] = Space { tag, root: cr3 & ADDRESS, kernel, user, ..Space::FREE };
        for (at, &table) in self.kernel.iter().enumerate().filter(|&(_, &table)| table != NONE) {
            host.set(Table(kernel), Level::KernelRoot, self.slots.first() + at, Link::Own(Table(table)));
        }
        Ok(())
    }

    /// What of CR3 tells a space.
    const fn tag(mode: Mode, cr3: u64) -> u16 {
        if mode.pcid { (cr3 & PCID) as u16 } else { 0 }
    }

    fn find(&self, is_it: impl Fn(&Space) -> bool) -> Option<usize> {
        self.spaces.iter().position(|space| is_it(space) && space.is_live())
    }

    /// The space not used for longest, the current one excepted.
    pub(super) fn oldest(&self) -> Option<usize> {
        self.oldest_that(|_| true)
    }

    fn oldest_that(&self, is_it: impl Fn(&Space) -> bool) -> Option<usize> {
        let others = (0..SPACES).filter(|&at| at != self.current && self.spaces[at].is_live());
        others.filter(|&at| is_it(&self.spaces[at])).min_by_key(|&at| self.spaces[at].used)
    }

    /// The space for a tag and a root. If it was not theirs, it is stale.
    fn obtain(&mut self, cr3: u64, host: &mut impl Host) -> usize {
        let tag = Self::tag(self.mode, cr3);
        let root = cr3 & ADDRESS;
        if let Some(last) = self.find(|space| space.tag == tag) {
            let space = &mut self.spaces[last];
            if space.root == root {
                return last;
            }
            (space.tag, space.stale) = (UNTAGGED, true);
        }
        let known = self.find(|space| space.root == root);
        let place = known.or_else(|| self.abandoned(host));
        let place = place.or_else(|| self.make_space(cr3, host)).or_else(|| self.oldest()).unwrap_or(self.current);
        (self.spaces[place].tag, self.spaces[place].stale) = (tag, true);
        place
    }

    /// Makes a space, if there is a place for it, and tables.
    fn make_space(&mut self, cr3: u64, host: &mut impl Host) -> Option<usize> {
        let free = self.spaces.iter().position(|space| !space.is_live())?;
        self.create(free, cr3, host).ok().map(|()| free)
    }

    /// The space, of those of processes that have ended, that was not used for longest. Their roots
    /// lead to nothing where they have led to something, because Linux clears a root before it is
    /// freed. Or they are no roots any more: all roots lead to the kernel by the same table.
    ///
    /// To be wrong costs no more than faults: a space is compared with its root before it is used.
    fn abandoned(&self, host: &impl Host) -> Option<usize> {
        /// As many of the kernel's slots are looked at. Linux has some five in use.
        const SOME: usize = 8;
        let entry = |root: u64, slot: usize| {
            let entry = host.guest_entry(root + 8 * slot as u64).filter(|entry| entry & PRESENT != 0);
            entry.map(|entry| entry & ADDRESS)
        };
        let slots = (self.slots.first()..).zip(&self.kernel).filter(|&(_, &table)| table != NONE);
        let mut known = slots.filter_map(|(slot, _)| Some((slot, entry(self.root(), slot)?)));
        let kernel: [_; SOME] = core::array::from_fn(|_| known.next());
        let is_root = |root| {
            let mut known = kernel.iter().flatten();
            kernel[0].is_none() || known.any(|&(slot, to)| entry(root, slot) == Some(to))
        };
        self.oldest_that(|space| {
            let present = self.memory.tables[space.kernel as usize].present;
            !is_root(space.root) || slots_in(present).all(|slot| entry(space.root, slot).is_none())
        })
    }

    /// Makes the tables at `cr3` the current ones. Those of the space are compared with the guest's
    /// unless they are kept; so are those of the kernel's part that are not global.
    pub(super) fn load(&mut self, cr3: u64, keep: bool, host: &mut impl Host) {
        let place = self.obtain(cr3, host);
        self.clock += 1;
        let root = cr3 & ADDRESS;
        let space = &mut self.spaces[place];
        let fresh = keep && !space.stale && space.root == root;
        *space = Space { root, stale: false, used: self.clock, ..*space };
        if !fresh {
            self.resync_space(place, host);
        }
        // In force before the kernel's part is compared: that may have to make room, and drops any
        // space but the current one.
        if core::mem::replace(&mut self.current, place) != place {
            self.switch(host);
        }
        if !fresh {
            self.resync_list(MIXED, host);
        }
    }

    /// Puts the current space's roots in force.
    pub(super) fn switch(&mut self, host: &mut impl Host) {
        let Space { kernel, user, .. } = self.spaces[self.current];
        host.commit();
        host.switch(Table(kernel), Table(user));
    }

    /// Has the spaces that a tag, or none, selects compared before they are used again; the current
    /// one at once.
    pub(super) fn flush_tag(&mut self, tag: Option<u16>, host: &mut impl Host) {
        for space in self.spaces.iter_mut().filter(|space| tag.is_none_or(|tag| space.tag == tag)) {
            space.stale = true;
        }
        let current = &mut self.spaces[self.current];
        if core::mem::take(&mut current.stale) {
            self.resync_space(self.current, host);
            self.resync_list(MIXED, host);
        }
    }

    /// Without identifiers there is one number: that of the current space.
    pub(super) fn retag(&mut self) {
        if !self.mode.pcid {
            for space in &mut self.spaces {
                space.tag = UNTAGGED;
            }
            self.spaces[self.current].tag = 0;
        }
    }

    /// Whether a tag is that of the current space.
    pub(super) fn is_current(&self, tag: u16) -> bool {
        self.spaces[self.current].tag == tag
    }

    /// Makes room: the tables that were filled least recently go. If there are many, a few go
    /// together, so that the real TLB is flushed once. Without such a table the space goes that was
    /// not used for longest. Whether any did. Tables that were touched after `since` stay: they are
    /// what room is made for.
    pub(super) fn make_room(&mut self, since: u64, host: &mut impl Host) -> bool {
        let in_use: u32 = self.statistics.tables.iter().sum();
        let some = (in_use / 16).clamp(1, 8);
        let mut dropped = 0;
        while dropped < some
            && let Some(table) = self.oldest_table(since)
        {
            self.drop_table(table, host);
            dropped += 1;
        }
        self.finish(host);
        match self.oldest() {
            Some(place) if dropped == 0 => self.evict_space(place, host),
            _ if dropped == 0 => return false,
            _ => {}
        }
        true
    }

    fn evict_space(&mut self, place: usize, host: &mut impl Host) {
        let Space { kernel, user, .. } = core::mem::replace(&mut self.spaces[place], Space::FREE);
        self.release(user, host);
        self.release(kernel, host);
        self.release_list(place, host);
        self.finish(host);
    }

    /// Lets user mode reach a slot of the current space, or not, as a leaf that is to be mapped
    /// there requires.
    pub(super) fn admit(&mut self, address: u64, leaf: Note, by_user: bool, table: u32, host: &mut impl Host) {
        let slot = index(address, 4);
        if !leaf.is_user() {
            self.info(table).supervisor = true;
            if self.is_linked(slot) {
                self.unlink_user(self.current, slot, host);
                self.lowered_below(table);
            }
        } else if !self.is_linked(slot) {
            if by_user && self.info(table).supervisor {
                self.drop_supervisor(table, host);
            }
            if !self.info(table).supervisor {
                self.link_user(slot, table, host);
            }
        }
    }

    /// Drops the leaves that user mode must not reach under a level-3 table of the current space.
    fn drop_supervisor(&mut self, top: u32, host: &mut impl Host) {
        let slot = self.info(top).base >> 39;
        let mut table = self.lists[self.current].first;
        while table != NONE {
            let info = *self.info(table);
            if info.supervisor && info.base >> 39 == slot {
                self.info(table).supervisor = false;
                self.drop_supervisor_leaves(table, host);
            }
            table = self.next(table);
        }
    }
}

/// The slots that a mask of a root's entries selects.
fn slots_in(mask: [u64; 8]) -> impl Iterator<Item = usize> {
    mask.into_iter().enumerate().flat_map(|(word, mut rest)| {
        core::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(64 * word + bit)
        })
    })
}
