//! The x87 and SSE registers of the guest's programs, which seL4 keeps with their threads: nobody
//! can ask for those of another thread, and what the guest's kernel executes, which runs in a
//! thread of its own, is about that thread's.
//!
//! So the kernel's FXSAVE and FXRSTOR are sites, which come here. A program's thread executes them,
//! on a page that it shares with the wedge: its instructions are on another, which it cannot write
//! to. Linux saves when it changes threads, and loads before it returns to a program. What it loads
//! stays here until a program goes on, and then the thread begins with it, if it has anything else.
//!
//! The general registers a program gets by that way, too: seL4 is told where the thread goes on,
//! which an answer to a fault can say, and the thread takes the others from the page by itself. The
//! last of its instructions is an IRETQ, which also loads flags that seL4 does not give a thread:
//! those for debugging, or that programs use for themselves.
//!
//! One thread serves all programs of a space. So it is also known which thread has the registers: a
//! space that gets none of its own has those of the program before, as on a processor. A program
//! can read the page: there it finds nothing but registers that it has had itself, or has.

use wedge::cpu::{Context, FloatingPoint};
use wedge::x86::flags;

use super::guest::{REAL_CS, REAL_SS};
use super::kernel::Slot;
use super::memory::pointer;
use super::objects::Failure;
use super::programs::Programs;
use super::tables::Tables;
use crate::host::soft::SPACES;
use crate::runtime::PAGE;

/// Where a program's address space has the instructions, and behind them the shared page: in the
/// kernel's part, where programs have nothing.
pub(super) const STUB: u64 = 0x0800_0000_0000;

/// The instructions (SDM Vol. 2A, FXSAVE, FXRSTOR, IRET; Vol. 2B, JMP, POP), by what they are for.
/// Operands are so far behind the next instruction.
const CODE: [[u8; 16]; 6] = [
    // FXSAVE with REX.W, and without, to the shared page, and UD2, by which the thread stops.
    [0x48, 0x0f, 0xae, 0x05, 0xf8, 0x0f, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0],
    [0x0f, 0xae, 0x05, 0xe9, 0x0f, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0],
    // FXRSTOR with REX.W, and without, and a jump to the last.
    [0x48, 0x0f, 0xae, 0x0d, 0xd8, 0x0f, 0, 0, 0xeb, 0x16, 0, 0, 0, 0, 0, 0],
    [0x0f, 0xae, 0x0d, 0xc9, 0x0f, 0, 0, 0xeb, 0x07, 0, 0, 0, 0, 0, 0, 0],
    // POP RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15, IRETQ.
    [0x58, 0x5b, 0x59, 0x5a, 0x5e, 0x5f, 0x5d, 0x41, 0x58, 0x41, 0x59, 0x41, 0x5a, 0x41, 0x5b, 0x41],
    [0x5c, 0x41, 0x5d, 0x41, 0x5e, 0x41, 0x5f, 0x48, 0xcf, 0, 0, 0, 0, 0, 0, 0],
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

const GO_ON: u64 = code(4);

/// What is on the shared page: the x87 and SSE registers, the others in the order in which they are
/// popped, and the frame of the IRETQ.
#[repr(C)]
struct Shared {
    state: FloatingPoint,
    registers: [u64; 15],
    frame: [u64; 5],
}

/// Where the stack is.
const STACK: u64 = STUB + PAGE + core::mem::offset_of!(Shared, registers) as u64;

/// Whether an address is one of an instruction there: the program that is to go on has not begun.
pub(super) const fn is_in_stub(rip: u64) -> bool {
    rip.wrapping_sub(STUB) < PAGE
}

/// Frames of the wedge's own: that of the instructions, and behind it one for each space, seen at
/// an address.
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
        unsafe { pointer::<[[u8; 16]; CODE.len()]>(seen).write(CODE) };
        Self { seen, frames: *frames }
    }

    /// The frames of the instructions and of the page of a space.
    pub(super) const fn frames(&self, space: usize) -> [Slot; 2] {
        [self.frames[0], self.frames[1 + space]]
    }

    /// What is on the page of a space, as long as its thread stands still.
    fn page(&mut self, space: usize) -> &mut Shared {
        // SAFETY: the page is the wedge's then, by `new`; any value is valid.
        unsafe { &mut *pointer(self.seen + (1 + space as u64) * PAGE) }
    }

    /// Whether the x87 and SSE registers there are the same to a processor: behind them it leaves
    /// memory as it is.
    fn has(&mut self, space: usize, state: &FloatingPoint) -> bool {
        const WORDS: usize = 416 / 8;
        self.page(space).state.0.as_chunks::<8>().0[..WORDS] == state.0.as_chunks::<8>().0[..WORDS]
    }
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    /// What the next program goes on with, if no thread has it yet, and in which form.
    loaded: FloatingPoint,
    form: Option<bool>,
    /// The space whose thread has them otherwise.
    holder: usize,
    /// Whose threads have what is on their pages, in which form: nothing has run there since that
    /// was stored.
    known: [Option<bool>; SPACES],
}

impl Registers {
    pub(super) const fn new() -> Self {
        Self { loaded: FloatingPoint::INITIAL, form: Some(true), holder: 0, known: [None; SPACES] }
    }

    /// Stores what they are.
    pub(super) fn save(&mut self, state: &mut FloatingPoint, wide: bool, tables: &mut Tables) -> Result<(), Failure> {
        if self.form.is_some() {
            *state = self.loaded;
            return Ok(());
        }
        if self.known[self.holder] != Some(wide) {
            Self::run(save(wide), self.holder, tables)?;
            self.known[self.holder] = Some(wide);
        }
        *state = tables.stubs.page(self.holder).state;
        Ok(())
    }

    /// Sets them.
    pub(super) fn load(&mut self, state: &FloatingPoint, wide: bool) {
        self.loaded = *state;
        self.form = Some(wide);
    }

    /// A program of a space is about to go on. Whether its thread has the registers already.
    pub(super) fn settle(&mut self, space: usize, tables: &mut Tables) -> Result<bool, Failure> {
        if self.form.is_none() && self.holder != space {
            let mut state = FloatingPoint::INITIAL;
            self.save(&mut state, true, tables)?;
            self.load(&state, true);
        }
        if self.form.is_some() && self.known[space].is_some() && tables.stubs.has(space, &self.loaded) {
            self.form = None;
            self.holder = space;
        }
        Ok(self.form.is_none())
    }

    /// Where the thread begins, so that it has all registers: RIP, RSP and flags. It has begun when
    /// [`begun`](Self::begun) is called.
    pub(super) fn way(&mut self, context: &Context, space: usize, tables: &mut Tables) -> Result<[u64; 3], Failure> {
        if !tables.has_stub(space) {
            tables.prepare_stub(space)?;
        }
        let page = tables.stubs.page(space);
        let Context { rip, rflags, rsp, registers: r, .. } = *context;
        page.registers =
            [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
        page.frame = [rip, REAL_CS, rflags & flags::OF_USER | flags::INTERRUPT | flags::FIXED, rsp, REAL_SS];
        let entry = match self.form {
            Some(wide) => {
                page.state = self.loaded;
                self.known[space] = None;
                load(wide)
            }
            None => GO_ON,
        };
        Ok([entry, STACK, flags::FIXED])
    }

    /// A space's thread has run. What is on its page is not what it has any more: also a program that
    /// is found in the instructions there may have been anywhere, and have written to the page.
    pub(super) fn ran(&mut self, space: usize) {
        self.known[space] = None;
    }

    /// The program has begun, and its thread has them. If it has not, what was loaded still is.
    pub(super) fn begun(&mut self, space: usize) {
        self.form = None;
        self.holder = space;
    }

    /// The space whose thread must stay.
    pub(super) const fn holder(&self) -> Option<usize> {
        if self.form.is_some() { None } else { Some(self.holder) }
    }

    /// Spaces, as bits, whose threads are others.
    pub(super) fn forget(&mut self, renewed: u128) {
        if renewed != 0 {
            (0..SPACES).filter(|space| renewed >> space & 1 == 1).for_each(|space| self.known[space] = None);
        }
    }

    /// Has a space's thread execute what is at an address, up to UD2.
    fn run(address: u64, space: usize, tables: &mut Tables) -> Result<(), Failure> {
        let thread = tables.prepare_stub(space)?;
        let programs = &mut tables.programs;
        let mut stopped = programs.run(space, thread, Some([address, STACK, flags::FIXED]), None)?;
        while stopped.is_none() {
            stopped = programs.wait(space);
        }
        stopped.map_or(Ok(()), |message| Programs::stopped_at_stub(space, &message))
    }
}
