//! What a boot loader leaves to Linux in 64-bit mode, where a host has no boot loader that does
//! (`Documentation/x86/boot.rst`, "64-bit Boot Protocol"): the first memory at its own addresses,
//! 512 GB of it, and flat segments at 10H and 18H.

use crate::cpu::{Limits, Table, VirtualCpu};
use crate::guest::linux::{BOOT_CS, BOOT_DS};
use crate::shadow::Mode;
use crate::x86::paging::PAGE;
use crate::x86::paging::entry::{LARGE, PRESENT, WRITABLE};
use crate::x86::segment::{FLAT_CODE, FLAT_DATA};

/// Where the guest finds its first page tables, below 1 MB,
pub const TABLES: u64 = 0x1000;
/// and its first descriptors.
pub const DESCRIPTORS: u64 = 0x3000;

/// The paging mode that the guest is entered in, as far as its first tables can tell.
pub const MODE: Mode = Mode { pcid: false, global: false, write_protect: false, no_execute: false, physical_bits: 36 };

/// The words of the tables that are not zero, by guest-physical address.
pub fn words() -> impl Iterator<Item = (u64, u64)> {
    let pointers = TABLES + PAGE;
    let root = (TABLES, pointers | PRESENT | WRITABLE);
    let pages = (0..512).map(move |entry| (pointers + 8 * entry, entry << 30 | LARGE | PRESENT | WRITABLE));
    let segments = [(BOOT_CS, FLAT_CODE), (BOOT_DS, FLAT_DATA)];
    let descriptors = segments.map(|(selector, descriptor)| (DESCRIPTORS + u64::from(selector), descriptor.0));
    [root].into_iter().chain(pages).chain(descriptors)
}

/// The processor that they are loaded into.
#[must_use]
pub const fn processor(limits: Limits) -> VirtualCpu {
    let mut cpu = VirtualCpu::new(limits);
    cpu.cr3 = TABLES;
    cpu.gdt = Table { base: DESCRIPTORS, limit: 4 * 8 - 1 };
    cpu
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;

    use super::*;
    use crate::x86::paging::Walk;

    #[test]
    fn memory_lies_at_its_own_addresses() {
        let words: BTreeMap<u64, u64> = words().collect();
        let read = |_, table: u64, index: usize| words.get(&(table + 8 * index as u64)).copied().unwrap_or(0);
        for address in [0, 0x1234_5678, (512 << 30) - 1] {
            let walk = Walk::new(TABLES, address, 1, 0, read).unwrap();
            assert_eq!((walk.translate(address), walk.is_user()), (address, false));
        }
        assert!(Walk::new(TABLES, 512 << 30, 1, 0, read).is_err());
    }
}
