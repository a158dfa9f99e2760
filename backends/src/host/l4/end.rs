//! How the wedge ends on seL4, which has no power to switch off: the machine is reset, or stands
//! still.

use core::fmt;

use wedge::vm::End;

use super::ports::Ports;
use crate::runtime::exclusive::Exclusive;
use crate::runtime::say;

/// What the machine is reset by, once it is known.
static PORTS: Exclusive<Option<Ports>> = Exclusive::new(None);

/// From here on the machine can be reset.
pub(super) fn use_ports(ports: Ports) {
    *PORTS.borrow() = Some(ports);
}

/// The end of a wedge that cannot go on.
pub(super) fn crash() -> ! {
    say!("stopped");
    stand_still()
}

/// The same, with a reason.
pub(super) fn fail(why: fmt::Arguments<'_>) -> ! {
    say!("{why}");
    crash()
}

/// The end of the guest.
pub(super) fn stop(end: End) -> ! {
    if end == End::Crash {
        crash();
    }
    reset();
    stand_still()
}

/// Resets the machine, by the reset register of its chipset (Intel 82371SB, `RCR`, and all since),
/// or by the keyboard controller.
fn reset() {
    let Some(ports) = PORTS.try_borrow().and_then(|ports| *ports) else { return };
    for (port, value) in [(0xcf9, 2), (0xcf9, 6), (0x64, 0xfe)] {
        ports.set_byte(port, value);
    }
}

/// Waits for ever.
fn stand_still() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
