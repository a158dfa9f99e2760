//! Distances across a site: what a text computes from positions stays true, or the object is
//! refused.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use crate::instructions::{Code, any_code, length, lines, ordinary, site};
use crate::oracle::{Least, Outcome, judge_all, none_is_silently_wrong, nothing_is_silently_wrong};

/// Code from one place, which the text counts from, to another one, which it means.
#[derive(Clone, Debug)]
struct Stretch {
    crossed: Vec<Code>,
    behind: Vec<Code>,
    manner: &'static str,
}

impl Stretch {
    fn crossed(&self) -> String {
        self.manner.replace('C', &lines(&self.crossed))
    }
}

/// Code that is missed if the place is taken to be in front of the pad.
const SHORT: &[Code] = &[("mov %ds, %edx", 2), ("imul $31, %eax, %eax", 3)];

/// Ways in which code, `C`, comes to be where it is.
const MANNERS: &[&str] = &[
    "C",
    "\t.macro c%%\nC\t.endm\n\tc%%\n",
    "\t.rept 1\nC\t.endr\n",
    "\t.irp x, 1\nC\t.endr\n",
    "\t.if 1\nC\t.else\n\tcli\n\t.endif\n",
    "C\t.pushsection .data\n\t.byte 0xfa\n\t.popsection\n",
    "\t.macro c%% x\n\t.ifnb \\x\nC\t.endif\n\t.endm\n\tc%%\n\tc%% 1\n",
    "\t.pushsection .text.elsewhere, \"ax\"\n\tmov %ds, %edx\n\t.popsection\nC",
    "\t.subsection 1\n\tmov %ds, %edx\n\t.previous\nC",
];

fn stretch() -> impl Strategy<Value = Stretch> + Clone {
    let before = prop::collection::vec(any_code(), 0..3);
    let after = prop::collection::vec(ordinary(), 0..2);
    let behind = prop::collection::vec(any_code(), 1..3);
    (before, site(), after, behind, select(MANNERS)).prop_map(|(mut crossed, site, after, behind, manner)| {
        crossed.push(site);
        crossed.extend(after);
        Stretch { crossed, behind, manner }
    })
}

/// Ways to write a place and a number of bytes, `P` and `N`, as one expression. `K%%` is a symbol
/// for the number.
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

/// Ways to go to a place `T`, and, where it is counted from the statement's own address, how far
/// the end of the code is from there. What they use is EDX, and they do not come back.
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
    ("\tjmp *w%%(%rip)\n\t.data\nw%%:\t.quad T\n\t.previous\n", None),
    ("\tmov w%%, %edx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.long T\n\t.previous\n", None),
    ("\tjmp *w%%(%rip)\n\t.pushsection .data, 1\nw%%:\t.quad T\n\t.popsection\n", None),
    (
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx), %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\
      \t.section .rodata\nw%%:\t.long T-.\n\t.previous\n",
        None,
    ),
    ("\t.set t%%, T\n\tjmp t%%\n", Some(2)),
    ("\tt%% = T\n\tlea t%%(%rip), %rdx\n\tjmp *%rdx\n", Some(9)),
    ("\t.equ t%%, T\n\tpush $t%%\n\tret\n", Some(6)),
    ("\t.eqv t%%, T\n\tmov $t%%, %edx\n\tjmp *%rdx\n", Some(7)),
    ("\tt%% == T\n\tcall t%%\n\tret\n", None),
    ("\tjmp t%%\n\tt%% = T\n", None),
    ("\tmov $t%%, %edx\n\tjmp *%rdx\n\t.set t%%, T\n", None),
    ("\tjmp *w%%(%rip)\n\t.data\nw%%:\t.quad t%%\n\t.previous\n\t.set t%%, T\n", None),
    ("\t.macro go%% to\n\tjmp \\to\n\t.endm\n\tgo%% \"T\"\n", None),
    ("\t.irp to, \"T\"\n\tlea \\to(%rip), %rdx\n\tjmp *%rdx\n\t.endr\n", None),
    ("\txor %ecx, %ecx\n\tjrcxz T\n", None),
    ("\tmov $2, %ecx\n\tloop T\n", None),
    ("\t{disp32} jmp T\n", Some(5)),
    ("\t.macro go%%\n\tjmp T\n\t.endm\n\tgo%%\n", Some(2)),
    ("\t.rept 1\n\tlea T(%rip), %rdx\n\tjmp *%rdx\n\t.endr\n", Some(9)),
    ("\t.intel_syntax noprefix\n\tjmp T\n\t.att_syntax prefix\n", Some(2)),
    ("\t.intel_syntax noprefix\n\tlea rdx, [rip+T]\n\tjmp rdx\n\t.att_syntax prefix\n", Some(9)),
];

/// What defines the name of a place, and what refers to it from in front, and from behind.
type Place = (&'static str, &'static str, &'static str);

const PLACES: &[Place] = &[
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

/// A number that a place in front of a site is the start for.
fn from_a_label(stretch: &Stretch, transfer: &str, place: Place, sum: &str, number: &str, early: bool) -> String {
    let (definition, reference, _) = place;
    let bytes = length(&stretch.crossed);
    let number = constant(number, bytes);
    let (front, back) = if early { (number, String::new()) } else { (String::new(), number) };
    let transfer = forwards(transfer).replace('T', &expression(sum, reference, bytes));
    let (crossed, behind) = (stretch.crossed(), lines(&stretch.behind));
    format!("{front}compute%%:\n\tmov %edi, %eax\n{transfer}{definition}\n{crossed}{behind}\tret\n{back}")
}

/// What makes the code from a place, `P`, 32 bytes long.
const FIXED: &[&str] = &[
    "\t.org P + 32\n",
    "\t. = P + 32\n",
    "\t.skip 32 - (. - P), 0x90\n",
    "\t.fill 32 - (. - P), 1, 0x90\n",
    "\t.balign 32\n",
    "\t.p2align 5\n",
    "\t.nops 32 - (. - P)\n",
    "\t.rept 32 - (. - P)\n\tnop\n\t.endr\n",
];

/// A number that is right whatever the length of the code, as long as it fits.
fn to_a_fixed_place(
    stretch: &Stretch,
    transfer: &str,
    (definition, reference, back): Place,
    fixed: &str,
    sum: &str,
) -> String {
    let transfer = forwards(transfer).replace('T', &expression(sum, reference, 32));
    let (crossed, behind) = (stretch.crossed(), lines(&stretch.behind));
    let fixed = fixed.replace('P', "\u{1}").replace('\u{1}', back);
    let number = constant(CONSTANTS[0], 32);
    format!(
        "{number}compute%%:\n\tmov %edi, %eax\n{transfer}\t.balign 64\n{definition}\n{crossed}{fixed}{behind}\tret\n"
    )
}

/// A number of bytes from the statement itself.
fn from_dot(stretch: &Stretch, (transfer, size): (&str, usize), sum: &str, number: &str) -> String {
    let bytes = length(&stretch.crossed) + size;
    let number = constant(number, bytes);
    let transfer = transfer.replace('T', &expression(sum, ".", bytes));
    let (crossed, behind) = (stretch.crossed(), lines(&stretch.behind));
    format!("{number}compute%%:\n\tmov %edi, %eax\n{transfer}{crossed}{behind}\tret\n")
}

/// A number of bytes in front of a label at the end.
fn from_the_end(stretch: &Stretch, transfer: &str, place: Place, difference: &str, number: &str) -> String {
    let (definition, reference, _) = place;
    let bytes = length(&stretch.crossed) + length(&stretch.behind[1..]);
    let number = constant(number, bytes);
    let transfer = forwards(transfer).replace('T', &expression(difference, reference, bytes));
    let (first, rest) = (lines(&stretch.behind[..1]), lines(&stretch.behind[1..]));
    let crossed = stretch.crossed();
    format!("{number}compute%%:\n\tmov %edi, %eax\n{transfer}{first}{crossed}{rest}{definition}\n\tret\n")
}

/// A name that is final, or read where it is used, cannot be made from what comes later.
fn forwards(transfer: &str) -> String {
    transfer.replace("==", "=").replace(".eqv", ".set")
}

/// Ways to go back.
const BACK: &[&str] = &[
    "\tjmp T\n",
    "\tlea T(%rip), %rdx\n\tjmp *%rdx\n",
    "\tmov $T, %edx\n\tjmp *%rdx\n",
    "\tpush $T\n\tret\n",
    "\tt%% = T\n\tjmp t%%\n",
    "\t.set t%%, T\n\tlea t%%(%rip), %rdx\n\tjmp *%rdx\n",
];

/// A loop whose start is some bytes back from a place, or from the statement itself.
fn backwards(stretch: &Stretch, back: &str, place: Option<Place>, difference: &str, number: &str) -> String {
    let (definition, _, reference) = place.unwrap_or(("", "", "."));
    let end = "\tdec %r8d\n\tjz 9f\n";
    let bytes = length(&stretch.crossed) + 5;
    let number = constant(number, bytes);
    let back = back.replace('T', &expression(difference, reference, bytes));
    let crossed = stretch.crossed();
    format!("{number}compute%%:\n\tmov %edi, %eax\n\tmov $3, %r8d\n{crossed}{end}{definition}\n{back}9:\tret\n")
}

/// Ways to read what is in a place.
const READS: &[&str] = &[
    "\tmovzbl T(%rip), %eax\n",
    "\tmovzbl T, %eax\n",
    "\tmov $T, %edx\n\tmovzbl (%rdx), %eax\n",
    "\tlea T(%rip), %rdx\n\tmovzbl (%rdx), %eax\n",
    "\txor %eax, %eax\n\tcmpb $0x35, T(%rip)\n\tsete %al\n",
];

/// Code that is read as data, some bytes behind a place.
fn read_as_data(stretch: &Stretch, read: &str, (definition, reference, _): Place, sum: &str, number: &str) -> String {
    let bytes = length(&stretch.crossed);
    let (number, read) = (constant(number, bytes), read.replace('T', &expression(sum, reference, bytes)));
    let (crossed, behind) = (stretch.crossed(), lines(&stretch.behind));
    format!("{number}compute%%:\n{read}\tret\n{definition}\n{crossed}{behind}\tret\n")
}

/// Conditions on a distance `D` that is `N` without pads.
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

/// What the assembler assembles depends on a distance.
fn conditional(stretch: &Stretch, condition: &str, distance: &str) -> String {
    // The assembler knows how far it is past a jump only when it is at the end, which is too late.
    let crossed: Vec<_> = stretch.crossed.iter().filter(|(text, _)| !text.starts_with("jmp")).copied().collect();
    let condition = condition.replace('N', &length(&crossed).to_string()).replace('D', distance);
    let (crossed, behind) = (stretch.manner.replace('C', &lines(&crossed)), lines(&stretch.behind));
    format!(
        "compute%%:\n\tmov %edi, %eax\na%%:\n{crossed}b%%:\n\td%% = b%% - a%%\n\t{condition}\n\
         \tadd $100, %eax\n\t.else\n\tadd $200, %eax\n\t.endif\n{behind}\tret\n"
    )
}

fn transfers_from_dot() -> Vec<(&'static str, usize)> {
    TRANSFERS.iter().filter_map(|(text, size)| Some((*text, (*size)?))).collect()
}

/// Distances that are differences of labels follow the padding, so that they may be used.
fn differences() -> impl Strategy<Value = String> {
    const USES: &[&str] = &[
        "\tlea a%%(%rip), %rdx\n\tadd $b%%-a%%, %rdx\n\tjmp *%rdx\n",
        "\tjmp a%%+(b%%-a%%)\n",
        "\tlea a%%+(b%%-a%%)(%rip), %rdx\n\tjmp *%rdx\n",
        "\tmov $a%%, %edx\n\tadd $(b%%-a%%), %edx\n\tjmp *%rdx\n",
        "\tlea a%%(%rip), %rdx\n\tlea b%%-a%%(%rdx), %rdx\n\tjmp *%rdx\n",
        "\tlea a%%(%rip), %rdx\n\tmovzbl w%%(%rip), %ecx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.byte b%%-a%%\n\t.previous\n",
        "\tlea a%%(%rip), %rdx\n\tmovzbl w%%(%rip), %ecx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.uleb128 b%%-a%%\n\t.previous\n",
        "\tlea a%%(%rip), %rdx\n\tmovzwl w%%(%rip), %ecx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.word b%%-a%%\n\t.previous\n",
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx), %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.long b%%-w%%\n\t.previous\n",
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx), %rcx\n\tadd %rcx, %rdx\n\tjmp *%rdx\n\t.section .rodata\nw%%:\t.long b%%-.\n\t.previous\n",
        "\tjmp *w%%(,%rdi,8)\n\t.section .rodata\nw%%:\t.quad a%%, b%%, a%%, b%%\n\t.previous\n",
        "\tlea w%%(%rip), %rdx\n\tmovslq (%rdx,%rdi,4), %rcx\n\tadd %rdx, %rcx\n\tjmp *%rcx\n\t.section .rodata\nw%%:\t.long a%%-w%%, b%%-w%%, b%%-w%%, a%%-w%%\n\t.previous\n",
        "\td%% = b%% - a%%\n\tlea a%%(%rip), %rdx\n\tadd $d%%, %rdx\n\tjmp *%rdx\n",
        "\t.set d%%, b%% - a%%\n\tjmp a%% + d%%\n",
        "\t.byte 0xeb, b%%-a%%\n",
    ];
    (stretch(), select(USES)).prop_map(|(stretch, used)| {
        let (crossed, behind) = (stretch.crossed(), lines(&stretch.behind));
        format!("compute%%:\n\tmov %edi, %eax\n{used}a%%:\n{crossed}b%%:\n{behind}\tret\n")
    })
}

pub(crate) fn fragments() -> impl Strategy<Value = String> {
    let transfer = || select(TRANSFERS).prop_map(|(transfer, _)| transfer);
    let fixed = (stretch(), transfer(), select(PLACES), select(FIXED), select(SUMS));
    let (place, sum, difference, number) = (select(PLACES), select(SUMS), select(DIFFERENCES), select(CONSTANTS));
    prop_oneof![
        (stretch(), transfer(), place.clone(), sum.clone(), number.clone(), any::<bool>()).prop_map(
            |(stretch, transfer, place, sum, number, early)| from_a_label(
                &stretch, transfer, place, sum, number, early
            )
        ),
        (stretch(), select(transfers_from_dot()), sum.clone(), number.clone())
            .prop_map(|(stretch, transfer, sum, number)| from_dot(&stretch, transfer, sum, number)),
        (stretch(), transfer(), place.clone(), difference.clone(), number.clone()).prop_map(
            |(stretch, transfer, place, difference, number)| from_the_end(
                &stretch, transfer, place, difference, number
            )
        ),
        (stretch(), select(BACK), prop::option::of(place.clone()), difference, number.clone()).prop_map(
            |(stretch, back, place, difference, number)| backwards(&stretch, back, place, difference, number)
        ),
        (stretch(), select(READS), place, sum, number)
            .prop_map(|(stretch, read, place, sum, number)| read_as_data(&stretch, read, place, sum, number)),
        fixed
            .prop_map(|(stretch, transfer, place, fixed, sum)| to_a_fixed_place(&stretch, transfer, place, fixed, sum)),
        (stretch(), select(CONDITIONS), select(DISTANCES))
            .prop_map(|(stretch, condition, distance)| conditional(&stretch, condition, distance)),
        differences(),
    ]
}

/// A text for each way to say something, the rest of it being the simplest.
fn one_by_one() -> Vec<String> {
    let stretch =
        Stretch { crossed: SHORT.to_vec(), behind: vec![("add $7, %eax", 3), ("inc %eax", 2)], manner: MANNERS[0] };
    let (jump, place, sum, difference, number) = (TRANSFERS[0], PLACES[0], SUMS[0], DIFFERENCES[0], CONSTANTS[0]);
    let mut texts = Vec::new();
    for (transfer, _) in TRANSFERS {
        texts.push(from_a_label(&stretch, transfer, place, sum, number, true));
        texts.push(from_the_end(&stretch, transfer, place, difference, number));
    }
    texts.extend(transfers_from_dot().into_iter().map(|transfer| from_dot(&stretch, transfer, sum, number)));
    for sum in SUMS {
        texts.push(from_a_label(&stretch, jump.0, place, sum, number, true));
        texts.push(from_dot(&stretch, (jump.0, 2), sum, number));
    }
    for place in PLACES {
        texts.push(from_a_label(&stretch, jump.0, *place, sum, number, true));
        texts.push(backwards(&stretch, BACK[0], Some(*place), difference, number));
    }
    for number in CONSTANTS {
        texts.push(from_a_label(&stretch, jump.0, place, "P+K%%", number, true));
        texts.push(from_a_label(&stretch, jump.0, place, "P+K%%", number, false));
    }
    for difference in DIFFERENCES {
        texts.push(from_the_end(&stretch, jump.0, place, difference, number));
        texts.push(backwards(&stretch, BACK[0], None, difference, number));
    }
    for back in BACK {
        texts.push(backwards(&stretch, back, None, difference, number));
        texts.push(backwards(&stretch, back, Some(place), difference, number));
    }
    for fixed in FIXED {
        texts.push(to_a_fixed_place(&stretch, jump.0, place, fixed, sum));
    }
    for manner in MANNERS {
        let stretch = Stretch { manner, ..stretch.clone() };
        texts.push(from_a_label(&stretch, jump.0, place, sum, number, true));
        texts.push(from_dot(&stretch, (jump.0, 2), sum, number));
    }
    texts.extend(READS.iter().map(|read| read_as_data(&stretch, read, place, sum, number)));
    texts.extend(CONDITIONS.iter().map(|condition| conditional(&stretch, condition, DISTANCES[0])));
    texts.extend(DISTANCES.iter().map(|distance| conditional(&stretch, CONDITIONS[0], distance)));
    texts
}

/// Texts of which each counts in a way of its own; what it is says its first line.
#[test]
fn other_positions_stay_true_or_somebody_says_so() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/execution/texts");
    let files = fs::read_dir(directory).expect("texts").map(|entry| entry.expect("a text").path());
    let texts: Vec<_> = files.map(|file| fs::read_to_string(file).expect("a text")).collect();
    judge_all(&texts, |outcome| outcome != Outcome::Invalid);
}

#[test]
fn each_way_to_count_from_a_position_stays_true_or_somebody_says_so() {
    none_is_silently_wrong(&one_by_one());
}

#[test]
fn what_is_computed_from_positions_stays_true_or_somebody_says_so() {
    nothing_is_silently_wrong(fragments(), &Least { recorded: 20, padded: 2 });
}

#[test]
fn differences_of_labels_follow_the_pads() {
    nothing_is_silently_wrong(differences(), &Least { recorded: 90, padded: 30 });
}
