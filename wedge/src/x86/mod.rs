//! The architecture's facts, as the manuals have them: numbers and layouts, each once.
//!
//! They are needed everywhere: by the virtual CPU and the shadow, by each host, by assembly, which
//! takes them as constant operands. Wherever two places knew the same bit, one of them would one
//! day know it wrong. Nothing here depends on a guest or a host; what an instruction does is in
//! [`cpu`](crate::cpu).

pub mod control;
pub mod flags;
pub mod msr;
pub mod paging;
pub mod segment;
pub mod vector;
