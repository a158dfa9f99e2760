//! A host for tests: a machine in a vector, run by an interpreter.
//!
//! It is the smallest host that runs a guest's kernel without its privileges, and shows what one
//! consists of: it boots by the same session as the others ([`crate::boot::session`]), its sites
//! are rewritten by the same rules, and what happens between a trap and an exit is the same code
//! ([`wedge::vm`]). What is its own is what a host's own is: memory and tables ([`memory`]), a
//! processor ([`interpreter`]), a clock, which counts instructions, and a console, which is a text.
//! It has no paging hardware, no hypervisor and no assembly code: the routines that stubs lead to
//! are addresses at which the interpreter stops.
#![expect(unsafe_code, reason = "the guest's memory is accessed by the guest, the wedge and the interpreter")]
#![expect(clippy::cast_possible_truncation, reason = "this is 64-bit code; narrower casts cut what is meant to be cut")]

mod interpreter;
mod memory;
mod registers;
mod tests;

use core::fmt::{self, Write as _};
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

use wedge::cpu::{Context, Registers, Table, VirtualCpu};
use wedge::guest::layout::{Layout, WINDOW_LENGTH};
use wedge::guest::linux;
use wedge::guest::linux::boot_params::Display;
use wedge::image::Parameters;
use wedge::loader::command_line::CommandLine;
use wedge::memory::{Kind, MemoryMap, Region as MemoryRegion};
use wedge::platform::{self, Pci, Platform};
use wedge::shadow::{Mode as PagingMode, Shadow, TableInfo};
use wedge::sites::{Deprivileged, Engine, Memory as SiteMemory, Mode, STUB_SIZE};
use wedge::vm::{self, Calls, Counts, End, Exit, Host, Machine, Space, Vcpu, Vm};
use wedge::x86::paging::PAGE;
use wedge::x86::{flags, vector};

use self::interpreter::{Bus, Fault, RSP, State};
use self::memory::{Ram, Tables, Usable};
use self::registers::Processor;
use crate::Backend;
use crate::boot::options::Options;
use crate::boot::selection::{LoaderProtocol, Protocol};
use crate::boot::session::{self, Boot, Contents, Ground, Loaded, Pieces, Provided, Rewritten};

/// Where the guest's kernel and the window are.
const LAYOUT: &Layout = &Layout::STANDARD;
const WINDOW: u64 = LAYOUT.window().start;

/// What the guest's kernel really has in CS and SS.
const KERNEL_CS: u64 = 0xe033;
const KERNEL_SS: u64 = 0xe02b;

/// Offsets in the window: what sites read and write, the routines that they lead to, and the stubs.
mod offset {
    pub(super) const MASK: u64 = 0;
    pub(super) const PENDING: u64 = 1;
    pub(super) const GS_SWAPPED: u64 = 2;
    pub(super) const SITE: u64 = 4;
    pub(super) const CONTROL: u64 = 8;
    pub(super) const EMULATE: u64 = 0x1000;
    pub(super) const EMULATE_WITHOUT_STACK: u64 = 0x1010;
    pub(super) const INTERRUPT: u64 = 0x1020;
    pub(super) const IRET: u64 = 0x1030;
    pub(super) const SYSRET: u64 = 0x1040;
    pub(super) const STUBS: u64 = 0x2000;
    pub(super) const END: u64 = 0x1_0000;
}

/// More than the instructions of the longest stub: who is interrupted in one begins it anew.
const PERIOD: u64 = 17;

/// Instructions that a guest may execute, which is how long a test may take.
const PATIENCE: u64 = 1 << 20;

std::thread_local! {
    static FAULT: Cell<u64> = const { Cell::new(0) };
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The host. It keeps the window.
#[derive(Debug)]
struct Test;

/// The clock and the console.
#[derive(Debug)]
struct Board {
    /// Instructions so far: a nanosecond each.
    clock: Rc<Cell<u64>>,
    console: String,
}

impl platform::Board for Board {
    type Disk = platform::virtio::NoDevice;
    type Network = platform::virtio::NoDevice;
    type Share = platform::virtio::NoDevice;

    fn now(&mut self) -> u64 {
        self.clock.get()
    }

    fn wall_clock(&mut self) -> u64 {
        0
    }

    fn console_write(&mut self, bytes: &[u8]) {
        self.console.extend(bytes.iter().copied().map(char::from));
    }

    fn console_read(&mut self) -> Option<u8> {
        None
    }

    fn pass_read(&mut self, _: u16, size: wedge::cpu::Size) -> u32 {
        size.ones()
    }

    fn pass_write(&mut self, _: u16, _: wedge::cpu::Size, _: u32) {}

    fn end_of_interrupt(&mut self, _: u8) {}

    fn reset(&mut self) {
        Test::stop(End::Reset)
    }
}

impl vm::Board for Board {
    fn collect(&mut self, platform: &mut Platform) {
        platform.advance(self);
    }

    fn wait(&mut self, platform: &mut Platform) {
        let Some(deadline) = platform.deadline() else { Test::stop(End::PowerOff) };
        self.clock.set(deadline.max(self.clock.get()));
        platform.advance(self);
    }

    fn set_timer(&mut self, _: &Platform) {}
}

/// A number at an offset in the window.
fn word(window: Ram, offset: u64) -> u64 {
    let mut bytes = [0; 4];
    window.load(offset, &mut bytes);
    u32::from_le_bytes(bytes).into()
}

impl Host for Test {
    const NAME: &'static str = "test";
    const KERNEL_CS: u64 = KERNEL_CS;
    const KERNEL_SS: u64 = KERNEL_SS;
    type Memory = Tables;
    type Processor = Processor;
    type Board = Board;
    type Kept = Ram;

    fn say(line: fmt::Arguments<'_>) {
        LOG.with_borrow_mut(|log| writeln!(log, "{line}").expect("a text grows"));
    }

    /// The test catches it.
    fn stop(end: End) -> ! {
        std::panic::resume_unwind(Box::new(end))
    }

    fn fault_address() -> u64 {
        FAULT.get()
    }

    fn own_page_fault(_: &mut Vm<'_, Self>, _: &mut Context, _: u64) -> bool {
        false
    }

    fn own_breakpoint(_: &mut Vm<'_, Self>, _: &mut Context, _: u64) -> bool {
        false
    }

    /// The interpreter enters a routine at its first instruction, before anything can come in
    /// between.
    fn present_routine(_: &mut Vm<'_, Self>, _: &mut Context) {}

    fn note_work(_: &mut Vm<'_, Self>) {}

    fn note_pending(vm: &mut Vm<'_, Self>) {
        vm.machine.host.store(offset::PENDING, &[1]);
    }

    fn registers_changed(vm: &mut Vm<'_, Self>, _: bool) {
        let cpu = &vm.vcpu.cpu;
        for (number, value) in [(0, cpu.cr0), (2, cpu.cr2), (3, cpu.cr3), (4, cpu.cr4)] {
            vm.machine.host.store(offset::CONTROL + 8 * number, &value.to_le_bytes());
        }
    }

    fn enter_kernel(_: &mut Vm<'_, Self>, _: &mut Context) {}

    fn enter_user(_: &mut Vm<'_, Self>, _: &mut Context) {}

    fn calls() -> Calls {
        static NONE: Counts<0> = Counts::new();
        NONE.calls(|_| "call")
    }
}

/// What sites refer to.
fn sites_see() -> Deprivileged {
    let mut control = [0; 9];
    for register in [0, 2, 3, 4] {
        control[register] = WINDOW + offset::CONTROL + 8 * register as u64;
    }
    Deprivileged {
        mask: WINDOW + offset::MASK,
        pending: WINDOW + offset::PENDING,
        gs_swapped: WINDOW + offset::GS_SWAPPED,
        control,
        site: WINDOW + offset::SITE,
        emulate: WINDOW + offset::EMULATE,
        emulate_without_stack: WINDOW + offset::EMULATE_WITHOUT_STACK,
        interrupt: WINDOW + offset::INTERRUPT,
        iret: WINDOW + offset::IRET,
        sysret: WINDOW + offset::SYSRET,
        code_selector: KERNEL_CS as u16,
        stack_selector: KERNEL_SS as u16,
        virtual_selectors: false,
        counts: false,
        own_floating_point: false,
    }
}

/// A guest, and its one processor.
type OnVcpu = (Machine<Test>, Vcpu<Test>);

/// The machine before the guest runs. To the session it is one that a loader has entered by PVH.
struct Bare {
    parameters: Parameters,
    own_length: u64,
    payload: &'static [u8],
    ram: Ram,
    window: Ram,
    clock: Rc<Cell<u64>>,
    /// Where the guest is put.
    guest: Rc<RefCell<Option<OnVcpu>>>,
}

/// What this host refuses: the shadow of so small a guest that it has no page table left.
#[derive(Debug)]
struct Failure(&'static str);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Boot for Bare {
    type Error = Failure;
    type Memory<'a> = Usable;

    const BACKEND: Backend = Backend::Bare;

    fn image(&self) -> (Parameters, u64, u64) {
        (self.parameters, self.own_length, WINDOW_LENGTH)
    }

    fn window(&self) -> u64 {
        WINDOW
    }

    fn payload(&mut self, _: &Parameters) -> Result<&'static [u8], Failure> {
        Ok(self.payload)
    }

    fn entered(&self) -> (Protocol, Option<[u8; 12]>) {
        (LoaderProtocol::Pvh.into(), None)
    }

    fn command_line(&self, of_image: &str) -> Result<CommandLine, session::Failure<'static, Failure>> {
        CommandLine::join(of_image, "").map_err(session::Failure::CommandLine)
    }

    fn accept(&self, _: &Options) -> Result<(), Failure> {
        Ok(())
    }

    fn lay_out(&mut self, _: &Contents<'_>) -> Result<Ground, Failure> {
        let mut map = MemoryMap::default();
        for (start, end) in [(PAGE, 0x9f000), (1 << 20, self.ram.length())] {
            map.add(MemoryRegion { start, end, kind: Kind::Usable }).map_err(|_| Failure("too many regions"))?;
        }
        let (busy, modules) = (Pieces::new(), Pieces::new());
        Ok(Ground { map, busy, modules, kernel: None, setup_data: 0, rsdp: 0, display: Display::None, entropy: 0 })
    }

    fn memory(&self, _: &MemoryMap) -> Result<Usable, Failure> {
        Ok(Usable(self.ram))
    }

    /// The first tables, as a boot loader leaves them: the first memory at its own addresses, by
    /// large pages.
    fn prepare(&mut self, _: &Loaded<'_>, _: &mut [u8]) -> Result<(), Failure> {
        for (address, value) in [(FIRST_TABLES, FIRST_TABLES + PAGE + 3), (FIRST_TABLES + PAGE, 0x83)] {
            self.ram.store(address, &u64::to_le_bytes(value));
        }
        Ok(())
    }

    fn engine(&mut self, _: &Contents<'_>) -> Engine<'static> {
        let count = (offset::END - offset::STUBS) as usize / STUB_SIZE;
        let counters: Vec<_> = (0..count).map(|_| core::sync::atomic::AtomicU64::new(0)).collect();
        let memory = SiteMemory {
            sites: Box::leak((0..count).map(|_| None).collect::<Vec<_>>().into_boxed_slice()),
            stubs: self.window.stubs(offset::STUBS, count),
            stubs_address: WINDOW + offset::STUBS,
            counters: Box::leak(counters.into_boxed_slice()),
            counters_address: WINDOW + offset::END,
            snapshot: Box::leak(std::vec![0; count].into_boxed_slice()),
            order: Box::leak(std::vec![0; count].into_boxed_slice()),
        };
        Engine::deprivileged(sites_see(), Mode::default(), memory)
    }

    fn take_over(self, rewritten: Rewritten<'_>, _: &mut [u8]) -> Result<(), Failure> {
        let mut tables = Tables::new(self.ram, TABLES);
        let working = wedge::shadow::Memory {
            tables: Box::leak(std::vec![TableInfo::UNUSED; TABLES as usize].into_boxed_slice()),
            notes: Box::leak(std::vec![[0; 512]; TABLES as usize].into_boxed_slice()),
        };
        let shadow = Shadow::new(working, LAYOUT, &[], FIRST_MODE, FIRST_TABLES, &mut tables);
        let shadow = shadow.map_err(|_| Failure("not even the first page tables find room"))?;
        let board = Board { clock: Rc::clone(&self.clock), console: String::new() };
        let provided = Provided {
            space: Space { shadow, memory: tables },
            pci: Pci::Absent,
            board,
            processor: Processor::new(self.window, Rc::clone(&self.clock)),
            kept: self.window,
            regions: Box::leak(Box::new([])),
        };
        let gdt = Table { base: 0, limit: 0 };
        let start = |limits| VirtualCpu { cr3: FIRST_TABLES, gdt, ..VirtualCpu::new(limits) };
        *self.guest.borrow_mut() = Some(rewritten.on_host(provided, start));
        Ok(())
    }
}

/// Where the guest finds its first page tables.
const FIRST_TABLES: u64 = 0x1000;
/// Page tables of the shadow.
const TABLES: u32 = 64;
/// The paging mode that the guest is entered in.
const FIRST_MODE: PagingMode =
    PagingMode { pcid: false, global: false, write_protect: false, no_execute: false, physical_bits: 36 };

/// A guest that runs.
struct Running {
    machine: Machine<Test>,
    vcpu: Vcpu<Test>,
    state: State,
    clock: Rc<Cell<u64>>,
    /// Something comes in from outside before the instructions whose number has this remainder by
    /// [`PERIOD`], where it can.
    interrupted: Option<u64>,
}

/// The guest's memory and the window, as the processor accesses them.
struct Hardware<'a> {
    tables: &'a Tables,
    window: Ram,
}

impl Hardware<'_> {
    /// The memory behind an address, and where in it that is.
    fn find(&self, address: u64, user: bool, write: bool) -> Result<(Ram, u64), Fault> {
        if !user && (WINDOW..WINDOW + offset::END).contains(&address) {
            return Ok((self.window, address - WINDOW));
        }
        let found = self.tables.walk(address, user, write).map(|physical| (self.tables.ram, physical));
        found.ok_or(Fault {
            vector: vector::PAGE_FAULT.into(),
            error: u64::from(write) << 1 | u64::from(user) << 2,
            address,
        })
    }
}

/// No access of the guest's crosses a page.
impl Bus for Hardware<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Fault> {
        let (memory, place) = self.find(address, user, false)?;
        assert!(place % PAGE + bytes.len() as u64 <= PAGE && memory.load(place, bytes), "{address:#x}");
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Fault> {
        let (memory, place) = self.find(address, user, true)?;
        assert!(place % PAGE + bytes.len() as u64 <= PAGE && memory.store(place, bytes), "{address:#x}");
        Ok(())
    }
}

/// Why the wedge is entered.
#[derive(Clone, Copy)]
enum Cause {
    Exception(Fault),
    Event,
    Site,
    SiteWithoutStack,
    Iret,
}

impl Running {
    /// A guest that is about to execute its first instruction.
    fn new((mut machine, mut vcpu): OnVcpu, ready: session::Ready, clock: Rc<Cell<u64>>) -> Self {
        let mut state = State { rip: ready.entry, rflags: flags::FIXED | flags::INTERRUPT, ..State::default() };
        state.registers[6] = ready.boot_params;
        machine.host.store(offset::MASK, &[1]);
        Test::registers_changed(&mut machine.on(&mut vcpu), true);
        Self { machine, vcpu, state, clock, interrupted: None }
    }

    /// Runs the guest until it ends: then `Host::stop` unwinds.
    fn run(&mut self) -> ! {
        loop {
            self.clock.set(self.clock.get() + 1);
            assert!(self.clock.get() < PATIENCE, "the guest does not end: {:x?}", self.state);
            if self.interrupted == Some(self.clock.get() % PERIOD) && !self.is_masked() && !self.is_in_routine() {
                self.enter(Cause::Event);
            }
            match self.cause() {
                Some(cause) => self.enter(cause),
                None => self.step(),
            }
        }
    }

    fn step(&mut self) {
        let mut hardware = Hardware { tables: &self.machine.space.memory, window: self.machine.host };
        if let Err(fault) = self.state.step(&mut hardware) {
            FAULT.set(fault.address);
            self.enter(Cause::Exception(fault));
        }
    }

    /// Whether a stub has led to a routine of the host's.
    fn is_in_routine(&self) -> bool {
        !self.state.user && (WINDOW + offset::EMULATE..WINDOW + offset::STUBS).contains(&self.state.rip)
    }

    /// Whether events are masked: only in the kernel.
    fn is_masked(&self) -> bool {
        !self.state.user && word(self.machine.host, offset::MASK) & 0xff != 0
    }

    /// What happens before the next instruction.
    fn cause(&self) -> Option<Cause> {
        if !self.state.user
            && let Some(offset) = self.state.rip.checked_sub(WINDOW)
        {
            match offset {
                offset::EMULATE => return Some(Cause::Site),
                offset::EMULATE_WITHOUT_STACK => return Some(Cause::SiteWithoutStack),
                offset::INTERRUPT => return Some(Cause::Event),
                offset::IRET => return Some(Cause::Iret),
                _ => {}
            }
        }
        let deadline = self.machine.platform.deadline();
        let due = deadline.is_some_and(|deadline| deadline <= self.clock.get());
        if due && self.is_masked() {
            // Whoever sets IF finds it.
            self.machine.host.store(offset::PENDING, &[1]);
            return None;
        }
        due.then_some(Cause::Event)
    }

    /// Enters the wedge, and leaves it again.
    fn enter(&mut self, cause: Cause) {
        let mut context = self.save();
        self.machine.host.store(offset::MASK, &[1, 0]);
        let site = word(self.machine.host, offset::SITE) as usize;
        let vm = &mut self.machine.on(&mut self.vcpu);
        match cause {
            Cause::Exception(fault) => {
                (context.vector, context.error) = (fault.vector, fault.error);
                // INT3 is told behind the instruction (SDM Vol. 3A, 6.5.1, traps).
                context.rip += u64::from(fault.vector == vector::BREAKPOINT.into());
                vm.exception(&mut context);
            }
            Cause::Event => {
                if context.rip == WINDOW + offset::INTERRUPT {
                    Self::pop_return_address(vm, &mut context);
                }
                vm.event(&mut context);
            }
            Cause::Site => {
                Self::pop_return_address(vm, &mut context);
                vm.site_called(&mut context);
            }
            Cause::SiteWithoutStack => vm.site_jumped(&mut context, site),
            Cause::Iret => {
                if !vm.return_plainly(&mut context, site) {
                    vm.site_jumped(&mut context, site);
                }
            }
        }
        let exit = vm.leave(&mut context);
        self.load(&context, exit);
    }

    fn pop_return_address(vm: &mut Vm<'_, Test>, context: &mut Context) {
        context.rip = vm.machine.space.word(context.rsp).expect("a return address");
        context.rsp += 8;
    }

    /// The context of the guest, in its own words.
    fn save(&self) -> Context {
        let State { registers, rip, rflags, user } = self.state;
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers;
        let registers = Registers { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax };
        let masked = if self.is_masked() { flags::INTERRUPT } else { 0 };
        let (cs, ss) = if user { (linux::USER_CS, linux::USER_DS) } else { (linux::KERNEL_CS, linux::KERNEL_DS) };
        Context { registers, rip, rflags: rflags & !masked, rsp, cs, ss, ..Context::default() }
    }

    fn load(&mut self, context: &Context, exit: Exit) {
        let Context { registers: of, rip, rflags, rsp, .. } = *context;
        let registers = [
            of.rax, of.rcx, of.rdx, of.rbx, rsp, of.rbp, of.rsi, of.rdi, of.r8, of.r9, of.r10, of.r11, of.r12, of.r13,
            of.r14, of.r15,
        ];
        let masked = u8::from(exit == Exit::Kernel && rflags & flags::INTERRUPT == 0);
        self.machine.host.store(offset::MASK, &[masked]);
        self.state = State { registers, rip, rflags: rflags | flags::INTERRUPT, user: exit == Exit::User };
        debug_assert_eq!(self.state.registers[RSP], rsp);
    }
}
