//! What a program's process has of the wedge's: a page of instructions, a page of orders, and a
//! stack for signals.
//!
//! The instructions handle every signal. They note the segment bases, which the frame of a signal
//! does not have, and then hold all signals off: of this call Linux asks the wedge
//! ([`listener`](super::listener)), and has the process wait for the answer. That is how it stops.
//! When the call is executed, what follows is to carry out orders, and to return to the program or
//! to stop again.
//!
//! A program may jump to that call, with any registers, flags and stack. It gains nothing. From the
//! moment on that the call is executed no signal is delivered, so that nothing can be interrupted
//! any more, and a trap ends the process; and what follows the call takes all that it needs from
//! constants and from the page of orders, which the process can only read. So whoever stops, by
//! whatever way, does nothing then but what the wedge orders. There is no other way back, and each
//! of the five calls has an address of its own, which the filter knows.
//!
//! What a program has left in its process is not for the next. So on the way back the stack for
//! signals is put where it belongs: `sigreturn(2)` does that only if the stack pointer of the next
//! is not within the last's stack for signals, which may be all of memory. And the flags that the
//! call leaves as they are become those of the frame.
//!
//! The instructions use no stack, for a process that has just been made has that of the one that it
//! was made from.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ops::Range;

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace as tracing;
use wedge::x86::flags;

use super::filter::{LENGTH, Sites, filter};
use super::memory::{OWN, STUB, pointer};
use super::orders::{BY_INTERRUPT, HEAD, OF_32_BITS, Order};
use super::registers::Frame;
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

/// Signals that a program comes to the wedge by.
pub(super) const SIGNALS: [u32; 7] =
    [raw::SIGSYS, raw::SIGSEGV, raw::SIGBUS, raw::SIGILL, raw::SIGTRAP, raw::SIGFPE, raw::SIGALRM];

/// Segment bases and selectors.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Segments {
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    /// ES, DS, FS and GS.
    pub(super) selectors: [u32; 4],
}

/// Where the process goes for every signal.
pub(super) fn handler() -> *const () {
    pointer(INSTRUCTIONS)
}

unsafe extern "C" {
    static process_stub: u8;
    /// The calls by which a process stops, carries out an order, by either kind of call, has its
    /// stack for signals again, and returns to the program.
    static process_stub_stop: u8;
    static process_stub_order: u8;
    static process_stub_interrupt: u8;
    static process_stub_take_stack: u8;
    static process_stub_return: u8;
    /// The stack for signals, as Linux is told of it (`stack_t`).
    static process_stub_stack: u8;
    static process_stub_end: u8;
}

/// Where, in the page of instructions, something of theirs is.
fn place_of(label: *const u8) -> u64 {
    INSTRUCTIONS + (label.addr() - (&raw const process_stub).addr()) as u64
}

/// The stack for signals, as a process is told to have it (`sigaltstack(2)`).
pub(super) fn stack() -> u64 {
    place_of(&raw const process_stub_stack)
}

/// The page of orders, from its start.
#[repr(C)]
struct Header {
    /// The signals that a process holds off when it stops: all.
    signals: u64,
    /// Where the frame is by which it returns to the program.
    frame: u64,
    /// The end of the orders.
    end: u64,
    /// Not 0: it returns to the program when they are carried out.
    goes: u64,
}

const HEADER: u64 = HEAD as u64;
const _: () = assert!(size_of::<Header>() == HEAD);

/// The arguments of the call by which a process stops (`rt_sigprocmask(2)`), but for the last two,
/// which say why.
pub(super) const STOP: [u64; 4] = [raw::SIG_SETMASK as u64, ORDERS, 0, 8];

/// Writes the page with the instructions, the filter behind them, and the constants in the page of
/// orders.
///
/// # Safety
///
/// The pages are mapped to be written.
pub(super) unsafe fn write() {
    /// As long as INT 80H.
    const SYSCALL: u64 = 2;
    let start = (&raw const process_stub).addr();
    let length = (&raw const process_stub_end).addr() - start;
    let behind = |call: *const u8| place_of(call) + SYSCALL;
    let program = filter(&Sites {
        stop: behind(&raw const process_stub_stop),
        order: behind(&raw const process_stub_order),
        interrupt: behind(&raw const process_stub_interrupt),
        stack: behind(&raw const process_stub_take_stack),
        leave: behind(&raw const process_stub_return),
    });
    let description = tracing::sock_fprog { len: LENGTH as u16, filter: pointer(FILTER + 16) };
    // SAFETY: by the caller; the instructions take less than half a page, and so does the filter.
    unsafe {
        core::ptr::copy_nonoverlapping(&raw const process_stub, pointer(INSTRUCTIONS), length);
        pointer::<tracing::sock_fprog>(FILTER).write(description);
        pointer::<[tracing::sock_filter; LENGTH]>(FILTER + 16).write(program);
        pointer::<Header>(ORDERS).write_volatile(Header { signals: u64::MAX, frame: 0, end: 0, goes: 0 });
    }
}

/// A word of the page of orders by which a process other than a stub process says something, once.
pub(super) fn word() -> *mut u64 {
    pointer(ORDERS + HEADER)
}

/// Writes orders where processes find them; with a frame if they return to the program then.
pub(super) fn write_orders(orders: &[Order], frame: Option<u64>) {
    let end = ORDERS + HEADER + size_of_val(orders) as u64;
    let header = Header { signals: u64::MAX, frame: frame.unwrap_or(0), end, goes: frame.is_some().into() };
    // SAFETY: the page is mapped here for this; a process reads it only when it is told to.
    unsafe {
        pointer::<Header>(ORDERS).write_volatile(header);
        for (number, word) in orders.as_flattened().iter().enumerate() {
            pointer::<u64>(ORDERS + HEADER).add(number).write_volatile(*word);
        }
    }
}

/// Takes so many back, for programs may look at them.
pub(super) fn clear_orders(count: usize) {
    // SAFETY: as above.
    unsafe { pointer::<Order>(ORDERS + HEADER).write_bytes(0, count) };
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
    movl %edi, %r8d                     // why: the signal and where its frame is
    movq %rdx, %r9
1:  movl ${SIG_SETMASK}, %edi
    movabsq ${ORDERS}, %rsi             // all signals
    xorl %edx, %edx
    movl $8, %r10d
    movl ${SIGPROCMASK}, %eax
    .globl process_stub_stop
process_stub_stop:
    syscall
    testq %rax, %rax                    // from here on no register counts
    jnz 5f                              // the wedge is not there any more
    movabsq ${ORDERS}, %r12
    movq {end}(%r12), %r13
    movq {goes}(%r12), %rbp
    addq ${HEADER}, %r12
2:  cmpq %r13, %r12
    jae 3f
    movq (%r12), %rax
    movq 8(%r12), %rdi
    btq ${BY_INTERRUPT}, %rax
    jc 4f
    movq 16(%r12), %rsi
    movq 24(%r12), %rdx
    movq 32(%r12), %r10
    movq 40(%r12), %r8
    movq 48(%r12), %r9
    movl %eax, %eax                     // the number, without its marks
    .globl process_stub_order
process_stub_order:
    syscall
6:  btq ${OF_32_BITS}, (%r12)
    jnc 7f
    cltq                                // an error has 32 bits
7:  addq ${ORDER}, %r12
    testq %rax, %rax
    jns 2b
    xorl %ebp, %ebp
    jmp 3f
4:  movl %edi, %ebx
    .globl process_stub_interrupt
process_stub_interrupt:
    int $0x80
    jmp 6b
3:  xorl %r8d, %r8d                     // why: what the last order came to
    movq %rax, %r9
    testq %rbp, %rbp
    jz 1b
    xorl %esp, %esp                     // on no stack for signals, wherever that has been moved to
    leaq process_stub_stack(%rip), %rdi
    xorl %esi, %esi
    movl ${SIGALTSTACK}, %eax
    .globl process_stub_take_stack
process_stub_take_stack:
    syscall
    movabsq ${SEGMENTS}, %rbx
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
    movabsq ${ORDERS}, %rsp
    movq {frame}(%rsp), %rsp
    movl {rflags}(%rsp), %eax           // those of its flags that the call leaves as they are
    andl ${LEFT}, %eax
    pushq %rax
    popfq
    movl ${SIGRETURN}, %eax
    .globl process_stub_return
process_stub_return:
    syscall
5:  ud2
    .balign 8
    .globl process_stub_stack
process_stub_stack:
    .quad {STACK}, 0, {STACK_LENGTH}
    .globl process_stub_end
process_stub_end:
    "#,
    SEGMENTS = const STACK.start,
    ORDERS = const ORDERS,
    ORDER = const size_of::<Order>(),
    BY_INTERRUPT = const BY_INTERRUPT.trailing_zeros(),
    OF_32_BITS = const OF_32_BITS.trailing_zeros(),
    HEADER = const HEADER,
    frame = const offset_of!(Header, frame),
    end = const offset_of!(Header, end),
    goes = const offset_of!(Header, goes),
    rflags = const Frame::RFLAGS,
    LEFT = const flags::NESTED | flags::IDENTIFICATION,
    STACK = const STACK.start + SEGMENTS_LENGTH,
    STACK_LENGTH = const STACK_LENGTH - SEGMENTS_LENGTH,
    SIG_SETMASK = const raw::SIG_SETMASK,
    SIGPROCMASK = const raw::__NR_rt_sigprocmask,
    SIGALTSTACK = const raw::__NR_sigaltstack,
    SIGRETURN = const raw::__NR_rt_sigreturn,
    options(att_syntax)
);
