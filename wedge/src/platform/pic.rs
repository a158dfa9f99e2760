//! Two 8259A interrupt controllers, the second on line 2 of the first (Intel 8259A data sheet,
//! order number 231468).
//!
//! Two things differ from the chips on purpose. The cascade line counts as level-triggered whatever
//! ELCR says: the real second chip drops its output for a moment at every acknowledge cycle, and a
//! level says the same without the moment. And there are no spurious interrupts 7 and 15: to ask
//! for an interrupt and to acknowledge it is one step here, and a request cannot go away between
//! the two. Left out are the poll command, rotation with automatic EOI and the special fully nested
//! mode, which Linux does not use, and what ICW1, ICW3 and ICW4 can say that does not fit a PC.

/// The line of the first chip that the second is on.
const CASCADE: u8 = 2;

/// Lines of the first and of the second chip that can be made level-triggered (82371SB data sheet,
/// ELCR1 and ELCR2).
const CAN_BE_LEVEL: [u8; 2] = [0xf8, 0xde];

/// ICW1: the bit that makes it one, and whether ICW3 is left out and ICW4 follows.
const ICW1: u8 = 0x10;
const ICW1_SINGLE: u8 = 0x02;
const ICW1_ICW4: u8 = 0x01;
/// ICW4: automatic end of interrupt.
const ICW4_AUTO_EOI: u8 = 0x02;
/// OCW2: rotate, the level is given, end of interrupt.
const OCW2_ROTATE: u8 = 0x80;
const OCW2_SPECIFIC: u8 = 0x40;
const OCW2_EOI: u8 = 0x20;
/// OCW3: the bit that makes it one; special mask mode is set, and to what; a register is chosen,
/// and which.
const OCW3: u8 = 0x08;
const OCW3_SET_SPECIAL_MASK: u8 = 0x40;
const OCW3_SPECIAL_MASK: u8 = 0x20;
const OCW3_SET_REGISTER: u8 = 0x02;
const OCW3_IN_SERVICE: u8 = 0x01;

/// What a write to the chip's second port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Icw2,
    Icw3,
    Icw4,
    Mask,
}

#[derive(Debug)]
struct Chip {
    /// Input lines as they are now.
    lines: u8,
    /// Rising edges not yet acknowledged. A line that falls takes its request back.
    edges: u8,
    /// Lines that are level-triggered.
    level: u8,
    in_service: u8,
    mask: u8,
    /// The vector of line 0.
    base: u8,
    /// The line of lowest priority; the next is that of highest.
    lowest: u8,
    expects: Expects,
    icw1: u8,
    auto_eoi: bool,
    special_mask: bool,
    reads_in_service: bool,
}

impl Chip {
    /// Masked until the guest initialises it.
    const fn new(level: u8) -> Self {
        Self {
            lines: 0,
            edges: 0,
            level,
            in_service: 0,
            mask: 0xff,
            base: 0,
            lowest: 7,
            expects: Expects::Mask,
            icw1: 0,
            auto_eoi: false,
            special_mask: false,
            reads_in_service: false,
        }
    }

    fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        if !high {
            self.lines &= !bit;
            self.edges &= !bit;
        } else if self.lines & bit == 0 {
            self.lines |= bit;
            self.edges |= bit;
        }
    }

    const fn requests(&self) -> u8 {
        self.edges & !self.level | self.lines & self.level
    }

    /// How many lines are of higher priority.
    const fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.lowest + 1) & 7
    }

    /// The line of highest priority in a set.
    fn highest(&self, lines: u8) -> Option<u8> {
        (1..=8).map(|rank| (self.lowest + rank) & 7).find(|line| lines & 1 << line != 0)
    }

    /// The line that the chip asks the processor to serve: unmasked, and of higher priority than
    /// what is being served.
    fn request(&self) -> Option<u8> {
        let unmasked = self.requests() & !self.mask;
        if unmasked == 0 || self.expects != Expects::Mask {
            return None;
        }
        let holds_back = if self.special_mask { self.in_service & !self.mask } else { self.in_service };
        let line = self.highest(unmasked)?;
        let free = self.highest(holds_back).is_none_or(|serving| self.rank(line) < self.rank(serving));
        free.then_some(line)
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let line = self.request()?;
        self.edges &= !(1 << line);
        if !self.auto_eoi {
            self.in_service |= 1 << line;
        }
        Some(line)
    }

    /// The port with address line A0 low.
    fn command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            // The data sheet's list, "Initialization Command Words": edge sense, mask, priorities,
            // special mask, read.
            let fresh = Self::new(self.level);
            *self = Self { lines: self.lines, mask: 0, expects: Expects::Icw2, icw1: value, ..fresh };
        } else if value & OCW3 != 0 {
            if value & OCW3_SET_SPECIAL_MASK != 0 {
                self.special_mask = value & OCW3_SPECIAL_MASK != 0;
            }
            if value & OCW3_SET_REGISTER != 0 {
                self.reads_in_service = value & OCW3_IN_SERVICE != 0;
            }
        } else {
            self.end_of_interrupt(value);
        }
    }

    /// OCW2. Without EOI and without a level it is about automatic EOI.
    fn end_of_interrupt(&mut self, value: u8) {
        let specific = value & OCW2_SPECIFIC != 0;
        let Some(line) = (if specific { Some(value & 7) } else { self.highest(self.in_service) }) else { return };
        if value & OCW2_EOI != 0 {
            self.in_service &= !(1 << line);
        }
        if value & OCW2_ROTATE != 0 && value & (OCW2_SPECIFIC | OCW2_EOI) != 0 {
            self.lowest = line;
        }
    }

    /// The port with address line A0 high.
    fn data(&mut self, value: u8) {
        self.expects = match self.expects {
            Expects::Icw2 => {
                self.base = value & 0xf8;
                if self.icw1 & ICW1_SINGLE == 0 { Expects::Icw3 } else { self.after_icw3() }
            }
            Expects::Icw3 => self.after_icw3(),
            Expects::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                Expects::Mask
            }
            Expects::Mask => {
                self.mask = value;
                Expects::Mask
            }
        };
    }

    const fn after_icw3(&self) -> Expects {
        if self.icw1 & ICW1_ICW4 == 0 { Expects::Mask } else { Expects::Icw4 }
    }

    const fn status(&self) -> u8 {
        if self.reads_in_service { self.in_service } else { self.requests() }
    }
}

/// An interrupt that the processor took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) line: u8,
    pub(super) vector: u8,
}

/// The two chips, lines 0 to 7 and 8 to 15.
#[derive(Debug)]
pub(super) struct Pics {
    first: Chip,
    second: Chip,
}

impl Pics {
    /// With these lines level-triggered, as firmware may have left them.
    pub(super) const fn new(level: u16) -> Self {
        let [first, second] = level.to_le_bytes();
        Self { first: Chip::new(first | 1 << CASCADE), second: Chip::new(second) }
    }

    /// Nothing is on line 2 but the second chip.
    pub(super) fn set_line(&mut self, line: u8, high: bool) {
        match line {
            CASCADE => {}
            0..=7 => self.first.set_line(line, high),
            8..=15 => self.second.set_line(line - 8, high),
            _ => {}
        }
        self.cascade();
    }

    pub(super) fn has_interrupt(&self) -> bool {
        self.first.request().is_some()
    }

    pub(super) fn acknowledge(&mut self) -> Option<Taken> {
        let line = self.first.acknowledge()?;
        let taken = if line == CASCADE {
            let line = self.second.acknowledge()?;
            Taken { line: line + 8, vector: self.second.base + line }
        } else {
            Taken { line, vector: self.first.base + line }
        };
        self.cascade();
        Some(taken)
    }

    /// Lines that are neither masked nor being served.
    pub(super) fn open(&self) -> u16 {
        !u16::from_le_bytes([self.first.mask | self.first.in_service, self.second.mask | self.second.in_service])
    }

    pub(super) fn read(&self, port: u16) -> u8 {
        match port {
            0x20 => self.first.status(),
            0x21 => self.first.mask,
            0xa0 => self.second.status(),
            0xa1 => self.second.mask,
            0x4d0 => self.first.level & CAN_BE_LEVEL[0],
            0x4d1 => self.second.level,
            _ => 0xff,
        }
    }

    pub(super) fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.first.command(value),
            0x21 => self.first.data(value),
            0xa0 => self.second.command(value),
            0xa1 => self.second.data(value),
            0x4d0 => self.first.level = value & CAN_BE_LEVEL[0] | 1 << CASCADE,
            0x4d1 => self.second.level = value & CAN_BE_LEVEL[1],
            _ => {}
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let high = self.second.request().is_some();
        self.first.set_line(CASCADE, high);
    }
}
