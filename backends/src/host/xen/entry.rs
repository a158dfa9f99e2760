//! The ways into the wedge, and out of it again.
//!
//! Xen enters a PV guest with a frame on a stack (`rcx, r11, [error,] rip, cs, rflags, rsp, ss`):
//! on the wedge's if user mode was interrupted, on the *current* one if the guest's kernel was. The
//! guest's kernel enters by the stubs of its sites. All of them end in one place: a
//! [`Context`](wedge::cpu::Context) at the top of the wedge's stack, events masked, and a call of
//! `xen_entered`. The context is copied off the guest's stack because what is delivered to the
//! guest is pushed just there.
//!
//! Three ways out. To the guest's kernel by IRETQ, which in ring 3 needs no hypercall. To user mode
//! by the hypercall of that name, which also sets the event mask from RFLAGS.IF. And, for SYSCALL
//! from user mode, IRETQ and SYSRET to it when nothing else is to be done, routines that do not
//! come by Rust at all.
//!
//! *The gap.* Between unmasking events and IRETQ an event may come in. Its frame lands on the
//! wedge's stack, below the frame of the IRETQ. The wedge runs with events masked everywhere else,
//! so an event that interrupts the kernel on the wedge's stack is known to be in the gap: its own
//! frame is dropped and the other, all of it the guest's, is taken in its place. No event is lost,
//! none nests.

use core::arch::global_asm;
use core::mem::offset_of;

use wedge::guest::linux::{SYSTEM_CALL, TLS_ENTRIES, USER_CS, USER_DS};
use wedge::x86::flags;
use wedge::x86::vector::{self, Vectors};

use super::cpu::{CPU, Cpu, STACK_PAGES};
use super::interface::KERNEL_CS;
use crate::host::entry::{MASKED, call_with_context, load_all, save_rest};
use crate::runtime::PAGE;

/// Why the wedge was entered: what all hosts know, and Xen's own.
pub(super) mod cause {
    pub(crate) use crate::host::cause::{EVENT, IRET, SITE, SITE_WITHOUT_STACK, SYSRET};

    use crate::host::cause::OWN;

    /// SYSCALL from user mode, when the guest's entry code is not known to be mapped.
    pub(crate) const SYSCALL: u64 = OWN;
    /// SYSCALL from 32-bit user mode.
    pub(crate) const SYSCALL32: u64 = OWN + 1;
    /// SYSENTER from user mode.
    pub(crate) const SYSENTER: u64 = OWN + 2;
    /// Xen could not return to user mode.
    pub(crate) const FAILSAFE: u64 = OWN + 3;
}

/// What `xen_entered` answers: where to go on.
pub(super) mod exit {
    /// In the guest's kernel.
    pub(crate) const KERNEL: u64 = 0;
    /// In user mode.
    pub(crate) const USER: u64 = 1;
}

/// Exceptions that are taken from Xen.
pub(super) const EXCEPTIONS: Vectors = Vectors::of(&[
    vector::DIVIDE_ERROR,
    vector::DEBUG,
    vector::NMI,
    vector::BREAKPOINT,
    vector::OVERFLOW,
    vector::BOUND,
    vector::INVALID_OPCODE,
    vector::DEVICE_NOT_AVAILABLE,
    vector::DOUBLE_FAULT,
    vector::INVALID_TSS,
    vector::NOT_PRESENT,
    vector::STACK,
    vector::PROTECTION,
    vector::PAGE_FAULT,
    vector::X87,
    vector::ALIGNMENT,
    vector::MACHINE_CHECK,
    vector::SIMD,
    vector::CONTROL_PROTECTION,
]);

unsafe extern "C" {
    /// The handlers of the [`EXCEPTIONS`], in the order of their vectors, then that of
    /// [`SYSTEM_CALL`].
    pub(super) static xen_handlers: [u64; EXCEPTIONS.count() + 1];
    /// Of [`xen_emulate`] and [`xen_interrupt`], the addresses of the instructions before which an
    /// event may come in: one, two and three words have been pushed before the second, third and
    /// fourth, the first of them RAX.
    pub(super) static xen_unmasked: [[u64; 5]; 2];
    pub(super) fn xen_event();
    pub(super) fn xen_failsafe();
    pub(super) fn xen_syscall();
    pub(super) fn xen_syscall_slow();
    pub(super) fn xen_syscall32();
    pub(super) fn xen_sysenter();
    pub(super) fn xen_emulate();
    pub(super) fn xen_emulate_without_stack();
    pub(super) fn xen_interrupt();
    pub(super) fn xen_iret();
    pub(super) fn xen_sysret();
    /// Goes on with a context as if it had been returned from `enter`.
    pub(super) fn xen_resume(context: *mut wedge::cpu::Context, exit: u64) -> !;
}

/// Bytes of the wedge's stack.
const STACK_LENGTH: u64 = STACK_PAGES as u64 * PAGE;

global_asm!(
    r#"
    .section .text.entry.xen, "ax"
    .globl start_xen
start_xen:
    cld
    leaq {cpu}+{stack_end}(%rip), %rsp
    movq %rsi, %rdi                     // start_info
    xorl %ebp, %ebp
    call xen_start
    ud2

    .macro HANDLER number, has_error
1:  popq %rcx
    popq %r11
    .if (\has_error) == 0
    pushq $0
    .endif
    pushq $\number
    jmp xen_common
    .pushsection .data.rel.ro, "aw"
    .quad 1b
    .popsection
    .endm

    .pushsection .data.rel.ro, "aw"
    .balign 8
    .globl xen_handlers
xen_handlers:
    .popsection
    .set vector, 0
    .rept {COUNT}
    .if ({EXCEPTIONS} >> vector) & 1
    HANDLER vector, ({WITH_ERROR} >> vector) & 1
    .endif
    .set vector, vector + 1
    .endr
    HANDLER {SYSTEM_CALL}, 0

    .globl xen_event
xen_event:
    testb $3, 24(%rsp)                  // cs
    jnz 1f
    pushq %rax
    leaq {cpu}+{stack}(%rip), %rax
    subq %rsp, %rax
    cmpq $-{STACK_LENGTH}, %rax
    popq %rax
    jbe 1f
    // In the gap: the frame of the IRETQ that was about to be executed.
    popq %rcx
    popq %r11
    movq 24(%rsp), %rsp
    movq ${KERNEL}, 8(%rsp)
    pushq $0
    pushq ${EVENT}
    jmp xen_common
1:  popq %rcx
    popq %r11
    pushq $0
    pushq ${EVENT}
    jmp xen_common

    .macro SAME_SELECTOR register, offset
    movl %\register, %ecx
    cmpw %cx, \offset(%rsp)
    jne 1f
    .endm

    // The selectors are those that were to be loaded. If not all are, Xen has put null in place of
    // a stale one when it came back to this domain, and that was all: the context, whichever, goes
    // on. If they are, an IRETQ was refused.
    .globl xen_failsafe                 // rcx, r11, ds, es, fs, gs, rip, cs, rflags, rsp, ss
xen_failsafe:
    SAME_SELECTOR ds, 16
    SAME_SELECTOR es, 24
    SAME_SELECTOR fs, 32
    SAME_SELECTOR gs, 40
    popq %rcx
    popq %r11
    leaq 32(%rsp), %rsp
    pushq $0
    pushq ${FAILSAFE}
    jmp xen_common
1:  movb $0, {cpu}+{users_gs_known}(%rip)
    popq %rcx
    popq %r11
    leaq 32(%rsp), %rsp
    jmp xen_hypervisor_iret

    .globl xen_syscall                  // rcx, r11, rip, cs, rflags, rsp, ss
xen_syscall:
    movq 16(%rsp), %rcx
    movq 32(%rsp), %r11
    movw $0xff, {cpu}+{gs_swapped}(%rip)   // and users_gs_known: 0
    pushq ${FIXED}
    popfq
    movq 40(%rsp), %rsp
    jmpq *{cpu}+{syscall_target}(%rip)

    .globl xen_syscall_slow             // rcx: rip, r11: rflags, rsp: user mode's
xen_syscall_slow:
    movq %rsp, {cpu}+{saved_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq $0
    pushq {cpu}+{saved_rsp}(%rip)
    pushq ${FIXED}
    pushq ${KERNEL}
    pushq $0
    pushq $0
    pushq ${SYSCALL}
    jmp xen_common

    .globl xen_syscall32
xen_syscall32:
    popq %rcx
    popq %r11
    pushq $0
    pushq ${SYSCALL32}
    jmp xen_common

    .globl xen_sysenter
xen_sysenter:
    popq %rcx
    popq %r11
    pushq $0
    pushq ${SYSENTER}
    jmp xen_common

xen_common:
    pushq %rax
    leaq {cpu}+{stack}(%rip), %rax
    subq %rsp, %rax
    cmpq $-{STACK_LENGTH}, %rax
    ja 1f                               // on the wedge's stack already
    movq %rsp, %rax
    leaq {cpu}+{stack_end}(%rip), %rsp
    .irp offset, 56, 48, 40, 32, 24, 16, 8, 0
    pushq \offset(%rax)
    .endr
1:
    "#,
    save_rest!(),
    r#"
xen_enter:
    "#,
    call_with_context!("xen_entered"),
    r#"
    testl %eax, %eax
    jnz xen_to_user

xen_to_kernel:
    "#,
    load_all!(),
    r#"
    leaq 16(%rsp), %rsp
    testb ${IF}>>8, 17(%rsp)                  // rflags.IF
    jz 1f
    movb $0, {cpu}+{shared}+1(%rip)
    cmpb $0, {cpu}+{shared}(%rip)
    jne 2f
1:  iretq
2:  movb $1, {cpu}+{shared}+1(%rip)
    movq ${KERNEL}, 8(%rsp)
    pushq $0
    pushq ${EVENT}
    pushq %rax
    "#,
    save_rest!(),
    r#"
    jmp xen_enter

xen_to_user:
    "#,
    load_all!(),
    r#"
    leaq 16(%rsp), %rsp
xen_hypervisor_iret:                    // rip, cs, rflags, rsp, ss; to the kernel if CS has RPL 0
    pushq $0                            // flags
    pushq %rcx
    pushq %r11
    pushq %rax
    movl $23, %eax                      // __HYPERVISOR_iret
    syscall
    ud2

    .globl xen_resume
xen_resume:
    movq %rdi, %rsp
    testl %esi, %esi
    jnz xen_to_user
    jmp xen_to_kernel

    // From a stub, by CALL: all registers as at the site, events not masked if IF was set. Until
    // they are, an event may come in and the guest may go on elsewhere first: so nothing but the
    // guest's stack is used.
    .macro FROM_STUB name, cause
    pushq %rax
\name\()_rax:
    pushfq
\name\()_flags:
    pushq %rcx
\name\()_rcx:
    movzbl {cpu}+{shared}+1(%rip), %eax
\name\()_mask:
    movb $1, {cpu}+{shared}+1(%rip)
    leaq 32(%rsp), %rcx                 // the guest's RSP, without the return address
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq $0
    pushq %rcx
    shll ${IF_NUMBER}, %eax
    xorq -24(%rcx), %rax                // RFLAGS with the virtual IF
    pushq %rax
    pushq ${KERNEL}
    pushq -8(%rcx)
    pushq $0
    pushq $\cause
    pushq -16(%rcx)                     // rax
    pushq %rbx
    pushq -32(%rcx)                     // rcx
    .irp register, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
    jmp xen_enter
    .endm

    .globl xen_emulate
xen_emulate:
    FROM_STUB xen_emulate, {SITE}
    .globl xen_interrupt
xen_interrupt:
    FROM_STUB xen_interrupt, {EVENT}

    // From a stub, by JMP, with IF clear, or about to be replaced: there is no stack.
    .macro WITHOUT_STACK cause
    movb $1, {cpu}+{shared}+1(%rip)
    movq %rsp, {cpu}+{saved_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq $0
    pushq {cpu}+{saved_rsp}(%rip)
    pushfq
    pushq ${KERNEL}
    pushq $0
    pushq $0
    pushq $\cause
    pushq %rax
    "#,
    save_rest!(),
    r#"
    andb $~({IF}>>8), 153(%rsp)          // RFLAGS.IF: 15 registers, vector, error, rip, cs
    jmp xen_enter
    .endm

    .globl xen_emulate_without_stack
xen_emulate_without_stack:
    WITHOUT_STACK {SITE_WITHOUT_STACK}

    // The hypercall IRET, from the kernel to user mode, unless the guest has changed what user mode
    // may load: then the frame is on the stack again, with all registers.
    .macro RETURN_UNLESS_DESCRIPTORS_CHANGED
    pushq $0                            // flags
    pushq %rcx
    pushq %r11
    pushq %rax
    movq {cpu}+{tls}(%rip), %rcx
    .irp offset, 0, 8, 16
    movq \offset(%rcx), %rax
    cmpq {cpu}+{seen}+8*{FIRST_TLS}+\offset(%rip), %rax
    jne 3f
    .endr
    movl $23, %eax                      // __HYPERVISOR_iret
    syscall
    ud2
3:  popq %rax
    popq %r11
    popq %rcx
    leaq 8(%rsp), %rsp
    .endm

    .globl xen_iret                     // the frame is on the guest's stack
xen_iret:
    movb $1, {cpu}+{shared}+1(%rip)
    cmpb $0, {cpu}+{work}(%rip)
    jne 1f
    cmpq ${USER_CS}, 8(%rsp)
    jne 1f
    cmpq ${USER_DS}, 32(%rsp)
    jne 1f
    cmpw $0, 6(%rsp)                    // rip below 1 << 47
    jne 1f
    testb $0x80, 5(%rsp)
    jnz 1f
    testb ${IF}>>8, 17(%rsp)
    jz 1f
    cmpb $0, {cpu}+{gs_swapped}(%rip)
    je 1f
    RETURN_UNLESS_DESCRIPTORS_CHANGED
1:  WITHOUT_STACK {IRET}

    .globl xen_sysret
xen_sysret:
    cmpb $0, {cpu}+{work}(%rip)
    jne 1f
    cmpb $0, {cpu}+{gs_swapped}(%rip)
    je 1f
    movq %rsp, {cpu}+{saved_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq {cpu}+{sysret_selectors}+8(%rip)
    pushq {cpu}+{saved_rsp}(%rip)
    pushq %r11
    pushq {cpu}+{sysret_selectors}(%rip)
    pushq %rcx
    cmpw $0, 6(%rsp)
    jne 2f
    testb $0x80, 5(%rsp)
    jnz 2f
    testb ${IF}>>8, 17(%rsp)
    jz 2f
    RETURN_UNLESS_DESCRIPTORS_CHANGED
2:  movq {cpu}+{saved_rsp}(%rip), %rsp
1:  WITHOUT_STACK {SYSRET}

    .section .data.rel.ro, "aw"
    .balign 8
    .globl xen_unmasked
xen_unmasked:
    .irp routine, xen_emulate, xen_interrupt
    .quad \routine, \routine\()_rax, \routine\()_flags, \routine\()_rcx, \routine\()_mask
    .endr

    .text
    "#,
    cpu = sym CPU,
    gs_swapped = const offset_of!(Cpu, gs_swapped),
    users_gs_known = const offset_of!(Cpu, users_gs_known),
    syscall_target = const offset_of!(Cpu, syscall_target),
    saved_rsp = const offset_of!(Cpu, saved_rsp),
    work = const offset_of!(Cpu, work),
    tls = const offset_of!(Cpu, tls),
    seen = const offset_of!(Cpu, seen),
    sysret_selectors = const offset_of!(Cpu, sysret_selectors),
    shared = const offset_of!(Cpu, shared),
    stack = const offset_of!(Cpu, stack),
    stack_end = const offset_of!(Cpu, stack) as u64 + STACK_LENGTH,
    STACK_LENGTH = const STACK_LENGTH,
    FIRST_TLS = const TLS_ENTRIES.start,
    COUNT = const vector::COUNT,
    EXCEPTIONS = const EXCEPTIONS.0,
    WITH_ERROR = const vector::WITH_ERROR.0,
    SYSTEM_CALL = const SYSTEM_CALL,
    KERNEL = const KERNEL_CS & !3,
    IF = const flags::INTERRUPT,
    IF_NUMBER = const flags::INTERRUPT.trailing_zeros(),
    MASKED = const MASKED,
    FIXED = const flags::FIXED,
    USER_CS = const USER_CS,
    USER_DS = const USER_DS,
    EVENT = const cause::EVENT,
    SITE = const cause::SITE,
    SITE_WITHOUT_STACK = const cause::SITE_WITHOUT_STACK,
    IRET = const cause::IRET,
    SYSRET = const cause::SYSRET,
    SYSCALL = const cause::SYSCALL,
    SYSCALL32 = const cause::SYSCALL32,
    SYSENTER = const cause::SYSENTER,
    FAILSAFE = const cause::FAILSAFE,
    options(att_syntax)
);
