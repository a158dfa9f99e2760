//! A guest in a process of Linux: what happens when a site or a signal enters the wedge.
//!
//! What is common to all hosts is in [`wedge::vm`]. A signal means an exception of the guest's
//! kernel, or that the timer's moment has come. A program is run from here: whoever leaves the
//! wedge for a program comes back when the program has stopped, and leaves again.

use core::fmt;
use core::sync::atomic::Ordering;

use wedge::cpu::{Context, syscall};
use wedge::guest::linux::{SYSTEM_CALL, TLS_ENTRIES};
use wedge::vm::{Calls, End, Exit, Host, Vcpu};
use wedge::x86::paging::fault;
use wedge::x86::{flags, vector};

use linux_raw_sys::general as raw;

use super::areas::ThreadAreas;
use super::board::Board;
use super::compatibility::{self, find_stack, is_behind_call};
use super::cpu::{CPU, is_fast};
use super::entry::{process_gap, process_gap_end, process_handle, process_restore};
use super::fast::direct_entry;
use super::guest::{Machine, Process, REAL_CS, REAL_SS, Vm};
use super::listener::{process_receive_call, process_receive_gap};
use super::memory::pointer;
use super::orders::{Order, Orders};
use super::processor::{
    Processor, canonical, enter_program, fs_base, leave_kernel, leave_program, loadable, set_fs_base, want,
};
use super::programs::{Failure, Programs, interrupt};
use super::registers::Frame;
use super::stops::{Information, Stop};
use super::stub::Segments;
use super::system::{self, Answer};
use super::tables::Tables;
use crate::Backend;
use crate::host::cause;
use crate::host::exceptions;
use crate::runtime::exclusive::{Exclusive, Late};
use crate::runtime::{PAGE, say};

/// What a process adds to a guest.
#[derive(Debug)]
pub(super) struct Kept {
    /// The processes that programs run in; `None` if they run in this one.
    pub(super) programs: Option<Programs>,
    /// The number of the site that returns from system calls. Its slot is a jump that says nothing
    /// of it.
    pub(super) sysret: usize,
    /// Whether 32-bit code has SYSCALL.
    pub(super) has_syscall: bool,
}

/// The guest: what its processors share.
static MACHINE: Exclusive<Option<Machine>> = Exclusive::new(None);

/// From here on traps find the guest, on this processor.
pub(super) fn stay(mut machine: Machine, mut vcpu: Vcpu<Process>) {
    Process::registers_changed(&mut machine.on(&mut vcpu), true);
    *MACHINE.borrow() = Some(machine);
    *CPU.vcpu.borrow() = Late::Made(vcpu);
}

/// Signals that end a process, from outside.
const ENDS: [u32; 4] = [raw::SIGHUP, raw::SIGINT, raw::SIGQUIT, raw::SIGTERM];

/// Signals that tell that something has come in, as a mask: the timer's moment, a frame.
const COMES_IN: u64 = 1 << (raw::SIGALRM - 1) | 1 << (raw::SIGIO - 1);

/// Has Linux tell of exceptions, of what comes in, and of the end.
pub(super) fn take_signals() -> Answer {
    let exceptions = [raw::SIGSEGV, raw::SIGBUS, raw::SIGILL, raw::SIGTRAP, raw::SIGFPE, raw::SIGSYS];
    for number in exceptions.into_iter().chain([raw::SIGALRM, raw::SIGIO, raw::SIGCHLD]).chain(ENDS) {
        let handler = process_handle as *const ();
        // SAFETY: they are what they are taken for.
        unsafe { system::handle(number, handler, process_restore as *const (), COMES_IN)? };
    }
    Ok(())
}

/// Where sites that call lead.
#[unsafe(no_mangle)]
extern "C" fn process_entered(context: &mut Context) {
    match (CPU.vcpu.borrow().made(), MACHINE.borrow().as_mut()) {
        (Some(vcpu), Some(machine)) => Process::enter(&mut machine.on(vcpu), context),
        _ => Vm::die(context, "before the guest runs"),
    }
}

/// Where signals lead ([`process_handle`]). They are held off while this runs.
#[unsafe(no_mangle)]
unsafe extern "C" fn process_signal(number: u32, information: *const Information, frame: *mut Frame) {
    if ENDS.contains(&number) {
        super::end::by_signal(number);
    }
    // SAFETY: both are Linux's, for this handler alone.
    let (frame, information) = unsafe { (&mut *frame, *information) };
    if number == raw::SIGCHLD {
        CPU.ended.store(1, Ordering::Relaxed);
        return Process::look_again(frame);
    }
    let (mut vcpu, mut machine) = (CPU.vcpu.try_borrow(), MACHINE.try_borrow());
    let mut vm = match (vcpu.as_deref_mut(), machine.as_deref_mut()) {
        (Some(Late::Made(vcpu)), Some(Some(machine))) => Some(machine.on(vcpu)),
        _ => None,
    };
    if [raw::SIGALRM, raw::SIGIO].contains(&number) {
        return Process::came_in(vm.as_mut(), frame);
    }
    // What the frame says of an exception is then of the last one.
    if information.is_from_outside() {
        return say!("signal {number} from outside: it is ignored");
    }
    if frame.is_without_memory(number) && CPU.user.load(Ordering::Relaxed) == 0 {
        say!("Linux has no memory for the guest, at {:#x}", frame.fault_address());
        Process::stop(End::Crash)
    }
    match &mut vm {
        Some(vm) => match Process::interrupted_program(frame) {
            Some(context) => Process::program_stopped(vm, frame, context, (number, information)),
            None if number == raw::SIGSYS => Process::refused_call(vm, frame),
            None => Process::exception(vm, frame),
        },
        None => Vm::die(&frame.context(false), "in the wedge"),
    }
}

impl Process {
    /// A site has called.
    fn enter(vm: &mut Vm, context: &mut Context) {
        leave_program();
        match context.vector {
            cause::EVENT => vm.event(context),
            cause::SITE => vm.site_called(context),
            cause::IRET => Self::iret(vm, context),
            cause::SYSRET => vm.site_jumped(context, vm.machine.host.sysret),
            _ => vm.site_jumped(context, CPU.site.load(Ordering::Relaxed) as usize),
        }
        while Self::leave(vm, context) == Exit::User {
            if is_fast() {
                return enter_program();
            }
            Self::run(vm, context);
        }
    }

    /// Delivers what is due, and says where the guest goes on. A program of this process most
    /// likely accesses next what the kernel has just mapped for it.
    fn leave(vm: &mut Vm, context: &mut Context) -> Exit {
        let wanted = vm.vcpu.wanted;
        let exit = vm.leave(context);
        if let Some(address) = wanted.filter(|_| exit == Exit::User && is_fast()) {
            let _ = vm.machine.space.memory.map_for_program(address, false, false);
        }
        exit
    }

    /// The timer's moment has come, or a frame, wherever that is.
    fn came_in(vm: Option<&mut Vm>, frame: &mut Frame) {
        CPU.pending.store(1, Ordering::Relaxed);
        let program = CPU.running.load(Ordering::Relaxed);
        if program != 0 {
            interrupt(program);
            return Self::look_again(frame);
        }
        let Some(vm) = vm else { return };
        let context = if let Some(context) = Self::interrupted_program(frame) {
            if CPU.mask.load(Ordering::Relaxed) != 0 {
                return;
            }
            context
        } else if let Some([rip, _, rflags, rsp, _]) = Self::left_by(frame) {
            Context { rip, rflags, rsp, ..frame.context(true) }
        } else if CPU.mask.load(Ordering::Relaxed) != 0 || Self::is_in_wedge(vm, frame.rip()) {
            return;
        } else {
            frame.context(true)
        };
        Self::handle(vm, frame, context, Vm::event);
    }

    /// The frame of an IRETQ, if one was about to be executed.
    pub(super) fn left_by(frame: &Frame) -> Option<[u64; 5]> {
        let gap = [&raw const process_gap, &raw const process_gap_end].map(|label| label.addr() as u64);
        // SAFETY: it is on the wedge's stack.
        (gap[0]..=gap[1]).contains(&frame.rip()).then(|| unsafe { pointer::<[u64; 5]>(frame.rsp()).read() })
    }

    /// If the wedge was about to wait for a program, it looks again whether it is to.
    fn look_again(frame: &mut Frame) {
        let [start, call] = [&raw const process_receive_gap, &raw const process_receive_call];
        let gap = start.addr() as u64..=call.addr() as u64;
        if gap.contains(&frame.rip()) {
            frame.set_rip(*gap.start());
        }
    }

    /// Whether the wedge itself was interrupted, and no stub.
    fn is_in_wedge(vm: &Vm, rip: u64) -> bool {
        vm.machine.text.window.contains(&rip) && vm.machine.text.engine.at_stub(rip).is_none()
    }

    /// An exception of the kernel's. Most are accesses to what the tables map and Linux does not.
    fn exception(vm: &mut Vm, frame: &mut Frame) {
        let (number, error) = frame.cause();
        let is_page_fault = number == vector::PAGE_FAULT.into();
        let address = frame.fault_address();
        CPU.fault_address.store(address, Ordering::Relaxed);
        let has = |bit: u32| error & u64::from(bit) != 0;
        let (write, fetch) = (has(fault::WRITE), has(fault::FETCH));
        if is_page_fault && has(fault::PROTECTION_KEY) {
            Vm::die(&frame.context(false), "at what a program has forbidden by a protection key");
        }
        if is_page_fault && Self::map(vm, address, write, fetch) {
            return;
        }
        let interrupts = CPU.mask.load(Ordering::Relaxed) == 0;
        let context = frame.context(interrupts);
        if Self::is_step_in_window(vm, &context) {
            return;
        }
        if Self::is_in_wedge(vm, frame.rip()) {
            return Self::in_routine(vm, &context, is_page_fault);
        }
        if number == vector::DEBUG.into() {
            vm.vcpu.processor.note_step();
        }
        Self::handle(vm, frame, context, Vm::exception);
        if is_page_fault {
            Self::map(vm, address, write, fetch);
        }
    }

    /// The guest's kernel has executed a system call of this Linux, which has come to nothing: to
    /// it the instruction is none.
    fn refused_call(vm: &mut Vm, frame: &mut Frame) {
        const SYSCALL: u64 = 2;
        let interrupts = CPU.mask.load(Ordering::Relaxed) == 0;
        let context = frame.context(interrupts);
        if vm.machine.text.window.contains(&context.rip) {
            Vm::die(&context, "in a system call that it does not need");
        }
        let rip = context.rip.wrapping_sub(SYSCALL);
        let context = Context { rip, vector: vector::INVALID_OPCODE.into(), error: 0, ..context };
        Self::handle(vm, frame, context, Vm::exception);
    }

    /// A routine that stubs lead to accesses the guest's stack, which has gone since its last
    /// access.
    fn in_routine(vm: &mut Vm, context: &Context, is_page_fault: bool) {
        let address = Self::fault_address();
        vm.machine.space.reach_for_writing(address);
        if !is_page_fault || !Self::map(vm, address, false, false) {
            Vm::die(context, "in the wedge");
        }
    }

    /// Whether a single step has ended in the window: within a site, or on the way of a call, which
    /// to the guest is one instruction. It goes on to the next.
    fn is_step_in_window(vm: &Vm, context: &Context) -> bool {
        context.vector == vector::DEBUG.into() && vm.machine.text.window.contains(&context.rip)
    }

    /// Handles what has come by a signal, and has the guest go on.
    pub(super) fn handle<'a>(
        vm: &mut Vm<'a>,
        frame: &mut Frame,
        mut context: Context,
        how: impl FnOnce(&mut Vm<'a>, &mut Context),
    ) {
        CPU.mask.store(1, Ordering::Relaxed);
        leave_program();
        how(vm, &mut context);
        loop {
            let exit = Self::leave(vm, &mut context);
            if exit == Exit::User && !is_fast() {
                Vm::die(&context, "to a program, by an instruction that nobody has annotated");
            }
            let interrupts = context.rflags & flags::INTERRUPT != 0;
            if !interrupts || CPU.pending.load(Ordering::Relaxed) == 0 {
                frame.set(&context);
                if exit == Exit::User {
                    enter_program();
                }
                return CPU.mask.store(u8::from(!interrupts), Ordering::Relaxed);
            }
            vm.event(&mut context);
        }
    }

    /// Maps what the tables allow. Whether they do.
    fn map(vm: &mut Vm, address: u64, write: bool, fetch: bool) -> bool {
        match vm.machine.space.memory.map(address, write, fetch) {
            Ok(allowed) => allowed,
            Err(error) => {
                say!("Linux does not map anything at {address:#x}, {error}");
                Self::stop(End::Crash)
            }
        }
    }

    /// An IRETQ: often to a program.
    fn iret(vm: &mut Vm, context: &mut Context) {
        let number = CPU.site.load(Ordering::Relaxed) as usize;
        if CPU.gs_swapped.load(Ordering::Relaxed) == 0 || !vm.return_plainly(context, number) {
            vm.site_jumped(context, number);
        }
    }

    /// Runs a program until it stops, and handles why.
    fn run(vm: &mut Vm, context: &mut Context) {
        match Self::try_run(vm, context) {
            Ok(None) => vm.event(context),
            Ok(Some(stop)) => Self::stopped(vm, context, stop),
            Err(failure) => {
                say!("{failure}");
                Self::stop(End::Crash)
            }
        }
    }

    /// Runs it, unless something has come in before.
    fn try_run(vm: &mut Vm, context: &mut Context) -> Result<Option<Stop>, Failure> {
        let space = vm.machine.space.memory.soft.space();
        let programs = vm.machine.host.programs.as_mut().ok_or(Failure::Mother)?;
        let is_new = programs.prepare(space, &vm.machine.board.affinity)?;
        if is_new {
            vm.machine.space.memory.begin();
        }
        let mut orders = Orders::new();
        let stack = find_stack(vm, context);
        let mapped = vm.machine.space.memory.orders(vm.vcpu.processor.wanted.take(), &mut orders);
        if let Some(ends) = stack {
            vm.machine.space.memory.order_stack(ends, &mut orders);
        }
        Self::order_and_run(vm, context, orders.as_slice(), mapped)
    }

    /// Has the process of the current space carry out orders, and runs the program, if what it has
    /// accessed could be mapped.
    fn order_and_run(
        vm: &mut Vm,
        context: &mut Context,
        orders: &[Order],
        mapped: Answer,
    ) -> Result<Option<Stop>, Failure> {
        let space = vm.machine.space.memory.soft.space();
        let areas = Self::thread_areas(vm);
        Self::want_locals(vm);
        let programs = vm.machine.host.programs.as_mut().ok_or(Failure::Mother)?;
        if !programs.set_locals(space)? {
            return Ok(Some(Stop::Broken));
        }
        let waits = CPU.pending.load(Ordering::SeqCst) != 0;
        if (waits || mapped.is_err()) && !orders.is_empty() && !programs.order(space, orders)? {
            return Ok(Some(Stop::Broken));
        }
        if let Err(error) = mapped {
            say!("Linux maps nothing where a program has memory, {error}: its access is refused");
            return Ok(Some(Stop::Broken));
        }
        if waits {
            return Ok(None);
        }
        if !programs.set_thread_areas(space, areas)? {
            return Ok(Some(Stop::Broken));
        }
        let local = |selector| programs.locals.as_ref().is_some_and(|locals| locals.can_load(space, selector));
        let processor = &mut vm.vcpu.processor;
        let mut segments = Segments {
            fs_base: fs_base(),
            gs_base: leave_kernel(),
            selectors: processor.selectors.map(|selector| loadable(selector, &areas, local)),
        };
        let stop = programs.run(space, orders, context, &mut segments)?;
        if !matches!(stop, Stop::Broken) {
            processor.selectors = segments.selectors.map(|selector| selector as u16);
            CPU.users_gs_base.store(canonical(segments.gs_base), Ordering::Relaxed);
            set_fs_base(canonical(segments.fs_base));
        }
        Ok(Some(stop))
    }

    /// The thread areas that the kernel has in its table for the thread that goes on.
    fn thread_areas(vm: &mut Vm) -> ThreadAreas {
        let gdt = vm.vcpu.cpu.gdt;
        let can_have = vm.machine.host.programs.as_ref().is_some_and(Programs::have_thread_areas);
        if !can_have || usize::from(gdt.limit) < 8 * TLS_ENTRIES.end - 1 {
            return ThreadAreas::default();
        }
        let found = vm.machine.space.words(gdt.base.wrapping_add(8 * TLS_ENTRIES.start as u64));
        found.map_or_else(ThreadAreas::default, ThreadAreas::of)
    }

    /// Reads the local descriptor table of the program that goes on.
    fn want_locals(vm: &mut Vm) {
        if let Some(locals) = vm.machine.host.programs.as_mut().and_then(|programs| programs.locals.as_mut()) {
            let loaded = vm.vcpu.processor.locals_loaded;
            if locals.is_of_another(loaded) {
                want(locals, &vm.vcpu.cpu, &mut vm.machine.space);
            }
        }
    }

    /// Handles why a program has stopped.
    fn stopped(vm: &mut Vm, context: &mut Context, stop: Stop) {
        match stop {
            Stop::SystemCall { at } => Self::system_call(vm, context, at),
            // An event that has come meanwhile is still pending.
            Stop::Timer | Stop::Exception { .. } | Stop::NoMemory { .. } if is_behind_call(context) => {
                compatibility::call_without_argument(vm, context);
            }
            Stop::Timer => vm.event(context),
            Stop::Signal(_) => {}
            Stop::Step => {
                vm.vcpu.processor.note_step();
                Self::program_exception(vm, context, vector::DEBUG.into(), 0, 0);
            }
            Stop::Exception { vector, error, address } => Self::program_exception(vm, context, vector, error, address),
            Stop::NoMemory { .. } | Stop::Broken => Self::refused_access(vm, context),
        }
    }

    /// A system call, by one of three instructions of two bytes each (SDM Vol. 2, SYSCALL, INT n,
    /// SYSENTER), or at a fixed address (`vsyscall`), from which Linux has returned already, and
    /// where the guest has nothing.
    pub(super) fn system_call(vm: &mut Vm, context: &mut Context, at: u64) {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        const INT_80: [u8; 2] = [0xcd, 0x80];
        const CALLS: u64 = 0xffff_ffff_ff60_0000;
        if is_behind_call(context) {
            return compatibility::call(vm, context);
        }
        if at & !(PAGE - 1) == CALLS {
            (context.rip, context.rsp) = (at, context.rsp.wrapping_sub(8));
            return Self::program_exception(vm, context, vector::PAGE_FAULT.into(), fault::FETCH.into(), at);
        }
        let mut bytes = [0; 2];
        let next = context.rip;
        let call = next.wrapping_sub(2);
        // Most programs are of 64 bits, and nobody needs to look at their descriptor.
        let call = if context.cs == REAL_CS { call } else { vm.code_address(context, call) };
        let read = vm.machine.space.read(call, &mut bytes, true);
        match (read, bytes) {
            (Ok(()), SYSCALL) => vm.transfer(context, |cpu, context| syscall(cpu, context, next, true)),
            (Ok(()), INT_80) => {
                context.vector = SYSTEM_CALL.into();
                vm.exception(context);
            }
            // As on a processor without it.
            _ => Self::program_exception(vm, context, vector::INVALID_OPCODE.into(), 0, 0),
        }
    }

    /// An exception of a program's, as the processor has told of it, or the program.
    pub(super) fn program_exception(vm: &mut Vm, context: &mut Context, number: u64, error: u64, address: u64) {
        (context.vector, context.error) = exceptions::told(number, error, context.rflags);
        if context.vector == vector::PAGE_FAULT.into() {
            vm.vcpu.processor.wanted = Some(address);
            CPU.fault_address.store(address, Ordering::Relaxed);
        }
        vm.exception(context);
    }

    /// An access of a program's has come to nothing, for reasons that its kernel knows nothing of.
    pub(super) fn refused_access(vm: &mut Vm, context: &mut Context) {
        (context.vector, context.error) = exceptions::REFUSED;
        vm.exception(context);
    }
}

impl Host for Process {
    const NAME: &'static str = Backend::Process.name();
    const KERNEL_CS: u64 = REAL_CS;
    const KERNEL_SS: u64 = REAL_SS;
    type Memory = Tables;
    type Processor = Processor;
    type Board = Board;
    type Kept = Kept;

    fn say(line: fmt::Arguments<'_>) {
        say!("{line}");
    }

    fn stop(end: End) -> ! {
        super::end::stop(end)
    }

    fn fault_address() -> u64 {
        CPU.fault_address.load(Ordering::Relaxed)
    }

    fn own_page_fault(_: &mut Vm, _: &mut Context, _: u64) -> bool {
        false
    }

    fn own_breakpoint(_: &mut Vm, _: &mut Context, _: u64) -> bool {
        false
    }

    /// Who is interrupted in a routine goes on in it.
    fn present_routine(_: &mut Vm, _: &mut Context) {}

    fn note_work(_: &mut Vm) {}

    fn note_pending(_: &mut Vm) {
        CPU.pending.store(1, Ordering::Relaxed);
    }

    fn registers_changed(vm: &mut Vm, _: bool) {
        let cpu = &vm.vcpu.cpu;
        let registers = [cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4];
        for (place, value) in CPU.control.iter().zip(registers) {
            place.store(value, Ordering::Relaxed);
        }
        let entry = if is_fast() { direct_entry(cpu) } else { 0 };
        let before = CPU.system_call.swap(entry, Ordering::Relaxed);
        if before != 0 && before != entry {
            vm.machine.space.memory.forget_calls();
        }
    }

    fn enter_kernel(_: &mut Vm, _: &mut Context) {}

    fn enter_user(_: &mut Vm, _: &mut Context) {}

    fn calls() -> Calls {
        system::calls()
    }
}
