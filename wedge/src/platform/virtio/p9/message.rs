//! Messages: numbers, the lowest byte first, and texts with their length in front.

use core::ffi::CStr;
use core::fmt;

use super::{Answer, Attributes, Errno};

/// Bytes of a name, with a 0 behind it (`NAME_MAX`).
const NAME_LENGTH: usize = 256;

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME_LENGTH],
}

impl Name {
    /// Takes a name, if it is of something in a directory.
    ///
    /// # Errors
    ///
    /// When it is too long, or none.
    pub fn new(text: &[u8]) -> Answer<Self> {
        if text.is_empty()
            || [b".".as_slice(), b".."].contains(&text)
            || text.iter().any(|byte| [0, b'/'].contains(byte))
        {
            return Err(Errno::INVALID);
        }
        let mut bytes = [0; NAME_LENGTH];
        let place = bytes[..NAME_LENGTH - 1].get_mut(..text.len()).ok_or(Errno::LONG_NAME)?;
        place.copy_from_slice(text);
        Ok(Self { bytes })
    }

    /// As a system call takes it.
    #[must_use]
    pub fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

/// What is left to be read of a message.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn array<const LENGTH: usize>(&mut self) -> Answer<[u8; LENGTH]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno::INVALID)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn byte(&mut self) -> Answer<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn short(&mut self) -> Answer<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn number(&mut self) -> Answer<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Answer<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self) -> Answer<&'a [u8]> {
        let length = self.short()?.into();
        let (text, rest) = self.0.split_at_checked(length).ok_or(Errno::INVALID)?;
        self.0 = rest;
        Ok(text)
    }

    pub(super) fn name(&mut self) -> Answer<Name> {
        Name::new(self.text()?)
    }
}

/// Kinds of files in a qid (`QTDIR`, `QTSYMLINK`).
const DIRECTORY: u8 = 0x80;
const SYMLINK: u8 = 0x02;

/// The same in a mode (`inode(7)`).
const KIND: u32 = 0o170_000;
const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_SYMLINK: u32 = 0o120_000;

/// Which file something is, and in which state: kind, version, number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Qid(u8, u32, u64);

impl Qid {
    /// That of a file. The version is another one after the file was written, on the host too: a
    /// guest that keeps what it has read looks at that. By 0 it would be told not to keep anything.
    #[expect(clippy::cast_possible_truncation, reason = "a digest")]
    pub(super) fn of(attributes: &Attributes) -> Self {
        let kind = match attributes.mode & KIND {
            MODE_DIRECTORY => DIRECTORY,
            MODE_SYMLINK => SYMLINK,
            _ => 0,
        };
        let modified = attributes.modified;
        let version = modified.seconds << 30 ^ modified.nanoseconds ^ attributes.size << 8;
        Self(kind, ((version ^ version >> 32) as u32).max(1), attributes.number)
    }

    /// That of an entry, of which only the kind is known (`DT_DIR`, `DT_LNK`).
    pub(super) fn of_entry(number: u64, kind: u8) -> Self {
        let kind = match kind {
            4 => DIRECTORY,
            10 => SYMLINK,
            _ => 0,
        };
        Self(kind, 0, number)
    }
}

/// A message that is written.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    /// An empty one.
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, length: 0 }
    }

    /// What is in it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// How much more it takes.
    pub(super) fn room(&self) -> usize {
        self.bytes.len() - self.length
    }

    fn put(&mut self, bytes: &[u8]) -> Answer {
        let place = self.bytes.get_mut(self.length..self.length + bytes.len()).ok_or(Errno::INVALID)?;
        place.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    pub(super) fn byte(&mut self, value: u8) -> Answer {
        self.put(&[value])
    }

    pub(super) fn short(&mut self, value: u16) -> Answer {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn number(&mut self, value: u32) -> Answer {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn long(&mut self, value: u64) -> Answer {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn text(&mut self, text: &[u8]) -> Answer {
        self.short(u16::try_from(text.len()).map_err(|_| Errno::INVALID)?)?;
        self.put(text)
    }

    pub(super) fn qid(&mut self, qid: Qid) -> Answer {
        self.byte(qid.0)?;
        self.number(qid.1)?;
        self.long(qid.2)
    }

    /// Puts a number at a place that was written before.
    pub(super) fn correct(&mut self, place: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(place..place + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
}
