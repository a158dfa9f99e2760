//! The object side: objects, modules and kernels that hold records.
//!
//! * [`elf`]: the file; [`records`]: the records in it; [`text`]: the instructions in it.
//! * [`mod@verify`]: every record held against the text, and every sensitive instruction of the
//!   text against the records; [`report`]: what came of it.
//! * `references`: what refers to places in text, which a slot or the length of it could have made
//!   wrong.
//! * [`mod@compare`]: the padded object held against the plain one.
//! * [`low`]: what keeps an object out of the lower half of the address space.
//! * `liveness`: which status flags matter after a site, where the linked text tells more than the
//!   assembler's.
//! * [`sources`]: the source line of an address.
//!
//! What is special about a Linux kernel is in [`linux`](crate::linux).
//!
//! All of it reads files that anybody may have written: a wrong file gives an error or a finding,
//! never a panic.

pub mod compare;
pub mod elf;
mod liveness;
pub mod low;
pub mod records;
mod references;
pub mod report;
pub mod sources;
pub mod text;
pub mod verify;

pub use compare::compare;
pub use elf::{Elf, Error};
pub use records::{Records, has_records};
pub use verify::verify;
