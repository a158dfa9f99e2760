//! From the boot loader's words to the guest's first instruction.
//!
//! All that can be wrong is found out before anything is written: the payload, the command line, the machine's memory, the
//! kernel. What the boot loader says is copied meanwhile, for it may lie where the guest is to be loaded. Then the guest is
//! loaded, its sites are rewritten, and the wedge withdraws to its window.

use core::fmt;

use wedge::image::{Damage, LOAD_ADDRESS, Misplaced, Parameters, Payload};
use wedge::loader::boot_params::{self, Display};
use wedge::loader::command_line::{CommandLine, CommandLineError};
use wedge::loader::initramfs::Archives;
use wedge::loader::{Guest, LoadError, Plan};
use wedge::memory::{OutOfMemory, PhysicalMemory as _, TooManyRegions};
use wedge::sites::{Engine, Mode, Refusal};

use super::hooks::hooks;
use super::paging::{USABLE, Window};
use super::physical::{Firmware, Usable};
use super::resident::{self, Resident};
use crate::Backend;
use crate::boot::options::{InvalidOption, Options};
use crate::boot::selection::{Impossible, select};
use crate::boot::{self, BootInformation, Framebuffer, InvalidBootInformation, Pixels, ReadMemory as _};
use crate::runtime::arena::Arena;
use crate::runtime::sites::rewrite_sites;
use crate::runtime::{entropy, own_length, parameters, say};

/// Copied here, since it may lie in memory that the guest takes.
static mut COMMAND_LINE: Option<CommandLine> = None;
static mut RSDP: [u8; 64] = [0; 64];

/// Why a boot ends before it has begun.
#[derive(Debug)]
pub(super) enum Failure<'a> {
    NotPacked,
    Moved { expected: u64, found: u64 },
    Protocol { eax: u32, first_word: u32 },
    Misplaced(Misplaced),
    BootInformation(InvalidBootInformation),
    Payload(Damage),
    CommandLine(CommandLineError),
    Option(InvalidOption<'a>),
    Backend(Impossible),
    Load(LoadError),
    Memory(OutOfMemory),
    MemoryMap(TooManyRegions),
    NoLahf,
    Sites(Refusal),
    WindowEntry { address: u64 },
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPacked => {
                write!(f, "this is the wedge alone; `afterburner pack` makes an image of it and a kernel")
            }
            Self::Moved { expected, found } => {
                write!(f, "loaded at {found:#x}, not at {expected:#x} as the image says")
            }
            Self::Protocol { eax, first_word } => {
                write!(f, "entered neither by PVH nor by multiboot: EAX is {eax:#x}, and EBX points to {first_word:#x}")
            }
            Self::Misplaced(error) => error.fmt(f),
            Self::BootInformation(error) => error.fmt(f),
            Self::Payload(error) => error.fmt(f),
            Self::CommandLine(error) => error.fmt(f),
            Self::Option(error) => error.fmt(f),
            Self::Backend(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::MemoryMap(error) => error.fmt(f),
            Self::NoLahf => write!(f, "afterburn.mode=profile needs a processor with LAHF in 64-bit mode"),
            Self::Sites(refusal) => write!(f, "the table of sites is refused: {refusal}"),
            Self::WindowEntry { address } => {
                write!(f, "the kernel's page table has no free entry for the wedge's window at {address:#x}")
            }
        }
    }
}

/// Boots the guest. Returns only if that fails.
pub(super) fn boot(eax: u32, information: u64, base: u64) -> Failure<'static> {
    match prepare(eax, information, base) {
        Ok(ready) => ready.enter(),
        Err(failure) => failure,
    }
}

/// A guest that is loaded.
struct Ready {
    entry: u64,
    boot_params: u64,
}

impl Ready {
    /// Enters the guest by Linux's 64-bit boot protocol (Documentation/x86/boot.rst): paging on, the first memory mapped at
    /// its own addresses, flat segments, interrupts off, RSI pointing to `boot_params`.
    fn enter(&self) -> ! {
        // SAFETY: the plan has put a kernel there, whose entry point this is.
        unsafe {
            core::arch::asm!(
                "xor ebp, ebp", "xor edi, edi", "xor ebx, ebx", "jmp rax",
                in("rax") self.entry, in("rsi") self.boot_params, options(noreturn)
            )
        }
    }
}

fn prepare(eax: u32, information: u64, base: u64) -> Result<Ready, Failure<'static>> {
    let parameters = parameters();
    if parameters.payload.length == 0 {
        return Err(Failure::NotPacked);
    }
    let start = base + LOAD_ADDRESS;
    if parameters.load_address != start {
        return Err(Failure::Moved { expected: parameters.load_address, found: start });
    }
    parameters.check(own_length(), USABLE - LOAD_ADDRESS).map_err(Failure::Misplaced)?;
    let end = LOAD_ADDRESS + parameters.arena.offset + parameters.arena.length;
    resident::set_base(base);
    let own = start..base + end;
    let payload = start + parameters.payload.offset..start + parameters.payload.offset + parameters.payload.length;

    let information = boot_information(eax, information)?;
    // A loader may put bytes where there is no memory, and not notice.
    for range in [&own, &payload] {
        let (address, length) = (range.start, range.end - range.start);
        if !information.memory.is_usable(range) {
            return Err(Failure::Memory(OutOfMemory { address, length }));
        }
    }
    let contents = Payload::check(Firmware.read(payload.start, parameters.payload.length).unwrap_or_default());
    let contents = contents.map_err(Failure::Payload)?;
    contents.check_arena(parameters.arena).map_err(Failure::Payload)?;
    let command_line = command_line(&contents, &information)?;
    let options = Options::parse(command_line.as_str()).map_err(Failure::Option)?;
    let backend = select(options.backend, information.protocol, hypervisor()).map_err(Failure::Backend)?;
    say!("backend {backend}, mode {}, entered by {}", options.mode, information.protocol);
    debug_assert_eq!(backend, Backend::Bare);
    if options.tables.is_some() {
        say!("afterburn.tables= has no effect on bare hardware: the kernel's page tables are the real ones");
    }
    // CPUID 8000_0001, ECX bit 0 (SDM Vol. 2A, LAHF).
    if options.mode == Mode::Profile && core::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 == 0 {
        return Err(Failure::NoLahf);
    }

    let mut map = information.memory;
    map.reserve(&own).map_err(Failure::MemoryMap)?;
    let guest = Guest {
        kernel: contents.kernel,
        relocations: contents.relocations,
        physical: None,
        command_line,
        initramfs: Archives { own: contents.initramfs, modules: &information.modules },
        map: &map,
        rsdp: rsdp(&information),
        display: information.framebuffer.map_or(Display::None, display),
        entropy: entropy(),
    };
    let busy = [own.clone(), payload];
    let plan = guest.plan(&busy).map_err(Failure::Load)?;
    // SAFETY: the plan keeps off the payload and the wedge; what the boot loader has said was copied, and of modules there is
    // no reference.
    let mut memory = unsafe { Usable::new(&map, own.clone()) };
    plan.load(&mut memory).map_err(Failure::Memory)?;
    take_over(&plan, &contents, options, &mut memory, base, &parameters)?;
    Ok(Ready { entry: plan.kernel.entry(), boot_params: plan.boot_params })
}

/// Puts the window into the loaded kernel's page tables, rewrites the sites, and makes the wedge resident.
fn take_over(
    plan: &Plan<'_>,
    contents: &Payload<'_>,
    options: Options,
    memory: &mut Usable<'_>,
    base: u64,
    parameters: &Parameters,
) -> Result<(), Failure<'static>> {
    let moved = u64::from(plan.offset.unwrap_or(0));
    let extent = plan.kernel.extent();
    let image = memory.bytes(extent.start, extent.end - extent.start).map_err(Failure::Memory)?;
    let address = plan.kernel.virtual_extent().start.wrapping_add(moved);

    let arena = Arena::new(parameters.arena);
    let window = Window::new(base, &arena.stubs(), arena.end());
    let users = contents.guest.user_window_entry;
    if users != 0 && !extent.contains(&users) {
        return Err(Failure::WindowEntry { address: users });
    }
    let entry = contents.guest.window_entry;
    let place = usize::try_from(entry.wrapping_sub(extent.start)).ok();
    let place = place.and_then(|offset| image.get_mut(offset..)).and_then(|bytes| bytes.first_chunk_mut::<8>());
    match place {
        Some(place) if *place == [0; 8] => *place = window.entry().to_le_bytes(),
        _ => return Err(Failure::WindowEntry { address: entry }),
    }
    window.show_to_head_code(moved);

    // SAFETY: the arena is in the window, and this is the only call.
    let mut engine = Engine::new(options.mode, hooks(), unsafe { arena.memory() });
    let summary = rewrite_sites(&mut engine, contents, moved, wedge::sites::Piece { bytes: image, address });
    let summary = summary.map_err(Failure::Sites)?;
    let kernel = address..address + (extent.end - extent.start);
    let regions = crate::runtime::modules::WATCHED.take();
    Resident::new(engine, &summary, window, kernel, moved, &contents.guest, regions).stay();
    Ok(())
}

/// What the boot loader says.
fn boot_information(eax: u32, address: u64) -> Result<BootInformation<'static>, Failure<'static>> {
    let first_word =
        Firmware.read(address, 4).and_then(|bytes| bytes.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word));
    let protocol = boot::entered_by(eax, first_word).ok_or(Failure::Protocol { eax, first_word })?;
    BootInformation::read(protocol, &Firmware, address).map_err(Failure::BootInformation)
}

/// The image's command line and the boot loader's, in the wedge's own memory.
fn command_line(
    contents: &Payload<'_>,
    information: &BootInformation<'_>,
) -> Result<&'static CommandLine, Failure<'static>> {
    let joined = CommandLine::join(contents.command_line, information.command_line).map_err(Failure::CommandLine)?;
    let place = &raw mut COMMAND_LINE;
    // SAFETY: the guest does not run yet, and this is called once.
    let place = unsafe { &mut *place };
    Ok(place.insert(joined))
}

/// ACPI's root pointer, copied to where the guest finds it later.
fn rsdp(information: &BootInformation<'_>) -> u64 {
    let Some(range) = &information.rsdp else { return 0 };
    let place = &raw mut RSDP;
    // SAFETY: the guest does not run yet, and this is called once.
    let place = unsafe { &mut *place };
    let Some(bytes) = Firmware.read(range.start, range.end - range.start) else { return 0 };
    let length = bytes.len().min(place.len());
    place[..length].copy_from_slice(&bytes[..length]);
    resident::physical(place.as_ptr())
}

/// What the guest can draw on.
fn display(framebuffer: Framebuffer) -> Display {
    let narrow = |value: u32| u16::try_from(value).ok();
    let size = narrow(framebuffer.pitch).zip(narrow(framebuffer.width)).zip(narrow(framebuffer.height));
    match (framebuffer.pixels, size) {
        (Pixels::Text, _) => Display::Text { row: 0 },
        (Pixels::Direct { red, green, blue }, Some(((pitch, width), height))) => {
            let field = |channel: crate::boot::Channel| boot_params::ColourField {
                position: channel.position,
                size: channel.size,
            };
            Display::Framebuffer(boot_params::Framebuffer {
                address: framebuffer.address,
                pitch,
                width,
                height,
                bits_per_pixel: framebuffer.depth,
                red: field(red),
                green: field(green),
                blue: field(blue),
            })
        }
        _ => Display::None,
    }
}

/// The name of the hypervisor, if one says that it is there (CPUID 1, ECX bit 31; leaf `4000_0000`).
fn hypervisor() -> Option<[u8; 12]> {
    if core::arch::x86_64::__cpuid(1).ecx & 1 << 31 == 0 {
        return None;
    }
    let leaf = core::arch::x86_64::__cpuid(0x4000_0000);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    Some(name)
}
