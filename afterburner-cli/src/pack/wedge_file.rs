//! The wedge: found, and held to the shape that an image needs.
//!
//! It is a position-independent executable, linked at 0, and moved here to the place in the window
//! where it will stay: which window that is, the kernel's layout says ([`wedge::guest::layout`]).
//! Its entry code does not depend on where it is in physical memory, so physical addresses in the
//! file mean nothing. In memory it is one piece.

use std::env;
use std::path::{Path, PathBuf};

use annotate::object::Elf;
use annotate::object::elf::Symbol;
use anyhow::{Context as _, anyhow, bail, ensure};
use object::LittleEndian;
use object::elf::{
    ET_DYN, FileHeader64, PT_INTERP, PT_LOAD, R_X86_64_RELATIVE, SHF_ALLOC, SHT_REL, SHT_RELA, SHT_RELR,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _};
use wedge::guest::layout::{Layout, WINDOW_LENGTH};
use wedge::image::{LOAD_ADDRESS, PARAMETERS_SECTION, Parameters};
use wedge::x86::paging::PAGE;

use crate::verify::{named, read};

/// The symbol of its entry from a boot loader, and from Linux as a program.
const ENTRY: &str = "start";

/// That of its entry from Xen, as a paravirtualized guest.
const XEN_ENTRY: &str = "start_xen";

/// A variable that names the wedge.
const VARIABLE: &str = "AFTERBURNER_WEDGE";

/// The name of the wedge beside this program.
const NAME: &str = "afterburner-wedge";

/// A wedge.
pub(super) struct Wedge {
    path: PathBuf,
    /// The file.
    pub(super) data: Vec<u8>,
    /// Its bytes in memory, as far as the file has them.
    content: Vec<u8>,
    /// Where in these there is an address.
    addresses: Vec<Address>,
    /// Bytes in memory.
    pub(super) length: u64,
    /// Offset of the entry.
    pub(super) entry: u64,
    /// Offset of the entry from Xen, if there is one.
    pub(super) xen_entry: Option<u64>,
    /// Offset of the parameters.
    pub(super) parameters: usize,
}

impl Wedge {
    /// Finds the wedge: where the user says, or where it usually is.
    pub(super) fn find(given: Option<&Path>) -> anyhow::Result<Self> {
        let variable = || env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = given.map(Path::to_owned).or_else(variable) {
            return Self::read(&path);
        }
        let program = env::current_exe().context("cannot find out where this program is")?;
        let beside = program.with_file_name(NAME);
        if !beside.exists() {
            bail!(
                "no wedge: --wedge and {VARIABLE} name none, and there is no {}; `scripts/wedge` in Afterburner's source \
                 builds one",
                beside.display()
            );
        }
        Self::read(&beside)
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> usize {
        self.content.len()
    }

    /// Its bytes in the window of a layout.
    pub(super) fn content_in(&self, layout: &Layout) -> Vec<u8> {
        let mut content = self.content.clone();
        for &Address { place, offset } in &self.addresses {
            if let Some(word) = content.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
                *word = layout.wedge().wrapping_add(offset).to_le_bytes();
            }
        }
        content
    }

    /// Its sections and symbols.
    pub(super) fn elf(&self) -> anyhow::Result<Elf<'_>> {
        Elf::parse(&self.data).map_err(|error| named(&self.path, error))
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let data = read(path)?;
        Self::of(path, data).with_context(|| format!("{} is no wedge", path.display()))
    }

    fn of(path: &Path, data: Vec<u8>) -> anyhow::Result<Self> {
        let elf = Elf::parse(&data)?;
        ensure!(!elf.relocatable(), "it is not linked");
        let (content, address, length) = memory(&data)?;
        ensure!(address == 0, "it is linked at {address:#x}, not at 0, from where it can be put into any window");
        ensure!(length <= WINDOW_LENGTH - LOAD_ADDRESS, "its {length:#x} bytes do not fit into a window");
        let addresses = addresses(&data, content.len())?;
        let inside = |at: u64, length: u64| (at.checked_add(length)? <= content.len() as u64).then_some(at);
        let parameters = elf.section_named(PARAMETERS_SECTION).map(|(_, section)| section);
        let parameters = parameters.with_context(|| format!("it has no section {PARAMETERS_SECTION}"))?;
        ensure!(
            parameters.size == size_of::<Parameters>() as u64,
            "its section {PARAMETERS_SECTION} has {} bytes, not {}",
            parameters.size,
            size_of::<Parameters>()
        );
        let parameters = inside(parameters.address, parameters.size).context("its parameters are not in the file")?;
        let entry = |name| -> anyhow::Result<Option<u64>> {
            let place = elf.symbols().find(|symbol| symbol.name == name).and_then(|Symbol { place, .. }| place);
            let Some(address) = place.map(|place| elf.address(place)) else { return Ok(None) };
            inside(address, 1).map(Some).with_context(|| format!("{name} is not in the file"))
        };
        let xen_entry = entry(XEN_ENTRY)?;
        let entry = entry(ENTRY)?.with_context(|| format!("it has no symbol {ENTRY}"))?;
        let parameters = usize::try_from(parameters)?;
        Ok(Self { path: path.to_owned(), content, addresses, length, entry, xen_entry, parameters, data })
    }
}

/// The segments of a wedge as one piece: what the file has of it, its virtual address, and its
/// length.
fn memory(data: &[u8]) -> anyhow::Result<(Vec<u8>, u64, u64)> {
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let segments = header.program_headers(LittleEndian, data)?;
    let is_interpreted = segments.iter().any(|segment| segment.p_type(LittleEndian) == PT_INTERP);
    ensure!(!is_interpreted, "it is not linked statically");
    ensure!(header.e_type(LittleEndian) == ET_DYN, "it is linked to a fixed place, not position-independent");
    let loads = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let mut loads: Vec<_> = loads.filter(|segment| segment.p_memsz(LittleEndian) > 0).collect();
    loads.sort_by_key(|segment| segment.p_vaddr(LittleEndian));
    let start = loads.first().context("it has nothing to load")?.p_vaddr(LittleEndian);
    let (mut content, mut end) = (Vec::new(), start);
    for segment in loads {
        let (address, size) = (segment.p_vaddr(LittleEndian), segment.p_memsz(LittleEndian));
        let bytes = segment.data(LittleEndian, data).map_err(|()| anyhow!("a segment does not lie in the file"))?;
        let gap = address.checked_sub(end).filter(|&gap| gap < PAGE && bytes.len() as u64 <= size);
        ensure!(gap.is_some(), "its segments are not contiguous at {address:#x}");
        end = address.checked_add(size).with_context(|| format!("its segment at {address:#x} wraps"))?;
        if !bytes.is_empty() {
            content.resize(usize::try_from(address - start)?, 0);
            content.extend_from_slice(bytes);
        }
    }
    Ok((content, start, end - start))
}

/// A word of the wedge that is an address in it.
#[derive(Clone, Copy, Debug)]
struct Address {
    /// Offset of the word.
    place: usize,
    /// Offset of what it names.
    offset: u64,
}

/// The words that are addresses, by the linker's relocations: what is linked at 0 and does not move
/// needs none, and what cannot be moved does not get through a link of this kind.
fn addresses(data: &[u8], length: usize) -> anyhow::Result<Vec<Address>> {
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let sections = header.sections(LittleEndian, data)?;
    let mut addresses = Vec::new();
    for section in sections.iter().filter(|section| section.sh_flags(LittleEndian).contains(SHF_ALLOC)) {
        let kind = section.sh_type(LittleEndian);
        ensure!(kind != SHT_REL && kind != SHT_RELR, "its relocations are not of the kind with addends (RELA)");
        if kind != SHT_RELA {
            continue;
        }
        let Some((relocations, _)) = section.rela(LittleEndian, data)? else { continue };
        for relocation in relocations {
            let (at, kind) = (relocation.r_offset(LittleEndian), relocation.r_type(LittleEndian, false));
            ensure!(kind == R_X86_64_RELATIVE, "its relocation at {at:#x} is of type {kind}, not R_X86_64_RELATIVE");
            let place = usize::try_from(at).ok().filter(|place| place.checked_add(8).is_some_and(|end| end <= length));
            let place = place.with_context(|| format!("its relocation at {at:#x} is not in the file"))?;
            addresses.push(Address { place, offset: relocation.r_addend(LittleEndian).cast_unsigned() });
        }
    }
    Ok(addresses)
}
