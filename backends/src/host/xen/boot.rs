//! From Xen's entry to the guest's first instruction.
//!
//! As on bare hardware, what can be wrong is found out before the guest is loaded. Then the address
//! space is exchanged for the shadow's, in which nothing of Xen's start remains but the window;
//! what is needed of it later has been copied by then.

use core::fmt;
use core::ops::Range;

use annotate::instructions::Class;
use wedge::cpu::{Context, Registers};
use wedge::guest::layout::{Layout, WINDOW_LENGTH};
use wedge::guest::linux::boot_params::Display;
use wedge::guest::linux::{self, SYSTEM_CALL, StackSwitch, word};
use wedge::image::{LOAD_ADDRESS, Misplaced, Parameters, Span};
use wedge::loader::command_line::{CommandLine, words};
use wedge::loader::elf::{ElfError, Kernel};
use wedge::loader::handover;
use wedge::memory::MemoryMap;
use wedge::platform::Pci;
use wedge::shadow::{Memory as ShadowMemory, Notes, OutOfTables, Shadow, TableInfo};
use wedge::sites::{Deprivileged, Engine, INT3, Mode};
use wedge::vm::Space;
use wedge::x86::{flags, paging, vector};

use super::board::Board;
use super::cpu::{CPU, address};
use super::entry::{self, exit, xen_resume};
use super::guest::{Eviction, Kept, Springboard, Stacks};
use super::hypercall::{self, Refused};
use super::interface::{KERNEL_CS, KERNEL_SS, MACHINE_TO_PHYSICAL, StartInfo, TrapInfo};
use super::memory::{FEWEST_TABLES, LIMIT, LINEAR, Memory, MemoryError, Usable, pointer};
use super::processor::Processor;
use super::segments::Segments;
use super::tables::{Parts, Tables};
use super::traps;
use super::{console, console::use_ring};
use crate::Backend;
use crate::boot::options::{Options, Stack};
use crate::boot::selection::Protocol;
use crate::boot::session::{self, Boot, Contents, Ground, Loaded, PIECES, Pieces, Provided, Ready, Rewritten};
use crate::runtime::arena::Arena;
use crate::runtime::exclusive::{Exclusive, Pages};
use crate::runtime::{PAGE, entropy, own_length, parameters, say, window};

/// Addresses that the guest cannot have: Xen's and the linear mapping's, and the GB that ends with
/// the window.
static RESERVED: Exclusive<[Range<u64>; 2]> = Exclusive::new([MACHINE_TO_PHYSICAL..0xffff_8880_0000_0000, 0..0]);

static MEMORY: Exclusive<Memory> = Exclusive::new(Memory::empty());
/// A stack for the time until the guest has its own.
static FIRST_STACK: Pages<1> = Pages::new();

/// What Xen alone refuses, or the domain lacks.
#[derive(Debug)]
pub(super) enum Failure {
    Xen { what: &'static str, error: i64 },
    Memory(MemoryError),
    Misplaced(Misplaced),
    CommandLineText,
    Mode(Mode),
    Kernel(ElfError),
    NoRoom { what: &'static str, length: u64 },
    Pieces(&'static str),
    Unknown,
    Shadow(OutOfTables),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xen { what, error } => write!(f, "Xen refuses {what}, error {error}"),
            Self::Memory(error) => error.fmt(f),
            Self::Misplaced(error) => error.fmt(f),
            Self::CommandLineText => write!(f, "the command line that Xen hands over is not UTF-8"),
            Self::Mode(mode) => {
                write!(f, "afterburn.mode={mode}: that mode is for bare hardware; on Xen every site is taken over")
            }
            Self::Kernel(error) => error.fmt(f),
            Self::NoRoom { what, length } => write!(f, "no room for {what}, {length:#x} bytes in one piece"),
            Self::Pieces(what) => write!(f, "{what} lies in more than {PIECES} pieces of memory"),
            Self::Unknown => write!(f, "the domain's memory is looked at in the wrong order"),
            Self::Shadow(OutOfTables) => write!(f, "not even the first page tables find room"),
        }
    }
}

/// Says what Xen has refused.
fn refused(what: &'static str) -> impl Fn(Refused) -> Failure {
    move |Refused(error)| Failure::Xen { what, error }
}

/// Boots the guest. Returns only if that fails.
pub(super) fn boot(start: &'static StartInfo) {
    let privileged = start.flags & StartInfo::INITIAL_DOMAIN != 0;
    if let Err(failure) = connect(start, privileged) {
        say!("{failure}");
    } else if let Some(ready) = session::boot(Domain { start, privileged, payload: 0..0, laid: None }) {
        enter(ready)
    }
}

/// Enters the guest as on bare hardware, with what it believes to be paging by its own tables.
fn enter(ready: Ready) -> ! {
    let mut context = Context {
        registers: Registers { rsi: ready.boot_params, ..Registers::default() },
        rip: ready.entry,
        cs: KERNEL_CS,
        rflags: flags::FIXED,
        rsp: FIRST_STACK.address(0) + PAGE,
        ss: KERNEL_SS,
        ..Context::default()
    };
    // SAFETY: the plan has put a kernel there; the context is on the wedge's stack, which is free
    // from here on.
    unsafe { xen_resume(&raw mut context, exit::KERNEL) }
}

/// The domain, as Xen has made it.
struct Domain {
    start: &'static StartInfo,
    privileged: bool,
    /// Pseudo-physical frames of the payload.
    payload: Range<u64>,
    /// Its memory, once that is found out, and where in it the shadow works.
    laid: Option<(&'static Memory, ShadowPlace)>,
}

impl Boot for Domain {
    type Error = Failure;
    type Memory<'a> = Usable<'a>;

    const BACKEND: Backend = Backend::Xen;

    fn image(&self) -> (Parameters, u64, u64) {
        (parameters(), own_length(), WINDOW_LENGTH - LOAD_ADDRESS)
    }

    fn window(&self) -> u64 {
        window()
    }

    fn payload(&mut self, parameters: &Parameters) -> Result<&'static [u8], Failure> {
        let Span { offset, length } = parameters.payload;
        let start = LOAD_ADDRESS + offset;
        // Xen puts its list of frames behind the image (`xen.h`, "Start-of-day memory layout").
        if window() + start + length > self.start.mfn_list {
            return Err(Failure::Misplaced(Misplaced::Payload(parameters.payload)));
        }
        self.payload = start / PAGE..(start + length).div_ceil(PAGE);
        // SAFETY: Xen has loaded the image to the window, and mapped all up to its list; nobody
        // writes there.
        Ok(unsafe { core::slice::from_raw_parts(pointer(window() + start), length as usize) })
    }

    fn entered(&self) -> (Protocol, Option<[u8; 12]>) {
        (Protocol::XenPv, None)
    }

    /// In front is what the guest would otherwise have to measure by a timer that is not there: Xen
    /// knows how fast the time-stamp counter is. Behind, where it counts, the guest is told not to
    /// isolate its page tables: there is a root without the kernel for user mode anyway, and all
    /// others have to have the same in the kernel's part. And not to look for interrupts by
    /// messages, of which Linux takes for granted on a PC that they are there: they go to an APIC.
    fn command_line(&self, of_image: &str) -> Result<CommandLine, session::Failure<'static, Failure>> {
        let line = self.start.command_line.split(|byte| *byte == 0).next().unwrap_or_default();
        let line = core::str::from_utf8(line).map_err(|_| session::Failure::Host(Failure::CommandLineText))?;
        let ticks = super::board::ticks_per_millisecond();
        let frequency = format_args!("{}={ticks} {}", word::TSC_FREQUENCY, word::TSC_IS_RELIABLE);
        let frequency = CommandLine::written(frequency).map_err(session::Failure::CommandLine)?;
        let join = |front: &str, behind: &str| CommandLine::join(front, behind).map_err(session::Failure::CommandLine);
        let joined = join(of_image, line)?;
        let joined = join(frequency.as_str(), joined.as_str())?;
        if words(joined.as_str()).any(|found| found.name == word::ISOLATION && found.value == Some("on")) {
            say!("pti=on has no effect on Xen: user mode has page tables of its own, without the kernel");
        }
        let joined = join(joined.as_str(), word::NO_ISOLATION)?;
        join(joined.as_str(), word::NO_MESSAGES)
    }

    fn accept(&self, options: &Options) -> Result<(), Failure> {
        if options.mode == Mode::Identity {
            return Err(Failure::Mode(options.mode));
        }
        let domain = if self.privileged { "dom0" } else { "domU" };
        say!("backend {}, {domain}, entered by {}", Self::BACKEND, Protocol::XenPv);
        if let Some(stack) = options.evict {
            say!("afterburn.evict={stack}: that stack is evicted all the time");
        }
        Ok(())
    }

    fn lay_out(&mut self, image: &Contents<'_>) -> Result<Ground, Failure> {
        let arena = image.parameters.arena;
        let memory = MEMORY.take();
        // SAFETY: nothing has been mapped yet.
        unsafe { memory.set_up(self.start, LOAD_ADDRESS + arena.offset + arena.length).map_err(Failure::Memory)? };
        if !self.privileged {
            let ring = LINEAR + self.start.console_mfn * PAGE;
            // SAFETY: the linear mapping stays; the ring lies behind the payload, among the pages
            // that the guest is not given.
            unsafe { use_ring(ring, self.start.console_event_channel) };
        }
        let (ground, shadow) = lay_out(memory, image, &self.payload, self.start)?;
        self.laid = Some((memory, shadow));
        Ok(ground)
    }

    fn memory<'a>(&self, map: &'a MemoryMap) -> Result<Usable<'a>, Failure> {
        let (memory, _) = self.laid.ok_or(Failure::Unknown)?;
        // SAFETY: the plan keeps off the payload; the rest of the domain's memory is nobody's.
        Ok(unsafe { Usable::new(map, memory) })
    }

    fn prepare(&mut self, _: &Loaded<'_>, _: &mut [u8]) -> Result<(), Failure> {
        write_first_tables();
        Ok(())
    }

    fn engine(&mut self, contents: &Contents<'_>) -> Engine<'static> {
        // SAFETY: the arena is in the window, and this is the only call.
        Engine::deprivileged(sites_see(), contents.options.mode, unsafe {
            Arena::new(contents.parameters.arena).memory(window())
        })
    }

    fn take_over(self, rewritten: Rewritten<'_>, image: &mut [u8]) -> Result<(), Failure> {
        let (memory, shadow) = self.laid.ok_or(Failure::Unknown)?;
        take_over(rewritten, image, memory, shadow, self.privileged)
    }
}

/// Maps what the domain shares with Xen, and takes Xen's calls.
fn connect(start: &StartInfo, privileged: bool) -> Result<(), Failure> {
    let shared = start.shared_info | paging::entry::TABLE & !paging::entry::USER;
    // SAFETY: the page is a place for this mapping.
    unsafe { hypercall::update_va_mapping(CPU.shared.address(), shared) }.map_err(refused("the shared page"))?;
    if !privileged {
        // SAFETY: Xen shows the table to every guest, and has mapped the console's page like all
        // that the domain booted with.
        unsafe {
            let frame = pointer::<u64>(MACHINE_TO_PHYSICAL + 8 * start.console_mfn).read();
            use_ring(window() + frame * PAGE, start.console_event_channel);
        }
    }
    set_traps().map_err(refused("the exception handlers"))
}

fn set_traps() -> Result<(), Refused> {
    const MASK_EVENTS: u8 = 4;
    const CALLBACK_FAILSAFE: u16 = 1;
    const CALLBACK_SYSCALL: u16 = 2;
    const CALLBACK_SYSENTER: u16 = 5;
    const CALLBACK_SYSCALL32: u16 = 7;
    let mut table = [TrapInfo { vector: 0, flags: 0, cs: 0, address: 0 }; entry::EXCEPTIONS.count() + 2];
    let vectors = (0..=u8::MAX).filter(|vector| entry::EXCEPTIONS.contains(*vector) || *vector == SYSTEM_CALL);
    for (number, (trap, vector)) in table.iter_mut().zip(vectors).enumerate() {
        // INT3, INTO and INT 80H are for user mode too, if the guest's gates say so.
        let level = if [vector::BREAKPOINT, vector::OVERFLOW, SYSTEM_CALL].contains(&vector) { 3 } else { 0 };
        // SAFETY: filled in by the assembler.
        let address = unsafe { entry::xen_handlers[number] };
        *trap = TrapInfo { vector, flags: level | MASK_EVENTS, cs: KERNEL_CS as u16, address };
    }
    let address = |routine: unsafe extern "C" fn()| routine as *const () as u64;
    // SAFETY: the handlers are made for Xen's frames.
    unsafe {
        hypercall::set_trap_table(&table)?;
        let (event, failsafe) = (address(entry::xen_event), address(entry::xen_failsafe));
        hypercall::set_callbacks(event, failsafe, address(entry::xen_syscall))?;
        // Again, for only so are they entered with events masked.
        hypercall::register_callback(CALLBACK_FAILSAFE, failsafe)?;
        hypercall::register_callback(CALLBACK_SYSCALL, address(entry::xen_syscall))?;
        hypercall::register_callback(CALLBACK_SYSENTER, address(entry::xen_sysenter))?;
        hypercall::register_callback(CALLBACK_SYSCALL32, address(entry::xen_syscall32))?;
        hypercall::stack_switch(KERNEL_SS, CPU.stack.end())?;
    }
    CPU.syscall_target.store(address(entry::xen_syscall_slow), core::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// What the shadow works in.
#[derive(Clone, Copy)]
struct ShadowPlace {
    address: u64,
    tables: u64,
    /// What is evicted from it all the time.
    evict: Option<Stack>,
}

/// Bytes beside each page table.
const BESIDE: u64 = (size_of::<Notes>() + size_of::<TableInfo>() + size_of::<u32>()) as u64;

fn lay_out(
    memory: &mut Memory,
    image: &Contents<'_>,
    payload: &Range<u64>,
    start: &StartInfo,
) -> Result<(Ground, ShadowPlace), Failure> {
    let own = [0..WINDOW_LENGTH / PAGE, payload.end..memory.boot_end()];
    let mut map = memory.make_map(&own).map_err(Failure::Memory)?;
    let mut busy = Pieces::new();
    for range in memory.machine_ranges(payload.clone()) {
        busy.add(range).ok_or(Failure::Pieces("the image"))?;
    }
    let place = |map: &MemoryMap, length, alignment, what| {
        let place = map.place(busy.as_slice().iter().cloned(), length, alignment, LIMIT);
        place.ok_or(Failure::NoRoom { what, length })
    };
    let pool = memory.pool();
    // The last page of the pool is none of them. One page in 64 for page tables is more than a real
    // kernel has.
    let spare = pool.end - pool.start - 1;
    let tables = spare.min((memory.pages() / 64).max(FEWEST_TABLES));
    let tables = image.options.tables.map_or(tables, |most| tables.min(most.into()));
    let length = (tables * BESIDE).next_multiple_of(PAGE);
    let address = place(&map, length, PAGE, "the shadow of the page tables")?;
    map.reserve(&(address..address + length)).map_err(MemoryError::Map).map_err(Failure::Memory)?;
    let extent = Kernel::parse(image.payload.kernel).map_err(Failure::Kernel)?.extent();
    let kernel = place(&map, extent.end - extent.start, 2 << 20, "the kernel")?;
    memory.set_map(&map);
    let modules = modules(start, memory)?;
    let display = Display::None;
    let ground =
        Ground { map, busy, modules, kernel: Some(kernel), setup_data: 0, rsdp: 0, display, entropy: entropy() };
    Ok((ground, ShadowPlace { address, tables, evict: image.options.evict }))
}

/// What the boot loader has added to the image's archive: machine addresses, in as many pieces as
/// it lies in.
fn modules(start: &StartInfo, memory: &Memory) -> Result<Pieces, Failure> {
    let mut modules = Pieces::new();
    if start.flags & StartInfo::MODULE_IS_FRAME != 0 {
        let mut rest = start.mod_len;
        for range in memory.machine_ranges(start.mod_start..start.mod_start + rest.div_ceil(PAGE)) {
            let length = (range.end - range.start).min(rest);
            modules.add(range.start..range.start + length).ok_or(Failure::Pieces("the initramfs"))?;
            rest -= length;
        }
    }
    Ok(modules)
}

/// Makes the machine, and changes to the guest's address space.
fn take_over(
    rewritten: Rewritten<'_>,
    image: &mut [u8],
    memory: &'static Memory,
    place: ShadowPlace,
    privileged: bool,
) -> Result<(), Failure> {
    let Loaded { contents, moved, kernel, extent } = &rewritten.loaded;
    let (address, extent, layout) = (kernel.start, extent.clone(), contents.payload.layout);
    let segments = Segments::new(memory).map_err(refused("descriptor tables"))?;
    let mut board = Board::new(privileged, console::port()).map_err(refused("event channels"))?;
    let (mut tables, working) = shadow_memory(memory, place, layout, privileged);
    let reserved = RESERVED.take();
    reserved[1] = layout.reserved();
    let switch = find_stack_switch(contents.payload.guest.stack_switch.wrapping_add(*moved), image, address);
    let engine = &rewritten.engine;
    let stacks = Stacks::new(engine, trap_stack_change(engine, image, address), switch);
    let sysret = engine.sysret().unwrap_or(usize::MAX);
    let shadow = Shadow::new(working, layout, reserved, handover::MODE, handover::TABLES, &mut tables);
    let shadow = shadow.map_err(Failure::Shadow)?;
    let springboard = Springboard::new(&mut tables).ok_or(Failure::Shadow(OutOfTables))?;
    if privileged {
        board.take_lines();
    }
    let provided = Provided {
        space: Space { shadow, memory: tables },
        pci: if privileged { Pci::PassedThrough } else { Pci::Absent },
        board,
        processor: Processor::new(segments, springboard),
        kept: Kept { stacks, sysret, eviction: place.evict.map(Eviction::new) },
        regions: crate::runtime::modules::WATCHED.take(),
    };
    let (mut machine, mut vcpu) = rewritten.on_host(provided, handover::processor);
    machine.on(&mut vcpu).reach_image(extent);
    traps::stay(machine, vcpu);
    Ok(())
}

/// Makes a breakpoint of the site behind which the kernel goes to a stack where nothing can be
/// pushed. Returns its address.
fn trap_stack_change(engine: &Engine<'static>, image: &mut [u8], address: u64) -> Option<u64> {
    let swapgs = engine.sites().filter(|(_, entry)| entry.class() == Class::Swapgs);
    let site = linux::unwritable_stack(image, address, swapgs.map(|(_, entry)| entry.address()..entry.end()))?;
    *image.get_mut(site.wrapping_sub(address) as usize)? = INT3;
    Some(site)
}

/// The change of stacks in the function of that name.
fn find_stack_switch(function: u64, image: &[u8], address: u64) -> Option<StackSwitch> {
    /// It stands near its start.
    const NEAR: usize = 64;
    let start = usize::try_from(function.checked_sub(address)?).ok()?;
    linux::stack_switch(image.get(start..start.checked_add(NEAR)?)?, function)
}

/// What rewritten sites refer to.
fn sites_see() -> Deprivileged {
    let page = CPU.shared.address();
    let routine = |routine: unsafe extern "C" fn()| routine as *const () as u64;
    let mut control = [0; 9];
    for register in [0, 2, 3, 4] {
        control[register] = address(&CPU.control[register]);
    }
    Deprivileged {
        mask: page + 1,
        pending: page,
        gs_swapped: address(&CPU.gs_swapped),
        control,
        site: address(&CPU.site),
        emulate: routine(entry::xen_emulate),
        emulate_without_stack: routine(entry::xen_emulate_without_stack),
        interrupt: routine(entry::xen_interrupt),
        iret: routine(entry::xen_iret),
        sysret: routine(entry::xen_sysret),
        code_selector: KERNEL_CS as u16,
        stack_selector: KERNEL_SS as u16,
        virtual_selectors: false,
        counts: false,
        own_floating_point: false,
    }
}

/// What a boot loader leaves to Linux.
fn write_first_tables() {
    // SAFETY: the first MB of the window shows the guest's, which nobody has yet.
    unsafe {
        pointer::<[u8; 0x10_0000]>(window()).write_bytes(0, 1);
        for (address, word) in handover::words() {
            pointer::<u64>(window() + address).write(word);
        }
    }
}

/// The pool of tables, and what the shadow keeps beside each.
fn shadow_memory(
    memory: &'static Memory,
    place: ShadowPlace,
    layout: &'static Layout,
    devices: bool,
) -> (Tables, ShadowMemory<'static>) {
    let count = place.tables as usize;
    let notes = LINEAR + place.address;
    let information = notes + (count * size_of::<Notes>()) as u64;
    let free = information + (count * size_of::<TableInfo>()) as u64;
    let pool = memory.pool();
    let frames = pool.start..pool.start + place.tables;
    for number in 0..count {
        // SAFETY: reserved for this, by `lay_out`.
        unsafe { pointer::<TableInfo>(information).add(number).write(TableInfo::UNUSED) };
    }
    // SAFETY: as above; three pieces that do not overlap, each aligned; any value is valid for the
    // numbers.
    unsafe {
        let free = core::slice::from_raw_parts_mut(pointer(free), count);
        let nothing = memory.machine_address(pool.end - 1);
        let tables = Tables::new(Parts { memory, frames, free, layout, devices, nothing });
        let notes = core::slice::from_raw_parts_mut(pointer(notes), count);
        let information = core::slice::from_raw_parts_mut(pointer(information), count);
        (tables, ShadowMemory { tables: information, notes })
    }
}
