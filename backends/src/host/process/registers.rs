//! The registers of a guest as Linux has them: of a program, whose process is traced, and of the
//! guest's kernel, in the frame of a signal.

use linux_raw_sys::general as raw;
use linux_raw_sys::ptrace as tracing;
use wedge::cpu::{self, Context};
use wedge::guest::linux;
use wedge::x86::{flags, vector};

use super::entry::{REAL_CS, REAL_SS};
use super::programs::{trace, trace_into};
use super::system::{Answer, Errno};

/// The registers of a process (`sys/user.h`, `struct user_regs_struct`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Registers {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbp: u64,
    rbx: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    /// The number of the system call; -1 outside of one.
    orig_rax: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    ds: u64,
    es: u64,
    fs: u64,
    gs: u64,
}

/// No system call: nothing is restarted.
const NO_CALL: u64 = u64::MAX;

impl Registers {
    /// Those of a process that is about to carry out orders: instructions, the first order, the end
    /// of the last.
    pub(super) fn for_orders(instructions: u64, first: u64, end: u64) -> Self {
        Self {
            r12: first,
            r13: end,
            rip: instructions,
            orig_rax: NO_CALL,
            cs: REAL_CS,
            ss: REAL_SS,
            rflags: flags::FIXED,
            ..Self::default()
        }
    }

    /// How many bytes of orders have been carried out.
    pub(super) fn done(&self, first: u64) -> u64 {
        self.r12.wrapping_sub(first)
    }

    /// Why the last could not be.
    pub(super) fn error(&self) -> Errno {
        Errno(self.rax.wrapping_neg() as u32)
    }

    /// Those of a program.
    pub(super) fn of(context: &Context, selectors: [u16; 4]) -> Self {
        let cpu::Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax } =
            context.registers;
        let [es, ds, fs, gs] = selectors.map(u64::from);
        Self {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            orig_rax: NO_CALL,
            rip: context.rip,
            cs: context.cs,
            rflags: context.rflags,
            rsp: context.rsp,
            ss: context.ss,
            fs_base: 0,
            gs_base: 0,
            ds,
            es,
            fs,
            gs,
        }
    }

    /// A program's context.
    pub(super) fn context(&self) -> Context {
        let Self { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, .. } = *self;
        let rax = if self.orig_rax == NO_CALL { self.rax } else { self.orig_rax };
        Context {
            registers: cpu::Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax },
            rip: self.rip,
            cs: self.cs & 0xffff,
            rflags: self.rflags | flags::INTERRUPT,
            rsp: self.rsp,
            ss: self.ss & 0xffff,
            ..Context::default()
        }
    }

    /// ES, DS, FS and GS.
    pub(super) fn selectors(&self) -> [u16; 4] {
        [self.es, self.ds, self.fs, self.gs].map(|selector| selector as u16)
    }

    /// Reads those of a process.
    pub(super) fn get(&mut self, process: u32) -> Answer {
        // SAFETY: it writes to `self`, which is what Linux takes it for.
        unsafe { trace_into(tracing::PTRACE_GETREGS, process, 0, core::ptr::from_mut(self).addr() as u64) }.map(drop)
    }

    /// Makes them those of a process.
    pub(super) fn set(&self, process: u32) -> Answer {
        trace(tracing::PTRACE_SETREGS, process, 0, core::ptr::from_ref(self).addr() as u64).map(drop)
    }
}

/// What Linux says of a signal (`sigaction(2)`, `siginfo_t`).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Information {
    number: u32,
    error: u32,
    code: u32,
    pad: u32,
    /// Where the fault is that the signal is about.
    address: u64,
    rest: [u64; 13],
}

const _: () = assert!(size_of::<Information>() == 128);

/// An exception, as a signal tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exception {
    /// With this vector. The error code is 0, if it has one.
    Vector(u8),
    /// A page fault at an address. Whether it was a write, the instruction says.
    Page(u64),
    /// Of the floating-point unit: its registers say of which part.
    FloatingPoint,
}

impl Information {
    /// Of an access that is refused, as the processor refuses one that is not canonical.
    pub(super) const REFUSED: Self =
        Self { number: raw::SIGSEGV, error: 0, code: raw::SI_KERNEL, pad: 0, address: 0, rest: [0; 13] };

    /// That of the signal that a process has stopped for.
    pub(super) fn get(process: u32) -> Answer<Self> {
        let mut information = Self { number: 0, error: 0, code: 0, pad: 0, address: 0, rest: [0; 13] };
        let place = (&raw mut information).addr() as u64;
        // SAFETY: it writes to `information`, which is as long as Linux's structure.
        unsafe { trace_into(tracing::PTRACE_GETSIGINFO, process, 0, place)? };
        Ok(information)
    }

    /// The exception that it is about; `None` if somebody has sent it (Linux,
    /// `arch/x86/kernel/traps.c`).
    pub(super) fn exception(&self) -> Option<Exception> {
        use Exception::{FloatingPoint, Page, Vector};
        Some(match (self.number, self.code) {
            (raw::SIGSEGV, raw::SEGV_MAPERR | raw::SEGV_ACCERR) | (raw::SIGBUS, raw::BUS_ADRERR) => Page(self.address),
            (raw::SIGSEGV, raw::SI_KERNEL) => Vector(vector::PROTECTION),
            (raw::SIGBUS, raw::BUS_ADRALN) => Vector(vector::ALIGNMENT),
            (raw::SIGBUS, raw::SI_KERNEL) => Vector(vector::STACK),
            (raw::SIGILL, 1..) => Vector(vector::INVALID_OPCODE),
            (raw::SIGFPE, raw::FPE_INTDIV) => Vector(vector::DIVIDE_ERROR),
            (raw::SIGFPE, 1..) => FloatingPoint,
            (raw::SIGTRAP, raw::SI_KERNEL) => Vector(vector::BREAKPOINT),
            (raw::SIGTRAP, 1..) => Vector(vector::DEBUG),
            _ => return None,
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

/// The registers in the frame of a signal (Linux, `arch/x86/include/uapi/asm/sigcontext.h`,
/// `struct sigcontext_64`).
#[derive(Debug)]
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
}

/// The frame of a signal that interrupts the guest's kernel (`arch/x86/include/uapi/asm/ucontext.h`
/// and `include/uapi/asm-generic/ucontext.h`), as far as it is used.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Frame {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    registers: SignalRegisters,
}

impl Frame {
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

    /// The context of the guest's kernel, with a virtual IF.
    pub(super) fn context(&self, interrupts: bool) -> Context {
        let SignalRegisters { r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, .. } =
            self.registers;
        let (vector, error) = self.cause();
        let masked = if interrupts { 0 } else { flags::INTERRUPT };
        Context {
            registers: cpu::Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax },
            vector,
            error,
            rip: self.registers.rip,
            cs: linux::KERNEL_CS,
            rflags: (self.registers.rflags | flags::INTERRUPT) & !masked,
            rsp: self.registers.rsp,
            ss: linux::KERNEL_DS,
        }
    }

    /// Has the guest's kernel go on with a context.
    pub(super) fn set(&mut self, context: &Context) {
        let cpu::Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax } =
            context.registers;
        let Context { rip, rsp, rflags, .. } = *context;
        let SignalRegisters { cs, gs, fs, ss, error, vector, old_mask, cr2, .. } = self.registers;
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
            cs,
            gs,
            fs,
            ss,
            error,
            vector,
            old_mask,
            cr2,
        };
    }
}
