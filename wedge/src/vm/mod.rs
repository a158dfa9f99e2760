//! A guest while it runs, whatever the host.

pub mod modules;
pub mod port;
