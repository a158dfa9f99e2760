//! Programs: each address space of the guest has a process of its own to run them in, a *stub*.
//!
//! What must hold is that a program reaches neither the guest's kernel, nor the memory of another
//! program, nor a system call of this Linux. The first two hold because nothing else is mapped in
//! its process: one page with a few instructions, and one with what they are to do. The third holds
//! because the wedge traces the process, and lets programs run by `PTRACE_SYSEMU` only: Linux stops
//! the process at each system call, by whatever instruction, and does not execute it. To map what a
//! program needs, the wedge has the process execute those instructions ([`orders`](super::orders)),
//! this once not by `PTRACE_SYSEMU`. A [`filter`](super::filter) of the process's system calls is a
//! second fence.
//!
//! All stubs are copies of the first, the *mother*, which has nothing mapped: a copy of this
//! process would have to be cleared of thousands of mappings each time. All are children of this
//! process, and end with it (`PTRACE_O_EXITKILL`), however it ends; where it can, it waits for
//! their ends ([`end_all`]).
//!
//! The processor's extended state (x87, SSE, AVX) is that of the program also while the guest's
//! kernel runs, which saves it when it changes threads. So it goes with each change between the two
//! processes, in both directions.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::errno::EINTR;
use linux_raw_sys::general as raw;
use linux_raw_sys::prctl::PR_SET_NO_NEW_PRIVS;
use linux_raw_sys::ptrace as tracing;
use wedge::x86::control::xcr0;

use super::affinity::Affinity;
use super::entry::{process_orders, process_orders_call, process_orders_end};
use super::filter::{LENGTH, filter};
use super::memory::{OWN, READ_AND_WRITE, STUB, pointer};
use super::orders::{Order, Orders};
use super::registers::{Information, Registers};
use super::system::{self, Answer, Errno, File, call};
use super::tables::SPACES;
use crate::runtime::PAGE;
use crate::runtime::exclusive::{Borrowed, Exclusive, Pages};

/// The page with the orders.
const ORDERS: u64 = STUB + PAGE;
/// Where in the other page, behind the instructions, the filter is described.
const FILTER: u64 = STUB + PAGE / 2;

/// Why a program cannot be run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// Linux refuses something.
    Refused { what: &'static str, error: Errno },
    /// The process is not there any more: somebody else has ended it.
    Ended { status: u32 },
    /// The process has stopped for a reason that it should not have.
    Stopped { status: u32 },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { what, error } => write!(f, "Linux refuses {what}, {error}"),
            Self::Ended { status } => {
                write!(f, "the process that a program runs in was ended from outside, status {status:#x}")
            }
            Self::Stopped { status } => {
                write!(f, "the process that a program runs in does not do as it is told, status {status:#x}")
            }
        }
    }
}

/// Says what Linux has refused.
fn refused(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::Refused { what, error }
}

/// Why a program has stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// It has executed a system call, by whatever instruction.
    SystemCall,
    /// It has got a signal, which is not delivered.
    Signal(Information),
}

/// As large as any processor's extended state, with what AMX has.
static STATE: Exclusive<Pages<4>> = Exclusive::new(Pages::new());

/// The extended state of a program.
struct State {
    area: Borrowed<'static, Pages<4>>,
    /// Bytes, as Linux has them.
    length: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("length", &self.length).finish_non_exhaustive()
    }
}

/// What of the state the guest may use.
const KEPT: u64 = xcr0::ALL;

impl State {
    fn address(&self) -> u64 {
        self.area.address(0)
    }

    /// Takes the state of this process. What the guest does not know of becomes what it is
    /// initially.
    fn save(&self) {
        const XSTATE_BV: usize = 512 / 8;
        // SAFETY: the area is large enough, and aligned; the processor has the instruction, as has
        // been checked.
        unsafe {
            asm!("xsave64 [{}]", in(reg) self.address(), in("eax") KEPT as u32, in("edx") 0, options(nostack));
        }
        self.area.page(0)[XSTATE_BV].fetch_and(KEPT, Ordering::Relaxed);
    }

    /// Makes it the state of this process.
    fn restore(&self) {
        // SAFETY: the area has been filled by Linux, or by XSAVE. The wedge uses none of these
        // registers.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) self.address(), in("eax") KEPT as u32, in("edx") 0, options(nostack));
        }
    }

    /// Whether the x87 part says that an exception waits (SDM Vol. 1, 8.1.3, ES).
    fn has_x87_exception(&self) -> bool {
        self.area.page(0)[0].load(Ordering::Relaxed) >> 16 & 0x80 != 0
    }
}

/// A stub process.
#[derive(Clone, Copy, Debug)]
struct Stub {
    /// Its number; 0 if there is none yet.
    number: u32,
    /// The processor that it was moved to.
    processor: Option<u32>,
}

/// The stubs.
#[derive(Debug)]
pub(super) struct Programs {
    mother: u32,
    /// By the number of the space.
    stubs: [Stub; SPACES],
    state: State,
}

impl Programs {
    /// Makes the mother of all stubs.
    pub(super) fn start() -> Result<Self, Failure> {
        let area = STATE.borrow();
        let stub = File::memory(c"afterburner stub", 2 * PAGE).map_err(refused("memory for the stub"))?;
        // SAFETY: nothing is there.
        unsafe {
            system::map(STUB, PAGE, READ_AND_WRITE | raw::PROT_EXEC, Some((stub, 0)))
                .and_then(|()| system::map(ORDERS, PAGE, READ_AND_WRITE, Some((stub, PAGE))))
                .map_err(refused("to map the stub"))?;
            write_stub();
        }
        let mother = fork().map_err(refused("a process for programs"))?;
        note(mother);
        let mut programs = Self {
            mother,
            stubs: [Stub { number: 0, processor: None }; SPACES],
            state: State { area, length: 4 * PAGE },
        };
        programs.raise(stub)?;
        Ok(programs)
    }

    /// Has the mother give up all that she has from this process.
    fn raise(&mut self, stub: File) -> Result<(), Failure> {
        let mother = self.mother;
        expect_signal(wait(mother)?, raw::SIGSTOP)?;
        let options = tracing::PTRACE_O_EXITKILL | tracing::PTRACE_O_TRACESYSGOOD | tracing::PTRACE_O_TRACEFORK;
        trace(tracing::PTRACE_SETOPTIONS, mother, 0, options.into()).map_err(refused("to trace a process"))?;
        let mut orders = Orders::new();
        let read_only = raw::PROT_READ.into();
        let executable = u64::from(raw::PROT_READ | raw::PROT_EXEC);
        let shared = u64::from(raw::MAP_SHARED | raw::MAP_FIXED);
        orders.add(raw::__NR_mmap, [STUB, PAGE, executable, shared, stub.0.into(), 0]);
        orders.add(raw::__NR_mmap, [ORDERS, PAGE, read_only, shared, stub.0.into(), PAGE]);
        orders.add(raw::__NR_close, [stub.0.into(), 0, 0, 0, 0, 0]);
        orders.add(raw::__NR_munmap, [0, STUB, 0, 0, 0, 0]);
        let behind = ORDERS + PAGE;
        orders.add(raw::__NR_munmap, [behind, (1 << 47) - PAGE - behind, 0, 0, 0, 0]);
        orders.add(raw::__NR_prctl, [PR_SET_NO_NEW_PRIVS.into(), 1, 0, 0, 0, 0]);
        orders.add(raw::__NR_seccomp, [tracing::SECCOMP_SET_MODE_FILTER.into(), 0, FILTER, 0, 0, 0]);
        carry_out(mother, orders.as_slice())?;
        stub.close();
        self.state.length = self.get_state(mother)?;
        Ok(())
    }

    /// The process of a space, where the guest runs, and whether it is new.
    pub(super) fn stub(&mut self, space: usize, affinity: &Affinity) -> Result<(u32, bool), Failure> {
        let is_new = self.stubs[space].number == 0;
        if is_new {
            self.stubs[space].number = self.bear()?;
        }
        let stub = &mut self.stubs[space];
        stub.processor = affinity.fetch(stub.number, stub.processor);
        Ok((stub.number, is_new))
    }

    /// A child of the mother.
    fn bear(&mut self) -> Result<u32, Failure> {
        const FORKED: u32 = raw::SIGTRAP | tracing::PTRACE_EVENT_FORK << 8;
        let flags = u64::from(raw::CLONE_PARENT | raw::SIGCHLD);
        let order = [raw::__NR_clone.into(), flags, 0, 0, 0, 0, 0];
        begin(self.mother, &[order])?;
        let status = wait(self.mother)?;
        if status >> 8 != FORKED {
            return Err(Failure::Stopped { status });
        }
        let mut child = 0_u64;
        // SAFETY: it writes to `child`.
        unsafe { trace_into(tracing::PTRACE_GETEVENTMSG, self.mother, 0, (&raw mut child).addr() as u64) }
            .map_err(refused("a process for programs"))?;
        trace(tracing::PTRACE_CONT, self.mother, 0, 0).map_err(refused("to go on"))?;
        end(self.mother, 1)?;
        let child = child as u32;
        note(child);
        expect_signal(wait(child)?, raw::SIGSTOP)?;
        Ok(child)
    }

    /// Runs a program until it stops.
    pub(super) fn run(&mut self, stub: u32, registers: &mut Registers) -> Result<Stop, Failure> {
        /// What `PTRACE_O_TRACESYSGOOD` makes of SIGTRAP.
        const SYSTEM_CALL: u32 = raw::SIGTRAP | 0x80;
        self.state.save();
        let what = refused("to set the registers of a program");
        registers.set(stub).map_err(&what)?;
        self.exchange_state(tracing::PTRACE_SETREGSET, stub).map_err(&what)?;
        trace(tracing::PTRACE_SYSEMU, stub, 0, 0).map_err(refused("to run a program"))?;
        let status = wait(stub)?;
        registers.get(stub).map_err(refused("to read the registers of a program"))?;
        self.get_state(stub)?;
        self.state.restore();
        if status >> 8 == SYSTEM_CALL {
            return Ok(Stop::SystemCall);
        }
        Information::get(stub).map(Stop::Signal).map_err(refused("to read a program's signal"))
    }

    /// Whether an exception of a program's floating-point unit is one of x87.
    pub(super) fn has_x87_exception(&self) -> bool {
        self.state.has_x87_exception()
    }

    fn get_state(&self, stub: u32) -> Result<u64, Failure> {
        self.exchange_state(tracing::PTRACE_GETREGSET, stub).map_err(refused("to read the state of a program"))
    }

    /// Hands the state over. Its length.
    fn exchange_state(&self, request: u32, stub: u32) -> Answer<u64> {
        const XSTATE: u64 = linux_raw_sys::elf_uapi::NT_X86_XSTATE as u64;
        let vector = [self.state.address(), self.state.length];
        // SAFETY: it writes to the area at most, which is at least as long, and to `vector`.
        unsafe { trace_into(request, stub, XSTATE, (&raw const vector).addr() as u64)? };
        // SAFETY: Linux has written there.
        Ok(unsafe { (&raw const vector[1]).read_volatile() })
    }
}

/// All processes that have been made; 0 where there is none.
static PROCESSES: [AtomicU32; SPACES + 1] = [const { AtomicU32::new(0) }; SPACES + 1];

fn note(process: u32) {
    let free = PROCESSES.iter().find(|place| place.load(Ordering::Relaxed) == 0);
    if let Some(place) = free {
        place.store(process, Ordering::Relaxed);
    }
}

/// Ends all processes, and waits until they are gone.
pub(super) fn end_all() {
    const ANY: u64 = u64::MAX;
    for process in &PROCESSES {
        match process.load(Ordering::Relaxed) {
            0 => {}
            process => system::signal(process, raw::SIGKILL),
        }
    }
    // SAFETY: nothing is to be written.
    while unsafe { call(raw::__NR_wait4, [ANY, 0, raw::__WALL.into(), 0, 0, 0]) }.is_ok() {}
}

/// Has a process carry out orders, all of them.
pub(super) fn carry_out(stub: u32, orders: &[Order]) -> Result<(), Failure> {
    begin(stub, orders)?;
    end(stub, orders.len())
}

/// Has it begin.
fn begin(stub: u32, orders: &[Order]) -> Result<(), Failure> {
    for (number, word) in orders.as_flattened().iter().enumerate() {
        // SAFETY: the page is mapped here for this; a process reads it only when it is told to.
        unsafe { pointer::<u64>(ORDERS).add(number).write_volatile(*word) };
    }
    let what = refused("to give orders");
    let registers = Registers::for_orders(STUB, ORDERS, ORDERS + size_of_val(orders) as u64);
    registers.set(stub).map_err(&what)?;
    trace(tracing::PTRACE_CONT, stub, 0, 0).map(drop).map_err(what)
}

/// Waits until a process has carried out so many orders, and takes them back, for programs may look
/// at them.
fn end(stub: u32, count: usize) -> Result<(), Failure> {
    // A signal of the timer may come late, and any from outside.
    let mut status = wait(stub)?;
    while [raw::SIGALRM, raw::SIGINT, raw::SIGTSTP, raw::SIGCONT, raw::SIGWINCH].contains(&(status >> 8)) {
        trace(tracing::PTRACE_CONT, stub, 0, 0).map_err(refused("to go on"))?;
        status = wait(stub)?;
    }
    expect_signal(status, raw::SIGTRAP)?;
    let mut registers = Registers::default();
    registers.get(stub).map_err(refused("to read what became of orders"))?;
    // SAFETY: as in `begin`.
    unsafe { pointer::<u64>(ORDERS).write_bytes(0, 7 * count) };
    let done = registers.done(ORDERS) / size_of::<Order>() as u64;
    if done == count as u64 {
        return Ok(());
    }
    Err(Failure::Refused { what: "to map a program's memory", error: registers.error() })
}

/// Where, in the page with the instructions, the system call ends.
fn offset_of_call() -> u64 {
    const SYSCALL: u64 = 2;
    (&raw const process_orders_call).addr() as u64 - (&raw const process_orders).addr() as u64 + SYSCALL
}

/// Writes the page with the instructions, and the filter behind them.
///
/// # Safety
///
/// The page is mapped to be written.
unsafe fn write_stub() {
    let length = (&raw const process_orders_end).addr() - (&raw const process_orders).addr();
    let program = filter(STUB + offset_of_call());
    let description = tracing::sock_fprog { len: LENGTH as u16, filter: pointer(FILTER + 16) };
    // SAFETY: by the caller; the instructions take less than half a page, and so does the filter.
    unsafe {
        core::ptr::copy_nonoverlapping(&raw const process_orders, pointer(STUB), length);
        pointer::<tracing::sock_fprog>(FILTER).write(description);
        pointer::<[tracing::sock_filter; LENGTH]>(FILTER + 16).write(program);
    }
}

/// Makes a process that is traced, and stands still (`fork(2)`). Its number.
fn fork() -> Answer<u32> {
    // SAFETY: the new process does nothing with the memory that it has in common with this one.
    let child = unsafe { call(raw::__NR_fork, [0; 6]) }? as u32;
    if child == 0 {
        let traced = trace(tracing::PTRACE_TRACEME, 0, 0, 0);
        if traced.is_ok() {
            system::signal(system::process(), raw::SIGSTOP);
        }
        system::exit(1);
    }
    Ok(child)
}

/// `ptrace(2)`, to which no address of memory is handed.
pub(super) fn trace(request: u32, process: u32, address: u64, data: u64) -> Answer<u64> {
    // SAFETY: the process that is traced is not this one.
    unsafe { trace_into(request, process, address, data) }
}

/// `ptrace(2)`.
///
/// # Safety
///
/// What it writes to is the caller's.
pub(super) unsafe fn trace_into(request: u32, process: u32, address: u64, data: u64) -> Answer<u64> {
    // SAFETY: by the caller.
    unsafe { call(raw::__NR_ptrace, [request.into(), process.into(), address, data, 0, 0]) }
}

/// Waits until a process has stopped (`wait4(2)`). Its status.
fn wait(process: u32) -> Result<u32, Failure> {
    const STOPPED: u32 = 0x7f;
    let mut status = 0_u32;
    let place = (&raw mut status).addr() as u64;
    loop {
        // SAFETY: it writes to `status`.
        match unsafe { call(raw::__NR_wait4, [process.into(), place, raw::__WALL.into(), 0, 0, 0]) } {
            Err(Errno(EINTR)) => {}
            Err(error) => return Err(Failure::Refused { what: "to wait for a process", error }),
            Ok(_) => break,
        }
    }
    // SAFETY: written by Linux.
    let status = unsafe { (&raw const status).read_volatile() };
    if status & 0xff == STOPPED { Ok(status) } else { Err(Failure::Ended { status }) }
}

fn expect_signal(status: u32, signal: u32) -> Result<(), Failure> {
    if status >> 8 == signal { Ok(()) } else { Err(Failure::Stopped { status }) }
}

const _: () = assert!(STUB >= OWN.start && STUB + 2 * PAGE <= OWN.end);
