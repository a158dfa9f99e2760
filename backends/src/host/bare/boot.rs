//! From the boot loader's words to the guest's first instruction.
//!
//! The order of a boot is every host's ([`session`]). What the boot loader says is copied before
//! the guest is loaded, for it may lie where that goes. When the guest's sites are rewritten, the
//! wedge withdraws to its window.

use core::fmt;
use core::ops::Range;

use wedge::guest::linux::boot_params::{self, Display};
use wedge::image::{LOAD_ADDRESS, Parameters, Span};
use wedge::loader::command_line::CommandLine;
use wedge::memory::{MemoryMap, OutOfMemory};
use wedge::sites::{Engine, Mode};

use super::hooks::hooks;
use super::paging::{self, USABLE, Window};
use super::physical::{Firmware, Usable};
use super::resident::{self, Resident};
use crate::Backend;
use crate::boot::options::{Options, Stack};
use crate::boot::selection::Protocol;
use crate::boot::session::{self, Boot, Contents, Ground, Loaded, PIECES, Pieces, Ready, Rewritten};
use crate::boot::{self, BootInformation, Framebuffer, InvalidBootInformation, Pixels, ReadMemory as _};
use crate::runtime::arena::Arena;
use crate::runtime::exclusive::Exclusive;
use crate::runtime::{entropy, own_length, parameters, say, window};

/// Copied here, since it may lie in memory that the guest takes.
static RSDP: Exclusive<[u8; 64]> = Exclusive::new([0; 64]);

/// What bare hardware alone refuses.
#[derive(Debug)]
pub(super) enum Failure {
    Moved { expected: u64, found: u64 },
    Protocol { eax: u32, first_word: u32 },
    BootInformation(InvalidBootInformation),
    Memory(OutOfMemory),
    Modules,
    NoLahf,
    NoShadow(Stack),
    WindowEntry { address: u64 },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { expected, found } => {
                write!(f, "loaded at {found:#x}, not at {expected:#x} as the image says")
            }
            Self::Protocol { eax, first_word } => {
                write!(f, "entered neither by PVH nor by multiboot: EAX is {eax:#x}, and EBX points to {first_word:#x}")
            }
            Self::BootInformation(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Modules => write!(f, "the boot loader has loaded more than {PIECES} modules"),
            Self::NoLahf => write!(f, "afterburn.mode=profile needs a processor with LAHF in 64-bit mode"),
            Self::NoShadow(stack) => {
                write!(
                    f,
                    "afterburn.evict={stack}: on bare hardware there is no shadow of page tables to evict it from"
                )
            }
            Self::WindowEntry { address } => {
                write!(f, "the kernel's page table has no free entry for the wedge's window at {address:#x}")
            }
        }
    }
}

/// Boots the guest. Returns only if that fails.
pub(super) fn boot(eax: u32, information: u64, base: u64) {
    match boot_information(eax, information) {
        Ok(information) => {
            let machine = Machine { base, own: 0..0, payload: 0..0, information, window: None };
            if let Some(ready) = session::boot(machine) {
                enter(ready)
            }
        }
        Err(failure) => say!("{failure}"),
    }
}

/// Enters the guest by Linux's 64-bit boot protocol (Documentation/x86/boot.rst): paging on, the
/// first memory mapped at its own addresses, flat segments, interrupts off, RSI pointing to
/// `boot_params`.
fn enter(ready: Ready) -> ! {
    // SAFETY: the plan has put a kernel there, whose entry point this is.
    unsafe {
        core::arch::asm!(
            "xor ebp, ebp", "xor edi, edi", "xor ebx, ebx", "jmp rax",
            in("rax") ready.entry, in("rsi") ready.boot_params, options(noreturn)
        )
    }
}

/// The machine, as the boot loader leaves it.
struct Machine {
    /// Where the window begins in physical memory.
    base: u64,
    /// Physical memory of the wedge, from the start of the window on, and of the payload.
    own: Range<u64>,
    payload: Range<u64>,
    information: BootInformation<'static>,
    window: Option<Window>,
}

impl Boot for Machine {
    type Error = Failure;
    type Memory<'a> = Usable<'a>;

    const BACKEND: Backend = Backend::Bare;

    fn image(&self) -> (Parameters, u64, u64) {
        (parameters(), own_length(), USABLE - LOAD_ADDRESS)
    }

    fn window(&self) -> u64 {
        window()
    }

    fn payload(&mut self, parameters: &Parameters) -> Result<&'static [u8], Failure> {
        let start = self.base + LOAD_ADDRESS;
        if parameters.load_address != start {
            return Err(Failure::Moved { expected: parameters.load_address, found: start });
        }
        resident::set_base(self.base);
        let at = |span: Span| start + span.offset..start + span.offset + span.length;
        self.own = start..at(parameters.arena).end;
        self.payload = at(parameters.payload);
        // A loader may put bytes where there is no memory, and not notice.
        for range in [&self.own, &self.payload] {
            let (address, length) = (range.start, range.end - range.start);
            if !self.information.memory.is_usable(range) {
                return Err(Failure::Memory(OutOfMemory { address, length }));
            }
        }
        Ok(Firmware.read(self.payload.start, parameters.payload.length).unwrap_or_default())
    }

    fn entered(&self) -> (Protocol, Option<[u8; 12]>) {
        (self.information.protocol.into(), hypervisor())
    }

    fn command_line(&self, of_image: &str) -> Result<CommandLine, session::Failure<'static, Failure>> {
        CommandLine::join(of_image, self.information.command_line).map_err(session::Failure::CommandLine)
    }

    fn accept(&self, options: &Options) -> Result<(), Failure> {
        say!("backend {}, mode {}, entered by {}", Self::BACKEND, options.mode, self.information.protocol);
        if options.tables.is_some() {
            say!("afterburn.tables= has no effect on bare hardware: the kernel's page tables are the real ones");
        }
        if let Some(stack) = options.evict {
            return Err(Failure::NoShadow(stack));
        }
        // CPUID 8000_0001, ECX bit 0 (SDM Vol. 2A, LAHF).
        if options.mode == Mode::Profile && core::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 == 0 {
            return Err(Failure::NoLahf);
        }
        Ok(())
    }

    fn lay_out(&mut self, _: &Contents<'_>) -> Result<Ground, Failure> {
        let map = self.information.memory;
        let (mut busy, mut modules) = (Pieces::new(), Pieces::new());
        for range in [&self.own, &self.payload] {
            busy.add(range.clone()).ok_or(Failure::Modules)?;
        }
        for module in self.information.modules.iter() {
            modules.add(module.clone()).ok_or(Failure::Modules)?;
        }
        Ok(Ground {
            map,
            busy,
            modules,
            kernel: None,
            setup_data: paging::keep(self.base, &self.own),
            rsdp: rsdp(&self.information),
            display: self.information.framebuffer.map_or(Display::None, display),
            entropy: entropy(),
        })
    }

    fn memory<'a>(&self, map: &'a MemoryMap) -> Result<Usable<'a>, Failure> {
        // SAFETY: the plan keeps off the payload and the wedge; what the boot loader has said was
        // copied, and of modules there is no reference.
        Ok(unsafe { Usable::new(map, self.own.clone()) })
    }

    /// Puts the window into the loaded kernel's page tables.
    fn prepare(&mut self, loaded: &Loaded<'_>, image: &mut [u8]) -> Result<(), Failure> {
        let arena = Arena::new(loaded.contents.parameters.arena);
        let layout = loaded.contents.payload.layout;
        let window = Window::new(self.base, layout, &arena.stubs(), arena.end());
        let facts = &loaded.contents.payload.guest;
        let users = facts.user_window_entry;
        if users != 0 && !loaded.extent.contains(&users) {
            return Err(Failure::WindowEntry { address: users });
        }
        let entry = facts.window_entry;
        let place = usize::try_from(entry.wrapping_sub(loaded.extent.start)).ok();
        let place = place.and_then(|offset| image.get_mut(offset..)).and_then(|bytes| bytes.first_chunk_mut::<8>());
        match place {
            Some(place) if *place == [0; 8] => *place = window.entry().to_le_bytes(),
            _ => return Err(Failure::WindowEntry { address: entry }),
        }
        window.show_to_head_code(loaded.moved);
        self.window = Some(window);
        Ok(())
    }

    fn engine(&mut self, contents: &Contents<'_>) -> Engine<'static> {
        let arena = Arena::new(contents.parameters.arena);
        // SAFETY: the arena is in the window, and this is the only call.
        Engine::new(contents.options.mode, hooks(), unsafe { arena.memory(window()) })
    }

    fn take_over(self, rewritten: Rewritten<'_>, _: &mut [u8]) -> Result<(), Failure> {
        let Rewritten { loaded, engine, summary } = rewritten;
        let facts = &loaded.contents.payload.guest;
        let Some(window) = self.window else { return Err(Failure::WindowEntry { address: facts.window_entry }) };
        let regions = crate::runtime::modules::WATCHED.take();
        Resident::new(engine, &summary, window, loaded.kernel, loaded.moved, facts, regions).stay();
        Ok(())
    }
}

/// What the boot loader says.
fn boot_information(eax: u32, address: u64) -> Result<BootInformation<'static>, Failure> {
    let first_word =
        Firmware.read(address, 4).and_then(|bytes| bytes.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word));
    let protocol = boot::entered_by(eax, first_word).ok_or(Failure::Protocol { eax, first_word })?;
    BootInformation::read(protocol, &Firmware, address).map_err(Failure::BootInformation)
}

/// ACPI's root pointer, copied to where the guest finds it later.
fn rsdp(information: &BootInformation<'_>) -> u64 {
    let Some(range) = &information.rsdp else { return 0 };
    let place = RSDP.take();
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

/// The name of the hypervisor, if one says that it is there (CPUID 1, ECX bit 31; leaf
/// `4000_0000`).
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
