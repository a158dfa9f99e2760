//! The soft tables ([`soft`](crate::host::soft)) of a guest in a process, and what is mapped by
//! them.
//!
//! What Linux has mapped by an entry that has changed goes: in this process, where the guest's
//! kernel runs with the current space beside it, at the end of the operation; in the process of a
//! space's programs, before that runs next. The marks of an entry are no more than a hint: a range
//! that is not mapped may be unmapped.
//!
//! [`mappings`](super::mappings) says how many mappings there may be. Where programs run in this
//! process, too, [`fast`](super::fast) has what is different.

use core::ops::Range;

use wedge::guest::layout::Layout;
use wedge::shadow::{BLOCK, Flush, Frame, Host, Level, Link, Table};
use wedge::vm::{self, Peephole, Reached};
use wedge::x86::paging::entry::{ADDRESS, NO_EXECUTE, USER, WRITABLE};
use wedge::x86::paging::{PAGE, index, shift};

use super::mappings::{Budget, Mapping, Rights, Stale, joined};
use super::memory::{Memory, OWN};
use super::orders::Orders;
use super::resident::Resident;
use super::rewritten::Copies;
use super::system::{self, Answer};
use crate::host::seen::{Seen, exchange};
use crate::host::soft::{Entries, Found, IN_KERNEL, IN_PROGRAM, Info, SPACES, SoftTables};

/// What the process of a space's programs has mapped.
#[derive(Clone, Debug)]
pub(super) struct StubMappings {
    budget: Budget,
    stale: Stale,
    /// Pages that are mapped for certain: the top of the stack of a 32-bit program.
    stack: Option<[u64; 2]>,
}

impl StubMappings {
    /// Nothing.
    pub(super) const NONE: Self = Self { budget: Budget::new(0), stale: Stale::NONE, stack: None };
}

/// The tables, and what is mapped by them.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) memory: Memory,
    pub(super) soft: SoftTables,
    /// The addresses of the wedge's window.
    window: Range<u64>,
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
            soft: SoftTables::new(pool, information, layout),
            window: layout.window(),
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

    pub(super) fn mapping(&self, found: Found, at: usize, executable: bool) -> Option<Mapping> {
        let entry = self.soft.pool[found.table][at];
        let size = 1_u64 << shift(found.level);
        SoftTables::is_leaf(entry).then(|| Mapping {
            address: self.soft.base(found.table) + at as u64 * size,
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
        self.map_found(self.soft.find_kernel(address), address, write, fetch)
    }

    /// The same, of an address that was found to lead somewhere.
    pub(super) fn map_found(&mut self, found: Option<Found>, address: u64, write: bool, fetch: bool) -> Answer<bool> {
        let Some(found) = found.filter(|found| found.allows(write, fetch)) else {
            return Ok(false);
        };
        // The kernel has no business in a program's text, unless that runs here. What it maps for
        // itself by single pages, as in Linux's fixmap, it often unmaps at once.
        let is_users = found.entry & USER != 0 && !self.soft.is_kernels(address);
        let leaves = if is_users { found.around() } else { found.index..found.index + 1 };
        let mut all = joined(leaves.filter_map(|at| self.mapping(found, at, self.fast || !is_users)));
        let Some(mapping) = all.find(|mapping| address.wrapping_sub(mapping.address) < mapping.length) else {
            return Ok(false);
        };
        drop(all);
        let shift = shift(found.level);
        let first = index(mapping.address, found.level);
        for entry in &mut self.soft.pool[found.table][first..first + (mapping.length >> shift) as usize] {
            *entry |= IN_KERNEL;
        }
        let mapping = mapping.from(self.lowest).filter(|mapping| mapping.address <= address);
        let mapping = mapping.ok_or(system::Errno(linux_raw_sys::errno::EPERM))?;
        self.carry_out(&mapping)?;
        let is_text = is_users && mapping.rights.executable && !mapping.rights.writable;
        let rewritten = if is_text { self.map_rewritten(&mapping) } else { Ok(()) };
        // Behind that, for to make room all may have gone; and whatever it came to, for the mapping
        // is there.
        if !self.soft.is_kernels(address) {
            self.has_own = true;
            self.resident[self.soft.space()].add(&mapping);
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
        let window = self.window.clone();
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
        let programs = &mut self.programs[self.soft.space()];
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
        let Some(found) = self.soft.find_program(address) else {
            return Ok(());
        };
        let is_wanted = |at: usize| at == found.index || self.soft.pool[found.table][at] & IN_PROGRAM == 0;
        let is_users = |at: usize| self.soft.pool[found.table][at] & USER != 0;
        let leaves = found.around().filter(|at| is_wanted(*at) && is_users(*at));
        let mappings = self.mappings(found, leaves);
        self.order_mappings(found, &mappings, address, orders)
    }

    /// The same, behind it, for the page or two in which the top of a stack is, unless it is known
    /// that they are mapped.
    pub(super) fn order_stack(&mut self, ends: [u64; 2], orders: &mut Orders) {
        let pages = ends.map(|address| address & !(PAGE - 1));
        if self.programs[self.soft.space()].stack == Some(pages) {
            return;
        }
        self.programs[self.soft.space()].stack = Some(pages);
        // Where thread areas are set, nothing stays.
        let mut known = !pages.contains(&self.lowest);
        for address in &pages[usize::from(pages[0] == pages[1])..] {
            let found = self.soft.find_program(*address);
            known &= found.is_some_and(|found| {
                let mappings = self.mappings(found, core::iter::once(found.index));
                self.order_mappings(found, &mappings, *address, orders).is_ok()
            });
        }
        if !known {
            self.programs[self.soft.space()].stack = None;
        }
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
        let programs = &mut self.programs[self.soft.space()];
        if !mappings.iter().flatten().all(|_| programs.budget.take()) {
            orders.unmap(&everything, self.lowest);
            programs.budget.reset();
            programs.stack = None;
        }
        let mut refused = false;
        for mapping in mappings.iter().flatten() {
            let first = index(mapping.address, found.level);
            for entry in
                &mut self.soft.pool[found.table][first..first + (mapping.length >> shift(found.level)) as usize]
            {
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
        let programs = &mut self.programs[self.soft.space()];
        programs.stale = Stale::NONE;
        programs.budget.reset();
        programs.stack = None;
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
        self.soft.allocate(level, address)
    }

    fn release(&mut self, table: Table, level: Level) {
        if let Some(space) = self.soft.release(table, level) {
            self.programs[space].stale.add(0..self.users_end);
        }
    }

    fn set(&mut self, table: Table, level: Level, at: usize, link: Link) {
        let Some(replaced) = self.soft.set(table, level, at, link) else { return };
        if replaced.in_kernel {
            self.stale.add(replaced.range.clone());
        }
        if let Some(space) = replaced.in_programs_of {
            self.programs[space].stale.add(replaced.range);
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
        let last = self.soft.switch(kernel, user);
        if last != self.soft.space() {
            self.change_space(last);
        }
    }
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
        self.soft.find_kernel(address).is_some_and(|found| found.allows(write, false))
    }

    fn is_mapped(&mut self, address: u64, write: bool) -> bool {
        self.is_known(address, write)
    }

    /// By its physical address: whether Linux has mapped it at the guest's does not matter.
    fn load(&self, from: Reached, bytes: &mut [u8]) {
        let address = from.address();
        let found =
            self.soft.find_kernel(address).is_some_and(|found| self.memory.load(found.physical(address), bytes));
        assert!(found, "{from:x?} is not mapped");
    }

    fn store(&mut self, to: Reached, bytes: &[u8]) {
        let address = to.address();
        let found = self.soft.find_kernel(address);
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
