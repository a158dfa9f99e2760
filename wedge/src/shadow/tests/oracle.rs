//! What the architecture allows: a walk written from the manual's tables, and what a TLB may still
//! know.

extern crate std;

use super::super::{Access, Frame, Host, Leaf, Mode};
use super::machine::Machine;
use crate::guest::layout::Slots;
use std::collections::HashMap;
use std::vec::Vec;

/// What the guest's tables say of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are bits of a page-table entry")]
pub(super) struct Page {
    pub(super) address: u64,
    pub(super) size: u64,
    writable: bool,
    user: bool,
    executable: bool,
    accessed: bool,
    dirty: bool,
    global: bool,
    cache: u8,
}

/// `Err` has the bits P and RSVD of the error code.
pub(super) type Value = Result<Page, u32>;

/// Walks.
pub(super) fn walk(machine: &Machine, mode: Mode, root: u64, address: u64) -> Value {
    let mut table = root;
    let mut page = Page {
        address: 0,
        size: 0,
        writable: true,
        user: true,
        executable: true,
        accessed: true,
        dirty: false,
        global: false,
        cache: 0,
    };
    for (size, name) in [(1u64 << 39, "PML4E"), (1 << 30, "PDPTE"), (1 << 21, "PDE"), (1 << 12, "PTE")] {
        let entry = machine.guest_entry(table + address / size % 512 * 8).unwrap_or(0);
        let bit = |n: u32| entry >> n & 1 != 0;
        if !bit(0) {
            return Err(0);
        }
        let leaf = name == "PTE" || name != "PML4E" && bit(7);
        let mut reserved = (entry & ((1 << 52) - 1)) >> mode.physical_bits != 0;
        reserved |= bit(63) && !mode.no_execute;
        reserved |= name == "PML4E" && bit(7);
        reserved |= leaf && entry & (size - 1) & !0x1fff != 0;
        if reserved {
            return Err(0b1001);
        }
        page.writable &= bit(1);
        page.user &= bit(2);
        page.executable &= !bit(63);
        // All spaces share what is below a root's entry for the kernel's part: the first to use it
        // sets the flag, in its root.
        page.accessed &= bit(5) || name == "PML4E" && machine.layout.kernel.contains(address);
        let frame = entry & 0x000f_ffff_ffff_f000;
        if leaf {
            let pat = if name == "PTE" { bit(7) } else { bit(12) };
            let base = frame & !(size - 1);
            page.address = base + (address & (size - 1) & !0xfff);
            page.size = size;
            page.dirty = bit(6);
            page.global = bit(8) && mode.global;
            page.cache = u8::from(bit(3)) | u8::from(bit(4)) << 1 | u8::from(pat) << 2;
            return Ok(page);
        }
        table = frame;
    }
    unreachable!("a PTE is a leaf")
}

impl Page {
    pub(super) fn permits(&self, mode: Mode, access: Access) -> bool {
        (self.user || !access.user)
            && (!access.write || self.writable || !access.user && !mode.write_protect)
            && (!access.fetch || self.executable)
    }

    /// Whether a TLB that knows this lets an access use a leaf.
    pub(super) fn explains(&self, machine: &Machine, mode: Mode, access: Access, leaf: Leaf) -> bool {
        let frame = match machine.frame(self.address) {
            Frame::Memory(address) | Frame::Substitute(address) => Some((address, false)),
            Frame::Device(address) => Some((address, true)),
            Frame::Nothing => None,
        };
        frame == Some((leaf.address, leaf.device))
            && self.cache == leaf.cache
            && self.permits(mode, access)
            && self.accessed
            && (self.dirty || !access.write)
    }
}

/// The error code of an access to a page, `None` if it is allowed.
pub(super) fn error(value: Value, mode: Mode, access: Access) -> Option<u32> {
    let low = match value {
        Err(low) => low,
        Ok(page) if page.permits(mode, access) => return None,
        Ok(_) => 1,
    };
    Some(
        low | u32::from(access.write) << 1
            | u32::from(access.user) << 2
            | u32::from(access.fetch && mode.no_execute) << 4,
    )
}

/// What a TLB may know, by PCID and page: all that was true since the last flush that reached it.
#[derive(Debug)]
pub(super) struct Tlb {
    kernel: Slots,
    roots: HashMap<u16, u64>,
    known: HashMap<(u16, u64), Vec<Value>>,
}

fn add(values: &mut Vec<Value>, value: Value) {
    if !values.contains(&value) {
        values.push(value);
    }
}

impl Tlb {
    /// One that knows nothing, for a kernel that has these slots.
    pub(super) fn new(kernel: Slots) -> Self {
        Self { kernel, roots: HashMap::new(), known: HashMap::new() }
    }

    pub(super) fn known(&self, pcid: u16, page: u64) -> &[Value] {
        &self.known[&(pcid, page)]
    }

    /// The guest's tables may have changed.
    pub(super) fn observe(&mut self, machine: &Machine, mode: Mode, pages: &[u64]) {
        for (&pcid, &root) in &self.roots {
            for &page in pages {
                add(self.known.entry((pcid, page)).or_default(), walk(machine, mode, root, page));
            }
        }
    }

    /// CR3 is loaded. What is global and known under another PCID is known under this.
    pub(super) fn load(&mut self, pcid: u16, root: u64, keep: bool, pages: &[u64]) {
        if self.roots.insert(pcid, root).is_none() {
            for &page in pages.iter().filter(|&&page| self.kernel.contains(page)) {
                let others: Vec<_> = self.known.iter().filter(|(key, _)| key.1 == page).collect();
                let values = others.iter().flat_map(|(_, values)| values.iter().copied());
                let global = values.filter(|value| value.is_ok_and(|page| page.global)).collect();
                self.known.insert((pcid, page), global);
            }
        }
        if !keep {
            self.flush_pcid(pcid);
        }
    }

    /// Everything of a PCID but what is global.
    pub(super) fn flush_pcid(&mut self, pcid: u16) {
        for (key, values) in &mut self.known {
            if key.0 == pcid {
                values.retain(|value| self.kernel.contains(key.1) && value.is_ok_and(|page| page.global));
            }
        }
    }

    pub(super) fn flush_all(&mut self, global: bool) {
        let pcids: Vec<_> = self.roots.keys().copied().collect();
        if global {
            self.known.values_mut().for_each(Vec::clear);
        }
        for pcid in pcids {
            self.flush_pcid(pcid);
        }
    }

    /// A page, and the larger page around it if that is what is known; global ones of other PCIDs,
    /// too.
    pub(super) fn flush_page(&mut self, pcid: u16, address: u64) {
        for (key, values) in &mut self.known {
            values.retain(|value| match value {
                Ok(page) => {
                    let within = key.1 / page.size == address / page.size;
                    !within || key.0 != pcid && !(page.global && self.kernel.contains(address))
                }
                Err(_) => key.0 != pcid || key.1 != address,
            });
        }
    }

    /// A page of a PCID, unless it is global.
    pub(super) fn flush_pcid_page(&mut self, pcid: u16, address: u64) {
        for (key, values) in &mut self.known {
            values.retain(|value| match value {
                Ok(page) => {
                    key.0 != pcid
                        || key.1 / page.size != address / page.size
                        || page.global && self.kernel.contains(address)
                }
                Err(_) => key.0 != pcid || key.1 != address,
            });
        }
    }

    /// Without PCIDs there is one.
    pub(super) fn forget_pcids(&mut self, root: u64) {
        self.roots.clear();
        self.known.clear();
        self.roots.insert(0, root);
    }
}
