//! The way from a hooked site into Rust and back.
//!
//! A stub calls one of the entry points below. All registers and flags are as at the site and stay
//! so, but for what the wedge changes on purpose. Interrupts are off meanwhile: an interrupt's
//! handler would execute hooked sites itself.

use core::arch::global_asm;

use wedge::sites::{Hook, Hooks};

use super::context::{Frame, Registers};

/// The stack at a hook.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Call {
    pub(super) registers: Registers,
    rflags: u64,
    /// Index in [`HOOKS`].
    pub(super) hook: u64,
    /// Address in the stub that the call returns to.
    pub(super) return_address: u64,
    /// What the site's code has on its stack, if the site is an IRET.
    pub(super) frame: Frame,
}

impl Call {
    /// A register at the site, by its number.
    pub(super) fn register(&self, number: u8) -> u64 {
        const RSP: u8 = 4;
        if number & 15 == RSP { (&raw const self.frame).addr() as u64 } else { self.registers.by_number(number) }
    }
}

/// The hooks in the order of their entry points.
pub(super) const HOOKS: [Hook; 5] = [Hook::Port, Hook::Flush, Hook::Descriptor, Hook::Fault, Hook::Return];

/// The addresses of the entry points.
pub(super) fn hooks() -> Hooks {
    Hooks {
        port: hook_0 as *const () as u64,
        flush: hook_1 as *const () as u64,
        descriptor: hook_2 as *const () as u64,
        fault: hook_3 as *const () as u64,
        ret: hook_4 as *const () as u64,
    }
}

unsafe extern "C" {
    fn hook_0();
    fn hook_1();
    fn hook_2();
    fn hook_3();
    fn hook_4();
}

global_asm!(
    r#"
    .text
    .irp hook, 0,1,2,3,4
    .globl hook_\hook
hook_\hook:
    pushq $\hook
    jmp hook_common
    .endr
hook_common:
    pushfq
    cli
    cld
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call bare_hooked
    movq %rbx, %rsp
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    popq %\register
    .endr
    popfq
    leaq 8(%rsp), %rsp
    ret
    "#,
    options(att_syntax)
);
