//! What the guest sees of the processor.
//!
//! | dimension | values |
//! |---|---|
//! | processor | has all features; has none |
//! | leaf | each with a rule; behind the last; in the hypervisor's range; subleaves |
//! | state | CR4.OSXSAVE, CR4.TSD |
//! | instruction | CPUID, RDTSC, RDTSCP, RDPID, RDPMC |

use super::*;

/// A processor that has all there is.
pub(super) fn everything(leaf: u32, _: u32) -> CpuidResult {
    let eax = if leaf == 0x8000_0008 { 0x0030_392e } else { u32::MAX };
    CpuidResult { eax, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX }
}

/// One that has nothing.
fn nothing(_: u32, _: u32) -> CpuidResult {
    CpuidResult::default()
}

fn seen(raw: fn(u32, u32) -> CpuidResult, leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut world = World::kernel();
    world.host.cpuid = raw;
    let registers = &mut world.context.registers;
    registers.rax = u64::from(leaf) | 1 << 32;
    registers.rcx = u64::from(subleaf) | 1 << 32;
    world.next(&[0x0f, 0xa2]);
    let registers = &world.context.registers;
    [registers.rax, registers.rbx, registers.rcx, registers.rdx].map(|value| u32::try_from(value).unwrap())
}

/// Where the processor refuses CPUID, a program sees what its kernel sees, but for the length of
/// the state that is really enabled.
#[test]
fn of_a_program() {
    for (leaf, subleaf, other) in
        [(0, 0, false), (1, 0, false), (7, 0, false), (0xd, 0, true), (0xd, 1, true), (0xd, 2, false)]
    {
        let mut world = World::user();
        world.context.registers.rax = leaf;
        world.context.registers.rcx = subleaf;
        world.next(&[0x0f, 0xa2]);
        let registers = &world.context.registers;
        let [eax, ebx, ecx, edx] = seen(everything, leaf as u32, subleaf as u32).map(u64::from);
        assert_eq!([registers.rax, registers.rcx, registers.rdx], [eax, ecx, edx], "leaf {leaf:#x}");
        assert_eq!(registers.rbx, if other { u32::MAX.into() } else { ebx }, "leaf {leaf:#x}, {subleaf}");
    }
}

/// Leaf, subleaf, register (0 is EAX), bit, whether it is seen of a processor that has all.
#[test]
fn features() {
    for (name, leaf, subleaf, register, bit, shown) in [
        ("SSE3", 1, 0, 2, 0, true),
        ("MONITOR", 1, 0, 2, 3, false),
        ("VMX", 1, 0, 2, 5, false),
        ("PDCM", 1, 0, 2, 15, false),
        ("PCID", 1, 0, 2, 17, true),
        ("x2APIC", 1, 0, 2, 21, false),
        ("TSC deadline", 1, 0, 2, 24, false),
        ("XSAVE", 1, 0, 2, 26, true),
        ("OSXSAVE", 1, 0, 2, 27, false),
        ("AVX", 1, 0, 2, 28, true),
        ("hypervisor", 1, 0, 2, 31, false),
        ("FPU", 1, 0, 3, 0, true),
        ("TSC", 1, 0, 3, 4, true),
        ("MCE", 1, 0, 3, 7, false),
        ("APIC", 1, 0, 3, 9, false),
        ("MTRR", 1, 0, 3, 12, false),
        ("PGE", 1, 0, 3, 13, true),
        ("MCA", 1, 0, 3, 14, false),
        ("PAT", 1, 0, 3, 16, false),
        ("HTT", 1, 0, 3, 28, false),
        ("FSGSBASE", 7, 0, 1, 0, true),
        ("TSC_ADJUST", 7, 0, 1, 1, false),
        ("SGX", 7, 0, 1, 2, false),
        ("HLE", 7, 0, 1, 4, false),
        ("SMEP", 7, 0, 1, 7, false),
        ("ERMS", 7, 0, 1, 9, true),
        ("INVPCID", 7, 0, 1, 10, true),
        ("RTM", 7, 0, 1, 11, false),
        ("SMAP", 7, 0, 1, 20, false),
        ("UMIP", 7, 0, 2, 2, false),
        ("PKU", 7, 0, 2, 3, false),
        ("OSPKE", 7, 0, 2, 4, false),
        ("WAITPKG", 7, 0, 2, 5, false),
        ("shadow stacks", 7, 0, 2, 7, false),
        ("LA57", 7, 0, 2, 16, false),
        ("RDPID", 7, 0, 2, 22, true),
        ("ENQCMD", 7, 0, 2, 29, false),
        ("IBT", 7, 0, 3, 20, false),
        ("AMX", 7, 0, 3, 24, false),
        ("SPEC_CTRL", 7, 0, 3, 26, false),
        ("STIBP", 7, 0, 3, 27, false),
        ("ARCH_CAPABILITIES", 7, 0, 3, 29, false),
        ("SSBD", 7, 0, 3, 31, false),
        ("AVX_VNNI", 7, 1, 0, 4, true),
        ("FRED", 7, 1, 0, 17, false),
        ("LAM", 7, 1, 0, 26, false),
        ("XSAVEOPT", 0xd, 1, 0, 0, true),
        ("XSAVES", 0xd, 1, 0, 3, false),
        ("AVX state", 0xd, 0, 0, 2, true),
        ("PKRU state", 0xd, 0, 0, 9, false),
        ("SVM", 0x8000_0001, 0, 2, 2, false),
        ("TOPOEXT", 0x8000_0001, 0, 2, 22, false),
        ("MONITORX", 0x8000_0001, 0, 2, 29, false),
        ("SYSCALL", 0x8000_0001, 0, 3, 11, true),
        ("NX", 0x8000_0001, 0, 3, 20, true),
        ("1 GB pages", 0x8000_0001, 0, 3, 26, true),
        ("long mode", 0x8000_0001, 0, 3, 29, true),
        ("invariant TSC", 0x8000_0007, 0, 3, 8, true),
        ("IBPB", 0x8000_0008, 0, 1, 12, false),
        ("null selector clears base", 0x8000_0021, 0, 0, 6, true),
        ("automatic IBRS", 0x8000_0021, 0, 0, 8, false),
    ] {
        let bit_of = |raw| seen(raw, leaf, subleaf)[register] >> bit & 1 != 0;
        assert_eq!(bit_of(everything), shown, "{name}");
        let emulated = ["PCID", "INVPCID", "null selector clears base"].contains(&name);
        assert_eq!(bit_of(nothing), emulated, "{name} of a processor that has nothing");
    }
}

#[test]
fn one_cpu_without_an_apic() {
    assert_eq!(seen(everything, 1, 0)[1], 0xffff);
    assert_eq!(seen(everything, 4, 0), [0x3fff, u32::MAX, u32::MAX, u32::MAX]);
    assert_eq!(seen(everything, 0x8000_0008, 0), [0x302e, 5, 0, 0]);
}

#[test]
fn leaves_that_end_or_are_empty() {
    assert_eq!(seen(everything, 0, 0)[0], 0x16);
    assert_eq!(seen(everything, 0x8000_0000, 0)[0], 0x8000_0021);
    assert_eq!(seen(nothing, 0x8000_0000, 0), [0x8000_0021, 0, 0, 0]);
    assert_eq!(seen(nothing, 0x8000_0008, 0), [0x3024, 0, 0, 0]);
    let beyond = |leaf, _| CpuidResult {
        eax: if leaf == 0x8000_0000 { 0x8000_0008 } else { u32::MAX },
        ebx: 1,
        ..CpuidResult::default()
    };
    assert_eq!(seen(beyond, 0x8000_0019, 0), [0; 4], "a leaf that is not there");
    assert_eq!(seen(|_, _| CpuidResult { eax: 0xd, ..CpuidResult::default() }, 0, 0)[0], 0xd);
    for leaf in [
        3,
        5,
        6,
        9,
        0xa,
        0xb,
        0xf,
        0x10,
        0x12,
        0x14,
        0x19,
        0x1f,
        0x4000_0000,
        0x4000_0001,
        0x8000_000a,
        0x8000_001d,
        0x8000_001f,
        0xc000_0000,
        u32::MAX,
    ] {
        assert_eq!(seen(everything, leaf, 0), [0; 4], "{leaf:#x}");
    }
    for (leaf, subleaf, empty) in [
        (7, 0, false),
        (7, 1, false),
        (7, 2, true),
        (0xd, 2, false),
        (0xd, 3, true),
        (0xd, 7, false),
        (0xd, 9, true),
        (0xd, 64, true),
        (0xd, 66, true),
    ] {
        assert_eq!(seen(everything, leaf, subleaf) == [0; 4], empty, "{leaf:#x}.{subleaf}");
    }
}

#[test]
fn osxsave_mirrors_cr4() {
    let mut world = World::kernel();
    for (cr4, shown) in [(cr4::PAE, 0), (cr4::PAE | cr4::OSXSAVE, 1)] {
        world.cpu.set_control(Control::Cr4, cr4, &mut world.host).unwrap();
        assert_eq!(cpuid(&world.cpu, &mut world.host, 1, 0).ecx >> 27 & 1, shown);
    }
}

#[test]
fn the_time_and_the_processor() {
    let mut world = World::user();
    world.cpu.tsc_aux = 0xffff_0003;
    world.context.registers.rcx = u64::MAX;
    world.next(&[0x0f, 0x31]);
    assert_eq!([world.context.registers.rdx, world.context.registers.rax], [1, 2], "rdtsc");
    world.next(&[0x0f, 0x01, 0xf9]);
    assert_eq!(world.context.registers.rcx, 0xffff_0003, "rdtscp");
    world.next(&[0xf3, 0x0f, 0xc7, 0xfb]);
    assert_eq!(world.context.registers.rbx, 0xffff_0003, "rdpid");
    world.faults(&[0x0f, 0x33], PROTECTION);
    world.cpu.cr4 |= cr4::TSD;
    world.faults(&[0x0f, 0x31], PROTECTION);
    world.faults(&[0x0f, 0x01, 0xf9], PROTECTION);
    world.context.cs = KERNEL_CS.into();
    world.next(&[0x0f, 0x31]);
    world.faults(&[0x0f, 0x33], PROTECTION);
}
