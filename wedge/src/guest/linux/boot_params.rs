//! What Linux is told about the machine and its command line: `struct boot_params`, one page.
//!
//! A boot loader normally copies the `setup_header` of a bzImage into that page and fills in the
//! rest. A vmlinux has no such header; its build puts it into the bzImage only. So the few fields
//! of it that the kernel itself looks at are given the values that a bzImage would have brought
//! along: the kernel is to behave the same either way.
//!
//! Offsets: `Documentation/x86/zero-page.rst` and `boot.rst`; structures:
//! `arch/x86/include/uapi/asm/bootparam.h` and `include/uapi/linux/screen_info.h`.

use core::ops::Range;

use crate::loader::command_line;
use crate::memory::MemoryMap;

/// Bytes of `struct boot_params`.
pub const SIZE: usize = 4096;

/// The longest command line, without its NUL.
const LONGEST_LINE: u32 = 2047;
const _: () = assert!(LONGEST_LINE as usize + 1 == command_line::SIZE);

/// What the kernel is told.
#[derive(Clone, Debug)]
pub struct BootParams<'a> {
    /// Physical address of the command line, which ends in a NUL.
    pub command_line: u64,
    /// The physical memory with the initramfs; empty if there is none.
    pub initramfs: Range<u64>,
    /// The machine's memory.
    pub map: &'a MemoryMap,
    /// Physical address of ACPI's root pointer; 0 lets the kernel search for it.
    pub rsdp: u64,
    /// What can be drawn on.
    pub display: Display,
    /// Whether addresses are randomised: the kernel then does so with those that it chooses by
    /// itself.
    pub randomised: bool,
    /// Physical address of the first `struct setup_data`; 0 if there is none.
    pub setup_data: u64,
}

/// A `struct setup_data`, by words, by which Linux keeps off usable memory, and maps it all the
/// same with the rest: a `struct setup_indirect` (`Documentation/x86/boot.rst`, since protocol
/// 2.15).
#[must_use]
pub const fn kept(memory: &Range<u64>) -> [u64; 5] {
    const SETUP_INDIRECT: u64 = 1 << 31;
    const SETUP_NONE: u64 = 0;
    const LENGTH: u64 = 24;
    [0, SETUP_INDIRECT | LENGTH << 32, SETUP_NONE, memory.end - memory.start, memory.start]
}

/// What can be drawn on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Display {
    /// Nothing that is known of.
    #[default]
    None,
    /// VGA, in text mode with 80 columns and 25 rows.
    Text {
        /// The row that the cursor is in.
        row: u8,
    },
    /// Pixels in memory.
    Framebuffer(Framebuffer),
}

/// Pixels in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framebuffer {
    /// Physical address of the first pixel.
    pub address: u64,
    /// Bytes from one row to the next.
    pub pitch: u16,
    /// Pixels in a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
    /// Bits of a pixel.
    pub bits_per_pixel: u8,
    /// Where in a pixel its red is.
    pub red: ColourField,
    /// Where its green is.
    pub green: ColourField,
    /// Where its blue is.
    pub blue: ColourField,
}

/// The bits of a pixel with one of its colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColourField {
    /// Number of the lowest bit.
    pub position: u8,
    /// How many bits.
    pub size: u8,
}

impl BootParams<'_> {
    /// Writes the structure.
    pub fn write(&self, page: &mut [u8; SIZE]) {
        page.fill(0);
        self.write_setup_header(page);
        self.write_memory_map(page);
        put(page, 0x70, self.rsdp.to_le_bytes());
        match self.display {
            Display::None => {}
            Display::Text { row } => write_text_mode(page, row),
            Display::Framebuffer(framebuffer) => framebuffer.write(page),
        }
    }

    fn write_setup_header(&self, page: &mut [u8; SIZE]) {
        const ROOT_READ_ONLY: u16 = 1;
        const NORMAL_VIDEO_MODE: u16 = 0xffff;
        const UNDEFINED_LOADER: u8 = 0xff;
        const LOADED_HIGH: u8 = 1 << 0;
        const KASLR_FLAG: u8 = 1 << 1;
        let length = self.initramfs.end - self.initramfs.start;

        put(page, 0x1f2, ROOT_READ_ONLY.to_le_bytes());
        put(page, 0x1fa, NORMAL_VIDEO_MODE.to_le_bytes());
        put(page, 0x1fe, 0xaa55_u16.to_le_bytes());
        // A short jump over the rest of the header: its distance is how one tells where the header
        // ends, here at 0x26c.
        put(page, 0x200, [0xeb, 0x6a]);
        put(page, 0x202, *b"HdrS");
        put(page, 0x206, 0x020f_u16.to_le_bytes());
        put(page, 0x210, [UNDEFINED_LOADER, LOADED_HIGH | if self.randomised { KASLR_FLAG } else { 0 }]);
        put_split(page, [0x218, 0xc0], self.initramfs.start);
        put_split(page, [0x21c, 0xc4], length);
        put_split(page, [0x228, 0xc8], self.command_line);
        put(page, 0x22c, 0x7fff_ffff_u32.to_le_bytes());
        put(page, 0x230, 0x0020_0000_u32.to_le_bytes());
        put(page, 0x238, LONGEST_LINE.to_le_bytes());
        put(page, 0x250, self.setup_data.to_le_bytes());
    }

    /// `e820_entries` and `e820_table`.
    fn write_memory_map(&self, page: &mut [u8; SIZE]) {
        const ENTRY_SIZE: usize = 20;
        let regions = self.map.regions();
        for (number, region) in (0..).zip(regions) {
            let at = 0x2d0 + usize::from(number) * ENTRY_SIZE;
            put(page, 0x1e8, [number + 1]);
            put(page, at, region.start.to_le_bytes());
            put(page, at + 8, (region.end - region.start).to_le_bytes());
            put(page, at + 16, (region.kind as u32).to_le_bytes());
        }
    }
}

/// `screen_info` of a VGA in text mode, as the BIOS leaves it: mode 3, characters of 16 lines.
fn write_text_mode(page: &mut [u8; SIZE], row: u8) {
    const VGA: u8 = 1;
    put(page, 0x01, [row]);
    put(page, 0x06, [3, 80]);
    put(page, 0x0e, [25, VGA, 16]);
}

impl Framebuffer {
    /// `screen_info` of a linear frame buffer.
    fn write(&self, page: &mut [u8; SIZE]) {
        const VIDEO_TYPE_VLFB: u8 = 0x23;
        const VIDEO_CAPABILITY_64BIT_BASE: u32 = 1 << 1;
        /// The size is counted in these.
        const UNIT: u32 = 1 << 16;
        let size = (u32::from(self.pitch) * u32::from(self.height)).div_ceil(UNIT);
        put(page, 0x0f, [VIDEO_TYPE_VLFB]);
        put(page, 0x12, self.width.to_le_bytes());
        put(page, 0x14, self.height.to_le_bytes());
        put(page, 0x16, u16::from(self.bits_per_pixel).to_le_bytes());
        put_split(page, [0x18, 0x3a], self.address);
        put(page, 0x1c, size.to_le_bytes());
        put(page, 0x24, self.pitch.to_le_bytes());
        for (at, colour) in [(0x26, self.red), (0x28, self.green), (0x2a, self.blue)] {
            put(page, at, [colour.size, colour.position]);
        }
        put(page, 0x36, VIDEO_CAPABILITY_64BIT_BASE.to_le_bytes());
    }
}

/// Writes bytes at an offset, all of which are in the page by the layout of the structure.
fn put<const N: usize>(page: &mut [u8; SIZE], at: usize, bytes: [u8; N]) {
    page[at..at + N].copy_from_slice(&bytes);
}

/// Writes a value in two halves, the lower one at the first offset: fields that were widened by
/// later versions.
fn put_split(page: &mut [u8; SIZE], [low, high]: [usize; 2], value: u64) {
    let [l0, l1, l2, l3, h0, h1, h2, h3] = value.to_le_bytes();
    put(page, low, [l0, l1, l2, l3]);
    put(page, high, [h0, h1, h2, h3]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Kind, Region};

    fn written(params: &BootParams) -> [u8; SIZE] {
        let mut page = [0xee; SIZE];
        params.write(&mut page);
        page
    }

    fn params(map: &MemoryMap) -> BootParams<'_> {
        let display = Display::None;
        BootParams { command_line: 0, initramfs: 0..0, map, rsdp: 0, display, randomised: false, setup_data: 0 }
    }

    /// Little-endian, at an offset.
    fn value(page: &[u8], at: usize, size: usize) -> u64 {
        page[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    #[test]
    fn the_header_is_as_a_bzimage_would_bring_it_and_the_rest_zero() {
        let mut page = written(&params(&MemoryMap::default()));
        for (at, size, expected) in [
            (0x1f2, 2, 1),
            (0x1fa, 2, 0xffff),
            (0x1fe, 2, 0xaa55),
            // The header ends at 0x202 + the byte at 0x201.
            (0x200, 2, 0x6aeb),
            (0x202, 4, 0x5372_6448),
            (0x206, 2, 0x020f),
            (0x210, 1, 0xff),
            (0x211, 1, 1),
            (0x22c, 4, 0x7fff_ffff),
            (0x230, 4, 0x20_0000),
            (0x238, 4, 2047),
        ] {
            assert_eq!(value(&page, at, size), expected, "{at:#x}");
            page[at..at + size].fill(0);
        }
        assert!(page.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn addresses_are_given_with_both_halves() {
        let map = MemoryMap::default();
        let page = written(&BootParams {
            command_line: 0x1_2345_6789,
            initramfs: 0x2_3456_7000..0x4_3456_7008,
            rsdp: 0x3_4567_89ab,
            randomised: true,
            setup_data: 0x5_6789_abc8,
            ..params(&map)
        });
        assert_eq!(value(&page, 0x250, 8), 0x5_6789_abc8);
        for (low, high, expected) in
            [(0x228, 0xc8, 0x1_2345_6789), (0x218, 0xc0, 0x2_3456_7000), (0x21c, 0xc4, 0x2_0000_0008)]
        {
            assert_eq!(value(&page, low, 4) | value(&page, high, 4) << 32, expected, "{low:#x}");
        }
        assert_eq!(value(&page, 0x70, 8), 0x3_4567_89ab);
        assert_eq!(page[0x211], 1 | 2);
    }

    #[test]
    fn kept_memory_is_named_by_an_indirect_node() {
        let node = kept(&(0x25_f000..0x26_8000)).map(u64::to_le_bytes);
        let fields = [(0, 8), (8, 4), (12, 4), (16, 4), (20, 4), (24, 8), (32, 8)];
        let values = fields.map(|(at, size)| value(node.as_flattened(), at, size));
        assert_eq!(values, [0, 0x8000_0000, 24, 0, 0, 0x9000, 0x25_f000]);
    }

    #[test]
    fn the_memory_map_is_given_with_sizes_and_kinds() {
        let mut map = MemoryMap::default();
        for number in 0..MemoryMap::CAPACITY as u64 {
            map.add(Region { start: number << 32, end: (number << 32) + 0x1000, kind: Kind::AcpiTables }).unwrap();
        }
        let page = written(&params(&map));
        assert_eq!(page[0x1e8], 128);
        for number in 0..128 {
            let entry = &page[0x2d0 + number * 20..][..20];
            let fields = [value(entry, 0, 8), value(entry, 8, 8), value(entry, 16, 4)];
            assert_eq!(fields, [(number as u64) << 32, 0x1000, 3], "{number}");
        }
        assert!(page[0xcd0..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_frame_buffer_is_described_as_one_of_vesa() {
        let map = MemoryMap::default();
        let field = |position| ColourField { position, size: 8 };
        let display = Display::Framebuffer(Framebuffer {
            address: 0x1_8000_0000,
            pitch: 4096,
            width: 1024,
            height: 769,
            bits_per_pixel: 32,
            red: field(16),
            green: field(8),
            blue: field(0),
        });
        let page = written(&BootParams { display, ..params(&map) });
        for (at, size, expected) in [
            (0x0f, 1, 0x23),
            (0x12, 2, 1024),
            (0x14, 2, 769),
            (0x16, 2, 32),
            (0x18, 4, 0x8000_0000),
            (0x1c, 4, 49),
            (0x24, 2, 4096),
            (0x26, 6, 0x0008_0808_1008),
            (0x2c, 2, 0),
            (0x36, 4, 2),
            (0x3a, 4, 1),
        ] {
            assert_eq!(value(&page, at, size), expected, "{at:#x}");
        }
    }

    #[test]
    fn text_mode_is_described_with_the_row_of_the_cursor() {
        let map = MemoryMap::default();
        let page = written(&BootParams { display: Display::Text { row: 7 }, ..params(&map) });
        assert_eq!(page[..0x12], [0, 7, 0, 0, 0, 0, 3, 80, 0, 0, 0, 0, 0, 0, 25, 1, 16, 0]);
    }
}
