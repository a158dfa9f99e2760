//! Two texts, walked in step.
//!
//! Both sides stand at corresponding instructions. The padded side leaves out its pads; both leave
//! out the room that alternatives make behind their originals. Where the two meet different runs of
//! NOPs, the difference has to be filler ([`super::filler`]).

use std::rc::Rc;

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};

use super::difference::{Difference, Spot};
use super::filler::{Run, filler_between};
use super::map::OffsetMap;
use super::prefixes::without_idle;
use super::{Immediates, Reference, disagreement};
use crate::instructions::decode_next;
use crate::object::elf::{Elf, Place, Relocation, Target};
use crate::object::records::Record;
use crate::object::text::{Function, Landmark, landmarks};
use crate::record::Flags;

/// One of the two texts, and how far the walk has come.
pub(super) struct Side<'elf, 'data> {
    elf: &'elf Elf<'data>,
    section: usize,
    bytes: &'data [u8],
    align: u64,
    position: usize,
    relocations: Vec<Relocation>,
    /// The first relocation that the walk has not passed.
    next_relocation: usize,
    /// Pads: start and end, by start.
    pads: Vec<(usize, usize)>,
    /// Room behind originals: start and end, by start.
    room: Vec<(usize, usize)>,
    /// Data that records say is none of the code: start and end, by start.
    data: Vec<(usize, usize)>,
    /// Where 32-bit code starts and ends, if there is any.
    landmarks: Vec<Landmark>,
    /// The run that was looked at last: one side may stay where it is while the other passes any
    /// number of rooms.
    run: Option<Rc<Run<'data>>>,
}

/// An instruction on one side. What is no instruction is one byte.
#[derive(Clone, Copy)]
struct Decoded<'data> {
    instruction: Instruction,
    bytes: &'data [u8],
    /// The bytes without prefixes that do nothing.
    meaning: &'data [u8],
    /// Where in the meaning the distance of a direct branch or RIP-relative operand stands, if
    /// there is one.
    distance: Option<(usize, usize)>,
    /// Where in the meaning another immediate operand stands, if there is one.
    immediate: Option<(usize, usize)>,
}

fn is_direct_branch(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

impl Decoded<'_> {
    /// Whether the two are one direct branch, short and near. (SDM Vol. 2A, JMP and Jcc: opcode and
    /// rel8 are 2 bytes, with rel32 they are 5 and 6. GAS does not relax a branch with prefixes.)
    fn is_resized(&self, other: &Self) -> bool {
        let sizes = [self.meaning.len(), other.meaning.len()];
        is_direct_branch(&self.instruction)
            && is_direct_branch(&other.instruction)
            && self.instruction.mnemonic() == other.instruction.mnemonic()
            && matches!(sizes, [2, 5 | 6] | [5 | 6, 2])
    }

    /// Whether the two have the same bytes, but for prefixes that do nothing, and for a distance.
    fn differs_by_distance(&self, other: &Self) -> bool {
        self.meaning == other.meaning
            || self.distance.is_some_and(|field| other.distance == Some(field) && self.is_equal_around(other, field))
    }

    /// The immediates of the two, if that is all that differs.
    fn differing_immediates(&self, other: &Self) -> Option<[u64; 2]> {
        let field =
            self.immediate.filter(|&field| other.immediate == Some(field) && self.is_equal_around(other, field))?;
        let value = |decoded: &Self| {
            let bytes = decoded.meaning.get(field.0..field.1)?;
            Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
        };
        Some([value(self)?, value(other)?])
    }

    fn is_equal_around(&self, other: &Self, (start, end): (usize, usize)) -> bool {
        let around = |decoded: &Self| decoded.meaning.get(..start).zip(decoded.meaning.get(end..));
        around(self).is_some() && around(self) == around(other)
    }

    /// How far behind the instruction, which starts at `position`, the target of its direct branch
    /// or RIP-relative operand lies; `None` if there is no such thing or a relocation decides.
    fn distance(&self, relocations: &[Relocation], position: u64) -> Option<i64> {
        let (start, _) = self.distance?;
        let field = position + (self.bytes.len() - self.meaning.len() + start) as u64;
        if relocations.iter().any(|relocation| relocation.offset == field) {
            return None;
        }
        let target = if is_direct_branch(&self.instruction) {
            self.instruction.near_branch_target()
        } else {
            self.instruction.ip_rel_memory_address()
        };
        Some(target.wrapping_sub(self.instruction.next_ip()).cast_signed())
    }
}

impl<'elf, 'data> Side<'elf, 'data> {
    /// The text of a section; functions, records and originals (start and length) are those in it,
    /// by place.
    pub(super) fn new(
        elf: &'elf Elf<'data>,
        section: usize,
        functions: &[Function<'_>],
        records: &[Record],
        originals: &[(Place, u8)],
    ) -> Self {
        let header = &elf.sections()[section];
        let bytes = header.bytes;
        let offset = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let pad = |record: &Record| (offset(record.instruction_end()), offset(record.slot_end()));
        let mut room: Vec<_> = originals.iter().filter_map(|&(place, length)| room(bytes, place, length)).collect();
        room.sort_unstable();
        let data = records.iter().filter(|record| record.alleged.flags.contains(Flags::DATA));
        let range = |record: &Record| (offset(record.place.offset), offset(record.slot_end()));
        let has_32_bit_code = records.iter().any(|record| record.alleged.flags.contains(Flags::CODE32));
        Self {
            elf,
            section,
            bytes,
            align: header.align,
            position: 0,
            relocations: elf.relocations(section),
            next_relocation: 0,
            pads: records.iter().map(pad).collect(),
            room,
            data: data.map(range).collect(),
            landmarks: if has_32_bit_code { landmarks(functions, records) } else { Vec::new() },
            run: None,
        }
    }

    fn rest(&self) -> &'data [u8] {
        &self.bytes[self.position..]
    }

    /// How to decode here.
    fn bitness(&self) -> u32 {
        let after = self.landmarks.partition_point(|landmark| landmark.offset <= self.position as u64);
        self.landmarks[..after].last().map_or(64, |landmark| landmark.bitness)
    }

    /// One byte of data.
    fn byte(&self) -> Decoded<'data> {
        let bytes = &self.rest()[..1];
        Decoded { instruction: Instruction::default(), bytes, meaning: bytes, distance: None, immediate: None }
    }

    fn decode(&self, bitness: u32) -> Decoded<'data> {
        let mut decoder = Decoder::with_ip(bitness, self.rest(), self.position as u64, DecoderOptions::NONE);
        let instruction = decode_next(&mut decoder, self.rest());
        let length = if instruction.is_invalid() { 1 } else { instruction.len() };
        let offsets = decoder.get_constant_offsets(&instruction);
        let bytes = &self.rest()[..length.min(self.rest().len())];
        let meaning = without_idle(bytes, &instruction);
        let idle = bytes.len() - meaning.len();
        let field = |start: usize, size| (size > 0).then(|| (start - idle, start + size - idle));
        let immediate = field(offsets.immediate_offset(), offsets.immediate_size());
        let displacement = field(offsets.displacement_offset(), offsets.displacement_size());
        let (distance, immediate) = if is_direct_branch(&instruction) {
            (immediate, None)
        } else {
            (displacement.filter(|_| instruction.is_ip_rel_memory_operand()), immediate)
        };
        Decoded { instruction, bytes, meaning, distance, immediate }
    }

    /// What a relocation of the instruction that ends at `end` refers to. The CPU adds a relative
    /// field to the address behind the instruction, the relocation subtracts the field's own: the
    /// addend makes up for the difference.
    fn target(&self, relocation: &Relocation, end: u64) -> Target<'data> {
        match self.elf.target(relocation) {
            Target::Place(Place { section, offset }) if relocation.is_relative() => {
                Target::Place(Place { section, offset: offset.wrapping_add(end.wrapping_sub(relocation.offset)) })
            }
            target => target,
        }
    }

    /// The end of the room that starts or continues here.
    fn end_of_room(&self) -> Option<usize> {
        end_of_range_at(&self.room, self.position)
    }

    fn skip_room(&mut self) {
        self.position = self.end_of_room().unwrap_or(self.position);
    }

    /// The NOPs and INT3s that stand here, up to the next room.
    fn run(&mut self) -> Rc<Run<'data>> {
        if let Some(run) = self.run.as_ref().filter(|run| run.start() == self.position) {
            return Rc::clone(run);
        }
        let after = self.room.partition_point(|&(start, _)| start <= self.position);
        let end = self.room.get(after).map_or(self.bytes.len(), |&(start, _)| start);
        let limit = if self.end_of_room().is_some() { self.position } else { end };
        let run = Rc::new(Run::of(self.bytes, self.position, limit));
        self.run = Some(Rc::clone(&run));
        run
    }

    /// The relocations of the next `length` bytes.
    fn relocations_of(&self, length: usize) -> &[Relocation] {
        let rest = &self.relocations[self.next_relocation..];
        let end = (self.position + length) as u64;
        &rest[..rest.iter().take_while(|relocation| relocation.offset < end).count()]
    }

    fn advance(&mut self, length: usize) {
        self.next_relocation += self.relocations_of(length).len();
        self.position += length;
    }

    fn spot(&self) -> Spot {
        Spot::instruction(self.bytes, self.position as u64, self.bitness())
    }
}

/// The NOPs at the end of an alternative's original, as `.skip n, 0x90` makes them. Whoever takes
/// the last byte of an operand for one of them does no harm: room starts to be left out only where
/// an instruction ends.
fn room(bytes: &[u8], place: Place, length: u8) -> Option<(usize, usize)> {
    const NOP: u8 = 0x90;
    let start = usize::try_from(place.offset).ok()?;
    let end = start.checked_add(length.into())?;
    let nops = bytes.get(start..end)?.iter().rev().take_while(|&&byte| byte == NOP).count();
    (nops > 0).then_some((end - nops, end))
}

fn end_of_range_at(ranges: &[(usize, usize)], position: usize) -> Option<usize> {
    let after = ranges.partition_point(|&(start, _)| start <= position);
    ranges[..after].last().map(|&(_, end)| end).filter(|&end| position < end)
}

/// What a walk has found.
#[derive(Default)]
pub(super) struct Walked<'data> {
    pub(super) map: OffsetMap,
    pub(super) references: Vec<Reference<'data>>,
    pub(super) immediates: Vec<Immediates>,
    pub(super) instructions: usize,
    pub(super) resized_branches: usize,
}

/// Walks the two texts from end to end.
pub(super) fn walk<'data>(plain: Side<'_, 'data>, padded: Side<'_, 'data>) -> Result<Walked<'data>, Difference> {
    let mut walk = Walk { plain, padded, walked: Walked::default() };
    while walk.step()? {}
    Ok(walk.walked)
}

struct Walk<'elf, 'data> {
    plain: Side<'elf, 'data>,
    padded: Side<'elf, 'data>,
    walked: Walked<'data>,
}

impl<'data> Walk<'_, 'data> {
    /// Takes one step; `false` at the end.
    fn step(&mut self) -> Result<bool, Difference> {
        if let Some(end) = end_of_range_at(&self.padded.pads, self.padded.position) {
            self.padded.position = end;
        }
        self.mark();
        let at_room = [&self.plain, &self.padded].map(|side| side.end_of_room().is_some());
        // Where only one side has come to room, filler may still stand before that of the other.
        if at_room != [true; 2] && self.skip_filler(at_room == [false; 2])? {
            return Ok(true);
        }
        if at_room != [false; 2] {
            self.plain.skip_room();
            self.padded.skip_room();
            return Ok(true);
        }
        match (self.plain.rest().is_empty(), self.padded.rest().is_empty()) {
            (true, true) => Ok(false),
            (false, false) => self.instruction().map(|()| true),
            _ => Err(self.difference("one text ends before the other")),
        }
    }

    /// Notes that the two positions correspond.
    fn mark(&mut self) {
        self.walked.map.push(self.plain.position as u64, self.padded.position as u64);
    }

    fn difference(&self, what: &'static str) -> Difference {
        let section = self.plain.elf.sections()[self.plain.section].name.to_owned();
        Difference::Content { section, what, plain: self.plain.spot(), padded: self.padded.spot() }
    }

    /// Steps over the NOPs and INT3s here, if there are any, and the two sides have the same or
    /// differ by filler only. If they `have_to`, anything else is a difference.
    fn skip_filler(&mut self, have_to: bool) -> Result<bool, Difference> {
        let (plain, padded) = (self.plain.run(), self.padded.run());
        if plain.is_empty() && padded.is_empty() {
            return Ok(false);
        }
        let filler = filler_between((&plain, self.plain.align), (&padded, self.padded.align));
        if filler.is_none() && !have_to {
            return Ok(false);
        }
        let shared = filler.map_or_else(|| plain.shared_with(&padded), |filler| filler.before);
        for nop in plain.nops().take(shared) {
            self.advance(nop.len(), nop.len());
            self.mark();
        }
        let Some(filler) = filler else { return Err(self.difference("the instructions differ")) };
        (self.plain.position, self.padded.position) = filler.ends;
        Ok(true)
    }

    fn advance(&mut self, plain: usize, padded: usize) {
        self.plain.advance(plain);
        self.padded.advance(padded);
        self.walked.instructions += 1;
    }

    /// Compares one instruction and steps over it.
    fn instruction(&mut self) -> Result<(), Difference> {
        let bitness = self.padded.bitness();
        let is_data = end_of_range_at(&self.padded.data, self.padded.position).is_some();
        let decode = |side: &Side<'_, 'data>| if is_data { side.byte() } else { side.decode(bitness) };
        let plain = decode(&self.plain);
        // Equal bytes are the same instruction, elsewhere.
        let is_equal = self.padded.rest().starts_with(plain.bytes);
        let padded = if is_equal { plain } else { decode(&self.padded) };
        if !is_equal && plain.is_resized(&padded) {
            self.walked.resized_branches += 1;
        } else if !is_equal && !plain.differs_by_distance(&padded) {
            let Some(operands) = plain.differing_immediates(&padded) else {
                return Err(self.difference("the instructions differ"));
            };
            let offsets = [&self.plain, &self.padded].map(|side| side.position as u64);
            self.walked.immediates.push(Immediates { section: self.plain.section, offsets, operands, bitness });
        }
        self.refer(&plain, &padded)?;
        self.advance(plain.bytes.len(), padded.bytes.len());
        Ok(())
    }

    /// Notes what the instruction's relocations, and the distance in it that has none, refer to.
    fn refer(&mut self, plain: &Decoded<'_>, padded: &Decoded<'_>) -> Result<(), Difference> {
        let fields = self.plain.relocations_of(plain.bytes.len());
        let counterparts = self.padded.relocations_of(padded.bytes.len());
        let [end, padded_end] = [(&self.plain, plain), (&self.padded, padded)]
            .map(|(side, decoded)| (side.position + decoded.bytes.len()) as u64);
        if disagreement((self.plain.elf, fields, end), (self.padded.elf, counterparts, padded_end)).is_some() {
            return Err(self.difference("the relocations differ"));
        }
        let starts = (self.plain.position as u64, self.padded.position as u64);
        let section = self.plain.section;
        self.walked.references.extend(fields.iter().zip(counterparts).map(|(field, counterpart)| Reference {
            section,
            plain: (starts.0, self.plain.target(field, end)),
            padded: (starts.1, self.padded.target(counterpart, padded_end)),
            in_table: false,
        }));
        if let Some(distance) = plain.distance(fields, starts.0)
            && let Some(counterpart) = padded.distance(counterparts, starts.1)
        {
            let target = |section, end: u64, distance| {
                Target::Place(Place { section, offset: end.wrapping_add_signed(distance) })
            };
            self.walked.references.push(Reference {
                section,
                plain: (starts.0, target(section, end, distance)),
                padded: (starts.1, target(self.padded.section, padded_end, counterpart)),
                in_table: false,
            });
        }
        Ok(())
    }
}
