//! A boot, as every host goes through it.
//!
//! What can be wrong is found out before anything is written: image, command line, a place for each
//! part of the guest. Then the guest is loaded, its sites are rewritten where they lie, and the
//! host takes over. The order stands here, once, and what each step needs of the host is a method
//! of [`Boot`]. A boot fails with a message; there is nothing left to undo by then, for the guest
//! has not run.

use core::fmt;
use core::ops::Range;

use wedge::cpu::{Limits, VirtualCpu};
use wedge::guest::linux::boot_params::Display;
use wedge::image::{Damage, Misplaced, Parameters, Payload};
use wedge::loader::command_line::{CommandLine, CommandLineError};
use wedge::loader::initramfs::Archives;
use wedge::loader::{Guest, LoadError, Plan};
use wedge::memory::{MemoryMap, OutOfMemory, PhysicalMemory};
use wedge::platform::{Pci, Platform};
use wedge::sites::{Engine, Lost, Piece, Refusal, Summary};
use wedge::vm::modules::Region;
use wedge::vm::port::Port;
use wedge::vm::{Account, Host, Machine, Profile, Space, Text, Vcpu, paging_mode};

use super::options::{InvalidOption, Options};
use super::selection::{Impossible, Protocol, select};
use crate::Backend;
use crate::runtime::say;
use crate::runtime::sites::rewrite_sites;

/// As many pieces as anything may lie in that was loaded: on Xen 128 MB, in the pieces of 2 MB that
/// a toolstack takes.
pub(crate) const PIECES: usize = 64;

/// What a host brings to a boot.
pub(crate) trait Boot {
    /// What only this host refuses.
    type Error: fmt::Display;
    /// Physical memory that the guest is loaded to.
    type Memory<'a>: PhysicalMemory;

    /// The host.
    const BACKEND: Backend;

    /// What `afterburner pack` has written into the wedge, the bytes of the wedge itself, and those
    /// of its window from the wedge's first on.
    fn image(&self) -> (Parameters, u64, u64);

    /// Where the wedge's window begins.
    fn window(&self) -> u64;

    /// The payload, where the parameters say that it lies.
    fn payload(&mut self, parameters: &Parameters) -> Result<&'static [u8], Self::Error>;

    /// How the wedge was entered, and the signature of a hypervisor, if there is one.
    fn entered(&self) -> (Protocol, Option<[u8; 12]>);

    /// The whole command line: the image's words, the loader's, and the host's own.
    fn command_line(&self, of_image: &str) -> Result<CommandLine, Failure<'static, Self::Error>>;

    /// Whether the host can do as it is told. If so, it says what it is.
    fn accept(&self, options: &Options) -> Result<(), Self::Error>;

    /// Decides who gets which part of the memory.
    fn lay_out(&mut self, image: &Contents<'_>) -> Result<Ground, Self::Error>;

    /// The memory on this map, to be written.
    fn memory<'a>(&self, map: &'a MemoryMap) -> Result<Self::Memory<'a>, Self::Error>;

    /// The guest is loaded; `image` are the bytes of its kernel. What has to be done before its
    /// sites are rewritten.
    fn prepare(&mut self, loaded: &Loaded<'_>, image: &mut [u8]) -> Result<(), Self::Error>;

    /// The rewriter, with the memory of the arena: called once.
    fn engine(&mut self, contents: &Contents<'_>) -> Engine<'static>;

    /// The guest's sites are rewritten: the wedge becomes resident.
    fn take_over(self, rewritten: Rewritten<'_>, image: &mut [u8]) -> Result<(), Self::Error>;
}

/// What is in an image that was found to be whole.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) parameters: Parameters,
    pub(crate) payload: Payload<'a>,
    pub(crate) options: Options,
}

/// Who gets which part of the memory.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The machine's memory. What is usable in it will be the guest's.
    pub(crate) map: MemoryMap,
    /// What must not be written before the guest runs.
    pub(crate) busy: Pieces,
    /// What the boot loader has added to the image's initramfs.
    pub(crate) modules: Pieces,
    /// Where the kernel goes; `None` is where it is linked.
    pub(crate) kernel: Option<u64>,
    /// Physical address of the guest's first `struct setup_data`, or 0.
    pub(crate) setup_data: u64,
    /// Physical address of ACPI's root pointer, or 0.
    pub(crate) rsdp: u64,
    /// What can be drawn on.
    pub(crate) display: Display,
    /// Random bits.
    pub(crate) entropy: u64,
}

/// Ranges of physical memory.
#[derive(Debug)]
pub(crate) struct Pieces {
    ranges: [Range<u64>; PIECES],
    count: usize,
}

impl Pieces {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { ranges: [const { 0..0 }; PIECES], count: 0 }
    }

    /// Adds one; `None` if there are too many.
    pub(crate) fn add(&mut self, range: Range<u64>) -> Option<()> {
        *self.ranges.get_mut(self.count)? = range;
        self.count += 1;
        Some(())
    }

    /// All of them.
    pub(crate) fn as_slice(&self) -> &[Range<u64>] {
        &self.ranges[..self.count]
    }
}

/// A guest that lies in memory.
#[derive(Debug)]
pub(crate) struct Loaded<'a> {
    pub(crate) contents: &'a Contents<'a>,
    /// By how much the kernel was moved.
    pub(crate) moved: u64,
    /// Its image, by the addresses that it runs at.
    pub(crate) kernel: Range<u64>,
    /// The physical memory that the image lies in.
    pub(crate) extent: Range<u64>,
}

/// A guest whose sites are rewritten.
#[derive(Debug)]
pub(crate) struct Rewritten<'a> {
    pub(crate) loaded: Loaded<'a>,
    pub(crate) engine: Engine<'static>,
    pub(crate) summary: Summary,
}

/// What a host provides for a guest whose kernel does without its privileges.
pub(crate) struct Provided<H: Host> {
    pub(crate) space: Space<H::Memory>,
    pub(crate) pci: Pci,
    pub(crate) board: H::Board,
    pub(crate) processor: H::Processor,
    pub(crate) kept: H::Kept,
    /// For what is found of modules.
    pub(crate) regions: &'static mut [Region],
}

impl Rewritten<'_> {
    /// Such a guest, about to execute its first instruction. `start` says what is in the registers
    /// of a processor with these limits by then.
    pub(crate) fn on_host<H: Host>(
        self,
        provided: Provided<H>,
        start: impl FnOnce(Limits) -> VirtualCpu,
    ) -> (Machine<H>, Vcpu<H>) {
        let Self { loaded: Loaded { contents, moved, kernel, extent }, engine, summary } = self;
        let Provided { space, pci, board, mut processor, kept, regions } = provided;
        let facts = contents.payload.guest;
        let modules = facts.modules_start..facts.modules_end;
        let head_distance = extent.start.wrapping_sub(kernel.start);
        let window = contents.payload.layout.window();
        let account = Account { moved, sites: summary.sites(), rewritten: summary.rewritten(), ..Account::default() };
        let mut machine = Machine {
            space,
            platform: Platform::new(pci),
            board,
            touched: true,
            flushed: false,
            modules: modules.clone(),
            port: Port::new(),
            account,
            profile: profile::<H>(engine.counts()),
            text: Text::new(engine, kernel, head_distance, window, modules, regions),
            host: kept,
        };
        let cpu = start(Limits::of(&mut machine.behind(&mut processor)));
        machine.space.shadow.set_mode(paging_mode(&cpu), &mut machine.space.memory);
        (machine, Vcpu::new(cpu, processor))
    }
}

/// Whether the host's calls are counted is said once, for all.
fn profile<H: Host>(counts: bool) -> Profile {
    if counts {
        H::calls().switch_on();
    }
    Profile::new(counts)
}

/// A guest that can be entered by Linux's 64-bit boot protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Physical address of its first instruction.
    pub(crate) entry: u64,
    /// Physical address of `boot_params`.
    pub(crate) boot_params: u64,
}

/// Why a boot ends before it has begun.
#[derive(Debug)]
pub(crate) enum Failure<'a, E> {
    NotPacked,
    Misplaced(Misplaced),
    Payload(Damage),
    CommandLine(CommandLineError),
    Option(InvalidOption<'a>),
    Backend(Impossible),
    Load(LoadError),
    Memory(OutOfMemory),
    Sites(Refusal),
    Lost(Lost),
    Host(E),
}

impl<E: fmt::Display> fmt::Display for Failure<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPacked => {
                write!(f, "this is the wedge alone; `afterburner pack` makes an image of it and a kernel")
            }
            Self::Misplaced(error) => error.fmt(f),
            Self::Payload(error) => error.fmt(f),
            Self::CommandLine(error) => error.fmt(f),
            Self::Option(error) => error.fmt(f),
            Self::Backend(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Sites(refusal) => write!(f, "the table of sites is refused: {refusal}"),
            Self::Lost(Lost { count, address, class, reason }) => {
                write!(
                    f,
                    "{count} sites cannot be taken and would do something else without privileges; the first is "
                )?;
                write!(f, "{class} at {address:#x} ({reason}): this kernel cannot run without its privileges")
            }
            Self::Host(error) => error.fmt(f),
        }
    }
}

/// Boots a guest up to its first instruction. If that fails, the log says why.
pub(crate) fn boot<B: Boot>(host: B) -> Option<Ready> {
    let mut line = None;
    let ready = prepare(host, &mut line);
    ready.inspect_err(|failure| say!("{failure}")).ok()
}

fn prepare<B: Boot>(mut host: B, line: &mut Option<CommandLine>) -> Result<Ready, Failure<'_, B::Error>> {
    let (parameters, own_length, room) = host.image();
    if parameters.payload.length == 0 {
        return Err(Failure::NotPacked);
    }
    parameters.check(own_length, room).map_err(Failure::Misplaced)?;
    let payload = Payload::check(host.payload(&parameters).map_err(Failure::Host)?).map_err(Failure::Payload)?;
    payload.check_arena(parameters.arena).map_err(Failure::Payload)?;
    payload.check_window(host.window()).map_err(Failure::Payload)?;
    let line: &CommandLine = line.insert(host.command_line(payload.command_line)?);
    let options = Options::parse(line.as_str()).map_err(Failure::Option)?;
    let (entered, hypervisor) = host.entered();
    let backend = select(options.backend, entered, hypervisor).map_err(Failure::Backend)?;
    debug_assert_eq!(backend, B::BACKEND);
    host.accept(&options).map_err(Failure::Host)?;

    let contents = Contents { parameters, payload, options };
    let ground = host.lay_out(&contents).map_err(Failure::Host)?;
    let guest = Guest {
        kernel: payload.kernel,
        relocations: payload.relocations,
        physical: ground.kernel,
        command_line: line,
        initramfs: Archives { own: payload.initramfs, modules: ground.modules.as_slice() },
        map: &ground.map,
        setup_data: ground.setup_data,
        rsdp: ground.rsdp,
        display: ground.display,
        entropy: ground.entropy,
    };
    let plan = guest.plan(ground.busy.as_slice()).map_err(Failure::Load)?;
    payload.check_kernel(&plan.kernel.virtual_extent()).map_err(Failure::Payload)?;
    plan.load(&mut host.memory(&ground.map).map_err(Failure::Host)?).map_err(Failure::Memory)?;
    rewrite_and_take_over(host, &contents, &plan, &ground.map)?;
    Ok(Ready { entry: plan.kernel.entry(), boot_params: plan.boot_params })
}

fn rewrite_and_take_over<B: Boot>(
    mut host: B,
    contents: &Contents<'_>,
    plan: &Plan<'_>,
    map: &MemoryMap,
) -> Result<(), Failure<'static, B::Error>> {
    let moved = u64::from(plan.offset.unwrap_or(0));
    let extent = plan.kernel.extent();
    let length = extent.end - extent.start;
    let address = plan.kernel.virtual_extent().start.wrapping_add(moved);
    let mut memory = host.memory(map).map_err(Failure::Host)?;
    let image = memory.bytes(extent.start, length).map_err(Failure::Memory)?;
    let loaded = Loaded { contents, moved, kernel: address..address + length, extent };
    host.prepare(&loaded, image).map_err(Failure::Host)?;
    let mut engine = host.engine(contents);
    let summary = rewrite_sites(&mut engine, &contents.payload, moved, Piece { bytes: image, address });
    let summary = summary.map_err(Failure::Sites)?;
    match summary.lost() {
        Some(lost) => Err(Failure::Lost(lost)),
        None => host.take_over(Rewritten { loaded, engine, summary }, image).map_err(Failure::Host),
    }
}
