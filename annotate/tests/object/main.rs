//! The object side, on objects that the assembler and the linker make here and now.

mod comparing;
mod liveness;
mod mutations;
mod reading;
mod scaling;
mod sourcing;
mod support;
mod verifying;
