//! The x87 and SSE registers of the guest's programs, which seL4 keeps with their threads: nobody can
//! ask for those of another thread, and what the guest's kernel executes, which runs in a thread of its
//! own, is about that thread's.
//!
//! So the kernel's FXSAVE and FXRSTOR are sites, which come here. A program's thread executes them, on a
//! page that it shares with the wedge: its instructions are on another, which it cannot write to. Linux
//! saves when it changes threads, and loads before it returns to a program. What it loads stays here
//! until a program goes on, and needs no thread if that one has it already.
//!
//! The same page serves for what a thread of seL4's cannot be told to go on with: flags that are for
//! debugging, or that programs use for themselves. It goes on at an IRETQ then.
//!
//! One thread serves all programs of a space. So it is also known which thread has the registers: a
//! space that gets none of its own has those of the program before, as on a processor.

use wedge::cpu::{Context, FloatingPoint};
use wedge::x86::flags;

use super::guest::{REAL_CS, REAL_SS};
use super::kernel::{Kernel, Slot};
use super::memory::pointer;
use super::objects::{Failure, refused};
use super::programs::Programs;
use super::tables::Tables;
use crate::host::soft::SPACES;
use crate::runtime::PAGE;

/// Where a program's address space has the instructions, and behind them the shared page: in the
/// kernel's part, where programs have nothing.
pub(super) const STUB: u64 = 0x0800_0000_0000;

/// The instructions, 8 bytes each: FXSAVE and FXRSTOR with REX.W and without, at RDI, and UD2, by which
/// the thread stops; IRETQ.
const CODE: [[u8; 8]; 5] = [
    [0x48, 0x0f, 0xae, 0x07, 0x0f, 0x0b, 0, 0],
    [0x0f, 0xae, 0x07, 0x0f, 0x0b, 0, 0, 0],
    [0x48, 0x0f, 0xae, 0x0f, 0x0f, 0x0b, 0, 0],
    [0x0f, 0xae, 0x0f, 0x0f, 0x0b, 0, 0, 0],
    [0x48, 0xcf, 0, 0, 0, 0, 0, 0],
];

/// Where the IRETQ is, and its frame, behind the registers on the shared page.
const IRETQ: u64 = STUB + 4 * 8;
const FRAME: u64 = STUB + PAGE + size_of::<FloatingPoint>() as u64;

/// Which of them.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Save { wide: bool },
    Load { wide: bool },
}

impl Operation {
    const fn address(self) -> u64 {
        let number = match self {
            Self::Save { wide: true } => 0,
            Self::Save { wide: false } => 1,
            Self::Load { wide: true } => 2,
            Self::Load { wide: false } => 3,
        };
        STUB + number * size_of::<[u8; 8]>() as u64
    }
}

/// Frames of the wedge's own: that of the instructions, and behind it one for each space, seen at an
/// address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stubs {
    seen: u64,
    frames: [Slot; 1 + SPACES],
}

impl Stubs {
    /// With pages that are mapped at an address, and their frames.
    ///
    /// # Safety
    ///
    /// Nobody else uses the pages.
    pub(super) unsafe fn new(seen: u64, frames: [Slot; 1 + SPACES]) -> Self {
        // SAFETY: by the caller.
        unsafe { pointer::<[[u8; 8]; 5]>(seen).write(CODE) };
        Self { seen, frames }
    }

    /// The frames of the instructions and of the page of a space.
    pub(super) const fn frames(&self, space: usize) -> [Slot; 2] {
        [self.frames[0], self.frames[1 + space]]
    }

    /// Where the wedge sees the page of a space.
    fn page(&self, space: usize) -> *mut FloatingPoint {
        pointer(self.seen + (1 + space as u64) * PAGE)
    }
}

/// Flags that a thread can be told to go on with (seL4, `FLAGS_MASK`, without TF).
const TOLD: u64 = 0xfff & !flags::TRAP;

/// Where a thread of the current space goes on, and with which stack and flags, to go on with these.
pub(super) fn way_with(context: &Context, tables: &mut Tables) -> Result<[u64; 3], Failure> {
    let Context { rip, rflags, rsp, .. } = *context;
    if rflags & !(TOLD | flags::RESUME) == 0 {
        return Ok([rip, rsp, rflags]);
    }
    tables.prepare_stub(tables.soft.space())?;
    let place = tables.stubs.page(tables.soft.space()).wrapping_add(1).cast::<[u64; 5]>();
    let frame = [rip, REAL_CS, rflags & flags::OF_USER | flags::INTERRUPT | flags::FIXED, rsp, REAL_SS];
    // SAFETY: the page is the wedge's, as long as the thread stands still.
    unsafe { place.write(frame) };
    Ok([IRETQ, FRAME, flags::FIXED])
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    kernel: Kernel,
    /// What the next program goes on with, and in which form, if no thread has it yet.
    loaded: Option<(FloatingPoint, bool)>,
    /// The space whose thread has them otherwise.
    holder: usize,
    /// What the holder's thread had when it ran last, if it was asked since.
    known: Option<(FloatingPoint, bool)>,
}

impl Registers {
    pub(super) const fn new(kernel: Kernel) -> Self {
        Self { kernel, loaded: Some((FloatingPoint::INITIAL, true)), holder: 0, known: None }
    }

    /// What they are.
    pub(super) fn save(&mut self, wide: bool, tables: &mut Tables) -> Result<FloatingPoint, Failure> {
        if let Some((state, _)) = self.loaded {
            return Ok(state);
        }
        if let Some((state, _)) = self.known.filter(|(_, is_wide)| *is_wide == wide) {
            return Ok(state);
        }
        let state = self.run(Operation::Save { wide }, self.holder, tables)?;
        self.known = Some((state, wide));
        Ok(state)
    }

    /// Sets them.
    pub(super) fn load(&mut self, state: &FloatingPoint, wide: bool) {
        self.loaded = Some((*state, wide));
    }

    /// A program of a space is about to go on: its thread has them, if it has not.
    pub(super) fn enter(&mut self, space: usize, tables: &mut Tables) -> Result<(), Failure> {
        if self.loaded.is_none() && self.holder != space {
            self.loaded = Some((self.save(true, tables)?, true));
        }
        if let Some((state, wide)) = self.loaded.take()
            && (self.holder != space || !self.known.is_some_and(|known| is_same(&known.0, &state)))
        {
            // SAFETY: the page is the wedge's, as long as the thread stands still.
            unsafe { tables.stubs.page(space).write(state) };
            self.run(Operation::Load { wide }, space, tables)?;
        }
        self.holder = space;
        self.known = None;
        Ok(())
    }

    /// The space whose thread must stay.
    pub(super) const fn holder(&self) -> Option<usize> {
        if self.loaded.is_some() { None } else { Some(self.holder) }
    }

    /// Has a space's thread execute one of the instructions. What the page holds then.
    fn run(&self, operation: Operation, space: usize, tables: &mut Tables) -> Result<FloatingPoint, Failure> {
        let thread = tables.prepare_stub(space)?;
        let mut registers = [0; 9];
        // RIP, RSP, RFLAGS, RAX, RBX, RCX, RDX, RSI, RDI.
        (registers[0], registers[8]) = (operation.address(), STUB + PAGE);
        self.kernel.write_registers(thread, &registers).map_err(refused("a program's registers"))?;
        while self.kernel.receive(tables.programs.endpoint()).badge != Programs::badge(space) {}
        // SAFETY: as above.
        Ok(unsafe { tables.stubs.page(space).read() })
    }
}

/// Whether two states are the same to a processor: behind the registers it leaves memory as it is.
fn is_same(one: &FloatingPoint, other: &FloatingPoint) -> bool {
    const LENGTH: usize = 416;
    one.0[..LENGTH] == other.0[..LENGTH]
}
