//! What a boot loader tells of the machine, whatever protocol it speaks.
//!
//! Three protocols say much the same in different words: memory map, command line, modules, where
//! ACPI starts, a framebuffer. Here the difference ends. What they say lies in structures full of
//! physical pointers, written by a program that the wedge knows nothing of; so each is an
//! allegation: every pointer and length is checked against the memory that there is, and an error
//! names protocol, field and address. A machine whose loader contradicts itself is not booted: with
//! a wrong memory map the guest would fail later, and without a word.
//!
//! The memory map is copied. The rest stays where the loader put it, and no protocol takes that out
//! of the usable memory, nor keeps it away from where the guest is to lie. So it is copied, or
//! moved, before the guest is loaded.
//!
//! The command line is taken as it is. QEMU's multiboot, and GRUB before version 2, put the path of
//! the image in front of it, which no rule can tell from a word; GRUB 2 and the PVH loaders do not.
//! QEMU enters an image by PVH (see [`headers`]).

use core::fmt;
use core::ops::Range;

use wedge::memory::MemoryMap;

mod framebuffer;
pub mod headers;
mod multiboot;
mod multiboot2;
pub mod options;
mod pvh;
mod reader;
pub mod selection;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "only the wedge uses all of it"))]
pub(crate) mod session;

pub use framebuffer::{Channel, Framebuffer, Pixels};
pub use reader::ReadMemory;

use reader::Reader;
use selection::LoaderProtocol;

/// What a boot loader says.
#[derive(Clone, Debug)]
pub struct BootInformation<'a> {
    /// The protocol that it says it in.
    pub protocol: LoaderProtocol,
    /// The machine's memory. What is usable includes all that the loader has put there.
    pub memory: MemoryMap,
    /// The command line; empty if there is none.
    pub command_line: &'a str,
    /// Files that were loaded along.
    pub modules: Modules,
    /// ACPI's root pointer (RSDP). With multiboot 2 it is a copy within the loader's structure.
    pub rsdp: Option<Range<u64>>,
    /// The framebuffer, or text screen.
    pub framebuffer: Option<Framebuffer>,
}

impl<'a> BootInformation<'a> {
    /// Reads the structure at `address` (EBX at the entry).
    ///
    /// # Errors
    ///
    /// When anything in it cannot be true, or the wedge cannot do with what it says.
    pub fn read(
        protocol: LoaderProtocol,
        memory: &'a dyn ReadMemory,
        address: u64,
    ) -> Result<Self, InvalidBootInformation> {
        let reader = &Reader { protocol, memory };
        match protocol {
            LoaderProtocol::Pvh => pvh::read(reader, address),
            LoaderProtocol::Multiboot1 => multiboot::read(reader, address),
            LoaderProtocol::Multiboot2 => multiboot2::read(reader, address),
        }
    }
}

/// The protocol of an entry, by EAX and by the first word of the structure at EBX. PVH says nothing
/// in EAX, so the structure comes first; in the structures of the others the first word is a set of
/// few flags, or a size of less than 1 MB.
#[must_use]
pub fn entered_by(eax: u32, first_word: u32) -> Option<LoaderProtocol> {
    match (first_word, eax) {
        (headers::PVH_START_MAGIC, _) => Some(LoaderProtocol::Pvh),
        (_, headers::MULTIBOOT1_ENTRY_MAGIC) => Some(LoaderProtocol::Multiboot1),
        (_, headers::MULTIBOOT2_ENTRY_MAGIC) => Some(LoaderProtocol::Multiboot2),
        _ => None,
    }
}

/// The files that were loaded along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    ranges: [Range<u64>; Self::CAPACITY],
    length: usize,
}

impl Modules {
    /// No more are accepted.
    pub const CAPACITY: usize = 8;

    fn add(&mut self, module: Range<u64>) -> Result<(), Problem> {
        *self.ranges.get_mut(self.length).ok_or(Problem::TooManyModules)? = module;
        self.length += 1;
        Ok(())
    }
}

impl core::ops::Deref for Modules {
    type Target = [Range<u64>];

    fn deref(&self) -> &[Range<u64>] {
        &self.ranges[..self.length]
    }
}

/// What a boot loader says that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidBootInformation {
    /// The protocol it says it in.
    pub protocol: LoaderProtocol,
    /// The field or tag, as the specification calls it.
    pub field: &'static str,
    /// Where that lies, or points to.
    pub address: u64,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with what a boot loader says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no such memory.
    Unreadable {
        /// Bytes that should be there.
        length: u64,
    },
    /// The structure is another than the protocol's.
    Magic(u32),
    /// It is not aligned as it has to be.
    Misaligned,
    /// It is shorter than what it must hold.
    Short {
        /// Bytes that there are.
        length: u64,
        /// Bytes that there must be.
        least: u64,
    },
    /// It goes on behind the end of what holds it.
    Overrun {
        /// Its length in bytes.
        length: u64,
    },
    /// Nothing marks its end.
    Unterminated,
    /// It is not UTF-8.
    NotUtf8,
    /// The loader gives no memory map.
    NoMemoryMap,
    /// Structures of this version have no memory map.
    VersionWithoutMemoryMap(u32),
    /// No region of the memory map is usable.
    NoUsableMemory,
    /// A region of the memory map has no end.
    EndlessRegion {
        /// Its first address.
        start: u64,
        /// Its length.
        length: u64,
    },
    /// The memory map has too many regions.
    TooManyRegions,
    /// There are too many modules.
    TooManyModules,
    /// A module ends before it starts.
    Module {
        /// Its first address.
        start: u64,
        /// The address behind it.
        end: u64,
    },
    /// It is no RSDP: signature or checksum is wrong.
    Rsdp,
    /// Width, height, depth, colours and bytes per line contradict each other.
    Geometry,
    /// The firmware is still in charge of the machine.
    BootServices,
}

impl fmt::Display for InvalidBootInformation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, field, address, problem } = self;
        write!(f, "{protocol} boot information: {field} at {address:#x}: {problem}")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { length } => write!(f, "no {length} bytes of memory there"),
            Self::Magic(magic) => write!(f, "starts with {magic:#010x}"),
            Self::Misaligned => f.write_str("not aligned to 8 bytes"),
            Self::Short { length, least } => write!(f, "{length} bytes, fewer than {least}"),
            Self::Overrun { length } => write!(f, "{length} bytes reach behind the end of what holds them"),
            Self::Unterminated => f.write_str("not terminated"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::NoMemoryMap => f.write_str("the loader gives no memory map"),
            Self::VersionWithoutMemoryMap(version) => {
                write!(f, "version {version} has no memory map; a loader that gives version 1 is needed")
            }
            Self::NoUsableMemory => f.write_str("none of the memory is usable"),
            Self::EndlessRegion { start, length } => {
                write!(f, "{length:#x} bytes from {start:#x} on are more than there are addresses")
            }
            Self::TooManyRegions => write!(f, "more than {} regions", MemoryMap::CAPACITY),
            Self::TooManyModules => write!(f, "more than {} modules", Modules::CAPACITY),
            Self::Module { start, end } => write!(f, "a module from {start:#x} to {end:#x}"),
            Self::Rsdp => f.write_str("no RSDP: signature or checksum is wrong"),
            Self::Geometry => f.write_str("width, height, depth, colours and bytes per line contradict each other"),
            Self::BootServices => f.write_str("the loader has not ended the firmware's boot services"),
        }
    }
}

impl core::error::Error for InvalidBootInformation {}

#[cfg(test)]
mod tests;
