//! The real-time clock and its memory (MC146818A data sheet): an index at port 0x70, a byte at
//! 0x71.
//!
//! The clock is the host's wall clock, plus what the guest has set it ahead. The wall clock only
//! tells whole seconds. When a second begins, which decides about update-in-progress and update
//! interrupts, is learnt: no second begins after it is first seen, and that bound comes closer to
//! the truth with every look. Where the two clocks drift apart, it moves by what they disagree.
//!
//! The alarm, updates and periods are found by comparing what time it is with what time it was.
//! What passed unseen counts once. The daylight-saving bit does nothing, and the day of the week is
//! that of the date.

use super::calendar::{Civil, DAY};
use super::time::{Frequency, SECOND};

/// The divider chain's output, from which periodic interrupts come.
const CRYSTAL: Frequency = Frequency(32_768);
/// How long before an update its bit is set (data sheet, table "Update Cycle Times": `t_BUC`).
const UPDATE_NOTICE: u64 = 244_000;
/// When a second is longer than one, by the other clock: how soon its end is expected.
const RETRY: u64 = 1_000_000;

const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
/// Not the chip's, but where a PC keeps it.
const CENTURY: usize = 0x32;

/// Register A: update in progress; divider, and its value for a crystal of 32,768 Hz; rate of
/// periodic interrupts.
const A_UPDATE: u8 = 0x80;
const A_DIVIDER: u8 = 0x70;
const A_RUNNING: u8 = 0x20;
const A_RATE: u8 = 0x0f;
/// Register B: the guest sets the time; interrupts; binary, not BCD; 24 hours, not 12.
const B_SET: u8 = 0x80;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
/// Register C, and in the same places register B: the interrupts, and any of them.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATED: u8 = 0x10;
const ANY: u8 = 0x80;
/// Register D: the battery is good.
const D_VALID: u8 = 0x80;

/// In an hour of 12: after noon.
const PM: u8 = 0x80;
/// An alarm byte from here on fits any time.
const DONT_CARE: u8 = 0xc0;

/// What time it is: on the monotonic clock in nanoseconds, and on the wall's in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: u64,
    pub(super) wall: u64,
}

/// The chip.
#[derive(Debug)]
pub(super) struct Cmos {
    index: usize,
    /// Alarm, registers A and B, memory. What stands for the time is not kept here.
    bytes: [u8; 128],
    /// Register C.
    flags: u8,
    /// The wall clock's second when last looked at, and when it began.
    wall: u64,
    began: u64,
    /// What the guest's clock is ahead of the wall's.
    ahead: i64,
    /// The time while the guest sets it.
    setting: Option<Civil>,
    /// The last second of the guest's clock, and the last period, that flags were set for.
    second: u64,
    period: u64,
}

impl Cmos {
    pub(super) const fn new() -> Self {
        let mut bytes = [0; 128];
        // The rate that firmware leaves, 1024 Hz.
        bytes[REGISTER_A] = A_RUNNING | 6;
        bytes[REGISTER_B] = B_24_HOURS;
        Self {
            index: 0,
            bytes,
            flags: 0,
            wall: 0,
            began: 0,
            ahead: 0,
            setting: None,
            second: u64::MAX,
            period: u64::MAX,
        }
    }

    /// The level of line 8.
    pub(super) const fn line(&self) -> bool {
        self.flags & self.bytes[REGISTER_B] & (PERIODIC | ALARM | UPDATED) != 0
    }

    /// When the next flag may be set that interrupts. That it is set already makes no difference,
    /// so that no read of register C brings the deadline closer.
    pub(super) fn deadline(&self) -> Option<u64> {
        let wanted = self.bytes[REGISTER_B];
        let period = self.period_length().filter(|_| wanted & PERIODIC != 0);
        let period = period.map(|length| CRYSTAL.span((self.period + 1) * length));
        let second = self.setting.is_none() && wanted & (ALARM | UPDATED) != 0;
        let second = second.then_some(self.began + SECOND);
        [period, second].into_iter().flatten().min()
    }

    /// Sets the flags for what happened up to now.
    pub(super) fn advance(&mut self, moment: Moment) {
        self.observe(moment);
        self.pass_seconds();
        self.pass_periods(moment.now);
    }

    /// Learns when the current second of the wall clock began.
    fn observe(&mut self, Moment { now, wall }: Moment) {
        let passed = wall.checked_sub(self.wall);
        let expected = passed.map_or(now, |seconds| self.began.saturating_add(seconds.saturating_mul(SECOND)));
        let overdue = now.saturating_sub(expected) >= SECOND;
        self.began = if overdue { now - (SECOND - RETRY) } else { expected.min(now) };
        self.wall = wall;
    }

    /// The guest's clock.
    const fn clock(&self) -> u64 {
        self.wall.saturating_add_signed(self.ahead)
    }

    fn pass_seconds(&mut self) {
        if self.setting.is_some() {
            return;
        }
        let second = self.clock();
        let before = core::mem::replace(&mut self.second, second);
        if before < second {
            self.flags |= UPDATED;
            let first = (before + 1).max(second.saturating_sub(DAY - 1));
            if self.flags & ALARM == 0 && (first..=second).any(|second| self.is_alarm(second)) {
                self.flags |= ALARM;
            }
        }
    }

    fn is_alarm(&self, second: u64) -> bool {
        let time = second % DAY;
        let [seconds, minutes, hours] =
            [(1, time % 60), (3, time / 60 % 60), (5, time / 3600)].map(|(index, value)| {
                let alarm = self.bytes[index];
                alarm >= DONT_CARE || alarm == self.encode(index - 1, value)
            });
        seconds && minutes && hours
    }

    fn pass_periods(&mut self, now: u64) {
        let Some(length) = self.period_length() else { return };
        let before = core::mem::replace(&mut self.period, CRYSTAL.ticks(now) / length);
        if before < self.period {
            self.flags |= PERIODIC;
        }
    }

    /// The length of a period in ticks of the crystal (data sheet, table "Periodic Interrupt
    /// Rate").
    fn period_length(&self) -> Option<u64> {
        let register = self.bytes[REGISTER_A];
        let rate = match register & A_RATE {
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        (register & A_DIVIDER == A_RUNNING && rate != 0).then(|| 1 << (rate - 1))
    }

    /// Ports 0x70 and 0x71.
    pub(super) fn read(&mut self, port: u16, moment: Moment) -> u8 {
        if port & 1 == 0 {
            return 0xff;
        }
        self.advance(moment);
        match self.index {
            REGISTER_A => self.bytes[REGISTER_A] | self.update_in_progress(moment.now),
            REGISTER_C => {
                let any = if self.line() { ANY } else { 0 };
                core::mem::take(&mut self.flags) | any
            }
            REGISTER_D => D_VALID,
            index => {
                let time = self.setting.unwrap_or_else(|| Civil::from_seconds(self.clock()));
                field(time, index).map_or(self.bytes[index], |value| self.encode(index, value))
            }
        }
    }

    /// Ports 0x70 and 0x71.
    pub(super) fn write(&mut self, port: u16, value: u8, moment: Moment) {
        if port & 1 == 0 {
            self.index = usize::from(value & 0x7f);
            return;
        }
        self.advance(moment);
        match self.index {
            REGISTER_A => {
                self.bytes[REGISTER_A] = value & !A_UPDATE;
                self.period = u64::MAX;
                self.pass_periods(moment.now);
            }
            REGISTER_B => self.set_control(value),
            REGISTER_C | REGISTER_D => {}
            index => self.set_byte(index, value),
        }
    }

    fn update_in_progress(&self, now: u64) -> u8 {
        let soon = self.setting.is_none() && now - self.began >= SECOND - UPDATE_NOTICE;
        if soon { A_UPDATE } else { 0 }
    }

    fn set_control(&mut self, value: u8) {
        if value & B_SET != 0 {
            self.setting = self.setting.or_else(|| Some(Civil::from_seconds(self.clock())));
            self.bytes[REGISTER_B] = value & !B_UPDATE;
        } else {
            self.bytes[REGISTER_B] = value;
            if let Some(time) = self.setting.take() {
                self.set_clock(time);
            }
        }
    }

    fn set_byte(&mut self, index: usize, value: u8) {
        let number = self.decode(index, value);
        let time = self.setting.unwrap_or_else(|| Civil::from_seconds(self.clock()));
        match (with_field(time, index, number), self.setting.is_some()) {
            (None, _) => self.bytes[index] = value,
            (Some(time), true) => self.setting = Some(time),
            (Some(time), false) => self.set_clock(time),
        }
    }

    /// Sets the guest's clock. What is no time leaves it as it is.
    fn set_clock(&mut self, time: Civil) {
        if let Some(seconds) = time.seconds() {
            self.ahead = seconds.cast_signed().wrapping_sub(self.wall.cast_signed());
        }
        self.second = self.clock();
    }

    /// A number as register B wants it, and hours in its way.
    fn encode(&self, index: usize, number: u64) -> u8 {
        let control = self.bytes[REGISTER_B];
        let half_day = index == 4 && control & B_24_HOURS == 0;
        let pm = if half_day && number >= 12 { PM } else { 0 };
        let number = if half_day { (number + 11) % 12 + 1 } else { number % 100 };
        let [low, ..] = if control & B_BINARY != 0 { number } else { number / 10 * 16 + number % 10 }.to_le_bytes();
        low | pm
    }

    /// The other way round.
    fn decode(&self, index: usize, byte: u8) -> u64 {
        let control = self.bytes[REGISTER_B];
        let half_day = index == 4 && control & B_24_HOURS == 0;
        let digits = u64::from(if half_day { byte & !PM } else { byte });
        let number = if control & B_BINARY != 0 { digits } else { digits / 16 * 10 + digits % 16 };
        let noon = if byte & PM != 0 { 12 } else { 0 };
        if half_day { number % 12 + noon } else { number }
    }
}

/// What time a machine's own chip shows, whose registers `read` reads: seconds since 1970; 0 if it
/// shows no date. It is read until it shows the same twice, for it may go on meanwhile.
pub fn shown_by_machine(mut read: impl FnMut(usize) -> u8) -> u64 {
    const FIELDS: [usize; 7] = [0, 2, 4, 7, 8, 9, CENTURY];
    const TRIES: usize = 100;
    let mut chip = Cmos::new();
    let mut last = None;
    for _ in 0..TRIES {
        chip.bytes[REGISTER_B] = read(REGISTER_B);
        let none = Civil { year: 2000, month: 1, day: 1, weekday: 1, hour: 0, minute: 0, second: 0 };
        let shown = FIELDS.into_iter().fold(none, |time, index| {
            let number = chip.decode(index, read(index));
            with_field(time, index, number).unwrap_or(time)
        });
        if last == Some(shown) {
            return shown.seconds().unwrap_or(0);
        }
        last = Some(shown);
    }
    0
}

/// What a byte of the clock says, if it is one.
const fn field(time: Civil, index: usize) -> Option<u64> {
    Some(match index {
        0 => time.second,
        2 => time.minute,
        4 => time.hour,
        6 => time.weekday,
        7 => time.day,
        8 => time.month,
        9 => time.year % 100,
        CENTURY => time.year / 100,
        _ => return None,
    })
}

/// The time with a byte of the clock changed, if it is one.
const fn with_field(time: Civil, index: usize, value: u64) -> Option<Civil> {
    Some(match index {
        0 => Civil { second: value, ..time },
        2 => Civil { minute: value, ..time },
        4 => Civil { hour: value, ..time },
        6 => Civil { weekday: value, ..time },
        7 => Civil { day: value, ..time },
        8 => Civil { month: value, ..time },
        9 => Civil { year: time.year / 100 * 100 + value, ..time },
        CENTURY => Civil { year: value * 100 + time.year % 100, ..time },
        _ => return None,
    })
}
