//! What happens between an entry and an exit.
//!
//! An entry is an exception, an event, a site that calls, or a transfer that its fast path has turned away. Most exceptions
//! are page faults that the shadow answers; the others are the guest's and are delivered as the processor would have done it.
//! An instruction that should not have been executed natively, for nobody has annotated it, is emulated too, and counted.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::Ordering;

use annotate::instructions::Class;
use iced_x86::{Instruction, Mnemonic, OpKind};
use wedge::cpu::segment::{Descriptor, Selector};
use wedge::cpu::{Context, Event, Exception, Flow, Host as _, VirtualCpu, decode, deliver, emulate, flags};
use wedge::guest::linux;
use wedge::shadow::{Access, Outcome};
use wedge::sites::{Engine, Entry, Form};

use super::entry::{
    CONTROL, GS_SWAPPED, SHARED_PAGE, SITE, SYSCALL_TARGET, SYSRET_SELECTORS, WORK, cause, exit, xen_emulate,
    xen_emulate_without_stack, xen_syscall_slow,
};
use super::failsafe;
use super::hypercall::{self, Reason, shutdown};
use super::interface::{KERNEL_CS, KERNEL_SS};
use super::ldt::Ldt;
use super::machine::Machine;
use super::modules::LiveModules;
use super::stacks::Stacks;
use crate::runtime::{WINDOW, WINDOW_LENGTH, say};

/// RFLAGS.IF.
pub(super) const INTERRUPT_FLAG: u64 = 1 << 9;
/// RFLAGS.AC.
const ALIGNMENT_CHECK: u64 = 1 << 18;

/// Vectors of exceptions.
mod vector {
    pub(super) const DEBUG: u64 = 1;
    pub(super) const BREAKPOINT: u64 = 3;
    pub(super) const INVALID_OPCODE: u64 = 6;
    pub(super) const PROTECTION: u64 = 13;
    pub(super) const PAGE_FAULT: u64 = 14;
    /// INT 80H, for which Xen has a handler of its own.
    pub(super) const SYSTEM_CALL: u64 = 128;
}

/// Exceptions with an error code (SDM Vol. 3A, table 6-1).
const WITH_ERROR: u64 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21;

/// The wedge while the guest runs.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) cpu: VirtualCpu,
    pub(super) machine: Machine,
    pub(super) engine: Engine<'static>,
    pub(super) modules: LiveModules,
    /// The kernel's image.
    pub(super) kernel: Range<u64>,
    /// How far above its address the kernel's head code really runs.
    pub(super) head_distance: u64,
    /// The number of the site that returns from system calls. Its slot is a jump that says nothing of it; should there be
    /// several, they differ by nothing but their address.
    pub(super) sysret: usize,
    pub(super) stacks: Stacks,
    /// A page that the guest has just been told to map.
    pub(super) wanted: Option<u64>,
    pub(super) decoded: Decoded,
    /// Whether the guest was stepped when a stub called.
    pub(super) steps: bool,
    /// Whether user mode was ever entered: until then, the kernel's stack may be anywhere.
    pub(super) has_run_user: bool,
}

/// Sites that were emulated lately, decoded: decoding costs more than emulating.
#[derive(Debug)]
pub(super) struct Decoded([Option<(u64, Instruction)>; 64]);

impl Decoded {
    /// None yet.
    pub(super) const NONE: Self = Self([None; 64]);

    /// A site's instruction, at an address; `None` if it is none. A site's bytes do not change while it is one;
    /// when modules come and go, everything is forgotten.
    fn of(&mut self, entry: &Entry, at: u64) -> Option<Instruction> {
        let place = &mut self.0[(at >> 2) as usize % 64];
        match place {
            Some((address, instruction)) if *address == at => Some(*instruction),
            _ => {
                *place = Some((at, decode(&entry.original(), at)?));
                place.map(|(_, instruction)| instruction)
            }
        }
    }

    fn forget(&mut self) {
        *self = Self::NONE;
    }
}

struct Cell(UnsafeCell<Option<Resident>>);

// SAFETY: one processor, which is in the wedge once at a time: events are masked there, and an exception there is the end.
unsafe impl Sync for Cell {}

static RESIDENT: Cell = Cell(UnsafeCell::new(None));

/// From here on entries find it.
pub(super) fn stay(resident: Resident) {
    // SAFETY: called once, before the guest runs.
    unsafe { *RESIDENT.0.get() = Some(resident) };
}

/// Where all entries lead. Returns one of [`exit`].
pub(super) extern "C" fn enter(context: &mut Context) -> u64 {
    // SAFETY: see `Cell`.
    match unsafe { &mut *RESIDENT.0.get() } {
        Some(resident) => resident.enter(context),
        None => super::die(context, "before the guest runs"),
    }
}

impl Resident {
    fn enter(&mut self, context: &mut Context) -> u64 {
        take(context);
        if core::mem::take(&mut self.steps) {
            context.rflags |= flags::TRAP;
        }
        if Self::is_step_in_window(context) {
            return self.step_on(context);
        }
        self.leave_springboard(context);
        match context.vector {
            cause::EVENT => {
                self.present(context);
                self.machine.touched = true;
                self.machine.board.collect(&mut self.machine.platform);
            }
            cause::SITE => self.site_called(context),
            cause::IRET => self.iret(context),
            cause::SITE_WITHOUT_STACK => self.site_jumped(context, SITE.load(Ordering::Relaxed) as usize),
            cause::SYSRET => self.site_jumped(context, self.sysret),
            cause::SYSCALL => self.syscall(context),
            cause::SYSCALL32 => self.syscall32(context),
            cause::SYSENTER => self.transfer(context, wedge::cpu::transfer::sysenter),
            cause::FAILSAFE => self.deliver(context, Event::Exception(Exception::PROTECTION)),
            _ => self.exception(context),
        }
        self.leave(context)
    }

    /// Delivers what is due, and goes back to the guest.
    pub(super) fn leave(&mut self, context: &mut Context) -> u64 {
        let Machine { platform, board, touched, .. } = &mut self.machine;
        if *touched {
            platform.advance(board);
        }
        if context.rflags & INTERRUPT_FLAG != 0
            && platform.has_interrupt()
            && let Some(vector) = platform.acknowledge()
        {
            self.deliver(context, Event::Interrupt(vector));
        }
        let Machine { platform, board, touched, .. } = &mut self.machine;
        if platform.has_interrupt() {
            // The next instruction that sets IF finds it.
            SHARED_PAGE.info().vcpu[0].pending.store(1, Ordering::Relaxed);
        }
        if core::mem::take(touched) {
            board.set_timer(platform);
        }
        if self.machine.flushed {
            self.machine.flushed = false;
            if self.modules.look(self.cpu.cr3, &mut self.engine, self.machine.tables.memory) {
                self.decoded.forget();
                self.machine.account.in_modules = self.engine.in_modules();
                self.machine.account.of_modules = *self.modules.tally();
            }
        }
        let stack = (!context.is_user()).then_some(context.rsp);
        let exit = if stack.is_none() { self.enter_user(context) } else { self.enter_kernel(context) };
        self.keep_stacks(context, stack);
        exit
    }

    fn enter_user(&mut self, context: &mut Context) -> u64 {
        self.has_run_user = true;
        WORK.store(0, Ordering::Relaxed);
        if let Some(address) = self.wanted.take() {
            self.machine.shadow.prefill(address, &mut self.machine.tables);
        }
        self.machine.update_descriptors(&self.cpu, context);
        self.use_springboard(context);
        exit::USER
    }

    fn enter_kernel(&mut self, context: &mut Context) -> u64 {
        self.reach_stack(context.rsp);
        // A program's AC is left set by an exception, and means nothing in ring 0; in ring 3 the kernel's own accesses would be
        // held against it (SDM Vol. 3A, 2.3).
        context.rflags &= !ALIGNMENT_CHECK;
        context.cs = KERNEL_CS;
        context.ss = KERNEL_SS;
        exit::KERNEL
    }

    /// Whether a single step has ended in the wedge: within a site, which to the guest is one instruction. SYSENTER leaves TF
    /// set, so that any program can have the kernel's entry stepped through.
    fn is_step_in_window(context: &Context) -> bool {
        /// DR6.BS (SDM Vol. 3B, 17.2.3).
        const SINGLE_STEP: u64 = 1 << 14;
        context.vector == vector::DEBUG
            && !context.is_user()
            && context.rip.wrapping_sub(WINDOW) < WINDOW_LENGTH
            && hypercall::get_debug_register(6) & SINGLE_STEP != 0
    }

    /// Goes on in the window: to the end of a stub. What a stub calls does not step; the context that it is called for does.
    fn step_on(&mut self, context: &mut Context) -> u64 {
        if self.engine.at_stub(context.rip).is_none() {
            context.rflags &= !flags::TRAP;
            // These lead here, and nowhere else.
            let leads_here = [xen_emulate, xen_emulate_without_stack].map(|routine| routine as *const () as u64);
            self.steps = leads_here.contains(&context.rip);
        }
        context.cs = KERNEL_CS;
        context.ss = KERNEL_SS;
        exit::KERNEL
    }

    /// An exception, of the guest's or of its hardware.
    fn exception(&mut self, context: &mut Context) {
        let in_wedge = !context.is_user() && context.rip.wrapping_sub(WINDOW) < WINDOW_LENGTH;
        if in_wedge && self.engine.at_stub(context.rip).is_none() {
            super::die(context, "in the wedge");
        }
        match context.vector {
            vector::PAGE_FAULT => self.page_fault(context),
            vector::BREAKPOINT => self.breakpoint(context),
            vector::SYSTEM_CALL => self.software_interrupt(context, 0x80, 2),
            vector::PROTECTION | vector::INVALID_OPCODE if !in_wedge => self.refused(context),
            _ => self.deliver_own(context),
        }
    }

    fn page_fault(&mut self, context: &mut Context) {
        let address = SHARED_PAGE.info().vcpu[0].cr2.load(Ordering::Relaxed);
        let error = context.error;
        if let Some(index) = Ldt::entry_at(address)
            && self.local_entry_missed(context, index)
        {
            return;
        }
        let access = Access { write: error & 2 != 0, user: context.is_user(), fetch: error & 16 != 0 };
        match self.machine.shadow.fault(address, access, &mut self.machine.tables) {
            Outcome::Filled | Outcome::Spurious => {}
            Outcome::Fault { error } => {
                self.present(context);
                if access.user || address >> 63 == 0 {
                    self.wanted = Some(address);
                    WORK.store(1, Ordering::Relaxed);
                }
                self.deliver(context, Event::Exception(Exception::page_fault(error, address)));
            }
            Outcome::Nothing { address } => {
                super::die(context, format_args!("at an address without memory, {address:#x}"));
            }
            Outcome::OutOfTables => super::die(context, "without a page table left"),
        }
    }

    /// A page fault at an entry of the real local table: somebody has loaded its selector, or a program has only accessed
    /// that address, where to it there is nothing. Then the next fault says so, for the entry is not missing any more.
    fn local_entry_missed(&mut self, context: &mut Context, index: usize) -> bool {
        match self.machine.show_local(index) {
            Ok(missed) => missed,
            Err(exception) => {
                self.present(context);
                self.deliver(context, Event::Exception(exception));
                true
            }
        }
    }

    /// INT3: a site in code that runs at its physical address, or the guest's own.
    fn breakpoint(&mut self, context: &mut Context) {
        let at = context.rip.wrapping_sub(1);
        if !context.is_user() && self.change_stacks(context, at) {
            return;
        }
        let places = if context.is_user() { &[][..] } else { &[at, at.wrapping_sub(self.head_distance)] };
        let site = places.iter().find_map(|address| {
            let (_, entry) = self.engine.site_at(*address)?;
            let traps = entry.form() == Form::Trap || self.stacks.is_left_behind(*address);
            traps.then_some(*entry)
        });
        match site {
            Some(entry) => {
                let end = at + u64::from(entry.slot());
                if self.stacks.is_left_behind(at) {
                    self.reach_unwritable_stack(context);
                }
                self.emulate_site(context, &entry, at, end);
            }
            None => self.software_interrupt(context, 3, 1),
        }
    }

    /// INT n that has been executed: if the guest's gate does not allow it, the exception is one of the instruction.
    fn software_interrupt(&mut self, context: &mut Context, vector: u8, length: u64) {
        let return_rip = context.rip;
        context.rip -= length;
        self.deliver(context, Event::Software { vector, return_rip });
    }

    /// #GP or #UD: an instruction that ring 3 may not execute, or the guest's own fault.
    fn refused(&mut self, context: &mut Context) {
        if context.is_user() && context.vector == vector::PROTECTION && self.interrupt_gate(context) {
            return;
        }
        let mut bytes = [0; 15];
        let user = context.is_user();
        let length = self.fetch(context.rip, &mut bytes, user);
        let Some(instruction) = decode(&bytes[..length], context.rip) else {
            return self.deliver_own(context);
        };
        if user && !self.may_be_allowed(context, &instruction) {
            return self.deliver_own(context);
        }
        match emulate(&mut self.cpu, context, &instruction, &mut self.machine) {
            Ok(Flow::Next) => context.rip = instruction.next_ip(),
            Ok(Flow::Jumped) => {}
            Ok(Flow::Unhandled) => return self.deliver_own(context),
            Err(exception) => return self.deliver(context, Event::Exception(exception)),
        }
        if !user {
            self.count_unannotated(instruction.ip(), &bytes[..instruction.len()]);
            self.update_shared();
            self.update_system_calls();
        }
    }

    fn count_unannotated(&mut self, at: u64, bytes: &[u8]) {
        /// More are counted, but not printed.
        const PRINTED: u64 = 16;
        let count = &mut self.machine.account.unannotated;
        *count += 1;
        if *count <= PRINTED {
            say!("emulated without an annotation: {bytes:02x?} at {at:#x}");
        }
    }

    /// INT n of user mode, which Xen turns into #GP: a gate that user mode may use (SDM Vol. 3A, 6.12.1.1, 6.13).
    fn interrupt_gate(&mut self, context: &mut Context) -> bool {
        const THROUGH_TABLE: u64 = 1 << 1;
        let number = context.error >> 3;
        if context.error & 7 != THROUGH_TABLE || number > 255 {
            return false;
        }
        let gate = self.machine.word(self.cpu.idt.base + 16 * number);
        if gate.is_none_or(|gate| gate >> 45 & 3 != 3) {
            return false;
        }
        let return_rip = context.rip + 2;
        self.deliver(context, Event::Software { vector: number as u8, return_rip });
        true
    }

    /// Whether the guest may allow user mode what the processor has refused.
    fn may_be_allowed(&mut self, context: &Context, instruction: &Instruction) -> bool {
        // Xen uses SYSENTER on processors of some vendors only; on the others it is #GP, unless the processor has none.
        let enters = instruction.mnemonic() == Mnemonic::Sysenter && context.vector == vector::PROTECTION;
        enters
            || concerns_tables_or_ports(instruction)
                && (self.is_64_bit_code(context) || is_same_in_compatibility_mode(instruction))
    }

    fn is_64_bit_code(&mut self, context: &Context) -> bool {
        let code = self.cpu.descriptor(Selector::of(context.cs), &mut self.machine);
        code.is_ok_and(Descriptor::is_long)
    }

    /// Reads as many bytes of code as there are.
    pub(super) fn fetch(&mut self, address: u64, bytes: &mut [u8; 15], user: bool) -> usize {
        if self.machine.read(address, bytes, user).is_ok() {
            return bytes.len();
        }
        let rest = (4096 - address % 4096).min(15) as usize;
        if self.machine.read(address, &mut bytes[..rest], user).is_ok() { rest } else { 0 }
    }

    /// A site has called: the return address says which.
    fn site_called(&mut self, context: &mut Context) {
        let Some(entry) = self.engine.at_stub(context.rip).copied() else {
            super::die(context, "called from no site");
        };
        let (at, end) = if entry.form() == Form::Call {
            let end = self.machine.word(context.rsp).unwrap_or(0);
            context.rsp += 8;
            (end.wrapping_sub(u64::from(entry.slot())), end)
        } else {
            (entry.address(), entry.end())
        };
        self.emulate_site(context, &entry, at, end);
    }

    /// A site without a stack has jumped: its number is left behind.
    fn site_jumped(&mut self, context: &mut Context, number: usize) {
        let Some(entry) = self.engine.entry(number).copied() else {
            super::die(context, "jumped from no site");
        };
        self.emulate_site(context, &entry, entry.address(), entry.end());
    }

    /// An IRETQ that `xen_iret` has turned away: often for nothing but the work to be done before user mode.
    fn iret(&mut self, context: &mut Context) {
        if !self.return_plainly(context) {
            self.site_jumped(context, SITE.load(Ordering::Relaxed) as usize);
        }
    }

    /// An IRETQ to user mode, if it is as plain as `xen_iret` wants it.
    fn return_plainly(&mut self, context: &mut Context) -> bool {
        let Some([rip, cs, rflags, rsp, ss]) = self.machine.words(context.rsp) else { return false };
        let plain = (cs, ss) == (linux::USER_CS, linux::USER_DS) && rip >> 47 == 0 && rflags & INTERRUPT_FLAG != 0;
        if !plain || GS_SWAPPED.load(Ordering::Relaxed) == 0 {
            return false;
        }
        (context.rip, context.cs, context.rflags, context.rsp, context.ss) = (rip, cs, rflags, rsp, ss);
        true
    }

    fn emulate_site(&mut self, context: &mut Context, entry: &Entry, at: u64, end: u64) {
        context.rip = at;
        let Some(first) = self.decoded.of(entry, at) else {
            super::die(context, "at a site that does not decode");
        };
        let original = entry.original();
        let second = original.get(first.len()..).filter(|rest| !rest.is_empty());
        match second.and_then(|bytes| decode(bytes, at + first.len() as u64)) {
            Some(second) => {
                if self.execute(context, entry, first, second.ip()) {
                    self.execute(context, entry, second, end);
                }
            }
            None => _ = self.execute(context, entry, first, end),
        }
        if !self.has_run_user && entry.class() == Class::MovToCr {
            // The kernel may go on, on a stack in its image, in tables that nobody has used yet.
            self.reach_image(self.kernel.clone());
        }
        self.update_shared();
        if entry.class() == Class::Wrmsr {
            self.update_system_calls();
        }
    }

    /// Executes one instruction of a site; says whether what is at `next` comes next.
    fn execute(&mut self, context: &mut Context, entry: &Entry, mut instruction: Instruction, next: u64) -> bool {
        instruction.set_next_ip(next);
        match emulate(&mut self.cpu, context, &instruction, &mut self.machine) {
            Ok(Flow::Next) => {
                context.rip = next;
                return true;
            }
            Ok(Flow::Jumped) => {}
            Ok(Flow::Unhandled) => super::die(context, format_args!("{} is not emulated", entry.class())),
            Err(exception) => self.deliver(context, Event::Exception(exception)),
        }
        false
    }

    /// Makes sure that the kernel's image can be accessed where it is loaded: it is about to run there, on a stack in it.
    pub(super) fn reach_image(&mut self, image: Range<u64>) {
        for page in image.step_by(2 << 20) {
            self.machine.reach_for_writing(page);
        }
    }

    /// What the assembly code and the sites need of the virtual CPU.
    fn update_shared(&mut self) {
        let registers = [self.cpu.cr0, 0, self.cpu.cr2, self.cpu.cr3, self.cpu.cr4];
        for (place, value) in CONTROL.iter().zip(registers) {
            place.store(value, Ordering::Relaxed);
        }
    }

    /// What SYSCALL and SYSRET need of its model-specific registers.
    fn update_system_calls(&mut self) {
        let base = self.cpu.star >> 48 | 3;
        SYSRET_SELECTORS[0].store(base + 16, Ordering::Relaxed);
        SYSRET_SELECTORS[1].store(base + 8, Ordering::Relaxed);
        let target = SYSCALL_TARGET.load(Ordering::Relaxed);
        let slow = xen_syscall_slow as *const () as u64;
        if target != slow && target != self.cpu.lstar {
            SYSCALL_TARGET.store(slow, Ordering::Relaxed);
        }
    }

    pub(super) fn transfer(
        &mut self,
        context: &mut Context,
        how: impl FnOnce(&VirtualCpu, &mut Context) -> Result<(), Exception>,
    ) {
        if let Err(exception) = how(&self.cpu, context) {
            self.deliver(context, Event::Exception(exception));
        }
    }

    /// The context's own exception, delivered as it came.
    fn deliver_own(&mut self, context: &mut Context) {
        self.present(context);
        let vector = context.vector as u8;
        let error = (WITH_ERROR >> vector & 1 == 1).then_some(context.error as u32);
        self.deliver(context, Event::Exception(Exception { vector, error, address: None }));
    }

    fn deliver(&mut self, context: &mut Context, event: Event) {
        if deliver(&mut self.cpu, context, event, &mut self.machine).is_err() {
            say!("triple fault at {:#x}: {event:x?}", context.rip);
            shutdown(Reason::Reboot);
        }
        CONTROL[2].store(self.cpu.cr2, Ordering::Relaxed);
    }
}

/// Whether the processor may have refused an instruction of user mode only because the real tables are not the guest's: it
/// loads a segment, or accesses a port that the guest's TSS may allow.
fn concerns_tables_or_ports(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::In
        | M::Out
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd
        | M::Lss
        | M::Lfs
        | M::Lgs
        | M::Retf
        | M::Iret
        | M::Iretd
        | M::Iretq => true,
        M::Mov | M::Pop => instruction.op0_register().is_segment_register(),
        M::Jmp => instruction.is_jmp_far() || instruction.is_jmp_far_indirect(),
        M::Call => instruction.is_call_far() || instruction.is_call_far_indirect(),
        _ => false,
    }
}

/// Whether an instruction that was decoded as one of 64-bit code does the same in compatibility mode, where operands in memory
/// have another form and segments another base.
fn is_same_in_compatibility_mode(instruction: &Instruction) -> bool {
    let in_memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out | Mnemonic::Mov) && !in_memory
}

/// Makes Xen's values the guest's.
fn take(context: &mut Context) {
    failsafe::look_through(context);
    // The upper half of CS has the event mask. The kernel's selectors are told with a privilege level of 0, user mode's have 3.
    let selector = context.cs & 0xffff;
    if selector.trailing_zeros() < 2 {
        context.cs = selector;
        GS_SWAPPED.store(0xff, Ordering::Relaxed);
    } else {
        context.cs = linux::KERNEL_CS;
        context.ss = linux::KERNEL_DS;
    }
}
