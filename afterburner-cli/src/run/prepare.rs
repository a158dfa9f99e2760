//! From what the user says to a machine: what boots what, and whether that can be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use backends::boot::options::Options;
use backends::boot::selection::{LoaderProtocol, Protocol, select};
use wedge::guest::layout::Layout;
use wedge::image::Payload;
use wedge::loader::command_line::CommandLine;

use super::files::Files;
use super::guest::{self, Script};
use super::hypervisor::{hypervisor, sel4};
use super::input::Input;
use super::machine::{Boot, Machine, is_plain};
use super::{Host, MachineArguments, Mode};
use crate::pack::change;
use crate::verify::read;

/// What is to be done.
pub(crate) struct Job<'a> {
    pub(crate) image: &'a Path,
    pub(crate) host: Option<Host>,
    pub(crate) mode: Option<Mode>,
    pub(crate) machine: &'a MachineArguments,
    pub(crate) script: Option<&'a Script>,
    /// Whether somebody can type to the guest.
    pub(crate) terminal: bool,
}

impl Job<'_> {
    /// The machine. Files that it needs are written to `files`.
    pub(super) fn machine(&self, files: &Files) -> anyhow::Result<Machine> {
        let data = read(self.image)?;
        let input = Input::of(&data).map_err(|what| anyhow::anyhow!("{}: {what}", self.image.display()))?;
        let host = self.host(&input)?;
        let payload = match &input {
            Input::Image { payload, .. } => {
                let payload = Payload::check(data.get(payload.clone()).unwrap_or_default());
                let payload = payload.map_err(|damage| anyhow::anyhow!("{}: {damage}", self.image.display()))?;
                self.ask_the_wedge(host, &payload)?;
                Some(payload).filter(|_| host == Host::None)
            }
            _ => None,
        };
        let boot = match (&input, &payload) {
            (Input::Iso, _) => Boot::Iso(self.image.to_owned()),
            (_, Some(payload)) => Boot::Kernel(files.write("kernel", payload.kernel)?),
            _ if host == Host::Xen => {
                let hypervisor = hypervisor(self.machine.xen.as_deref(), files)?;
                Boot::Xen { hypervisor, image: self.image.to_owned() }
            }
            (Input::Image { payload, .. }, _) if host == Host::L4 => {
                let kernel = sel4(self.machine.sel4.as_deref())?;
                Boot::L4 { kernel, image: self.image_for_sel4(&data, payload, files)? }
            }
            // A name without a directory would be looked for in PATH.
            _ if host == Host::Process => Boot::Process(Path::new(".").join(self.image)),
            _ => Boot::Kernel(self.image.to_owned()),
        };
        let arguments = self.machine;
        let (memory, cpu) = match host {
            Host::Xen => (1024, "max,-smap"),
            // In 64-bit mode, SYSENTER is one of Intel's.
            Host::L4 => (512, "qemu64,vendor=GenuineIntel,+fsgsbase"),
            _ => (256, "qemu64"),
        };
        Ok(Machine {
            boot,
            memory: arguments.memory.unwrap_or(memory),
            cpus: arguments.cpus,
            cpu: arguments.cpu.clone().unwrap_or_else(|| cpu.to_owned()),
            append: self.words(payload.map_or("", |payload| payload.command_line)),
            initrd: match host {
                Host::L4 => None,
                _ => self.initrd(payload.map_or(&[], |payload| payload.initramfs), files)?,
            },
            disks: arguments.disk.clone(),
            network: arguments.net.clone(),
            shares: arguments.share.clone(),
            fast: arguments.fast,
            terminal: self.terminal,
            options: options(&arguments.qemu_opts)?,
        })
    }

    /// The host, if this can run on it.
    fn host(&self, input: &Input) -> anyhow::Result<Host> {
        let image = self.image.display();
        let default = if *input == Input::Kernel { Host::None } else { Host::Bare };
        let host = self.host.unwrap_or(default);
        match input {
            Input::Kernel => ensure!(
                host == Host::None,
                "{image} is a kernel without a wedge, which runs on --host none; `afterburner pack` makes an image of it"
            ),
            Input::Iso => {
                ensure!(host == Host::Bare, "{image} is an ISO image, which boots on --host bare only");
                let own = self.machine.append.is_some() || self.machine.initrd.is_some();
                ensure!(
                    !own && self.mode.is_none() && self.script.is_none(),
                    "{image} is an ISO image, whose command line and initramfs GRUB reads from it: give the ELF image instead"
                );
            }
            Input::Image { xen, .. } => ensure!(host != Host::Xen || *xen, "{image} has no Xen PV entry"),
        }
        ensure!(host != Host::None || self.mode.is_none(), "--mode is for the wedge, and on --host none there is none");
        ensure!(
            host == Host::Process || self.machine.disk.is_empty(),
            "--disk is for --host process; QEMU has `--qemu-opts '-drive if=virtio,format=raw,file=...'`"
        );
        ensure!(
            host == Host::Process || self.machine.net.is_none(),
            "--net is for --host process; QEMU has `--qemu-opts '-nic user,model=virtio-net-pci'`"
        );
        ensure!(
            host == Host::Process || self.machine.share.is_empty(),
            "--share is for --host process; QEMU has `--qemu-opts '-virtfs local,security_model=none,mount_tag=share0,path=...'`"
        );
        ensure!(host == Host::Process || !self.machine.fast, "--fast is for --host process");
        if host == Host::Process {
            let MachineArguments { cpus, cpu, qemu_opts, .. } = self.machine;
            ensure!(*cpus == 1, "--cpus {cpus}: on --host process a guest has one CPU");
            ensure!(
                cpu.is_none() && qemu_opts.is_empty(),
                "--cpu and --qemu-opts are for QEMU, not for --host process"
            );
        }
        Ok(host)
    }

    /// Refuses what the wedge would refuse: words for it that it does not know, or that do not go
    /// with the host.
    fn ask_the_wedge(&self, host: Host, payload: &Payload<'_>) -> anyhow::Result<()> {
        let entry = match host {
            Host::None => return Ok(()),
            Host::Bare => Protocol::from(LoaderProtocol::Pvh),
            Host::Xen => Protocol::XenPv,
            Host::Process => Protocol::Linux,
            Host::L4 => Protocol::SeL4,
        };
        let gives_half = matches!(host, Host::Process | Host::L4);
        ensure!(
            !gives_half || *payload.layout == Layout::LOW,
            "{}: the kernel is linked into the upper half of the address space, which a program of {} has not",
            self.image.display(),
            if host == Host::L4 { "seL4" } else { "Linux" }
        );
        let line = CommandLine::join(payload.command_line, &self.words("")).context("the command line")?;
        let options = Options::parse(line.as_str()).map_err(|error| anyhow::anyhow!("{error}"))?;
        select(options.backend, entry, None).map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(
            host == Host::Bare || options.mode != wedge::sites::Mode::Identity,
            "afterburn.mode={}: that mode is for bare hardware; {} every site is taken over",
            options.mode,
            match host {
                Host::Xen => "on Xen",
                Host::L4 => "on seL4",
                _ => "in a process",
            }
        );
        Ok(())
    }

    /// The image with all that the guest is told in it.
    fn image_for_sel4(&self, data: &[u8], payload: &std::ops::Range<usize>, files: &Files) -> anyhow::Result<PathBuf> {
        let old = Payload::check(data.get(payload.clone()).unwrap_or_default())
            .map_err(|damage| anyhow::anyhow!("{}: {damage}", self.image.display()))?;
        let line = CommandLine::join(old.command_line, &self.words("")).context("the command line")?;
        let initramfs = self.initramfs(old.initramfs)?;
        files.write("image", &change::changed(data, payload.start, &old, &initramfs, line.as_str())?)
    }

    /// The kernel's command line, as far as the wedge does not add the image's own.
    fn words(&self, of_image: &str) -> String {
        let mut words = vec![of_image, "console=ttyS0", "panic=-1"];
        if self.script.is_some() {
            words.extend(["printk.devkmsg=on", guest::INIT]);
        }
        words.extend(self.mode.map(Mode::word));
        words.extend(self.machine.append.as_deref());
        words.retain(|words| !words.is_empty());
        words.join(" ")
    }

    /// The initramfs: that of the image, as far as the wedge does not add it, the user's, and the
    /// command's.
    fn initrd(&self, of_image: &[u8], files: &Files) -> anyhow::Result<Option<PathBuf>> {
        let given = self.machine.initrd.as_deref();
        if of_image.is_empty()
            && self.script.is_none()
            && let Some(given) = given
            && is_plain(given)
        {
            fs::File::open(given).with_context(|| given.display().to_string())?;
            return Ok(Some(given.to_owned()));
        }
        let initramfs = self.initramfs(of_image)?;
        if initramfs.is_empty() { Ok(None) } else { files.write("initramfs", &initramfs).map(Some) }
    }

    /// All of it, in one.
    fn initramfs(&self, of_image: &[u8]) -> anyhow::Result<Vec<u8>> {
        let script = self.script.map(|script| script.initramfs(self.terminal)).transpose()?;
        let given = self.machine.initrd.as_deref().map(read).transpose()?;
        let parts = [of_image, given.as_deref().unwrap_or_default(), script.as_deref().unwrap_or_default()];
        Ok(initramfs::concatenate(&parts))
    }
}

/// The user's options of QEMU, as words.
fn options(given: &[String]) -> anyhow::Result<Vec<String>> {
    let words = |text: &String| shlex::split(text).with_context(|| format!("--qemu-opts: an open quote in: {text}"));
    Ok(given.iter().map(words).collect::<anyhow::Result<Vec<_>>>()?.concat())
}
