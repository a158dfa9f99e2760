//! From seL4's first thread to the guest's first instruction.
//!
//! The wedge's thread becomes the guest's kernel, too. Before that it makes what it needs of seL4,
//! in this order: a way to speak (ports), memory in granules, room for capabilities, the pager,
//! without which a fault of the wedge's says nothing; then the guest's memory and the shadow's.
//! What seL4 has mapped low, where the guest's programs will be, goes last.

use core::fmt;
use core::ops::Range;

use wedge::cpu::{Context, Registers};
use wedge::guest::layout::WINDOW_LENGTH;
use wedge::guest::linux::boot_params::Display;
use wedge::guest::linux::word;
use wedge::image::{LOAD_ADDRESS, Parameters};
use wedge::loader::command_line::CommandLine;
use wedge::loader::elf::{ElfError, Kernel as KernelFile};
use wedge::loader::handover;
use wedge::memory::{MemoryMap, TooManyRegions};
use wedge::platform::Pci;
use wedge::shadow::{Memory as ShadowMemory, Notes, OutOfTables, Shadow, TableInfo};
use wedge::sites::{Deprivileged, Engine, Mode};
use wedge::vm::Space;
use wedge::x86::flags;

use super::abi::{abi, version};
use super::board::{Board, Clock, notification};
use super::bootinfo::BootInfo;
use super::cpu::{CPU, address};
use super::devices::Devices;
use super::early::{Used, copies_from};
use super::entry::{l4_emulate, l4_emulate_without_stack, l4_interrupt, l4_iret, l4_pager_start, l4_resume, l4_sysret};
use super::floating::Stubs;
use super::guest::{REAL_CS, REAL_SS};
use super::kernel::{Kernel, Slot, initial, object, rights};
use super::memory::{Frames, LINEAR, Memory, OWN, PAGES, SHADOW, pointer};
use super::objects::{FAN_OUT, Failure as ObjectFailure, GRANULES, Granule, LIMIT, Objects, Pool, refused};
use super::pager::{PAGER, Pager};
use super::ports::Ports;
use super::processor::Processor;
use super::programs::{Programs, WAKES, set_priority};
use super::tables::{Copies, CopySlots, Parts, Tables};
use super::traps::{Kept, Last, stay};
use super::vspace::{Structures, VSpace};
use super::{console, end, fixed};
use crate::Backend;
use crate::boot::options::{Options, Stack};
use crate::boot::selection::Protocol;
use crate::boot::session::{self, Boot, Contents, Ground, Loaded, Pieces, Provided, Ready, Rewritten};
use crate::host::seen::{Seen, Usable};
use crate::host::soft::{Entries, Info, SoftTables};
use crate::runtime::arena::Arena;
use crate::runtime::exclusive::{Exclusive, Pages};
use crate::runtime::log::{self, use_console};
use crate::runtime::{PAGE, entropy, own_length, parameters, say, window};

/// Addresses that the guest cannot have: those of the wedge's mappings, and the GB that ends with
/// the window.
static RESERVED: Exclusive<[Range<u64>; 2]> = Exclusive::new([OWN, 0..0]);

static ALL_GRANULES: Exclusive<[Granule; GRANULES]> = Exclusive::new([Granule { slot: 0, address: 0 }; GRANULES]);
static DEVICES: Exclusive<Devices> = Exclusive::new(Devices::NONE);
static FRAMES: Exclusive<Frames> = Exclusive::new([0; GRANULES]);

/// A stack for the time until the guest has its own.
static FIRST_STACK: Pages<1> = Pages::new();

/// With fewer page tables a kernel may not come far.
const FEWEST_TABLES: u64 = 512;

/// Priorities of the pager, and of the wedge's thread. Programs have lower ones.
const PAGERS_PRIORITY: u64 = 255;
const PRIORITY: u64 = 254;

/// What the wedge writes to, and how it ends.
static CONSOLE: log::Console = log::Console { write: console::write_log, stop: end::crash };

/// What only seL4 refuses, or does not give.
#[derive(Debug)]
pub(super) enum Failure {
    Objects(ObjectFailure),
    Nodes(u64),
    Frequency,
    Mode(Mode),
    Evict(Stack),
    MemoryMap(TooManyRegions),
    NoMemory,
    NoRoom { what: &'static str, length: u64 },
    Kernel(ElfError),
    Shadow(OutOfTables),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objects(failure) => failure.fmt(f),
            Self::Nodes(nodes) => {
                write!(f, "seL4 runs on {nodes} processors, and its numbers are others then: build it with one")
            }
            Self::Frequency => write!(f, "seL4 does not say how fast the time-stamp counter is"),
            Self::Mode(mode) => {
                write!(f, "afterburn.mode={mode}: that mode is for bare hardware; on seL4 every site is taken over")
            }
            Self::Evict(stack) => write!(f, "afterburn.evict={stack}: nothing is pushed on the kernel's stacks here"),
            Self::MemoryMap(error) => error.fmt(f),
            Self::NoMemory => write!(f, "seL4 has no memory left for a guest: give the machine more"),
            Self::NoRoom { what, length } => {
                write!(f, "no room for {what}, {length:#x} bytes in one piece: give the machine more memory")
            }
            Self::Kernel(error) => error.fmt(f),
            Self::Shadow(OutOfTables) => write!(f, "not even the first page tables find room"),
        }
    }
}

impl From<ObjectFailure> for Failure {
    fn from(failure: ObjectFailure) -> Self {
        Self::Objects(failure)
    }
}

/// Entered by the code in [`entry`](super::entry), once: with the bootinfo, where the image was
/// loaded, and what [`early`](super::early) has used.
#[unsafe(no_mangle)]
extern "C" fn l4_start(info: u64, loaded: u64, used: u64) -> ! {
    // SAFETY: seL4 has put it there.
    let info = unsafe { BootInfo::find(info) };
    let used = Used::from_word(used);
    use_console(&CONSOLE);
    match Machine::start(info, loaded, used) {
        Ok(machine) => {
            if let Some(ready) = session::boot(machine) {
                enter(ready, &info);
            }
        }
        Err(failure) => say!("{failure}"),
    }
    end::crash()
}

/// Enters the guest as on bare hardware, with what it believes to be paging by its own tables. What
/// seL4 has mapped for the first thread is not needed any more, and lies where programs will.
fn enter(ready: Ready, info: &BootInfo) -> ! {
    // SAFETY: the buffer is this thread's.
    let kernel = unsafe { Kernel::new(CPU.buffer.address(0)) };
    for frame in info.low_frames() {
        let _ = kernel.invoke(frame, abi().page_unmap, &[], &[0, 0, 0]);
    }
    let mut context = Context {
        registers: Registers { rsi: ready.boot_params, ..Registers::default() },
        rip: ready.entry,
        cs: REAL_CS,
        rflags: flags::FIXED,
        rsp: FIRST_STACK.address(0) + PAGE,
        ss: REAL_SS,
        ..Context::default()
    };
    // SAFETY: the wedge runs in its window; of the image, which lies low, there is no reference any
    // more. The plan has put a kernel where it is entered; the context is on the wedge's stack,
    // which is free from here on.
    unsafe { l4_resume(&raw mut context) }
}

/// What was made of seL4 before the guest is looked at.
struct Machine {
    loaded: u64,
    objects: Option<Objects>,
    ports: Ports,
    clock: Clock,
    granules: &'static [Granule],
    /// Where messages of programs come to, and what tells of lines, and what badged this thread.
    programs: Slot,
    lines: Slot,
    waker: Slot,
    /// The frame of this thread's IPC buffer.
    buffer: Slot,
    devices: &'static mut Devices,
    memory: Option<Memory>,
}

impl Machine {
    fn start(info: BootInfo, loaded: u64, used: Used) -> Result<Self, Failure> {
        // SAFETY: seL4 has given the first thread this buffer, until it gets another.
        let first = unsafe { Kernel::new(info.ipc_buffer()) };
        let frame = |place: u64| copies_from(&info) + (place - window() - LOAD_ADDRESS) / PAGE;
        let own = CPU.buffer.address(0);
        first
            .invoke(initial::THREAD, abi().tcb_set_ipc_buffer, &[frame(own)], &[own])
            .map_err(refused("another IPC buffer"))?;
        // SAFETY: a page of the wedge's, for this thread.
        let kernel = unsafe { Kernel::new(own) };
        let mut objects = Objects::new(kernel, used.next..info.empty().end);
        let ports = Ports::get(&mut objects)?;
        let devices = DEVICES.take();
        devices.find(&info);
        console::use_ports(ports);
        end::use_ports(ports);
        if info.nodes() != 1 {
            return Err(Failure::Nodes(info.nodes()));
        }
        let megahertz = info.megahertz().filter(|megahertz| *megahertz != 0).ok_or(Failure::Frequency)?;
        let granules = objects.cut(&info, used.untyped, ALL_GRANULES.take())?;
        let kept = granules.len() / 8 + 3;
        let guests = granules.len().checked_sub(kept).filter(|guests| *guests >= 2).ok_or(Failure::NoMemory)?;
        let (granules, kept) = granules.split_at(guests);
        objects.keep(kept);
        let top = objects.begin_tree()?;
        let [programs, faults] = [(); 2].map(|()| objects.initial_object(object::ENDPOINT, 4));
        let [lines, waker] = [(); 2].map(|()| notification(&mut objects));
        let (programs, faults, lines, waker) = (programs?, faults?, lines?, waker?);
        start_pager(&mut objects, top, &frame, [faults, lines, waker])?;
        let clock = Clock::new(megahertz);
        Ok(Self {
            loaded,
            objects: Some(objects),
            ports,
            clock,
            granules,
            programs,
            lines,
            waker,
            buffer: frame(own),
            devices,
            memory: None,
        })
    }

    fn objects(&mut self) -> Result<&mut Objects, Failure> {
        self.objects.as_mut().ok_or(Failure::NoMemory)
    }

    /// Makes frames of the guest's granules, and maps them.
    fn map_memory(&mut self) -> Result<Memory, Failure> {
        let frames = FRAMES.take();
        let granules = self.granules;
        let objects = self.objects()?;
        for granule in granules {
            let place = frames.get_mut((granule.address / (PAGES * PAGE)) as usize);
            let place = place.ok_or(Failure::NoMemory)?;
            let first = objects.slots(PAGES)?;
            objects.make(granule.slot, object::PAGE, 0, first, PAGES)?;
            *place = first;
            for page in 0..PAGES {
                fixed::map(objects, first + page, LINEAR + granule.address + page * PAGE)?;
            }
        }
        let memory = Memory::new(granules, frames).ok_or(Failure::NoMemory)?;
        self.memory = Some(memory);
        Ok(memory)
    }

    fn made(&self) -> Result<Memory, Failure> {
        self.memory.ok_or(Failure::NoMemory)
    }
}

/// Starts the pager. From here on this thread's faults are told.
fn start_pager(
    objects: &mut Objects,
    top: Slot,
    frame: &dyn Fn(u64) -> Slot,
    [faults, lines, waker]: [Slot; 3],
) -> Result<(), Failure> {
    const TCB_BITS: u64 = 11;
    let thread = objects.initial_object(object::TCB, TCB_BITS)?;
    let badged = objects.initial_slots(1)?;
    objects
        .mint(waker, (initial::CNODE, badged, 64), rights::SEND, WAKES)
        .map_err(refused("a badge of a notification"))?;
    let buffer = CPU.pagers_buffer.address(0);
    // SAFETY: a page of the wedge's, for that thread.
    let own = unsafe { Kernel::new(buffer) };
    *PAGER.borrow() = Some(Pager { kernel: own, endpoint: faults, waker: badged });
    let guard = Objects::top_guard();
    let kernel = objects.kernel;
    let invoke = |thread, label, capabilities: &[Slot], words: &[u64]| {
        kernel.invoke(thread, label, capabilities, words).map_err(refused("the pager's thread"))
    };
    invoke(thread, abi().tcb_set_space, &[top, initial::VSPACE], &[0, guard, 0])?;
    invoke(thread, abi().tcb_set_ipc_buffer, &[frame(buffer)], &[buffer])?;
    invoke(thread, abi().tcb_bind_notification, &[lines], &[])?;
    invoke(initial::THREAD, abi().tcb_bind_notification, &[waker], &[])?;
    invoke(initial::THREAD, abi().tcb_set_space, &[top, initial::VSPACE], &[faults, guard, 0])?;
    set_priority(objects, thread, PAGERS_PRIORITY)?;
    set_priority(objects, initial::THREAD, PRIORITY)?;
    let entry = (l4_pager_start as *const ()).addr() as u64;
    let registers = [entry, CPU.pagers_stack.end(), flags::FIXED];
    kernel.write_registers(thread, &registers).map_err(refused("the pager's thread"))?;
    Ok(())
}

impl Boot for Machine {
    type Error = Failure;
    type Memory<'a> = Usable<'a, Memory>;

    const BACKEND: Backend = Backend::L4;

    fn image(&self) -> (Parameters, u64, u64) {
        (parameters(), own_length(), WINDOW_LENGTH - LOAD_ADDRESS)
    }

    fn window(&self) -> u64 {
        window()
    }

    fn payload(&mut self, parameters: &Parameters) -> Result<&'static [u8], Failure> {
        let place = self.loaded + parameters.payload.offset;
        // SAFETY: seL4 has loaded the image as its program headers say; nobody writes there.
        Ok(unsafe { core::slice::from_raw_parts(pointer(place), parameters.payload.length as usize) })
    }

    fn entered(&self) -> (Protocol, Option<[u8; 12]>) {
        (Protocol::SeL4, None)
    }

    /// In front is what the guest would otherwise have to measure. Behind, where it counts, the
    /// guest is told not to isolate its page tables, for programs run in address spaces without the
    /// kernel anyway, and not to look for interrupts by messages, which go to an APIC.
    fn command_line(&self, of_image: &str) -> Result<CommandLine, session::Failure<'static, Failure>> {
        let join = |front: &str, behind: &str| CommandLine::join(front, behind).map_err(session::Failure::CommandLine);
        let frequency = format_args!("{}={} {}", word::TSC_FREQUENCY, self.clock.kilohertz, word::TSC_IS_RELIABLE);
        let frequency = CommandLine::written(frequency).map_err(session::Failure::CommandLine)?;
        let joined = join(frequency.as_str(), of_image)?;
        let joined = join(joined.as_str(), word::NO_ISOLATION)?;
        join(joined.as_str(), word::NO_MESSAGES)
    }

    fn accept(&self, options: &Options) -> Result<(), Failure> {
        if options.mode == Mode::Identity {
            return Err(Failure::Mode(options.mode));
        }
        if let Some(stack) = options.evict {
            return Err(Failure::Evict(stack));
        }
        say!("backend {}, seL4 {}, entered by {}", Self::BACKEND, version(), Protocol::SeL4);
        Ok(())
    }

    fn lay_out(&mut self, image: &Contents<'_>) -> Result<Ground, Failure> {
        let memory = self.map_memory()?;
        let map = memory.map(self.granules).map_err(Failure::MemoryMap)?;
        let extent = KernelFile::parse(image.payload.kernel).map_err(Failure::Kernel)?.extent();
        let length = extent.end - extent.start;
        let kernel = map.place(core::iter::empty(), length, 2 << 20, LIMIT);
        let kernel = kernel.ok_or(Failure::NoRoom { what: "the kernel", length })?;
        Ok(Ground {
            map,
            busy: Pieces::new(),
            modules: Pieces::new(),
            kernel: Some(kernel),
            setup_data: 0,
            rsdp: 0,
            display: Display::None,
            entropy: entropy(),
        })
    }

    fn memory<'a>(&self, map: &'a MemoryMap) -> Result<Usable<'a, Memory>, Failure> {
        // SAFETY: the guest's memory is nobody's else.
        Ok(unsafe { Usable::new(map, self.made()?) })
    }

    fn prepare(&mut self, loaded: &Loaded<'_>, image: &mut [u8]) -> Result<(), Failure> {
        // seL4 tells programs no number of a processor.
        loaded.contents.payload.zero_processor_numbers(image, loaded.kernel.start);
        let memory = self.made()?;
        for (address, word) in handover::words() {
            memory.store(address, &word.to_le_bytes());
        }
        Ok(())
    }

    fn engine(&mut self, contents: &Contents<'_>) -> Engine<'static> {
        // SAFETY: the arena is in the window, and this is the only call.
        Engine::deprivileged(sites_see(), contents.options.mode, unsafe {
            Arena::new(contents.parameters.arena).memory(window())
        })
    }

    fn take_over(self, rewritten: Rewritten<'_>, _: &mut [u8]) -> Result<(), Failure> {
        take_over(self, rewritten)
    }
}

/// Makes the machine.
fn take_over(machine: Machine, rewritten: Rewritten<'_>) -> Result<(), Failure> {
    let Machine { objects, ports, clock, programs, lines, waker, memory, buffer, devices, .. } = machine;
    let (Some(mut objects), Some(memory)) = (objects, memory) else { return Err(Failure::NoMemory) };
    let kernel = objects.kernel;
    let contents = rewritten.loaded.contents;
    let layout = contents.payload.layout;
    let kept = Kept {
        kernel,
        sysret: rewritten.engine.sysret().unwrap_or(usize::MAX),
        told_of_32_bits: false,
        last: Last::NONE,
    };
    let mut board = Board::new(&mut objects, ports, clock, lines, waker)?;
    board.take_lines(&mut objects, lines);
    let (mut tables, working) = shadow_memory(contents, objects, memory, programs, devices)?;
    let reserved = RESERVED.take();
    reserved[1] = layout.reserved();
    let shadow = Shadow::new(working, layout, reserved, handover::MODE, handover::TABLES, &mut tables);
    let provided = Provided {
        space: Space { shadow: shadow.map_err(Failure::Shadow)?, memory: tables },
        pci: Pci::PassedThrough,
        board,
        processor: Processor::new(kernel, buffer),
        kept,
        regions: crate::runtime::modules::WATCHED.take(),
    };
    let (machine, vcpu) = rewritten.on_host::<super::guest::L4>(provided, handover::processor);
    vcpu.processor.put_in_force(0);
    stay(machine, vcpu);
    Ok(())
}

/// Pieces of memory, one behind the other, aligned to pages.
struct Parcels {
    next: u64,
}

impl Parcels {
    /// Room for so many; its address.
    fn take<T>(&mut self, count: usize) -> u64 {
        let address = self.next;
        self.next = (address + (count * size_of::<T>()) as u64).next_multiple_of(PAGE);
        address
    }
}

/// The pool of tables, what is kept beside each, and what mappings are made of.
fn shadow_memory(
    contents: &Contents<'_>,
    mut objects: Objects,
    memory: Memory,
    programs: Slot,
    devices: &'static mut Devices,
) -> Result<(Tables, ShadowMemory<'static>), Failure> {
    // One page in 64 for page tables is more than a real kernel has; seL4's own tables are as many
    // more, for each table of the guest's is one of the kernel's and one of programs' there.
    let most = (memory.pages() / 64).max(FEWEST_TABLES);
    let count = contents.options.tables.map_or(most, |tables| most.min(tables.into())) as usize;
    let rows = (memory.pages() / 32).div_ceil(FAN_OUT).max(4);
    let pieces = (rows * FAN_OUT) as usize;
    let copies = (2 * memory.pages()).next_multiple_of(4096) as usize;
    let mut parcels = Parcels { next: SHADOW };
    let places = (
        parcels.take::<Entries>(count),
        parcels.take::<Info>(count),
        parcels.take::<Notes>(count),
        parcels.take::<TableInfo>(count),
        parcels.take::<[Copies; 512]>(count),
        parcels.take::<u16>(count),
        parcels.take::<u32>(copies),
        parcels.take::<u32>(pieces),
        parcels.take::<u32>(pieces),
    );
    fixed::memory(&mut objects, SHADOW, parcels.next - SHADOW)?;
    let seen = parcels.next.next_multiple_of(FAN_OUT * PAGE);
    let frames = fixed::pages(&mut objects, seen)?;
    // SAFETY: mapped just now, and nobody's else.
    let stubs = unsafe { Stubs::new(seen, &frames) };
    // SAFETY: pieces of what was mapped just now, that do not overlap, each aligned; any value is
    // valid for the numbers, and the others are written first.
    unsafe {
        for number in 0..count {
            pointer::<Info>(places.1).add(number).write(Info::UNUSED);
            pointer::<TableInfo>(places.3).add(number).write(TableInfo::UNUSED);
        }
        let pool = core::slice::from_raw_parts_mut(pointer(places.0), count);
        let information = core::slice::from_raw_parts_mut(pointer(places.1), count);
        let mut structures = Pool::new(core::slice::from_raw_parts_mut(pointer(places.7), pieces));
        for _ in 0..rows {
            structures.grow(&mut objects)?;
        }
        let slots = CopySlots::new(&mut objects, core::slice::from_raw_parts_mut(pointer(places.6), copies))?;
        let behind = core::slice::from_raw_parts_mut(pointer(places.8), pieces);
        let programs = Programs::new(programs, objects.kernel);
        let tables = Tables::new(Parts {
            memory,
            soft: SoftTables::new(pool, information, contents.payload.layout),
            objects,
            structures: Structures::new(structures, behind),
            programs,
            devices,
            space: VSpace::new(initial::VSPACE),
            slots,
            copies: core::slice::from_raw_parts_mut(pointer(places.4), count),
            counts: core::slice::from_raw_parts_mut(pointer(places.5), count),
            stubs,
        });
        let notes = core::slice::from_raw_parts_mut(pointer(places.2), count);
        let known = core::slice::from_raw_parts_mut(pointer(places.3), count);
        Ok((tables, ShadowMemory { tables: known, notes }))
    }
}

/// What rewritten sites refer to.
fn sites_see() -> Deprivileged {
    let routine = |routine: unsafe extern "C" fn()| routine as *const () as u64;
    let mut control = [0; 9];
    for register in [0, 2, 3, 4] {
        control[register] = address(&CPU.control[register]);
    }
    Deprivileged {
        mask: address(&CPU.mask),
        pending: address(&CPU.pending),
        gs_swapped: address(&CPU.gs_swapped),
        control,
        site: address(&CPU.site),
        emulate: routine(l4_emulate),
        emulate_without_stack: routine(l4_emulate_without_stack),
        interrupt: routine(l4_interrupt),
        iret: routine(l4_iret),
        sysret: routine(l4_sysret),
        code_selector: REAL_CS as u16,
        stack_selector: REAL_SS as u16,
        virtual_selectors: true,
        counts: false,
        own_floating_point: true,
    }
}
