//! Flags, segments, tables, TLBs; what is not there.
//!
//! | dimension | values |
//! |---|---|
//! | privilege level | kernel; user mode, IOPL 0 and 3 |
//! | flags | each that POPF may or may not change; 64 and 16 bits; a stack that faults |
//! | selector | null, of GDT and LDT, outside, system, absent, never loaded; DPL below and above |
//! | register | ES, SS, DS, FS, GS; LDTR, TR; GDTR, IDTR |
//! | memory | mapped; across pages; unmapped; not canonical; by FS and GS; 32-bit addresses |
//! | flush | INVLPG, each kind of INVPCID, with and without PCIDs |
//! | feature | hidden by CPUID; not sensitive; no instruction at all |

use annotate::instructions::row_of;

use super::*;

#[test]
fn interrupt_flag() {
    let (cli, sti) = (&[0xfa], &[0xfb]);
    let mut world = World::kernel();
    world.next(cli);
    assert_eq!(world.context.rflags, flags::FIXED);
    world.next(sti);
    assert_eq!(world.context.rflags, flags::FIXED | flags::INTERRUPT);
    let mut user = World::user();
    user.faults(cli, PROTECTION);
    user.faults(sti, PROTECTION);
    user.context.rflags |= flags::IOPL;
    user.next(cli);
    assert_eq!(user.context.rflags, flags::FIXED | flags::IOPL);
}

#[test]
fn flags_on_the_stack() {
    let mut world = World::kernel();
    let rsp = world.context.rsp;
    world.context.rflags |= flags::RESUME | flags::IOPL | flags::ALIGNMENT;
    world.next(&[0x9c]);
    assert_eq!(world.host.get(rsp - 8), [0x4_3202]);
    world.next(&[0x66, 0x9c]);
    assert_eq!(world.context.rsp, rsp - 10);
    assert_eq!(world.host.get(rsp - 16), [0x3202 << 48]);

    // Current flags, privilege level, what is popped, what the flags become.
    let all = 0x24_7fd7;
    for (before, cs, bytes, popped, after) in [
        (0x202, KERNEL_CS, &[0x9d][..], u64::MAX, all),
        (0x1a_0202, KERNEL_CS, &[0x9d], 0, 0x1a_0002),
        (0x1_0202, KERNEL_CS, &[0x9d], 0x46, 0x46),
        (0x24_0202, KERNEL_CS, &[0x66, 0x9d], 0, 0x24_0002),
        (0x202, USER_CS, &[0x9d], 0, 0x202),
        (0x202, USER_CS, &[0x9d], u64::MAX, all & !flags::IOPL),
        (0x3202, USER_CS, &[0x9d], 0, 0x3002),
        (0x2, USER_CS, &[0x9d], u64::MAX, all & !flags::IOPL & !flags::INTERRUPT),
    ] {
        let mut world = if cs == USER_CS { World::user() } else { World::kernel() };
        let rsp = world.context.rsp;
        world.context.rflags = before;
        world.host.put(rsp, &[popped]);
        world.next(bytes);
        assert_eq!(world.context.rflags, after, "{before:#x} {cs:#x} {popped:#x}");
        assert_eq!(world.context.rsp, rsp + if bytes.len() == 1 { 8 } else { 2 });
    }
}

#[test]
fn a_stack_that_faults() {
    let mut world = World::kernel();
    world.context.rsp = UNMAPPED;
    world.faults(&[0x9d], Exception::page_fault(0, UNMAPPED));
    world.faults(&[0x9c], Exception::page_fault(2, UNMAPPED - 8));
    world.context.rsp = 0xffff_8000_0000_0000;
    world.faults(&[0x9c], Exception::STACK);
}

#[test]
fn loads_of_segment_registers() {
    let protection = |selector| Err(Exception::protection(Selector(selector)));
    for (selector, cs, result) in [
        (0, KERNEL_CS, Ok(())),
        (3, USER_CS, Ok(())),
        (USER_DS, KERNEL_CS, Ok(())),
        (USER_DS, USER_CS, Ok(())),
        (KERNEL_DS, KERNEL_CS, Ok(())),
        (KERNEL_DS, USER_CS, protection(KERNEL_DS)),
        (KERNEL_DS | 3, KERNEL_CS, protection(KERNEL_DS)),
        (USER_CS, KERNEL_CS, Ok(())),
        (CONFORMING | 3, USER_CS, Ok(())),
        (READ_ONLY, USER_CS, Ok(())),
        (LOCAL_DATA, USER_CS, Ok(())),
        (LOCAL_OUTSIDE, USER_CS, protection(LOCAL_OUTSIDE)),
        (OUTSIDE, USER_CS, protection(OUTSIDE)),
        (TSS_SELECTOR, KERNEL_CS, protection(TSS_SELECTOR)),
        (ABSENT_DATA, USER_CS, Err(Exception::not_present(Selector(ABSENT_DATA)))),
    ] {
        let mut world = World::kernel();
        world.context.cs = cs.into();
        world.context.registers.rax = 0xffff_0000 | u64::from(selector);
        let loaded = world.execute(&[0x8e, 0xd8]).map(drop);
        assert_eq!(loaded, result, "{selector:#x} at {cs:#x}");
        let expected = if result.is_ok() { selector } else { 0 };
        assert_eq!(world.host.segments, [0, expected, 0, 0]);
        assert_eq!(world.cpu.selectors[1], Selector(expected));
    }
}

#[test]
fn a_load_marks_the_descriptor() {
    let mut world = World::user();
    world.context.registers.rax = NEVER_LOADED.into();
    world.next(&[0x8e, 0xc0]);
    assert_eq!(world.host.taken(), ["Es 0x9b 0xcff3000000ffff"]);
    assert_eq!(world.host.get(GDT + 0x98), [0x00cf_f300_0000_ffff]);
}

#[test]
fn loads_of_the_stack_segment() {
    let protection = |selector| Err(Exception::protection(Selector(selector)));
    for (selector, cs, result) in [
        (KERNEL_DS, KERNEL_CS, Ok(())),
        (0, KERNEL_CS, Ok(())),
        (3, KERNEL_CS, Err(PROTECTION)),
        (3, USER_CS, Err(PROTECTION)),
        (USER_DS, USER_CS, Ok(())),
        (USER_DS, KERNEL_CS, protection(USER_DS)),
        (USER_DS & !3, USER_CS, protection(USER_DS)),
        (READ_ONLY, USER_CS, protection(READ_ONLY)),
        (ABSENT_DATA, USER_CS, Err(Exception::stack(Selector(ABSENT_DATA)))),
    ] {
        let mut world = World::kernel();
        world.context.cs = cs.into();
        world.context.ss = 0x4444;
        world.context.registers.rax = selector.into();
        let loaded = world.execute(&[0x8e, 0xd0]).map(drop);
        assert_eq!(loaded, result, "{selector:#x} at {cs:#x}");
        assert_eq!(world.context.ss, if result.is_ok() { selector.into() } else { 0x4444 });
    }
}

#[test]
fn moves_pushes_and_pops_of_segments() {
    let mut world = World::kernel();
    world.host.segments = [1, 2, 3, 4];
    world.context.registers.rdi = KERNEL_DATA;
    for (bytes, expected) in [
        (&[0x8c, 0xc0][..], 1),
        (&[0x8c, 0xd8], 2),
        (&[0x48, 0x8c, 0xe0], 3),
        (&[0x66, 0x8c, 0xe8], 0xffff_ffff_ffff_0004),
        (&[0x8c, 0xc8], 0x10),
        (&[0x8c, 0xd0], 0x18),
    ] {
        world.context.registers.rax = u64::MAX;
        world.next(bytes);
        assert_eq!(world.context.registers.rax, expected, "{bytes:02x?}");
    }
    world.host.put(KERNEL_DATA, &[u64::MAX]);
    world.next(&[0x48, 0x8c, 0x1f]);
    assert_eq!(world.host.get(KERNEL_DATA), [0xffff_ffff_ffff_0002], "two bytes");
    world.host.put(KERNEL_DATA, &[USER_DS.into()]);
    world.next(&[0x8e, 0x07]);
    assert_eq!(world.host.segments[0], USER_DS, "mov (%rdi), %es");

    let rsp = world.context.rsp;
    world.next(&[0x0f, 0xa0]);
    assert_eq!(world.host.get(rsp - 8), [3], "push %fs");
    world.context.rsp = rsp;
    world.host.put(rsp, &[USER_DS.into()]);
    world.next(&[0x0f, 0xa9]);
    assert_eq!((world.host.segments[3], world.context.rsp), (USER_DS, rsp + 8), "pop %gs");
    world.context.rsp = rsp;
    world.host.put(rsp, &[OUTSIDE.into()]);
    world.host.taken();
    world.faults(&[0x0f, 0xa1], Exception::protection(Selector(OUTSIDE)));

    world.host.put(KERNEL_DATA, &[0x1122_3344_5566_7788, USER_DS.into()]);
    world.next(&[0x48, 0x0f, 0xb4, 0x07]);
    assert_eq!((world.context.registers.rax, world.host.segments[2]), (0x1122_3344_5566_7788, USER_DS), "lfs");
    world.host.put(KERNEL_DATA, &[u64::from(KERNEL_DS) << 32 | 0x5566_7788]);
    world.next(&[0x0f, 0xb2, 0x07]);
    assert_eq!((world.context.registers.rax, world.context.ss), (0x5566_7788, KERNEL_DS.into()), "lss");
    for bytes in [&[0x89, 0xd8][..], &[0xff, 0x37], &[0x8f, 0x07]] {
        assert_eq!(world.execute(bytes), Ok(Flow::Unhandled), "{bytes:02x?}");
    }
}

/// The other half of `push; popf` and `pushf; pop`.
#[test]
fn words_on_the_stack() {
    let mut world = World::kernel();
    let rsp = world.context.rsp;
    for (push, pop, value) in [(&[0x57][..], &[0x41, 0x58][..], 0x1122_3344_5566_7788), (&[0x54], &[0x41, 0x58], rsp)] {
        world.context.registers.rdi = 0x1122_3344_5566_7788;
        world.next(push);
        assert_eq!((world.context.rsp, world.host.get(rsp - 8)), (rsp - 8, [value]), "{push:02x?}");
        world.next(pop);
        assert_eq!((world.context.rsp, world.context.registers.r8), (rsp, value), "{pop:02x?}");
    }
    world.host.put(rsp, &[USER_DATA]);
    world.next(&[0x5c]);
    assert_eq!(world.context.rsp, USER_DATA, "pop %rsp");
}

/// LAR and LSL of `%ecx` to `%eax`, VERR and VERW of `%ecx`: `None` is ZF clear.
#[test]
fn questions_about_selectors() {
    for (selector, cs, rights, limit, readable, writable) in [
        (0, KERNEL_CS, None, None, false, false),
        (OUTSIDE, KERNEL_CS, None, None, false, false),
        (USER_DS, USER_CS, Some(0xc0_f300), Some(u32::MAX), true, true),
        (USER_CS, USER_CS, Some(0xa0_fb00), Some(u32::MAX), true, false),
        (READ_ONLY, USER_CS, Some(0xc0_f100), Some(u32::MAX), true, false),
        (KERNEL_DS, USER_CS, None, None, false, false),
        (KERNEL_DS | 3, KERNEL_CS, None, None, false, false),
        (KERNEL_DS, KERNEL_CS, Some(0xc0_9300), Some(u32::MAX), true, true),
        (CONFORMING | 3, USER_CS, Some(0xa0_9f00), Some(u32::MAX), true, false),
        (TSS_SELECTOR, KERNEL_CS, Some(0x8900), Some(0x206f), false, false),
        (LDT_SELECTOR, KERNEL_CS, Some(0x8200), Some(15), false, false),
        (CALL_GATE, KERNEL_CS, Some(0x8c00), None, false, false),
        (LOCAL_CODE, USER_CS, Some(0xa0_fb00), Some(u32::MAX), true, false),
        (LOCAL_OUTSIDE, USER_CS, None, None, false, false),
    ] {
        let mut world = World::kernel();
        world.context.cs = cs.into();
        let mut ask = |bytes: &[u8]| {
            world.context.registers.rcx = u64::from(selector) | 0xffff_0000;
            world.context.registers.rax = u64::MAX;
            world.next(bytes);
            let yes = world.context.rflags & flags::ZERO != 0;
            assert!(yes || world.context.registers.rax == u64::MAX);
            yes.then_some(world.context.registers.rax)
        };
        assert_eq!(ask(&[0x0f, 0x02, 0xc1]), rights, "lar {selector:#x} at {cs:#x}");
        assert_eq!(ask(&[0x0f, 0x03, 0xc1]), limit.map(u64::from), "lsl {selector:#x} at {cs:#x}");
        assert_eq!(ask(&[0x0f, 0x00, 0xe1]).is_some(), readable, "verr {selector:#x} at {cs:#x}");
        assert_eq!(ask(&[0x0f, 0x00, 0xe9]).is_some(), writable, "verw {selector:#x} at {cs:#x}");
    }
}

#[test]
fn segment_bases() {
    let mut world = World::user();
    world.faults(&[0xf3, 0x48, 0x0f, 0xae, 0xc0], INVALID_OPCODE);
    world.cpu.cr4 |= cr4::FSGSBASE;
    world.next(&[0xf3, 0x48, 0x0f, 0xae, 0xc8]);
    assert_eq!(world.context.registers.rax, 0xffff_8880_1000_0000, "rdgsbase %rax");
    world.next(&[0xf3, 0x0f, 0xae, 0xc8]);
    assert_eq!(world.context.registers.rax, 0x1000_0000, "rdgsbase %eax");
    world.context.registers.rax = 0xffff_8000_1234_5678;
    world.next(&[0xf3, 0x48, 0x0f, 0xae, 0xd8]);
    world.next(&[0xf3, 0x0f, 0xae, 0xd0]);
    assert_eq!(world.host.bases[..2], [0x1234_5678, 0xffff_8000_1234_5678], "wrgsbase %rax, wrfsbase %eax");
    world.context.registers.rax = 1 << 47;
    world.faults(&[0xf3, 0x48, 0x0f, 0xae, 0xd8], PROTECTION);
    world.faults(&[0x0f, 0x01, 0xf8], PROTECTION);
    world.context.cs = KERNEL_CS.into();
    world.next(&[0x0f, 0x01, 0xf8]);
    assert_eq!(world.host.bases[1..], [0x2000_0000, 0xffff_8000_1234_5678], "swapgs");
}

#[test]
fn descriptor_table_registers() {
    let mut world = World::kernel();
    world.context.registers.rdi = KERNEL_DATA;
    world.next(&[0x0f, 0x01, 0x07]);
    assert_eq!(world.host.get(KERNEL_DATA), [GDT << 16 | 0x9f, GDT >> 48], "sgdt");
    world.next(&[0x0f, 0x01, 0x0f]);
    assert_eq!(world.host.get(KERNEL_DATA), [IDT << 16 | 0xfff, IDT >> 48], "sidt");
    let other = Table { base: 0xffff_9999_0000_1000, limit: 0x7f };
    world.host.put(KERNEL_DATA, &[other.base << 16 | 0x7f, other.base >> 48]);
    world.next(&[0x0f, 0x01, 0x17]);
    world.next(&[0x0f, 0x01, 0x1f]);
    assert_eq!((world.cpu.gdt, world.cpu.idt), (other, other), "lgdt, lidt");
    assert_eq!(world.host.taken(), ["Gdt", "Idt"]);
    world.host.put(KERNEL_DATA, &[1 << 63, 0]);
    world.faults(&[0x0f, 0x01, 0x17], PROTECTION);
    world.context.registers.rdi = UNMAPPED;
    world.faults(&[0x0f, 0x01, 0x1f], Exception::page_fault(0, UNMAPPED));

    let mut user = World::user();
    user.context.registers.rdi = USER_DATA;
    user.next(&[0x0f, 0x01, 0x07]);
    assert_eq!(user.host.get(USER_DATA), [GDT << 16 | 0x9f, GDT >> 48], "without UMIP anybody may");
    user.faults(&[0x0f, 0x01, 0x17], PROTECTION);
    user.context.registers.rdi = KERNEL_DATA;
    user.faults(&[0x0f, 0x01, 0x0f], Exception::page_fault(7, KERNEL_DATA));
}

#[test]
fn system_segments() {
    let mut world = World::kernel();
    let (lldt, ltr): (&[u8], &[u8]) = (&[0x0f, 0x00, 0xd0], &[0x0f, 0x00, 0xd8]);
    world.cpu.tr = LoadedSegment::default();
    world.cpu.ldt = LoadedSegment::default();
    world.context.registers.rax = LDT_SELECTOR.into();
    world.next(lldt);
    assert_eq!(world.cpu.ldt, LoadedSegment { selector: Selector(LDT_SELECTOR), base: LDT, limit: 15 });
    world.faults_after_log(ltr, Exception::protection(Selector(LDT_SELECTOR)), "Ldt");
    world.context.registers.rax = TSS_SELECTOR.into();
    world.next(ltr);
    assert_eq!(world.cpu.tr, LoadedSegment { selector: Selector(TSS_SELECTOR), base: TSS, limit: 0x206f });
    world.faults_after_log(ltr, Exception::protection(Selector(TSS_SELECTOR)), "Tr");
    world.faults(lldt, Exception::protection(Selector(TSS_SELECTOR)));
    for selector in [LOCAL_DATA, OUTSIDE, KERNEL_DS] {
        world.context.registers.rax = selector.into();
        world.faults(ltr, Exception::protection(Selector(selector)));
        world.faults(lldt, Exception::protection(Selector(selector)));
    }
    world.host.put(GDT + 0x50, &[system_descriptor(2, LDT, 15)[0] & !(1 << 47)]);
    world.context.registers.rax = LDT_SELECTOR.into();
    world.faults(lldt, Exception::not_present(Selector(LDT_SELECTOR)));
    world.host.put(GDT + 0x50, &system_descriptor(2, 1 << 47, 15));
    world.faults(lldt, Exception::protection(Selector(LDT_SELECTOR)));
    world.context.registers.rax = 0;
    world.faults(ltr, PROTECTION);
    world.next(lldt);
    assert_eq!(world.cpu.ldt, LoadedSegment::default());

    world.context.registers.rax = u64::MAX;
    world.next(&[0x0f, 0x00, 0xc8]);
    assert_eq!(world.context.registers.rax, TSS_SELECTOR.into(), "str %eax");
    world.next(&[0x0f, 0x00, 0xc0]);
    assert_eq!(world.context.registers.rax, 0, "sldt %eax");
    World::user().faults(ltr, PROTECTION);
    World::user().faults(lldt, PROTECTION);
    World::user().next(&[0x0f, 0x00, 0xc8]);
}

impl World {
    fn faults_after_log(&mut self, bytes: &[u8], with: Exception, log: &str) {
        assert_eq!(self.host.taken(), [log]);
        self.faults(bytes, with);
    }
}

#[test]
fn translations() {
    let mut world = World::kernel();
    world.context.registers.rdi = 0xffff_9999_0000_1000;
    world.next(&[0x0f, 0x01, 0x3f]);
    world.next(&[0x65, 0x0f, 0x01, 0x3c, 0x25, 0x00, 0x10, 0x00, 0x00]);
    assert_eq!(world.host.taken(), ["flush 0xffff999900001000", "flush 0xffff888010001000"]);
    world.next(&[0x0f, 0x01, 0x3c, 0x25, 0x00, 0x00, 0x00, 0x81]);
    world.next(&[0x67, 0x0f, 0x01, 0x3c, 0x25, 0x00, 0x00, 0x00, 0x81]);
    assert_eq!(world.host.taken(), ["flush 0xffffffff81000000", "flush 0x81000000"]);
    world.context.registers.rdi = 1 << 47;
    world.next(&[0x0f, 0x01, 0x3f]);
    assert!(world.host.taken().is_empty());

    world.context.registers.rdi = KERNEL_DATA;
    for (pcide, kind, descriptor, log) in [
        (true, 0, [5, 0x1000], Some("flush 0x1000 of 5")),
        (false, 0, [0, 0x1000], Some("flush 0x1000 of 0")),
        (false, 0, [5, 0x1000], None),
        (true, 0, [5, 1 << 47], None),
        (true, 1, [0xfff, 1 << 47], Some("flush 4095")),
        (false, 1, [1, 0], None),
        (true, 1, [0x1000, 0], None),
        (false, 2, [1, 0], Some("flush all, global true")),
        (false, 3, [1, 0], Some("flush all, global false")),
        (true, 4, [0, 0], None),
        (true, 1 << 32, [0, 0], None),
    ] {
        world.cpu.cr4 = cr4::PAE | if pcide { cr4::PCIDE } else { 0 };
        world.context.registers.rax = kind;
        world.host.put(KERNEL_DATA, &descriptor);
        let invpcid = [0x66, 0x0f, 0x38, 0x82, 0x07];
        match log {
            Some(log) => {
                world.next(&invpcid);
                assert_eq!(world.host.taken(), [log]);
            }
            None => world.faults(&invpcid, PROTECTION),
        }
    }
    World::user().faults(&[0x0f, 0x01, 0x3f], PROTECTION);
    World::user().faults(&[0x66, 0x0f, 0x38, 0x82, 0x07], PROTECTION);
}

#[test]
fn idling_and_caches() {
    let mut world = World::kernel();
    world.next(&[0xf4]);
    for bytes in [&[0x0f, 0x08][..], &[0x0f, 0x09], &[0xf3, 0x0f, 0x09]] {
        world.next(bytes);
        World::user().faults(bytes, PROTECTION);
    }
    assert_eq!(world.host.taken(), ["wait, IF 1", "wbinvd", "wbinvd", "wbinvd"]);
    World::user().faults(&[0xf4], PROTECTION);
}

/// Addresses: base and index, RIP, a 32-bit address, FS, an address that is not canonical. SGDT
/// writes there.
#[test]
fn addresses() {
    let mut world = World::user();
    let sgdt = [GDT << 16 | 0x9f];
    world.host.bases[0] = USER_DATA;
    world.context.registers.rbx = USER_DATA;
    world.context.registers.r9 = 0x20;
    world.next(&[0x42, 0x0f, 0x01, 0x44, 0x8b, 0x10]);
    assert_eq!(world.host.get(USER_DATA + 0x90), sgdt, "0x10(%rbx,%r9,4)");
    world.next(&[0x64, 0x0f, 0x01, 0x04, 0x25, 0, 1, 0, 0]);
    assert_eq!(world.host.get(USER_DATA + 0x100), sgdt, "%fs:0x100");
    world.context.registers.rcx = 0xffff_ffff_0000_0200;
    world.next(&[0x67, 0x64, 0x0f, 0x01, 0x01]);
    assert_eq!(world.host.get(USER_DATA + 0x200), sgdt, "%fs:(%ecx)");
    world.context.registers.rcx = 0xffff_ffff;
    world.next(&[0x67, 0x64, 0x0f, 0x01, 0x81, 0x01, 0x03, 0, 0]);
    assert_eq!(world.host.get(USER_DATA + 0x300), sgdt, "%fs:0x301(%ecx), which wraps");
    world.context.rip = USER_DATA;
    world.next(&[0x0f, 0x01, 0x05, 0xf9, 3, 0, 0]);
    assert_eq!(world.host.get(USER_DATA + 0x400), sgdt, "0x3f9(%rip)");
    world.context.rsp = USER_STACK - 0x500;
    world.next(&[0x0f, 0x01, 0x04, 0x24]);
    assert_eq!(world.host.get(USER_STACK - 0x500), sgdt, "(%rsp)");
    world.context.rsp = 1 << 47;
    world.faults(&[0x0f, 0x01, 0x04, 0x24], Exception::STACK);
    world.context.registers.rbx = 1 << 47;
    world.faults(&[0x0f, 0x01, 0x03], PROTECTION);
}

/// What CPUID hides is #UD at any level.
#[test]
fn hidden_instructions() {
    for bytes in [
        &[0x0f, 0x01, 0xca][..],
        &[0x0f, 0x01, 0xcb],
        &[0x0f, 0x01, 0xc8],
        &[0x0f, 0x01, 0xc9],
        &[0x0f, 0x01, 0xc1],
        &[0x0f, 0x01, 0xd9],
        &[0x0f, 0x01, 0xc4],
        &[0x0f, 0x01, 0xd8],
        &[0x0f, 0x01, 0xee],
        &[0x0f, 0x01, 0xef],
        &[0x0f, 0x01, 0xfa],
        &[0x0f, 0xc7, 0x2f],
        &[0x0f, 0x37],
        &[0x0f, 0xaa],
        // For a hypervisor, which is none of the guest's.
        &[0x0f, 0x0b],
    ] {
        World::kernel().faults(bytes, INVALID_OPCODE);
        World::user().faults(bytes, INVALID_OPCODE);
    }
}

#[test]
fn what_is_not_sensitive_is_not_emulated() {
    for bytes in [&[0x90][..], &[0x48, 0x89, 0xc3], &[0xf3, 0x90], &[0x0f, 0xae, 0xe8]] {
        let mut world = World::kernel();
        let before = world.context;
        assert!(row_of(&decode(bytes, 0).unwrap()).is_none());
        assert_eq!(world.execute(bytes), Ok(Flow::Unhandled), "{bytes:02x?}");
        assert_eq!(world.context, before);
    }
}

#[test]
fn bytes_that_are_no_instruction() {
    for bytes in [&[][..], &[0x0f], &[0x06], &[0x48]] {
        assert_eq!(decode(bytes, 0), None, "{bytes:02x?}");
    }
}
