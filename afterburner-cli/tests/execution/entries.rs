//! Entries of a fixed length in text, which are found by their number: base + length * number.

use proptest::prelude::*;
use proptest::sample::select;

use crate::instructions::{Code, length, lines, ordinary, site};
use crate::oracle::{Least, none_is_silently_wrong, nothing_is_silently_wrong};

/// Ways to find the entry with the number RDI of those that are `S` bytes long, 1 << `H`, and to go
/// there. They are entries%%.
const LOOKUPS: &[&str] = &[
    "\tlea entries%%(%rip), %rdx\n\timul $S, %rdi, %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n",
    "\timul $S, %edi, %edx\n\tadd $entries%%, %rdx\n\tjmp *%rdx\n",
    "\tmov $S, %ecx\n\timul %rdi, %rcx\n\tlea entries%%(%rcx), %rdx\n\tjmp *%rdx\n",
    "\tlea entries%%(%rip), %rdx\n\tjmp 6f\n5:\tadd $S, %rdx\n\tdec %rdi\n6:\ttest %rdi, %rdi\n\tjnz 5b\n\tjmp *%rdx\n",
    "\tjmp *w%%(,%rdi,8)\n\t.data\nw%%:\t.quad entries%%, entries%%+S, entries%%+2*S, entries%%+3*S\n\t.text\n",
];

/// The same, for lengths that are a power of two.
const SHIFTS: &[&str] = &[
    "\tlea entries%%(%rip), %rdx\n\tmov %rdi, %rcx\n\tshl $H, %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n",
    "\tmov %rdi, %rcx\n\tshl $H, %ecx\n\tlea entries%%(%rcx), %rdx\n\tjmp *%rdx\n",
];

/// What makes an entry `S` bytes long that is `L` without it. The last ones need a label `4` at its
/// start.
const FILLERS: &[&str] = &[
    "\t.balign S",
    "\t.p2align H",
    "\t.align S",
    "\t.balign S, 0xcc",
    "\t.p2align H,, 15",
    "\t.p2align H, 0x90",
    "\t.skip S - L",
    "\t.fill S - L, 1, 0x90",
    "\t.zero S - L",
    "\t.space S - L, 0x90",
    "\t. = . + S - L",
    "\t.org . + S - L",
    "\t.nops S - L",
    "\t.skip S - (. - 4b)",
    "\t.fill S - (. - 4b), 1, 0xcc",
    "\t. = 4b + S",
    "\t.org 4b + S",
    "\t.org 4b + S, 0x90",
];

/// Ways to repeat an entry four times; `E` is what is repeated.
const REPETITIONS: &[&str] = &[
    "\t.rept 4\nE\t.endr\n",
    "\t.irp value, 1, 2, 3, 4\nE\tadd $\\value, %eax\n\tret\nF\t.endr\n",
    "\t.irpc value, 1234\nE\tadd $\\value, %eax\n\tret\nF\t.endr\n",
    "\t.macro entry%% value\nE\tadd $\\value, %eax\n\tret\nF\t.endm\n\tentry%% 1\n\tentry%% 2\n\tentry%% 3\n\tentry%% 4\n",
    "\t.macro entry%%\nE\t.endm\n\t.rept 4\n\tentry%%\n\t.endr\n",
    "EEEE",
    "E\t.rept 3\nE\t.endr\n",
    "\tn = 0\n\t.rept 4\nE\tadd $n, %eax\n\tret\nF\tn = n + 1\n\t.endr\n",
    "\t.macro more%% count\nE\t.if \\count\n\tmore%% \\count-1\n\t.endif\n\t.endm\n\tmore%% 3\n",
];

/// Entries of a fixed length. With a filler, the length is a power of two; else they stand one
/// behind the other.
fn entries(code: &[Code], repetition: &str, filler: Option<&str>, lookup: &str, labelled: bool) -> String {
    let valued = repetition.contains('F');
    let bytes = length(code) + if valued { 4 } else { 1 };
    let shift = bytes.next_power_of_two().trailing_zeros().max(3);
    let power = filler.is_some() || lookup.contains('H');
    let stride = if power { 1 << shift } else { bytes };
    let filler = match filler {
        None if power => FILLERS[0],
        None => "",
        Some(filler) => filler,
    };
    let label = if labelled || filler.contains("4b") { "4:\n" } else { "" };
    let numbers = |text: &str| {
        text.replace('S', &stride.to_string()).replace('H', &shift.to_string()).replace('L', &bytes.to_string())
    };
    let (filler, lookup) = (format!("{}\n", numbers(filler)), numbers(lookup));
    let ending = if valued { String::new() } else { format!("\tret\n{filler}") };
    let entry = format!("{label}{}{ending}", lines(code));
    let entries = repetition.replace('E', "\u{1}").replace('F', &filler).replace('\u{1}', &entry);
    format!("compute%%:\n\tmov %edi, %eax\n{lookup}\t.balign 64\nentries%%:\n{entries}")
}

fn lookups() -> Vec<&'static str> {
    [LOOKUPS, SHIFTS].concat()
}

fn fragments() -> impl Strategy<Value = String> {
    let code = (prop::collection::vec(ordinary(), 0..2), prop::collection::vec(site(), 1..3));
    let code = code.prop_map(|(ordinary, sites)| [ordinary, sites].concat());
    (code, select(REPETITIONS), prop::option::weighted(0.7, select(FILLERS)), select(lookups()), any::<bool>())
        .prop_map(|(code, repetition, filler, lookup, labelled)| entries(&code, repetition, filler, lookup, labelled))
}

/// A text for each way to say something, the rest of it being the simplest.
fn one_by_one() -> Vec<String> {
    let two: &[Code] = &[("mov %ds, %edx", 2), ("mov %es, %ecx", 2), ("inc %eax", 2)];
    let mut texts = Vec::new();
    for repetition in REPETITIONS {
        texts.extend([None, Some(FILLERS[0])].map(|filler| entries(two, repetition, filler, LOOKUPS[0], false)));
        texts.push(entries(two, repetition, None, LOOKUPS[0], true));
    }
    for filler in FILLERS {
        // One pad still fits into the entry, two do not.
        texts.push(entries(&two[1..], REPETITIONS[0], Some(filler), LOOKUPS[0], false));
        texts.push(entries(two, REPETITIONS[0], Some(filler), LOOKUPS[0], false));
    }
    texts.extend(lookups().into_iter().map(|lookup| entries(two, REPETITIONS[0], None, lookup, false)));
    texts
}

#[test]
fn each_way_to_make_entries_keeps_them_where_they_are_or_somebody_says_so() {
    none_is_silently_wrong(&one_by_one());
}

#[test]
fn entries_are_where_their_number_says_or_somebody_says_so() {
    nothing_is_silently_wrong(fragments(), &Least { recorded: 10, padded: 0 });
}
