//! Descriptors as user mode may see them, in tables that Xen writes.

use super::hypercall::{self, Refused};
use crate::runtime::say;

/// What user mode may see of a descriptor: all, if it is its own, of privilege level 3, and not a
/// system descriptor (SDM Vol. 3A, 3.4.5). One that is not present cannot be loaded, but LAR and
/// LSL see it.
pub(super) const fn visible(descriptor: u64) -> u64 {
    const LEVEL_3: u64 = 3 << 45;
    const CODE_OR_DATA: u64 = 1 << 44;
    let all = LEVEL_3 | CODE_OR_DATA;
    if descriptor & all == all { descriptor } else { 0 }
}

/// Without the accessed bit, which the processor sets where it likes (SDM Vol. 3A, 3.4.5.1).
pub(super) const fn without_accessed(descriptor: u64) -> u64 {
    descriptor & !(1 << 40)
}

/// Brings a descriptor at a machine address up to date.
pub(super) fn update(real: u64, machine: u64, wanted: u64) {
    if without_accessed(real ^ wanted) == 0 {
        return;
    }
    if let Err(Refused(error)) = hypercall::update_descriptor(machine, wanted) {
        say!("Xen refuses the descriptor {wanted:#x}, error {error}: it cannot be loaded");
        let _ = hypercall::update_descriptor(machine, 0);
    }
}
