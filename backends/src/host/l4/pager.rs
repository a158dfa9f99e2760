//! The pager: the thread that is told what has happened to the wedge's thread, in which the guest's
//! kernel runs, too, and what comes from outside. Its priority is higher, so the other stands still
//! meanwhile.
//!
//! It decides nothing but where the thread goes on. An exception is noted, and the thread enters
//! the wedge with it. What comes from outside is noted as pending; the thread enters the wedge if
//! it may be interrupted. If it waits for a program, a notification wakes it, which stays until it
//! is waited for.

use core::sync::atomic::Ordering;

use wedge::x86::{flags, vector};

use super::cpu::CPU;
use super::entry::{l4_exception, l4_gap, l4_gap_end, l4_nested};
use super::kernel::{Kernel, Message, fault, initial};
use super::memory::pointer;
use crate::host::cause;
use crate::runtime::exclusive::Exclusive;
use crate::runtime::{own_length, window};

/// What the pager knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pager {
    pub(super) kernel: Kernel,
    /// Where faults of the wedge's thread come to.
    pub(super) endpoint: u64,
    /// What wakes it.
    pub(super) waker: u64,
}

/// It, for when it starts.
pub(super) static PAGER: Exclusive<Option<Pager>> = Exclusive::new(None);

/// Set in the badge of all notifications that tell of lines.
pub(super) const LINES: u64 = 1 << 63;

/// Entered by the code in [`entry`](super::entry), once.
#[unsafe(no_mangle)]
extern "C" fn l4_pager() -> ! {
    let pager = *PAGER.borrow();
    let Some(pager) = pager else { super::end::fail(format_args!("the pager has nothing to do")) };
    loop {
        let message = pager.kernel.receive(pager.endpoint);
        if message.badge & LINES != 0 {
            pager.came_in(message.badge & !LINES);
        } else {
            pager.fault(&message);
        }
    }
}

/// Where a thread is, as seL4 has it.
#[derive(Clone, Copy, Debug)]
struct Place {
    rip: u64,
    rsp: u64,
    rflags: u64,
}

impl Pager {
    fn place(self) -> Place {
        let mut registers = [0; 3];
        if let Err(error) = self.kernel.read_registers(initial::THREAD, false, &mut registers) {
            super::end::fail(format_args!("seL4 refuses to read registers: {error}"))
        }
        let [rip, rsp, rflags] = registers;
        Place { rip, rsp, rflags }
    }

    /// Lines are raised.
    fn came_in(self, lines: u64) {
        CPU.lines.fetch_or(lines, Ordering::SeqCst);
        CPU.pending.store(1, Ordering::SeqCst);
        self.kernel.signal(self.waker);
        if CPU.mask.load(Ordering::SeqCst) != 0 {
            return;
        }
        let mut place = self.place();
        let gap = [&raw const l4_gap, &raw const l4_gap_end].map(|label| label.addr() as u64);
        if (gap[0]..=gap[1]).contains(&place.rip) {
            // SAFETY: the frame of the IRETQ, on the wedge's stack.
            let [rip, _, rflags, rsp, _] = unsafe { pointer::<[u64; 5]>(place.rsp).read() };
            place = Place { rip, rsp, rflags };
        } else if is_wedges(place.rip) {
            return;
        }
        self.enter(place, cause::EVENT, 0);
    }

    /// The thread has come upon something.
    fn fault(self, message: &Message) {
        // In the buffer, where the next call puts something else.
        let code = self.kernel.word(4);
        let place = self.place();
        let (vector, error) = match message.label {
            fault::VM_FAULT => {
                CPU.fault_address.store(message.registers[1], Ordering::Relaxed);
                (vector::PAGE_FAULT.into(), message.registers[3])
            }
            fault::USER_EXCEPTION => (message.registers[3], code),
            // It was a system call that seL4 does not have. SYSCALL itself is none here.
            label => super::end::fail(format_args!("fault {label} of the guest's kernel at {:#x}", place.rip)),
        };
        if is_wedges(place.rip) {
            return self.go_on(place, vector, error, (l4_nested as *const ()).addr(), CPU.nested_stack.end());
        }
        self.enter(place, vector, error);
    }

    /// The guest's kernel was interrupted: the wedge is entered.
    fn enter(self, place: Place, vector: u64, error: u64) {
        let masked = CPU.mask.swap(1, Ordering::SeqCst) != 0;
        let interrupts = if masked { 0 } else { flags::INTERRUPT };
        let place = Place { rflags: place.rflags & !flags::INTERRUPT | interrupts, ..place };
        self.go_on(place, vector, error, (l4_exception as *const ()).addr(), CPU.stack.end());
    }

    fn go_on(self, place: Place, vector: u64, error: u64, entry: usize, stack: u64) {
        let noted = [
            (&CPU.vector, vector),
            (&CPU.error, error),
            (&CPU.rip, place.rip),
            (&CPU.rflags, place.rflags),
            (&CPU.rsp, place.rsp),
        ];
        for (number, value) in noted {
            number.store(value, Ordering::Relaxed);
        }
        let registers = [entry as u64, stack, flags::FIXED];
        if let Err(error) = self.kernel.write_registers(initial::THREAD, &registers) {
            super::end::fail(format_args!("seL4 refuses to set registers: {error}"));
        }
    }
}

/// Whether an address is of the wedge itself: not of a stub, which lies behind it.
fn is_wedges(rip: u64) -> bool {
    let start = window() + wedge::image::LOAD_ADDRESS;
    rip.wrapping_sub(start) < own_length()
}
