//! Programs: each address space of the guest has a process of its own to run them in, a *stub
//! process*.
//!
//! What must hold is that a program reaches neither the guest's kernel, nor the memory of another
//! program, nor a system call of this Linux. The first two hold because nothing else is mapped in
//! its process but what is there of the wedge's ([`stub`](super::stub)). The third holds by a
//! [`filter`](super::filter) of the process's system calls: each is turned into a signal.
//!
//! Signals are how a program comes to the wedge, whatever the reason. The handler is the wedge's;
//! it stops, which Linux asks the wedge about ([`listener`](super::listener)), and until it is
//! answered the process stands still. The registers of the program are in the frame of the signal,
//! in memory that the wedge sees, too. To map what a program needs, the wedge has the process carry
//! out [`orders`](super::orders), and is asked about each of these calls again.
//!
//! All that is in the process may be forged: a program can write the frame, jump to the
//! instructions, and have signals held off. So nothing that comes from there is believed but what
//! Linux says: who asks, for which call, with which arguments. Three things make that enough:
//!
//! - A process that stops, by whatever way, does nothing then but what the wedge orders
//!   ([`stub`](super::stub)). So memory may be taken from a program while its process stands still,
//!   although that has it mapped until it goes on, and a process may be given to another program.
//!   That may happen unnoticed: the kernel uses the page of one program's tables for another's.
//! - No signal is sent to a process that stands still. Where the timer's might have come too late,
//!   the process has to stop once more, with all signals held off, before anything else happens
//!   ([`Programs::seal`]).
//! - A process that asks for anything else, that ends, or that does not stop when it has to, has
//!   harmed only its own program, which gets an exception when it is ended ([`Stop::Broken`]).
//!
//! All of them are copies of the first, the *mother* ([`births`]), which has nothing mapped: a copy
//! of the wedge's process would have to be cleared of thousands of mappings each time. All are
//! children of the wedge's, and end with it (`PR_SET_PDEATHSIG`), however it ends; where it can, it
//! waits for their ends ([`processes`](super::processes)).

mod births;

use core::fmt;
use core::sync::atomic::Ordering;

use linux_raw_sys::errno::{EINTR, ENOENT};
use linux_raw_sys::general as raw;
use linux_raw_sys::prctl::PR_SET_PDEATHSIG;
use wedge::cpu::Context;
use wedge::platform::SECOND;

use super::affinity::Affinity;
use super::areas::ThreadAreas;
use super::cpu::CPU;
use super::listener::{Listener, Question};
use super::locals::Locals;
use super::memory::{READ_AND_WRITE, STACKS, STUB, pointer};
use super::mother;
use super::orders::{Order, Orders};
use super::processes::{forget, given_in_local_tables, has_ended, has_thread_areas, note, reap, reap_program};
use super::questions::{is_order, is_stop, refused_order};
use super::registers::Frame;
use super::state::State;
use super::stops::{Information, Stop};
use super::stub::{self, ORDERS, SEGMENTS_LENGTH, SIGNALS, STACK, STACK_LENGTH, Segments};
use super::system::{self, Errno, File};

use crate::host::soft::SPACES;
use crate::runtime::{PAGE, say};

/// Has a process end with the one that has made it (`prctl(2)`).
const END_WITH_THIS: [u64; 6] = [PR_SET_PDEATHSIG as u64, raw::SIGKILL as u64, 0, 0, 0, 0];

/// The stack of the mother, behind those of the stub processes.
const MOTHERS: usize = SPACES;

/// Why a program cannot be run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// Linux refuses something.
    Refused { what: &'static str, error: Errno },
    /// The process is not there any more: somebody else has ended it.
    Ended { status: u32 },
    /// The first process does not do as it is told.
    Mother,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { what, error } => write!(f, "Linux refuses {what}, {error}"),
            Self::Ended { status } => {
                write!(f, "the process that a program runs in was ended from outside, status {status:#x}")
            }
            Self::Mother => write!(f, "the process that others are made from does not do as it is told"),
        }
    }
}

/// Says what Linux has refused.
fn refused(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::Refused { what, error }
}

/// What a process does next.
enum Next {
    Asks(Question),
    /// It has ended, or had to be.
    Broken,
}

/// A stub process.
#[derive(Clone, Copy, Debug)]
struct Stub {
    /// Its number.
    process: u32,
    /// What it waits for an answer to.
    question: Question,
    /// The processor that it was moved to.
    processor: Option<u32>,
    /// The thread areas that it has.
    areas: ThreadAreas,
}

impl Stub {
    /// One that has just been made, and waits.
    fn new(process: u32, question: Question) -> Self {
        Self { process, question, processor: None, areas: ThreadAreas::default() }
    }
}

/// The stub processes.
#[derive(Debug)]
pub(super) struct Programs {
    listener: Listener,
    /// What stub processes have of the wedge's.
    file: File,
    mother: Stub,
    /// By the number of the space.
    stubs: [Option<Stub>; SPACES],
    /// Where the frame of a signal is in the processes,
    frame: u64,
    /// what the first was,
    template: Frame,
    /// and the extended state in it.
    state: State,
    /// The lowest address that Linux maps anything at, if it has system calls of 32-bit programs.
    lowest: Option<u64>,
    /// The local descriptor tables, if Linux has them.
    pub(super) locals: Option<Locals>,
    /// Why the last order was not carried out, as the process says.
    refused: Option<Errno>,
    /// How many lines of what programs may have caused are still said.
    complaints: u32,
}

/// Where the wedge sees the stack of a stub process.
const fn view(number: usize) -> u64 {
    STACKS + number as u64 * STACK_LENGTH
}

/// The signals that are held off while a program runs: all others.
fn held_off() -> u64 {
    SIGNALS.into_iter().fold(u64::MAX, |mask, number| mask & !(1 << (number - 1)))
}

impl Programs {
    /// Makes the mother of all stub processes. They map the guest's memory from a file, from the
    /// lowest address on.
    pub(super) fn start(memory: File, lowest: u64) -> Result<Self, Failure> {
        let stacks = view(SPACES + 1) - STACKS;
        let file = File::memory(c"afterburner stub", 2 * PAGE + stacks).map_err(refused("memory for stubs"))?;
        // SAFETY: nothing is there.
        unsafe {
            system::map(STUB, 2 * PAGE, READ_AND_WRITE, Some((file, 0)))
                .and_then(|()| system::map(STACKS, stacks, READ_AND_WRITE, Some((file, 2 * PAGE))))
                .map_err(refused("to map the stub"))?;
            stub::write();
        }
        let process =
            mother::start(file, 2 * PAGE + view(MOTHERS) - STACKS).map_err(refused("a process for programs"))?;
        note(process);
        let listener = Listener::new(mother::wait_for_listener(process).map_err(|error| {
            error.map_or(Failure::Mother, refused("to filter the system calls of a process (seccomp)"))
        })?);
        let question = loop {
            match listener.receive_within(SECOND) {
                Ok(question) if is_stop(&question) => break question,
                Err(Errno(EINTR)) if !has_ended(process) => {}
                _ => return Err(Failure::Mother),
            }
        };
        let frame = question.arguments[5];
        let template = frame_in(view(MOTHERS), frame).ok_or(Failure::Mother)?;
        // SAFETY: it has been found to lie there, and the process waits.
        let template = unsafe { template.read() };
        let state = State::find(view(MOTHERS), template.fpstate()).ok_or(Failure::Mother)?;
        let mother = Stub::new(process, question);
        let mut programs = Self {
            listener,
            file,
            mother,
            stubs: [None; SPACES],
            frame,
            template,
            state,
            lowest: has_thread_areas().then_some(lowest),
            locals: given_in_local_tables()
                .map(|given| Locals::new(given, SPACES))
                .transpose()
                .map_err(refused("memory for descriptors"))?,
            refused: None,
            complaints: 16,
        };
        programs.raise([memory, file])?;
        if programs.lowest.is_none() {
            say!("this Linux has no 32-bit programs (CONFIG_IA32_EMULATION): those of the guest have no thread areas");
        }
        Ok(programs)
    }

    /// Has a process for a space, where the guest runs. Whether it is new.
    pub(super) fn prepare(&mut self, space: usize, affinity: &Affinity) -> Result<bool, Failure> {
        let is_new = self.stubs[space].is_none();
        if let Some(locals) = self.locals.as_mut().filter(|_| is_new) {
            locals.forget(space);
        }
        let mut stub = match self.stubs[space] {
            Some(stub) => stub,
            None => self.bear_in_any_case(space)?,
        };
        stub.processor = affinity.fetch(stub.process, stub.processor);
        self.stubs[space] = Some(stub);
        Ok(is_new)
    }

    /// Whether a process that stands still asks again, for it was stopped from outside and goes on.
    fn is_known(&mut self, question: &Question) -> bool {
        let stub = self.stubs.iter_mut().flatten().find(|stub| stub.process == question.process);
        stub.is_some_and(|stub| {
            stub.question = *question;
            true
        })
    }

    /// Has the process of a space carry out orders, and runs the program there, from a context,
    /// until it stops.
    pub(super) fn run(
        &mut self,
        space: usize,
        orders: &[Order],
        context: &mut Context,
        segments: &mut Segments,
    ) -> Result<Stop, Failure> {
        let stack = view(space);
        let place = frame_in(stack, self.frame).ok_or(Failure::Mother)?;
        let mut frame = self.template;
        frame.set_program(context, held_off());
        self.state.save(stack);
        // SAFETY: the stack is mapped here, and the process waits.
        unsafe {
            place.write(frame);
            pointer::<Segments>(stack).write(*segments);
        }
        let Some(number) = self.run_until_stop(space, orders)? else {
            self.bury(space);
            self.state.restore(stack);
            return Ok(Stop::Broken);
        };
        self.state.restore(stack);
        // SAFETY: as above.
        let (frame, information) = unsafe {
            *segments = pointer::<Segments>(stack).read();
            (place.read(), place.add(1).cast::<Information>().read())
        };
        *context = frame.program();
        let stop = Stop::by(number, &information, &frame);
        match stop {
            Stop::Signal(number) => {
                self.complain(format_args!("signal {number} for a program, from outside: it is ignored"));
            }
            Stop::NoMemory { address } => {
                self.complain(format_args!(
                    "Linux has no memory for a program, at {address:#x}: its access is refused"
                ));
            }
            _ => {}
        }
        Ok(stop)
    }

    /// Has a process carry out orders and go on, until it stops by a signal. Its number; `None` if
    /// the process is of no use any more.
    fn run_until_stop(&mut self, space: usize, orders: &[Order]) -> Result<Option<u32>, Failure> {
        let Some(mut stub) = self.stubs[space] else { return Ok(None) };
        CPU.signalled.store(0, Ordering::Relaxed);
        // To unmap much takes long, and must not count as the program's time.
        let goes = orders.iter().all(|order| order[0] != u64::from(raw::__NR_munmap));
        let done = goes || self.carry_out(&mut stub, orders, false)? && self.has_done(&mut stub)?;
        if !done || !self.carry_out(&mut stub, if goes { orders } else { &[] }, true)? {
            return Ok(None);
        }
        // From here on signals are held off there until it runs the program.
        CPU.running.store(stub.process, Ordering::SeqCst);
        if CPU.pending.load(Ordering::SeqCst) != 0 {
            interrupt(stub.process);
        }
        let next = self.next(stub.process, Some(PATIENCE));
        CPU.running.store(0, Ordering::SeqCst);
        let Next::Asks(question) = next? else { return Ok(None) };
        let [.., number, frame] = question.arguments;
        if !is_stop(&question) || frame != self.frame || !SIGNALS.map(u64::from).contains(&number) {
            return Ok(None);
        }
        stub.question = question;
        if CPU.signalled.load(Ordering::SeqCst) != 0 && !self.seal(&mut stub)? {
            return Ok(None);
        }
        self.stubs[space] = Some(stub);
        Ok(Some(number as u32))
    }

    /// Has a process stop once more: whoever it was that stopped, no signal is delivered there any
    /// more, and none is on its way. Whether it has.
    fn seal(&mut self, stub: &mut Stub) -> Result<bool, Failure> {
        Ok(self.carry_out(stub, &[], false)? && self.has_done(stub)?)
    }

    /// Answers a process that has stopped. Whether it is of use.
    fn release(&mut self, stub: &mut Stub) -> Result<bool, Failure> {
        loop {
            if self.allow(&stub.question)? {
                return Ok(true);
            }
            match self.next(stub.process, None)? {
                Next::Asks(question) if is_stop(&question) => stub.question = question,
                _ => return Ok(false),
            }
        }
    }

    /// Waits for what a process does next. Once something has come in, that is a program's stop,
    /// for which the process may use so much of its processor.
    fn next(&mut self, process: u32, patience: Option<u64>) -> Result<Next, Failure> {
        let mut limit = None;
        loop {
            let has_come = CPU.pending.load(Ordering::Relaxed) != 0;
            let question = if has_come { self.listener.receive_within(SECOND / 100) } else { self.listener.receive() };
            match question {
                Ok(question) if question.process == process => return Ok(Next::Asks(question)),
                Ok(question) if question.process == self.mother.process => self.mother.question = question,
                Ok(question) => _ = self.is_known(&question),
                Err(Errno(EINTR | ENOENT)) => {}
                Err(error) => return Err(Failure::Refused { what: "to wait for a program", error }),
            }
            if CPU.ended.swap(0, Ordering::Relaxed) != 0
                && let Some(status) = reap_program(process)
            {
                forget(process);
                for stub in self.stubs.iter_mut().filter(|stub| stub.is_some_and(|stub| stub.process == process)) {
                    *stub = None;
                }
                let is_from_outside = status & 0x7f == raw::SIGKILL;
                return if is_from_outside { Err(Failure::Ended { status }) } else { Ok(Next::Broken) };
            }
            if has_come && let Some(patience) = patience {
                let used = system::clock(process_clock(process));
                if used > *limit.get_or_insert(used + patience) {
                    return Ok(Next::Broken);
                }
            }
        }
    }

    /// Whether programs can have thread areas.
    pub(super) const fn have_thread_areas(&self) -> bool {
        self.lowest.is_some()
    }

    /// Has the process of a space have these thread areas. Whether it has; if not, it is none any
    /// more.
    pub(super) fn set_thread_areas(&mut self, space: usize, areas: ThreadAreas) -> Result<bool, Failure> {
        let Some(stub) = self.stubs[space] else { return Ok(false) };
        let Some(page) = self.lowest.filter(|_| stub.areas != areas) else { return Ok(true) };
        let mut orders = Orders::new();
        let shared = u64::from(raw::MAP_SHARED | raw::MAP_FIXED);
        orders.add(raw::__NR_mmap, [page, PAGE, raw::PROT_READ.into(), shared, self.file.0.into(), PAGE]);
        for description in areas.different(&stub.areas) {
            orders.set_thread_area(description, page);
        }
        orders.add(raw::__NR_munmap, [page, PAGE, 0, 0, 0, 0]);
        let done = self.order(space, orders.as_slice())?;
        if let Some(stub) = &mut self.stubs[space] {
            stub.areas = areas;
        }
        Ok(done)
    }

    /// Has the process of a space have the local descriptors that are wanted, or some of them, if
    /// something has come in: to set all takes long. Whether it does as it is told; if not, it is
    /// none any more.
    pub(super) fn set_locals(&mut self, space: usize) -> Result<bool, Failure> {
        while let Some(locals) = &mut self.locals
            && !locals.is_set(space)
        {
            let mut orders = locals.orders(space, ORDERS);
            // The description of the last is gone when it begins, so that is one without: again
            // what each process was told at first.
            orders.add(raw::__NR_prctl, END_WITH_THIS);
            if !self.order(space, orders.as_slice())? {
                return Ok(false);
            }
            if CPU.pending.load(Ordering::SeqCst) != 0 {
                break;
            }
        }
        Ok(true)
    }

    /// Has the process of a space carry out orders. Whether it has; if not, it is none any more.
    pub(super) fn order(&mut self, space: usize, orders: &[Order]) -> Result<bool, Failure> {
        let Some(mut stub) = self.stubs[space] else { return Ok(false) };
        let done = self.carry_out(&mut stub, orders, false)? && self.has_done(&mut stub)?;
        if done {
            self.stubs[space] = Some(stub);
        } else {
            self.bury(space);
        }
        Ok(done)
    }

    /// Has a process carry out orders, and then return to the program, or stop. Whether it has
    /// begun with the last.
    fn carry_out(&mut self, stub: &mut Stub, orders: &[Order], goes: bool) -> Result<bool, Failure> {
        stub::write_orders(orders, goes.then_some(self.frame));
        if !self.release(stub)? {
            return Ok(false);
        }
        for (number, order) in orders.iter().enumerate() {
            loop {
                let question = match self.next(stub.process, None)? {
                    Next::Asks(question) => question,
                    Next::Broken => return Ok(false),
                };
                if !is_order(&question, order) {
                    self.refused = refused_order(&question);
                    return Ok(false);
                }
                if number + 1 == orders.len() {
                    stub::clear_orders(orders.len());
                }
                if self.allow(&question)? {
                    break;
                }
            }
        }
        Ok(true)
    }

    /// Has a call executed. Whether it is; if not, the process was stopped from outside and asks
    /// again, or it has ended.
    fn allow(&self, question: &Question) -> Result<bool, Failure> {
        match self.listener.allow(question) {
            Ok(()) => Ok(true),
            Err(Errno(ENOENT)) => {
                CPU.ended.store(1, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(Failure::Refused { what: "to let a program go on", error }),
        }
    }

    /// Waits until a process has carried out orders, and has stopped. Whether it has.
    fn has_done(&mut self, stub: &mut Stub) -> Result<bool, Failure> {
        let Next::Asks(question) = self.next(stub.process, None)? else { return Ok(false) };
        self.refused = refused_order(&question);
        stub.question = question;
        Ok(self.refused.is_none() && is_stop(&question) && question.arguments[4] == 0)
    }

    /// Says what a program may have caused, some times.
    fn complain(&mut self, line: fmt::Arguments<'_>) {
        if self.complaints > 0 {
            self.complaints -= 1;
            say!("{line}");
        }
    }

    /// Ends the process of a space, with the orders that it has not carried out. Another will be
    /// made.
    fn bury(&mut self, space: usize) {
        stub::clear_orders(Orders::CAPACITY);
        if let Some(error) = self.refused.take() {
            self.complain(format_args!("a program ends: its process says that Linux refuses what it needs, {error}"));
        }
        if let Some(stub) = self.stubs[space].take() {
            end(&stub);
        }
    }
}

/// Ends a process, and waits until it is gone.
fn end(stub: &Stub) {
    system::signal(stub.process, raw::SIGKILL);
    reap(stub.process, 0);
    forget(stub.process);
}

/// As long as a program may take to come to the handler of a signal, by the clock of its process.
const PATIENCE: u64 = SECOND / 50;

/// Has the process of a program stop, as the timer does. Whoever does that may come too late: the
/// process has to be sealed then, when it has stopped.
pub(super) fn interrupt(process: u32) {
    CPU.signalled.store(1, Ordering::SeqCst);
    system::signal(process, raw::SIGALRM);
}

/// Where the wedge sees a frame that a process has at an address, if that is in its stack.
fn frame_in(stack: u64, address: u64) -> Option<*mut Frame> {
    const INFORMATION: u64 = 128;
    let end = address.checked_add(size_of::<Frame>() as u64 + INFORMATION)?;
    let is_there = address >= STACK.start + SEGMENTS_LENGTH && end <= STACK.end && address.is_multiple_of(8);
    is_there.then(|| pointer(stack + (address - STACK.start)))
}

/// The clock that counts what a process has used of a processor (`clock_getcpuclockid(3)`;
/// Linux, `include/linux/posix-timers_types.h`).
const fn process_clock(process: u32) -> u32 {
    const SCHEDULED: u32 = 2;
    !process << 3 | SCHEDULED
}
