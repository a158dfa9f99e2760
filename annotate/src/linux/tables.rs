//! The tables of a Linux kernel that point into its text, and the flags that follow from them
//! (Linux 6.1 and 6.12, `arch/x86`; what only one of them has says so).
//!
//! What the assembler stage could not know of a site is completed here, from the object. What a
//! record claims is never taken back but refused, where the object says otherwise. Plain names are
//! in the module [above](super).

use std::collections::HashSet;

use super::{EXCEPTION_TABLE, EXCEPTION_TABLE_FIELDS, REPLACEMENTS, function_flags, section_flags};
use crate::object::elf::{Elf, Place, Relocation, Section, Target};
use crate::object::text::Functions;
use crate::record::Flags;

/// The table that says which replacement goes over which original: `struct alt_instr`
/// (`include/asm/alternative.h`).
pub const ALTERNATIVES: &str = ".altinstructions";

const EXCEPTION_TABLE_ENTRY: usize = EXCEPTION_TABLE_FIELDS * size_of::<i32>();

/// The entry code of a linked kernel.
const ENTRY_START: &str = "__entry_text_start";
const ENTRY_END: &str = "__entry_text_end";

/// Code that runs at its physical address. A linked kernel has it at the start of `.text`, with no
/// symbol at its end.
const TEXT: &str = ".text";
const HEAD_FUNCTIONS: [&str; 11] = [
    // kernel/head_64.S
    "startup_64",
    "secondary_startup_64",
    "secondary_startup_64_no_verify",
    "verify_cpu",
    "sev_verify_cbit",
    // kernel/head64.c
    "__startup_64",
    "startup_64_setup_env",     // 6.1
    "startup_64_setup_gdt_idt", // since 6.8
    "startup_64_load_idt",
    "sme_postprocess_startup", // since 6.9
    // platform/pvh/head.S
    "pvh_start_xen",
];

/// What a kernel subtracts from an address in its image to get the physical one
/// (`__START_KERNEL_map`, `include/asm/page_64_types.h`), negated as the addend that says so.
pub const PHYSICAL_ADDEND: u64 = 0x8000_0000;

/// An offset, or the distance of an address from a symbol, of a place that is named by its physical
/// address.
#[must_use]
pub fn without_physical_bias(offset: u64) -> u64 {
    // What stays negative lies before its section, and is no physical address.
    let physical = offset.checked_sub(PHYSICAL_ADDEND);
    physical.filter(|offset| offset.cast_signed() >= 0).unwrap_or(offset)
}

/// What one kernel, object or module says about the places in its text.
pub struct Linux {
    relocatable: bool,
    /// Places that the exception table names.
    exceptions: HashSet<Place>,
    /// Ordered by replacement.
    alternatives: Vec<Alternative>,
    /// Entry text of a linked kernel.
    entry: Option<(Place, Place)>,
}

impl Linux {
    /// Reads the tables and symbols of a file.
    #[must_use]
    pub fn of(elf: &Elf<'_>) -> Self {
        let symbol = |name| elf.symbols().find(|symbol| symbol.name == name).and_then(|symbol| symbol.place);
        let entry = if elf.relocatable() { None } else { symbol(ENTRY_START).zip(symbol(ENTRY_END)) };
        let mut alternatives = alternatives(elf);
        alternatives.sort_unstable_by_key(|alternative| alternative.replacement);
        Self { relocatable: elf.relocatable(), exceptions: exceptions(elf), alternatives, entry }
    }

    /// The flags of a site, as far as the object tells.
    #[must_use]
    pub fn flags(&self, elf: &Elf<'_>, functions: &Functions<'_>, place: Place) -> Flags {
        let section = elf.sections().get(place.section).map_or("", |section| section.name);
        let mut flags = section_flags(section);
        let place = self.original_of(place).unwrap_or(place);
        let section = elf.sections().get(place.section).map_or("", |section| section.name);
        let function = functions.at(place).map_or("", |function| function.name);
        flags |= section_flags(section) & (Flags::NO_STACK | Flags::HEAD);
        flags |= function_flags(function);
        if self.entry.is_some_and(|(start, end)| (start..end).contains(&place)) {
            flags |= Flags::NO_STACK;
        }
        if section == TEXT && HEAD_FUNCTIONS.contains(&function) {
            flags |= Flags::HEAD;
        }
        flags.set(Flags::EXTABLE, self.exceptions.contains(&place));
        flags
    }

    /// Those of the claimed flags that the object refutes, given the flags that it tells itself.
    ///
    /// It cannot refute everything: of a linked kernel nobody can say where `.head.text` ended, a
    /// stripped one does not say where its entry code lies, and there may be copied code that this
    /// module has never heard of.
    #[must_use]
    pub fn refuted(&self, claimed: Flags, told: Flags) -> Flags {
        let mut decidable = Flags::INIT | Flags::REPLACEMENT | Flags::EXTABLE;
        decidable.set(Flags::HEAD, self.relocatable);
        decidable.set(Flags::NO_STACK, self.relocatable || self.entry.is_some());
        claimed & decidable & !told
    }

    /// Whether the exception table names a place, so that it may go on at a fix-up.
    #[must_use]
    pub fn may_fault(&self, place: Place) -> bool {
        self.exceptions.contains(&place)
    }

    /// Whether a place is in the section of replacements, where nothing is executed.
    #[must_use]
    pub fn is_replacement(elf: &Elf<'_>, place: Place) -> bool {
        elf.sections().get(place.section).is_some_and(|section| section.name == REPLACEMENTS)
    }

    /// Where a place in a replacement is executed, `None` for any other place. One replacement may
    /// serve several originals; one is as good as another.
    #[must_use]
    pub fn original_of(&self, place: Place) -> Option<Place> {
        let after = self.alternatives.partition_point(|alternative| alternative.replacement <= place);
        let Alternative { original, replacement, replacement_length, .. } = *self.alternatives[..after].last()?;
        let inside = place.offset.wrapping_sub(replacement.offset);
        let same = replacement.section == place.section && inside < replacement_length.into();
        same.then(|| Place { section: original.section, offset: original.offset.wrapping_add(inside) })
    }
}

/// One entry of [`ALTERNATIVES`].
#[derive(Clone, Copy, Debug)]
pub struct Alternative {
    /// Where the original starts.
    pub original: Place,
    /// Its length with the NOPs that make room for its longest replacement.
    pub original_length: u8,
    /// Where the replacement starts.
    pub replacement: Place,
    /// Its length.
    pub replacement_length: u8,
}

/// The alternatives of a file, in the order of the table.
///
/// `struct alt_instr` is two words relative to themselves (original, replacement), whatever a
/// kernel's version needs to name the feature, and at the end two bytes, the lengths of both: 12
/// bytes in 6.1, 14 since 6.3. The size is the one by which every entry's replacement is one.
#[must_use]
pub fn alternatives(elf: &Elf<'_>) -> Vec<Alternative> {
    let Some(table) = Table::of(elf, ALTERNATIVES) else { return Vec::new() };
    let entry = |offset: usize, bytes: &[u8]| {
        let &[.., original_length, replacement_length] = bytes else { return None };
        let (original, replacement) = (table.place(offset)?, table.place(offset + 4)?);
        let section = elf.sections().get(replacement.section)?;
        let alternative = Alternative { original, original_length, replacement, replacement_length };
        (section.name == REPLACEMENTS && replacement.offset <= section.size).then_some(alternative)
    };
    let entries = |size: usize| -> Option<Vec<Alternative>> {
        let chunks = table.section.bytes.chunks(size).enumerate();
        chunks.map(|(number, bytes)| entry(number * size, bytes)).collect()
    };
    [12, 14].into_iter().find_map(entries).unwrap_or_default()
}

/// The places that the exception table names.
fn exceptions(elf: &Elf<'_>) -> HashSet<Place> {
    let Some(table) = Table::of(elf, EXCEPTION_TABLE) else { return HashSet::new() };
    (0..table.section.bytes.len()).step_by(EXCEPTION_TABLE_ENTRY).filter_map(|offset| table.place(offset)).collect()
}

/// A table of words that are relative to themselves.
struct Table<'elf, 'data> {
    elf: &'elf Elf<'data>,
    index: usize,
    section: &'elf Section<'data>,
    /// In a relocatable object, what gives the words their meaning.
    relocations: Vec<Relocation>,
}

impl<'elf, 'data> Table<'elf, 'data> {
    fn of(elf: &'elf Elf<'data>, name: &str) -> Option<Self> {
        let (index, section) = elf.section_named(name)?;
        let relocations = if elf.relocatable() { elf.relocations(index) } else { Vec::new() };
        Some(Self { elf, index, section, relocations })
    }

    /// The place that the word at an offset means.
    fn place(&self, offset: usize) -> Option<Place> {
        if self.elf.relocatable() {
            let found = self.relocations.binary_search_by_key(&(offset as u64), |relocation| relocation.offset).ok()?;
            let Target::Place(place) = self.elf.target(&self.relocations[found]) else { return None };
            return Some(place);
        }
        let word = i32::from_le_bytes(*self.section.bytes.get(offset..)?.first_chunk()?);
        let field = self.elf.address(Place { section: self.index, offset: offset as u64 });
        self.elf.place_at(field.wrapping_add_signed(word.into()))
    }
}
