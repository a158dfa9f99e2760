//! The guest's boot loader.
//!
//! On a real machine a boot loader, the decompressor in the bzImage and the firmware do what is
//! done here: put the kernel where it wants to be, move it to a random virtual address, find a
//! place for the initramfs, and describe the machine. The kernel is then entered as a bzImage's
//! decompressor enters it: at its ELF entry point, in 64-bit mode, paging on with an identity
//! mapping, the address of `boot_params` in RSI (`Documentation/x86/boot.rst`, "64-bit Boot
//! Protocol"; `startup_64` in `arch/x86/kernel/head_64.S`).
//!
//! All of it is split in two. [`Guest::plan`] decides and checks, and writes nothing; it fails with
//! a message as long as there is a machine to print it on. [`Plan::load`] writes. The order there
//! is not free: pieces of the initramfs may lie where the kernel goes, so they are copied first.
//! What else the boot loader has said is no part of this: it has been copied before, and where it
//! was may be written.
//!
//! This module and those below it are what the wedge knows of Linux as a guest to be booted;
//! [`elf`] alone would do for any kernel.

pub mod command_line;
pub mod elf;
pub mod handover;
pub mod initramfs;
pub mod relocations;
#[cfg(test)]
mod synthetic;

use core::fmt;
use core::ops::Range;

use crate::guest::linux::boot_params::{self, BootParams, Display};
use crate::memory::{MemoryMap, OutOfMemory, PhysicalMemory, overlap};
use command_line::{CommandLine, Word};
use elf::{ElfError, Kernel};
use initramfs::{Archives, Initramfs, NoRoom};
use relocations::{RelocationError, Relocations};

/// The word by which the kernel is told not to randomise addresses.
const NO_KASLR: Word = Word { name: "nokaslr", value: None };

/// The block with `boot_params` and, behind it, the command line; below 2 GB, where any loader
/// might put it, if there is memory.
const BLOCK: u64 = 2 * 4096;
const BLOCK_LIMIT: u64 = 2 << 30;

/// What is to be booted, and what it is to be told.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// The kernel, an ELF file.
    pub kernel: &'a [u8],
    /// The contents of its `vmlinux.relocs`; empty if it cannot run elsewhere.
    pub relocations: &'a [u8],
    /// The physical address to load it at; `None` is where it is linked.
    pub physical: Option<u64>,
    /// Its command line.
    pub command_line: &'a CommandLine,
    /// What its initramfs consists of.
    pub initramfs: Archives<'a>,
    /// The machine's memory. What is usable in it will belong to the guest.
    pub map: &'a MemoryMap,
    /// Physical address of the first `struct setup_data`, or 0.
    pub setup_data: u64,
    /// Physical address of ACPI's root pointer, or 0.
    pub rsdp: u64,
    /// What can be drawn on.
    pub display: Display,
    /// Random bits.
    pub entropy: u64,
}

/// A guest with a place for each of its parts.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    guest: Guest<'a>,
    /// The kernel.
    pub kernel: Kernel<'a>,
    relocations: Option<Relocations<'a>>,
    /// By how much the kernel is moved above the address that it is linked at; `None` if addresses
    /// are not randomised.
    pub offset: Option<u32>,
    /// The initramfs.
    pub initramfs: Option<Initramfs<'a>>,
    /// Physical address of `boot_params`.
    pub boot_params: u64,
}

/// Why a guest cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The kernel is refused.
    Kernel(ElfError),
    /// The kernel cannot be moved to this physical address.
    Place(u64),
    /// The kernel's place is not all memory.
    NoMemory {
        /// First physical address of the place.
        start: u64,
        /// The address behind the last.
        end: u64,
        /// The first that is not memory.
        at: u64,
    },
    /// The kernel's place is taken.
    Occupied {
        /// First physical address.
        start: u64,
        /// The address behind the last.
        end: u64,
        /// First address of what is there.
        by: u64,
    },
    /// The relocations are refused.
    Relocations(RelocationError),
    /// The initramfs finds no place.
    Initramfs(NoRoom),
    /// `boot_params` finds no place.
    BootParams,
}

impl<'a> Guest<'a> {
    /// Finds a place for each part, away from what is `busy`: at least the memory that the parts
    /// come from, but for the modules of the initramfs, which are looked after here.
    ///
    /// # Errors
    ///
    /// When a part does not hold or finds no place.
    pub fn plan(self, busy: &[Range<u64>]) -> Result<Plan<'a>, LoadError> {
        let kernel = Kernel::parse(self.kernel).map_err(LoadError::Kernel)?;
        let kernel = match self.physical {
            Some(address) => kernel.moved(address).ok_or(LoadError::Place(address))?,
            None => kernel,
        };
        let extent = kernel.extent();
        let Range { start, end } = extent;
        if let Some(at) = self.map.first_unusable(&extent) {
            return Err(LoadError::NoMemory { start, end, at });
        }
        if let Some(range) = busy.iter().find(|range| overlap(range, &extent)) {
            return Err(LoadError::Occupied { start, end, by: range.start });
        }
        let randomised = !self.relocations.is_empty() && !self.command_line.words().any(|word| word == NO_KASLR);
        let relocations = randomised
            .then(|| Relocations::check(self.relocations, &kernel))
            .transpose()
            .map_err(LoadError::Relocations)?;
        let offset = relocations.as_ref().map(|relocations| relocations.choose_offset(self.entropy));
        let initramfs = Initramfs::place(self.initramfs, &extent, self.map, busy).map_err(LoadError::Initramfs)?;
        let taken = busy.iter().cloned().chain([extent]).chain(initramfs.map(|it| it.range()));
        let boot_params =
            [BLOCK_LIMIT, u64::MAX].into_iter().find_map(|limit| self.map.place(taken.clone(), BLOCK, 4096, limit));
        let boot_params = boot_params.ok_or(LoadError::BootParams)?;
        Ok(Plan { guest: self, kernel, relocations, offset, initramfs, boot_params })
    }
}

impl Plan<'_> {
    /// Loads the guest: kernel, initramfs, `boot_params` and command line.
    ///
    /// # Errors
    ///
    /// When a place turns out not to be memory.
    pub fn load(&self, memory: &mut impl PhysicalMemory) -> Result<(), OutOfMemory> {
        if let Some(initramfs) = &self.initramfs {
            initramfs.load(memory)?;
        }
        self.kernel.load(memory)?;
        if let (Some(relocations), Some(offset)) = (&self.relocations, self.offset) {
            relocations.apply(memory, offset)?;
        }
        let block = memory.bytes(self.boot_params, BLOCK)?;
        let (params, behind) =
            block.split_first_chunk_mut().ok_or(OutOfMemory { address: self.boot_params, length: BLOCK })?;
        self.boot_params().write(params);
        let line = self.guest.command_line.as_bytes();
        behind[..line.len()].copy_from_slice(line);
        Ok(())
    }

    fn boot_params(&self) -> BootParams<'_> {
        BootParams {
            command_line: self.boot_params + boot_params::SIZE as u64,
            initramfs: self.initramfs.map_or(0..0, |initramfs| initramfs.range()),
            map: self.guest.map,
            rsdp: self.guest.rsdp,
            display: self.guest.display,
            randomised: self.offset.is_some(),
            setup_data: self.guest.setup_data,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::Place(address) => write!(f, "the kernel cannot be moved to {address:#x}"),
            Self::NoMemory { start, end, at } => write!(
                f,
                "the kernel's place, {start:#x}-{end:#x}, is not free memory at {at:#x}: the machine needs more, or the \
                 kernel another CONFIG_PHYSICAL_START"
            ),
            Self::Occupied { start, end, by } => {
                write!(f, "the kernel's place, {start:#x}-{end:#x}, is that of the image itself, at {by:#x}")
            }
            Self::Relocations(error) => error.fmt(f),
            Self::Initramfs(error) => error.fmt(f),
            Self::BootParams => write!(f, "no room for the boot parameters: the machine needs more memory"),
        }
    }
}

impl core::error::Error for LoadError {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::{Kind, Region};
    use synthetic::{Memory, PHYSICAL, SIZE, VIRTUAL, poisoned};

    /// What a guest consists of; a test changes one thing.
    struct Parts {
        kernel: Vec<u8>,
        relocations: Vec<u8>,
        physical: Option<u64>,
        command_line: &'static str,
        initramfs: &'static [u8],
        /// Bytes of usable memory, from where the kernel goes.
        memory: u64,
        busy: Vec<Range<u64>>,
    }

    impl Default for Parts {
        fn default() -> Self {
            Self {
                kernel: synthetic::vmlinux(),
                relocations: synthetic::relocations([&[VIRTUAL + 0x3000], &[], &[]]),
                physical: None,
                command_line: "quiet",
                initramfs: b"archive",
                memory: 0x80_0000,
                busy: Vec::new(),
            }
        }
    }

    impl Parts {
        fn plan<T>(&self, inspect: impl FnOnce(Plan) -> T) -> Result<T, LoadError> {
            let mut map = MemoryMap::default();
            map.add(Region { start: PHYSICAL, end: PHYSICAL + self.memory, kind: Kind::Usable }).unwrap();
            let guest = Guest {
                kernel: &self.kernel,
                relocations: &self.relocations,
                physical: self.physical,
                command_line: &CommandLine::join(self.command_line, "").unwrap(),
                initramfs: Archives { own: self.initramfs, modules: &[] },
                map: &map,
                setup_data: 0x5678,
                rsdp: 0xe_0000,
                display: Display::None,
                entropy: 3,
            };
            guest.plan(&self.busy).map(inspect)
        }
    }

    fn word(bytes: &[u8], at: u64) -> u64 {
        u64::from_le_bytes(*bytes[usize::try_from(at).unwrap()..].first_chunk().unwrap())
    }

    #[test]
    fn a_guest_is_loaded_with_all_its_parts() {
        let mut memory = poisoned(PHYSICAL, 0x80_0000);
        let (initramfs, params) = Parts::default()
            .plan(|plan| {
                assert_eq!(plan.offset, Some(3 * 0x20_0000));
                plan.load(&mut memory).unwrap();
                (plan.initramfs.unwrap().range(), plan.boot_params)
            })
            .unwrap();
        let (start, page) = (initramfs.start - PHYSICAL, params - PHYSICAL);
        assert_eq!((start, page), (0x7f_f000, 0x7f_d000));
        assert_eq!(word(&memory.bytes, start), u64::from_le_bytes(*b"archive\xee"));
        assert_eq!(word(&memory.bytes, 0x3000), 0x0303_0303_0303_0303 + 3 * 0x20_0000);
        assert_eq!(word(&memory.bytes, page + 0x70), 0xe_0000);
        assert_eq!(word(&memory.bytes, page + 0x218), initramfs.start | 7 << 32);
        assert_eq!(memory.bytes[usize::try_from(page + 0x211).unwrap()], 1 | 2);
        assert_eq!(word(&memory.bytes, page + 0x250), 0x5678);
        // cmd_line_ptr leads to the line.
        let line = (word(&memory.bytes, page + 0x228) & 0xffff_ffff) - PHYSICAL;
        assert_eq!(word(&memory.bytes, line), u64::from_le_bytes(*b"quiet\0\0\0"));
    }

    #[test]
    fn a_guest_is_loaded_where_it_is_wanted() {
        let place = PHYSICAL + 0x40_0000;
        let mut memory = poisoned(PHYSICAL, 0x80_0000);
        let parts = Parts { physical: Some(place), ..Parts::default() };
        let plan = |plan: Plan| {
            assert_eq!((plan.kernel.entry(), plan.kernel.extent()), (place, place..place + SIZE));
            assert_eq!(plan.offset, Some(3 * 0x20_0000), "of virtual addresses, as before");
            plan.load(&mut memory).unwrap();
        };
        parts.plan(plan).unwrap();
        assert_eq!(word(&memory.bytes, 0), u64::from_le_bytes([0xee; 8]), "nothing is where it is linked");
        assert_eq!(word(&memory.bytes, 0x40_0000), u64::from_le_bytes([1; 8]));
        assert_eq!(word(&memory.bytes, 0x40_3000), 0x0303_0303_0303_0303 + 3 * 0x20_0000);
    }

    #[test]
    fn addresses_are_not_randomised_if_they_cannot_or_must_not_be() {
        for (parts, offset) in [
            (Parts::default(), Some(0x60_0000)),
            (Parts { command_line: "a nokaslr", ..Parts::default() }, None),
            (Parts { command_line: "-- nokaslr", ..Parts::default() }, Some(0x60_0000)),
            (Parts { relocations: Vec::new(), ..Parts::default() }, None),
        ] {
            assert_eq!(parts.plan(|plan| plan.offset), Ok(offset), "{}", parts.command_line);
        }
    }

    #[test]
    fn a_plan_fails_with_the_part_that_is_wrong() {
        let (start, end) = (PHYSICAL, PHYSICAL + SIZE);
        let above = PHYSICAL + 0x80_0000;
        let above_the_kernel = PHYSICAL + SIZE..PHYSICAL + 0x80_0000;
        for (parts, error) in [
            (Parts { kernel: Vec::new(), ..Parts::default() }, LoadError::Kernel(ElfError::Identification)),
            (Parts { relocations: std::vec![1], ..Parts::default() }, LoadError::Relocations(RelocationError::Lists)),
            (Parts { memory: SIZE - 1, ..Parts::default() }, LoadError::NoMemory { start, end, at: end - 1 }),
            (Parts { physical: Some(PHYSICAL + 0x1000), ..Parts::default() }, LoadError::Place(PHYSICAL + 0x1000)),
            (
                Parts { physical: Some(above), ..Parts::default() },
                LoadError::NoMemory { start: above, end: above + SIZE, at: above },
            ),
            (
                Parts { busy: std::vec![end - 1..end], ..Parts::default() },
                LoadError::Occupied { start, end, by: end - 1 },
            ),
            (
                Parts { busy: std::vec![above_the_kernel.clone()], ..Parts::default() },
                LoadError::Initramfs(NoRoom { length: 7 }),
            ),
            (Parts { busy: std::vec![above_the_kernel], initramfs: &[], ..Parts::default() }, LoadError::BootParams),
        ] {
            assert_eq!(parts.plan(|_| ()), Err(error), "{error}");
        }
    }

    /// Pages of memory in the model of a machine.
    const PAGES: u64 = 12;

    /// A machine: what each page is, and where modules lie in it.
    #[derive(Clone, Debug)]
    struct Model {
        usable: Vec<bool>,
        modules: Vec<Range<u64>>,
        own: Vec<u8>,
        busy: Range<u64>,
    }

    fn model() -> impl Strategy<Value = Model> {
        let usable = prop::collection::vec(prop::bool::weighted(0.9), usize::try_from(PAGES).unwrap());
        // Borders of modules, with gaps between them or without, in any order.
        let borders = prop::collection::vec(0..PAGES * 4096, 0..7);
        let longest = prop::sample::select(std::vec![0_usize, 1, 5, 4096, 9000]);
        let busy = (0..PAGES, 0..3_u64);
        (usable, borders, any::<bool>(), any::<u64>(), longest, busy).prop_map(
            |(usable, mut borders, gaps, seed, own, (page, pages))| {
                borders.sort_unstable();
                let pairs = borders.windows(2).step_by(1 + usize::from(gaps));
                let mut modules: Vec<_> = pairs.map(|pair| PHYSICAL + pair[0]..PHYSICAL + pair[1]).collect();
                modules.sort_by_key(|module| module.start.wrapping_mul(seed | 1));
                let start = PHYSICAL + page * 4096;
                Model { usable, modules, own: std::vec![7; own], busy: start..start + pages * 4096 }
            },
        )
    }

    impl Model {
        fn map(&self) -> MemoryMap {
            let mut map = MemoryMap::default();
            let mut pages: Vec<_> = self.usable.iter().zip(PHYSICAL / 4096..).collect();
            // Usable memory is one region as far as it goes, as a boot loader says it.
            pages.dedup_by(|next, last| next.0 == last.0);
            for (number, (usable, page)) in pages.iter().enumerate() {
                let end = pages.get(number + 1).map_or(PHYSICAL / 4096 + PAGES, |next| next.1);
                let kind = if **usable { Kind::Usable } else { Kind::Reserved };
                map.add(Region { start: page * 4096, end: end * 4096, kind }).unwrap();
            }
            map
        }

        /// Whether pages may be written, the kernel's aside.
        fn has_room(&self, page: u64, pages: u64) -> bool {
            let range = page * 4096..(page + pages) * 4096;
            !overlap(&range, &self.busy)
                && !overlap(&range, &(PHYSICAL..PHYSICAL + SIZE))
                && self.map().is_usable(&range)
        }

        fn has_room_for(&self, length: u64) -> bool {
            let pages = length.div_ceil(4096);
            (PHYSICAL / 4096..PHYSICAL / 4096 + PAGES).any(|page| self.has_room(page, pages))
        }
    }

    /// Bytes of which no two are alike nearby.
    fn filled() -> Memory {
        let bytes = (0..PAGES * 4096).map(|number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]);
        Memory { start: PHYSICAL, bytes: bytes.collect() }
    }

    fn content(memory: &Memory, range: &Range<u64>) -> Vec<u8> {
        let place = |address: u64| usize::try_from(address - memory.start).unwrap();
        memory.bytes[place(range.start)..place(range.end)].to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn wherever_modules_lie_all_is_loaded_intact_or_there_is_no_room(model in model()) {
            let (kernel, map) = (synthetic::vmlinux(), model.map());
            let guest = Guest {
                kernel: &kernel,
                relocations: &[],
                physical: None,
                command_line: &CommandLine::join("quiet", "").unwrap(),
                initramfs: Archives { own: &model.own, modules: &model.modules },
                map: &map,
                setup_data: 0x5678,
                rsdp: 0,
                display: Display::None,
                entropy: 0,
            };
            let before = filled();
            let mut archives = model.own.clone();
            for module in &model.modules {
                archives.resize(archives.len().next_multiple_of(4), 0);
                archives.extend(content(&before, module));
            }
            let extent = PHYSICAL..PHYSICAL + SIZE;
            match guest.plan(core::slice::from_ref(&model.busy)) {
                Ok(plan) => {
                    let mut memory = filled();
                    plan.load(&mut memory).unwrap();
                    let mut alone = filled();
                    plan.kernel.load(&mut alone).unwrap();
                    prop_assert_eq!(content(&memory, &extent), content(&alone, &extent));
                    let initramfs = plan.initramfs.map_or(0..0, |initramfs| initramfs.range());
                    prop_assert_eq!(initramfs.is_empty(), archives.is_empty());
                    if !initramfs.is_empty() {
                        prop_assert_eq!(content(&memory, &initramfs), archives);
                    }
                    let line = plan.boot_params + boot_params::SIZE as u64;
                    prop_assert_eq!(content(&memory, &(line..line + 6)), b"quiet\0");
                    // Nothing else has been written, but for what is left of the initramfs's last
                    // page.
                    let pages = initramfs.start..initramfs.end.next_multiple_of(4096);
                    let written = [extent, pages, plan.boot_params..plan.boot_params + BLOCK];
                    for (number, range) in written.iter().enumerate() {
                        prop_assert!(range.is_empty() || map.is_usable(range), "{range:x?}");
                        prop_assert!(written[..number].iter().all(|other| !overlap(other, range)), "{written:x?}");
                    }
                    for (address, (now, then)) in (PHYSICAL..).zip(memory.bytes.iter().zip(&before.bytes)) {
                        let may_differ = written.iter().any(|range| range.contains(&address));
                        prop_assert!(may_differ || now == then, "{address:#x}");
                    }
                }
                Err(LoadError::NoMemory { start, end, at }) => {
                    prop_assert!((start..end).contains(&at) && !map.is_usable(&(at..at + 1)));
                }
                Err(LoadError::Occupied { by, .. }) => {
                    prop_assert!(by == model.busy.start && overlap(&model.busy, &extent));
                }
                Err(LoadError::Initramfs(NoRoom { length })) => {
                    prop_assert_eq!(length, archives.len() as u64);
                    prop_assert!(!model.has_room_for(length));
                }
                // The initramfs may have taken the last room for them.
                Err(LoadError::BootParams) => prop_assert!(!archives.is_empty() || !model.has_room_for(BLOCK)),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
