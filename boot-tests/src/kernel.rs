//! Builds kernels, plain or through `afterburner build`, once for each combination of sources and
//! tools.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use object::Object as _;
use tempfile::NamedTempFile;

use crate::source::Release;
use crate::{cache, command, source};

/// What is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Config {
    /// `min`: the smallest that boots to a shell, from a disk too.
    Min,
    /// `tiny`: `min` without devices, for what only needs the text of another compiler.
    Tiny,
    /// `net`: with networking and ACPI.
    Net,
    /// `hard`: SMP, KASLR, IBT, ORC, ftrace, kprobes, mitigations, and Linux's self-tests.
    Hard,
    /// `cloud`: Debian's for virtual machines, as it is. What `build` makes of a whole
    /// distribution's kernel.
    Cloud,
    /// `xen-peer`: `min` with Linux's own para-virtualization for Xen, which is for dom0 with ACPI
    /// only.
    XenPeer,
    /// `uml`: `min` as far as the port of Linux to itself has it, User-mode Linux.
    Uml,
}

impl Config {
    fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Tiny => "tiny",
            Self::Net => "net",
            Self::Hard => "hard",
            Self::Cloud => "cloud",
            Self::XenPeer => "xen-peer",
            Self::Uml => "uml",
        }
    }

    /// The fragments that are applied to `tinyconfig`, in this order; or to the distribution's
    /// configuration.
    fn fragments(self) -> &'static [&'static str] {
        match self {
            Self::Min => &["min"],
            Self::Tiny => &["min", "tiny"],
            Self::Net => &["min", "debian", "net"],
            Self::Hard => &["min", "hard", "selftests"],
            Self::Cloud => &[],
            Self::XenPeer => &["min", "xen-peer"],
            Self::Uml => &["min", "uml"],
        }
    }

    /// The architecture that it is for, if that is not the machine's.
    fn make_arguments(self) -> &'static [&'static str] {
        if self == Self::Uml { &["ARCH=um"] } else { &[] }
    }

    /// What is made of it. Nobody boots a bzImage of `tiny`; User-mode Linux has none.
    fn goals(self) -> &'static [&'static str] {
        match self {
            Self::Tiny => &["vmlinux", "modules"],
            Self::Uml => &["vmlinux"],
            _ => &["vmlinux", "modules", "bzImage"],
        }
    }
}

/// What compiles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// GCC and GNU binutils.
    Gcc,
    /// Clang with its integrated assembler, and the other LLVM tools.
    Llvm,
    /// Clang with GNU binutils.
    ClangGas,
}

impl Toolchain {
    fn make_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Gcc => &[],
            Self::Llvm => &["LLVM=1"],
            Self::ClangGas => &["CC=clang", "LLVM_IAS=0"],
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Gcc => "",
            Self::Llvm => "-llvm",
            Self::ClangGas => "-clang-gas",
        }
    }

    /// The programs whose version decides what comes out.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Gcc => &["gcc", "as", "ld"],
            Self::Llvm => &["clang", "ld.lld"],
            Self::ClangGas => &["clang", "as", "ld"],
        }
    }
}

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// By `make` alone.
    Plain,
    /// By `afterburner build`.
    Afterburnt,
    /// By `afterburner build --check`, which also compares every object with its plain assembly.
    Checked,
}

/// Which half of the address space it is linked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The upper one, as Linux is.
    Upper,
    /// The lower one, by `afterburner build --layout low`.
    Lower,
}

/// One way to build one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What is configured.
    pub config: Config,
    /// What compiles it.
    pub toolchain: Toolchain,
    /// How it is built.
    pub treatment: Treatment,
    /// Of which Linux.
    pub release: Release,
    /// Where it is linked.
    pub half: Half,
}

impl Variant {
    /// `min`, built by `make` alone.
    pub const MIN_PLAIN: Self = Self::new(Config::Min, Toolchain::Gcc, Treatment::Plain);
    /// `min`, annotated.
    pub const MIN: Self = Self::new(Config::Min, Toolchain::Gcc, Treatment::Afterburnt);
    /// `net`, annotated. [`Self::LOW`] is compared, which has its network; ACPI is in no other.
    pub const NET: Self = Self::new(Config::Net, Toolchain::Gcc, Treatment::Afterburnt);
    /// `hard`, annotated and compared.
    pub const HARD: Self = Self::new(Config::Hard, Toolchain::Gcc, Treatment::Checked);
    /// `tiny` by clang and its own assembler, annotated and compared.
    pub const TINY_LLVM: Self = Self::new(Config::Tiny, Toolchain::Llvm, Treatment::Checked);
    /// `tiny` by clang and GNU as, annotated: the text of the one and the objects of the other are
    /// compared in other kernels.
    pub const TINY_CLANG_GAS: Self = Self::new(Config::Tiny, Toolchain::ClangGas, Treatment::Afterburnt);
    /// What an afterburnt `min` on Xen is compared with: the same, para-virtualized by hand.
    pub const XEN_PEER: Self = Self::new(Config::XenPeer, Toolchain::Gcc, Treatment::Plain);
    /// What an afterburnt `min` as a process is compared with: its vmlinux is a program.
    pub const UML: Self = Self::new(Config::Uml, Toolchain::Gcc, Treatment::Plain);
    /// `min` of Linux 6.12, annotated and compared.
    pub const MIN_6_12: Self =
        Self { release: Release::V6_12, ..Self::new(Config::Min, Toolchain::Gcc, Treatment::Checked) };

    /// `min` in the lower half of the address space, with networking, annotated and compared.
    pub const LOW: Self = Self { half: Half::Lower, ..Self::new(Config::Min, Toolchain::Gcc, Treatment::Checked) };

    /// Debian's kernel for virtual machines, annotated.
    #[must_use]
    pub const fn cloud(release: Release) -> Self {
        Self { release, ..Self::new(Config::Cloud, Toolchain::Gcc, Treatment::Afterburnt) }
    }

    const fn new(config: Config, toolchain: Toolchain, treatment: Treatment) -> Self {
        Self { config, toolchain, treatment, release: Release::Chosen, half: Half::Upper }
    }

    /// The name of its build directory.
    #[must_use]
    pub fn name(self) -> String {
        let plain = if self.treatment == Treatment::Plain { "-plain" } else { "" };
        let half = if self.half == Half::Upper { "" } else { "-low" };
        format!("{}{half}{}{}{plain}", self.config.name(), self.toolchain.suffix(), self.release.suffix())
    }

    /// Builds the kernel, or finds it built.
    ///
    /// # Errors
    ///
    /// When a tool is missing or a step fails; the message holds the end of the log and its path.
    pub fn build(self) -> Result<Kernel> {
        let name = self.name();
        let _lock = cache::lock(&name)?;
        let tree = self.release.tree()?;
        let kernel = Kernel { directory: cache::subdirectory("builds")?.join(&name) };
        let stamp = self.stamp(&tree)?;
        let built = fs::read_to_string(kernel.stamp_path()).is_ok_and(|built| built == stamp);
        if built && !self.release.may_change() {
            println!("kernel {name}: already built in {}", kernel.directory.display());
            return Ok(kernel);
        }
        println!("kernel {name}: building, log in {}", kernel.log_path().display());
        let started = Instant::now();
        if !built {
            if kernel.directory.exists() {
                fs::remove_dir_all(&kernel.directory)
                    .with_context(|| format!("removing {}", kernel.directory.display()))?;
            }
            fs::create_dir_all(&kernel.directory).with_context(|| format!("making {}", kernel.directory.display()))?;
            self.configure(&tree, &kernel)?;
        }
        self.compile(&tree, &kernel, &kernel.time_path())?;
        fs::write(kernel.stamp_path(), stamp)?;
        println!(
            "kernel {name}: built in {:.0} s, {:.1} s of CPU time",
            started.elapsed().as_secs_f64(),
            kernel.cpu_seconds()?
        );
        Ok(kernel)
    }

    /// User and system time, in seconds, of building again what is built: what each build costs,
    /// however little it compiles.
    ///
    /// # Errors
    ///
    /// When the kernel is not built, or not now.
    pub fn seconds_to_build_nothing(self) -> Result<f64> {
        let kernel = self.build()?;
        let _lock = cache::lock(&self.name())?;
        let time = NamedTempFile::new()?;
        self.compile(&self.release.tree()?, &kernel, time.path())?;
        cpu_seconds(time.path())
    }

    /// Builds modules for the kernel outside its tree, in a directory with their sources and a
    /// `Kbuild`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be built, or they cannot.
    pub fn build_modules(self, directory: &Path) -> Result<()> {
        let kernel = self.build()?;
        let _lock = cache::lock(&self.name())?;
        let make = self.make(&self.release.tree()?, &kernel.directory);
        let mut build = Command::new(afterburner()?);
        build.arg("build");
        if self.half == Half::Lower {
            build.args(["--layout", "low"]);
        }
        build.arg("--").arg(make.get_program()).args(make.get_args());
        build.arg(assignment("M", directory)).arg("modules");
        build.envs(make.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command::logged(&mut build, &directory.join("build.log"))
    }

    fn configure(self, tree: &Path, kernel: &Kernel) -> Result<()> {
        let log = kernel.directory.join("configure.log");
        let output = &kernel.directory;
        if self.config == Config::Cloud {
            fs::write(output.join(".config"), self.release.cloud_configuration()?)?;
            return command::logged(self.make(tree, output).arg("olddefconfig"), &log);
        }
        command::logged(self.make(tree, output).arg("tinyconfig"), &log)?;
        command::logged(
            Command::new(tree.join("scripts/kconfig/merge_config.sh"))
                .current_dir(output)
                .args(["-m", ".config"])
                .args(self.fragments()),
            &log,
        )?;
        command::logged(self.make(tree, output).arg("olddefconfig"), &log)
    }

    /// Compiles, with GNU time around it to count the CPU time of all that it starts.
    fn compile(self, tree: &Path, kernel: &Kernel, time: &Path) -> Result<()> {
        let make = self.make(tree, &kernel.directory);
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["--quiet", "--format", "%U %S", "--append", "--output"]).arg(time);
        if self.treatment != Treatment::Plain {
            timed.arg(afterburner()?).arg("build").arg("--report").arg(kernel.report_path());
            if self.toolchain != Toolchain::Gcc {
                timed.args(["--compiler", "clang"]);
            }
            if self.treatment == Treatment::Checked {
                timed.arg("--check");
            }
            if self.half == Half::Lower {
                timed.args(["--layout", "low", "--configure"]);
            }
            timed.arg("--");
        }
        timed.arg(make.get_program()).args(make.get_args()).args(self.config.goals());
        timed.envs(make.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command::logged(&mut timed, &kernel.log_path())
    }

    /// The banner holds no date and no name of a machine: two builds of the same sources are the
    /// same.
    fn make(self, tree: &Path, output: &Path) -> Command {
        let mut make = Command::new("make");
        let jobs = thread::available_parallelism().map_or(1, NonZero::get);
        make.arg("-C").arg(tree).arg(assignment("O", output)).arg(format!("-j{jobs}"));
        make.args(self.toolchain.make_arguments()).args(self.config.make_arguments());
        make.env("KBUILD_BUILD_TIMESTAMP", "2020-01-01T00:00:00")
            .env("KBUILD_BUILD_USER", "afterburner")
            .env("KBUILD_BUILD_HOST", "afterburner")
            .env("KBUILD_BUILD_VERSION", "1");
        make
    }

    fn fragments(self) -> impl Iterator<Item = PathBuf> {
        let low: &[&str] = if self.half == Half::Lower { &["debian", "low"] } else { &[] };
        self.config.fragments().iter().chain(low).map(|name| cache::testdata(&format!("configs/{name}.config")))
    }

    /// Everything that the build depends on.
    fn stamp(self, tree: &Path) -> Result<String> {
        let mut stamp = format!("{self:?}\n{}\n", source::identity(tree)?);
        for fragment in self.fragments() {
            let text = fs::read_to_string(&fragment).with_context(|| format!("reading {}", fragment.display()))?;
            writeln!(stamp, "{text}")?;
        }
        if self.config == Config::Cloud {
            writeln!(stamp, "{}", self.release.cloud_configuration()?)?;
        }
        for program in self.toolchain.programs() {
            let version = command::output(Command::new(program).arg("--version"))?;
            writeln!(stamp, "{}", version.lines().next().unwrap_or_default())?;
        }
        if self.treatment != Treatment::Plain {
            let mut hasher = DefaultHasher::new();
            for path in SHIM {
                hash_sources(&cache::repository().join(path), &mut hasher)?;
            }
            writeln!(stamp, "afterburner {:016x}", hasher.finish())?;
        }
        Ok(stamp)
    }
}

/// The sources that decide what an object of the kernel looks like, and whether it is padded; the
/// rest of the command may change without a new kernel.
const SHIM: [&str; 8] = [
    "annotate/src",
    "afterburner-cli/low",
    "afterburner-cli/src/build/low.rs",
    "afterburner-cli/src/assembly.rs",
    "afterburner-cli/src/clang",
    "afterburner-cli/src/exclusions.rs",
    "afterburner-cli/src/gas",
    "afterburner-cli/src/includes.rs",
];

/// Whether the file of a module has a name, as `modprobe` takes it: for it two characters are one.
fn is_named(path: &Path, name: &str) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name)
}

/// The sum of what GNU time has written to a file.
fn cpu_seconds(path: &Path) -> Result<f64> {
    let text = fs::read_to_string(path).context("reading the time of the build")?;
    text.split_whitespace().map(|field| field.parse::<f64>().context("time of the build")).sum()
}

/// Hashes a file, or the files in a directory.
fn hash_sources(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if !path.is_dir() {
        fs::read(path).with_context(|| format!("reading {}", path.display()))?.hash(hasher);
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    files.iter().try_for_each(|file| hash_sources(file, hasher))
}

/// A built kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    directory: PathBuf,
}

impl Kernel {
    /// A kernel that was built here before.
    #[must_use]
    pub fn built_in(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The top directory of its build.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The linked kernel.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The physical address of its entry point.
    ///
    /// # Errors
    ///
    /// When `vmlinux` cannot be read.
    pub fn entry(&self) -> Result<u64> {
        let path = self.vmlinux();
        let data = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(object::File::parse(&*data).with_context(|| path.display().to_string())?.entry())
    }

    /// All of the kernel in one relocatable object, as it is before the final link aligns its
    /// parts.
    #[must_use]
    pub fn vmlinux_object(&self) -> PathBuf {
        self.directory.join("vmlinux.o")
    }

    /// The compressed kernel.
    #[must_use]
    pub fn bzimage(&self) -> PathBuf {
        self.directory.join("arch/x86/boot/bzImage")
    }

    /// All modules, in the order that `make` lists them.
    ///
    /// # Errors
    ///
    /// When the list cannot be read, or is empty.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let list = self.directory.join("modules.order");
        let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        // They are named by their objects since 6.2.
        let modules: Vec<_> = text.lines().map(|path| self.directory.join(path).with_extension("ko")).collect();
        ensure!(!modules.is_empty(), "{} is empty", list.display());
        Ok(modules)
    }

    /// Whether its configuration has an option, built in or as a module.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be read.
    pub fn is_configured_with(&self, option: &str) -> Result<bool> {
        let path = self.directory.join(".config");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.lines().any(|line| line.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))))
    }

    /// The modules with these names, in the order of the names.
    ///
    /// # Errors
    ///
    /// When one is missing.
    pub fn modules_named(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let modules = self.modules()?;
        let find = |name: &&str| {
            let module = modules.iter().find(|path| is_named(path, name));
            module.cloned().with_context(|| format!("no module {name} in {}", self.directory.display()))
        };
        names.iter().map(find).collect()
    }

    /// Whether the kernel has a module built in.
    fn has_built_in(&self, name: &str) -> Result<bool> {
        let list = self.directory.join("modules.builtin");
        let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        Ok(text.lines().any(|path| is_named(Path::new(path), name)))
    }

    /// The same with the modules that they depend on, each behind those; and without what the
    /// kernel has built in.
    ///
    /// # Errors
    ///
    /// When one is missing, or cannot be read.
    pub fn modules_in_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut ordered: Vec<PathBuf> = Vec::new();
        let mut wanted = Vec::new();
        for name in names {
            if !self.has_built_in(name)? {
                wanted.push(*name);
            }
        }
        for module in self.modules_named(&wanted)? {
            let depends = command::output(Command::new("/sbin/modinfo").args(["--field", "depends"]).arg(&module))?;
            let depends: Vec<_> = depends.trim().split(',').filter(|name| !name.is_empty()).collect();
            for module in self.modules_in_order(&depends)?.into_iter().chain([module]) {
                if !ordered.contains(&module) {
                    ordered.push(module);
                }
            }
        }
        Ok(ordered)
    }

    /// What the build printed.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let path = self.log_path();
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// User and system time of the build, in seconds; of all its runs, if the sources changed in
    /// between.
    ///
    /// # Errors
    ///
    /// When it was not recorded.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.time_path())
    }

    /// The machine-readable report of `afterburner build`.
    #[must_use]
    pub fn report_path(&self) -> PathBuf {
        self.directory.join("afterburner.json")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("build.log")
    }

    fn time_path(&self) -> PathBuf {
        self.directory.join("build.time")
    }

    fn stamp_path(&self) -> PathBuf {
        self.directory.join("build.stamp")
    }
}

/// The `afterburner` command: that named by `AFTERBURNER`, or that built from this checkout.
///
/// # Errors
///
/// When it cannot be built.
pub fn afterburner() -> Result<PathBuf> {
    if let Some(path) = env::var_os("AFTERBURNER") {
        return fs::canonicalize(&path).with_context(|| format!("AFTERBURNER={}", path.display()));
    }
    let _lock = cache::lock("afterburner")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    command::output(Command::new(cargo).current_dir(cache::repository()).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "afterburner-cli",
    ]))?;
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Ok(cache::repository().join(target).join("release/afterburner"))
}

fn assignment(name: &str, value: &Path) -> OsString {
    let mut assignment = OsString::from(format!("{name}="));
    assignment.push(value);
    assignment
}
