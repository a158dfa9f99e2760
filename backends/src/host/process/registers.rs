//! The registers of a guest as Linux has them: in the frame of a signal, which has interrupted the
//! guest's kernel, or one of its programs.

use core::mem::offset_of;

use linux_raw_sys::general as raw;
use wedge::cpu::{self, Context};
use wedge::guest::linux;
use wedge::x86::segment::Selector;
use wedge::x86::{flags, vector};

use super::guest::REAL_CS;

/// The registers in the frame of a signal (Linux, `arch/x86/include/uapi/asm/sigcontext.h`,
/// `struct sigcontext_64`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct SignalRegisters {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    vector: u64,
    old_mask: u64,
    cr2: u64,
    /// Where the extended state is.
    fpstate: u64,
    reserved: [u64; 8],
}

/// The frame of a signal (`arch/x86/include/uapi/asm/ucontext.h` and
/// `include/uapi/asm-generic/ucontext.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Frame {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    registers: SignalRegisters,
    /// Signals that are held off when the frame is left.
    mask: u64,
}

const _: () = assert!(size_of::<Frame>() == 304);

/// What 32-bit programs of Linux have in CS (`arch/x86/include/asm/segment.h`, `__USER32_CS`).
pub(super) const COMPATIBILITY_CS: u16 = 0x23;
/// The privilege level that is in the selectors of programs.
const USER_LEVEL: u64 = 3;

impl Frame {
    /// Where the flags are, from the start of the frame.
    pub(super) const RFLAGS: usize = offset_of!(Self, registers.rflags);

    /// Where the signal has come.
    pub(super) fn rip(&self) -> u64 {
        self.registers.rip
    }

    /// The stack there.
    pub(super) fn rsp(&self) -> u64 {
        self.registers.rsp
    }

    /// The address that a page fault is about.
    pub(super) fn fault_address(&self) -> u64 {
        self.registers.cr2
    }

    /// Vector and error code of the exception that has caused the signal.
    pub(super) fn cause(&self) -> (u64, u64) {
        (self.registers.vector, self.registers.error)
    }

    /// Whether a signal of this number is about memory that is mapped, and that Linux cannot
    /// provide. To the processor that is a page fault.
    pub(super) fn is_without_memory(&self, number: u32) -> bool {
        number == raw::SIGBUS && self.registers.vector == vector::PAGE_FAULT.into()
    }

    /// The address of the extended state.
    pub(super) fn fpstate(&self) -> u64 {
        self.registers.fpstate
    }

    /// The context of the guest's kernel, with a virtual IF.
    pub(super) fn context(&self, interrupts: bool) -> Context {
        let masked = if interrupts { 0 } else { flags::INTERRUPT };
        let context = self.program();
        Context { cs: linux::KERNEL_CS, ss: linux::KERNEL_DS, rflags: context.rflags & !masked, ..context }
    }

    /// The context of a program, which may have written it: in user mode, with flags that are a
    /// program's.
    pub(super) fn program(&self) -> Context {
        let SignalRegisters { r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, .. } =
            self.registers;
        let (vector, error) = self.cause();
        Context {
            registers: cpu::Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax },
            vector,
            error,
            rip: self.registers.rip,
            cs: self.programs_cs(),
            rflags: self.registers.rflags & (flags::OF_USER | flags::RESUME) | flags::FIXED | flags::INTERRUPT,
            rsp: self.registers.rsp,
            ss: u64::from(self.registers.ss) | USER_LEVEL,
        }
    }

    /// What a program has in CS: one of two, or a selector of its local descriptor table.
    fn programs_cs(&self) -> u64 {
        match self.registers.cs {
            COMPATIBILITY_CS => COMPATIBILITY_CS.into(),
            local if Selector(local).is_local() => u64::from(local) | USER_LEVEL,
            _ => REAL_CS,
        }
    }

    /// Has a program go on with a context, and with signals held off.
    pub(super) fn set_program(&mut self, context: &Context, mask: u64) {
        self.set(context);
        self.mask = mask;
    }

    /// Has the code that was interrupted go on elsewhere.
    pub(super) fn set_rip(&mut self, rip: u64) {
        self.registers.rip = rip;
    }

    /// Has what was interrupted go on with a context.
    pub(super) fn set(&mut self, context: &Context) {
        let cpu::Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax } =
            context.registers;
        let Context { rip, rsp, rflags, cs, ss, .. } = *context;
        self.registers = SignalRegisters {
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rdi,
            rsi,
            rbp,
            rbx,
            rdx,
            rax,
            rcx,
            rsp,
            rip,
            rflags: rflags | flags::INTERRUPT,
            cs: cs as u16,
            ss: ss as u16,
            ..self.registers
        };
    }
}
