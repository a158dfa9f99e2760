//! Exceptions: the wedge's own before the guest runs, and the guest's at sites that run in stubs.
//!
//! Before the guest has a descriptor table, an exception is the end: it is printed, and the machine
//! stops.
//!
//! Afterwards exceptions are the guest's business, with one reservation. A kernel knows its
//! faulting instructions by address: its exception table, and comparisons such as Linux's with
//! `native_irq_return_iret`, tell a bad MSR or a bad frame of user mode from a bug. An instruction
//! that runs in a stub faults at another address. So the gates of the exceptions that a sensitive
//! instruction can raise lead here first: if the saved RIP lies in the window, it is replaced by
//! the site's. What it costs other exceptions is a comparison and a jump.
//!
//! A debug exception is another matter. SYSENTER leaves TF set, so that any program can have the
//! kernel's entry stepped through (SDM Vol. 3A, 6.3.1, and Linux's `is_sysenter_singlestep`, which
//! goes by the address). To the guest a site is one instruction: a step that ends in the window
//! goes on, until one ends outside.
//!
//! The guest's own table is edited, not replaced: what kind of gate, which stack and which
//! privilege level stay the guest's decision. A guest that writes the gate again undoes the edit;
//! it is made again at the next LIDT, LLDT or LTR, and before any instruction that has an
//! exception-table entry.

use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use wedge::guest::layout::WINDOW_LENGTH;
use wedge::guest::linux::BOOT_CS;
use wedge::image::LOAD_ADDRESS;
use wedge::x86::segment::system::INTERRUPT_GATE;
use wedge::x86::vector::{self, COUNT, Vectors};
use x86_64::instructions::tables::sidt;

use super::context::{Frame, Registers};
use super::paging::WriteUnprotected;
use crate::runtime::exclusive::Exclusive;
use crate::runtime::log::stop;
use crate::runtime::{say, window};

/// Exceptions with an error code that a sensitive instruction can raise. A double fault is of an
/// IRET on an unmapped stack.
const INTERPOSED: Vectors = Vectors::of(&[
    vector::DOUBLE_FAULT,
    vector::INVALID_TSS,
    vector::NOT_PRESENT,
    vector::STACK,
    vector::PROTECTION,
    vector::PAGE_FAULT,
]);

/// A gate of the interrupt descriptor table (SDM Vol. 3A, 6.14.1, figure 6-8).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const PRESENT: u8 = 1 << 7;
    const NONE: Self =
        Self { offset_low: 0, selector: 0, stack: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

    #[expect(clippy::cast_possible_truncation, reason = "the offset is stored in three parts")]
    fn set_offset(&mut self, offset: u64) {
        self.offset_low = offset as u16;
        self.offset_middle = (offset >> 16) as u16;
        self.offset_high = (offset >> 32) as u32;
    }

    fn offset(&self) -> u64 {
        u64::from(self.offset_low) | u64::from(self.offset_middle) << 16 | u64::from(self.offset_high) << 32
    }

    fn is_present(&self) -> bool {
        self.kind & Self::PRESENT != 0
    }
}

/// Where the guest's own handlers are, by vector. The gates' code jumps through it.
static GUEST_HANDLERS: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

/// The offset of its last byte.
const TABLE_LIMIT: u16 = 32 * 16 - 1;
const _: () = assert!(size_of::<[Gate; COUNT]>() == TABLE_LIMIT as usize + 1);

static OWN_TABLE: Exclusive<[Gate; COUNT]> = Exclusive::new([Gate::NONE; COUNT]);

unsafe extern "C" {
    /// Addresses of the fatal entries, one per vector.
    static fatal_entries: [u64; COUNT];
    fn gate_debug();
    /// Addresses of the gates of the [`INTERPOSED`], in the order of their vectors.
    static gate_entries: [u64; INTERPOSED.count()];
}

/// The processor's copy of the wedge's own table.
pub(super) fn set_up() {
    let table = OWN_TABLE.take();
    // SAFETY: defined below, never written.
    let entries = unsafe { &fatal_entries };
    for (gate, entry) in table.iter_mut().zip(entries) {
        *gate = Gate { selector: BOOT_CS, kind: Gate::PRESENT | INTERRUPT_GATE, ..Gate::NONE };
        gate.set_offset(*entry);
    }
    let pointer =
        x86_64::structures::DescriptorTablePointer { limit: TABLE_LIMIT, base: x86_64::VirtAddr::from_ptr(table) };
    // SAFETY: the table is complete and stays where it is.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
}

/// A gate of the table in use, if that table is long enough.
fn gate(vector: u8) -> Option<*mut Gate> {
    let table = sidt();
    let offset = usize::from(vector) * size_of::<Gate>();
    (usize::from(table.limit) >= offset + size_of::<Gate>() - 1)
        .then(|| table.base.as_mut_ptr::<Gate>().wrapping_add(vector.into()))
}

/// Points a gate of the guest at `handler`, and remembers the guest's own. A gate that is not
/// present stays as it is.
pub(super) fn interpose(vector: u8, handler: u64) {
    let Some(place) = gate(vector) else { return };
    // SAFETY: the processor itself reads the gate there; interrupts are off, and an NMI does not
    // write gates.
    let mut gate = unsafe { place.read_volatile() };
    if !gate.is_present() || gate.offset() == handler {
        return;
    }
    GUEST_HANDLERS[usize::from(vector)].store(gate.offset(), Ordering::Release);
    gate.set_offset(handler);
    let _unprotected = WriteUnprotected::new();
    // SAFETY: as above; the guest has this table write-protected, or is about to.
    unsafe { place.write_volatile(gate) };
}

/// Gives a gate back to the guest.
pub(super) fn withdraw(vector: u8) {
    let Some(place) = gate(vector) else { return };
    // SAFETY: as in `interpose`.
    let mut gate = unsafe { place.read_volatile() };
    gate.set_offset(GUEST_HANDLERS[usize::from(vector)].load(Ordering::Acquire));
    let _unprotected = WriteUnprotected::new();
    // SAFETY: as in `interpose`.
    unsafe { place.write_volatile(gate) };
}

/// Interposes the gates of the exceptions that sites can raise, and of steps that end in a stub.
pub(super) fn interpose_all() {
    interpose(vector::DEBUG, gate_debug as *const () as u64);
    // SAFETY: defined below, never written.
    let gates = unsafe { &gate_entries };
    for (vector, gate) in (0..=u8::MAX).filter(|vector| INTERPOSED.contains(*vector)).zip(gates) {
        interpose(vector, *gate);
    }
}

/// The guest's handler of an exception.
pub(super) fn guest_handler(vector: u8) -> u64 {
    GUEST_HANDLERS[usize::from(vector)].load(Ordering::Acquire)
}

/// The stack at an interposed exception whose RIP lies in the window.
#[repr(C)]
pub(super) struct Interposed {
    registers: Registers,
    /// The vector; replaced by the address to go on at.
    pub(super) vector: u64,
    error: u64,
    pub(super) frame: Frame,
}

/// The stack at an exception before the guest runs.
#[repr(C)]
struct Fatal {
    registers: Registers,
    vector: u64,
    error: u64,
    frame: Frame,
}

/// The end of a boot by an exception.
extern "C" fn fatal(stack: &Fatal) -> ! {
    let cr2 = x86_64::registers::control::Cr2::read_raw();
    let window: Range<u64> = window()..window() + WINDOW_LENGTH;
    let whose = if window.contains(&stack.frame.rip) { "the wedge" } else { "the guest's first code" };
    say!(
        "exception {} in {whose} at {:#x}, error code {:#x}, CR2 {cr2:#x}, RSP {:#x}",
        stack.vector,
        stack.frame.rip,
        stack.error,
        stack.frame.rsp,
    );
    say!(
        "RAX {:#x} RBX {:#x} RCX {:#x} RDX {:#x}",
        stack.registers.rax,
        stack.registers.rbx,
        stack.registers.rcx,
        stack.registers.rdx
    );
    stop()
}

global_asm!(
    r#"
    .text
    .pushsection .data.rel.ro, "aw"
    .balign 8
    .globl fatal_entries
fatal_entries:
    .popsection
    .set vector, 0
    .rept {COUNT}
1:  .if (({WITH_ERROR} >> vector) & 1) == 0
    pushq $0
    .endif
    pushq $vector
    jmp fatal_common
    .pushsection .data.rel.ro, "aw"
    .quad 1b
    .popsection
    .set vector, vector + 1
    .endr
fatal_common:
    cld
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
    movq %rsp, %rdi
    andq $-16, %rsp
    call {fatal}
    ud2

    // Sets CF if RIP, at this place on the stack, lies in the window: if what is from there to the
    // last byte of the window is less than its length. RAX is on the stack then.
    .macro IS_IN_WINDOW rip
    pushq %rax
    leaq image_start-{LOAD_ADDRESS}+{WINDOW_LENGTH}-1(%rip), %rax
    subq 8+\rip(%rsp), %rax
    cmpq ${WINDOW_LENGTH}, %rax
    .endm

    // A step (DR6.BS, bit 14) that ends in the window goes on, whether TF is still set or a POPF
    // has just cleared it. The guest does not get to see the bit. A breakpoint that was met in the
    // same step (DR6.B0 to B3) is the guest's to see. RIP is on top of the stack.
    .globl gate_debug
gate_debug:
    IS_IN_WINDOW 0
    jae 2f
    movq %dr6, %rax
    btrq $14, %rax
    jnc 2f
    movq %rax, %dr6
    testb $0xf, %al
    jnz 2f
    popq %rax
    iretq
2:  popq %rax
    jmpq *{handlers}+8*{DEBUG}(%rip)

    // RIP is at 8(%rsp), behind the error code.
    .pushsection .data.rel.ro, "aw"
    .balign 8
    .globl gate_entries
gate_entries:
    .popsection
    .set vector, 0
    .rept {COUNT}
    .if ({INTERPOSED} >> vector) & 1
    .pushsection .data.rel.ro, "aw"
    .quad 3f
    .popsection
3:  IS_IN_WINDOW 8
    popq %rax
    jb 2f
    jmpq *{handlers}+8*vector(%rip)
2:  pushq $vector
    jmp present_common
    .endif
    .set vector, vector + 1
    .endr
present_common:
    cld
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call bare_present
    movq %rbx, %rsp
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    popq %\register
    .endr
    ret
    "#,
    fatal = sym fatal,
    handlers = sym GUEST_HANDLERS,
    DEBUG = const vector::DEBUG,
    COUNT = const COUNT,
    WITH_ERROR = const vector::WITH_ERROR.0,
    INTERPOSED = const INTERPOSED.0,
    LOAD_ADDRESS = const LOAD_ADDRESS,
    WINDOW_LENGTH = const WINDOW_LENGTH,
    options(att_syntax)
);
