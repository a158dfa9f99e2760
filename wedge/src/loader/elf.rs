//! A kernel as an ELF file: what of it goes where.
//!
//! A kernel knows two addresses for each of its bytes: the physical one that it wants to be loaded
//! at, and the virtual one that it is linked at. Its page tables map the one to the other, and
//! since they map the image as a whole, there is one *distance* between the two. It is that of the
//! segment with the entry point. The other segments need not show it: Linux links its per-CPU data
//! at virtual address 0 (`PERCPU_VADDR` in its linker script), and yet that data lies in the image,
//! and its relocations name it by the address that the distance gives.
//!
//! It may as well be loaded elsewhere ([`Kernel::moved`]), if it finds out itself where it is.
//! Linux does (`__startup_64` in `arch/x86/kernel/head64.c`), for its virtual addresses do not
//! depend on that.
//!
//! The file comes from outside, and a kernel is loaded over whatever is there. So [`Kernel::parse`]
//! believes no number in it: what it returns has segments that lie in the file, do not wrap, and do
//! not overlap. Section headers are not read.
//!
//! Structures: ELF gABI, "ELF Header" and "Program Header", class `ELFCLASS64`.

use core::fmt;
use core::ops::Range;

use crate::memory::{OutOfMemory, PhysicalMemory, overlap};

/// More loadable segments than any kernel has.
const CAPACITY: usize = 16;

/// Linux can be moved by multiples of a large page (`__startup_64` stops at any other distance).
pub const STEP: u64 = 2 << 20;

/// `\x7fELF`, `ELFCLASS64`, `ELFDATA2LSB`, `EV_CURRENT`.
const IDENTIFICATION: &[u8] = b"\x7fELF\x02\x01\x01";
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;

/// A piece of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Where it is loaded.
    pub physical_address: u64,
    /// Where it is linked.
    pub virtual_address: u64,
    /// Its first bytes; the others are zero.
    pub content: &'a [u8],
    /// Bytes in memory.
    pub size: u64,
    /// Whether it holds code.
    pub executable: bool,
}

impl Segment<'_> {
    /// Where it is loaded, from its first byte to behind its last.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.physical_address..self.physical_address + self.size
    }

    /// Whether all of a physical range is content of this segment.
    fn holds(&self, range: &Range<u64>) -> bool {
        let start = self.physical_address;
        start <= range.start && range.start <= range.end && range.end <= start + self.content.len() as u64
    }
}

/// A kernel whose headers hold.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    entry: u64,
    /// From a physical address in the image to the virtual one, modulo 2^64.
    distance: u64,
    extent: Range<u64>,
    /// How far it is from where its headers want it, modulo 2^64.
    moved: u64,
    segments: [Segment<'a>; CAPACITY],
    length: usize,
}

/// Why a file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// It is no ELF file, or one of another class or byte order.
    Identification,
    /// It is of a type (`e_type`) that cannot be run.
    Type(u16),
    /// It is for another machine (`e_machine`).
    Machine(u16),
    /// The program headers do not lie in the file, or are not of the size that they should have.
    ProgramHeaders {
        /// Offset in the file (`e_phoff`).
        offset: u64,
        /// How many there are (`e_phnum`).
        count: u16,
        /// Bytes of each (`e_phentsize`).
        size: u16,
    },
    /// A program header does not hold.
    Segment {
        /// The number of the header, from 0.
        number: usize,
        /// What is wrong.
        fault: SegmentFault,
    },
    /// There are more loadable segments than the loader has room for.
    TooManySegments,
    /// The entry point (`e_entry`, a physical address) is not in code that the file holds.
    Entry(u64),
    /// At the distance between physical and virtual addresses that the entry point has, the image
    /// would wrap.
    Distance(u64),
}

/// What is wrong with a program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentFault {
    /// The content does not lie in the file.
    OutOfFile {
        /// Offset in the file (`p_offset`).
        offset: u64,
        /// Bytes in the file (`p_filesz`).
        size: u64,
    },
    /// It is larger in the file than in memory (`p_memsz`).
    Size {
        /// Bytes in the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// The alignment (`p_align`) is no power of two, or address and offset differ modulo the
    /// alignment.
    Alignment(u64),
    /// It reaches beyond the last address.
    Wraps {
        /// The physical or virtual address.
        address: u64,
        /// Bytes in memory.
        size: u64,
    },
    /// It overlaps an earlier segment.
    Overlap {
        /// Where the earlier one is loaded.
        physical_address: u64,
    },
}

/// What a program header says.
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

impl ProgramHeader {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let [first, rest @ ..] = words.first_chunk::<7>()?;
        let [k0, k1, k2, k3, f0, f1, f2, f3] = *first;
        let [offset, virtual_address, physical_address, file_size, memory_size, alignment] =
            rest.map(u64::from_le_bytes);
        Some(Self {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            offset,
            virtual_address,
            physical_address,
            file_size,
            memory_size,
            alignment,
        })
    }

    /// The segment, checked by itself.
    fn segment<'a>(&self, file: &'a [u8]) -> Result<Segment<'a>, SegmentFault> {
        let size = self.memory_size;
        if self.file_size > size {
            return Err(SegmentFault::Size { file: self.file_size, memory: size });
        }
        // 0 stands for 1: no alignment.
        let alignment = self.alignment.max(1);
        if !alignment.is_power_of_two() || self.virtual_address % alignment != self.offset % alignment {
            return Err(SegmentFault::Alignment(self.alignment));
        }
        for address in [self.physical_address, self.virtual_address] {
            address.checked_add(size).ok_or(SegmentFault::Wraps { address, size })?;
        }
        Ok(Segment {
            physical_address: self.physical_address,
            virtual_address: self.virtual_address,
            content: part(file, self.offset, self.file_size)
                .ok_or(SegmentFault::OutOfFile { offset: self.offset, size: self.file_size })?,
            size,
            executable: self.flags & PF_X != 0,
        })
    }
}

/// The part of `bytes` from `offset` on.
fn part(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let end = offset.checked_add(length)?;
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// Checks the ELF header, and returns the program headers.
fn program_headers<'a>(file: &'a [u8], header: &[u8; HEADER_SIZE]) -> Result<&'a [u8], ElfError> {
    let half = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
    let (kind, machine, size, count) = (half(16), half(18), half(54), half(56));
    if !header.starts_with(IDENTIFICATION) {
        return Err(ElfError::Identification);
    }
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(ElfError::Type(kind));
    }
    if machine != EM_X86_64 {
        return Err(ElfError::Machine(machine));
    }
    let offset = word(header, 4);
    part(file, offset, u64::from(count) * u64::from(PROGRAM_HEADER_SIZE))
        .filter(|_| size == PROGRAM_HEADER_SIZE)
        .ok_or(ElfError::ProgramHeaders { offset, count, size })
}

/// The eight bytes with this number.
fn word(header: &[u8; HEADER_SIZE], number: usize) -> u64 {
    u64::from_le_bytes(header.as_chunks().0[number])
}

impl<'a> Kernel<'a> {
    /// Reads a file's headers.
    ///
    /// # Errors
    ///
    /// At the first that does not hold.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        let header = file.first_chunk().ok_or(ElfError::Identification)?;
        let headers = program_headers(file, header)?;
        let entry = word(header, 3);
        let extent = Range { start: u64::MAX, end: 0 };
        let segments = [Segment::default(); CAPACITY];
        let mut kernel = Self { entry, distance: 0, extent, moved: 0, segments, length: 0 };
        for (number, header) in headers.chunks_exact(PROGRAM_HEADER_SIZE.into()).enumerate() {
            let header = ProgramHeader::from_bytes(header);
            if let Some(header) = header.filter(|header| header.kind == PT_LOAD && header.memory_size > 0) {
                kernel.add(number, &header, file)?;
            }
        }
        let text = kernel
            .segments()
            .iter()
            .find(|segment| segment.executable && segment.holds(&(entry..entry.saturating_add(1))))
            .ok_or(ElfError::Entry(entry))?;
        kernel.distance = text.virtual_address.wrapping_sub(text.physical_address);
        let Range { start, end } = kernel.extent;
        let size = end - start;
        start.wrapping_add(kernel.distance).checked_add(size).ok_or(ElfError::Distance(kernel.distance))?;
        Ok(kernel)
    }

    /// Adds the segment of a program header.
    fn add(&mut self, number: usize, header: &ProgramHeader, file: &'a [u8]) -> Result<(), ElfError> {
        let refuse = |fault| ElfError::Segment { number, fault };
        let segment = header.segment(file).map_err(refuse)?;
        if let Some(other) = self.segments().iter().find(|other| overlap(&other.range(), &segment.range())) {
            return Err(refuse(SegmentFault::Overlap { physical_address: other.physical_address }));
        }
        *self.segments.get_mut(self.length).ok_or(ElfError::TooManySegments)? = segment;
        self.length += 1;
        let Range { start, end } = segment.range();
        self.extent = self.extent.start.min(start)..self.extent.end.max(end);
        Ok(())
    }

    /// The kernel with its first byte at another physical address; `None` if a multiple of [`STEP`]
    /// does not lead there, or if it would wrap. Virtual addresses stay.
    #[must_use]
    pub fn moved(mut self, physical_address: u64) -> Option<Self> {
        let by = physical_address.wrapping_sub(self.extent.start);
        let size = self.extent.end - self.extent.start;
        let end = physical_address.checked_add(size).filter(|_| by.is_multiple_of(STEP))?;
        for segment in &mut self.segments[..self.length] {
            segment.physical_address = segment.physical_address.wrapping_add(by);
        }
        self.entry = self.entry.wrapping_add(by);
        self.distance = self.distance.wrapping_sub(by);
        self.moved = self.moved.wrapping_add(by);
        self.extent = physical_address..end;
        Some(self)
    }

    /// Physical address of the first instruction.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// The segments, in the order of their headers.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments[..self.length]
    }

    /// The physical memory that the image takes, gaps between segments included.
    #[must_use]
    pub fn extent(&self) -> Range<u64> {
        self.extent.clone()
    }

    /// The physical memory that it would take where its headers want it.
    #[must_use]
    pub fn linked_extent(&self) -> Range<u64> {
        self.extent.start.wrapping_sub(self.moved)..self.extent.end.wrapping_sub(self.moved)
    }

    /// The virtual addresses that the image is linked at.
    #[must_use]
    pub fn virtual_extent(&self) -> Range<u64> {
        let extent = self.extent();
        extent.start.wrapping_add(self.distance)..extent.end.wrapping_add(self.distance)
    }

    /// The physical address of what is linked at a virtual address in the image.
    #[must_use]
    pub fn physical(&self, virtual_address: u64) -> Option<u64> {
        self.virtual_extent().contains(&virtual_address).then(|| virtual_address.wrapping_sub(self.distance))
    }

    /// Whether all of a physical range is content of one segment.
    #[must_use]
    pub fn holds(&self, range: &Range<u64>) -> bool {
        self.segments().iter().any(|segment| segment.holds(range))
    }

    /// Copies the segments to their physical addresses. The whole extent must be memory: Linux
    /// frees the gaps.
    ///
    /// # Errors
    ///
    /// When it is not; then nothing has been written.
    pub fn load(&self, memory: &mut impl PhysicalMemory) -> Result<(), OutOfMemory> {
        let extent = self.extent();
        let image = memory.bytes(extent.start, extent.end - extent.start)?;
        for segment in self.segments() {
            let Range { start, end } = segment.range();
            let place = usize::try_from(start - extent.start).ok().zip(usize::try_from(end - extent.start).ok());
            let out_of_memory = OutOfMemory { address: start, length: segment.size };
            let to = place.and_then(|(start, end)| image.get_mut(start..end)).ok_or(out_of_memory)?;
            let (content, zero) = to.split_at_mut(segment.content.len());
            content.copy_from_slice(segment.content);
            zero.fill(0);
        }
        Ok(())
    }
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel ")?;
        match self {
            Self::Identification => write!(f, "is no 64-bit little-endian ELF file"),
            Self::Type(kind) => write!(f, "is an ELF file of type {kind}, which is no executable"),
            Self::Machine(machine) => write!(f, "is for ELF machine {machine}, not for x86-64"),
            Self::ProgramHeaders { offset, count, size } => {
                write!(f, "should have {count} program headers of {size} bytes at offset {offset:#x}, but has not")
            }
            Self::Segment { number, fault } => write!(f, "has a bad program header, number {number}: {fault}"),
            Self::TooManySegments => write!(f, "has more than {CAPACITY} loadable segments"),
            Self::Entry(entry) => write!(f, "has no code at its entry point, physical address {entry:#x}"),
            Self::Distance(distance) => {
                write!(f, "does not fit the address space at {distance:#x} from its physical addresses")
            }
        }
    }
}

impl fmt::Display for SegmentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFile { offset, size } => {
                write!(f, "{size:#x} bytes from offset {offset:#x} on do not lie in the file")
            }
            Self::Size { file, memory } => write!(f, "{file:#x} bytes in the file, but {memory:#x} in memory"),
            Self::Alignment(alignment) => write!(f, "address and offset do not fit an alignment of {alignment:#x}"),
            Self::Wraps { address, size } => write!(f, "{size:#x} bytes from {address:#x} on wrap"),
            Self::Overlap { physical_address } => write!(f, "it overlaps the segment at {physical_address:#x}"),
        }
    }
}

impl core::error::Error for ElfError {}

#[cfg(test)]
mod tests;
