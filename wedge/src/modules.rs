//! Finds text that the kernel loads while it runs, and the records that came with it.
//!
//! A kernel does not tell anybody when it loads a module, and nothing in its source is to be changed. But a processor cannot
//! execute what its page tables do not let it, and a kernel that changes page tables flushes the TLB, which is a site. So at
//! every flush the wedge looks at the range that modules are loaded to, as *runs* of mapped pages (the allocator leaves a
//! hole between two allocations):
//!
//! * A run that has just become executable has its final text: relocated, alternatives applied, not yet executed. The notes
//!   with its records lie in a run of their own module, this one or, for the part of a module that is freed after it was
//!   initialised, one that was found before. Sites in the run are rewritten.
//! * A run that is gone, or whose first page has become another one, takes its sites with it.
//!
//! The records are allegations like all others. One that does not hold makes the wedge leave the whole run as it is: it can
//! still run on its NOPs.

use core::ops::Range;

use annotate::record::{AllegedSite, NOTE_NAME, RECORD_SIZE, RawRecord, VERSION};

use crate::rewrite;
use crate::sites::Reason;

/// Mapped pages without a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first byte.
    pub start: u64,
    /// The address behind the last byte.
    pub end: u64,
    /// Physical address of the first page: another one is another run.
    pub frame: u64,
    /// Whether any of the pages may be executed.
    pub executable: bool,
}

impl Run {
    const NONE: Self = Self { start: 0, end: 0, frame: 0, executable: false };

    fn range(&self) -> Range<u64> {
        self.start..self.end
    }
}

/// The guest's memory in the range of its modules.
pub trait ModuleMemory {
    /// The first run at or behind `from` and before `to`.
    fn next_run(&mut self, from: u64, to: u64) -> Option<Run>;

    /// The bytes of a run.
    fn bytes(&mut self, run: &Run) -> &[u8];
}

/// What becomes of sites that are found and lost.
pub trait Rewriter {
    /// Rewrites a site whose record holds. Returns whether it could.
    fn add(&mut self, site: &AllegedSite) -> bool;

    /// The text in a range is gone.
    fn forget(&mut self, range: &Range<u64>);
}

/// What was found out in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Sites of new text were rewritten.
    Rewritten {
        /// Address of the run.
        start: u64,
        /// How many sites.
        sites: usize,
        /// Of how many records.
        records: usize,
    },
    /// New text is left as it is.
    Refused {
        /// Address of the run.
        start: u64,
        /// The site that the record alleges.
        site: u64,
        /// What is wrong with it.
        reason: Reason,
    },
    /// There are more runs than can be remembered.
    TooMany,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    run: Run,
    /// The notes in it; empty if it has none.
    notes: (u64, u64),
    /// Still there at this look.
    seen: bool,
}

/// The runs that are known.
#[derive(Debug)]
pub struct Modules {
    range: Range<u64>,
    known: [Known; Self::CAPACITY],
    count: usize,
}

impl Modules {
    /// Runs that can be remembered.
    pub const CAPACITY: usize = 256;

    /// Nothing is known of this range of addresses yet.
    #[must_use]
    pub const fn new(range: Range<u64>) -> Self {
        Self { range, known: [Known { run: Run::NONE, notes: (0, 0), seen: false }; Self::CAPACITY], count: 0 }
    }

    /// Looks at the range again.
    pub fn look(&mut self, memory: &mut impl ModuleMemory, rewriter: &mut impl Rewriter, mut tell: impl FnMut(Event)) {
        self.drop_vanished(memory, rewriter);
        let mut from = self.range.start;
        while let Some(run) = memory.next_run(from, self.range.end) {
            from = run.end;
            let place = self.known[..self.count].iter().position(|known| known.run.start == run.start);
            if place.is_some_and(|place| self.known[place].run.executable == run.executable) {
                continue;
            }
            let Some(place) = place.or_else(|| self.remember(run)) else {
                tell(Event::TooMany);
                return;
            };
            self.known[place].run = run;
            if run.executable {
                self.known[place].notes = find_notes(memory.bytes(&run))
                    .map_or((0, 0), |(start, end)| (run.start + start as u64, run.start + end as u64));
                self.rewrite(&run, memory, rewriter, &mut tell);
            }
        }
    }

    fn drop_vanished(&mut self, memory: &mut impl ModuleMemory, rewriter: &mut impl Rewriter) {
        for known in &mut self.known[..self.count] {
            let now = memory.next_run(known.run.start, known.run.start + 1);
            known.seen = now.is_some_and(|now| {
                (now.start, now.end, now.frame) == (known.run.start, known.run.end, known.run.frame)
            });
            if !known.seen && known.run.executable {
                rewriter.forget(&known.run.range());
            }
        }
        let mut place = 0;
        while place < self.count {
            if self.known[place].seen {
                place += 1;
            } else {
                self.count -= 1;
                self.known[place] = self.known[self.count];
            }
        }
    }

    fn remember(&mut self, run: Run) -> Option<usize> {
        *self.known.get_mut(self.count)? = Known { run, notes: (0, 0), seen: true };
        self.count += 1;
        Some(self.count - 1)
    }

    /// Rewrites the sites in a run, whose records may be in this or any other.
    fn rewrite(
        &self,
        run: &Run,
        memory: &mut impl ModuleMemory,
        rewriter: &mut impl Rewriter,
        tell: &mut impl FnMut(Event),
    ) {
        let mut records = 0;
        if let Err((site, reason)) = self.each_site(run, memory, |_| records += 1) {
            return tell(Event::Refused { start: run.start, site, reason });
        }
        let mut sites = 0;
        let again = self.each_site(run, memory, |site| sites += usize::from(rewriter.add(&site)));
        match again {
            Ok(()) if records == 0 => {}
            Ok(()) => tell(Event::Rewritten { start: run.start, sites, records }),
            Err((site, reason)) => tell(Event::Refused { start: run.start, site, reason }),
        }
    }

    /// Every site in a run, after it was held against its bytes.
    fn each_site(
        &self,
        run: &Run,
        memory: &mut impl ModuleMemory,
        mut visit: impl FnMut(AllegedSite),
    ) -> Result<(), (u64, Reason)> {
        for known in self.known[..self.count].iter().filter(|known| known.notes.0 != known.notes.1) {
            let mut address = known.notes.0;
            while address < known.notes.1 {
                let offset = usize::try_from(address - known.run.start).unwrap_or(usize::MAX);
                let Some(note) = memory.bytes(&known.run).get(offset..).and_then(Note::read) else { break };
                for number in 0..note.records {
                    let place = offset + note.first + number * RECORD_SIZE;
                    let Some(bytes) = memory.bytes(&known.run).get(place..).and_then(|bytes| bytes.first_chunk())
                    else {
                        break;
                    };
                    let record = RawRecord::from_bytes(bytes);
                    let site = (known.run.start + place as u64).wrapping_add_signed(record.distance());
                    if run.range().contains(&site) {
                        let text = memory.bytes(run);
                        visit(check_record(record, site, run, text).map_err(|reason| (site, reason))?);
                    }
                }
                address += note.length as u64;
            }
        }
        Ok(())
    }
}

fn check_record(record: RawRecord, site: u64, run: &Run, text: &[u8]) -> Result<AllegedSite, Reason> {
    let alleged = record.allegation(site).map_err(Reason::Record)?;
    let offset = usize::try_from(site - run.start).map_err(|_| Reason::OutOfText)?;
    let slot = text.get(offset..).and_then(|text| text.get(..alleged.slot.into())).ok_or(Reason::OutOfText)?;
    rewrite::check(&alleged, slot).map_err(Reason::Contradiction)?;
    Ok(alleged)
}

/// One of our notes (ELF gABI, "Note Section": sizes of name and description, type, and both padded to 4 bytes).
#[derive(Clone, Copy, Debug)]
struct Note {
    /// Offset of the first record.
    first: usize,
    records: usize,
    /// The whole note.
    length: usize,
}

impl Note {
    const HEADER: usize = 12;

    /// The note that `bytes` start with, if it is one of ours and whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |offset: usize| Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?));
        let first = Self::HEADER + NOTE_NAME.len();
        let size = usize::try_from(word(4)?).ok()?;
        let whole = word(0)? == u32::try_from(NOTE_NAME.len()).ok()?
            && word(8)? == VERSION
            && bytes.get(Self::HEADER..first)? == NOTE_NAME
            && size.is_multiple_of(RECORD_SIZE)
            && bytes.len() - first >= size;
        whole.then_some(Self { first, records: size / RECORD_SIZE, length: first + size })
    }
}

/// The first and last offsets of the notes in a run: a module's come one after the other.
fn find_notes(bytes: &[u8]) -> Option<(usize, usize)> {
    let start = (0..bytes.len()).step_by(4).find(|offset| Note::read(&bytes[*offset..]).is_some())?;
    let mut end = start;
    while let Some(note) = bytes.get(end..).and_then(Note::read) {
        end += note.length;
    }
    Some((start, end))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use annotate::instructions::Class;
    use annotate::record::{Flags, LiveFlags};
    use proptest::prelude::*;

    use super::*;

    const RANGE: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_a010_0000;
    const CORE: u64 = RANGE.start + 0x1000;
    const INIT: u64 = RANGE.start + 0x8000;
    /// `cli` in a slot of 5, and `ret`.
    const CODE: [u8; 6] = [0xfa, 0x0f, 0x1f, 0x40, 0x00, 0xc3];
    const NOTES: usize = 0x100;

    /// Allocations by address.
    #[derive(Default)]
    struct Memory(BTreeMap<u64, (Run, Vec<u8>)>);

    impl Memory {
        fn map(&mut self, start: u64, frame: u64, executable: bool, bytes: &[u8]) {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
            let run = Run { start, end: start + bytes.len() as u64, frame, executable };
            self.0.insert(start, (run, bytes));
        }

        fn set_executable(&mut self, start: u64) {
            self.0.get_mut(&start).unwrap().0.executable = true;
        }
    }

    impl ModuleMemory for Memory {
        fn next_run(&mut self, from: u64, to: u64) -> Option<Run> {
            self.0.range(from..to).next().map(|(_, (run, _))| *run)
        }

        fn bytes(&mut self, run: &Run) -> &[u8] {
            &self.0[&run.start].1
        }
    }

    #[derive(Default)]
    struct Sites(Vec<u64>);

    impl Rewriter for Sites {
        fn add(&mut self, site: &AllegedSite) -> bool {
            self.0.push(site.address);
            true
        }

        fn forget(&mut self, range: &Range<u64>) {
            self.0.retain(|site| !range.contains(site));
        }
    }

    fn note(at: u64, sites: &[u64]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [12, u32::try_from(sites.len() * RECORD_SIZE).unwrap(), VERSION] {
            note.extend(word.to_le_bytes());
        }
        note.extend(NOTE_NAME);
        for site in sites {
            let field = at + note.len() as u64;
            let raw = RawRecord {
                site: i32::try_from(site.wrapping_sub(field).cast_signed()).unwrap(),
                length: 1,
                slot: 5,
                class: Class::Cli as u8,
                live_flags: LiveFlags::all().bits(),
                live_registers: 0xffff,
                flags: Flags::empty().bits(),
            };
            note.extend(raw.to_bytes());
        }
        note
    }

    /// A module with a site in each of its two parts, and two notes, as of two objects.
    fn module(memory: &mut Memory, frame: u64) {
        let mut core = CODE.to_vec();
        core.resize(NOTES, 0);
        core.extend(note(CORE + core.len() as u64, &[CORE]));
        core.extend(note(CORE + core.len() as u64, &[INIT]));
        memory.map(CORE, frame, false, &core);
        memory.map(INIT, frame + 0x10_0000, false, &CODE);
    }

    fn look(modules: &mut Modules, memory: &mut Memory, sites: &mut Sites) -> Vec<Event> {
        let mut events = Vec::new();
        modules.look(memory, sites, |event| events.push(event));
        events
    }

    fn rewritten(start: u64) -> Event {
        Event::Rewritten { start, sites: 1, records: 1 }
    }

    #[test]
    fn a_module_is_followed_through_its_life() {
        let (mut modules, mut memory, mut sites) = (Modules::new(RANGE), Memory::default(), Sites::default());
        module(&mut memory, 0x5000);
        assert_eq!(look(&mut modules, &mut memory, &mut sites), [], "it is not executable yet");
        memory.set_executable(CORE);
        assert_eq!(look(&mut modules, &mut memory, &mut sites), [rewritten(CORE)]);
        assert_eq!(sites.0, [CORE]);
        memory.set_executable(INIT);
        assert_eq!(look(&mut modules, &mut memory, &mut sites), [rewritten(INIT)]);
        assert_eq!(sites.0, [CORE, INIT]);
        assert_eq!(look(&mut modules, &mut memory, &mut sites), [], "and nothing is done twice");
        memory.0.remove(&INIT);
        assert_eq!(look(&mut modules, &mut memory, &mut sites), []);
        assert_eq!(sites.0, [CORE], "the initialising part was freed");
        memory.0.clear();
        assert_eq!(look(&mut modules, &mut memory, &mut sites), []);
        assert_eq!(sites.0, []);
    }

    #[test]
    fn another_module_at_the_same_place_is_another_module() {
        let (mut modules, mut memory, mut sites) = (Modules::new(RANGE), Memory::default(), Sites::default());
        for load in 0..1000 {
            module(&mut memory, load << 12);
            memory.set_executable(CORE);
            assert_eq!(look(&mut modules, &mut memory, &mut sites), [rewritten(CORE)]);
            assert_eq!(sites.0, [CORE]);
        }
    }

    #[test]
    fn a_wrong_record_leaves_the_whole_run_alone() {
        let (mut modules, mut memory, mut sites) = (Modules::new(RANGE), Memory::default(), Sites::default());
        let mut core = CODE.to_vec();
        core.resize(NOTES, 0);
        core.extend(note(CORE + core.len() as u64, &[CORE, CORE + 5]));
        memory.map(CORE, 0x5000, true, &core);
        let events = look(&mut modules, &mut memory, &mut sites);
        assert!(matches!(events[..], [Event::Refused { start: CORE, site, .. }] if site == CORE + 5), "{events:?}");
        assert_eq!(sites.0, []);
    }

    #[test]
    fn code_without_records_is_nothing_to_tell_of() {
        let (mut modules, mut memory, mut sites) = (Modules::new(RANGE), Memory::default(), Sites::default());
        memory.map(CORE, 0x5000, true, &CODE);
        assert_eq!(look(&mut modules, &mut memory, &mut sites), []);
        assert_eq!(sites.0, []);
    }

    #[test]
    fn more_runs_than_there_is_room_for_are_told_of() {
        let (mut modules, mut memory, mut sites) = (Modules::new(RANGE), Memory::default(), Sites::default());
        for number in 0..=Modules::CAPACITY as u64 / 2 {
            memory.map(RANGE.start + number * 0x2000, number << 12, true, &CODE);
        }
        assert_eq!(look(&mut modules, &mut memory, &mut sites), []);
        let wide = RANGE.start..RANGE.start + 0x1000_0000;
        let mut modules = Modules::new(wide.clone());
        for number in 0..=Modules::CAPACITY as u64 {
            memory.map(wide.start + number * 0x2000, number << 12, true, &CODE);
        }
        assert_eq!(look(&mut modules, &mut memory, &mut sites), [Event::TooMany]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_leave_the_run(
            bytes in prop::collection::vec(any::<u8>(), 1..600),
            at in 0..400usize,
            size in 0..64u32,
        ) {
            let (mut modules, mut memory, mut sites) = (Modules::new(RANGE), Memory::default(), Sites::default());
            let mut bytes = bytes;
            let at = at / 4 * 4;
            bytes.resize(bytes.len().max(at + 24), 0);
            for (number, word) in [12, size, VERSION].into_iter().enumerate() {
                bytes[at + 4 * number..][..4].copy_from_slice(&word.to_le_bytes());
            }
            bytes[at + 12..at + 24].copy_from_slice(NOTE_NAME);
            memory.map(CORE, 0x5000, true, &bytes);
            look(&mut modules, &mut memory, &mut sites);
            let run = memory.0[&CORE].0;
            prop_assert!(sites.0.iter().all(|site| run.range().contains(site)));
        }
    }

    #[test]
    fn notes_of_others_are_not_ours() {
        let ours = note(CORE, &[CORE]);
        assert_eq!(find_notes(&ours), Some((0, ours.len())));
        for (offset, byte) in [(0, 13), (8, 2), (12, b'X'), (4, 13)] {
            let mut other = ours.clone();
            other[offset] = byte;
            assert_eq!(find_notes(&other), None, "byte {offset}");
        }
        assert_eq!(find_notes(&ours[..ours.len() - 1]), None, "cut short");
        assert_eq!(find_notes(&[vec![0; 8], ours.clone()].concat()), Some((8, 8 + ours.len())));
    }
}
