//! Why a program has stopped: what Linux says of the signal that its process came by, or what the
//! program claims, where it has made that up ([`programs`](super::programs)).

use linux_raw_sys::general as raw;

use super::registers::Frame;
use super::stub::SIGNALS;

/// What Linux says of a signal, behind its frame (`sigaction(2)`, `siginfo_t`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Information {
    number: i32,
    error: i32,
    pub(super) code: i32,
    pad: i32,
    /// Of a system call, or of a fault.
    pub(super) address: u64,
}

impl Information {
    /// Whether the signal was sent by a process, and is not Linux's own (`si_code`).
    pub(super) const fn is_from_outside(&self) -> bool {
        self.code <= 0
    }
}

/// Why a program has stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// It has executed a system call, by whatever instruction; where, Linux says.
    SystemCall { at: u64 },
    /// A single step.
    Step,
    /// Another exception; as the processor has told of it, or as the program claims.
    Exception { vector: u64, error: u64, address: u64 },
    /// An access to what is mapped, and Linux has no memory for; as it says, or as the program
    /// claims.
    NoMemory { address: u64 },
    /// The timer.
    Timer,
    /// A signal from outside.
    Signal(u32),
    /// Its process is of no use any more, by its own doing. Its registers are lost.
    Broken,
}

impl Stop {
    /// By the number of the signal.
    pub(super) fn by(number: u32, information: &Information, frame: &Frame) -> Self {
        let is_linuxs = !information.is_from_outside();
        let (vector, error) = frame.cause();
        match number {
            raw::SIGALRM => Self::Timer,
            raw::SIGSYS if is_linuxs => Self::SystemCall { at: information.address },
            raw::SIGTRAP if information.code.cast_unsigned() == raw::TRAP_TRACE => Self::Step,
            number if is_linuxs && frame.is_without_memory(number) => Self::NoMemory { address: frame.fault_address() },
            number if SIGNALS.contains(&number) && number != raw::SIGSYS && is_linuxs => {
                Self::Exception { vector, error, address: frame.fault_address() }
            }
            number => Self::Signal(number),
        }
    }
}
