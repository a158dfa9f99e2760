//! Control, debug and model-specific registers.
//!
//! | dimension | values |
//! |---|---|
//! | register | CR0, CR2, CR3, CR4, CR8, XCR0; DR0 to DR7; each MSR that exists, and some that do not |
//! | value | each reserved bit or range; combinations that are not legal; the same as before |
//! | processor | with and without the feature that a bit needs |
//! | instruction | MOV, LMSW, SMSW, CLTS; RDMSR, WRMSR; XGETBV, XSETBV |
//! | told to the host | a change; none |

use super::*;
use crate::x86::control::{cr0, cr4, efer, xcr0};

const OK: bool = true;
const BAD: bool = false;

/// Whether a register takes a value, starting from a state in the kernel.
fn takes(register: Control, value: u64, prepare: fn(&mut VirtualCpu)) -> (World, bool) {
    let mut world = World::kernel();
    prepare(&mut world.cpu);
    let result = world.cpu.set_control(register, value, &mut world.host);
    assert!(result.is_ok() || result == Err(PROTECTION));
    let taken = result.is_ok();
    (world, taken)
}

#[test]
fn legal_values_of_cr0() {
    let on = cr0::PE | cr0::PG;
    for (value, legal, becomes) in [
        (on, OK, on | cr0::ET),
        (on | cr0::WP | cr0::TS | 1 << 6, OK, on | cr0::ET | cr0::WP | cr0::TS),
        (on | cr0::CD | cr0::NW, OK, on | cr0::ET | cr0::CD | cr0::NW),
        (on | cr0::NW, BAD, 0),
        (on | 1 << 32, BAD, 0),
        (cr0::PG, BAD, 0),
        (cr0::PE, BAD, 0),
    ] {
        let (mut world, taken) = takes(Control::Cr0, value, |_| {});
        assert_eq!(taken, legal, "{value:#x}");
        assert_eq!(world.cpu.cr0, if legal { becomes } else { 0x8000_0031 }, "{value:#x}");
        assert_eq!(world.host.taken(), if legal { &["Cr0 was 0x80000031"][..] } else { &[] });
    }
}

#[test]
fn legal_values_of_cr3() {
    let pcide = |cpu: &mut VirtualCpu| cpu.cr4 |= cr4::PCIDE;
    for (value, prepare, log) in [
        (0x1000, (|_| {}) as fn(&mut VirtualCpu), Some("root 0x1000, keep false")),
        (0x1018, |_| {}, Some("root 0x1018, keep false")),
        (1 << 63, |_| {}, None),
        (1 << 46, |_| {}, None),
        (1 << 45, |_| {}, Some("root 0x200000000000, keep false")),
        (1 << 63 | 0x1007, pcide, Some("root 0x1007, keep true")),
        (0x1007, pcide, Some("root 0x1007, keep false")),
        (1 << 62, pcide, None),
    ] {
        let mut world = World::kernel();
        prepare(&mut world.cpu);
        let result = world.cpu.set_control(Control::Cr3, value, &mut world.host);
        assert_eq!(result.is_ok(), log.is_some(), "{value:#x}");
        assert_eq!(world.host.taken(), log.as_slice(), "{value:#x}");
        assert_eq!(world.cpu.cr3, if log.is_some() { value & !(1 << 63) } else { 0 });
    }
}

#[test]
fn legal_values_of_cr4_and_cr8() {
    let none = |_: &mut VirtualCpu| {};
    let pcid = |cpu: &mut VirtualCpu| cpu.cr3 = 0x1001;
    for (register, value, prepare, legal) in [
        (Control::Cr4, cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::OSXSAVE, none as fn(&mut VirtualCpu), OK),
        (Control::Cr4, cr4::PAE | cr4::PCIDE, pcid, BAD),
        (Control::Cr4, cr4::PAE | cr4::PGE, pcid, OK),
        (Control::Cr4, cr4::PGE, none, BAD),
        (Control::Cr4, cr4::PAE | 1 << 0, none, BAD),
        (Control::Cr4, cr4::PAE | 1 << 6, none, BAD),
        (Control::Cr4, cr4::PAE | 1 << 12, none, BAD),
        (Control::Cr4, cr4::PAE | 1 << 20, none, BAD),
        (Control::Cr4, cr4::PAE | 1 << 21, none, BAD),
        (Control::Cr4, cr4::PAE | 1 << 63, none, BAD),
        (Control::Cr8, 15, none, OK),
        (Control::Cr8, 16, none, BAD),
        (Control::Cr2, u64::MAX, none, OK),
    ] {
        let (world, taken) = takes(register, value, prepare);
        assert_eq!(taken, legal, "{register:?} {value:#x}");
        assert_eq!(world.cpu.control(register) == value, legal, "{register:?} {value:#x}");
    }
}

#[test]
fn what_does_not_change_is_not_announced() {
    let (mut world, _) = takes(Control::Cr4, cr4::PAE, |_| {});
    assert!(world.host.taken().is_empty());
    let (mut world, _) = takes(Control::Cr4, cr4::PAE | cr4::PGE, |_| {});
    assert_eq!(world.host.taken(), ["Cr4 was 0x20"]);
}

#[test]
fn limits_follow_the_processor() {
    let mut host = Fake::new();
    let all = Limits::of(&mut host);
    let expected = cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    assert_eq!(all.cr4, expected | cr4::PCIDE | cr4::FSGSBASE | cr4::OSXSAVE);
    assert_eq!((all.xcr0, all.efer), (xcr0::ALL, efer::SCE | efer::LME | efer::LMA | efer::NXE));
    host.cpuid = |_, _| CpuidResult::default();
    let none = Limits::of(&mut host);
    assert_eq!(none, Limits { cr4: cr4::PCE | cr4::PCIDE, efer: 0x501, xcr0: 0, physical_bits: 36 });
}

/// `mov %cr, %rax`, `mov %rax, %cr` for each number.
#[test]
fn moves_of_control_registers() {
    let mut world = World::kernel();
    world.cpu.cr2 = 0x1234;
    world.next(&[0x0f, 0x20, 0xd0]);
    assert_eq!(world.context.registers.rax, 0x1234);
    world.context.registers.rax = 0x5678;
    world.next(&[0x0f, 0x22, 0xd0]);
    assert_eq!(world.cpu.cr2, 0x5678);
    world.context.registers.r9 = 7;
    world.next(&[0x45, 0x0f, 0x22, 0xc1]);
    assert_eq!(world.cpu.cr8, 7, "mov %r9, %cr8");
    assert_eq!(world.host.taken(), ["Cr8 was 0x0"]);
    world.context.rsp = 3 << 60;
    world.faults(&[0x0f, 0x22, 0xdc], PROTECTION);
    let mut user = World::user();
    user.faults(&[0x0f, 0x20, 0xd0], PROTECTION);
    user.faults(&[0x0f, 0x22, 0xd0], PROTECTION);
}

#[test]
fn machine_status() {
    let mut world = World::kernel();
    world.context.registers.rax = u64::MAX;
    world.next(&[0x0f, 0x01, 0xe0]);
    assert_eq!(world.context.registers.rax, 0x8000_0031, "smsw %eax");
    world.context.registers.rax = u64::MAX;
    world.next(&[0x66, 0x0f, 0x01, 0xe0]);
    assert_eq!(world.context.registers.rax, 0xffff_ffff_ffff_0031, "smsw %ax");
    world.context.registers.rdi = KERNEL_DATA;
    world.host.put(KERNEL_DATA, &[u64::MAX]);
    world.next(&[0x0f, 0x01, 0x27]);
    assert_eq!(world.host.get(KERNEL_DATA), [0xffff_ffff_ffff_0031], "smsw (%rdi)");

    world.context.registers.rax = 0xfffe;
    world.next(&[0x0f, 0x01, 0xf0]);
    assert_eq!(world.cpu.cr0, 0x8000_003f, "lmsw %ax leaves PE set");
    world.next(&[0x0f, 0x06]);
    assert_eq!(world.cpu.cr0, 0x8000_0037, "clts");
    assert_eq!(world.host.taken(), ["Cr0 was 0x80000031", "Cr0 was 0x8000003f"]);

    let mut user = World::user();
    user.next(&[0x0f, 0x01, 0xe0]);
    user.faults(&[0x0f, 0x01, 0xf0], PROTECTION);
    user.faults(&[0x0f, 0x06], PROTECTION);
}

/// `mov %dr, %rax`, `mov %rax, %dr`.
#[test]
fn debug_registers() {
    let mut world = World::kernel();
    world.context.registers.rax = 0x400;
    world.next(&[0x0f, 0x23, 0xf8]);
    world.next(&[0x0f, 0x23, 0xe8]);
    assert_eq!(world.host.debug[7], 0x400, "DR5 is DR7");
    for (written, status, control) in
        [(0, 0xffff_0ff0, 0x400), (0xffff_ffff, 0xffff_efff, 0), (0x5c01, 0xffff_4ff1, 0x401)]
    {
        world.context.registers.rax = written;
        world.next(&[0x0f, 0x23, 0xf0]);
        assert_eq!(world.host.debug[6], status, "DR6 after {written:#x}");
        if written == 0xffff_ffff {
            continue; // With GD the next access is #DB.
        }
        world.next(&[0x0f, 0x23, 0xf8]);
        assert_eq!(world.host.debug[7], control, "DR7 after {written:#x}");
    }
    world.context.registers.rax = 0;
    world.next(&[0x0f, 0x23, 0xf8]);
    world.next(&[0x0f, 0x23, 0xf0]);
    world.next(&[0x0f, 0x21, 0xe0]);
    assert_eq!(world.context.registers.rax, 0xffff_0ff0, "DR4 is DR6");
    world.context.registers.rax = 1 << 32;
    world.faults(&[0x0f, 0x23, 0xf8], PROTECTION);
    world.faults(&[0x0f, 0x23, 0xf0], PROTECTION);
    world.next(&[0x0f, 0x23, 0xd8]);
    assert_eq!(world.host.debug[3], 1 << 32);
    world.context.registers.rax = 0xbad;
    world.faults(&[0x0f, 0x23, 0xc0], PROTECTION);

    world.host.debug[7] |= 1 << 13;
    world.faults(&[0x0f, 0x21, 0xc0], Exception::DEBUG);
    assert_eq!((world.host.debug[6], world.host.debug[7]), (0xffff_2ff0, 0x400), "BD set, GD clear");
    world.cpu.cr4 |= cr4::DE;
    world.faults(&[0x0f, 0x21, 0xe0], INVALID_OPCODE);
    World::user().faults(&[0x0f, 0x21, 0xc0], PROTECTION);
}

/// Number, value, whether it can be written, what is then read.
#[test]
fn model_specific_registers() {
    let kernel = 0xffff_8000_0000_0000;
    for (number, value, legal, read) in [
        (0xc000_0080, 0xd01, OK, Some(0xd01)),
        (0xc000_0080, 0x901, OK, Some(0xd01)),
        (0xc000_0080, 0x401, BAD, Some(0x501)),
        (0xc000_0080, 0x1_0501, BAD, Some(0x501)),
        (0xc000_0080, 0x1501, BAD, Some(0x501)),
        (0xc000_0081, u64::MAX, OK, Some(u64::MAX)),
        (0xc000_0082, kernel, OK, Some(kernel)),
        (0xc000_0082, 1 << 47, BAD, Some(0)),
        (0xc000_0083, kernel, OK, Some(kernel)),
        (0xc000_0084, u64::MAX, OK, Some(0xffff_ffff)),
        (0xc000_0100, kernel, OK, Some(kernel)),
        (0xc000_0100, 1 << 63, BAD, Some(0x1000_0000)),
        (0xc000_0101, 1 << 46, OK, Some(1 << 46)),
        (0xc000_0102, kernel, OK, Some(kernel)),
        (0xc000_0103, 0xffff_ffff, OK, Some(0xffff_ffff)),
        (0xc000_0103, 1 << 32, BAD, Some(0)),
        (0x174, 0x10, OK, Some(0x10)),
        (0x175, kernel, OK, Some(kernel)),
        (0x176, kernel, OK, Some(kernel)),
        (0x176, 1 << 50, BAD, Some(0)),
        (0x277, 0x0407_0506_0007_0106, OK, Some(0x0407_0506_0007_0106)),
        (0x277, 0x0207_0506_0007_0106, BAD, Some(msr::PAT_AT_RESET)),
        (0x277, 0x0800_0000_0000_0000, BAD, Some(msr::PAT_AT_RESET)),
        (0x1b, 0xfee0_0100, OK, Some(0xfee0_0100)),
        (0x1b, 0xfee0_0900, BAD, Some(0xfee0_0100)),
        (0x10, 0, OK, Some(0x1_0000_0002)),
        (0x1a0, 0, OK, Some(0)),
        (0x1d9, 2, OK, Some(0)),
        (0x1d9, 4, BAD, Some(0)),
        (0x17, 1, BAD, Some(0)),
        (0x8b, 0, OK, Some(0)),
        (0xc001_0010, 0, OK, Some(0)),
        (0xc001_0015, 0, OK, Some(1 << 24)),
        (0xc001_001a, 0, OK, Some(0)),
        (0xc001_001d, 0, OK, Some(0)),
        (0xfe, 0, BAD, None),
        (0x48, 0, BAD, None),
        (0x179, 0, BAD, None),
        (0xda0, 0, BAD, None),
    ] {
        let mut world = World::kernel();
        let registers = &mut world.context.registers;
        // The upper halves do not count.
        registers.rcx = number | 1 << 40;
        registers.rax = value | 0xff << 32;
        registers.rdx = value >> 32 | 0xff << 32;
        if legal {
            world.next(&[0x0f, 0x30]);
        } else {
            world.faults(&[0x0f, 0x30], PROTECTION);
        }
        match read {
            Some(read) => {
                world.next(&[0x0f, 0x32]);
                let registers = world.context.registers;
                assert_eq!([registers.rax, registers.rdx], [read & 0xffff_ffff, read >> 32], "{number:#x}");
            }
            None => world.faults(&[0x0f, 0x32], PROTECTION),
        }
    }
    World::user().faults(&[0x0f, 0x30], PROTECTION);
    World::user().faults(&[0x0f, 0x32], PROTECTION);
}

#[test]
fn extended_control() {
    let mut world = World::kernel();
    world.faults(&[0x0f, 0x01, 0xd0], INVALID_OPCODE);
    world.faults(&[0x0f, 0x01, 0xd1], INVALID_OPCODE);
    world.cpu.cr4 |= cr4::OSXSAVE;
    for (value, legal) in [
        (1, OK),
        (3, OK),
        (7, OK),
        (0xe7, OK),
        (5, BAD),
        (2, BAD),
        (0, BAD),
        (0x67, BAD),
        (0xe3, BAD),
        (0x207, BAD),
        (0x1f, BAD),
    ] {
        world.context.registers.rax = value;
        if legal {
            world.next(&[0x0f, 0x01, 0xd1]);
            assert_eq!(world.host.taken(), [format!("xcr0 {value:#x}")]);
            world.next(&[0x0f, 0x01, 0xd0]);
            assert_eq!(world.context.registers.rax, value);
        } else {
            world.faults(&[0x0f, 0x01, 0xd1], PROTECTION);
        }
    }
    world.context.registers.rcx = 1;
    world.faults(&[0x0f, 0x01, 0xd1], PROTECTION);
    world.next(&[0x0f, 0x01, 0xd0]);
    world.context.registers.rcx = 2;
    world.faults(&[0x0f, 0x01, 0xd0], PROTECTION);
    world.context.cs = USER_CS.into();
    world.context.registers.rcx = 0;
    world.next(&[0x0f, 0x01, 0xd0]);
    world.faults(&[0x0f, 0x01, 0xd1], PROTECTION);
}
