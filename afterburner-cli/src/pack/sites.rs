//! The table of sites as the wedge reads it.

use std::collections::BTreeMap;

use annotate::linux::originals::Originals;
use annotate::linux::tables::{Alternative, alternatives};
use annotate::object::elf::Place;
use annotate::object::report::Site;
use annotate::record::{Flags, MINIMUM_SLOT, RECORD_SIZE, RawRecord, UNPADDED_DISPLACEMENT};
use wedge::image::Copied;

use super::kernel::Kernel;

/// The sites of a kernel.
pub(super) struct Sites {
    /// Records, ordered by site.
    pub(super) table: Vec<u8>,
    /// Where the first of them is to be taken to stand.
    pub(super) address: u64,
    /// Where the kernel copies replacements to, ordered by record.
    pub(super) copies: Vec<Copied>,
}

impl Sites {
    /// The sites of a verified kernel. The table is taken to stand where the kernel starts: all
    /// that a record tells is a distance, and none in the kernel is too far from there.
    pub(super) fn of(kernel: &Kernel<'_>) -> anyhow::Result<Self> {
        let address = kernel.loaded.virtual_extent().start;
        let mut sites: Vec<&Site<'_>> = kernel.report.sites.iter().collect();
        sites.sort_unstable_by_key(|site| site.site.address);
        let mut table = Vec::with_capacity(sites.len() * RECORD_SIZE);
        for site in &sites {
            let record = record(site, address.wrapping_add(table.len() as u64));
            let record =
                record.ok_or_else(|| kernel.error(format_args!("{}: too far from {address:#x}", site.location)))?;
            table.extend(record.to_bytes());
        }
        Ok(Self { table, address, copies: copies(kernel, &sites) })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.table.len() / RECORD_SIZE
    }
}

/// The record of a site, as it has to be at an address.
fn record(site: &Site<'_>, address: u64) -> Option<RawRecord> {
    let site = &site.site;
    let displacement = if site.flags.intersects(Flags::UNPADDED) { UNPADDED_DISPLACEMENT } else { 0 };
    let distance = i64::try_from(i128::from(site.address) - i128::from(address)).ok()?;
    Some(RawRecord {
        site: i32::try_from(distance.checked_add(displacement.into())?).ok()?,
        length: site.length,
        slot: site.slot,
        class: site.class as u8,
        live_flags: site.liveness.flags.bits(),
        live_registers: site.liveness.registers.bits(),
        flags: site.flags.bits(),
    })
}

/// The places that replacements are copied to (Linux 6.1, `arch/x86/kernel/alternative.c`,
/// `apply_alternatives()`). Of a replacement that is a site of five bytes, these are all: a CALL at
/// its start is adjusted to the new place. Of another it must be a single one, where nothing else
/// that is annotated comes to stand ([`told_by_place`]).
fn copies(kernel: &Kernel<'_>, sites: &[&Site<'_>]) -> Vec<Copied> {
    let originals = Originals::of(alternatives(&kernel.elf));
    let mut copies = Vec::new();
    for (record, site) in (0..).zip(sites) {
        let Some(place) = kernel.elf.place_at(site.site.address) else { continue };
        let alternatives = originals.replaced_by(place).unwrap_or_default();
        let is_whole = |alternative: &Alternative| {
            [site.site.slot, alternative.replacement_length] == [MINIMUM_SLOT; 2] && alternative.replacement == place
        };
        let whole =
            |alternative: &Alternative| Copied { record, address: lasting(kernel, alternative.original), whole: 1 };
        if let [alternative] = alternatives[..]
            && !is_whole(&alternative)
        {
            let Alternative { original, replacement, .. } = alternative;
            let original = Place { offset: original.offset + (place.offset - replacement.offset), ..original };
            copies.push(Copied { record, address: kernel.elf.address(original), whole: 0 });
        } else {
            copies.extend(alternatives.iter().filter(|alternative| is_whole(alternative)).map(whole));
        }
    }
    told_by_place(copies, sites.iter().map(|site| site.site.address))
}

/// Those of the copies in which a breakpoint says by its place which site it is: no other site is
/// there, of the text that is replaced, or of another replacement for it. A site that is all of its
/// replacement becomes no breakpoint.
fn told_by_place(mut copies: Vec<Copied>, sites: impl Iterator<Item = u64>) -> Vec<Copied> {
    let parts = copies.iter().filter(|copied| copied.whole == 0);
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for place in parts.map(|copied| copied.address).chain(sites) {
        *places.entry(place).or_default() += 1;
    }
    copies.retain(|copied| copied.whole != 0 || places.get(&copied.address) == Some(&1));
    copies
}

/// The text that Linux frees when it has booted.
const FREED: [&str; 2] = [".init.text", ".exit.text"];

/// The address of a place, or 0 if it is freed after boot.
fn lasting(kernel: &Kernel<'_>, place: Place) -> u64 {
    let section = kernel.elf.sections().get(place.section).map_or("", |section| section.name);
    if FREED.contains(&section) { 0 } else { kernel.elf.address(place) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_where_something_else_may_stand_is_not_listed() {
        let part = |record, address| Copied { record, address, whole: 0 };
        let whole = |record, address| Copied { record, address, whole: 1 };
        // Two replacements for one original; a site that is replaced; a site that is all of a
        // replacement, which is no breakpoint.
        let copies = vec![part(0, 0x1000), part(1, 0x1003), part(2, 0x2000), part(3, 0x1003), whole(4, 0x3000)];
        let copies = [copies, vec![part(5, 0x3000), whole(6, 0x2000)]].concat();
        let told = told_by_place(copies, [0x2000, 0x1001].into_iter());
        assert_eq!(told, [part(0, 0x1000), whole(4, 0x3000), part(5, 0x3000), whole(6, 0x2000)]);
    }
}
