//! What the wedge knows of its guest.

pub mod linux;
