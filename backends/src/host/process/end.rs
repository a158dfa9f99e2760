//! How the wedge ends as a program of Linux: with the status of the guest's end, and without a
//! trace.

use wedge::vm::End;

use super::{console, processes, system};
use crate::runtime::say;

/// The end of a wedge that cannot go on.
pub(super) fn crash() -> ! {
    say!("stopped");
    stop(End::Crash)
}

/// The end by a signal: as a shell tells of it.
pub(super) fn by_signal(signal: u32) -> ! {
    const BY_SIGNAL: u8 = 128;
    console::restore();
    processes::end_all();
    system::exit(BY_SIGNAL + signal as u8)
}

/// The end of the process, and with it of all stub processes.
pub(super) fn stop(end: End) -> ! {
    const FAILED: u8 = 1;
    console::restore();
    processes::end_all();
    system::exit(if end == End::Crash { FAILED } else { 0 })
}
