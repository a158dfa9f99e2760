//! The kernel's relocations, by which it can run at a random virtual address (KASLR), and whether
//! they are its own.
//!
//! A vmlinux does not say where its absolute addresses are; its build puts that into a file beside
//! it, `vmlinux.relocs`. One that was made for another build of the kernel would have the wedge
//! change bytes in the middle of instructions. How old the file is says nothing: since Linux 6.9
//! the build writes it first, and then strips the vmlinux. So its contents are held against the
//! kernel's.
//!
//! * A vmlinux that was not stripped has the relocations of its link (`--emit-relocs`). From these
//!   the file was made (`arch/x86/tools/relocs.c`), and must name the same places: neither more nor
//!   fewer.
//! * Of a stripped one, each place that the file names must hold what can be relocated: an address
//!   in the kernel, physical or virtual, or a distance to the per-CPU area. A file for another
//!   build misses most places by some bytes, and what is there are pieces of instructions. And no
//!   address that the kernel shows ([`addresses`]) may be missing from the file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use annotate::object::elf::{Place, Symbol};
use anyhow::{Context as _, bail};
use object::elf::{R_X86_64_32, R_X86_64_32S, R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32};
use wedge::guest::linux::symbol;
use wedge::loader::relocations::Relocations as Lists;

use super::addresses::{self, Field};
use super::facts::{self, image_space};
use super::kernel::Kernel;
use crate::verify::read;

/// Where a kernel's build puts them, from its top directory: until Linux 6.8, and since.
const OF_THE_BUILD: [&str; 2] = ["arch/x86/boot/compressed/vmlinux.relocs", "vmlinux.relocs"];

/// `KERNEL_IMAGE_SIZE` of a kernel that can be moved.
const SPACE_TO_MOVE: u64 = 1 << 30;

/// How far from what it belongs to an address may be: an array that is indexed from 'a', a size
/// rounded up to a large page.
const SLACK: u64 = 4 << 20;

/// The relocations of an image.
pub(super) enum Relocations {
    /// They are the kernel's own.
    Packed(Vec<u8>),
    /// The kernel was not built to be moved.
    None,
    /// It was, but there are none.
    Missing,
}

impl Relocations {
    /// The relocations that were asked for, those of the kernel's build, or none.
    pub(super) fn find(kernel: &Kernel<'_>, given: Option<&Path>) -> anyhow::Result<Self> {
        let space = image_space(kernel)?;
        if let Some(given) = given {
            let relocations = read(given)?;
            check(kernel, &relocations).with_context(|| given.display().to_string())?;
            if space < SPACE_TO_MOVE {
                bail!(
                    "{}: the kernel cannot be moved: it has {space:#x} bytes of address space for itself, not \
                     {SPACE_TO_MOVE:#x} (CONFIG_RANDOMIZE_BASE is off)",
                    given.display()
                );
            }
            return Ok(Self::Packed(relocations));
        }
        if space < SPACE_TO_MOVE || kernel.is_configured("# CONFIG_RANDOMIZE_BASE is not set") {
            return Ok(Self::None);
        }
        let mut refusal = None;
        for path in OF_THE_BUILD.map(|name| kernel.beside(name)).into_iter().filter(|path| path.exists()) {
            let relocations = read(&path)?;
            match check(kernel, &relocations) {
                Ok(()) => return Ok(Self::Packed(relocations)),
                Err(error) => {
                    let what = format!(
                        "{} is not of this kernel; make it anew, or remove it to pack without KASLR",
                        path.display()
                    );
                    refusal.get_or_insert(error.context(what));
                }
            }
        }
        refusal.map_or(Ok(Self::Missing), Err)
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Packed(bytes) => bytes,
            Self::None | Self::Missing => &[],
        }
    }

    /// What the user has to know, if there is something amiss.
    pub(super) fn complaint(&self) -> Option<String> {
        let [until, since] = OF_THE_BUILD;
        matches!(self, Self::Missing).then(|| {
            format!(
                "KASLR is dropped, because there is neither {until} nor {since} beside the kernel: it stays where it is \
                 linked; `make bzImage` makes the file, and --relocs names one that is elsewhere"
            )
        })
    }
}

impl fmt::Display for Relocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::None => write!(f, "none: the kernel stays where it is linked"),
            Self::Missing => write!(f, "none: KASLR is dropped, because the kernel's vmlinux.relocs is missing"),
        }
    }
}

/// One of the lists of a file, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// 64-bit addresses.
    Wide,
    /// 32-bit distances to the per-CPU area, which stays where it is.
    Inverse,
    /// 32-bit addresses.
    Narrow,
}

impl List {
    const ALL: [Self; 3] = [Self::Wide, Self::Inverse, Self::Narrow];

    /// Bytes of a field.
    fn size(self) -> u64 {
        if self == Self::Wide { 8 } else { 4 }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wide => "a 64-bit address",
            Self::Inverse => "a 32-bit distance to the per-CPU area",
            Self::Narrow => "a 32-bit address",
        })
    }
}

/// Holds a file against the kernel.
fn check(kernel: &Kernel<'_>, bytes: &[u8]) -> anyhow::Result<()> {
    Lists::check(bytes, &kernel.loaded)?;
    let listed = listed(bytes);
    match linked(kernel) {
        linked if linked.is_empty() => check_contents(kernel, &listed),
        linked => check_link(&listed, &linked),
    }
}

/// The places that a file names, which has three lists, each behind a zero.
fn listed(bytes: &[u8]) -> BTreeMap<u64, List> {
    let words = bytes.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word));
    let mut lists = List::ALL.into_iter();
    let mut list = None;
    let mut listed = BTreeMap::new();
    for word in words {
        if word == 0 {
            list = lists.next();
        } else if let Some(list) = list {
            listed.insert(i64::from(word).cast_unsigned(), list);
        }
    }
    listed
}

/// What the kernel's link has at a place.
struct Linked {
    list: List,
    /// Whether the file must name it. It depends on the version of the tool that wrote the file
    /// where a symbol is in no section, or at the edge of the per-CPU area, and in notes, which are
    /// for boot loaders.
    required: bool,
}

/// What the kernel's link says of itself; nothing, if the kernel was stripped of it.
fn linked(kernel: &Kernel<'_>) -> BTreeMap<u64, Linked> {
    let mut linked = BTreeMap::new();
    let elf = &kernel.elf;
    let per_cpu =
        elf.section_named(".data..percpu").filter(|(_, section)| section.address == 0).map(|(index, _)| index);
    for (index, section) in elf.sections().iter().enumerate().filter(|(_, section)| section.alloc) {
        for relocation in elf.relocations(index) {
            let symbol = elf.symbol_of(&relocation);
            let in_per_cpu = symbol.is_some_and(|symbol| symbol.place.is_some_and(|it| Some(it.section) == per_cpu));
            let list = match relocation.kind {
                R_X86_64_64 => List::Wide,
                R_X86_64_32 | R_X86_64_32S => List::Narrow,
                R_X86_64_PC32 | R_X86_64_PLT32 if in_per_cpu => List::Inverse,
                _ => continue,
            };
            let address = if Some(index) == per_cpu {
                kernel.address_in_image(relocation.offset)
            } else {
                Some(relocation.offset)
            };
            let required = symbol.is_some_and(|symbol| symbol.place.is_some() && !is_at_edge(&symbol))
                && in_per_cpu == (list == List::Inverse)
                && !section.is_note();
            linked.extend(address.map(|address| (address, Linked { list, required })));
        }
    }
    linked
}

/// Symbols that linkers take for ones of the per-CPU area (`is_percpu_sym`,
/// `arch/x86/tools/relocs.c`).
fn is_at_edge(symbol: &Symbol<'_>) -> bool {
    ["__init_begin", "__per_cpu_load"].contains(&symbol.name) || symbol.name.starts_with("init_per_cpu_")
}

/// Holds a file against the kernel's link.
fn check_link(listed: &BTreeMap<u64, List>, linked: &BTreeMap<u64, Linked>) -> anyhow::Result<()> {
    for (address, list) in listed {
        if linked.get(address).is_none_or(|linked| linked.list != *list) {
            bail!("{address:#x}: {list}, says the file; the kernel was linked with none there");
        }
    }
    for (address, linked) in linked.iter().filter(|(_, linked)| linked.required) {
        if !listed.contains_key(address) {
            bail!("{address:#x}: the kernel was linked with {} there, and the file does not name it", linked.list);
        }
    }
    Ok(())
}

/// Holds a file against what the kernel has in memory.
fn check_contents(kernel: &Kernel<'_>, listed: &BTreeMap<u64, List>) -> anyhow::Result<()> {
    let contents = Contents::of(kernel)?;
    let (image, per_cpu) = (kernel.loaded.virtual_extent(), 0..contents.per_cpu);
    let in_text = addresses::in_text(&kernel.elf, &image, &per_cpu);
    let is_zero = |field: &Field| field.value == 0 && field.list != List::Inverse;
    let (zeros, in_text): (Vec<Field>, Vec<Field>) = in_text.into_iter().partition(is_zero);
    let zeros: HashSet<u64> = zeros.iter().map(|field| field.linked).collect();
    let calls = facts::range(kernel, symbol::CALLS).unwrap_or_default();
    for (&address, &list) in listed {
        if kernel.section_at(address, list.size()).is_none() {
            bail!("{address:#x}: {list}, says the file; the kernel has no section there");
        }
        let value = contents.field(address, list).unwrap_or_default();
        let may_be_zero = zeros.contains(&address) || list == List::Wide && calls.contains(&address);
        let fits = contents.may_be(list, address, value) || value == 0 && may_be_zero;
        if !fits {
            bail!("{address:#x}: {list}, says the file; the kernel has {value:#x} there");
        }
    }
    for Field { list, linked, value } in in_text.into_iter().chain(addresses::in_data(&kernel.elf, &image)) {
        if listed.get(&linked) != Some(&list) {
            bail!("{linked:#x}: the kernel has {list} there, of {value:#x}, and the file does not name it");
        }
    }
    Ok(())
}

/// The kernel as it is loaded.
struct Contents {
    memory: Vec<u8>,
    /// Virtual address of the first byte.
    start: u64,
    /// Its physical address.
    physical: u64,
    /// Bytes of the per-CPU area, 0 if it is not linked at 0.
    per_cpu: u64,
}

impl Contents {
    fn of(kernel: &Kernel<'_>) -> anyhow::Result<Self> {
        let (memory, start) = kernel.memory()?;
        let of_per_cpu = kernel.loaded.segments().iter().find(|segment| segment.virtual_address == 0);
        let physical = kernel.loaded.extent().start;
        Ok(Self { memory, start, physical, per_cpu: of_per_cpu.map_or(0, |segment| segment.size) })
    }

    /// The bytes at a virtual address.
    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.memory.get(offset..)?.first_chunk().copied()
    }

    /// What is to be relocated at a virtual address, sign-extended.
    fn field(&self, address: u64, list: List) -> Option<u64> {
        match list {
            List::Wide => self.bytes(address).map(u64::from_le_bytes),
            _ => self.bytes(address).map(|bytes| i64::from(i32::from_le_bytes(bytes)).cast_unsigned()),
        }
    }

    /// Whether the field at an address can be one of a list, having this value.
    fn may_be(&self, list: List, address: u64, value: u64) -> bool {
        // The field may hold an address in the kernel, or its physical one, in a page table with
        // the bits of an entry.
        const ENTRY_BITS: u64 = 1 << 63 | 0xfff;
        let near =
            |value: u64, start: u64, length: u64| value.wrapping_sub(start.wrapping_sub(SLACK)) <= length + 2 * SLACK;
        let length = self.memory.len() as u64;
        match list {
            List::Wide => near(value, self.start, length) || near(value & !ENTRY_BITS, self.physical, length),
            List::Narrow => near(value, self.start, length) || near(value, self.physical, length),
            List::Inverse => self.per_cpu > 0 && near(address.wrapping_add(value), 0, self.per_cpu),
        }
    }
}

impl Kernel<'_> {
    /// Where in the image something is that is linked elsewhere: the per-CPU area.
    fn address_in_image(&self, linked: u64) -> Option<u64> {
        self.loaded.segments().iter().find_map(|segment| {
            let inside = linked.checked_sub(segment.virtual_address)?;
            (inside < segment.size).then(|| self.layout.image + segment.physical_address + inside)
        })
    }

    /// The section that holds all of a range of the image.
    fn section_at(&self, address: u64, size: u64) -> Option<Place> {
        let physical = self.loaded.physical(address)?;
        let segment = self.loaded.segments().iter().find(|segment| segment.range().contains(&physical))?;
        let linked = segment.virtual_address + (physical - segment.physical_address);
        let [first, last] = [linked, linked + size - 1].map(|address| self.elf.place_at(address));
        first.filter(|first| last.is_some_and(|last| last.section == first.section))
    }
}
