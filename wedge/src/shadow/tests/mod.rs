//! The algorithm on a model of a machine.

mod cases;
#[expect(clippy::cast_possible_truncation, reason = "addresses and numbers of tables are small")]
mod machine;
mod oracle;
mod property;
