//! The wedge's log: lines on the console of whichever host it runs on.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

static ON_XEN: AtomicBool = AtomicBool::new(false);

/// From here on the log goes to Xen's console, not to a serial port.
pub(crate) fn use_xen() {
    ON_XEN.store(true, Ordering::Relaxed);
}

/// Whether the log goes to Xen's console.
pub(crate) fn on_xen() -> bool {
    ON_XEN.load(Ordering::Relaxed)
}

/// The host's console.
#[derive(Debug)]
pub(crate) struct Log;

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if on_xen() {
            crate::host::xen::console::write_log(text);
            Ok(())
        } else {
            crate::host::bare::console::Console.write_str(text)
        }
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
