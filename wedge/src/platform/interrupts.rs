//! The interrupt lines: who drives them, and when a real device's line is given back.
//!
//! A host learns of a real device's interrupt once, as an event, and not when the device takes it
//! back. So a line that the host raises stays up until the guest has *finished* with it: has taken
//! the interrupt, ended it, and has the line unmasked. Linux masks a line before it ends the
//! interrupt, and unmasks it when the device's handler has run (`mask_and_ack_8259A`,
//! `handle_level_irq`); so "finished" is when the device has been served. Only then does the line
//! fall and the host unmask the real one, which interrupts again if the device still asks.

use super::Board;
use super::pic::Pics;

/// The controllers and what is on their lines.
#[derive(Debug)]
pub(super) struct Interrupts {
    pics: Pics,
    /// Lines that virtual devices drive.
    pub(super) driven: u16,
    /// Lines that the host has raised for real devices.
    raised: u16,
    /// Those among them that the processor has taken.
    taken: u16,
}

impl Interrupts {
    /// With these lines level-triggered from the start.
    pub(super) const fn new(level: u16) -> Self {
        Self { pics: Pics::new(level), driven: 0, raised: 0, taken: 0 }
    }

    /// A virtual device drives its line.
    #[inline]
    pub(super) fn drive(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        if high != (self.driven & bit != 0) {
            self.driven ^= bit;
            self.settle(line);
        }
    }

    /// The host raises or drops a real device's line. Raising it again is a new edge.
    pub(super) fn set_real(&mut self, line: u8, high: bool) {
        let bit = 1_u16.checked_shl(line.into()).unwrap_or(0);
        self.raised &= !bit;
        self.taken &= !bit;
        self.settle(line);
        if high {
            self.raised |= bit;
            self.settle(line);
        }
    }

    fn settle(&mut self, line: u8) {
        self.pics.set_line(line, (self.driven | self.raised) & 1_u16.checked_shl(line.into()).unwrap_or(0) != 0);
    }

    pub(super) fn has_interrupt(&self) -> bool {
        self.pics.has_interrupt()
    }

    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let taken = self.pics.acknowledge()?;
        self.taken |= self.raised & 1 << taken.line;
        Some(taken.vector)
    }

    pub(super) fn read(&self, port: u16) -> u8 {
        self.pics.read(port)
    }

    pub(super) fn write(&mut self, port: u16, value: u8, board: &mut impl Board) {
        self.pics.write(port, value);
        self.finish(board);
    }

    /// Gives back the real lines that the guest has finished with.
    pub(super) fn finish(&mut self, board: &mut impl Board) {
        let finished = self.taken & self.pics.open();
        if finished == 0 {
            return;
        }
        for line in (0..16).filter(|line| finished & 1 << line != 0) {
            self.set_real(line, false);
            board.end_of_interrupt(line);
        }
    }
}
