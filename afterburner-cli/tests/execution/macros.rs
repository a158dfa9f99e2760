//! Macros by other ways: called with statements of all kinds, named like instructions, defined by
//! macros, `.altmacro`.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle::{Least, all_compute_the_same, nothing_is_silently_wrong};
use crate::statements::{SENSITIVE, Statement, function, line, statement};

/// Bodies of a macro with the parameters `op`, `a`, `b` and `n`.
const MACROS: &[&str] = &[
    "\\op \\a, \\b",
    "\\op \\a, \\b; \\op \\a, \\b",
    "\\op\\() \\a, \\b",
    ".irp x, \\a, %r9d\n\t\\op \\x, \\b\n\t.endr",
    "\\op \\a, \\b\n\t.if \\n\n\tname%% \\op, \\a, \\b, \\n-1\n\t.endif",
    "jmp .Lskip%%_\\@\n\t\\op \\a, \\b\n.Lskip%%_\\@:\n\t\\op \\a, \\b",
    "\\op \\a, \\b\n\t.ifnc \\a, %ds\n\t.exitm\n\t.endif\n\tinc %r8d",
    ".ifc \\a, %ds\n\t\\op %es, \\b\n\t.else\n\t\\op \\a, \\b\n\t.endif",
    ".rept \\n + 1\n\t\\op \\a, \\b\n\t.endr",
    ".pushsection .data\n\t.asciz \"\\op \\a\"\n\t.popsection\n\t\\op \\a, \\b",
    ".if \\n\n\t\\op \\a, \\b\n\t.endif",
    "\\op \\a, \\b # \\op; cli",
    "/* cli */ \\op \\a /* , */, \\b",
    "8: \\op \\a, \\b; 9:",
];

/// What it is called with.
const ARGUMENTS: &[[&str; 3]] = &[
    ["mov", "%ds", "%edx"],
    ["mov", "%es", "%ecx"],
    ["add", "$3", "%r8d"],
    ["xor", "%edi", "%r8d"],
    ["mov", "%cs", "%esi"],
    ["mov", "%edi", "%edx"],
];

/// The same macro, called with statements that are sensitive and with others.
fn shared(body: &str, calls: &[([&str; 3], u8, bool)]) -> String {
    let mut text = String::new();
    for ([op, a, b], n, keywords) in calls {
        let call = if *keywords { format!("b={b}, op={op}, n={n}, a={a}") } else { format!("{op}, {a}, {b}, {n}") };
        writeln!(text, "\tname%% {call}").expect("a string");
    }
    format!("\t.macro name%% op, a, b, n=1\n\t{body}\n\t.endm\n{}", function(&text))
}

/// Instructions that a macro may take the name of.
const NAMES: &[&str] = &[
    "cli", "sti", "hlt", "clac", "stac", "swapgs", "cpuid", "rdtsc", "pushfq", "popfq", "wrmsr", "iretq", "nop", "invd",
];

/// What may stand in such a macro.
const BODIES: &[&str] = &[
    "\tinc %r8d\n",
    "\t.byte 0x8c, 0xda\n",
    "\tmov %ds, %edx\n",
    "\tmov %ds, %edx\n\tmov %es, %ecx\n",
    "",
    "\t.if \\x\n\tmov %ds, %edx\n\t.endif\n",
    "\t.if \\x\n\tadd $\\x, %r8d\n\t.else\n\tmov %es, %edx\n\t.endif\n",
    "\tpushq %fs\n\tpopq %rdx\n",
    "\tadd $3, %r8d; mov %cs, %esi\n",
    "\t.byte 0x0f, 0x31\n",
    "\t.pushsection .data\n\t.byte 0xfa\n\t.popsection\n\tinc %r8d\n",
    "\tjmp 1f\n2:\t.byte 0xfa\n\tjz 2b\n1:\n",
];

/// Arguments of such a macro.
const CALLS: &[&str] = &["", " 0", " 1", " x=2", " x=0"];

/// Where the instruction itself is meant, too.
#[derive(Clone, Copy, Debug)]
enum Itself {
    Never,
    Before,
    Behind,
    /// Behind, and the name is taken once more.
    Between,
}

/// A macro that is named like an instruction, in the middle of a function.
fn named(name: &str, body: &str, other: &str, calls: &[(&str, bool)], itself: Itself) -> String {
    let mut text = String::new();
    for (arguments, upper) in calls {
        // Names of macros are the same in capitals.
        let name = if *upper { name.to_uppercase() } else { name.to_owned() };
        writeln!(text, "\t{name}{arguments}").expect("a string");
    }
    let skipped = format!("\tjmp 9f\n\t{name}\n9:\n");
    let define = |body: &str| format!("\t.macro {name} x=1\n{body}\t.endm\n{text}\t.purgem {name}\n");
    let defined = define(body);
    function(&match itself {
        Itself::Never => defined,
        Itself::Before => format!("{skipped}{defined}"),
        Itself::Behind => format!("{defined}{skipped}"),
        Itself::Between => format!("{defined}{skipped}{}", define(other)),
    })
}

/// Macros that define macros.
const DEFINERS: &[&str] = &[
    "\t.macro define%% name, code:vararg\n\t.macro \\name\n\t\\code\n\t.endm\n\t.endm\n",
    "\t.macro define%% name, code:vararg\n\t.macro \\name x\n\t.ifb \\\\x\n\t\\code\n\t.endif\n\t.endm\n\t.endm\n",
    "\t.macro define%% name, code:vararg\n\t.macro \\name\n\t.rept 2\n\t\\code\n\t.endr\n\t.endm\n\t.endm\n",
];

/// What they define.
const DEFINED: &[&str] = &["new%%", "cli", "rdtsc", "swapgs"];

fn defining(definer: &str, name: &str, statement: Statement, times: usize) -> String {
    let code = line(statement);
    let calls = format!("\t{name}\n").repeat(times);
    format!("{definer}\tdefine%% {name}, {}\n{}\t.purgem {name}\n", code.trim(), function(&calls))
}

/// Bodies of functions, as people write them; `%%` in a definition is the number of the program.
const WHOLE: &[(&str, &str)] = &[
    (
        "\t.macro run%% code\n\t\\code\n\t.endm\n\t.macro both%% reg\n\trun%% \"mov %ds, %\\reg; add $1, %r8d\"\n\t.endm\n",
        "\tboth%% eax\n\tboth%% ecx\n",
    ),
    (
        "\t.macro run%% code\n\t\\code\n\t\\code\n\t.endm\n",
        "\trun%% \"mov %es, %edx; add $3, %r8d\"\n\trun%% \"push %fs; pop %rdx\"\n\trun%% nop\n",
    ),
    (
        "\t.macro each%% first, rest:vararg\n\tmov %\\first, %edx\n\t.ifnb \\rest\n\teach%% \\rest\n\t.endif\n\t.endm\n",
        "\teach%% ds, eax, es, cs\n",
    ),
    ("\t.macro each%% regs:vararg\n\t.irp r, \\regs\n\tmov %\\r, %edx\n\t.endr\n\t.endm\n", "\teach%% ds, eax, es\n"),
    ("", "\t.irpc r, de\n\tmov %\\r\\()s, %edx\n\t.endr\n"),
    ("", "\t.irp code, \"mov %ds, %edx\", \"add $3, %r8d\"\n\t\\code\n\t.endr\n"),
    ("", "\t.irp op, pushfq, \"popq %rdx\", \"inc %r8d\"\n\t\\op\n\t.endr\n"),
    ("", "\t.irp r, ds, es\n\t.irp to, edx, ecx\n\tmov %\\r, %\\to\n\t.endr\n\t.endr\n"),
    (
        "",
        "\t.rept 2\n\t.rept 2\n\tmov %ds, %edx\n\t.endr\n\t.irp x, 1, 2\n\tcpuid\n\tadd $\\x, %r8d\n\t.endr\n\t.endr\n",
    ),
    (
        "\t.macro move%% op=mov, from=%ds, to=%edx\n\t\\op \\from, \\to\n\t.endm\n",
        "\tmove%%\n\tmove%% to=%ecx\n\tmove%% op=add from=$3 to=%r8d\n\tmove%% from=%es\n\tmove%% add, to=%r8d, from=$4\n",
    ),
    (
        "\t.macro s%% size, seg\n\tmov\\size \\seg, %edx\n\tpush\\()f\n\t.endm\n",
        "\ts%% l, %ds\n\ts%% , %es\n\ts%% l %eax\n",
    ),
    (
        "\t.macro save%%\n\tpushfq\n\t.endm\n\t.macro restore%% reg\n\tpopq \\reg\n\t.endm\n",
        "\tsave%%\n\trestore%% %rdx\n",
    ),
    (
        "\t.macro l%% name\n\\name: mov %ds, %edx; inc %r8d; mov %es, %ecx\n\t.endm\n",
        "\tl%% here%%\n\tl%% 1\n\tl%% \"2: 3\"\n",
    ),
    ("\t.macro outer%%\n\t.macro inner%%\n\tmov %ds, %edx\n\t.endm\n\tinner%%\n\t.endm\n", "\touter%%\n\tinner%%\n"),
    ("\t.macro m%%\n\t.irp x, 1, 2\n\t.if \\x == 2\n\tcpuid\n\t.endif\n\t.endr\n\t.endm\n", "\tm%%\n"),
    ("\t.macro m%% x:req\n\t.if \\x\n\tm%% \\x-1\n\t.endif\n\trdtsc\n\t.endm\n", "\tm%% 2\n"),
    ("\t.macro m%% a, b=\\a\n\tmov \\b, %edx\n\t.endm\n", "\tm%% %ds, %es\n"),
    ("\t.macro m%% s=\"mov %ds, %edx\"\n\t\\s\n\t.endm\n", "\tm%%\n\tm%% nop\n"),
    ("\t.macro M%%\n\tcpuid\n\t.endm\n", "\tm%%\n\tCPUID\n\tMov %DS, %EDX\n"),
    (
        "\t.intel_syntax noprefix\n\t.macro m%% s\n\tmov edx, \\s\n\t.endm\n\t.att_syntax prefix\n",
        "\t.intel_syntax noprefix\n\tm%% ds\n\tm%% eax\n\tmov ecx, es\n\t.att_syntax prefix\n",
    ),
    ("\t.macro m%%\n\t.exitm\n\tcli\n\t.endm\n", "\tm%%\n\tcpuid\n"),
    (
        "\t.macro m%% x\n\t.ifc \"\\x\", \"cli\"\n\tinc %r8d\n\t.else\n\t\\x\n\t.endif\n\t.endm\n",
        "\tm%% cli\n\tm%% cpuid\n",
    ),
    (
        "\tsegment%% = 3\n\t.macro m%%\n\t.if segment%% > 2\n\tmov %ds, %edx\n\t.endif\n\t.endm\n",
        "\tm%%\n\tsegment%% = 1\n\tm%%\n",
    ),
];

/// With `.altmacro`: parameters without a backslash, some of them named like suffixes of numeric
/// labels; LOCAL, `&`.
const STATEMENTS: &[(&str, &str)] = &[
    ("op, a, b", "\top a, b\n"),
    ("b, f, a", "\tb f, a\n"),
    ("op, b, f", "\tLOCAL over\n\tjmp over\n\tcli\nover:\top b, f\n"),
    ("op, a, f", "\tLOCAL over, there\n\tjmp over\nthere:\top a, f\n\tjmp end\\@\nover:\tjmp there\nend\\@:\n"),
    ("op, a, b", "\t\\op \\a, b\n"),
    ("x, b, f", "\tmov %ds, %edx\n\tx b, f\n"),
    ("_1b, _2f, c", "\tcpuid\n\t_1b _2f, c\n"),
    ("x, y, b", "\t.rept 2\n\tx y, b\n\t.endr\n"),
];

/// What they are called with.
const PIECES: &[&str] = &[
    "mov, <!%ds>, <!%edx>",
    "<mov>, <!%es>, <!%ecx>",
    "add, <$5>, <!%r8d>",
    "mov, <!%e!s>, <!%e!cx>",
    "mov <!%cs>, <!%esi>",
    "xor <!%edi>, <!%r8d>",
];

/// The same, with a number.
const NUMBERED: &[(&str, &str)] = &[
    ("n", "\tmov %ds, %edx\n\tadd $\\n, %r8d\n"),
    ("b", "\tadd $\\b, %r8d\n\tmov %es, %edx\n"),
    ("f", "\tLOCAL over\n\tjmp over\n\tcli\nover:\t.if f > 4\n\tmov %cs, %esi\n\t.endif\n"),
    ("n", "\tLOCAL t\n\tt = n * 2\n\tpushq $\\t\n\tpushfq\n\tpopq %rdx\n"),
    ("b", "\t.rept b\n\tmov %ds, %edx\n\t.endr\n"),
];

const NUMBERS: &[&str] = &["3", "%3+4", "%2*(1+2)", "<5>", "%(1<<2)"];

fn alternate((parameters, body): (&str, &str), calls: &[&str]) -> String {
    let calls: Vec<_> = calls.iter().map(|call| format!("\talt%% {call}\n")).collect();
    format!("\t.altmacro\n\t.macro alt%% {parameters}\n{body}\t.endm\n{}\t.noaltmacro\n", function(&calls.concat()))
}

pub(crate) fn fragments() -> impl Strategy<Value = String> {
    let calls = prop::collection::vec((select(ARGUMENTS), 0..3_u8, any::<bool>()), 1..5);
    let takers = prop::collection::vec((select(CALLS), any::<bool>()), 1..4);
    let itself = select(&[Itself::Never, Itself::Before, Itself::Behind, Itself::Between][..]);
    let several = |calls| prop::collection::vec(select(calls), 1..4);
    prop_oneof![
        (select(MACROS), calls).prop_map(|(body, calls)| shared(body, &calls)),
        (select(NAMES), select(BODIES), select(BODIES), takers, itself)
            .prop_map(|(name, body, other, calls, itself)| named(name, body, other, &calls, itself)),
        (select(DEFINERS), select(DEFINED), statement(), 1..3_usize)
            .prop_map(|(definer, name, statement, times)| defining(definer, name, statement, times)),
        (select(STATEMENTS), several(PIECES)).prop_map(|(alternative, calls)| alternate(alternative, &calls)),
        (select(NUMBERED), several(NUMBERS)).prop_map(|(alternative, calls)| alternate(alternative, &calls)),
    ]
}

#[test]
fn each_way_to_define_and_call_a_macro_computes_the_same() {
    let mut texts = Vec::new();
    let calls = [(ARGUMENTS[0], 0, false), (ARGUMENTS[2], 1, true), (ARGUMENTS[1], 1, true)];
    texts.extend(MACROS.iter().map(|body| shared(body, &calls)));
    texts.extend(WHOLE.iter().map(|(definitions, body)| format!("{definitions}{}", function(body))));
    for name in NAMES {
        texts.extend(BODIES[..3].iter().map(|body| named(name, body, "", &[("", false)], Itself::Before)));
    }
    for body in BODIES {
        for itself in [Itself::Never, Itself::Behind, Itself::Between] {
            texts.push(named("cli", body, BODIES[0], &[("", true), (" 0", false), (" x=2", false)], itself));
        }
    }
    for definer in DEFINERS {
        texts.extend(DEFINED.iter().map(|name| defining(definer, name, SENSITIVE[0], 2)));
    }
    texts.extend(STATEMENTS.iter().map(|alternative| alternate(*alternative, &[PIECES[0], PIECES[2]])));
    texts.extend(PIECES.iter().map(|call| alternate(STATEMENTS[0], &[call])));
    texts.extend(NUMBERED.iter().map(|alternative| alternate(*alternative, &[NUMBERS[0]])));
    texts.extend(NUMBERS.iter().map(|call| alternate(NUMBERED[0], &[call])));
    all_compute_the_same(&texts);
}

#[test]
fn macros_compute_the_same() {
    nothing_is_silently_wrong(fragments(), &Least { recorded: 40, padded: 40 });
}
