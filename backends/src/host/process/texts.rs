//! Numbers as texts for system calls.

use core::ffi::CStr;
use core::fmt::{self, Write as _};

/// A number as a text that ends with a 0.
#[derive(Debug, Default)]
pub(super) struct Decimal {
    bytes: [u8; 12],
    length: usize,
}

impl Decimal {
    /// Any number has room.
    pub(super) fn new(number: u32) -> Self {
        let mut text = Self::default();
        let _ = write!(text, "{number}");
        text
    }

    pub(super) fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Write for Decimal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        // The last byte stays 0.
        let last = self.bytes.len() - 1;
        self.bytes[..last].get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
