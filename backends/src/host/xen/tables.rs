//! The shadow's page tables: pages of the pool, written by hypercalls.
//!
//! To Xen they are page tables like any others: it checks each entry, counts what it refers to, and
//! has them read-only. So they are read where they lie, and written by `mmu_update`, in batches.
//! They get their type when they are first linked, and keep it while they are; one that is unlinked
//! is an ordinary page again, full of entries that mean nothing, and is cleared before it is used
//! anew.
//!
//! Entries of the kernel's part lack the user bit: Xen adds it (everything of a 64-bit PV guest
//! runs in ring 3), but takes such an entry for one of the guest's kernel and does not make it
//! global in the TLB. With the bit it does, for a page of user mode is in both roots; a page of the
//! kernel must not survive the change to user mode's (`xen/arch/x86/pv/mm.h`, `adjust_guest_l1e`).

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use wedge::guest::layout::Layout;
use wedge::shadow::{Flush, Frame, Host, Leaf, Level, Linear, Link, Table};
use wedge::vm::{Memory, Reached, is_in_page};
use wedge::x86::paging::{entry, index};

use super::hypercall;
use super::interface::{DOMID_IO, DOMID_SELF, MmuExtended, MmuUpdate, mmuext};
use super::memory::{LINEAR, LINEAR_SLOT, LOW, Memory as DomainMemory, pointer};
use crate::runtime::{PAGE, say, window};

/// Changes that are carried out by one hypercall.
const BATCH: usize = 128;

/// The pool, and what is to be written into it.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) memory: &'static DomainMemory,
    /// Pseudo-physical frame of the first table.
    first: u64,
    count: u32,
    /// Tables that were never in use.
    fresh: u32,
    /// Those that were: a list through their numbers.
    free: &'static mut [u32],
    free_count: usize,
    queue: [MmuUpdate; BATCH],
    queued: usize,
    /// Where the guest's kernel and the window are.
    layout: &'static Layout,
    /// Whether devices may be mapped.
    devices: bool,
    /// Machine address of the page that stands for whatever is not there.
    nothing: u64,
    /// What the linear mapping and the window hang on: machine addresses of tables.
    linear_pointers: u64,
    window_directory: u64,
    /// The roots in force.
    kernel_root: u64,
    user_root: u64,
    /// Pages of the kernel's part that were found mapped since an entry was last replaced or
    /// dropped.
    mapped: Mapped,
    /// Entries that Xen has refused.
    refused: u64,
}

/// A few pages, by the low bits of their numbers: the descriptor tables, the task-state segment and
/// the stack, which each delivery looks at. A word is the page's address, with a bit that says so
/// and one that says that it can be written.
#[derive(Debug)]
struct Mapped {
    pages: [u64; 16],
    is_empty: bool,
}

impl Mapped {
    const NONE: Self = Self { pages: [0; 16], is_empty: true };

    #[inline]
    fn has(&self, address: u64, write: bool) -> bool {
        let page = self.pages[(address / PAGE % 16) as usize];
        let known = address & !(PAGE - 1) | 1 | u64::from(write) << 1;
        page == known || page == known | 2
    }

    fn add(&mut self, address: u64, writable: bool) {
        self.pages[(address / PAGE % 16) as usize] = address & !(PAGE - 1) | 1 | u64::from(writable) << 1;
        self.is_empty = false;
    }

    fn forget(&mut self) {
        if !self.is_empty {
            *self = Self::NONE;
        }
    }
}

/// The parts that [`Tables`] are made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) memory: &'static DomainMemory,
    pub(super) frames: Range<u64>,
    pub(super) free: &'static mut [u32],
    pub(super) layout: &'static Layout,
    pub(super) devices: bool,
    pub(super) nothing: u64,
}

impl Tables {
    /// All of a pool.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { memory, frames, free, layout, devices, nothing } = parts;
        let count = u32::try_from(frames.end - frames.start).unwrap_or(0);
        Self {
            memory,
            first: frames.start,
            count,
            fresh: 0,
            free,
            free_count: 0,
            queue: [MmuUpdate::default(); BATCH],
            queued: 0,
            layout,
            devices,
            nothing,
            linear_pointers: memory.boot_table(LINEAR, 3),
            window_directory: memory.boot_table(window(), 2),
            kernel_root: 0,
            user_root: 0,
            mapped: Mapped::NONE,
            refused: 0,
        }
    }

    fn machine(&self, table: Table) -> u64 {
        self.memory.machine_address(self.first + u64::from(table.0))
    }

    /// Where the wedge sees so many bytes of the guest's memory, if they are, and lie in one page.
    fn place(&self, address: u64, length: usize) -> Option<u64> {
        self.memory.place(address).filter(|_| is_in_page(address, length))
    }

    /// An entry as it is in force.
    fn read(table: u64, index: usize) -> u64 {
        // SAFETY: a table in use: of the pool, or of the linear mapping, which all are mapped there
        // to be read.
        unsafe { pointer::<u64>(LINEAR + table + 8 * index as u64).read_volatile() }
    }

    /// Whether the level-1 entry at a machine address is the one that is in force for a virtual
    /// address.
    fn is_leaf_of(&self, place: u64, address: u64) -> bool {
        let mut table = self.kernel_root;
        for level in [4, 3, 2] {
            let found = Self::read(table, index(address, level));
            if found & entry::PRESENT == 0 {
                return false;
            }
            table = found & entry::ADDRESS;
        }
        table + 8 * index(address, 1) as u64 == place
    }

    fn queue(&mut self, update: MmuUpdate) {
        if self.queued == BATCH {
            self.carry_out();
        }
        self.queue[self.queued] = update;
        self.queued += 1;
    }

    fn carry_out(&mut self) {
        let mut start = 0;
        let end = core::mem::take(&mut self.queued);
        while start < end {
            // SAFETY: the shadow holds the guest's own memory only; the wedge's parts of the
            // address space are not in it.
            match unsafe { hypercall::mmu_update(&self.queue[start..end], DOMID_SELF) } {
                Ok(()) => return,
                Err((done, refused)) => {
                    let update = self.queue[start + done];
                    self.refuse(update, refused);
                    start += done + 1;
                }
            }
        }
    }

    /// Xen will not have an entry: what is there then reads as nothing, and keeps what is written
    /// to itself.
    fn refuse(&mut self, update: MmuUpdate, refused: hypercall::Refused) {
        self.refused += 1;
        // All of the first, then fewer and fewer: the wedge port has the number of all.
        if self.refused <= 8 || self.refused.is_power_of_two() {
            let count = self.refused;
            say!("Xen refuses {:#x} as a page-table entry, error {} ({count} so far)", update.value, refused.0);
        }
        let value = update.value & !entry::ADDRESS | self.nothing;
        // SAFETY: as in `carry_out`.
        let _ = unsafe { hypercall::mmu_update(&[MmuUpdate { value, ..update }], DOMID_SELF) };
    }

    fn leaf(leaf: Leaf) -> u64 {
        let mut value = leaf.address | entry::PRESENT | entry::ACCESSED_AND_DIRTY | u64::from(leaf.cache & 3) << 3;
        value |= if leaf.writable { entry::WRITABLE } else { 0 };
        value |= if leaf.user { entry::USER } else { 0 };
        value | if leaf.executable { 0 } else { entry::NO_EXECUTE }
    }

    /// A ready-made table in a directory: the entry there has the rights.
    fn linear_entry(&self, linear: Linear) -> u64 {
        let pointers = Self::read(self.linear_pointers, index(linear.address, 3)) & entry::ADDRESS;
        let table = Self::read(pointers, index(linear.address, 2)) & entry::ADDRESS;
        let rights = if linear.writable { entry::WRITABLE } else { 0 };
        let execute = if linear.executable { 0 } else { entry::NO_EXECUTE };
        table | entry::TABLE & !entry::WRITABLE | rights | execute
    }

    /// Has three empty tables, of levels 3 to 1, lead to a page, to be read and executed, from each
    /// address that is a multiple of 64 KB.
    pub(super) fn lead_everywhere(&mut self, tables: [Table; 3], page: u64) {
        let [pointers, directory, table] = tables.map(|table| self.machine(table));
        let leaf = page | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
        for (table, step, value) in
            [(table, 16, leaf), (directory, 1, table | entry::TABLE), (pointers, 1, directory | entry::TABLE)]
        {
            for index in (0..512).step_by(step) {
                self.queue(MmuUpdate { address: table + 8 * index, value });
            }
        }
        self.carry_out();
    }

    /// Gives user mode's root a table of level 3, where it has nothing, or takes it away; the real
    /// TLB is the caller's.
    pub(super) fn set_users_pointers(&mut self, table: Table, address: u64, present: bool) {
        let value = if present { self.machine(table) | entry::TABLE } else { 0 };
        self.queue(MmuUpdate { address: self.user_root + 8 * index(address, 4) as u64, value });
        self.carry_out();
    }

    /// What the wedge keeps in the tables that cover its own addresses.
    fn furnish(&mut self, table: Table, level: Level, address: u64) {
        let own = match level {
            Level::KernelRoot => Some((LINEAR_SLOT, self.linear_pointers)),
            Level::L3 if index(address, 4) == self.layout.window_index(4) => {
                Some((self.layout.window_index(3), self.window_directory))
            }
            _ => None,
        };
        if let Some((index, to)) = own {
            let address = self.machine(table) + 8 * index as u64;
            self.queue(MmuUpdate { address, value: to | entry::TABLE });
        }
    }

    /// Has Xen take a page for a table, whether it is in force or not; or no longer.
    pub(super) fn pin(&self, table: Table, command: u32) {
        let operation = MmuExtended { command, argument: self.machine(table) / PAGE, argument2: 0 };
        // SAFETY: what it holds is in order, and it is not in force.
        if let Err(refused) = unsafe { hypercall::mmuext(&[operation]) } {
            say!("Xen refuses to pin or unpin a table, error {}", refused.0);
        }
    }

    /// Empties a table that was in use. It has no type now, so its page may be written: by Xen.
    fn clear(&mut self, table: Table) {
        let operation = MmuExtended { command: mmuext::CLEAR_PAGE, argument: self.machine(table) / PAGE, argument2: 0 };
        // SAFETY: nobody else uses the page.
        if let Err(refused) = unsafe { hypercall::mmuext(&[operation]) } {
            say!("Xen refuses to clear a page table, error {}", refused.0);
        }
    }
}

impl Memory for Tables {
    type Physical = &'static DomainMemory;

    fn physical(&self) -> &'static DomainMemory {
        self.memory
    }

    #[expect(clippy::inline_always, reason = "a comparison, which each access makes")]
    #[inline(always)]
    fn is_known(&self, address: u64, write: bool) -> bool {
        self.mapped.has(address, write)
    }

    /// Any address may come, also one that a program has put into RSP. The entries for those of
    /// Xen's, and for those that are not canonical, lead to tables that are not shown to be read.
    fn is_mapped(&mut self, address: u64, write: bool) -> bool {
        if address >> 47 != 0 && address < LINEAR {
            return false;
        }
        let mut table = self.kernel_root;
        let mut writable = true;
        for level in (1..=4).rev() {
            let found = Self::read(table, index(address, level));
            if found & entry::PRESENT == 0 {
                return false;
            }
            writable &= found & entry::WRITABLE != 0;
            table = found & entry::ADDRESS;
        }
        if self.layout.kernel.contains(address) {
            self.mapped.add(address, writable);
        }
        writable || !write
    }

    #[expect(clippy::inline_always, reason = "the lengths are constants at the caller")]
    #[inline(always)]
    fn load(&self, from: Reached, bytes: &mut [u8]) {
        // SAFETY: `Reached` says that it is mapped; the guest's memory is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(pointer::<u8>(from.address()), bytes.as_mut_ptr(), bytes.len()) };
    }

    #[expect(clippy::inline_always, reason = "the lengths are constants at the caller")]
    #[inline(always)]
    fn store(&mut self, to: Reached, bytes: &[u8]) {
        // SAFETY: as above; to be written, too.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer::<u8>(to.address()), bytes.len()) };
    }

    fn has_physical(&self, address: u64, length: usize) -> bool {
        self.place(address, length).is_some()
    }

    fn load_physical(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: the guest's memory, by `place`; it is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(pointer::<u8>(place), bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    fn store_physical(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: as above; the linear mapping shows it to be written, for it is no page table of
        // Xen's.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer::<u8>(place), bytes.len()) };
        true
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}

impl Host for Tables {
    #[expect(clippy::inline_always, reason = "four of them are a walk, and each fault walks")]
    #[inline(always)]
    fn guest_entry(&self, address: u64) -> Option<u64> {
        let place = self.memory.place(address)?;
        // SAFETY: the guest's memory, of which any value may come.
        Some(unsafe { pointer::<u64>(place).read_volatile() })
    }

    #[inline]
    fn guest_entries(&self, address: u64) -> [u64; 16] {
        match self.memory.place(address) {
            // SAFETY: as above; a multiple of 128 bytes does not leave the page.
            Some(place) => unsafe { pointer::<[u64; 16]>(place).read_volatile() },
            None => [0; 16],
        }
    }

    fn set_guest_bits(&mut self, address: u64, old: u64, new: u64) -> bool {
        let Some(place) = self.memory.place(address) else { return false };
        // SAFETY: as above; the address is a multiple of 8.
        let entry = unsafe { &*pointer::<AtomicU64>(place) };
        entry.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn frame(&self, address: u64) -> Frame {
        let page = address & entry::ADDRESS;
        if self.memory.is_guests(page) {
            Frame::Memory(page)
        } else if page < LOW {
            Frame::Memory(self.memory.machine_address(page / PAGE))
        } else if self.devices && !self.memory.is_domains(page) {
            Frame::Device(page)
        } else {
            Frame::Substitute(self.nothing)
        }
    }

    fn linear(&self, address: u64) -> bool {
        self.memory.has_guests_piece(address)
    }

    fn allocate(&mut self, level: Level, address: u64) -> Option<Table> {
        let table = if self.fresh < self.count {
            self.fresh += 1;
            Table(self.fresh - 1)
        } else {
            self.free_count = self.free_count.checked_sub(1)?;
            let table = Table(self.free[self.free_count]);
            self.carry_out();
            self.clear(table);
            table
        };
        self.furnish(table, level, address);
        if matches!(level, Level::KernelRoot | Level::UserRoot) {
            self.carry_out();
            self.pin(table, mmuext::PIN_L4_TABLE);
        }
        Some(table)
    }

    fn release(&mut self, table: Table, level: Level) {
        if matches!(level, Level::KernelRoot | Level::UserRoot) {
            self.carry_out();
            self.pin(table, mmuext::UNPIN_TABLE);
        }
        self.free[self.free_count] = table.0;
        self.free_count += 1;
    }

    #[inline]
    fn set(&mut self, table: Table, _: Level, index: usize, link: Link) {
        let value = match link {
            Link::Absent => 0,
            Link::Leaf(leaf) => Self::leaf(leaf),
            Link::Own(to) => self.machine(to) | entry::TABLE,
            Link::Linear(linear) => self.linear_entry(linear),
        };
        let place = self.machine(table);
        if Self::read(place, index) & entry::PRESENT != 0 {
            self.mapped.forget();
        }
        let update = MmuUpdate { address: place + 8 * index as u64, value };
        match link {
            Link::Leaf(Leaf { device: true, .. }) => {
                self.carry_out();
                // SAFETY: as in `carry_out`; a device's memory is nobody's.
                if let Err((_, refused)) = unsafe { hypercall::mmu_update(&[update], DOMID_IO) } {
                    self.refuse(update, refused);
                }
            }
            _ => self.queue(update),
        }
    }

    fn commit(&mut self) {
        self.carry_out();
    }

    /// One leaf costs less by its address: Xen need not map the table for it, and flushes it by the
    /// way.
    fn commit_page(&mut self, address: u64, flush: bool) {
        if self.queued != 1 || !self.is_leaf_of(self.queue[0].address, address) {
            self.carry_out();
            if flush {
                hypercall::flush_page(address);
            }
            return;
        }
        self.queued = 0;
        let (page, value) = (address & !(PAGE - 1), self.queue[0].value);
        // SAFETY: as in `carry_out`.
        let done = unsafe {
            if flush { hypercall::update_va_mapping(page, value) } else { hypercall::write_va_mapping(page, value) }
        };
        if let Err(refused) = done {
            self.refuse(self.queue[0], refused);
            hypercall::flush_page(address);
        }
    }

    fn flush(&mut self, what: Flush) {
        match what {
            Flush::Page(address) => hypercall::flush_page(address),
            Flush::All => hypercall::flush_all(),
        }
    }

    fn switch(&mut self, kernel: Table, user: Table) {
        self.carry_out();
        self.kernel_root = self.machine(kernel);
        self.user_root = self.machine(user);
        let roots = [(mmuext::NEW_BASEPTR, kernel), (mmuext::NEW_USER_BASEPTR, user)];
        let operations =
            roots.map(|(command, table)| MmuExtended { command, argument: self.machine(table) / PAGE, argument2: 0 });
        // SAFETY: the window and the linear mapping are in every kernel root.
        if let Err(refused) = unsafe { hypercall::mmuext(&operations) } {
            panic!("Xen refuses the roots of an address space, error {}", refused.0);
        }
    }
}
