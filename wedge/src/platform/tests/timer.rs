//! The timer: what Linux calibrates by, and what ticks.

use proptest::prelude::*;

use super::*;
use crate::platform::pit::INPUT;

/// `PIT_LATCH` for 100 ticks per second.
const LATCH: u16 = 11932;

impl Pc {
    pub(super) fn pit_load(&mut self, channel: u16, control: u8, count: u16) {
        self.outb(0x43, control);
        self.pit_count(channel, count);
    }

    fn pit_count(&mut self, channel: u16, count: u16) {
        for byte in count.to_le_bytes() {
            self.outb(0x40 + channel, byte);
        }
    }

    fn pit_read(&mut self, channel: u16) -> u16 {
        let low = self.inb(0x40 + channel);
        u16::from_le_bytes([low, self.inb(0x40 + channel)])
    }

    /// Takes and ends a timer interrupt if there is one.
    fn tick(&mut self) -> bool {
        let line = self.take();
        if line.is_some() {
            assert_eq!(line, Some(0));
            self.end(0);
        }
        line.is_some()
    }
}

/// The moment of tick number n, computed another way.
fn tick_time(start: u64, count: u64, number: u64) -> u64 {
    let ticks = u128::from(count) * u128::from(number);
    start + u64::try_from((ticks * u128::from(SECOND)).div_ceil(1_193_182)).unwrap()
}

#[test]
fn an_hour_of_periodic_ticks_has_no_drift() {
    let mut pc = Pc::initialised(1);
    pc.board.now = 123_456_789;
    pc.pit_load(0, 0x34, LATCH);
    let start = pc.board.now;
    let mut ticks = 0;
    while pc.platform.deadline().unwrap() <= start + 3600 * SECOND {
        ticks += 1;
        assert_eq!(pc.platform.deadline(), Some(tick_time(start, LATCH.into(), ticks)));
        if ticks % 1000 == 0 {
            pc.advance_to(pc.platform.deadline().unwrap() - 1);
            assert!(!pc.tick(), "a nanosecond early");
        }
        pc.advance_to_deadline();
        assert!(pc.tick());
    }
    assert_eq!(ticks, 3600 * 1_193_182 / u64::from(LATCH));
}

#[test]
fn ticks_that_passed_unseen_are_one() {
    let mut pc = Pc::initialised(1);
    pc.pit_load(0, 0x34, LATCH);
    pc.advance_to(tick_time(0, LATCH.into(), 1000) + 5);
    assert!(pc.tick());
    assert!(!pc.tick());
    assert_eq!(pc.platform.deadline(), Some(tick_time(0, LATCH.into(), 1001)));
    // One in service and one more behind it.
    pc.advance_to_deadline();
    assert_eq!(pc.take(), Some(0));
    pc.advance_to_deadline();
    pc.advance_to_deadline();
    pc.end(0);
    assert!(pc.tick());
    assert!(!pc.tick());
}

#[test]
fn a_one_shot_fires_once_and_each_time_it_is_armed() {
    let mut pc = Pc::initialised(1);
    pc.outb(0x43, 0x38);
    assert_eq!(pc.platform.deadline(), None, "mode 4 without a count");
    for count in [1, 100, LATCH, 0xffff, 0] {
        pc.pit_count(0, count);
        let length = if count == 0 { 65536 } else { count.into() };
        assert_eq!(pc.platform.deadline(), Some(tick_time(pc.board.now, length, 1)));
        pc.advance_to_deadline();
        assert!(pc.tick());
        assert_eq!(pc.platform.deadline(), None);
        pc.advance_to(pc.board.now + SECOND);
        assert!(!pc.tick());
    }
}

#[test]
fn arming_anew_replaces_what_has_not_fired_and_keeps_what_has() {
    let mut pc = Pc::initialised(1);
    pc.outb(0x43, 0x38);
    pc.pit_count(0, 1000);
    pc.advance_to(INPUT.span(999));
    pc.pit_count(0, 1000);
    pc.advance_to(INPUT.span(1500));
    assert!(!pc.tick());
    // Due, but the host has not called.
    pc.board.now += SECOND;
    pc.pit_count(0, 1000);
    assert!(pc.tick());
    pc.advance_to_deadline();
    assert!(pc.tick());
}

#[test]
fn shut_down_as_linux_does_it_the_timer_is_silent() {
    let mut pc = Pc::initialised(1);
    pc.pit_load(0, 0x34, LATCH);
    pc.advance_to_deadline();
    // `clockevent_i8253_disable`
    pc.pit_load(0, 0x30, 0);
    pc.outb(0x43, 0x30);
    assert_eq!(pc.platform.deadline(), None);
    assert!(!pc.tick(), "a tick not taken is taken back");
    pc.advance_to(pc.board.now + SECOND);
    assert!(!pc.tick());
}

#[test]
fn half_a_count_stops_mode_0() {
    let mut pc = Pc::initialised(1);
    pc.pit_load(0, 0x30, 100);
    assert!(pc.platform.deadline().is_some());
    pc.outb(0x40, 1);
    assert_eq!(pc.platform.deadline(), None);
    pc.outb(0x40, 0);
    assert_eq!(pc.platform.deadline(), Some(INPUT.span(1)));
}

#[test]
fn quick_calibration_measures_the_clock() {
    // `quick_pit_calibrate`: how long the high byte of channel 2 takes to fall from 0xff by 1, then
    // by 50 more.
    for access in [400, 1000, 1500] {
        let mut pc = Pc { access, ..Pc::new() };
        let gate = pc.inb(0x61) & !2 | 1;
        pc.outb(0x61, gate);
        pc.pit_load(2, 0xb0, 0xffff);
        pc.pit_read(2);
        let high_byte_passes = |pc: &mut Pc, value: u8| {
            let mut reads = 0;
            while pc.pit_read(2) >> 8 == u16::from(value) {
                reads += 1;
            }
            assert!(reads > 5, "{reads} reads of {value:#x}");
            pc.board.now
        };
        let start = high_byte_passes(&mut pc, 0xff);
        let end = (1..=50).map(|fallen| high_byte_passes(&mut pc, 0xff - fallen)).last().unwrap();
        let expected = INPUT.span(50 * 256);
        assert!((end - start).abs_diff(expected) < 4 * access, "{} for {expected}", end - start);
    }
}

#[test]
fn slow_calibration_waits_for_the_output() {
    // `pit_calibrate_tsc` with `CAL_LATCH` for 10 ms.
    let mut pc = Pc { access: 1000, ..Pc::new() };
    let gate = pc.inb(0x61) & !2 | 1;
    pc.outb(0x61, gate);
    pc.pit_load(2, 0xb0, 11931);
    let start = pc.board.now;
    while pc.inb(0x61) & 0x20 == 0 {}
    assert!((pc.board.now - start).abs_diff(INPUT.span(11931)) <= 1000);
}

#[test]
fn the_gate_of_channel_2_stops_it() {
    let mut pc = Pc::new();
    pc.pit_load(2, 0xb0, 1000);
    pc.board.now += SECOND;
    assert_eq!((pc.pit_read(2), pc.inb(0x61) & 0x23), (1000, 0), "the gate is low");
    pc.outb(0x61, 1);
    pc.board.now += INPUT.span(400);
    assert_eq!(pc.pit_read(2), 600);
    pc.outb(0x61, 0);
    pc.board.now += SECOND;
    assert_eq!(pc.pit_read(2), 600);
    pc.outb(0x61, 3);
    pc.board.now += INPUT.span(600);
    assert_eq!((pc.pit_read(2), pc.inb(0x61) & 0x23), (0, 0x23));
    // Mode 2 starts afresh.
    pc.pit_load(2, 0xb4, 1000);
    pc.board.now += INPUT.span(400);
    pc.outb(0x61, 0);
    assert_eq!(pc.pit_read(2), 1000);
    pc.outb(0x61, 1);
    assert_eq!(pc.pit_read(2), 1000);
}

#[test]
fn channel_2_interrupts_nobody() {
    let mut pc = Pc::initialised(0xffff);
    pc.outb(0x61, 1);
    pc.pit_load(2, 0xb6, 100);
    assert_eq!(pc.platform.deadline(), None);
    pc.advance_to(SECOND);
    assert_eq!(pc.take(), None);
}

#[test]
fn counts_and_outputs_by_mode() {
    // Control, count, ticks passed, value, output.
    let cases = [
        (0xb0, 1000, 0, 1000, 0),
        (0xb0, 1000, 999, 1, 0),
        (0xb0, 1000, 1000, 0, 1),
        (0xb0, 1000, 1001, 0xffff, 1),
        (0xb4, 1000, 998, 2, 1),
        (0xb4, 1000, 999, 1, 0),
        (0xb4, 1000, 1000, 1000, 1),
        (0xb6, 1000, 499, 2, 1),
        (0xb6, 1000, 500, 1000, 0),
        (0xb6, 1000, 999, 2, 0),
        (0xb6, 1000, 1000, 1000, 1),
        (0xb8, 1000, 999, 1, 1),
        (0xb8, 1000, 1000, 0, 0),
        (0xb8, 1000, 1001, 0xffff, 1),
        (0xb4, 0, 1, 0xffff, 1),
        (0xb4, 0, 65536, 0, 1),
    ];
    for (control, count, ticks, value, output) in cases {
        let mut pc = Pc::new();
        pc.outb(0x61, 1);
        pc.pit_load(2, control, count);
        pc.board.now = INPUT.span(ticks);
        let case = (control, count, ticks);
        assert_eq!((pc.pit_read(2), pc.inb(0x61) >> 5 & 1), (value, output), "{case:?}");
        // Read-back of the status: no count, then of both, status first.
        pc.outb(0x43, 0xe8);
        let status = output << 7 | control & 0x3f;
        assert_eq!(pc.inb(0x42), status, "{case:?}");
        pc.outb(0x43, 0xc8);
        pc.board.now += INPUT.span(5);
        assert_eq!((pc.inb(0x42), pc.pit_read(2)), (status, value), "{case:?}");
    }
}

#[test]
fn a_latched_count_stands_until_it_is_read() {
    let mut pc = Pc::initialised(1);
    pc.pit_load(0, 0x34, LATCH);
    pc.board.now = INPUT.span(10);
    pc.outb(0x43, 0x00);
    pc.board.now = INPUT.span(20);
    pc.outb(0x43, 0x00);
    pc.board.now = INPUT.span(30);
    assert_eq!(pc.pit_read(0), LATCH - 10, "the first of two latch commands counts");
    assert_eq!(pc.pit_read(0), LATCH - 30);
    // A latch is no programming.
    assert_eq!(pc.platform.deadline(), Some(INPUT.span(LATCH.into())));
}

#[test]
fn single_bytes_of_a_count() {
    for (control, byte, period) in [(0x14, 0x12, 0x12), (0x24, 0x12, 0x1200), (0x14, 0, 65536)] {
        let mut pc = Pc::initialised(1);
        pc.outb(0x43, control);
        pc.outb(0x40, byte);
        assert_eq!(pc.platform.deadline(), Some(INPUT.span(period)));
        let expected = if control == 0x24 { 0x12 } else { byte };
        assert_eq!((pc.inb(0x40), pc.inb(0x40)), (expected, expected));
    }
}

#[test]
fn a_channel_without_a_count_says_so() {
    let mut pc = Pc::new();
    pc.outb(0x43, 0x34);
    pc.outb(0x43, 0xe2);
    assert_eq!(pc.inb(0x40), 0xc0 | 0x34);
}

#[test]
fn the_refresh_bit_toggles() {
    let mut pc = Pc::new();
    let mut toggles = 0;
    let mut last = pc.inb(0x61) & 0x10;
    for _ in 0..10_000 {
        pc.board.now += 1000;
        let bit = pc.inb(0x61) & 0x10;
        toggles += u32::from(bit != last);
        last = bit;
    }
    assert!((600..=720).contains(&toggles), "{toggles} in 10 ms");
}

proptest! {
    /// Whenever `advance` is called, as long as it is at least once in a period, each tick comes
    /// once.
    #[test]
    fn no_tick_is_lost_or_doubled(
        start in 0_u64..1 << 50,
        count in 2_u16..,
        mode in prop::sample::select(&[0x34_u8, 0x36][..]),
        steps in prop::collection::vec(0..1000_u64, 1..200),
    ) {
        let mut pc = Pc::initialised(1);
        pc.board.now = start;
        pc.pit_load(0, mode, count);
        let mut ticks = 0;
        for step in steps {
            let deadline = pc.platform.deadline().unwrap();
            prop_assert_eq!(deadline, tick_time(start, count.into(), ticks + 1));
            // Anywhere from now to just before the tick after the next.
            let span = tick_time(start, count.into(), ticks + 2) - pc.board.now;
            let now = pc.board.now + span * step / 1000;
            pc.advance_to(now);
            let ticked = pc.tick();
            prop_assert_eq!(ticked, now >= deadline);
            prop_assert!(!pc.tick());
            ticks += u64::from(ticked);
        }
    }
}
