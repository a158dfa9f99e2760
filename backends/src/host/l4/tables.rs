//! The soft tables ([`soft`](crate::host::soft)) of a guest on seL4, and what is mapped by them.
//!
//! There is one address space for the guest's kernel, with the wedge, and one for the programs of
//! each space. A mapping is a copy of the capability for a frame: it is made when an access has
//! come to nothing, and deleted when the entry that it was made by is replaced. So each leaf of a
//! soft table has two numbers, of the copies that it is mapped by in the kernel's address space and
//! in that of programs. The kernel's shows the current space's own part as far as the kernel has
//! accessed it; that goes with the next change of spaces.

use wedge::shadow::{Flush, Frame, Host, Level, Link, Table};
use wedge::vm::{self, Peephole, Reached};
use wedge::x86::paging::PAGE;
use wedge::x86::paging::entry::{ADDRESS, WRITABLE};

use super::abi::abi;
use super::devices::Devices;
use super::floating::{STUB, Stubs};
use super::kernel::{Slot, rights};
use super::memory::{Memory, OWN, pointer};
use super::objects::{Failure, NONE, Objects, refused};
use super::programs::Programs;
use super::vspace::{Attributes, Structures, VSpace};
use crate::host::seen::{Seen, exchange};
use crate::host::soft::{Found, IN_KERNEL, IN_PROGRAM, Replaced, SPACES, SoftTables};

/// The numbers of the copies that a leaf is mapped by: where the kernel runs, and where programs
/// do. 0 is none.
pub(super) type Copies = [u32; 2];

/// How pages are cached (`seL4_X86_VMAttributes`).
const MEMORY: u64 = 0;
const UNCACHED: u64 = 2;

const KERNEL: usize = 0;
const PROGRAM: usize = 1;

/// Where two pages show what is to be rewritten.
const PEEPHOLE: u64 = OWN.start + (2 << 40);

/// Slots for copies.
#[derive(Debug)]
pub(super) struct CopySlots {
    /// The first, in a node; whole nodes follow.
    first: Slot,
    free: u32,
    next: &'static mut [u32],
}

impl CopySlots {
    const IN_NODE: u32 = 4096;

    /// As many as there are words. 0 is none of them.
    pub(super) fn new(objects: &mut Objects, next: &'static mut [u32]) -> Result<Self, Failure> {
        let mut first = 0;
        for node in 0..(next.len() as u32).div_ceil(Self::IN_NODE) {
            let slots = objects.slots(Self::IN_NODE.into())?;
            if node == 0 {
                first = slots;
            }
        }
        let mut free = NONE;
        for number in (1..next.len()).rev() {
            next[number] = free;
            free = number as u32;
        }
        Ok(Self { first, free, next })
    }

    fn slot(&self, number: u32) -> Slot {
        self.first + (u64::from(number / Self::IN_NODE) << 16) + u64::from(number % Self::IN_NODE)
    }

    fn take(&mut self) -> Option<u32> {
        let number = self.free;
        (number != NONE).then(|| {
            self.free = self.next[number as usize];
            number
        })
    }

    fn give_back(&mut self, number: u32) {
        self.next[number as usize] = self.free;
        self.free = number;
    }
}

/// A leaf of the current space's own part that is mapped where the kernel runs.
#[derive(Clone, Copy, Debug)]
struct Resident {
    table: u32,
    index: u32,
}

/// Beyond that, all go when one more is mapped.
const RESIDENT: usize = 128;

/// The tables, and what is mapped by them.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) memory: Memory,
    pub(super) soft: SoftTables,
    pub(super) objects: Objects,
    pub(super) structures: Structures,
    pub(super) programs: Programs,
    devices: &'static mut Devices,
    /// The address space of the wedge and the guest's kernel: its own part, and that of programs,
    /// whose tables come and go.
    space: VSpace,
    users: VSpace,
    slots: CopySlots,
    copies: &'static mut [[Copies; 512]],
    /// How many copies there are of each table's leaves.
    counts: &'static mut [u16],
    resident: [Resident; RESIDENT],
    residents: usize,
    /// The roots of programs, by space.
    roots: [u32; SPACES],
    /// The copies that are at the peephole.
    peephole: [u32; 2],
    /// The space whose thread must stay: it has the registers of a program.
    pub(super) kept: Option<usize>,
    /// Spaces that have got another thread, as bits.
    pub(super) renewed: u128,
    /// What programs' threads save and load their registers by,
    pub(super) stubs: Stubs,
    /// and the copies by which each space has it mapped; 0 is none.
    stub_copies: [[u32; 2]; SPACES],
}

/// What the tables are made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) memory: Memory,
    pub(super) soft: SoftTables,
    pub(super) objects: Objects,
    pub(super) structures: Structures,
    pub(super) programs: Programs,
    pub(super) devices: &'static mut Devices,
    pub(super) space: VSpace,
    pub(super) slots: CopySlots,
    pub(super) copies: &'static mut [[Copies; 512]],
    pub(super) counts: &'static mut [u16],
    pub(super) stubs: Stubs,
}

impl Tables {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { memory, soft, objects, structures, programs, devices, space, slots, copies, counts, stubs } = parts;
        Self {
            memory,
            soft,
            objects,
            structures,
            programs,
            devices,
            space,
            users: space,
            slots,
            copies,
            counts,
            resident: [Resident { table: 0, index: 0 }; RESIDENT],
            residents: 0,
            roots: [NONE; _],
            peephole: [0; 2],
            kept: None,
            renewed: 0,
            stubs,
            stub_copies: [[0; 2]; SPACES],
        }
    }

    /// Maps an address where the kernel runs, if the tables allow the access. Whether they do.
    pub(super) fn map(&mut self, address: u64, write: bool, fetch: bool) -> Result<bool, Failure> {
        let Some(found) = self.soft.find_kernel(address).filter(|found| found.allows(write, fetch)) else {
            return Ok(false);
        };
        let is_programs = !self.soft.is_kernels(address);
        if is_programs && self.residents == RESIDENT {
            self.leave_space()?;
        }
        self.map_leaf(found, KERNEL)?;
        // Behind what may have to make room, and empties the list.
        if is_programs {
            self.resident[self.residents] = Resident { table: found.table as u32, index: found.index as u32 };
            self.residents += 1;
        }
        Ok(true)
    }

    /// Maps an address where the programs of the current space run, if the tables allow anything
    /// there. Whether they do.
    pub(super) fn map_program(&mut self, address: u64) -> Result<bool, Failure> {
        let Some(found) = self.soft.find_program(address) else { return Ok(false) };
        let leaves = found.around();
        for index in leaves {
            let entry = self.soft.pool[found.table][index];
            let is_wanted = index == found.index || entry & IN_PROGRAM == 0;
            if is_wanted && SoftTables::is_leaf(entry) && entry & wedge::x86::paging::entry::USER != 0 {
                self.map_leaf(Found { index, entry, ..found }, PROGRAM)?;
            }
        }
        Ok(true)
    }

    /// Maps what an address of the kernel's leads to at another, for good. Whether it leads
    /// anywhere.
    pub(super) fn map_once_more(&mut self, address: u64, at: u64) -> Result<bool, Failure> {
        let Some(found) = self.soft.find_kernel(address) else { return Ok(false) };
        let frame = self.memory.frame_slot(found.entry & ADDRESS).ok_or(Failure::NoMemory)?;
        let number = self.copy_of(frame)?;
        let how = Attributes { rights: rights::READ_AND_WRITE, cache: 0 };
        let mapped = self.map_copy(self.slots.slot(number), at & !(PAGE - 1), KERNEL, how)?;
        mapped.ok_or(Failure::NoMemory)?;
        Ok(true)
    }

    /// Whether an address is mapped where the kernel runs, or where programs of the current space
    /// do.
    pub(super) fn is_mapped_in(&self, address: u64, user: bool) -> bool {
        let found = if user { self.soft.find_program(address) } else { self.soft.find_kernel(address) };
        found.is_some_and(|found| self.copies[found.table][found.index][usize::from(user)] != 0)
    }

    /// Maps a leaf in one of the two address spaces, anew if it is mapped already.
    fn map_leaf(&mut self, found: Found, which: usize) -> Result<(), Failure> {
        self.unmap_leaf(found.table, found.index, which)?;
        let machine = found.entry & ADDRESS;
        let (frame, cache) = match self.memory.frame_slot(machine) {
            Some(frame) => (frame, MEMORY),
            None => (self.devices.frame(machine, &mut self.objects)?.ok_or(Failure::NoMemory)?, UNCACHED),
        };
        let address = self.soft.base(found.table) + found.index as u64 * PAGE;
        let writable = found.entry & WRITABLE != 0;
        let how = Attributes { rights: if writable { rights::READ_AND_WRITE } else { rights::READ }, cache };
        let number = self.copy_of(frame)?;
        let slot = self.slots.slot(number);
        while self.map_copy(slot, address, which, how)?.is_none() {
            self.make_room()?;
        }
        self.copies[found.table][found.index][which] = number;
        self.counts[found.table] += 1;
        self.soft.pool[found.table][found.index] |= if which == KERNEL { IN_KERNEL } else { IN_PROGRAM };
        Ok(())
    }

    fn map_copy(&mut self, slot: Slot, address: u64, which: usize, how: Attributes) -> Result<Option<()>, Failure> {
        if which == PROGRAM {
            return self.map_copy_in(self.soft.space(), slot, address, how);
        }
        let Self { objects, structures, space, users, soft, .. } = self;
        let part = if soft.is_kernels(address) { space } else { users };
        structures.map(objects, part, slot, address, how)
    }

    /// Maps a copy where the programs of a space run. `None` if there is no memory for that.
    fn map_copy_in(&mut self, number: usize, slot: Slot, address: u64, how: Attributes) -> Result<Option<()>, Failure> {
        let Self { objects, structures, programs, .. } = self;
        if programs.get(number).is_none() && programs.make(number, objects, structures)?.is_none() {
            return Ok(None);
        }
        match programs.get(number) {
            Some(program) => structures.map(objects, &mut program.vspace, slot, address, how),
            None => Ok(None),
        }
    }

    /// A copy of a frame's capability.
    fn copy_of(&mut self, frame: Slot) -> Result<u32, Failure> {
        let number = loop {
            match self.slots.take() {
                Some(number) => break number,
                None => self.drop_others()?,
            }
        };
        self.objects.copy(frame, self.slots.slot(number), rights::ALL).map_err(refused("a copy of a frame"))?;
        Ok(number)
    }

    /// Deletes the copy by which a leaf is mapped.
    fn unmap_leaf(&mut self, table: usize, index: usize, which: usize) -> Result<(), Failure> {
        let number = core::mem::take(&mut self.copies[table][index][which]);
        if number == 0 {
            return Ok(());
        }
        self.counts[table] -= 1;
        self.soft.pool[table][index] &= !if which == KERNEL { IN_KERNEL } else { IN_PROGRAM };
        self.drop_copy(number)
    }

    /// Unmaps a copy, and deletes it: seL4 5.0.0 unmaps only what the last capability is deleted
    /// for.
    fn drop_copy(&mut self, number: u32) -> Result<(), Failure> {
        let slot = self.slots.slot(number);
        let unmapped = self.objects.kernel.invoke(slot, abi().page_unmap, &[], &[0, 0, 0]);
        unmapped.and_then(|_| self.objects.delete(slot)).map_err(refused("to unmap a page"))?;
        self.slots.give_back(number);
        Ok(())
    }

    /// Deletes all copies of a table's leaves.
    fn unmap_table(&mut self, table: usize) -> Result<(), Failure> {
        for index in 0..512 {
            if self.counts[table] == 0 {
                break;
            }
            self.unmap_leaf(table, index, KERNEL)?;
            self.unmap_leaf(table, index, PROGRAM)?;
        }
        Ok(())
    }

    /// What the kernel's address space has of the current space's own part goes.
    fn leave_space(&mut self) -> Result<(), Failure> {
        for number in 0..core::mem::take(&mut self.residents) {
            let Resident { table, index } = self.resident[number];
            self.unmap_leaf(table as usize, index as usize, KERNEL)?;
        }
        Ok(())
    }

    /// All that programs of a space have mapped goes.
    fn drop_programs(&mut self, space: usize) -> Result<(), Failure> {
        match self.roots[space] {
            NONE => Ok(()),
            root => self.drop_below(root as usize, 4),
        }
    }

    fn drop_below(&mut self, table: usize, level: u8) -> Result<(), Failure> {
        for index in 0..512 {
            if level == 1 {
                self.unmap_leaf(table, index, PROGRAM)?;
            } else if let Some(child) = SoftTables::table(self.soft.pool[table][index]) {
                self.drop_below(child, level - 1)?;
            }
        }
        Ok(())
    }

    /// All that programs of other spaces have mapped goes; if there is none, of this one, too.
    fn drop_others(&mut self) -> Result<(), Failure> {
        let before = self.slots.free;
        for space in 0..self.roots.len() {
            if space != self.soft.space() {
                self.drop_programs(space)?;
            }
        }
        if self.slots.free == before {
            self.drop_programs(self.soft.space())?;
        }
        if self.slots.free == before { Err(Failure::NoMemory) } else { Ok(()) }
    }

    /// There is no memory for tables or threads: all that other spaces have is given back, but for
    /// the thread that has the registers. If that is nothing, so are the tables of what stays,
    /// which a program may have used up by itself.
    fn make_room(&mut self) -> Result<(), Failure> {
        let stays = [Some(self.soft.space()), self.kept];
        let mut found = false;
        for space in (0..SPACES).filter(|space| !stays.contains(&Some(*space))) {
            if self.programs.get(space).is_some() {
                self.empty(space)?;
                let Self { objects, structures, programs, .. } = self;
                programs.give_back(space, objects, structures)?;
                self.renewed |= 1 << space;
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        for space in stays.into_iter().flatten() {
            found |= self.programs.get(space).is_some_and(|program| !program.vspace.is_empty());
            self.empty(space)?;
        }
        found |= !self.users.is_empty();
        self.leave_space()?;
        self.structures.give_back_tables(&self.objects, &mut self.users)?;
        if found { Ok(()) } else { Err(Failure::NoMemory) }
    }

    /// All that a space's programs have mapped goes, with the tables that it took.
    fn empty(&mut self, space: usize) -> Result<(), Failure> {
        self.drop_programs(space)?;
        for number in core::mem::take(&mut self.stub_copies[space]) {
            if number != 0 {
                self.drop_copy(number)?;
            }
        }
        let Self { objects, structures, programs, .. } = self;
        match programs.get(space) {
            Some(program) => structures.give_back_tables(objects, &mut program.vspace),
            None => Ok(()),
        }
    }

    /// Makes what programs of the current space need, if there is nothing yet. The thread.
    pub(super) fn prepare_program(&mut self) -> Result<Slot, Failure> {
        self.prepare(self.soft.space())
    }

    /// Whether a space has what its programs save and load their registers by.
    pub(super) fn has_stub(&self, space: usize) -> bool {
        !self.stub_copies[space].contains(&0)
    }

    /// Makes what a space needs to save and load its program's registers. The thread.
    pub(super) fn prepare_stub(&mut self, space: usize) -> Result<Slot, Failure> {
        let thread = self.prepare(space)?;
        // To make room for one may take the other.
        while let Some(at) = self.stub_copies[space].iter().position(|copy| *copy == 0) {
            let frame = self.stubs.frames(space)[at];
            let how = Attributes { rights: if at == 0 { rights::READ } else { rights::READ_AND_WRITE }, cache: 0 };
            let number = self.copy_of(frame)?;
            let slot = self.slots.slot(number);
            while self.map_copy_in(space, slot, STUB + at as u64 * PAGE, how)?.is_none() {
                self.make_room()?;
            }
            self.stub_copies[space][at] = number;
        }
        Ok(thread)
    }

    fn prepare(&mut self, space: usize) -> Result<Slot, Failure> {
        loop {
            let Self { objects, structures, programs, .. } = self;
            if let Some(thread) = programs.thread(space, structures) {
                return Ok(thread);
            }
            if programs.make(space, objects, structures)?.is_none() {
                self.make_room()?;
            }
        }
    }

    /// What cannot be done ends the guest.
    fn must<T>(result: Result<T, Failure>) -> T {
        result.unwrap_or_else(|failure| super::end::fail(format_args!("{failure}")))
    }

    fn drop_replaced(&mut self, table: Table, index: usize, replaced: &Replaced) -> Result<(), Failure> {
        if replaced.in_kernel || replaced.in_programs_of.is_some() || self.counts[table.0 as usize] != 0 {
            self.unmap_leaf(table.0 as usize, index, KERNEL)?;
            self.unmap_leaf(table.0 as usize, index, PROGRAM)?;
        }
        Ok(())
    }

    /// Shows pages at the peephole.
    fn show(&mut self, pages: &[u64]) -> Result<(), Failure> {
        let how = Attributes { rights: rights::READ_AND_WRITE, cache: 0 };
        for (at, page) in pages.iter().enumerate() {
            let number = core::mem::take(&mut self.peephole[at]);
            if number != 0 {
                self.drop_copy(number)?;
            }
            let Frame::Memory(machine) = self.memory.frame(*page) else { return Err(Failure::NoMemory) };
            let frame = self.memory.frame_slot(machine).ok_or(Failure::NoMemory)?;
            let number = self.copy_of(frame)?;
            self.peephole[at] = number;
            self.map_copy(self.slots.slot(number), PEEPHOLE + at as u64 * PAGE, KERNEL, how)?
                .ok_or(Failure::NoMemory)?;
        }
        Ok(())
    }
}

impl Host for Tables {
    /// A fault of a program's costs several changes between threads.
    const GROUP: usize = 4;

    #[inline]
    fn guest_entry(&self, address: u64) -> Option<u64> {
        self.memory.word(address).map(|word| word.load(core::sync::atomic::Ordering::Relaxed))
    }

    fn set_guest_bits(&mut self, address: u64, old: u64, new: u64) -> bool {
        self.memory.word(address).is_some_and(|word| exchange(word, old, new))
    }

    fn frame(&self, address: u64) -> Frame {
        match self.memory.frame(address & ADDRESS) {
            Frame::Substitute(_) if self.devices.has(address & ADDRESS) => Frame::Device(address & ADDRESS),
            frame => frame,
        }
    }

    /// Each page has a frame of its own.
    fn linear(&self, _: u64) -> bool {
        false
    }

    fn allocate(&mut self, level: Level, address: u64) -> Option<Table> {
        let table = self.soft.allocate(level, address)?;
        if level == Level::UserRoot {
            self.roots[self.soft.latest()] = table.0;
        }
        Some(table)
    }

    fn release(&mut self, table: Table, level: Level) {
        Self::must(self.unmap_table(table.0 as usize));
        if let Some(space) = self.soft.release(table, level) {
            self.roots[space] = NONE;
        }
    }

    fn set(&mut self, table: Table, level: Level, at: usize, link: Link) {
        if let Some(replaced) = self.soft.set(table, level, at, link)
            && level == Level::L1
        {
            Self::must(self.drop_replaced(table, at, &replaced));
        }
    }

    /// What an entry has mapped is unmapped when it is replaced.
    fn commit(&mut self) {}

    fn flush(&mut self, _: Flush) {}

    fn switch(&mut self, kernel: Table, user: Table) {
        let last = self.soft.switch(kernel, user);
        if last != self.soft.space() {
            Self::must(self.leave_space());
        }
    }
}

impl Peephole for Tables {
    fn open(&mut self, pages: &[u64], offset: usize, length: usize) -> Option<&mut [u8]> {
        if pages.len() > 2 || offset + length > pages.len() * PAGE as usize {
            return None;
        }
        self.show(pages).ok()?;
        // SAFETY: within the peephole, which shows the guest's text; the guest does not run, and
        // there is one such view at a time.
        Some(unsafe { core::slice::from_raw_parts_mut(pointer(PEEPHOLE + offset as u64), length) })
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

    /// By its physical address: whether it is mapped at the guest's does not matter.
    fn load(&self, from: Reached, bytes: &mut [u8]) {
        let address = from.address();
        let found = self.soft.find_kernel(address);
        let found = found.is_some_and(|found| self.memory.load_machine(found.physical(address), bytes));
        assert!(found, "{from:x?} is not mapped");
    }

    fn store(&mut self, to: Reached, bytes: &[u8]) {
        let address = to.address();
        let found = self.soft.find_kernel(address);
        let stored = found.is_some_and(|found| self.memory.store_machine(found.physical(address), bytes));
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
