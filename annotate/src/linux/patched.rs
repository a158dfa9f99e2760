//! Text that a running kernel patches: what stands in the file is only one of the things that it
//! may be.
//!
//! Alternatives are patched once, at boot, and have a table of their own
//! ([`alternatives`](super::tables::alternatives)). Jump labels and static calls are switched at
//! any time. Other patching keeps every flag and every register as it was (`lock` prefixes,
//! `ENDBR`, kprobes), or replaces calls and indirect jumps by others (retpolines, return thunks,
//! ftrace).

use std::collections::{HashMap, HashSet};

use crate::object::elf::{Elf, Place};

/// The jump labels and static calls of a linked kernel.
#[derive(Debug, Default)]
pub struct Patched {
    branches: HashMap<Place, Place>,
    static_calls: HashSet<Place>,
    trampolines: Option<(Place, Place)>,
}

impl Patched {
    /// Reads the tables of a linked file, which lie between symbols
    /// (`include/asm-generic/vmlinux.lds.h`).
    #[must_use]
    pub fn of(elf: &Elf<'_>) -> Self {
        let symbol = |name: &str| elf.symbols().find(|symbol| symbol.name == name).and_then(|symbol| symbol.place);
        // `struct jump_entry` (include/linux/jump_label.h): code and target, relative to
        // themselves, and a 64-bit key.
        let branches = symbol("__start___jump_table").zip(symbol("__stop___jump_table")).into_iter();
        let branches = branches.flat_map(|(start, end)| entries(elf, start, end, 16));
        let branches = branches.filter_map(|entry| Some((relative(elf, entry, 0)?, relative(elf, entry, 4)?)));
        // `struct static_call_site` (include/linux/static_call_types.h): address and key, relative
        // to themselves.
        let calls = symbol("__start_static_call_sites").zip(symbol("__stop_static_call_sites")).into_iter();
        let calls = calls.flat_map(|(start, end)| entries(elf, start, end, 8));
        Self {
            branches: branches.collect(),
            static_calls: calls.filter_map(|entry| relative(elf, entry, 0)).collect(),
            trampolines: symbol("__static_call_text_start").zip(symbol("__static_call_text_end")),
        }
    }

    /// Where a jump label goes when it is a jump; the rest of the time it is a NOP of the same
    /// length.
    #[must_use]
    pub fn branch(&self, place: Place) -> Option<Place> {
        self.branches.get(&place).copied()
    }

    /// Whether a place may hold a jump or call to anywhere.
    #[must_use]
    pub fn is_static_call(&self, place: Place) -> bool {
        let in_trampoline = self.trampolines.is_some_and(|(start, end)| (start..end).contains(&place));
        in_trampoline || self.static_calls.contains(&place)
    }
}

/// The entries of a table, none where its ends contradict each other or its section.
fn entries(elf: &Elf<'_>, start: Place, end: Place, size: usize) -> impl Iterator<Item = Place> {
    let held = elf.sections().get(start.section).map_or(0, |section| section.bytes.len() as u64);
    let offsets = if start.section == end.section && end.offset <= held { start.offset..end.offset } else { 0..0 };
    offsets.step_by(size).map(move |offset| Place { section: start.section, offset })
}

/// The place that a word means which is relative to itself.
fn relative(elf: &Elf<'_>, entry: Place, field: u64) -> Option<Place> {
    let place = Place { offset: entry.offset.checked_add(field)?, ..entry };
    let bytes = elf.sections().get(place.section)?.bytes.get(usize::try_from(place.offset).ok()?..)?;
    let word = i32::from_le_bytes(*bytes.first_chunk()?);
    elf.place_at(elf.address(place).wrapping_add_signed(word.into()))
}
