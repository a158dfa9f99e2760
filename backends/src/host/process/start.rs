//! How the wedge starts as a program of Linux.

use super::{boot, console, end};
use crate::runtime::log::{self, use_console};

/// What the wedge writes to, and how it ends.
static CONSOLE: log::Console = log::Console { write: console::write_log, stop: end::crash };

/// Entered by the code in [`entry`](super::entry), once: with what Linux has left on the stack, and
/// where it has put the wedge.
#[unsafe(no_mangle)]
extern "C" fn process_start(stack: *const u64, loaded: u64) -> ! {
    use_console(&CONSOLE);
    // SAFETY: this is what Linux leaves there.
    boot::boot(&unsafe { boot::Started::read(stack, loaded) });
    end::crash()
}
