//! The instructions and functions of a file.
//!
//! Instructions are found by linear sweep: decode, advance by the length, again. On what assemblers
//! and compilers emit for x86-64 that finds every instruction, for data tables live elsewhere or
//! say that they are data, and filler is NOP or INT3; recursive descent would miss what is only
//! reached through tables. Three things could put a sweep out of step, and a *landmark* ends it:
//! where a function starts (`__x86_return_thunk` lies within an instruction, on purpose), where a
//! record says that an instruction starts, and where data (`STT_OBJECT`) starts and ends. An
//! instruction that runs across a landmark is reported all the same, then the sweep goes on at the
//! landmark: an overlapped instruction can be executed too.
//!
//! A kernel may hold 32-bit functions (the PVH entry). No symbol tells; the records of their sites
//! do (`CODE32`). From such a record to the next, and from the start of the function to its first
//! record, the sweep decodes in that record's mode.

use std::ops::Range;

use ::object::elf::{STT_FUNC, STT_NOTYPE, STT_OBJECT};
use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::elf::{Elf, Place};
use super::records::Record;
use crate::instructions::{Row, decode_next, row_of};
use crate::record::Flags;

/// A function, or a run of assembler code with a name and a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function<'data> {
    /// Where it starts.
    pub start: Place,
    /// Its size in bytes.
    pub size: u64,
    /// Its name.
    pub name: &'data str,
}

/// The functions of a file.
#[derive(Clone, Debug, Default)]
pub struct Functions<'data> {
    /// Ordered by start.
    functions: Vec<Function<'data>>,
}

impl<'data> Functions<'data> {
    /// The functions that the symbol table names in executable sections: `STT_FUNC`, and
    /// `STT_NOTYPE` with a size, which is how hand-written entry code is declared (Linux:
    /// `SYM_CODE_START`).
    #[must_use]
    pub fn of(elf: &Elf<'data>) -> Self {
        let mut functions: Vec<_> = elf
            .symbols()
            .filter(|symbol| symbol.kind == STT_FUNC || symbol.kind == STT_NOTYPE && symbol.size > 0)
            .filter_map(|symbol| Some(Function { start: symbol.place?, size: symbol.size, name: symbol.name }))
            .filter(|function| elf.sections().get(function.start.section).is_some_and(|section| section.executable))
            .collect();
        functions.sort_unstable();
        Self { functions }
    }

    /// The function at a place: the last one to start there or before, if it reaches that far.
    #[must_use]
    pub fn at(&self, place: Place) -> Option<&Function<'data>> {
        let after = self.functions.partition_point(|function| function.start <= place);
        let function = self.functions[..after].last()?;
        let same = function.start.section == place.section;
        (same && place.offset - function.start.offset < function.size).then_some(function)
    }

    /// Where the next function starts, at a place or behind it, in its section.
    fn next(&self, place: Place) -> Option<Place> {
        let next = self.functions.partition_point(|function| function.start < place);
        self.functions.get(next).map(|function| function.start).filter(|start| start.section == place.section)
    }

    /// The functions of one section, in order.
    #[must_use]
    pub fn in_section(&self, section: usize) -> &[Function<'data>] {
        let first = self.functions.partition_point(|function| function.start.section < section);
        let after = self.functions.partition_point(|function| function.start.section <= section);
        &self.functions[first..after]
    }
}

/// Data in executable sections: what symbols of type `STT_OBJECT` with a size name.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// Start and end, ordered, none overlapping.
    ranges: Vec<(Place, u64)>,
}

impl Data {
    /// The data of a file. A function that starts in it, or where it does, is none of it: code with
    /// two names is code.
    #[must_use]
    pub fn of(elf: &Elf<'_>, functions: &Functions<'_>) -> Self {
        let mut objects: Vec<(Place, u64)> = elf
            .symbols()
            .filter(|symbol| symbol.kind == STT_OBJECT && symbol.size > 0)
            .filter_map(|symbol| Some((symbol.place?, symbol.size)))
            .filter(|(start, _)| elf.sections().get(start.section).is_some_and(|section| section.executable))
            .map(|(start, size)| (start, start.offset.saturating_add(size)))
            .collect();
        for (start, end) in &mut objects {
            *end = functions.next(*start).map_or(*end, |function| function.offset.min(*end));
        }
        let mut data = Self::default();
        data.add(objects);
        data
    }

    /// Adds what is data by other evidence.
    pub fn add(&mut self, ranges: impl IntoIterator<Item = (Place, u64)>) {
        self.ranges.extend(ranges);
        self.ranges.sort_unstable();
        let mut ranges: Vec<(Place, u64)> = Vec::new();
        for (start, end) in std::mem::take(&mut self.ranges) {
            match ranges.last_mut().filter(|(before, last)| before.section == start.section && start.offset <= *last) {
                Some((_, last)) => *last = end.max(*last),
                None if start.offset < end => ranges.push((start, end)),
                None => {}
            }
        }
        self.ranges = ranges;
    }

    /// Whether a place is in data.
    #[must_use]
    pub fn contains(&self, place: Place) -> bool {
        let after = self.ranges.partition_point(|(start, _)| *start <= place);
        self.ranges[..after].last().is_some_and(|(start, end)| start.section == place.section && place.offset < *end)
    }

    /// The landmarks of a section, and with them the ends of its data.
    #[must_use]
    pub fn landmarks(&self, section: usize, landmarks: Vec<Landmark>) -> Vec<Landmark> {
        let first = self.ranges.partition_point(|(start, _)| start.section < section);
        let after = self.ranges.partition_point(|(start, _)| start.section <= section);
        if first == after {
            return landmarks;
        }
        let ends = self.ranges[first..after].iter().flat_map(|(start, end)| [start.offset, *end]);
        let ends = ends.map(|offset| {
            let before = landmarks.partition_point(|landmark| landmark.offset <= offset);
            let bitness = landmarks[..before].last().map_or(64, |landmark| landmark.bitness);
            Landmark { offset, bitness }
        });
        let mut all: Vec<_> = landmarks.iter().copied().chain(ends).collect();
        all.sort_by_key(|landmark| landmark.offset);
        all.dedup_by_key(|landmark| landmark.offset);
        all
    }
}

/// Where a sweep falls into step again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Landmark {
    /// Offset in the section.
    pub offset: u64,
    /// 32 or 64: how to decode from here on.
    pub bitness: u32,
}

/// The landmarks of one section: its functions, and the start and end of every record's slot.
///
/// `records` are those of the section, ordered by site.
#[must_use]
pub fn landmarks(functions: &[Function<'_>], records: &[Record]) -> Vec<Landmark> {
    let bitness = |record: &Record| if record.alleged.flags.contains(Flags::CODE32) { 32 } else { 64 };
    let starts = functions.iter().map(|function| {
        let Function { start: Place { offset, .. }, size, .. } = *function;
        let first = records.partition_point(|record| record.place.offset < offset);
        let first = records.get(first).filter(|record| record.place.offset - offset < size);
        Landmark { offset, bitness: first.map_or(64, bitness) }
    });
    let sites = records.iter().map(|record| Landmark { offset: record.place.offset, bitness: bitness(record) });
    let ends = records.iter().map(|record| Landmark { offset: record.slot_end(), bitness: bitness(record) });
    // Where several meet, the first in this order decides: what starts at a place knows better than
    // what ends there.
    let mut landmarks: Vec<_> = starts.chain(sites).chain(ends).collect();
    landmarks.sort_by_key(|landmark| landmark.offset);
    landmarks.dedup_by_key(|landmark| landmark.offset);
    landmarks
}

/// Decodes the bytes of a section from end to end.
///
/// `address` is that of the section. `visit` gets every valid instruction; its `ip` is its address.
pub fn sweep(bytes: &[u8], address: u64, landmarks: &[Landmark], mut visit: impl FnMut(&Instruction)) {
    let mut start = 0;
    let mut bitness = 64;
    for landmark in landmarks {
        let end = usize::try_from(landmark.offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        sweep_range(bytes, start..end, address, bitness, &mut visit);
        (start, bitness) = (end, landmark.bitness);
    }
    sweep_range(bytes, start..bytes.len(), address, bitness, &mut visit);
}

/// Decodes the instructions that start in `range`.
fn sweep_range(bytes: &[u8], range: Range<usize>, address: u64, bitness: u32, visit: &mut impl FnMut(&Instruction)) {
    let mut decoder = Decoder::with_ip(bitness, bytes, address, DecoderOptions::NONE);
    let mut position = range.start;
    while position < range.end && decoder.set_position(position).is_ok() {
        decoder.set_ip(address.wrapping_add(position as u64));
        let instruction = decode_next(&mut decoder, bytes);
        if instruction.is_invalid() {
            // No instruction starts here: try the next byte, as a disassembler does.
            position += 1;
        } else {
            visit(&instruction);
            position += instruction.len();
        }
    }
}

/// [`row_of`] for a sweep of a whole kernel: an instruction's row depends on nothing but its opcode
/// and operand forms, of which a text uses a few hundred.
#[derive(Default)]
pub struct Rows {
    /// By [`Code`](iced_x86::Code).
    known: Vec<Known>,
}

#[derive(Clone, Copy)]
enum Known {
    NotYet,
    Harmless,
    Sensitive(&'static Row),
}

impl Rows {
    /// The row of a sensitive instruction, `None` for any other.
    pub fn of(&mut self, instruction: &Instruction) -> Option<&'static Row> {
        let code = instruction.code() as usize;
        if code >= self.known.len() {
            self.known.resize(code + 1, Known::NotYet);
        }
        if let Known::NotYet = self.known[code] {
            self.known[code] = row_of(instruction).map_or(Known::Harmless, Known::Sensitive);
        }
        match self.known[code] {
            Known::Sensitive(row) => Some(row),
            Known::NotYet | Known::Harmless => None,
        }
    }
}
