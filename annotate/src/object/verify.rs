//! Records held against the text, and the text against the records.
//!
//! Two questions, and only both together say that a file is fit to be rewritten:
//!
//! * *Does every record hold?* It is well-formed, means executable bytes, and agrees with them
//!   ([`check`]); it overlaps no other; it does not lie in data; it claims nothing that the object
//!   refutes; and nothing refers to a place within its slot. That last one matters because the slot
//!   will be overwritten: whoever lands inside would run the middle of somebody's replacement. Its
//!   start and its end may be branched to. Nor may anything, in a function, go to the middle of an
//!   instruction: a count of bytes leads astray where pads have made the text longer
//!   ([`super::references`]).
//! * *Is every sensitive instruction recorded?* The census: all that a sweep finds sensitive is
//!   covered by a record that holds, or there is a reason. There are few reasons, and each is
//!   listed with its instructions: a record says that it was left unpadded and why; or a record
//!   says that this function is 32-bit code, which the wedge never runs; or a symbol says that the
//!   bytes are data.

use std::collections::HashSet;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

use super::elf::{Elf, Error, Place, Section};
use super::liveness;
use super::records::{BadRecord, Record, Records};
use super::references::{Instructions, Kind, Marks, Reference, References};
use super::report::{Location, Miss, Problem, Report, Site, Within};
use super::text::{Data, Function, Functions, Rows, landmarks, sweep};
use crate::check::check;
use crate::instructions::{Class, Part};
use crate::linux::tables::Linux;
use crate::record::Flags;

/// Why an instruction without a record is no miss.
const IN_32_BIT_FUNCTION: &str = "in a function of 32-bit code";
const IN_DATA: &str = "in data";

/// What is wrong with a record of bytes that are data.
pub(super) const SITE_IN_DATA: &str = "the site lies in data";

/// Verifies the records of a file and takes the census of its text.
///
/// # Errors
///
/// When the records cannot be read at all.
pub fn verify<'data>(elf: &Elf<'data>) -> Result<Report<'data>, Error> {
    let Records { records, bad } = Records::read(elf)?;
    let functions = Functions::of(elf);
    let data = Data::of(elf, &functions);
    let mut verifier = Verifier {
        elf,
        linux: Linux::of(elf),
        functions,
        data,
        report: Report::default(),
        valid: Vec::new(),
        of_32_bits: Vec::new(),
        called: HashSet::new(),
        instructions: Instructions::default(),
        without_functions: HashSet::new(),
    };
    for record in bad {
        verifier.bad(&record);
    }
    verifier.records(&records);
    let is_data = |record: &&Record| record.alleged.flags.contains(Flags::DATA);
    let recorded = verifier.valid.iter().filter(is_data).map(|record| (record.place, record.slot_end()));
    verifier.data.add(recorded);
    if !elf.relocatable() {
        liveness::complete(elf, &verifier.linux, &mut verifier.report.sites);
    }
    let (mut rows, mut references) = (Rows::default(), References::of(elf));
    for (index, section) in elf.executable() {
        verifier.text(index, section, &mut rows, &mut references);
    }
    references.words();
    verifier.references(&references.found);
    verifier.find_stacks();
    verifier.report.problems.sort_by_key(|problem| (problem.record.is_none(), problem.record));
    Ok(verifier.report)
}

struct Verifier<'elf, 'data> {
    elf: &'elf Elf<'data>,
    linux: Linux,
    functions: Functions<'data>,
    data: Data,
    report: Report<'data>,
    /// Records that agree with the bytes at their sites, ordered by site, none overlapping.
    valid: Vec<Record>,
    /// The places of those that are of 32-bit code.
    of_32_bits: Vec<Place>,
    /// Addresses that a near call goes to, in a linked file.
    called: HashSet<u64>,
    instructions: Instructions,
    /// Sections that no symbol says the functions of, and that are instructions from end to end.
    without_functions: HashSet<usize>,
}

impl<'data> Verifier<'_, 'data> {
    fn location(&self, place: Place) -> Location<'data> {
        let section = self.elf.sections().get(place.section).map_or("", |section| section.name);
        let address = (!self.elf.relocatable()).then(|| self.elf.address(place));
        let origin = self.linux.original_of(place).unwrap_or(place);
        let function = self.functions.at(origin);
        let function =
            function.map(|Function { name, start, .. }| Within { name, offset: origin.offset - start.offset });
        Location { place, origin, section, offset: place.offset, address, function, source: None }
    }

    fn problem(&mut self, record: &Record, what: String) {
        let location = self.location(record.place);
        self.report.problems.push(Problem { record: Some(record.number), location, what });
    }

    fn bad(&mut self, bad: &BadRecord) {
        let location = self.location(bad.carrier);
        self.report.problems.push(Problem { record: Some(bad.number), location, what: bad.fault.to_string() });
    }

    /// Checks each record by itself and against its predecessor.
    fn records(&mut self, records: &[Record]) {
        for record in records {
            match self.fault(record) {
                Some(what) => self.problem(record, what),
                None => self.accept(record),
            }
        }
    }

    /// What is wrong with a record, all but its flags.
    fn fault(&self, record: &Record) -> Option<String> {
        let Place { section, offset } = record.place;
        let section = self.elf.sections().get(section).filter(|section| section.executable);
        let Some(section) = section else { return Some("the site is in no executable section".to_owned()) };
        let text = usize::try_from(offset).ok().and_then(|offset| section.bytes.get(offset..));
        let Some(text) = text else { return Some("the site is beyond the end of its section".to_owned()) };
        if let Err(contradiction) = check(record.alleged, text) {
            return Some(format!("{}: {contradiction}", record.alleged.class));
        }
        if self.data.contains(record.place) {
            return Some(SITE_IN_DATA.to_owned());
        }
        let before = self.valid.last().filter(|before| before.place.section == record.place.section)?;
        let Record { number, place, .. } = before;
        if *place == record.place {
            Some(format!("record {number} is of the same site"))
        } else if before.slot_end() > offset {
            Some(format!("its slot overlaps that of record {number}, {}+{:#x}", section.name, place.offset))
        } else {
            None
        }
    }

    /// Takes a record that agrees with the bytes, and completes its flags.
    fn accept(&mut self, record: &Record) {
        let location = self.location(record.place);
        let told = self.linux.flags(self.elf, &self.functions, record.place);
        let mut site = record.alleged;
        let refuted = self.linux.refuted(site.flags, told);
        if !refuted.is_empty() {
            self.problem(record, format!("it claims {refuted:?}, which the file refutes"));
        }
        site.flags |= told;
        self.valid.push(*record);
        if record.alleged.flags.contains(Flags::CODE32) {
            self.of_32_bits.push(record.place);
        }
        self.report.sites.push(Site { location, record: record.number, site });
    }

    /// Takes the census of one section, and collects what it refers to.
    fn text(
        &mut self,
        index: usize,
        section: &Section<'data>,
        rows: &mut Rows,
        references: &mut References<'_, 'data>,
    ) {
        let first = self.valid.partition_point(|record| record.place.section < index);
        let after = self.valid.partition_point(|record| record.place.section <= index);
        let landmarks = landmarks(self.functions.in_section(index), &self.valid[first..after]);
        let landmarks = self.data.landmarks(index, landmarks);
        let relocations = if self.elf.relocatable() { self.elf.relocations(index) } else { Vec::new() };
        let mut marks = Marks::of(section.bytes.len());
        let mut prefix_end = None;
        sweep(section.bytes, section.address, &landmarks, |instruction| {
            let place = Place { section: index, offset: instruction.ip().wrapping_sub(section.address) };
            let is_data = self.data.contains(place);
            let is_forced = prefix_end == Some(place.offset);
            prefix_end = Part::EmulationPrefix.matches(instruction).then(|| place.offset + instruction.len() as u64);
            let is_recorded = |record: Record| {
                record.instruction_end() > place.offset
                    && (!is_forced || record.alleged.class == Class::ForcedEmulation)
            };
            if let Some(row) = rows.of(instruction)
                && row.by_default
                && !self.record_at(place).is_some_and(is_recorded)
            {
                self.miss(place, row.class, section, instruction);
            }
            if is_data {
                return;
            }
            if instruction.code() == Code::Call_rel32_64 && !self.elf.relocatable() {
                self.called.insert(instruction.near_branch_target());
            }
            if !is_linker_filler(instruction) {
                self.report.executable_bytes += instruction.len() as u64;
            }
            marks.add(place.offset, instruction.len());
            references.instruction(place, instruction, &relocations);
        });
        let is_sized = |function: &Function<'_>| function.size > 0;
        if marks.cover(section.bytes.len()) && !self.functions.in_section(index).iter().any(is_sized) {
            self.without_functions.insert(index);
        }
        self.instructions.insert(index, marks);
    }

    /// Looks for references to places within slots, and within instructions.
    fn references(&mut self, references: &[Reference]) {
        for &Reference { from, to, kind } in references {
            // Nobody writes to a site that is not padded.
            let is_within =
                |record: &Record| to.offset > record.place.offset && !record.alleged.flags.intersects(Flags::UNPADDED);
            if let Some(record) = self.record_at(to).filter(is_within) {
                let (byte, at) = (to.offset - record.place.offset, self.location(from));
                self.problem(&record, format!("the {kind} at {at} goes to byte {byte} of its slot"));
            } else if self.goes_astray(from, to, kind) {
                let (location, to) = (self.location(from), self.location(to));
                let what = format!("the {kind} goes to {to}, which is within an instruction");
                self.report.problems.push(Problem { record: None, location, what });
            }
        }
    }

    /// Whether a reference from code, or data, to code goes to the middle of an instruction.
    fn goes_astray(&self, from: Place, to: Place, kind: Kind) -> bool {
        self.instructions.is_within(to)
            && (kind == Kind::Word || self.is_code(from))
            && self.is_code(to)
            && !self.passes_prefixes(to)
            && !(kind == Kind::Word && self.is_field(to))
    }

    /// Whether a place is where the immediate or displacement of an instruction starts, which a
    /// kernel may patch: a word of data names it then (Linux since 6.11,
    /// `arch/x86/include/asm/runtime-const.h`).
    fn is_field(&self, place: Place) -> bool {
        let Some(start) = self.instructions.start_before(place) else { return false };
        let bytes = &self.elf.sections()[place.section].bytes;
        let Some(bytes) = usize::try_from(start).ok().and_then(|start| bytes.get(start..)) else { return false };
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let fields = decoder.get_constant_offsets(&instruction);
        let starts = [
            (fields.has_immediate(), fields.immediate_offset()),
            (fields.has_displacement(), fields.displacement_offset()),
        ];
        starts.iter().any(|&(exists, offset)| exists && start + offset as u64 == place.offset)
    }

    /// Whether a place is in code for certain. In a section whose functions have sizes, nobody
    /// knows what is beside them.
    fn is_code(&self, place: Place) -> bool {
        let is_named = self.functions.at(place).is_some() || self.without_functions.contains(&place.section);
        is_named && !self.data.contains(place)
    }

    /// Whether nothing but prefixes stands between the start of an instruction and a place in it: a
    /// branch may leave out a `lock`.
    fn passes_prefixes(&self, place: Place) -> bool {
        let is_prefix =
            |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3);
        let start = self.instructions.start_before(place).and_then(|start| usize::try_from(start).ok());
        let end = usize::try_from(place.offset).ok();
        let passed = start.zip(end).and_then(|(start, end)| self.elf.sections()[place.section].bytes.get(start..end));
        passed.is_some_and(|bytes| bytes.iter().all(is_prefix))
    }

    /// Entry code has no stack to rely on, but for the functions in it that are called: their
    /// callers had one.
    fn find_stacks(&mut self) {
        for site in self.report.sites.iter_mut().filter(|site| site.site.flags.contains(Flags::NO_STACK)) {
            let Some(place) = self.elf.place_at(site.site.address) else { continue };
            let function = self.functions.at(self.linux.original_of(place).unwrap_or(place));
            let called = function.is_some_and(|function| self.called.contains(&self.elf.address(function.start)));
            site.site.flags.set(Flags::NO_STACK, !called);
        }
    }

    /// The valid record in whose slot a place lies.
    fn record_at(&self, place: Place) -> Option<Record> {
        let after = self.valid.partition_point(|record| record.place <= place);
        let record = self.valid[..after].last()?;
        (record.place.section == place.section && place.offset < record.slot_end()).then_some(*record)
    }

    fn miss(&mut self, place: Place, class: Class, section: &Section<'_>, instruction: &Instruction) {
        let bytes = usize::try_from(place.offset).ok().and_then(|start| {
            let bytes = section.bytes.get(start..start + instruction.len())?;
            Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        });
        let is_32_bit = || self.functions.at(place).is_some_and(|function| self.is_32_bit(function));
        let reason = if self.data.contains(place) { Some(IN_DATA) } else { is_32_bit().then_some(IN_32_BIT_FUNCTION) };
        let miss = Miss { location: self.location(place), class, bytes: bytes.unwrap_or_default(), reason };
        if reason.is_some() {
            self.report.excused.push(miss);
        } else {
            self.report.misses.push(miss);
        }
    }

    /// Whether a record says that a function is 32-bit code.
    fn is_32_bit(&self, function: &Function<'_>) -> bool {
        let first = self.of_32_bits.partition_point(|place| *place < function.start);
        self.of_32_bits.get(first).is_some_and(|place| {
            place.section == function.start.section && place.offset - function.start.offset < function.size
        })
    }
}

/// Whether this is what linkers fill gaps between sections with, as far as a decoder can tell: INT3
/// by `= 0xcccc` in Linux's linker script, of which LLD makes the word 0xcccc, so that every other
/// instruction is `add %al, (%rax)` (00 00).
fn is_linker_filler(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Int3 => true,
        Code::Add_rm8_r8 => instruction.op1_register() == Register::AL && instruction.memory_base() == Register::RAX,
        _ => false,
    }
}
