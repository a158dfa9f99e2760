//! From Xen's entry to the guest's first instruction.
//!
//! As on bare hardware, what can be wrong is found out before the guest is loaded. Then the address space is exchanged for
//! the shadow's, in which nothing of Xen's start remains but the window; what is needed of it later has been copied by then.

use core::fmt::{self, Write as _};
use core::ops::Range;

use annotate::instructions::Class;
use wedge::cpu::{Context, Limits, Registers, Table, VirtualCpu};
use wedge::guest::linux::{self, StackSwitch};
use wedge::image::{Damage, LOAD_ADDRESS, Misplaced, Payload, Span};
use wedge::loader::boot_params::Display;
use wedge::loader::command_line::{CommandLine, CommandLineError, words};
use wedge::loader::elf::{ElfError, Kernel};
use wedge::loader::initramfs::Archives;
use wedge::loader::{Guest, LoadError, Plan};
use wedge::memory::{MemoryMap, OutOfMemory, PhysicalMemory as _};
use wedge::platform::{Pci, Platform};
use wedge::shadow::{Memory as ShadowMemory, Mode as PagingMode, Notes, OutOfTables, Shadow, TableInfo};
use wedge::sites::{Engine, Lost, Mode, Refusal, Virtual};
use wedge::vm::port::Port;
use wedge::vm::{Account, Machine, Space, Text, Vcpu, paging_mode};

use super::board::Board;
use super::entry::{self, CONTROL, GS_SWAPPED, SHARED_PAGE, SITE, SYSCALL_TARGET, exit, xen_resume};
use super::hypercall::{self, Refused};
use super::interface::{KERNEL_CS, KERNEL_SS, MACHINE_TO_PHYSICAL, StartInfo, TrapInfo};
use super::memory::{FEWEST_TABLES, LIMIT, LINEAR, Memory, MemoryError, Usable, pointer};
use super::narrow_stack::Springboard;
use super::processor::Processor;
use super::segments::Segments;
use super::stacks::Stacks;
use super::tables::{Parts, Tables};
use super::traps::{self, Vm, Xen};
use super::{console, console::use_ring};
use crate::Backend;
use crate::boot::options::{InvalidOption, Options};
use crate::boot::selection::{Entry, Impossible, select};
use crate::runtime::arena::Arena;
use crate::runtime::exclusive::Pages;
use crate::runtime::sites::rewrite_sites;
use crate::runtime::{PAGE, WINDOW, WINDOW_LENGTH, entropy, own_length, parameters, say};

/// Addresses that the guest cannot have: Xen's and the linear mapping's, and the GB that ends with the window.
static RESERVED: [Range<u64>; 2] =
    [0xffff_8000_0000_0000..0xffff_8880_0000_0000, 0xffff_ffff_4000_0000..0xffff_ffff_8000_0000];

/// Where the guest finds what a boot loader leaves in memory, below 1 MB.
const FIRST_TABLES: u64 = 0x1000;
const FIRST_DESCRIPTORS: u64 = 0x3000;

static mut MEMORY: Memory = Memory::empty();
static mut COMMAND_LINE: Option<CommandLine> = None;
/// A stack for the time until the guest has its own.
static FIRST_STACK: Pages<1> = Pages::new();

/// The paging mode that the guest is entered in, as far as its first tables can tell.
const FIRST_MODE: PagingMode =
    PagingMode { pcid: false, global: false, write_protect: false, no_execute: false, physical_bits: 36 };

/// Why a boot ends before it has begun.
#[derive(Debug)]
pub(super) enum Failure<'a> {
    NotPacked,
    Xen { what: &'static str, error: i64 },
    Memory(MemoryError),
    Misplaced(Misplaced),
    Payload(Damage),
    CommandLine(CommandLineError),
    CommandLineText,
    Option(InvalidOption<'a>),
    Backend(Impossible),
    Mode(Mode),
    Kernel(ElfError),
    NoRoom { what: &'static str, length: u64 },
    Pieces(&'static str),
    Load(LoadError),
    Loaded(OutOfMemory),
    Sites(Refusal),
    Lost(Lost),
    Shadow(OutOfTables),
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPacked => {
                write!(f, "this is the wedge alone; `afterburner pack` makes an image of it and a kernel")
            }
            Self::Xen { what, error } => write!(f, "Xen refuses {what}, error {error}"),
            Self::Memory(error) => error.fmt(f),
            Self::Misplaced(error) => error.fmt(f),
            Self::Payload(error) => error.fmt(f),
            Self::CommandLine(error) => error.fmt(f),
            Self::CommandLineText => write!(f, "the command line that Xen hands over is not UTF-8"),
            Self::Option(error) => error.fmt(f),
            Self::Backend(error) => error.fmt(f),
            Self::Mode(mode) => {
                write!(f, "afterburn.mode={mode}: modes are for bare hardware; on Xen every site is taken over")
            }
            Self::Kernel(error) => error.fmt(f),
            Self::NoRoom { what, length } => write!(f, "no room for {what}, {length:#x} bytes in one piece"),
            Self::Pieces(what) => write!(f, "{what} lies in more than {PIECES} pieces of memory"),
            Self::Load(error) => error.fmt(f),
            Self::Loaded(error) => error.fmt(f),
            Self::Sites(refusal) => write!(f, "the table of sites is refused: {refusal}"),
            Self::Lost(Lost { count, address, class, reason }) => {
                write!(
                    f,
                    "{count} sites cannot be taken and would do something else without privileges; the first is "
                )?;
                write!(f, "{class} at {address:#x} ({reason}): this kernel cannot run on Xen")
            }
            Self::Shadow(OutOfTables) => write!(f, "not even the first page tables find room"),
        }
    }
}

/// Says what Xen has refused.
fn refused(what: &'static str) -> impl Fn(Refused) -> Failure<'static> {
    move |Refused(error)| Failure::Xen { what, error }
}

/// Boots the guest. Returns only if that fails.
pub(super) fn boot(start: &StartInfo) -> Failure<'static> {
    match prepare(start) {
        Ok(ready) => ready.enter(),
        Err(failure) => failure,
    }
}

/// A guest that is loaded, and a machine for it.
struct Ready {
    entry: u64,
    boot_params: u64,
}

impl Ready {
    /// Enters the guest as on bare hardware, with what it believes to be paging by its own tables.
    fn enter(self) -> ! {
        let mut context = Context {
            registers: Registers { rsi: self.boot_params, ..Registers::default() },
            rip: self.entry,
            cs: KERNEL_CS,
            rflags: 2,
            rsp: FIRST_STACK.address(0) + PAGE,
            ss: KERNEL_SS,
            ..Context::default()
        };
        // SAFETY: the plan has put a kernel there; the context is on the wedge's stack, which is free from here on.
        unsafe { xen_resume(&raw mut context, exit::KERNEL) }
    }
}

fn prepare(start: &StartInfo) -> Result<Ready, Failure<'static>> {
    let privileged = start.flags & StartInfo::INITIAL_DOMAIN != 0;
    connect(start, privileged)?;
    let parameters = parameters();
    if parameters.payload.length == 0 {
        return Err(Failure::NotPacked);
    }
    parameters.check(own_length(), WINDOW_LENGTH - LOAD_ADDRESS).map_err(Failure::Misplaced)?;
    let payload_start = WINDOW + LOAD_ADDRESS + parameters.payload.offset;
    let payload = loaded(start, parameters.payload)?;
    let contents = Payload::check(payload).map_err(Failure::Payload)?;
    contents.check_arena(parameters.arena).map_err(Failure::Payload)?;
    let command_line = command_line(&contents, start)?;
    let options = Options::parse(command_line.as_str()).map_err(Failure::Option)?;
    let backend = select(options.backend, Entry::XenPv, None).map_err(Failure::Backend)?;
    if options.mode != Mode::default() {
        return Err(Failure::Mode(options.mode));
    }
    let domain = if privileged { "dom0" } else { "domU" };
    say!("backend {backend}, {domain}, entered by {}", Entry::XenPv);
    debug_assert_eq!(backend, Backend::Xen);

    let own_end = LOAD_ADDRESS + parameters.arena.offset + parameters.arena.length;
    let place = &raw mut MEMORY;
    // SAFETY: the only call, and the only reference.
    let memory: &'static mut Memory = unsafe { &mut *place };
    // SAFETY: nothing has been mapped yet.
    unsafe { memory.set_up(start, own_end).map_err(Failure::Memory)? };
    if !privileged {
        // SAFETY: the linear mapping stays; the ring lies behind the payload, among the pages that the guest is not given.
        unsafe { use_ring(LINEAR + start.console_mfn * PAGE, start.console_event_channel) };
    }
    let payload_frames =
        (payload_start - WINDOW) / PAGE..(payload_start - WINDOW + payload.len() as u64).div_ceil(PAGE);
    let laid = lay_out(memory, &contents, &payload_frames, options.tables)?;
    let memory: &'static Memory = memory;
    let modules = Modules::find(start, memory)?;
    let archives = Archives { own: contents.initramfs, modules: &modules.ranges[..modules.count] };
    let plan = laid.plan(&contents, archives, command_line)?;
    // SAFETY: the plan keeps off the payload; the rest of the domain's memory is nobody's.
    let mut usable = unsafe { Usable::new(&laid.map, memory) };
    plan.load(&mut usable).map_err(Failure::Loaded)?;
    take_over(&plan, &contents, &mut usable, memory, laid.shadow, &parameters, privileged)?;
    Ok(Ready { entry: plan.kernel.entry(), boot_params: plan.boot_params })
}

/// The bytes of the payload, which the image says to lie there.
fn loaded(start: &StartInfo, payload: Span) -> Result<&'static [u8], Failure<'static>> {
    let address = WINDOW + LOAD_ADDRESS + payload.offset;
    // Xen puts its list of frames behind the image (`xen.h`, "Start-of-day memory layout").
    if address + payload.length > start.mfn_list {
        return Err(Failure::Misplaced(Misplaced::Payload(payload)));
    }
    // SAFETY: Xen has loaded the image to the window, and mapped all up to its list; nobody writes there.
    Ok(unsafe { core::slice::from_raw_parts(pointer(address), payload.length as usize) })
}

/// Maps what the domain shares with Xen, and takes Xen's calls.
fn connect(start: &StartInfo, privileged: bool) -> Result<(), Failure<'static>> {
    let shared = start.shared_info | super::memory::entry::TABLE & !super::memory::entry::USER;
    // SAFETY: the page is a place for this mapping.
    unsafe { hypercall::update_va_mapping(SHARED_PAGE.address(), shared) }.map_err(refused("the shared page"))?;
    if !privileged {
        // SAFETY: Xen shows the table to every guest, and has mapped the console's page like all that the domain booted with.
        unsafe {
            let frame = pointer::<u64>(MACHINE_TO_PHYSICAL + 8 * start.console_mfn).read();
            use_ring(WINDOW + frame * PAGE, start.console_event_channel);
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
    let mut table = [TrapInfo { vector: 0, flags: 0, cs: 0, address: 0 }; entry::VECTORS.len() + 1];
    for (trap, (number, vector)) in table.iter_mut().zip(entry::VECTORS.into_iter().enumerate()) {
        // INT3, INTO and INT 80H are for user mode too, if the guest's gates say so.
        let level = if [3, 4, 0x80].contains(&vector) { 3 } else { 0 };
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
        hypercall::stack_switch(KERNEL_SS, (&raw const entry::xen_stack_end).addr() as u64)?;
    }
    SYSCALL_TARGET.store(address(entry::xen_syscall_slow), core::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// The image's command line and Xen's, in the wedge's own memory. In front of them is what the guest would otherwise have to
/// measure by a timer that is not there: Xen knows how fast the time-stamp counter is. Behind them, where it counts, the guest is
/// told not to isolate its page tables: there is a root without the kernel for user mode anyway, and all others have to have
/// the same kernel half.
fn command_line(contents: &Payload<'_>, start: &StartInfo) -> Result<&'static CommandLine, Failure<'static>> {
    let line = start.command_line.split(|byte| *byte == 0).next().unwrap_or_default();
    let line = core::str::from_utf8(line).map_err(|_| Failure::CommandLineText)?;
    let joined = CommandLine::join(contents.command_line, line).map_err(Failure::CommandLine)?;
    let mut frequency = Words { bytes: [0; 48], length: 0 };
    let _ = write!(frequency, "tsc_early_khz={} tsc=reliable", super::board::ticks_per_millisecond());
    let joined = CommandLine::join(frequency.as_str(), joined.as_str()).map_err(Failure::CommandLine)?;
    if words(joined.as_str()).any(|word| word.name == "pti" && word.value == Some("on")) {
        say!("pti=on has no effect on Xen: user mode has page tables of its own, without the kernel");
    }
    let joined = CommandLine::join(joined.as_str(), "pti=off").map_err(Failure::CommandLine)?;
    let place = &raw mut COMMAND_LINE;
    // SAFETY: the guest does not run yet, and this is called once.
    let place = unsafe { &mut *place };
    Ok(place.insert(joined))
}

/// As many pieces as something may lie in that Xen has loaded: 128 MB, in the pieces of 2 MB that a toolstack takes.
const PIECES: usize = 64;

/// A word for the guest.
struct Words {
    bytes: [u8; 48],
    length: usize,
}

impl Words {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// Who gets which part of the memory.
struct Layout {
    map: MemoryMap,
    /// Machine addresses of the payload.
    busy: [Range<u64>; PIECES],
    busy_count: usize,
    kernel: u64,
    shadow: ShadowPlace,
}

/// What the shadow works in.
#[derive(Clone, Copy)]
struct ShadowPlace {
    address: u64,
    tables: u64,
}

/// Bytes beside each page table.
const BESIDE: u64 = (size_of::<Notes>() + size_of::<TableInfo>() + size_of::<u32>()) as u64;

fn lay_out(
    memory: &mut Memory,
    contents: &Payload<'_>,
    payload: &Range<u64>,
    most: Option<u32>,
) -> Result<Layout, Failure<'static>> {
    let own = [0..WINDOW_LENGTH / PAGE, payload.end..memory.boot_end()];
    let mut map = memory.make_map(&own).map_err(Failure::Memory)?;
    let mut busy = [const { 0..0 }; PIECES];
    let mut busy_count = 0;
    for range in memory.machine_ranges(payload.clone()) {
        *busy.get_mut(busy_count).ok_or(Failure::Pieces("the image"))? = range;
        busy_count += 1;
    }
    let place = |map: &MemoryMap, length, alignment, what| {
        let place = map.place(busy[..busy_count].iter().cloned(), length, alignment, LIMIT);
        place.ok_or(Failure::NoRoom { what, length })
    };
    let pool = memory.pool();
    // The last page of the pool is none of them. One page in 64 for page tables is more than a real kernel has.
    let spare = pool.end - pool.start - 1;
    let tables = spare.min((memory.pages() / 64).max(FEWEST_TABLES));
    let tables = most.map_or(tables, |most| tables.min(most.into()));
    let length = (tables * BESIDE).next_multiple_of(PAGE);
    let address = place(&map, length, PAGE, "the shadow of the page tables")?;
    map.reserve(&(address..address + length)).map_err(MemoryError::Map).map_err(Failure::Memory)?;
    let extent = Kernel::parse(contents.kernel).map_err(Failure::Kernel)?.extent();
    let kernel = place(&map, extent.end - extent.start, 2 << 20, "the kernel")?;
    memory.set_map(&map);
    Ok(Layout { map, busy, busy_count, kernel, shadow: ShadowPlace { address, tables } })
}

impl Layout {
    fn plan<'a>(
        &'a self,
        contents: &Payload<'a>,
        initramfs: Archives<'a>,
        command_line: &'a CommandLine,
    ) -> Result<Plan<'a>, Failure<'static>> {
        let guest = Guest {
            kernel: contents.kernel,
            relocations: contents.relocations,
            physical: Some(self.kernel),
            command_line,
            initramfs,
            map: &self.map,
            rsdp: 0,
            display: Display::None,
            entropy: entropy(),
        };
        guest.plan(&self.busy[..self.busy_count]).map_err(Failure::Load)
    }
}

/// What the boot loader has added to the image's archive: machine addresses, in as many pieces as it lies in.
struct Modules {
    ranges: [Range<u64>; PIECES],
    count: usize,
}

impl Modules {
    fn find(start: &StartInfo, memory: &Memory) -> Result<Self, Failure<'static>> {
        let mut modules = Self { ranges: [const { 0..0 }; PIECES], count: 0 };
        if start.flags & StartInfo::MODULE_IS_FRAME != 0 {
            let mut rest = start.mod_len;
            for range in memory.machine_ranges(start.mod_start..start.mod_start + rest.div_ceil(PAGE)) {
                let length = (range.end - range.start).min(rest);
                let place = modules.ranges.get_mut(modules.count).ok_or(Failure::Pieces("the initramfs"))?;
                *place = range.start..range.start + length;
                modules.count += 1;
                rest -= length;
            }
        }
        Ok(modules)
    }
}

/// Makes the machine, rewrites the sites, and changes to the guest's address space.
fn take_over(
    plan: &Plan<'_>,
    contents: &Payload<'_>,
    usable: &mut Usable<'_>,
    memory: &'static Memory,
    shadow: ShadowPlace,
    parameters: &wedge::image::Parameters,
    privileged: bool,
) -> Result<(), Failure<'static>> {
    let moved = u64::from(plan.offset.unwrap_or(0));
    let extent = plan.kernel.extent();
    let image = usable.bytes(extent.start, extent.end - extent.start).map_err(Failure::Loaded)?;
    let address = plan.kernel.virtual_extent().start.wrapping_add(moved);
    let arena = Arena::new(parameters.arena);
    write_first_tables();
    let segments = Segments::new(memory).map_err(refused("descriptor tables"))?;
    let board = Board::new(privileged, console::port()).map_err(refused("event channels"))?;
    let (mut tables, working) = shadow_memory(memory, shadow, privileged);
    // SAFETY: the arena is in the window, and this is the only call.
    let mut engine = Engine::deprivileged(sites_see(), unsafe { arena.memory() });
    let text = wedge::sites::Piece { bytes: image, address };
    let summary = rewrite_sites(&mut engine, contents, moved, text).map_err(Failure::Sites)?;
    if let Some(lost) = summary.lost() {
        return Err(Failure::Lost(lost));
    }
    let image = usable.bytes(extent.start, extent.end - extent.start).map_err(Failure::Loaded)?;
    let switch = find_stack_switch(contents.guest.stack_switch.wrapping_add(moved), image, address);
    let stacks = Stacks::new(&engine, trap_stack_change(&engine, image, address), switch);
    let shadow = Shadow::new(working, &RESERVED, FIRST_MODE, FIRST_TABLES, &mut tables).map_err(Failure::Shadow)?;
    let springboard = Springboard::new(&mut tables).ok_or(Failure::Shadow(OutOfTables))?;
    let pci = if privileged { Pci::PassedThrough } else { Pci::Absent };
    let modules = contents.guest.modules_start..contents.guest.modules_end;
    let platform = Platform::new(pci);
    let account = Account { moved, sites: summary.sites(), rewritten: summary.rewritten(), ..Account::default() };
    let mut machine = Machine {
        space: Space { shadow, memory: tables },
        platform,
        board,
        processor: Processor::new(segments),
        touched: true,
        flushed: false,
        modules: modules.clone(),
        port: Port::new(),
        account,
    };
    let mut cpu = VirtualCpu::new(Limits::of(&mut machine));
    cpu.cr3 = FIRST_TABLES;
    cpu.gdt = Table { base: FIRST_DESCRIPTORS, limit: 4 * 8 - 1 };
    machine.space.shadow.set_mode(paging_mode(&cpu), &mut machine.space.memory);
    let sysret =
        engine.entries().find(|(_, entry)| entry.class() == Class::Sysret && entry.original().starts_with(&[0x48]));
    let sysret = sysret.map_or(usize::MAX, |(number, _)| number);
    let regions = crate::runtime::modules::WATCHED.take();
    let kernel = address..address + (extent.end - extent.start);
    let head_distance = extent.start.wrapping_sub(address);
    let window = WINDOW..WINDOW + WINDOW_LENGTH;
    let mut vm = Vm {
        vcpu: Vcpu::new(cpu),
        machine,
        text: Text::new(engine, kernel, head_distance, window, modules, regions),
        host: Xen { stacks, springboard, sysret, steps: false },
    };
    if privileged {
        vm.machine.board.take_lines();
    }
    vm.reach_image(extent);
    traps::stay(vm);
    Ok(())
}

/// Makes a breakpoint of the site behind which the kernel goes to a stack where nothing can be pushed. Returns its address.
fn trap_stack_change(engine: &Engine<'static>, image: &mut [u8], address: u64) -> Option<u64> {
    let swapgs = engine.entries().filter(|(_, entry)| entry.class() == Class::Swapgs);
    let site = linux::unwritable_stack(image, address, swapgs.map(|(_, entry)| entry.address()..entry.end()))?;
    *image.get_mut(site.wrapping_sub(address) as usize)? = 0xcc;
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
fn sites_see() -> Virtual {
    let page = SHARED_PAGE.address();
    let routine = |routine: unsafe extern "C" fn()| routine as *const () as u64;
    let mut control = [0; 9];
    for register in [0, 2, 3, 4] {
        control[register] = (&raw const CONTROL[register]).addr() as u64;
    }
    Virtual {
        mask: page + 1,
        pending: page,
        gs_swapped: (&raw const GS_SWAPPED).addr() as u64,
        control,
        site: (&raw const SITE).addr() as u64,
        emulate: routine(entry::xen_emulate),
        emulate_without_stack: routine(entry::xen_emulate_without_stack),
        interrupt: routine(entry::xen_interrupt),
        iret: routine(entry::xen_iret),
        sysret: routine(entry::xen_sysret),
        code_selector: KERNEL_CS as u16,
        stack_selector: KERNEL_SS as u16,
    }
}

/// What a boot loader leaves to Linux (Documentation/x86/boot.rst): the first memory at its own addresses, 512 GB of it, and
/// flat segments at 10H and 18H.
fn write_first_tables() {
    const LARGE: u64 = 1 << 7;
    let word = |address: u64| pointer::<u64>(WINDOW + address);
    // SAFETY: the first MB of the window shows the guest's, which nobody has yet.
    unsafe {
        pointer::<[u8; 0x10_0000]>(WINDOW).write_bytes(0, 1);
        word(FIRST_TABLES).write((FIRST_TABLES + PAGE) | 3);
        for entry in 0..512 {
            word(FIRST_TABLES + PAGE + 8 * entry).write(entry << 30 | LARGE | 3);
        }
        word(FIRST_DESCRIPTORS + 0x10).write(0x00af_9a00_0000_ffff);
        word(FIRST_DESCRIPTORS + 0x18).write(0x00cf_9200_0000_ffff);
    }
}

/// The pool of tables, and what the shadow keeps beside each.
fn shadow_memory(memory: &'static Memory, place: ShadowPlace, devices: bool) -> (Tables, ShadowMemory<'static>) {
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
    // SAFETY: as above; three pieces that do not overlap, each aligned; any value is valid for the numbers.
    unsafe {
        let free = core::slice::from_raw_parts_mut(pointer(free), count);
        let nothing = memory.machine_address(pool.end - 1);
        let tables = Tables::new(Parts { memory, frames, free, devices, nothing });
        let notes = core::slice::from_raw_parts_mut(pointer(notes), count);
        let information = core::slice::from_raw_parts_mut(pointer(information), count);
        (tables, ShadowMemory { tables: information, notes })
    }
}
