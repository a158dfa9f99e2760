//! Modules on page tables, as Linux makes and frees them.

extern crate std;

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;
use std::vec::Vec;

use annotate::check::Contradiction;
use annotate::instructions::Class;
use annotate::record::{AllegedSite, Flags, LiveFlags, NOTE_NAME, RECORD_SIZE, RawRecord, VERSION};
use proptest::prelude::*;

use super::*;
use crate::sites::Reason;

const RANGE: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
const CORE: u64 = RANGE.start + 0x1000;
const INIT: u64 = RANGE.start + 0x8000;
const ROOT: u64 = 0x1000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const ACCESSED: u64 = 1 << 5;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Rights of pages.
const DATA: u64 = PRESENT | WRITABLE | NO_EXECUTE;
const CONSTANT: u64 = PRESENT | NO_EXECUTE;
const TEXT: u64 = PRESENT;

/// Page tables, and the pages that they lead to.
struct Memory {
    tables: BTreeMap<u64, Box<[AtomicU64; 512]>>,
    pages: BTreeMap<u64, Box<[u8; 4096]>>,
    next: u64,
}

fn table() -> Box<[AtomicU64; 512]> {
    Box::new([const { AtomicU64::new(0) }; 512])
}

impl Memory {
    fn new() -> Self {
        Self { tables: BTreeMap::from([(ROOT, table())]), pages: BTreeMap::new(), next: 0x10_0000 }
    }

    fn entry(&mut self, address: u64) -> &AtomicU64 {
        self.entry_at(address, 0)
    }

    fn entry_at(&mut self, address: u64, lowest: u64) -> &AtomicU64 {
        let mut at = ROOT;
        for level in (lowest + 1..=3).rev() {
            let index = (address >> (12 + 9 * level) & 511) as usize;
            let mut found = self.tables[&at][index].load(Ordering::Relaxed);
            if found == 0 {
                self.next += 0x1000;
                self.tables.insert(self.next, table());
                found = self.next | PRESENT | WRITABLE;
                self.tables[&at][index].store(found, Ordering::Relaxed);
            }
            at = found & !0xfff;
        }
        &self.tables[&at][(address >> (12 + 9 * lowest) & 511) as usize]
    }

    /// Allocates memory, and fills it.
    fn map(&mut self, address: u64, bytes: &[u8]) {
        for (number, part) in bytes.chunks(4096).enumerate() {
            self.next += 0x1000;
            let (frame, mut page) = (self.next, Box::new([0; 4096]));
            page[..part.len()].copy_from_slice(part);
            self.pages.insert(frame, page);
            self.entry(address + 4096 * number as u64).store(frame | DATA, Ordering::Relaxed);
        }
    }

    fn set(&mut self, range: Range<u64>, rights: u64) {
        for page in range.step_by(4096) {
            let entry = self.entry(page);
            let frame = entry.load(Ordering::Relaxed) & 0xf_ffff_ffff_f000;
            entry.store(frame | rights, Ordering::Relaxed);
        }
    }

    fn unmap(&mut self, range: Range<u64>) {
        self.set(range.clone(), 0);
        range.step_by(4096).for_each(|page| self.entry(page).store(0, Ordering::Relaxed));
    }
}

impl ModuleMemory for Memory {
    fn table(&mut self, _: u8, physical: u64) -> Option<&[AtomicU64; 512]> {
        self.tables.get(&physical).map(|table| &**table)
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; 4096]> {
        self.pages.get(&physical).map(|page| &**page)
    }
}

#[derive(Default)]
struct Sites {
    taken: BTreeSet<u64>,
    /// Where something else stands than a record alleges.
    others: BTreeSet<u64>,
}

impl Rewriter for Sites {
    fn add(&mut self, site: &AllegedSite) -> Result<Result<(), Left>, Reason> {
        if self.others.contains(&site.address) {
            return Err(Reason::Contradiction(Contradiction::Class(None)));
        }
        assert!(self.taken.insert(site.address), "{:#x} is taken twice", site.address);
        Ok(Ok(()))
    }

    fn forget(&mut self, range: &Range<u64>) {
        self.taken.retain(|site| !range.contains(site));
    }
}

fn record(field: u64, site: u64, flags: Flags) -> RawRecord {
    RawRecord {
        site: i32::try_from(site.wrapping_sub(field).cast_signed()).unwrap(),
        length: 1,
        slot: 5,
        class: Class::Cli as u8,
        live_flags: LiveFlags::all().bits(),
        live_registers: 0xffff,
        flags: flags.bits(),
    }
}

fn note(at: u64, sites: &[(u64, Flags)]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [12, u32::try_from(sites.len() * RECORD_SIZE).unwrap(), VERSION] {
        note.extend(word.to_le_bytes());
    }
    note.extend(NOTE_NAME);
    for (site, flags) in sites {
        note.extend(record(at + note.len() as u64, *site, *flags).to_bytes());
    }
    note
}

/// The wedge's side.
struct Watched {
    modules: Modules<'static>,
    sites: Sites,
    events: Vec<Event>,
}

impl Watched {
    fn new() -> Self {
        let regions = Box::leak(vec![Region::EMPTY; REGIONS].into_boxed_slice());
        Self { modules: Modules::new(RANGE, regions), sites: Sites::default(), events: Vec::new() }
    }

    fn look(&mut self, memory: &mut Memory) -> bool {
        let Self { modules, sites, events } = self;
        modules.look(ROOT, memory, sites, |event| events.push(event.clone()))
    }

    /// Sites that are taken now.
    fn taken(&self) -> Vec<u64> {
        self.sites.taken.iter().copied().collect()
    }

    fn left(&self) -> Vec<(u32, &'static str)> {
        self.modules.tally().left().collect()
    }
}

/// A module: where its sections are. In the first page of each text a site at 0x10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Module {
    text: u64,
    constant: u64,
    data: u64,
    init: u64,
}

impl Module {
    /// As before Linux 6.4: all that stays is one allocation.
    const fn in_one_piece(at: u64, init: u64) -> Self {
        Self { text: at, constant: at + 0x1000, data: at + 0x2000, init }
    }

    /// As since then: each its own.
    const fn in_pieces(at: u64) -> Self {
        Self { text: at, constant: at + 0x2000, data: at + 0x4000, init: at + 0x6000 }
    }

    fn sites(self) -> [(u64, Flags); 2] {
        [(self.text + 0x10, Flags::empty()), (self.init + 0x10, Flags::INIT)]
    }

    fn allocate(self, memory: &mut Memory, records: &[(u64, Flags)]) {
        // In two notes, as of two objects.
        let (first, rest) = records.split_at(1);
        let mut constant = vec![0; 0x100];
        constant.extend(note(self.constant + 0x100, first));
        constant.extend(note(self.constant + constant.len() as u64, rest));
        for (section, bytes) in [(self.text, &[0; 4096][..]), (self.constant, &constant), (self.data, &[0; 4096])] {
            memory.map(section, bytes);
        }
        memory.map(self.init, &[0; 4096]);
    }

    /// `complete_formation` of Linux's kernel/module: read-only, then executable, with a flush
    /// after each change.
    fn complete(self, memory: &mut Memory, watched: &mut Watched) {
        for (section, rights) in [
            (self.text, CONSTANT),
            (self.constant, CONSTANT),
            (self.init, CONSTANT),
            (self.text, TEXT),
            (self.init, TEXT),
        ] {
            memory.set(section..section + 0x1000, rights);
            watched.look(memory);
        }
    }

    fn load(self, memory: &mut Memory, watched: &mut Watched) {
        self.allocate(memory, &self.sites());
        self.complete(memory, watched);
    }

    fn free_init(self, memory: &mut Memory, watched: &mut Watched) {
        memory.unmap(self.init..self.init + 0x1000);
        watched.look(memory);
    }

    fn unload(self, memory: &mut Memory, watched: &mut Watched) {
        for section in [self.text, self.constant, self.data] {
            memory.unmap(section..section + 0x1000);
            watched.look(memory);
        }
    }
}

fn start() -> (Memory, Watched) {
    (Memory::new(), Watched::new())
}

#[test]
fn a_module_is_followed_through_its_life() {
    for module in [Module::in_one_piece(CORE, INIT), Module::in_pieces(CORE)] {
        let (mut memory, mut watched) = start();
        module.allocate(&mut memory, &module.sites());
        watched.look(&mut memory);
        assert_eq!(watched.taken(), [], "it is not executable yet");
        module.complete(&mut memory, &mut watched);
        assert_eq!(watched.taken(), [module.text + 0x10, module.init + 0x10]);
        assert!(!watched.look(&mut memory), "nothing is done twice");
        module.free_init(&mut memory, &mut watched);
        assert_eq!(watched.taken(), [module.text + 0x10]);
        module.unload(&mut memory, &mut watched);
        assert_eq!(watched.taken(), []);
        assert_eq!(watched.events, []);
        assert_eq!(watched.modules.claimed, 0);
    }
}

#[test]
fn all_at_once_is_as_well() {
    let (mut memory, mut watched) = start();
    let module = Module::in_pieces(CORE);
    module.allocate(&mut memory, &module.sites());
    for (section, rights) in [(module.text, TEXT), (module.constant, CONSTANT), (module.init, TEXT)] {
        memory.set(section..section + 0x1000, rights);
    }
    watched.look(&mut memory);
    assert_eq!(watched.taken(), [module.text + 0x10, module.init + 0x10]);
}

/// The records of the first still speak of its initialising text when the second's text lies there.
#[test]
fn records_outlive_their_text_but_say_nothing_of_what_comes_after() {
    for next in
        [Module::in_one_piece(INIT, INIT + 0x8000), Module { text: INIT, ..Module::in_pieces(INIT + 0x10_0000) }]
    {
        let (mut memory, mut watched) = start();
        let first = Module::in_one_piece(CORE, INIT);
        first.load(&mut memory, &mut watched);
        first.free_init(&mut memory, &mut watched);
        let site = next.text + 0x20;
        next.allocate(&mut memory, &[(site, Flags::empty())]);
        next.complete(&mut memory, &mut watched);
        assert_eq!(watched.taken(), [first.text + 0x10, site], "not the first's {:#x}", first.init + 0x10);
        assert_eq!(watched.events, []);
    }
}

#[test]
fn a_wrong_record_costs_one_site() {
    let (mut memory, mut watched) = start();
    let module = Module::in_pieces(CORE);
    let records = [module.text + 0x10, module.text + 0x20, module.text + 0x30, RANGE.start + 0x50_0000];
    module.allocate(&mut memory, &records.map(|site| (site, Flags::empty())));
    watched.sites.others.insert(records[1]);
    module.complete(&mut memory, &mut watched);
    assert_eq!(watched.taken(), [records[0], records[2]]);
    let told: Vec<_> = watched.events.iter().map(|event| format!("{event}")).collect();
    assert_eq!(
        told,
        [
            "module text at 0xffffffffa0003100: 0 sites rewritten, left as they are: 1, not in a module's text; the first \
             is 0xffffffffa0500000: the site is not in the text",
            "module text at 0xffffffffa0001000: 2 sites rewritten, left as they are: 1, other text than the record's, as \
             behind an alternative; the first is 0xffffffffa0001020: the instruction there is not sensitive",
        ]
    );
    module.free_init(&mut memory, &mut watched);
    module.unload(&mut memory, &mut watched);
    assert_eq!(watched.left().len(), 2, "the account stays");
}

#[test]
fn what_may_be_written_to_is_no_record_unless_the_text_may_be_too() {
    let (mut memory, mut watched) = start();
    let module = Module::in_one_piece(CORE, INIT);
    module.allocate(&mut memory, &module.sites());
    memory.set(module.text..module.text + 0x1000, TEXT);
    watched.look(&mut memory);
    assert_eq!(watched.taken(), []);
    memory.unmap(module.text..module.text + 0x1000);
    watched.look(&mut memory);

    // A kernel with `rodata=off`.
    memory.map(module.text, &[0; 4096]);
    for text in [module.text, module.init] {
        memory.set(text..text + 0x1000, TEXT | WRITABLE);
        watched.look(&mut memory);
    }
    assert_eq!(watched.taken(), [module.text + 0x10, module.init + 0x10]);
    assert_eq!(watched.events, []);

    let lonely = INIT + 0x1_0000..INIT + 0x1_1000;
    memory.map(lonely.start, &[0; 4096]);
    memory.set(lonely.clone(), TEXT | WRITABLE);
    watched.look(&mut memory);
    assert_eq!(watched.events, [Event::Writable { text: lonely }]);
}

/// Another processor flushes while the rights of a module's pages are being changed, one after the
/// other.
#[test]
fn pages_that_change_one_by_one_are_put_together() {
    let (mut memory, mut watched) = start();
    let (text, constant) = (CORE, CORE + 0x4000);
    let sites = [text + 0xffe, text + 0x1800, text + 0x10];
    for cut in [0xff4, 0xffc, 0xfe8, 0xfd0] {
        memory.map(text, &[0; 0x2000]);
        let mut bytes = vec![0; cut];
        bytes.extend(note(constant + cut as u64, &sites.map(|site| (site, Flags::empty()))));
        bytes.resize(0x2000, 0);
        memory.map(constant, &bytes);
        for (page, rights) in [(constant, CONSTANT), (constant + 0x1000, CONSTANT), (text, TEXT), (text + 0x1000, TEXT)]
        {
            assert_eq!(
                watched.taken().len(),
                usize::from(page == text + 0x1000),
                "{cut:#x}: a slot in two pages waits"
            );
            memory.set(page..page + 0x1000, rights);
            watched.look(&mut memory);
        }
        assert_eq!(watched.taken(), [sites[2], sites[0], sites[1]], "{cut:#x}");
        memory.unmap(text..text + 0x2000);
        memory.unmap(constant..constant + 0x2000);
        watched.look(&mut memory);
        assert_eq!(watched.taken(), []);
    }
}

#[test]
fn there_may_be_as_many_as_there_is_room_for() {
    let (mut memory, mut watched) = start();
    let modules: Vec<_> = (0..1000).map(|number| Module::in_pieces(RANGE.start + number * 0x1_0000)).collect();
    for module in &modules {
        module.load(&mut memory, &mut watched);
        module.free_init(&mut memory, &mut watched);
    }
    assert_eq!(watched.taken().len(), modules.len());
    for module in modules.iter().step_by(2).chain(modules.iter().skip(1).step_by(2)) {
        module.unload(&mut memory, &mut watched);
    }
    assert_eq!(watched.taken(), []);
    assert_eq!(watched.events, []);
}

#[test]
fn claims_that_are_given_up_are_told_of() {
    let (mut memory, mut watched) = start();
    let modules: Vec<_> =
        (0..=CLAIMS as u64 / 2).map(|number| Module::in_pieces(RANGE.start + number * 0x1_0000)).collect();
    for module in &modules {
        module.allocate(&mut memory, &module.sites());
        memory.set(module.constant..module.constant + 0x1000, CONSTANT);
        watched.look(&mut memory);
    }
    assert_eq!(watched.events.len(), 2);
    assert_eq!(watched.left(), [(2, "too many modules loaded at once")]);
    for module in &modules {
        memory.set(module.text..module.text + 0x1000, TEXT);
    }
    watched.look(&mut memory);
    assert_eq!(watched.taken().len(), modules.len() - 1);
}

/// While the sites are switched off nobody looks.
#[test]
fn after_a_gap_everything_is_found_anew_but_for_what_only_initialised() {
    let (mut memory, mut watched) = start();
    let modules: Vec<_> = (0..200).map(|number| Module::in_pieces(RANGE.start + number * 0x1_0000)).collect();
    for module in &modules {
        module.load(&mut memory, &mut watched);
        module.free_init(&mut memory, &mut watched);
    }
    // Where the first module's initialising text was lies other text, and nobody has seen it come.
    memory.map(modules[0].init, &[0; 4096]);
    memory.set(modules[0].init..modules[0].init + 0x1000, TEXT);
    watched.sites.taken.clear();
    watched.modules.forget();
    watched.look(&mut memory);
    let expected: Vec<_> = modules.iter().map(|module| module.text + 0x10).collect();
    assert_eq!(watched.taken(), expected);
    assert_eq!(watched.modules.claimed, 0);
    assert_eq!(watched.events, []);
}

#[test]
fn a_large_page_is_many_small_ones() {
    let (mut memory, mut watched) = start();
    let (text, constant) = (RANGE.start, RANGE.start + REGION);
    let frame = 0x4000_0000;
    memory.pages.insert(frame + 0x1_0000, Box::new([0; 4096]));
    memory.map(constant, &note(constant, &[(text + 0x1_0010, Flags::empty())]));
    memory.entry_at(text, 1).store(frame | CONSTANT | LARGE | 1 << 12, Ordering::Relaxed);
    memory.set(constant..constant + 0x1000, CONSTANT);
    watched.look(&mut memory);
    memory.entry_at(text, 1).store(frame | TEXT | LARGE | 1 << 12, Ordering::Relaxed);
    watched.look(&mut memory);
    assert_eq!(watched.taken(), [text + 0x1_0010]);
    let page = Tables { root: ROOT, memory: &mut memory }.page(text + 0x1_0010).unwrap();
    assert_eq!((page.physical, page.executable, page.writable), (frame + 0x1_0000, true, false));
}

#[test]
fn a_look_at_what_has_not_changed_does_nothing() {
    let (mut memory, mut watched) = start();
    assert!(!watched.look(&mut memory));
    let module = Module::in_pieces(CORE);
    module.load(&mut memory, &mut watched);
    memory.set(module.text..module.text + 0x1000, TEXT | ACCESSED);
    memory.map(module.data + 0x1_0000, &[0; 4096]);
    assert!(!watched.look(&mut memory));
}

#[test]
fn a_right_that_is_withheld_above_is_withheld_below() {
    let (mut memory, mut watched) = start();
    memory.map(CORE, &[0; 4096]);
    memory.set(CORE..CORE + 0x1000, TEXT | WRITABLE);
    let entry = memory.entry_at(CORE, 1);
    entry.store(entry.load(Ordering::Relaxed) & !WRITABLE | NO_EXECUTE, Ordering::Relaxed);
    assert!(watched.look(&mut memory));
    let (watch, bit) = watched.modules.watch(CORE).unwrap();
    assert_eq!((watch.now.executable & bit, watch.now.constant & bit), (0, bit));
}

#[test]
fn notes_of_others_are_not_ours() {
    let mut memory = Memory::new();
    let found = |memory: &mut Memory, bytes: &[u8]| {
        memory.map(CORE, bytes);
        let range = CORE..CORE + bytes.len() as u64;
        notes::find(&mut Tables { root: ROOT, memory }, &range)
    };
    let ours = note(CORE, &[(CORE, Flags::empty())]);
    let length = ours.len() as u64;
    assert_eq!(found(&mut memory, &ours), Ok(CORE..CORE + length));
    for (offset, byte) in [(0, 13), (8, 2), (12, b'X'), (4, 13)] {
        let mut other = ours.clone();
        other[offset] = byte;
        assert_eq!(found(&mut memory, &other), Err(None), "byte {offset}");
    }
    assert_eq!(found(&mut memory, &ours[..ours.len() - 1]), Err(Some(CORE)), "cut short");
    assert_eq!(found(&mut memory, &[vec![0; 8], ours.clone()].concat()), Ok(CORE + 8..CORE + 8 + length));
    let apart = [ours.clone(), vec![0; 8], ours.clone()].concat();
    assert_eq!(found(&mut memory, &apart), Ok(CORE..CORE + length), "the others come next");
}

/// A module in one of a few places, in a stage of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Loaded(Module),
    Initialised(Module),
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_leave_the_text(
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        at in 0..400_usize,
        size in 0..64_u32,
    ) {
        let (mut memory, mut watched) = start();
        let mut bytes = bytes;
        let at = at / 4 * 4;
        bytes.resize(bytes.len().max(at + 24), 0);
        for (number, word) in [12, size, VERSION].into_iter().enumerate() {
            bytes[at + 4 * number..][..4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[at + 12..at + 24].copy_from_slice(NOTE_NAME);
        memory.map(CORE, &[0; 4096]);
        memory.map(CORE + 0x1000, &bytes);
        memory.set(CORE + 0x1000..CORE + 0x2000, CONSTANT);
        watched.look(&mut memory);
        memory.set(CORE..CORE + 0x1000, TEXT);
        watched.look(&mut memory);
        prop_assert!(watched.sites.taken.iter().all(|site| (CORE..CORE + 0x1000).contains(site)));
    }

    /// The kernel puts each allocation where there is room, at random; what is taken is what is
    /// there.
    #[test]
    fn modules_come_and_go_in_any_order(steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 1..60)) {
        let (mut memory, mut watched) = start();
        let mut lives: Vec<Life> = Vec::new();
        let mut free: Vec<u64> = (0..12).map(|place| RANGE.start + place * 0x4000).collect();
        let mut expected = BTreeSet::new();
        for (what, which, in_pieces) in steps {
            let chosen = if lives.is_empty() { 0 } else { usize::from(which) % lives.len() };
            let needed = if in_pieces { 4 } else { 2 };
            match (what % 3, lives.get(chosen).copied()) {
                (0, _) if free.len() >= needed => {
                    let mut place = || free.swap_remove(usize::from(which) % free.len());
                    let module = if in_pieces {
                        Module { text: place(), constant: place(), data: place(), init: place() }
                    } else {
                        let (core, init) = (place(), place());
                        Module::in_one_piece(core, init)
                    };
                    module.load(&mut memory, &mut watched);
                    expected.extend(module.sites().map(|(site, _)| site));
                    lives.push(Life::Loaded(module));
                }
                (1, Some(Life::Loaded(module))) => {
                    module.free_init(&mut memory, &mut watched);
                    expected.remove(&(module.init + 0x10));
                    free.push(module.init);
                    lives[chosen] = Life::Initialised(module);
                }
                (2, Some(Life::Initialised(module))) => {
                    module.unload(&mut memory, &mut watched);
                    expected.remove(&(module.text + 0x10));
                    let sections = [module.text, module.constant, module.data];
                    free.extend(sections.into_iter().filter(|section| section % 0x4000 == 0));
                    lives.swap_remove(chosen);
                }
                _ => {}
            }
            prop_assert_eq!(&watched.sites.taken, &expected);
            prop_assert_eq!(&watched.events, &[]);
        }
    }
}
