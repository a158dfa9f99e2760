//! Shadow paging: a virtual TLB, tagged with process-context identifiers.
//!
//! The guest's page tables are plain memory that it writes with plain stores; the hardware reads
//! the host's. Between the two x86 itself leaves a gap that software must live with: a TLB may know
//! of a translation what was true at any time since it was last told to forget, and nothing else
//! (SDM 3, 4.10). The shadow is a TLB in that sense, only a large one. It learns when an access
//! faults, by walking the guest's tables, and it learns anew when the guest flushes. So no store of
//! the guest need be seen, and nothing of the guest's memory management need be known.
//!
//! What a TLB may forget it may also keep, if it still holds: a flush compares the shadow with the
//! guest's tables and changes what is different (`resync.rs`). That is why a process-context
//! identifier which goes from one process to another, as it does at each `fork`, keeps the pages
//! that the two have in common.
//!
//! Two things are simpler than hardware. The kernel's part
//! ([`guest::layout`](crate::guest::layout)) is shadowed once, for all spaces: its entries of the
//! guest's root have to be the same in all of them, as Linux's are. And leaves carry the rights of
//! their whole path; tables above allow everything, so that a right that is taken away above is
//! found by looking at leaves alone.
//!
//! Hosts that run the guest's kernel in ring 3 tell it from its programs by the root. So each space
//! has two, and the one for programs must not reach what the guest has withheld from them. In a
//! space's own part a level-3 table with such a leaf (Linux has them while it boots) is linked to
//! by the root for the kernel only.

mod entry;
mod fill;
mod host;
mod resync;
mod spaces;
mod tables;
mod walk;

pub use host::{BLOCK, Flush, Frame, Host, Leaf, Level, Linear, Link, Table};
pub use spaces::SPACES;
pub use tables::TableInfo;

use core::ops::Range;

use fill::Why;
use spaces::Space;
use tables::{LISTS, List, NONE, Stale};
use walk::Walk;

use crate::x86::paging::{Dead, entry::ADDRESS, index};

use crate::guest::layout::{Layout, Slots};

/// The guest's virtual paging mode. Four-level paging is always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are bits of control registers")]
pub struct Mode {
    /// CR4.PCIDE: the low 12 bits of CR3 are a process-context identifier.
    pub pcid: bool,
    /// CR4.PGE: entries marked global outlive a change of CR3.
    pub global: bool,
    /// CR0.WP: the kernel, too, cannot write to read-only pages.
    pub write_protect: bool,
    /// EFER.NXE: bit 63 of an entry forbids execution; otherwise it is reserved.
    pub no_execute: bool,
    /// MAXPHYADDR, as CPUID tells the guest: address bits from here on are reserved.
    pub physical_bits: u8,
}

/// How memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It is a write.
    pub write: bool,
    /// It is an access of user mode.
    pub user: bool,
    /// It is an instruction fetch.
    pub fetch: bool,
}

/// What became of a page fault of the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The page is mapped now: the instruction can be repeated.
    Filled,
    /// It was mapped already, and the real TLB did not know; it does now: the instruction can be
    /// repeated.
    Spurious,
    /// The guest's tables forbid it: its page fault, with hardware's error code (SDM 3, 4.7).
    Fault {
        /// The error code.
        error: u32,
    },
    /// The guest's tables allow it, but lead to a guest-physical address at which there is nothing.
    Nothing {
        /// The guest-physical address.
        address: u64,
    },
    /// Not even eviction has brought forth the tables that it takes.
    OutOfTables,
}

/// The host's tables do not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

/// An address that no table covers.
const NOWHERE: u64 = 1 << 63;

/// What is known of a table's entries.
pub type Notes = [u64; 512];

/// The memory that the algorithm works in, indexed by the number of a table: as long as the host's
/// pool, each.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Initially [`TableInfo::UNUSED`].
    pub tables: &'a mut [TableInfo],
    /// Initially zeros, or anything.
    pub notes: &'a mut [Notes],
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Tables in use now, by [`Level`].
    pub tables: [u32; 5],
    /// Pages filled because they were needed.
    pub fills: u64,
    /// Pages filled because they are neighbours of one that was.
    pub neighbours: u64,
    /// Links to ready-made tables.
    pub linear: u64,
    /// Faults for which there was no reason but the real TLB.
    pub spurious: u64,
    /// Tables compared with the guest's.
    pub resyncs: u64,
    /// Entries that were found to be different and changed or dropped.
    pub changes: u64,
    /// Tables of a space's own part dropped for want of tables.
    pub evictions: u64,
    /// Tables of the kernel's part dropped, or not made, for want of tables: pages that were mapped
    /// no longer are.
    pub kernel_evictions: u64,
}

/// The shadow of a guest's page tables.
#[derive(Debug)]
pub struct Shadow<'a> {
    memory: Memory<'a>,
    /// The kernel's part of the address space.
    slots: Slots,
    /// Addresses of the kernel's part where nothing is filled ahead of need.
    fixmap: Range<u64>,
    reserved: &'a [Range<u64>],
    /// The lowest address of these.
    reserved_from: u64,
    mode: Mode,
    spaces: [Space; SPACES],
    /// The space in force.
    current: usize,
    /// Counts loads of CR3.
    clock: u64,
    /// Counts what happens to tables.
    time: u64,
    /// The level-3 tables of the kernel's part, from its first slot on.
    kernel: [u32; 256],
    lists: [List; LISTS],
    stale: Stale,
    /// An address on the stack in use.
    held: u64,
    statistics: Statistics,
}

impl<'a> Shadow<'a> {
    /// A shadow of the tables at `cr3`, put in force. `layout` says which part of the address space
    /// is the kernel's.
    ///
    /// `reserved` are ranges of virtual addresses, multiples of 1 GB (the last may end at
    /// `u64::MAX`), that belong to the host: what it has put into tables for them is left alone,
    /// and an access there is the guest's fault. Where one is but a part of the 512 GB that an
    /// entry of a root covers, in the kernel's part, all kernel roots have the table below it.
    ///
    /// # Errors
    ///
    /// When the host has not even the tables to begin with.
    pub fn new(
        memory: Memory<'a>,
        layout: &Layout,
        reserved: &'a [Range<u64>],
        mode: Mode,
        cr3: u64,
        host: &mut impl Host,
    ) -> Result<Self, OutOfTables> {
        let mut shadow = Self {
            memory,
            slots: layout.kernel,
            fixmap: layout.fixmap(),
            reserved,
            reserved_from: reserved.iter().map(|range| range.start).min().unwrap_or(u64::MAX),
            mode,
            spaces: [Space::FREE; SPACES],
            current: 0,
            clock: 0,
            time: 0,
            kernel: [NONE; 256],
            lists: [List::EMPTY; LISTS],
            stale: Stale::Nothing,
            held: NOWHERE,
            statistics: Statistics::default(),
        };
        shadow.create(0, cr3, host)?;
        shadow.reach_reserved(host)?;
        shadow.switch(host);
        Ok(shadow)
    }

    /// What has happened so far.
    #[must_use]
    #[inline]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// A page fault of the hardware: fills the shadow, or says that it is the guest's own fault.
    ///
    /// `address` is canonical, as an address that a page fault reports is.
    pub fn fault(&mut self, address: u64, access: Access, host: &mut impl Host) -> Outcome {
        if self.is_reserved(address) {
            return Outcome::Fault { error: self.mode.error(access, Some(Dead::NotPresent)) };
        }
        match self.walk(address, access, host) {
            Err(error) => Outcome::Fault { error },
            Ok(_) if access.user && self.is_kernel(address) => Outcome::Fault { error: self.mode.error(access, None) },
            Ok(walk) => {
                let outcome = self.fill(address, Why::Fault(access), &walk, host);
                if access.write && walk.is_writable() && outcome == Outcome::Filled {
                    self.fill_below(address, host);
                }
                outcome
            }
        }
    }

    /// Maps a page of the kernel's where no fault can be taken, and its neighbours; of what is
    /// mapped it then goes last. `Ok(false)` if the guest's tables do not allow it.
    ///
    /// # Errors
    ///
    /// When not even eviction has brought forth the tables that it takes.
    pub fn require(&mut self, address: u64, write: bool, host: &mut impl Host) -> Result<bool, OutOfTables> {
        if self.is_reserved(address) {
            return Ok(false);
        }
        let Ok(walk) = self.walk(address, Access { write, user: false, fetch: false }, host) else { return Ok(false) };
        match self.fill(address, Why::Required, &walk, host) {
            Outcome::OutOfTables => Err(OutOfTables),
            Outcome::Filled => {
                self.fill_below(address, host);
                Ok(true)
            }
            outcome => Ok(outcome == Outcome::Spurious),
        }
    }

    /// Fills a page and its neighbours before they fault, if the guest's tables map it, and it has
    /// been used: after the guest has handled a fault. In the kernel's part whether it has been
    /// used or not, if it is memory. Whether it is mapped now: it is not if there is no table for
    /// it.
    pub fn prefill(&mut self, address: u64, host: &mut impl Host) -> bool {
        if self.is_reserved(address) {
            return false;
        }
        let outcome = if self.is_kernel(address) {
            match self.walk(address, Access { write: false, user: false, fetch: false }, host) {
                Ok(walk) if is_memory(walk.translate(address), host) => self.fill(address, Why::Ahead, &walk, host),
                _ => return false,
            }
        } else {
            match Walk::new(self.mode, self.root(), address, 1, host) {
                Ok(walk) if walk.is_accessed() && walk.is_user() => self.fill(address, Why::Ahead, &walk, host),
                _ => return false,
            }
        };
        self.statistics.kernel_evictions += u64::from(self.is_kernel(address) && outcome == Outcome::OutOfTables);
        matches!(outcome, Outcome::Filled | Outcome::Spurious)
    }

    /// The guest-physical address behind a virtual one, for an access that is emulated: the guest's
    /// accessed and dirty flags are set as the access would set them.
    ///
    /// # Errors
    ///
    /// The error code of the guest's page fault.
    pub fn translate(&self, address: u64, access: Access, host: &mut impl Host) -> Result<u64, u32> {
        self.walk(address, access, host).map(|walk| walk.translate(address))
    }

    /// Names the stack in use: the table that maps it is not evicted.
    pub const fn hold(&mut self, address: u64) {
        self.held = address;
    }

    /// Drops what maps a page of the kernel's part, a table of level 1 or the link to a ready-made
    /// one, as if the table were wanted for something else, and whoever holds it. This is for tests
    /// of those who keep pages mapped.
    pub fn evict(&mut self, address: u64, host: &mut impl Host) {
        let Some(parent) = self.find_l2(address).filter(|_| self.is_kernel(address) && !self.is_reserved(address))
        else {
            return;
        };
        let at = index(address, 2);
        if let Some(table) = self.child(parent, at) {
            self.drop_table(table, host);
        } else if self.note(parent, at).is_present() {
            self.lowered_below(parent);
            self.clear(parent, at, host);
            self.statistics.kernel_evictions += 1;
        }
        self.finish(host);
    }

    /// `mov` to CR3; `keep` is its bit 63 (SDM 3, 4.10.4.1), which is ignored in `cr3`.
    pub fn load_root(&mut self, cr3: u64, keep: bool, host: &mut impl Host) {
        self.load(cr3, keep, host);
        self.finish(host);
    }

    /// `invlpg`.
    pub fn flush_page(&mut self, address: u64, host: &mut impl Host) {
        self.resync_page(address, host);
        self.finish_page(address, host);
    }

    /// `invpcid` of type 0.
    pub fn flush_pcid_page(&mut self, pcid: u16, address: u64, host: &mut impl Host) {
        if self.is_current(pcid) { self.flush_page(address, host) } else { self.flush_pcid(pcid, host) }
    }

    /// `invpcid` of type 1.
    pub fn flush_pcid(&mut self, pcid: u16, host: &mut impl Host) {
        self.flush_tag(Some(pcid), host);
        self.finish(host);
    }

    /// `invpcid` of type 2 (`global`), or 3.
    pub fn flush_all(&mut self, global: bool, host: &mut impl Host) {
        self.flush_tag(None, host);
        if global {
            self.resync_list(tables::GLOBAL, host);
        }
        self.finish(host);
    }

    /// Changes the paging mode. If it is another, everything is compared with the guest's tables.
    pub fn set_mode(&mut self, mode: Mode, host: &mut impl Host) {
        if core::mem::replace(&mut self.mode, mode) != mode {
            self.retag();
            self.flush_all(true, host);
        }
    }

    /// Whether an address lies in the kernel's part.
    #[inline]
    #[must_use]
    pub fn is_kernel(&self, address: u64) -> bool {
        self.slots.contains(address)
    }

    #[inline]
    fn is_reserved(&self, address: u64) -> bool {
        address >= self.reserved_from && self.reserved.iter().any(|range| range.contains(&address))
    }

    /// Walks the guest's tables for an access, and sets the flags that it sets.
    #[inline]
    fn walk(&self, address: u64, access: Access, host: &mut impl Host) -> Result<Walk, u32> {
        let mut tries = 0;
        loop {
            let mut walk = Walk::new(self.mode, self.root(), address, 1, host)
                .map_err(|dead| self.mode.error(access, Some(dead)))?;
            walk.check(self.mode, access)?;
            tries += 1;
            // Flags that cannot be set, as in a table in read-only memory, do not stop hardware
            // either.
            if walk.mark(access.write || walk.is_writable_large() && self.is_kernel(address), host) || tries == 3 {
                return Ok(walk);
            }
        }
    }
}

/// Whether a guest-physical address is in memory of the guest's.
fn is_memory(address: u64, host: &impl Host) -> bool {
    matches!(host.frame(address & ADDRESS), Frame::Memory(_))
}

#[cfg(test)]
mod tests;
