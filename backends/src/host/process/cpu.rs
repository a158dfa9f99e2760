//! What belongs to one processor.
//!
//! It lies at one address in the wedge's window. In front is what sites and entry points read and
//! write. That is code which knows nothing of Rust's references, so it consists of atomic numbers.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as raw;
use wedge::vm::Vcpu;

use super::guest::Process;
use super::stub::STACK_LENGTH;
use super::system::{self, Answer};
use crate::runtime::PAGE;
use crate::runtime::exclusive::{Exclusive, Late, Pages};

/// Pages of the wedge's stack. The guest is loaded on it, too.
pub(super) const STACK_PAGES: usize = 64;

/// Pages of a program's extended state: as long as the stack that it comes from.
const STATE_PAGES: usize = (STACK_LENGTH / PAGE) as usize;

/// The processor's. Offsets of fields are operands of the assembly code (`entry.rs`).
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Cpu {
    /// RAX and RSP of a site that has come to the wedge.
    pub(super) saved_rax: AtomicU64,
    pub(super) saved_rsp: AtomicU64,
    /// The virtual control registers, by number, for sites that read one.
    pub(super) control: [AtomicU64; 5],
    /// The address that the latest page fault was about.
    pub(super) fault_address: AtomicU64,
    /// Number of the site that jumped.
    pub(super) site: AtomicU32,
    /// The process that runs a program now, and gets the timer's signal, too; 0 if there is none.
    pub(super) running: AtomicU32,
    /// Not 0: the virtual IF is clear, or the wedge runs.
    pub(super) mask: AtomicU8,
    /// Not 0: something has come in.
    pub(super) pending: AtomicU8,
    /// Not 0: that process was sent the timer's signal.
    pub(super) signalled: AtomicU8,
    /// Not 0: a process has ended.
    pub(super) ended: AtomicU8,
    /// 0xff: the virtual GS bases are exchanged: the active one is the program's.
    pub(super) gs_swapped: AtomicU8,
    /// Not 0: programs run in this process, too,
    pub(super) fast: AtomicU8,
    /// and one does now.
    pub(super) user: AtomicU8,
    /// The GS base of the program, while the kernel runs,
    pub(super) users_gs_base: AtomicU64,
    /// and of the kernel, while a program runs in this process.
    pub(super) kernels_gs_base: AtomicU64,
    /// Where SYSCALL leads, if it does what Linux's does; 0 if not, or if there is none yet.
    pub(super) system_call: AtomicU64,
    /// RIP and RSP of the program that goes on,
    pub(super) users_rip: AtomicU64,
    pub(super) users_rsp: AtomicU64,
    /// and the first address that is not a program's.
    pub(super) users_end: AtomicU64,
    /// Below the stack: nothing, once the wedge has begun.
    guard: Pages<1>,
    /// The wedge's stack.
    pub(super) stack: Pages<STACK_PAGES>,
    /// A copy of a program's extended state that no program can write to (`state.rs`).
    pub(super) state: Exclusive<Pages<STATE_PAGES>>,
    /// The virtual CPU. While the wedge runs, signals do no more than to say that they have come.
    pub(super) vcpu: Exclusive<Late<Vcpu<Process>>>,
}

/// The one processor.
pub(super) static CPU: Cpu = Cpu {
    saved_rax: AtomicU64::new(0),
    saved_rsp: AtomicU64::new(0),
    control: [const { AtomicU64::new(0) }; 5],
    fault_address: AtomicU64::new(0),
    site: AtomicU32::new(0),
    running: AtomicU32::new(0),
    mask: AtomicU8::new(0),
    pending: AtomicU8::new(0),
    signalled: AtomicU8::new(0),
    ended: AtomicU8::new(0),
    gs_swapped: AtomicU8::new(0),
    fast: AtomicU8::new(0),
    user: AtomicU8::new(0),
    users_gs_base: AtomicU64::new(0),
    kernels_gs_base: AtomicU64::new(0),
    system_call: AtomicU64::new(0),
    users_rip: AtomicU64::new(0),
    users_rsp: AtomicU64::new(0),
    users_end: AtomicU64::new(0),
    guard: Pages::new(),
    stack: Pages::new(),
    state: Exclusive::new(Pages::new()),
    vcpu: Exclusive::new(Late::Missing),
};

/// Has a stack that grows too long come upon nothing, instead of what the processor has.
pub(super) fn guard_stack() -> Answer {
    let page = CPU.guard.as_ptr().addr() as u64;
    // SAFETY: nobody accesses the page.
    unsafe { system::map(page, PAGE, raw::PROT_NONE, None) }
}

/// Whether programs run in this process.
pub(super) fn is_fast() -> bool {
    CPU.fast.load(Ordering::Relaxed) != 0
}

/// The address of a number of the processor's.
pub(super) fn address<T>(of: &'static T) -> u64 {
    core::ptr::from_ref(of).addr() as u64
}
