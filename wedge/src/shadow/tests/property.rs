//! Random guests: after any sequence of table writes, flushes and loads of CR3, every access does
//! what a TLB allows.

extern crate std;

use super::super::{Access, Memory, Mode, Outcome, Shadow, TableInfo};
use super::machine::{DEVICES_END, HOLE_END, MEMORY_END, Machine, May, address_of, reserved};
use super::oracle::{self, Tlb};
use crate::guest::layout::Layout;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// Slots of the root, as far as they are used: two of programs, two of the kernel, of which the
/// second has the window, and one of the host. Then likewise indices of the levels below.
fn slots(layout: &Layout) -> [usize; 5] {
    let kernel = layout.kernel;
    [0, kernel.first() - 1, kernel.first() + 17, layout.window_index(4), 272]
}
const L3: [usize; 3] = [0, 511, 509];
const L2: [usize; 2] = [0, 1];
const L1: [usize; 5] = [0, 1, 15, 16, 511];
/// The guest's tables, by level less one: first page, and how many.
const TABLES: [(usize, usize); 4] = [(20, 8), (12, 6), (6, 4), (1, 3)];

#[derive(Clone, Debug)]
enum Op {
    Write { level: u8, table: usize, index: usize, flags: u16, target: usize },
    Access { page: usize, access: Access },
    Prefill { page: usize },
    Require { page: usize, write: bool },
    Translate { page: usize, access: Access },
    Load { pcid: u16, root: usize, keep: bool },
    FlushPage { page: usize },
    FlushPcidPage { pcid: u16, page: usize },
    FlushPcid { pcid: u16 },
    FlushAll { global: bool },
    Mode { bits: u8 },
}

fn layout() -> impl Strategy<Value = &'static Layout> {
    prop::sample::select(&Layout::ALL[..])
}

fn access() -> impl Strategy<Value = Access> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(write, user, fetch)| Access {
        write: write && !fetch,
        user,
        fetch,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let write =
        (0..12u8, 0..8usize, 0..8usize, any::<u16>(), 0..8usize).prop_map(|(level, table, index, flags, target)| {
            let level = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4][usize::from(level)];
            Op::Write { level, table, index, flags, target }
        });
    let page = 0..160usize;
    let pcid = 0..3u16;
    prop_oneof![
        12 => write,
        20 => (page.clone(), access()).prop_map(|(page, access)| Op::Access { page, access }),
        2 => page.clone().prop_map(|page| Op::Prefill { page }),
        2 => (page.clone(), any::<bool>()).prop_map(|(page, write)| Op::Require { page, write }),
        1 => (page.clone(), access()).prop_map(|(page, access)| Op::Translate { page, access }),
        3 => (pcid.clone(), 0..3usize, any::<bool>()).prop_map(|(pcid, root, keep)| Op::Load { pcid, root, keep }),
        6 => page.clone().prop_map(|page| Op::FlushPage { page }),
        1 => (pcid.clone(), page).prop_map(|(pcid, page)| Op::FlushPcidPage { pcid, page }),
        1 => pcid.prop_map(|pcid| Op::FlushPcid { pcid }),
        2 => any::<bool>().prop_map(|global| Op::FlushAll { global }),
        1 => any::<u8>().prop_map(|bits| Op::Mode { bits }),
    ]
}

/// The pages that are looked at: a few of each shape.
fn pages(layout: &Layout) -> Vec<u64> {
    let mut pages = Vec::new();
    for l4 in slots(layout) {
        let has_window = l4 == layout.window_index(4);
        for l3 in &L3[..if has_window { 3 } else { 2 }] {
            for l2 in L2 {
                pages.extend(L1.map(|l1| address_of(l4) | (l3 << 30 | l2 << 21 | l1 << 12) as u64));
            }
        }
    }
    pages
}

/// An entry; mostly a present one, that leads on.
fn entry(level: u8, flags: u16, target: usize) -> u64 {
    let bit = |n: u16| flags >> n & 1 != 0;
    let mut entry = u64::from(flags & 7 != 0);
    entry |= if bit(3) || bit(10) { 2 } else { 0 };
    entry |= if bit(4) || bit(11) { 4 } else { 0 };
    entry |= if bit(5) || level > 1 && bit(9) { 0x20 } else { 0 };
    entry |= u64::from(bit(6)) << 6 | u64::from(bit(8)) << 8;
    entry |= if flags >> 12 == 0 { 1 << 63 } else { 0 };
    let large = level > 1 && bit(7) && (level < 4 || flags >> 12 == 1);
    if level > 1 && !large {
        let (first, count) = TABLES[usize::from(level) - 2];
        return entry | ((first + target % count) << 12) as u64;
    }
    let frames = [0x8000, 0x20_0000, 0x20_1000, 0x40_0000, MEMORY_END, DEVICES_END, HOLE_END, 1 << 45];
    let frame = frames[target % 8];
    entry |= if flags >> 12 == 2 { 0x10 } else { 0 };
    match level {
        1 => entry | frame | if flags >> 12 == 3 { 0x80 } else { 0 },
        2 => entry | 0x80 | (frame & !0x1f_ffff) | if flags >> 12 == 3 { 0x1000 } else { 0 },
        _ => entry | 0x80 | if flags >> 12 == 4 { frame } else { 0 },
    }
}

struct World<'a> {
    machine: Machine,
    shadow: Shadow<'a>,
    tlb: Tlb,
    mode: Mode,
    pcid: u16,
    root: u64,
    pages: Vec<u64>,
}

const MODE: Mode = Mode { pcid: true, global: true, write_protect: true, no_execute: true, physical_bits: 40 };

/// All pages mapped, in one way or another.
fn populate(machine: &mut Machine) {
    let slots = slots(machine.layout);
    for (level, (first, count)) in (1u8..).zip(TABLES) {
        for table in 0..count {
            let indices: &[usize] = match level {
                1 => &L1,
                2 => &L2,
                3 => &L3,
                _ => &slots,
            };
            for (i, &index) in indices.iter().enumerate() {
                let target = if level == 4 { i } else { table + i };
                let user = if level == 4 && i > 1 { 0 } else { 4 };
                *machine.entry(first + table, index) = (entry(level, 0x63f, target) & !4) | user;
            }
        }
    }
}

impl World<'_> {
    fn observe(&mut self) {
        self.tlb.observe(&self.machine, self.mode, &self.pages);
    }

    fn is_kernel(&self, page: u64) -> bool {
        self.machine.layout.kernel.contains(page)
    }

    fn is_reserved(&self, page: u64) -> bool {
        reserved(self.machine.layout).iter().any(|range| range.contains(&page))
    }

    fn write(&mut self, level: u8, table: usize, index: usize, flags: u16, target: usize) {
        let (first, count) = TABLES[usize::from(level) - 1];
        let entry = entry(level, flags, target);
        let slot = slots(self.machine.layout)[index % 5];
        match level {
            1 => *self.machine.entry(first + table % count, L1[index % 5]) = entry,
            2 => *self.machine.entry(first + table % count, L2[index % 2]) = entry,
            3 => *self.machine.entry(first + table % count, L3[index % 3]) = entry,
            // The kernel's part is the same in all spaces.
            _ if self.is_kernel(address_of(slot)) => {
                (0..count).for_each(|table| *self.machine.entry(first + table, slot) = entry);
            }
            _ => *self.machine.entry(first + table % count, slot) = entry,
        }
    }

    fn may(&mut self, page: u64, write: bool) {
        self.machine.may = match (write, self.is_kernel(page)) {
            (true, _) => May::Dirty,
            (false, false) => May::Accessed,
            (false, true) => May::DirtyIfLarge,
        };
    }

    fn access(&mut self, page: u64, access: Access) {
        self.may(page, access.write);
        for _ in 0..2 {
            if let Some(leaf) = self.machine.access(page, access.write, access.user, access.fetch) {
                self.observe();
                let known = self.tlb.known(self.pcid, page);
                let explained =
                    known.iter().flatten().any(|value| value.explains(&self.machine, self.mode, access, leaf));
                assert!(explained, "{access:?} at {page:x} used {leaf:x?}, of {known:x?}");
                return;
            }
            let now = oracle::walk(&self.machine, self.mode, self.root, page);
            match self.shadow.fault(page, access, &mut self.machine) {
                Outcome::Filled | Outcome::Spurious => {}
                Outcome::Fault { error } => return self.check_fault(page, access, now, error),
                Outcome::Nothing { address } => {
                    assert_eq!(address, now.expect("a page").address);
                    assert!(address >= HOLE_END);
                    return;
                }
                Outcome::OutOfTables => panic!("out of tables: {:?}", self.shadow.statistics()),
            }
        }
        panic!("{access:?} at {page:x} faults after it was filled");
    }

    /// A page of the kernel's that the guest's tables allow is there afterwards.
    fn require(&mut self, page: u64, write: bool) {
        self.may(page, write);
        let access = Access { write, user: false, fetch: false };
        let now = oracle::walk(&self.machine, self.mode, self.root, page);
        let allowed = oracle::error(now, self.mode, access).is_none()
            && !self.is_reserved(page)
            && now.is_ok_and(|page| page.address < HOLE_END);
        let required = self.shadow.require(page, write, &mut self.machine).expect("enough tables");
        assert_eq!(required, allowed, "{now:x?}");
        if required {
            let leaf = self.machine.walk(page, false).expect("it was required");
            assert!(leaf.writable || !write || !self.mode.write_protect);
        }
    }

    fn check_fault(&self, page: u64, access: Access, now: oracle::Value, error: u32) {
        let by_tables = oracle::error(now, self.mode, access);
        if self.is_reserved(page) {
            assert_eq!(error & 1, 0);
        } else if self.is_kernel(page) && access.user {
            assert_eq!(error, by_tables.unwrap_or(5 | u32::from(access.write) << 1 | error & 16));
        } else {
            assert_eq!(Some(error), by_tables, "{now:x?}");
        }
    }

    fn translate(&mut self, page: u64, access: Access) {
        self.may(page, access.write);
        let now = oracle::walk(&self.machine, self.mode, self.root, page);
        let got = self.shadow.translate(page + 5, access, &mut self.machine);
        match oracle::error(now, self.mode, access) {
            Some(error) => assert_eq!(got, Err(error)),
            None => assert_eq!(got, Ok(now.unwrap().address + 5)),
        }
    }

    fn load(&mut self, pcid: u16, root: usize, keep: bool) {
        let pcid = if self.mode.pcid { pcid } else { 0 };
        self.root = ((TABLES[3].0 + root) << 12) as u64;
        self.pcid = pcid;
        let keep = keep && self.mode.pcid;
        self.shadow.load_root(self.root | u64::from(pcid), keep, &mut self.machine);
        self.tlb.load(pcid, self.root, keep, &self.pages);
    }

    fn set_mode(&mut self, bits: u8) {
        // PCIDs need CR3's to be 0 when they are turned on.
        let bit = |n: u8| bits >> n & 3 != 0;
        let pcid = bit(0) && (self.mode.pcid || self.pcid == 0);
        let mode = Mode { pcid, global: bit(2), write_protect: bit(4), no_execute: bit(6), ..MODE };
        self.shadow.set_mode(mode, &mut self.machine);
        if mode == self.mode {
            return;
        }
        self.mode = mode;
        self.tlb.flush_all(true);
        if !mode.pcid {
            self.pcid = 0;
            self.tlb.forget_pcids(self.root);
        }
    }

    fn run(&mut self, op: &Op) {
        // A split page of the kernel's part is filled again at once: its leaves may be marked, as
        // at a speculative access.
        self.machine.may = May::DirtyIfLarge;
        let page = |page: usize| self.pages[page % self.pages.len()];
        match *op {
            Op::Write { level, table, index, flags, target } => self.write(level, table, index, flags, target),
            Op::Access { page: at, access } => self.access(page(at), access),
            Op::Translate { page: at, access } => self.translate(page(at), access),
            Op::Prefill { page: at } => {
                let page = page(at);
                self.machine.may = if self.is_kernel(page) { May::DirtyIfLarge } else { May::Nothing };
                let mapped = self.shadow.prefill(page, &mut self.machine);
                assert_eq!(mapped, mapped && self.machine.walk(page, false).is_some());
            }
            Op::Require { page: at, write } => self.require(page(at), write),
            Op::Load { pcid, root, keep } => self.load(pcid, root, keep),
            Op::FlushPage { page: at } => {
                let page = page(at);
                self.shadow.flush_page(page, &mut self.machine);
                self.tlb.flush_page(self.pcid, page);
            }
            Op::FlushPcidPage { pcid, page: at } if self.mode.pcid => {
                let page = page(at);
                self.shadow.flush_pcid_page(pcid, page, &mut self.machine);
                // Global ones stay.
                self.tlb.flush_pcid_page(pcid, page);
            }
            Op::FlushPcid { pcid } if self.mode.pcid => {
                self.shadow.flush_pcid(pcid, &mut self.machine);
                self.tlb.flush_pcid(pcid);
            }
            Op::FlushPcid { .. } | Op::FlushPcidPage { .. } => {}
            Op::FlushAll { global } => {
                self.shadow.flush_all(global, &mut self.machine);
                self.tlb.flush_all(global);
            }
            Op::Mode { bits } => self.set_mode(bits),
        }
        self.observe();
        self.machine.check();
        assert_eq!(self.machine.counts(), self.shadow.statistics().tables);
    }
}

/// Runs a guest in each layout.
fn run(pool: usize, ops: &[Op]) {
    for layout in Layout::ALL {
        run_in(layout, pool, ops);
    }
}

fn run_in(layout: &'static Layout, pool: usize, ops: &[Op]) {
    let mut machine = Machine::new(layout, pool);
    populate(&mut machine);
    let (mut tables, mut notes) = (std::vec![TableInfo::UNUSED; pool], std::vec![[0; 512]; pool]);
    let memory = Memory { tables: &mut tables, notes: &mut notes };
    let root = (TABLES[3].0 << 12) as u64;
    let reserved = reserved(layout);
    let shadow = Shadow::new(memory, layout, &reserved, MODE, root, &mut machine).expect("enough tables");
    let pages = pages(layout);
    let mut tlb = Tlb::new(layout.kernel);
    tlb.load(0, root, false, &pages);
    let mut world = World { machine, shadow, tlb, mode: MODE, pcid: 0, root, pages };
    world.observe();
    for op in ops {
        world.run(op);
    }
}

/// A change of CR3 that makes room for what a page of the kernel's part has been split into.
#[test]
fn the_space_that_is_being_left_is_not_dropped_while_it_is_in_force() {
    let look = |page| Op::Access { page, access: Access { write: false, user: false, fetch: false } };
    let write = |level, table, index, flags| Op::Write { level, table, index, flags, target: 0 };
    let ops = [
        look(20),
        look(29),
        write(3, 3, 0, 14209),
        look(40),
        Op::Prefill { page: 59 },
        write(1, 0, 0, 0),
        look(65),
        Op::Mode { bits: 81 },
        look(140),
        write(3, 3, 3, 44297),
        Op::Load { pcid: 1, root: 0, keep: false },
    ];
    run(16, &ops);
}

/// Small pages that have become one of 1 GB, and are flushed by another address in it.
#[test]
fn what_comes_from_one_page_is_flushed_together() {
    let ops = [
        Op::Load { pcid: 0, root: 2, keep: false },
        Op::Prefill { page: 125 },
        Op::Write { level: 3, table: 0, index: 4, flags: 26321, target: 0 },
        Op::FlushAll { global: false },
        Op::Write { level: 4, table: 2, index: 0, flags: 0, target: 0 },
        Op::FlushPage { page: 120 },
        Op::Access { page: 15, access: Access { write: false, user: false, fetch: false } },
    ];
    run(16, &ops);
}

/// A page that user mode must not reach becomes writable, and is not filled again for that; then it
/// becomes another.
#[test]
fn what_is_dropped_for_a_fault_to_decide_is_forgotten() {
    let look = |page| Op::Access { page, access: Access { write: false, user: false, fetch: false } };
    let load = |root| Op::Load { pcid: 0, root, keep: false };
    let ops = [
        Op::Write { level: 4, table: 0, index: 0, flags: 4433, target: 0 },
        Op::Write { level: 1, table: 2, index: 4, flags: 29641, target: 2 },
        look(129),
        load(1),
        Op::Write { level: 2, table: 1, index: 1, flags: 161, target: 0 },
        load(0),
        look(19),
    ];
    run(14, &ops);
}

proptest! {
    #[test]
    fn accesses_do_what_a_tlb_allows(layout in layout(), ops in prop::collection::vec(op(), 1..200)) {
        run_in(layout, 200, &ops);
    }

    #[test]
    fn so_they_do_with_hardly_any_tables(
        layout in layout(),
        pool in 14..30usize,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        run_in(layout, pool, &ops);
    }
}
