//! The wedge's log, and the wedge's end: both are the host's at hand, which hands them in when it
//! is entered.

use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What a host gives the wedge as a program.
#[derive(Debug)]
pub(crate) struct Console {
    /// Writes a piece of text.
    pub(crate) write: fn(&str),
    /// Ends a boot or a guest that cannot go on.
    pub(crate) stop: fn() -> !,
}

static CONSOLE: AtomicPtr<Console> = AtomicPtr::new(ptr::null_mut());

/// From here on the log, and the end, are this host's.
pub(crate) fn use_console(console: &'static Console) {
    CONSOLE.store(ptr::from_ref(console).cast_mut(), Ordering::Relaxed);
}

fn console() -> Option<&'static Console> {
    // SAFETY: null, or from a reference that lives for ever and is shared (`use_console`).
    unsafe { CONSOLE.load(Ordering::Relaxed).as_ref() }
}

/// The end of a wedge that cannot go on. Before a host has said how that ends, nothing is left but
/// to stand still.
pub(crate) fn stop() -> ! {
    match console() {
        Some(console) => (console.stop)(),
        None => loop {
            core::hint::spin_loop();
        },
    }
}

/// The host's console.
#[derive(Debug)]
pub(crate) struct Log;

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(console) = console() {
            (console.write)(text);
        }
        Ok(())
    }
}

/// Prints a line of the boot log.
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::runtime::log::Log, "afterburner: {}", format_args!($($argument)*));
    }};
}
pub(crate) use say;
