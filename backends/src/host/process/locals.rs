//! Local descriptor tables (SDM Vol. 3A, 3.5.1).
//!
//! What a program may load of its own table is what its kernel has written there. The table that
//! the processor reads is one of the Linux below, and each process has its own (`modify_ldt(2)`).
//! So before a program goes on, the entries of its process's table become those of the guest's,
//! where they are others: Linux changes one in a call, which the process makes as an
//! [order](super::orders). That costs nothing where neither has a table. All entries are set, and
//! not only those that somebody loads, for LSL and LAR ask without an exception.
//!
//! With `--fast` all programs run in the wedge's process, which makes the call itself when the
//! kernel loads a table.
//!
//! Linux sets the accessed bit of all its entries. Whatever it gives nobody is no entry here
//! (`arch/x86/kernel/ldt.c`, `write_ldt`), for the guest is one itself; a Linux below that was
//! built without segments of 16 bits gives fewer.

use core::slice;

use wedge::x86::segment::{Descriptor, Selector};

use super::descriptions::description;
use super::memory::{LOCALS, READ_AND_WRITE, pointer};
use super::orders::Orders;
use super::system::{self, Answer};
use crate::runtime::PAGE;

/// An entry, as it is in memory.
type Entry = [u8; 8];
/// Entries of a page.
type Page = [Entry; PAGE as usize / size_of::<Entry>()];
/// A table with as many entries as one can have (`LDT_ENTRIES`, `arch/x86/include/uapi/asm/ldt.h`).
type Table = [Page; ENTRIES * size_of::<Entry>() / PAGE as usize];
const ENTRIES: usize = 8192;

/// What the Linux below gives programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// Segments of 16 bits, too (`CONFIG_X86_16BIT`).
    pub(super) narrow: bool,
}

impl Given {
    /// The descriptor that a program finds for one of its kernel's.
    fn descriptor(self, entry: Entry) -> Descriptor {
        let found = Descriptor(u64::from_le_bytes(entry));
        let is_segment = !found.is_system() && found.dpl() == 3 && !found.is_long();
        let conforms = found.is_conforming() && found.is_present();
        if is_segment && !conforms && (self.narrow || found.is_big()) { found } else { Descriptor(0) }
    }
}

/// What the guest had in its table when the entries of a process were set, and how many these are.
#[derive(Clone, Debug)]
#[repr(C)]
struct Set {
    count: usize,
    /// All of it is of this table, or of none.
    of: u64,
    table: Table,
}

/// The tables of the processes that programs run in.
#[derive(Debug)]
pub(super) struct Locals {
    given: Given,
    /// What the guest has in the table of the program that goes on, and how many entries that has.
    wanted: &'static mut Table,
    count: usize,
    /// Which of the tables that the kernel has loaded that is.
    of: u64,
    /// By the number of the space.
    sets: &'static mut [Set],
}

impl Locals {
    /// No process of so many spaces has a table.
    pub(super) fn new(given: Given, spaces: usize) -> Answer<Self> {
        let length = size_of::<Table>() + spaces * size_of::<Set>();
        // SAFETY: nothing is there, nobody else is given these, and zeros are values of both.
        let (wanted, sets) = unsafe {
            system::map(LOCALS, length as u64, READ_AND_WRITE, None)?;
            let behind = LOCALS + size_of::<Table>() as u64;
            (&mut *pointer::<Table>(LOCALS), slice::from_raw_parts_mut(pointer::<Set>(behind), spaces))
        };
        Ok(Self { given, wanted, count: 0, of: 0, sets })
    }

    /// The process of a space is a new one.
    pub(super) fn forget(&mut self, space: usize) {
        let set = &mut self.sets[space];
        set.table.as_flattened_mut()[..set.count].fill([0; 8]);
        (set.count, set.of) = (0, 0);
    }

    /// The program that goes on has a table of so many bytes. `read` reads what is in it, from an
    /// offset; what it does not, is empty.
    pub(super) fn want(&mut self, length: usize, mut read: impl FnMut(usize, &mut [u8]) -> bool) {
        let before = self.count;
        self.count = (length / size_of::<Entry>()).min(ENTRIES);
        let mut rest = self.count * size_of::<Entry>();
        for (number, page) in self.wanted.iter_mut().enumerate().take(pages(before.max(self.count))) {
            let bytes = page.as_flattened_mut();
            let (own, behind) = bytes.split_at_mut(rest.min(PAGE as usize));
            if !own.is_empty() && !read(number * PAGE as usize, own) {
                own.fill(0);
            }
            rest -= own.len();
            behind.fill(0);
        }
    }

    /// Whether the kernel has loaded another table, by the number of its loads, since one was read.
    /// Linux changes none that is loaded (`arch/x86/include/asm/mmu_context.h`, `struct
    /// ldt_struct`).
    pub(super) fn is_of_another(&mut self, loads: u64) -> bool {
        core::mem::replace(&mut self.of, loads) != loads
    }

    /// Whether nothing is wanted that the process of a space has not.
    pub(super) fn is_set(&mut self, space: usize) -> bool {
        let set = &mut self.sets[space];
        let pages = pages(self.count.max(set.count));
        if set.of != self.of && self.wanted[..pages] == set.table[..pages] {
            set.of = self.of;
        }
        set.of == self.of
    }

    /// Orders for the process of a space that bring it nearer to what is wanted: as many as there
    /// is room for in the page at an address.
    pub(super) fn orders(&mut self, space: usize, page: u64) -> Orders {
        let mut orders = Orders::new();
        let set = &mut self.sets[space];
        (set.count, set.of) = (self.count.max(set.count), 0);
        let entries = set.table.as_flattened_mut()[..set.count].iter_mut();
        for (number, (entry, wanted)) in entries.zip(self.wanted.as_flattened()).enumerate() {
            if entry != wanted {
                if orders.is_full() {
                    return orders;
                }
                orders.set_local(description(number, self.given.descriptor(*wanted)), page);
                *entry = *wanted;
            }
        }
        set.count = self.count;
        orders
    }

    /// Brings this process, whose programs run in it, to what is wanted, as far as Linux does that.
    ///
    /// # Errors
    ///
    /// Why it does not; the entry is none then.
    pub(super) fn set_here(&mut self) -> Answer {
        let set = &mut self.sets[0];
        set.count = self.count.max(set.count);
        let entries = set.table.as_flattened_mut()[..set.count].iter_mut();
        for (number, (entry, wanted)) in entries.zip(self.wanted.as_flattened()).enumerate() {
            if entry != wanted {
                *entry = [0; 8];
                system::set_local(&description(number, self.given.descriptor(*wanted)))?;
                *entry = *wanted;
            }
        }
        set.count = self.count;
        Ok(())
    }

    /// The descriptor that the process of a space has for a selector of its table.
    pub(super) fn descriptor(&self, space: usize, selector: u16) -> Descriptor {
        let number = Selector(selector).offset() as usize / size_of::<Entry>();
        self.sets[space].table.as_flattened().get(number).map_or(Descriptor(0), |entry| self.given.descriptor(*entry))
    }

    /// Whether a program of a space can have a selector of its table in ES, DS, FS or GS.
    pub(super) fn can_load(&self, space: usize, selector: u16) -> bool {
        let descriptor = self.descriptor(space, selector);
        descriptor.is_present() && descriptor.is_readable()
    }
}

/// How many pages so many entries take.
const fn pages(entries: usize) -> usize {
    (entries * size_of::<Entry>()).div_ceil(PAGE as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Given = Given { narrow: true };
    const DATA: u64 = 0x00cf_f300_0000_ffff;

    fn given(given: Given, descriptor: u64) -> u64 {
        given.descriptor(descriptor.to_le_bytes()).0
    }

    #[test]
    fn programs_are_given_what_linux_gives() {
        const PRESENT: u64 = 1 << 47;
        const CODE_THAT_CONFORMS: u64 = 3 << 42;
        let narrow = DATA & !(1 << 54);
        for descriptor in [DATA, DATA & !PRESENT, narrow, (DATA | CODE_THAT_CONFORMS) & !PRESENT, DATA | 1 << 43] {
            assert_eq!(given(ALL, descriptor), descriptor, "{descriptor:#x}");
        }
        let system = DATA & !(1 << 44);
        let of_the_kernel = DATA & !(3 << 45);
        for descriptor in [0, system, of_the_kernel, DATA | CODE_THAT_CONFORMS, DATA | 1 << 53, DATA & !(1 << 46)] {
            assert_eq!(given(ALL, descriptor), 0, "{descriptor:#x}");
        }
        assert_eq!([narrow, DATA].map(|descriptor| given(Given { narrow: false }, descriptor)), [0, DATA]);
    }

    /// Tables that nobody has mapped.
    #[expect(clippy::large_stack_arrays, reason = "a table is as large as that")]
    fn locals() -> Locals {
        let wanted = std::vec![[[[0; 8]; 512]; 16]].leak().first_mut().unwrap();
        let sets = std::vec![Set { count: 0, of: 0, table: [[[0; 8]; 512]; 16] }; 5].leak();
        Locals { given: ALL, wanted, count: 0, of: 0, sets }
    }

    /// Orders as long as it takes; the numbers of the entries that they set.
    fn settle(locals: &mut Locals, space: usize) -> std::vec::Vec<u64> {
        let mut set = std::vec::Vec::new();
        while !locals.is_set(space) {
            let orders = locals.orders(space, 0);
            assert!(!orders.as_slice().is_empty());
            set.extend(orders.as_slice().iter().map(|order| order[4] & 0xffff_ffff));
        }
        assert!(locals.orders(space, 0).as_slice().is_empty());
        set
    }

    #[test]
    fn a_process_gets_what_is_different_and_nothing_else() {
        let mut locals = locals();
        let mut guest = std::vec![0_u8; 65536];
        let put = |guest: &mut [u8], number: usize, value: u64| {
            guest[number * 8..][..8].copy_from_slice(&value.to_le_bytes());
        };
        put(&mut guest, 0, DATA);
        put(&mut guest, 600, DATA);
        let want = |locals: &mut Locals, guest: &[u8], length| {
            let loads = locals.of + 1;
            assert!(locals.is_of_another(loads) && !locals.is_of_another(loads));
            locals.want(length, |offset, bytes| {
                bytes.copy_from_slice(&guest[offset..][..bytes.len()]);
                true
            });
        };
        assert!(locals.is_set(3));
        want(&mut locals, &guest, 601 * 8);
        assert_eq!(settle(&mut locals, 3), [0, 600]);
        assert_eq!([0x7, 600 << 3 | 7, 0xf, 601 << 3 | 7].map(|it| locals.can_load(3, it)), [true, true, false, false]);
        assert!(!locals.can_load(4, 7), "another process has a table of its own");
        put(&mut guest, 600, DATA & !(1 << 41));
        put(&mut guest, 8191, DATA);
        want(&mut locals, &guest, 65536);
        assert_eq!(settle(&mut locals, 3), [600, 8191]);
        // A shorter table, and none.
        want(&mut locals, &guest, 8);
        assert_eq!(settle(&mut locals, 3), [600, 8191]);
        want(&mut locals, &guest, 0);
        assert_eq!((settle(&mut locals, 4), settle(&mut locals, 3)), (std::vec![], std::vec![0]));
        // Many, and a process that is a new one.
        for number in 0..1000 {
            put(&mut guest, number, DATA);
        }
        want(&mut locals, &guest, 8000);
        assert_eq!(settle(&mut locals, 3).len(), 1000);
        assert!(locals.is_set(3));
        locals.forget(3);
        assert_eq!(settle(&mut locals, 3).len(), 1000);
    }

    #[test]
    fn what_cannot_be_read_is_empty() {
        let mut locals = locals();
        locals.want(16, |_, bytes| {
            bytes.fill(0xff);
            false
        });
        assert!(locals.is_set(0));
    }
}
