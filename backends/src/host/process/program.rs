//! The wedge as a program of Linux: how it starts, and how it ends.

use wedge::vm::End;

use super::{boot, console, processes, system};
use crate::runtime::log::{self, use_console};
use crate::runtime::say;

/// What the wedge writes to, and how it ends.
static CONSOLE: log::Console = log::Console { write: console::write_log, stop: crash };

/// Entered by the code in [`entry`](super::entry), once: with what Linux has left on the stack, and
/// where it has put the wedge.
#[unsafe(no_mangle)]
extern "C" fn process_start(stack: *const u64, loaded: u64) -> ! {
    use_console(&CONSOLE);
    // SAFETY: this is what Linux leaves there.
    boot::boot(&unsafe { boot::Started::read(stack, loaded) });
    crash()
}

fn crash() -> ! {
    say!("stopped");
    stop(End::Crash)
}

/// The end by a signal: as a shell tells of it.
pub(super) fn end(signal: u32) -> ! {
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
