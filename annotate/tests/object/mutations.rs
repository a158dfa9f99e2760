//! Files that somebody has tampered with: they may be refused, they may fail, but nothing panics.

use std::sync::LazyLock;

use annotate::instructions::Class;
use annotate::object::sources::Sources;
use annotate::object::{Elf, compare, has_records, verify};
use annotate::record::Flags;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{PRELUDE, Workshop, padded, site};

/// An object with a bit of everything that is read, plain, padded and linked.
static FILES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let text = |cli: &str, clac: &str, cr0: &str| {
        format!(
            ".globl _start\n.type _start,@function\n_start: 1: {cli} jne 1b; jmp other; call other
            661: .skip 665f - 664f, 0x90\n662: mov 1b(%rip),%rax; ret\n.size _start,.-_start\n.p2align 4\nother: {cli} ret
            .code32\np: inc %eax; {cr0} ljmp $8, $1f\n1: .code64\n {cli} ret\n.size p,.-p
            .section .altinstructions,\"a\"\n.long 661b-., 664f-.\n.short 1\n.byte 662b-661b, 665f-664f
            .section .altinstr_replacement,\"ax\"\n664: {clac} 665:
            .section __ex_table,\"a\"\n.long 1b-., 662b-., 1\n.section .init.text,\"ax\"\n {cli} jmp _start\n.text\n"
        )
    };
    let plain = text("cli;", ".byte 0x0f,0x01,0xca;", "mov %eax,%cr0;");
    let unpadded = site("mov %eax,%cr0", Class::MovToCr, 3, Flags::CODE32);
    let padded = text(&padded("cli", Class::Cli), &padded(".byte 0x0f,0x01,0xca", Class::Clac), &unpadded);
    let workshop = Workshop::new();
    let plain = workshop.assemble("plain", &plain, &["-g"]);
    let padded = workshop.assemble("padded", &format!("{PRELUDE}{padded}"), &["-g"]);
    workshop.shell("ld", "-o linked padded.o");
    [plain, padded, workshop.read("linked")]
});

/// Reads a file in every way.
fn exercise(data: &[u8]) {
    let _ = has_records(data);
    if let Ok(elf) = Elf::parse(data)
        && let Ok(mut report) = verify(&elf)
    {
        let sources = Sources::of(&elf);
        report.find_sources(&sources);
        report.find_site_sources(&sources);
        for problem in &report.problems {
            let _ = problem.to_string();
        }
    }
    let _ = compare(&FILES[0], data).map_err(|difference| difference.to_string());
    let _ = compare(data, &FILES[1]).map_err(|difference| difference.to_string());
}

/// One change: where, and what to put there.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    /// A field's worth of bytes; sizes, offsets and indices live in words.
    Word(Index, u32),
    Truncation(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let word =
        prop_oneof![any::<u32>(), 0u32..64, Just(u32::MAX), Just(i32::MAX as u32), (0u32..64).prop_map(|low| !low)];
    prop_oneof![
        6 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        6 => (any::<Index>(), word).prop_map(|(at, word)| Change::Word(at, word)),
        1 => any::<Index>().prop_map(Change::Truncation),
    ]
}

fn mutate(data: &mut Vec<u8>, change: &Change) {
    match change {
        _ if data.is_empty() => {}
        Change::Byte(at, byte) => *at.get_mut(data) = *byte,
        Change::Word(at, word) => {
            let start = at.index(data.len()) & !3;
            for (byte, new) in data[start..].iter_mut().zip(word.to_le_bytes()) {
                *byte = new;
            }
        }
        Change::Truncation(at) => data.truncate(at.index(data.len())),
    }
}

#[test]
fn the_files_hold_as_they_are() {
    assert!(compare(&FILES[0], &FILES[1]).is_ok(), "{:?}", compare(&FILES[0], &FILES[1]));
    for data in &FILES[1..] {
        let elf = Elf::parse(data).unwrap();
        let report = verify(&elf).unwrap();
        assert!(report.holds(), "{report:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn tampered_files_do_no_harm(file in 0usize..3, changes in proptest::collection::vec(change(), 1..8)) {
        let mut data = FILES[file].clone();
        for change in &changes {
            mutate(&mut data, change);
        }
        exercise(&data);
    }

    #[test]
    fn random_bytes_do_no_harm(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let header = &FILES[1][..64];
        exercise(&[header, &tail].concat());
        exercise(&tail);
    }
}
