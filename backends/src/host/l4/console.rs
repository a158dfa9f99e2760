//! The machine's first serial port (National Semiconductor PC16550D data sheet), which the wedge's
//! words and the guest's go to, as those of seL4 do.

use super::ports::Ports;
use crate::runtime::exclusive::Exclusive;

const PORT: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = PORT + 1;
const FIFO_CONTROL: u16 = PORT + 2;
const MODEM_CONTROL: u16 = PORT + 4;
const LINE_STATUS: u16 = PORT + 5;

const RECEIVED: u8 = 1;
const FIFO_ENABLE: u8 = 1;
/// DTR, RTS, and OUT2, which gates the interrupt on a PC.
const MODEM: u8 = 0x0b;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;
/// Bytes of the FIFO, which is empty when the transmitter is.
const FIFO: usize = 16;
/// A port that is not there is never empty.
const PATIENCE: u32 = 100_000;

/// Where the wedge's words go, once that is known.
static LOG: Exclusive<Option<Ports>> = Exclusive::new(None);

/// From here on the wedge's words go there.
pub(super) fn use_ports(ports: Ports) {
    *LOG.borrow() = Some(ports);
}

/// Has the port interrupt for what comes in.
pub(super) fn listen(ports: Ports) {
    ports.set_byte(FIFO_CONTROL, FIFO_ENABLE);
    ports.set_byte(MODEM_CONTROL, MODEM);
    ports.set_byte(INTERRUPT_ENABLE, RECEIVED);
}

/// Sends bytes.
pub(super) fn write(ports: Ports, bytes: &[u8]) {
    for part in bytes.chunks(FIFO) {
        let mut patience = PATIENCE;
        while ports.byte(LINE_STATUS) & TRANSMITTER_EMPTY == 0 && patience > 0 {
            patience -= 1;
        }
        for byte in part {
            ports.set_byte(PORT, *byte);
        }
    }
}

/// A byte that has come in.
pub(super) fn read(ports: Ports) -> Option<u8> {
    let status = ports.byte(LINE_STATUS);
    (status & DATA_READY != 0 && status != u8::MAX).then(|| ports.byte(PORT))
}

/// Writes the wedge's own words.
pub(super) fn write_log(text: &str) {
    let Some(ports) = LOG.try_borrow().and_then(|ports| *ports) else { return };
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, &b""[..]), |line| (line, b"\r\n"));
        write(ports, line.as_bytes());
        write(ports, end);
    }
}
