//! Distances across a site: what a text computes from positions stays true, or the object is refused.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;

use crate::instructions::{Code, any_code, length, lines, ordinary, site};
use crate::oracle::{Least, nothing_is_silently_wrong};

/// Code from one place, which the text counts from, to another one, which it means.
#[derive(Clone, Debug)]
struct Stretch {
    crossed: Vec<Code>,
    behind: Vec<Code>,
}

fn stretch() -> impl Strategy<Value = Stretch> + Clone {
    let before = prop::collection::vec(any_code(), 0..3);
    let after = prop::collection::vec(ordinary(), 0..2);
    let behind = prop::collection::vec(any_code(), 1..3);
    (before, site(), after, behind).prop_map(|(mut crossed, site, after, behind)| {
        crossed.push(site);
        crossed.extend(after);
        Stretch { crossed, behind }
    })
}

/// Ways to write a place and a number of bytes, `P` and `N`, as one expression. `K%%` is a symbol for the number.
const SUMS: &[&str] = &[
    "P+N",
    "P + N",
    "N+P",
    "P+(N)",
    "(P+N)",
    "(P)+N",
    "P-(-N)",
    "P+N+1-1",
    "P+1+(N-1)",
    "P+2*N-N",
    "P+(N<<1)/2",
    "P+K%%",
    "K%%+P",
    "P+K%%*2-N",
    "P - -N",
    "P+'A-65+N",
];

/// The same, backwards.
const DIFFERENCES: &[&str] = &["P-N", "P - N", "P-(N)", "P+(-N)", "-N+P", "P-K%%", "P+~N+1", "P-1-N+1"];

fn expression(form: &str, place: &str, bytes: usize) -> String {
    // The place last, it may have these letters in its name.
    form.replace('N', &bytes.to_string()).replace('P', "\u{1}").replace('\u{1}', place)
}

/// Ways to give a number a name, before or behind its use.
const CONSTANTS: &[&str] =
    &["\t.set K%%, N\n", "\tK%% = N\n", "K%%=N\n", "\t.equ K%%, N\n", "\t.equiv K%%, N\n", "K%% == N\n"];

fn constant(form: &str, bytes: usize) -> String {
    form.replace('N', &bytes.to_string())
}

/// Ways to go to a place `T`, and, where it is counted from the statement's own address, how far the end of the code is from
/// there. What they use is EDX, and they do not come back.
const TRANSFERS: &[(&str, Option<usize>)] = &[
    ("\tjmp T\n", Some(2)),
    ("\tlea T(%rip), %rdx\n\tjmp *%rdx\n", Some(9)),
    ("\tleaq T(%rip), %rdx; pushq %rdx; ret\n", Some(9)),
    ("\tmov $T, %edx\n\tjmp *%rdx\n", Some(7)),
    ("\tmovq $T, %rdx\n\tjmp *%rdx\n", Some(9)),
    ("\tmovabs $T, %rdx\n\tjmp *%rdx\n", Some(12)),
    ("\tpush $T\n\tret\n", Some(6)),
    ("\tlea T, %rdx\n\tjmp *%rdx\n", Some(10)),
    ("\tcmp %eax, %eax\n\tje T\n", None),
    ("\tcall T\n\tret\n", None),
    ("\tjmp *w%%(%rip)\n\t.data\nw%%:\t.quad T\n\t.text\n", None),
    ("\tmov w%%, %edx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.long T\n\t.text\n", None),
    ("\tjmp *w%%(%rip)\n\t.pushsection .data, 1\nw%%:\t.quad T\n\t.popsection\n", None),
    (
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx), %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\
      \t.section .rodata\nw%%:\t.long T-.\n\t.text\n",
        None,
    ),
    ("\t.set t%%, T\n\tjmp t%%\n", Some(2)),
    ("\tt%% = T\n\tlea t%%(%rip), %rdx\n\tjmp *%rdx\n", Some(9)),
    ("\t.equ t%%, T\n\tpush $t%%\n\tret\n", Some(6)),
    ("\t.eqv t%%, T\n\tmov $t%%, %edx\n\tjmp *%rdx\n", Some(7)),
    ("\tt%% == T\n\tcall t%%\n\tret\n", None),
    ("\tjmp t%%\n\tt%% = T\n", None),
    ("\tmov $t%%, %edx\n\tjmp *%rdx\n\t.set t%%, T\n", None),
    ("\tjmp *w%%(%rip)\n\t.data\nw%%:\t.quad t%%\n\t.text\n\t.set t%%, T\n", None),
    ("\t.macro go%% to\n\tjmp \\to\n\t.endm\n\tgo%% \"T\"\n", None),
    ("\t.irp to, \"T\"\n\tlea \\to(%rip), %rdx\n\tjmp *%rdx\n\t.endr\n", None),
];

/// Names of a place: what defines it, and what refers to it from in front, and from behind.
const PLACES: &[(&str, &str, &str)] = &[
    ("p%%:", "p%%", "p%%"),
    (".Lp%%:", ".Lp%%", ".Lp%%"),
    ("3:", "3f", "3b"),
    ("12:", "12f", "12b"),
    ("\t.globl p%%\np%%:", "p%%", "p%%"),
    ("\t.set p%%, .\n", "p%%", "p%%"),
    ("p%% = .\n", "p%%", "p%%"),
    ("\t.type p%%, @function\np%%:", "p%%", "p%%"),
    ("first%%: second%%: p%%:", "second%%", "first%%"),
    ("\"p%%\":", "p%%", "\"p%%\""),
];

fn places() -> impl Strategy<Value = (&'static str, &'static str, &'static str)> + Clone {
    select(PLACES)
}

/// A number that a place in front of a site is the start for.
fn from_a_label() -> impl Strategy<Value = String> {
    (stretch(), select(TRANSFERS), places(), select(SUMS), select(CONSTANTS), any::<bool>()).prop_map(
        |(stretch, (transfer, _), (definition, reference, _), sum, number, early)| {
            let bytes = length(&stretch.crossed);
            let number = constant(number, bytes);
            let (front, back) = if early { (number, String::new()) } else { (String::new(), number) };
            // A name that is assigned cannot be assigned from what comes later.
            let transfer =
                transfer.replace("==", "=").replace(".eqv", ".set").replace('T', &expression(sum, reference, bytes));
            let (crossed, behind) = (lines(&stretch.crossed), lines(&stretch.behind));
            format!("{front}compute%%:\n\tmov %edi, %eax\n{transfer}{definition}\n{crossed}{behind}\tret\n{back}")
        },
    )
}

/// A number of bytes from the statement itself.
fn from_dot() -> impl Strategy<Value = String> {
    let transfers: Vec<_> = TRANSFERS.iter().filter_map(|(text, size)| Some((*text, (*size)?))).collect();
    (stretch(), select(transfers), select(SUMS), select(CONSTANTS)).prop_map(
        |(stretch, (transfer, size), sum, number)| {
            let bytes = length(&stretch.crossed) + size;
            let (number, target) = (constant(number, bytes), expression(sum, ".", bytes));
            let transfer = transfer.replace('T', &target);
            let (crossed, behind) = (lines(&stretch.crossed), lines(&stretch.behind));
            format!("{number}compute%%:\n\tmov %edi, %eax\n{transfer}{crossed}{behind}\tret\n")
        },
    )
}

/// A number of bytes in front of a label at the end.
fn from_the_end() -> impl Strategy<Value = String> {
    (stretch(), select(TRANSFERS), places(), select(DIFFERENCES), select(CONSTANTS)).prop_map(
        |(stretch, (transfer, _), (definition, reference, _), difference, number)| {
            let bytes = length(&stretch.crossed) + length(&stretch.behind[1..]);
            let number = constant(number, bytes);
            let transfer = transfer
                .replace("==", "=")
                .replace(".eqv", ".set")
                .replace('T', &expression(difference, reference, bytes));
            let (first, rest) = (lines(&stretch.behind[..1]), lines(&stretch.behind[1..]));
            let crossed = lines(&stretch.crossed);
            format!("{number}compute%%:\n\tmov %edi, %eax\n{transfer}{first}{crossed}{rest}{definition}\n\tret\n")
        },
    )
}

/// A loop whose start is some bytes back.
fn backwards() -> impl Strategy<Value = String> {
    const BACK: &[&str] = &[
        "\tjmp T\n",
        "\tlea T(%rip), %rdx\n\tjmp *%rdx\n",
        "\tmov $T, %edx\n\tjmp *%rdx\n",
        "\tpush $T\n\tret\n",
        "\tt%% = T\n\tjmp t%%\n",
        "\t.set t%%, T\n\tlea t%%(%rip), %rdx\n\tjmp *%rdx\n",
    ];
    (stretch(), select(BACK), places(), any::<bool>(), select(DIFFERENCES), select(CONSTANTS)).prop_map(
        |(stretch, back, (definition, _, reference), dot, difference, number)| {
            // The label, or the statement with the dot, is behind `dec %r8d; jz 9f`, five bytes.
            let bytes = length(&stretch.crossed) + 5;
            let (definition, place) = if dot { ("", ".") } else { (definition, reference) };
            let (number, target) = (constant(number, bytes), expression(difference, place, bytes));
            let (crossed, back) = (lines(&stretch.crossed), back.replace('T', &target));
            format!(
                "{number}compute%%:\n\tmov %edi, %eax\n\tmov $3, %r8d\n{crossed}\tdec %r8d\n\tjz 9f\n{definition}\n{back}9:\tret\n"
            )
        },
    )
}

/// Code that is read as data, some bytes behind a place.
fn read_as_data() -> impl Strategy<Value = String> {
    const READS: &[&str] = &[
        "\tmovzbl T(%rip), %eax\n",
        "\tmovzbl T, %eax\n",
        "\tmov $T, %edx\n\tmovzbl (%rdx), %eax\n",
        "\tlea T(%rip), %rdx\n\tmovzbl (%rdx), %eax\n",
        "\txor %eax, %eax\n\tcmpb $0x35, T(%rip)\n\tsete %al\n",
    ];
    (stretch(), select(READS), places(), select(SUMS), select(CONSTANTS)).prop_map(
        |(stretch, read, (definition, reference, _), sum, number)| {
            let bytes = length(&stretch.crossed);
            let (number, read) = (constant(number, bytes), read.replace('T', &expression(sum, reference, bytes)));
            let (crossed, behind) = (lines(&stretch.crossed), lines(&stretch.behind));
            format!("{number}compute%%:\n{read}\tret\n{definition}\n{crossed}{behind}\tret\n")
        },
    )
}

/// What the assembler assembles depends on a distance.
fn conditional() -> impl Strategy<Value = String> {
    const CONDITIONS: &[&str] = &[
        ".if (D) > N",
        ".if (D) == N",
        ".if (D) <= N",
        ".ifeq (D) - N",
        ".ifne (D) - N",
        ".ifgt (D) - N",
        ".ifle (D)-N",
        ".if (D) - N",
        ".if !((D) - N)",
        ".if (D) > N && 1",
        ".if 0\n\t.elseif (D) == N",
        ".rept (D) - N + 1\n\tinc %eax\n\t.endr\n\t.if 1",
    ];
    const DISTANCES: &[&str] = &["b%%-a%%", ".-a%%", "d%%", "(b%%-a%%)", "b%% - a%%"];
    (stretch(), select(CONDITIONS), select(DISTANCES)).prop_map(|(stretch, condition, distance)| {
        // The assembler knows how far it is past a jump only when it is at the end, which is too late.
        let crossed: Vec<_> = stretch.crossed.into_iter().filter(|(text, _)| !text.starts_with("jmp")).collect();
        let condition = condition.replace('N', &length(&crossed).to_string()).replace('D', distance);
        let (crossed, behind) = (lines(&crossed), lines(&stretch.behind));
        format!(
            "compute%%:\n\tmov %edi, %eax\na%%:\n{crossed}b%%:\n\td%% = b%% - a%%\n\t{condition}\n\
             \tadd $100, %eax\n\t.else\n\tadd $200, %eax\n\t.endif\n{behind}\tret\n"
        )
    })
}

/// Ways to find the entry with the number RDI of those that are `S` bytes long, 1 << `H`, and to go there. They are entries%%.
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

/// What makes an entry, which starts at a label `l`, `S` bytes long, if it is `L` without. All but the last work without one.
const FILLERS: &[&str] = &[
    "\t.balign S",
    "\t.p2align H",
    "\t.align S",
    "\t.balign S, 0xcc",
    "\t.balignw S, 0x9090",
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

/// Entries of a fixed length, found by their number.
fn entries() -> impl Strategy<Value = String> {
    let body = (prop::collection::vec(ordinary(), 0..2), prop::collection::vec(site(), 1..3));
    (body, select(REPETITIONS), select(FILLERS), 0..LOOKUPS.len() + SHIFTS.len(), any::<bool>(), 0..2_usize).prop_map(
        |((mut body, sites), repetition, filler, lookup, labelled, exact)| {
            body.extend(sites);
            let valued = repetition.contains('F');
            let ending = if valued { "" } else { "\tret\n" };
            let code = length(&body) + if valued { 4 } else { 1 };
            let shift = (code.next_power_of_two().trailing_zeros()).max(3);
            let lookup = LOOKUPS.iter().chain(SHIFTS).nth(lookup).expect("one of them");
            // Without a filler the entries just stand one behind the other.
            let dense = exact == 1 && !lookup.contains('H');
            let stride = if dense { code } else { 1 << shift };
            let label = if labelled || (!dense && filler.contains("4b")) { "4:" } else { "" };
            let numbers = |text: &str| {
                text.replace('S', &stride.to_string()).replace('H', &shift.to_string()).replace('L', &code.to_string())
            };
            let filler = if dense { String::new() } else { format!("{}\n", numbers(filler)) };
            let body = lines(&body);
            let entry = format!("{label}\n{body}{ending}{}", if valued { "" } else { &filler });
            let entries = repetition.replace('E', "\u{1}").replace('F', &filler).replace('\u{1}', &entry);
            let lookup = numbers(lookup);
            format!("compute%%:\n\tmov %edi, %eax\n{lookup}\t.balign 64\nentries%%:\n{entries}")
        },
    )
}

/// Bytes that decode to sensitive instructions.
const TEMPTING: &[&[u8]] = &[
    &[0x0f, 0x31],
    &[0xfa],
    &[0xfb, 0xf4],
    &[0x8c, 0xd8],
    &[0x0f, 0xa2],
    &[0x9c, 0x58],
    &[0x0f, 0x20, 0xc0],
    &[0x0f, 0x01, 0xca],
    &[0xe4, 0x60],
    &[0xec],
    &[0x0f, 0x30],
    &[0x0f, 0x01, 0xf8],
    &[0xf4],
    &[0x41, 0x42],
    &[0x90],
];

/// Directives that make data of so many bytes, little-endian.
const DATA: &[(&str, usize)] =
    &[(".byte", 1), (".word", 2), (".long", 4), (".quad", 8), (".ascii", 0), (".value", 2), (".int", 4)];

fn data(directive: &str, size: usize, bytes: &[u8], per_line: usize) -> String {
    let number =
        |bytes: &[u8]| format!("{:#x}", bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
    let mut text = String::new();
    for line in bytes.chunks(per_line * size.max(1)) {
        if size == 0 {
            let escaped: String = line.iter().map(|byte| format!("\\{byte:03o}")).collect();
            writeln!(text, "\t{directive}\t\"{escaped}\"").expect("a string");
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
        "\tmov $table%%, %edx\n\tmov (%rdx,%rdi,2), %ax\n",
        "\tlea table%%+1(%rip), %rdx\n\tmov (%rdx,%rdi), %eax\n",
        "\tmov table%%, %rax\n",
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
    let bytes = prop::collection::vec(select(TEMPTING), 4..8).prop_map(|bytes| {
        let mut bytes = bytes.concat();
        bytes.resize(bytes.len().next_multiple_of(8).max(16), 0xfb);
        bytes
    });
    (bytes, select(DATA), 1..9_usize, select(READS), select(FRAMES), any::<bool>(), any_code()).prop_map(
        |(bytes, (directive, size), per_line, read, frame, first, code)| {
            let table = frame.replace('D', &data(directive, size, &bytes, per_line));
            let function = format!("compute%%:\n\txor %eax, %eax\n\t{}\n{read}\tret\n", code.0);
            if first { format!("{table}{function}") } else { format!("{function}{table}") }
        },
    )
}

/// Distances that are differences of labels follow the padding, so that they may be used.
fn differences() -> impl Strategy<Value = String> {
    const USES: &[&str] = &[
        "\tlea a%%(%rip), %rdx\n\tadd $b%%-a%%, %rdx\n\tjmp *%rdx\n",
        "\tjmp a%%+(b%%-a%%)\n",
        "\tlea a%%+(b%%-a%%)(%rip), %rdx\n\tjmp *%rdx\n",
        "\tmov $a%%, %edx\n\tadd $(b%%-a%%), %edx\n\tjmp *%rdx\n",
        "\tlea a%%(%rip), %rdx\n\tlea b%%-a%%(%rdx), %rdx\n\tjmp *%rdx\n",
        "\tlea a%%(%rip), %rdx\n\tmovzbl w%%(%rip), %ecx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.byte b%%-a%%\n\t.text\n",
        "\tlea a%%(%rip), %rdx\n\tmovzbl w%%(%rip), %ecx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.uleb128 b%%-a%%\n\t.text\n",
        "\tlea a%%(%rip), %rdx\n\tmovzwl w%%(%rip), %ecx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.word b%%-a%%\n\t.text\n",
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx), %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.long b%%-w%%\n\t.text\n",
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx), %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.long b%%-.\n\t.text\n",
        "\tjmp *w%%(,%rdi,8)\n\t.section .rodata\nw%%:\t.quad a%%, b%%, a%%, b%%\n\t.text\n",
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx,%rdi,4), %rcx\n\tadd %rdx, %rcx\n\tjmp *%rcx\n\t.section .rodata\nw%%:\t.long a%%-w%%, b%%-w%%, b%%-w%%, a%%-w%%\n\t.text\n",
        "\td%% = b%% - a%%\n\tlea a%%(%rip), %rdx\n\tadd $d%%, %rdx\n\tjmp *%rdx\n",
        "\t.set d%%, b%% - a%%\n\tjmp a%% + d%%\n",
        "\t.byte 0xeb, b%%-a%%\n",
    ];
    (stretch(), select(USES)).prop_map(|(stretch, used)| {
        let (crossed, behind) = (lines(&stretch.crossed), lines(&stretch.behind));
        format!("compute%%:\n\tmov %edi, %eax\n{used}a%%:\n{crossed}b%%:\n{behind}\tret\n")
    })
}

fn fragments() -> impl Strategy<Value = String> {
    prop_oneof![
        from_a_label(),
        from_dot(),
        from_the_end(),
        backwards(),
        read_as_data(),
        conditional(),
        entries(),
        table(),
        differences(),
    ]
}

#[test]
fn what_is_computed_from_positions_stays_true_or_somebody_says_so() {
    nothing_is_silently_wrong(fragments(), &Least { recorded: 33, padded: 10 });
}

#[test]
fn differences_of_labels_follow_the_pads() {
    nothing_is_silently_wrong(differences(), &Least { recorded: 90, padded: 90 });
}
