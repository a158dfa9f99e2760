//! The ways into the wedge, and out of it again.
//!
//! Linux starts the image as a program: in 64-bit mode, at the address that the file says, and not
//! in the window where the wedge belongs. So the first thing that is done is to move it there.
//!
//! Later there are two ways in. What the processor does not let the guest's kernel do, and what
//! comes from outside, is a signal, and Linux calls a handler on a stack of its own (`traps.rs`).
//! Sites come by their stubs, and here. They end in one place: a [`Context`](wedge::cpu::Context)
//! at the top of the wedge's stack, the mask set, and a call of `process_entered`.
//!
//! *What comes in while the wedge runs* is noted as pending, and nothing else: the handler returns.
//! So no instruction of a routine here is ever seen by the guest, and none has to be taken back.
//! Whoever leaves the wedge looks whether something is pending.
//!
//! *The gap.* Between that look and IRETQ something may still come in, with the mask clear. Whoever
//! is interrupted there has the whole context of the guest in registers, but for the frame of the
//! IRETQ, which is on the wedge's stack: the handler takes it from there.

use core::arch::global_asm;
use core::mem::offset_of;

use linux_raw_sys::general as raw;
use wedge::guest::layout::WINDOW_LENGTH;
use wedge::guest::linux::{KERNEL_CS, KERNEL_DS};
use wedge::image::LOAD_ADDRESS;
use wedge::x86::flags;

use super::cpu::{CPU, Cpu, STACK_PAGES};
use super::registers::Frame;
use crate::host::cause;
use crate::host::entry::{MASKED, call_with_context, load_all, save_rest, ways_from_stubs};
use crate::runtime::PAGE;

unsafe extern "C" {
    /// From here on the mask may be clear, up to
    pub(super) static process_gap: u8;
    /// here, the IRETQ.
    pub(super) static process_gap_end: u8;
    /// Where a handler returns to (`sigreturn(2)`).
    pub(super) fn process_restore();
    /// Where a program of this process calls.
    pub(super) fn process_system_call();
    pub(super) fn process_sysret_here();
    /// From here on a program of this process is about to go on, up to
    pub(super) static process_here_gap: u8;
    /// here: RIP is in RCX, the flags are in R11, and RSP is in the processor's memory.
    pub(super) static process_here_gap_end: u8;
    /// Where signals lead.
    pub(super) fn process_handle();
    pub(super) fn process_emulate();
    pub(super) fn process_emulate_without_stack();
    pub(super) fn process_interrupt();
    pub(super) fn process_iret();
    pub(super) fn process_sysret();
    /// Goes on in the guest's kernel.
    pub(super) fn process_resume(context: *mut wedge::cpu::Context) -> !;
}

global_asm!(
    r#"
    .section .text.entry.process, "ax"
    .code64
    .globl start_process
start_process:
    movq %rsp, %r15                     // arguments
    leaq image_start(%rip), %r14        // where Linux has put the wedge
    movq process_linked(%rip), %r13     // where it belongs
    leaq process_upper(%rip), %rsi
    movl $process_upper_end-process_upper, %edx
    movq %r13, %rax
    shrq $47, %rax
    jnz 2f
    movq %r13, %rdi
    movl ${WINDOW_LENGTH}-{LOAD_ADDRESS}, %esi
    movl ${RIGHTS}, %edx
    movl ${PLACE}, %r10d
    movq $-1, %r8
    xorl %r9d, %r9d
    movl ${MMAP}, %eax
    syscall
    leaq process_window(%rip), %rsi
    movl $process_window_end-process_window, %edx
    cmpq %rax, %r13
    jne 2f
    movq %r14, %rsi
    movq %r13, %rdi
    movl $data_end_offset, %ecx
    rep movsb
    jmpq *process_in_window(%rip)
1:  movb $1, {cpu}+{mask}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    movq %r15, %rdi
    movq %r14, %rsi
    xorl %ebp, %ebp
    call process_start
    ud2
2:  movl $2, %edi                       // a message, and the end
    movl ${WRITE}, %eax
    syscall
    movl $2, %edi
    movl ${EXIT}, %eax
    syscall
    ud2
process_upper:
    .ascii "afterburner: the kernel of this image is linked into the upper half of the address space, "
    .ascii "which a process of Linux has not: it boots on bare hardware and on Xen\n"
process_upper_end:
process_window:
    .ascii "afterburner: Linux does not give this process the wedge's window, 16 MB below 0x5fff80000000\n"
process_window_end:

    .section .data.rel.ro, "aw"
    .balign 8
process_linked:
    .quad image_start
process_in_window:
    .quad 1b

    .section .text.entry.process, "ax"
    .globl process_restore
process_restore:
    movl {rflags}(%rsp), %eax           // those flags of the frame that the call leaves as they are
    andl ${LEFT}, %eax
    pushq %rax
    popfq
    movl ${SIGRETURN}, %eax
    syscall

    // A handler: with none of the flags that a program may have set.
    .globl process_handle
process_handle:
    pushq ${FIXED}
    popfq
    jmp process_signal

    "#,
    ways_from_stubs!("process"),
    r#"
process_enter:
    "#,
    call_with_context!("process_entered"),
    r#"
process_to_kernel:
    "#,
    load_all!(),
    r#"
    leaq 16(%rsp), %rsp
    testb ${IF}>>8, 17(%rsp)            // rflags.IF
    jz 1f
    movb $0, {cpu}+{mask}(%rip)
    .globl process_gap
process_gap:
    cmpb $0, {cpu}+{pending}(%rip)
    jne 2f
    .globl process_gap_end
process_gap_end:
1:  iretq
2:  movb $1, {cpu}+{mask}(%rip)
    cmpb $0, {cpu}+{user}(%rip)
    jne 3f
    movq ${KERNEL_CS}, 8(%rsp)
    movq ${KERNEL_DS}, 32(%rsp)
3:  pushq $0
    pushq ${EVENT}
    pushq %rax
    "#,
    save_rest!(),
    r#"
    jmp process_enter

    // A program of this process calls, by a trampoline (`rewritten.rs`): RCX is where it goes on,
    // and all else is as SYSCALL finds it.
    .globl process_system_call
process_system_call:
    movb $1, {cpu}+{mask}(%rip)
    movb $0, {cpu}+{user}(%rip)
    movq %rsp, {cpu}+{users_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushfq
    popq %r11
    pushq %rax
    rdgsbaseq %rax
    movq %rax, {cpu}+{users_gs_base}(%rip)
    movq {cpu}+{kernels_gs_base}(%rip), %rax
    wrgsbaseq %rax
    popq %rax
    testl ${MASKED}, %r11d
    jz 1f
    pushq ${FIXED}
    popfq
1:  movq {cpu}+{users_rsp}(%rip), %rsp
    jmpq *{cpu}+{system_call}(%rip)

    // SYSRET to a program of this process: RCX is its RIP, R11 its flags. What is not plain is
    // slow.
    .globl process_sysret_here
process_sysret_here:
    testl ${NOT_PLAIN}, %r11d
    jnz process_sysret
    btl ${IF_NUMBER}, %r11d
    jnc process_sysret
    cmpb $0, {cpu}+{gs_swapped}(%rip)
    je process_sysret
    cmpq $0, {cpu}+{system_call}(%rip)
    je process_sysret
    cmpq {cpu}+{users_end}(%rip), %rcx
    jae process_sysret
    movq %rsp, {cpu}+{users_rsp}(%rip)
    movq %rcx, {cpu}+{users_rip}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq %rax
    rdgsbaseq %rax
    movq %rax, {cpu}+{kernels_gs_base}(%rip)
    movq {cpu}+{users_gs_base}(%rip), %rax
    wrgsbaseq %rax
    popq %rax
    movb $1, {cpu}+{user}(%rip)
    movb $0, {cpu}+{mask}(%rip)
    .globl process_here_gap
process_here_gap:
    cmpb $0, {cpu}+{pending}(%rip)
    jne process_here_gap_end
    pushq %r11
    popfq
    movq {cpu}+{users_rsp}(%rip), %rsp
    jmpq *{cpu}+{users_rip}(%rip)
    .globl process_here_gap_end
process_here_gap_end:
    movb $1, {cpu}+{mask}(%rip)
    movb $0, {cpu}+{user}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq %rax
    movq {cpu}+{kernels_gs_base}(%rip), %rax
    wrgsbaseq %rax
    popq %rax
    movq {cpu}+{users_rsp}(%rip), %rsp
    jmp process_sysret

    .globl process_resume
process_resume:
    movq %rdi, %rsp
    jmp process_to_kernel

    .text
    "#,
    cpu = sym CPU,
    saved_rax = const offset_of!(Cpu, saved_rax),
    saved_rsp = const offset_of!(Cpu, saved_rsp),
    mask = const offset_of!(Cpu, mask),
    pending = const offset_of!(Cpu, pending),
    user = const offset_of!(Cpu, user),
    gs_swapped = const offset_of!(Cpu, gs_swapped),
    users_rip = const offset_of!(Cpu, users_rip),
    users_rsp = const offset_of!(Cpu, users_rsp),
    users_end = const offset_of!(Cpu, users_end),
    users_gs_base = const offset_of!(Cpu, users_gs_base),
    kernels_gs_base = const offset_of!(Cpu, kernels_gs_base),
    system_call = const offset_of!(Cpu, system_call),
    MASKED = const MASKED,
    FIXED = const flags::FIXED,
    NOT_PLAIN = const !(flags::STATUS | flags::DIRECTION | flags::IDENTIFICATION | flags::INTERRUPT | flags::FIXED)
        as u32,
    rflags = const Frame::RFLAGS,
    LEFT = const flags::NESTED | flags::IDENTIFICATION,
    stack_end = const offset_of!(Cpu, stack) as u64 + STACK_PAGES as u64 * PAGE,
    WINDOW_LENGTH = const WINDOW_LENGTH,
    LOAD_ADDRESS = const LOAD_ADDRESS,
    RIGHTS = const raw::PROT_READ | raw::PROT_WRITE | raw::PROT_EXEC,
    PLACE = const raw::MAP_PRIVATE | raw::MAP_ANONYMOUS | raw::MAP_NORESERVE | raw::MAP_FIXED_NOREPLACE,
    MMAP = const raw::__NR_mmap,
    WRITE = const raw::__NR_write,
    EXIT = const raw::__NR_exit_group,
    SIGRETURN = const raw::__NR_rt_sigreturn,
    KERNEL_CS = const KERNEL_CS,
    KERNEL_DS = const KERNEL_DS,
    IF = const flags::INTERRUPT,
    IF_NUMBER = const flags::INTERRUPT.trailing_zeros(),
    EVENT = const cause::EVENT,
    SITE = const cause::SITE,
    SITE_WITHOUT_STACK = const cause::SITE_WITHOUT_STACK,
    IRET = const cause::IRET,
    SYSRET = const cause::SYSRET,
    options(att_syntax)
);
