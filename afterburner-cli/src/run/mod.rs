//! `afterburner run`: boots an image or a kernel, in QEMU or as a process, and returns what became
//! of it.

mod console;
mod files;
mod guest;
mod hypervisor;
mod input;
mod machine;
pub(crate) mod parent_death;
mod prepare;
mod qemu;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;

use self::console::{Console, First};
use self::files::Files;
pub(crate) use self::guest::Script;
pub(crate) use self::input::Input;
pub(crate) use self::prepare::Job;
use self::qemu::Outcome;
use crate::{CANNOT_RUN, complain, tool};

const TIMED_OUT: u8 = 124;
const NO_VERDICT: u8 = 125;

/// Boot an image or a kernel in QEMU, or an image as a process
///
/// Shows the guest's console. IMAGE is what `afterburner pack` wrote, or a vmlinux or bzImage,
/// afterburnt or not, which runs without a wedge. With a command, that is run in the guest by a
/// shell, in place of the image's init; the guest then ends. Without one the guest does what it
/// does, and on a terminal one can talk to it; Ctrl-A X ends it.
///
/// A command needs /bin/busybox, statically linked, which goes into the guest; nothing else has to
/// be in there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    /// An image (ELF or ISO), a vmlinux, a bzImage
    image: PathBuf,
    /// What the guest runs on; an image on bare hardware and a kernel on none, unless it is said
    /// here
    #[arg(long, value_enum)]
    host: Option<Host>,
    /// What the wedge does with the sites
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Print the command that would run QEMU, and end; the files that it needs are left in the
    /// cache directory
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    machine: MachineArguments,
    /// A command for the guest's shell; several words are put together with blanks
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const EXIT_STATUS: &str = "\
Exit status:
  With a command, its own; without one, 0 once the guest has ended.
  2    the command line or an input is wrong
  124  the time was up
  125  the guest ended without a verdict: its console shows why
  127  there is no qemu-system-x86_64";

/// The machine, as the user wants it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct MachineArguments {
    /// Memory of the machine in MB; 256, below Xen 1024, below seL4 512, unless it is said here
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..))]
    memory: Option<u32>,
    /// Number of CPUs; a process has one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// CPU model of QEMU; qemu64, below Xen max,-smap, below seL4 one of Intel's, unless it is said
    /// here
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Words for the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append: Option<String>,
    /// The file of Xen, for --host xen; by default the one that `scripts/xen` got, or the newest
    /// /boot/xen-*.gz
    #[arg(long, value_name = "FILE")]
    xen: Option<PathBuf>,
    /// The file of seL4's kernel, for --host l4, in 32-bit ELF as QEMU wants it; by default the one
    /// that `scripts/sel4` built
    #[arg(long, value_name = "FILE")]
    sel4: Option<PathBuf>,
    /// An initramfs; in an image it goes over the image's own
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A disk for --host process, in a raw file; with `,ro` behind its name it cannot be written
    /// to, with `,snapshot` it can, and the file stays as it is; may be given several times
    #[arg(long, value_name = "FILE[,ro|,snapshot]")]
    disk: Vec<OsString>,
    /// A network for --host process: `user` is that of this user's programs, by the program
    /// `passt`; `tap:NAME` is a TAP interface that this user may have
    #[arg(long, value_name = "user|tap:NAME")]
    net: Option<String>,
    /// A directory for --host process, which the guest mounts as `share0`, the next as `share1`, by
    /// `mount -t 9p -o trans=virtio,version=9p2000.L share0 /mnt`; with `,ro` behind its name
    /// nothing in it can be changed; may be given several times
    #[arg(long, value_name = "DIR[,ro]")]
    share: Vec<OsString>,
    /// For --host process: run the guest's programs in the process of its kernel. System calls,
    /// faults and signals are several times as fast, and nothing keeps a program from the kernel,
    /// the wedge, or another program: for one trust domain only
    #[arg(long)]
    fast: bool,
    /// Options of QEMU, quoted as for a shell; may be given several times
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    qemu_opts: Vec<String>,
    /// End the guest after this time, in seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// What a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Host {
    /// The kernel as it is, on its NOPs, without the wedge
    None,
    /// The wedge on bare hardware
    Bare,
    /// The wedge as the first guest of Xen
    Xen,
    /// The wedge as a process of this Linux, without QEMU; for kernels in the lower half
    Process,
    /// The wedge as the root task of seL4; for kernels in the lower half
    L4,
}

/// What the wedge does with the sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Whatever is fastest on the host
    Native,
    /// Every site goes through the wedge, which executes the original
    Identity,
    /// The same, and the wedge counts
    Profile,
}

impl Mode {
    /// The word on the kernel's command line.
    fn word(self) -> &'static str {
        match self {
            Self::Native => "afterburn.mode=native",
            Self::Identity => "afterburn.mode=identity",
            Self::Profile => "afterburn.mode=profile",
        }
    }
}

/// What became of a guest.
pub(crate) struct Ended {
    outcome: Outcome,
    console: Console,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let script = (!arguments.command.is_empty()).then(|| Script::new(&arguments.command));
    let job = Job {
        image: &arguments.image,
        host: arguments.host,
        mode: arguments.mode,
        machine: &arguments.machine,
        script: script.as_ref(),
        terminal: io::stdin().is_terminal(),
    };
    if arguments.dry_run {
        let line = job.machine(&Files::kept()?)?.command_line()?;
        io::stdout().write_all(&line).context("cannot write to standard output")?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(ended) = boot(&job, &mut io::stdout())? else { return Ok(ExitCode::from(CANNOT_RUN)) };
    Ok(ended.status(script.is_some()))
}

/// What a user is told whose seL4 has stopped in front of the wedge.
const NOT_BEGUN: &str = "seL4 stopped before the wedge could say anything: it needs more memory than the image takes, \
    a processor of Intel's, with pages of 1 GB if it was built for them, and to be built with SYSENTER as its system call";

/// What a user is told whose time was up by then.
const WAITED: &str =
    "the time was up before the wedge could say anything: without a PIT, or with little memory, seL4 waits for ever";

/// Boots a guest and shows its console; `None` if there is no QEMU.
pub(crate) fn boot(job: &Job<'_>, out: &mut dyn Write) -> anyhow::Result<Option<Ended>> {
    let files = Files::inherited();
    let machine = job.machine(&files)?;
    let Some(program) = tool::search(machine.program()) else {
        complain(&anyhow::anyhow!("there is no {} in PATH (Debian: qemu-system-x86)", machine::QEMU));
        return Ok(None);
    };
    let first = if job.host == Some(Host::L4) { First::SeL4 } else { First::Guest };
    let mut console = Console::new(job.script.map(Script::mark), first);
    let to = (&mut console, out);
    let outcome = qemu::watch(&program, &machine.arguments(), job.terminal, job.machine.timeout, to)?;
    Ok(Some(Ended { outcome, console }))
}

impl Ended {
    /// What the guest's init said.
    pub(crate) fn messages(&self) -> &[String] {
        self.console.messages()
    }

    /// The status that the command ended with.
    pub(crate) fn verdict(&self) -> Option<u8> {
        self.console.verdict()
    }

    /// The exit status that says so, and a word to the user where the guest had none.
    pub(crate) fn status(&self, with_command: bool) -> ExitCode {
        let failed = |why: &str, status| {
            complain(&anyhow::anyhow!("{why}"));
            ExitCode::from(status)
        };
        match (self.verdict(), self.outcome) {
            (Some(status), _) => ExitCode::from(status),
            (None, Outcome::TimedOut) if self.console.is_before_the_wedge() => failed(WAITED, TIMED_OUT),
            (None, Outcome::TimedOut) => failed("the time was up before the guest ended", TIMED_OUT),
            (None, Outcome::Stopped) if self.console.has_not_begun() => failed(NOT_BEGUN, NO_VERDICT),
            (None, Outcome::Stopped) => failed("the wedge stopped the machine", NO_VERDICT),
            (None, Outcome::Signal(signal)) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
            (None, Outcome::Ended(status)) if !status.success() => {
                failed(&format!("what runs the guest: {status}"), NO_VERDICT)
            }
            (None, Outcome::Ended(_)) if with_command => failed("the guest ended without a verdict", NO_VERDICT),
            (None, Outcome::Ended(_)) => ExitCode::SUCCESS,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
