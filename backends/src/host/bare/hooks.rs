//! The way from a hooked site into Rust and back.
//!
//! A stub calls one of the entries below. All registers and flags are as at the site and stay so, but for what the wedge
//! changes on purpose. Interrupts are off meanwhile: an interrupt's handler would execute hooked sites itself.

use core::arch::global_asm;

use wedge::sites::{Hook, Hooks};

use super::exceptions::Frame;
use super::resident::hooked;

/// The general-purpose registers, in the order of the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Registers {
    pub(super) r15: u64,
    pub(super) r14: u64,
    pub(super) r13: u64,
    pub(super) r12: u64,
    pub(super) r11: u64,
    pub(super) r10: u64,
    pub(super) r9: u64,
    pub(super) r8: u64,
    pub(super) rbp: u64,
    pub(super) rdi: u64,
    pub(super) rsi: u64,
    pub(super) rdx: u64,
    pub(super) rcx: u64,
    pub(super) rbx: u64,
    pub(super) rax: u64,
}

impl Registers {
    /// The register with this number in an instruction's encoding (SDM Vol. 2A, table 2-4). RSP is not among them.
    fn by_number(&self, number: u8) -> u64 {
        match number & 15 {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            15 => self.r15,
            _ => 0,
        }
    }
}

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

/// The hooks in the order of their entries.
pub(super) const HOOKS: [Hook; 5] = [Hook::Port, Hook::Flush, Hook::Descriptor, Hook::Fault, Hook::Return];

/// The addresses of the entries.
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
    call {hooked}
    movq %rbx, %rsp
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    popq %\register
    .endr
    popfq
    leaq 8(%rsp), %rsp
    ret
    "#,
    hooked = sym hooked,
    options(att_syntax)
);
