//! The Linux source trees: Debian's `linux-source-6.1` and `linux-source-6.12`, or the tree named
//! by `AFTERBURNER_LINUX`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cache, command};

/// Which Linux is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The tree named by `AFTERBURNER_LINUX`, or else Debian's 6.1.
    Chosen,
    /// Debian's 6.12, whatever is chosen.
    V6_12,
}

impl Release {
    /// What the names of its builds end with.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Chosen => "",
            Self::V6_12 => "-6.12",
        }
    }

    /// Whether the tree is the user's, who may change it at any time.
    #[must_use]
    pub fn may_change(self) -> bool {
        self.users_tree().is_some()
    }

    /// The tree to build from. Debian's is unpacked into the cache the first time.
    ///
    /// # Errors
    ///
    /// When there is no tree, or it cannot be unpacked.
    pub fn tree(self) -> Result<PathBuf> {
        if let Some(tree) = self.users_tree() {
            let tree = fs::canonicalize(&tree).with_context(|| format!("AFTERBURNER_LINUX={}", tree.display()))?;
            ensure!(tree.join("scripts/kconfig/merge_config.sh").exists(), "{} is not a Linux tree", tree.display());
            return Ok(tree);
        }
        let package = format!("linux-source-{}", self.of_debian());
        let tree = cache::directory()?.join(&package);
        let _lock = cache::lock(&package)?;
        if !tree.exists() {
            unpack(&package, &tree)?;
        }
        Ok(tree)
    }

    /// Debian's number for it.
    fn of_debian(self) -> &'static str {
        match self {
            Self::Chosen => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Debian's configuration for virtual machines. It names no keys, so that the build makes its
    /// own.
    ///
    /// # Errors
    ///
    /// When the package that has it is not installed.
    pub fn cloud_configuration(self) -> Result<String> {
        let package = format!("linux-config-{}", self.of_debian());
        let path = Path::new("/usr/src").join(&package).join("config.amd64_none_cloud-amd64.xz");
        ensure!(path.exists(), "{} is missing: install Debian's package {package}", path.display());
        command::output(Command::new("xz").arg("-dc").arg(&path))
    }

    fn users_tree(self) -> Option<OsString> {
        if self == Self::Chosen { env::var_os("AFTERBURNER_LINUX") } else { None }
    }
}

/// The version that the tree's Makefile states, and the path of the tree.
///
/// # Errors
///
/// When its Makefile cannot be read.
pub fn identity(tree: &Path) -> Result<String> {
    let makefile = tree.join("Makefile");
    let text = fs::read_to_string(&makefile).with_context(|| format!("reading {}", makefile.display()))?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
            .map_or(String::new(), |value| value.trim().to_owned())
    };
    let [version, patch, sub, extra] = ["VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"].map(value);
    Ok(format!("Linux {version}.{patch}.{sub}{extra} in {}", tree.display()))
}

/// Unpacks beside the final place and renames, so that an interrupted run leaves no half tree
/// behind.
fn unpack(package: &str, tree: &Path) -> Result<()> {
    let tarball = Path::new("/usr/src").join(format!("{package}.tar.xz"));
    ensure!(
        tarball.exists(),
        "{} is missing: install Debian's package {package}, or set AFTERBURNER_LINUX to a Linux tree",
        tarball.display()
    );
    println!("unpacking {} into {}", tarball.display(), tree.display());
    let temporary = tempfile::tempdir_in(cache::directory()?)?;
    command::output(Command::new("tar").arg("-C").arg(temporary.path()).arg("-xf").arg(&tarball))?;
    fs::rename(temporary.path().join(package), tree).with_context(|| format!("renaming to {}", tree.display()))
}

/// Files that belong to a test beside the one with its name, where the release has them
/// (`extra-files` in the tests' Makefile).
const SELFTEST_FILES: [(&str, &str); 6] = [
    ("sysret_ss_attrs", "thunks.S"),
    ("ptrace_syscall_32", "raw_syscall_helper_32.S"),
    ("test_syscall_vdso_32", "thunks_32.S"),
    ("fsgsbase_restore", "clang_helpers_64.S"),
    ("fsgsbase_restore_32", "clang_helpers_32.S"),
    ("sysret_rip", "clang_helpers_64.S"),
];

/// Whether the tree has this test.
#[must_use]
pub fn has_selftest(tree: &Path, name: &str) -> bool {
    let source = name.strip_suffix("_32").unwrap_or(name);
    tree.join("tools/testing/selftests/x86").join(source).with_extension("c").exists()
}

/// Builds one of the tree's user-space tests of the x86 entry code (tools/testing/selftests/x86) as
/// a static program, under its name there: that of a 32-bit program ends with `_32`.
///
/// # Errors
///
/// When it does not compile.
pub fn selftest(tree: &Path, name: &str, directory: &Path) -> Result<PathBuf> {
    let tests = tree.join("tools/testing/selftests/x86");
    let program = directory.join(name);
    let (source, bits) = name.strip_suffix("_32").map_or((name, "-m64"), |source| (source, "-m32"));
    let mut gcc = Command::new("gcc");
    gcc.args([bits, "-O2", "-w", "-static", "-no-pie", "-pthread", "-DCAN_BUILD_32", "-DCAN_BUILD_64", "-o"]);
    gcc.arg(&program).arg(tests.join(format!("{source}.c")));
    let more = SELFTEST_FILES.into_iter().filter(|(of, _)| *of == name).map(|(_, file)| tests.join(file));
    gcc.args(more.filter(|path| path.exists()));
    match name {
        "nx_stack" | "nx_stack_32" => _ = gcc.arg("-Wl,-z,noexecstack"),
        // It wants the registers as the kernel leaves them, not as the C library does.
        "check_initial_reg_state" | "check_initial_reg_state_32" => _ = gcc.arg("-Wl,-ereal_start"),
        _ => {}
    }
    command::output(gcc.arg("-lm"))?;
    Ok(program)
}
