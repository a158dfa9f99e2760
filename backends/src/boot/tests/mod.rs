//! Structures as loaders write them, by hand; then the same with one thing wrong.

use std::collections::BTreeMap;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;
use wedge::memory::{Kind, Region};

use super::*;

mod multiboot;
mod multiboot2;
mod pvh;

/// Physical memory: pieces by address, with nothing between them.
#[derive(Clone, Debug, Default)]
struct Memory(BTreeMap<u64, Vec<u8>>);

impl ReadMemory for Memory {
    fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
        let (start, piece) = self.0.range(..=address).next_back()?;
        let offset = usize::try_from(address - start).ok()?;
        piece.get(offset..offset.checked_add(usize::try_from(length).ok()?)?)
    }
}

impl Memory {
    /// Makes a piece of memory.
    fn set(&mut self, address: u64, bytes: impl AsRef<[u8]>) {
        self.0.insert(address, bytes.as_ref().to_vec());
    }

    /// Makes a piece of memory of words.
    fn set_words(&mut self, address: u64, words: &[u32]) {
        self.set(address, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
    }

    /// Changes bytes that are there.
    fn change(&mut self, address: u64, bytes: impl AsRef<[u8]>) {
        let (start, piece) = self.0.range_mut(..=address).next_back().unwrap();
        let offset = usize::try_from(address - start).unwrap();
        piece[offset..][..bytes.as_ref().len()].copy_from_slice(bytes.as_ref());
    }

    /// Changes a word that is there.
    fn change_word(&mut self, address: u64, word: u32) {
        self.change(address, word.to_le_bytes());
    }

    /// Cuts a piece short.
    fn cut(&mut self, start: u64, length: usize) {
        self.0.get_mut(&start).unwrap().truncate(length);
    }
}

/// One thing that is wrong: what changes in memory, and what the error says of it.
type Fault = (fn(&mut Memory), &'static str, u64, Problem);

fn assert_faults(protocol: LoaderProtocol, address: u64, memory: &Memory, faults: &[Fault]) {
    for (number, (change, field, at, problem)) in faults.iter().enumerate() {
        let mut memory = memory.clone();
        change(&mut memory);
        let error = BootInformation::read(protocol, &memory, address).map(|_| ()).unwrap_err();
        let expected = InvalidBootInformation { protocol, field, address: *at, problem: *problem };
        assert_eq!(error, expected, "fault {number}: {error}");
    }
}

fn region(start: u64, end: u64, kind: Kind) -> Region {
    Region { start, end, kind }
}

/// An RSDP of this revision with correct checksums.
fn rsdp(revision: u8) -> Vec<u8> {
    let negative_sum = |bytes: &[u8]| bytes.iter().copied().fold(0, u8::wrapping_add).wrapping_neg();
    let mut rsdp = b"RSD PTR \0BOCHS ".to_vec();
    rsdp.push(revision);
    rsdp.extend(0x7ffe_1234_u32.to_le_bytes());
    rsdp[8] = negative_sum(&rsdp);
    if revision >= 2 {
        rsdp.extend(36u32.to_le_bytes());
        rsdp.extend([0; 12]);
        rsdp[32] = negative_sum(&rsdp);
    }
    rsdp
}

#[test]
fn the_entry_tells_the_protocol() {
    for (eax, first_word, expected) in [
        (0, headers::PVH_START_MAGIC, Some(LoaderProtocol::Pvh)),
        (0x2bad_b002, headers::PVH_START_MAGIC, Some(LoaderProtocol::Pvh)),
        (0x2bad_b002, 0x24f, Some(LoaderProtocol::Multiboot1)),
        (0x36d7_6289, 0x5a8, Some(LoaderProtocol::Multiboot2)),
        (0, 0, None),
        (headers::PVH_START_MAGIC, 0, None),
    ] {
        assert_eq!(entered_by(eax, first_word), expected, "{eax:#x} {first_word:#x}");
    }
}

#[test]
fn a_message_names_protocol_field_and_address() {
    let error = InvalidBootInformation {
        protocol: LoaderProtocol::Multiboot2,
        field: "memory map tag",
        address: 0x9018,
        problem: Problem::Short { length: 16, least: 20 },
    };
    let message = "multiboot 2 boot information: memory map tag at 0x9018: 16 bytes, fewer than 20";
    assert_eq!(error.to_string(), message);
}

const PROTOCOLS: [LoaderProtocol; 3] = [LoaderProtocol::Pvh, LoaderProtocol::Multiboot1, LoaderProtocol::Multiboot2];

/// A structure that is right, and where it lies.
fn right(protocol: LoaderProtocol) -> (Memory, u64) {
    match protocol {
        LoaderProtocol::Pvh => (pvh::memory(), pvh::AT),
        LoaderProtocol::Multiboot1 => (multiboot::memory(), multiboot::AT),
        LoaderProtocol::Multiboot2 => (multiboot2::memory(), multiboot2::AT),
    }
}

/// What is told lies where it is said to lie.
fn assert_consistent(information: &BootInformation<'_>, memory: &Memory) {
    for range in information.modules.iter().chain(&information.rsdp).filter(|range| !range.is_empty()) {
        assert!(memory.read(range.start, range.end - range.start).is_some(), "{range:x?}");
    }
    assert!(information.memory.regions().iter().any(|region| region.kind == Kind::Usable));
}

proptest! {
    #[test]
    fn any_memory_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512), at in 0..64u64) {
        for protocol in PROTOCOLS {
            for start in [0, 0xffff_ff00, u64::MAX - 511] {
                let mut memory = Memory::default();
                memory.set(start, &bytes);
                if let Ok(information) = BootInformation::read(protocol, &memory, start + at) {
                    assert_consistent(&information, &memory);
                }
            }
        }
    }

    #[test]
    fn a_right_structure_with_some_words_changed_is_read_or_refused(
        changes in proptest::collection::vec(
            (any::<Index>(), any::<Index>(), prop_oneof![0..64u32, Just(u32::MAX), any::<u32>()]),
            1..6,
        ),
    ) {
        for protocol in PROTOCOLS {
            let (mut memory, at) = right(protocol);
            for (piece, offset, word) in &changes {
                let mut pieces: Vec<_> = memory.0.values_mut().collect();
                let bytes = piece.get_mut(&mut pieces);
                let offset = offset.index(bytes.len());
                for (byte, new) in bytes[offset..].iter_mut().zip(word.to_le_bytes()) {
                    *byte = new;
                }
            }
            if let Ok(information) = BootInformation::read(protocol, &memory, at) {
                assert_consistent(&information, &memory);
            }
        }
    }
}
