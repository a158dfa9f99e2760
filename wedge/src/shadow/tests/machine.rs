//! A machine: guest memory, hardware that reads shadow tables, and its TLB, which keeps all it can.

extern crate std;

use super::super::{Flush, Frame, Host, Leaf, Level, Link, Table};
use crate::guest::layout::Layout;
use core::ops::Range;
use std::collections::{HashMap, HashSet};
use std::vec::Vec;

/// Guest-physical pages 0 to 63 hold the guest's tables.
pub(super) const TABLE_PAGES: usize = 64;
/// Machine addresses are never guest-physical ones.
pub(super) const OFFSET: u64 = 0x7_0000_0000;
/// Memory ends, devices begin.
pub(super) const MEMORY_END: u64 = 64 << 20;
/// Devices end, a hole begins.
pub(super) const DEVICES_END: u64 = 80 << 20;
/// The hole ends.
pub(super) const HOLE_END: u64 = 96 << 20;
/// The page that stands for all in the hole.
pub(super) const SUBSTITUTE: u64 = OFFSET + MEMORY_END - 0x1000;

/// What a host has to itself whatever the layout, as Xen does: 16 entries of the root, and one that
/// is the wedge's.
const OF_THE_HOST: [Range<u64>; 2] =
    [0xffff_8000_0000_0000..0xffff_8800_0000_0000, 0xffff_8800_0000_0000..0xffff_8880_0000_0000];

/// All that is reserved with a layout: the GB with the window, too.
pub(super) const fn reserved(layout: &Layout) -> [Range<u64>; 3] {
    let [first, second] = OF_THE_HOST;
    [first, second, layout.reserved()]
}

/// The canonical address at which a slot of the root begins.
pub(super) const fn address_of(slot: usize) -> u64 {
    (slot as u64) << 39 | if slot < 256 { 0 } else { 0xffff << 48 }
}

/// Which flags an operation may set in the guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum May {
    Nothing,
    Accessed,
    DirtyIfLarge,
    Dirty,
}

#[derive(Debug)]
struct Shadow {
    level: Level,
    address: u64,
    links: Vec<Link>,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) layout: &'static Layout,
    pub(super) guest: Vec<u64>,
    tables: Vec<Option<Shadow>>,
    queue: Vec<(u32, Level, usize, Link)>,
    roots: Option<(u32, u32)>,
    tlb: HashMap<(bool, u64), Leaf>,
    pub(super) may: May,
    pub(super) flushes: Vec<Flush>,
    pub(super) changes: usize,
}

impl Machine {
    pub(super) fn new(layout: &'static Layout, pool: usize) -> Self {
        Self {
            layout,
            guest: std::vec![0; TABLE_PAGES * 512],
            tables: (0..pool).map(|_| None).collect(),
            queue: Vec::new(),
            roots: None,
            tlb: HashMap::new(),
            may: May::Nothing,
            flushes: Vec::new(),
            changes: 0,
        }
    }

    /// How many tables there are.
    pub(super) fn pool(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn entry(&mut self, table: usize, index: usize) -> &mut u64 {
        &mut self.guest[table * 512 + index]
    }

    fn shadow(&self, table: u32) -> &Shadow {
        self.tables[table as usize].as_ref().expect("a table in use")
    }

    /// Hardware's access: the leaf used, `None` for a page fault.
    pub(super) fn access(&mut self, address: u64, write: bool, user: bool, fetch: bool) -> Option<Leaf> {
        let allows = |leaf: &Leaf| (!write || leaf.writable) && (!fetch || leaf.executable);
        let key = (user, address >> 12);
        if let Some(leaf) = self.tlb.get(&key).copied().filter(allows) {
            return Some(leaf);
        }
        // A fault forgets the page.
        self.tlb.remove(&key);
        let leaf = self.walk(address, user).filter(allows)?;
        assert!(!user || leaf.user, "user mode uses what it must not");
        self.tlb.insert(key, leaf);
        Some(leaf)
    }

    /// The leaf that the roots in force lead to.
    pub(super) fn walk(&self, address: u64, user: bool) -> Option<Leaf> {
        let (kernel_root, user_root) = self.roots.expect("roots");
        let mut table = if user { user_root } else { kernel_root };
        for level in (1..=4).rev() {
            match self.shadow(table).links[(address >> (3 + 9 * level)) as usize & 511] {
                Link::Absent => return None,
                Link::Own(next) => table = next.0,
                Link::Leaf(leaf) => {
                    assert_eq!(level, 1);
                    return Some(leaf);
                }
                Link::Linear(linear) => {
                    assert_eq!(level, 2);
                    assert!(self.linear(linear.address));
                    return Some(Leaf {
                        address: linear.address + OFFSET + (address & 0x1f_f000),
                        device: false,
                        writable: linear.writable,
                        user: linear.user,
                        executable: linear.executable,
                        cache: 0,
                    });
                }
            }
        }
        unreachable!("level 1 has leaves")
    }

    /// How many tables of each level are in use.
    pub(super) fn counts(&self) -> [u32; 5] {
        let mut counts = [0; 5];
        for table in self.tables.iter().flatten() {
            counts[table.level as usize] += 1;
        }
        counts
    }

    /// What must always hold between operations.
    pub(super) fn check(&self) {
        assert!(self.queue.is_empty(), "an operation ended without commit");
        let mut seen = HashSet::new();
        for (number, table) in self.tables.iter().enumerate() {
            let Some(table) = table else { continue };
            match table.level {
                Level::KernelRoot => self.check_tree(number as u32, 4, false, &mut seen),
                Level::UserRoot => {
                    for (slot, link) in table.links.iter().enumerate() {
                        let address = address_of(slot);
                        let is_programs = !self.layout.kernel.contains(address)
                            && !OF_THE_HOST.iter().any(|range| range.contains(&address));
                        assert!(*link == Link::Absent || is_programs, "slot {slot} of a user root");
                    }
                    self.check_tree(number as u32, 4, true, &mut HashSet::new());
                }
                _ => {}
            }
        }
        let below = self.counts()[..3].iter().sum::<u32>() as usize;
        assert_eq!(seen.len(), below, "a table in use that nothing links to");
    }

    fn check_tree(&self, table: u32, level: u8, user: bool, seen: &mut HashSet<u32>) {
        for link in &self.shadow(table).links {
            match link {
                Link::Absent => {}
                Link::Own(next) => {
                    let below = [Level::L1, Level::L2, Level::L3][usize::from(level) - 2];
                    assert_eq!(self.shadow(next.0).level, below);
                    seen.insert(next.0);
                    self.check_tree(next.0, level - 1, user, seen);
                }
                Link::Leaf(leaf) => assert!(level == 1 && (!user || leaf.user), "{leaf:x?} for user mode"),
                Link::Linear(linear) => assert!(level == 2 && (!user || linear.user), "{linear:x?} for user mode"),
            }
        }
    }
}

impl Host for Machine {
    fn guest_entry(&self, address: u64) -> Option<u64> {
        assert_eq!(address % 8, 0);
        self.guest.get(usize::try_from(address / 8).unwrap()).copied()
    }

    fn set_guest_bits(&mut self, address: u64, old: u64, new: u64) -> bool {
        let entry = &mut self.guest[address as usize / 8];
        assert_eq!(*entry, old, "nothing else writes");
        assert_eq!(old & 1, 1);
        let added = old ^ new;
        assert_eq!(added & !0x60, 0);
        assert!(self.may >= May::Accessed);
        let dirty_allowed = self.may == May::Dirty || self.may == May::DirtyIfLarge && old & 0x82 == 0x82;
        assert!(added & 0x40 == 0 || dirty_allowed, "dirty without a write");
        *entry = new;
        true
    }

    fn frame(&self, address: u64) -> Frame {
        assert_eq!(address & 0xfff, 0);
        match address {
            0..MEMORY_END => Frame::Memory(address + OFFSET),
            MEMORY_END..DEVICES_END => Frame::Device(address + OFFSET),
            DEVICES_END..HOLE_END => Frame::Substitute(SUBSTITUTE),
            _ => Frame::Nothing,
        }
    }

    fn linear(&self, address: u64) -> bool {
        assert_eq!(address & 0x1f_ffff, 0);
        (2 << 20..MEMORY_END).contains(&address)
    }

    fn allocate(&mut self, level: Level, address: u64) -> Option<Table> {
        let free = self.tables.iter().position(Option::is_none)?;
        self.tables[free] = Some(Shadow { level, address, links: std::vec![Link::Absent; 512] });
        Some(Table(free as u32))
    }

    fn release(&mut self, table: Table, level: Level) {
        let was = self.tables[table.0 as usize].take().expect("a table in use");
        assert_eq!(was.level, level);
        assert!(self.roots.is_none_or(|(kernel, user)| table.0 != kernel && table.0 != user), "a root in force");
    }

    fn set(&mut self, table: Table, level: Level, index: usize, link: Link) {
        let shadow = self.shadow(table.0);
        assert_eq!(shadow.level, level);
        assert!(level != Level::KernelRoot || !(256..=272).contains(&index), "reserved");
        let window = self.layout.window().start;
        let is_windows = shadow.address == window & (!0 << 39) && index == self.layout.window_index(3);
        assert!(level != Level::L3 || !is_windows, "reserved");
        self.queue.push((table.0, level, index, link));
        self.changes += 1;
    }

    fn commit(&mut self) {
        for (table, level, index, link) in core::mem::take(&mut self.queue) {
            // A change to a table that was released behind it has no effect.
            if let Some(shadow) = self.tables[table as usize].as_mut().filter(|shadow| shadow.level == level) {
                shadow.links[index] = link;
            }
        }
    }

    fn flush(&mut self, what: Flush) {
        assert!(self.queue.is_empty());
        self.flushes.push(what);
        match what {
            Flush::Page(address) => self.tlb.retain(|key, _| key.1 != address >> 12),
            Flush::All => self.tlb.clear(),
        }
    }

    fn switch(&mut self, kernel: Table, user: Table) {
        assert!(self.queue.is_empty());
        assert_eq!(self.shadow(kernel.0).level, Level::KernelRoot);
        assert_eq!(self.shadow(user.0).level, Level::UserRoot);
        let window = self.layout.window_index(4);
        assert!(matches!(self.shadow(kernel.0).links[window], Link::Own(_)), "the window is gone");
        self.roots = Some((kernel.0, user.0));
        let kernel = self.layout.kernel;
        self.tlb.retain(|key, _| kernel.contains(key.1 << 12));
    }
}
