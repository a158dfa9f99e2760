//! Properties of the text stage that hold for any text.
//!
//! The inputs are arbitrary bytes, and programs put together from lines that are sensitive, look
//! sensitive, or surround what is. `PROPTEST_CASES` makes a longer run of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use annotate::object::{Elf, compare, verify};
use annotate::text::{self, Options};
use proptest::prelude::*;

/// Lines of programs that assemble, in any order.
const LINES: &[&str] = &[
    "\tcli",
    "\tsti; hlt",
    "\tsti",
    "\tpushf",
    "\tpop %rax",
    "\tpushf ; pop %r12",
    "\tpush %rdi; popf",
    "\tpush %rax",
    "\tpopfq # comment; cli",
    "\trep\n\tinsw",
    "\tinsb",
    "\toutsl",
    "\t.byte 0xf3; insb",
    "\t.byte 0x0f\n\t.byte 0x01, 0xca",
    "\t.byte 0x90",
    "\tmov %cr3, %rax /* cr3\n cli */",
    "\tmov %rax, %cr4; nop",
    "\tmovl %eax, %ds",
    "\tlgdt 8(%rsp)",
    "\tverw selector(%rip)",
    "\trdmsr",
    "1:\twrmsr",
    "2:",
    "\tjmp 1f\n1:",
    "\tje 2f\n2:",
    "\t.pushsection .rodata\n\t.byte 0xfa\n\t.popsection",
    "\t.pushsection .init.text, \"ax\"\n\tcli\n\t.popsection",
    "\t.pushsection __ex_table, \"a\"\n\t.long 1b - ., 1b - ., 0\n\t.popsection",
    "\t.code32\n\tcli\n\t.code64",
    "\t.intel_syntax noprefix\n\tmov rax, cr0\n\t.att_syntax prefix",
    "\talternative \"nop\", \"stac\"",
    "\talternative \"rdtsc\", \"\"",
    "\tmove %rax, %cr3",
    "\tmove %rax, %rbx",
    "\tmove %gs, %rax",
    "\tapply rdmsr",
    "\tapply nop",
    "\t.pushsection .rodata\n\t.ascii \"cli\\n; sti\"\n\t.popsection",
    "\tmovb $';', %al",
    "\tmovl $1, %ecx",
    "\txorl %eax, %eax",
    "\tcall function",
    "\tret",
    "\t.if 0\n\tcli\n\t.endif",
    "\t.rept 2\n\tswapgs\n\t.endr",
    "#APP\n# 12 \"file.h\" 1\n\tcli\n# 0 \"\" 2\n#NO_APP",
    "\r\n",
];

const PROLOGUE: &str = "\
	.macro alternative old, new
	\\old
	.pushsection .altinstr_replacement, \"ax\"
	\\new
	.popsection
	.endm
	.macro move from, to
	mov \\from, \\to
	.endm
	.macro apply op
	\\op
	.endm
	.data
selector: .quad 0
	.text
1:
";

const EPILOGUE: &str = "1:\n2:\nfunction: ret\n";

fn program() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(LINES), 0..40)
        .prop_map(|lines| format!("{PROLOGUE}{}\n{EPILOGUE}", lines.join("\n")))
}

fn annotated(source: &[u8]) -> Vec<u8> {
    let options = Options { objtool_hints: true, ..Options::default() };
    let mut text = Vec::new();
    text::annotate(source, &options).write_to("file.s", &mut text).unwrap();
    text
}

fn assemble(directory: &Path, name: &str, text: &[u8]) -> (Output, Option<Vec<u8>>) {
    let (source, object) = (directory.join(name).with_extension("s"), directory.join(name).with_extension("o"));
    fs::write(&source, text).unwrap();
    let output = Command::new("as").arg("--64").arg(&source).arg("-o").arg(&object).output().unwrap();
    (output, fs::read(object).ok())
}

/// Whether `part` is left over when bytes are taken out of `whole`.
fn is_subsequence(part: &[u8], whole: &[u8]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|byte| rest.any(|other| other == byte))
}

/// Any text: bytes of all kinds, but those that mean something to the scanner often.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        3 => prop::sample::select(LINES).prop_map(|line| line.as_bytes().to_vec()),
        2 => prop::sample::select(b"\"'\\;#/*{}()=:.,%$\n\r\0 ".as_slice()).prop_map(|byte| vec![byte]),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => prop::sample::select(&[".macro a b", ".endm", ".irp x, cli, \\y", "\\x", ".endr", "\\b", ".byte \\b"][..])
            .prop_map(|line| line.as_bytes().to_vec()),
    ];
    prop::collection::vec((pieces, prop::bool::ANY), 0..60).prop_map(|pieces| {
        let mut text = Vec::new();
        for (piece, newline) in pieces {
            text.extend(piece);
            if newline {
                text.push(b'\n');
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn every_byte_and_line_of_any_text_is_kept(source in any_text()) {
        let text = annotated(&source);
        prop_assert!(is_subsequence(&source, &text));
        if text != source {
            let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').count();
            prop_assert_eq!(lines(&text), lines(&source) + 2, "the prelude and the line marker");
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_trouble(source in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(is_subsequence(&source, &annotated(&source)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn programs_become_complete_and_the_same_but_for_pads(program in program()) {
        let directory = tempfile::tempdir().unwrap();
        let (plain_output, plain) = assemble(directory.path(), "plain", program.as_bytes());
        let (padded_output, padded) = assemble(directory.path(), "padded", &annotated(program.as_bytes()));
        prop_assert_eq!(plain_output.status.code(), padded_output.status.code(),
            "{}", String::from_utf8_lossy(&padded_output.stderr));
        if let (Some(plain), Some(padded)) = (plain, padded) {
            let elf = Elf::parse(&padded).unwrap();
            let report = verify(&elf).unwrap();
            prop_assert!(report.problems.is_empty(), "{:#?}", report.problems);
            if let Err(difference) = compare(&plain, &padded) {
                return Err(TestCaseError::fail(difference.to_string()));
            }
        }
    }
}
