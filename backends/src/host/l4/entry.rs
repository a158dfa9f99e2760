//! The ways into the wedge, and out of it again.
//!
//! seL4 starts the image as its first thread: in 64-bit mode, at the address that the file says,
//! without a stack, and not in the window where the wedge belongs. So the first thing that is done
//! is to map it there ([`early`](super::early)).
//!
//! Later, sites come by their stubs, and here. What the processor does not let the guest's kernel
//! do, and what comes from outside, another thread is told, the pager (`pager.rs`): it notes what
//! it was ([`CPU`]), and has this thread go on at `l4_exception`, on the wedge's stack, with all
//! registers but RIP, RSP and RFLAGS as they were. All end in one place: a
//! [`Context`](wedge::cpu::Context) at the top of the wedge's stack, the mask set, and a call of
//! `l4_entered`.
//!
//! *What comes in while the wedge runs* the pager notes as pending, and nothing else. Whoever
//! leaves the wedge looks whether something is. *The gap:* between that look and IRETQ something
//! may still come in, with the mask clear. Who is interrupted there has the whole context of the
//! guest in registers, but for the frame of the IRETQ, which is on the wedge's stack: the pager
//! takes it from there.

use core::arch::global_asm;
use core::mem::offset_of;

use wedge::guest::linux::{KERNEL_CS, KERNEL_DS};
use wedge::x86::flags;

use super::cpu::{CPU, Cpu, STACK_PAGES};
use super::guest::{REAL_CS, REAL_SS};
use crate::host::cause;
use crate::host::entry::{MASKED, call_with_context, load_all, save_rest, ways_from_stubs};
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
    "#,
    save_rest!(),
    r#"
    .endm

    .globl l4_exception
l4_exception:
    L4_NOTED {KERNEL_CS}, {KERNEL_DS}
    jmp l4_enter

    .globl l4_nested
l4_nested:
    L4_NOTED {REAL_CS}, {REAL_SS}
    "#,
    call_with_context!("l4_nested_entered"),
    r#"
    "#,
    load_all!(),
    r#"
    leaq 16(%rsp), %rsp
    iretq

    "#,
    ways_from_stubs!("l4"),
    r#"
l4_enter:
    "#,
    call_with_context!("l4_entered"),
    r#"
l4_to_kernel:
    "#,
    load_all!(),
    r#"
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
    "#,
    save_rest!(),
    r#"
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
    MASKED = const MASKED,
    FIXED = const flags::FIXED,
    IF_NUMBER = const flags::INTERRUPT.trailing_zeros(),
    EVENT = const cause::EVENT,
    SITE = const cause::SITE,
    SITE_WITHOUT_STACK = const cause::SITE_WITHOUT_STACK,
    IRET = const cause::IRET,
    SYSRET = const cause::SYSRET,
    options(att_syntax)
);
