//! Sections whose contents are compressed: debug information, as assemblers, linkers and objcopy
//! compress it.
//!
//! Two formats occur. `SHF_COMPRESSED` (ELF gABI, "Section Compression") puts a header before the
//! contents, with zlib or Zstandard behind it. The older one of GNU renames `.debug_*` to
//! `.zdebug_*`, and puts "ZLIB" and the size in front. In either the file says how long the
//! contents are; a compressed stream may stand for a thousand times its size, and a header may
//! allege any number. So a file has a budget: what its compressed sections come to, all together,
//! is bounded by its own size.

use std::borrow::Cow;
use std::cell::Cell;

use ::object::{Object as _, ObjectSection as _, SectionIndex};

use super::{Elf, Error};

/// How many times its own size a file's compressed sections may come to. Debug information shrinks
/// to a third or a tenth.
const RATIO: u64 = 64;
/// And what any file may come to.
const LEAST: u64 = 4 << 20;

/// The index of a section, and its contents.
pub(in crate::object) type Contents<'data> = (usize, Cow<'data, [u8]>);

/// Reads the sections of one file, compressed or not.
pub(in crate::object) struct Inflater<'elf, 'data> {
    elf: &'elf Elf<'data>,
    budget: Cell<u64>,
}

impl<'elf, 'data> Inflater<'elf, 'data> {
    pub(in crate::object) fn of(elf: &'elf Elf<'data>) -> Self {
        let budget = (elf.data.len() as u64).saturating_mul(RATIO).saturating_add(LEAST);
        Self { elf, budget: Cell::new(budget) }
    }

    /// The index and the contents of a debug section, by its plain name (`.debug_line`); `None` if
    /// there is no such section.
    ///
    /// # Errors
    ///
    /// When the contents cannot be decompressed, or are alleged to be out of proportion to the
    /// file.
    pub(in crate::object) fn debug_section(&self, name: &str) -> Result<Option<Contents<'data>>, Error> {
        let older = || self.elf.section_named(&name.replacen(".debug", ".zdebug", 1));
        let Some((index, section)) = self.elf.section_named(name).or_else(older) else { return Ok(None) };
        let fails = |what| Error::Section { name: section.name.to_owned(), index, what };
        let handle = self.elf.file.section_by_index(SectionIndex(index))?;
        let compressed = handle.compressed_data().map_err(|_| fails("its compression is of no known kind"))?;
        if compressed.format != ::object::CompressionFormat::None {
            let left = self.budget.get().checked_sub(compressed.uncompressed_size);
            let left = left.ok_or(fails("it is alleged to decompress to far more than such a file can hold"))?;
            self.budget.set(left);
        }
        let contents = compressed.decompress().map_err(|_| fails("its compressed contents are damaged"))?;
        Ok(Some((index, contents)))
    }
}
