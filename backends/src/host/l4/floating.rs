//! The x87 and SSE registers of the guest's programs, which seL4 keeps with their threads: nobody can
//! ask for those of another thread, and what the guest's kernel executes, which runs in a thread of its
//! own, is about that thread's.
//!
//! So the kernel's FXSAVE and FXRSTOR are sites, which come here. A program's thread executes them, on a
//! page that it shares with the wedge: its instructions are on another, which it cannot write to. Linux
//! saves when it changes threads, and loads before it returns to a program. What it loads stays here
//! until a program goes on, and then the thread begins with it, if it has anything else: behind FXRSTOR,
//! an IRETQ leads to the program.
//!
//! The same IRETQ serves for what a thread of seL4's cannot be told to go on with: flags that are for
//! debugging, or that programs use for themselves.
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

/// The instructions (SDM Vol. 2A, FXSAVE, FXRSTOR, IRET), each at a multiple of 16: FXSAVE with REX.W and
/// without, to the shared page, and UD2, by which the thread stops; FXRSTOR with REX.W and without, and
/// IRETQ; IRETQ alone. The operand is so far behind the next instruction.
const CODE: [[u8; 16]; 5] = [
    [0x48, 0x0f, 0xae, 0x05, 0xf8, 0x0f, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0],
    [0x0f, 0xae, 0x05, 0xe9, 0x0f, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0],
    [0x48, 0x0f, 0xae, 0x0d, 0xd8, 0x0f, 0, 0, 0x48, 0xcf, 0, 0, 0, 0, 0, 0],
    [0x0f, 0xae, 0x0d, 0xc9, 0x0f, 0, 0, 0x48, 0xcf, 0, 0, 0, 0, 0, 0, 0],
    [0x48, 0xcf, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

/// One of them.
const fn code(number: u64) -> u64 {
    STUB + 16 * number
}

const fn save(wide: bool) -> u64 {
    code(if wide { 0 } else { 1 })
}

const fn load(wide: bool) -> u64 {
    code(if wide { 2 } else { 3 })
}

const IRETQ: u64 = code(4);

/// Where its frame is: behind the registers.
const FRAME: u64 = STUB + PAGE + size_of::<FloatingPoint>() as u64;

/// Whether an address is one of an instruction there: the program that is to go on has not begun.
pub(super) const fn is_in_stub(rip: u64) -> bool {
    rip.wrapping_sub(STUB) < PAGE
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
    pub(super) unsafe fn new(seen: u64, frames: &[Slot; 1 + SPACES]) -> Self {
        // SAFETY: by the caller.
        unsafe { pointer::<[[u8; 16]; 5]>(seen).write(CODE) };
        Self { seen, frames: *frames }
    }

    /// The frames of the instructions and of the page of a space.
    pub(super) const fn frames(&self, space: usize) -> [Slot; 2] {
        [self.frames[0], self.frames[1 + space]]
    }

    /// What is on the page of a space.
    fn state(&self, space: usize, state: &mut FloatingPoint) {
        // SAFETY: the page is the wedge's, as long as the space's thread stands still; any value is valid.
        unsafe { core::ptr::copy_nonoverlapping(self.page(space), state, 1) };
    }

    /// Whether that is the same to a processor: behind the registers it leaves memory as it is.
    fn has(&self, space: usize, state: &FloatingPoint) -> bool {
        const WORDS: usize = 416 / 8;
        // SAFETY: as above.
        let page = unsafe { &*self.page(space) };
        page.0.as_chunks::<8>().0[..WORDS] == state.0.as_chunks::<8>().0[..WORDS]
    }

    fn set_state(&self, space: usize, state: &FloatingPoint) {
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(state, self.page(space), 1) };
    }

    fn set_frame(&self, space: usize, frame: [u64; 5]) {
        // SAFETY: as above; the registers take less than the page.
        unsafe { self.page(space).wrapping_add(1).cast::<[u64; 5]>().write(frame) };
    }

    /// Where the wedge sees the page of a space.
    fn page(&self, space: usize) -> *mut FloatingPoint {
        pointer(self.seen + (1 + space as u64) * PAGE)
    }
}

/// Flags that a thread can be told to go on with (seL4, `FLAGS_MASK`, without TF).
const TOLD: u64 = 0xfff & !flags::TRAP;

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    kernel: Kernel,
    /// What the next program goes on with, if no thread has it yet, and in which form.
    loaded: FloatingPoint,
    form: Option<bool>,
    /// The space whose thread has them otherwise.
    holder: usize,
    /// Whose threads have what is on their pages, in which form: nothing has run there since that was
    /// stored, or loaded.
    known: [Option<bool>; SPACES],
}

impl Registers {
    pub(super) const fn new(kernel: Kernel) -> Self {
        Self { kernel, loaded: FloatingPoint::INITIAL, form: Some(true), holder: 0, known: [None; SPACES] }
    }

    /// Stores what they are.
    pub(super) fn save(&mut self, state: &mut FloatingPoint, wide: bool, tables: &mut Tables) -> Result<(), Failure> {
        if self.form.is_some() {
            *state = self.loaded;
            return Ok(());
        }
        if self.known[self.holder] != Some(wide) {
            self.run(save(wide), self.holder, tables)?;
            self.known[self.holder] = Some(wide);
        }
        tables.stubs.state(self.holder, state);
        Ok(())
    }

    /// Sets them.
    pub(super) fn load(&mut self, state: &FloatingPoint, wide: bool) {
        self.loaded = *state;
        self.form = Some(wide);
    }

    /// A program of a space is about to go on: where its thread begins, with which stack and flags, so
    /// that it has the registers. It has begun when [`begun`](Self::begun) is called.
    pub(super) fn way(&mut self, context: &Context, space: usize, tables: &mut Tables) -> Result<[u64; 3], Failure> {
        self.forget(core::mem::take(&mut tables.renewed));
        if self.form.is_none() && self.holder != space {
            let mut state = FloatingPoint::INITIAL;
            self.save(&mut state, true, tables)?;
            self.load(&state, true);
        }
        if self.form.is_some() && self.known[space].is_some() && tables.stubs.has(space, &self.loaded) {
            self.form = None;
            self.holder = space;
        }
        let Context { rip, rflags, rsp, .. } = *context;
        let entry = match self.form {
            Some(wide) => load(wide),
            None if rflags & !(TOLD | flags::RESUME) == 0 => return Ok([rip, rsp, rflags]),
            None => IRETQ,
        };
        tables.prepare_stub(space)?;
        if self.form.is_some() {
            tables.stubs.set_state(space, &self.loaded);
            self.known[space] = None;
        }
        let frame = [rip, REAL_CS, rflags & flags::OF_USER | flags::INTERRUPT | flags::FIXED, rsp, REAL_SS];
        tables.stubs.set_frame(space, frame);
        Ok([entry, FRAME, flags::FIXED])
    }

    /// The program has begun, and its thread has them. If it has not, what was loaded still is.
    pub(super) fn begun(&mut self, space: usize) {
        self.form = None;
        self.holder = space;
        self.known[space] = None;
    }

    /// The space whose thread must stay.
    pub(super) const fn holder(&self) -> Option<usize> {
        if self.form.is_some() { None } else { Some(self.holder) }
    }

    /// Spaces, as bits, whose threads are others.
    fn forget(&mut self, renewed: u128) {
        if renewed != 0 {
            (0..SPACES).filter(|space| renewed >> space & 1 == 1).for_each(|space| self.known[space] = None);
        }
    }

    /// Has a space's thread execute what is at an address, up to UD2.
    fn run(&self, address: u64, space: usize, tables: &mut Tables) -> Result<(), Failure> {
        let thread = tables.prepare_stub(space)?;
        let registers = [address, FRAME, flags::FIXED];
        self.kernel.write_registers(thread, &registers).map_err(refused("a program's registers"))?;
        while self.kernel.receive(tables.programs.endpoint()).badge != Programs::badge(space) {}
        Ok(())
    }
}
