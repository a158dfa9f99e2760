//! Which status flags matter after a site, found on the linked file.
//!
//! The text stage sees one basic block and stops at labels. Here the whole of the text is there, so
//! the code behind a slot is followed over jumps and calls: a flag that every way writes before it
//! reads it is dead. That matters where there is no stack to save flags on, which is in entry code;
//! and entry code mostly ends in `iretq` or `sysretq`, which load all flags.
//!
//! What is followed is what may run, not only what stands in the file:
//!
//! * An alternative is both its original and each of its replacements, entered at the start and
//!   left at the end. The middle of an original, reached by a jump from elsewhere, may be anything.
//! * A jump label is a NOP and a jump.
//! * An instruction that the exception table names goes on at a fix-up, so everything is live
//!   there. The same goes for returns, indirect jumps and calls, static calls, and wherever the way
//!   is longer than [`LONGEST`].
//! * A call is a jump: what follows is the callee.
//!
//! Only status flags are looked at. A flag that an instruction leaves undefined is taken for
//! written, since no code can read it then; but not after moves to and from control and debug
//! registers, where the SDM says so and CPUs keep them.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::elf::{Elf, Place};
use super::report::Site;
use crate::linux::originals::Originals;
use crate::linux::patched::Patched;
use crate::linux::tables::{Alternative, Linux, alternatives};
use crate::record::{Flags, LiveFlags};

/// Instructions that are looked at for one site, on all ways together.
const LONGEST: usize = 64;

const STATUS: LiveFlags = LiveFlags::all().difference(LiveFlags::DF);

/// Takes from the live flags of sites what is dead for certain. A site that goes on somewhere else
/// (`iretq`) or may do so (at a fix-up), that runs in a copy, or that is no 64-bit code, stays as
/// it is.
pub(super) fn complete(elf: &Elf<'_>, linux: &Linux, sites: &mut [Site<'_>]) {
    let text = Text { elf, linux, patched: Patched::of(elf), originals: Originals::of(alternatives(elf)) };
    for site in sites {
        let site = &mut site.site;
        let live = site.liveness.flags;
        if site.flags.intersects(Flags::EXTABLE | Flags::COPIED | Flags::CODE32) || !live.intersects(STATUS) {
            continue;
        }
        let Some(start) = elf.place_at(site.address) else { continue };
        if text.goes_on(start, site.length) {
            let (end, undecided) = (end(start, site.slot), live & STATUS);
            site.liveness.flags = live.difference(undecided) | text.live_after(start, end, undecided);
        }
    }
}

/// Where a way is, with regard to alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// In text that is as it stands.
    Plain,
    /// In an original that was entered at its start; it ends here.
    Original(Place),
    /// In a replacement, which ends at the first place, and goes on at the second.
    Replacement(Place, Place),
}

/// A way that has not been followed to its end: where it goes on, and the flags of which nothing is
/// known yet.
#[derive(Clone, Copy, Debug)]
struct Way {
    place: Place,
    within: Within,
    undecided: LiveFlags,
}

struct Text<'a, 'data> {
    elf: &'a Elf<'data>,
    linux: &'a Linux,
    patched: Patched,
    originals: Originals,
}

impl Text<'_, '_> {
    /// Whether a site, which is one instruction or a sequence of them, is followed by what stands
    /// behind it.
    fn goes_on(&self, start: Place, length: u8) -> bool {
        let mut place = start;
        while place < end(start, length) {
            match self.decode(place) {
                Some(instruction) if instruction.flow_control() == FlowControl::Next => {
                    place.offset += instruction.len() as u64;
                }
                _ => return false,
            }
        }
        true
    }

    /// Those of the `undecided` flags that may be read after the slot from `start` to `end`.
    fn live_after(&self, start: Place, end: Place, undecided: LiveFlags) -> LiveFlags {
        let contexts = self.contexts(start).unwrap_or_default();
        let mut ways: Vec<Way> = contexts.into_iter().map(|within| Way { place: end, within, undecided }).collect();
        if ways.is_empty() {
            return undecided;
        }
        let mut followed: Vec<Way> = Vec::new();
        let mut live = LiveFlags::empty();
        while let Some(mut way) = ways.pop() {
            way.undecided = way.undecided.difference(live);
            let same = |before: &&Way| before.place == way.place && before.within == way.within;
            if way.undecided.is_empty() || followed.iter().filter(same).any(|w| w.undecided.contains(way.undecided)) {
                continue;
            }
            if followed.len() == LONGEST {
                return undecided;
            }
            followed.push(way);
            live |= self.step(way, &mut ways);
        }
        live
    }

    /// What a site may be within: in a replacement, as many ways as it has originals. `None` if
    /// that is too many.
    fn contexts(&self, site: Place) -> Option<Vec<Within>> {
        let mut contexts: Vec<Within> = self.originals.replaced_by(site)?.iter().map(replacement).collect();
        if contexts.is_empty() {
            contexts.extend(self.originals.original_around(site)?.iter().map(original));
        }
        if contexts.is_empty() && !Linux::is_replacement(self.elf, site) {
            contexts.push(Within::Plain);
        }
        Some(contexts)
    }

    /// Goes one step, and returns the flags that are live because of it.
    fn step(&self, way: Way, ways: &mut Vec<Way>) -> LiveFlags {
        let Way { place, within, undecided } = way;
        match within {
            Within::Replacement(end, on) if place == end => {
                ways.push(Way { place: on, within: Within::Plain, undecided });
                return LiveFlags::empty();
            }
            Within::Original(end) if place == end => {
                ways.push(Way { place, within: Within::Plain, undecided });
                return LiveFlags::empty();
            }
            Within::Plain => {
                let Some(starting) = self.originals.starting_at(place) else { return undecided };
                if let Some(longest) = starting.iter().max_by_key(|a| a.original_length) {
                    ways.push(Way { within: original(longest), ..way });
                    ways.extend(starting.iter().map(|a| Way {
                        place: a.replacement,
                        within: replacement(a),
                        undecided,
                    }));
                    return LiveFlags::empty();
                }
                if self.originals.is_in_the_middle(place) {
                    return undecided;
                }
            }
            Within::Original(_) | Within::Replacement(..) => {}
        }
        self.instruction(way, ways).unwrap_or(undecided)
    }

    /// Goes over one instruction; `None` where it is not known what follows.
    fn instruction(&self, way: Way, ways: &mut Vec<Way>) -> Option<LiveFlags> {
        let Way { place, within, undecided } = way;
        if self.linux.may_fault(place) || self.patched.is_static_call(place) {
            return None;
        }
        let instruction = self.decode(place)?;
        let live = undecided & flags(instruction.rflags_read());
        let undecided = undecided.difference(live).difference(written(&instruction));
        if undecided.is_empty() {
            return Some(live);
        }
        let next = Place { offset: place.offset + instruction.len() as u64, ..place };
        let behind = |end: Place| next.section == end.section && next.offset > end.offset;
        if let Within::Original(end) | Within::Replacement(end, _) = within
            && behind(end)
        {
            return None;
        }
        let on = Way { place: next, within, undecided };
        if let Some(target) = self.patched.branch(place) {
            ways.extend([on, jumped(target, within, undecided)]);
            return Some(live);
        }
        match instruction.flow_control() {
            FlowControl::Next => ways.push(on),
            // A flag that a callee may return with, or find where its caller left it, is live by
            // the callee's own text.
            FlowControl::UnconditionalBranch | FlowControl::Call => {
                ways.push(self.jump(&instruction, within, undecided)?);
            }
            FlowControl::ConditionalBranch => ways.extend([on, self.jump(&instruction, within, undecided)?]),
            _ => return None,
        }
        Some(live)
    }

    fn decode(&self, place: Place) -> Option<Instruction> {
        let section = self.elf.sections().get(place.section).filter(|section| section.executable)?;
        let bytes = section.bytes.get(usize::try_from(place.offset).ok()?..)?;
        let instruction = Decoder::with_ip(64, bytes, self.elf.address(place), DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn jump(&self, instruction: &Instruction, within: Within, undecided: LiveFlags) -> Option<Way> {
        if instruction.op0_kind() != OpKind::NearBranch64 {
            return None;
        }
        let target = self.elf.place_at(instruction.near_branch_target());
        // The end of a section may be the end of a replacement too.
        let target = target.or_else(|| match within {
            Within::Replacement(end, _) if self.elf.address(end) == instruction.near_branch_target() => Some(end),
            _ => None,
        })?;
        Some(jumped(target, within, undecided))
    }
}

/// A way after a jump: still in the replacement or original if that is where it goes.
fn jumped(place: Place, within: Within, undecided: LiveFlags) -> Way {
    let within = match within {
        // How long a replacement is need not be known: what lies before its end, in the section of
        // replacements, and is not this one, is another one, and nothing jumps there.
        Within::Replacement(end, _) if place.section == end.section && place <= end => within,
        Within::Original(_) | Within::Replacement(..) | Within::Plain => Within::Plain,
    };
    Way { place, within, undecided }
}

fn original(alternative: &Alternative) -> Within {
    Within::Original(end(alternative.original, alternative.original_length))
}

fn replacement(alternative: &Alternative) -> Within {
    let Alternative { original, original_length, replacement, replacement_length } = *alternative;
    Within::Replacement(end(replacement, replacement_length), end(original, original_length))
}

fn end(start: Place, length: u8) -> Place {
    Place { offset: start.offset.saturating_add(length.into()), ..start }
}

/// The flags that an instruction overwrites whatever its operands are.
fn written(instruction: &Instruction) -> LiveFlags {
    let by_register = (1..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand) == Register::CL
    });
    match instruction.mnemonic() {
        // A count of zero changes no flag (SDM Vol. 2B, SAL/SAR/SHL/SHR).
        Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Sal
        | Mnemonic::Sar
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Shld
        | Mnemonic::Shrd
            if by_register =>
        {
            LiveFlags::empty()
        }
        // Nor does a repeated comparison of nothing (SDM Vol. 2B, REP/REPE/REPZ/REPNE/REPNZ).
        _ if instruction.has_rep_prefix() || instruction.has_repne_prefix() => LiveFlags::empty(),
        Mnemonic::Mov => LiveFlags::empty(),
        _ => flags(instruction.rflags_modified()),
    }
}

/// The decoder's flag bits as ours.
fn flags(bits: u32) -> LiveFlags {
    [
        (RflagsBits::CF, LiveFlags::CF),
        (RflagsBits::PF, LiveFlags::PF),
        (RflagsBits::AF, LiveFlags::AF),
        (RflagsBits::ZF, LiveFlags::ZF),
        (RflagsBits::SF, LiveFlags::SF),
        (RflagsBits::OF, LiveFlags::OF),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, flag)| flag)
    .collect()
}
