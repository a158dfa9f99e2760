//! Reading structures that may lie anywhere, or nowhere.

use core::ops::Range;

use wedge::memory::{Kind, MemoryMap, Region};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::{InvalidBootInformation, Problem};
use crate::boot::selection::LoaderProtocol;

/// Access to physical memory, for reading: RAM, and the firmware's memory that the RSDP may lie in.
pub trait ReadMemory {
    /// The bytes from a physical address on, unless some of them are no memory.
    fn read(&self, address: u64, length: u64) -> Option<&[u8]>;
}

/// More than any command line has; Linux takes 2048 bytes (arch/x86/include/asm/setup.h,
/// `COMMAND_LINE_SIZE`).
pub(super) const LONGEST_STRING: u64 = 65536;

/// Reads what a loader of one protocol has written.
pub(super) struct Reader<'a> {
    pub(super) protocol: LoaderProtocol,
    pub(super) memory: &'a dyn ReadMemory,
}

impl<'a> Reader<'a> {
    pub(super) fn error(&self, field: &'static str, address: u64, problem: Problem) -> InvalidBootInformation {
        InvalidBootInformation { protocol: self.protocol, field, address, problem }
    }

    /// So many bytes.
    pub(super) fn bytes(
        &self,
        field: &'static str,
        address: u64,
        length: u64,
    ) -> Result<&'a [u8], InvalidBootInformation> {
        let end = address.checked_add(length);
        let bytes = end.and_then(|_| self.memory.read(address, length));
        bytes
            .filter(|bytes| bytes.len() as u64 == length)
            .ok_or_else(|| self.error(field, address, Problem::Unreadable { length }))
    }

    /// A structure of fixed size.
    pub(super) fn structure<T: FromBytes>(
        &self,
        field: &'static str,
        address: u64,
    ) -> Result<T, InvalidBootInformation> {
        let length = size_of::<T>() as u64;
        T::read_from_bytes(self.bytes(field, address, length)?)
            .map_err(|_| self.error(field, address, Problem::Unreadable { length }))
    }

    /// A string that a NUL ends.
    pub(super) fn string(&self, field: &'static str, address: u64) -> Result<&'a str, InvalidBootInformation> {
        for length in 0..LONGEST_STRING {
            let at = address.checked_add(length).ok_or_else(|| self.error(field, address, Problem::Unterminated))?;
            if self.bytes(field, at, 1)? == [0] {
                return self.utf8(field, address, self.bytes(field, address, length)?);
            }
        }
        Err(self.error(field, address, Problem::Unterminated))
    }

    /// A string that a NUL within these bytes ends.
    pub(super) fn string_within(
        &self,
        field: &'static str,
        address: u64,
        bytes: &'a [u8],
    ) -> Result<&'a str, InvalidBootInformation> {
        let end = bytes.iter().position(|byte| *byte == 0);
        let string = end.and_then(|end| bytes.get(..end));
        self.utf8(field, address, string.ok_or_else(|| self.error(field, address, Problem::Unterminated))?)
    }

    fn utf8(&self, field: &'static str, address: u64, bytes: &'a [u8]) -> Result<&'a str, InvalidBootInformation> {
        core::str::from_utf8(bytes).map_err(|_| self.error(field, address, Problem::NotUtf8))
    }

    /// A module, whose memory must be there.
    pub(super) fn module(
        &self,
        field: &'static str,
        at: u64,
        module: Range<u64>,
    ) -> Result<Range<u64>, InvalidBootInformation> {
        let Range { start, end } = module;
        let length = end.checked_sub(start).ok_or_else(|| self.error(field, at, Problem::Module { start, end }))?;
        self.bytes("module", start, length)?;
        Ok(module)
    }

    /// The RSDP, which may have so many bytes (ACPI 6.4, 5.2.5.3): 20 with a checksum, and from
    /// revision 2 on as many as its length says, which have another.
    pub(super) fn rsdp(
        &self,
        field: &'static str,
        address: u64,
        limit: u64,
    ) -> Result<Range<u64>, InvalidBootInformation> {
        let bytes = |length| {
            if length > limit {
                return Err(self.error(field, address, Problem::Overrun { length }));
            }
            self.bytes(field, address, length)
        };
        let sums_to_zero = |bytes: &[u8]| bytes.iter().copied().fold(0, u8::wrapping_add) == 0;
        let first = bytes(FIRST_RSDP_LENGTH)?;
        let rsdp: Rsdp = self.structure(field, address)?;
        if rsdp.signature != *b"RSD PTR " || !sums_to_zero(first) {
            return Err(self.error(field, address, Problem::Rsdp));
        }
        let length = match rsdp.revision {
            0 | 1 => FIRST_RSDP_LENGTH,
            _ => self.structure::<U32>(field, address + FIRST_RSDP_LENGTH)?.into(),
        };
        if length < FIRST_RSDP_LENGTH || !sums_to_zero(bytes(length)?) {
            return Err(self.error(field, address, Problem::Rsdp));
        }
        Ok(address..address + length)
    }
}

const FIRST_RSDP_LENGTH: u64 = 20;

const _: () = assert!(size_of::<Rsdp>() as u64 == FIRST_RSDP_LENGTH);

#[derive(FromBytes)]
#[repr(C)]
struct Rsdp {
    signature: [u8; 8],
    _checksum: u8,
    _oem: [u8; 6],
    revision: u8,
    _rsdt: [u8; 4],
}

/// An entry of a memory map that speaks e820: the fields that PVH and both multiboots have in
/// common.
#[derive(FromBytes)]
#[repr(C)]
pub(super) struct MapEntry {
    start: U64,
    length: U64,
    kind: U32,
}

/// Makes a memory map of regions. Firmware splits its memory finely, by what it has used each piece
/// for; neighbours that differ in nothing the guest cares for become one.
#[derive(Default)]
pub(super) struct MapBuilder {
    map: MemoryMap,
    last: Option<Region>,
    usable: bool,
}

impl MapBuilder {
    /// Adds a region.
    pub(super) fn add(&mut self, start: u64, length: u64, kind: Kind) -> Result<(), Problem> {
        let end = start.checked_add(length).ok_or(Problem::EndlessRegion { start, length })?;
        self.usable |= kind == Kind::Usable && length > 0;
        match &mut self.last {
            Some(last) if last.kind == kind && last.end == start => last.end = end,
            last => {
                if let Some(complete) = last.replace(Region { start, end, kind }) {
                    self.map.add(complete).map_err(|_| Problem::TooManyRegions)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the region of an entry.
    pub(super) fn add_entry(&mut self, entry: &MapEntry) -> Result<(), Problem> {
        self.add(entry.start.get(), entry.length.get(), Kind::from_number(entry.kind.get()))
    }

    /// The map.
    pub(super) fn finish(mut self) -> Result<MemoryMap, Problem> {
        if !self.usable {
            return Err(Problem::NoUsableMemory);
        }
        if let Some(last) = self.last {
            self.map.add(last).map_err(|_| Problem::TooManyRegions)?;
        }
        Ok(self.map)
    }
}
