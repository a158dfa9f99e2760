//! Debug information changes no code: what assembles to nothing, and nobody can branch to, may
//! stand anywhere.
//!
//! The oracle is the same text without it. Between the instructions of a sequence the difference
//! would be a NOP, or two slots where there was one.

use std::cell::Cell;

use object::{Object as _, ObjectSection, ObjectSymbol as _, RelocationTarget};
use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle::{runner, section};
use crate::support::Lab;

/// Statements of functions; sequences, the halves of sequences, and what is in between.
const STATEMENTS: &[&str] = &[
    "pushfq",
    "popq %rax",
    "pushf",
    "pop %r12",
    "pushq %rdi",
    "popfq",
    "push %rax",
    "popf",
    "sti",
    "hlt",
    "cli",
    "sti",
    "hlt",
    "mov %ds, %edx",
    "mov %rax, %cr3",
    "mov %cr0, %rax",
    "movl $1, %eax",
    "xorl %ecx, %ecx",
    "addq %rdi, %rax",
    "jmp 1f",
    "1:",
    "je .Lreal",
    "call other",
    "ret",
    "wrmsr",
    "rdmsr",
    "rdtsc",
    "cpuid",
    "swapgs",
    "in (%dx), %al",
    "pushq $3",
    "testl %eax, %eax",
    "rep",
    "insb",
    ".byte 0x0f",
    ".byte 0x01, 0xca",
    ".byte 0xfa",
    "btl $9, %eax",
    "lidt (%rdi)",
    "invlpg (%rax)",
];

/// What assembles to nothing. `{n}` is another number each time, `{file}` the next one.
const NOTHING: &[&str] = &[
    "\t.loc 1 {n} 3",
    "\t.loc 1 {n}",
    "\t.loc 1 {n} 5 is_stmt 0",
    "\t.loc 1 {n} 5 view .LVU{n}",
    "\t.loc 1 {n} 0 prologue_end",
    "\t.loc 1 {n} 7 discriminator 2",
    "\t.loc 1 {n} 3\n.LVL{n}:\n\t.loc 1 {n} 4 view -0",
    "\t.file {file} \"other.c\"",
    "\t.file {file} \"dir/other.h\"",
    "\t.cfi_def_cfa_offset 16",
    "\t.cfi_adjust_cfa_offset 8",
    "\t.cfi_remember_state\n\t.cfi_restore_state",
    "\t.cfi_offset 3, -16",
    "\t.cfi_def_cfa_register 6",
    "\t.cfi_escape 0x2e, 0x10",
    "\t.cfi_undefined rip",
    "\t# a comment; cli",
    "/* a comment;\n cli */",
    "// nothing",
    "# {n} \"file.c\"",
    "# {n} \"file.c\" 2",
    ".Lunused{n}:",
    ".Lunused{n}: .Ltoo{n}:",
    ".LVL{n}:",
    ".LVL{n}:\n\t.loc 1 {n} 3",
    ".LBB{n}:\n.LBE{n}:",
    ".LFB{n}:",
    "\t.ident \"compiler\"",
    "\t.type typed{n}, @function",
    "\t.size sized{n}, 8",
    "\t.hidden hidden{n}",
    "\t.set number{n}, {n}",
    "\t.pushsection .debug_macro, \"\", @progbits\n\t.byte {n} & 7\n\t.popsection",
    "\t.section .debug_str, \"MS\", @progbits, 1\n\t.string \"{n}\"\n\t.text",
    "\t.pushsection .comment; .asciz \"cli\"; .popsection",
    "\t.subsection 0",
    "\t.text",
    ";;",
    "\t;",
    "",
    "\t.att_syntax prefix",
    "\t.code64",
];

/// Where labels are referred to by nobody but a debugger.
const SECTIONS: &[&str] = &[
    "\t.section .debug_loclists, \"\", @progbits\n",
    "\t.section .debug_info, \"\", @progbits\n",
    "\t.section .debug_ranges, \"\", @progbits\n",
    "\t.pushsection .debug_aranges, \"\", @progbits\n",
];

/// Ways in which debug sections refer to labels.
const REFERENCES: &[&str] = &[
    "\t.quad {label}\n",
    "\t.quad {label}, {label} - .Lstart\n",
    "\t.uleb128 {label} - .Lstart\n",
    "\t.long .Lend - {label}\n",
    "\t.8byte {label}, .Lend\n",
];

/// A text without debug information, and with it.
#[derive(Clone, Debug)]
struct Pair {
    without: String,
    with: String,
}

fn pair() -> impl Strategy<Value = Pair> {
    let between = prop::collection::vec(select(NOTHING), 0..3);
    let statements = prop::collection::vec((select(STATEMENTS), between), 2..16);
    (statements, select(SECTIONS), select(REFERENCES)).prop_map(|(statements, section, reference)| {
        let lines: Vec<_> = statements.iter().map(|(statement, nothing)| (*statement, &nothing[..])).collect();
        Pair::of(&lines, section, reference)
    })
}

impl Pair {
    fn of(statements: &[(&str, &[&str])], section: &str, reference: &str) -> Self {
        let (mut without, mut code, mut number, mut files) = (String::new(), String::new(), 10, 1);
        for (statement, nothing) in statements {
            let line = format!("\t{statement}\n");
            without += &line;
            code += &line;
            for nothing in *nothing {
                number += 1;
                files += usize::from(nothing.contains("{file}"));
                code += &nothing.replace("{n}", &number.to_string()).replace("{file}", &files.to_string());
                code.push('\n');
            }
        }
        let labels = code.split_whitespace().filter_map(|word| word.strip_suffix(':'));
        let referred = labels.filter(|label| label.starts_with(".LVL") || label.starts_with(".LB"));
        let debug: String = referred.map(|label| reference.replace("{label}", label)).collect();
        let tail = "1:\n.Lreal:\tret\nother:\tret\n";
        Self {
            without: format!("\t.text\nfunction:\n{without}{tail}"),
            with: format!(
                "\t.file \"x.c\"\n\t.text\n.Lstart:\n\t.file 1 \"x.c\"\nfunction:\n\t.cfi_startproc\n{code}{tail}\
                 \t.cfi_endproc\n.Lend:\n{section}{debug}"
            ),
        }
    }
}

/// What is said of a file's sites: the records as they are, and the place in the section that each
/// one means.
type Records = (Vec<u8>, Vec<(u64, i64)>);

fn records(file: &[u8]) -> Records {
    let object = object::File::parse(file).expect("an object");
    let mut places = Vec::new();
    for (offset, relocation) in object.section_by_name(".note.afterburn").iter().flat_map(ObjectSection::relocations) {
        let RelocationTarget::Symbol(symbol) = relocation.target() else { panic!("a relocation to nothing") };
        let symbol = object.symbol_by_index(symbol).expect("a symbol");
        places.push((offset, relocation.addend().wrapping_add_unsigned(symbol.address())));
    }
    (section(file, ".note.afterburn"), places)
}

/// The code and the records that a text becomes; the complaints if it is refused.
fn annotated(lab: &Lab, text: &str, options: &[&str]) -> Result<(Vec<u8>, Records), String> {
    lab.write("text.s", text);
    let result = lab.afterburner(&[&["as", "text.s", "-o", "text.o"], options].concat());
    if !result.status.success() {
        return Err(result.stderr);
    }
    let object = lab.read("text.o");
    Ok((section(&object, ".text"), records(&object)))
}

/// Whether the code or its records are others; the complaints if one of the texts is refused.
fn differ(lab: &Lab, pair: &Pair, options: &[&str]) -> Result<bool, String> {
    Ok(annotated(lab, &pair.without, &[])? != annotated(lab, &pair.with, options)?)
}

/// What the assembler alone makes of a text.
fn plain_code(lab: &Lab, text: &str) -> Vec<u8> {
    lab.write("text.s", text);
    lab.run("as", &["text.s", "-o", "text.o"]).silent_success();
    section(&lab.read("text.o"), ".text")
}

#[test]
fn each_of_it_may_stand_within_a_sequence() {
    let lab = Lab::new();
    let mut wrong = Vec::new();
    for nothing in NOTHING {
        for sequence in [
            ["pushfq", "popq %rax"],
            ["pushq %rdi", "popfq"],
            ["sti", "hlt"],
            [".byte 0x0f, 0x01", ".byte 0xca"],
            ["rep", "insb"],
        ] {
            let statements: &[(&str, &[&str])] = &[(sequence[0], &[*nothing]), (sequence[1], &[])];
            let pair = Pair::of(statements, SECTIONS[0], REFERENCES[1]);
            assert_eq!(plain_code(&lab, &pair.with), plain_code(&lab, &pair.without), "{nothing} is something");
            match differ(&lab, &pair, &[]) {
                Ok(false) => {}
                outcome => wrong.push(format!("{sequence:?}, {nothing:?}: {outcome:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn code_and_records_are_the_same_with_debug_information() {
    let lab = Lab::new();
    let mut runner = runner();
    let recorded = Cell::new(0);
    let verdict = runner.run(&(pair(), any::<bool>()), |(pair, lines)| {
        let options: &[&str] = if lines && !pair.with.contains(".loc") { &["-g"] } else { &[] };
        let differ = differ(&lab, &pair, options).map_err(TestCaseError::fail)?;
        prop_assert!(!differ, "with debug information the code or its records are others:\n{}", pair.with);
        recorded.set(recorded.get() + u32::from(lab.has_records("text.o")));
        Ok(())
    });
    if let Err(error) = verdict {
        panic!("{error}");
    }
    let cases = runner.config().cases;
    assert!(cases < 64 || recorded.get() * 2 > cases, "most texts have sites: {} of {cases}", recorded.get());
}

/// Ways to come to a label between the halves of a sequence: what is in front, the label, what is
/// behind.
const BRANCHED_TO: &[(&str, &str, &str)] = &[
    ("\tjz .LVL1\n", ".LVL1:", ""),
    ("\tjz .LVL1\n", ".LVL1:\n\t.loc 1 2", "\t.section .debug_info, \"\", @progbits\n\t.quad .LVL1\n"),
    ("\tjz .LVL1\n", "\t.loc 1 2\n.LVL1: .LVL2:\n\t.cfi_remember_state", ""),
    ("\tjz .LVL2\n", ".LVL1: .LVL2:", ""),
    ("\tjz \".LVL1\"\n", ".LVL1:", ""),
    ("\tjz .LVL1\n", "\".LVL1\":", ""),
    ("\tjz 5f\n", "5:", ""),
    ("", "5:", "\tjz 5b\n"),
    ("\tcall .LVL1\n", ".LVL1:", ""),
    ("\tlea .LVL1(%rip), %rax\n\tjmp *%rax\n", ".LVL1:", ""),
    ("\tmov $.LVL1, %eax\n\tjmp *%rax\n", ".LVL1:", ""),
    ("\tjz alias\n", ".LVL1:", "\t.set alias, .LVL1\n"),
    ("\tjz alias\n", "\t.set alias, .", ""),
    ("\tjz alias\n", "alias = .", ""),
    ("\tjz .LVL0+2\n", ".LVL1:", "\t.set .LVL0, .LVL1-2\n"),
    ("\tjz .LVL1+0\n", ".LVL1:", ""),
    ("", ".LVL1:", "\t.section .rodata\n\t.quad .LVL1\n"),
    ("", ".LVL1:", "\t.section .rodata\nt:\t.long .LVL1-t\n"),
    ("", ".LVL1:", "\t.pushsection __ex_table, \"a\"\n\t.long .LVL1-., 0\n\t.popsection\n"),
    ("", ".LVL1:", "\t.section .debug_but_loaded, \"a\"\n\t.quad .LVL1\n"),
    ("\t.macro go to\n\tjz \\to\n\t.endm\n\tgo .LVL1\n", ".LVL1:", ""),
    ("\t.macro go n\n\tjz .LVL\\n\n\t.endm\n\tgo 1\n", ".LVL1:", ""),
    ("\t.macro go n\n\tjz .L\\n\\()L1\n\t.endm\n\tgo V\n", ".LVL1:", ""),
    ("\t.altmacro\n\t.macro go n\n\tjz .LVL&n\n\t.endm\n\tgo 1\n\t.noaltmacro\n", ".LVL1:", ""),
    ("\t.irpc n, 1\n\tjz .LVL\\n\n\t.endr\n", ".LVL1:", ""),
    ("\t.irp code, \"jz .LVL1\"\n\t\\code\n\t.endr\n", ".LVL1:", ""),
    ("\t.include \"branch.inc\"\n", ".LVL1:", ""),
    ("\t.intel_syntax noprefix\n\tjz .LVL1\n\t.att_syntax prefix\n", ".LVL1:", ""),
    ("", ".globl outside\noutside:", ""),
    ("", "outside:", "\t.globl outside\n"),
    ("", "outside:", "\t.weak outside\n"),
    ("", "named:", ""),
    ("\tjz .LVL1\n", "\t.macro label n\n.LVL\\n:\n\t.endm\n\tlabel 1", ""),
    ("\t.macro label n\n.LVL\\n:\n\t.endm\n\tjz .LVL1\n", "\tlabel 1", ""),
];

#[test]
fn a_label_that_somebody_can_branch_to_is_in_no_slot() {
    let lab = Lab::new();
    lab.write("branch.inc", "\tjz .LVL1\n");
    let mut wrong = Vec::new();
    for (front, label, behind) in BRANCHED_TO {
        let text = format!(
            "\t.text\n\t.file 1 \"x.c\"\nfunction:\n\t.cfi_startproc\n{front}\tpushfq\n{label}\n\tpopq %rdx\n\tret\n\
             {behind}\t.text\n\t.cfi_endproc\n"
        );
        lab.write("text.s", &text);
        lab.run("as", &["text.s", "-o", "plain.o"]).silent_success();
        if lab.afterburner(&["as", "text.s", "-o", "text.o"]).status.success() {
            let verdict = lab.afterburner(&["verify", "text.o"]);
            let is_apart = verdict.stdout.contains("1 site,") && !verdict.stdout.contains("pushf;pop");
            if verdict.status.success() && !is_apart {
                wrong.push(format!("{}{text}", verdict.stdout));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), BRANCHED_TO.len(), wrong.join("\n"));
}

#[test]
fn a_compiler_s_debug_information_changes_nothing() {
    let lab = Lab::new();
    lab.write("idle.c", include_bytes!("idle.c"));
    let shims = format!("-B{}/", lab.shims(&["as"]).display());
    let compiled = |options: &[&str]| {
        lab.run("gcc", &[&["-c", "idle.c", "-o", "idle.o"], options].concat()).silent_success();
        let object = lab.read("idle.o");
        (section(&object, ".text"), records(&object))
    };
    for level in ["-O0", "-O1", "-O2", "-Os"] {
        let (plain, padded) = (compiled(&[level]), compiled(&[level, &shims]));
        assert!(padded.0.len() > plain.0.len(), "{level}: there are pads");
        for debug in
            ["-g", "-g1", "-g3", "-gdwarf-4", "-gsplit-dwarf", "-gno-as-loc-support", "-Wa,-g", "-fverbose-asm"]
        {
            assert!(compiled(&[level, debug]) == plain, "{level} {debug}: the compiler makes other code");
            assert!(compiled(&[level, debug, &shims]) == padded, "{level} {debug}: other code, or other records of it");
        }
    }
}
