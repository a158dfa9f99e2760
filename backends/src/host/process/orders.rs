//! What a program's process is told to do: system calls, in a page that it may only read.
//!
//! The process carries them out itself, by a few instructions in a page beside that one
//! ([`stub`](super::stub)), for Linux lets nobody map anything in another process. A program may
//! find these instructions and jump to them. Nothing comes of it: the wedge is asked about each
//! call, and has given no orders ([`programs`](super::programs)).

use core::ops::Range;

use linux_raw_sys::general as raw;
use wedge::shadow::BLOCK;
use wedge::x86::paging::PAGE;

use super::areas::SET_THREAD_AREA;
use super::mappings::{Mapping, Stale};
use super::system::WRITE_LDT;

/// Ranges that are stale, a block of pages, each in a range of its own, the top of a stack in two
/// pages, and the whole address space up to three times: what one run of a program may take.
const _: () = assert!(Stale::CAPACITY + BLOCK + 2 + 3 <= Orders::CAPACITY);

/// Bytes of the page in front of them.
pub(super) const HEAD: usize = 32;

/// A system call: its number, and six arguments.
pub(super) type Order = [u64; 7];

/// Marks the number of a system call of 32-bit programs, which has one argument; what is behind
/// that is for whom the argument leads there.
pub(super) const BY_INTERRUPT: u64 = 1 << 32;

/// Marks one whose result has 32 bits: `modify_ldt(2)` returns errors so.
pub(super) const OF_32_BITS: u64 = 1 << 33;

/// A few of them.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    orders: [Order; Self::CAPACITY],
    count: usize,
}

impl Orders {
    /// What fits into a page, behind its head.
    pub(super) const CAPACITY: usize = (PAGE as usize - HEAD) / size_of::<Order>();

    /// None.
    pub(super) const fn new() -> Self {
        Self { orders: [[0; 7]; Self::CAPACITY], count: 0 }
    }

    /// All of them.
    pub(super) fn as_slice(&self) -> &[Order] {
        &self.orders[..self.count]
    }

    /// Adds any call. What does not fit is left out: whoever adds counts.
    pub(super) fn add(&mut self, number: u32, arguments: [u64; 6]) {
        self.push(number.into(), arguments);
    }

    fn push(&mut self, number: u64, arguments: [u64; 6]) {
        if let Some(place) = self.orders.get_mut(self.count) {
            place[0] = number;
            place[1..].copy_from_slice(&arguments);
            self.count += 1;
        }
    }

    /// Sets a thread area, while the page of orders is mapped at an address below 4 GB.
    pub(super) fn set_thread_area(&mut self, [first, second]: [u64; 2], page: u64) {
        const DESCRIPTION: usize = 2 * size_of::<u64>();
        let place = page + (HEAD + self.count * size_of::<Order>() + DESCRIPTION) as u64;
        self.push(BY_INTERRUPT | u64::from(SET_THREAD_AREA), [place, first, second, 0, 0, 0]);
    }

    /// Sets an entry of the local descriptor table, by the page of orders at an address. Another
    /// order has to follow, as with [`Self::set_thread_area`]: what is read there is gone with the
    /// last.
    pub(super) fn set_local(&mut self, [first, second]: [u64; 2], page: u64) {
        const DESCRIPTION: usize = 4 * size_of::<u64>();
        let place = page + (HEAD + self.count * size_of::<Order>() + DESCRIPTION) as u64;
        let length = size_of::<[u64; 2]>() as u64;
        self.push(OF_32_BITS | u64::from(raw::__NR_modify_ldt), [WRITE_LDT, place, length, first, second, 0]);
    }

    /// Whether there is room for one more at most.
    pub(super) fn is_full(&self) -> bool {
        self.count + 1 >= Self::CAPACITY
    }

    /// Unmaps a range, from the lowest address on that Linux maps anything at.
    pub(super) fn unmap(&mut self, range: &Range<u64>, lowest: u64) {
        let start = range.start.max(lowest);
        if start < range.end {
            self.add(raw::__NR_munmap, [start, range.end - start, 0, 0, 0, 0]);
        }
    }

    /// Maps a part of a file.
    pub(super) fn map(&mut self, mapping: &Mapping, file: u32) {
        let flags = raw::MAP_SHARED | raw::MAP_FIXED;
        let Mapping { address, length, physical, .. } = *mapping;
        let arguments = [address, length, mapping.protection().into(), flags.into(), file.into(), physical];
        self.add(raw::__NR_mmap, arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::mappings::Rights;

    #[test]
    fn an_order_is_a_call_with_its_arguments() {
        let mut orders = Orders::new();
        orders.unmap(&(0..0x3000), 0x1000);
        orders.unmap(&(0..0x1000), 0x1000);
        let rights = Rights { writable: true, executable: false };
        orders.map(&Mapping { address: 0x5000, length: 0x2000, physical: 0x7000, rights }, 3);
        assert_eq!(orders.as_slice(), [[11, 0x1000, 0x2000, 0, 0, 0, 0], [9, 0x5000, 0x2000, 3, 0x11, 3, 0x7000]]);
    }

    #[test]
    fn a_descriptor_is_described_in_its_order() {
        const PAGE: u64 = 0x10000;
        let mut orders = Orders::new();
        orders.set_thread_area([12, 34], PAGE);
        orders.set_local([56, 78], PAGE);
        let area = [BY_INTERRUPT + 243, PAGE + 32 + 16, 12, 34, 0, 0, 0];
        let local = [OF_32_BITS + 154, 0x11, PAGE + 32 + 56 + 32, 16, 56, 78, 0];
        assert_eq!(orders.as_slice(), [area, local]);
    }
}
