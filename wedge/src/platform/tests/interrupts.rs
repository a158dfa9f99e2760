//! The interrupt controllers, and lines of real devices.

use proptest::prelude::*;

use super::*;

/// All lines but the cascade, highest priority first.
const PRIORITY: [u8; 15] = [0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7];

#[test]
fn linux_finds_them_and_the_mask_reads_back() {
    let mut pc = Pc::new();
    // `probe_8259A`
    pc.outb(0xa1, 0xff);
    pc.outb(0x21, 0xfb);
    assert_eq!(pc.inb(0x21), 0xfb);
    let mut pc = Pc::initialised(0x1002);
    assert_eq!((pc.inb(0x21), pc.inb(0xa1)), (0xf9, 0xef));
}

#[test]
fn before_they_are_initialised_nothing_interrupts() {
    let mut pc = Pc::new();
    pc.platform.set_line(5, true);
    assert_eq!(pc.take(), None);
    // In the middle, with the mask cleared by ICW1.
    pc.outb(0x20, 0x11);
    pc.platform.set_line(6, true);
    for value in [VECTOR, 4] {
        pc.outb(0x21, value);
        assert_eq!(pc.take(), None);
    }
    pc.outb(0x21, 1);
    assert_eq!(pc.take(), Some(6), "the edge before ICW1 is forgotten");
    pc.end(6);
    assert_eq!(pc.take(), None);
}

#[test]
fn lines_are_served_by_priority() {
    let mut pc = Pc::initialised(0xffff);
    for line in 0..16 {
        pc.platform.set_line(line, true);
    }
    for line in PRIORITY {
        assert_eq!(pc.take(), Some(line));
        assert_eq!(pc.take(), None, "the rest is held back");
        pc.end(line);
    }
    assert_eq!(pc.take(), None);
}

#[test]
fn a_higher_priority_interrupts_a_lower_one() {
    let mut pc = Pc::initialised(0xffff);
    for line in [7, 3, 14, 1, 0] {
        pc.platform.set_line(line, true);
        assert_eq!(pc.take(), Some(line));
    }
    pc.outb(0x20, 0x0b);
    pc.outb(0xa0, 0x0b);
    assert_eq!((pc.inb(0x20), pc.inb(0xa0)), (0b1000_1111, 0b0100_0000));
    // Non-specific: that of highest priority, each time.
    for left in [0b1000_1110, 0b1000_1100, 0b1000_1000, 0b1000_0000, 0] {
        pc.outb(0x20, 0x20);
        assert_eq!(pc.inb(0x20), left);
    }
    // The second chip serves line 14 still, so its line 15 waits, and its line 8 does not.
    pc.platform.set_line(15, true);
    assert_eq!(pc.take(), None);
    pc.platform.set_line(8, true);
    assert_eq!(pc.take(), Some(8));
}

#[test]
fn an_edge_counts_once_and_a_level_as_long_as_it_lasts() {
    for (level, again) in [(0, None), (0x0e, Some(10))] {
        let mut pc = Pc::initialised(1 << 10);
        pc.outb(0x4d1, level);
        pc.platform.set_line(10, true);
        assert_eq!(pc.take(), Some(10));
        pc.platform.interrupts.drive(10, true);
        // The host's line is given back with the end of the interrupt; the virtual one stays.
        pc.end(10);
        assert_eq!(pc.take(), again);
        pc.end(10);
        pc.platform.interrupts.drive(10, false);
        assert_eq!(pc.take(), None);
    }
}

#[test]
fn edge_and_level_are_chosen_where_a_pc_lets_them_be() {
    let mut pc = Pc::new();
    pc.outb(0x4d0, 0xff);
    pc.outb(0x4d1, 0xff);
    assert_eq!((pc.inb(0x4d0), pc.inb(0x4d1)), (0xf8, 0xde));
    pc.outb(0x4d0, 0x27);
    pc.outb(0x4d1, 0x03);
    assert_eq!((pc.inb(0x4d0), pc.inb(0x4d1)), (0x20, 0x02));
}

#[test]
fn a_masked_request_is_kept_and_one_taken_back_is_gone() {
    let mut pc = Pc::initialised(0);
    pc.platform.set_line(5, true);
    pc.platform.set_line(12, true);
    assert_eq!(pc.take(), None);
    assert_eq!((pc.inb(0x20), pc.inb(0xa0)), (1 << 5, 1 << 4), "the request registers");
    pc.platform.set_line(12, false);
    pc.set_mask(0);
    assert_eq!(pc.take(), Some(5));
    pc.end(5);
    assert_eq!(pc.take(), None);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let mut pc = Pc::initialised(0xffff);
    pc.platform.set_line(1, true);
    assert_eq!(pc.take(), Some(1));
    pc.platform.set_line(6, true);
    pc.outb(0x21, 0x02);
    assert_eq!(pc.take(), None);
    pc.outb(0x20, 0x68);
    assert_eq!(pc.take(), Some(6));
    pc.platform.set_line(1, true);
    pc.outb(0x20, 0x48);
    assert_eq!(pc.take(), None, "masked");
}

#[test]
fn priorities_rotate() {
    let mut pc = Pc::initialised(0xffff);
    // Line 4 lowest, so 5 is highest.
    pc.outb(0x20, 0xc4);
    for line in [4, 5, 0] {
        pc.platform.set_line(line, true);
    }
    assert_eq!(pc.take(), Some(5));
    // Rotate on non-specific end of interrupt: now 5 is lowest.
    pc.outb(0x20, 0xa0);
    pc.platform.set_line(6, true);
    assert_eq!(pc.take(), Some(6));
    // Rotate on specific end of interrupt: 0 is lowest.
    pc.outb(0x20, 0xe6);
    assert_eq!(pc.take(), Some(0));
    pc.outb(0x20, 0xe0);
    assert_eq!(pc.take(), Some(4));
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service() {
    let mut pc = Pc::initialised(0xffff);
    for (port, value) in [(0x20, 0x11), (0x21, VECTOR), (0x21, 4), (0x21, 3)] {
        pc.outb(port, value);
    }
    pc.platform.set_line(3, true);
    assert_eq!(pc.take(), Some(3));
    pc.outb(0x20, 0x0b);
    assert_eq!(pc.inb(0x20), 0);
    assert_eq!(pc.board.ended, [3]);
}

#[test]
fn a_single_chip_without_icw4_is_ready_after_icw2() {
    let mut pc = Pc::new();
    pc.outb(0x20, 0x12);
    pc.outb(0x21, VECTOR);
    pc.outb(0x21, 0x0f);
    assert_eq!(pc.inb(0x21), 0x0f);
}

#[test]
fn a_real_line_is_given_back_when_linux_has_served_it() {
    for line in [5_u8, 11] {
        let mut pc = Pc::initialised(1 << line);
        for _ in 0..3 {
            pc.platform.set_line(line, true);
            assert_eq!(pc.take(), Some(line));
            // `mask_and_ack_8259A`, the handler, `unmask_8259A_irq`
            pc.set_mask(!4);
            pc.end(line);
            assert!(pc.board.ended.is_empty(), "not yet served");
            pc.set_mask(!(4 | 1 << line));
            assert_eq!(pc.board.ended, [line]);
            pc.board.ended.clear();
            assert_eq!(pc.take(), None);
        }
        pc.set_mask(0);
        pc.end(line);
        assert!(pc.board.ended.is_empty(), "only once");
    }
}

#[test]
fn a_real_line_not_taken_is_not_given_back() {
    let mut pc = Pc::initialised(0);
    pc.platform.set_line(5, true);
    // `disable_irq`, `enable_irq`
    pc.set_mask(!(4 | 1 << 5));
    assert!(pc.board.ended.is_empty());
    assert_eq!(pc.take(), Some(5));
}

#[test]
fn a_line_that_no_controller_has_does_nothing() {
    let mut pc = Pc::initialised(0xffff);
    for line in [2, 16, 200] {
        pc.platform.set_line(line, true);
        assert_eq!(pc.take(), None);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Raise(u8),
    Take,
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        prop_oneof![prop::sample::select(&PRIORITY[..]).prop_map(Step::Raise), Just(Step::Take), Just(Step::End)];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Against a model that knows a list of priorities and a stack of what is being served. Lines
    /// of the second chip hold each other back on the first.
    #[test]
    fn fully_nested(steps in steps()) {
        let mut pc = Pc::initialised(0xffff);
        let rank = |line: u8| if (8..16).contains(&line) { 2 } else { line };
        let mut asked = [false; 16];
        let mut serving = Vec::new();
        for step in steps {
            match step {
                Step::Raise(line) => {
                    pc.platform.set_line(line, true);
                    asked[usize::from(line)] = true;
                }
                Step::Take => {
                    let next = PRIORITY.into_iter().find(|&line| asked[usize::from(line)]);
                    let held = |line: &u8| serving.last().is_none_or(|&top| rank(*line) < rank(top));
                    let next = next.filter(held);
                    prop_assert_eq!(pc.take(), next);
                    if let Some(line) = next {
                        asked[usize::from(line)] = false;
                        serving.push(line);
                    }
                }
                Step::End => if let Some(line) = serving.pop() {
                    pc.end(line);
                }
            }
        }
    }
}
