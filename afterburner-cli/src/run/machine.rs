//! The command line of QEMU, or of an image that is started as a process.
//!
//! The machine is the plainest that runs a kernel: no devices but what the PC always has, and a
//! serial console. It has no display and is told so, for with `-nographic` the firmware would write
//! to the console and clear the user's terminal. It ends, by `-no-reboot`, when the guest reboots
//! or panics (`panic=-1`).
//!
//! Below Xen it is the same machine. The serial port is Xen's then, and what the guest writes to
//! its own goes there too. How much memory the guest gets is left to Xen, which keeps a sixteenth
//! for itself, at most 128 MB.
//!
//! QEMU splits some arguments at commas, and takes `,,` for one: of what is written here, the list
//! of modules of a multiboot kernel (`-initrd` for Xen, hw/i386/multiboot.c).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Xen's own words: its console, and how little it may say there once it has booted.
const XEN_WORDS: &str = "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning";

/// What is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// A kernel or an image, by QEMU's own loader.
    Kernel(PathBuf),
    /// An ISO image, by the firmware.
    Iso(PathBuf),
    /// An image as the first guest of Xen.
    Xen { hypervisor: PathBuf, image: PathBuf },
    /// An image as the root task of seL4.
    L4 { kernel: PathBuf, image: PathBuf },
    /// An image as a process, without QEMU.
    Process(PathBuf),
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) boot: Boot,
    pub(crate) memory: u32,
    pub(crate) cpus: u32,
    pub(crate) cpu: String,
    /// Words for the kernel's command line.
    pub(crate) append: String,
    pub(crate) initrd: Option<PathBuf>,
    /// Disks of a process, as the image takes them.
    pub(crate) disks: Vec<OsString>,
    /// The network of a process, likewise.
    pub(crate) network: Option<String>,
    /// Directories of a process, likewise.
    pub(crate) shares: Vec<OsString>,
    /// The programs of a process run in it, too, likewise.
    pub(crate) fast: bool,
    /// Whether somebody can type.
    pub(crate) terminal: bool,
    /// The user's own options of QEMU.
    pub(crate) options: Vec<String>,
}

impl Machine {
    /// What is started: QEMU, or the image.
    pub(crate) fn program(&self) -> &OsStr {
        match &self.boot {
            Boot::Process(image) => image.as_os_str(),
            _ => OsStr::new(QEMU),
        }
    }

    /// Its arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        if let Boot::Process(_) = &self.boot {
            arguments.add(["--memory", &self.memory.to_string()]);
            if let Some(initrd) = &self.initrd {
                arguments.add(["--initrd"]);
                arguments.add([initrd]);
            }
            for disk in &self.disks {
                arguments.add([OsStr::new("--disk"), disk]);
            }
            if let Some(network) = &self.network {
                arguments.add(["--net", network]);
            }
            for share in &self.shares {
                arguments.add([OsStr::new("--share"), share]);
            }
            if self.fast {
                arguments.add(["--fast"]);
            }
            arguments.add([&self.append]);
            return arguments.0;
        }
        let own = ["-accel", "--accel", "-enable-kvm", "--enable-kvm"];
        if !self.options.iter().any(|option| own.contains(&option.as_str())) {
            // One thread for all CPUs: with a thread for each, a busy host makes them wait for each
            // other beyond measure.
            arguments.add(["-accel", "tcg,thread=single"]);
        }
        // One CPU per socket: the MP table of SeaBIOS, all that a kernel without ACPI has, lists
        // sockets.
        arguments.add(["-cpu", &self.cpu, "-smp", &format!("{0},sockets={0}", self.cpus)]);
        arguments.add(["-m", &self.memory.to_string(), "-nodefaults", "-no-reboot", "-display", "none"]);
        arguments.add(["-serial", if self.terminal { "mon:stdio" } else { "stdio" }]);
        match &self.boot {
            Boot::Kernel(kernel) => {
                arguments.add(["-kernel"]);
                arguments.add([kernel]);
                if let Some(initrd) = &self.initrd {
                    arguments.add(["-initrd"]);
                    arguments.add([initrd]);
                }
                arguments.add(["-append", &self.append]);
            }
            Boot::Iso(iso) => {
                arguments.add(["-cdrom"]);
                arguments.add([iso]);
            }
            Boot::Xen { hypervisor, image } => {
                arguments.add(["-kernel"]);
                arguments.add([hypervisor]);
                arguments.add(["-append", XEN_WORDS, "-initrd"]);
                arguments.add([self.xen_modules(image)]);
            }
            // seL4 hands on neither words nor other modules: all is in the image.
            Boot::L4 { kernel, image } => {
                arguments.add(["-kernel"]);
                arguments.add([kernel]);
                arguments.add(["-initrd"]);
                arguments.add([with_commas_doubled(image.as_os_str())]);
            }
            Boot::Process(_) => {}
        }
        arguments.add(&self.options);
        arguments.0
    }

    /// The modules of a multiboot kernel: file names, each with its words behind a blank, separated
    /// by commas.
    fn xen_modules(&self, image: &Path) -> OsString {
        let mut modules = with_commas_doubled(image.as_os_str());
        modules.push(" ");
        modules.push(with_commas_doubled(self.append.as_ref()));
        if let Some(initrd) = &self.initrd {
            modules.push(",");
            modules.push(with_commas_doubled(initrd.as_os_str()));
        }
        modules
    }

    /// The command as one writes it in a shell.
    pub(crate) fn command_line(&self) -> anyhow::Result<Vec<u8>> {
        let arguments = self.arguments();
        let words = std::iter::once(self.program()).chain(arguments.iter().map(AsRef::as_ref));
        let mut line = shlex::bytes::try_join(words.map(OsStr::as_bytes)).context("a NUL in a word of the command")?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Whether QEMU takes a path for nothing but that wherever it stands, in a list of modules too.
pub(crate) fn is_plain(path: &Path) -> bool {
    !path.as_os_str().as_bytes().iter().any(|byte| b", ".contains(byte))
}

fn with_commas_doubled(text: &OsStr) -> OsString {
    let doubled = text.as_bytes().iter().flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(*byte == b',')));
    OsString::from_vec(doubled.collect())
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add<A: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = A>) {
        self.0.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(boot: Boot) -> Machine {
        let (cpu, append) = ("qemu64".to_owned(), "console=ttyS0".to_owned());
        let (disks, network, shares, options) = (Vec::new(), None, Vec::new(), Vec::new());
        let (memory, cpus, initrd, fast, terminal) = (256, 1, None, false, false);
        Machine { boot, memory, cpus, cpu, append, initrd, disks, network, shares, fast, terminal, options }
    }

    fn line(machine: &Machine) -> String {
        String::from_utf8(machine.command_line().expect("no NUL")).expect("text")
    }

    #[test]
    fn every_word_survives_a_shell() {
        let mut machine = machine(Boot::Kernel("/a b/it's,$HOME".into()));
        machine.append = "x=\"1 2\" `y`".to_owned();
        let words = shlex::bytes::Shlex::new(line(&machine).as_bytes()).map(OsString::from_vec).collect::<Vec<_>>();
        assert_eq!(words[0], QEMU);
        assert_eq!(words[1..], machine.arguments());
        let echoed =
            std::process::Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {}", line(&machine))).output();
        let echoed = String::from_utf8(echoed.expect("a shell").stdout).expect("text");
        assert_eq!(echoed.lines().skip(1).map(OsString::from).collect::<Vec<_>>(), machine.arguments());
    }

    #[test]
    fn the_commas_of_a_module_are_doubled() {
        let mut machine = machine(Boot::Xen { hypervisor: "/xen".into(), image: "/a,b".into() });
        machine.append = "earlyprintk=serial,keep".to_owned();
        machine.initrd = Some("/c,d".into());
        assert_eq!(machine.arguments().last().expect("one"), "/a,,b earlyprintk=serial,,keep,/c,,d");
        machine.boot = Boot::Kernel("/a,b".into());
        assert!(line(&machine).contains("-kernel '/a,b' -initrd '/c,d'"), "{}", line(&machine));
    }

    #[test]
    fn a_process_is_the_image_itself() {
        let mut machine = machine(Boot::Process("./image".into()));
        machine.initrd = Some("/a,b".into());
        machine.disks = vec!["disk".into(), "c,ro".into()];
        machine.network = Some("user".to_owned());
        machine.shares = vec!["dir,ro".into()];
        machine.fast = true;
        assert_eq!(
            line(&machine),
            "./image --memory 256 --initrd '/a,b' --disk disk --disk 'c,ro' --net user --share 'dir,ro' --fast \
             'console=ttyS0'\n"
        );
    }

    #[test]
    fn a_terminal_gets_the_monitor_too() {
        let mut machine = machine(Boot::Iso("/image.iso".into()));
        assert!(line(&machine).contains(" -serial stdio -cdrom /image.iso\n"), "{}", line(&machine));
        machine.terminal = true;
        assert!(line(&machine).contains(" -serial mon:stdio "), "{}", line(&machine));
    }

    #[test]
    fn the_user_may_choose_the_accelerator() {
        let mut machine = machine(Boot::Kernel("/k".into()));
        assert!(line(&machine).contains("tcg"));
        machine.options = vec!["-accel".to_owned(), "kvm".to_owned()];
        assert!(!line(&machine).contains("tcg"));
        assert!(line(&machine).ends_with(" -accel kvm\n"));
    }
}
