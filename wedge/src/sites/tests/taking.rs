//! What slots and stubs hold after a rewriting.

use iced_x86::{Code, FlowControl, Mnemonic, Register};
use proptest::prelude::*;

use super::*;
use crate::vm::port::PORT;

fn flags() -> impl Strategy<Value = Flags> {
    let flags = [Flags::empty(), Flags::NO_STACK, Flags::COPIED, Flags::EXTABLE, Flags::HEAD, Flags::INIT];
    prop::sample::select(flags.to_vec())
}

pub(super) fn planned() -> impl Strategy<Value = Planned> {
    let live = prop::sample::select(std::vec![LiveFlags::all(), LiveFlags::empty(), LiveFlags::DF, LiveFlags::ZF]);
    (prop::sample::select(PATTERNS), flags(), live).prop_map(|(bytes, flags, live)| Planned::new(bytes, flags, live))
}

/// Follows what decides whether the wedge is called. Returns where that branches to, and whether
/// RCX is on the stack there.
fn filter(kernel: &Kernel, number: usize, entry: &Site, next: &mut dyn FnMut() -> Instruction) -> Option<(u64, bool)> {
    if entry.hook() == Some(Hook::Port) {
        let first = next();
        if first.mnemonic() == Mnemonic::Cmp {
            assert_eq!((first.op0_register(), first.immediate16()), (Register::DX, PORT));
            return Some((next().near_branch_target(), false));
        }
        assert_eq!(first.mnemonic(), Mnemonic::Push);
        assert_eq!(next().code(), Code::Movzx_r32_rm16);
        assert_eq!(next().memory_displacement32(), u32::from(PORT).wrapping_neg());
    } else {
        entry.base_of_invlpg().filter(|_| entry.hook() == Some(Hook::Flush))?;
        if kernel.engine.mode() == Mode::Profile {
            return None;
        }
        assert_eq!(next().mnemonic(), Mnemonic::Push);
        let moved = next();
        let base = decode(kernel.original_slot(number), TEXT)[0].memory_base();
        assert_eq!((moved.mnemonic(), moved.memory_base()), (Mnemonic::Lea, base));
        assert_eq!((moved.op0_register(), moved.memory_displacement64()), (Register::RCX, 0x100_0000));
        assert_eq!([next().mnemonic(), next().mnemonic()], [Mnemonic::Not, Mnemonic::Bswap]);
    }
    let branch = next();
    assert_eq!(branch.mnemonic(), Mnemonic::Jecxz);
    assert_eq!(next().mnemonic(), Mnemonic::Pop);
    Some((branch.near_branch_target(), true))
}

/// What a stub is expected to be, in this order.
fn follow(kernel: &Kernel, number: usize, index: usize, entry: &Site) {
    let site = &kernel.sites[number];
    let base = STUBS + (STUB_SIZE * index) as u64;
    let stub = kernel.engine.stub(index);
    let mut at = 0;
    let mut next = || {
        let instruction = Decoder::with_ip(64, &stub[at..], base + at as u64, DecoderOptions::NONE).decode();
        at += instruction.len();
        instruction
    };
    let mnemonics = |next: &mut dyn FnMut() -> Instruction, expected: &[Mnemonic]| {
        for mnemonic in expected {
            assert_eq!(next().mnemonic(), *mnemonic, "{:?} {stub:02x?}", site.class);
        }
    };
    let slow = filter(kernel, number, entry, &mut next);
    if kernel.engine.mode() == Mode::Profile {
        let preserve = {
            // The flags that matter are those in front of the original.
            let flags_lost = [Class::Popf, Class::PushPopf, Class::Iret, Class::Sysret].contains(&site.class);
            let flags_read = [Class::Pushf, Class::PushfPop].contains(&site.class);
            let dead = LiveFlags::DF.contains(site.liveness.flags) && !site.flags.contains(Flags::EXTABLE);
            !flags_lost && (flags_read || !dead)
        };
        if preserve {
            mnemonics(&mut next, &[Mnemonic::Push, Mnemonic::Lahf, Mnemonic::Seto]);
        }
        let count = next();
        assert_eq!((count.code(), count.has_lock_prefix()), (Code::Inc_rm64, true));
        assert_eq!(count.ip_rel_memory_address(), COUNTERS + 8 * index as u64);
        if preserve {
            mnemonics(&mut next, &[Mnemonic::Add, Mnemonic::Sahf, Mnemonic::Pop]);
        }
    }
    match entry.hook() {
        Some(Hook::Flush) if slow.is_none() => assert_eq!(next().near_branch_target(), HOOKS.flush),
        Some(Hook::Fault) => assert_eq!(next().near_branch_target(), HOOKS.fault),
        Some(Hook::Port | Hook::Flush | Hook::Descriptor | Hook::Return) | None => {}
    }
    let original = kernel.original_slot(number);
    for expected in decode(&original[..site.length.into()], site.address) {
        let found = next();
        assert_eq!((found.code(), found.len()), (expected.code(), expected.len()));
        if expected.is_ip_rel_memory_operand() {
            assert_eq!(found.ip_rel_memory_address(), expected.ip_rel_memory_address());
        }
        let presented = kernel.engine.site_of(found.ip());
        assert_eq!(presented, Some(Presented::At(expected.ip())), "an exception is presented at the site");
    }
    if entry.hook() == Some(Hook::Descriptor) {
        assert_eq!(next().near_branch_target(), HOOKS.descriptor);
    }
    let leaves = [Class::Iret, Class::Lret, Class::Ljmp, Class::Sysret].contains(&site.class);
    let back = site.address + u64::from(site.slot);
    let end = |next: &mut dyn FnMut() -> Instruction| {
        let last = next();
        if leaves {
            assert_eq!(last.mnemonic(), Mnemonic::Int3);
        } else {
            assert_eq!((last.flow_control(), last.near_branch_target()), (FlowControl::UnconditionalBranch, back));
            assert_eq!(kernel.engine.site_of(last.ip()), Some(Presented::At(back)));
        }
        last.next_ip()
    };
    let behind = end(&mut next);
    if let Some((target, pushed)) = slow {
        assert_eq!(target, behind);
        if pushed {
            assert_eq!(next().mnemonic(), Mnemonic::Pop);
        }
        let call = next().near_branch_target();
        if entry.hook() == Some(Hook::Flush) {
            assert_eq!(call, HOOKS.flush);
            let again = next();
            assert_eq!(again.flow_control(), FlowControl::UnconditionalBranch);
            assert_eq!(kernel.engine.site_of(again.near_branch_target()), Some(Presented::At(site.address)));
        } else {
            assert_eq!(call, HOOKS.port);
            end(&mut next);
        }
    }
}

proptest! {
    #[test]
    fn a_stub_executes_the_original_and_goes_back(
        planned in prop::collection::vec(planned(), 1..60),
        mode in prop::sample::select(&[Mode::Identity, Mode::Profile][..]),
    ) {
        let kernel = Kernel::new(mode, &planned);
        prop_assert_eq!(kernel.summary.sites() as usize, planned.len());
        for number in 0..planned.len() {
            let Some((index, entry)) = kernel.entry(number) else {
                prop_assert_eq!(kernel.slot(number), kernel.original_slot(number));
                continue;
            };
            prop_assert_eq!(entry.form(), Form::Jump);
            let slot = decode(kernel.slot(number), entry.address());
            prop_assert_eq!(slot[0].code(), Code::Jmp_rel32_64);
            prop_assert_eq!(slot[0].near_branch_target(), STUBS + (STUB_SIZE * index) as u64);
            prop_assert!(slot[1..].iter().all(|instruction| instruction.mnemonic() == Mnemonic::Nop));
            follow(&kernel, number, index, entry);
        }
    }

    #[test]
    fn native_mode_fuses_all_but_the_hooked(planned in prop::collection::vec(planned(), 1..60)) {
        let kernel = Kernel::new(Mode::Native, &planned);
        for number in 0..planned.len() {
            match kernel.entry(number) {
                Some((_, entry)) if entry.form() == Form::Fused => {
                    let behind = &kernel.original_slot(number)[usize::from(entry.length())..];
                    prop_assert!(behind.is_empty() || !kernel.slot(number).ends_with(behind));
                }
                Some((index, entry)) => {
                    prop_assert!(matches!(entry.hook(), Some(Hook::Port | Hook::Flush | Hook::Descriptor)));
                    follow(&kernel, number, index, entry);
                }
                None => prop_assert!(matches!(kernel.sites[number].class, Class::Vmcall | Class::Vmmcall)),
            }
        }
    }
}

#[test]
fn a_site_that_cannot_be_taken_is_left_for_a_reason() {
    use Mode::{Identity, Native, Profile};
    let (none, all) = (Flags::empty(), LiveFlags::all());
    let long: &[u8] = &[0x66, 0x0f, 0x38, 0x82, 0x84, 0x24, 1, 0, 0, 0];
    for (mode, bytes, flags, live, reason) in [
        (Identity, &[0x9c][..], Flags::COPIED, all, Left::Copied),
        (Identity, &[0x0f, 0x22, 0xd8], Flags::HEAD, all, Left::AddressSpace),
        (Profile, &[0x0f, 0x01, 0xf8], Flags::NO_STACK, all, Left::NoPlaceToCount),
        (Profile, &[0x9c, 0x58], Flags::NO_STACK, LiveFlags::empty(), Left::NoPlaceToCount),
        (Identity, &[0x0f, 0x31], Flags::REPLACEMENT, all, Left::LongReplacement),
        (Native, &[0x0f, 0x31], Flags::REPLACEMENT, all, Left::LongReplacement),
        (Native, &[0x0f, 0x01, 0xc1], none, all, Left::Hypercall),
        (Identity, &[0x0f, 0x20, 0xc0], Flags::CODE32, all, Left::Code32),
        (Identity, &[0x0f, 0x20, 0xc0], Flags::SWITCHED_OFF, all, Left::SwitchedOff),
        (Native, long, none, all, Left::TooLong),
    ] {
        let mut planned = Planned::new(bytes, flags, live);
        planned.slot = match reason {
            Left::Code32 | Left::SwitchedOff => 3,
            Left::TooLong => 17,
            _ => planned.slot,
        };
        let kernel = Kernel::new(mode, &[planned]);
        assert_eq!(kernel.summary.left().collect::<Vec<_>>(), [(reason, 1)], "{reason}");
        assert_eq!((kernel.summary.rewritten(), &kernel.text), (0, &kernel.original));
    }
    let whole = |_| Applied::Whole(0);
    for (bytes, flags) in [(&[0x0f, 0x22, 0xe4][..], none), (&[0x0f, 0x01, 0xca], Flags::NO_STACK), (&[0x9c], none)] {
        let planned = Planned::new(bytes, flags | Flags::REPLACEMENT, all);
        let kernel = Kernel::with_copies(Identity, &[planned], 0, whole);
        assert_eq!(kernel.summary.left().collect::<Vec<_>>(), [(Left::ReplacementUsesStack, 1)]);
    }
}

#[test]
fn sites_without_a_stub_are_left() {
    let cli = Planned::new(&[0xfa], Flags::empty(), LiveFlags::all());
    let kernel = Kernel::new(Mode::Identity, &std::vec![cli; 20]);
    assert_eq!(kernel.summary.rewritten(), 20);
    let mut engine = engine(Mode::Identity, 12);
    let mut text = kernel.original.clone();
    let table = table(&kernel.sites);
    let table = SiteTable::new(&table, TEXT).unwrap();
    let summary =
        engine.rewrite(&table, |_| Applied::Somewhere, &mut Piece { bytes: &mut text, address: TEXT }).unwrap();
    assert_eq!((summary.rewritten(), summary.left().next()), (12, Some((Left::NoStub, 8))));
    assert!(text.ends_with(&kernel.original[12 * 8..]));
}

#[test]
fn what_is_out_of_reach_is_left() {
    let mut engine = engine(Mode::Identity, 4);
    let cli = Planned::new(&[0xfa], Flags::empty(), LiveFlags::all());
    let mut text = cli.padded();
    let far = TEXT - (3 << 30);
    let taken = engine.add(&cli.at(far), &mut Piece { bytes: &mut text, address: far });
    assert_eq!((taken, text), (Ok(Err(Left::OutOfReach)), cli.padded()));
}

#[test]
fn modes_and_reasons_have_names() {
    for mode in Mode::ALL {
        assert_eq!(Mode::from_name(mode.name()), Some(mode));
    }
    assert_eq!(Mode::from_name("fast"), None);
    for (number, left) in Left::ALL.into_iter().enumerate() {
        assert_eq!(left as usize, number);
        assert!(!left.reason().is_empty());
    }
}

#[test]
fn what_a_site_flushes_is_read_from_its_operands() {
    let contexts = |kind, base, displacement| Some(Flush::Contexts { kind, base, displacement });
    let cases: [(&[u8], Option<Flush>); 14] = [
        (&[0x0f, 0x01, 0x3f], Some(Flush::Page { base: 7 })), // invlpg (%rdi)
        (&[0x41, 0x0f, 0x01, 0x38], Some(Flush::Page { base: 8 })), // invlpg (%r8)
        (&[0x0f, 0x01, 0x7f, 0x08], None),                    // invlpg 8(%rdi)
        (&[0x0f, 0x01, 0x3c, 0x24], None),                    // invlpg (%rsp)
        (&[0x0f, 0x22, 0xe0], Some(Flush::Control { value: 0 })), // mov %rax, %cr4
        (&[0x41, 0x0f, 0x22, 0xe1], Some(Flush::Control { value: 9 })), // mov %r9, %cr4
        (&[0x0f, 0x22, 0xd8], None),                          // mov %rax, %cr3
        (&[0x66, 0x0f, 0x38, 0x82, 0x04, 0x24], contexts(0, 4, 0)), // invpcid (%rsp), %rax
        (&[0x66, 0x0f, 0x38, 0x82, 0x5d, 0xf0], contexts(3, 5, -16)), // invpcid -16(%rbp), %rbx
        (&[0x66, 0x45, 0x0f, 0x38, 0x82, 0x4c, 0x24, 0x08], contexts(9, 12, 8)), // invpcid 8(%r12), %r9
        (&[0x66, 0x0f, 0x38, 0x82, 0x87, 0, 1, 0, 0], contexts(0, 7, 256)), // invpcid 256(%rdi), %rax
        (&[0x66, 0x0f, 0x38, 0x82, 0x04, 0x0c], None),        // invpcid (%rsp,%rcx), %rax
        (&[0x66, 0x0f, 0x38, 0x82, 0x05, 0, 1, 0, 0], None),  // invpcid 256(%rip), %rax
        (&[0xfa], None),
    ];
    let planned: Vec<_> =
        cases.iter().map(|(bytes, _)| Planned::new(bytes, Flags::empty(), LiveFlags::all())).collect();
    let kernel = Kernel::new(Mode::Native, &planned);
    let found: Vec<_> = kernel.engine.sites().map(|(_, entry)| entry.flush()).collect();
    assert_eq!(found, cases.map(|(_, flush)| flush));
}
