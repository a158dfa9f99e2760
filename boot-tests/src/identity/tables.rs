//! Linux's own tables about its text: alternatives and exceptions.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _};

use super::image::Image;

/// An entry of `.altinstructions` (`struct alt_instr`, arch/x86/include/asm/alternative.h): `s32
/// instr_offset`, `s32 repl_offset`, both relative to themselves, what decides about it, `u8
/// instrlen`, `u8 replacementlen`. What decides is a `u16` in Linux 6.1, and a `u32` since 6.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alternative {
    /// Code that is overwritten when the CPU has the feature.
    pub(crate) original: Range<u64>,
    /// Code that is copied there.
    pub(crate) replacement: Range<u64>,
}

/// All alternatives of the kernel. How long its entries are is told by where they lead.
pub(crate) fn alternatives(image: &Image) -> Result<Vec<Alternative>> {
    let replacements = image.section(".altinstr_replacement")?;
    let lead_there = |alternatives: &Vec<Alternative>| {
        let within = |range: &Range<u64>| replacements.start <= range.start && range.end <= replacements.end;
        alternatives.iter().all(|alternative| alternative.replacement.is_empty() || within(&alternative.replacement))
    };
    let candidates = [alternatives_of::<12>(image), alternatives_of::<14>(image)];
    let found = candidates.into_iter().flatten().find(lead_there);
    found.context(".altinstructions has entries of neither 12 nor 14 bytes")
}

fn alternatives_of<const LENGTH: usize>(image: &Image) -> Result<Vec<Alternative>> {
    let entry = |(address, bytes): (u64, [u8; LENGTH])| {
        let offset = |at: usize| relative(address + at as u64, std::array::from_fn(|byte| bytes[at + byte]));
        let range = |start: u64, length: u8| start..start + u64::from(length);
        Alternative { original: range(offset(0), bytes[LENGTH - 2]), replacement: range(offset(4), bytes[LENGTH - 1]) }
    };
    Ok(entries(image, ".altinstructions")?.into_iter().map(entry).collect())
}

/// Where the kernel has addresses of memory in its text, which it writes there when it has the
/// memory (since Linux 6.11, `arch/x86/include/asm/runtime-const.h`): an entry of
/// `runtime_ptr_NAME` is a `s32`, relative to itself, and leads to eight bytes.
pub(crate) fn runtime_pointers(image: &Image) -> Result<Vec<Range<u64>>> {
    let names: Vec<_> = {
        let file = image.file()?;
        let names = file.sections().filter_map(|section| Some(section.name().ok()?.to_owned()));
        names.filter(|name| name.starts_with("runtime_ptr_")).collect()
    };
    let mut places = Vec::new();
    for name in names {
        let entries = entries(image, &name)?.into_iter();
        places.extend(entries.map(|(address, bytes)| relative(address, bytes)).map(|start| start..start + 8));
    }
    Ok(places)
}

/// The kernel's exception table: `struct exception_table_entry` of arch/x86/include/asm/extable.h:
/// `s32 insn`, `s32 fixup`, both relative to themselves, `s32 data`; sorted by the instruction's
/// address.
#[derive(Debug)]
pub(crate) struct Exceptions {
    table: Range<u64>,
    entries: Vec<(u64, u64, [u8; 4])>,
}

impl Exceptions {
    /// Reads the table.
    pub(crate) fn read(image: &Image) -> Result<Self> {
        let entry = |(address, bytes): (u64, [u8; 12])| {
            let [i0, i1, i2, i3, f0, f1, f2, f3, data @ ..] = bytes;
            (relative(address, [i0, i1, i2, i3]), relative(address + 4, [f0, f1, f2, f3]), data)
        };
        let entries = entries(image, "__ex_table")?.into_iter().map(entry).collect();
        Ok(Self { table: image.section("__ex_table")?, entries })
    }

    /// Whether one of the instructions in the range has an entry.
    pub(crate) fn cover(&self, addresses: &Range<u64>) -> bool {
        self.entries.iter().any(|(instruction, ..)| addresses.contains(instruction))
    }

    /// Makes the entries of moved instructions point at their new place.
    pub(crate) fn redirect(&mut self, moved: &BTreeMap<u64, u64>) {
        for (instruction, ..) in &mut self.entries {
            if let Some(address) = moved.get(instruction) {
                *instruction = *address;
            }
        }
        self.entries.sort_unstable();
    }

    /// Writes the table back.
    pub(crate) fn write(&self, image: &mut Image) -> Result<()> {
        for (address, (instruction, fixup, data)) in self.table.clone().step_by(12).zip(&self.entries) {
            image.write(address, &distance(address, *instruction)?)?;
            image.write(address + 4, &distance(address + 4, *fixup)?)?;
            image.write(address + 8, data)?;
        }
        Ok(())
    }
}

/// The entries of a section, with their addresses.
fn entries<const LENGTH: usize>(image: &Image, section: &str) -> Result<Vec<(u64, [u8; LENGTH])>> {
    let addresses = image.section(section)?;
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let (entries, rest) = image.read(addresses.clone())?.as_chunks::<LENGTH>();
    ensure!(rest.is_empty(), "{section} does not consist of {LENGTH}-byte entries");
    Ok(addresses.step_by(LENGTH).zip(entries.iter().copied()).collect())
}

fn relative(address: u64, distance: [u8; 4]) -> u64 {
    address.wrapping_add_signed(i64::from(i32::from_le_bytes(distance)))
}

/// The 32-bit distance between two addresses.
pub(crate) fn distance(from: u64, to: u64) -> Result<[u8; 4]> {
    Ok(i32::try_from(to.wrapping_sub(from).cast_signed())?.to_le_bytes())
}
