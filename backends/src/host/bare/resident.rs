//! The wedge while the guest runs: what the hooks do.
//!
//! There is one wedge for all processors, behind a lock. It is entered at hooked sites only, with
//! interrupts off.

use core::fmt::{self, Write as _};
use core::ops::Range;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use annotate::instructions::Class;
use annotate::record::AllegedSite;
use wedge::image::GuestFacts;
use wedge::sites::{Engine, Flush, GuestText, Hook, Left, Mode, Outcome, Presented, Reason, Summary};
use wedge::vm::modules::{ModuleMemory, Modules, PAGE_LENGTH, Region, Rewriter};
use wedge::vm::port::{Command, Commands, Line, More, Port, counted};
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};

use super::context::Frame;
use super::exceptions::{Interposed, guest_handler, interpose_all};
use super::hooks::{self, Call};
use super::lock::{Lock, processor};
use super::paging::{Window, WriteUnprotected};
use super::world;
use crate::Backend;
use crate::runtime::{say, window};

static RESIDENT: Lock<Option<Resident>> = Lock::new(None);

/// Physical address of the wedge, less the address that it is linked at.
static DISTANCE: AtomicU64 = AtomicU64::new(0);

/// Remembers where the wedge lies.
pub(super) fn set_base(base: u64) {
    DISTANCE.store(base.wrapping_sub(window()), Ordering::Relaxed);
}

/// Physical address of something of the wedge's.
pub(super) fn physical<T: ?Sized>(of: *const T) -> u64 {
    (of.addr() as u64).wrapping_add(DISTANCE.load(Ordering::Relaxed))
}

/// What the wedge keeps.
#[derive(Debug)]
pub(super) struct Resident {
    engine: Engine<'static>,
    summary: Summary,
    window: Window,
    modules: Modules<'static>,
    text: LiveText,
    port: Port,
    /// Physical address of the PML4 entry of user mode's tables, until the window is in them; 0
    /// then, or if there are none.
    user_window_entry: u64,
    /// By how much the kernel was moved.
    moved: u64,
    answered: Answered,
    /// Addresses of the OUT and the IN that the port was last used by. They stay hooked when all is
    /// switched off: nobody could ask for anything otherwise.
    port_sites: [u64; 2],
}

/// What the sites are to be.
#[derive(Clone, Copy, Debug)]
enum Switch {
    On,
    Off { but: Kept },
}

/// Sites that stay rewritten when all others are restored.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// Those that may be used to ask for more.
    Port,
    /// Those that are.
    Used,
}

/// What an answer is made of.
#[derive(Clone, Copy, Debug)]
struct Answered {
    outcome: Result<Outcome, world::NotStopped>,
    /// The next counter to look at.
    counter: usize,
}

impl Resident {
    /// A wedge for a guest that is about to run. `regions` is the memory that its modules are
    /// watched with.
    pub(super) fn new(
        engine: Engine<'static>,
        summary: &Summary,
        window: Window,
        kernel: Range<u64>,
        moved: u64,
        facts: &GuestFacts,
        regions: &'static mut [Region],
    ) -> Self {
        let modules = facts.modules_start..facts.modules_end;
        Self {
            engine,
            summary: *summary,
            window,
            modules: Modules::new(modules.clone(), regions),
            text: LiveText { kernel, modules },
            port: Port::new(),
            user_window_entry: facts.user_window_entry,
            moved,
            answered: Answered { outcome: Ok(Outcome::default()), counter: 0 },
            port_sites: [0; 2],
        }
    }

    /// From here on hooks find it.
    pub(super) fn stay(self) {
        RESIDENT.with(|resident| *resident = Some(self));
    }

    fn hooked(&mut self, hook: Hook, call: &mut Call) {
        self.window.used_by(processor());
        if self.user_window_entry != 0 && self.window.show_to_user_tables(self.user_window_entry) {
            self.user_window_entry = 0;
        }
        match hook {
            Hook::Port => self.port(call),
            Hook::Flush if self.flushes_elsewhere(call) => {}
            Hook::Flush => self.look_for_modules(),
            Hook::Descriptor => {
                world::enlist();
                self.interpose();
            }
            Hook::Fault => self.interpose(),
            Hook::Return => {
                if let Some(rip) = self.engine.resume(call.frame.rip) {
                    call.frame.rip = rip;
                }
            }
        }
    }

    /// Whether a flush concerns nothing that is mapped where modules are. That of one process
    /// identifier cannot: modules are in all address spaces. A program can have its kernel flush
    /// its own pages, or change CR4.TSD, as often as it likes.
    fn flushes_elsewhere(&self, call: &Call) -> bool {
        const SINGLE_ADDRESS: u64 = 0;
        const SINGLE_CONTEXT: u64 = 1;
        let is_elsewhere = |address: u64| !self.text.modules.contains(&address);
        match self.engine.at_stub(call.return_address).and_then(|(_, site)| site.flush()) {
            None => false,
            Some(Flush::Page { base }) => is_elsewhere(call.register(base)),
            Some(Flush::Control { value }) => {
                let changed = call.register(value) ^ Cr4::read_raw();
                changed & (Cr4Flags::PAGE_GLOBAL | Cr4Flags::PCID).bits() == 0
            }
            Some(Flush::Contexts { kind, base, displacement }) => match call.register(kind) {
                SINGLE_ADDRESS => {
                    let descriptor = call.register(base).wrapping_add_signed(displacement.into());
                    let place = usize::try_from(descriptor).map(core::ptr::with_exposed_provenance::<[u64; 2]>);
                    // SAFETY: the instruction, which comes next, reads the same 16 bytes.
                    place.is_ok_and(|place| is_elsewhere(unsafe { place.read_unaligned() }[1]))
                }
                kind => kind == SINGLE_CONTEXT,
            },
        }
    }

    fn interpose(&self) {
        if self.engine.mode() != Mode::Native {
            interpose_all();
        }
    }

    /// An IN or OUT of AL at the wedge's port.
    fn port(&mut self, call: &mut Call) {
        let Some((class, address)) =
            self.engine.at_stub(call.return_address).map(|(_, site)| (site.class(), site.address()))
        else {
            return;
        };
        let is_in = class == Class::In;
        self.port_sites[usize::from(is_in)] = address;
        let mut port = self.port;
        let [al, ..] = call.registers.rax.to_le_bytes();
        if is_in {
            let byte = port.read(self);
            call.registers.rax = call.registers.rax & !0xff | u64::from(byte);
            if byte == 0 && !self.engine.is_on() {
                // The answer to the switch-off has been read to its end: now it is known by which
                // sites.
                self.switch(Switch::Off { but: Kept::Used });
            }
        } else {
            port.write(al, self);
        }
        self.port = port;
    }

    fn look_for_modules(&mut self) {
        let Self { modules, window, engine, text, .. } = self;
        look(modules, window, engine, text);
    }

    /// Nobody looks while all is switched off: then modules have come and gone, and what is known
    /// of them is void.
    fn switch(&mut self, switch: Switch) {
        let Self { modules, engine, text, port_sites: used, .. } = self;
        let outcome = world::stopped(&mut self.window, |window| {
            if !engine.is_on() && matches!(switch, Switch::On) {
                modules.forget();
                engine.forget(&modules.range(), |entry| used.contains(&entry.address()));
            }
            if engine.is_on() || matches!(switch, Switch::On) {
                look(modules, window, engine, text);
            }
            let _unprotected = WriteUnprotected::new();
            match switch {
                Switch::On => engine.apply(text),
                Switch::Off { but: Kept::Port } => engine.revert(|entry| entry.hook() == Some(Hook::Port), text),
                Switch::Off { but: Kept::Used } => engine.revert(|entry| used.contains(&entry.address()), text),
            }
        });
        self.answered.outcome = outcome;
    }

    fn status(&self, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        let state = if self.engine.is_on() { "on" } else { "off" };
        let kept: &[u64] = if self.engine.is_on() { &[] } else { &self.port_sites };
        match number {
            0 => write!(line, "backend {}", Backend::Bare)?,
            1 => write!(line, "mode {}", self.engine.mode())?,
            2 => write!(line, "state {state}")?,
            3 => write!(line, "offset {:#x}", self.moved)?,
            4 => write!(line, "sites {}", self.summary.sites())?,
            5 => write!(line, "rewritten {}", self.summary.rewritten())?,
            6 => write!(line, "modules {}", self.engine.in_modules())?,
            _ => {
                let number = number - 7;
                if let Some(address) = kept.get(number) {
                    write!(line, "kept {address:016x}")?;
                } else if let Some((reason, count)) = self.summary.left().nth(number - kept.len()) {
                    write!(line, "left {count} {reason}")?;
                } else {
                    let number = number - kept.len() - self.summary.left().count();
                    return self.modules.tally().line(number, line);
                }
            }
        }
        Ok(More::Line)
    }

    fn switched(&self, number: usize, what: &str, line: &mut Line) -> Result<More, fmt::Error> {
        match (number, self.answered.outcome) {
            (0, Err(world::NotStopped)) => write!(line, "error: another processor could not be stopped")?,
            (0, Ok(outcome)) => write!(line, "{what} {}", outcome.changed)?,
            (1, Ok(outcome)) => write!(line, "busy {}", outcome.busy)?,
            _ => return Ok(More::End),
        }
        Ok(More::Line)
    }
}

impl Commands for Resident {
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Status => {}
            Command::SwitchOff => self.switch(Switch::Off { but: Kept::Port }),
            Command::SwitchOn => self.switch(Switch::On),
            Command::Counters => {
                self.answered.counter = 0;
                snapshot(&mut self.engine);
            }
            Command::Zero => zero(&self.engine),
        }
    }

    fn answer(&mut self, command: Command, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
        match command {
            Command::Status => self.status(number, line),
            Command::SwitchOff => self.switched(number, "restored", line),
            Command::SwitchOn => self.switched(number, "rewritten", line),
            Command::Counters if self.engine.mode() != Mode::Profile => match number {
                0 => {
                    write!(line, "error: mode {} counts nothing", self.engine.mode())?;
                    Ok(More::Line)
                }
                _ => Ok(More::End),
            },
            Command::Counters => counted(&self.engine, &mut self.answered.counter, line),
            Command::Zero => Ok(More::End),
        }
    }
}

/// The moment of a snapshot, as a place that whoever counts from outside can name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn snapshot(engine: &mut Engine<'static>) {
    engine.snapshot();
}

/// The moment from which on is counted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn zero(engine: &Engine<'static>) {
    engine.zero();
}

/// A stub has called (`hooks.rs`).
#[unsafe(no_mangle)]
extern "C" fn bare_hooked(call: &mut Call) {
    let Some(hook) = hooks::HOOKS.get(usize::try_from(call.hook).unwrap_or(usize::MAX)) else { return };
    RESIDENT.with(|resident| {
        if let Some(resident) = resident {
            resident.hooked(*hook, call);
        }
    });
}

/// An exception was raised in a stub (`exceptions.rs`): it is presented at its site.
#[unsafe(no_mangle)]
extern "C" fn bare_present(stack: &mut Interposed) {
    let vector = u8::try_from(stack.vector & 31).unwrap_or(0);
    present(&mut stack.frame);
    stack.vector = guest_handler(vector);
}

fn present(frame: &mut Frame) {
    let presented = RESIDENT.with(|resident| resident.as_ref().and_then(|resident| resident.engine.site_of(frame.rip)));
    match presented.flatten() {
        None => {}
        Some(Presented::At(address)) => frame.rip = address,
        Some(Presented::Caller(offset)) => {
            let stack = core::ptr::with_exposed_provenance::<u64>(usize::try_from(frame.rsp).unwrap_or(0));
            // SAFETY: the stub was called, and its original does not touch the stack: the return
            // address is on top of it.
            frame.rip = unsafe { stack.read_volatile() }.wrapping_add_signed(offset);
            frame.rsp += 8;
        }
    }
}

/// Where a context goes on that stood still while the sites were rewritten (`world.rs`).
///
/// # Safety
///
/// The processor that rewrote them holds the lock and does nothing but wait for this one.
#[unsafe(no_mangle)]
unsafe extern "C" fn bare_resume(rip: u64) -> u64 {
    // SAFETY: by the above, nobody writes to it.
    let engine = unsafe { RESIDENT.peek() }.as_ref().map(|resident| &resident.engine);
    engine.filter(|engine| engine.is_on()).and_then(|engine| engine.resume(rip)).unwrap_or(rip)
}

/// The guest's text where it runs.
#[derive(Debug)]
struct LiveText {
    kernel: Range<u64>,
    modules: Range<u64>,
}

impl GuestText for LiveText {
    fn slot(&mut self, address: u64, length: usize) -> Option<&mut [u8]> {
        let end = address.checked_add(length as u64)?;
        let inside = |range: &Range<u64>| range.start <= address && end <= range.end;
        if !inside(&self.kernel) && !inside(&self.modules) {
            return None;
        }
        let place = core::ptr::with_exposed_provenance_mut(usize::try_from(address).ok()?);
        // SAFETY: the kernel's image is mapped as long as it runs, and the engine has a site of a
        // module only while `Modules` knows its pages to be mapped. The other processors stand
        // still, or do not execute this text yet.
        Some(unsafe { slice::from_raw_parts_mut(place, length) })
    }
}

/// Looks at what has become of the modules.
fn look(modules: &mut Modules<'_>, window: &mut Window, engine: &mut Engine<'static>, text: &mut LiveText) {
    let root = Cr3::read().0.start_address().as_u64();
    let mut rewriter = LiveRewriter { engine, text };
    modules.look(root, &mut LiveModules { window }, &mut rewriter, |event| say!("{event}"));
}

/// The memory that the guest's modules are in.
struct LiveModules<'a> {
    window: &'a mut Window,
}

impl ModuleMemory for LiveModules<'_> {
    fn table(&mut self, level: u8, physical: u64) -> Option<&[AtomicU64; 512]> {
        Some(self.window.table(level, physical))
    }

    fn page(&mut self, physical: u64) -> Option<&[u8; PAGE_LENGTH]> {
        Some(self.window.page(physical))
    }
}

/// Rewrites what is found in modules.
struct LiveRewriter<'a> {
    engine: &'a mut Engine<'static>,
    text: &'a mut LiveText,
}

impl Rewriter for LiveRewriter<'_> {
    fn add(&mut self, site: &AllegedSite) -> Result<Result<(), Left>, Reason> {
        let _unprotected = WriteUnprotected::new();
        self.engine.add(site, self.text)
    }

    fn forget(&mut self, range: &Range<u64>) {
        self.engine.forget(range, |_| false);
    }
}
