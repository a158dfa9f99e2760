//! What the wedge knows of its guest.

pub mod layout;
pub mod linux;
