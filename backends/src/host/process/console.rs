//! Standard input as the input of the guest's serial port, and the wedge's own words.

use linux_raw_sys::general as raw;

use super::system::{File, wait_for};

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
}

impl Console {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; 64], start: 0, end: 0, ended: false }
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
        if !self.has_input() {
            return None;
        }
        self.start += 1;
        Some(self.bytes[self.start - 1])
    }
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
pub(super) fn restore() {}
