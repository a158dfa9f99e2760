//! What it costs, and what single operations leave.

extern crate std;

use super::super::{Access, Flush, Memory, Mode, OutOfTables, Outcome, Shadow, TableInfo};
use super::machine::{DEVICES_END, MEMORY_END, Machine, May, OFFSET, reserved};
use crate::guest::layout::Layout;
use crate::x86::paging::index;

const READ: Access = Access { write: false, user: false, fetch: false };
const USER: Access = Access { user: true, ..READ };
const MODE: Mode = Mode { pcid: true, global: true, write_protect: true, no_execute: true, physical_bits: 40 };
/// P, W, U, A, D.
const ALL: u64 = 0x67;
const LAYOUT: Layout = Layout::STANDARD;
const KERNEL: u64 = 0xffff_c900_0000_0000;

/// Two roots (pages 1 and 2) that lead by pages 3, 4 and 5 to a level-1 table, both from 0 and from
/// [`KERNEL`].
fn guest() -> Machine {
    guest_with(32)
}

fn guest_with(pool: usize) -> Machine {
    let mut machine = Machine::new(&LAYOUT, pool);
    for root in [1, 2] {
        *machine.entry(root, 0) = 0x3000 | ALL;
        *machine.entry(root, (KERNEL >> 39) as usize & 511) = 0x3000 | ALL;
    }
    *machine.entry(3, 0) = 0x4000 | ALL;
    *machine.entry(4, 0) = 0x5000 | ALL;
    machine.may = May::Dirty;
    machine
}

fn with(mut machine: Machine, act: impl FnOnce(&mut Shadow<'_>, &mut Machine)) {
    let pool = machine.pool();
    let (mut tables, mut notes) = (std::vec![TableInfo::UNUSED; pool], std::vec![[0; 512]; pool]);
    let memory = Memory { tables: &mut tables, notes: &mut notes };
    let reserved = reserved(&LAYOUT);
    let mut shadow = Shadow::new(memory, &LAYOUT, &reserved, MODE, 0x1000, &mut machine).expect("enough tables");
    act(&mut shadow, &mut machine);
    machine.check();
}

#[test]
fn in_the_fixmap_nothing_is_filled_ahead_of_need() {
    let fixmap = LAYOUT.fixmap().start;
    let mut machine = guest();
    for (table, level) in [(1, 4), (3, 3), (4, 2)] {
        let next = if table == 1 { 0x3000 } else { (table as u64 + 1) << 12 };
        *machine.entry(table, index(fixmap, level)) = next | ALL;
    }
    (4..8).for_each(|page| *machine.entry(5, page) = 0x20_0000 | (page as u64) << 12 | 0x63);
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(fixmap + 0x7000, Access { write: true, ..READ }, machine), Outcome::Filled);
        for page in 4..8 {
            assert_eq!(machine.walk(fixmap + page * 0x1000, false).is_some(), page == 7, "{page}");
        }
        // The same pages elsewhere are.
        assert_eq!(shadow.fault(KERNEL + 0x7000, READ, machine), Outcome::Filled);
        assert!((4..8).all(|page| machine.walk(KERNEL + page * 0x1000, false).is_some()));
    });
}

#[test]
fn a_kernel_stack_is_there_as_a_whole() {
    let mut machine = guest();
    (4..8).for_each(|page| *machine.entry(5, page) = 0x20_0000 | (page as u64) << 12 | 0x43);
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(KERNEL + 0x7000, READ, machine), Outcome::Filled);
        for page in 4..8 {
            assert_eq!(
                machine.walk(KERNEL + page * 0x1000, false).unwrap().address,
                OFFSET + 0x20_0000 + page * 0x1000
            );
        }
        assert_eq!(shadow.statistics().neighbours, 3);
    });
}

/// Not every stack lies in one block: that of interrupts, where stacks are mapped by pages, begins
/// at any page.
#[test]
fn a_kernel_stack_is_there_as_a_whole_wherever_it_begins() {
    for first in (1..16).chain(509..512) {
        let mut machine = guest();
        *machine.entry(4, 1) = 0x6000 | ALL;
        for page in first..first + 4 {
            *machine.entry(5 + page / 512, page % 512) = 0x20_0000 | (page as u64) << 12 | 0x43;
        }
        with(machine, |shadow, machine| {
            let write = Access { write: true, ..READ };
            let at = |page: usize| KERNEL + page as u64 * 0x1000;
            assert_eq!(shadow.fault(at(first + 3), write, machine), Outcome::Filled);
            for page in first..first + 4 {
                assert!(machine.walk(at(page), false).is_some(), "page {page} of a stack from {first} on");
            }
            assert!(machine.walk(at(first - 1), false).is_none(), "there is nothing below it");
        });
    }
}

/// With CR0.WP clear the kernel stores to what its tables have read-only: that is no stack, and
/// what lies below may be in the same entry.
#[test]
fn a_store_to_what_is_read_only_is_not_undone_by_filling_what_is_below() {
    let write = Access { write: true, ..READ };
    for page in [0, 1, 3, 16, 511] {
        let mut machine = guest();
        *machine.entry(4, 1) = 0x20_0000 | 0xe1;
        with(machine, |shadow, machine| {
            shadow.set_mode(Mode { write_protect: false, ..MODE }, machine);
            let address = KERNEL + 0x20_0000 + page * 0x1000;
            assert_eq!(shadow.fault(address, write, machine), Outcome::Filled);
            assert!(machine.walk(address, false).unwrap().writable, "page {page}");
        });
    }
}

#[test]
fn neighbours_that_were_not_used_are_not_filled() {
    let mut machine = guest();
    (0..5).for_each(|page| *machine.entry(5, page) = 0x20_0000 | (page as u64) << 12 | ALL);
    *machine.entry(5, 1) &= !0x20;
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        assert!(shadow.prefill(0x3000, machine));
        let mapped = [0, 1, 2, 3, 4].map(|page| machine.walk(page << 12, true).is_some());
        assert_eq!(mapped, [true, false, true, true, false], "but the other of a pair is");
        assert!(!shadow.prefill(0x1000, machine), "it has not been used");
        assert!(shadow.prefill(0x2000, machine));
    });
}

#[test]
fn what_is_unchanged_costs_nothing() {
    let mut machine = guest();
    (0..8).for_each(|page| *machine.entry(5, page) = 0x20_0000 | (page as u64) << 12 | ALL);
    with(machine, |shadow, machine| {
        (0..8).for_each(|page| assert!(shadow.prefill(page << 12, machine)));
        machine.changes = 0;
        shadow.flush_all(true, machine);
        shadow.load_root(0x1000, false, machine);
        assert_eq!((machine.changes, machine.flushes.len()), (0, 0));
        *machine.entry(5, 3) = 0x20_9000 | ALL;
        shadow.flush_all(false, machine);
        assert_eq!((machine.changes, &machine.flushes[..]), (1, &[Flush::Page(0x3000)][..]));
        *machine.entry(5, 3) = 0;
        *machine.entry(5, 4) = 0;
        shadow.flush_all(false, machine);
        assert_eq!(machine.flushes[1..], [Flush::All]);
    });
}

/// Processes with tables of their own, in pages 8 to 39: four each, from the root on.
const PROCESSES: usize = 8;

const fn root(process: usize) -> usize {
    8 + 4 * process
}

/// Each process has a page of its own at 0, and shares one behind it with all.
fn processes() -> Machine {
    let mut machine = guest_with(96);
    let kernel = (KERNEL >> 39) as usize & 511;
    *machine.entry(5, 0) = 0x50_0000 | ALL;
    for process in 0..PROCESSES {
        let root = root(process);
        for level in 0..3 {
            *machine.entry(root + level, 0) = (root as u64 + level as u64 + 1) << 12 | ALL;
        }
        *machine.entry(root, kernel) = 0x3000 | ALL;
        *machine.entry(root + 3, 0) = (0x200 + process as u64) << 12 | ALL;
        *machine.entry(root + 3, 1) = 0x30_0000 | ALL;
    }
    machine
}

/// Loads a process by a number, as one that is new to it.
fn enter(process: usize, tag: u64, shadow: &mut Shadow<'_>, machine: &mut Machine) {
    shadow.load_root((root(process) as u64) << 12 | tag, false, machine);
}

/// Linux has six numbers. Eight processes in turn lose theirs all the time.
#[test]
fn processes_that_take_turns_keep_what_they_have() {
    with(processes(), |shadow, machine| {
        for turn in 0..5 * PROCESSES {
            let process = turn % PROCESSES;
            machine.changes = 0;
            enter(process, 1 + turn as u64 % 6, shadow, machine);
            if turn < PROCESSES {
                assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
            } else {
                assert_eq!(machine.changes, 0, "turn {turn}");
            }
            let mapped = [0, 0x1000].map(|page| machine.walk(page, true).map(|leaf| leaf.address - OFFSET));
            assert_eq!(mapped, [Some((0x200 + process as u64) << 12), Some(0x30_0000)], "turn {turn}");
        }
    });
}

/// Nobody has flushed what changes while the root is known by no number.
#[test]
fn what_comes_back_is_as_its_tables_are_now() {
    with(processes(), |shadow, machine| {
        enter(0, 1, shadow, machine);
        assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        enter(1, 1, shadow, machine);
        *machine.entry(root(0) + 3, 0) = 0x40_0000 | ALL;
        *machine.entry(root(0) + 3, 1) = 0;
        for keep in [false, true] {
            shadow.load_root((root(0) as u64) << 12 | 2, keep, machine);
            assert_eq!(machine.walk(0, true).map(|leaf| leaf.address - OFFSET), Some(0x40_0000));
            assert_eq!(machine.walk(0x1000, true), None);
        }
        // The root is no table any more, but data; and then that of another process.
        enter(1, 2, shadow, machine);
        *machine.entry(root(0), 0) = 0x1234_5678_9abc_def0;
        enter(0, 3, shadow, machine);
        assert_eq!(machine.walk(0, true), None);
        enter(1, 3, shadow, machine);
        *machine.entry(root(0), 0) = *machine.entry(root(2), 0);
        enter(0, 4, shadow, machine);
        let _ = shadow.fault(0, USER, machine);
        assert_eq!(machine.walk(0, true).map(|leaf| leaf.address - OFFSET), Some(0x20_2000));
    });
}

#[test]
fn a_new_process_gets_the_tables_of_one_that_has_ended() {
    a_new_process_gets_the_tables_of_process_1(|machine| *machine.entry(root(1), 0) = 0);
}

#[test]
fn a_new_process_gets_the_tables_of_one_whose_root_is_no_root_any_more() {
    a_new_process_gets_the_tables_of_process_1(|machine| {
        (0..512).for_each(|at| *machine.entry(root(1), at) = 0x9_0000_0067 + ((at as u64) << 12));
    });
}

fn a_new_process_gets_the_tables_of_process_1(end: impl FnOnce(&mut Machine)) {
    with(processes(), |shadow, machine| {
        for process in 0..3 {
            enter(process, 1 + process as u64, shadow, machine);
            assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        }
        assert_eq!(shadow.fault(KERNEL, READ, machine), Outcome::Filled);
        let tables = shadow.statistics().tables;
        end(machine);
        machine.changes = 0;
        enter(3, 4, shadow, machine);
        let mapped = [0, 0x1000].map(|page| machine.walk(page, true).map(|leaf| leaf.address - OFFSET));
        assert_eq!(mapped, [Some(0x20_3000), Some(0x30_0000)]);
        assert_eq!(machine.changes, 1, "what all share still holds");
        assert_eq!(shadow.statistics().tables, tables);
        for process in [0, 2] {
            machine.changes = 0;
            shadow.load_root((root(process) as u64) << 12 | (1 + process as u64), true, machine);
            assert_eq!(machine.changes, 0, "those that run keep theirs");
        }
    });
}

#[test]
fn a_large_page_is_flushed_by_any_address_in_it() {
    // The table (3: of 1 GB pages; 4: of 2 MB), where the page is (at 0 there is no ready-made
    // table), an address in it.
    for (table, base, other) in [(4, 0, 0x1000), (3, 0, 0x1000), (3, 0, 0x40_0000), (4, 0x20_0000, 0x5000)] {
        for half in [0, KERNEL] {
            let mut machine = guest();
            *machine.entry(table, 0) = base | ALL | 0x80;
            with(machine, |shadow, machine| {
                assert_eq!(shadow.fault(half, READ, machine), Outcome::Filled);
                assert!(shadow.prefill(half + other + 0x2_0000, machine));
                *machine.entry(table, 0) = 0;
                shadow.flush_page(half + other, machine);
                assert_eq!(machine.walk(half, false), None, "table {table}, base {base:x}, by {other:x}");
                assert_eq!(machine.walk(half + other + 0x2_0000, false), None);
            });
        }
    }
}

#[test]
fn user_mode_loses_a_slot_with_a_supervisor_page() {
    let mut machine = guest();
    *machine.entry(5, 0) = 0x20_0000 | ALL;
    *machine.entry(5, 1) = 0x20_1000 | (ALL & !4);
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        assert!(machine.access(0, false, true, false).is_some());
        assert_eq!(shadow.fault(0x1000, READ, machine), Outcome::Filled);
        assert_eq!(machine.flushes, [Flush::All]);
        assert_eq!(machine.walk(0, true), None);
        assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        assert!(machine.walk(0, true).is_some());
        assert_eq!(machine.walk(0x1000, false), None);
        assert_eq!(shadow.fault(0x1000, USER, machine), Outcome::Fault { error: 5 });
    });
}

#[test]
fn a_page_that_is_replaced_is_flushed() {
    let mut machine = guest();
    *machine.entry(5, 0) = 0x20_0000 | (ALL & !2);
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        *machine.entry(5, 0) = 0x20_1000 | ALL;
        assert_eq!(shadow.fault(0, Access { write: true, ..USER }, machine), Outcome::Filled);
        assert_eq!(machine.flushes, [Flush::Page(0)], "the other root may know it, too");
    });
}

#[test]
fn the_low_half_makes_room_for_the_kernel() {
    // Two roots, the table that has the window, and three for a page.
    let mut machine = guest_with(6);
    *machine.entry(5, 0) = 0x20_0000 | ALL;
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(0, USER, machine), Outcome::Filled);
        assert_eq!(shadow.fault(KERNEL, READ, machine), Outcome::Filled);
        assert_eq!(machine.flushes, [Flush::All]);
        assert_eq!((machine.walk(0, true), machine.walk(0, false)), (None, None));
        shadow.hold(KERNEL);
        assert_eq!(shadow.fault(0, USER, machine), Outcome::OutOfTables);
        assert!(machine.walk(KERNEL, false).is_some(), "the stack in use stays");
        assert_eq!(shadow.require(0, false, machine), Err(OutOfTables));
    });
}

/// As [`guest`], with 8 pages in 8 parts of 2 MB, which each take a level-1 table.
fn guest_with_parts(pool: usize) -> Machine {
    let mut machine = guest_with(pool);
    (0..8).for_each(|part| *machine.entry(4, part) = 0x5000 | ALL);
    *machine.entry(5, 0) = 0x20_0000 | ALL;
    machine
}

#[test]
fn what_was_filled_last_goes_last_whosever_it_is() {
    // Two roots, the table that has the window, two tables of each half, and 6 of level 1.
    with(guest_with_parts(13), |shadow, machine| {
        for part in 0..3 {
            assert_eq!(shadow.fault(part << 21, USER, machine), Outcome::Filled);
            assert_eq!(shadow.fault(KERNEL + (part << 21), READ, machine), Outcome::Filled);
        }
        // In this order they will go.
        assert_eq!(shadow.require(0, false, machine), Ok(true));
        assert_eq!(shadow.require(KERNEL, false, machine), Ok(true));
        machine.flushes.clear();
        for part in 3..8 {
            assert_eq!(shadow.fault(part << 21, USER, machine), Outcome::Filled);
            assert!(machine.walk(part << 21, false).is_some());
        }
        let statistics = shadow.statistics();
        assert!(statistics.evictions > 0 && statistics.kernel_evictions > 0, "{statistics:?}");
    });
}

#[test]
fn what_is_required_stays_while_more_is() {
    let stacks: [u64; 4] = [0, 2, 4, 6].map(|part| KERNEL + (part << 21));
    with(guest_with_parts(11), |shadow, machine| {
        for turn in 0..20 {
            assert_eq!(shadow.fault((turn % 8) << 21, USER, machine), Outcome::Filled);
            for stack in stacks {
                assert_eq!(shadow.require(stack, true, machine), Ok(true));
            }
            assert!(stacks.iter().all(|&stack| machine.walk(stack, false).is_some()), "in turn {turn}");
        }
    });
}

/// The kernel's part has filled the pool; a program works in more parts than are left. Then what
/// the kernel no longer uses goes, instead of what the program uses; and the other way round.
#[test]
fn what_is_used_gets_the_tables_in_the_end() {
    const TURNS: u64 = 200;
    for (idle, busy) in [(KERNEL, 0), (0, KERNEL)] {
        with(guest_with_parts(13), |shadow, machine| {
            let mut reach = |shadow: &mut Shadow<'_>, address| {
                if machine.walk(address, false).is_none() {
                    assert_eq!(shadow.fault(address, READ, machine), Outcome::Filled);
                }
            };
            (0..8).for_each(|part| reach(shadow, idle + (part << 21)));
            let before = shadow.statistics().fills;
            (0..TURNS).for_each(|turn| reach(shadow, busy + ((turn % 5) << 21)));
            let fills = shadow.statistics().fills - before;
            assert!(fills <= 10, "{fills} fills for {TURNS} accesses");
        });
    }
}

#[test]
fn what_is_evicted_is_missing_until_it_is_filled_whoever_holds_it() {
    // A page of a table, and a page of 2 MB, by a ready-made table.
    for part in [0x5000 | ALL, 0x20_0000 | ALL & !4 | 0x80] {
        let mut machine = guest();
        *machine.entry(4, (KERNEL >> 21) as usize & 511) = part;
        *machine.entry(5, 0) = 0x20_0000 | ALL;
        with(machine, |shadow, machine| {
            assert_eq!(shadow.require(KERNEL, true, machine), Ok(true));
            shadow.hold(KERNEL);
            for count in 1..3 {
                machine.flushes.clear();
                shadow.evict(KERNEL, machine);
                assert_eq!((machine.walk(KERNEL, false), &machine.flushes[..]), (None, &[Flush::All][..]));
                shadow.evict(KERNEL, machine);
                assert_eq!(shadow.statistics().kernel_evictions, count, "there is nothing left to evict");
                assert_eq!(shadow.fault(KERNEL, READ, machine), Outcome::Filled);
                assert!(machine.walk(KERNEL, false).is_some());
            }
            shadow.evict(0, machine);
            shadow.evict(reserved(&LAYOUT)[2].start, machine);
            assert_eq!(shadow.statistics().evictions, 0);
        });
    }
}

#[test]
fn ahead_of_need_only_memory_is_mapped() {
    let mut machine = guest();
    for (page, frame) in [(0, 0x20_0000), (1, MEMORY_END), (2, DEVICES_END), (3, 0x20_3000)] {
        *machine.entry(5, page) = frame | ALL;
    }
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(KERNEL, READ, machine), Outcome::Filled);
        let mapped = [0, 1, 2, 3].map(|page| machine.walk(KERNEL + (page << 12), false).is_some());
        assert_eq!(mapped, [true, false, false, true]);
        assert!(!shadow.prefill(KERNEL + 0x1000, machine) && !shadow.prefill(KERNEL + 0x2000, machine));
        assert_eq!(shadow.require(KERNEL + 0x1000, false, machine), Ok(true), "but whoever needs it gets it");
        assert_eq!(shadow.fault(KERNEL + 0x2000, READ, machine), Outcome::Filled);
    });
}

#[test]
fn a_page_that_cannot_be_filled_ahead_drops_nothing() {
    let mut machine = guest_with(6);
    *machine.entry(5, 0) = 0x20_0000 | ALL;
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(KERNEL, READ, machine), Outcome::Filled);
        assert!(!shadow.prefill(0, machine));
        assert!(machine.walk(KERNEL, false).is_some());
    });
}

#[test]
fn a_kernel_page_that_is_split_stays_mapped() {
    const PART: usize = (KERNEL >> 21) as usize & 511;
    let mut machine = guest();
    *machine.entry(4, PART) = 0x20_0000 | ALL & !4 | 0x80;
    with(machine, |shadow, machine| {
        assert_eq!(shadow.fault(KERNEL, READ, machine), Outcome::Filled);
        *machine.entry(4, PART) = 0x5000 | ALL;
        (0..512)
            .filter(|page| page % 7 != 0)
            .for_each(|page| *machine.entry(5, page) = 0x20_0000 | (page as u64) << 12 | 0x63);
        shadow.flush_all(true, machine);
        for page in 0..512 {
            assert_eq!(machine.walk(KERNEL + page * 0x1000, false).is_some(), page % 7 != 0, "{page}");
        }
    });
}
