//! The wedge: found, and held to the shape that an image needs.
//!
//! It is a static executable, linked at the place in its window where it will stay. Its entry code does not depend on where
//! it is in physical memory, so physical addresses in the file mean nothing. In memory it is one piece.

use std::env;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate::object::Elf;
use annotate::object::elf::Symbol;
use anyhow::{Context as _, anyhow, bail, ensure};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use wedge::image::{LOAD_ADDRESS, PARAMETERS_SECTION, Parameters};

use crate::verify::{named, read};

/// The virtual addresses that a wedge may be linked at: the 64 MB directly below the kernel's image.
pub(super) const WINDOW: Range<u64> = 0xffff_ffff_7c00_0000..0xffff_ffff_8000_0000;

/// Where it begins, physically and virtually: the entry code maps it by large pages.
const LARGE_PAGE: u64 = 2 << 20;

/// The symbol of its entry from a boot loader.
const ENTRY: &str = "start32";

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
    pub(super) content: Vec<u8>,
    /// Virtual address of the first.
    pub(super) address: u64,
    /// Bytes in memory.
    pub(super) length: u64,
    /// Offset of the entry.
    pub(super) entry: u64,
    /// Virtual address of the entry from Xen, if there is one.
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
        ensure!(
            WINDOW.contains(&address) && length <= WINDOW.end - address && address % LARGE_PAGE == LOAD_ADDRESS,
            "it is linked at {address:#x}, and not 1 MB behind a multiple of 2 MB in {:#x}-{:#x}",
            WINDOW.start,
            WINDOW.end
        );
        let inside = |at: u64, length: u64| {
            let offset = at.checked_sub(address)?;
            (offset.checked_add(length)? <= content.len() as u64).then_some(offset)
        };
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
        let xen_entry = entry(XEN_ENTRY)?.map(|offset| address + offset);
        let entry = entry(ENTRY)?.with_context(|| format!("it has no symbol {ENTRY}"))?;
        let parameters = usize::try_from(parameters)?;
        Ok(Self { path: path.to_owned(), content, address, length, entry, xen_entry, parameters, data })
    }
}

/// The segments of a wedge as one piece: what the file has of it, its virtual address, and its length.
fn memory(data: &[u8]) -> anyhow::Result<(Vec<u8>, u64, u64)> {
    const PAGE: u64 = 4096;
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let segments = header.program_headers(LittleEndian, data)?;
    let is_dynamic = |kind| kind == PT_DYNAMIC || kind == PT_INTERP;
    ensure!(!segments.iter().any(|segment| is_dynamic(segment.p_type(LittleEndian))), "it is not linked statically");
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
