//! The wedge's console on bare hardware: the first serial port, polled.
//!
//! The guest drives the same port. The wedge speaks before the guest does, or with interrupts off,
//! and waits until the transmitter is empty (16550 UART: line status register, bit 5), so neither
//! loses a character.

use x86_64::instructions::port::Port;

/// I/O address of COM1.
const COM1: u16 = 0x3f8;

/// The first serial port.
#[derive(Debug)]
pub(super) struct Console;

/// A register of the port.
fn register(number: u16) -> Port<u8> {
    Port::new(COM1 + number)
}

impl Console {
    /// Sets the port to 115,200 baud, 8 data bits, no parity.
    pub(super) fn set_up() {
        for (number, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
            // SAFETY: COM1's registers belong to the wedge until the guest runs.
            unsafe { register(number).write(value) };
        }
    }

    fn put(byte: u8) {
        const TRANSMITTER_EMPTY: u8 = 1 << 5;
        // A machine without the port reads as all ones: ready. One that is stuck must not stop the
        // boot.
        for _ in 0..1_000_000 {
            // SAFETY: reading the line status has no effect on what the guest sees but for error
            // bits, which it does not use.
            if unsafe { register(5).read() } & TRANSMITTER_EMPTY != 0 {
                break;
            }
        }
        // SAFETY: the transmitter takes a byte; the guest's own are never lost, see above.
        unsafe { register(0).write(byte) };
    }
}

/// Writes a piece of text.
pub(super) fn write(text: &str) {
    for byte in text.bytes() {
        if byte == b'\n' {
            Console::put(b'\r');
        }
        Console::put(byte);
    }
}
