//! The 8254 timer (Intel 8254 data sheet, order number 231164), and port 0x61, which has channel
//! 2's gate and output.
//!
//! Nothing here ticks. A channel knows when its count was loaded, and everything else is arithmetic
//! on the time since then; tick number n of a periodic channel comes n periods after the start,
//! however late anybody looks. Ticks that passed unseen are one tick.
//!
//! Modes 1 and 5 are triggered by hardware that a PC does not have, and count as 0 and 4; BCD
//! counts as binary. A new count in modes 2 and 3 holds at once, not from the next period on. The
//! clock pulse that a real chip takes to load a count, and the edge that an output makes when its
//! mode changes, are left out.

use super::time::{Frequency, SECOND};

/// The frequency of the timer's input on a PC.
pub(super) const INPUT: Frequency = Frequency(1_193_182);

/// Port 0x61 (82371SB data sheet, NMI Status and Control): what can be written, and what is only
/// read.
const GATE: u8 = 0x01;
const WRITABLE: u8 = 0x0f;
const REFRESH: u8 = 0x10;
const OUTPUT: u8 = 0x20;
/// Half the period of the refresh toggle.
const REFRESH_HALF: u64 = SECOND / 66_288;

/// Control word: which channel, 3 being the read-back command; which bytes of the count are
/// accessed, none being the latch command.
const CHANNEL_SHIFT: u8 = 6;
const READ_BACK: u8 = 3;
const ACCESS: u8 = 0x30;
const ACCESS_LOW: u8 = 0x10;
const ACCESS_HIGH: u8 = 0x20;
/// Read-back command: bits that are 0 to latch.
const KEEP_COUNT: u8 = 0x20;
const KEEP_STATUS: u8 = 0x10;
/// Status byte: the output, and that no count is loaded.
const STATUS_OUTPUT: u8 = 0x80;
const STATUS_NULL: u8 = 0x40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// 0: the output rises when the count has run out.
    TerminalCount,
    /// 2: the output falls for one tick in each period.
    Rate,
    /// 3: the output is high for half of each period.
    Square,
    /// 4: the output falls for one tick when the count has run out.
    Strobe,
}

impl Mode {
    const fn of(control: u8) -> Self {
        match control >> 1 & 7 {
            0 | 1 => Self::TerminalCount,
            2 | 6 => Self::Rate,
            3 | 7 => Self::Square,
            _ => Self::Strobe,
        }
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::Rate | Self::Square)
    }
}

#[derive(Clone, Copy, Debug)]
enum Count {
    /// None is loaded since the mode was set.
    Empty,
    /// The gate is low, after so many ticks.
    Held(u64),
    /// Running since then.
    Since(u64),
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    /// The control word without the channel.
    control: u8,
    /// From 1 to 65536.
    period: u64,
    count: Count,
    gate: bool,
    /// The low byte of a count whose high byte is still to come.
    low: Option<u8>,
    /// The next read is of the high byte.
    reads_high: bool,
    latched: Option<u16>,
    status: Option<u8>,
}

impl Channel {
    const fn new(gate: bool) -> Self {
        Self {
            control: 0,
            period: 1 << 16,
            count: Count::Empty,
            gate,
            low: None,
            reads_high: false,
            latched: None,
            status: None,
        }
    }

    const fn mode(&self) -> Mode {
        Mode::of(self.control)
    }

    /// Ticks since the count was loaded.
    const fn elapsed(&self, now: u64) -> Option<u64> {
        match self.count {
            Count::Empty => None,
            Count::Held(ticks) => Some(ticks),
            Count::Since(start) => Some(INPUT.ticks(now.saturating_sub(start))),
        }
    }

    /// The counting element.
    fn value(&self, now: u64) -> u16 {
        let elapsed = self.elapsed(now).unwrap_or(0);
        let value = match self.mode() {
            Mode::Rate => self.period - elapsed % self.period,
            Mode::Square => self.period - 2 * elapsed % self.period,
            Mode::TerminalCount | Mode::Strobe => self.period.wrapping_sub(elapsed),
        };
        (value & 0xffff) as u16
    }

    fn output(&self, now: u64) -> bool {
        let Some(elapsed) = self.elapsed(now) else { return self.mode() != Mode::TerminalCount };
        match self.mode() {
            Mode::TerminalCount => elapsed >= self.period,
            Mode::Rate => elapsed % self.period != self.period - 1,
            Mode::Square => elapsed % self.period < self.period.div_ceil(2),
            Mode::Strobe => elapsed != self.period,
        }
    }

    /// How often the count has run out.
    fn expiries(&self, now: u64) -> u64 {
        let periods = self.elapsed(now).unwrap_or(0) / self.period;
        if self.mode().is_periodic() { periods } else { periods.min(1) }
    }

    /// When the count runs out for the given time, the first being 1.
    fn expiry(&self, number: u64) -> Option<u64> {
        match self.count {
            Count::Since(start) if number == 1 || self.mode().is_periodic() => {
                Some(start + INPUT.span(number * self.period))
            }
            _ => None,
        }
    }

    fn set_control(&mut self, control: u8) {
        *self = Self { control: control & 0x3f, period: self.period, ..Self::new(self.gate) };
    }

    /// A byte of a count. Returns whether the count is complete, and loaded.
    fn write(&mut self, byte: u8, now: u64) -> bool {
        let count = match (self.control & ACCESS, self.low.take()) {
            (ACCESS_LOW, _) => u16::from(byte),
            (ACCESS_HIGH, _) => u16::from(byte) << 8,
            (_, Some(low)) => u16::from_le_bytes([low, byte]),
            (_, None) => {
                self.low = Some(byte);
                if self.mode() == Mode::TerminalCount {
                    self.count = Count::Empty;
                }
                return false;
            }
        };
        self.period = if count == 0 { 1 << 16 } else { count.into() };
        self.count = if self.gate { Count::Since(now) } else { Count::Held(0) };
        true
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.value(now)).to_le_bytes();
        let (byte, more) = match self.control & ACCESS {
            ACCESS_LOW => (low, false),
            ACCESS_HIGH => (high, false),
            _ if self.reads_high => (high, false),
            _ => (low, true),
        };
        self.reads_high = more;
        if !more {
            self.latched = None;
        }
        byte
    }

    fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.value(now));
        }
    }

    fn latch_status(&mut self, now: u64) {
        let output = if self.output(now) { STATUS_OUTPUT } else { 0 };
        let null = if matches!(self.count, Count::Empty) { STATUS_NULL } else { 0 };
        self.status = self.status.or(Some(output | null | self.control));
    }

    /// A low gate stops the one-shot modes, and a high one lets them go on; it starts the periodic
    /// ones afresh.
    fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        let Some(elapsed) = self.elapsed(now) else { return };
        let elapsed = if self.mode().is_periodic() { 0 } else { elapsed };
        self.count = if gate { Count::Since(now.saturating_sub(INPUT.span(elapsed))) } else { Count::Held(elapsed) };
    }
}

/// The timer and port 0x61.
#[derive(Debug)]
pub(super) struct Pit {
    channels: [Channel; 3],
    /// What was last written to port 0x61.
    control: u8,
    /// How many expiries of channel 0 were seen.
    seen: u64,
    /// An expiry of channel 0, until its mode is set again.
    line: bool,
}

impl Pit {
    pub(super) const fn new() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            control: 0,
            seen: 0,
            line: false,
        }
    }

    /// Ports 0x40 to 0x43 and 0x61.
    pub(super) fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].read(now),
            0x61 => {
                let refresh = if (now / REFRESH_HALF).is_multiple_of(2) { 0 } else { REFRESH };
                let output = if self.channels[2].output(now) { OUTPUT } else { 0 };
                self.control | refresh | output
            }
            _ => 0xff,
        }
    }

    /// Ports 0x40 to 0x43 and 0x61.
    pub(super) fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => {
                let channel = port - 0x40;
                let loaded = self.channels[usize::from(channel)].write(value, now);
                if loaded && channel == 0 {
                    self.seen = 0;
                }
            }
            0x43 => self.command(value, now),
            0x61 => {
                self.control = value & WRITABLE;
                self.channels[2].set_gate(value & GATE != 0, now);
            }
            _ => {}
        }
    }

    fn command(&mut self, value: u8, now: u64) {
        let number = value >> CHANNEL_SHIFT;
        if number == READ_BACK {
            for (number, channel) in self.channels.iter_mut().enumerate() {
                if value & 2 << number != 0 {
                    read_back(channel, value, now);
                }
            }
            return;
        }
        let channel = &mut self.channels[usize::from(number)];
        if value & ACCESS == 0 {
            channel.latch(now);
            return;
        }
        channel.set_control(value);
        if number == 0 {
            self.line = false;
        }
    }

    /// Brings channel 0 up to now. Returns whether its count has run out since the last time.
    pub(super) fn advance(&mut self, now: u64) -> bool {
        let expiries = self.channels[0].expiries(now);
        let expired = expiries > self.seen;
        if expired {
            self.seen = expiries;
            self.line = true;
        }
        expired
    }

    /// When the count of channel 0 runs out.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.channels[0].expiry(self.seen + 1)
    }

    /// The level of line 0.
    pub(super) const fn line(&self) -> bool {
        self.line
    }
}

fn read_back(channel: &mut Channel, command: u8, now: u64) {
    if command & KEEP_COUNT == 0 {
        channel.latch(now);
    }
    if command & KEEP_STATUS == 0 {
        channel.latch_status(now);
    }
}
