//! Delivery of events.
//!
//! | dimension | values |
//! |---|---|
//! | from | user mode; the kernel; on an aligned stack or not |
//! | event | exception with and without an error code; external interrupt; INT n |
//! | gate | interrupt, trap; call, task; absent; outside the table; of a lower privilege level than INT n |
//! | handler | null, outside the table, data, 32-bit, outer level, absent, conforming, not canonical |
//! | stack | the same; of the TSS; of the interrupt stack table; not canonical; unmapped; no TSS |
//! | a fault meanwhile | after a benign, a contributory, a page fault, a double fault: table 6-5 |
//! | written | frame, RF, IF, TF, NT, accessed flags |

use super::*;

const PAGE_FAULT: Event = Event::Exception(Exception::page_fault(6, 0x1234));

/// What is on a stack, from RSP upwards: the frame of SDM Vol. 3A, figure 6-9.
fn frame<const N: usize>(world: &mut World) -> [u64; N] {
    let rsp = world.context.rsp;
    world.host.get(rsp)
}

#[test]
fn from_user_mode_to_the_stack_of_the_tss() {
    let mut world = World::user();
    world.context.rflags |= flags::TRAP | flags::NESTED | flags::ALIGNMENT | flags::DIRECTION;
    let before = world.context;
    world.deliver(PAGE_FAULT).unwrap();
    assert_eq!(world.cpu.cr2, 0x1234);
    assert_eq!(world.context.rsp, RSP0 - 48);
    assert_eq!(
        frame(&mut world),
        [6, USER_TEXT, 0x33, before.rflags | flags::RESUME, before.rsp, 0x2b],
        "error code, RIP, CS, RFLAGS, RSP, SS"
    );
    let rflags = flags::FIXED | flags::ALIGNMENT | flags::DIRECTION;
    let expected = Context { rip: handler(14), cs: 0x10, ss: 0, rflags, rsp: RSP0 - 48, ..before };
    assert_eq!(world.context, expected);
}

#[test]
fn in_the_kernel_on_the_same_stack_aligned() {
    let mut world = World::kernel();
    world.context.rsp += 8;
    let before = world.context;
    world.deliver(Event::Interrupt(0x30)).unwrap();
    assert_eq!(frame(&mut world), [KERNEL_TEXT, 0x10, before.rflags, before.rsp, 0x18]);
    let rsp = (before.rsp & !15) - 40;
    assert_eq!(world.context, Context { rip: handler(0x30), rflags: flags::FIXED, rsp, ..before });
}

#[test]
fn a_trap_gate_leaves_interrupts_on() {
    let mut world = World::user();
    world.host.put(IDT + 0x80 * 16, &gate(0xf, 3, 0, KERNEL_CS, handler(0x80)));
    world.deliver(Event::Software { vector: 0x80, return_rip: USER_TEXT + 2 }).unwrap();
    assert_eq!(world.context.rflags, flags::FIXED | flags::INTERRUPT);
    assert_eq!(frame(&mut world), [USER_TEXT + 2, 0x33, flags::FIXED | flags::INTERRUPT, USER_STACK - 0x208, 0x2b]);
}

#[test]
fn the_interrupt_stack_is_used_at_any_level() {
    for mut world in [World::kernel(), World::user()] {
        let before = world.context;
        world.host.put(IDT + 2 * 16, &gate(0xe, 0, 1, KERNEL_CS, handler(2)));
        world.deliver(Event::Interrupt(2)).unwrap();
        assert_eq!(world.context.rsp, IST1 - 40);
        assert_eq!(frame(&mut world), [before.rip, before.cs, before.rflags, before.rsp, before.ss]);
        assert_eq!(world.context.ss, if before.cpl() == 0 { 0x18 } else { 0 });
    }
}

#[test]
fn error_codes_are_pushed_where_there_are_some() {
    for (exception, pushed) in [(Exception::INVALID_OPCODE, 40), (Exception::PROTECTION, 48), (Exception::DEBUG, 40)] {
        let mut world = World::user();
        world.deliver(Event::Exception(exception)).unwrap();
        assert_eq!(world.context.rsp, RSP0 - pushed, "{exception:?}");
        let saved_flags = world.host.get::<1>(RSP0 - 24)[0];
        assert_eq!(saved_flags & flags::RESUME != 0, exception != Exception::DEBUG, "{exception:?}");
    }
}

/// What is wrong with the gate of vector 0x21 or what it leads to, and the exception that is
/// delivered instead, as an external interrupt is and as INT 0x21 in the kernel is.
#[test]
fn bad_gates() {
    let of_entry = 0x21 << 3 | 2;
    let good = gate(0xe, 0, 0, KERNEL_CS, HANDLER);
    for (name, entry, vector, error) in [
        ("call gate", gate(0xc, 0, 0, KERNEL_CS, HANDLER), 13, of_entry),
        ("task gate", gate(5, 0, 0, KERNEL_CS, HANDLER), 13, of_entry),
        ("not present", [good[0] & !(1 << 47), good[1]], 11, of_entry),
        ("null selector", gate(0xe, 0, 0, 3, HANDLER), 13, 0),
        ("outside the table", gate(0xe, 0, 0, OUTSIDE, HANDLER), 13, 0xa0),
        ("data segment", gate(0xe, 0, 0, KERNEL_DS, HANDLER), 13, 0x18),
        ("32-bit code", gate(0xe, 0, 0, KERNEL_CS32, HANDLER), 13, 0x08),
        ("outer level", gate(0xe, 0, 0, USER_CS, HANDLER), 13, 0x30),
        ("not canonical", gate(0xe, 0, 0, KERNEL_CS, 1 << 47), 13, 0),
        ("interrupt stack that is not canonical", gate(0xe, 0, 2, KERNEL_CS, HANDLER), 12, 0),
    ] {
        for external in [1, 0] {
            let mut world = World::kernel();
            world.host.put(IDT + 0x21 * 16, &entry);
            world.host.put(TSS + 0x2c, &[1 << 50]);
            let software = Event::Software { vector: 0x21, return_rip: 0 };
            world.deliver(if external == 1 { Event::Interrupt(0x21) } else { software }).unwrap();
            assert_eq!(world.context.rip, handler(vector), "{name}");
            assert_eq!(frame(&mut world), [error | external, KERNEL_TEXT], "{name}, EXT {external}");
        }
    }
}

#[test]
fn a_gate_outside_the_table() {
    let mut world = World::kernel();
    world.cpu.idt.limit = 0x21 * 16 + 14;
    world.deliver(Event::Interrupt(0x21)).unwrap();
    assert_eq!(frame(&mut world), [(0x21 << 3 | 2) + 1, KERNEL_TEXT]);
    assert_eq!(world.context.rip, handler(13));
}

#[test]
fn absent_handler_segment() {
    let mut world = World::user();
    world.host.put(IDT + 0x21 * 16, &gate(0xe, 0, 0, ABSENT_CODE & !3, HANDLER));
    world.deliver(Event::Interrupt(0x21)).unwrap();
    assert_eq!(frame(&mut world), [0x69, USER_TEXT]);
    assert_eq!(world.context.rip, handler(11));
}

#[test]
fn software_needs_the_privilege_of_the_gate() {
    let mut world = World::user();
    world.deliver(Event::Software { vector: 14, return_rip: USER_TEXT + 2 }).unwrap();
    assert_eq!(world.context.rip, handler(13));
    assert_eq!(frame(&mut world), [14 << 3 | 2, USER_TEXT], "the saved RIP is that of the INT");
}

#[test]
fn a_conforming_handler_keeps_the_level() {
    let mut world = World::user();
    world.host.put(IDT + 0x21 * 16, &gate(0xe, 0, 0, CONFORMING, HANDLER));
    world.deliver(Event::Interrupt(0x21)).unwrap();
    assert_eq!(world.context.cs, u64::from(CONFORMING | 3));
    assert_eq!(world.context.ss, u64::from(USER_DS));
    assert_eq!(world.context.rsp, (USER_STACK - 0x210) - 40);

    let mut world = World::user();
    world.host.put(IDT + 0x21 * 16, &gate(0xe, 0, 0, CONFORMING, HANDLER));
    world.context.rsp = KERNEL_STACK;
    world.deliver(Event::Interrupt(0x21)).unwrap();
    assert_eq!(world.context.rip, handler(14));
    assert_eq!(frame(&mut world), [7], "with the rights of user mode");
}

/// SDM Vol. 3A, table 6-5: a first event whose delivery fails, and what is delivered then. The
/// gates of #UD (benign),
/// #GP (contributory) and #PF lead to a stack that is not mapped, or to a null selector.
#[test]
fn what_becomes_of_a_fault_during_delivery() {
    let page_fault = [gate(0xe, 0, 2, KERNEL_CS, HANDLER), gate(0xe, 0, 0, KERNEL_CS, handler(14))];
    let protection = [gate(0xe, 0, 0, 0, HANDLER), gate(0xe, 0, 0, KERNEL_CS, handler(13))];
    for (first, [broken, whole], second, delivered) in [
        (Exception::INVALID_OPCODE, page_fault, 14, 14),
        (Exception::INVALID_OPCODE, protection, 13, 13),
        (Exception::PROTECTION, page_fault, 14, 14),
        (Exception::not_present(Selector(8)), protection, 13, 8),
        (Exception::page_fault(0, 0x1234), protection, 13, 8),
        (Exception::page_fault(0, 0x1234), page_fault, 14, 8),
    ] {
        let mut world = World::kernel();
        world.host.put(TSS + 0x2c, &[UNMAPPED]);
        world.host.put(IDT + 16 * second, &whole);
        world.host.put(IDT + 16 * u64::from(first.vector), &broken);
        let before = world.context;
        world.deliver(Event::Exception(first)).unwrap();
        assert_eq!(world.context.rip, handler(delivered), "{first:?}, then {second}");
        assert_eq!(world.host.get::<1>(world.context.rsp + 8), [before.rip]);
        assert_eq!(world.host.get::<1>(world.context.rsp + 32), [before.rsp]);
        if delivered == 8 {
            assert_eq!(world.context.rsp, IST1 - 48);
            assert_eq!(frame(&mut world), [0]);
        }
    }
}

#[test]
fn a_stack_that_has_overflown_is_a_double_fault_with_the_address_of_the_stack() {
    let mut world = World::kernel();
    world.context.rsp = UNMAPPED + 0x100;
    world.deliver(PAGE_FAULT).unwrap();
    assert_eq!(world.context.rip, handler(8));
    assert_eq!(world.cpu.cr2, UNMAPPED + 0x100 - 48);
}

#[test]
fn a_triple_fault() {
    let mut world = World::kernel();
    world.cpu.idt.limit = 0;
    let before = world.context;
    assert_eq!(world.deliver(PAGE_FAULT), Err(Shutdown));
    assert_eq!(world.context, before);
}

#[test]
fn without_a_stack_in_the_tss() {
    for (limit, selector) in [(0x0a, TSS_SELECTOR), (0x67, 0)] {
        let mut world = World::user();
        world.cpu.tr.limit = limit;
        world.cpu.tr.selector = Selector(selector);
        // #TS needs a stack as well, as does #DF.
        assert_eq!(world.deliver(Event::Interrupt(0x20)), Err(Shutdown));
        let invalid = Exception { error: Some(u32::from(selector)), ..Exception::invalid_tss(Selector(0)) };
        assert_eq!(world.cpu.stack_of_level(0, &mut world.host), Err(invalid));
    }
}

#[test]
fn descriptors_are_marked_as_accessed() {
    let mut world = World::user();
    world.host.put(GDT + 0x10, &[0x00af_9a00_0000_ffff]);
    world.deliver(Event::Interrupt(0x20)).unwrap();
    assert_eq!(world.host.get(GDT + 0x10), [0x00af_9b00_0000_ffff]);
}
