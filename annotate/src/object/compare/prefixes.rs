//! Prefixes that do nothing.
//!
//! An assembler that aligns branches (`-malign-branch-prefix-size=`, LLVM's
//! `-x86-pad-max-prefix-size=`) makes instructions before them longer by segment overrides. Which,
//! and how many, depends on the address, as for filler. In 64-bit code the overrides of ES, CS, SS
//! and DS are ignored (SDM Vol. 1, 3.3.4); one of FS or GS may be repeated; in 32-bit code that of
//! the operand's own segment says nothing new.
//!
//! On a near branch DS is a hint, or NOTRACK (SDM Vol. 2A, 2.1.1; Vol. 1, 17.3.1): it stays.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Register};

const ES: u8 = 0x26;
const CS: u8 = 0x2e;
const SS: u8 = 0x36;
const DS: u8 = 0x3e;
const FS: u8 = 0x64;
const GS: u8 = 0x65;

/// An instruction's bytes without the prefixes before it that do nothing.
pub(super) fn without_idle_prefixes(bytes: &[u8], bitness: u32) -> &[u8] {
    match bytes {
        [ES | CS | SS | DS | FS | GS, ..] => {
            let instruction = Decoder::new(bitness, bytes, DecoderOptions::NONE).decode();
            without_idle(bytes, &instruction)
        }
        _ => bytes,
    }
}

/// The same, of an instruction that has been decoded.
pub(super) fn without_idle<'data>(bytes: &'data [u8], instruction: &Instruction) -> &'data [u8] {
    if instruction.is_invalid() {
        return bytes;
    }
    let is_idle = |prefix: u8, next: u8| match prefix {
        FS | GS => prefix == next,
        _ if instruction.code_size() != iced_x86::CodeSize::Code64 => default_segment(instruction) == Some(prefix),
        ES | CS | SS => true,
        DS => instruction.flow_control() == FlowControl::Next || instruction.flow_control() == FlowControl::Interrupt,
        _ => false,
    };
    let idle = bytes.windows(2).take_while(|pair| is_idle(pair[0], pair[1])).count();
    &bytes[idle..]
}

/// The override of the segment that a memory operand is in without one: SS with RBP and RSP, else
/// DS.
fn default_segment(instruction: &Instruction) -> Option<u8> {
    let has_memory =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == iced_x86::OpKind::Memory);
    let in_stack = matches!(
        instruction.memory_base(),
        Register::BP | Register::EBP | Register::RBP | Register::ESP | Register::RSP
    );
    let segment = if in_stack { SS } else { DS };
    (!has_memory || instruction.memory_segment() == if in_stack { Register::SS } else { Register::DS })
        .then_some(segment)
}

#[cfg(test)]
mod tests {
    use super::without_idle_prefixes;

    #[test]
    fn prefixes_that_do_nothing_are_left_out() {
        let cases: [(u32, &[u8], usize); 16] = [
            (64, &[0x58], 0),
            (64, &[0x2e, 0x58], 1),                         // cs pop %rax
            (64, &[0x2e, 0x2e, 0x3e, 0x36, 0x26, 0x58], 5), //
            (64, &[0x3e, 0x48, 0x89, 0xc3], 1),             // ds mov %rax, %rbx
            (64, &[0x64, 0x48, 0x8b, 0x00], 0),             // mov %fs:(%rax), %rax
            (64, &[0x64, 0x64, 0x64, 0x48, 0x8b, 0x00], 2), // and twice more
            (64, &[0x65, 0x64, 0x48, 0x8b, 0x00], 0),       // the last one counts
            (64, &[0x3e, 0xff, 0xe0], 0),                   // notrack jmp *%rax
            (64, &[0x2e, 0xff, 0xe0], 1),                   // cs jmp *%rax
            (64, &[0x3e, 0x74, 0x00], 0),                   // je,pt
            (64, &[0x66, 0x2e, 0x90], 0),                   // not in front
            (64, &[0x2e, 0xf0, 0x48, 0xff, 0x00], 1),       // cs lock incq (%rax)
            (32, &[0x3e, 0x8b, 0x00], 1),                   // mov %ds:(%eax), %eax
            (32, &[0x36, 0x8b, 0x00], 0),                   // mov %ss:(%eax), %eax
            (32, &[0x36, 0x8b, 0x45, 0x00], 1),             // mov %ss:(%ebp), %eax
            (32, &[0x2e, 0x8b, 0x00], 0),                   // mov %cs:(%eax), %eax
        ];
        for (bitness, bytes, idle) in cases {
            assert_eq!(without_idle_prefixes(bytes, bitness), &bytes[idle..], "{bitness}: {bytes:x?}");
        }
    }
}
