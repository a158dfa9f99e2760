//! What an image says to boot loaders: the headers and notes by which they find out that they can
//! load it, and where to enter it.
//!
//! One file serves four protocols, and a loader takes the first that it knows. Three of them enter
//! 32-bit protected mode without paging, with a pointer to the boot information in EBX; the fourth,
//! Xen's for paravirtualized guests, enters 64-bit mode in the window, on page tables of Xen's. The
//! ELF's program headers say what is loaded where; the address fields that both multiboot headers
//! offer for other formats are left out.
//!
//! QEMU's `-kernel` looks for a multiboot 1 header before anything else, and refuses a 64-bit ELF
//! file that has one. But it looks less far than the specification says, since it expects the
//! longest form of the header: see [`MULTIBOOT1_OFFSETS`]. Past that it finds the PVH note.

use core::ops::RangeInclusive;

/// Value of EAX at a multiboot 1 entry (Multiboot Specification 0.6.96, 3.2).
pub const MULTIBOOT1_ENTRY_MAGIC: u32 = 0x2bad_b002;

/// Value of EAX at a multiboot 2 entry (Multiboot2 Specification 2.0, 3.5).
pub const MULTIBOOT2_ENTRY_MAGIC: u32 = 0x36d7_6289;

/// First field of the structure that EBX points to at a PVH entry (Xen,
/// public/arch-x86/hvm/start_info.h, `XEN_HVM_START_MAGIC_VALUE`).
pub const PVH_START_MAGIC: u32 = 0x336e_c578;

/// Where in the file the multiboot 1 header may lie. The specification (3.1) wants the whole of it
/// within the first 8192 bytes, aligned to four; QEMU (`load_multiboot`) looks at offsets below
/// 8192 - 48, and must not find it.
pub const MULTIBOOT1_OFFSETS: RangeInclusive<u64> = 8192 - 48..=8192 - 12;

/// Alignment of the multiboot 1 header in the file (3.1).
pub const MULTIBOOT1_ALIGNMENT: u64 = 4;

/// The multiboot 2 header lies, as a whole, within so many first bytes of the file (3.1).
pub const MULTIBOOT2_SEARCHED: u64 = 32768;

/// Alignment of the multiboot 2 header in the file (3.1).
pub const MULTIBOOT2_ALIGNMENT: u64 = 8;

/// Alignment that the segment with the notes must state: to find the descriptor, QEMU
/// (`read_pvh_start_addr`) rounds the length of the note's name up to it, where the ELF gABI rounds
/// up to four.
pub const NOTE_ALIGNMENT: u64 = 4;

/// One of Xen's notes; all that are needed here have descriptors of eight bytes.
pub type Note = [u8; 24];

/// The multiboot 1 header (3.1.1): magic, flags, and what makes their sum zero. It asks for a
/// memory map (bit 1); the entry is that of the ELF file.
#[must_use]
pub fn multiboot1_header() -> [u8; 12] {
    const MAGIC: u32 = 0x1bad_b002;
    const MEMORY_INFORMATION: u32 = 1 << 1;
    let mut header = [0; 12];
    put(&mut header, &[MAGIC, MEMORY_INFORMATION, 0u32.wrapping_sub(MAGIC).wrapping_sub(MEMORY_INFORMATION)]);
    header
}

/// The multiboot 2 header (3.1): its fixed part and the tags for the entry (3: the physical address
/// of 32-bit code) and for the framebuffer (5: any size and depth, or text; optional, so that a
/// machine without a screen boots too), then the end. A tag starts with a half-word for its type
/// and one for its flags, and is padded to eight bytes.
#[must_use]
pub fn multiboot2_header(entry: u32) -> [u8; 64] {
    const MAGIC: u32 = 0xe852_50d6;
    const I386: u32 = 0;
    const LENGTH: u32 = 64;
    const CHECKSUM: u32 = 0u32.wrapping_sub(MAGIC).wrapping_sub(I386).wrapping_sub(LENGTH);
    const OPTIONAL: u32 = 1 << 16;
    const NO_PREFERENCE: u32 = 0;
    const PADDING: u32 = 0;
    let fixed = [MAGIC, I386, LENGTH, CHECKSUM];
    let entry_address = [3, 12, entry, PADDING];
    let framebuffer = [5 | OPTIONAL, 20, NO_PREFERENCE, NO_PREFERENCE, NO_PREFERENCE, PADDING];
    let end = [0, 8];
    let mut header = [0; LENGTH as usize];
    put(&mut header[..16], &fixed);
    put(&mut header[16..32], &entry_address);
    put(&mut header[32..56], &framebuffer);
    put(&mut header[56..], &end);
    header
}

/// The ELF note that names the PVH entry (Xen, public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`): the
/// physical address of 32-bit code. The descriptor has eight bytes, for QEMU reads eight from a
/// 64-bit file; Xen takes four or eight. It must be covered by a `PT_NOTE` segment of alignment
/// [`NOTE_ALIGNMENT`].
#[must_use]
pub fn pvh_note(entry: u32) -> Note {
    const PHYS32_ENTRY: u32 = 18;
    note(PHYS32_ENTRY, u64::from(entry).to_le_bytes())
}

/// The ELF notes by which Xen starts the file as a paravirtualized guest (Xen, public/elfnote.h):
/// the virtual address of 64-bit code, and that of pseudo-physical address 0. Xen puts a segment at
/// the sum of that and its `p_paddr`; its `p_vaddr` says nothing. A numeric descriptor may have any
/// size up to eight bytes, and features come in words of four.
///
/// Without `XEN_ELFNOTE_HYPERCALL_PAGE` Xen writes no such page: the instruction `syscall` does as
/// well.
#[must_use]
pub fn xen_pv_notes(entry: u64, base: u64) -> [Note; 6] {
    const ENTRY: u32 = 1;
    const VIRT_BASE: u32 = 3;
    const XEN_VERSION: u32 = 5;
    const LOADER: u32 = 8;
    // The module is not mapped behind the image: its frames are the guest's at once.
    const MOD_START_PFN: u32 = 16;
    const SUPPORTED_FEATURES: u32 = 17;
    // `XENFEAT_dom0` (public/features.h).
    const DOM0: u64 = 1 << 11;
    [
        note(ENTRY, entry.to_le_bytes()),
        note(VIRT_BASE, base.to_le_bytes()),
        note(XEN_VERSION, *b"xen-3.0\0"),
        note(LOADER, *b"generic\0"),
        note(MOD_START_PFN, 1u64.to_le_bytes()),
        note(SUPPORTED_FEATURES, DOM0.to_le_bytes()),
    ]
}

/// A note of the vendor Xen: the sizes of name and descriptor, type, name, descriptor.
fn note(kind: u32, descriptor: [u8; 8]) -> Note {
    let mut note = [0; size_of::<Note>()];
    put(&mut note[..16], &[4, 8, kind, u32::from_le_bytes(*b"Xen\0")]);
    note[16..].copy_from_slice(&descriptor);
    note
}

fn put(bytes: &mut [u8], words: &[u32]) {
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
        bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word))
    }

    #[test]
    fn the_words_of_both_fixed_parts_add_up_to_zero() {
        for fixed in [&multiboot1_header()[..], &multiboot2_header(0x10_0000)[..16]] {
            assert_eq!(words(fixed).fold(0, u32::wrapping_add), 0, "{fixed:x?}");
        }
    }

    #[test]
    fn the_tags_follow_each_other_up_to_the_end_tag() {
        let header = multiboot2_header(0x1234_5678);
        assert_eq!(words(&header[8..12]).next(), Some(64));
        let mut tags = Vec::new();
        let mut offset = 16;
        while offset < header.len() {
            let size = u32::from_le_bytes(header[offset + 4..offset + 8].try_into().unwrap()) as usize;
            let [kind, flags] = [0, 2].map(|at| header[offset + at]);
            tags.push((kind, flags, words(&header[offset + 8..offset + size]).collect::<Vec<_>>()));
            offset += size.next_multiple_of(8);
        }
        assert_eq!(tags, [(3, 0, vec![0x1234_5678]), (5, 1, vec![0; 3]), (0, 0, vec![])]);
    }

    #[test]
    fn the_note_is_named_xen_and_holds_the_entry() {
        let note = pvh_note(0x1234_5678);
        assert_eq!(words(&note[..12]).collect::<Vec<_>>(), [4, 8, 18]);
        assert_eq!(&note[12..16], b"Xen\0");
        assert_eq!(&note[16..], 0x1234_5678u64.to_le_bytes());
    }

    #[test]
    fn the_notes_of_a_pv_guest_say_where_it_is_entered_and_mapped() {
        let notes = xen_pv_notes(0xffff_ffff_7f10_1234, 0xffff_ffff_7f00_0000);
        let kinds = notes.map(|note| {
            assert_eq!(words(&note[..8]).collect::<Vec<_>>(), [4, 8]);
            assert_eq!(&note[12..16], b"Xen\0");
            (words(&note[8..12]).next(), u64::from_le_bytes(note[16..].try_into().unwrap()))
        });
        let text = |text: &[u8; 8]| u64::from_le_bytes(*text);
        let expected = [
            (1, 0xffff_ffff_7f10_1234),
            (3, 0xffff_ffff_7f00_0000),
            (5, text(b"xen-3.0\0")),
            (8, text(b"generic\0")),
            (16, 1),
            (17, 1 << 11),
        ];
        assert_eq!(kinds, expected.map(|(kind, descriptor)| (Some(kind), descriptor)));
    }

    #[test]
    fn a_header_fits_where_loaders_look_and_qemu_does_not() {
        assert!(MULTIBOOT1_OFFSETS.end() + multiboot1_header().len() as u64 <= 8192);
        assert!(MULTIBOOT1_OFFSETS.start().is_multiple_of(MULTIBOOT1_ALIGNMENT));
    }
}
