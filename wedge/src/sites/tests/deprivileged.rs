//! What deprivileged mode makes of each class of site.

use std::slice;
use std::vec;

use proptest::prelude::*;

use super::taking::planned;
use super::*;

/// What becomes of a site of a class, in each place where one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Stays,
    /// It has a template that one instruction is enough for, or one of several.
    Short,
    Long,
    /// It is emulated.
    Emulated,
}
use Fate::{Emulated, Long, Short, Stays};

#[rustfmt::skip]
fn fate(class: Class) -> Fate {
    match class {
        Class::Cli | Class::Swapgs | Class::MovFromCr | Class::Sysret => Short,
        Class::Sti | Class::Pushf | Class::PushfPop | Class::Popf | Class::PushPopf | Class::Iret => Long,
        Class::Hlt | Class::StiHlt | Class::StiMwait | Class::ForcedEmulation
        | Class::MovToCr | Class::MovFromDr | Class::MovToDr | Class::Clts | Class::Smsw | Class::Lmsw | Class::Xsetbv
        | Class::MovToSeg | Class::PopSeg | Class::Lss | Class::Lfs | Class::Lgs
        | Class::Sgdt | Class::Sidt | Class::Sldt | Class::Str | Class::Lgdt | Class::Lidt | Class::Lldt | Class::Ltr
        | Class::Lar | Class::Lsl | Class::Verr | Class::Rdgsbase | Class::Wrgsbase
        | Class::Int | Class::Int1 | Class::Lret | Class::Ljmp | Class::Lcall
        | Class::Syscall | Class::Sysenter | Class::Sysexit
        | Class::In | Class::Out | Class::Ins | Class::Outs
        | Class::Rdmsr | Class::Wrmsr | Class::Cpuid | Class::Rdpmc | Class::Rdpid
        | Class::Invlpg | Class::Invpcid | Class::Invd | Class::Wbinvd | Class::Wbnoinvd => Emulated,
        // All others, or all but some forms of them.
        _ => Stays,
    }
}

/// One encoding of each class that is not among the patterns.
const OTHERS: &[&[u8]] = &[
    &[0xf3, 0x0f, 0x01, 0xee],
    &[0xf3, 0x0f, 0x01, 0xef],
    &[0x0f, 0x01, 0xfb],
    &[0xf3, 0x0f, 0xae, 0xf0],
    &[0xf2, 0x0f, 0xae, 0xf0],
    &[0x0f, 0x06],
    &[0x0f, 0x01, 0xe0],
    &[0x0f, 0x01, 0xf0],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0xa0],
    &[0x0f, 0xa1],
    &[0x0f, 0xb2, 0x00],
    &[0x0f, 0xb4, 0x00],
    &[0x0f, 0xb5, 0x00],
    &[0x0f, 0x00, 0xe0],
    &[0xf3, 0x48, 0x0f, 0xae, 0xc8],
    &[0xf3, 0x48, 0x0f, 0xae, 0xd8],
    &[0xcd, 0x80],
    &[0xcc],
    &[0xf1],
    &[0xff, 0x18],
    &[0x0f, 0x05],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0xf3, 0x0f, 0x01, 0xec],
    &[0x0f, 0xaa],
    &[0x0f, 0x01, 0xfd],
    &[0xf3, 0x0f, 0xc7, 0xf8],
    &[0x0f, 0x01, 0xc5],
    &[0xf3, 0x0f, 0xc7, 0xf0],
    &[0x0f, 0x08],
    &[0xf3, 0x0f, 0x09],
    &[0x0f, 0x01, 0xdf],
    &[0x0f, 0x01, 0xfe],
    &[0x0f, 0x01, 0xff],
    &[0xf3, 0x0f, 0x01, 0xe8],
    &[0x0f, 0x01, 0xcf],
    &[0x0f, 0x01, 0xc0],
    &[0x0f, 0x37],
    &[0x0f, 0x01, 0xd4],
    &[0x0f, 0x01, 0xc2],
    &[0x0f, 0x01, 0xd8],
    XEN_CPUID,
];

/// `ud2; .ascii "xen"; cpuid`
const XEN_CPUID: &[u8] = &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];

fn form(planned: &Planned) -> Result<Form, Left> {
    let kernel = Kernel::new(Mode::Deprivileged, slice::from_ref(planned));
    match kernel.entry(0) {
        Some((_, entry)) => Ok(entry.form()),
        None => Err(kernel.summary.left().next().unwrap().0),
    }
}

#[test]
fn every_class_has_its_form() {
    let all = LiveFlags::all();
    for bytes in PATTERNS.iter().chain(OTHERS) {
        let plan = |slot: u8, flags| Planned {
            slot: slot.max(u8::try_from(bytes.len()).unwrap()),
            ..Planned::new(bytes, flags, all)
        };
        let class = plan(5, Flags::empty()).class();
        let expected = match fate(class) {
            Stays if matches!(class, Class::Vmcall | Class::Vmmcall) => [Err(Left::Hypercall); 4],
            Stays => [Ok(Form::Fused); 4],
            Short => [Ok(Form::Jump), Ok(Form::Inline), Ok(Form::Trap), Err(Left::Copied)],
            Long | Emulated => [Ok(Form::Jump), Ok(Form::Jump), Ok(Form::Trap), Err(Left::Copied)],
        };
        let short = if class == Class::Sysret { Ok(Form::Inline) } else { expected[0] };
        let found = [(5, Flags::empty()), (8, Flags::NO_STACK), (5, Flags::HEAD), (5, Flags::COPIED)];
        let found = found.map(|(slot, flags)| form(&plan(slot, flags)));
        assert_eq!(found, [short, expected[1], expected[2], expected[3]], "{class} {bytes:02x?}");
    }
}

#[test]
fn a_single_instruction_without_a_pad_becomes_a_breakpoint() {
    for (flags, left) in [(Flags::COUNTED, Left::Counted), (Flags::SHADOW, Left::Shadow)] {
        for (bytes, expected) in [
            (&[0x9d][..], Ok(Form::Trap)),
            (&[0x9c], Ok(Form::Trap)),
            (&[0xfb], Ok(Form::Trap)),
            (&[0x0f, 0x01, 0x00], Ok(Form::Trap)),
            // A sequence, and what does the same in every ring.
            (&[0x9c, 0x58], Err(left)),
            (&[0x0f, 0x31], Err(left)),
        ] {
            let slot = u8::try_from(bytes.len()).unwrap();
            let plan = |flags| Planned { slot, ..Planned::new(bytes, flags, LiveFlags::all()) };
            assert_eq!(form(&plan(flags)), expected, "{bytes:02x?}");
            assert!(form(&plan(flags | Flags::NO_STACK)).is_err(), "{bytes:02x?}");
            assert!(form(&plan(flags | Flags::COPIED)).is_err(), "{bytes:02x?}");
        }
    }
}

#[test]
fn what_a_hypervisor_is_to_emulate_stays_but_in_virtual_mode() {
    for mode in Mode::ALL {
        let kernel = Kernel::new(mode, &[Planned::new(XEN_CPUID, Flags::empty(), LiveFlags::all())]);
        let left: Vec<_> = kernel.summary.left().collect();
        assert_eq!((kernel.text, &left[..]), (kernel.original, &[(Left::ForcedEmulation, 1)][..]), "{mode}");
    }
    // Without a branch to the letters, there is nothing to count.
    let counted = Planned::new(XEN_CPUID, Flags::COUNTED, LiveFlags::all());
    assert_eq!(form(&counted), Ok(Form::Trap));
}

#[test]
fn every_class_is_asked_for_or_needs_no_test() {
    let shown: Vec<_> = PATTERNS.iter().chain(OTHERS).map(|bytes| class_of(bytes)).collect();
    for class in Class::ALL.iter().filter(|class| !shown.contains(class)) {
        // What no kernel has and few assemblers know stays.
        assert_eq!(fate(*class), Stays, "{class}");
    }
}

#[test]
fn some_forms_of_a_class_are_different() {
    for (bytes, expected) in [
        // mov from ES, CS, SS, DS, FS, GS; with prefixes; to memory
        (&[0x8c, 0xc0][..], Form::Fused),
        (&[0x8c, 0xc8], Form::Inline),
        (&[0x8c, 0xd0], Form::Inline),
        (&[0x8c, 0xd8], Form::Fused),
        (&[0x8c, 0xe0], Form::Fused),
        (&[0x8c, 0xe8], Form::Fused),
        (&[0x66, 0x41, 0x8c, 0xc8], Form::Inline),
        (&[0x65, 0x8c, 0x4c, 0x24, 0x08], Form::Jump),
        (&[0x65, 0x8c, 0x5c, 0x24, 0x08], Form::Fused),
        // 32-bit SYSRET, CR8
        (&[0x0f, 0x07], Form::Jump),
        (&[0x44, 0x0f, 0x20, 0xc0], Form::Jump),
    ] {
        let planned = Planned { slot: 7, ..Planned::new(bytes, Flags::empty(), LiveFlags::all()) };
        assert_eq!(form(&planned), Ok(expected), "{bytes:02x?}");
    }
}

#[test]
fn slots_hold_what_stands_for_their_instructions() {
    let plan = |bytes: &[u8], slot, flags| Planned { slot, ..Planned::new(bytes, flags, LiveFlags::all()) };
    let (none, head) = (Flags::empty(), Flags::HEAD);
    for (planned, expected) in [
        (plan(&[0xfa], 8, none), &["movb $0x1,-0x1fff006(%rip) # 0x7f001001", "nop"][..]),
        (plan(&[0x0f, 0x01, 0xf8], 6, none), &["notb -0x1fff004(%rip) # 0x7f001002"]),
        (plan(&[0x0f, 0x20, 0xd8], 7, none), &["mov -0x1ffefdf(%rip),%rax # 0x7f001028"]),
        (plan(&[0x41, 0x0f, 0x20, 0xd4], 7, none), &["mov -0x1ffefe7(%rip),%r12 # 0x7f001020"]),
        (plan(&[0x66, 0x8c, 0xd0], 6, none), &["mov $0x18,%ax", "nop", "nop"]),
        (plan(&[0x48, 0x0f, 0x07], 5, none), &["jmp 0x7f000a00"]),
        (plan(&[0x0f, 0x30], 6, head), &["int3", "nop", "nop", "nop", "nop", "nop"]),
        (plan(&[0xfb, 0xf4], 5, head), &["int3", "nop", "nop", "nop", "nop"]),
        (plan(&[0x0f, 0x22, 0xd8], 5, none), &["jmp 0x7f200000"]),
    ] {
        let kernel = Kernel::new(Mode::Deprivileged, &[planned]);
        assert_eq!(encodings::objdump(kernel.slot(0)), expected);
    }
}

#[test]
fn a_replacement_is_called_if_there_is_a_stack() {
    let all = LiveFlags::all();
    for (bytes, flags, expected) in [
        (&[0xfa][..], Flags::empty(), Ok(&[0xc6, 0x05][..])),
        (&[0x0f, 0x01, 0xf8], Flags::empty(), Ok(&[0xf6, 0x15])),
        (&[0x0f, 0x20, 0xd8], Flags::empty(), Ok(&[0x48, 0x8b, 0x05])),
        (&[0xfb], Flags::empty(), Ok(&[0xe8])),
        (&[0x0f, 0x30], Flags::empty(), Ok(&[0xe8])),
        (&[0x9c], Flags::empty(), Ok(&[0xe8])),
        (&[0x9c, 0x58], Flags::empty(), Ok(&[0xe8])),
        (&[0x57, 0x9d], Flags::empty(), Ok(&[0xe8])),
        (&[0xfb, 0xf4], Flags::empty(), Ok(&[0xe8])),
        (&[0x0f, 0x30], Flags::NO_STACK, Err(Left::ReplacementUsesStack)),
        (&[0x9c, 0x58], Flags::NO_STACK, Err(Left::ReplacementUsesStack)),
    ] {
        let planned = Planned { slot: 5, ..Planned::new(bytes, flags | Flags::REPLACEMENT, all) };
        let kernel = Kernel::with_copies(Mode::Deprivileged, &[planned], 0, |_| Applied::Whole(0));
        let Some((index, entry)) = kernel.entry(0) else {
            assert_eq!(Err(kernel.summary.left().next().unwrap().0), expected.map(|_| ()));
            continue;
        };
        assert_eq!((entry.form(), kernel.slot(0)[0]), (Form::Call, 0xe8));
        let stub = STUBS + (STUB_SIZE * index) as u64;
        let instructions = decode(&kernel.engine.stub(index)[..STUB_SIZE], stub);
        assert!(kernel.engine.stub(index).starts_with(expected.unwrap()), "{bytes:02x?}");
        assert_eq!(instructions[1].mnemonic(), iced_x86::Mnemonic::Ret);
        assert_eq!(kernel.engine.interrupted(stub), Some(Interrupted::Caller(-5)));
        assert_eq!(kernel.engine.interrupted(instructions[1].ip()), Some(Interrupted::Caller(0)));
    }
    // Where it stays it is fused, as in native mode.
    let stac = Planned::new(&[0x0f, 0x01, 0xcb], Flags::REPLACEMENT, all);
    let kernel = Kernel::with_copies(Mode::Deprivileged, &[stac], 0, |_| Applied::Whole(0));
    assert_eq!(kernel.entry(0).unwrap().1.form(), Form::Fused);
}

/// A byte moves with the text that the kernel copies, and is told by the place of the copy.
#[test]
fn part_of_a_replacement_becomes_a_breakpoint_where_its_copy_is_known() {
    let copies = TEXT + 0x1000;
    let plan = |bytes: &[u8]| Planned::new(bytes, Flags::REPLACEMENT, LiveFlags::all());
    let unpadded = Planned { slot: 1, flags: Flags::REPLACEMENT | Flags::SHADOW, ..plan(&[0xfb]) };
    // `pushf; pop %rax` before CLAC, `mov %rax, %cr3`, STI before its shadow; what stays, stays.
    let sites = [plan(&[0x9c, 0x58]), plan(&[0x0f, 0x01, 0xca]), plan(&[0x0f, 0x22, 0xd8]), unpadded];
    let applied = |number: usize| Applied::Part(copies + 16 * number as u64);
    let kernel = Kernel::with_copies(Mode::Deprivileged, &sites, 0, applied);
    for (number, bytes) in [(0, &[0x9c, 0x58][..]), (2, &[0x0f, 0x22, 0xd8]), (3, &[0xfb])] {
        let (index, site) = kernel.engine.site_at(copies + 16 * number as u64).expect("a site by its copy");
        assert_eq!((site.address(), site.form()), (kernel.sites[number].address, Form::Trap));
        assert_eq!((Some(index), &*site.original()), (kernel.entry(number).map(|(index, _)| index), bytes));
        let nops = vec!["nop"; usize::from(site.slot()) - 1];
        assert_eq!(encodings::objdump(kernel.slot(number)), [&["int3"], &nops[..]].concat());
    }
    assert_eq!(kernel.slot(1), kernel.original_slot(1));
    for address in [copies + 16, copies + 1, copies + 64, 0] {
        assert!(kernel.engine.site_at(address).is_none(), "{address:#x}");
    }
    assert!(kernel.summary.lost().is_none());
    // Nobody would know the breakpoint by its place, or nothing may fault.
    for (flags, applied) in [(Flags::empty(), Applied::Somewhere), (Flags::NO_STACK, Applied::Part(copies))] {
        let site = Planned { flags: Flags::REPLACEMENT | flags, ..plan(&[0x9c, 0x58]) };
        let kernel = Kernel::with_copies(Mode::Deprivileged, &[site], 0, |_| applied);
        let lost = kernel.summary.lost().expect("a lost site");
        assert_eq!((lost.class, lost.reason), (Class::PushfPop, Left::LongReplacement));
    }
    // Where the guest has its privileges, nothing is gained.
    for mode in Mode::ALL {
        let kernel = Kernel::with_copies(mode, &sites, 0, applied);
        assert_eq!((kernel.text, kernel.summary.rewritten()), (kernel.original, 0), "{mode}");
    }
}

/// What was found out about a part is not taken for a whole, nor the other way round.
#[test]
fn sites_that_are_alike_in_replacements_that_are_not() {
    let site = Planned { slot: 5, ..Planned::new(&[0xfa], Flags::REPLACEMENT, LiveFlags::all()) };
    let (part, whole, unknown) = (Applied::Part(TEXT + 0x1000), Applied::Whole(TEXT + 0x2000), Applied::Somewhere);
    for kinds in [[part, whole, unknown, part, whole], [whole, part, whole, unknown, part]] {
        let planned = vec![site.clone(); kinds.len()];
        let kernel = Kernel::with_copies(Mode::Deprivileged, &planned, 0, |number| kinds[number]);
        for (number, kind) in kinds.into_iter().enumerate() {
            let form = match kind {
                Applied::Part(_) => Some(Form::Trap),
                Applied::Whole(_) => Some(Form::Call),
                Applied::Somewhere | Applied::Never => None,
            };
            assert_eq!(kernel.entry(number).map(|(_, site)| site.form()), form, "{kind:?}");
        }
    }
}

#[test]
fn sites_that_would_be_lost_without_a_word_are_told_of() {
    let plan = |bytes: &[u8], flags| Planned::new(bytes, flags, LiveFlags::all());
    let unpadded = |bytes: &[u8], flags| Planned { slot: u8::try_from(bytes.len()).unwrap(), ..plan(bytes, flags) };
    let shadow = Flags::SHADOW | Flags::REPLACEMENT;
    for (planned, lost) in [
        // In ring 3 they do not fault, or the host does nothing about it.
        (unpadded(&[0xfb], shadow), Some((Class::Sti, Left::Shadow))),
        (unpadded(&[0x9d], Flags::COUNTED | Flags::NO_STACK), Some((Class::Popf, Left::Counted))),
        (plan(&[0x9c, 0x58], Flags::REPLACEMENT), Some((Class::PushfPop, Left::LongReplacement))),
        (unpadded(&[0x0f, 0xa2], shadow), Some((Class::Cpuid, Left::Shadow))),
        (unpadded(&[0x0f, 0x05], shadow), Some((Class::Syscall, Left::Shadow))),
        // They fault, and are emulated then; they are few, and harmless; they are taken.
        (unpadded(&[0x0f, 0x30], shadow), None),
        (plan(&[0x9c], Flags::COPIED), None),
        (plan(&[0xfb], Flags::empty()), None),
    ] {
        let kernel = Kernel::with_copies(Mode::Deprivileged, &[planned.clone(), planned], 0, |_| Applied::Whole(0));
        let found = kernel.summary.lost();
        assert_eq!(found.map(|lost| (lost.class, lost.reason)), lost);
        assert!(found.is_none_or(|found| (found.count, found.address) == (2, kernel.sites[0].address)));
    }
}

#[test]
fn a_site_is_found_by_its_address_and_says_what_it_was() {
    let plan = |bytes: &[u8]| Planned::new(bytes, Flags::HEAD, LiveFlags::all());
    let mut kernel = Kernel::new(Mode::Deprivileged, &[plan(&[0x0f, 0x30]), plan(&[0xfb, 0xf4]), plan(&[0xfa])]);
    let module = TEXT + 0x10_0000;
    let cpuid = Planned::new(&[0x0f, 0xa2], Flags::empty(), LiveFlags::all());
    let mut text = cpuid.padded();
    let taken = kernel.engine.add(&cpuid.at(module), &mut Piece { bytes: &mut text, address: module });
    assert_eq!((taken, text[0]), (Ok(Ok(())), 0xe9));
    let addresses: Vec<_> = kernel.sites.iter().map(|site| site.address).chain([module]).collect();
    for (number, (address, bytes)) in
        addresses.iter().zip([&[0x0f, 0x30][..], &[0xfb, 0xf4], &[0xfa], &[0x0f, 0xa2]]).enumerate()
    {
        let (index, entry) = kernel.engine.site_at(*address).unwrap();
        assert_eq!((index, entry.address(), &*entry.original()), (number, *address, bytes));
        assert_eq!(entry.end(), address + u64::from(entry.slot()));
        assert_eq!(kernel.engine.site(number).map(Site::address), Some(*address));
    }
    for address in [TEXT - 1, TEXT + 1, addresses[2] + 1, module - 1, module + 1] {
        assert!(kernel.engine.site_at(address).is_none(), "{address:#x}");
    }
    assert_eq!([Form::Trap, Form::Inline, Form::Jump].map(|form| kernel.summary.in_form(form)), [3, 0, 0]);
}

#[test]
fn virtual_mode_cannot_be_chosen_nor_left() {
    assert_eq!(Mode::from_name(Mode::Deprivileged.name()), None);
    let plan = |bytes: &[u8]| Planned::new(bytes, Flags::empty(), LiveFlags::all());
    let mut kernel = Kernel::new(Mode::Deprivileged, &[plan(&[0xfa]), plan(&[0x48, 0xcf]), plan(&[0x0f, 0xa2])]);
    let rewritten = kernel.text.clone();
    assert_eq!((kernel.revert(), kernel.engine.is_on()), (Outcome::default(), true));
    assert_eq!(kernel.apply(), Outcome { changed: 3, busy: 0 });
    assert_eq!(kernel.text, rewritten);
}

#[test]
fn what_is_out_of_reach_is_left() {
    for bytes in [&[0xfa][..], &[0x0f, 0xa2], &[0x48, 0x0f, 0x07]] {
        let planned = Planned::new(bytes, Flags::empty(), LiveFlags::all());
        let far = TEXT - (3 << 30);
        let mut text = planned.padded();
        let taken = engine(Mode::Deprivileged, 4).add(&planned.at(far), &mut Piece { bytes: &mut text, address: far });
        assert_eq!((taken, text), (Ok(Err(Left::OutOfReach)), planned.padded()));
    }
}

/// Where the stub of a site leads whose engine was made for a mode, if it has one.
fn leads_to(planned: &Planned, chosen: Mode) -> Vec<u64> {
    let mut engine = Engine::deprivileged(MACHINE, chosen, memory(4));
    let mut text = planned.padded();
    let taken = engine.add(&planned.at(TEXT), &mut Piece { bytes: &mut text, address: TEXT });
    assert_eq!(taken, Ok(Ok(())), "{planned:?}");
    let is_jump = engine.site(0).unwrap().form() == Form::Jump;
    let stub = if is_jump { decode(engine.stub(0), STUBS) } else { Vec::new() };
    stub.iter().map(Instruction::near_branch_target).filter(|target| *target != 0).collect()
}

#[test]
fn whatever_something_stands_for_calls_the_wedge_where_it_is_counted() {
    let is_call = |target: &u64| [MACHINE.emulate, MACHINE.emulate_without_stack, MACHINE.iret].contains(target);
    let (mut counted, mut others) = (0, 0);
    for bytes in PATTERNS.iter().chain(OTHERS) {
        for flags in [Flags::empty(), Flags::NO_STACK] {
            let planned = Planned::new(bytes, flags, LiveFlags::all());
            let class = planned.class();
            // SYSRET leads to a routine of its own, in its slot.
            if fate(class) == Stays || class == Class::Sysret {
                continue;
            }
            let targets = leads_to(&planned, Mode::Profile);
            // Nothing but the call and the way back, and without a stack or in an IRETQ not even that.
            let expected = 1 + usize::from(flags.is_empty() && class != Class::Iret);
            let calls = targets.len() == expected && targets.iter().any(is_call);
            // What has no stack cannot tell the wedge of IF.
            let is_blind = flags == Flags::NO_STACK && matches!(class, Class::PushfPop);
            assert_eq!(calls, !is_blind, "{class} {flags:?}");
            counted += usize::from(calls);
            others += usize::from(!leads_to(&planned, Mode::default()).iter().any(is_call));
        }
    }
    assert!(counted > 100 && others > 10, "{counted} are counted, {others} would not call otherwise");
}

proptest! {
    #[test]
    fn a_stub_is_whole_instructions_that_lead_where_they_should(planned in prop::collection::vec(planned(), 1..60)) {
        let kernel = Kernel::new(Mode::Deprivileged, &planned);
        prop_assert_eq!(kernel.summary.sites() as usize, planned.len());
        let routines = [MACHINE.emulate, MACHINE.emulate_without_stack, MACHINE.interrupt, MACHINE.iret, MACHINE.sysret];
        for (index, entry) in kernel.engine.sites().filter(|(_, entry)| entry.form() == Form::Jump) {
            let stub = STUBS + (STUB_SIZE * index) as u64;
            for instruction in decode(kernel.engine.stub(index), stub) {
                let inside = kernel.engine.interrupted(instruction.ip());
                prop_assert_eq!(inside.is_none(), instruction.mnemonic() == iced_x86::Mnemonic::Int3);
                prop_assert!((instruction.ip() + 1..instruction.next_ip()).all(|at| kernel.engine.interrupted(at).is_none()));
                prop_assert_eq!(kernel.engine.site_of(instruction.ip()), None);
                let target = instruction.near_branch_target();
                let inside = (stub..stub + STUB_SIZE as u64).contains(&target);
                prop_assert!(target == 0 || inside || target == entry.end() || routines.contains(&target));
            }
        }
    }

    #[test]
    fn any_address_can_be_asked_for_in_virtual_mode(
        planned in prop::collection::vec(planned(), 1..40),
        address in prop_oneof![any::<u64>(), TEXT..TEXT + 400, STUBS..STUBS + 4000],
    ) {
        let kernel = Kernel::new(Mode::Deprivileged, &planned);
        let _ = (kernel.engine.interrupted(address), kernel.engine.site_at(address), kernel.engine.at_stub(address));
        prop_assert_eq!(kernel.engine.resume(address), None);
    }
}
