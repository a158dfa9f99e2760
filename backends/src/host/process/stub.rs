//! What a program's process has of the wedge's: a page of instructions, a page of orders, and a
//! stack for signals.
//!
//! The instructions handle every signal. They note the segment bases, which the frame of a signal
//! does not have, and then make a system call that means nothing but that they have come there:
//! Linux tells the wedge of it ([`listener`](super::listener)) and has the process wait for the
//! answer. The answer is how many orders to carry out, and what to do then ([`answer`]): to return
//! to the program, or to make the same call again, which they do as well if an order fails.
//!
//! The instructions use no stack, for a process that has just been made has that of the one that it
//! was made from.

use core::arch::global_asm;
use core::ops::Range;

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace as tracing;

use super::filter::{LENGTH, STOP, filter};
use super::memory::{OWN, STUB, pointer};
use super::orders::Order;
use crate::runtime::PAGE;

/// The instructions, and behind them, in the same page, the filter of the process's system calls.
const INSTRUCTIONS: u64 = STUB;
/// Where the filter is described.
pub(super) const FILTER: u64 = STUB + PAGE / 2;
/// The page with the orders.
pub(super) const ORDERS: u64 = STUB + PAGE;
/// The stack, and in front of it what the frame of a signal does not have.
pub(super) const STACK: Range<u64> = ORDERS + PAGE..ORDERS + PAGE + STACK_LENGTH;
/// As much as any processor's extended state needs, with what AMX has.
pub(super) const STACK_LENGTH: u64 = 4 * PAGE;
/// Bytes of [`Segments`], and a few more.
pub(super) const SEGMENTS_LENGTH: u64 = 64;

const _: () = assert!(STUB >= OWN.start && STACK.end <= OWN.end);
const _: () = assert!(size_of::<Segments>() as u64 <= SEGMENTS_LENGTH);

/// Segment bases and selectors.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Segments {
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    /// ES, DS, FS and GS.
    pub(super) selectors: [u32; 4],
    /// Where the frame is.
    pub(super) frame: u64,
}

/// Where the process goes for every signal.
pub(super) fn handler() -> *const () {
    pointer(INSTRUCTIONS)
}

unsafe extern "C" {
    static process_stub: u8;
    /// The one system call.
    static process_stub_call: u8;
    static process_stub_end: u8;
}

/// Writes the page with the instructions, and the filter behind them.
///
/// # Safety
///
/// The page is mapped to be written.
pub(super) unsafe fn write() {
    const SYSCALL: u64 = 2;
    let start = (&raw const process_stub).addr();
    let length = (&raw const process_stub_end).addr() - start;
    let call = ((&raw const process_stub_call).addr() - start) as u64;
    let program = filter(INSTRUCTIONS + call + SYSCALL);
    let description = tracing::sock_fprog { len: LENGTH as u16, filter: pointer(FILTER + 16) };
    // SAFETY: by the caller; the instructions take less than half a page, and so does the filter.
    unsafe {
        core::ptr::copy_nonoverlapping(&raw const process_stub, pointer(INSTRUCTIONS), length);
        pointer::<tracing::sock_fprog>(FILTER).write(description);
        pointer::<[tracing::sock_filter; LENGTH]>(FILTER + 16).write(program);
    }
}

/// The answer to a process that has stopped: how many orders to carry out, and whether to return to
/// the program then.
pub(super) const fn answer(orders: usize, goes: bool) -> u64 {
    (orders as u64) << 1 | goes as u64
}

/// Writes orders where processes find them.
pub(super) fn write_orders(orders: &[Order]) {
    for (number, word) in orders.as_flattened().iter().enumerate() {
        // SAFETY: the page is mapped here for this; a process reads it only when it is told to.
        unsafe { pointer::<u64>(ORDERS).add(number).write_volatile(*word) };
    }
}

/// Takes so many back, for programs may look at them.
pub(super) fn clear_orders(count: usize) {
    // SAFETY: as above.
    unsafe { pointer::<Order>(ORDERS).write_bytes(0, count) };
}

global_asm!(
    r#"
    .code64
    .text
    // A handler: the signal is in RDI, the address of its frame in RDX.
    .globl process_stub
process_stub:
    movabsq ${SEGMENTS}, %rbx
    rdfsbaseq %rax
    movq %rax, (%rbx)
    rdgsbaseq %rax
    movq %rax, 8(%rbx)
    movl %es, %eax
    movl %eax, 16(%rbx)
    movl %ds, %eax
    movl %eax, 20(%rbx)
    movl %fs, %eax
    movl %eax, 24(%rbx)
    movl %gs, %eax
    movl %eax, 28(%rbx)
    movl %edi, %r14d
    movq %rdx, 32(%rbx)
    xorl %esi, %esi
1:  movl %r14d, %edi                    // the signal, or 0 behind orders
    movq 32(%rbx), %rdx                 // RSI: what the last order came to
    movl ${STOP}, %eax
    leaq 2f(%rip), %r15
    jmp process_stub_call
2:  testq %rax, %rax
    js 6f                               // the wedge is not there any more
    movl %eax, %ebp
    andl $1, %ebp                       // whether to return to the program
    shrq $1, %rax
    jz 5f
    xorl %r14d, %r14d
    movabsq ${ORDERS}, %r12
    imulq ${ORDER}, %rax, %r13
    addq %r12, %r13
3:  movq (%r12), %rax
    movq 8(%r12), %rdi
    movq 16(%r12), %rsi
    movq 24(%r12), %rdx
    movq 32(%r12), %r10
    movq 40(%r12), %r8
    movq 48(%r12), %r9
    leaq 4f(%rip), %r15
    jmp process_stub_call
4:  movq %rax, %rsi
    testq %rax, %rax
    js 1b
    addq ${ORDER}, %r12
    cmpq %r13, %r12
    jb 3b
5:  testl %ebp, %ebp
    jz 1b
    movl 16(%rbx), %eax
    movl %eax, %es
    movl 20(%rbx), %eax
    movl %eax, %ds
    movl 24(%rbx), %eax
    movl %eax, %fs
    movl 28(%rbx), %eax
    movl %eax, %gs
    movq (%rbx), %rax
    wrfsbaseq %rax
    movq 8(%rbx), %rax
    wrgsbaseq %rax
    movq 32(%rbx), %rsp
    movl ${SIGRETURN}, %eax
    .globl process_stub_call
process_stub_call:
    syscall
    jmpq *%r15
6:  ud2
    .globl process_stub_end
process_stub_end:
    "#,
    SEGMENTS = const STACK.start,
    ORDERS = const ORDERS,
    ORDER = const size_of::<Order>(),
    STOP = const STOP,
    SIGRETURN = const raw::__NR_rt_sigreturn,
    options(att_syntax)
);
