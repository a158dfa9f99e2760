//! Tables in text. Whatever they look like, they are data.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;

use crate::instructions::any_code;
use crate::oracle::{Least, nothing_is_silently_wrong};

/// Bytes that decode to sensitive instructions.
const TEMPTING: &[&[u8]] = &[
    &[0x0f, 0x31],
    &[0xfa],
    &[0x8c, 0xd8],
    &[0x0f, 0xa2],
    &[0x0f, 0x20, 0xc0],
    &[0x0f, 0x01, 0xca],
    &[0xe4, 0x60],
    &[0xec],
    &[0x0f, 0x30],
    &[0x0f, 0x01, 0xf8],
    &[0xf4],
];

/// Bytes that do not.
const OTHERS: &[&[u8]] =
    &[&[0xfb, 0xf4], &[0x9c, 0x58], &[0x41, 0x42], &[0x90], &[0x00], &[0x64], &[0x0f], &[0x48, 0x89], &[0xff]];

const SMALL: &[&[u8]] = &[&[0], &[1], &[2], &[3], &[4], &[5], &[7]];

/// Directives that make data of so many bytes, little-endian.
const DATA: &[(&str, usize)] =
    &[(".byte", 1), (".word", 2), (".long", 4), (".quad", 8), (".ascii", 0), (".value", 2), (".int", 4)];

fn data(directive: &str, size: usize, bytes: &[u8], per_line: usize) -> String {
    let number =
        |bytes: &[u8]| format!("{:#x}", bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
    let mut text = String::new();
    for line in bytes.chunks(per_line * size.max(1)) {
        if size == 0 {
            let escaped: Vec<_> = line.iter().map(|byte| format!("\\{byte:03o}")).collect();
            writeln!(text, "\t{directive}\t\"{}\"", escaped.concat()).expect("a string");
        } else {
            let numbers: Vec<_> = line.chunks(size).map(number).collect();
            writeln!(text, "\t{directive}\t{}", numbers.join(", ")).expect("a string");
        }
    }
    text
}

/// A table in text, read by its number.
fn table() -> impl Strategy<Value = String> {
    const READS: &[&str] = &[
        "\tlea table%%(%rip), %rdx\n\tmovzbl (%rdx,%rdi), %eax\n",
        "\tmovzbl table%%(%rdi), %eax\n",
        "\tmov table%%(%rip), %eax\n\trol %edi\n",
        "\tmov $table%%, %edx\n\tmovzbl (%rdx,%rdi), %eax\n",
        "\tlea table%%+1(%rip), %rdx\n\tmovzwl (%rdx), %eax\n",
        "\tmov table%%, %eax\n",
        "\tmov p%%(%rip), %rdx\n\tmovzbl (%rdx,%rdi), %eax\n\t.data\np%%:\t.quad table%%\n\t.text\n",
    ];
    const FRAMES: &[&str] = &[
        "\t.type table%%, @object\ntable%%:\nD\t.size table%%, .-table%%\n",
        "table%%:\nD",
        "\t.balign 16\ntable%%:\nD\t.balign 16\n",
        "\t.globl table%%\n\t.type table%%, STT_OBJECT\ntable%%:\nD",
        "\t.pushsection .init.text, \"ax\"\ntable%%:\nD\t.popsection\n",
        "table%%:\nD\t.type table%%, %object\n\t.size table%%, 8\n",
        "\t.local table%%\ntable%%:\n4:\nD4:\n",
        "\tnop\ntable%%:\nD\tnop\n",
        "\t.type table%%, @object\n\t.size table%%, end%%-table%%\ntable%%:\nDend%%:\n",
    ];
    let tempting = prop::collection::vec(select(TEMPTING), 4..8);
    let mixed = prop::collection::vec(prop_oneof![select(TEMPTING), select(OTHERS)], 4..8);
    let small = prop::collection::vec(select(SMALL), 4..8);
    let layout = prop::option::of((select(DATA), 1..9_usize));
    (prop_oneof![tempting, mixed, small], layout, select(READS), select(FRAMES), any::<bool>(), any_code()).prop_map(
        |(pieces, layout, read, frame, first, code)| {
            let data = match layout {
                None => pieces.iter().map(|piece| data(".byte", 1, piece, piece.len())).collect(),
                Some(((directive, size), per_line)) => {
                    let mut bytes = pieces.concat();
                    bytes.resize(bytes.len().next_multiple_of(8), 0xfa);
                    data(directive, size, &bytes, per_line)
                }
            };
            let table = frame.replace('D', &data);
            let function = format!("compute%%:\n\txor %eax, %eax\n\t{}\n{read}\tret\n", code.0);
            if first { format!("{table}{function}") } else { format!("{function}{table}") }
        },
    )
}

#[test]
fn tables_hold_what_they_hold_or_somebody_says_so() {
    nothing_is_silently_wrong(table(), &Least { recorded: 0, padded: 0 });
}
