//! IRET, far transfers, fast system calls.
//!
//! | dimension | values |
//! |---|---|
//! | to | kernel, user mode, compatibility mode; the same level, outwards, inwards |
//! | CS | null, outside, data, system, DPL below and above RPL, absent, L with D, conforming, of the LDT |
//! | SS | null, RPL, DPL, code, read-only, outside, absent; of 16, 32, 64 bits |
//! | RIP, RSP | canonical or not; wider than the code |
//! | flags | each, by CPL and IOPL; NT |
//! | frame | of 16, 32, 64 bits; on a stack that faults |
//! | data segments | those that user mode may not hold |
//! | SYSCALL, SYSRET, SYSENTER, SYSEXIT | enabled or not; to 32 and 64 bits; null selectors |

use super::*;

const IRETQ: &[u8] = &[0x48, 0xcf];
const FAR_RET: &[u8] = &[0x48, 0xcb];
const USER: [u64; 5] = [USER_TEXT, USER_CS as u64, flags::FIXED | flags::INTERRUPT, USER_STACK, USER_DS as u64];
/// To compatibility mode.
const USER32: [u64; 5] =
    [USER_TEXT, USER_CS32 as u64, flags::FIXED | flags::INTERRUPT, USER_STACK & 0xffff_ffff, USER_DS as u64];
const KERNEL: [u64; 5] = [KERNEL_TEXT, KERNEL_CS as u64, flags::FIXED, KERNEL_DATA + 8, 0];

/// IRETQ in the kernel with a frame.
fn iretq(frame: [u64; 5]) -> (World, Result<Flow, Exception>) {
    let mut world = World::kernel();
    world.host.put(world.context.rsp, &frame);
    let result = world.execute(IRETQ);
    (world, result)
}

fn registers(context: &Context) -> [u64; 5] {
    [context.rip, context.cs, context.rflags, context.rsp, context.ss]
}

fn selectors(frame: [u64; 5], cs: u16, ss: u16) -> [u64; 5] {
    [frame[0], cs.into(), frame[2], frame[3], ss.into()]
}

#[test]
fn good_frames() {
    for (frame, long) in [
        (USER, true),
        (KERNEL, true),
        (selectors(KERNEL, KERNEL_CS, KERNEL_DS), true),
        (selectors(KERNEL, CONFORMING, 0), true),
        (USER32, false),
        (selectors(USER, LOCAL_CODE, LOCAL_DATA), true),
        (selectors(USER, CONFORMING | 3, USER_DS), true),
        (selectors(USER, USER_CS, NEVER_LOADED), true),
    ] {
        let (mut world, result) = iretq(frame);
        assert_eq!(result, Ok(Flow::Jumped), "{frame:x?}");
        assert_eq!(registers(&world.context), frame);
        let kernel = World::kernel().context;
        let [rip, cs, rflags, rsp, ss] = frame;
        let frame = Frame { rip, cs, rflags, rsp, ss };
        let checked = check_return(&world.cpu, &kernel, &frame, &mut world.host);
        assert_eq!(checked, Ok(ReturnTo { frame, long }));
    }
}

#[test]
fn bad_frames() {
    let protection = |selector| Exception::protection(Selector(selector));
    for (name, frame, exception) in [
        ("null CS", selectors(USER, 0, USER_DS), PROTECTION),
        ("null CS with RPL", selectors(USER, 3, USER_DS), PROTECTION),
        ("CS outside", selectors(USER, OUTSIDE, USER_DS), protection(OUTSIDE)),
        ("CS outside the LDT", selectors(USER, LOCAL_OUTSIDE, USER_DS), protection(LOCAL_OUTSIDE)),
        ("CS is data", selectors(USER, USER_DS, USER_DS), protection(USER_DS)),
        ("CS is a TSS", selectors(USER, TSS_SELECTOR | 3, USER_DS), protection(TSS_SELECTOR)),
        ("DPL of CS below RPL", selectors(USER, KERNEL_CS | 3, USER_DS), protection(KERNEL_CS)),
        ("DPL of CS above RPL", selectors(USER, USER_CS & !3, 0), protection(USER_CS)),
        ("CS not present", selectors(USER, ABSENT_CODE, USER_DS), Exception::not_present(Selector(ABSENT_CODE))),
        ("L and D", selectors(USER, LONG_AND_BIG, USER_DS), protection(LONG_AND_BIG)),
        ("null SS in user mode", selectors(USER, USER_CS, 3), PROTECTION),
        ("null SS in compatibility mode", selectors(USER, KERNEL_CS32, 0), PROTECTION),
        ("RPL of SS", selectors(USER, USER_CS, USER_DS & !3), protection(USER_DS)),
        ("DPL of SS", selectors(USER, USER_CS, KERNEL_DS | 3), protection(KERNEL_DS)),
        ("SS is code", selectors(USER, USER_CS, USER_CS), protection(USER_CS)),
        ("SS is read-only", selectors(USER, USER_CS, READ_ONLY), protection(READ_ONLY)),
        ("SS outside", selectors(USER, USER_CS, OUTSIDE), protection(OUTSIDE)),
        ("SS not present", selectors(USER, USER_CS, ABSENT_DATA), Exception::stack(Selector(ABSENT_DATA))),
        ("RIP not canonical", [1 << 47, USER[1], USER[2], USER[3], USER[4]], PROTECTION),
    ] {
        let (world, result) = iretq(frame);
        assert_eq!(result, Err(exception), "{name}");
        assert_eq!(world.context, World::kernel().context, "{name}");
    }
}

/// Code of 32 bits has no more of RIP than EIP.
#[test]
fn a_wide_rip_of_32_bit_code() {
    let [rip, cs, rflags, rsp, ss] = USER32;
    let (world, result) = iretq([0x8765_4321_0000_0000 | rip, cs, rflags, rsp, ss]);
    assert_eq!(result, Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), USER32);
}

/// How much of RSP is loaded, and what becomes of the rest.
#[test]
fn stacks_of_each_size() {
    const WIDE: u64 = 0x8765_4321_1234_5678;
    let old = World::kernel().context.rsp;
    let (small, big, code) = (0x0000_f300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00cf_fb00_0000_ffff);
    for (stack, cs, expected) in [
        (small, LOCAL_CODE, old & !0xffff | 0x5678),
        (big, LOCAL_CODE, 0x1234_5678),
        (small, USER_CS, WIDE),
        (big, USER_CS, WIDE),
    ] {
        for (instruction, frame) in [
            (IRETQ, &[USER_TEXT, cs.into(), flags::FIXED, WIDE, LOCAL_DATA.into()][..]),
            (FAR_RET, &[USER_TEXT, cs.into(), WIDE, LOCAL_DATA.into()]),
        ] {
            let mut world = World::kernel();
            world.host.put(LDT, &[stack, code]);
            world.host.put(old, frame);
            assert_eq!(world.execute(instruction), Ok(Flow::Jumped));
            assert_eq!(world.context.rsp, expected, "{instruction:x?} to {cs:#x} with a stack {stack:#x}");
        }
    }
}

#[test]
fn a_selector_of_an_ldt_that_is_not_loaded() {
    let mut world = World::kernel();
    world.cpu.ldt.selector = Selector(0);
    world.host.put(world.context.rsp, &selectors(USER, LOCAL_CODE, USER_DS));
    world.faults(IRETQ, Exception::protection(Selector(LOCAL_CODE)));
}

#[test]
fn a_descriptor_of_which_half_is_in_the_table() {
    let mut world = World::kernel();
    world.host.put(world.context.rsp, &USER);
    world.cpu.gdt.limit = (USER_CS & !3) + 6;
    world.faults(IRETQ, Exception::protection(Selector(USER_CS)));
    world.cpu.gdt.limit += 1;
    assert_eq!(world.execute(IRETQ), Ok(Flow::Jumped));
}

#[test]
fn nested_tasks_do_not_exist() {
    let mut world = World::kernel();
    world.context.rflags |= flags::NESTED;
    world.host.put(world.context.rsp, &USER);
    world.faults(IRETQ, PROTECTION);
}

#[test]
fn nobody_returns_inward() {
    let mut world = World::user();
    world.host.put(world.context.rsp, &KERNEL);
    world.faults(IRETQ, Exception::protection(Selector(KERNEL_CS)));
    world.context.rsp = UNMAPPED;
    world.faults(IRETQ, Exception::page_fault(4, UNMAPPED));
    world.context.rsp = (1 << 47) - 8;
    world.faults(IRETQ, Exception::STACK);
}

/// All flags on the stack, and what each level gets of them.
#[test]
fn flags_by_privilege() {
    let own = flags::FIXED | flags::INTERRUPT;
    let user = flags::OF_USER | flags::RESUME | own;
    let all = user | flags::IOPL | flags::VIRTUAL_INTERRUPT;
    let [rip, cs, _, rsp, ss] = USER;
    let kernel = iretq([rip, cs, u64::MAX, rsp, ss]).0;
    assert_eq!(kernel.context.rflags, all);
    for (iopl, popped, expected) in [
        (0, u64::MAX, user),
        (0, 0, own),
        (flags::IOPL, u64::MAX, user | flags::IOPL),
        (flags::IOPL, 0, flags::FIXED | flags::IOPL),
    ] {
        let mut world = World::user();
        world.context.rflags |= iopl;
        world.host.put(world.context.rsp, &[rip, cs, popped, rsp, ss]);
        assert_eq!(world.execute(IRETQ), Ok(Flow::Jumped));
        assert_eq!(world.context.rflags, expected, "IOPL {iopl:#x}, popped {popped:#x}");
    }
}

#[test]
fn shorter_frames() {
    let mut world = World::kernel();
    let [low, high] = [u64::from(USER_CS32) << 32 | 0x1234, 0x5678 << 32 | flags::FIXED];
    world.host.put(world.context.rsp, &[low, high, USER_DS.into()]);
    assert_eq!(world.execute(&[0xcf]), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [0x1234, 0x23, flags::FIXED, 0x5678, 0x2b]);

    let mut world = World::kernel();
    world.context.rflags |= flags::IDENTIFICATION;
    world.host.put(world.context.rsp, &[0x5678 << 48 | 2 << 32 | u64::from(USER_CS32) << 16 | 0x1234, USER_DS.into()]);
    assert_eq!(world.execute(&[0x66, 0xcf]), Ok(Flow::Jumped));
    let rflags = flags::FIXED | flags::IDENTIFICATION;
    assert_eq!(registers(&world.context), [0x1234, 0x23, rflags, 0x5678, 0x2b]);
}

#[test]
fn what_user_mode_may_not_hold_becomes_null() {
    let mut world = World::kernel();
    world.host.segments = [KERNEL_DS, USER_DS, OUTSIDE, LOCAL_DATA];
    world.host.put(world.context.rsp, &USER);
    assert_eq!(world.execute(IRETQ), Ok(Flow::Jumped));
    assert_eq!(world.host.taken(), ["Es 0x0 0x0", "Fs 0x0 0x0"]);
    let mut world = World::kernel();
    world.host.segments = [KERNEL_DS; 4];
    world.host.put(world.context.rsp, &KERNEL);
    assert_eq!(world.execute(IRETQ), Ok(Flow::Jumped));
    assert!(world.host.taken().is_empty(), "the kernel keeps them");
}

#[test]
fn far_returns() {
    let mut world = World::kernel();
    let rsp = world.context.rsp;
    world.host.put(rsp, &[KERNEL_TEXT + 0x100, KERNEL_CS.into()]);
    assert_eq!(world.execute(FAR_RET), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [KERNEL_TEXT + 0x100, 0x10, 0x202, rsp + 16, 0x18]);

    let mut world = World::kernel();
    world.host.put(rsp, &[USER_TEXT, USER_CS.into(), 0, USER_STACK - 0x100, USER_DS.into()]);
    assert_eq!(world.execute(&[0x48, 0xca, 8, 0]), Ok(Flow::Jumped), "with 8 bytes of parameters");
    assert_eq!(registers(&world.context), [USER_TEXT, 0x33, 0x202, USER_STACK - 0xf8, 0x2b]);

    let mut world = World::user();
    world.host.put(world.context.rsp, &[u64::from(USER_CS32) << 32 | 0x1234]);
    let rsp = world.context.rsp;
    assert_eq!(world.execute(&[0xcb]), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [0x1234, 0x23, 0x202, rsp + 8, 0x2b]);
    world.context.cs = USER_CS.into();
    world.host.put(world.context.rsp, &[KERNEL_TEXT, KERNEL_CS.into()]);
    world.faults(FAR_RET, Exception::protection(Selector(KERNEL_CS)));
}

/// `rex.w ljmp *(%rdi)` and `rex.w lcall *(%rdi)`.
#[test]
fn far_jumps_and_calls() {
    let (jump, call) = (&[0x48, 0xff, 0x2f], &[0x48, 0xff, 0x1f]);
    let mut world = World::kernel();
    world.context.registers.rdi = KERNEL_DATA;
    world.host.put(KERNEL_DATA, &[KERNEL_TEXT + 0x100, KERNEL_CS.into()]);
    let before = world.context;
    assert_eq!(world.execute(jump), Ok(Flow::Jumped));
    assert_eq!(world.context, Context { rip: KERNEL_TEXT + 0x100, ..before });

    world.context = before;
    assert_eq!(world.execute(call), Ok(Flow::Jumped));
    assert_eq!(world.context, Context { rip: KERNEL_TEXT + 0x100, rsp: before.rsp - 16, ..before });
    assert_eq!(world.host.get(before.rsp - 16), [KERNEL_TEXT + 3, 0x10]);

    world.context = before;
    for (selector, exception) in [
        (0, PROTECTION),
        (KERNEL_DS, Exception::protection(Selector(KERNEL_DS))),
        (USER_CS, Exception::protection(Selector(USER_CS))),
        (ABSENT_CODE, Exception::protection(Selector(ABSENT_CODE))),
        (OUTSIDE, Exception::protection(Selector(OUTSIDE))),
    ] {
        world.host.put(KERNEL_DATA + 8, &[selector.into()]);
        world.faults(jump, exception);
        world.faults(call, exception);
    }
    world.host.put(KERNEL_DATA + 8, &[CALL_GATE.into()]);
    assert_eq!(world.execute(jump), Ok(Flow::Unhandled));
    assert_eq!(world.execute(call), Ok(Flow::Unhandled));
    world.host.put(KERNEL_DATA, &[1 << 47, CONFORMING.into()]);
    world.faults(jump, PROTECTION);
    world.host.put(KERNEL_DATA, &[KERNEL_TEXT, (CONFORMING | 3).into()]);
    assert_eq!(world.execute(jump), Ok(Flow::Jumped));
    assert_eq!(world.context.cs, CONFORMING.into(), "RPL is the CPL");
}

#[test]
fn near_branches_are_not_sensitive() {
    let mut world = World::kernel();
    for bytes in [&[0xe9, 0, 0, 0, 0][..], &[0xe8, 0, 0, 0, 0], &[0xff, 0xe0], &[0xff, 0xd0]] {
        assert_eq!(world.execute(bytes), Ok(Flow::Unhandled));
    }
}

#[test]
fn syscall_and_sysret() {
    let mut world = World::user();
    world.cpu.star = (0x23 << 16 | 0x10) << 32;
    world.cpu.lstar = KERNEL_TEXT;
    world.cpu.cstar = KERNEL_TEXT + 0x100;
    world.cpu.fmask = flags::INTERRUPT | flags::TRAP;
    world.context.rflags |= flags::TRAP | flags::RESUME | flags::IDENTIFICATION;
    let before = world.context;
    assert_eq!(world.execute(&[0x0f, 0x05]), Ok(Flow::Jumped));
    assert_eq!(world.context.registers.rcx, USER_TEXT + 2);
    assert_eq!(world.context.registers.r11, before.rflags & !flags::RESUME);
    let rflags = flags::FIXED | flags::IDENTIFICATION;
    assert_eq!(registers(&world.context), [KERNEL_TEXT, 0x10, rflags, before.rsp, 0x18]);

    world.context.registers.r11 = u64::MAX;
    assert_eq!(world.execute(&[0x48, 0x0f, 0x07]), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [USER_TEXT + 2, 0x33, 0x3c_7fd7, before.rsp, 0x2b]);
    world.faults(&[0x48, 0x0f, 0x07], PROTECTION);

    world.context.cs = KERNEL_CS.into();
    world.context.registers.rcx = 1 << 47;
    world.faults(&[0x48, 0x0f, 0x07], PROTECTION);
    world.context.registers.rcx = 0x5_1234_5678;
    assert_eq!(world.execute(&[0x0f, 0x07]), Ok(Flow::Jumped), "to compatibility mode");
    assert_eq!(registers(&world.context)[..2], [0x1234_5678, 0x23]);
    syscall(&world.cpu, &mut world.context, 0x1000, false).unwrap();
    assert_eq!(registers(&world.context)[..2], [KERNEL_TEXT + 0x100, 0x10]);

    world.cpu.efer &= !efer::SCE;
    world.faults(&[0x0f, 0x05], INVALID_OPCODE);
    world.faults(&[0x48, 0x0f, 0x07], INVALID_OPCODE);
}

#[test]
fn sysenter_and_sysexit() {
    let mut world = World::user();
    world.faults(&[0x0f, 0x34], PROTECTION);
    world.cpu.sysenter_cs = 0x13;
    world.cpu.sysenter_eip = KERNEL_TEXT;
    world.cpu.sysenter_esp = KERNEL_STACK;
    assert_eq!(world.execute(&[0x0f, 0x34]), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [KERNEL_TEXT, 0x10, flags::FIXED, KERNEL_STACK, 0x18]);

    world.context.registers.rdx = USER_TEXT;
    world.context.registers.rcx = USER_STACK;
    let before = world.context;
    assert_eq!(world.execute(&[0x0f, 0x35]), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [USER_TEXT, 0x23, flags::FIXED, USER_STACK & 0xffff_ffff, 0x2b]);
    world.context = before;
    assert_eq!(world.execute(&[0x48, 0x0f, 0x35]), Ok(Flow::Jumped));
    assert_eq!(registers(&world.context), [USER_TEXT, 0x33, flags::FIXED, USER_STACK, 0x3b]);
    world.faults(&[0x48, 0x0f, 0x35], PROTECTION);
    world.context = before;
    world.context.registers.rcx = 1 << 47;
    world.faults(&[0x48, 0x0f, 0x35], PROTECTION);
}

#[test]
fn software_interrupts() {
    let mut world = World::user();
    assert_eq!(world.execute(&[0xcd, 0x80]), Ok(Flow::Jumped));
    assert_eq!(world.context.rip, handler(0x80));
    assert_eq!(world.host.get(RSP0 - 40), [USER_TEXT + 2]);
    let mut world = World::user();
    assert_eq!(world.execute(&[0xcc]), Ok(Flow::Jumped));
    assert_eq!(world.context.rip, handler(3));
    assert_eq!(world.host.get(RSP0 - 40), [USER_TEXT + 1]);
    let mut world = World::user();
    world.faults(&[0xcd, 0x0e], Exception::with_error(13, 0x72));
    assert_eq!(world.execute(&[0xf1]), Err(Exception::DEBUG));
    assert_eq!(world.context.rip, USER_TEXT + 1, "a trap");
}
