//! Rewrites every site of an annotated kernel, to show that each of them can be.
//!
//! In the copy that [`patch`] makes, a site is a branch to a stub which executes the original
//! instruction and comes back. A kernel treated like that behaves as before, if the records say the
//! truth about what may be overwritten.
//!
//! The stubs lie in the gap that the linker leaves between the kernel's text and its read-only
//! data. The kernel gives that gap back as free memory when it write-protects itself, so the copy
//! has to be booted with `rodata=off`; with page-table isolation the gap is not mapped in user
//! mode, so also with `nopti`.

mod image;
mod stub;
mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::records::{self, Record};
use image::Image;
use stub::{Original, Route};
use tables::{Alternative, Exceptions};

/// Text that the kernel copies and runs elsewhere, as pairs of symbols: the first byte, and the
/// first beyond.
const COPIED: [(&str, &str); 3] = [
    ("ftrace_caller", "ftrace_caller_end"),
    ("ftrace_regs_caller", "ftrace_regs_caller_end"),
    ("relocate_kernel", "swap_pages"),
];

/// Why a site was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// The record says that the site is not padded, and why.
    Unpadded(&'static str),
    /// The text is copied, and a relative branch would break in the copy.
    Copied,
    /// `apply_alternatives` overwrites it.
    AlternativeOriginal,
    /// A replacement of more than the site: `apply_alternatives` relocates a lone `call` only.
    LongReplacement,
    /// A replacement whose instruction needs the stack as it is: a `call` would change it.
    ReplacementUsesStack,
    /// A replacement whose original has an exception table entry: in the stub, it would have none.
    ReplacementMayFault,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Unpadded(reason) => reason,
            Self::Copied => "in text that is copied",
            Self::AlternativeOriginal => "overwritten by apply_alternatives",
            Self::LongReplacement => "in a replacement of several instructions",
            Self::ReplacementUsesStack => "a replacement that uses the stack",
            Self::ReplacementMayFault => "a replacement that may fault",
        })
    }
}

/// What became of the sites.
#[derive(Debug, Default)]
pub struct Report {
    /// Sites that are now a `call`.
    pub called: usize,
    /// Sites that are now a `jmp`.
    pub jumped: usize,
    /// Sites that are as they were.
    pub skipped: BTreeMap<Skipped, Vec<u64>>,
    /// Addresses of the stubs.
    pub stubs: Range<u64>,
    /// Records whose flags contradict the kernel's own tables and symbols. The patcher goes by
    /// those.
    pub contradictions: Vec<String>,
}

impl Report {
    /// Sites that were patched.
    #[must_use]
    pub fn patched(&self) -> usize {
        self.called + self.jumped
    }

    /// All sites of the kernel.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.patched() + self.skipped.values().map(Vec::len).sum::<usize>()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{} of {} sites patched ({} call, {} jmp)",
            self.patched(),
            self.sites(),
            self.called,
            self.jumped
        )?;
        for (reason, sites) in &self.skipped {
            let addresses: Vec<_> = sites.iter().take(8).map(|site| format!("{site:x}")).collect();
            let more = if sites.len() > addresses.len() { " ..." } else { "" };
            writeln!(f, "{:6} not: {reason}: {}{more}", sites.len(), addresses.join(" "))?;
        }
        self.contradictions.iter().try_for_each(|contradiction| writeln!(f, "       {contradiction}"))
    }
}

/// Where in its text a linked kernel has addresses of memory, which are others wherever it boots.
///
/// # Errors
///
/// When it cannot be read.
pub fn runtime_pointers(vmlinux: Vec<u8>) -> Result<Vec<Range<u64>>> {
    tables::runtime_pointers(&Image::new(vmlinux)?)
}

/// Where there is room behind the text. Up to read-only data the linker fills it with INT3 (Linux,
/// `arch/x86/kernel/vmlinux.lds.S`): since 6.11 within `.text`, before behind it.
fn gap(image: &Image) -> Result<Range<u64>> {
    const INT3: u8 = 0xcc;
    const ALIGNMENT: u64 = 16;
    let (start, end) = (image.symbol("_stext")?, image.symbol("_etext")?);
    let used = image.read(start..end)?.iter().rposition(|byte| *byte != INT3).context("there is no text")?;
    Ok((start + used as u64 + 1).next_multiple_of(ALIGNMENT) + ALIGNMENT..image.symbol("__start_rodata")?)
}

/// Patches every site of a linked, annotated kernel.
///
/// # Errors
///
/// When the kernel has no records, a record covers no whole instructions, or the stubs do not fit
/// their gap.
pub fn patch(vmlinux: Vec<u8>) -> Result<(Vec<u8>, Report)> {
    let mut image = Image::new(vmlinux)?;
    let records = records::read(&image.file()?)?;
    ensure!(!records.is_empty(), "the kernel has no records");
    let tables = Tables::read(&image)?;
    let gap = gap(&image)?;
    let mut report = Report { stubs: gap.start..gap.start, ..Report::default() };
    let mut moved = BTreeMap::new();

    for ((_, site), record) in records {
        report.contradictions.extend(tables.contradiction(site, record));
        let (original, route) = match tables.route(&image, site, record)? {
            Ok(way) => way,
            Err(skipped) => {
                report.skipped.entry(skipped).or_default().push(site);
                continue;
            }
        };
        let slot = u64::from(record.slot);
        let stub = report.stubs.end;
        let code = original.stub(stub, site + slot, route)?;
        report.stubs.end += code.len() as u64;
        ensure!(report.stubs.end <= gap.end, "the stubs do not fit between text and read-only data, {gap:#x?}");
        image.write(stub, &code)?;
        image.write(site, &stub::slot(site, slot, stub, route)?)?;
        moved.extend(original.addresses().map(|address| (address, address - site + stub)));
        match route {
            Route::Call => report.called += 1,
            Route::Jump => report.jumped += 1,
        }
    }

    let mut exceptions = tables.exceptions;
    exceptions.redirect(&moved);
    exceptions.write(&mut image)?;
    Ok((image.into_bytes(), report))
}

/// What the kernel's own tables say of its text.
struct Tables {
    alternatives: Vec<Alternative>,
    exceptions: Exceptions,
    copied: Vec<Range<u64>>,
    replacements: Range<u64>,
}

impl Tables {
    fn read(image: &Image) -> Result<Self> {
        let range = |(start, end)| Some(image.symbol(start).ok()?..image.symbol(end).ok()?);
        Ok(Self {
            alternatives: tables::alternatives(image)?,
            exceptions: Exceptions::read(image)?,
            copied: COPIED.into_iter().filter_map(range).collect(),
            replacements: image.section(".altinstr_replacement")?,
        })
    }

    /// What the flags of a record say against the tables. A flag that is not set says nothing, but
    /// for `COPIED`: nothing else tells that.
    fn contradiction(&self, site: u64, record: Record) -> Option<String> {
        let flagged = |flag| record.flags & flag != 0;
        if flagged(records::REPLACEMENT) && !self.replacements.contains(&site) {
            Some(format!("{site:#x}: the record is wrong about .altinstr_replacement"))
        } else if !flagged(records::COPIED) && self.is_copied(site) {
            Some(format!("{site:#x}: the record does not say that the text is copied"))
        } else {
            None
        }
    }

    fn is_copied(&self, site: u64) -> bool {
        self.copied.iter().any(|text| text.contains(&site))
    }

    /// What is to run in the stub of a site and how to get there, or why the site is left alone.
    fn route(&self, image: &Image, site: u64, record: Record) -> Result<Result<(Original, Route), Skipped>> {
        if let Some(reason) = record.unpadded_reason() {
            return Ok(Err(Skipped::Unpadded(reason)));
        }
        if record.flags & records::COPIED != 0 || self.is_copied(site) {
            return Ok(Err(Skipped::Copied));
        }
        if self.alternatives.iter().any(|alternative| alternative.original.contains(&site)) {
            return Ok(Err(Skipped::AlternativeOriginal));
        }
        let original = Original::decode(site, image.read(site..site + u64::from(record.length))?)?;
        if !self.replacements.contains(&site) {
            return Ok(Ok((original, Route::Jump)));
        }
        let mut uses =
            self.alternatives.iter().filter(|alternative| alternative.replacement.contains(&site)).peekable();
        uses.peek().with_context(|| format!("{site:#x} is in a replacement that nothing uses"))?;
        let slot = site..site + u64::from(record.slot);
        for alternative in uses {
            if slot != alternative.replacement || alternative.replacement != (site..site + stub::BRANCH) {
                return Ok(Err(Skipped::LongReplacement));
            }
            if self.exceptions.cover(&alternative.original) {
                return Ok(Err(Skipped::ReplacementMayFault));
            }
        }
        Ok(if original.uses_stack() { Err(Skipped::ReplacementUsesStack) } else { Ok((original, Route::Call)) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, ExitStatus};

    use super::*;
    use crate::{cache, command};

    /// `testdata/identity/program.s`: the least of a kernel's layout, in a program that ends with
    /// status 42.
    fn program(directory: &Path) -> Vec<u8> {
        let (object, linked) = (directory.join("program.o"), directory.join("program"));
        let source = cache::testdata("identity/program.s");
        command::output(Command::new("as").arg("-o").arg(&object).arg(source)).unwrap();
        let script = cache::testdata("identity/program.ld");
        command::output(Command::new("ld").arg("-T").arg(script).arg("-o").arg(&linked).arg(&object)).unwrap();
        fs::read(linked).unwrap()
    }

    fn run(directory: &Path, name: &str, program: &[u8]) -> ExitStatus {
        let (written, path) = (directory.join(format!("{name}.data")), directory.join(name));
        fs::write(&written, program).unwrap();
        // By another process: what is open for writing here, another thread's `fork` may have open
        // until its `exec`, and it could not be executed.
        command::output(Command::new("install").args(["-m", "755"]).args([&written, &path])).unwrap();
        Command::new(path).status().unwrap()
    }

    #[test]
    fn a_patched_program_does_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let original = program(directory.path());
        assert_eq!(run(directory.path(), "original", &original).code(), Some(42));

        let (patched, report) = patch(original.clone()).unwrap();
        assert_eq!((report.called, report.jumped, report.sites()), (1, 5, 12), "{report}");
        assert!(report.contradictions.is_empty(), "{:?}", report.contradictions);
        for skipped in [
            Skipped::Unpadded("class switched off"),
            Skipped::Copied,
            Skipped::AlternativeOriginal,
            Skipped::LongReplacement,
            Skipped::ReplacementUsesStack,
            Skipped::ReplacementMayFault,
        ] {
            assert_eq!(report.skipped.get(&skipped).map(Vec::len), Some(1), "{skipped}");
        }
        assert_eq!(run(directory.path(), "patched", &patched).code(), Some(42));

        let mut broken = Image::new(patched).unwrap();
        let ud2 = [0x0f, 0x0b].repeat(usize::try_from(report.stubs.end - report.stubs.start).unwrap() / 2);
        broken.write(report.stubs.start, &ud2).unwrap();
        let status = run(directory.path(), "broken", &broken.into_bytes());
        assert!(!status.success() && status.code().is_none(), "the stubs are not what runs: {status}");
    }

    #[test]
    fn exception_entries_follow_their_instruction() {
        let directory = tempfile::tempdir().unwrap();
        let (patched, report) = patch(program(directory.path())).unwrap();
        let image = Image::new(patched).unwrap();
        let exceptions = Exceptions::read(&image).unwrap();
        assert!(exceptions.cover(&report.stubs));
        assert!(!exceptions.cover(&(image.symbol("faulting").unwrap()..image.symbol("faulting").unwrap() + 1)));
    }

    #[test]
    fn wrong_flags_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        for (flags, expected) in [(0, "that the text is copied"), (records::REPLACEMENT, "wrong about .altinstr_repl")]
        {
            let mut image = Image::new(program(directory.path())).unwrap();
            let field = image.symbol("copied_flags").unwrap();
            image.write(field, &flags.to_le_bytes()).unwrap();
            let (_, report) = patch(image.into_bytes()).unwrap();
            let [contradiction] = report.contradictions.as_slice() else { panic!("{:?}", report.contradictions) };
            assert!(contradiction.contains(expected), "{contradiction}");
            assert_eq!((report.called, report.jumped, report.sites()), (1, 5, 12), "{report}");
        }
    }

    #[test]
    fn a_kernel_without_records_is_refused() {
        let plain = fs::read("/proc/self/exe").unwrap();
        assert_eq!(patch(plain).unwrap_err().to_string(), "the kernel has no records");
    }
}
