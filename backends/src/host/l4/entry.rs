//! The ways into the wedge, and out of it again.
//!
//! seL4 starts the image as its first thread: in 64-bit mode, at the address that the file says,
//! without a stack, and not in the window where the wedge belongs. So the first thing that is done
//! is to map it there ([`early`](super::early)).
//!
//! Later, sites come by their stubs, and here. What the processor does not let the guest's kernel do,
//! and what comes from outside, another thread is told, the pager (`pager.rs`): it notes what it was
//! ([`CPU`]), and has this thread go on at `l4_exception`, on the wedge's stack, with all registers but
//! RIP, RSP and RFLAGS as they were. All end in one place: a [`Context`](wedge::cpu::Context) at the top
//! of the wedge's stack, the mask set, and a call of `l4_entered`.
//!
//! *What comes in while the wedge runs* the pager notes as pending, and nothing else. Whoever leaves
//! the wedge looks whether something is. *The gap:* between that look and IRETQ something may still
//! come in, with the mask clear. Who is interrupted there has the whole context of the guest in
//! registers, but for the frame of the IRETQ, which is on the wedge's stack: the pager takes it from
//! there.

use core::arch::global_asm;
use core::mem::offset_of;

use wedge::guest::linux::{KERNEL_CS, KERNEL_DS};
use wedge::x86::flags;

use super::cpu::{CPU, Cpu, STACK_PAGES};
use super::guest::{REAL_CS, REAL_SS};
use crate::host::cause;
use crate::runtime::PAGE;

unsafe extern "C" {
    /// From here on the mask may be clear, up to
    pub(super) static l4_gap: u8;
    /// here, the IRETQ.
    pub(super) static l4_gap_end: u8;
    /// Where the pager has the thread go on: for the guest,
    pub(super) fn l4_exception();
    /// and for a fault of the wedge's own.
    pub(super) fn l4_nested();
    pub(super) fn l4_pager_start();
    pub(super) fn l4_emulate();
    pub(super) fn l4_emulate_without_stack();
    pub(super) fn l4_interrupt();
    pub(super) fn l4_iret();
    pub(super) fn l4_sysret();
    /// Goes on in the guest's kernel.
    pub(super) fn l4_resume(context: *mut wedge::cpu::Context) -> !;
}

global_asm!(
    r#"
    .section .text.entry.l4, "ax"
    .code64
    .globl start_l4
start_l4:
    leaq {cpu}+{stack_end}(%rip), %rsp  // where the image was loaded
    leaq image_start(%rip), %rsi
    movq l4_linked(%rip), %rdx          // where it belongs
    movq %rdi, %r12                     // the bootinfo
    movq %rsi, %r13
    xorl %ebp, %ebp
    call l4_early
    jmpq *l4_in_window(%rip)
1:  movb $1, {cpu}+{mask}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    movq %r12, %rdi
    movq %r13, %rsi
    movq %rax, %rdx                     // what was used of the bootinfo
    call l4_start
    ud2

    .section .data.rel.ro, "aw"
    .balign 8
l4_linked:
    .quad image_start
l4_in_window:
    .quad 1b

    .section .text.entry.l4, "ax"
    .globl l4_pager_start
l4_pager_start:
    xorl %ebp, %ebp
    call l4_pager
    ud2

    // The stack: vector, error code, rip, cs, rflags, rsp, ss; RAX is on it.
    .macro L4_SAVE_REST
    .irp register, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
    .endm

    .macro L4_LOAD_ALL
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    popq %\register
    .endr
    .endm

    // What the pager has noted, as a context.
    .macro L4_NOTED cs, ss
    pushq $\ss
    pushq {cpu}+{rsp}(%rip)
    pushq {cpu}+{rflags}(%rip)
    pushq $\cs
    pushq {cpu}+{rip}(%rip)
    pushq {cpu}+{error}(%rip)
    pushq {cpu}+{vector}(%rip)
    pushq %rax
    L4_SAVE_REST
    .endm

    .globl l4_exception
l4_exception:
    L4_NOTED {KERNEL_CS}, {KERNEL_DS}
    jmp l4_enter

    .globl l4_nested
l4_nested:
    L4_NOTED {REAL_CS}, {REAL_SS}
    cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call l4_nested_entered
    movq %rbx, %rsp
    L4_LOAD_ALL
    leaq 16(%rsp), %rsp
    iretq

    // From a stub, by CALL: all registers as at the site.
    .macro L4_FROM_STUB cause
    movq %rax, {cpu}+{saved_rax}(%rip)
    movzbl {cpu}+{mask}(%rip), %eax
    movb $1, {cpu}+{mask}(%rip)
    movq %rsp, {cpu}+{saved_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq ${KERNEL_DS}
    pushq {cpu}+{saved_rsp}(%rip)
    pushfq
    pushq ${KERNEL_CS}
    shll ${IF_NUMBER}, %eax
    xorq %rax, 8(%rsp)                  // RFLAGS with the virtual IF: the real one is always set
    movq 16(%rsp), %rax
    addq $8, 16(%rsp)                   // the guest's RSP, without the return address
    pushq (%rax)
    pushq $0
    pushq $\cause
    pushq {cpu}+{saved_rax}(%rip)
    L4_SAVE_REST
    jmp l4_enter
    .endm

    .globl l4_emulate
l4_emulate:
    L4_FROM_STUB {SITE}
    .globl l4_interrupt
l4_interrupt:
    L4_FROM_STUB {EVENT}

    // From a stub, by JMP, with IF clear, or about to be replaced: there is no stack.
    .macro L4_WITHOUT_STACK cause
    movb $1, {cpu}+{mask}(%rip)
    movq %rsp, {cpu}+{saved_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq ${KERNEL_DS}
    pushq {cpu}+{saved_rsp}(%rip)
    pushfq
    pushq ${KERNEL_CS}
    pushq $0
    pushq $0
    pushq $\cause
    pushq %rax
    L4_SAVE_REST
    andb $~({IF}>>8), 153(%rsp)          // RFLAGS.IF: 15 registers, vector, error, rip, cs
    jmp l4_enter
    .endm

    .globl l4_emulate_without_stack
l4_emulate_without_stack:
    L4_WITHOUT_STACK {SITE_WITHOUT_STACK}
    .globl l4_iret
l4_iret:
    L4_WITHOUT_STACK {IRET}
    .globl l4_sysret
l4_sysret:
    L4_WITHOUT_STACK {SYSRET}

    // A kernel that steps through its own code, as Linux does where a program has executed SYSENTER
    // with TF set, does not step through the wedge.
l4_enter:
    testb ${TF}>>8, 153(%rsp)
    jz 1f
    pushq $2
    popfq
1:  cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call l4_entered
    movq %rbx, %rsp
l4_to_kernel:
    L4_LOAD_ALL
    leaq 16(%rsp), %rsp
    testb ${IF}>>8, 17(%rsp)            // rflags.IF
    jz 1f
    movb $0, {cpu}+{mask}(%rip)
    .globl l4_gap
l4_gap:
    cmpb $0, {cpu}+{pending}(%rip)
    jne 2f
    .globl l4_gap_end
l4_gap_end:
1:  iretq
2:  movb $1, {cpu}+{mask}(%rip)
    movq ${KERNEL_CS}, 8(%rsp)
    movq ${KERNEL_DS}, 32(%rsp)
    pushq $0
    pushq ${EVENT}
    pushq %rax
    L4_SAVE_REST
    jmp l4_enter

    .globl l4_resume
l4_resume:
    movq %rdi, %rsp
    jmp l4_to_kernel

    .text
    "#,
    cpu = sym CPU,
    saved_rax = const offset_of!(Cpu, saved_rax),
    saved_rsp = const offset_of!(Cpu, saved_rsp),
    vector = const offset_of!(Cpu, vector),
    error = const offset_of!(Cpu, error),
    rip = const offset_of!(Cpu, rip),
    rflags = const offset_of!(Cpu, rflags),
    rsp = const offset_of!(Cpu, rsp),
    mask = const offset_of!(Cpu, mask),
    pending = const offset_of!(Cpu, pending),
    stack_end = const offset_of!(Cpu, stack) as u64 + STACK_PAGES as u64 * PAGE,
    KERNEL_CS = const KERNEL_CS,
    KERNEL_DS = const KERNEL_DS,
    REAL_CS = const REAL_CS,
    REAL_SS = const REAL_SS,
    IF = const flags::INTERRUPT,
    TF = const flags::TRAP,
    IF_NUMBER = const flags::INTERRUPT.trailing_zeros(),
    EVENT = const cause::EVENT,
    SITE = const cause::SITE,
    SITE_WITHOUT_STACK = const cause::SITE_WITHOUT_STACK,
    IRET = const cause::IRET,
    SYSRET = const cause::SYSRET,
    options(att_syntax)
);
