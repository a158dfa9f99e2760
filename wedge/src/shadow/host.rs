//! What the algorithm needs of a host, and the words in which it speaks to it.

/// How many neighbouring entries are compared together, and in the kernel's part filled: a power of
/// two, 32 at most.
pub const BLOCK: usize = 16;

/// The number of one of the host's page-table pages, below the length of
/// [`Memory`](super::Memory)'s slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table(pub u32);

/// What a page-table page is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Level 1: its entries map 4 KB each.
    L1,
    /// Level 2: 2 MB each.
    L2,
    /// Level 3: 1 GB each.
    L3,
    /// Level 4, in force while the guest's kernel runs: a space's own part, and the kernel's part,
    /// which all share.
    KernelRoot,
    /// Level 4, in force while the guest's programs run: a space's own part only.
    UserRoot,
}

/// What a page of guest-physical memory is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Memory of the guest, at this machine address.
    Memory(u64),
    /// A device's registers or memory, at this machine address.
    Device(u64),
    /// Neither: memory at this machine address stands for it.
    Substitute(u64),
    /// Neither: the page cannot be mapped.
    Nothing,
}

/// An entry that maps a 4 KB page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are bits of a page-table entry")]
pub struct Leaf {
    /// The page's machine address.
    pub address: u64,
    /// Whether it is a device's.
    pub device: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether user mode may use it. If not, the user root does not reach it.
    pub user: bool,
    /// Whether it can be executed.
    pub executable: bool,
    /// The guest's memory type: PWT, PCD and PAT as bits 0 to 2, an index into the guest's PAT (SDM
    /// 3, 12.12.3).
    pub cache: u8,
}

/// An entry that maps 2 MB of memory through a level-1 table that the host has ready, which maps it
/// with all rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The guest-physical address of the 2 MB.
    pub address: u64,
    /// Whether they can be written.
    pub writable: bool,
    /// Whether user mode may use them.
    pub user: bool,
    /// Whether they can be executed.
    pub executable: bool,
}

/// An entry of a shadow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not present.
    Absent,
    /// In a level-1 table: a page.
    Leaf(Leaf),
    /// Above level 1: a shadow table of the next level, with all rights.
    Own(Table),
    /// In a level-2 table: a ready-made level-1 table, with these rights.
    Linear(Linear),
}

/// What the real TLB must forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The page at this virtual address.
    Page(u64),
    /// All pages of the current space, and of the kernel's part.
    All,
}

/// The host: the guest's memory, and page tables that the hardware reads.
///
/// Guest tables are read and written at guest-physical addresses; whatever the guest has put there
/// may come.
pub trait Host {
    /// How many neighbouring pages of a space's own part are filled together if they have been used
    /// before: a power of two, [`BLOCK`] at most. The more a fault costs the more of them pay.
    const GROUP: usize = 2;

    /// The page-table entry at a guest-physical address (a multiple of 8), `None` if there is no
    /// memory.
    fn guest_entry(&self, address: u64) -> Option<u64>;

    /// The [`BLOCK`] entries from a guest-physical address (a multiple of their size) on; without
    /// memory, zeros.
    fn guest_entries(&self, address: u64) -> [u64; BLOCK] {
        let mut next = address;
        [(); BLOCK].map(|()| {
            let entry = self.guest_entry(next).unwrap_or(0);
            next += 8;
            entry
        })
    }

    /// Replaces a guest's entry if it still is `old`; `false` if it is not (SDM 3, 4.8: accessed
    /// and dirty flags are set by locked operations).
    fn set_guest_bits(&mut self, address: u64, old: u64, new: u64) -> bool;

    /// What the page at a guest-physical address is.
    fn frame(&self, address: u64) -> Frame;

    /// Whether there is a ready-made level-1 table for the 2 MB at this guest-physical address (a
    /// multiple of 2 MB).
    fn linear(&self, address: u64) -> bool;

    /// A table for `level` that will cover virtual memory from `address` on; `None` when the pool
    /// is empty.
    ///
    /// It is empty but for what the host keeps in it for itself: entries in the ranges that are
    /// reserved ([`Shadow::new`](super::Shadow::new)).
    fn allocate(&mut self, level: Level, address: u64) -> Option<Table>;

    /// Takes a table back, with whatever is in it. Nothing links to it once what is queued has been
    /// carried out.
    fn release(&mut self, table: Table, level: Level);

    /// Queues a change to a table's entry.
    fn set(&mut self, table: Table, level: Level, index: usize, link: Link);

    /// Carries out what is queued. Called before `flush`, `switch`, and the end of each operation
    /// that has queued anything.
    fn commit(&mut self);

    /// Carries out what is queued, and makes the real TLB forget a page or not. Often nothing is
    /// queued but that page's leaf, for which the host may have a shorter way.
    fn commit_page(&mut self, address: u64, flush: bool) {
        self.commit();
        if flush {
            self.flush(Flush::Page(address));
        }
    }

    /// Makes the real TLB forget. It may forget more.
    fn flush(&mut self, what: Flush);

    /// Makes these the roots in force. What the real TLB has of any space's own part goes.
    fn switch(&mut self, kernel: Table, user: Table);
}
