//! Which address an instruction was about when it came upon a page fault, if its lower half is all
//! that a host tells.
//!
//! seL4 5.0.0 does so: `handleVMFault` has the address in 32 bits (`src/arch/x86/kernel/vspace.c`).
//! The upper half follows from the instruction and the registers. It stands still on the address
//! that was refused: a string instruction's registers are those of the step that it is at (SDM Vol.
//! 1, 7.3.9.3).

use iced_x86::{Instruction, MemorySize, OpKind, Register};

use super::Context;

/// The address with this lower half that an instruction of this context accesses; `None` if it
/// accesses none. `bases` are those of FS and GS.
#[must_use]
pub fn accessed(instruction: &Instruction, context: &Context, bases: [u64; 2], lower: u32) -> Option<u64> {
    /// No instruction pushes or pops more beside its frame: ENTER with all levels (SDM Vol. 2A).
    const STACK: u64 = 32 * 8;
    let within = |start: u64, length: u64| {
        let distance = lower.wrapping_sub(start as u32);
        (u64::from(distance) < length).then(|| start.wrapping_add(distance.into()))
    };
    let length = match instruction.memory_size() {
        MemorySize::Unknown => 64,
        size => size.size().max(1) as u64,
    };
    let value = |register, _, _| Some(value_of(context, bases, register));
    for operand in 0..instruction.op_count() {
        let is_memory = is_memory(instruction.op_kind(operand));
        let start = if is_memory { instruction.virtual_address(operand, 0, value) } else { None };
        if let Some(found) = start.and_then(|start| within(start, length)) {
            return Some(found);
        }
    }
    let on_stack = instruction.is_stack_instruction() || instruction.stack_pointer_increment() != 0;
    on_stack.then(|| within(context.rsp.wrapping_sub(STACK), 2 * STACK)).flatten()
}

/// Whether an operand is in memory: of others, too, iced-x86 tells an address.
fn is_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}

fn value_of(context: &Context, [fs, gs]: [u64; 2], register: Register) -> u64 {
    let registers = &context.registers;
    let whole = match register.full_register() {
        Register::RAX => registers.rax,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RBX => registers.rbx,
        Register::RSP => context.rsp,
        Register::RBP => registers.rbp,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => return fs,
        Register::GS => return gs,
        _ => return 0,
    };
    // The lower half of a register, as XLAT and 32-bit addresses have it.
    match register.size() {
        1 => whole & 0xff,
        2 => whole & 0xffff,
        4 => whole & 0xffff_ffff,
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Registers, decode};

    fn context() -> Context {
        Context {
            registers: Registers {
                rax: 0x1234_5678_9abc,
                rbx: 0x7fff_ffff_fff8,
                rcx: 3,
                rsi: 0x5fff_8100_0ffe,
                rdi: 0x0880_0000_1000,
                ..Registers::default()
            },
            rip: 0x5fff_8100_0000,
            rsp: 0x0880_0003_0000,
            ..Context::default()
        }
    }

    #[test]
    fn the_upper_half_follows_from_the_instruction() {
        let bases = [0x7f12_3400_0000, 0x5fff_8200_0000];
        for (bytes, lower, expected) in [
            // mov (%rax), %rdx; and where it crosses into another page
            (&[0x48, 0x8b, 0x10][..], 0x5678_9abc_u32, Some(0x1234_5678_9abc)),
            (&[0x48, 0x8b, 0x10], 0x5678_9ac0, Some(0x1234_5678_9ac0)),
            (&[0x48, 0x8b, 0x10], 0x5678_9ac4, None),
            // mov 16(%rbx,%rcx,8), %edx: it goes beyond 4 GB
            (&[0x8b, 0x54, 0xcb, 0x10], 0x20, Some(0x8000_0000_0020)),
            // mov %gs:0x28, %rax; mov %fs:(%rcx), %al
            (&[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], 0x8200_0028, Some(0x5fff_8200_0028)),
            (&[0x64, 0x8a, 0x01], 0x3400_0003, Some(0x7f12_3400_0003)),
            // mov 0x10(%rip), %rax
            (&[0x48, 0x8b, 0x05, 0x10, 0, 0, 0], 0x8100_0017, Some(0x5fff_8100_0017)),
            // movsl, from one and to the other
            (&[0xa5], 0x8100_1000, Some(0x5fff_8100_1000)),
            (&[0xa5], 0x0000_1000, Some(0x0880_0000_1000)),
            // push %rax; call *(%rax); ret; leave
            (&[0x50], 0x0002_fff8, Some(0x0880_0002_fff8)),
            (&[0xff, 0x10], 0x0002_fff8, Some(0x0880_0002_fff8)),
            (&[0xff, 0x10], 0x5678_9abc, Some(0x1234_5678_9abc)),
            (&[0xc3], 0x0003_0000, Some(0x0880_0003_0000)),
            // push $8; enter $16, $0: an immediate operand is no address
            (&[0x6a, 0x08], 0x0000_0008, None),
            (&[0x6a, 0x08], 0x0002_fff8, Some(0x0880_0002_fff8)),
            (&[0xc8, 0x10, 0, 0], 0x0002_fff8, Some(0x0880_0002_fff8)),
            // fxsave64 (%rdi)
            (&[0x48, 0x0f, 0xae, 0x07], 0x0000_11ff, Some(0x0880_0000_11ff)),
            // nop; mov %rax, %rbx
            (&[0x90], 0x5678_9abc, None),
            (&[0x48, 0x89, 0xc3], 0x5678_9abc, None),
        ] {
            let instruction = decode(bytes, context().rip).expect("an instruction");
            assert_eq!(accessed(&instruction, &context(), bases, lower), expected, "{bytes:02x?} {lower:#x}");
        }
    }
}
