//! The site rewriter: from a checked table of sites to a kernel whose sensitive instructions are
//! taken over, and back.
//!
//! The way of a site: the [`table`] says where it is; its record is held against the bytes in its
//! slot ([`encoding`]); a [`policy`] decides how it can be taken; [`fuse`], [`stub`] or
//! [`templates`] say what is written. The [`Engine`] keeps what it needs to undo and redo that, and
//! to tell where in the guest a stub's instruction belongs: [`plan`] before the guest runs,
//! [`build`], [`live`] and [`present`].
//!
//! There are two kinds of host. Where the guest's kernel has its privileges, its instructions stay,
//! and what may be added is a counter or a hook: native, identity and profile mode. Where it has
//! none they are replaced: deprivileged mode.
//!
//! All of it is arithmetic on bytes. Where the guest's text is, and how it comes to be writable, is
//! behind [`GuestText`]; the memory for stubs, counters and notes is handed in. So the same code
//! runs in a test on any machine.
//!
//! Addresses are virtual ones at run time: what is written is relative to them. At boot nothing
//! runs there yet, and [`GuestText`] looks an address up in the loaded image.

mod build;
mod bytes;
mod encoding;
mod engine;
mod fuse;
mod live;
mod moves;
mod order;
mod plan;
mod policy;
mod present;
mod site;
mod stub;
mod summary;
mod table;
mod templates;

pub use engine::{Engine, Memory};
pub use live::Outcome;
pub use policy::{Deprivileged, Form, Hook, Left, Mode, stays};
pub use present::Presented;
pub use site::{Flush, Original, Site};
pub use stub::{Hooks, INT3, STUB_SIZE};
pub use summary::{Lost, Summary};
pub use table::{Reason, Refusal, SiteTable};
pub use templates::{Interrupted, Word};

use annotate::check::Contradiction;
use annotate::record::AllegedSite;

/// What the kernel does with a site when it applies alternatives (Linux 6.1,
/// `arch/x86/kernel/alternative.c`, `apply_alternatives`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing: it is in no replacement.
    Never,
    /// It may copy the site, which is all of a replacement, to this address; 0 if that is freed
    /// after boot.
    Whole(u64),
    /// It may copy the site, with more of its replacement, to this address.
    Part(u64),
    /// It may copy the site somewhere.
    Somewhere,
}

impl Applied {
    /// Where the site may be copied to, 0 if that is nowhere, nowhere that lasts, or not known.
    fn address(self) -> u64 {
        match self {
            Self::Whole(address) | Self::Part(address) => address,
            Self::Never | Self::Somewhere => 0,
        }
    }
}

/// Text of the guest that can be written to.
pub trait GuestText {
    /// The `length` bytes at an address, `None` if they are no text.
    fn slot(&mut self, address: u64, length: usize) -> Option<&mut [u8]>;
}

/// Text that is all in one piece.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Its bytes.
    pub bytes: &'a mut [u8],
    /// The address of the first.
    pub address: u64,
}

impl GuestText for Piece<'_> {
    fn slot(&mut self, address: u64, length: usize) -> Option<&mut [u8]> {
        let offset = usize::try_from(address.wrapping_sub(self.address)).ok()?;
        self.bytes.get_mut(offset..offset.checked_add(length)?)
    }
}

/// Holds an alleged site against the bytes of its slot, as [`annotate::check::check`] does, only
/// faster.
///
/// # Errors
///
/// The first contradiction between the two.
pub fn check(site: &AllegedSite, slot: &[u8]) -> Result<(), Contradiction> {
    encoding::Shape::of(site, slot, bytes::Bytes::read(slot)).map(|_| ())
}

#[cfg(test)]
mod tests;
