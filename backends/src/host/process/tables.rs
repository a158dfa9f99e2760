//! The shadow's page tables, as plain memory: soft tables.
//!
//! No processor reads them. What is in them is mapped by Linux when it is accessed, and a change
//! drops what Linux has mapped by the old entry: in this process, where the guest's kernel runs
//! with the current space beside it, at the end of the operation; in the process of a space's
//! programs, before that runs next. So each table knows which space it belongs to, and each entry
//! by which of the two it may have been mapped. That is no more than a hint: a range that is not
//! mapped may be unmapped.
//!
//! [`mappings`](super::mappings) says how many mappings there may be. Where programs run in this
//! process, too, [`fast`](super::fast) has what is different.

use core::ops::Range;

use wedge::guest::layout::Layout;
use wedge::shadow::{BLOCK, Flush, Frame, Host, Level, Link, Table};
use wedge::vm::{self, Peephole, Reached};
use wedge::x86::paging::entry::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};
use wedge::x86::paging::{PAGE, index, shift};

use super::mappings::{Budget, Mapping, Rights, Stale, joined};
use super::memory::{Memory, OWN, exchange};
use super::orders::Orders;
use super::resident::Resident;
use super::rewritten::Copies;
use super::system::{self, Answer};

/// Marks an entry that leads to another table, whose number is where an address would be.
const OWN_TABLE: u64 = 1 << 9;
/// Marks a leaf that may be mapped in this process,
pub(super) const IN_KERNEL: u64 = 1 << 10;
/// or in that of the space's programs.
const IN_PROGRAM: u64 = 1 << 11;

/// As many spaces as there may be at a time: those that the shadow keeps, and one that it makes.
pub(super) const SPACES: usize = wedge::shadow::SPACES + 1;

/// The owner of tables that are part of every space.
const EVERYBODY: u8 = u8::MAX;

/// A soft table.
pub(super) type Entries = [u64; 512];

/// What is known of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    /// The first address that it covers.
    base: u64,
    owner: u8,
    /// The free table behind this one, which is free.
    next: u32,
}

impl Info {
    pub(super) const UNUSED: Self = Self { base: 0, owner: EVERYBODY, next: u32::MAX };
}

/// What the process of a space's programs has mapped.
#[derive(Clone, Debug)]
pub(super) struct StubMappings {
    in_use: bool,
    budget: Budget,
    stale: Stale,
    /// Pages that are mapped for certain: the top of the stack of a 32-bit program.
    stack: Option<[u64; 2]>,
}

impl StubMappings {
    /// Nothing.
    pub(super) const NONE: Self = Self { in_use: false, budget: Budget::new(0), stale: Stale::NONE, stack: None };
}

/// Where an address leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) table: usize,
    index: usize,
    pub(super) entry: u64,
    /// Of the table: 1, or 2 for a large page.
    pub(super) level: u8,
}

impl Found {
    /// The guest-physical address behind an address.
    pub(super) const fn physical(&self, address: u64) -> u64 {
        self.entry & ADDRESS | address & ((1 << shift(self.level)) - 1)
    }

    const fn allows(&self, write: bool, fetch: bool) -> bool {
        (!write || self.entry & WRITABLE != 0) && (!fetch || self.entry & NO_EXECUTE == 0)
    }
}

/// The tables, and what is mapped by them.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) memory: Memory,
    pub(super) pool: &'static mut [Entries],
    information: &'static mut [Info],
    /// Tables that were never in use begin here,
    fresh: u32,
    /// and those that were.
    free: u32,
    layout: &'static Layout,
    /// The roots in force, and whose they are.
    pub(super) roots: [u32; 2],
    pub(super) space: u8,
    /// The space that a root was made for last.
    latest: u8,
    /// Mappings in this process, and those of them that must go.
    pub(super) budget: Budget,
    stale: Stale,
    /// Whether any of them are of the current space's own part.
    pub(super) has_own: bool,
    programs: &'static mut [StubMappings; SPACES],
    /// What spaces have mapped of their own part in this process,
    pub(super) resident: &'static mut [Resident; SPACES],
    /// and how often they have changed.
    pub(super) switches: u32,
    /// The lowest address that Linux maps anything at,
    pub(super) lowest: u64,
    /// and the first that is not a program's.
    pub(super) users_end: u64,
    /// Programs run in this process, too.
    pub(super) fast: bool,
    /// Their text that has been changed.
    pub(super) copies: Option<Copies>,
}

/// What the tables are made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) memory: Memory,
    pub(super) pool: &'static mut [Entries],
    pub(super) information: &'static mut [Info],
    pub(super) layout: &'static Layout,
    /// How many mappings a process may have.
    pub(super) mappings: u32,
    pub(super) lowest: u64,
    pub(super) fast: bool,
    pub(super) copies: Option<Copies>,
    pub(super) resident: &'static mut [Resident; SPACES],
    pub(super) programs: &'static mut [StubMappings; SPACES],
}

impl Tables {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { memory, pool, information, layout, mappings, lowest, fast, copies, resident, programs } = parts;
        let budget = Budget::new(mappings);
        for programs in programs.iter_mut() {
            programs.budget = budget;
        }
        Self {
            memory,
            pool,
            information,
            fresh: 0,
            free: u32::MAX,
            layout,
            roots: [0; 2],
            space: 0,
            latest: 0,
            budget,
            stale: Stale::NONE,
            has_own: false,
            programs,
            lowest,
            users_end: (layout.kernel.first() as u64) << shift(4),
            fast,
            copies,
            resident,
            switches: 0,
        }
    }

    /// The number of the current space.
    pub(super) fn space(&self) -> usize {
        self.space.into()
    }

    #[inline]
    pub(super) fn find(&self, root: u32, address: u64) -> Option<Found> {
        let mut table = root as usize;
        let mut level = 4;
        loop {
            let at = index(address, level);
            let entry = self.pool[table][at];
            if entry & PRESENT == 0 {
                return None;
            }
            if entry & OWN_TABLE == 0 {
                return Some(Found { table, index: at, entry, level });
            }
            (table, level) = ((entry >> 12) as usize, level - 1);
        }
    }

    #[inline]
    pub(super) fn find_kernel(&self, address: u64) -> Option<Found> {
        self.find(self.roots[0], address)
    }

    /// The leaves of a table around one: a block, or a large page by itself.
    fn around(found: Found) -> Range<usize> {
        if found.level == 1 {
            let first = found.index & !(BLOCK - 1);
            first..first + BLOCK
        } else {
            found.index..found.index + 1
        }
    }

    pub(super) fn mapping(&self, found: Found, at: usize, executable: bool) -> Option<Mapping> {
        let entry = self.pool[found.table][at];
        let size = 1_u64 << shift(found.level);
        (entry & PRESENT != 0 && entry & OWN_TABLE == 0).then(|| Mapping {
            address: self.information[found.table].base + at as u64 * size,
            length: size,
            physical: entry & ADDRESS,
            rights: Rights { writable: entry & WRITABLE != 0, executable: executable && entry & NO_EXECUTE == 0 },
        })
    }

    /// Maps an address in this process, with what follows on it, if the tables allow the access
    /// there. Whether they do.
    ///
    /// # Errors
    ///
    /// When Linux does not map it.
    pub(super) fn map(&mut self, address: u64, write: bool, fetch: bool) -> Answer<bool> {
        self.map_found(self.find_kernel(address), address, write, fetch)
    }

    /// The same, of an address that was found to lead somewhere.
    pub(super) fn map_found(&mut self, found: Option<Found>, address: u64, write: bool, fetch: bool) -> Answer<bool> {
        let Some(found) = found.filter(|found| found.allows(write, fetch)) else {
            return Ok(false);
        };
        // The kernel has no business in a program's text, unless that runs here. What it maps for itself by single pages,
        // as in Linux's fixmap, it often unmaps at once.
        let is_users = found.entry & USER != 0 && !self.layout.kernel.contains(address);
        let leaves = if is_users { Self::around(found) } else { found.index..found.index + 1 };
        let mut all = joined(leaves.filter_map(|at| self.mapping(found, at, self.fast || !is_users)));
        let Some(mapping) = all.find(|mapping| address.wrapping_sub(mapping.address) < mapping.length) else {
            return Ok(false);
        };
        drop(all);
        let shift = shift(found.level);
        let first = index(mapping.address, found.level);
        for entry in &mut self.pool[found.table][first..first + (mapping.length >> shift) as usize] {
            *entry |= IN_KERNEL;
        }
        let mapping = mapping.from(self.lowest).filter(|mapping| mapping.address <= address);
        let mapping = mapping.ok_or(system::Errno(linux_raw_sys::errno::EPERM))?;
        self.carry_out(&mapping)?;
        let is_text = is_users && mapping.rights.executable && !mapping.rights.writable;
        let rewritten = if is_text { self.map_rewritten(&mapping) } else { Ok(()) };
        // Behind that, for to make room all may have gone; and whatever it came to, for the mapping is
        // there.
        if !self.layout.kernel.contains(address) {
            self.has_own = true;
            self.resident[usize::from(self.space)].add(&mapping);
        }
        rewritten.map(|()| true)
    }

    fn carry_out(&mut self, mapping: &Mapping) -> Answer {
        let map = |mapping: &Mapping, memory: Memory| {
            let of = Some((memory.file(), mapping.physical));
            // SAFETY: addresses of the guest's: the shadow does not touch those of the wedge.
            unsafe { system::map(mapping.address, mapping.length, mapping.protection(), of) }
        };
        debug_assert!(!OWN.contains(&mapping.address));
        if self.budget.take() {
            let mapped = map(mapping, self.memory);
            if mapped != Err(system::Errno(linux_raw_sys::errno::ENOMEM)) {
                return mapped;
            }
        }
        self.drop_all();
        self.budget.take();
        map(mapping, self.memory)
    }

    /// Unmaps all that this process has of the guest's.
    pub(super) fn drop_all(&mut self) {
        let window = self.layout.window();
        for range in [self.lowest..window.start, window.end..OWN.start, OWN.end..(1 << 47) - PAGE] {
            // SAFETY: nothing but the guest's is there.
            let _ = unsafe { system::unmap(range.start, range.end - range.start) };
        }
        self.budget.reset();
        self.stale = Stale::NONE;
        self.has_own = false;
    }

    /// Unmaps a range in this process, if it may have any.
    pub(super) fn unmap(&mut self, range: Range<u64>) {
        if !self.budget.is_used() {
            return;
        }
        let start = range.start.max(self.lowest);
        if !self.budget.take() {
            return self.drop_all();
        }
        // SAFETY: addresses of the guest's, of tables that are the shadow's.
        if start < range.end && unsafe { system::unmap(start, range.end - start) }.is_err() {
            self.drop_all();
        }
    }

    /// What the programs' process of the current space has to do before it runs: what is stale
    /// goes; an address that is wanted is mapped, with its neighbours, if the tables allow that.
    /// `Err` if it lies where Linux maps nothing.
    pub(super) fn orders(&mut self, wanted: Option<u64>, orders: &mut Orders) -> Answer {
        let programs = &mut self.programs[usize::from(self.space)];
        let everything = self.lowest..self.users_end;
        if !programs.stale.is_empty() {
            programs.stack = None;
            match programs.stale.take() {
                Some((ranges, count)) if ranges[..count].iter().all(|_| programs.budget.take()) => {
                    ranges[..count].iter().for_each(|range| orders.unmap(range, self.lowest));
                }
                _ => {
                    orders.unmap(&everything, self.lowest);
                    programs.budget.reset();
                }
            }
        }
        let Some(address) = wanted else { return Ok(()) };
        let Some(found) = self.find(self.roots[1], address).filter(|found| found.entry & USER != 0) else {
            return Ok(());
        };
        let is_wanted = |at: usize| at == found.index || self.pool[found.table][at] & IN_PROGRAM == 0;
        let is_users = |at: usize| self.pool[found.table][at] & USER != 0;
        let leaves = Self::around(found).filter(|at| is_wanted(*at) && is_users(*at));
        let mappings = self.mappings(found, leaves);
        self.order_mappings(found, &mappings, address, orders)
    }

    /// The same, behind it, for the page or two in which the top of a stack is, unless it is known
    /// that they are mapped.
    pub(super) fn order_stack(&mut self, ends: [u64; 2], orders: &mut Orders) {
        let pages = ends.map(|address| address & !(PAGE - 1));
        if self.programs[usize::from(self.space)].stack == Some(pages) {
            return;
        }
        self.programs[usize::from(self.space)].stack = Some(pages);
        // Where thread areas are set, nothing stays.
        let mut known = !pages.contains(&self.lowest);
        for address in &pages[usize::from(pages[0] == pages[1])..] {
            let found = self.find(self.roots[1], *address).filter(|found| found.entry & USER != 0);
            known &= found.is_some_and(|found| {
                let mappings = self.mappings(found, core::iter::once(found.index));
                self.order_mappings(found, &mappings, *address, orders).is_ok()
            });
        }
        if !known {
            self.programs[usize::from(self.space)].stack = None;
        }
    }

    /// Whether the tables have nothing at an address of a program's.
    pub(super) fn lacks(&self, address: u64) -> bool {
        self.find(self.roots[1], address).is_none()
    }

    /// What there is to map of leaves of a table, of which there are no more than in a block.
    fn mappings(&self, found: Found, leaves: impl Iterator<Item = usize>) -> [Option<Mapping>; BLOCK] {
        let mut all = [None; BLOCK];
        let mappings = joined(leaves.filter_map(|at| self.mapping(found, at, true)));
        all.iter_mut().zip(mappings).for_each(|(place, mapping)| *place = Some(mapping));
        all
    }

    /// Has leaves of a table mapped in the programs' process of the current space. `Err` if one is
    /// wanted that lies where Linux maps nothing.
    fn order_mappings(
        &mut self,
        found: Found,
        mappings: &[Option<Mapping>; BLOCK],
        address: u64,
        orders: &mut Orders,
    ) -> Answer {
        let everything = self.lowest..self.users_end;
        let programs = &mut self.programs[usize::from(self.space)];
        if !mappings.iter().flatten().all(|_| programs.budget.take()) {
            orders.unmap(&everything, self.lowest);
            programs.budget.reset();
            programs.stack = None;
        }
        let mut refused = false;
        for mapping in mappings.iter().flatten() {
            let first = index(mapping.address, found.level);
            for entry in &mut self.pool[found.table][first..first + (mapping.length >> shift(found.level)) as usize] {
                *entry |= IN_PROGRAM;
            }
            match mapping.from(self.lowest) {
                Some(mapping) => orders.map(&mapping, self.memory.file().0),
                None => refused |= address.wrapping_sub(mapping.address) < mapping.length,
            }
        }
        if refused { Err(system::Errno(linux_raw_sys::errno::EPERM)) } else { Ok(()) }
    }

    /// The programs' process of the current space is new: it has nothing.
    pub(super) fn begin(&mut self) {
        let programs = &mut self.programs[usize::from(self.space)];
        programs.stale = Stale::NONE;
        programs.budget.reset();
        programs.stack = None;
    }

    /// An entry is not what it was.
    fn replaced(&mut self, table: usize, level: Level, at: usize, old: u64) {
        let Info { base, owner, .. } = self.information[table];
        let size = 1 << shift(number(level));
        let range = base + at as u64 * size..base + (at as u64 + 1) * size;
        let is_table = old & OWN_TABLE != 0;
        let is_here = owner == EVERYBODY || owner == self.space && level != Level::UserRoot;
        if is_here && (is_table || old & IN_KERNEL != 0) {
            self.stale.add(range.clone());
        }
        if let Some(programs) = self.programs.get_mut(usize::from(owner))
            && (is_table || old & IN_PROGRAM != 0)
            && level != Level::KernelRoot
        {
            programs.stale.add(range);
        }
    }

    /// The rights of a leaf as they are in a soft table.
    fn encoded(link: Link) -> u64 {
        let rights = |writable: bool, user: bool, executable: bool| {
            PRESENT
                | if writable { WRITABLE } else { 0 }
                | if user { USER } else { 0 }
                | if executable { 0 } else { NO_EXECUTE }
        };
        match link {
            Link::Absent => 0,
            Link::Leaf(leaf) => leaf.address | rights(leaf.writable, leaf.user, leaf.executable),
            Link::Linear(of) => of.address | LARGE | rights(of.writable, of.user, of.executable),
            Link::Own(table) => u64::from(table.0) << 12 | OWN_TABLE | PRESENT,
        }
    }

    /// The space that a root is made for: those for the kernel and for programs are made together.
    fn owner_of_root(&mut self, level: Level) -> Option<u8> {
        if level == Level::KernelRoot {
            let free = self.programs.iter().position(|programs| !programs.in_use)?;
            self.programs[free].in_use = true;
            self.latest = free as u8;
        }
        Some(self.latest)
    }
}

/// The number of a level.
const fn number(level: Level) -> u8 {
    match level {
        Level::L1 => 1,
        Level::L2 => 2,
        Level::L3 => 3,
        Level::KernelRoot | Level::UserRoot => 4,
    }
}

impl Host for Tables {
    /// A fault of a program's costs several changes between processes.
    const GROUP: usize = BLOCK;

    #[inline]
    fn guest_entry(&self, address: u64) -> Option<u64> {
        self.memory.word(address).map(|word| word.load(core::sync::atomic::Ordering::Relaxed))
    }

    fn set_guest_bits(&mut self, address: u64, old: u64, new: u64) -> bool {
        self.memory.word(address).is_some_and(|word| exchange(word, old, new))
    }

    fn frame(&self, address: u64) -> Frame {
        self.memory.frame(address & ADDRESS)
    }

    fn linear(&self, address: u64) -> bool {
        address.checked_add(2 << 20).is_some_and(|end| end <= self.memory.length())
    }

    fn allocate(&mut self, level: Level, address: u64) -> Option<Table> {
        let table = match self.free {
            u32::MAX if (self.fresh as usize) < self.pool.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            u32::MAX => return None,
            table => {
                self.free = self.information[table as usize].next;
                table
            }
        };
        let owner = if is_root(level) { self.owner_of_root(level)? } else { EVERYBODY };
        self.pool[table as usize] = [0; 512];
        self.information[table as usize] = Info { base: address, owner, next: u32::MAX };
        Some(Table(table))
    }

    fn release(&mut self, table: Table, level: Level) {
        let info = &mut self.information[table.0 as usize];
        if level == Level::KernelRoot
            && let Some(programs) = self.programs.get_mut(usize::from(info.owner))
        {
            programs.in_use = false;
            programs.stale.add(0..self.users_end);
        }
        info.next = self.free;
        self.free = table.0;
    }

    fn set(&mut self, table: Table, level: Level, at: usize, link: Link) {
        let number = table.0 as usize;
        let old = self.pool[number][at];
        let new = Self::encoded(link);
        if let Link::Own(child) = link {
            let is_kernels = is_root(level) && (self.layout.kernel.first()..self.layout.kernel.end()).contains(&at);
            self.information[child.0 as usize].owner =
                if is_kernels { EVERYBODY } else { self.information[number].owner };
        }
        self.pool[number][at] = new;
        if old & PRESENT == 0 {
            return;
        }
        if only_raises(old, new) {
            self.pool[number][at] |= old & (IN_KERNEL | IN_PROGRAM);
        } else {
            self.replaced(number, level, at, old);
        }
    }

    fn commit(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        match self.stale.take() {
            Some((ranges, count)) => ranges[..count].iter().for_each(|range| self.unmap(range.clone())),
            None => self.drop_all(),
        }
    }

    /// What an entry has mapped is unmapped when it is replaced.
    fn flush(&mut self, _: Flush) {}

    fn switch(&mut self, kernel: Table, user: Table) {
        let space = self.information[kernel.0 as usize].owner;
        let last = core::mem::replace(&mut self.space, space);
        self.roots = [kernel.0, user.0];
        if last != space {
            self.change_space(last);
        }
    }
}

const fn is_root(level: Level) -> bool {
    matches!(level, Level::KernelRoot | Level::UserRoot)
}

/// Whether what has been mapped by an old leaf is allowed by a new one.
const fn only_raises(old: u64, new: u64) -> bool {
    const RIGHTS: u64 = WRITABLE | USER | NO_EXECUTE;
    const HINTS: u64 = IN_KERNEL | IN_PROGRAM;
    let same = (old ^ new) & !(RIGHTS | HINTS) == 0;
    let writable = old & !new & WRITABLE == 0;
    let user = old & !new & USER == 0;
    let executable = new & !old & NO_EXECUTE == 0;
    same && writable && user && executable && old & OWN_TABLE == 0
}

impl Peephole for Tables {
    fn open(&mut self, pages: &[u64], offset: usize, length: usize) -> Option<&mut [u8]> {
        self.memory.open(pages, offset, length)
    }
}

impl vm::Memory for Tables {
    type Physical = Memory;

    fn physical(&self) -> Memory {
        self.memory
    }

    fn is_known(&self, address: u64, write: bool) -> bool {
        self.find_kernel(address).is_some_and(|found| found.allows(write, false))
    }

    fn is_mapped(&mut self, address: u64, write: bool) -> bool {
        self.is_known(address, write)
    }

    /// By its physical address: whether Linux has mapped it at the guest's does not matter.
    fn load(&self, from: Reached, bytes: &mut [u8]) {
        let address = from.address();
        let found = self.find_kernel(address).is_some_and(|found| self.memory.load(found.physical(address), bytes));
        assert!(found, "{from:x?} is not mapped");
    }

    fn store(&mut self, to: Reached, bytes: &[u8]) {
        let address = to.address();
        let found = self.find_kernel(address);
        let stored = found.is_some_and(|found| self.memory.store(found.physical(address), bytes));
        assert!(stored, "{to:x?} is not mapped");
    }

    fn has_physical(&self, address: u64, length: usize) -> bool {
        self.memory.has(address, length)
    }

    fn load_physical(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.load(address, bytes)
    }

    fn store_physical(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.memory.store(address, bytes)
    }

    fn refused(&self) -> u64 {
        0
    }
}
