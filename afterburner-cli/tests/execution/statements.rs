//! Statements of functions that keep what they compute in R8D: the sensitive instructions that work
//! in ring 3 change most other registers.

use proptest::prelude::*;
use proptest::sample::select;

/// A statement: the mnemonic, then the operands.
pub(crate) type Statement = &'static [&'static str];

/// Sensitive statements, some of them only with these operands.
pub(crate) const SENSITIVE: &[Statement] = &[
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
pub(crate) const INNOCENT: &[Statement] = &[
    &["add", "$7", "%r8d"],
    &["mov", "%edi", "%edx"],
    &["movl", "%eax", "%ecx"],
    &["xor", "%edi", "%r8d"],
    &["pushq", "$5"],
    &["nop"],
    &["inc", "%r8d"],
    &["imul", "$3", "%r8d", "%r8d"],
];

pub(crate) fn statement() -> impl Strategy<Value = Statement> + Clone {
    prop_oneof![select(SENSITIVE), select(INNOCENT)]
}

pub(crate) fn line(pieces: &[impl AsRef<str>]) -> String {
    let (mnemonic, operands) = pieces.split_first().expect("a mnemonic");
    let operands: Vec<_> = operands.iter().map(AsRef::as_ref).collect();
    format!("\t{} {}\n", mnemonic.as_ref(), operands.join(", "))
}

/// A function with this body, which may leave anything on its stack.
pub(crate) fn function(body: &str) -> String {
    format!(
        "compute%%:\n\tpush %rbx\n\tpush %rbp\n\tmov %rsp, %rbp\n\tmov %edi, %r8d\n{body}\
         \tmov %r8d, %eax\n\tleave\n\tpop %rbx\n\tret\n"
    )
}
