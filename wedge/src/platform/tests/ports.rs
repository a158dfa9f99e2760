//! Which port is whose.

use std::format;

use proptest::prelude::*;

use super::*;
use crate::platform::{CLOCK_LINE, SERIAL_LINE, TIMER_LINE};

#[test]
fn what_is_not_virtual_is_the_hosts() {
    let mut pc = Pc::new();
    for (size, value) in [(Size::Byte, 0x21), (Size::Word, 0x4321), (Size::Long, 0x8765_4321)] {
        for port in [0x1f0, 0x170, 0x2f0, 0xe8, 0x66, 0xc000, 0xfffc, 0x3f0] {
            assert_eq!(pc.platform.read(port, size, &mut pc.board), value);
            assert_eq!(pc.board.reads.pop(), Some((port, size)));
            pc.platform.write(port, size, 0xffff_ffff, &mut pc.board);
            assert_eq!(pc.board.writes.pop(), Some((port, size, size.ones())));
        }
    }
    assert!(pc.board.reads.is_empty() && pc.board.writes.is_empty());
}

#[test]
fn what_is_absent_reads_as_ones_and_reaches_nobody() {
    let mut pc = Pc::new();
    for port in [0x00, 0x0d, 0x80, 0x87, 0xc0, 0xde, 0xed, 0x2f9, 0x3ee, 0x2e8] {
        pc.outb(port, 0x12);
        assert_eq!(pc.inb(port), 0xff, "{port:#x}");
    }
    assert!(pc.board.reads.is_empty() && pc.board.writes.is_empty());
}

#[test]
fn wide_accesses_are_made_byte_by_byte() {
    let mut pc = Pc::new();
    pc.platform.write(0x70, Size::Word, 0x5a0f, &mut pc.board);
    assert_eq!(pc.cmos_read(0x0f), 0x5a);
    pc.platform.write(0x3fe, Size::Word, 0x7700, &mut pc.board);
    assert_eq!(pc.platform.read(0x3fe, Size::Word, &mut pc.board), 0x77b0);
    // Beyond the virtual ports, bytes are the host's.
    pc.outb(0x21, 0x9c);
    assert_eq!(pc.platform.read(0x1f, Size::Long, &mut pc.board), 0x219c_0021);
    assert_eq!(pc.board.reads, [(0x1f, Size::Byte), (0x22, Size::Byte)], "lowest first");
    pc.platform.write(0x1f, Size::Long, 0x4433_2211, &mut pc.board);
    assert_eq!(pc.board.writes, [(0x1f, Size::Byte, 0x11), (0x22, Size::Byte, 0x44)]);
    // From the last port on to the first.
    assert_eq!(pc.platform.read(0xffff, Size::Word, &mut pc.board), 0xff21);
}

#[test]
fn a_guest_resets_the_machine() {
    let ways: [&[(u16, u8)]; 4] = [&[(0x64, 0xfe)], &[(0x64, 0xf0)], &[(0x92, 0x01)], &[(0xcf9, 0x02), (0xcf9, 0x06)]];
    for way in ways {
        let mut pc = Pc::new();
        pc.outb(0x3f8, b'!');
        for &(port, value) in way {
            assert_eq!(pc.board.resets, 0);
            assert_eq!(pc.inb(0x64) & 0x02, 0, "kb_wait does not wait");
            pc.outb(port, value);
        }
        assert_eq!(pc.board.resets, 1);
        assert_eq!(pc.board.written, [b"!"], "what was said before is heard");
    }
}

#[test]
fn nothing_else_resets_the_machine() {
    let mut pc = Pc::new();
    for (port, value) in
        [(0x64, 0xd1), (0x60, 0xdf), (0x64, 0xff), (0x64, 0xfd), (0x64, 0xaa), (0x92, 0x02), (0xcf9, 0x02)]
    {
        pc.outb(port, value);
    }
    assert_eq!(pc.board.resets, 0);
    assert_eq!(pc.inb(0x92), 0x02, "A20 is open");
}

#[test]
fn linux_gives_up_on_the_keyboard_at_once() {
    let mut pc = Pc::new();
    // `i8042_flush` with `I8042_BUFFER_SIZE`
    for _ in 0..=16 {
        assert_eq!(pc.inb(0x64) & 0x01, 0x01);
        assert_eq!(pc.inb(0x60), 0xff);
    }
}

/// `pci_check_type1`
fn has_pci(pc: &mut Pc) -> bool {
    pc.outb(0xcfb, 0x01);
    let before = pc.platform.read(0xcf8, Size::Long, &mut pc.board);
    pc.platform.write(0xcf8, Size::Long, 0x8000_0000, &mut pc.board);
    let found = pc.platform.read(0xcf8, Size::Long, &mut pc.board) == 0x8000_0000;
    pc.platform.write(0xcf8, Size::Long, before, &mut pc.board);
    found
}

#[test]
fn configuration_space_is_that_of_the_machine() {
    let mut pc = Pc::new();
    assert!(has_pci(&mut pc));
    assert!(pc.board.writes.is_empty(), "nothing is selected before it is used");
    assert_eq!(pc.platform.read(0xcfc, Size::Long, &mut pc.board), 0xffff_ffff, "not enabled");
    pc.platform.write(0xcf8, Size::Long, 0x8000_1810, &mut pc.board);
    for (port, size, value) in
        [(0xcfc, Size::Long, 0x8765_4321), (0xcfe, Size::Word, 0x4321), (0xcff, Size::Byte, 0x21)]
    {
        assert_eq!(pc.platform.read(port, size, &mut pc.board), value);
        assert_eq!(pc.board.writes, [(0xcf8, Size::Long, 0x8000_1810)]);
        assert_eq!(pc.board.reads, [(port, size)]);
        pc.platform.write(port, size, 0x1234_5678, &mut pc.board);
        let written = [(0xcf8, Size::Long, 0x8000_1810), (port, size, 0x1234_5678 & size.ones())];
        assert_eq!(pc.board.writes[1..], written);
        pc.board.reads.clear();
        pc.board.writes.clear();
    }
    // Out of the window.
    assert_eq!(pc.platform.read(0xcff, Size::Word, &mut pc.board), 0xffff);
    assert!(pc.board.writes.is_empty() && pc.board.reads.is_empty());
}

#[test]
fn without_pci_none_is_found() {
    let mut pc = Pc { platform: Platform::new(Pci::Absent), ..Pc::new() };
    assert!(!has_pci(&mut pc));
    // `pci_check_type2`
    for port in [0xcfb, 0xcf8, 0xcfa] {
        pc.outb(port, 0);
    }
    assert_ne!((pc.inb(0xcf8), pc.inb(0xcfa)), (0, 0));
    pc.platform.write(0xcf8, Size::Long, 0x8000_0000, &mut pc.board);
    pc.platform.write(0xcfc, Size::Long, 0, &mut pc.board);
    assert_eq!(pc.platform.read(0xcfc, Size::Word, &mut pc.board), 0xffff);
    assert!(pc.board.writes.is_empty() && pc.board.reads.is_empty());
}

/// Ports of the devices that keep time or drive lines, and one of each other kind.
const PORTS: [u16; 16] =
    [0x20, 0x21, 0xa1, 0x40, 0x42, 0x43, 0x61, 0x70, 0x71, 0x80, 0x3f8, 0x3f9, 0x3fa, 0x3fc, 0x3fd, 0x64];

proptest! {
    /// What is remembered of the devices, so as not to ask them all, is what they say: whatever is
    /// read, written or typed, and however time passes.
    #[test]
    fn what_is_remembered_of_the_devices_is_what_they_say(
        steps in prop::collection::vec(
            (prop::sample::select(&PORTS[..]), any::<Option<u8>>(), 0..3 * SECOND / 2, any::<bool>()),
            1..200,
        ),
    ) {
        let mut pc = Pc::initialised(1 << TIMER_LINE | 1 << SERIAL_LINE | 1 << CLOCK_LINE);
        for (port, value, passes, advances) in steps {
            let before = pc.platform.deadline();
            let _ = pc.platform.take_moved();
            match value {
                Some(value) => pc.outb(port, value),
                _ => {
                    pc.inb(port);
                }
            }
            if passes % 7 == 0 {
                pc.board.typed.push_back(b'x');
                pc.platform.input(&mut pc.board);
            }
            pc.board.now += passes;
            if advances {
                pc.platform.advance(&mut pc.board);
            }
            let Platform { timer, clock, serial, interrupts, .. } = &pc.platform;
            let said = [timer.deadline(), clock.deadline(), serial.deadline()].into_iter().flatten().min();
            prop_assert_eq!(pc.platform.deadline(), said);
            prop_assert!(pc.platform.moved || said == before);
            for (line, up) in [(TIMER_LINE, timer.line()), (SERIAL_LINE, serial.line()), (CLOCK_LINE, clock.line())] {
                prop_assert_eq!(interrupts.driven >> line & 1 == 1, up, "line {}", line);
            }
            prop_assert!(!advances || said.is_none_or(|deadline| deadline > pc.board.now));
        }
    }
}

/// A kernel that has interrupts off may ask the controller whether a tick has come.
#[test]
fn a_tick_that_nobody_was_told_of_is_requested() {
    let mut pc = Pc::initialised(0);
    pc.pit_load(0, 0x34, 1000);
    assert_eq!(pc.inb(0x20) & 1, 0);
    pc.board.now += SECOND;
    assert_eq!(pc.inb(0x20) & 1, 1);
}

/// [`ignores`](crate::platform::ignores) tells of ports to which any byte is written in vain.
#[test]
fn what_is_ignored_has_no_effect() {
    let ignored: Vec<_> = (0..=u16::MAX).filter(|port| crate::platform::ignores(*port)).collect();
    assert!(ignored.contains(&0x80) && ignored.contains(&0xed) && !ignored.contains(&0x20));
    let mut pc = Pc::initialised(1);
    pc.pit_load(0, 0x34, 1000);
    let before = format!("{:?}", pc.platform);
    for port in ignored {
        (0..=u8::MAX).for_each(|value| pc.outb(port, value));
    }
    assert_eq!(format!("{:?}", pc.platform), before);
    assert!(pc.board.writes.is_empty() && pc.board.written.is_empty() && pc.board.ended.is_empty());
}
