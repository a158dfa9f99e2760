//! The processor's extended state (x87, SSE, AVX): that of a program also while the guest's kernel
//! runs, which saves it when it changes threads. So it goes with each change between this process
//! and a program's: from and to the frame of the signal that the program was interrupted by.
//!
//! The program can write there, while it runs. So what the processor would not take is put right
//! first (SDM Vol. 1, 13.8: the reserved bits of MXCSR, the header).

use core::arch::asm;

use wedge::x86::control::xcr0;

use super::cpu::CPU;
use super::memory::pointer;
use super::stub::{STACK, STACK_LENGTH};
use crate::runtime::exclusive::Pages;

/// What of the state the guest may use.
const KEPT: u64 = xcr0::ALL;

/// Bytes of the x87 and SSE state, and of the header behind them.
const LEGACY: u64 = 512;
const HEADER: u64 = 64;

/// Where, in the first, MXCSR is, with the mask of the bits that it can have, and what Linux has
/// put at its end (`struct _fpx_sw_bytes`).
const MXCSR: u64 = 24;
const MXCSR_MASK: u64 = 28;
const SOFTWARE: u64 = 464;
const SOFTWARE_WORDS: usize = 6;

/// The state in a frame: where, and how Linux has described it.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// From the start of the stack.
    offset: u64,
    software: [u64; SOFTWARE_WORDS],
    /// Bytes in front of the second magic number.
    length: u64,
    mxcsr_mask: u32,
    components: u64,
}

impl State {
    /// That of a frame of Linux's, whose stack the wedge sees at an address. `None` if it does not
    /// lie in the stack.
    pub(super) fn find(stack: u64, fpstate: u64) -> Option<Self> {
        let offset = fpstate.checked_sub(STACK.start)?;
        let length = STACK.end - STACK.start;
        if !fpstate.is_multiple_of(64) || offset + LEGACY + HEADER > length {
            return None;
        }
        // SAFETY: the process waits, and its stack is memory.
        let software = unsafe { pointer::<[u64; SOFTWARE_WORDS]>(stack + offset + SOFTWARE).read() };
        let state = Self {
            offset,
            software,
            length: software[2] & 0xffff_ffff,
            mxcsr_mask: mxcsr_mask(),
            components: components(),
        };
        (state.length >= LEGACY + HEADER && offset + state.length + 4 <= length).then_some(state)
    }

    /// Takes the state of this process. What the guest does not know of becomes what it is
    /// initially.
    pub(super) fn save(&self, stack: u64) {
        const MAGIC2: u32 = 0x4650_5845;
        let place = stack + self.offset;
        // SAFETY: the process waits; the area is large enough, and aligned; the processor has the
        // instruction, as has been checked, and finds nothing in the header.
        unsafe {
            pointer::<[u64; (HEADER / 8) as usize]>(place + LEGACY).write([0; _]);
            asm!("xsave64 [{}]", in(reg) place, in("eax") KEPT as u32, in("edx") 0, options(nostack));
            pointer::<[u64; SOFTWARE_WORDS]>(place + SOFTWARE).write(self.software);
            pointer::<u32>(place + self.length).write_unaligned(MAGIC2);
        }
    }

    /// Makes it the state of this process. It is copied first: a program that lies may have the
    /// original changed behind the check.
    pub(super) fn restore(&self, stack: u64) {
        let area = CPU.state.borrow();
        let place = area.address(0);
        let length = self.length.min(STACK_LENGTH) as usize;
        // SAFETY: both are memory of that length; nothing is in the copy then that the processor
        // refuses. The wedge uses none of these registers.
        unsafe {
            core::ptr::copy_nonoverlapping::<u8>(pointer(stack + self.offset), pointer(place), length);
            let header = pointer::<[u64; (HEADER / 8) as usize]>(place + LEGACY);
            let components = (*header)[0] & self.components;
            header.write([components, 0, 0, 0, 0, 0, 0, 0]);
            let mxcsr = pointer::<u32>(place + MXCSR);
            mxcsr.write(mxcsr.read() & self.mxcsr_mask);
            asm!("xrstor64 [{}]", in(reg) place, in("eax") KEPT as u32, in("edx") 0, options(nostack));
        }
    }
}

/// The components that the guest may use, and the processor has in use (SDM Vol. 1, 13.3).
fn components() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the processor has XSAVE, and Linux uses it, as has been checked.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    KEPT & (u64::from(high) << 32 | u64::from(low))
}

/// The bits that MXCSR can have (SDM Vol. 1, 11.6.6).
fn mxcsr_mask() -> u32 {
    const USUAL: u32 = 0xffbf;
    let area = Pages::<1>::new();
    // SAFETY: it writes 512 bytes, at a multiple of 16.
    unsafe { asm!("fxsave64 [{}]", in(reg) area.as_ptr(), options(nostack)) };
    // SAFETY: the processor has written there.
    match unsafe { pointer::<u32>(area.address(0) + MXCSR_MASK).read_volatile() } {
        0 => USUAL,
        mask => mask,
    }
}
