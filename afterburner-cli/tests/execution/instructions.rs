//! The instructions that generated functions are made of, with their lengths.

use proptest::prelude::*;

use crate::support::Lab;

/// Statements in one line, and how many bytes they are.
pub(crate) type Code = (&'static str, usize);

/// What computes something in EAX.
pub(crate) const ORDINARY: &[Code] = &[
    ("nop", 1),
    ("inc %eax", 2),
    ("xor $0x35, %al", 2),
    ("add $7, %eax", 3),
    ("rol $3, %eax", 3),
    ("imul $31, %eax, %eax", 3),
    ("lea 5(%rax,%rax,2), %eax", 4),
    ("test %eax, %eax", 2),
    ("xor $0x12345, %eax", 5),
];

/// Sensitive instructions that are harmless in ring 3. EAX, and registers of the caller's, are as
/// before.
pub(crate) const EXECUTED: &[Code] = &[
    ("mov %ds, %edx", 2),
    ("mov %es, %ecx", 2),
    ("mov %cs, %esi", 2),
    ("push %fs; pop %rdx", 3),
    ("pushfq; popq %rdx", 2),
    ("pushfq; popq %rdx; pushq %rdx; popfq", 4),
    ("push %rax; rdtsc; pop %rax", 4),
    ("push %rax; push %rbx; cpuid; pop %rbx; pop %rax", 6),
];

/// Sensitive instructions that fault in ring 3, jumped over.
pub(crate) const SKIPPED: &[Code] = &[
    ("jmp 77f; cli; 77:", 3),
    ("jmp 77f; sti; hlt; 77:", 4),
    ("jmp 77f; wrmsr; 77:", 4),
    ("jmp 77f; mov %cr0, %rdx; 77:", 5),
    ("jmp 77f; in %dx, %al; 77:", 3),
    ("jmp 77f; swapgs; 77:", 5),
];

pub(crate) fn ordinary() -> impl Strategy<Value = Code> + Clone {
    prop::sample::select(ORDINARY)
}

pub(crate) fn site() -> impl Strategy<Value = Code> + Clone {
    prop_oneof![3 => prop::sample::select(EXECUTED), 1 => prop::sample::select(SKIPPED)]
}

pub(crate) fn any_code() -> impl Strategy<Value = Code> + Clone {
    prop_oneof![ordinary(), site()]
}

/// One line for each.
pub(crate) fn lines(code: &[Code]) -> String {
    code.iter().map(|(text, _)| format!("\t{text}\n")).collect::<Vec<_>>().concat()
}

pub(crate) fn length(code: &[Code]) -> usize {
    code.iter().map(|(_, length)| length).sum()
}

#[test]
fn lengths_are_the_assembler_s() {
    let lab = Lab::new();
    let codes = [ORDINARY, EXECUTED, SKIPPED].concat();
    let section = |number, code| format!("\t.section .text.{number}, \"ax\"\n\t{code}\n");
    let text: String = codes.iter().enumerate().map(|(number, (code, _))| section(number, code)).collect();
    lab.write("text.s", text);
    lab.run("as", &["text.s", "-o", "text.o"]).silent_success();
    let object = lab.read("text.o");
    for (number, (code, length)) in codes.iter().enumerate() {
        assert_eq!(crate::oracle::section(&object, &format!(".text.{number}")).len(), *length, "{code}");
    }
}
