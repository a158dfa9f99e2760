//! What padded code computes is what plain code computes.
//!
//! The text stage decides by what it reads. Whatever it overlooks, it overlooks in its own tests,
//! too. Here nothing is known of how it decides: texts are generated from what the assembler's
//! manual allows, assembled plain and padded, linked, and run. Of the two programs, either both
//! print the same, or somebody has said beforehand that they would not: the assembler stage by
//! refusing the text, or `verify` by rejecting the object.
//!
//! Sites can be executed because many a sensitive instruction works in ring 3 and returns what does
//! not change there; that is what makes them sensitive. The others are jumped over.
//!
//! `PROPTEST_CASES` makes a longer run of it.

#[path = "../support/mod.rs"]
mod support;

mod debug_information;
mod distances;
mod encodings;
mod entries;
mod instructions;
mod macros;
mod messages;
mod oracle;
mod parameters;
mod statements;
mod tables;
