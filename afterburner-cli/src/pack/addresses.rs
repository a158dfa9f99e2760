//! The addresses in a kernel, as far as they can be told without its relocations.
//!
//! In data they are aligned words. In text they are fields of instructions: a displacement or an
//! immediate operand that is sign-extended to an address in the image, a 64-bit immediate operand,
//! a displacement from RIP that leads to the per-CPU area. Numbers that only look like an address
//! would be mistaken for one, so masks are passed over, and so is the start of the image, which
//! Linux also knows as a constant (`__START_KERNEL`, `include/asm/page_types.h`).

use std::ops::Range;

use annotate::object::Elf;
use annotate::object::text::{Functions, landmarks, sweep};
use iced_x86::{Code, CodeSize, Instruction, Mnemonic, OpKind, Register};

use super::relocations::List;

/// A field of the kernel that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) list: List,
    /// Where it is linked.
    pub(super) linked: u64,
    /// The address in it.
    pub(super) value: u64,
}

/// The words in a kernel's data that are addresses in the image. In sections for special tables,
/// smaller numbers may look like one when they are taken together.
pub(super) fn in_data(elf: &Elf<'_>, image: &Range<u64>) -> Vec<Field> {
    const DATA: [&str; 3] = [".rodata", ".data", ".init.data"];
    let mut fields = Vec::new();
    for (_, section) in DATA.into_iter().filter_map(|name| elf.section_named(name)) {
        let ahead = section.address.wrapping_neg() % 8;
        let words = section.bytes.get(usize::try_from(ahead).unwrap_or_default()..).unwrap_or_default().as_chunks().0;
        for (word, linked) in words.iter().zip((section.address + ahead..).step_by(8)) {
            let value = u64::from_le_bytes(*word);
            if image.contains(&value) {
                fields.push(Field { list: List::Wide, linked, value });
            }
        }
    }
    fields
}

/// The fields of a kernel's instructions that are addresses in the image, or distances to the
/// per-CPU area; and those that are zero, which they are also when all of an address was taken away
/// from it.
pub(super) fn in_text(elf: &Elf<'_>, image: &Range<u64>, per_cpu: &Range<u64>) -> Vec<Field> {
    let functions = Functions::of(elf);
    let image = &(image.start + 1..image.end);
    let mut fields = Vec::new();
    for (index, section) in elf.executable() {
        let landmarks = landmarks(functions.in_section(index), &[]);
        sweep(section.bytes, section.address, &landmarks, |instruction| {
            if instruction.code_size() == CodeSize::Code64 {
                fields.extend(of_instruction(instruction, image, per_cpu).into_iter().flatten());
            }
        });
    }
    fields
}

/// The displacement and the immediate operand of an instruction, if they are addresses. The one
/// stands before the other, at the end of the instruction (SDM Vol. 2A, 2.1).
fn of_instruction(instruction: &Instruction, image: &Range<u64>, per_cpu: &Range<u64>) -> [Option<Field>; 2] {
    /// The value of one that is too small for an address.
    const NONE: u64 = u64::MAX;
    const MASKS: [Mnemonic; 4] = [Mnemonic::And, Mnemonic::Or, Mnemonic::Xor, Mnemonic::Test];
    let kinds = (0..instruction.op_count()).map(|number| (number, instruction.op_kind(number)));
    let mut immediate = kinds.filter_map(|(number, kind)| match kind {
        OpKind::Immediate8 | OpKind::Immediate8to16 | OpKind::Immediate8to32 | OpKind::Immediate8to64 => {
            Some((1, List::Narrow, NONE))
        }
        OpKind::Immediate16 => Some((2, List::Narrow, NONE)),
        OpKind::Immediate32 => Some((4, List::Narrow, NONE)),
        OpKind::Immediate32to64 => Some((4, List::Narrow, instruction.immediate(number))),
        OpKind::Immediate64 => Some((8, List::Wide, instruction.immediate(number))),
        _ => None,
    });
    let immediate = immediate.next_back();
    let end = instruction.next_ip();
    let behind = immediate.map_or(0, |(size, ..)| size);
    let field = |(size, list, value)| Field { list, linked: end - size, value };
    let immediate = immediate.map(field).filter(|field| may_be_address(field.value, image));
    [
        displacement(instruction, end - behind, image, per_cpu),
        immediate.filter(|field| field.value == 0 || !MASKS.contains(&instruction.mnemonic())),
    ]
}

fn may_be_address(value: u64, image: &Range<u64>) -> bool {
    value == 0 || image.contains(&value)
}

/// The displacement of an instruction, which ends at an address.
fn displacement(instruction: &Instruction, end: u64, image: &Range<u64>, per_cpu: &Range<u64>) -> Option<Field> {
    let kinds = (0..instruction.op_count()).map(|number| instruction.op_kind(number));
    let has_memory = kinds.into_iter().any(|kind| kind == OpKind::Memory);
    // Of a displacement of 4 bytes iced says 8 where addresses have 64 bits.
    if !has_memory || instruction.memory_displ_size() != 8 {
        return None;
    }
    let value = instruction.memory_displacement64();
    if matches!(
        instruction.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    ) {
        // The only displacement of 8 bytes.
        return image.contains(&value).then_some(Field { list: List::Wide, linked: end - 8, value });
    }
    let linked = end - 4;
    match instruction.memory_base() {
        Register::RIP => per_cpu.contains(&value).then_some(Field { list: List::Inverse, linked, value }),
        _ => may_be_address(value, image).then_some(Field { list: List::Narrow, linked, value }),
    }
}
