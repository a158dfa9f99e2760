//! What does not assemble is refused in the assembler's own words, wherever it stands.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;

use crate::oracle::{Oracle, program, runner};
use crate::{distances, macros, parameters};

/// Lines that make most texts wrong, and some only there where they are.
const WRONG: &[&str] = &[
    "\tnonsense %eax",
    "\tmovl %rax, %eax",
    "\t.error \"no\"",
    "\t.warning \"careful\"",
    "\tjmp 55f",
    "\tmov %ds, nobody(",
    "\tcli %eax",
    "\t.endm",
    "\t.endr",
    "\t.endif",
    "\t.if 1",
    "\t.rept 2",
    "\t.macro lost",
    "\t.purgem nobody",
    "\t.org 0",
    "\t.include \"nobody.h\"",
    "compute0:",
    "\t.popsection",
    "\tmov %cr0, \\nobody",
    "\tpushfq nobody; cli; nonsense",
];

#[test]
fn what_does_not_assemble_is_refused_in_the_same_words() {
    let oracle = Oracle::new();
    let fragment = prop_oneof![distances::fragments(), macros::fragments(), parameters::fragments()];
    let verdict = runner().run(&(fragment, select(WRONG), 0..40_usize), |(fragment, wrong, place)| {
        let text = program(&[fragment]);
        let mut lines: Vec<_> = text.lines().collect();
        lines.insert(place % lines.len(), wrong);
        let text = lines.join("\n") + "\n";
        oracle.messages(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))
    });
    if let Err(error) = verdict {
        panic!("{error}");
    }
}
