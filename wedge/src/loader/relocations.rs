//! Running the kernel at another virtual address than the one it is linked at.
//!
//! On x86-64 the two halves of Linux's address randomisation have nothing to do with each other.
//! Where the kernel lies in *physical* memory it finds out by itself. Where it lies in *virtual*
//! memory it must be told: its code contains absolute addresses, and whoever loads it has to move
//! each of them by the same offset. A vmlinux does not say where they are (it is linked with
//! `--emit-relocs`, but stripped of them); the kernel's build puts that into `vmlinux.relocs`,
//! which is appended to the kernel in a bzImage and read there by `handle_relocations()`
//! (`arch/x86/boot/compressed/misc.c`; written by `emit_relocs()` in `arch/x86/tools/relocs.c`).
//!
//! The file consists of 32-bit words. There are three lists, each *preceded* by a zero, since the
//! kernel reads them from the end: 64-bit addresses, then negative 32-bit ones (distances from code
//! to per-CPU data, which does not move), then 32-bit addresses. An entry is the linked address of
//! what is to be changed, cut to 32 bits, and is sign-extended.
//!
//! An entry that points to a wrong place corrupts the kernel. So all are checked before the first
//! is applied: each lies in what the file holds of a segment, and behind the one before it in its
//! list.

use core::fmt;
use core::ops::Range;

use super::elf::Kernel;
use crate::memory::{OutOfMemory, PhysicalMemory};

/// The image has to stay in this much address space, which begins where physical address 0 would be
/// linked (`KERNEL_IMAGE_SIZE` of a kernel with `CONFIG_RANDOMIZE_BASE`:
/// `arch/x86/include/asm/page_64_types.h`). Behind it are the modules.
const IMAGE_SPACE: u64 = 1 << 30;

/// Offsets are multiples of a large page (the least `CONFIG_PHYSICAL_ALIGN` that Linux allows).
const STEP: u32 = 2 << 20;

/// One entry, as in the file.
type Entry = [u8; 4];

/// Relocations that hold for a kernel.
#[derive(Clone, Debug)]
pub struct Relocations<'a> {
    /// Where the kernel is loaded,
    extent: Range<u64>,
    /// where the last of those bytes would be at the physical address that it is linked at,
    end: u64,
    /// and the address that the first of those bytes is linked at.
    linked: u64,
    absolute64: &'a [Entry],
    negative32: &'a [Entry],
    absolute32: &'a [Entry],
}

/// Why relocations are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocationError {
    /// They are not three lists of words.
    Lists,
    /// An entry does not hold.
    Entry {
        /// The number of the word, from 0.
        number: usize,
        /// The address that it names.
        address: u64,
        /// What is wrong.
        fault: EntryFault,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryFault {
    /// The kernel has nothing there that could be changed.
    OutOfKernel,
    /// It does not lie behind the entry before.
    Order,
}

/// The linked address that an entry stands for.
fn address(entry: Entry) -> u64 {
    i64::from(i32::from_le_bytes(entry)).cast_unsigned()
}

impl<'a> Relocations<'a> {
    /// Holds the contents of a `vmlinux.relocs` against its kernel.
    ///
    /// # Errors
    ///
    /// At the first entry that does not hold.
    pub fn check(bytes: &'a [u8], kernel: &Kernel) -> Result<Self, RelocationError> {
        let (words, rest) = bytes.as_chunks();
        let mut lists = words.split(|word| *word == Entry::default());
        let (Some([]), Some(absolute64), Some(negative32), Some(absolute32), None, []) =
            (lists.next(), lists.next(), lists.next(), lists.next(), lists.next(), rest)
        else {
            return Err(RelocationError::Lists);
        };
        let mut number = 0;
        for (list, size) in [(absolute64, 8), (negative32, 4), (absolute32, 4)] {
            number += 1;
            check_list(list, size, number, kernel)?;
            number += list.len();
        }
        let linked = kernel.virtual_extent().start;
        Ok(Self {
            extent: kernel.extent(),
            end: kernel.linked_extent().end,
            linked,
            absolute64,
            negative32,
            absolute32,
        })
    }

    /// An offset at which the kernel may run, from 64 random bits; of the at most 512, each is as
    /// likely as the others. This is the choice of `find_random_virt_addr()` in
    /// `arch/x86/boot/compressed/kaslr.c`.
    #[must_use]
    pub fn choose_offset(&self, entropy: u64) -> u32 {
        let slots = 1 + IMAGE_SPACE.saturating_sub(self.end) / u64::from(STEP);
        u32::try_from(entropy % slots).map_or(0, |slot| slot * STEP)
    }

    /// Makes the kernel, which has been loaded, run at `offset` bytes above the address that it is
    /// linked at.
    ///
    /// # Errors
    ///
    /// When the kernel's extent is not memory; then nothing has been changed.
    pub fn apply(&self, memory: &mut impl PhysicalMemory, offset: u32) -> Result<(), OutOfMemory> {
        let image = memory.bytes(self.extent.start, self.extent.end - self.extent.start)?;
        let add64 = |value| u64::from_le_bytes(value).wrapping_add(offset.into()).to_le_bytes();
        let add = |value| u32::from_le_bytes(value).wrapping_add(offset).to_le_bytes();
        let subtract = |value| u32::from_le_bytes(value).wrapping_sub(offset).to_le_bytes();
        self.change(image, self.absolute64, add64);
        self.change(image, self.negative32, subtract);
        self.change(image, self.absolute32, add);
        Ok(())
    }

    /// Changes the value at each place in a list.
    fn change<const N: usize>(&self, image: &mut [u8], list: &[Entry], new: impl Fn([u8; N]) -> [u8; N]) {
        for entry in list {
            let offset = usize::try_from(address(*entry) - self.linked).ok();
            let place = offset.and_then(|offset| image.get_mut(offset..)?.first_chunk_mut());
            if let Some(value) = place {
                *value = new(*value);
            }
        }
    }
}

/// Checks a list, whose first entry is the word with number `first`, of places of `size` bytes.
fn check_list(list: &[Entry], size: u64, first: usize, kernel: &Kernel) -> Result<(), RelocationError> {
    let mut free_from = 0;
    for (index, entry) in list.iter().enumerate() {
        let address = address(*entry);
        let refuse = |fault| RelocationError::Entry { number: first + index, address, fault };
        kernel
            .physical(address)
            .filter(|place| kernel.holds(&(*place..place.saturating_add(size))))
            .ok_or(refuse(EntryFault::OutOfKernel))?;
        if address < free_from {
            return Err(refuse(EntryFault::Order));
        }
        free_from = address + size;
    }
    Ok(())
}

impl fmt::Display for RelocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lists => write!(f, "the kernel's relocations are not three lists of 32-bit words"),
            Self::Entry { number, address, fault } => {
                write!(f, "word {number} of the kernel's relocations, {address:#x}: {fault}")
            }
        }
    }
}

impl fmt::Display for EntryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfKernel => write!(f, "the kernel's file has nothing there"),
            Self::Order => write!(f, "it does not lie behind the one before"),
        }
    }
}

impl core::error::Error for RelocationError {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::loader::synthetic::{PHYSICAL, SIZE, VIRTUAL, poisoned, relocations, vmlinux};

    const OFFSET: u32 = 0x0200_0000;

    fn check(bytes: &[u8]) -> Result<(), RelocationError> {
        let file = vmlinux();
        Relocations::check(bytes, &Kernel::parse(&file).unwrap()).map(|_| ())
    }

    /// Memory with the kernel, and the same after a table was applied.
    fn applied(table: &[u8], prepare: impl Fn(&mut [u8]), offset: u32) -> [Vec<u8>; 2] {
        let file = vmlinux();
        let kernel = Kernel::parse(&file).unwrap();
        let mut memory = poisoned(PHYSICAL, 0x5000);
        kernel.load(&mut memory).unwrap();
        prepare(&mut memory.bytes);
        let before = memory.bytes.clone();
        Relocations::check(table, &kernel).unwrap().apply(&mut memory, offset).unwrap();
        [before, memory.bytes]
    }

    #[test]
    fn each_list_is_applied_as_what_it_is() {
        // The last one is in per-CPU data: named by its place in the image, though it is linked
        // at 0.
        let table = relocations([&[VIRTUAL + 0x3008, VIRTUAL + 0x31f8], &[VIRTUAL + 4], &[VIRTUAL, VIRTUAL + 0x20fc]]);
        let prepare = |image: &mut [u8]| {
            image[..8].copy_from_slice(&[0x34, 0x12, 0, 0x81, 0xff, 0xff, 0xff, 0xff]);
            image[0x3008..0x3010].copy_from_slice(&(VIRTUAL + 0x1234).to_le_bytes());
        };
        let [mut expected, after] = applied(&table, prepare, OFFSET);
        expected[..8].copy_from_slice(&[0x34, 0x12, 0, 0x83, 0xff, 0xff, 0xff, 0xfd]);
        expected[0x20fc..0x2100].copy_from_slice(&0x0402_0202_u32.to_le_bytes());
        expected[0x3008..0x3010].copy_from_slice(&(VIRTUAL + 0x1234 + u64::from(OFFSET)).to_le_bytes());
        expected[0x31f8..0x3200].copy_from_slice(&0x0303_0303_0503_0303_u64.to_le_bytes());
        assert!(after == expected);
    }

    #[test]
    fn a_refusal_names_the_entry() {
        let at = |offset| VIRTUAL + offset;
        let refused = |number, address, fault| Err(RelocationError::Entry { number, address, fault });
        for (lists, result) in [
            ([&[][..], &[], &[]], Ok(())),
            ([&[at(0xff8)], &[at(0xffc)], &[at(0xffc)]], Ok(())),
            ([&[at(0xff9)], &[], &[]], refused(1, at(0xff9), EntryFault::OutOfKernel)),
            ([&[], &[at(0xffd)], &[]], refused(2, at(0xffd), EntryFault::OutOfKernel)),
            ([&[at(0)], &[at(0)], &[at(0), at(0x1ffc)]], refused(6, at(0x1ffc), EntryFault::OutOfKernel)),
            // Memory that is zero at first has nothing to be changed.
            ([&[], &[], &[at(0x3200)]], refused(3, at(0x3200), EntryFault::OutOfKernel)),
            ([&[], &[], &[0x10]], refused(3, 0x10, EntryFault::OutOfKernel)),
            ([&[], &[], &[at(4), at(4)]], refused(4, at(4), EntryFault::Order)),
            ([&[at(8), at(15)], &[], &[]], refused(2, at(15), EntryFault::Order)),
            ([&[at(8), at(16)], &[], &[]], Ok(())),
        ] {
            assert_eq!(check(&relocations(lists)), result, "{lists:x?}");
        }
    }

    #[test]
    fn what_is_not_three_lists_is_refused() {
        let table = relocations([&[VIRTUAL], &[VIRTUAL], &[VIRTUAL]]);
        assert_eq!(check(&table), Ok(()));
        let more = |bytes: &[u8]| [&table, bytes].concat();
        for bytes in [&[][..], &table[1..], &table[4..], &table[..16], &more(&[0]), &more(&[0; 4])] {
            assert_eq!(check(bytes), Err(RelocationError::Lists), "{bytes:x?}");
        }
    }

    #[test]
    fn nothing_is_changed_if_the_extent_is_not_memory() {
        let (file, table) = (vmlinux(), relocations([&[], &[], &[VIRTUAL]]));
        let mut memory = poisoned(PHYSICAL, 0x47ff);
        let error = Relocations::check(&table, &Kernel::parse(&file).unwrap()).unwrap().apply(&mut memory, OFFSET);
        assert_eq!(error, Err(OutOfMemory { address: PHYSICAL, length: SIZE }));
        assert!(memory.bytes.iter().all(|byte| *byte == 0xee));
    }

    #[test]
    fn offsets_reach_from_none_to_the_end_of_the_image_space() {
        let (file, table) = (vmlinux(), relocations([&[]; 3]));
        let relocations = Relocations::check(&table, &Kernel::parse(&file).unwrap()).unwrap();
        let offsets: Vec<_> = (0..504).map(|entropy| relocations.choose_offset(entropy)).collect();
        assert_eq!(offsets[..3], [0, 0x20_0000, 0x40_0000]);
        // 1 GB less the 16 MB below the image and the image itself, in steps of 2 MB.
        assert_eq!((offsets[503], relocations.choose_offset(504)), (503 * STEP, 0));
        assert!(VIRTUAL + SIZE + u64::from(offsets[503]) <= 0xffff_ffff_c000_0000);
    }

    #[test]
    fn where_a_kernel_is_loaded_does_not_matter() {
        const PLACE: u64 = 0x1_2340_0000;
        let (file, table) = (vmlinux(), relocations([&[VIRTUAL + 0x3008], &[VIRTUAL + 4], &[VIRTUAL]]));
        let kernel = Kernel::parse(&file).unwrap().moved(PLACE).unwrap();
        let relocations = Relocations::check(&table, &kernel).unwrap();
        assert_eq!((relocations.choose_offset(503), relocations.choose_offset(504)), (503 * STEP, 0));
        let mut memory = poisoned(PLACE, 0x5000);
        kernel.load(&mut memory).unwrap();
        relocations.apply(&mut memory, OFFSET).unwrap();
        let [_, expected] = applied(&table, |_| (), OFFSET);
        assert!(memory.bytes == expected);
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(words in prop::collection::vec(prop_oneof![Just(0), any::<u32>(), 0x8100_0000..0x8100_5000_u32], 0..12)) {
            let table: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            if check(&table).is_ok() {
                applied(&table, |_| (), OFFSET);
            }
        }

        #[test]
        fn only_what_the_table_names_changes(places in prop::collection::btree_set(0..0x400_u64, 0..20), offset: u32) {
            let places: Vec<u64> = places.iter().map(|place| VIRTUAL + place * 4).collect();
            let [mut before, after] = applied(&relocations([&[], &[], &places]), |_| (), offset);
            for place in places {
                let at = usize::try_from(place - VIRTUAL).unwrap();
                before[at..at + 4].copy_from_slice(&0x0101_0101_u32.wrapping_add(offset).to_le_bytes());
            }
            prop_assert!(before == after);
        }

        #[test]
        fn a_chosen_offset_keeps_the_kernel_aligned_and_below_the_modules(entropy: u64) {
            let (file, table) = (vmlinux(), relocations([&[]; 3]));
            let offset = Relocations::check(&table, &Kernel::parse(&file).unwrap()).unwrap().choose_offset(entropy);
            prop_assert!(offset.is_multiple_of(0x20_0000));
            prop_assert!(VIRTUAL + SIZE + u64::from(offset) <= 0xffff_ffff_c000_0000);
        }
    }
}
