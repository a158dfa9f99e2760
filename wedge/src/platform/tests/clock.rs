//! The real-time clock.

use super::*;

/// 29 February 2024, 23:59:58, a Thursday.
const LEAP_EVE: u64 = 1_709_251_198;

impl Pc {
    fn at(seconds: u64) -> Self {
        let mut pc = Self::initialised(1 << 8);
        pc.board.epoch = seconds * SECOND;
        pc
    }

    /// Century, year, month, day, day of the week, hour, minute, second.
    fn date(&mut self) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| self.cmos_read(index))
    }

    /// Takes the clock's interrupt, and reads register C as its handler does.
    fn clock_interrupt(&mut self) -> Option<u8> {
        let line = self.take()?;
        assert_eq!(line, 8);
        self.end(8);
        Some(self.cmos_read(0x0c))
    }
}

#[test]
fn the_date_is_that_of_the_wall() {
    let cases = [
        (LEAP_EVE, [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]),
        (LEAP_EVE + 2, [0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00]),
        (0, [0x19, 0x70, 0x01, 0x01, 5, 0x00, 0x00, 0x00]),
        (951_782_400, [0x20, 0x00, 0x02, 0x29, 3, 0x00, 0x00, 0x00]),
        (4_107_542_399, [0x21, 0x00, 0x02, 0x28, 1, 0x23, 0x59, 0x59]),
    ];
    for (seconds, date) in cases {
        assert_eq!(Pc::at(seconds).date(), date, "{seconds}");
    }
    let mut pc = Pc::at(LEAP_EVE);
    pc.board.now = 2 * SECOND;
    assert_eq!(pc.date(), cases[1].1, "as time passes");
}

#[test]
fn register_b_says_how_numbers_look() {
    // Hour of the day; as BCD of 12, as binary of 24, as binary of 12.
    let cases = [
        (0, 0x12, 0, 12),
        (1, 0x01, 1, 1),
        (11, 0x11, 11, 11),
        (12, 0x92, 12, 0x8c),
        (13, 0x81, 13, 0x81),
        (23, 0x91, 23, 0x8b),
    ];
    for (hour, bcd_12, binary_24, binary_12) in cases {
        let mut pc = Pc::at(hour * 3600 + 59 * 60);
        for (control, byte, minute) in [(0, bcd_12, 0x59), (6, binary_24, 59), (4, binary_12, 59)] {
            pc.cmos_write(0x0b, control);
            assert_eq!((pc.cmos_read(4), pc.cmos_read(2)), (byte, minute), "{hour} {control}");
            // And the other way round.
            pc.cmos_write(4, byte);
            assert_eq!(pc.cmos_read(4), byte, "{hour} {control}");
        }
        pc.cmos_write(0x0b, 2);
        assert_eq!(u64::from(pc.cmos_read(4)), hour / 10 * 16 + hour % 10);
    }
}

#[test]
fn linux_finds_a_clock_that_works() {
    let mut pc = Pc::at(LEAP_EVE);
    assert_eq!(pc.cmos_read(0x0d), 0x80);
    assert_eq!(pc.cmos_read(0x0b) & 0x02, 0x02, "24 hours");
    assert_eq!(pc.cmos_read(0x0a) & 0x70, 0x20);
}

#[test]
fn the_date_set_is_the_date_read_and_goes_on() {
    let mut pc = Pc::at(LEAP_EVE);
    pc.board.now = SECOND / 2;
    // `mc146818_set_time`: 31 December 2027, 23:59:57
    let control = pc.cmos_read(0x0b);
    pc.cmos_write(0x0b, control | 0x80);
    let frequency = pc.cmos_read(0x0a);
    pc.cmos_write(0x0a, frequency | 0x70);
    for (index, value) in [(9, 0x27), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x57)] {
        pc.cmos_write(index, value);
    }
    pc.board.now += 5 * SECOND;
    assert_eq!(pc.cmos_read(0), 0x57, "it stands still while it is set");
    pc.cmos_write(0x0b, control);
    pc.cmos_write(0x0a, frequency);
    assert_eq!(pc.date(), [0x20, 0x27, 0x12, 0x31, 6, 0x23, 0x59, 0x57]);
    pc.board.now += 3 * SECOND;
    assert_eq!(pc.date(), [0x20, 0x28, 0x01, 0x01, 7, 0x00, 0x00, 0x00]);
    assert_eq!(pc.cmos_read(0x0b), control);
    // Without stopping the clock.
    pc.cmos_write(2, 0x30);
    assert_eq!(pc.date()[6..], [0x30, 0x00]);
}

#[test]
fn what_is_no_date_is_not_set() {
    let mut pc = Pc::at(LEAP_EVE);
    pc.cmos_write(0x0b, 0x82);
    pc.cmos_write(8, 0x13);
    pc.cmos_write(0x0b, 0x02);
    assert_eq!(pc.date(), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
}

#[test]
fn an_update_is_announced() {
    let mut pc = Pc::at(LEAP_EVE);
    assert_eq!(pc.cmos_read(0x0a) & 0x80, 0);
    pc.board.now = SECOND - 244_001;
    assert_eq!(pc.cmos_read(0x0a) & 0x80, 0);
    pc.board.now = SECOND - 244_000;
    assert_eq!(pc.cmos_read(0x0a) & 0x80, 0x80);
    assert_eq!(pc.cmos_read(0), 0x58);
    pc.board.now = SECOND;
    assert_eq!(pc.cmos_read(0x0a) & 0x80, 0);
    assert_eq!(pc.cmos_read(0), 0x59);
}

#[test]
fn update_interrupts_come_each_second() {
    let mut pc = Pc::at(LEAP_EVE);
    assert_eq!(pc.platform.deadline(), None);
    pc.cmos_write(0x0b, 0x12);
    pc.cmos_read(0x0c);
    for second in 1..=100 {
        assert_eq!(pc.platform.deadline(), Some(second * SECOND));
        pc.advance_to(second * SECOND - 1);
        assert_eq!(pc.take(), None);
        pc.advance_to_deadline();
        assert_eq!(pc.clock_interrupt().map(|flags| flags & 0x90), Some(0x90));
        assert_eq!(pc.clock_interrupt(), None);
    }
    pc.cmos_write(0x0b, 0x02);
    assert_eq!(pc.platform.deadline(), None);
}

#[test]
fn the_beginning_of_a_second_is_learnt() {
    let mut pc = Pc::at(LEAP_EVE);
    // First looked at 0.7 s into the second.
    pc.board.epoch += 7 * SECOND / 10;
    pc.cmos_write(0x0b, 0x12);
    assert_eq!(pc.platform.deadline(), Some(SECOND));
    // Looked at 0.1 s into the next.
    pc.board.now = 4 * SECOND / 10;
    assert_eq!(pc.cmos_read(0), 0x59);
    assert_eq!(pc.platform.deadline(), Some(14 * SECOND / 10));
    pc.advance_to_deadline();
    assert_eq!(pc.cmos_read(0), 0x00);
    // The host's clock is set back by an hour; the guest sees it, and updates go on.
    pc.board.epoch -= 3600 * SECOND;
    assert_eq!(pc.date()[5..], [0x23, 0x00, 0x00]);
    pc.cmos_read(0x0c);
    pc.advance_to_deadline();
    assert_eq!(pc.cmos_read(0x0c) & 0x90, 0x90);
}

#[test]
fn a_wall_clock_that_drifts_still_updates_each_second() {
    for (slower, faster) in [(50_000, 0), (0, 50_000)] {
        let mut pc = Pc::at(LEAP_EVE);
        pc.cmos_write(0x0b, 0x12);
        pc.cmos_read(0x0c);
        let (mut looks, mut updates) = (0, 0);
        while pc.board.now < 1000 * SECOND {
            pc.board.epoch = pc.board.epoch + faster - slower;
            let before = pc.board.wall_clock();
            pc.advance_to_deadline();
            looks += 1;
            updates += u32::from(pc.clock_interrupt().is_some());
            assert!(pc.board.wall_clock() - before <= 1, "no second is left out");
        }
        assert!((998..=1001).contains(&updates), "{updates} updates");
        assert!(looks < 2100, "{looks} looks");
    }
}

#[test]
fn the_alarm_comes_at_its_time() {
    let mut pc = Pc::at(LEAP_EVE);
    for (index, value) in [(1, 0x05), (3, 0x00), (5, 0x00)] {
        pc.cmos_write(index, value);
        assert_eq!(pc.cmos_read(index), value);
    }
    pc.cmos_read(0x0c);
    pc.cmos_write(0x0b, 0x22);
    let mut flags = None;
    while flags.is_none() {
        pc.advance_to_deadline();
        flags = pc.clock_interrupt();
    }
    assert_eq!(flags.map(|flags| flags & 0xa0), Some(0xa0));
    assert_eq!(pc.date()[4..], [6, 0, 0, 5]);
    // The same tomorrow, unseen for days: once.
    pc.advance_to(pc.board.now + 3 * 86400 * SECOND);
    assert!(pc.clock_interrupt().is_some());
    assert_eq!(pc.clock_interrupt(), None);
}

#[test]
fn an_alarm_is_found_wherever_in_a_day_it_was() {
    // The alarm is a second after now. How many seconds nobody looks, and whether register C then
    // has it.
    for (passed, expected) in [(1, 0x20), (43_200, 0x20), (86_400, 0x20), (86_401, 0x20), (1_000_000, 0x20), (0, 0)] {
        let mut pc = Pc::at(LEAP_EVE);
        for (index, value) in [(1, 0x59), (3, 0x59), (5, 0x23)] {
            pc.cmos_write(index, value);
        }
        pc.cmos_read(0x0c);
        pc.board.now = passed * SECOND;
        assert_eq!(pc.cmos_read(0x0c) & 0x20, expected, "{passed} seconds");
    }
}

#[test]
fn an_alarm_may_not_care() {
    let mut pc = Pc::at(LEAP_EVE);
    for (index, value) in [(1, 0x10), (3, 0xff), (5, 0xc0)] {
        pc.cmos_write(index, value);
    }
    pc.cmos_write(0x0b, 0x22);
    pc.cmos_read(0x0c);
    let mut alarms = Vec::new();
    while pc.board.now < 180 * SECOND {
        pc.advance_to_deadline();
        if pc.clock_interrupt().is_some() {
            alarms.push(pc.board.now / SECOND);
        }
    }
    assert_eq!(alarms, [12, 72, 132]);
}

#[test]
fn periodic_interrupts_come_at_the_rate_chosen() {
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2)] {
        let mut pc = Pc::at(LEAP_EVE);
        pc.board.now = 987_654_321;
        pc.cmos_write(0x0a, 0x20 | rate);
        pc.cmos_read(0x0c);
        pc.cmos_write(0x0b, 0x42);
        let end = pc.board.now + 10 * SECOND;
        let mut count = 0;
        while pc.platform.deadline().unwrap() <= end {
            pc.advance_to(pc.platform.deadline().unwrap() - 1);
            assert_eq!(pc.cmos_read(0x0c) & 0xc0, 0);
            pc.advance_to_deadline();
            assert_eq!(pc.clock_interrupt().map(|flags| flags & 0xc0), Some(0xc0));
            count += 1;
        }
        assert_eq!(count, 10 * hz, "rate {rate}");
        pc.advance_to(end + 100 * SECOND);
        assert!(pc.clock_interrupt().is_some());
        assert_eq!(pc.clock_interrupt(), None, "what passed unseen counts once");
        // No rate, or a divider that stands: none.
        for register in [0x20, 0x70 | rate] {
            pc.cmos_write(0x0a, register);
            assert_eq!(pc.platform.deadline(), None);
        }
    }
}

#[test]
fn register_c_is_cleared_by_reading_it() {
    let mut pc = Pc::at(LEAP_EVE);
    pc.cmos_write(0x0b, 0x12);
    pc.cmos_read(0x0c);
    pc.advance_to_deadline();
    assert_eq!(pc.cmos_read(0x0c) & 0x90, 0x90);
    assert_eq!(pc.cmos_read(0x0c) & 0x90, 0);
    assert_eq!(pc.take(), None, "and the line falls");
}

#[test]
fn memory_is_remembered() {
    let mut pc = Pc::at(LEAP_EVE);
    for index in (0x0e..0x80).filter(|&index| index != 0x32) {
        pc.cmos_write(index | 0x80, index ^ 0xa5);
    }
    for index in (0x0e..0x80).filter(|&index| index != 0x32) {
        assert_eq!(pc.cmos_read(index), index ^ 0xa5, "with the NMI bit or without");
    }
    for index in [0x0c, 0x0d] {
        let before = pc.cmos_read(index);
        pc.cmos_write(index, 0x55);
        assert_eq!(pc.cmos_read(index) & 0x0f, before & 0x0f, "read-only");
    }
}
