//! What the kernel's operations cost on several systems, in executed instructions.
//!
//! Nobody has the same machine, and a loaded one is not even the same as itself; under TCG, time
//! says more about QEMU than about the guest. What a guest executes is the same on every machine
//! and every run, and counts a hypervisor's part alike. The guest measures its own operations by
//! the time-stamp counter, which under `-icount shift=0` counts instructions
//! (`testdata/programs/costs.c`, `workloads.c`). A boot idles, and the counter goes
//! on then: so its instructions
//! are counted by a plugin (`plugin/markers.c`), which also holds the counter to account.
//!
//! What is compared must do the same: one source of Linux, one configuration, one initramfs, memory
//! of one size, one CPU model, and a command line that lets nothing run for a time (no calibration
//! of a timer, no search for entropy) and prints hardly a character, for the serial console polls
//! and Xen's does not. Only the kernel's first look at the PIT is left, 11 million instructions at
//! most (`quick_pit_calibrate`): nothing turns it off. What the peer has because it is a dom0 of
//! Linux's own, and the others have not, is turned off: ACPI, and bounce buffers of 64 MB.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::expect::Expectations;
use crate::guest::Guest;
use crate::host::Host;
use crate::kernel::Variant;
use crate::qemu::Machine;
use crate::{icount, programs};

mod clock;
mod figures;
mod table;

pub use clock::Clocked;
pub use figures::Figures;
pub use table::Table;

/// The model without what Xen and QEMU cannot do together (`Machine::on_xen`), and without ERMS: a
/// kernel that has that clears pages byte by byte, and each of these 4,096 iterations would count
/// as an instruction and hide the others.
pub(crate) const CPU: &str = "max,-smap,-erms";

/// On every command line.
pub(crate) const WORDS: &str = "loglevel=5 tsc_early_khz=1000000 random.trust_cpu=on norandmaps nolapic";

/// On the peer's as well. 128 is the least that there can be, in units of 2 KB.
const PEER_WORDS: &str = "console=hvc0 acpi=off swiotlb=128";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// The kernel that `make` alone builds, on QEMU's machine.
    Plain,
    /// The afterburnt kernel there, on the wedge in `mode=native`.
    Native,
    /// Linux's own para-virtualized kernel, as Xen's dom0.
    Peer,
    /// The afterburnt kernel on the wedge, as Xen's dom0.
    Xen,
    /// The afterburnt kernel of the lower half on the wedge, as the root task of seL4.
    L4,
}

impl System {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Native, Self::Peer, Self::Xen, Self::L4];

    /// What it is called, in the table and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Native => "native",
            Self::Peer => "peer",
            Self::Xen => "xen",
            Self::L4 => "l4",
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Plain => "the kernel that make alone builds, on QEMU's machine",
            Self::Native => "the afterburnt kernel there, on the wedge",
            Self::Peer => "Linux's own para-virtualized kernel (CONFIG_XEN_PV), as Xen's dom0",
            Self::Xen => "the afterburnt kernel on the wedge, as Xen's dom0",
            Self::L4 => "the afterburnt kernel on the wedge, as seL4's root task",
        }
    }

    /// The system with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }

    fn variant(self) -> Variant {
        match self {
            Self::Plain => Variant::MIN_PLAIN,
            Self::Native | Self::Xen => Variant::MIN,
            Self::Peer => Variant::XEN_PEER,
            Self::L4 => Variant::LOW,
        }
    }

    fn machine<'a>(self, initramfs: &Path) -> Result<Machine<'a>> {
        let kernel = self.variant().build()?;
        let machine = match self {
            Self::Plain => Host::Plain.machine(&kernel, initramfs)?,
            Self::Native => Host::Native.machine(&kernel, initramfs)?,
            Self::Peer => {
                Machine { append: PEER_WORDS.to_owned(), ..Machine::new(kernel.vmlinux(), initramfs) }.on_xen()?
            }
            Self::Xen => Host::Xen.machine(&kernel, initramfs)?,
            Self::L4 => Host::L4.machine(&kernel, initramfs)?,
        };
        let append = format!("{} {WORDS}", machine.append);
        // seL4 wants a processor of its own choice, which has no ERMS either.
        let cpu = if self == Self::L4 { machine.cpu } else { CPU };
        Ok(Machine { append, cpu, ..machine })
    }

    /// Addresses of which the first to be executed is where a boot starts. On QEMU's machine that
    /// is the kernel's entry (Linux, `CONFIG_PHYSICAL_START`), whoever has loaded it. On Xen it is
    /// dom0's: Xen has loaded the peer, but the wedge loads its kernel itself, and that counts. On
    /// seL4 it is the guest's kernel's, for the wedge is where seL4 has been: its loading does not
    /// count.
    fn first(self) -> RangeInclusive<u64> {
        match self {
            Self::Plain | Self::Native => 0x100_0000..=0x7ff_ffff,
            Self::Peer | Self::Xen => 0xffff_8800_0000_0000..=u64::MAX,
            Self::L4 => 0x5fff_0000_0000..=0x5fff_ffff_ffff,
        }
    }
}

/// The rows that `costs.c` measures: what the guest calls them, what they are called in the table.
pub const OPERATIONS: [(&str, &str); 11] = [
    ("boot", "boot to shell"),
    ("null-syscall", "null system call"),
    ("fork-exit", "fork, exit, wait"),
    ("fork-exec", "fork, exec, exit, wait"),
    ("shell", "sh -c true"),
    ("pipe-round-trip", "pipe round trip"),
    ("context-switch", "context switch"),
    ("map-touch-unmap", "map, touch, unmap (page)"),
    ("page-fault", "page fault"),
    ("signal", "signal delivery"),
    ("tsc-switch", "forbid or allow RDTSC"),
];

/// The rows that `workloads.c` measures, likewise.
pub const WORKLOADS: [(&str, &str); 32] = [
    ("read", "read a byte"),
    ("write", "write a byte"),
    ("stat", "stat"),
    ("open-close", "open, close"),
    ("create-unlink", "create, unlink"),
    ("select-64", "select of 64 pipes"),
    ("map-anonymous-64k", "map, touch, unmap 64 KB"),
    ("map-anonymous-4m", "map, touch, unmap 4 MB"),
    ("map-anonymous-64m", "map, touch, unmap 64 MB"),
    ("map-file-64k", "map, read, unmap a file of 64 KB"),
    ("map-file-4m", "map, read, unmap a file of 4 MB"),
    ("protect", "protect and allow 16 pages"),
    ("grow-shrink", "grow the heap by 16 pages, shrink it"),
    ("protection-fault", "protection fault, with its signal"),
    ("fork-copy", "fork, write to 64 pages, exit, wait"),
    ("spawn", "posix_spawn, exit, wait"),
    ("thread", "start a thread, join it"),
    ("futex", "futex round trip"),
    ("ring-2-0k", "switch in a ring of 2"),
    ("ring-2-16k", "switch in a ring of 2, 16 KB each"),
    ("ring-2-64k", "switch in a ring of 2, 64 KB each"),
    ("ring-8-0k", "switch in a ring of 8"),
    ("ring-8-16k", "switch in a ring of 8, 16 KB each"),
    ("ring-8-64k", "switch in a ring of 8, 64 KB each"),
    ("ring-16-0k", "switch in a ring of 16"),
    ("ring-16-16k", "switch in a ring of 16, 16 KB each"),
    ("ring-16-64k", "switch in a ring of 16, 64 KB each"),
    ("timer-1ms", "expiry of a timer of 1 ms"),
    ("pipe-64k", "64 KB there and back through pipes"),
    ("build", "job: 8 times sed, sort, head"),
    ("tar", "job: pack 1 MB of files, unpack them"),
    ("gzip", "job: compress 1 MB"),
];

/// All rows, in their order.
pub fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS.into_iter().chain(WORKLOADS)
}

/// Executed instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// All of them.
    pub all: u64,
    /// Those in Xen.
    pub xen: u64,
}

/// What one boot has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    operations: BTreeMap<String, u64>,
    /// Before the boot: by the firmware, and by the wedge or Xen.
    pub before: Executed,
    /// From then on until the shell has started a program.
    pub boot: Executed,
}

impl Costs {
    /// What a row costs, by its name in [`rows`].
    ///
    /// # Errors
    ///
    /// When the guest did not say.
    pub fn of(&self, operation: &str) -> Result<u64> {
        if operation == "boot" {
            return Ok(self.boot.all);
        }
        self.operations.get(operation).copied().with_context(|| format!("no cost of {operation}"))
    }
}

/// Boots the system, and has it measure itself. The name is that of the log.
///
/// # Errors
///
/// When something cannot be built, the boot fails, or counter and plugin contradict each other.
pub fn measure(system: System, name: &str) -> Result<Costs> {
    let directory = tempfile::tempdir()?;
    let programs = programs::build(&["costs", "workloads"], directory.path())?;
    let guest = Guest { programs, ..Guest::script("costs", Vec::new()) }.initramfs()?;
    let plugin = icount::build_plugin("markers", directory.path())?;
    let out = directory.path().join("markers");
    let (low, high) = system.first().into_inner();
    let mut machine = icount::deterministic(&system.machine(guest.path())?);
    let plugin = format!("{},out={},low={low:x},high={high:x}", plugin.display(), out.display());
    machine.options.extend(["-plugin".into(), plugin.into()]);
    let log = machine.boot(name, &Expectations::read("costs")?)?;

    let markers = markers(&fs::read_to_string(&out).context("reading what the QEMU plugin counted")?)?;
    let at = |number| markers.get(&number).copied().with_context(|| format!("marker {number} was not reached"));
    let (counted, ticks) = (at(3)?.all - at(2)?.all, ticks(&log)?);
    // An instruction that is an exception is none to the counter, and one to the plugin: on seL4
    // that is each system call.
    let exceptions = if system == System::L4 { counted / 1000 } else { 8 };
    ensure!(
        counted.abs_diff(ticks) <= exceptions,
        "{counted} instructions are {ticks} ticks of the time-stamp counter"
    );
    Ok(Costs { operations: operations(&log), before: at(0)?, boot: at(1)? })
}

fn markers(text: &str) -> Result<BTreeMap<u64, Executed>> {
    let marker = |line: &str| {
        let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        let &[number, all, xen] = numbers.as_slice() else { return None };
        Some((number, Executed { all, xen }))
    };
    text.lines().map(|line| marker(line).with_context(|| format!("the QEMU plugin wrote: {line}"))).collect()
}

fn ticks(log: &str) -> Result<u64> {
    let ticks = log.lines().find_map(|line| line.split_once("guest: ticks ")?.1.parse().ok());
    ticks.context("the guest did not count ticks")
}

/// The lines `cost NAME N`.
pub(crate) fn operations(log: &str) -> BTreeMap<String, u64> {
    let operation = |line: &str| {
        let (name, cost) = line.split_once("guest: cost ")?.1.split_once(' ')?;
        Some((name.to_owned(), cost.parse().ok()?))
    };
    log.lines().filter_map(operation).collect()
}

/// Measures twice.
///
/// # Errors
///
/// As [`measure`], and when the second boot shows anything else than the first.
pub fn measure_twice(system: System) -> Result<Costs> {
    let name = format!("costs-{}", system.name());
    let first = measure(system, &name)?;
    let second = measure(system, &format!("{name}-again"))?;
    ensure!(first == second, "{name}: one boot shows {first:?}, the next {second:?}");
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "[    0.1] guest: script starts on Linux\n[    0.2] guest: ticks 45807\n\
                   [    0.2] guest: cost null-syscall 226\n[    0.3] guest: cost signal x\n";
        assert_eq!(operations(log), BTreeMap::from([("null-syscall".to_owned(), 226)]));
        assert_eq!(ticks(log).unwrap(), 45807);
        assert!(ticks("guest: tick 1").is_err());
    }

    #[test]
    fn what_the_plugin_writes_is_read() {
        let expected = BTreeMap::from([(0, Executed { all: 5, xen: 1 }), (2, Executed { all: 70, xen: 0 })]);
        assert_eq!(markers("0 5 1\n2 70 0\n").unwrap(), expected);
        for bad in ["0 5\n", "0 5 1 2\n", "start 5 1\n"] {
            assert!(markers(bad).is_err(), "{bad}");
        }
    }
}
