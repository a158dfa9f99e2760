//! The guest's memory, at the guest's own addresses.
//!
//! To the kernel's the wedge has the same way as the kernel itself: by the tables that the hardware
//! reads. What is not mapped there is, as by a fault. Programs' memory it reaches by walking the
//! guest's tables, with the program's rights, for no program's address may be mapped where the
//! kernel runs, and one that is may be another's by now.

use crate::cpu::Exception;
use crate::shadow::{Access, Outcome, Shadow};
use crate::x86::paging::PAGE;

use super::Memory;

/// An address of the guest's kernel that can be accessed in the way that is asked for: only
/// [`Space`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Reached(u64);

impl Reached {
    /// The address.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0
    }
}

/// The guest's memory, and the shadow of its page tables.
#[derive(Debug)]
pub struct Space<M> {
    /// The shadow.
    pub shadow: Shadow<'static>,
    /// The host's part of it.
    pub memory: M,
}

/// Whether a range lies in one page, as nearly all do.
#[must_use]
pub const fn is_in_page(address: u64, length: usize) -> bool {
    address % PAGE + length as u64 <= PAGE
}

/// The parts of a range that each lie in one page: address and length.
pub fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let start = address.wrapping_add(done as u64);
        let part = (length - done).min((PAGE - start % PAGE) as usize);
        done += part;
        (part != 0).then_some((start, part))
    })
}

impl<M: Memory> Space<M> {
    /// Makes sure that the kernel can access the page around an address.
    #[inline]
    fn reach(&mut self, address: u64, write: bool) -> Result<Reached, Exception> {
        if self.memory.is_known(address, write) { Ok(Reached(address)) } else { self.look_for(address, write) }
    }

    /// The same, of a page that is not known to be mapped.
    fn look_for(&mut self, address: u64, write: bool) -> Result<Reached, Exception> {
        if self.memory.is_mapped(address, write) {
            return Ok(Reached(address));
        }
        let access = Access { write, user: false, fetch: false };
        match self.shadow.fault(address, access, &mut self.memory) {
            Outcome::Filled | Outcome::Spurious => Ok(Reached(address)),
            Outcome::Fault { error } => Err(Exception::page_fault(error, address)),
            Outcome::Nothing { .. } => Err(Exception::page_fault(0, address)),
            Outcome::OutOfTables => panic!("without a page table left for the kernel's {address:#x}"),
        }
    }

    /// The guest-physical address behind a virtual one, for an access with these rights.
    ///
    /// # Errors
    ///
    /// The guest's page fault.
    pub fn translate(&mut self, address: u64, access: Access) -> Result<u64, Exception> {
        let found = self.shadow.translate(address, access, &mut self.memory);
        found.map_err(|error| Exception::page_fault(error, address))
    }

    /// Where the processor itself finds what it reads at an address: with the kernel's rights (SDM
    /// Vol. 3A, 4.6.1).
    ///
    /// # Errors
    ///
    /// The guest's page fault.
    pub fn system_address(&mut self, address: u64) -> Result<u64, Exception> {
        self.translate(address, Access { write: false, user: false, fetch: false })
    }

    /// Reads at an address, with the rights of user mode or of the kernel.
    ///
    /// # Errors
    ///
    /// The guest's page fault.
    #[expect(clippy::inline_always, reason = "a delivery reads three constant lengths, from pages that are mapped")]
    #[inline(always)]
    pub fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
        if user || !is_in_page(address, bytes.len()) || !self.memory.is_known(address, false) {
            return self.read_parts(address, bytes, user);
        }
        self.memory.load(Reached(address), bytes);
        Ok(())
    }

    /// Writes at an address, likewise. If it fails, nothing was written.
    ///
    /// # Errors
    ///
    /// The guest's page fault.
    #[inline]
    pub fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
        if user || !is_in_page(address, bytes.len()) || !self.memory.is_known(address, true) {
            return self.write_parts(address, bytes, user);
        }
        self.memory.store(Reached(address), bytes);
        Ok(())
    }

    #[cold]
    fn read_parts(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
        let mut rest = bytes;
        for (start, length) in parts(address, rest.len()) {
            let (part, behind) = rest.split_at_mut(length);
            if user {
                let physical = self.translate(start, Access { write: false, user, fetch: false })?;
                if !self.memory.load_physical(physical, part) {
                    return Err(Exception::page_fault(0, start));
                }
            } else {
                let reached = self.reach(start, false)?;
                self.memory.load(reached, part);
            }
            rest = behind;
        }
        Ok(())
    }

    /// All parts are reached before the first is written.
    #[cold]
    fn write_parts(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
        let access = Access { write: true, user, fetch: false };
        for (start, length) in parts(address, bytes.len()) {
            if user {
                let physical = self.translate(start, access)?;
                if !self.memory.has_physical(physical, length) {
                    return Err(Exception::page_fault(0, start));
                }
            } else {
                self.reach(start, true)?;
            }
        }
        let mut rest = bytes;
        for (start, length) in parts(address, bytes.len()) {
            let (part, behind) = rest.split_at(length);
            if user {
                let physical = self.translate(start, access)?;
                self.memory.store_physical(physical, part);
            } else {
                self.memory.store(Reached(start), part);
            }
            rest = behind;
        }
        Ok(())
    }

    /// Makes sure that the kernel can read the page around an address.
    ///
    /// # Errors
    ///
    /// The guest's page fault.
    #[inline]
    pub fn reach_for_reading(&mut self, address: u64) -> Result<Reached, Exception> {
        self.reach(address, false)
    }

    /// Makes sure that the kernel can write to an address, if it may.
    #[inline]
    pub fn reach_for_writing(&mut self, address: u64) {
        let _ = self.reach(address, true);
    }

    /// A word of the guest kernel's memory, if it is mapped.
    pub fn word(&mut self, address: u64) -> Option<u64> {
        self.words(address).map(|[word]| word)
    }

    /// Some words of the guest kernel's memory, if they are mapped.
    pub fn words<const COUNT: usize>(&mut self, address: u64) -> Option<[u64; COUNT]> {
        let mut words = [[0; 8]; COUNT];
        self.read(address, words.as_flattened_mut(), false).ok()?;
        Some(words.map(u64::from_le_bytes))
    }
}
