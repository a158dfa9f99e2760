//! Port I/O.
//!
//! | dimension | values |
//! |---|---|
//! | instruction | IN, OUT, INS, OUTS; by DX and by immediate; 1, 2, 4 bytes |
//! | privilege | kernel; user mode with IOPL 0 to 3 |
//! | bitmap | allows, forbids; each byte of the access; its end at and behind the TSS's limit; none |
//! | string | REP, direction, segment override; a fault in the middle |

use super::*;

const IN_AL_DX: &[u8] = &[0xec];

#[test]
fn sizes_and_ports() {
    let mut world = World::kernel();
    for (bytes, log, rax) in [
        (&[0xe4, 0x60][..], "in 0x60 Byte", 0xaaaa_bbbb_cccc_dd78),
        (&[0xec], "in 0xcf8 Byte", 0xaaaa_bbbb_cccc_dd78),
        (&[0x66, 0xed], "in 0xcf8 Word", 0xaaaa_bbbb_cccc_5678),
        (&[0xe5, 0x60], "in 0x60 Long", 0x1234_5678),
        (&[0xed], "in 0xcf8 Long", 0x1234_5678),
        (&[0xe6, 0x60], "out 0x60 Byte 0xdd", 0xaaaa_bbbb_cccc_dddd),
        (&[0xee], "out 0xcf8 Byte 0xdd", 0xaaaa_bbbb_cccc_dddd),
        (&[0x66, 0xef], "out 0xcf8 Word 0xdddd", 0xaaaa_bbbb_cccc_dddd),
        (&[0xef], "out 0xcf8 Long 0xccccdddd", 0xaaaa_bbbb_cccc_dddd),
    ] {
        world.context.registers.rax = 0xaaaa_bbbb_cccc_dddd;
        world.context.registers.rdx = 0xffff_0cf8;
        world.next(bytes);
        assert_eq!(world.host.taken(), [log]);
        assert_eq!(world.context.registers.rax, rax, "{log}");
    }
}

/// The bitmap is at 0x68, its bits all set but for ports 0x60, 0x61 and 0x6f-0x72.
fn with_bitmap() -> World {
    let mut world = World::user();
    for offset in (0..0x2000).step_by(8) {
        world.host.put(TSS + 0x68 + offset, &[u64::MAX]);
    }
    world.host.put(TSS + 0x60, &[0x0068_0000_0000_0000]);
    world.host.put(TSS + 0x68 + 8, &[!(3 << 32 | 0xf << 47)]);
    world
}

#[test]
fn the_bitmap() {
    let [one, two, four]: [&[u8]; 3] = [IN_AL_DX, &[0x66, 0xed], &[0xed]];
    for (port, bytes, allowed) in [
        (0x60, one, true),
        (0x61, one, true),
        (0x62, one, false),
        (0x5f, one, false),
        (0x60, two, true),
        (0x61, two, false),
        (0x60, four, false),
        (0x6f, two, true),
        (0x6f, four, true),
        (0x70, four, false),
        (0xffff, one, false),
    ] {
        let mut world = with_bitmap();
        world.context.registers.rdx = port;
        if allowed { world.next(bytes) } else { world.faults(bytes, PROTECTION) }
    }
}

#[test]
fn where_the_bitmap_ends() {
    for (port, limit, selector, allowed) in [
        (0x60, 0x68 + 12 + 1, TSS_SELECTOR, true),
        (0x60, 0x68 + 12, TSS_SELECTOR, false),
        (0x60, 0x67, TSS_SELECTOR, false),
        (0x60, 102, TSS_SELECTOR, false),
        (0x60, 0x206f, 0, false),
    ] {
        let mut world = with_bitmap();
        world.cpu.tr.limit = limit;
        world.cpu.tr.selector = Selector(selector);
        world.context.registers.rdx = port;
        if allowed { world.next(IN_AL_DX) } else { world.faults(IN_AL_DX, PROTECTION) }
    }
    let mut world = with_bitmap();
    world.host.put(TSS + 0x68 + 0x1ff8, &[u64::MAX >> 1]);
    world.context.registers.rdx = 0xffff;
    world.next(IN_AL_DX);
    world.host.taken();
    world.host.put(TSS + 0x60, &[0xffff_0000_0000_0000]);
    world.faults(IN_AL_DX, PROTECTION);
}

#[test]
fn the_privilege_level_opens_all_ports() {
    let mut world = with_bitmap();
    world.context.registers.rdx = 0x80;
    for (iopl, allowed) in [(0, false), (1, false), (2, false), (3, true)] {
        world.context.rflags = flags::FIXED | iopl << 12;
        if allowed { world.next(IN_AL_DX) } else { world.faults(IN_AL_DX, PROTECTION) }
    }
}

#[test]
fn strings() {
    let mut world = World::kernel();
    let data = KERNEL_DATA;
    world.context.registers.rdx = 0x1f0;
    world.context.registers.rdi = data;
    world.context.registers.rcx = 3;
    world.next(&[0xf3, 0x66, 0x6d]);
    assert_eq!(world.host.taken(), ["in 0x1f0 Word", "in 0x1f0 Word", "in 0x1f0 Word"]);
    assert_eq!(world.host.get(data), [0x0000_5678_5678_5678]);
    assert_eq!((world.context.registers.rdi, world.context.registers.rcx), (data + 6, 0));
    world.next(&[0xf3, 0x6c]);
    assert!(world.host.taken().is_empty(), "no elements");

    world.host.put(data, &[0x1122_3344_5566_7788]);
    world.context.registers.rsi = data + 4;
    world.context.registers.rcx = 9;
    world.context.rflags |= flags::DIRECTION;
    world.next(&[0x6f]);
    world.next(&[0x6f]);
    assert_eq!(world.host.taken(), ["out 0x1f0 Long 0x11223344", "out 0x1f0 Long 0x55667788"]);
    assert_eq!((world.context.registers.rsi, world.context.registers.rcx), (data - 4, 9), "downward, without REP");

    let mut world = World::user();
    world.context.rflags |= flags::IOPL;
    world.host.bases[0] = USER_DATA;
    world.context.registers.rsi = 0xffff_ffff_0000_0010;
    world.context.registers.rcx = 0xffff_ffff_0000_0001;
    world.host.put(USER_DATA + 0x10, &[0xab]);
    world.next(&[0xf3, 0x64, 0x67, 0x6e]);
    assert_eq!(world.host.taken(), ["out 0x0 Byte 0xab"]);
    assert_eq!((world.context.registers.rsi, world.context.registers.rcx), (0x11, 0), "fs: and 32-bit registers");
}

#[test]
fn a_string_that_faults_tells_how_far_it_came() {
    let end = KERNEL_DATA + 0x1000;
    let mut world = World::kernel();
    world.context.registers.rdi = end - 4;
    world.context.registers.rcx = 4;
    assert_eq!(world.execute(&[0xf3, 0x6d]), Err(Exception::page_fault(0, end)));
    assert_eq!(world.host.taken(), ["in 0x0 Long"], "the port is not read in vain");
    assert_eq!((world.context.registers.rdi, world.context.registers.rcx), (end, 3));
    world.context.registers.rsi = 1 << 47;
    world.faults(&[0x6e], PROTECTION);
    let mut user = World::user();
    user.cpu.tr.limit = 102;
    user.context.registers.rcx = 0;
    user.faults(&[0xf3, 0x6c], PROTECTION);
}
