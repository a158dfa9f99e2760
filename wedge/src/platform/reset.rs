//! The ways to reset a PC: the keyboard controller, port 0x92 and port 0xcf9.
//!
//! There is no keyboard. The status register says for ever that a byte is there to be read, and
//! that nothing written is still pending. So Linux's `i8042_flush` gives up after 16 bytes, instead
//! of waiting half a second for each command to be answered; and `kb_wait`, in front of the reset
//! command, does not wait.

/// Keyboard controller.
pub(super) const KEYBOARD_DATA: u16 = 0x60;
pub(super) const KEYBOARD_COMMAND: u16 = 0x64;
/// System control port A (82371SB data sheet has it as port 0x92): fast A20 and fast reset.
pub(super) const CONTROL_A: u16 = 0x92;
/// Reset control register (82371SB data sheet, RC).
pub(super) const RESET_CONTROL: u16 = 0xcf9;

/// Status: the output buffer is full.
const OUTPUT_FULL: u8 = 0x01;
/// Commands 0xf0 to 0xff pulse those of four lines whose bit is 0; the reset line is bit 0.
const PULSE: u8 = 0xf0;
const NO_RESET_PULSE: u8 = 0x01;

/// Port 0x92: A20 is open; reset.
const A20: u8 = 0x02;
const FAST_RESET: u8 = 0x01;
/// Port 0xcf9: reset.
const RESET_CPU: u8 = 0x04;

pub(super) const fn read(port: u16) -> u8 {
    match port {
        KEYBOARD_COMMAND => OUTPUT_FULL,
        CONTROL_A => A20,
        RESET_CONTROL => 0,
        _ => 0xff,
    }
}

/// Whether a write resets the machine.
pub(super) const fn resets(port: u16, value: u8) -> bool {
    match port {
        KEYBOARD_COMMAND => value & (PULSE | NO_RESET_PULSE) == PULSE,
        CONTROL_A => value & FAST_RESET != 0,
        RESET_CONTROL => value & RESET_CPU != 0,
        _ => false,
    }
}
