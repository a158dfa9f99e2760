//! The table of sites as the wedge reads it.

use std::collections::BTreeMap;

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

/// The places that replacements are copied to. Only of those are they listed that consist of one
/// site of five bytes: of these Linux 6.1 takes a CALL at the start for one that it has to adjust
/// to the new place (`apply_alternatives()`, `arch/x86/kernel/alternative.c`), so that a site can
/// be rewritten before it is copied.
fn copies(kernel: &Kernel<'_>, sites: &[&Site<'_>]) -> Vec<Copied> {
    let mut by_replacement: BTreeMap<Place, Vec<Alternative>> = BTreeMap::new();
    for alternative in alternatives(&kernel.elf) {
        by_replacement.entry(alternative.replacement).or_default().push(alternative);
    }
    let mut copies = Vec::new();
    for (record, site) in (0..).zip(sites) {
        let place = kernel.elf.place_at(site.site.address);
        let alternatives = place.and_then(|place| by_replacement.get(&place)).map(Vec::as_slice).unwrap_or_default();
        let whole = |alternative: &&Alternative| {
            site.site.slot == MINIMUM_SLOT && alternative.replacement_length == MINIMUM_SLOT
        };
        let of = |alternative: &Alternative| Copied { record, address: lasting(kernel, alternative.original) };
        copies.extend(alternatives.iter().filter(whole).map(of));
    }
    copies
}

/// The text that Linux frees when it has booted.
const FREED: [&str; 2] = [".init.text", ".exit.text"];

/// The address of a place, or 0 if it is freed after boot.
fn lasting(kernel: &Kernel<'_>, place: Place) -> u64 {
    let section = kernel.elf.sections().get(place.section).map_or("", |section| section.name);
    if FREED.contains(&section) { 0 } else { kernel.elf.address(place) }
}
