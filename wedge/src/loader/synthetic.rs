//! A small kernel for tests, and memory to load it to.

extern crate std;

use std::vec::Vec;

use crate::memory::Buffer;

/// Where the kernel is linked, and loaded.
pub(super) const VIRTUAL: u64 = 0xffff_ffff_8100_0000;
pub(super) const PHYSICAL: u64 = 0x100_0000;

/// The end of its extent, from [`PHYSICAL`].
pub(super) const SIZE: u64 = 0x4800;

/// Offsets in the file of the ELF header's `e_entry`, and of the program headers.
pub(super) const ENTRY: usize = 24;
pub(super) const HEADERS: usize = 64;

/// Bytes of a program header.
pub(super) const HEADER: usize = 56;

/// Type, flags, offset, virtual and physical address, size in the file and in memory, alignment:
/// text, per-CPU data that is linked at 0 as Linux does, data, and a note.
const PROGRAM_HEADERS: [[u64; 8]; 4] = [
    [1, 5, 0x1000, VIRTUAL, PHYSICAL, 0x1000, 0x1000, 0x1000],
    [1, 6, 0x2000, 0, PHYSICAL + 0x2000, 0x100, 0x100, 0x1000],
    [1, 7, 0x3000, VIRTUAL + 0x3000, PHYSICAL + 0x3000, 0x200, 0x1800, 0x1000],
    [4, 0, 0x1800, VIRTUAL + 0x800, PHYSICAL + 0x800, 0x20, 0x20, 4],
];

/// A kernel; each byte of its text is 1, of its per-CPU data 2, of its data 3.
pub(super) fn vmlinux() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([PHYSICAL, HEADERS as u64, 0].map(u64::to_le_bytes).as_flattened());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 4, 0, 64, 0, 0, 0, 0, 0]);
    for [kind, flags, rest @ ..] in PROGRAM_HEADERS {
        file.extend((kind | flags << 32).to_le_bytes());
        file.extend(rest.map(u64::to_le_bytes).as_flattened());
    }
    for (start, end, content) in [(0x1000, 0x2000, 1), (0x2000, 0x2100, 2), (0x3000, 0x3200, 3)] {
        file.resize(start, 0);
        file.resize(end, content);
    }
    file
}

/// A `vmlinux.relocs` of three lists.
pub(super) fn relocations(lists: [&[u64]; 3]) -> Vec<u8> {
    let word = |address: &u64| address.to_le_bytes().into_iter().take(4);
    lists.iter().flat_map(|list| [0_u64].iter().chain(*list).flat_map(word)).collect()
}

pub(super) type Memory = Buffer<Vec<u8>>;

/// Memory from an address on, filled with 0xee.
pub(super) fn poisoned(start: u64, length: usize) -> Memory {
    Buffer { start, bytes: std::vec![0xee; length] }
}
