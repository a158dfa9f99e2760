//! Soft tables: the shadow's page tables, as plain memory.
//!
//! A host that runs the guest as an ordinary program gives it no page tables: it maps pages when it
//! is asked to. There the tables that the shadow fills are read by no processor. What is in them is
//! mapped by the host when it is accessed, and a change drops what the host has mapped by the old
//! entry. So each table knows which space it belongs to, and each entry by which of the two address
//! spaces that a space of the guest's has it may have been mapped: the one in which the kernel
//! runs, or that of the programs. What is mapped, and how it is dropped, is the host's business.

use core::ops::Range;

use wedge::guest::layout::Layout;
use wedge::shadow::{BLOCK, Level, Link, Table};
use wedge::x86::paging::entry::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};
use wedge::x86::paging::{index, shift};

/// Marks an entry that leads to another table, whose number is where an address would be.
const OWN_TABLE: u64 = 1 << 9;
/// Marks a leaf that may be mapped where the kernel runs,
pub(super) const IN_KERNEL: u64 = 1 << 10;
/// or where the space's programs do.
pub(super) const IN_PROGRAM: u64 = 1 << 11;

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

/// Where an address leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) table: usize,
    pub(super) index: usize,
    pub(super) entry: u64,
    /// Of the table: 1, or 2 for a large page.
    pub(super) level: u8,
}

impl Found {
    /// The guest-physical address behind an address.
    pub(super) const fn physical(&self, address: u64) -> u64 {
        self.entry & ADDRESS | address & ((1 << shift(self.level)) - 1)
    }

    pub(super) const fn allows(&self, write: bool, fetch: bool) -> bool {
        (!write || self.entry & WRITABLE != 0) && (!fetch || self.entry & NO_EXECUTE == 0)
    }

    /// The leaves of the table around this one: a block, or a large page by itself.
    pub(super) const fn around(&self) -> Range<usize> {
        if self.level == 1 {
            let first = self.index & !(BLOCK - 1);
            first..first + BLOCK
        } else {
            self.index..self.index + 1
        }
    }
}

/// An entry that is not what it was, so that what was mapped by it has to go.
#[derive(Clone, Debug)]
pub(super) struct Replaced {
    /// The addresses that it covers.
    pub(super) range: Range<u64>,
    /// It may be mapped where the kernel runs,
    pub(super) in_kernel: bool,
    /// and where the programs of this space do.
    pub(super) in_programs_of: Option<usize>,
}

/// The tables.
#[derive(Debug)]
pub(super) struct SoftTables {
    pub(super) pool: &'static mut [Entries],
    information: &'static mut [Info],
    /// Tables that were never in use begin here,
    fresh: u32,
    /// and those that were.
    free: u32,
    layout: &'static Layout,
    /// The roots in force, and whose they are.
    roots: [u32; 2],
    space: u8,
    /// The spaces that there are,
    in_use: [bool; SPACES],
    /// and the one that a root was made for last.
    latest: u8,
}

impl SoftTables {
    /// With a pool of tables, and what is known of each.
    pub(super) fn new(pool: &'static mut [Entries], information: &'static mut [Info], layout: &'static Layout) -> Self {
        Self {
            pool,
            information,
            fresh: 0,
            free: u32::MAX,
            layout,
            roots: [0; 2],
            space: 0,
            in_use: [false; SPACES],
            latest: 0,
        }
    }

    /// The number of the current space.
    pub(super) fn space(&self) -> usize {
        self.space.into()
    }

    /// Whether an address is of the kernel's part, which all spaces share.
    pub(super) const fn is_kernels(&self, address: u64) -> bool {
        self.layout.kernel.contains(address)
    }

    /// The first address that a table covers.
    pub(super) fn base(&self, table: usize) -> u64 {
        self.information[table].base
    }

    #[inline]
    fn find(&self, root: u32, address: u64) -> Option<Found> {
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

    /// Where an address leads while the kernel runs.
    #[inline]
    pub(super) fn find_kernel(&self, address: u64) -> Option<Found> {
        self.find(self.roots[0], address)
    }

    /// Where an address leads for a program of the current space.
    pub(super) fn find_program(&self, address: u64) -> Option<Found> {
        self.find(self.roots[1], address).filter(|found| found.entry & USER != 0)
    }

    /// Whether there is nothing at an address of a program's.
    pub(super) fn lacks(&self, address: u64) -> bool {
        self.find(self.roots[1], address).is_none()
    }

    /// The space that a root was made for last.
    pub(super) const fn latest(&self) -> usize {
        self.latest as usize
    }

    /// The table that an entry leads to.
    pub(super) const fn table(entry: u64) -> Option<usize> {
        if entry & (PRESENT | OWN_TABLE) == PRESENT | OWN_TABLE { Some((entry >> 12) as usize) } else { None }
    }

    /// Whether an entry is a leaf.
    pub(super) const fn is_leaf(entry: u64) -> bool {
        entry & PRESENT != 0 && entry & OWN_TABLE == 0
    }

    /// An empty table for `level` that will cover addresses from `address` on; `None` if there is
    /// none.
    pub(super) fn allocate(&mut self, level: Level, address: u64) -> Option<Table> {
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

    /// The space that a root is made for: those for the kernel and for programs are made together.
    fn owner_of_root(&mut self, level: Level) -> Option<u8> {
        if level == Level::KernelRoot {
            let free = self.in_use.iter().position(|in_use| !in_use)?;
            self.in_use[free] = true;
            self.latest = u8::try_from(free).ok()?;
        }
        Some(self.latest)
    }

    /// Takes a table back. The space that is none any more, if it was its root.
    pub(super) fn release(&mut self, table: Table, level: Level) -> Option<usize> {
        let info = &mut self.information[table.0 as usize];
        let owner = usize::from(info.owner);
        info.next = self.free;
        self.free = table.0;
        let in_use = self.in_use.get_mut(owner).filter(|_| level == Level::KernelRoot)?;
        *in_use = false;
        Some(owner)
    }

    /// Changes an entry. What was mapped by it, if that has to go.
    pub(super) fn set(&mut self, table: Table, level: Level, at: usize, link: Link) -> Option<Replaced> {
        let number = table.0 as usize;
        let old = self.pool[number][at];
        let new = encoded(link);
        if let Link::Own(child) = link {
            let is_kernels = is_root(level) && (self.layout.kernel.first()..self.layout.kernel.end()).contains(&at);
            self.information[child.0 as usize].owner =
                if is_kernels { EVERYBODY } else { self.information[number].owner };
        }
        self.pool[number][at] = new;
        if old & PRESENT == 0 {
            return None;
        }
        if only_raises(old, new) {
            self.pool[number][at] |= old & (IN_KERNEL | IN_PROGRAM);
            return None;
        }
        Some(self.replaced(number, level, at, old))
    }

    fn replaced(&self, table: usize, level: Level, at: usize, old: u64) -> Replaced {
        let Info { base, owner, .. } = self.information[table];
        let size = 1 << shift(number(level));
        let range = base + at as u64 * size..base + (at as u64 + 1) * size;
        let is_table = old & OWN_TABLE != 0;
        let is_here = owner == EVERYBODY || owner == self.space && level != Level::UserRoot;
        let in_kernel = is_here && (is_table || old & IN_KERNEL != 0);
        let owner = Some(usize::from(owner)).filter(|owner| *owner < SPACES && level != Level::KernelRoot);
        let in_programs_of = owner.filter(|_| is_table || old & IN_PROGRAM != 0);
        Replaced { range, in_kernel, in_programs_of }
    }

    /// Makes these the roots in force. The space that was the current one before.
    pub(super) fn switch(&mut self, kernel: Table, user: Table) -> usize {
        let space = self.information[kernel.0 as usize].owner;
        self.roots = [kernel.0, user.0];
        core::mem::replace(&mut self.space, space).into()
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

const fn is_root(level: Level) -> bool {
    matches!(level, Level::KernelRoot | Level::UserRoot)
}

/// A link as it is in a soft table.
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
