//! The names of files that are opened when the arguments are gone.

use core::ffi::CStr;

use super::arguments::Name;
use crate::runtime::exclusive::Exclusive;

/// A name may have so many bytes, with the 0 at its end (`PATH_MAX`); so may all names together.
const LENGTH: usize = 4096;

static NAMES: Exclusive<[u8; LENGTH]> = Exclusive::new([0; _]);

/// The names are too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooLong;

/// Where names are kept.
#[derive(Debug)]
pub(super) struct Names(&'static mut [u8]);

impl Names {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(NAMES.take())
    }

    /// Keeps one. The 0 behind it is there.
    pub(super) fn keep(&mut self, name: Name<'_>) -> Result<Name<'static>, TooLong> {
        let rest = core::mem::take(&mut self.0);
        let (kept, behind) = rest.split_at_mut_checked(name.0.len() + 1).ok_or(TooLong)?;
        self.0 = behind;
        let kept = &mut kept[..name.0.len()];
        kept.copy_from_slice(name.0);
        Ok(Name(kept))
    }
}

/// A name, as a system call takes it.
#[derive(Debug)]
pub(super) struct Path([u8; LENGTH]);

impl Path {
    /// That of a kept name, which has no 0 in it.
    pub(super) fn new(name: Name<'static>) -> Self {
        let mut path = [0; LENGTH];
        path[..name.0.len()].copy_from_slice(name.0);
        Self(path)
    }

    pub(super) fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}
