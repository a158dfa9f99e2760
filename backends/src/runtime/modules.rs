//! The memory that the wedge watches modules with.

use wedge::vm::modules::{REGIONS, Region};

use super::exclusive::Exclusive;

/// What is kept of each region that modules may be in.
pub(crate) static WATCHED: Exclusive<[Region; REGIONS]> = Exclusive::new([Region::EMPTY; REGIONS]);
