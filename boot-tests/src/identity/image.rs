//! A linked kernel as a file that is read and written by address.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};

/// The bytes of a kernel, and where in the address space they are.
#[derive(Debug)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    /// Addresses of the segments, with the offset in the file.
    segments: Vec<(Range<u64>, usize)>,
}

impl Image {
    /// Takes the segments from the file's program headers.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self> {
        let file = object::File::parse(&*bytes)?;
        let mut segments = Vec::new();
        for segment in file.segments() {
            let (offset, size) = segment.file_range();
            let (offset, end) = (usize::try_from(offset)?, usize::try_from(offset + size)?);
            ensure!(end <= bytes.len(), "a segment lies beyond the end of the file");
            segments.push((segment.address()..segment.address() + size, offset));
        }
        Ok(Self { bytes, segments })
    }

    /// The bytes of the file.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The file, for what is not found by address.
    pub(crate) fn file(&self) -> Result<object::File<'_>> {
        Ok(object::File::parse(&*self.bytes)?)
    }

    /// The address of a symbol.
    pub(crate) fn symbol(&self, name: &str) -> Result<u64> {
        let file = self.file()?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        symbol.map(|symbol| symbol.address()).with_context(|| format!("the kernel has no symbol {name}"))
    }

    /// The addresses of a section; empty if there is no such section.
    pub(crate) fn section(&self, name: &str) -> Result<Range<u64>> {
        let file = self.file()?;
        let section = file.section_by_name(name);
        Ok(section.map_or(0..0, |section| section.address()..section.address() + section.size()))
    }

    /// The bytes at these addresses.
    pub(crate) fn read(&self, addresses: Range<u64>) -> Result<&[u8]> {
        Ok(&self.bytes[self.place(addresses)?])
    }

    /// Overwrites the bytes from this address on.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let place = self.place(address..address + bytes.len() as u64)?;
        self.bytes[place].copy_from_slice(bytes);
        Ok(())
    }

    fn place(&self, addresses: Range<u64>) -> Result<Range<usize>> {
        let (segment, offset) = self
            .segments
            .iter()
            .find(|(segment, _)| segment.start <= addresses.start && addresses.end <= segment.end)
            .with_context(|| format!("the file has no bytes for {addresses:#x?}"))?;
        let start = offset + usize::try_from(addresses.start - segment.start)?;
        Ok(start..start + usize::try_from(addresses.end - addresses.start)?)
    }
}
