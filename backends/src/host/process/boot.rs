//! From Linux's program loader to the guest's first instruction.
//!
//! The guest needs the address space that Linux has put things into, and the wedge gives up most of
//! Linux before the guest runs. Both decide what comes when:
//!
//! * *What Linux has put there goes*: stack and libraries as soon as the guest's memory is made
//!   ([`Machine::clear`]), the image, with the payload, when the guest is loaded ([`enter`]). So
//!   what Linux tells on the stack is read first, and the names that are needed later are kept.
//! * *Programs get nothing of the wedge's.* Each of their processes is a copy of the first, with
//!   the files that were open then. So that is made before the disks are opened, and network and
//!   directories are started ([`take_over`]).
//! * *System calls are given up last.* Behind the filter nothing can be opened, mapped anew or
//!   started, except what a guest needs while it runs; and nothing behind it can fail.

use core::ffi::CStr;
use core::fmt::{self, Write as _};
use core::ops::Range;
use core::sync::atomic::Ordering;

use linux_raw_sys::auxvec::{AT_HWCAP2, AT_NULL};
use linux_raw_sys::general as raw;
use wedge::cpu::{Context, Registers};
use wedge::guest::layout::WINDOW_LENGTH;
use wedge::guest::linux::boot_params::Display;
use wedge::guest::linux::word;
use wedge::image::{LOAD_ADDRESS, Parameters};
use wedge::loader::command_line::CommandLine;
use wedge::loader::handover;
use wedge::memory::{Kind, MemoryMap, Region, TooManyRegions};
use wedge::platform::Pci;
use wedge::shadow::{Memory as ShadowMemory, Notes, OutOfTables, Shadow, TableInfo};
use wedge::sites::{Deprivileged, Engine, Mode};
use wedge::vm::Space;
use wedge::x86::flags;
use wedge::x86::paging::shift;

use super::arguments::{Arguments, Invalid, Net, USAGE};
use super::board::{Board, now};
use super::calls::{POINTERS, POINTERS_END};
use super::compatibility::has_syscall;
use super::cpu::{CPU, address, guard_stack, is_fast};
use super::disk;
use super::entry::{
    process_emulate, process_emulate_without_stack, process_interrupt, process_iret, process_resume, process_sysret,
    process_sysret_here,
};
use super::filter::{OWN as OWN_CALLS, from_window};
use super::guest::{REAL_CS, REAL_SS};
use super::locals::Locals;
use super::memory::{LIMIT, Memory, OWN, READ_AND_WRITE, SHADOW, SIGNAL_STACK, pointer};
use super::names::{Names, TooLong};
use super::network::{self, Found, Network};
use super::passt;
use super::processes::given_in_local_tables;
use super::processor::Processor;
use super::programs::{self, Programs};
use super::resident::Resident;
use super::rewritten::{Copies, map_trampolines};
use super::share;
use super::system::{self, Errno, File};
use super::tables::{Parts, StubMappings, Tables};
use super::traps::{Kept, stay, take_signals};
use crate::Backend;
use crate::boot::options::{Options, Stack};
use crate::boot::selection::Protocol;
use crate::boot::session::{self, Boot, Contents, Ground, Loaded, Pieces, Provided, Ready, Rewritten};
use crate::host::seen::{Seen, Usable};
use crate::host::soft::{Entries, Info, SPACES};
use crate::runtime::arena::Arena;
use crate::runtime::exclusive::{Exclusive, Pages};
use crate::runtime::{PAGE, entropy, log, own_length, parameters, say, timestamp, window};

/// Addresses that the guest cannot have: those of the wedge's mappings, and the GB that ends with
/// the window.
static RESERVED: Exclusive<[Range<u64>; 2]> = Exclusive::new([OWN, 0..0]);

/// What spaces have mapped, in this process and in those of their programs.
static RESIDENT: Exclusive<[Resident; SPACES]> = Exclusive::new([Resident::NONE; SPACES]);
static STUBS: Exclusive<[StubMappings; SPACES]> = Exclusive::new([StubMappings::NONE; SPACES]);

/// A stack for the time until the guest has its own.
static FIRST_STACK: Pages<1> = Pages::new();

/// With fewer page tables a kernel may not come far.
const FEWEST_TABLES: u64 = 256;

/// How much time it takes at least to know how fast the time-stamp counter is, in nanoseconds: a
/// reading of the clock is off by some tens of them.
const MEASUREMENT: u64 = 4_000_000;

/// What a process alone refuses, or Linux does not give.
#[derive(Debug)]
pub(super) enum Failure {
    Linux { what: &'static str, error: Errno },
    Initramfs(Errno),
    Names(TooLong),
    Disk(disk::Refused),
    Network(network::Refused),
    Share(share::Refused),
    Processor(&'static str),
    Mode(Mode),
    Evict(Stack),
    NoMemory { what: &'static str },
    MemoryMap(TooManyRegions),
    Programs(programs::Failure),
    Shadow(OutOfTables),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux { what, error } => write!(f, "Linux refuses {what}, {error}"),
            Self::Initramfs(error) => write!(f, "the initramfs cannot be read, {error}"),
            Self::Names(TooLong) => write!(f, "the names of disks and directories are too long"),
            Self::Disk(refused) => refused.fmt(f),
            Self::Network(refused) => refused.fmt(f),
            Self::Share(refused) => refused.fmt(f),
            Self::Processor(what) => write!(f, "the processor has no {what}, or Linux does not let programs use it"),
            Self::Mode(mode) => {
                write!(
                    f,
                    "afterburn.mode={mode}: that mode is for bare hardware; in a process every site is taken over"
                )
            }
            Self::Evict(stack) => write!(f, "afterburn.evict={stack}: nothing is pushed on the kernel's stacks here"),
            Self::NoMemory { what } => write!(f, "no room for {what}: give the guest more memory, by --memory"),
            Self::MemoryMap(error) => error.fmt(f),
            Self::Programs(failure) => failure.fmt(f),
            Self::Shadow(OutOfTables) => write!(f, "not even the first page tables find room"),
        }
    }
}

/// Says what Linux has refused.
fn refused(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::Linux { what, error }
}

/// What Linux leaves a program (System V ABI, AMD64 supplement, 3.4.1).
pub(super) struct Started {
    /// The addresses of the arguments, the program's name first.
    arguments: &'static [u64],
    /// Where programs are, as the environment says.
    path: Option<&'static CStr>,
    /// What the processor can do, as Linux says.
    capabilities: u64,
    /// Where the first byte of the wedge was loaded.
    loaded: u64,
    /// Clock and time-stamp counter at the start.
    moment: (u64, u64),
}

impl Started {
    /// Reads it off the stack.
    ///
    /// # Safety
    ///
    /// Linux has started the program with this stack.
    pub(super) unsafe fn read(stack: *const u64, loaded: u64) -> Self {
        let moment = (now(), timestamp());
        // SAFETY: the number of arguments, and behind them a 0; the environment, and behind it a 0;
        // pairs of numbers, up to one whose first is 0.
        unsafe {
            let count = stack.read() as usize;
            let arguments = core::slice::from_raw_parts(stack.add(1), count);
            let mut at = stack.add(count + 2);
            let mut path = None;
            while at.read() != 0 {
                let variable = CStr::from_ptr(pointer(at.read()));
                if let Some(value) = variable.to_bytes_with_nul().strip_prefix(b"PATH=") {
                    path = CStr::from_bytes_with_nul(value).ok();
                }
                at = at.add(1);
            }
            at = at.add(1);
            let mut capabilities = 0;
            while at.read() != u64::from(AT_NULL) {
                if at.read() == u64::from(AT_HWCAP2) {
                    capabilities = at.add(1).read();
                }
                at = at.add(2);
            }
            Self { arguments, path, capabilities, loaded, moment }
        }
    }

    /// The arguments, without the program's name.
    fn arguments(&self) -> impl Iterator<Item = &'static CStr> {
        // SAFETY: addresses of texts that end with a 0, on Linux's stack for the program.
        self.arguments.iter().skip(1).map(|place| unsafe { CStr::from_ptr(pointer(*place)) })
    }
}

/// Boots the guest. Returns only if that fails.
pub(super) fn boot(started: &Started) {
    // A file that grows beyond a limit, or memory that does, is an error, and not the end.
    system::ignore(raw::SIGXFSZ);
    if let Err(error) = guard_stack() {
        return say!("{}", refused("a page that nobody has")(error));
    }
    match Arguments::parse(started.arguments(), LIMIT >> 20) {
        Ok(arguments) => {
            let machine = Machine { started, arguments, memory: None, network: None };
            if let Some(ready) = session::boot(machine) {
                enter(ready, started)
            }
        }
        Err(invalid) => refuse(&invalid),
    }
}

fn refuse(invalid: &Invalid<'_>) {
    say!("{invalid}");
    let _ = log::Log.write_str(USAGE);
}

/// Enters the guest as on bare hardware, with what it believes to be paging by its own tables. What
/// Linux has loaded of the image is not needed any more.
fn enter(ready: Ready, started: &Started) -> ! {
    let mut context = Context {
        registers: Registers { rsi: ready.boot_params, ..Registers::default() },
        rip: ready.entry,
        cs: REAL_CS,
        rflags: flags::FIXED,
        rsp: FIRST_STACK.address(0) + PAGE,
        ss: REAL_SS,
        ..Context::default()
    };
    // SAFETY: the wedge runs in its window; of the image, which lies below it, there is no
    // reference any more. The plan has put a kernel where it is entered; the context is on the
    // wedge's stack, which is free from here on.
    unsafe {
        let _ = system::unmap(started.loaded, window() - started.loaded);
        process_resume(&raw mut context)
    }
}

/// The process, before the guest runs.
struct Machine<'a> {
    started: &'a Started,
    arguments: Arguments<'static>,
    /// The guest's memory, once it is made.
    memory: Option<Memory>,
    /// What its network needs.
    network: Option<Found>,
}

impl Machine<'_> {
    fn made(&self) -> Result<Memory, Failure> {
        self.memory.ok_or(Failure::NoMemory { what: "the guest" })
    }

    /// The frequency of the time-stamp counter in kHz.
    fn ticks_per_millisecond(&self) -> u64 {
        let (since, ticks) = self.started.moment;
        let mut elapsed = now() - since;
        while elapsed < MEASUREMENT {
            let _ = system::wait_for(&mut [], Some(MEASUREMENT - elapsed));
            elapsed = now() - since;
        }
        (u128::from(timestamp() - ticks) * 1_000_000 / u128::from(elapsed)) as u64
    }
}

impl Boot for Machine<'_> {
    type Error = Failure;
    type Memory<'a> = Usable<'a, Memory>;

    const BACKEND: Backend = Backend::Process;

    fn image(&self) -> (Parameters, u64, u64) {
        (parameters(), own_length(), WINDOW_LENGTH - LOAD_ADDRESS)
    }

    fn window(&self) -> u64 {
        window()
    }

    fn payload(&mut self, parameters: &Parameters) -> Result<&'static [u8], Failure> {
        let place = self.started.loaded + parameters.payload.offset;
        // SAFETY: Linux has loaded the image as its program headers say; nobody writes there.
        Ok(unsafe { core::slice::from_raw_parts(pointer(place), parameters.payload.length as usize) })
    }

    fn entered(&self) -> (Protocol, Option<[u8; 12]>) {
        (Protocol::Linux, None)
    }

    /// In front is what the guest would otherwise have to measure, and what it can know from nobody
    /// else: the lowest address that programs can have, and how much passt can send at once.
    /// Behind, where it counts, the guest is told not to isolate its page tables, for programs run
    /// in a process without the kernel anyway.
    fn command_line(&self, of_image: &str) -> Result<CommandLine, session::Failure<'static, Failure>> {
        let join = |front: &str, behind: &str| CommandLine::join(front, behind).map_err(session::Failure::CommandLine);
        let written = |words: fmt::Arguments<'_>| CommandLine::written(words).map_err(session::Failure::CommandLine);
        let (ticks, lowest) = (self.ticks_per_millisecond(), lowest());
        let [frequency, reliable, limit] = [word::TSC_FREQUENCY, word::TSC_IS_RELIABLE, word::LOWEST_ADDRESS];
        let mut own = written(format_args!("{frequency}={ticks} {reliable} {limit}={lowest}"))?;
        let is_passt = self.arguments.network == Some(Net::User);
        if let Some([least, usual, most]) = is_passt.then(passt::window).flatten() {
            let window = written(format_args!("{}=\"{least} {usual} {most}\"", word::RECEIVE_MEMORY))?;
            own = join(own.as_str(), window.as_str())?;
        }
        let joined = join(of_image, self.arguments.words())?;
        let joined = join(own.as_str(), joined.as_str())?;
        join(joined.as_str(), word::NO_ISOLATION)
    }

    fn accept(&self, options: &Options) -> Result<(), Failure> {
        const FSGSBASE: u64 = 1 << 1;
        const OSXSAVE: u32 = 1 << 27;
        if options.mode == Mode::Identity {
            return Err(Failure::Mode(options.mode));
        }
        if let Some(stack) = options.evict {
            return Err(Failure::Evict(stack));
        }
        if self.started.capabilities & FSGSBASE == 0 {
            return Err(Failure::Processor("FSGSBASE"));
        }
        if core::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
            return Err(Failure::Processor("XSAVE"));
        }
        say!("backend {}, entered by {}", Self::BACKEND, Protocol::Linux);
        if self.arguments.fast {
            CPU.fast.store(1, Ordering::Relaxed);
            say!("--fast: one trust domain; nothing keeps the guest's programs from its kernel, or from the wedge");
        }
        Ok(())
    }

    fn lay_out(&mut self, _: &Contents<'_>) -> Result<Ground, Failure> {
        let length = self.arguments.memory << 20;
        // SAFETY: nothing but the wedge, in its window, and the image below it is needed any more:
        // Linux has put the rest above. The arguments have been read, but for names, which are read
        // or kept before.
        let modules = unsafe { self.clear(length) }?;
        let mut map = MemoryMap::default();
        for (start, end) in [(PAGE, 0x9f000), (1 << 20, length)] {
            map.add(Region { start, end, kind: Kind::Usable }).map_err(Failure::MemoryMap)?;
        }
        let busy = Pieces::new();
        Ok(Ground {
            map,
            busy,
            modules,
            kernel: None,
            setup_data: 0,
            rsdp: 0,
            display: Display::None,
            entropy: entropy(),
        })
    }

    fn memory<'a>(&self, map: &'a MemoryMap) -> Result<Usable<'a, Memory>, Failure> {
        // SAFETY: the plan keeps off the modules until they are copied; the rest is nobody's.
        Ok(unsafe { Usable::new(map, self.made()?) })
    }

    fn prepare(&mut self, loaded: &Loaded<'_>, image: &mut [u8]) -> Result<(), Failure> {
        // Linux has the guest on whichever processor it likes.
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
        take_over(rewritten, self.made()?, &self.arguments, self.network)
    }
}

impl Machine<'_> {
    /// Clears the address space of what Linux has put there beside the image, and makes the guest's
    /// memory, with the initramfs at its end.
    ///
    /// # Safety
    ///
    /// Nothing above the window is used any more.
    unsafe fn clear(&mut self, length: u64) -> Result<Pieces, Failure> {
        let name = self.arguments.initrd.take();
        let initrd = name.map(File::open).transpose().map_err(Failure::Initramfs)?;
        let Arguments { disks, shares, .. } = &mut self.arguments;
        let disks = disks.iter_mut().flatten().map(|disk| &mut disk.name);
        let shares = shares.iter_mut().flatten().map(|directory| &mut directory.name);
        let mut names = Names::new();
        for name in disks.chain(shares) {
            *name = names.keep(*name).map_err(Failure::Names)?;
        }
        let net = self.arguments.network;
        self.network = net.map(|net| network::find(net, self.started.path)).transpose().map_err(Failure::Network)?;
        let behind = window() + WINDOW_LENGTH;
        // SAFETY: by the caller.
        unsafe { system::unmap(behind, (1 << 47) - PAGE - behind) }.map_err(refused("to unmap its own"))?;
        let memory = Memory::new(length).map_err(refused("the guest's memory"))?;
        self.memory = Some(memory);
        let mut modules = Pieces::new();
        if let Some(file) = initrd {
            let range = read_to_end(file, memory)?;
            modules.add(range);
            file.close();
        }
        Ok(modules)
    }
}

/// Reads a file to the end of the guest's memory. Where it is.
fn read_to_end(file: File, memory: Memory) -> Result<Range<u64>, Failure> {
    let length = file.length().map_err(Failure::Initramfs)?;
    let start = memory.length().checked_sub(length).ok_or(Failure::NoMemory { what: "the initramfs" })? & !(PAGE - 1);
    let bytes = memory.bytes(start, length).ok_or(Failure::NoMemory { what: "the initramfs" })?;
    let mut done = 0;
    while done < bytes.len() {
        match file.read(&mut bytes[done..]).map_err(Failure::Initramfs)? {
            0 => return Err(Failure::Initramfs(Errno(linux_raw_sys::errno::EIO))),
            read => done += read,
        }
    }
    Ok(start..start + length)
}

/// A number that Linux tells in a file.
fn number_in(file: &CStr) -> Option<u64> {
    let mut text = [0; 24];
    let file = File::open(file).ok()?;
    let length = file.read(&mut text);
    file.close();
    core::str::from_utf8(&text[..length.ok()?]).ok()?.trim_ascii().parse().ok()
}

/// Room for programs' text that is changed. Without it all works, and system calls are slower.
fn copies() -> Result<Option<Copies>, Failure> {
    map_trampolines().map_err(refused("memory for the system calls of programs"))?;
    let made = Copies::new();
    if let Err(error) = made {
        say!(
            "--fast: system calls stay signals, for Linux does not map the wedge's pointers at {POINTERS:#x}, {error}"
        );
    }
    Ok(made.ok())
}

/// The lowest address that is mapped for the guest: Linux maps nothing below, or there the wedge
/// has something.
fn lowest() -> u64 {
    const USUAL: u64 = 64 << 10;
    let lowest = number_in(c"/proc/sys/vm/mmap_min_addr").unwrap_or(USUAL).next_multiple_of(PAGE).max(PAGE);
    if is_fast() { lowest.max(POINTERS_END) } else { lowest }
}

/// How many mappings a process may have for the guest: some are the wedge's own. With few page
/// tables, for a test, there are few mappings.
fn mappings(tables: Option<u32>) -> u32 {
    const FOR_EACH_TABLE: u32 = 4;
    const USUAL: u64 = 65530;
    const KEPT: u64 = 64;
    const LEAST: u64 = 256;
    let most = number_in(c"/proc/sys/vm/max_map_count").unwrap_or(USUAL);
    let most = most.saturating_sub(KEPT).clamp(LEAST, u32::MAX.into()) as u32;
    tables.map_or(most, |tables| most.min(tables.saturating_mul(FOR_EACH_TABLE)))
}

/// Makes the machine, and the first process for programs.
fn take_over(
    rewritten: Rewritten<'_>,
    memory: Memory,
    arguments: &Arguments<'static>,
    network: Option<Found>,
) -> Result<(), Failure> {
    let contents = rewritten.loaded.contents;
    let layout = contents.payload.layout;
    let apart = !is_fast();
    let programs = apart.then(|| Programs::start(memory.file(), lowest())).transpose().map_err(Failure::Programs)?;
    let own = given_in_local_tables().filter(|_| !apart).map(|given| Locals::new(given, 1)).transpose();
    let own = own.map_err(refused("memory for descriptors"))?;
    let has_locals = own.is_some() || programs.as_ref().is_some_and(|programs| programs.locals.is_some());
    let kept = Kept { programs, sysret: rewritten.engine.sysret().unwrap_or(usize::MAX), has_syscall: has_syscall() };
    let shares = share::start(&arguments.shares, memory).map_err(Failure::Share)?;
    let network = network.map(|found| Network::start(found, memory)).transpose().map_err(Failure::Network)?;
    let disks = disk::open(&arguments.disks, memory).map_err(Failure::Disk)?;
    let has_devices = disks[0].is_some() || network.is_some() || !shares.is_empty();
    let pci = if has_devices { Pci::Virtual } else { Pci::Absent };
    let (mut tables, working) = shadow_memory(contents, memory)?;
    let reserved = RESERVED.take();
    reserved[1] = layout.reserved();
    let shadow = Shadow::new(working, layout, reserved, handover::MODE, handover::TABLES, &mut tables);
    let provided = Provided {
        space: Space { shadow: shadow.map_err(Failure::Shadow)?, memory: tables },
        pci,
        board: Board::new(disks, network, shares).map_err(refused("a timer"))?,
        processor: Processor::new(has_locals, own),
        kept,
        regions: crate::runtime::modules::WATCHED.take(),
    };
    let (machine, vcpu) = rewritten.on_host(provided, handover::processor);
    // SAFETY: nobody else uses the stack.
    unsafe {
        let length = SIGNAL_STACK.end - SIGNAL_STACK.start;
        system::map(SIGNAL_STACK.start, length, READ_AND_WRITE, None)
            .and_then(|()| system::use_signal_stack(SIGNAL_STACK.start, length))
            .and_then(|()| take_signals())
            .map_err(refused("signal handlers"))?;
    }
    let filter = from_window(layout.window().start, &OWN_CALLS);
    system::restrict(filter.instructions()).map_err(refused("a filter of system calls (seccomp)"))?;
    stay(machine, vcpu);
    Ok(())
}

/// The pool of tables, and what the shadow keeps beside each.
fn shadow_memory(contents: &Contents<'_>, memory: Memory) -> Result<(Tables, ShadowMemory<'static>), Failure> {
    const EACH: usize = size_of::<Entries>() + size_of::<Notes>() + size_of::<TableInfo>() + size_of::<Info>();
    // One page in 64 for page tables is more than a real kernel has.
    let count = (memory.length() / PAGE / 64).max(FEWEST_TABLES);
    let count = contents.options.tables.map_or(count, |most| count.min(most.into())) as usize;
    // SAFETY: nothing is there.
    unsafe { system::map(SHADOW, (count * EACH) as u64, READ_AND_WRITE, None) }
        .map_err(refused("memory for page tables"))?;
    let notes = SHADOW + (count * size_of::<Entries>()) as u64;
    let known = notes + (count * size_of::<Notes>()) as u64;
    let information = known + (count * size_of::<TableInfo>()) as u64;
    let layout = contents.payload.layout;
    CPU.users_end.store((layout.kernel.first() as u64) << shift(4), Ordering::Relaxed);
    let copies = if is_fast() { copies()? } else { None };
    // SAFETY: four pieces of what was mapped just now, that do not overlap, each aligned; any value
    // is valid for the numbers, and the others are written first.
    unsafe {
        for number in 0..count {
            pointer::<TableInfo>(known).add(number).write(TableInfo::UNUSED);
            pointer::<Info>(information).add(number).write(Info::UNUSED);
        }
        let tables = Tables::new(Parts {
            memory,
            pool: core::slice::from_raw_parts_mut(pointer(SHADOW), count),
            information: core::slice::from_raw_parts_mut(pointer(information), count),
            layout: contents.payload.layout,
            mappings: mappings(contents.options.tables),
            lowest: lowest(),
            fast: is_fast(),
            copies,
            resident: RESIDENT.take(),
            programs: STUBS.take(),
        });
        let notes = core::slice::from_raw_parts_mut(pointer(notes), count);
        let known = core::slice::from_raw_parts_mut(pointer(known), count);
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
        emulate: routine(process_emulate),
        emulate_without_stack: routine(process_emulate_without_stack),
        interrupt: routine(process_interrupt),
        iret: routine(process_iret),
        sysret: routine(if is_fast() { process_sysret_here } else { process_sysret }),
        code_selector: REAL_CS as u16,
        stack_selector: REAL_SS as u16,
        virtual_selectors: true,
        counts: false,
        own_floating_point: false,
    }
}
