//! Instructions that are written as numbers or strings.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle::{Least, all_compute_the_same, nothing_is_silently_wrong};
use crate::statements::function;

/// Encodings of sites that can be executed, and of others.
const ENCODINGS: &[&[u8]] = &[
    &[0x8c, 0xda],
    &[0x8c, 0xc1],
    &[0x0f, 0xa2],
    &[0x0f, 0x31],
    &[0x9c, 0x5a],
    &[0x0f, 0xa0, 0x5a],
    &[0x8c, 0xde],
    &[0x90],
    &[0x41, 0xff, 0xc0],
    &[0x41, 0x83, 0xc0, 0x05],
    &[0xb9, 0x0f, 0x31, 0xfa, 0xf4],
    &[0xeb, 0x01, 0xfa],
];

const DIRECTIVES: &[(&str, usize)] = &[
    (".byte", 1),
    (".byte", 1),
    (".word", 2),
    (".value", 2),
    (".short", 2),
    (".hword", 2),
    (".2byte", 2),
    (".long", 4),
    (".int", 4),
    (".4byte", 4),
    (".quad", 8),
    (".8byte", 8),
    (".ascii", 1),
    (".string", 0),
    (".asciz", 0),
    (".octa", 16),
];

/// A number as one of the ways to write it.
fn number(value: u64, size: usize, form: usize) -> String {
    let bits = 8 * u32::try_from(size.min(8)).expect("a few");
    match form % 9 {
        0 => format!("{value:#x}"),
        1 => format!("{value}"),
        2 => format!("0{value:o}"),
        3 => format!("({value:#x})"),
        4 if bits < 64 => format!("-{}", (1_u64 << bits) - value),
        5 => format!("{value:#b}"),
        6 if value > 7 => format!("{:#x}+7", value - 7),
        7 if size == 1 && value > 0x41 => format!("'A+{}", value - 0x41),
        8 => format!("((({value:#X})))"),
        _ => format!("{value:#X}"),
    }
}

fn hand_encoded() -> impl Strategy<Value = String> {
    let chunk = (select(DIRECTIVES), any::<[u8; 4]>(), any::<bool>(), any::<bool>());
    let bytes = prop::collection::vec(select(ENCODINGS), 1..5).prop_map(|encodings| encodings.concat());
    (bytes, prop::collection::vec(chunk, 12..13)).prop_map(|(bytes, chunks)| {
        let (mut rest, mut text) = (&bytes[..], String::new());
        for ((directive, size), forms, escape, joined) in chunks {
            if rest.is_empty() {
                break;
            }
            let label = if forms[3] % 8 == 0 { "7:" } else { "" };
            let end = if joined { "; " } else { "\n" };
            let taken;
            if size == 0 || directive == ".ascii" {
                (taken, rest) = rest.split_at(rest.len().min(usize::from(forms[0] % 4) + 1));
                let escaped = |byte: &u8| if escape { format!("\\{byte:03o}") } else { format!("\\x{byte:02x}") };
                let escaped: String = taken.iter().map(escaped).collect();
                if size == 0 && !rest.is_empty() {
                    // A NUL is only harmless at the end, as an operand: `add $0, %al`.
                    write!(text, "{label}\t.ascii \"{escaped}\"{end}").expect("a string");
                } else if size == 0 {
                    write!(text, "{label}\t{directive} \"{escaped}\\004\"{end}").expect("a string");
                } else {
                    write!(text, "{label}\t{directive} \"{escaped}\"{end}").expect("a string");
                }
                continue;
            }
            (taken, rest) = rest.split_at(rest.len().min(size));
            let mut padded = taken.to_vec();
            padded.resize(size, 0x90);
            let value = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            if size == 16 {
                write!(text, "{label}\t.octa {:#x}{:016x}{end}", value(&padded[8..]), value(&padded[..8]))
                    .expect("a string");
            } else {
                let number = number(value(&padded), size, usize::from(forms[1]));
                write!(text, "{label}\t{directive} {number}{end}").expect("a string");
            }
        }
        // What is left is one line of bytes.
        let rest: Vec<_> = rest.iter().map(u8::to_string).collect();
        if !rest.is_empty() {
            writeln!(text, "\t.byte {}", rest.join(",")).expect("a string");
        }
        function(&format!("{text}\n\tinc %r8d\n"))
    })
}

/// Two bytes, `A` and `B`, that come out of repetitions, parameters and symbols, and what may stand
/// beside them.
const FORMS: &[&str] = &[
    "\t.rept 2\n\t.byte A, B\n\t.endr\n",
    "\t.word A + B * 256\n",
    "\t.byte A\n\t.loc 1 1\n\t.byte B\n",
    "\t.byte A # cli\n\t/* cli */ .byte B\n",
    "\t.byte A\n.L%%:\t.byte B\n",
    "\t.byte A\n\t.pushsection .data\n\t.byte 1\n\t.popsection\n\t.byte B\n",
    "\t.byte A, (B)\n\t.byte (A), B\n\t.byte (A),(B)\n",
    "\t.byte 0x66, A, B\n\t.byte 0x48; .byte A, B\n",
    "\t.byte 0xb9, A, B, 0, 0\n",
    "\t.byte 0xb9; .word A + B * 256; .word 0\n",
    "\t.byte 0x66; mov %ds, %edx; .byte A, B\n",
];

/// The same where only the assembler knows the bytes, or where they are apart: the census reports
/// them.
const REPORTED: &[&str] = &[
    "\t.irp x, A, B\n\t.byte \\x\n\t.endr\n",
    "\t.byte a%%, B\n\ta%% = A\n",
    "\t.set a%%, A\n\t.byte a%%, B\n",
    "\t.macro e%% x, y\n\t.byte \\x, \\y\n\t.endm\n\te%% A, B\n",
    "\t.macro e%% x:vararg\n\t.byte \\x\n\t.endm\n\te%% A, B\n\te%% 0x90\n",
    "\t.macro e%% x, y\n\t.word \\x | \\y << 8\n\t.endm\n\te%% A, B\n",
    "\t.fill 1, 2, A + B * 256\n",
    "\t.fill 1, 1, A; .byte B\n",
    "\t.skip 1, A\n\t.skip 1, B\n",
    "\t.if 1\n\t.byte A\n\t.endif\n\t.byte B\n",
    "\t.macro e%% x y\n\t.byte \\x\n\t.byte \\y\n\t.endm\n\te%% A B\n",
    "\trex.w; .byte A, B\n",
];

/// Encodings of two bytes; the last ones are not sensitive.
const ENCODED: &[(u8, u8)] = &[(0x8c, 0xda), (0x0f, 0xa2), (0x0f, 0x31), (0x8c, 0xc6), (0x90, 0x90), (0x31, 0xd2)];

fn by_parts(form: &str, (a, b): (u8, u8)) -> String {
    let code = form.replace('A', &format!("{a:#x}")).replace('B', &format!("{b:#x}"));
    format!("\t.file 1 \"x.c\"\n{}", function(&format!("{code}\tinc %r8d\n")))
}

#[test]
fn each_way_to_write_an_encoding_computes_the_same() {
    let mut texts: Vec<_> = FORMS.iter().map(|form| by_parts(form, ENCODED[0])).collect();
    for form in 0..9 {
        let [a, b] = [0x8c, 0xda].map(|byte| number(byte, 1, form));
        texts.push(function(&format!(
            "\t.byte {a}, {b}\n\t.byte {a}\n\t.byte {b}\n\t.word {}\n",
            number(0xda8c, 2, form)
        )));
    }
    let directives: &[&str] = &[
        ".word 0xda8c",
        ".value 0xda8c",
        ".short 0xda8c",
        ".hword 0xda8c",
        ".2byte 0xda8c",
        ".long 0x9090da8c",
        ".int 0x90da8c90",
        ".4byte 0xda8cda8c",
        ".quad 0x90909090da8c9090",
        ".8byte 0xda8cda8cda8cda8c",
        ".ascii \"\\214\\332\"",
        ".ascii \"\\x8c\", \"\\xda\"",
        ".string \"\\214\\332\\004\"",
        ".asciz \"\\214\\332\\004\"",
        ".byte 0x8c; .ascii \"\\332\"",
        ".word 0x8c90; .byte 0xda",
        ".byte 0x8c, 0xda, 0x8c, 0xc1, 0x90",
        ".byte 0x90\n\t.byte 0x8c\n\t.byte 0xda\n\t.byte 0x90",
    ];
    texts.extend(directives.iter().map(|directive| function(&format!("\t{directive}\n\tinc %r8d\n"))));
    all_compute_the_same(&texts);
}

#[test]
fn encodings_compute_the_same() {
    let parts = (select(FORMS), select(ENCODED)).prop_map(|(form, encoded)| by_parts(form, encoded));
    nothing_is_silently_wrong(prop_oneof![hand_encoded(), parts], &Least { recorded: 40, padded: 40 });
}

#[test]
fn encodings_that_only_the_assembler_knows_are_reported() {
    let parts = (select(REPORTED), select(ENCODED)).prop_map(|(form, encoded)| by_parts(form, encoded));
    nothing_is_silently_wrong(parts, &Least { recorded: 0, padded: 0 });
}
