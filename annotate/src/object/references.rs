//! What in a file refers to a place in its text.
//!
//! A slot will be overwritten, and it has made its text longer. So whatever names a place in text
//! by its distance from another one, as a count of bytes (`lea .+14(%rip)`, `movq $label+3`), may
//! name another place than the source means, and sometimes that shows: it lies within a slot, or
//! within an instruction.
//!
//! * A *branch* goes to an instruction. There are two exceptions: a function may hide in the
//!   operand of an instruction (Linux's return thunk), which then starts an instruction by its
//!   symbol; and a branch may pass the prefixes of one.
//! * An *operand* of an instruction is an address, RIP-relative or absolute. So is a *word* of a
//!   data section that a relocation fills. Tables that Linux makes of its text are such words.
//!
//! What compilers make of arithmetic is no address, and is left out: displacements of operands with
//! a register, addresses outside of the symbol that they are named by (`table - 8`), and, in
//! `.rodata`, words relative to the start of their table. Nor does what describes text for others
//! refer to it: unwind tables, debug information, what is discarded.

use ::object::elf::{R_X86_64_32, R_X86_64_32S, R_X86_64_64, STT_SECTION};
use iced_x86::{Instruction, OpKind};

use super::elf::{Elf, Place, Relocation, Section};
use crate::linux::tables::without_physical_bias;

/// Where compilers put jump tables: words that are relative to the start of their table, in
/// position-independent code.
pub(super) const JUMP_TABLES: &str = ".rodata";

/// How a place is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By a direct branch.
    Branch,
    /// By another operand of an instruction.
    Operand,
    /// By a word of data.
    Word,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Branch => "branch",
            Self::Operand => "operand",
            Self::Word => "word",
        })
    }
}

/// A reference to a place in an executable section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) kind: Kind,
}

/// The references of a file.
pub(super) struct References<'elf, 'data> {
    elf: &'elf Elf<'data>,
    pub(super) found: Vec<Reference>,
}

impl<'elf, 'data> References<'elf, 'data> {
    pub(super) fn of(elf: &'elf Elf<'data>) -> Self {
        Self { elf, found: Vec::new() }
    }

    fn add(&mut self, from: Place, to: Place, kind: Kind) {
        if self.elf.sections().get(to.section).is_some_and(|section| section.executable) {
            self.found.push(Reference { from, to, kind });
        }
    }

    /// Notes what an instruction refers to. `relocations` are those of its section; in a linked
    /// file there are none.
    pub(super) fn instruction(&mut self, place: Place, instruction: &Instruction, relocations: &[Relocation]) {
        let is_branch = is_direct_branch(instruction);
        if !relocations.is_empty() && self.fields(place, instruction, is_branch, relocations) {
            return;
        }
        let (target, kind) = if is_branch {
            (instruction.near_branch_target(), Kind::Branch)
        } else if instruction.is_ip_rel_memory_operand() {
            (instruction.ip_rel_memory_address(), Kind::Operand)
        } else {
            return;
        };
        // What an instruction computes is an address; in a relocatable object, an offset in its own
        // section.
        let own = || Some(Place { section: place.section, offset: target });
        if let Some(to) = if self.elf.relocatable() { own() } else { self.elf.place_at(target) } {
            self.add(place, to, kind);
        }
    }

    /// Notes what the relocated fields of an instruction refer to, and returns whether there are
    /// any.
    fn fields(&mut self, place: Place, instruction: &Instruction, is_branch: bool, relocations: &[Relocation]) -> bool {
        let end = place.offset + instruction.len() as u64;
        let first = relocations.partition_point(|relocation| relocation.offset < place.offset);
        let mut fields = relocations[first..].iter().take_while(|relocation| relocation.offset < end).peekable();
        let is_relocated = fields.peek().is_some();
        let kind = if is_branch { Kind::Branch } else { Kind::Operand };
        for field in fields.filter(|field| is_branch || !is_displacement(instruction, field, end)) {
            if let Some(to) = self.target(field, end) {
                self.add(place, to, kind);
            }
        }
        is_relocated
    }

    /// Notes what the words of data sections refer to.
    pub(super) fn words(&mut self) {
        for (index, section) in self.elf.sections().iter().enumerate() {
            if !is_data(section) {
                continue;
            }
            let tables_have_starts = section.name.starts_with(JUMP_TABLES);
            for relocation in self.elf.relocations(index) {
                if relocation.is_relative() && tables_have_starts {
                    continue;
                }
                let offset = relocation.offset.wrapping_sub(section.address);
                if let Some(to) = self.target(&relocation, relocation.offset) {
                    self.add(Place { section: index, offset }, to, Kind::Word);
                }
            }
        }
    }

    /// The place that a field means. A relative one of an instruction that ends at `end` counts
    /// from there, while its relocation counts from the field itself; of data the two are the same.
    fn target(&self, relocation: &Relocation, end: u64) -> Option<Place> {
        let is_absolute = matches!(relocation.kind, R_X86_64_64 | R_X86_64_32 | R_X86_64_32S);
        let from_field = if relocation.is_relative() { end.wrapping_sub(relocation.offset) } else { 0 };
        if !is_absolute && !relocation.is_relative() {
            return None;
        }
        let symbol = self.elf.symbol_of(relocation)?;
        let start = symbol.place?;
        let distance = relocation.addend.cast_unsigned().wrapping_add(from_field);
        let is_measured = symbol.kind != STT_SECTION && symbol.size > 0;
        let distance = if is_absolute { without_physical_bias(distance) } else { distance };
        (!is_measured || distance <= symbol.size)
            .then(|| Place { offset: start.offset.wrapping_add(distance), ..start })
    }
}

/// Whether the words of a section say where something is.
fn is_data(section: &Section<'_>) -> bool {
    const DESCRIPTIONS: [&str; 7] =
        [".discard", ".eh_frame", ".gcc_except_table", ".llvm", ".orc_", ".sframe", ".stack_sizes"];
    let is_description = DESCRIPTIONS.iter().any(|name| section.name.starts_with(name));
    section.alloc && !section.executable && !section.is_note() && !is_description
}

pub(super) fn is_direct_branch(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// Whether a field is the displacement of an operand that a register has a part in. An immediate
/// stands behind it, last in its instruction.
fn is_displacement(instruction: &Instruction, field: &Relocation, end: u64) -> bool {
    let size = if field.kind == R_X86_64_64 { 8 } else { 4 };
    let is_immediate = |kind: OpKind| {
        matches!(kind, OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64 | OpKind::FarBranch32)
    };
    let has_immediate = (0..instruction.op_count()).any(|operand| is_immediate(instruction.op_kind(operand)));
    let has_register = instruction.memory_base() != iced_x86::Register::None && !instruction.is_ip_rel_memory_operand()
        || instruction.memory_index() != iced_x86::Register::None;
    has_register && !(has_immediate && field.offset.wrapping_add(size) == end)
}

/// Which bytes of the executable sections start an instruction, and which lie within one.
#[derive(Default)]
pub(super) struct Instructions {
    /// By section.
    sections: Vec<Marks>,
}

/// A bit for each byte.
#[derive(Clone, Default)]
pub(super) struct Marks {
    starts: Vec<u64>,
    insides: Vec<u64>,
}

impl Marks {
    /// Those of a section of this size, none set.
    pub(super) fn of(size: usize) -> Self {
        // An instruction that starts in the last word may end in one more.
        let words = size / 64 + 2;
        Self { starts: vec![0; words], insides: vec![0; words] }
    }

    /// Notes an instruction.
    pub(super) fn add(&mut self, offset: u64, length: usize) {
        let Ok(offset) = usize::try_from(offset) else { return };
        let (word, bit) = (offset / 64, offset % 64);
        let insides = ((1u128 << length) - 2) << bit;
        if let [first, second, ..] = &mut self.insides[word.min(self.starts.len())..] {
            self.starts[word] |= 1 << bit;
            #[expect(clippy::cast_possible_truncation, reason = "the halves of it")]
            let (low, high) = (insides as u64, (insides >> 64) as u64);
            *first |= low;
            *second |= high;
        }
    }
}

impl Marks {
    /// Whether all bytes of a section of this size belong to instructions.
    pub(super) fn cover(&self, size: usize) -> bool {
        let words = self.starts.iter().zip(&self.insides).map(|(starts, insides)| starts | insides);
        let full = size / 64;
        let rest = (1 << (size % 64)) - 1;
        words
            .enumerate()
            .take(full + 1)
            .all(|(number, word)| if number < full { word == u64::MAX } else { word & rest == rest })
    }
}

impl Instructions {
    pub(super) fn insert(&mut self, section: usize, marks: Marks) {
        if self.sections.len() <= section {
            self.sections.resize(section + 1, Marks::default());
        }
        self.sections[section] = marks;
    }

    /// Whether a place lies within an instruction, and none starts there.
    pub(super) fn is_within(&self, place: Place) -> bool {
        let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let marks = self.sections.get(place.section);
        marks.is_some_and(|marks| !get(&marks.starts, offset) && get(&marks.insides, offset))
    }

    /// The start of the instruction that a place lies within.
    pub(super) fn start_before(&self, place: Place) -> Option<u64> {
        const LONGEST: u64 = 15;
        let marks = self.sections.get(place.section)?;
        let is_start = |offset: &u64| usize::try_from(*offset).is_ok_and(|offset| get(&marks.starts, offset));
        (place.offset.saturating_sub(LONGEST)..place.offset).rev().find(is_start)
    }
}

fn get(bits: &[u64], number: usize) -> bool {
    bits.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
}
