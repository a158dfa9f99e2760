//! Objects that came ready-made, without a source that could have been annotated, and are accepted
//! as they are.
//!
//! What is accepted is an object, not a name or a place: in a linked file exactly those
//! instructions that came from it. A section of the object is found again by its global symbols and
//! must be there byte for byte, but for the fields that a linker fills in. Where it could be in
//! several places nothing is accepted.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::{fs, iter};

use annotate::object::Elf;
use annotate::object::elf::{Place, Relocation, Section};
use annotate::object::report::Report;
use anyhow::{Context as _, bail};
use object::elf::{
    R_X86_64_8, R_X86_64_16, R_X86_64_64, R_X86_64_GOTPCRELX, R_X86_64_NONE, R_X86_64_PC8, R_X86_64_PC16,
    R_X86_64_PC32, R_X86_64_PC64, R_X86_64_PLT32, R_X86_64_REX_GOTPCRELX, STB_GLOBAL, STB_LOCAL, STT_FUNC, STT_NOTYPE,
    STT_OBJECT,
};
use object::read::archive::ArchiveFile;
use serde::Serialize;

/// Which objects are accepted.
#[derive(Debug, clap::Args)]
pub(crate) struct Accept {
    /// Accept what is sensitive in an object or archive that came without source, for a reason that
    /// is listed with it; may be given several times. `build` looks for FILE also where make starts
    /// and writes to. A FILE that is not there, or of which nothing had to be accepted, is an error
    #[arg(long, value_name = "FILE=REASON", value_parser = acceptance)]
    accept: Vec<Acceptance>,
    /// The same for each line of a file, FILE=REASON; empty ones and those that start with # are
    /// comments
    #[arg(long, value_name = "LIST")]
    accept_file: Vec<PathBuf>,
}

/// An object that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Acceptance {
    file: PathBuf,
    reason: String,
    /// How many instructions of it were found that would be misses.
    pub(crate) instructions: usize,
}

impl Display for Acceptance {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { file, reason, instructions } = self;
        let file = file.display();
        match instructions {
            0 => write!(
                f,
                "{file}: accepted nothing: no file has an instruction from it that would be a miss ({reason})"
            ),
            1 => write!(f, "{file}: accepted 1 instruction: {reason}"),
            _ => write!(f, "{file}: accepted {instructions} instructions: {reason}"),
        }
    }
}

fn acceptance(text: &str) -> Result<Acceptance, String> {
    match text.split_once('=').map(|(file, reason)| (file.trim(), reason.trim())) {
        Some((file, reason)) if !file.is_empty() && !reason.is_empty() => {
            Ok(Acceptance { file: PathBuf::from(file), reason: reason.to_owned(), instructions: 0 })
        }
        _ => Err("a file and a reason are needed: FILE=REASON".to_owned()),
    }
}

impl Accept {
    /// All acceptances, those of files too.
    pub(crate) fn acceptances(&self) -> anyhow::Result<Vec<Acceptance>> {
        let mut all = self.accept.clone();
        for path in &self.accept_file {
            let list = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            for (number, line) in iter::zip(1.., list.lines()).filter(|(_, line)| !is_comment(line)) {
                let parsed = acceptance(line).map_err(anyhow::Error::msg);
                all.push(parsed.with_context(|| format!("{}:{number}", path.display()))?);
            }
        }
        Ok(all)
    }
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

/// The accepted objects, and what was found of them.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    objects: Vec<Object>,
}

#[derive(Debug)]
struct Object {
    acceptance: Acceptance,
    data: Vec<u8>,
    /// As reports have it.
    reason: &'static str,
}

impl Accepted {
    /// Reads the objects, which are here or in one of these directories.
    pub(crate) fn read(acceptances: &[Acceptance], directories: &[PathBuf]) -> anyhow::Result<Self> {
        let objects = acceptances.iter().map(|acceptance| Object::read(acceptance, directories));
        Ok(Self { objects: objects.collect::<anyhow::Result<_>>()? })
    }

    /// Finds the accepted objects in a file, and has its report excuse what came from them.
    pub(crate) fn excuse(&mut self, elf: &Elf<'_>, report: &mut Report<'_>) -> anyhow::Result<()> {
        if report.misses.is_empty() || self.objects.is_empty() {
            return Ok(());
        }
        let whole = Whole::new(elf);
        for object in &mut self.objects {
            let context = || format!("--accept {}", object.acceptance.file.display());
            for member in members(&object.data).with_context(context)? {
                let part = Elf::parse(member).with_context(context)?;
                for (index, section) in part.executable() {
                    let misses: Vec<Place> = report.misses.iter().map(|miss| miss.location.place).collect();
                    let code = Code::new(section, &part.relocations(index));
                    if let Some(start) = whole.find(&code, &anchors(&part, index), &misses).with_context(context)? {
                        object.acceptance.instructions +=
                            report.excuse(object.reason, |miss| code.is_there(start, miss));
                    }
                }
            }
        }
        Ok(())
    }

    /// What was accepted.
    pub(crate) fn list(&self) -> Vec<Acceptance> {
        self.objects.iter().map(|object| object.acceptance.clone()).collect()
    }

    /// The acceptances that were of no use.
    pub(crate) fn useless(&self) -> impl Iterator<Item = &Acceptance> {
        self.objects.iter().map(|object| &object.acceptance).filter(|acceptance| acceptance.instructions == 0)
    }
}

impl Object {
    fn read(acceptance: &Acceptance, directories: &[PathBuf]) -> anyhow::Result<Self> {
        let Acceptance { file, reason, .. } = acceptance;
        let candidates = iter::once(file.clone()).chain(directories.iter().map(|directory| directory.join(file)));
        let path = candidates.clone().find(|path| path.is_file()).unwrap_or_else(|| file.clone());
        let data = fs::read(&path).with_context(|| format!("--accept {}", file.display()))?;
        // Reports refer to their reasons for as long as the program runs.
        let reason = format!("accepted, {}: {reason}", file.display()).leak();
        Ok(Self { acceptance: acceptance.clone(), data, reason })
    }
}

/// The objects in a file: itself, or those of an archive.
fn members(data: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    let Ok(archive) = ArchiveFile::parse(data) else { return Ok(vec![data]) };
    if archive.is_thin() {
        bail!("a thin archive: accept its members instead");
    }
    archive.members().map(|member| Ok(member?.data(data)?)).collect()
}

/// A linked file in which sections of objects are looked for.
struct Whole<'elf, 'data> {
    elf: &'elf Elf<'data>,
    symbols: HashMap<&'data str, Vec<Place>>,
}

impl<'elf, 'data> Whole<'elf, 'data> {
    fn new(elf: &'elf Elf<'data>) -> Self {
        let mut symbols = HashMap::<&str, Vec<Place>>::new();
        for symbol in elf.symbols() {
            if let Some(place) = symbol.place {
                symbols.entry(symbol.name).or_default().push(place);
            }
        }
        Self { elf, symbols }
    }

    /// Where a section of an object starts, if it is here and holds any of these places.
    fn find(&self, code: &Code<'_, '_>, anchors: &[(&str, u64)], holding: &[Place]) -> anyhow::Result<Option<Place>> {
        let is_it = |start: &Place| {
            self.bytes(*start).is_some_and(|bytes| code.is_at_start_of(bytes))
                && anchors.iter().all(|(name, offset)| {
                    let place = Place { offset: start.offset.wrapping_add(*offset), ..*start };
                    self.symbols.get(name).is_some_and(|places| places.contains(&place))
                })
                && holding.iter().any(|place| code.is_there(*start, *place))
        };
        let mut starts: Vec<Place> = match anchors.first() {
            Some((name, offset)) => {
                let places = self.symbols.get(name).into_iter().flatten();
                let start = |place: &Place| Some(Place { offset: place.offset.checked_sub(*offset)?, ..*place });
                places.filter_map(start).filter(is_it).collect()
            }
            None => self.aligned(code.section.align.max(1)).filter(is_it).collect(),
        };
        starts.sort_unstable();
        starts.dedup();
        match starts.as_slice() {
            [] => Ok(None),
            [start] => Ok(Some(*start)),
            more => bail!("its section {} could be in {} places", code.section.name, more.len()),
        }
    }

    /// Where a section without symbols could start.
    fn aligned(&self, align: u64) -> impl Iterator<Item = Place> {
        self.elf.executable().flat_map(move |(section, &Section { address, bytes, .. })| {
            let offsets = 0..bytes.len() as u64;
            let is_aligned = move |offset: &u64| address.wrapping_add(*offset).is_multiple_of(align);
            offsets.filter(is_aligned).map(move |offset| Place { section, offset })
        })
    }

    fn bytes(&self, start: Place) -> Option<&[u8]> {
        let section = self.elf.sections().get(start.section).filter(|section| section.executable)?;
        section.bytes.get(usize::try_from(start.offset).ok()?..)
    }
}

/// The symbols of a section that a linker keeps: the global ones or, if there are none, the local
/// ones.
fn anchors<'data>(elf: &Elf<'data>, index: usize) -> Vec<(&'data str, u64)> {
    let of = |binding: u8| {
        let symbols = elf.symbols().filter_map(move |symbol| {
            let is_named = !symbol.name.is_empty() && !symbol.name.starts_with(".L");
            let is_code = [STT_FUNC, STT_NOTYPE, STT_OBJECT].contains(&symbol.kind);
            let place = symbol.place.filter(|place| place.section == index)?;
            (is_named && is_code && symbol.info >> 4 == binding).then_some((symbol.name, place.offset))
        });
        symbols.collect::<Vec<_>>()
    };
    let global = of(STB_GLOBAL.0);
    if global.is_empty() { of(STB_LOCAL.0) } else { global }
}

/// A section of an object, and which bytes of it a linker leaves alone.
struct Code<'part, 'data> {
    section: &'part Section<'data>,
    is_fixed: Vec<bool>,
}

impl<'part, 'data> Code<'part, 'data> {
    fn new(section: &'part Section<'data>, relocations: &[Relocation]) -> Self {
        let mut is_fixed = vec![true; section.bytes.len()];
        for relocation in relocations {
            let (before, width) = extent(relocation, section.bytes);
            let Ok(offset) = usize::try_from(relocation.offset) else { continue };
            let end = offset.saturating_add(width).min(is_fixed.len());
            if let Some(field) = is_fixed.get_mut(offset.saturating_sub(before)..end) {
                field.fill(false);
            }
        }
        Self { section, is_fixed }
    }

    fn is_at_start_of(&self, text: &[u8]) -> bool {
        let is_same = |((byte, other), is_fixed): ((&u8, &u8), &bool)| !is_fixed || byte == other;
        let bytes = self.section.bytes;
        text.len() >= bytes.len() && iter::zip(iter::zip(bytes, text), &self.is_fixed).all(is_same)
    }

    /// Whether the instruction at a place is one of this section's, if that starts there.
    fn is_there(&self, start: Place, place: Place) -> bool {
        let offset = place.offset.checked_sub(start.offset).and_then(|offset| usize::try_from(offset).ok());
        place.section == start.section && offset.and_then(|offset| self.is_fixed.get(offset)) == Some(&true)
    }
}

/// How many bytes before a field and in it may be different once it is linked. Linkers make shorter
/// ways of those by the GOT (psABI, "Optimize GOTPCRELX Relocations"), objtool makes NOPs of calls.
fn extent(relocation: &Relocation, bytes: &[u8]) -> (usize, usize) {
    const CALL: u8 = 0xe8;
    const JMP: u8 = 0xe9;
    match relocation.kind {
        R_X86_64_NONE => (0, 0),
        R_X86_64_8 | R_X86_64_PC8 => (0, 1),
        R_X86_64_16 | R_X86_64_PC16 => (0, 2),
        R_X86_64_64 | R_X86_64_PC64 => (0, 8),
        R_X86_64_GOTPCRELX => (2, 4),
        R_X86_64_REX_GOTPCRELX => (3, 4),
        R_X86_64_PC32 | R_X86_64_PLT32 => {
            let before = usize::try_from(relocation.offset).ok().and_then(|offset| bytes.get(offset.checked_sub(1)?));
            (usize::from(matches!(before, Some(&CALL | &JMP))), 4)
        }
        _ => (0, 4),
    }
}
