//! Thread areas: three entries of the global descriptor table that each thread has for itself
//! (`set_thread_area(2)`). In one of them 32-bit programs have their thread-local storage, but
//! whoever likes may load them.
//!
//! What a load finds is what the guest's kernel has in its table at that moment, and it writes
//! these entries by plain stores when it changes threads. The table that the processor reads is
//! that of the Linux below. Its other descriptors for programs are the guest's as they are, for the
//! guest is a Linux, too; these three a process can change, but only for itself, and only by a
//! system call of 32-bit programs. So the stub process makes that call, as an
//! [order](super::orders), before a program runs for which they are others than they were.
//!
//! The call reads a description below 4 GB, and there everything is the program's. So the page of
//! orders is mapped there for so long, where the lowest page is that Linux maps at all. What the
//! program has there is mapped again when it is accessed.

use wedge::guest::linux::TLS_ENTRIES;
use wedge::x86::segment::{Descriptor, Selector};

use super::descriptions::description;

/// The number of `set_thread_area`, by INT 80H (`arch/x86/entry/syscalls/syscall_32.tbl`).
pub(super) const SET_THREAD_AREA: u32 = 243;

/// The descriptors, without the accessed bit, which Linux sets; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ThreadAreas([u64; TLS_ENTRIES.end - TLS_ENTRIES.start]);

impl ThreadAreas {
    /// Those that a guest has in its table. What Linux gives nobody is left out (`tls_desc_okay`,
    /// `arch/x86/kernel/tls.c`): the guest is one itself.
    pub(super) fn of(descriptors: [u64; TLS_ENTRIES.end - TLS_ENTRIES.start]) -> Self {
        const ACCESSED: u64 = 1 << 40;
        Self(descriptors.map(|descriptor| if is_given(Descriptor(descriptor)) { descriptor & !ACCESSED } else { 0 }))
    }

    /// Whether a selector can be loaded; `None` if it is of another entry.
    pub(super) fn can_load(&self, selector: u16) -> Option<bool> {
        let selector = Selector(selector);
        let index = (selector.offset() / 8) as usize;
        let area = self.0.get(index.checked_sub(TLS_ENTRIES.start)?)?;
        (!selector.is_local()).then_some(*area != 0)
    }

    /// Descriptions of those that are different from others.
    pub(super) fn different(&self, others: &Self) -> impl Iterator<Item = [u64; 2]> {
        let all = self.0.iter().zip(others.0).enumerate();
        let different = all.filter(|(_, (area, other))| *area != other);
        different.map(|(index, (area, _))| description(TLS_ENTRIES.start + index, Descriptor(*area)))
    }
}

/// Whether Linux gives a program such a descriptor: that of data, present, of 32 bits.
fn is_given(descriptor: Descriptor) -> bool {
    let is_data = !descriptor.is_system() && !descriptor.is_code();
    is_data && descriptor.is_present() && descriptor.dpl() == 3 && descriptor.is_big() && !descriptor.is_long()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 GB, to be read and written, as Linux writes it for a C library.
    const USUAL: u64 = 0xf7df_f3c4_0940_ffff;

    #[test]
    fn only_what_is_different_is_described() {
        let areas = ThreadAreas::of([USUAL, 0, USUAL]);
        assert_eq!(areas.different(&areas).count(), 0);
        let none = ThreadAreas::default();
        let entries = areas.different(&none).map(|[first, _]| first as u32);
        assert!(entries.eq([12, 14]));
        let gone = ThreadAreas::of([USUAL, 0, 0]);
        assert!(gone.different(&areas).eq([[14, 0x28_0000_0000]]));
    }

    #[test]
    fn the_accessed_bit_makes_no_difference() {
        assert_eq!(ThreadAreas::of([USUAL, 0, 0]), ThreadAreas::of([USUAL & !(1 << 40), 0, 0]));
    }

    #[test]
    fn what_linux_gives_nobody_is_none() {
        const CODE: u64 = 1 << 43;
        const PRESENT: u64 = 1 << 47;
        const LEVEL: u64 = 3 << 45;
        const OF_MEMORY: u64 = 1 << 44;
        const BIG: u64 = 1 << 54;
        let wrong = [USUAL | CODE, USUAL & !PRESENT, USUAL & !LEVEL, USUAL & !OF_MEMORY, USUAL & !BIG, 1];
        for descriptor in wrong {
            assert_eq!(ThreadAreas::of([descriptor, 0, 0]), ThreadAreas::default(), "{descriptor:#x}");
        }
    }

    #[test]
    fn selectors_of_areas_can_be_loaded_where_there_is_one() {
        let areas = ThreadAreas::of([USUAL, 0, 0]);
        let expected = [
            (0x5b, None),
            (0x60, Some(true)),
            (0x63, Some(true)),
            (0x67, None),
            (0x6b, Some(false)),
            (0x73, Some(false)),
            (0x7b, None),
            (3, None),
        ];
        for (selector, expected) in expected {
            assert_eq!(areas.can_load(selector), expected, "{selector:#x}");
        }
    }
}
