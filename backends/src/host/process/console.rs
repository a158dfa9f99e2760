//! Standard input as the input of the guest's serial port, and the wedge's own words.
//!
//! A terminal hands on each byte as it is typed, and Ctrl-A is for the wedge, as it is for QEMU:
//! Ctrl-A X ends the guest, and Ctrl-A twice is Ctrl-A. However the guest ends, the terminal is as
//! it was.

use linux_raw_sys::general as raw;
use wedge::vm::{End, Host as _};

use super::guest::Process;
use super::system::{File, wait_for};
use crate::runtime::exclusive::Exclusive;

/// The terminal as it was, if standard input is one.
static TERMINAL: Exclusive<Option<raw::termios>> = Exclusive::new(None);

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// What has been read, and not been taken.
#[derive(Debug)]
pub(super) struct Console {
    bytes: [u8; 64],
    /// Of these, the ones from here
    start: usize,
    /// to here.
    end: usize,
    /// There is no more.
    ended: bool,
    /// It is a terminal,
    is_terminal: bool,
    /// and the last byte was Ctrl-A.
    escaped: bool,
}

impl Console {
    /// Standard input; if that is a terminal, it hands on bytes as they are from here on.
    pub(super) fn new() -> Self {
        let terminal = File::INPUT.terminal();
        if let Some(terminal) = terminal {
            *TERMINAL.borrow() = Some(terminal);
            File::INPUT.set_terminal(&as_typed(terminal));
        }
        let is_terminal = terminal.is_some();
        Self { bytes: [0; 64], start: 0, end: 0, ended: false, is_terminal, escaped: false }
    }

    /// Standard input, to be waited for; nothing once it has ended.
    pub(super) fn polled(&self) -> raw::pollfd {
        let mut file = File::INPUT.polled(raw::POLLIN);
        if self.ended {
            file.fd = -1;
        }
        file
    }

    /// Whether there is a byte, or is going to be none any more.
    pub(super) fn has_input(&mut self) -> bool {
        if self.start == self.end
            && !self.ended
            && wait_for(&mut [self.polled()], Some(0)).is_ok_and(|ready| ready != 0)
        {
            (self.start, self.end) = (0, 0);
            match File::INPUT.read(&mut self.bytes) {
                Ok(length) if length > 0 => self.end = length,
                _ => self.ended = true,
            }
        }
        self.start < self.end
    }

    /// A byte, if there is one.
    pub(super) fn read(&mut self) -> Option<u8> {
        while self.has_input() {
            self.start += 1;
            let byte = self.bytes[self.start - 1];
            let was_escaped = core::mem::take(&mut self.escaped);
            match byte {
                ESCAPE if self.is_terminal && !was_escaped => self.escaped = true,
                b'x' | b'X' if was_escaped => Process::stop(End::PowerOff),
                _ => return Some(byte),
            }
        }
        None
    }
}

/// A terminal without lines, echo, signals, or changes to what is typed.
fn as_typed(mut terminal: raw::termios) -> raw::termios {
    terminal.c_iflag &= !(raw::BRKINT | raw::ISTRIP | raw::INLCR | raw::IGNCR | raw::ICRNL | raw::IXON);
    terminal.c_lflag &= !(raw::ISIG | raw::ICANON | raw::ECHO | raw::IEXTEN);
    terminal
}

/// Writes the wedge's own words: the terminal wants a carriage return before each new line, as the
/// guest sends it.
pub(super) fn write_log(text: &str) {
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, &b""[..]), |line| (line, b"\r\n"));
        let _ = File::OUTPUT.write(line.as_bytes()).and_then(|()| File::OUTPUT.write(end));
    }
}

/// The end: the terminal is as it was.
pub(super) fn restore() {
    if let Some(Some(terminal)) = TERMINAL.try_borrow().as_deref() {
        File::INPUT.set_terminal(terminal);
    }
}
