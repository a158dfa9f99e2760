//! What stands at a site, decoded exactly and quickly.
//!
//! `annotate` checks a record with a complete decoder, whose tables take three million instructions
//! to unpack before it decodes anything: more than the rewriting of a kernel. The sensitive
//! instructions have few encodings, though, so those that occur in a kernel are listed here (SDM
//! Vol. 2D, Appendix A, Tables ), without the prefixes that do not. What is not
//! listed goes to the complete decoder. So this list decides how long a check takes, never what
//! passes it: a test holds it against the decoder for any bytes.

use annotate::check::{Contradiction, check};
use annotate::instructions::{Class, Part, sequence};
use annotate::pad::NOPS;
use annotate::record::AllegedSite;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

use super::bytes::Bytes;
use super::stub::falls_through;

/// A CS override, which does nothing in 64-bit mode (SDM Vol. 1, 3.4.2.1).
pub(super) const CS_OVERRIDE: u8 = 0x2e;

/// What a rewriter has to know of an instruction or sequence beside its class and lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Where the second instruction of a sequence starts; 0 if there is none.
    pub(super) second: u8,
    /// Where the displacement from RIP stands; 0 if there is none.
    pub(super) displacement: u8,
    /// Whether it reads or writes RSP, or the stack.
    pub(super) stack: bool,
    /// The prefix that can be repeated in front without changing anything.
    pub(super) filler: u8,
    /// The operand, if it is one that matters.
    pub(super) operand: Operand,
}

/// Operands that decide what happens at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// AL, with the port in DX.
    AlDx,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// Any other.
    Other,
}

/// What the assembler stage pads with, by length.
const PADS: [Bytes; NOPS.len()] = {
    let mut pads = [Bytes(0); NOPS.len()];
    let mut length = 0;
    while length < pads.len() {
        pads[length] = Bytes::of(NOPS[length]);
        length += 1;
    }
    pads
};

impl Shape {
    /// Holds an alleged site against the bytes of its slot; `bytes` are the same, if they are few
    /// enough.
    ///
    /// # Errors
    ///
    /// The first contradiction between the two.
    pub(super) fn of(site: &AllegedSite, slot: &[u8], bytes: Option<Bytes>) -> Result<Self, Contradiction> {
        match bytes.and_then(|bytes| Self::known(site, bytes)) {
            Some(shape) => Ok(shape),
            None => Self::decoded(site, slot),
        }
    }

    /// The shape, if the slot holds a listed encoding and a recommended NOP, just as the record
    /// says.
    pub(super) fn known(site: &AllegedSite, bytes: Bytes) -> Option<Self> {
        let array = bytes.array();
        let first = Known::at(&array, 0)?;
        let (end, second) = if first.part == Part::Class(site.class) {
            (first.end, None)
        } else {
            let sequence = sequence(site.class)?;
            let second = Known::at(&array, first.end)?;
            if (first.part, second.part) != (sequence.first, sequence.second) {
                return None;
            }
            (second.end, Some(first.end))
        };
        let pad = usize::from(site.slot).checked_sub(end)?;
        if end != usize::from(site.length) || bytes.behind(site.length) != PADS.get(pad)?.up(site.length) {
            return None;
        }
        Some(Self {
            second: second.map_or(0, small),
            displacement: small(first.displacement),
            stack: first.stack || uses_stack(site.class),
            filler: CS_OVERRIDE,
            operand: first.operand,
        })
    }

    /// The same from the complete decoder.
    pub(super) fn decoded(site: &AllegedSite, slot: &[u8]) -> Result<Self, Contradiction> {
        let checked = check(*site, slot)?;
        let instruction = checked.instruction();
        let second = if instruction.len() < usize::from(site.length) { small(instruction.len()) } else { 0 };
        let displacement = if instruction.is_ip_rel_memory_operand() {
            let mut decoder = Decoder::with_ip(64, slot, site.address, DecoderOptions::NONE);
            let again = decoder.decode();
            small(decoder.get_constant_offsets(&again).displacement_offset())
        } else {
            0
        };
        let operand = match (instruction.code(), instruction.op0_register()) {
            (Code::In_AL_DX | Code::Out_DX_AL, _) => Operand::AlDx,
            (_, Register::CR3) => Operand::Cr3,
            (_, Register::CR4) => Operand::Cr4,
            _ => Operand::Other,
        };
        let filler = match instruction.segment_prefix() {
            Register::ES => 0x26,
            Register::SS => 0x36,
            Register::DS => 0x3e,
            Register::FS => 0x64,
            Register::GS => 0x65,
            _ => CS_OVERRIDE,
        };
        let stack = names_rsp(instruction) || uses_stack(site.class);
        Ok(Self { second, displacement, stack, filler, operand })
    }
}

/// Offsets in a slot.
fn small(offset: usize) -> u8 {
    u8::try_from(offset).unwrap_or(u8::MAX)
}

fn names_rsp(instruction: &Instruction) -> bool {
    let operands = (0..instruction.op_count()).map(|operand| instruction.op_register(operand));
    operands
        .chain([instruction.memory_base(), instruction.memory_index()])
        .any(|register| register.full_register() == Register::RSP)
}

/// Whether instructions of this class use the stack whatever their operands are, or leave for code
/// that may.
fn uses_stack(class: Class) -> bool {
    !falls_through(class)
        || matches!(
            class,
            Class::Pushf
                | Class::Popf
                | Class::PushfPop
                | Class::PushPopf
                | Class::PushSeg
                | Class::PopSeg
                | Class::Int
                | Class::Int1
                | Class::Int3
                | Class::Lcall
                | Class::Syscall
        )
}

/// An instruction in a listed encoding.
struct Known {
    part: Part,
    end: usize,
    displacement: usize,
    stack: bool,
    operand: Operand,
}

/// What follows an opcode.
enum Tail {
    None,
    Immediate8,
    ModRm,
}

/// What stands before an opcode: at most a REP, an operand-size and a REX prefix, in this order.
struct Prefixes {
    rep: bool,
    word: bool,
    rex: u8,
}

/// The ModR/M byte (SDM Vol. 2A, 2.1.5).
#[derive(Clone, Copy)]
struct ModRm(u8);

impl ModRm {
    fn is_register(self) -> bool {
        self.0 >= 0xc0
    }

    fn reg(self) -> u8 {
        self.0 >> 3 & 7
    }

    fn rm(self) -> u8 {
        self.0 & 7
    }
}

impl Known {
    /// The instruction that starts at this offset in a slot. Slots are at most as long as the
    /// array: what reaches beyond its end is found to be longer than its record says.
    fn at(bytes: &[u8; 16], start: usize) -> Option<Self> {
        let byte = |at: usize| bytes[at & 15];
        let mut at = start;
        let repne = byte(at) == 0xf2;
        at += usize::from(repne);
        let rep = byte(at) == 0xf3;
        at += usize::from(rep);
        let word = byte(at) == 0x66;
        at += usize::from(word);
        let rex = if byte(at) & 0xf0 == 0x40 { byte(at) } else { 0 };
        at += usize::from(rex != 0);
        let prefixes = Prefixes { rep, word, rex };
        let (part, tail, opcode) = if byte(at) == 0x0f {
            at += 2;
            let (class, tail) = if byte(at - 1) == 0x38 {
                at += 1;
                three_byte(byte(at - 1), ModRm(byte(at)), &prefixes)?
            } else {
                two_byte(byte(at - 1), ModRm(byte(at)), &prefixes)?
            };
            (Part::Class(class), tail, 0)
        } else {
            at += 1;
            let (part, tail) = one_byte(byte(at - 1), ModRm(byte(at)), &prefixes)?;
            (part, tail, byte(at - 1))
        };
        if repne != (part == Part::Class(Class::Lkgs)) {
            return None;
        }
        let mut known = Self { part, end: at, displacement: 0, stack: false, operand: Operand::Other };
        match tail {
            Tail::None => {
                if matches!(opcode, 0xec | 0xee) {
                    known.operand = Operand::AlDx;
                }
            }
            Tail::Immediate8 => known.end += 1,
            Tail::ModRm => known.operands(ModRm(byte(at)), byte(at + 1), rex),
        }
        Some(known)
    }

    /// Takes ModR/M, SIB and displacement in 64-bit addressing (SDM Vol. 2A, 2.2.1, Tables 2-2, 2-3
    /// and 2-7).
    fn operands(&mut self, modrm: ModRm, sib: u8, rex: u8) {
        const RSP: u8 = 4;
        self.end += 1;
        let extended = rex & 1 != 0;
        match self.part {
            Part::Class(Class::MovToCr) if modrm.reg() == 3 => self.operand = Operand::Cr3,
            Part::Class(Class::MovToCr) if modrm.reg() == 4 => self.operand = Operand::Cr4,
            // Elsewhere `reg` is a system register or part of the opcode.
            Part::Class(Class::Lar | Class::Lsl | Class::Invpcid) => self.stack = modrm.reg() == RSP && rex & 4 == 0,
            _ => {}
        }
        if modrm.is_register() {
            self.stack |= modrm.rm() == RSP && !extended;
            return;
        }
        let mut base = modrm.rm();
        if base == 4 {
            self.end += 1;
            base = sib & 7;
            self.stack |= base == RSP && !extended;
        }
        match modrm.0 >> 6 {
            0 if base == 5 => {
                if modrm.rm() == 5 {
                    self.displacement = self.end;
                }
                self.end += 4;
            }
            0 => {}
            1 => self.end += 1,
            _ => self.end += 4,
        }
    }
}

/// SDM Vol. 2D, Table A-2.
fn one_byte(opcode: u8, modrm: ModRm, prefixes: &Prefixes) -> Option<(Part, Tail)> {
    let (class, tail) = match opcode {
        0xe4 | 0xe5 if !prefixes.rep => (Class::In, Tail::Immediate8),
        0xe6 | 0xe7 if !prefixes.rep => (Class::Out, Tail::Immediate8),
        0xec | 0xed if !prefixes.rep => (Class::In, Tail::None),
        0xee | 0xef if !prefixes.rep => (Class::Out, Tail::None),
        0x6c | 0x6d => (Class::Ins, Tail::None),
        0x6e | 0x6f => (Class::Outs, Tail::None),
        0x8c if !prefixes.rep && modrm.reg() < 6 => (Class::MovFromSeg, Tail::ModRm),
        _ if prefixes.rep || prefixes.word => return None,
        0x50..=0x57 => return Some((Part::PushRegister, Tail::None)),
        0x58..=0x5f => return Some((Part::PopRegister, Tail::None)),
        0xfa => (Class::Cli, Tail::None),
        0xfb => (Class::Sti, Tail::None),
        0x9c => (Class::Pushf, Tail::None),
        0x9d => (Class::Popf, Tail::None),
        0xf4 => (Class::Hlt, Tail::None),
        0xcf => (Class::Iret, Tail::None),
        0xcb => (Class::Lret, Tail::None),
        0x8e if modrm.reg() < 6 && modrm.reg() != 1 => (Class::MovToSeg, Tail::ModRm),
        0xff if modrm.reg() == 5 && !modrm.is_register() => (Class::Ljmp, Tail::ModRm),
        _ => return None,
    };
    Some((Part::Class(class), tail))
}

/// SDM Vol. 2D, Table A-3, and Table A-6 for the groups.
fn two_byte(opcode: u8, modrm: ModRm, prefixes: &Prefixes) -> Option<(Class, Tail)> {
    let (register, reg) = (modrm.is_register(), modrm.reg());
    // The bits of REX that extend `reg` and `rm`: there are no control or debug registers beyond
    // those listed.
    let low = prefixes.rex & 4 == 0;
    let (class, tail) = match (opcode, reg) {
        (0xae, _) if prefixes.rep && !prefixes.word && register => {
            let base = [Class::Rdfsbase, Class::Rdgsbase, Class::Wrfsbase, Class::Wrgsbase];
            (*base.get(usize::from(reg))?, Tail::ModRm)
        }
        (0xae, 6) if prefixes.word && !prefixes.rep && register => (Class::Tpause, Tail::ModRm),
        _ if prefixes.rep || prefixes.word => return None,
        (0x00, 0) => (Class::Sldt, Tail::ModRm),
        (0x00, 1) => (Class::Str, Tail::ModRm),
        (0x00, 2) => (Class::Lldt, Tail::ModRm),
        (0x00, 3) => (Class::Ltr, Tail::ModRm),
        (0x00, 4) => (Class::Verr, Tail::ModRm),
        (0x00, 5) => (Class::Verw, Tail::ModRm),
        // With prefix F2, which no other of these has (Intel FRED specification, 346446, LKGS).
        (0x00, 6) => (Class::Lkgs, Tail::ModRm),
        (0x01, _) => (group_7(modrm)?, Tail::ModRm),
        (0x02, _) => (Class::Lar, Tail::ModRm),
        (0x03, _) => (Class::Lsl, Tail::ModRm),
        (0x06, _) => (Class::Clts, Tail::None),
        (0x07, _) => (Class::Sysret, Tail::None),
        (0x09, _) => (Class::Wbinvd, Tail::None),
        (0x20, 0 | 2 | 3 | 4) if low && register => (Class::MovFromCr, Tail::ModRm),
        (0x21, _) if low && register => (Class::MovFromDr, Tail::ModRm),
        (0x22, 0 | 2 | 3 | 4) if low && register => (Class::MovToCr, Tail::ModRm),
        (0x23, _) if low && register => (Class::MovToDr, Tail::ModRm),
        (0x30, _) => (Class::Wrmsr, Tail::None),
        (0x31, _) => (Class::Rdtsc, Tail::None),
        (0x32, _) => (Class::Rdmsr, Tail::None),
        (0x33, _) => (Class::Rdpmc, Tail::None),
        (0xa2, _) => (Class::Cpuid, Tail::None),
        (0xae, 0) if !register => (Class::Fxsave, Tail::ModRm),
        (0xae, 1) if !register => (Class::Fxrstor, Tail::ModRm),
        (0xc7, 3) if !register => (Class::Xrstors, Tail::ModRm),
        (0xc7, 5) if !register => (Class::Xsaves, Tail::ModRm),
        _ => return None,
    };
    Some((class, tail))
}

/// Opcode 0F 01.
fn group_7(modrm: ModRm) -> Option<Class> {
    Some(match modrm.0 {
        0xc1 => Class::Vmcall,
        0xc8 => Class::Monitor,
        0xc9 => Class::Mwait,
        0xca => Class::Clac,
        0xcb => Class::Stac,
        0xd0 => Class::Xgetbv,
        0xd1 => Class::Xsetbv,
        0xd9 => Class::Vmmcall,
        0xdc => Class::Stgi,
        0xdd => Class::Clgi,
        0xee => Class::Rdpkru,
        0xef => Class::Wrpkru,
        0xf8 => Class::Swapgs,
        0xf9 => Class::Rdtscp,
        0xfa => Class::Monitorx,
        0xfb => Class::Mwaitx,
        _ if modrm.is_register() => return None,
        _ => match modrm.reg() {
            0 => Class::Sgdt,
            1 => Class::Sidt,
            2 => Class::Lgdt,
            3 => Class::Lidt,
            4 => Class::Smsw,
            6 => Class::Lmsw,
            7 => Class::Invlpg,
            _ => return None,
        },
    })
}

/// Opcodes 0F 38 (SDM Vol. 2D, Table A-4).
fn three_byte(opcode: u8, modrm: ModRm, prefixes: &Prefixes) -> Option<(Class, Tail)> {
    let invpcid = opcode == 0x82 && prefixes.word && !prefixes.rep && !modrm.is_register();
    invpcid.then_some((Class::Invpcid, Tail::ModRm))
}
