//! A guest on seL4: what happens when a site, an exception or an event enters the wedge.
//!
//! What is common to all hosts is in [`wedge::vm`]. A program is run from here: whoever leaves the
//! wedge for a program comes back when the program has stopped, and leaves again. Nothing is taken
//! from a message but what the program could have caused.

use core::fmt;
use core::sync::atomic::Ordering;

use iced_x86::{Code, Instruction};
use wedge::cpu::{Context, Registers, accessed, decode, syscall};
use wedge::vm::{Calls, End, Exit, Host, Vcpu};
use wedge::x86::control::efer;
use wedge::x86::paging::{PAGE, fault};
use wedge::x86::{flags, vector};

use super::abi::{Version, abi, version};
use super::board::Board;
use super::cpu::CPU;
use super::floating::is_in_stub;
use super::guest::{L4, Machine, REAL_CS, REAL_SS, Vm};
use super::kernel::{self, Kernel, Message};
use super::objects::Failure;
use super::processor::{INSTEAD_OF_0, Processor};
use super::tables::Tables;
use crate::Backend;
use crate::host::{cause, exceptions};
use crate::runtime::exclusive::{Exclusive, Late};
use crate::runtime::say;

/// What seL4 adds to a guest.
#[derive(Debug)]
pub(super) struct Kept {
    /// The way to seL4.
    pub(super) kernel: Kernel,
    /// The number of the site that returns from system calls. Its slot is a jump that says nothing
    /// of it.
    pub(super) sysret: usize,
    /// The log has been told that 32-bit programs do not run.
    pub(super) told_of_32_bits: bool,
    /// What the program that has stopped last had in its registers.
    pub(super) last: Last,
}

/// What programs of Linux have in CS and SS (`arch/x86/include/asm/segment.h`, `__USER_CS`,
/// `__USER_DS`): what they really have is seL4's.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;

/// The longest instruction (SDM Vol. 2A, 2.3.11).
const LONGEST: u64 = 15;

/// The guest: what its processors share.
static MACHINE: Exclusive<Option<Machine>> = Exclusive::new(None);

/// From here on traps find the guest, on this processor.
pub(super) fn stay(mut machine: Machine, mut vcpu: Vcpu<L4>) {
    L4::registers_changed(&mut machine.on(&mut vcpu), true);
    *MACHINE.borrow() = Some(machine);
    *CPU.vcpu.borrow() = Late::Made(vcpu);
}

/// Where sites, exceptions and events lead.
#[unsafe(no_mangle)]
extern "C" fn l4_entered(context: &mut Context) {
    match (CPU.vcpu.borrow().made(), MACHINE.borrow().as_mut()) {
        (Some(vcpu), Some(machine)) => L4::enter(&mut machine.on(vcpu), context),
        _ => Vm::die(context, "before the guest runs"),
    }
}

/// Where faults of the wedge's own lead: a routine that stubs lead to accesses the guest's stack,
/// which has gone since its last access.
#[unsafe(no_mangle)]
extern "C" fn l4_nested_entered(context: &mut Context) {
    let (mut vcpu, mut machine) = (CPU.vcpu.try_borrow(), MACHINE.try_borrow());
    let is_page_fault = context.vector == vector::PAGE_FAULT.into();
    match (vcpu.as_deref_mut(), machine.as_deref_mut()) {
        (Some(Late::Made(vcpu)), Some(Some(machine))) if is_page_fault => {
            let mut vm = machine.on(vcpu);
            // A routine accesses nothing but the stack that it was called on.
            let stack = CPU.saved_rsp.load(Ordering::Relaxed);
            let distance = (L4::fault_address() as u32).wrapping_sub(stack as u32).cast_signed();
            let address = stack.wrapping_add_signed(distance.into());
            vm.machine.space.reach_for_writing(address);
            if !L4::map(&mut vm, address, false, false) {
                Vm::die(context, "in the wedge");
            }
        }
        _ => Vm::die(context, "in the wedge"),
    }
}

/// Why a program has stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// An exception, as seL4 has told of it, or as the program claims.
    Exception { vector: u64, error: u64, address: u64 },
    /// A system call of seL4's own that there is none of, by whatever instruction.
    NoSystemCall,
    /// The program has stopped where it has not begun: it says so, or its instructions are not
    /// there.
    Refused,
    /// Something has come in.
    Event,
}

impl L4 {
    /// A site has called, an exception has come up, or something has come in.
    fn enter(vm: &mut Vm, context: &mut Context) {
        match context.vector {
            cause::EVENT => vm.event(context),
            cause::SITE => vm.site_called(context),
            cause::IRET => Self::iret(vm, context),
            cause::SYSRET => {
                if !Self::return_from_call(vm, context) {
                    vm.site_jumped(context, vm.machine.host.sysret);
                }
            }
            cause::SITE_WITHOUT_STACK => vm.site_jumped(context, CPU.site.load(Ordering::Relaxed) as usize),
            _ => {
                if Self::exception(vm, context) {
                    (context.cs, context.ss) = (REAL_CS, REAL_SS);
                    return;
                }
            }
        }
        while vm.leave(context) == Exit::User {
            Self::run(vm, context);
        }
    }

    /// An exception of the kernel's. Most are accesses to what the tables map and seL4 does not.
    /// Whether it was one of those, and the kernel goes on as if nothing had been.
    fn exception(vm: &mut Vm, context: &mut Context) -> bool {
        if context.vector != vector::PAGE_FAULT.into() {
            vm.exception(context);
            return false;
        }
        let address = Self::whole_address(vm, context, Self::fault_address(), false);
        CPU.fault_address.store(address, Ordering::Relaxed);
        let has = |bit: u32| context.error & u64::from(bit) != 0;
        let (write, fetch) = (has(fault::WRITE), has(fault::FETCH));
        if Self::map(vm, address, write, fetch) || Self::map_by_base(vm, address) {
            return true;
        }
        vm.exception(context);
        Self::map(vm, address, write, fetch);
        false
    }

    /// Where the instruction itself was not found, if the lower half of the address of a page fault
    /// says so: at its beginning, or where a page begins within it.
    fn fetched(vm: &Vm, context: &Context, lower: u32, user: bool) -> Option<u64> {
        let distance = u64::from(lower.wrapping_sub(context.rip as u32));
        let at = context.rip.wrapping_add(distance);
        let is_of_code = distance == 0 || distance < LONGEST && at % PAGE == 0;
        (is_of_code && !vm.machine.space.memory.is_mapped_in(at, user)).then_some(at)
    }

    /// The address of a page fault. seL4 5.0.0 tells its lower half.
    fn whole_address(vm: &mut Vm, context: &Context, told: u64, user: bool) -> u64 {
        if version() != Version::V5 {
            return told;
        }
        let lower = told as u32;
        if let Some(at) = Self::fetched(vm, context, lower, user) {
            return at;
        }
        let mut bytes = [0; LONGEST as usize];
        let length = vm.fetch(context.rip, &mut bytes, user);
        let processor = &vm.vcpu.processor;
        let bases = if user { processor.users_bases() } else { processor.kernels_bases() };
        let instruction = decode(&bytes[..length], context.rip);
        let found = instruction.and_then(|instruction| accessed(&instruction, context, bases, lower));
        found.unwrap_or(told)
    }

    /// Maps what the tables allow. Whether they do.
    fn map(vm: &mut Vm, address: u64, write: bool, fetch: bool) -> bool {
        match vm.machine.space.memory.map(address, write, fetch) {
            Ok(allowed) => allowed,
            Err(failure) => super::end::fail(format_args!("at {address:#x}: {failure}")),
        }
    }

    /// Maps what the kernel accesses by a GS base of 0, where that stands for it. Whether it does.
    fn map_by_base(vm: &mut Vm, address: u64) -> bool {
        let meant = address.wrapping_sub(INSTEAD_OF_0);
        let kernels = vm.machine.text.kernel.contains(&meant);
        if version() != Version::V5 || !kernels {
            return false;
        }
        vm.machine.space.reach_for_writing(meant);
        match vm.machine.space.memory.map_once_more(meant, address) {
            Ok(mapped) => mapped,
            Err(failure) => super::end::fail(format_args!("at {address:#x}: {failure}")),
        }
    }

    /// An IRETQ: often to a program.
    fn iret(vm: &mut Vm, context: &mut Context) {
        let number = CPU.site.load(Ordering::Relaxed) as usize;
        if CPU.gs_swapped.load(Ordering::Relaxed) == 0 || !vm.return_plainly(context, number) {
            vm.site_jumped(context, number);
        }
    }

    /// SYSRETQ to a program of 64 bits, with flags that are plain (SDM Vol. 2B, SYSRET). Whether it
    /// is one.
    fn return_from_call(vm: &mut Vm, context: &mut Context) -> bool {
        const PLAIN: u64 = flags::STATUS | flags::DIRECTION | flags::INTERRUPT | flags::FIXED;
        let (rip, rflags) = (context.registers.rcx, context.registers.r11);
        let cpu = &vm.vcpu.cpu;
        let is_plain = CPU.gs_swapped.load(Ordering::Relaxed) != 0
            && (cpu.star >> 48 | 3) + 16 == USER_CS
            && cpu.efer & efer::SCE != 0
            && !vm.machine.space.memory.soft.is_kernels(rip)
            && rip >> 47 == 0
            && rflags & !PLAIN == 0
            && rflags & flags::INTERRUPT != 0;
        if is_plain {
            vm.note_site(vm.machine.host.sysret, context);
            (context.rip, context.cs) = (rip, USER_CS);
            (context.rflags, context.ss) = (rflags | flags::FIXED, USER_SS);
        }
        is_plain
    }

    /// Runs a program until it stops, and handles why.
    fn run(vm: &mut Vm, context: &mut Context) {
        if context.cs != USER_CS {
            if !core::mem::replace(&mut vm.machine.host.told_of_32_bits, true) {
                say!("a program of 32 bits is ended: seL4 has no descriptor for its code");
            }
            return Self::refused_access(vm, context);
        }
        match Self::try_run(vm, context) {
            Ok(Stop::Event) => vm.event(context),
            Ok(Stop::NoSystemCall) => Self::no_system_call(vm, context),
            Ok(Stop::Refused) => Self::refused_access(vm, context),
            Ok(Stop::Exception { vector, error, address }) => {
                if vector == vector::INVALID_OPCODE.into() && Self::is_call_or_return(vm, context) {
                    return;
                }
                if vector == vector::DEBUG.into() {
                    vm.vcpu.processor.note_step();
                }
                Self::program_exception(vm, context, vector, error, address);
            }
            Err(failure) => super::end::fail(format_args!("{failure}")),
        }
    }

    /// Has the program go on, unless something has come in, and takes what it has in its registers
    /// when it has stopped.
    fn try_run(vm: &mut Vm, context: &mut Context) -> Result<Stop, Failure> {
        let tables = &mut vm.machine.space.memory;
        let thread = tables.prepare_program()?;
        if let Some(address) = vm.vcpu.processor.wanted.take() {
            tables.map_program(address)?;
        }
        let space = tables.soft.space();
        let processor = &mut vm.vcpu.processor;
        processor.floating_point.forget(core::mem::take(&mut tables.renewed));
        let has_state = processor.floating_point.settle(space, tables)?;
        let bases = [processor.fs_base, processor.users_gs_base()];
        let repeats = has_state && tables.programs.can_repeat(space, bases) && vm.machine.host.last.is_of(context);
        let at = if repeats { None } else { Some(processor.floating_point.way(context, space, tables)?) };
        tables.kept = processor.floating_point.holder();
        // Behind what waits for a thread: what has come in meanwhile does not wake this one again.
        if CPU.pending.load(Ordering::SeqCst) != 0 {
            return Ok(Stop::Event);
        }
        processor.leave_kernel();
        let message = tables.programs.run(space, thread, at, Some(bases))?;
        processor.floating_point.ran(space);
        let code = vm.machine.host.kernel.word(4);
        let last = &mut vm.machine.host.last;
        tables.programs.stopped(space, thread, message.as_ref(), &mut last.0)?;
        let in_stub = is_in_stub(last.0[0]);
        if in_stub && message.is_none() {
            last.forget();
            return Ok(Stop::Event);
        }
        processor.floating_point.begun(space);
        tables.kept = Some(space);
        if in_stub {
            last.forget();
            return Ok(Stop::Refused);
        }
        last.take(context);
        if abi().registers == last.0.len() {
            processor.fs_base = last.0[18];
            processor.set_users_gs_base(last.0[19]);
        }
        Ok(message.map_or(Stop::Event, |message| stop(&message, code)))
    }

    /// SYSCALL and SYSRET are no instructions here: a system call, or what is refused to a program.
    /// Whether it was one of them.
    fn is_call_or_return(vm: &mut Vm, context: &mut Context) -> bool {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let mut bytes = [0; 2];
        let memory = &vm.machine.space.memory;
        let found = memory.soft.find_program(context.rip);
        let known = found.is_some_and(|found| memory.memory.load_machine(found.physical(context.rip), &mut bytes));
        if known && bytes == SYSCALL {
            Self::system_call(vm, context, 2);
            return true;
        }
        let Some(instruction) = Self::decode_program(vm, context) else { return false };
        match instruction.code() {
            Code::Syscall => Self::system_call(vm, context, instruction.len() as u64),
            Code::Sysretd | Code::Sysretq => {
                Self::program_exception(vm, context, vector::PROTECTION.into(), 0, 0);
            }
            _ => return false,
        }
        true
    }

    /// The instruction that a program has stopped at.
    fn decode_program(vm: &mut Vm, context: &Context) -> Option<Instruction> {
        let mut bytes = [0; LONGEST as usize];
        let length = vm.fetch(context.rip, &mut bytes, true);
        decode(&bytes[..length], context.rip)
    }

    /// A system call, by an instruction of this length.
    fn system_call(vm: &mut Vm, context: &mut Context, length: u64) {
        let next = context.rip.wrapping_add(length);
        vm.transfer(context, |cpu, context| syscall(cpu, context, next, true));
    }

    /// What seL4 takes for a system call of its own that there is none of: SYSENTER, or INT with a
    /// number that is for no device. To a processor of the guest's, the one is refused, and the
    /// other finds no gate.
    fn no_system_call(vm: &mut Vm, context: &mut Context) {
        const THROUGH_TABLE: u64 = 1 << 1;
        let error = match Self::decode_program(vm, context) {
            Some(found) if found.code() == Code::Int_imm8 => u64::from(found.immediate8()) << 3 | THROUGH_TABLE,
            _ => 0,
        };
        Self::program_exception(vm, context, vector::PROTECTION.into(), error, 0);
    }

    /// An exception of a program's, as the processor has told of it, or the program. seL4 has not
    /// enabled what tells fetches from reads (SDM Vol. 3A, 4.7: `EFER.NXE`), and the guest may
    /// have.
    fn program_exception(vm: &mut Vm, context: &mut Context, number: u64, error: u64, address: u64) {
        (context.vector, context.error) = exceptions::told(number, error, context.rflags);
        if context.vector == vector::PAGE_FAULT.into() {
            if vm.vcpu.cpu.efer & efer::NXE != 0 && Self::fetched(vm, context, address as u32, true).is_some() {
                context.error |= u64::from(fault::FETCH);
            }
            let address = Self::whole_address(vm, context, address, true);
            vm.vcpu.processor.wanted = Some(address);
            CPU.fault_address.store(address, Ordering::Relaxed);
        }
        vm.exception(context);
    }

    /// An access of a program's has come to nothing, for reasons that its kernel knows nothing of.
    fn refused_access(vm: &mut Vm, context: &mut Context) {
        (context.vector, context.error) = exceptions::REFUSED;
        vm.exception(context);
    }
}

/// Why a program has stopped, by its message, of which one word does not come in a register.
fn stop(message: &Message, code: u64) -> Stop {
    let [_, address, _, error] = message.registers;
    match message.label {
        kernel::fault::VM_FAULT => Stop::Exception { vector: vector::PAGE_FAULT.into(), error, address },
        kernel::fault::USER_EXCEPTION => Stop::Exception { vector: message.registers[3], error: code, address: 0 },
        _ => Stop::NoSystemCall,
    }
}

/// The registers of the program that has stopped last, in seL4's order (`seL4_UserContext`): RIP,
/// RSP, RFLAGS, the general registers, and the bases of FS and GS.
#[derive(Debug)]
pub(super) struct Last([u64; 20]);

impl Last {
    pub(super) const NONE: Self = Self([0; 20]);

    /// They are of no program.
    fn forget(&mut self) {
        *self = Self::NONE;
    }

    /// Puts them into a context.
    fn take(&mut self, context: &mut Context) {
        self.0[2] |= flags::INTERRUPT;
        let [rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, ..] = self.0;
        (context.rip, context.rsp, context.rflags) = (rip, rsp, rflags);
        (context.cs, context.ss) = (USER_CS, USER_SS);
        context.registers = Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax };
    }

    /// Whether a context has the same.
    fn is_of(&self, context: &Context) -> bool {
        let r = &context.registers;
        let rflags = context.rflags & !flags::RESUME | self.0[2] & flags::RESUME;
        let now = [
            context.rip,
            context.rsp,
            rflags,
            r.rax,
            r.rbx,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            r.rbp,
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15,
        ];
        self.0[..now.len()] == now
    }
}

impl Host for L4 {
    const NAME: &'static str = Backend::L4.name();
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
    }

    fn enter_kernel(_: &mut Vm, _: &mut Context) {}

    fn enter_user(_: &mut Vm, _: &mut Context) {}

    fn calls() -> Calls {
        kernel::calls()
    }
}
