//! The kernel that is to be packed: read, and held to its annotations.

use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use annotate::object::report::Report;
use annotate::object::sources::Sources;
use annotate::object::{Elf, verify};
use anyhow::{Context as _, anyhow, bail, ensure};
use wedge::guest::layout::{Layout, Layouts};
use wedge::loader::elf;
use wedge::memory::Buffer;

use crate::verify::{complain_of, named, print};

/// Where a bzImage says that it is one (Linux, Documentation/x86/boot.rst, "header").
const BZIMAGE_HEADER: Range<usize> = 0x202..0x206;

/// A kernel whose annotations verify.
pub(super) struct Kernel<'data> {
    path: PathBuf,
    pub(super) data: &'data [u8],
    pub(super) elf: Elf<'data>,
    /// What the wedge will see of it.
    pub(super) loaded: elf::Kernel<'data>,
    /// Where in the address space it lies.
    pub(super) layout: &'static Layout,
    pub(super) report: Report<'data>,
}

impl<'data> Kernel<'data> {
    /// Reads a kernel; `None` if its annotations do not verify, which is then said.
    pub(super) fn verified(path: &Path, data: &'data [u8]) -> anyhow::Result<Option<Self>> {
        let file = path.display();
        if data.get(BZIMAGE_HEADER) == Some(b"HdrS") {
            bail!(
                "{file} is a bzImage: give the vmlinux that it was made of, in the top directory of the kernel's build"
            );
        }
        let elf = Elf::parse(data).map_err(|error| named(path, error))?;
        ensure!(!elf.relocatable(), "{file} is an object or a module, not a linked kernel");
        let mut report = verify(&elf).map_err(|error| named(path, error))?;
        if !report.holds() {
            let sources = Sources::of(&elf);
            report.find_sources(&sources);
            complain_of(path, &sources);
            let mut out = BufWriter::new(io::stdout().lock());
            print(path, &report, &mut out)?;
            out.flush()?;
            crate::complain(&anyhow!("{file}: the annotations do not verify, so the kernel cannot be packed"));
            return Ok(None);
        }
        if report.sites.is_empty() {
            crate::complain(&anyhow!(
                "{file}: there are no annotations; `afterburner build` makes a kernel that has them"
            ));
            return Ok(None);
        }
        let loaded = elf::Kernel::parse(data).with_context(|| file.to_string())?;
        let (physical, linked) = (loaded.extent().start, loaded.virtual_extent().start);
        let map = linked.wrapping_sub(physical);
        let layout = Layout::of_image(map).with_context(|| {
            format!(
                "{file}: is linked at {linked:#x} to be loaded at {physical:#x}, so its image is mapped from {map:#x} on; \
                 the wedge serves kernels that have it at {Layouts} (Linux's __START_KERNEL_map)"
            )
        })?;
        Ok(Some(Self { path: path.to_owned(), data, elf, loaded, layout, report }))
    }

    /// A file of the kernel's build, from the top directory.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Whether this is a line of the configuration of the kernel's build, if that is there.
    pub(super) fn is_configured(&self, line: &str) -> bool {
        fs::read_to_string(self.beside(".config")).is_ok_and(|config| config.lines().any(|found| found == line))
    }

    /// Whether it has a symbol.
    pub(super) fn has(&self, symbol: &str) -> bool {
        self.elf.symbols().any(|found| found.name == symbol)
    }

    /// The word with a number in what a symbol names.
    pub(super) fn word(&self, symbol: &str, number: u64) -> anyhow::Result<u64> {
        let found = self.elf.symbols().find(|found| found.name == symbol).and_then(|symbol| symbol.place);
        let word = found.and_then(|place| {
            let offset = usize::try_from(place.offset.checked_add(number * 8)?).ok()?;
            self.elf.sections().get(place.section)?.bytes.get(offset..)?.first_chunk()
        });
        let word = word.ok_or_else(|| self.error(format_args!("the file has no word {number} of {symbol}")))?;
        Ok(u64::from_le_bytes(*word))
    }

    /// The kernel as it lies in memory after it was loaded, and its virtual address.
    pub(super) fn memory(&self) -> anyhow::Result<(Vec<u8>, u64)> {
        let extent = self.loaded.extent();
        let length = extent.end - extent.start;
        ensure!(
            length < 1 << 30,
            "{}: takes {length:#x} bytes of memory; Linux has 1 GB for itself",
            self.path.display()
        );
        let mut memory = Buffer { bytes: vec![0; usize::try_from(length)?], start: extent.start };
        self.loaded.load(&mut memory)?;
        Ok((memory.bytes, self.loaded.virtual_extent().start))
    }

    /// An error about this kernel.
    pub(super) fn error(&self, what: impl fmt::Display) -> anyhow::Error {
        anyhow!("{}: {what}", self.path.display())
    }
}
