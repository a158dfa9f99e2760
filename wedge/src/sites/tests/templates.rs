//! The templates of deprivileged mode, executed in a user program's memory.
//!
//! A user program is in the position of a guest's kernel there: in ring 3, IF set and IOPL 0.
#![expect(unsafe_code, reason = "reads selectors")]

use core::arch::asm;

use super::execution::{Arena, DATA_AT, ROUTINES_AT, STATUS, STUBS_AT, combinations, registers};
use super::*;

/// IF in RFLAGS.
const IF: u64 = 1 << 9;

/// Offsets in the data.
const MASK: usize = 0;
const PENDING: usize = 1;
const GS_SWAPPED: usize = 2;
const CALLED: usize = 3;
const NUMBER: usize = 4;
const CONTROL: usize = 8;

/// The routine that was called, as it marks it.
const NONE: u8 = 0;
const EMULATE: u8 = 1;
const WITHOUT_STACK: u8 = 2;
const INTERRUPT: u8 = 3;
const IRET: u8 = 4;
const SYSRET: u8 = 5;

/// What is in the way of the site.
struct Case<'a> {
    planned: &'a Planned,
    setup: &'a [u8],
    teardown: &'a [u8],
    flags: u64,
    mask: u8,
    pending: u8,
}

/// What the program has seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The status flags behind the site.
    flags: u64,
    /// RAX at the end.
    rax: u64,
    mask: u8,
    gs_swapped: u8,
    called: u8,
    number: u8,
}

/// The selectors of this program.
fn selectors() -> [u16; 2] {
    let (code, stack): (u16, u16);
    // SAFETY: reading CS and SS changes nothing.
    unsafe { asm!("mov {0:x}, cs", "mov {1:x}, ss", out(reg) code, out(reg) stack, options(nomem, nostack)) };
    [code, stack]
}

/// `movb $mark, CALLED(%rip)`, and the rest of a routine.
fn routine(arena: &Arena, number: usize, mark: u8, rest: &[u8]) -> u64 {
    let start = ROUTINES_AT + 32 * number;
    let distance = i32::try_from(DATA_AT + CALLED).unwrap() - i32::try_from(start + 7).unwrap();
    let code = [&[0xc6, 0x05][..], &distance.to_le_bytes(), &[mark], rest].concat();
    arena.part(start..start + code.len()).copy_from_slice(&code);
    arena.address() + start as u64
}

/// `jmp place`, behind the mark and some bytes of a routine.
fn jump(number: usize, before: &[u8], place: usize) -> Vec<u8> {
    let behind = ROUTINES_AT + 32 * number + 7 + before.len() + 5;
    let distance = i32::try_from(place).unwrap() - i32::try_from(behind).unwrap();
    [before, &[0xe9], &distance.to_le_bytes()].concat()
}

fn machine(arena: &Arena, end: usize) -> Deprivileged {
    let data = |offset: usize| arena.address() + (DATA_AT + offset) as u64;
    let [code_selector, stack_selector] = selectors();
    let drop_frame = [0x48, 0x8d, 0x64, 0x24, 0x28]; // lea 40(%rsp), %rsp
    Deprivileged {
        mask: data(MASK),
        pending: data(PENDING),
        gs_swapped: data(GS_SWAPPED),
        control: [0, 0, data(CONTROL), data(CONTROL), 0, 0, 0, 0, 0],
        site: data(NUMBER),
        emulate: routine(arena, 0, EMULATE, &[0xc3]),
        emulate_without_stack: routine(arena, 1, WITHOUT_STACK, &jump(1, &[], end)),
        interrupt: routine(arena, 2, INTERRUPT, &[0xc3]),
        iret: routine(arena, 3, IRET, &jump(3, &drop_frame, end)),
        sysret: routine(arena, 4, SYSRET, &jump(4, &[], end)),
        code_selector,
        stack_selector,
        virtual_selectors: false,
        counts: false,
        own_floating_point: false,
    }
}

/// What the virtual control registers hold.
const CONTROL_VALUE: u64 = 0x8005_0033_dead_beef;

fn run(case: &Case) -> Seen {
    let arena = Arena::new();
    // push %rbx; push %rbp; the setup; push $flags; popfq
    let mut program = [&[0x53, 0x55][..], case.setup, &[0x68]].concat();
    program.extend(u32::try_from(case.flags | 0x202).unwrap().to_le_bytes());
    program.push(0x9d);
    let site = program.len();
    program.extend(case.planned.padded());
    let machine = machine(&arena, program.len());
    // pushfq; the teardown; pop %rdx; pop %rbp; pop %rbx; ret
    program.extend([&[0x9c][..], case.teardown, &[0x5a, 0x5d, 0x5b, 0xc3]].concat());
    let text = arena.part(0..STUBS_AT);
    text[..program.len()].copy_from_slice(&program);
    let data = arena.part(DATA_AT..DATA_AT + 16);
    (data[MASK], data[PENDING]) = (case.mask, case.pending);
    data[CONTROL..].copy_from_slice(&CONTROL_VALUE.to_le_bytes());

    let memory = Memory {
        sites: &mut [None; 2],
        stubs: arena.part(STUBS_AT..DATA_AT).as_chunks_mut().0,
        stubs_address: arena.address() + STUBS_AT as u64,
        counters: &[const { AtomicU64::new(0) }; 2],
        counters_address: arena.address(),
        snapshot: &mut [0; 2],
        order: &mut [0; 2],
    };
    let mut engine = Engine::deprivileged(machine, Mode::default(), memory);
    let mut piece = Piece { bytes: text, address: arena.address() };
    // A site before it, so that its number is 1.
    let first = Planned::new(&[0x0f, 0xa2], Flags::empty(), LiveFlags::all());
    piece.bytes[0xf00..0xf05].copy_from_slice(&first.padded());
    assert_eq!(engine.add(&first.at(arena.address() + 0xf00), &mut piece), Ok(Ok(())));
    assert_eq!(engine.add(&case.planned.at(arena.address() + site as u64), &mut piece), Ok(Ok(())));
    let returned = arena.run();
    Seen {
        flags: returned.rdx & STATUS,
        rax: returned.rax,
        mask: data[MASK],
        gs_swapped: data[GS_SWAPPED],
        called: data[CALLED],
        number: data[NUMBER],
    }
}

/// All flags and states of the interrupt flag, with flags live and free, on a site with a stack.
fn each(bytes: &[u8], mut check: impl FnMut(&Planned, u64, u8, u8)) {
    for live in [LiveFlags::all(), LiveFlags::empty()] {
        let planned = Planned::new(bytes, Flags::empty(), live);
        for flags in combinations() {
            for (mask, pending) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                check(&planned, flags, mask, pending);
            }
        }
    }
}

/// The flags behind a site: those in front of it, or any if nobody reads them.
fn kept(planned: &Planned, flags: u64, seen: &Seen) -> u64 {
    if planned.live.is_empty() { seen.flags } else { flags }
}

#[test]
fn cli_and_sti_write_the_mask_and_nothing_else() {
    // mov $0x1234, %ecx; at the end mov %rcx, %rax
    let (setup, teardown) = ([0xb9, 0x34, 0x12, 0, 0], [0x48, 0x89, 0xc8]);
    for slot in [5, 7] {
        for bytes in [[0xfa], [0xfb]] {
            each(&bytes, |planned, flags, mask, pending| {
                let planned = &Planned { slot, ..planned.clone() };
                let seen = run(&Case { planned, setup: &setup, teardown: &teardown, flags, mask, pending });
                let sti = bytes == [0xfb];
                let expected = Seen {
                    flags: if sti { kept(planned, flags, &seen) } else { flags },
                    rax: 0x1234,
                    mask: u8::from(!sti),
                    gs_swapped: 0,
                    called: if sti && pending == 1 { INTERRUPT } else { NONE },
                    number: 0,
                };
                assert_eq!(seen, expected, "{bytes:02x?} {flags:#x} {mask} {pending}");
            });
        }
    }
}

#[test]
fn pushf_stores_the_virtual_flag_and_keeps_the_others() {
    // Of a plain PUSHF, the word is below the flags at the end: pop %rcx; pop %rax; push %rcx
    let plain = [0x59, 0x58, 0x51];
    for (bytes, teardown) in [
        (&[0x9c][..], &plain[..]),
        (&[0x9c, 0x58], &[]),
        (&[0x9c, 0x59], &[0x48, 0x89, 0xc8]),
        (&[0x9c, 0x41, 0x58], &[0x4c, 0x89, 0xc0]),
        (&[0x9c, 0x41, 0x59], &[0x4c, 0x89, 0xc8]),
    ] {
        each(bytes, |planned, flags, mask, pending| {
            let seen = run(&Case { planned, setup: &[], teardown, flags, mask, pending });
            let word = flags | 2 | if mask == 0 { IF } else { 0 };
            let expected =
                Seen { flags: kept(planned, flags, &seen), rax: word, mask, gs_swapped: 0, called: NONE, number: 0 };
            assert_eq!(seen, expected, "{bytes:02x?} {flags:#x} {mask} {pending}");
        });
    }
}

/// Nothing is written but the one word that the instruction itself writes.
#[test]
fn flags_are_read_without_a_stack_where_one_word_of_it_does() {
    // movq $0x1234, -16(%rsp), and at the end, behind the flags: mov -8(%rsp), %rax
    let (setup, teardown) = ([0x48, 0xc7, 0x44, 0x24, 0xf0, 0x34, 0x12, 0, 0], [0x48, 0x8b, 0x44, 0x24, 0xf8]);
    for live in [LiveFlags::all(), LiveFlags::empty()] {
        let planned = &Planned::new(&[0x9c, 0x59], Flags::NO_STACK, live);
        for flags in combinations() {
            let seen = run(&Case { planned, setup: &setup, teardown: &teardown, flags, mask: 1, pending: 1 });
            assert_eq!((seen.called, seen.rax), (NONE, 0x1234), "{live:?} {flags:#x}");
        }
    }
}

#[test]
fn popf_loads_all_flags_and_the_virtual_one() {
    for bytes in [&[0x9d][..], &[0x50, 0x9d]] {
        for set in [0, IF] {
            each(bytes, |planned, flags, mask, pending| {
                let word = u32::try_from(flags | set | 2).unwrap();
                let mut setup = registers(word);
                if bytes == [0x9d] {
                    setup.push(0x50); // push %rax
                }
                let flags_before = flags ^ STATUS;
                let seen = run(&Case { planned, setup: &setup, teardown: &[], flags: flags_before, mask, pending });
                let expected = Seen {
                    flags,
                    rax: word.into(),
                    mask: u8::from(set == 0),
                    gs_swapped: 0,
                    called: if set == IF && pending == 1 { INTERRUPT } else { NONE },
                    number: 0,
                };
                assert_eq!(seen, expected, "{bytes:02x?} {word:#x} {mask} {pending}");
            });
        }
    }
}

/// `mov %rsp, %rcx`, and the frame of an IRETQ to behind the site.
fn frame(selector: u8, flags: u64) -> Vec<u8> {
    let mut setup = std::vec![0x48, 0x89, 0xe1, 0x6a, 0x18, 0x51, 0x68]; // mov; push $0x18; push %rcx; push $flags
    setup.extend(u32::try_from(flags | 2).unwrap().to_le_bytes());
    setup.extend([0x6a, selector]); // push $selector
    setup.extend([0x48, 0x8d, 0x05, 12, 0, 0, 0, 0x50]); // lea behind(%rip), %rax; push %rax
    setup
}

#[test]
fn a_return_to_the_kernel_is_executed_and_any_other_is_not() {
    // push %rsp; pop %rax; sub %rcx, %rax: by how much RSP differs, the word with the flags taken
    // off
    let teardown = [0x54, 0x58, 0x48, 0x29, 0xc8];
    for flags_of_site in [Flags::empty(), Flags::NO_STACK] {
        let planned = &Planned::new(&[0x48, 0xcf], flags_of_site, LiveFlags::all());
        for flags in combinations() {
            for (selector, set, pending) in [(0x10, IF, 0), (0x10, IF, 1), (0x10, 0, 0), (0x33, IF, 0), (0x33, 0, 1)] {
                let setup = frame(selector, flags | set);
                let case =
                    Case { planned, setup: &setup, teardown: &teardown, flags: flags ^ STATUS, mask: 1, pending };
                let seen = run(&case);
                let kernel = selector == 0x10 && set == IF;
                let fast = kernel && pending == 0;
                let expected = Seen {
                    flags: if fast { flags } else { seen.flags },
                    rax: (-8_i64).cast_unsigned(),
                    mask: u8::from(!kernel),
                    gs_swapped: 0,
                    called: if fast { NONE } else { IRET },
                    number: u8::from(!fast),
                };
                assert_eq!(seen, expected, "{selector:#x} {flags:#x} {pending}");
            }
        }
    }
}

#[test]
fn one_instruction_stands_for_one() {
    let control = Seen { flags: 0, rax: CONTROL_VALUE, mask: 1, gs_swapped: 0, called: NONE, number: 0 };
    for slot in [5, 6, 7, 8] {
        for flags in combinations() {
            for (bytes, teardown, expected) in [
                (&[0x0f, 0x01, 0xf8][..], &[][..], Seen { rax: 7, gs_swapped: 0xff, ..control }),
                (&[0x0f, 0x20, 0xd0], &[], Seen { ..control }),
                (&[0x0f, 0x20, 0xd9], &[0x48, 0x89, 0xc8], Seen { ..control }),
                (&[0x41, 0x0f, 0x20, 0xd8], &[0x4c, 0x89, 0xc0], Seen { ..control }),
                (&[0x48, 0x0f, 0x07], &[], Seen { rax: 7, called: SYSRET, ..control }),
                (&[0xe6, 0x80], &[], Seen { rax: 7, ..control }),
            ] {
                for site in [Flags::empty(), Flags::NO_STACK] {
                    let planned = &Planned { slot, ..Planned::new(bytes, site, LiveFlags::all()) };
                    let case = Case { planned, setup: &registers(7), teardown, flags, mask: 1, pending: 1 };
                    assert_eq!(run(&case), Seen { flags, ..expected }, "{bytes:02x?} {slot}");
                }
            }
        }
    }
}

#[test]
fn all_else_is_emulated_with_a_stack_or_without() {
    let (none, without) = (Flags::empty(), Flags::NO_STACK);
    for flags in combinations() {
        for (bytes, site, called, number) in [
            (&[0x0f, 0xa2][..], none, EMULATE, 0),
            (&[0x0f, 0x22, 0xd8], without, WITHOUT_STACK, 1),
            (&[0xfb], without, WITHOUT_STACK, 1),
            (&[0x9c], without, WITHOUT_STACK, 1),
            (&[0x50, 0x9d], without, WITHOUT_STACK, 1),
            (&[0x0f, 0x20, 0xc0], none, EMULATE, 0),
            (&[0xe6, 0x21], none, EMULATE, 0),
            (&[0xe7, 0x80], none, EMULATE, 0),
            (&[0xee], none, EMULATE, 0),
            (&[0xcf], none, WITHOUT_STACK, 1),
        ] {
            let planned = &Planned::new(bytes, site, LiveFlags::all());
            let case = Case { planned, setup: &registers(7), teardown: &[], flags, mask: 1, pending: 1 };
            let expected = Seen { flags, rax: 7, mask: 1, gs_swapped: 0, called, number };
            assert_eq!(run(&case), expected, "{bytes:02x?}");
        }
    }
}

#[test]
fn sti_without_a_stack_is_emulated_if_an_event_is_pending() {
    let planned = &Planned::new(&[0xfb], Flags::NO_STACK, LiveFlags::empty());
    for (pending, called) in [(0, NONE), (1, WITHOUT_STACK)] {
        let seen = run(&Case { planned, setup: &[], teardown: &[], flags: 0, mask: 1, pending });
        assert_eq!((seen.mask, seen.called, seen.number), (0, called, pending));
    }
}
