//! A change of spaces: what of their own parts is mapped in this process
//! ([`resident`](super::resident)).
//!
//! Most of what two programs have mapped is the same (they were one before `fork`), or is in the
//! same place; and what was mapped of a space when it was left is most likely needed again at once.
//! Each of these mappings would otherwise come by a fault, which costs as much as several that are
//! made ahead. But nobody knows whether a mapping was used. So now and then nothing is mapped
//! ahead, and what is not missed then is forgotten.

use wedge::x86::paging::{PAGE, index};

use super::mappings::{Mapping, joined};
use super::resident::Resident;
use super::tables::Tables;
use crate::host::soft::{IN_KERNEL, SPACES};

/// One change in so many maps nothing ahead. It is a prime, and more than there are spaces, so that
/// each of those that take turns has its turn at that, too.
const RARELY: u32 = 67;

const _: () = assert!(SPACES < RARELY as usize);

impl Tables {
    /// Another space's own part is to be in this process. What it has in common with the last stays
    /// mapped, what it had mapped when it was left is mapped, and the rest of the last's goes.
    pub(super) fn change_space(&mut self, last: usize) {
        let now = self.soft.space();
        let before = core::mem::replace(&mut self.resident[now], Resident::NONE);
        let last = self.resident[last];
        let mappings = last.all().filter(|_| self.has_own).unwrap_or(&[]);
        if self.has_own && last.all().is_none() {
            self.unmap(self.lowest..self.users_end);
        }
        for (mapping, is_whole) in mappings {
            if *is_whole && self.is_as_mapped(mapping) {
                self.resident[now].add(mapping);
            }
        }
        self.switches = self.switches.wrapping_add(1);
        if !self.switches.is_multiple_of(RARELY) {
            for address in before.addresses() {
                if !self.resident[now].covers(address..address + 1) {
                    let _ = self.map(address, false, false);
                }
            }
        }
        for (mapping, _) in mappings {
            let range = mapping.address..mapping.address + mapping.length;
            if !self.resident[now].covers(range.clone()) {
                self.unmap(range);
            }
        }
        self.has_own = !self.resident[now].is_empty();
    }

    /// Whether the current space has, with the same rights, what is mapped; if so, it is known to
    /// be mapped by its tables.
    fn is_as_mapped(&mut self, mapping: &Mapping) -> bool {
        let Some(found) = self.soft.find_kernel(mapping.address).filter(|found| found.level == 1) else { return false };
        let first = index(mapping.address, 1);
        let leaves = first..first + (mapping.length / PAGE) as usize;
        if leaves.end > self.soft.pool[found.table].len() {
            return false;
        }
        let mut parts = joined(leaves.clone().filter_map(|at| self.mapping(found, at, self.fast)));
        let is_same = parts.next() == Some(*mapping);
        drop(parts);
        if is_same {
            for entry in &mut self.soft.pool[found.table][leaves] {
                *entry |= IN_KERNEL;
            }
        }
        is_same
    }
}
