//! Builds Linux through `afterburner`, boots it in QEMU, and holds the result against oracles of
//! its own.
//!
//! But for the writer of initramfs archives, nothing here shares code with the parts it tests: the
//! sensitive instructions are found by `objdump` and a list of mnemonics ([`census`]), the records
//! are read straight from the file format ([`records`]), whether a site can be rewritten is tried
//! by rewriting every one of them ([`identity`]), and what the wedge counts is counted by a plugin
//! of QEMU's too ([`class_counts`]).

pub mod cache;
pub mod census;
pub mod class_counts;
pub mod command;
pub mod costs;
pub mod debian;
pub mod debug_information;
pub mod distribution;
pub mod domu;
pub mod expect;
pub mod guest;
pub mod guest_process;
pub mod host;
pub mod icount;
pub mod identity;
pub mod image_file;
pub mod kernel;
pub mod probes;
pub mod programs;
pub mod qemu;
pub mod records;
pub mod selftests;
pub mod server;
pub mod soak;
pub mod source;
pub mod test_modules;
pub mod unnamed;
pub mod unprivileged;
pub mod warnings;
pub mod wedge_port;
