//! What is said of a file: its sites, what is missing, what is wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::elf::Place;
use super::sources::{SourceLine, Sources};
use crate::instructions::Class;
use crate::record::{AllegedSite, Flags};

/// A place in a file, in the terms that people use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location<'data> {
    /// The place itself.
    #[serde(skip)]
    pub place: Place,
    /// The place whose function and source line are meant: of a replacement, where it is executed.
    #[serde(skip)]
    pub origin: Place,
    /// Name of the section.
    pub section: &'data str,
    /// Offset in the section.
    pub offset: u64,
    /// Virtual address, in a linked file.
    #[serde(serialize_with = "hexadecimal", skip_serializing_if = "Option::is_none")]
    pub address: Option<u64>,
    /// The function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<Within<'data>>,
    /// The source line, once asked for and if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceLine>,
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.section, self.offset)?;
        let function = self.function.map(|function| function.to_string());
        let address = self.address.map(|address| format!("{address:#x}"));
        let source = self.source.as_ref().map(ToString::to_string);
        let known: Vec<String> = [address, function, source].into_iter().flatten().collect();
        if known.is_empty() { Ok(()) } else { write!(f, " ({})", known.join(", ")) }
    }
}

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Within<'data> {
    /// Name of the function.
    pub name: &'data str,
    /// Offset from its start.
    pub offset: u64,
}

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// A site whose record holds.
#[derive(Clone, Debug, Serialize)]
pub struct Site<'data> {
    /// Where it is.
    #[serde(flatten)]
    pub location: Location<'data>,
    /// Number of its record in the file.
    pub record: usize,
    /// What the record says, its flags completed by what the object says.
    #[serde(flatten, serialize_with = "site")]
    pub site: AllegedSite,
}

impl Site<'_> {
    /// Bytes of NOP behind the instruction.
    #[must_use]
    pub fn pad(&self) -> u64 {
        self.site.slot.saturating_sub(self.site.length).into()
    }
}

/// A sensitive instruction without a record.
#[derive(Clone, Debug, Serialize)]
pub struct Miss<'data> {
    /// Where it is.
    #[serde(flatten)]
    pub location: Location<'data>,
    /// What it is.
    #[serde(serialize_with = "class")]
    pub class: Class,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
    /// Why it needs no record; `None` is a miss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}) has no record", self.location, self.class, self.bytes)
    }
}

/// A record that does not hold, or a reference to what is no instruction.
#[derive(Clone, Debug, Serialize)]
pub struct Problem<'data> {
    /// Number of the record in the file, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<usize>,
    /// Where its site is or, where that cannot be said, the record itself; or where the reference
    /// is.
    #[serde(flatten)]
    pub location: Location<'data>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record.map_or_else(String::new, |record| format!("record {record}: "));
        write!(f, "{}: {record}{}", self.location, self.what)
    }
}

/// How often a class occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Padded sites.
    pub sites: usize,
    /// Recorded, but not padded, or not recorded, for a reason.
    pub excused: usize,
    /// Neither.
    pub misses: usize,
}

/// The result of [`verify`](super::verify()).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report<'data> {
    /// The sites whose records hold, by place.
    pub sites: Vec<Site<'data>>,
    /// Sensitive instructions that have no record and need none.
    pub excused: Vec<Miss<'data>>,
    /// Sensitive instructions that should have a record.
    pub misses: Vec<Miss<'data>>,
    /// Records that do not hold, and references to what is no instruction.
    pub problems: Vec<Problem<'data>>,
    /// Bytes of instructions in executable sections, without what linkers fill gaps with.
    pub executable_bytes: u64,
}

impl<'data> Report<'data> {
    /// Whether every sensitive instruction has a valid record or a stated reason, and every record
    /// is valid.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.misses.is_empty() && self.problems.is_empty()
    }

    /// Bytes of NOP that the sites were padded with.
    #[must_use]
    pub fn pad_bytes(&self) -> u64 {
        self.sites.iter().map(Site::pad).sum()
    }

    /// The counts of the classes that occur.
    #[must_use]
    pub fn classes(&self) -> BTreeMap<Class, Count> {
        let mut counts = BTreeMap::<Class, Count>::new();
        for site in &self.sites {
            let count = counts.entry(site.site.class).or_default();
            *(if site.site.flags.unpadded_reason().is_some() { &mut count.excused } else { &mut count.sites }) += 1;
        }
        for miss in &self.excused {
            counts.entry(miss.class).or_default().excused += 1;
        }
        for miss in &self.misses {
            counts.entry(miss.class).or_default().misses += 1;
        }
        counts
    }

    /// The stated reasons and how many instructions each excuses.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, usize> {
        let recorded = self.sites.iter().filter_map(|site| site.site.flags.unpadded_reason());
        let unrecorded = self.excused.iter().filter_map(|miss| miss.reason);
        let mut reasons = BTreeMap::new();
        for reason in recorded.chain(unrecorded) {
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }

    /// Finds a reason for the misses at some places. Returns how many there were.
    pub fn excuse(&mut self, reason: &'static str, is_meant: impl Fn(Place) -> bool) -> usize {
        let excused = self.misses.extract_if(.., |miss| is_meant(miss.location.place));
        let before = self.excused.len();
        self.excused.extend(excused.map(|miss| Miss { reason: Some(reason), ..miss }));
        self.excused.len() - before
    }

    /// Looks up the source lines of misses and problems.
    pub fn find_sources(&mut self, sources: &Sources<'data>) {
        let misses = self.misses.iter_mut().chain(&mut self.excused).map(|miss| &mut miss.location);
        let problems = self.problems.iter_mut().map(|problem| &mut problem.location);
        misses.chain(problems).for_each(|location| sources.complete(location));
    }

    /// Looks up the source lines of sites.
    pub fn find_site_sources(&mut self, sources: &Sources<'data>) {
        self.sites.iter_mut().for_each(|site| sources.complete(&mut site.location));
    }
}

/// JSON numbers are doubles to most readers, which cannot hold a kernel address.
#[expect(clippy::ref_option, reason = "the signature is serde's")]
fn hexadecimal<S: serde::Serializer>(address: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(&format_args!("{address:#x}")),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn class<S: serde::Serializer>(class: &Class, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(class)
}

/// A site as readers of a report want it: names instead of bits.
#[derive(Serialize)]
struct SiteFields {
    class: &'static str,
    length: u8,
    slot: u8,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

fn site<S: serde::Serializer>(site: &AllegedSite, serializer: S) -> Result<S::Ok, S::Error> {
    let flags: Vec<&'static str> = site.flags.iter_names().map(|(name, _): (_, Flags)| name).collect();
    let AllegedSite { class, length, slot, .. } = *site;
    let reason = site.flags.unpadded_reason();
    SiteFields { class: class.name(), length, slot, flags, reason }.serialize(serializer)
}
