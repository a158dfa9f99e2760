//! Macros and hand encodings: whatever way a statement takes to the assembler, it computes the same with pads.
//!
//! A statement starts as it is. Then parts of it become parameters of a macro, whose body is a statement again, with the
//! parameters in it, of which parts become parameters. So calls stand in bodies of macros, with `\arg` in their arguments.
//!
//! What is computed is in R8D: the sensitive instructions that work in ring 3 change most other registers.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::oracle::{Least, nothing_is_silently_wrong};

/// A statement: the mnemonic, then the operands.
type Statement = &'static [&'static str];

/// Sensitive statements, some of them only with these operands.
const SENSITIVE: &[Statement] = &[
    &["mov", "%ds", "%edx"],
    &["mov", "%es", "%ecx"],
    &["movl", "%cs", "%esi"],
    &["mov", "%fs", "%rdx"],
    &["pushfq"],
    &["pushq", "%gs"],
    &["cpuid"],
    &["rdtsc"],
];

/// Others, some of which are like them.
const INNOCENT: &[Statement] = &[
    &["add", "$7", "%r8d"],
    &["mov", "%edi", "%edx"],
    &["movl", "%eax", "%ecx"],
    &["xor", "%edi", "%r8d"],
    &["pushq", "$5"],
    &["nop"],
    &["inc", "%r8d"],
    &["imul", "$3", "%r8d", "%r8d"],
];

fn statement() -> impl Strategy<Value = Statement> + Clone {
    prop_oneof![select(SENSITIVE), select(INNOCENT)]
}

fn line(pieces: &[impl AsRef<str>]) -> String {
    let (mnemonic, operands) = pieces.split_first().expect("a mnemonic");
    let operands: Vec<_> = operands.iter().map(AsRef::as_ref).collect();
    format!("\t{} {}\n", mnemonic.as_ref(), operands.join(", "))
}

/// A function with this body, which may leave anything on its stack.
fn function(body: &str) -> String {
    format!(
        "compute%%:\n\tpush %rbx\n\tpush %rbp\n\tmov %rsp, %rbp\n\tmov %edi, %r8d\n{body}\
         \tmov %r8d, %eax\n\tleave\n\tpop %rbx\n\tret\n"
    )
}

/// How a macro declares its parameters, and how it is called.
#[derive(Clone, Copy, Debug)]
enum Style {
    Commas,
    Blanks,
    Required,
    Vararg,
    Keywords,
    /// The first argument is the default.
    Default,
}

const STYLES: &[Style] =
    &[Style::Commas, Style::Blanks, Style::Required, Style::Vararg, Style::Keywords, Style::Default];

/// What is done to a statement.
#[derive(Clone, Debug)]
enum Wrap {
    /// It becomes the body of a macro.
    Body(Style),
    /// One piece of it becomes a parameter.
    Piece(Index, Style),
    /// One letter does.
    Letter(Index, Index, Style),
    /// Each piece does.
    Every(Style),
    /// All operands together do.
    Operands,
    /// The whole statement does, in quotes.
    Quoted(Style),
    /// The whole statement does, without.
    Code,
    /// A piece becomes a value of an `.irp`.
    Irp(Index),
    /// A letter becomes one of an `.irpc`.
    Irpc(Index, Index),
    /// It is repeated.
    Rept(u8),
    /// It depends on an argument.
    If(bool, Style),
}

fn wrap() -> impl Strategy<Value = Wrap> + Clone {
    let style = select(STYLES);
    prop_oneof![
        style.clone().prop_map(Wrap::Body),
        (any::<Index>(), style.clone()).prop_map(|(piece, style)| Wrap::Piece(piece, style)),
        (any::<Index>(), any::<Index>(), style.clone()).prop_map(|(piece, at, style)| Wrap::Letter(piece, at, style)),
        style.clone().prop_map(Wrap::Every),
        Just(Wrap::Operands),
        style.clone().prop_map(Wrap::Quoted),
        Just(Wrap::Code),
        any::<Index>().prop_map(Wrap::Irp),
        any::<(Index, Index)>().prop_map(|(piece, at)| Wrap::Irpc(piece, at)),
        (1..3_u8).prop_map(Wrap::Rept),
        (any::<bool>(), style).prop_map(|(really, style)| Wrap::If(really, style)),
    ]
}

/// Macros that were defined, and a number for the next parameter.
#[derive(Default)]
struct Definitions {
    text: String,
    number: usize,
}

impl Definitions {
    fn number(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    /// Defines a macro and calls it. `new` are parameters with what they are here; others that the body mentions are what
    /// they are here.
    fn call(&mut self, new: &[(String, String)], body: &str, style: Style) -> String {
        let mut parameters = new.to_vec();
        for name in references(body) {
            // What an `.irp` in the body binds is not this macro's.
            let bound = body.contains(&format!(".irp {name},")) || body.contains(&format!(".irpc {name},"));
            if !bound && parameters.iter().all(|(other, _)| *other != name) {
                parameters.push((name.clone(), format!("\\{name}")));
            }
        }
        let last = parameters.len().saturating_sub(1);
        let declare = |(place, (name, value)): (usize, &(String, String))| match style {
            Style::Required => format!("{name}:req"),
            Style::Vararg if place == last => format!("{name}:vararg"),
            Style::Default if place == 0 && !value.contains('\\') => format!("{name}={}", quoted(value)),
            _ => name.clone(),
        };
        let argue = |(place, (name, value)): (usize, &(String, String))| match style {
            Style::Keywords => format!("{name}={}", quoted(value)),
            Style::Vararg if place == last => value.clone(),
            Style::Default if place == 0 && !value.contains('\\') => String::new(),
            _ => quoted(value),
        };
        let separator = if matches!(style, Style::Blanks) { " " } else { ", " };
        let declared: Vec<_> = parameters.iter().enumerate().map(declare).collect();
        let arguments: Vec<_> = parameters.iter().enumerate().map(argue).collect();
        let name = format!("m{}x%%", self.number());
        write!(self.text, "\t.macro {name} {}\n{body}\t.endm\n", declared.join(separator)).expect("a string");
        format!("\t{name} {}\n", arguments.join(separator))
    }
}

/// An argument, in quotes if it has to be.
fn quoted(value: &str) -> String {
    if value.contains([' ', ',']) || value.contains("\\q") { format!("\"{value}\"") } else { value.to_owned() }
}

/// The parameters that a text mentions.
fn references(text: &str) -> Vec<String> {
    let name = |rest: &str| rest.split(|letter: char| !letter.is_ascii_alphanumeric()).next().map(str::to_owned);
    text.split('\\').skip(1).filter_map(name).filter(|name| !name.is_empty()).collect()
}

/// A piece with one of its letters replaced by a parameter, and that letter.
fn without_letter(piece: &str, at: Index, parameter: &str) -> Option<(String, String)> {
    let letters: Vec<_> = piece.char_indices().filter(|(_, letter)| letter.is_ascii_lowercase()).collect();
    if piece.contains(['\\', ' ']) || letters.is_empty() {
        return None;
    }
    let (place, letter) = letters[at.index(letters.len())];
    Some((format!("{}\\{parameter}\\(){}", &piece[..place], &piece[place + 1..]), letter.to_string()))
}

/// The statement after all that is done to it, the first of which is the outermost.
fn wrapped(pieces: &[String], wraps: &[Wrap], definitions: &mut Definitions) -> String {
    let Some((wrap, inner)) = wraps.split_first() else { return line(pieces) };
    let number = definitions.number();
    let name = format!("p{number}");
    let replaced = |at: usize, by: &str| {
        let mut pieces = pieces.to_vec();
        by.clone_into(&mut pieces[at]);
        pieces
    };
    let reference = format!("\\{name}");
    let whole = || line(pieces).trim().to_owned();
    match wrap {
        Wrap::Body(style) => {
            let body = wrapped(pieces, inner, definitions);
            definitions.call(&[], &body, *style)
        }
        Wrap::Piece(index, style) => {
            let at = index.index(pieces.len());
            let body = wrapped(&replaced(at, &reference), inner, definitions);
            definitions.call(&[(name, pieces[at].clone())], &body, *style)
        }
        Wrap::Letter(index, place, style) => {
            let at = index.index(pieces.len());
            let Some((rest, letter)) = without_letter(&pieces[at], *place, &name) else {
                return wrapped(pieces, inner, definitions);
            };
            let body = wrapped(&replaced(at, &rest), inner, definitions);
            definitions.call(&[(name, letter)], &body, *style)
        }
        Wrap::Every(style) => {
            let names: Vec<_> = (0..pieces.len()).map(|piece| format!("{name}n{piece}")).collect();
            let body = wrapped(&names.iter().map(|name| format!("\\{name}")).collect::<Vec<_>>(), inner, definitions);
            let parameters: Vec<_> = names.into_iter().zip(pieces.iter().cloned()).collect();
            definitions.call(&parameters, &body, *style)
        }
        Wrap::Operands if pieces.len() > 1 => {
            let (mnemonic, operands) = (format!("p{number}m"), format!("q{number}o"));
            let body = line(&[format!("\\{mnemonic}"), format!("\\{operands}")]);
            definitions.call(&[(mnemonic, pieces[0].clone()), (operands, pieces[1..].join(", "))], &body, Style::Vararg)
        }
        Wrap::Quoted(style) => {
            let body = wrapped(&[format!("\\q{number}")], inner, definitions);
            definitions.call(&[(format!("q{number}"), whole())], &body, *style)
        }
        Wrap::Code | Wrap::Operands => {
            let body = format!("\t\\q{number}\n");
            definitions.call(&[(format!("q{number}"), whole())], &body, Style::Vararg)
        }
        Wrap::Irp(index) => {
            let at = index.index(pieces.len());
            let value = quoted(&pieces[at]);
            let body = wrapped(&replaced(at, &reference), inner, definitions);
            format!("\t.irp {name}, {value}, {value}\n{body}\t.endr\n")
        }
        Wrap::Irpc(index, place) => {
            let at = index.index(pieces.len());
            let Some((rest, letter)) = without_letter(&pieces[at], *place, &name) else {
                return wrapped(pieces, inner, definitions);
            };
            let body = wrapped(&replaced(at, &rest), inner, definitions);
            format!("\t.irpc {name}, {letter}{letter}\n{body}\t.endr\n")
        }
        Wrap::Rept(times) => format!("\t.rept {times}\n{}\t.endr\n", wrapped(pieces, inner, definitions)),
        Wrap::If(really, style) => {
            let body = wrapped(pieces, inner, definitions);
            let body = format!("\t.if {reference}\n{body}\t.else\n\tinc %r8d\n\t.endif\n");
            definitions.call(&[(name, u8::from(*really).to_string())], &body, *style)
        }
    }
}

/// A function of statements, each of which is wrapped.
fn parametrized() -> impl Strategy<Value = String> {
    let wrapped_statement = (statement(), prop::collection::vec(wrap(), 0..4));
    prop::collection::vec(wrapped_statement, 1..4).prop_map(|statements| {
        let mut definitions = Definitions::default();
        let mut body = String::new();
        for (statement, wraps) in statements {
            let pieces: Vec<_> = statement.iter().map(|piece| (*piece).to_owned()).collect();
            body += &wrapped(&pieces, &wraps, &mut definitions);
        }
        format!("{}{}", definitions.text, function(&body))
    })
}

/// The same macro, called with statements that are sensitive and with others.
fn shared() -> impl Strategy<Value = String> {
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
    let arguments = prop_oneof![
        Just(["mov", "%ds", "%edx"]),
        Just(["mov", "%es", "%ecx"]),
        Just(["add", "$3", "%r8d"]),
        Just(["xor", "%edi", "%r8d"]),
        Just(["mov", "%cs", "%esi"]),
        Just(["mov", "%edi", "%edx"]),
    ];
    (select(MACROS), prop::collection::vec((arguments, 0..3_u8, any::<bool>()), 1..5)).prop_map(|(body, calls)| {
        let mut text = String::new();
        for ([op, a, b], n, keywords) in calls {
            let call = if keywords { format!("b={b}, op={op}, n={n}, a={a}") } else { format!("{op}, {a}, {b}, {n}") };
            writeln!(text, "\tname%% {call}").expect("a string");
        }
        format!("\t.macro name%% op, a, b, n=1\n\t{body}\n\t.endm\n{}", function(&text))
    })
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
    "\tjmp 1f\n\t.byte 0xfa\n1:\n",
];

/// Macros that are named like instructions; after they are gone, the instructions themselves.
fn named() -> impl Strategy<Value = String> {
    const CALLS: &[&str] = &["", " 0", " 1", " x=2", " x=0"];
    let call = (select(CALLS), any::<bool>());
    let calls = prop::collection::vec(call, 1..4);
    (select(NAMES), select(BODIES), select(BODIES), calls, 0..4_u8).prop_map(|(name, body, other, calls, then)| {
        let mut text = String::new();
        for (arguments, upper) in calls {
            // Names of macros are the same in capitals.
            let name = if upper { name.to_uppercase() } else { name.to_owned() };
            writeln!(text, "\t{name}{arguments}").expect("a string");
        }
        let skipped = format!("\tjmp 9f\n\t{name}\n9:\n");
        let (before, after) = match then {
            0 => (skipped, format!("\t.purgem {name}\n")),
            1 => (String::new(), format!("\t.purgem {name}\n{skipped}")),
            2 => (
                String::new(),
                format!("\t.purgem {name}\n\t.macro {name} x=1\n{other}\t.endm\n{text}\t.purgem {name}\n"),
            ),
            _ => (skipped.clone(), format!("\t.purgem {name}\n{skipped}")),
        };
        // The macro comes to be in the middle of the function, so that what is in front is the instruction.
        function(&format!("{before}\t.macro {name} x=1\n{body}\t.endm\n{text}{after}"))
    })
}

/// Macros that define macros.
fn defining() -> impl Strategy<Value = String> {
    const DEFINERS: &[&str] = &[
        "\t.macro define%% name, code:vararg\n\t.macro \\name\n\t\\code\n\t.endm\n\t.endm\n",
        "\t.macro define%% name, code:vararg\n\t.macro \\name x\n\t.ifb \\\\x\n\t\\code\n\t.endif\n\t.endm\n\t.endm\n",
        "\t.macro define%% name, code:vararg\n\t.macro \\name\n\t.rept 2\n\t\\code\n\t.endr\n\t.endm\n\t.endm\n",
    ];
    const DEFINED: &[&str] = &["new%%", "cli", "rdtsc", "swapgs"];
    (select(DEFINERS), select(DEFINED), statement(), 1..3_usize).prop_map(|(definer, name, statement, times)| {
        let code = line(statement);
        let calls = format!("\t{name}\n").repeat(times);
        format!("{definer}\tdefine%% {name}, {}\n{}\t.purgem {name}\n", code.trim(), function(&calls))
    })
}

/// With `.altmacro`: parameters without a backslash, some of them named like suffixes of numeric labels; LOCAL, `%`, `<>`.
fn alternate() -> impl Strategy<Value = String> {
    const STATEMENTS: &[(&str, &str)] = &[
        ("op, a, b", "\top a, b\n"),
        ("b, f, a", "\tb f, a\n"),
        ("op, b, f", "\tLOCAL over\n\tjmp over\n\tcli\nover:\top b, f\n"),
        ("op, a, f", "\tLOCAL over, there\n\tjmp over\nthere:\top a, f\n\tjmp end\\@\nover:\tjmp there\nend\\@:\n"),
        ("op, a, b", "\t\\op \\a, b\n"),
        ("op, a, b", "\top a&, b\n"),
        ("x, b, f", "\tmov %ds, %edx\n\tx b, f\n"),
        ("_1b, _2f, c", "\tcpuid\n\t_1b _2f, c\n"),
        ("x, y, b", "\t.rept 2\n\tx y, b\n\t.endr\n"),
    ];
    const PIECES: &[&str] = &[
        "mov, <!%ds>, <!%edx>",
        "<mov>, <!%es>, <!%ecx>",
        "add, <$5>, <!%r8d>",
        "mov, <!%e!s>, <!%e!cx>",
        "mov <!%cs>, <!%esi>",
        "xor <!%edi>, <!%r8d>",
    ];
    const NUMBERED: &[(&str, &str)] = &[
        ("n", "\tmov %ds, %edx\n\tadd $\\n, %r8d\n"),
        ("b", "\tadd $\\b, %r8d\n\tmov %es, %edx\n"),
        ("f", "\tLOCAL over\n\tjmp over\n\tcli\nover:\t.if f > 4\n\tmov %cs, %esi\n\t.endif\n"),
        ("n", "\tLOCAL t\n\tt = n * 2\n\tpushq $\\t\n\tpushfq\n\tpopq %rdx\n"),
        ("b", "\t.rept b\n\tmov %ds, %edx\n\t.endr\n"),
    ];
    const NUMBERS: &[&str] = &["3", "%3+4", "%2*(1+2)", "<5>", "%(1<<2)"];
    let pieces = (select(STATEMENTS), prop::collection::vec(select(PIECES), 1..4));
    let numbers = (select(NUMBERED), prop::collection::vec(select(NUMBERS), 1..4));
    prop_oneof![pieces, numbers].prop_map(|((parameters, body), calls)| {
        let calls: String = calls.iter().map(|call| format!("\talt%% {call}\n")).collect();
        format!("\t.altmacro\n\t.macro alt%% {parameters}\n{body}\t.endm\n{}\t.noaltmacro\n", function(&calls))
    })
}

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

/// Hand encodings that come out of repetitions, parameters and symbols.
fn encoded_by_parts() -> impl Strategy<Value = String> {
    const FORMS: &[&str] = &[
        "\t.irp x, A, B\n\t.byte \\x\n\t.endr\n",
        "\t.byte a%%, B\n\ta%% = A\n",
        "\t.set a%%, A\n\t.byte a%%, B\n",
        "\t.rept 2\n\t.byte A, B\n\t.endr\n",
        "\t.macro e%% x, y\n\t.byte \\x, \\y\n\t.endm\n\te%% A, B\n",
        "\t.macro e%% x:vararg\n\t.byte \\x\n\t.endm\n\te%% A, B\n\te%% 0x90\n",
        "\t.macro e%% x, y\n\t.word \\x | \\y << 8\n\t.endm\n\te%% A, B\n",
        "\t.word A + B * 256\n",
        "\t.fill 1, 2, A + B * 256\n",
        "\t.fill 1, 1, A; .byte B\n",
        "\t.skip 1, A\n\t.skip 1, B\n",
        "\t.byte A\n\t.loc 1 1\n\t.byte B\n",
        "\t.byte A # cli\n\t/* cli */ .byte B\n",
        "\t.byte A\n.L%%:\t.byte B\n",
        "\t.if 1\n\t.byte A\n\t.endif\n\t.byte B\n",
        "\t.byte A\n\t.pushsection .data\n\t.byte 1\n\t.popsection\n\t.byte B\n",
        "\t.byte A, (B)\n\t.byte (A), B\n\t.byte (A),(B)\n",
        "\t.macro e%% x y\n\t.byte \\x\n\t.byte \\y\n\t.endm\n\te%% A B\n",
        "\t.byte 0x66, A, B\n\t.byte 0x48; .byte A, B\n",
        "\trex.w; .byte A, B\n",
        "\t.byte 0xb9, A, B, 0, 0\n",
        "\t.byte 0xb9; .word A + B * 256; .word 0\n",
        "\t.byte 0x66; mov %ds, %edx; .byte A, B\n",
    ];
    const ENCODED: &[(u8, u8)] = &[(0x8c, 0xda), (0x0f, 0xa2), (0x0f, 0x31), (0x8c, 0xc6), (0x90, 0x90), (0x31, 0xd2)];
    (select(FORMS), select(ENCODED)).prop_map(|(form, (a, b))| {
        let code = form.replace('A', &format!("{a:#x}")).replace('B', &format!("{b:#x}"));
        format!("\t.file 1 \"x.c\"\n{}", function(&format!("{code}\tinc %r8d\n")))
    })
}

fn fragments() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => parametrized(),
        2 => shared(),
        2 => named(),
        1 => defining(),
        2 => alternate(),
        1 => hand_encoded(),
        1 => encoded_by_parts(),
    ]
}

#[test]
fn macros_and_hand_encodings_compute_the_same() {
    nothing_is_silently_wrong(fragments(), &Least { recorded: 50, padded: 50 });
}
