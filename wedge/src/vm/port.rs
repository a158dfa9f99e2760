//! The wedge port: how user space in the guest talks to the wedge.
//!
//! An OUT or IN is a site like any other, so an I/O port that no device has can be seen on every
//! host, and needs no driver in the guest: `/dev/port`, or a program with port permissions on a
//! host where its instructions trap, will do. One byte written is a command; the answer is read a
//! byte at a time: ASCII, lines, ended by a NUL. A port that nobody answers reads as FF.
//!
//! Answers are made line by line while they are read, so they need no memory that grows with the
//! number of sites.

use core::fmt::{self, Write};

use crate::sites::Engine;

/// The I/O port.
pub const PORT: u16 = 0xe8;

/// First line of every answer; the number is the version of the protocol.
pub const GREETING: &str = "afterburn 1";

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// What runs, and how many sites it has.
    Status,
    /// Restore every byte of the guest.
    SwitchOff,
    /// Rewrite the sites again.
    SwitchOn,
    /// How often each site was executed, all at one moment.
    Counters,
    /// Count from zero.
    Zero,
}

impl Command {
    /// The command that a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'?' => Self::Status,
            b'0' => Self::SwitchOff,
            b'1' => Self::SwitchOn,
            b'c' => Self::Counters,
            b'z' => Self::Zero,
            _ => return None,
        })
    }
}

/// Who does what is asked for.
pub trait Commands {
    /// Carries out a command.
    fn carry_out(&mut self, command: Command);

    /// Writes one line of the answer to the command carried out last, without its end; `number`
    /// counts from 0.
    ///
    /// # Errors
    ///
    /// Only those of the line.
    fn answer(&mut self, command: Command, number: usize, line: &mut Line) -> Result<More, fmt::Error>;
}

/// Whether an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// The line is part of the answer.
    Line,
    /// There are no more lines.
    End,
}

/// One line of an answer. What does not fit is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Line {
    const CAPACITY: usize = 120;
    const EMPTY: Self = Self { bytes: [0; Self::CAPACITY], length: 0 };
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// A line of the answer to [`Command::Counters`]: that of the next site, from a number on.
///
/// # Errors
///
/// Only those of the line.
pub fn counted(engine: &Engine<'_>, from: &mut usize, line: &mut Line) -> Result<More, fmt::Error> {
    let Some((number, address, class, count)) = engine.counts_from(*from).next() else { return Ok(More::End) };
    *from = number + 1;
    write!(line, "{address:016x} {class} {count}")?;
    Ok(More::Line)
}

/// The state of the port.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    command: Option<Command>,
    /// The next line to make; the greeting is in front of the first.
    next: usize,
    ended: bool,
    line: Line,
    position: usize,
}

impl Default for Port {
    fn default() -> Self {
        Self::new()
    }
}

impl Port {
    /// A port that nothing was asked of. Whoever reads gets the greeting.
    #[must_use]
    pub const fn new() -> Self {
        Self { command: None, next: 0, ended: true, line: Line::EMPTY, position: 0 }
    }

    /// The guest has written a byte. What was left of an answer is gone.
    pub fn write(&mut self, byte: u8, commands: &mut impl Commands) {
        *self = Self::new();
        self.command = Command::from_byte(byte);
        self.ended = self.command.is_none();
        self.start_line();
        let _ = write!(self.line, "{GREETING}");
        match self.command {
            Some(command) => commands.carry_out(command),
            None => {
                let _ = write!(self.line, "\nerror: no such command: {byte:#04x}");
            }
        }
        self.end_line();
    }

    /// The guest reads a byte.
    pub fn read(&mut self, commands: &mut impl Commands) -> u8 {
        if self.position == self.line.length && !self.ended {
            self.make_line(commands);
        }
        let byte = self.line.bytes[..self.line.length].get(self.position).copied();
        self.position += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }

    fn make_line(&mut self, commands: &mut impl Commands) {
        let Some(command) = self.command else { return };
        self.start_line();
        match commands.answer(command, self.next, &mut self.line) {
            Ok(More::Line) => self.end_line(),
            Ok(More::End) | Err(fmt::Error) => {
                self.line.length = 0;
                self.ended = true;
            }
        }
        self.next += 1;
    }

    fn start_line(&mut self) {
        self.line.length = 0;
        self.position = 0;
    }

    fn end_line(&mut self) {
        self.line.length = self.line.length.min(Line::CAPACITY - 1);
        let _ = self.line.write_char('\n');
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::String;
    use std::vec::Vec;

    use super::*;

    /// Answers with as many lines as it was told to.
    struct Lines {
        lines: usize,
        carried_out: Vec<Command>,
    }

    impl Commands for Lines {
        fn carry_out(&mut self, command: Command) {
            self.carried_out.push(command);
        }

        fn answer(&mut self, command: Command, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
            if number == self.lines {
                return Ok(More::End);
            }
            write!(line, "{command:?} {number}")?;
            Ok(More::Line)
        }
    }

    fn ask(port: &mut Port, lines: &mut Lines, byte: u8) -> String {
        port.write(byte, lines);
        let mut answer = Vec::new();
        loop {
            match port.read(lines) {
                0 => return String::from_utf8(answer).unwrap(),
                byte => answer.push(byte),
            }
        }
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let mut lines = Lines { lines: 2, carried_out: Vec::new() };
        let mut port = Port::new();
        assert_eq!(ask(&mut port, &mut lines, b'?'), "afterburn 1\nStatus 0\nStatus 1\n");
        assert_eq!(port.read(&mut lines), 0, "and nothing follows");
        lines.lines = 0;
        assert_eq!(ask(&mut port, &mut lines, b'z'), "afterburn 1\n");
        assert_eq!(lines.carried_out, [Command::Status, Command::Zero]);
    }

    #[test]
    fn a_new_command_ends_the_answer_to_the_one_before() {
        let mut lines = Lines { lines: 9, carried_out: Vec::new() };
        let mut port = Port::new();
        port.write(b'c', &mut lines);
        for _ in 0..30 {
            assert_ne!(port.read(&mut lines), 0);
        }
        lines.lines = 1;
        assert_eq!(ask(&mut port, &mut lines, b'0'), "afterburn 1\nSwitchOff 0\n");
    }

    #[test]
    fn an_unknown_command_is_refused_and_not_carried_out() {
        let mut lines = Lines { lines: 1, carried_out: Vec::new() };
        let answer = ask(&mut Port::new(), &mut lines, b'x');
        assert_eq!(answer, "afterburn 1\nerror: no such command: 0x78\n");
        assert!(lines.carried_out.is_empty());
    }

    #[test]
    fn before_any_command_there_is_no_answer() {
        let mut lines = Lines { lines: 1, carried_out: Vec::new() };
        assert_eq!(Port::new().read(&mut lines), 0);
    }

    #[test]
    fn a_long_line_is_cut_and_still_ended() {
        struct Long;
        impl Commands for Long {
            fn carry_out(&mut self, _: Command) {}
            fn answer(&mut self, _: Command, number: usize, line: &mut Line) -> Result<More, fmt::Error> {
                (0..100).try_for_each(|_| line.write_str("long "))?;
                Ok(if number == 0 { More::Line } else { More::End })
            }
        }
        let mut port = Port::new();
        port.write(b'?', &mut Long);
        let bytes: Vec<u8> = core::iter::repeat_with(|| port.read(&mut Long)).take_while(|byte| *byte != 0).collect();
        assert_eq!(bytes.len(), GREETING.len() + 1 + Line::CAPACITY);
        assert_eq!(bytes.last(), Some(&b'\n'));
    }
}
