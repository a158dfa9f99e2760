//! Resetting the machine.
//!
//! A guest that reboots may end up where it came from: on some machines the firmware, entered at
//! its start without a reset, starts what it finds in memory, as QEMU's for `microvm` does. Then
//! the wedge is entered a second time, in memory that the first time has left: its variables are
//! used, and its payload was the guest's. Only a real reset, after which the image is loaded again,
//! leads on.
//!
//! No way to reset is there on every machine, and which are can only be tried. ACPI's would have to
//! be looked for in tables that the guest may have overwritten.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;
use x86_64::{VirtAddr, instructions};

/// Whether the wedge has been entered since it was loaded; in a section that every loader writes.
#[unsafe(link_section = ".data")]
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Notes that the wedge is entered. Returns whether it was before.
pub(super) fn is_entered_again() -> bool {
    ENTERED.swap(true, Ordering::Relaxed)
}

/// Resets the machine: by the chipset, by the keyboard controller, and by a triple fault, which any
/// processor takes for the end.
pub(super) fn reset() -> ! {
    /// The chipset's reset control register (Intel ICH9 Datasheet, 13.7.5): bit 1 says what kind,
    /// bit 2 does it.
    const RESET_CONTROL: u16 = 0xcf9;
    /// Status and command of the keyboard controller (8042): bit 1 while it is busy; command FEH
    /// pulses the reset line.
    const KEYBOARD: u16 = 0x64;
    const BUSY: u8 = 1 << 1;
    for value in [2, 6] {
        write(RESET_CONTROL, value);
        wait(|| false);
    }
    wait(|| read(KEYBOARD) & BUSY == 0);
    write(KEYBOARD, 0xfe);
    wait(|| false);
    // SAFETY: nothing is to be served any more.
    unsafe { lidt(&DescriptorTablePointer { limit: 0, base: VirtAddr::zero() }) };
    instructions::interrupts::int3();
    crate::runtime::log::stop()
}

/// Waits for a condition, but not much longer than ten milliseconds: a port that nobody has takes a
/// microsecond to read.
fn wait(condition: impl Fn() -> bool) {
    /// Of the firmware's diagnostic codes; reading it does nothing.
    const DIAGNOSTICS: u16 = 0x80;
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        read(DIAGNOSTICS);
    }
}

fn read(port: u16) -> u8 {
    // SAFETY: no guest runs, and the wedge depends on none of these ports.
    unsafe { Port::new(port).read() }
}

fn write(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { Port::new(port).write(value) };
}
