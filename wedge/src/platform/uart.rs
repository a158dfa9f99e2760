//! The first serial port: a 16550A (National Semiconductor PC16550D data sheet).
//!
//! What is sent is sent at once, so the transmitter is always empty, and each byte written makes it
//! empty anew. But a byte is a hypercall for the host, so output is collected: up to a line, to a
//! full buffer, to a few milliseconds (a prompt has no newline), or until the guest reads the line
//! status twice without writing: it waits.
//!
//! What is received waits in the host until there is room in the FIFO, so nothing overruns. No line
//! is noisy and no modem line changes, so there are no line-status and no modem-status interrupts.
//! The divisor is remembered and does nothing.

use super::Board;

/// How long output may be held back.
const HOLD_BACK: u64 = 4_000_000;

/// Registers, by offset (data sheet, table II).
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
/// Interrupt identification when read, FIFO control when written.
const INTERRUPT_FIFO: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const MODEM_STATUS: u16 = 6;
const SCRATCH: u16 = 7;

const ENABLE_RECEIVED: u8 = 0x01;
const ENABLE_EMPTY: u8 = 0x02;
const ENABLE_ALL: u8 = 0x0f;

const ID_NONE: u8 = 0x01;
const ID_EMPTY: u8 = 0x02;
const ID_RECEIVED: u8 = 0x04;
const ID_TIMEOUT: u8 = 0x0c;
const ID_FIFOS: u8 = 0xc0;

const FIFO_ENABLE: u8 = 0x01;
const FIFO_CLEAR_RECEIVED: u8 = 0x02;
/// Bytes at which a FIFO interrupts, by bits 6 and 7 of FIFO control.
const TRIGGERS: [usize; 4] = [1, 4, 8, 14];

/// Line control: offsets 0 and 1 are the divisor.
const DIVISOR_ACCESS: u8 = 0x80;

const DTR: u8 = 0x01;
const RTS: u8 = 0x02;
const OUT1: u8 = 0x04;
/// On a PC the interrupt is gated by this.
const OUT2: u8 = 0x08;
const LOOPBACK: u8 = 0x10;
const MODEM_CONTROL_ALL: u8 = 0x1f;

const DATA_READY: u8 = 0x01;
const TRANSMITTER_EMPTY: u8 = 0x60;

const CTS: u8 = 0x10;
const DSR: u8 = 0x20;
const RI: u8 = 0x40;
const DCD: u8 = 0x80;

/// Bytes received.
#[derive(Debug)]
struct Received {
    bytes: [u8; Self::SIZE],
    first: usize,
    count: usize,
    /// The host may have more.
    more: bool,
}

impl Received {
    const SIZE: usize = 16;

    fn push(&mut self, byte: u8) {
        self.bytes[(self.first + self.count) % Self::SIZE] = byte;
        self.count += 1;
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = self.bytes[self.first];
        self.count = self.count.checked_sub(1)?;
        self.first = (self.first + 1) % Self::SIZE;
        Some(byte)
    }
}

/// Bytes to be sent.
#[derive(Debug)]
struct Output {
    bytes: [u8; 64],
    count: usize,
    deadline: Option<u64>,
    /// The guest has read the line status since it last wrote.
    polled: bool,
}

impl Output {
    fn push(&mut self, byte: u8, board: &mut impl Board) {
        self.bytes[self.count] = byte;
        self.count += 1;
        self.polled = false;
        if byte == b'\n' || self.count == self.bytes.len() {
            self.flush(board);
        } else if self.deadline.is_none() {
            self.deadline = Some(board.now() + HOLD_BACK);
        }
    }

    fn flush(&mut self, board: &mut impl Board) {
        if self.count != 0 {
            board.console_write(&self.bytes[..self.count]);
        }
        self.count = 0;
        self.deadline = None;
    }

    fn poll(&mut self, board: &mut impl Board) {
        if self.polled {
            self.flush(board);
        }
        self.polled = true;
    }
}

/// The port.
#[derive(Debug)]
pub(super) struct Uart {
    divisor: [u8; 2],
    enabled: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    /// The transmitter has become empty, and the guest was not told.
    empty: bool,
    received: Received,
    output: Output,
}

impl Uart {
    pub(super) const fn new() -> Self {
        Self {
            // 9600 baud.
            divisor: [12, 0],
            enabled: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            empty: false,
            received: Received { bytes: [0; Received::SIZE], first: 0, count: 0, more: false },
            output: Output { bytes: [0; 64], count: 0, deadline: None, polled: false },
        }
    }

    /// The level of line 4.
    pub(super) fn line(&self) -> bool {
        self.identification() != ID_NONE && self.modem_control & (OUT2 | LOOPBACK) == OUT2
    }

    /// When collected output has to leave.
    pub(super) const fn deadline(&self) -> Option<u64> {
        self.output.deadline
    }

    /// Sends what was collected.
    pub(super) fn flush(&mut self, board: &mut impl Board) {
        self.output.flush(board);
    }

    /// The host has input: as much of it as there is room for.
    pub(super) fn input(&mut self, board: &mut impl Board) {
        self.received.more = true;
        while self.received.more && self.received.count < self.room() && !self.is_loop() {
            match board.console_read() {
                Some(byte) => self.received.push(byte),
                None => self.received.more = false,
            }
        }
    }

    pub(super) fn read(&mut self, port: u16, board: &mut impl Board) -> u8 {
        match port & 7 {
            DATA if self.is_divisor() => self.divisor[0],
            INTERRUPT_ENABLE if self.is_divisor() => self.divisor[1],
            DATA => {
                let byte = self.received.pop().unwrap_or(0);
                self.refill(board);
                byte
            }
            INTERRUPT_ENABLE => self.enabled,
            INTERRUPT_FIFO => {
                let identification = self.identification();
                self.empty &= identification != ID_EMPTY;
                identification | if self.has_fifo() { ID_FIFOS } else { 0 }
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => {
                self.output.poll(board);
                TRANSMITTER_EMPTY | if self.received.count != 0 { DATA_READY } else { 0 }
            }
            MODEM_STATUS => self.modem_status(),
            _ => self.scratch,
        }
    }

    pub(super) fn write(&mut self, port: u16, value: u8, board: &mut impl Board) {
        match port & 7 {
            DATA if self.is_divisor() => self.divisor[0] = value,
            INTERRUPT_ENABLE if self.is_divisor() => self.divisor[1] = value,
            DATA => self.send(value, board),
            INTERRUPT_ENABLE => {
                self.empty |= value & !self.enabled & ENABLE_EMPTY != 0;
                self.enabled = value & ENABLE_ALL;
            }
            INTERRUPT_FIFO => {
                self.set_fifo_control(value);
                self.refill(board);
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => {
                self.modem_control = value & MODEM_CONTROL_ALL;
                self.refill(board);
            }
            SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    fn send(&mut self, byte: u8, board: &mut impl Board) {
        self.empty = true;
        if !self.is_loop() {
            self.output.push(byte, board);
        } else if self.received.count < self.room() {
            self.received.push(byte);
        }
    }

    /// Switching the FIFOs on or off empties them, too. Without the bit that enables them, no other
    /// counts.
    fn set_fifo_control(&mut self, value: u8) {
        if (value ^ self.fifo_control) & FIFO_ENABLE != 0 || value & FIFO_CLEAR_RECEIVED != 0 {
            self.received.count = 0;
        }
        self.fifo_control = if value & FIFO_ENABLE != 0 { value } else { 0 };
    }

    /// What the host held back for lack of room.
    fn refill(&mut self, board: &mut impl Board) {
        if self.received.more && self.received.count == 0 {
            self.input(board);
        }
    }

    /// The interrupt of highest priority. The FIFO's time-out is over at once.
    const fn identification(&self) -> u8 {
        if self.enabled & ENABLE_RECEIVED != 0 && self.received.count != 0 {
            let trigger = TRIGGERS[(self.fifo_control >> 6) as usize];
            if self.has_fifo() && self.received.count < trigger { ID_TIMEOUT } else { ID_RECEIVED }
        } else if self.enabled & ENABLE_EMPTY != 0 && self.empty {
            ID_EMPTY
        } else {
            ID_NONE
        }
    }

    /// Somebody is always there, and ready. In loopback, the four outputs are the four inputs.
    fn modem_status(&self) -> u8 {
        if !self.is_loop() {
            return CTS | DSR | DCD;
        }
        let wires = [(DTR, DSR), (RTS, CTS), (OUT1, RI), (OUT2, DCD)];
        wires.iter().filter(|(output, _)| self.modem_control & output != 0).fold(0, |status, (_, input)| status | input)
    }

    const fn room(&self) -> usize {
        if self.has_fifo() { Received::SIZE } else { 1 }
    }

    const fn has_fifo(&self) -> bool {
        self.fifo_control & FIFO_ENABLE != 0
    }

    const fn is_divisor(&self) -> bool {
        self.line_control & DIVISOR_ACCESS != 0
    }

    const fn is_loop(&self) -> bool {
        self.modem_control & LOOPBACK != 0
    }
}
