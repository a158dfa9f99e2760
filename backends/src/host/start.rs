//! The address at which all loaders enter that go by the ELF file's entry point.
//!
//! Boot loaders of bare hardware enter 32-bit protected mode there, the loaders of Linux and seL4
//! 64-bit mode: the file has one entry point, and GRUB wants it below 4 GB. Linux leaves a stack,
//! seL4 none. So the first instructions mean something in both modes. The byte 41 is INC ECX in
//! 32-bit mode, and in 64-bit mode a prefix that makes R9 of ECX. No other register is changed, nor
//! any memory: there may be no stack.
#![expect(unsafe_code, reason = "two modes of the processor have these bytes in common, not Rust")]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.entry, "ax"
    .code32
    .globl start
start:
    xorl %ecx, %ecx
    .byte 0x41, 0x89, 0xc9              // incl %ecx; movl %ecx, %ecx, or movl %ecx, %r9d
    testl %ecx, %ecx
    jz 1f
    jmp start32
    .code64
1:  testq %rsp, %rsp
    jz start_l4
    jmp start_process
    .text
    "#,
    options(att_syntax)
);
