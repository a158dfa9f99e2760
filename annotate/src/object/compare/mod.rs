//! The padded object held against the plain one: the oracle of the assembler stage.
//!
//! Take what the plain assembler makes of a file, and what it makes of the same file after the
//! assembler stage. With the pads removed, which only the records know, the second has to be the
//! first. Anything else is a bug of the stage: a statement lost, an operand damaged, a label on the
//! wrong side of a pad, a site in the wrong section.
//!
//! What padding cannot but change, and what is therefore compared by its meaning instead of its
//! bytes:
//!
//! * distances: every branch, RIP-relative operand, relocation and symbol is resolved to a place on
//!   both sides, and the two places have to correspond (`map`);
//! * the size of a direct branch, short or near, which the assembler chooses by distance;
//! * an immediate operand that is the distance of a label from a symbol;
//! * filler before an aligned place or an aligned branch (`filler`), prefixes that do nothing
//!   (`prefixes`), and the NOPs behind an alternative's original, which make it as long as its
//!   longest replacement; in `.altinstructions`, the lengths of both;
//! * tables about text that hold distances as numbers: unwind tables and debug information are not
//!   compared.
//!
//! Everything else, also in data sections, has to be equal byte for byte. It runs for each object
//! of a kernel build, so it is one pass over both texts: an instruction whose bytes are equal is
//! decoded once.

mod difference;
mod filler;
mod map;
mod prefixes;
mod tables;
mod walk;

use std::collections::{BTreeMap, HashMap};

use ::object::elf::{
    SHT_GROUP, SHT_NOBITS, SHT_NULL, SHT_REL, SHT_RELA, SHT_STRTAB, SHT_SYMTAB, SHT_SYMTAB_SHNDX, STT_FILE, STT_SECTION,
};

pub use difference::{Difference, Spot, Which};
use map::OffsetMap;
use tables::Tables;
use walk::{Side, Walked, walk};

use super::elf::{Elf, Place, Relocation, Section, Symbol, Target};
use super::records::{Record, Records};
use super::references::JUMP_TABLES;
use super::text::{Data, Functions};
use super::verify::SITE_IN_DATA;
use crate::check::check;
use crate::linux::tables::{self as linux, Alternative};
use crate::record::NOTE_SECTION;

/// What was compared, where nothing differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Executable sections.
    pub sections: usize,
    /// Instructions in them.
    pub instructions: usize,
    /// Branches, operands and relocations that mean corresponding places.
    pub references: usize,
    /// Sites whose pads were left out.
    pub pads: usize,
    /// Branches that became longer or shorter.
    pub resized_branches: usize,
}

/// Compares a padded object with the plain one.
///
/// # Errors
///
/// The first difference that padding does not explain.
pub fn compare(plain: &[u8], padded: &[u8]) -> Result<Comparison, Difference> {
    let plain = open(plain, Which::Plain)?;
    let padded = open(padded, Which::Padded)?;
    let records = records(&padded)?;
    let pairs = pair_sections(&plain, &padded)?;
    let mut comparer = Comparer {
        plain: &plain,
        padded: &padded,
        maps: pairs.iter().map(|_| OffsetMap::default()).collect(),
        pairs,
        references: Vec::new(),
        immediates: Vec::new(),
        counts: Comparison::default(),
    };
    comparer.sections(&records)?;
    comparer.references()?;
    comparer.symbols()?;
    comparer.immediates()?;
    Ok(comparer.counts)
}

fn open(data: &[u8], which: Which) -> Result<Elf<'_>, Difference> {
    let elf = Elf::parse(data).map_err(|error| Difference::Unreadable(which, error))?;
    if elf.relocatable() { Ok(elf) } else { Err(Difference::NotRelocatable(which)) }
}

/// The records of the padded object, each of which agrees with the bytes at its site, and is about
/// code.
fn records(padded: &Elf<'_>) -> Result<Vec<Record>, Difference> {
    let data = Data::of(padded, &Functions::of(padded));
    let Records { records, bad } =
        Records::read(padded).map_err(|error| Difference::Unreadable(Which::Padded, error))?;
    if let Some(bad) = bad.first() {
        return Err(Difference::Record { number: bad.number, what: bad.fault.to_string() });
    }
    for record in &records {
        let text = padded.sections().get(record.place.section).and_then(|section| {
            let offset = usize::try_from(record.place.offset).ok()?;
            section.bytes.get(offset..)
        });
        check(record.alleged, text.unwrap_or_default())
            .map_err(|contradiction| Difference::Record { number: record.number, what: contradiction.to_string() })?;
        if data.contains(record.place) {
            return Err(Difference::Record { number: record.number, what: SITE_IN_DATA.to_owned() });
        }
    }
    Ok(records)
}

/// How two sections of one name are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparability {
    /// Instruction by instruction.
    Text,
    /// Byte by byte.
    Data,
    /// `.altinstructions`: size and relocations, but not the lengths in it.
    Alternatives,
    /// Not at all: symbol tables and the like, tables that hold distances in text as numbers, and
    /// the hash of it all.
    Nothing,
}

impl Comparability {
    fn of(section: &Section<'_>) -> Self {
        const TABLES: [&str; 6] =
            [".discard.noendbr", ".eh_frame", ".llvm_addrsig", ".note.gnu.build-id", ".orc_unwind", ".orc_unwind_ip"];
        if matches!(
            section.kind,
            SHT_NULL | SHT_SYMTAB | SHT_STRTAB | SHT_RELA | SHT_REL | SHT_GROUP | SHT_SYMTAB_SHNDX
        ) || TABLES.contains(&section.name)
            || section.name.starts_with(NOTE_SECTION)
            || section.name.starts_with(".debug")
        {
            Self::Nothing
        } else if section.executable {
            Self::Text
        } else if section.name == linux::ALTERNATIVES {
            Self::Alternatives
        } else {
            Self::Data
        }
    }
}

/// The section of the padded object that corresponds to each of the plain one: the one of the same
/// name and, among those of one name, the same number. Every section that is compared has to have
/// one, on either side.
fn pair_sections(plain: &Elf<'_>, padded: &Elf<'_>) -> Result<Vec<Option<usize>>, Difference> {
    let mut named: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, section) in padded.sections().iter().enumerate().rev() {
        named.entry(section.name).or_default().push(index);
    }
    let only = |which: Which, section: &Section<'_>| {
        let what = format!("only the {which} file has it");
        Difference::Section { name: section.name.to_owned(), what }
    };
    let mut pairs = Vec::with_capacity(plain.sections().len());
    for section in plain.sections() {
        let pair = named.get_mut(section.name).and_then(Vec::pop);
        if pair.is_none() && Comparability::of(section) != Comparability::Nothing {
            return Err(only(Which::Plain, section));
        }
        pairs.push(pair);
    }
    let rest = named.into_values().flatten().map(|index| (index, &padded.sections()[index]));
    match rest.filter(|(_, section)| Comparability::of(section) != Comparability::Nothing).min_by_key(|rest| rest.0) {
        Some((_, section)) => Err(only(Which::Padded, section)),
        None => Ok(pairs),
    }
}

/// Branches, operands and relocations, to be held against each other when the offsets of all
/// sections are known.
struct Reference<'data> {
    /// Section of the plain object, for messages.
    section: usize,
    /// Offset of the instruction or field, and what it refers to, in the plain object.
    plain: (u64, Target<'data>),
    /// The same in the padded object.
    padded: (u64, Target<'data>),
    /// Whether it may be an entry of a table that is relative to its start.
    in_table: bool,
}

/// Two immediate operands that differ: perhaps the distance of two labels, which the assembler has
/// made a number.
struct Immediates {
    /// Section of the plain object.
    section: usize,
    /// Where the instructions start, plain and padded.
    offsets: [u64; 2],
    /// The operands, plain and padded.
    operands: [u64; 2],
    /// How to decode the instructions.
    bitness: u32,
}

impl Immediates {
    fn place(&self) -> (usize, u64) {
        (self.section, self.offsets[0])
    }
}

struct Comparer<'elf, 'data> {
    plain: &'elf Elf<'data>,
    padded: &'elf Elf<'data>,
    /// By section of the plain object: its counterpart.
    pairs: Vec<Option<usize>>,
    /// By section of the plain object: the offsets of its text. Data has the same offsets on both
    /// sides.
    maps: Vec<OffsetMap>,
    references: Vec<Reference<'data>>,
    immediates: Vec<Immediates>,
    counts: Comparison,
}

impl<'data> Comparer<'_, 'data> {
    fn sections(&mut self, records: &[Record]) -> Result<(), Difference> {
        let originals = [originals(self.plain), originals(self.padded)];
        let functions = Functions::of(self.padded);
        for index in 0..self.pairs.len() {
            let Some(pair) = self.pairs[index] else { continue };
            match Comparability::of(&self.plain.sections()[index]) {
                Comparability::Text => {
                    let records = in_section(records, pair, |record| record.place);
                    let plain_originals = in_section(&originals[0], index, |original| original.0);
                    let padded_originals = in_section(&originals[1], pair, |original| original.0);
                    let plain = Side::new(self.plain, index, &[], &[], plain_originals);
                    let functions = functions.in_section(pair);
                    let padded = Side::new(self.padded, pair, functions, records, padded_originals);
                    self.counts.pads += records.len();
                    self.text(index, walk(plain, padded)?);
                }
                Comparability::Data => self.data([index, pair], true)?,
                Comparability::Alternatives => self.data([index, pair], false)?,
                Comparability::Nothing => {}
            }
        }
        Ok(())
    }

    fn text(&mut self, index: usize, walked: Walked<'data>) {
        self.maps[index] = walked.map;
        self.references.extend(walked.references);
        self.immediates.extend(walked.immediates);
        self.counts.sections += 1;
        self.counts.instructions += walked.instructions;
        self.counts.resized_branches += walked.resized_branches;
    }

    fn data(&mut self, [index, pair]: [usize; 2], contents: bool) -> Result<(), Difference> {
        let (plain, padded) = (&self.plain.sections()[index], &self.padded.sections()[pair]);
        let differs = |what: String| Difference::Section { name: plain.name.to_owned(), what };
        if plain.size != padded.size {
            return Err(differs(format!("{} bytes plain, {} padded", plain.size, padded.size)));
        }
        if plain.kind != padded.kind && [plain.kind, padded.kind].contains(&SHT_NOBITS) {
            return Err(differs("only one of the files gives it contents".to_owned()));
        }
        if contents && plain.bytes != padded.bytes {
            let equal = plain.bytes.iter().zip(padded.bytes).take_while(|(plain, padded)| plain == padded).count();
            return Err(differs(format!("the contents differ from {equal:#x} on")));
        }
        let (plain, padded) = (self.plain.relocations(index), self.padded.relocations(pair));
        if let Some(number) = disagreement((self.plain, &plain, 0), (self.padded, &padded, 0)) {
            return Err(differs(format!("relocation {number} differs")));
        }
        let has_tables = self.plain.sections()[index].name.starts_with(JUMP_TABLES);
        self.references.extend(plain.iter().zip(&padded).map(|(plain, padded)| Reference {
            section: index,
            plain: (plain.offset, self.plain.target(plain)),
            padded: (padded.offset, self.padded.target(padded)),
            in_table: has_tables && plain.is_relative(),
        }));
        Ok(())
    }

    /// Whether two targets correspond.
    fn corresponds(&self, plain: &Target<'data>, padded: &Target<'data>) -> bool {
        match (plain, padded) {
            (Target::Place(plain), Target::Place(padded)) => {
                let offset = |place: &Place| linux::without_physical_bias(place.offset);
                self.pairs.get(plain.section) == Some(&Some(padded.section))
                    && self.maps[plain.section].maps(offset(plain), offset(padded))
            }
            (plain, padded) => plain == padded,
        }
    }

    fn references(&mut self) -> Result<(), Difference> {
        let mut tables = Tables::default();
        for Reference { section, plain, padded, in_table } in &self.references {
            let holds = |distance| self.corresponds(&before(plain.1, distance), &before(padded.1, distance));
            if !(if *in_table { tables.hold(*section, plain.0, holds) } else { holds(0) }) {
                return Err(Difference::Content {
                    section: self.plain.sections()[*section].name.to_owned(),
                    what: "the targets differ",
                    plain: Spot::target(self.plain, plain.0, &plain.1),
                    padded: Spot::target(self.padded, padded.0, &padded.1),
                });
            }
        }
        self.counts.references = self.references.len();
        Ok(())
    }

    /// Holds the named symbols against each other: same name, binding and type, corresponding start
    /// and end.
    fn symbols(&self) -> Result<(), Difference> {
        let (plain, padded) = (named_symbols(self.plain), named_symbols(self.padded));
        let pairs = plain.iter().zip(&padded);
        let equal = pairs.take_while(|(plain, padded)| self.same_symbol(plain, padded)).count();
        if equal == plain.len() && equal == padded.len() {
            return Ok(());
        }
        let describe = |elf: &Elf<'_>, symbols: &[Symbol<'_>]| match symbols.get(equal) {
            Some(&Symbol { name, place: Some(Place { section, offset }), size, .. }) => {
                let section = elf.sections().get(section).map_or("", |section| section.name);
                format!("{name} = {section}+{offset:#x}, {size} bytes")
            }
            _ => "none".to_owned(),
        };
        Err(Difference::Symbol { plain: describe(self.plain, &plain), padded: describe(self.padded, &padded) })
    }

    /// An immediate operand may differ where it is how far a place is from a symbol in the same
    /// section, on either side (Linux: `add $(identity_mapped - relocate_kernel), %r8`).
    fn immediates(&self) -> Result<(), Difference> {
        if self.immediates.is_empty() {
            return Ok(());
        }
        let pairs = named_symbols(self.plain).into_iter().zip(named_symbols(self.padded));
        let mut bases: Vec<_> = pairs.filter_map(|(plain, padded)| plain.place.zip(padded.place)).collect();
        bases.sort_unstable();
        bases.dedup();
        let mut tries = 64 * (bases.len() + self.immediates.len());
        let mut last = 0;
        for immediates in &self.immediates {
            let corresponds = |number: &usize| self.is_distance(immediates, bases[*number]);
            // Most are distances from the symbol that the one before was, or from one nearby.
            let near = bases.partition_point(|(plain, _)| (plain.section, plain.offset) <= immediates.place());
            let nearest = outwards(near, bases.len());
            let mut candidates = (last..bases.len()).take(1).chain(nearest).take(tries).inspect(|_| tries -= 1);
            last = candidates.find(corresponds).ok_or_else(|| self.differing(immediates))?;
        }
        Ok(())
    }

    /// Whether two immediates are the distance of a place from a symbol.
    fn is_distance(&self, immediates: &Immediates, (plain, padded): (Place, Place)) -> bool {
        let [distance, counterpart] = immediates.operands;
        let corresponds = |plain, padded| self.maps[immediates.section].maps(plain, padded);
        plain.section == immediates.section
            && (corresponds(plain.offset.wrapping_add(distance), padded.offset.wrapping_add(counterpart))
                || corresponds(plain.offset.wrapping_sub(distance), padded.offset.wrapping_sub(counterpart)))
    }

    fn differing(&self, immediates: &Immediates) -> Difference {
        let &Immediates { section, offsets: [plain, padded], bitness, .. } = immediates;
        let text = &self.plain.sections()[section];
        let padded_text = self.pairs[section].map_or(&[][..], |pair| self.padded.sections()[pair].bytes);
        Difference::Content {
            section: text.name.to_owned(),
            what: "the instructions differ",
            plain: Spot::instruction(text.bytes, plain, bitness),
            padded: Spot::instruction(padded_text, padded, bitness),
        }
    }

    fn same_symbol(&self, plain: &Symbol<'data>, padded: &Symbol<'data>) -> bool {
        let end = |symbol: &Symbol<'_>| {
            symbol.place.map(|Place { section, offset }| {
                Target::Place(Place { section, offset: offset.wrapping_add(symbol.size) })
            })
        };
        let start = |symbol: &Symbol<'_>| symbol.place.map(Target::Place);
        let corresponds = |plain: Option<Target<'data>>, padded: Option<Target<'data>>| {
            plain.zip(padded).is_some_and(|(plain, padded)| self.corresponds(&plain, &padded))
        };
        plain.name == padded.name
            && plain.info == padded.info
            && (plain.size == 0) == (padded.size == 0)
            && corresponds(start(plain), start(padded))
            && corresponds(end(plain), end(padded))
    }
}

/// The originals of alternatives, start and length by place: those that are as long as their
/// longest replacement, and so may have been given NOPs to be.
fn originals(elf: &Elf<'_>) -> Vec<(Place, u8)> {
    let mut longest: BTreeMap<(Place, u8), u8> = BTreeMap::new();
    for Alternative { original, original_length, replacement_length, .. } in linux::alternatives(elf) {
        let length = longest.entry((original, original_length)).or_default();
        *length = replacement_length.max(*length);
    }
    longest.into_iter().filter(|((_, length), longest)| length == longest).map(|(original, _)| original).collect()
}

/// A target so many bytes before another.
fn before(target: Target<'_>, distance: u64) -> Target<'_> {
    match target {
        Target::Place(place) => Target::Place(Place { offset: place.offset.wrapping_sub(distance), ..place }),
        Target::Symbol(name, addend) => Target::Symbol(name, addend),
    }
}

/// The numbers below `count`, from `near` outwards.
fn outwards(near: usize, count: usize) -> impl Iterator<Item = usize> {
    let both = (0..count).flat_map(move |distance| [near.checked_sub(distance + 1), near.checked_add(distance)]);
    both.flatten().filter(move |&number| number < count)
}

/// Those of the items, which are ordered by place, that lie in a section.
fn in_section<T>(items: &[T], section: usize, place: impl Fn(&T) -> Place) -> &[T] {
    let first = items.partition_point(|item| place(item).section < section);
    let after = items.partition_point(|item| place(item).section <= section);
    &items[first..after]
}

/// The number of the first relocation that has no counterpart of the same type and symbol at the
/// same distance from the origin. Targets are another matter.
fn disagreement(plain: (&Elf<'_>, &[Relocation], u64), padded: (&Elf<'_>, &[Relocation], u64)) -> Option<usize> {
    let agrees = |a: &Relocation, b: &Relocation| {
        a.kind == b.kind
            && a.offset.wrapping_sub(plain.2) == b.offset.wrapping_sub(padded.2)
            && symbol_name(plain.0, a) == symbol_name(padded.0, b)
    };
    let equal = plain.1.iter().zip(padded.1).take_while(|(a, b)| agrees(a, b)).count();
    (equal < plain.1.len().max(padded.1.len())).then_some(equal)
}

/// The name of the symbol that a relocation refers to; sections have none.
fn symbol_name<'data>(elf: &Elf<'data>, relocation: &Relocation) -> Option<&'data str> {
    elf.symbol_of(relocation).filter(|symbol| symbol.kind != STT_SECTION).map(|symbol| symbol.name)
}

/// The symbols that name places in sections which are compared, by name, section and offset: the
/// order of a symbol table is that in which a linker met them.
fn named_symbols<'data>(elf: &Elf<'data>) -> Vec<Symbol<'data>> {
    let section = |symbol: &Symbol<'_>| symbol.place.and_then(|place| elf.sections().get(place.section));
    let is_compared = |symbol: &Symbol<'data>| {
        !symbol.name.is_empty()
            && symbol.kind != STT_SECTION
            && symbol.kind != STT_FILE
            && section(symbol).is_some_and(|section| Comparability::of(section) != Comparability::Nothing)
    };
    let mut symbols: Vec<_> = elf.symbols().filter(is_compared).collect();
    symbols.sort_by_key(|symbol| {
        (symbol.name, section(symbol).map(|section| section.name), symbol.place.map(|place| place.offset))
    });
    symbols
}
