//! Segment descriptors as Linux is told of them (`struct user_desc`,
//! `arch/x86/include/uapi/asm/ldt.h`).

use wedge::x86::segment::Descriptor;

/// The description of a descriptor for this entry of its table. Of none (`LDT_empty`,
/// `arch/x86/include/asm/desc.h`), if that is 0.
pub(super) fn description(entry: usize, descriptor: Descriptor) -> [u64; 2] {
    const IS_32_BIT: u64 = 1 << 0;
    const CONTENTS: u32 = 1;
    const READ_ONLY: u64 = 1 << 3;
    const IN_PAGES: u64 = 1 << 4;
    const NOT_PRESENT: u64 = 1 << 5;
    const AVAILABLE: u64 = 1 << 6;
    let entry = entry as u64;
    if descriptor.0 == 0 {
        return [entry, (READ_ONLY | NOT_PRESENT) << 32];
    }
    let flag = |is: bool, flag: u64| if is { flag } else { 0 };
    let bit = |number: u32| descriptor.0 >> number & 1 != 0;
    // Data, which may expand down, or code, which may conform: the upper half of the type.
    let contents = u64::from(descriptor.kind() >> 2) << CONTENTS;
    let flags = flag(descriptor.is_big(), IS_32_BIT)
        | contents
        | flag(!bit(41), READ_ONLY)
        | flag(bit(52), AVAILABLE)
        | flag(bit(55), IN_PAGES)
        | flag(!descriptor.is_present(), NOT_PRESENT);
    let limit = descriptor.0 & 0xffff | descriptor.0 >> 32 & 0xf_0000;
    [entry | u64::from(descriptor.base()) << 32, limit | flags << 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_says_what_a_descriptor_does() {
        for (descriptor, expected) in [
            (0, [12, 0x28_0000_0000]),
            // 4 GB, to be read and written, as Linux writes it for a C library.
            (0xf7df_f3c4_0940_ffff, [0xf7c4_0940 << 32 | 0xc, 0x51_000f_ffff]),
            // Of bytes, to be read only, that expands down.
            (0x0042_f400_1000_0555, [0x1000 << 32 | 0xc, 0x0b_0002_0555]),
            // Code of 16 bits that may be read.
            (0x0000_fb12_3456_ffff, [0x12_3456 << 32 | 0xc, 0x04_0000_ffff]),
            // Code of 32 bits that only executes, and conforms, and is not there.
            (0x00c0_7c00_0000_0001, [0xc, 0x3f_0000_0001]),
        ] {
            assert_eq!(description(12, Descriptor(descriptor)), expected, "{descriptor:#x}");
        }
    }
}
