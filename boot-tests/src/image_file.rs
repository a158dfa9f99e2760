//! Takes a packed image by its bytes, to damage it.
//!
//! A checksum finds every change, and so hides what is behind it: that the wedge believes neither
//! the kernel nor the table of sites. To get there, damage is followed by [`ImageFile::seal`].

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// Bytes of a record of the table of sites.
pub const RECORD: usize = 12;

/// The first bytes of a payload; the digits are the version that the offsets below are of.
const MAGIC: &[u8] = b"Afterburner 0005";

/// Fields of the payload's header, by their offsets.
pub mod field {
    /// The length of the payload, behind the magic.
    pub const LENGTH: usize = 16;
    /// The checksum of what is behind it.
    pub const CHECKSUM: usize = 24;
    /// Where the map of the kernel's image begins.
    pub const IMAGE: usize = 152;
    /// The page-directory-pointer entry for the wedge's window, a physical address.
    pub const WINDOW_ENTRY: usize = 160;
    /// The first address of the range of modules.
    pub const MODULES_START: usize = 176;
    /// The address behind that range.
    pub const MODULES_END: usize = 184;
}

/// The parts of the payload, by the offset of their spans in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The kernel.
    Kernel = 32,
    /// The table of sites.
    Sites = 48,
    /// Where the kernel copies replacements to.
    Copies = 72,
    /// Where the vDSO asks for the number of the processor.
    ProcessorNumbers = 88,
    /// The kernel's relocations.
    Relocations = 104,
    /// The initramfs.
    Initramfs = 120,
    /// The command line.
    CommandLine = 136,
}

/// An image in memory.
#[derive(Clone, Debug)]
pub struct ImageFile {
    bytes: Vec<u8>,
    payload: Range<usize>,
}

impl ImageFile {
    /// Reads an image.
    ///
    /// # Errors
    ///
    /// When it is no ELF file with a payload as its last loadable segment, or that of another
    /// version.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let header = FileHeader64::<LittleEndian>::parse(&*bytes)?;
        let segments = header.program_headers(LittleEndian, &*bytes)?;
        let last = segments.iter().rfind(|segment| segment.p_type(LittleEndian) == PT_LOAD).context("no segments")?;
        let (offset, length) = last.file_range(LittleEndian);
        let start = usize::try_from(offset)?;
        let mut image = Self { payload: start..start + usize::try_from(length)?, bytes };
        // The file has a whole number of pages.
        let length = usize::try_from(u64::from_le_bytes(*image.field(field::LENGTH)?))?;
        image.payload.end = start + length;
        let payload = image.bytes.get(image.payload.clone()).context("the payload is not in the file")?;
        ensure!(
            payload.starts_with(MAGIC),
            "the offsets of a payload's parts that are known here are of another version"
        );
        Ok(image)
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, &self.bytes).with_context(|| format!("writing {}", path.display()))
    }

    /// The payload.
    pub fn payload(&mut self) -> &mut [u8] {
        &mut self.bytes[self.payload.clone()]
    }

    /// A field of the payload's header, or another of its words.
    ///
    /// # Errors
    ///
    /// When it is not in the payload.
    pub fn field(&mut self, offset: usize) -> Result<&mut [u8; 8]> {
        self.payload().get_mut(offset..).and_then(|rest| rest.first_chunk_mut()).context("no such field")
    }

    /// A part of the payload.
    ///
    /// # Errors
    ///
    /// When it is not in the payload.
    pub fn part(&mut self, part: Part) -> Result<&mut [u8]> {
        let mut word = |offset| anyhow::Ok(usize::try_from(u64::from_le_bytes(*self.field(offset)?))?);
        let (offset, length) = (word(part as usize)?, word(part as usize + 8)?);
        self.payload().get_mut(offset..offset + length).with_context(|| format!("{part:?}: not in the payload"))
    }

    /// Puts the checksum right.
    ///
    /// # Errors
    ///
    /// When the payload has no room for one.
    pub fn seal(&mut self) -> Result<()> {
        let sum = checksum(&self.payload()[field::CHECKSUM + 8..]);
        *self.field(field::CHECKSUM)? = sum.to_le_bytes();
        Ok(())
    }
}

/// Words go to four sums in turn, the bytes of an incomplete block of four words to the first; then
/// the sums are summed up.
fn checksum(bytes: &[u8]) -> u64 {
    let add = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut sums = [bytes.len() as u64, 1, 2, 3];
    let whole = bytes.len() / 32 * 4;
    for (number, word) in bytes.chunks(8).take(whole).enumerate() {
        let word = word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        sums[number % 4] = add(sums[number % 4], word);
    }
    for byte in &bytes[whole * 8..] {
        sums[0] = add(sums[0], u64::from(*byte));
    }
    sums.into_iter().fold(0, add)
}
