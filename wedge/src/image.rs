//! What `afterburner pack` and the wedge agree on: where in an image the guest lies, and what the
//! guest consists of.
//!
//! An image is one ELF file with two segments, contiguous in physical memory: the wedge with
//! its *arena* (memory that the file does not hold, sized by `pack` for the number of sites), and
//! behind it the *payload*: kernel, table of sites, initramfs, command line. The wedge keeps its
//! own segment; the payload's memory goes to the guest, once it is unpacked.
//!
//! `pack` writes two structures. [`Parameters`] lies in the wedge's section [`PARAMETERS_SECTION`]
//! and says where arena and payload are. [`Header`] is the start of the payload. Both are
//! little-endian, `repr(C)`, without padding.
//!
//! A file may be cut short, or have been through bad memory or a bad download; and a kernel with
//! one wrong bit may fail in any way at all. So the payload has a checksum, and [`Payload::check`]
//! believes nothing before that holds.

use core::fmt;
use core::ops::Range;

use annotate::record::RECORD_SIZE;

use crate::guest::layout::{Layout, Layouts};
use crate::sites::Memory;
use crate::x86::paging::PAGE;

/// The section of the wedge that holds its [`Parameters`].
pub const PARAMETERS_SECTION: &str = ".parameters";

/// First bytes of a payload.
pub const MAGIC: [u8; 16] = *b"Afterburner 0005";

/// Physical address that the wedge is loaded at, and its distance from the start of its window: 1
/// MB. That is where usable memory begins behind what firmware reserves, so that the memory map
/// which the guest gets has no more regions than the machine's. Linux asks the map once for each
/// page.
pub const LOAD_ADDRESS: u64 = 1 << 20;

/// The checksum covers a payload from here on.
pub const CHECKED_FROM: usize = 32;

/// Part of a larger piece of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    /// Bytes from the start of the larger piece.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Where in the image things are, as offsets from the wedge's first byte. All zero in a wedge that
/// was not packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Parameters {
    /// Physical address that the first byte of the wedge is loaded at.
    pub load_address: u64,
    /// Memory for stubs and counters, behind the wedge's own.
    pub arena: Span,
    /// The payload.
    pub payload: Span,
}

impl Parameters {
    /// Holds them against a wedge of `own` bytes that has `room` of them, with its arena, in its
    /// window. They are not under the payload's checksum, and whoever uses them reads and writes
    /// where they say.
    ///
    /// # Errors
    ///
    /// When a part does not lie behind what is in front of it, or reaches too far.
    pub fn check(&self, own: u64, room: u64) -> Result<(), Misplaced> {
        let end = |span: Span| span.offset.checked_add(span.length);
        if self.arena.offset != own || end(self.arena).is_none_or(|end| end > room) {
            return Err(Misplaced::Arena { arena: self.arena, own, room });
        }
        // Nothing that is loaded lies above 4 GB.
        let below =
            end(self.payload).and_then(|end| end.checked_add(self.load_address)).is_some_and(|end| end <= 4 << 30);
        if !below || self.payload.offset < self.arena.offset + self.arena.length {
            return Err(Misplaced::Payload(self.payload));
        }
        Ok(())
    }

    /// The bytes of [`PARAMETERS_SECTION`].
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let words = [self.load_address, self.arena.offset, self.arena.length, self.payload.offset, self.payload.length];
        let mut bytes = [0; size_of::<Self>()];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Parameters that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// The arena does not lie where it has to.
    Arena {
        /// Where it is said to lie.
        arena: Span,
        /// Bytes of the wedge, which are in front of it.
        own: u64,
        /// Bytes of the window, from the wedge's first on.
        room: u64,
    },
    /// The payload does not lie where it has to.
    Payload(Span),
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena { arena: Span { offset, length }, own, room } => write!(
                f,
                "the image is damaged: the arena, {length:#x} bytes at {offset:#x}, does not follow on the wedge's {own:#x} \
                 bytes within the window's {room:#x}"
            ),
            Self::Payload(Span { offset, length }) => write!(
                f,
                "the image is damaged: the payload, {length:#x} bytes at {offset:#x}, does not lie between the arena and 4 GB"
            ),
        }
    }
}

impl core::error::Error for Misplaced {}

/// How long the arena has to be for a kernel with so many sites: for each, and for each of the
/// sites that modules may bring, a stub, a counter, the counter's last snapshot, an entry in the
/// list of rewritten sites, and its place in their order.
#[must_use]
pub const fn arena_length(sites: u64) -> u64 {
    const SITES_OF_MODULES: u64 = 4096;
    const GRANULE: u64 = 2 << 20;
    (sites + SITES_OF_MODULES).saturating_mul(Memory::EACH as u64).next_multiple_of(GRANULE)
}

/// The first bytes of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`]; the digits are the version of the format.
    pub magic: [u8; 16],
    /// Bytes of the payload, this header included.
    pub length: u64,
    /// [`checksum`] of the payload from [`CHECKED_FROM`] on.
    pub checksum: u64,
    /// The kernel, an ELF file.
    pub kernel: Span,
    /// The table of sites: records ([`annotate::record::RawRecord`]) with completed flags, ordered
    /// by site.
    pub sites: Span,
    /// The link-time address at which the first record is to be taken to stand; a record is
    /// relative to itself.
    pub sites_address: u64,
    /// Where the kernel copies replacements to: [`Copied`], ordered by record.
    pub copies: Span,
    /// Where the vDSO asks for the number of the processor: [`ProcessorNumber`].
    pub processor_numbers: Span,
    /// What has to be changed in the kernel to run it at another address (Linux's
    /// `vmlinux.relocs`); may be empty.
    pub relocations: Span,
    /// The initramfs; may be empty.
    pub initramfs: Span,
    /// The command line, UTF-8 without a terminating NUL.
    pub command_line: Span,
    /// What the wedge must know of this kernel.
    pub guest: GuestFacts,
}

/// A site in a replacement, and the place that the kernel may copy it to when it applies
/// alternatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Copied {
    /// Number of the site's record.
    pub record: u64,
    /// Link-time address of the copy of the site. 0 if the site is all of its replacement, and that
    /// is freed after boot.
    pub address: u64,
    /// 1 if the site is all of its replacement, otherwise 0.
    pub whole: u64,
}

impl Copied {
    /// Its bytes in a payload.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, value) in words.iter_mut().zip([self.record, self.address, self.whole]) {
            *word = value.to_le_bytes();
        }
        bytes
    }
}

/// An instruction of the vDSO that asks the processor for its number, and what says 0 in its place.
///
/// Programs execute it, so it is no site. Where the guest has one processor, and the real one is
/// not the guest's, programs have to find 0, whatever number the real one has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessorNumber {
    /// Link-time address of the instruction.
    pub address: u64,
    /// Its length in bytes; no more than 8.
    pub length: u64,
    /// What has the same length, and says 0.
    pub zero: [u8; 8],
}

impl ProcessorNumber {
    /// Its bytes in a payload.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, value) in words.iter_mut().zip([self.address.to_le_bytes(), self.length.to_le_bytes(), self.zero]) {
            *word = value;
        }
        bytes
    }

    /// Where it is in a kernel's image at these addresses, if it is.
    fn within(&self, image: &Range<u64>) -> Option<Range<usize>> {
        let start = self.address.checked_sub(image.start)?;
        let end = start.checked_add(self.length).filter(|end| *end <= image.end - image.start)?;
        let is_short = self.length <= self.zero.len() as u64;
        is_short.then_some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

/// What `pack` finds out about a kernel from its symbols. Addresses are those it is linked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuestFacts {
    /// Where the map of its image begins, by which its [`Layout`] is known.
    pub image: u64,
    /// Physical address of the page-directory-pointer entry that maps the GB with the wedge's
    /// window in the kernel's page tables (in Linux, an entry of `level3_kernel_pgt`).
    pub window_entry: u64,
    /// Physical address of the PML4 entry for the window in the page table that user mode runs on,
    /// where the kernel keeps a separate one (in Linux, in the second page of `init_top_pgt`); 0 if
    /// it does not.
    pub user_window_entry: u64,
    /// First address of the range that modules are loaded to.
    pub modules_start: u64,
    /// The address behind that range.
    pub modules_end: u64,
    /// Address of the function that goes from one thread's stack to another's (in Linux,
    /// `__switch_to_asm`); 0 if no symbol tells it.
    pub stack_switch: u64,
}

impl GuestFacts {
    /// Holds them against what all kernels of a layout have in common, and returns that.
    fn check(&self) -> Result<&'static Layout, Damage> {
        let Self { window_entry, user_window_entry, modules_start: start, modules_end: end, .. } = *self;
        let layout = Layout::of_image(self.image).ok_or(Damage::Layout(self.image))?;
        let (in_pages, text) = (start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE), layout.text());
        if !in_pages || start < text.start || start > end || end > text.end {
            return Err(Damage::Modules { start, end });
        }
        let leads_to_window =
            |address: u64, level| address % PAGE == layout.window_index(level) as u64 * 8 && address < 4 << 30;
        if !leads_to_window(window_entry, 3) {
            return Err(Damage::TableEntry(window_entry));
        }
        if user_window_entry != 0 && !leads_to_window(user_window_entry, 4) {
            return Err(Damage::TableEntry(user_window_entry));
        }
        Ok(layout)
    }
}

const _: () = assert!(size_of::<Header>() == 32 + 16 * 7 + 8 + 48 && size_of::<Parameters>() == 40);

/// A checksum that finds every changed word, every swap of words, and a change of length: each
/// 8-byte word is mixed into one of four sums (so that a CPU can work on four at a time) by a
/// multiplication with an odd constant, which loses no bit.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: [u8; 8]| (sum ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR).rotate_left(29);
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut sums = [bytes.len() as u64, 1, 2, 3];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = mix(*sum, *word);
        }
    }
    for byte in rest {
        sums[0] = mix(sums[0], [*byte, 0, 0, 0, 0, 0, 0, 0]);
    }
    sums.iter().fold(0, |sum, word| mix(sum, word.to_le_bytes()))
}

/// A payload that is whole.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// The kernel, an ELF file.
    pub kernel: &'a [u8],
    /// The records.
    pub sites: &'a [u8],
    /// Link-time address of the first record.
    pub sites_address: u64,
    /// The copies of replacements, raw.
    pub copies: &'a [u8],
    /// Where the vDSO asks for the number of the processor, raw.
    pub processor_numbers: &'a [u8],
    /// The relocations, raw.
    pub relocations: &'a [u8],
    /// The initramfs.
    pub initramfs: &'a [u8],
    /// The command line.
    pub command_line: &'a str,
    /// What was found out about the kernel.
    pub guest: GuestFacts,
    /// Where it lies in the address space.
    pub layout: &'static Layout,
}

/// Why a payload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It does not start as a payload does.
    Magic,
    /// It is shorter than it says.
    Truncated {
        /// Bytes that are there.
        length: u64,
        /// Bytes that there should be.
        expected: u64,
    },
    /// The checksum is another.
    Checksum {
        /// That of the bytes.
        found: u64,
        /// That in the header.
        expected: u64,
    },
    /// A part does not lie in the payload.
    Part(&'static str),
    /// The command line is not UTF-8.
    CommandLine,
    /// The list of copies does not consist of whole entries.
    CopiesLength(usize),
    /// A copy is of no record, or not in the order of the records.
    Copy {
        /// The number of the copy, from 0.
        number: usize,
        /// The number of the record that it names.
        record: u64,
        /// How many records there are.
        records: u64,
    },
    /// The list of processor numbers does not consist of whole entries.
    ProcessorNumbersLength(usize),
    /// An instruction there is longer than what replaces it, or lies outside the kernel.
    ProcessorNumber(ProcessorNumber),
    /// No kernel's image is mapped from there on.
    Layout(u64),
    /// The kernel does not lie where its layout has it.
    Kernel {
        /// Its first address.
        start: u64,
        /// The address behind it.
        end: u64,
        /// That layout.
        layout: &'static Layout,
    },
    /// The wedge was put into the window of another layout.
    Window {
        /// Where the window is.
        window: u64,
        /// Where the kernel's layout has it.
        expected: u64,
    },
    /// The range of modules is none.
    Modules {
        /// Its first address.
        start: u64,
        /// The address behind it.
        end: u64,
    },
    /// The kernel has no page-table entry there.
    TableEntry(u64),
    /// The arena has not the length that goes with the table of sites.
    Arena {
        /// Its length.
        length: u64,
        /// How many sites there are.
        sites: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "the payload has no header of this version of the wedge"),
            Self::Truncated { length, expected } => {
                write!(f, "the payload is cut short: {length} bytes of {expected}")
            }
            Self::Checksum { found, expected } => {
                write!(f, "the payload is damaged: its checksum is {found:#018x}, not {expected:#018x}")
            }
            Self::Part(part) => write!(f, "the payload's {part} does not lie in the payload"),
            Self::CommandLine => write!(f, "the payload's command line is not UTF-8"),
            Self::CopiesLength(length) => {
                write!(f, "the payload's list of copies has {length} bytes, no multiple of {}", size_of::<Copied>())
            }
            Self::Copy { number, record, records } => write!(
                f,
                "number {number} of the payload's copies is of record {record}; there are {records}, and they come in order"
            ),
            Self::ProcessorNumbersLength(length) => write!(
                f,
                "the payload's list of processor numbers has {length} bytes, no multiple of {}",
                size_of::<ProcessorNumber>()
            ),
            Self::ProcessorNumber(ProcessorNumber { address, length, .. }) => write!(
                f,
                "the payload says that the vDSO asks for the processor's number at {address:#x}, in {length} bytes, which \
                 cannot be"
            ),
            Self::Layout(image) => {
                write!(f, "the payload has a kernel whose image is mapped from {image:#x} on; there are {Layouts}")
            }
            Self::Kernel { start, end, layout } => write!(
                f,
                "the payload's kernel lies at {start:#x}-{end:#x}, outside {:#x}-{:#x}, where its layout has it",
                layout.text().start,
                layout.text().end
            ),
            Self::Window { window, expected } => {
                write!(f, "the wedge's window is at {window:#x}, and the payload's kernel wants it at {expected:#x}")
            }
            Self::Modules { start, end } => {
                write!(f, "the payload says that modules lie at {start:#x}-{end:#x}, where no kernel has them")
            }
            Self::TableEntry(address) => {
                write!(
                    f,
                    "the payload says that the kernel has a page-table entry at {address:#x}, where it can have none"
                )
            }
            Self::Arena { length, sites } => {
                write!(f, "the arena has {length:#x} bytes, not {:#x} for {sites} sites", arena_length(*sites))
            }
        }
    }
}

impl core::error::Error for Damage {}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        let mut words = Words(&bytes[16..]);
        let mut magic = [0; 16];
        magic.copy_from_slice(&bytes[..16]);
        Self {
            magic,
            length: words.next(),
            checksum: words.next(),
            kernel: words.span(),
            sites: words.span(),
            sites_address: words.next(),
            copies: words.span(),
            processor_numbers: words.span(),
            relocations: words.span(),
            initramfs: words.span(),
            command_line: words.span(),
            guest: GuestFacts {
                image: words.next(),
                window_entry: words.next(),
                user_window_entry: words.next(),
                modules_start: words.next(),
                modules_end: words.next(),
                stack_switch: words.next(),
            },
        }
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let span = |span: Span| [span.offset, span.length];
        let [[k0, k1], [s0, s1], [c0, c1], [n0, n1]] =
            [self.kernel, self.sites, self.copies, self.processor_numbers].map(span);
        let [[r0, r1], [i0, i1], [l0, l1]] = [self.relocations, self.initramfs, self.command_line].map(span);
        let facts = self.guest;
        let words = [
            [self.length, self.checksum, k0, k1, s0, s1, self.sites_address],
            [c0, c1, n0, n1, r0, r1, i0],
            [i1, l0, l1, facts.image, facts.window_entry, facts.user_window_entry, facts.modules_start],
            [facts.modules_end, facts.stack_switch, 0, 0, 0, 0, 0],
        ];
        let mut bytes = [0; size_of::<Self>()];
        bytes[..16].copy_from_slice(&self.magic);
        for (to, word) in bytes[16..].chunks_exact_mut(8).zip(words.as_flattened()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Little-endian words, one after the other.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> u64 {
        let Some((word, rest)) = self.0.split_first_chunk() else { return 0 };
        self.0 = rest;
        u64::from_le_bytes(*word)
    }

    fn span(&mut self) -> Span {
        Span { offset: self.next(), length: self.next() }
    }
}

impl<'a> Payload<'a> {
    /// Checks a payload, which starts with the first of `bytes` and may end before the last.
    ///
    /// # Errors
    ///
    /// When it is cut short or damaged.
    pub fn check(bytes: &'a [u8]) -> Result<Self, Damage> {
        let header = bytes.first_chunk().map(Header::from_bytes).ok_or(Damage::Magic)?;
        if header.magic != MAGIC {
            return Err(Damage::Magic);
        }
        let truncated = Damage::Truncated { length: bytes.len() as u64, expected: header.length };
        let bytes = usize::try_from(header.length).ok().and_then(|length| bytes.get(..length)).ok_or(truncated)?;
        let found = checksum(bytes.get(CHECKED_FROM..).ok_or(Damage::Magic)?);
        if found != header.checksum {
            return Err(Damage::Checksum { found, expected: header.checksum });
        }
        let part = |name, span: Span| {
            let start = usize::try_from(span.offset).ok();
            let end = span.offset.checked_add(span.length).and_then(|end| usize::try_from(end).ok());
            start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or(Damage::Part(name))
        };
        let payload = Self {
            kernel: part("kernel", header.kernel)?,
            sites: part("table of sites", header.sites)?,
            sites_address: header.sites_address,
            copies: part("list of copies", header.copies)?,
            processor_numbers: part("list of processor numbers", header.processor_numbers)?,
            relocations: part("relocations", header.relocations)?,
            initramfs: part("initramfs", header.initramfs)?,
            command_line: core::str::from_utf8(part("command line", header.command_line)?)
                .map_err(|_| Damage::CommandLine)?,
            guest: header.guest,
            layout: header.guest.check()?,
        };
        payload.check_copies()?;
        Ok(payload)
    }

    /// The number of sites. Whether the last record is whole is found out when the table is read.
    fn site_count(&self) -> u64 {
        self.sites.len().div_ceil(RECORD_SIZE) as u64
    }

    fn check_copies(&self) -> Result<(), Damage> {
        if !self.copies.len().is_multiple_of(size_of::<Copied>()) {
            return Err(Damage::CopiesLength(self.copies.len()));
        }
        let (mut least, records) = (0, self.site_count());
        for (number, Copied { record, .. }) in self.copies().enumerate() {
            if !(least..records).contains(&record) {
                return Err(Damage::Copy { number, record, records });
            }
            least = record;
        }
        Ok(())
    }

    /// Holds the addresses of the kernel's image, as far as it may be moved, against its layout:
    /// from elsewhere no branch reaches the wedge, and none of the sites would be rewritten.
    ///
    /// # Errors
    ///
    /// When it does not lie where the layout has it, or something that is said of it lies
    /// elsewhere.
    pub fn check_kernel(&self, image: &Range<u64>) -> Result<(), Damage> {
        let (text, layout) = (self.layout.text(), self.layout);
        if image.start < text.start || image.end > text.end {
            return Err(Damage::Kernel { start: image.start, end: image.end, layout });
        }
        if !self.processor_numbers.len().is_multiple_of(size_of::<ProcessorNumber>()) {
            return Err(Damage::ProcessorNumbersLength(self.processor_numbers.len()));
        }
        match self.processor_numbers().find(|number| number.within(image).is_none()) {
            Some(number) => Err(Damage::ProcessorNumber(number)),
            None => Ok(()),
        }
    }

    /// Holds the window that the wedge finds itself in against the kernel's layout.
    ///
    /// # Errors
    ///
    /// When it is that of another.
    pub fn check_window(&self, window: u64) -> Result<(), Damage> {
        let expected = self.layout.window().start;
        if window == expected { Ok(()) } else { Err(Damage::Window { window, expected }) }
    }

    /// Holds an arena against the number of sites.
    ///
    /// # Errors
    ///
    /// When it is not as long as [`arena_length`] says.
    pub fn check_arena(&self, arena: Span) -> Result<(), Damage> {
        let (length, sites) = (arena.length, self.site_count());
        if length == arena_length(sites) { Ok(()) } else { Err(Damage::Arena { length, sites }) }
    }

    /// Where the vDSO asks for the number of the processor.
    fn processor_numbers(&self) -> impl Iterator<Item = ProcessorNumber> {
        let (numbers, _) = self.processor_numbers.as_chunks::<{ size_of::<ProcessorNumber>() }>();
        numbers.iter().map(|bytes| {
            let mut words = Words(bytes);
            ProcessorNumber { address: words.next(), length: words.next(), zero: words.next().to_le_bytes() }
        })
    }

    /// Has the vDSO say that the processor's number is 0. `image` are the bytes of the kernel,
    /// which is linked at this address.
    pub fn zero_processor_numbers(&self, image: &mut [u8], address: u64) {
        for number in self.processor_numbers() {
            let range = number.within(&(address..address.saturating_add(image.len() as u64)));
            if let Some(bytes) = range.and_then(|range| image.get_mut(range)) {
                bytes.copy_from_slice(&number.zero[..bytes.len()]);
            }
        }
    }

    /// The copies of replacements.
    pub fn copies(&self) -> impl Iterator<Item = Copied> {
        let (copies, _) = self.copies.as_chunks::<{ size_of::<Copied>() }>();
        copies.iter().map(|bytes| {
            let mut words = Words(bytes);
            Copied { record: words.next(), address: words.next(), whole: words.next() }
        })
    }
}

#[cfg(test)]
mod tests;
