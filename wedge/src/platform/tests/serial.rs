//! The serial port, by the sequences of `drivers/tty/serial/8250/8250_port.c`.

use super::*;

const DATA: u16 = 0x3f8;
const IER: u16 = 0x3f9;
const IIR: u16 = 0x3fa;
const LCR: u16 = 0x3fb;
const MCR: u16 = 0x3fc;
const LSR: u16 = 0x3fd;
const MSR: u16 = 0x3fe;
const SCR: u16 = 0x3ff;

impl Pc {
    /// With FIFOs, their trigger at 8 bytes, and the interrupt let through: as Linux has an open
    /// port.
    fn open_serial(enabled: u8) -> Self {
        let mut pc = Self::initialised(1 << 4);
        pc.outb(IIR, 0x81);
        pc.outb(MCR, 0x0b);
        pc.outb(IER, enabled);
        pc
    }

    fn type_in(&mut self, bytes: &[u8]) {
        self.board.typed.extend(bytes);
        self.platform.input(&mut self.board);
    }

    fn send(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.outb(DATA, byte);
        }
    }

    /// `serial8250_handle_irq` on the receiving side: reads until there is nothing.
    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.inb(LSR) & 1 != 0 {
            bytes.push(self.inb(DATA));
        }
        bytes
    }
}

#[test]
fn linux_takes_it_for_a_16550a() {
    let mut pc = Pc::new();
    // `autoconfig`
    pc.outb(IER, 0);
    assert_eq!(pc.inb(IER) & 0x0f, 0);
    pc.outb(IER, 0x0f);
    assert_eq!(pc.inb(IER) & 0x0f, 0x0f);
    pc.outb(IER, 0);
    pc.outb(MCR, 0x1a);
    assert_eq!(pc.inb(MSR) & 0xf0, 0x90);
    pc.outb(MCR, 0);
    pc.outb(LCR, 0xbf);
    pc.outb(IIR, 0);
    pc.outb(LCR, 0);
    pc.outb(IIR, 1);
    assert_eq!(pc.inb(IIR) >> 6, 3);
    // `autoconfig_16550a`, for a kernel that tells variants apart: no EFR, no EXCR1, no FIFO of 64,
    // no UUE.
    for mode in [0x80, 0xbf] {
        pc.outb(LCR, mode);
        assert_ne!(pc.inb(IIR), 0);
    }
    pc.outb(LCR, 0xe0);
    for looped in [0, 0x10] {
        pc.outb(MCR, looped);
        assert_eq!(pc.inb(IIR) & 0x10, 0);
    }
    pc.outb(MCR, 0);
    pc.outb(LCR, 0x80);
    pc.outb(IIR, 0x21);
    assert_eq!(pc.inb(IIR) >> 5, 6);
    pc.outb(LCR, 0);
    pc.outb(IER, 0x40);
    assert_eq!(pc.inb(IER), 0);
}

#[test]
fn its_fifo_has_16_bytes() {
    // `size_fifo`
    for (fifo, size) in [(0x07, 16), (0x00, 1)] {
        let mut pc = Pc::new();
        pc.outb(IIR, fifo);
        pc.outb(MCR, 0x10);
        pc.outb(LCR, 0x83);
        pc.outb(DATA, 1);
        pc.outb(IER, 0);
        pc.outb(LCR, 0x03);
        for byte in 0..=255 {
            pc.outb(DATA, byte);
        }
        assert_eq!(pc.receive(), (0..size).collect::<Vec<_>>());
        assert!(pc.board.written.is_empty(), "and nothing left the loop");
    }
}

#[test]
fn the_empty_transmitter_interrupts_each_time_it_is_asked_to() {
    // The test in `serial8250_do_startup`.
    let mut pc = Pc::new();
    for _ in 0..2 {
        assert_eq!(pc.inb(LSR), 0x60);
        pc.outb(IER, 2);
        assert_eq!(pc.inb(IIR), 0x02);
        assert_eq!(pc.inb(IIR), 0x01, "reading it was the acknowledgement");
        pc.outb(IER, 0);
        assert_eq!(pc.inb(IIR), 0x01);
    }
    pc.outb(IER, 2);
    pc.outb(IER, 2);
    assert_eq!(pc.inb(IIR), 0x02);
    pc.outb(IER, 2);
    assert_eq!(pc.inb(IIR), 0x01, "enabling what is enabled is no event");
}

#[test]
fn output_interrupts_after_each_load() {
    let mut pc = Pc::open_serial(0);
    assert_eq!(pc.take(), None);
    pc.outb(IER, 2);
    for _ in 0..3 {
        assert_eq!(pc.take(), Some(4));
        pc.end(4);
        assert_eq!(pc.inb(IIR), 0xc2);
        pc.send(b"0123456789abcdef");
    }
    pc.outb(IER, 0);
    assert_eq!(pc.take(), None);
    pc.advance_to_deadline();
    assert_eq!(pc.board.written.concat(), b"0123456789abcdef".repeat(3));
}

#[test]
fn input_interrupts_until_it_is_read() {
    let mut pc = Pc::open_serial(1);
    pc.type_in(b"ls\r");
    assert_eq!(pc.take(), Some(4));
    pc.end(4);
    assert_eq!(pc.inb(IIR), 0xcc, "fewer than the trigger");
    assert_eq!(pc.receive(), b"ls\r");
    assert_eq!(pc.inb(IIR), 0xc1);
    assert_eq!(pc.take(), None);
    pc.type_in(b"12345678");
    assert_eq!(pc.inb(IIR), 0xc4, "as many as the trigger");
    pc.outb(IER, 3);
    assert_eq!(pc.inb(IIR), 0xc4, "before the empty transmitter");
    pc.receive();
    assert_eq!(pc.inb(IIR), 0xc2);
}

#[test]
fn a_long_paste_waits_in_the_host_and_arrives_whole() {
    for fifo in [0x81, 0] {
        let mut pc = Pc::open_serial(1);
        pc.outb(IIR, fifo);
        let paste: Vec<u8> = (0..=255).cycle().take(1000).collect();
        pc.type_in(&paste);
        assert!(pc.board.typed.len() >= 1000 - 16);
        assert_eq!(pc.take(), Some(4));
        pc.end(4);
        assert_eq!(pc.receive(), paste);
        assert_eq!(pc.take(), None);
        pc.type_in(b"x");
        assert_eq!(pc.take(), Some(4));
    }
}

#[test]
fn input_while_nobody_listens_is_there_later() {
    let mut pc = Pc::initialised(1 << 4);
    pc.type_in(b"ab");
    assert_eq!(pc.take(), None);
    pc.outb(MCR, 0x0b);
    assert_eq!(pc.take(), None, "not enabled");
    pc.outb(IER, 1);
    assert_eq!(pc.take(), Some(4));
    // Clearing the FIFO throws away what is in it, and lets the rest in.
    pc.outb(IIR, 0x07);
    assert_eq!(pc.receive(), b"b");
}

#[test]
fn switching_the_fifos_empties_them() {
    let mut pc = Pc::open_serial(1);
    for control in [0, 1] {
        pc.type_in(b"x");
        pc.outb(IIR, control ^ 1);
        pc.outb(IIR, control);
        assert_eq!(pc.receive(), b"");
    }
    pc.type_in(b"y");
    pc.outb(IIR, 0x41);
    assert_eq!(pc.receive(), b"y", "another trigger does not");
}

#[test]
fn out2_gates_the_interrupt() {
    let mut pc = Pc::open_serial(1);
    for (control, expected) in [(0x03, None), (0x1b, None), (0x0b, Some(4))] {
        pc.outb(MCR, control);
        pc.type_in(b"x");
        assert_eq!(pc.take(), expected, "{control:#x}");
    }
}

#[test]
fn in_loopback_the_outputs_are_the_inputs() {
    let mut pc = Pc::new();
    assert_eq!(pc.inb(MSR), 0xb0);
    for (control, status) in [(0x10, 0), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1f, 0xf0)] {
        pc.outb(MCR, control);
        assert_eq!(pc.inb(MSR), status);
        assert_eq!(pc.inb(MCR), control);
    }
}

#[test]
fn other_registers_are_remembered() {
    let mut pc = Pc::new();
    pc.outb(SCR, 0x5a);
    pc.outb(IER, 5);
    pc.outb(LCR, 0x83);
    pc.outb(DATA, 0x34);
    pc.outb(IER, 0x12);
    assert_eq!((pc.inb(DATA), pc.inb(IER)), (0x34, 0x12));
    pc.outb(LCR, 0x03);
    assert_eq!((pc.inb(LCR), pc.inb(IER), pc.inb(SCR)), (0x03, 5, 0x5a));
    assert!(pc.board.written.is_empty(), "a divisor is no output");
    for port in [LSR, MSR] {
        let before = pc.inb(port);
        pc.outb(port, 0xff);
        assert_eq!(pc.inb(port), before);
    }
}

#[test]
fn output_leaves_by_lines_and_by_full_buffers() {
    let mut pc = Pc::new();
    pc.send(b"one\r\ntwo\n");
    assert_eq!(pc.board.written, [&b"one\r\n"[..], b"two\n"]);
    assert_eq!(pc.platform.deadline(), None);
    pc.board.written.clear();
    pc.send(&[b'x'; 130]);
    assert_eq!(pc.board.written, [[b'x'; 64], [b'x'; 64]]);
}

#[test]
fn a_prompt_leaves_after_a_few_milliseconds() {
    let mut pc = Pc::new();
    pc.advance_to(SECOND);
    pc.send(b"# ");
    pc.advance_to(SECOND + 1_000_000);
    pc.send(b"l");
    assert!(pc.board.written.is_empty());
    let deadline = pc.platform.deadline().unwrap();
    assert!(deadline <= SECOND + 5_000_000);
    pc.advance_to(deadline);
    assert_eq!(pc.board.written, [b"# l"]);
    assert_eq!(pc.platform.deadline(), None);
}

#[test]
fn a_guest_that_polls_the_status_waits_and_one_that_writes_does_not() {
    let mut pc = Pc::new();
    // `serial8250_console_write`
    for &byte in b"panic" {
        pc.inb(LSR);
        pc.outb(DATA, byte);
    }
    pc.inb(LSR);
    assert!(pc.board.written.is_empty());
    pc.inb(LSR);
    assert_eq!(pc.board.written, [b"panic"]);
}
