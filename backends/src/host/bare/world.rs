//! Stops the other processors.
//!
//! A site must not change under a processor that is about to execute it, or is within it (SDM Vol.
//! 3A, 8.1.3, cross-modifying code). The wedge has no thread and no interrupt of its own on those
//! processors. What it can do is send each an NMI through the local APIC, with the guest's NMI gate
//! interposed for that long: the processor arrives here wherever it was, also with interrupts off;
//! its RIP is on the stack, to be moved on where it lies within a site; and it returns by IRET,
//! which serialises.
//!
//! An NMI of the guest's own that comes meanwhile is told by that nobody waits for this processor,
//! and goes to the guest.

use core::arch::global_asm;
use core::hint;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use wedge::guest::linux::NMI_WORDS;
use wedge::x86::msr::{self, apic_base};
use wedge::x86::paging::entry::ADDRESS;
use wedge::x86::vector::NMI;
use x86_64::registers::model_specific::Msr;

use super::context::{Frame, Registers};
use super::exceptions;
use super::lock::processor;
use super::paging::Window;

/// The interrupt command register (SDM Vol. 3A, 10.6.1): in memory two registers, in x2APIC mode an
/// MSR.
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const COMMAND_MSR: u32 = 0x830;
/// Delivery mode NMI, level assert.
const SEND_NMI: u32 = 4 << 8 | 1 << 14;
const DELIVERY_PENDING: u32 = 1 << 12;

/// How often to look for a processor that does not come: some seconds.
const PATIENCE: u64 = 2_000_000_000;

/// Processors that have loaded a task register, by APIC ID.
static PROCESSORS: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];

/// Processors that are asked to stand still, and still have to.
static AWAITED: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];
static STOPPING: AtomicBool = AtomicBool::new(false);
static STANDING: AtomicU32 = AtomicU32::new(0);

/// Remembers the processor that this runs on.
pub(super) fn enlist() {
    if let Some(processor) = PROCESSORS.get(processor() as usize) {
        processor.store(true, Ordering::Relaxed);
    }
}

/// A processor did not stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotStopped;

/// Does something while no other processor executes anything of the guest.
pub(super) fn stopped<R>(window: &mut Window, action: impl FnOnce(&mut Window) -> R) -> Result<R, NotStopped> {
    let own = processor();
    let others =
        || (0..256u32).filter(move |other| *other != own && PROCESSORS[*other as usize].load(Ordering::Relaxed));
    let count = u32::try_from(others().count()).unwrap_or(0);
    if count == 0 {
        return Ok(action(window));
    }
    exceptions::interpose(NMI, gate_2 as *const () as u64);
    STANDING.store(0, Ordering::Relaxed);
    STOPPING.store(true, Ordering::SeqCst);
    for other in others() {
        AWAITED[other as usize].store(true, Ordering::SeqCst);
        send_nmi(window, other);
    }
    let arrived = (0..PATIENCE).any(|_| {
        hint::spin_loop();
        STANDING.load(Ordering::Acquire) == count
    });
    let result = if arrived { Ok(action(window)) } else { Err(NotStopped) };
    STOPPING.store(false, Ordering::SeqCst);
    for other in others() {
        AWAITED[other as usize].store(false, Ordering::SeqCst);
    }
    while STANDING.load(Ordering::Acquire) != 0 {
        hint::spin_loop();
    }
    exceptions::withdraw(NMI);
    result
}

fn send_nmi(window: &mut Window, to: u32) {
    // SAFETY: every processor with a local APIC has this register.
    let base = unsafe { Msr::new(msr::APIC_BASE).read() };
    if base & apic_base::ENABLED == 0 {
        return;
    }
    if base & apic_base::X2APIC != 0 {
        let mut command = Msr::new(COMMAND_MSR);
        // SAFETY: the register exists in this mode; an NMI to a processor whose gate is ours does
        // the guest no harm.
        unsafe { command.write(u64::from(to) << 32 | u64::from(SEND_NMI)) };
        return;
    }
    let page = base & ADDRESS;
    let (high, low) = (window.device(page + COMMAND_HIGH), window.device(page + COMMAND_LOW));
    // SAFETY: the local APIC's registers are there, both in the page that was shown last. An IPI
    // that the guest is sending is not disturbed: nothing is written while it is pending, and the
    // destination is put back as it was found.
    unsafe {
        while low.read_volatile() & DELIVERY_PENDING != 0 {
            hint::spin_loop();
        }
        let before = high.read_volatile();
        high.write_volatile(to << 24);
        low.write_volatile(SEND_NMI);
        while low.read_volatile() & DELIVERY_PENDING != 0 {
            hint::spin_loop();
        }
        high.write_volatile(before);
    }
}

/// The stack at an NMI.
#[repr(C)]
struct Interrupted {
    registers: Registers,
    /// Where to go on: the guest's handler, or 0 to return.
    handler: u64,
    /// What the code below leaves alone.
    gap: [u64; NMI_WORDS],
    frame: Frame,
}

/// Stands still if that is what the NMI is for.
extern "C" fn interrupted(stack: &mut Interrupted) {
    let awaited = AWAITED.get(processor() as usize).is_some_and(|awaited| awaited.swap(false, Ordering::SeqCst));
    if !awaited {
        stack.handler = exceptions::guest_handler(NMI);
        return;
    }
    stack.handler = 0;
    STANDING.fetch_add(1, Ordering::AcqRel);
    while STOPPING.load(Ordering::Acquire) {
        hint::spin_loop();
    }
    // SAFETY: the processor that stopped this one waits for STANDING to become 0.
    stack.frame.rip = unsafe { bare_resume(stack.frame.rip) };
    STANDING.fetch_sub(1, Ordering::AcqRel);
}

unsafe extern "C" {
    /// Where a processor goes on that was interrupted at an address (`resident.rs`).
    fn bare_resume(rip: u64) -> u64;
    fn gate_2();
}

global_asm!(
    r#"
    .text
    .globl gate_2
gate_2:
    leaq -{GAP}(%rsp), %rsp
    pushq $0
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
    cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call {interrupted}
    movq %rbx, %rsp
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    popq %\register
    .endr
    cmpq $0, (%rsp)
    jne 1f
    leaq {GAP}+8(%rsp), %rsp
    iretq
1:  leaq {GAP}+8(%rsp), %rsp                // flags and this word are free to use: the frame holds the guest's
    jmpq *-({GAP}+8)(%rsp)
    "#,
    interrupted = sym interrupted,
    GAP = const 8 * NMI_WORDS,
    options(att_syntax)
);
