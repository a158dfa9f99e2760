//! `--layout low`: a kernel for the lower half of the address space, from an untouched tree.
//!
//! A program has only the addresses below 2^47; a kernel that is to run as one has to be linked
//! there. Three things make it so, none of them in the tree: flags with which the compiler finds
//! everything from where the code is; headers that are found before the kernel's own, include
//! those, and give the layout's addresses other values; and a stage before the assembler that
//! rewrites what people wrote for the upper half ([`annotate::text::to_lower_half`]).
//!
//! What of a kernel nobody has made fit is refused by the name of its option.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::make::Make;
use super::toolchain::Toolchain;
use crate::assembly::Rewritten;
use crate::atomic;

/// Which half of the address space a kernel is linked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Layout {
    /// The upper half, as Linux is
    #[default]
    Standard,
    /// The lower half: the same kernel runs as a program, too
    Low,
}

/// The directory of the headers among the shims.
pub(super) const DIRECTORY: &str = "low";

/// What is in it.
const FILES: [(&str, &str); 7] = [
    (FORCED, include_str!("../../low/low.h")),
    ("include/asm-generic/vmlinux.lds.h", include_str!("../../low/asm-generic/vmlinux.lds.h")),
    ("include/asm/page_64_types.h", include_str!("../../low/asm/page_64_types.h")),
    ("include/asm/pgtable_64_types.h", include_str!("../../low/asm/pgtable_64_types.h")),
    ("include/asm/pgtable_64.h", include_str!("../../low/asm/pgtable_64.h")),
    ("include/asm/processor.h", include_str!("../../low/asm/processor.h")),
    ("include/uapi/asm/vsyscall.h", include_str!("../../low/uapi/asm/vsyscall.h")),
];

/// The header that every C file includes.
const FORCED: &str = "low.h";

/// A jump table holds addresses in 32 bits. The kernel is not position-independent, for all that
/// the compiler is told, and its sources ask.
const FLAGS: &str = "-fPIE -mcmodel=small -fno-jump-tables -U__pic__ -U__PIC__ -U__pie__ -U__PIE__ -Wno-attributes";

/// Where code finds the canary of its stack: in per-CPU data, 40 bytes from its start
/// (`arch/x86/include/asm/processor.h`, `struct fixed_percpu_data`). In the kernel's code model,
/// compilers look for it at GS plus 40, but here GS does not have the address of that data
/// (`low/asm-generic/vmlinux.lds.h`).
const CANARY: &str = "-mstack-protector-guard-reg=gs -mstack-protector-guard-symbol=fixed_percpu_data+40";

/// Options of the configuration that a kernel in the lower half must not have, and why.
const REFUSED: [(&str, &str); 11] = [
    ("X86_5LEVEL", "the top-level page table has another form"),
    ("RELOCATABLE", "what moves the image knows addresses of 32 bits only"),
    ("X86_VSYSCALL_EMULATION", "its page is at the end of the upper half"),
    ("PAGE_TABLE_ISOLATION", UNTRIED),
    ("MITIGATION_PAGE_TABLE_ISOLATION", UNTRIED),
    ("KASAN", "its shadow is in the upper half"),
    ("KMSAN", "its shadow is in the upper half"),
    ("BPF_JIT", "its code has addresses as numbers of 32 bits"),
    ("XEN", UNTRIED),
    ("KEXEC_CORE", UNTRIED),
    ("HIBERNATION", UNTRIED),
];

/// What a kernel for one processor must not have either.
const REFUSED_FOR_ONE: [(&str, &str); 1] = [(
    "STACKPROTECTOR",
    "with one processor (CONFIG_SMP=n), GS leads to an address below 2^47, which the kernel takes for a program's",
)];

/// Options that switch others on, which nobody can switch off meanwhile (`select`, in
/// `arch/x86/Kconfig` and `kernel/Kconfig.kexec`).
const SELECTING: [(&str, &[&str]); 2] = [("RELOCATABLE", &["EFI_STUB"]), ("KEXEC_CORE", &["KEXEC", "KEXEC_FILE"])];

/// What only experts may switch off (`if EXPERT`, in `arch/x86/Kconfig`).
const FOR_EXPERTS: [&str; 1] = ["X86_VSYSCALL_EMULATION"];

const UNTRIED: &str = "nobody has tried it there";

/// The release since which Linux adjusts the distances in alternative instructions
/// (`apply_relocation`, `arch/x86/kernel/alternative.c`).
const ADJUSTS_COPIES: (u32, u32) = (6, 5);

/// Puts the headers into a directory of shims.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    for (name, text) in FILES {
        let path = directory.join(DIRECTORY).join(name);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// The flags for C, with the headers among these shims.
pub(super) fn flags(shims: &str) -> String {
    format!("{FLAGS} {CANARY} -include {shims}/{DIRECTORY}/{FORCED}")
}

/// Says to [`FORCED`] that the file is `arch/x86/kernel/setup_percpu.c`.
const OF_SETUP: &str = "AFTERBURNER_SETUP_PERCPU";

/// C for 32-bit programs, in their vDSO (`arch/x86/entry/vdso/Makefile`; 6.12 has the second). It
/// is compiled with the kernel's flags but for some that 32-bit code has not, and ours is one more.
/// What make is told takes the place of what the tree says, so the tree's own is named as well.
const OF_32_BITS: [&str; 2] = ["vdso32/vclock_gettime.o", "vdso32/vgetcpu.o"];
const NOT_OF_32_BITS: &str = "-pg -mcmodel=small";

/// What make is told: the directories that come before all others on the include path, and the
/// flags that some files must not have, or have alone.
pub(super) fn variables(shims: &str) -> impl Iterator<Item = String> {
    let path = format!("NOSTDINC_FLAGS=-nostdinc -I{shims}/{DIRECTORY}/include");
    let first = format!("CFLAGS_setup_percpu.o=-D{OF_SETUP}");
    let removed = OF_32_BITS.map(|object| format!("CFLAGS_REMOVE_{object}={NOT_OF_32_BITS}"));
    [path, first].into_iter().chain(removed)
}

/// What the text stage has to know of the tree.
pub(super) fn rewritten(make: &Make, toolchain: &Toolchain) -> anyhow::Result<Rewritten> {
    ensure!(toolchain.is_gcc(), "--layout low: only gcc is known to make code for the lower half");
    let mut question = Command::new("make");
    question.args(["-s", "--no-print-directory", "kernelversion"]).current_dir(make.directory()).stdin(Stdio::null());
    let output = question.env_remove("MAKEFLAGS").output().context("cannot run make")?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let release = release(&version).with_context(|| {
        format!("--layout low: {} is no tree of Linux: make kernelversion says '{version}'", make.directory().display())
    })?;
    Ok(Rewritten { adjusts_copies: release >= ADJUSTS_COPIES })
}

fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Refuses to build external modules for the other half than their kernel's, which could not load
/// them.
pub(super) fn check_modules(layout: Layout, make: &Make) -> anyhow::Result<()> {
    let directory = make.kernel_directory();
    let map = fs::read_to_string(directory.join("System.map")).unwrap_or_default();
    match (layout, half(&map)) {
        (Layout::Standard, Some(Layout::Low)) => bail!(
            "{}: the kernel is in the lower half, so its modules are built with --layout low",
            directory.display()
        ),
        (Layout::Low, Some(Layout::Standard)) => bail!(
            "{}: the kernel is in the upper half, so its modules are built without --layout low",
            directory.display()
        ),
        _ => Ok(()),
    }
}

/// Which half a kernel is linked into, by its symbols, if they say so.
fn half(map: &str) -> Option<Layout> {
    let start = map.lines().find_map(|line| line.strip_suffix(" _stext"))?;
    let address = u64::from_str_radix(start.split(' ').next()?, 16).ok()?;
    Some(if address >> 63 == 0 { Layout::Low } else { Layout::Standard })
}

/// The configuration of a build.
#[derive(Debug)]
pub(super) struct Configuration {
    path: PathBuf,
}

impl Configuration {
    /// The one that the build will use, if it is there already.
    pub(super) fn of(make: &Make) -> Option<Self> {
        let path = make.configuration();
        path.is_file().then_some(Self { path })
    }

    fn read(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.path).with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// The options that it has and must not have.
    fn refused(&self) -> anyhow::Result<Vec<(&'static str, &'static str)>> {
        let text = self.read()?;
        Ok(refused(&text))
    }

    /// Refuses a configuration that does not fit.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let refused = self.refused()?;
        if refused.is_empty() {
            return Ok(());
        }
        let mut list = String::new();
        for (option, reason) in refused {
            let _ = write!(list, "\n  CONFIG_{option}: {reason}");
        }
        bail!(
            "{}: a kernel in the lower half must not have these options (--configure switches them off):{list}",
            self.path.display()
        )
    }

    /// Switches off what must not be on.
    pub(super) fn switch_off(&self, make: &Make) -> anyhow::Result<()> {
        let refused = self.refused()?;
        if refused.is_empty() {
            return Ok(());
        }
        let text = self.read()?;
        self.write(&without(&text))?;
        let mut command = Command::new("make");
        command.args(make.for_configuration()).arg("olddefconfig").current_dir(make.directory());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().context("cannot run make olddefconfig");
        if !status.as_ref().is_ok_and(ExitStatus::success) {
            // What nobody has seen fit stays as it was.
            self.write(&text)?;
        }
        let status = status?;
        ensure!(status.success(), "make olddefconfig: {status}; {} is as it was", self.path.display());
        Ok(())
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        atomic::write(&self.path, |file| file.write_all(text.as_bytes()))
    }
}

/// The options in the text of a configuration that must not be there, and why.
fn refused(text: &str) -> Vec<(&'static str, &'static str)> {
    let has = |option: &str| text.lines().any(|line| line == set(option));
    let for_one = REFUSED_FOR_ONE.into_iter().filter(|_| !has("SMP"));
    REFUSED.into_iter().chain(for_one).filter(|(option, _)| has(option)).collect()
}

/// A configuration with the refused options off, and what it takes for that.
fn without(text: &str) -> String {
    let refused = refused(text);
    let is_refused = |option: &str| refused.iter().any(|(refused, _)| *refused == option);
    let selecting = SELECTING.iter().filter(|(option, _)| is_refused(option)).flat_map(|(_, selecting)| *selecting);
    let all: Vec<&str> = refused.iter().map(|(option, _)| *option).chain(selecting.copied()).collect();
    let is_expert = text.lines().any(|line| line == set(EXPERT));
    let takes_expert = !is_expert && FOR_EXPERTS.iter().any(|option| is_refused(option));
    let lines = text.lines().filter(|line| !(takes_expert && *line == unset(EXPERT)));
    let lines = lines.map(|line| match all.iter().find(|option| line == set(option)) {
        Some(option) => unset(option),
        None => line.to_owned(),
    });
    lines.chain(takes_expert.then(|| set(EXPERT))).map(|line| line + "\n").collect()
}

/// Whoever has this is shown more options.
const EXPERT: &str = "EXPERT";

/// The line of an option that is off.
fn unset(option: &str) -> String {
    format!("# CONFIG_{option} is not set")
}

/// The line of an option that is built in.
fn set(option: &str) -> String {
    format!("CONFIG_{option}=y")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (version, expected) in [
            ("6.1.192", Some((6, 1))),
            ("6.12.0-rc3", Some((6, 12))),
            ("7.0", Some((7, 0))),
            ("6", None),
            ("", None),
            ("make: *** No rule", None),
        ] {
            assert_eq!(release(version), expected, "{version}");
        }
    }

    #[test]
    fn the_half_of_a_kernel_is_told_by_its_symbols() {
        for (map, expected) in [
            ("0000000000000000 D x\nffffffff81000000 T _stext\n", Some(Layout::Standard)),
            ("00005fff81000000 T startup_64\n00005fff81000000 T _stext\n", Some(Layout::Low)),
            ("00005fff81000000 T not_stext\n", None),
            ("somewhere T _stext\n", None),
            ("", None),
        ] {
            assert_eq!(half(map), expected, "{map}");
        }
    }

    #[test]
    fn what_a_configuration_must_not_have_is_told_by_name() -> anyhow::Result<()> {
        let lab = tempfile::tempdir()?;
        let path = lab.path().join(".config");
        fs::write(&path, "CONFIG_XEN_SOMETHING=y\n# CONFIG_KASAN is not set\nCONFIG_X86_5LEVEL=n\n")?;
        let configuration = Configuration { path: path.clone() };
        configuration.check()?;
        fs::write(&path, "CONFIG_XEN=y\nCONFIG_KASAN_GENERIC=y\nCONFIG_RELOCATABLE=y\n")?;
        let error = configuration.check().map_err(|error| error.to_string());
        let message = error.err().unwrap_or_default();
        assert!(message.contains("CONFIG_XEN: ") && message.contains("CONFIG_RELOCATABLE: "), "{message}");
        assert_eq!(message.matches("CONFIG_").count(), 2, "{message}");
        Ok(())
    }

    #[test]
    fn refused_options_are_switched_off_and_nothing_else() {
        for (text, expected) in [
            ("CONFIG_KASAN=y\nCONFIG_A=\"x\"\n", "# CONFIG_KASAN is not set\nCONFIG_A=\"x\"\n"),
            ("CONFIG_A=y\nCONFIG_XEN=y", "CONFIG_A=y\n# CONFIG_XEN is not set\n"),
            (
                "CONFIG_STACKPROTECTOR=y\nCONFIG_STACKPROTECTOR_STRONG=y\n",
                "# CONFIG_STACKPROTECTOR is not set\nCONFIG_STACKPROTECTOR_STRONG=y\n",
            ),
            (
                "CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_CORE=y\nCONFIG_EFI_STUB=y\n",
                "# CONFIG_KEXEC is not set\n# CONFIG_KEXEC_FILE is not set\n# CONFIG_KEXEC_CORE is not set\nCONFIG_EFI_STUB=y\n",
            ),
            (
                "CONFIG_RELOCATABLE=y\nCONFIG_EFI_STUB=y\n",
                "# CONFIG_RELOCATABLE is not set\n# CONFIG_EFI_STUB is not set\n",
            ),
            ("CONFIG_X86_VSYSCALL_EMULATION=y\n", "# CONFIG_X86_VSYSCALL_EMULATION is not set\nCONFIG_EXPERT=y\n"),
            (
                "# CONFIG_EXPERT is not set\nCONFIG_X86_VSYSCALL_EMULATION=y\n",
                "# CONFIG_X86_VSYSCALL_EMULATION is not set\nCONFIG_EXPERT=y\n",
            ),
            (
                "CONFIG_EXPERT=y\nCONFIG_X86_VSYSCALL_EMULATION=y\n",
                "CONFIG_EXPERT=y\n# CONFIG_X86_VSYSCALL_EMULATION is not set\n",
            ),
            ("CONFIG_SMP=y\nCONFIG_STACKPROTECTOR=y\n", "CONFIG_SMP=y\nCONFIG_STACKPROTECTOR=y\n"),
            ("CONFIG_KASAN=y\r\n", "# CONFIG_KASAN is not set\n"),
            ("CONFIG_XEN_X=y\n# CONFIG_XEN=y\nCONFIG_KASAN=n\n", "CONFIG_XEN_X=y\n# CONFIG_XEN=y\nCONFIG_KASAN=n\n"),
        ] {
            assert_eq!(without(text), expected, "{text}");
        }
    }

    #[test]
    fn the_headers_are_those_of_the_low_layout() {
        let layout = wedge::guest::layout::Layout::LOW;
        let text: String = FILES.iter().map(|(_, text)| *text).collect();
        for address in [layout.image, layout.modules_end()] {
            assert!(text.contains(&format!("{address:#018x}")), "{address:#x}");
        }
        assert!(text.contains(&format!("#ifndef {OF_SETUP}\n")));
        let first = layout.kernel.first();
        assert!(text.contains(&format!("#define PGD_KERNEL_START\t{first}\n")));
        assert_eq!(annotate::linux::low::LOW_IMAGE_INDEX, (layout.image >> 39).cast_signed() & 511);
    }
}
