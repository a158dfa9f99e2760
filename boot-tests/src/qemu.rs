//! Boots a kernel in QEMU, or as a process, and reads its serial console.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::expect::Expectations;
use crate::{cache, command, host};

/// A boot that takes longer has failed. Most take seconds; beside much other work one took almost
/// three minutes, whose firmware reads the image from a disk, sector by sector, and waits for QEMU
/// each time.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How long a boot goes on after a line that must never appear: long enough for the rest of an
/// oops.
const AFTERMATH: Duration = Duration::from_secs(3);

/// How long QEMU may take to end once it has closed its console: its plugins write what they have
/// counted after that.
const FAREWELL: Duration = Duration::from_secs(20);

/// What every kernel here is told: to speak on the serial console, to take what `/dev/kmsg` is
/// given, to end with a panic.
pub const WORDS: &str = "console=ttyS0 printk.devkmsg=on panic=-1";

/// Two CPUs are emulated in turn by a busy machine, which may not get round to ten ticks of a timer
/// in forty milliseconds: a kernel that uses an I/O APIC takes that for broken hardware, and
/// panics.
pub const TWO_CPUS: &str = "no_timer_check";

/// Words by which the `hard` kernel leaves out the tests of its own that take most of its boot,
/// those of events and `KUnit`'s; a literal, for `concat!`.
#[macro_export]
macro_rules! no_self_tests {
    () => {
        "trace_event=initcall kunit.enable=0"
    };
}

/// Xen's own words: its console, and how little it may say there once it has booted.
const XEN_WORDS: &str = "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning";

/// The model with the most that Xen can use.
const XEN_CPU: &str = "max,-smap";

/// A model with SYSENTER in 64-bit mode, which is one of Intel's, and without what seL4 keeps from
/// its threads.
const SEL4_CPU: &str = "qemu64,vendor=GenuineIntel,+fsgsbase";

/// Memory in MB that Xen has for itself.
const XEN_MEMORY: u32 = 128;

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// A vmlinux or an image, entered by PVH, or a bzImage, which randomises its address. Without
    /// one the machine boots what is in [`options`](Self::options).
    pub kernel: Option<PathBuf>,
    /// The initramfs. Without one it is in the image, and so are [`WORDS`].
    pub initramfs: Option<PathBuf>,
    /// Words added to the kernel's command line.
    pub append: String,
    /// Number of CPUs, one per socket: the MP table of `SeaBIOS`, all that a kernel without ACPI
    /// has, lists sockets.
    pub cpus: u32,
    /// CPU model.
    pub cpu: &'a str,
    /// Memory of the kernel in MB; below Xen the machine has more.
    pub memory: u32,
    /// Xen, of which the kernel is the first guest; without it the kernel has the machine for
    /// itself.
    pub xen: Option<PathBuf>,
    /// seL4's kernel, whose root task an image of the kernel becomes: it is packed for each boot,
    /// for seL4 hands on neither words nor an initramfs.
    pub sel4: Option<PathBuf>,
    /// The image is no machine's, but a program that is started as a process, without QEMU.
    pub process: bool,
    /// The boot is given up after this time.
    pub timeout: Duration,
    /// Further options of QEMU, or of the image.
    pub options: Vec<OsString>,
    /// What to tell QEMU's monitor when a line with this text appears.
    pub commands: Vec<(&'static str, String)>,
    /// A line that starts with this text is the end, without one the end of QEMU.
    pub last_line: Option<&'static str>,
}

impl Machine<'_> {
    /// One CPU of QEMU's default model.
    #[must_use]
    pub fn new(kernel: impl Into<PathBuf>, initramfs: impl Into<PathBuf>) -> Self {
        Self { kernel: Some(kernel.into()), initramfs: Some(initramfs.into()), ..Self::empty() }
    }

    /// The same with an image that has an initramfs and [`WORDS`] of its own.
    #[must_use]
    pub fn image(image: impl Into<PathBuf>) -> Self {
        Self { kernel: Some(image.into()), ..Self::empty() }
    }

    /// The same with options of QEMU that give it something which its firmware boots.
    #[must_use]
    pub fn firmware(options: Vec<OsString>) -> Self {
        Self { options, ..Self::empty() }
    }

    /// The same below Xen, on a CPU on which Xen works in QEMU: with SMAP, QEMU 7.2 lets `iretq` in
    /// ring 3 read its stack as the supervisor would, and fault.
    ///
    /// # Errors
    ///
    /// When Xen cannot be found.
    pub fn on_xen(self) -> Result<Self> {
        Ok(Self { xen: Some(host::xen()?), cpu: XEN_CPU, ..self })
    }

    /// The same as the root task of seL4, on a CPU that has SYSENTER in 64-bit mode.
    ///
    /// # Errors
    ///
    /// When seL4 cannot be built.
    pub fn on_sel4(self) -> Result<Self> {
        Ok(Self { sel4: Some(host::sel4()?), cpu: SEL4_CPU, memory: 2 * self.memory, ..self })
    }

    /// The machine with its image in a directory, if the image holds all that the guest is told.
    ///
    /// # Errors
    ///
    /// When the image cannot be made.
    pub(crate) fn packed(&self, directory: &Path) -> Result<Option<Self>> {
        let (Some(_), Some(vmlinux), Some(initramfs)) = (&self.sel4, &self.kernel, &self.initramfs) else {
            return Ok(None);
        };
        let image = directory.join("image");
        let words = self.words();
        let options = ["--initrd".as_ref(), initramfs.as_os_str(), "--cmdline".as_ref(), words.as_ref()];
        host::pack_file(vmlinux, &options, &image)?;
        Ok(Some(Self { kernel: Some(image), ..self.clone() }))
    }

    fn empty() -> Self {
        Self {
            kernel: None,
            initramfs: None,
            append: String::new(),
            cpus: 1,
            cpu: "qemu64",
            memory: 256,
            xen: None,
            sel4: None,
            process: false,
            timeout: TIMEOUT,
            options: Vec::new(),
            commands: Vec::new(),
            last_line: None,
        }
    }

    /// The command that boots the machine with its serial console on `serial`. QEMU ends with the
    /// thread that starts it, whatever ends that; the terminal that it may have got with its
    /// monitor it sets back.
    #[must_use]
    pub fn command(&self, serial: &str) -> Command {
        if let (true, Some(image)) = (self.process, &self.kernel) {
            return self.program(image);
        }
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", if serial.starts_with("mon:") { "TERM" } else { "KILL" }, "qemu-system-x86_64"]);
        // One thread for all CPUs: with a thread for each, a busy host makes them wait for each
        // other beyond measure.
        qemu.args(["-accel", "tcg,thread=single", "-nodefaults", "-nographic", "-no-reboot"])
            .args(["-m", &(self.memory + self.xen.as_ref().map_or(0, |_| XEN_MEMORY)).to_string()])
            .args(["-serial", serial])
            .args(["-cpu", self.cpu, "-smp", &format!("{0},sockets={0}", self.cpus)]);
        match (&self.kernel, &self.xen) {
            (Some(image), None) if self.sel4.is_some() => {
                qemu.arg("-kernel").args(&self.sel4).arg("-initrd").arg(image);
            }
            (Some(kernel), None) => {
                qemu.arg("-kernel").arg(kernel).args(["-append", &self.words()]);
                if let Some(initramfs) = &self.initramfs {
                    qemu.arg("-initrd").arg(initramfs);
                }
            }
            (Some(kernel), Some(xen)) => {
                let words = format!("{XEN_WORDS} dom0_mem={0}M,max:{0}M", self.memory);
                qemu.arg("-kernel").arg(xen).args(["-append", &words]).arg("-initrd").arg(self.modules(kernel));
            }
            (None, _) => {}
        }
        qemu.args(&self.options);
        qemu
    }

    /// The command that starts an image as a process, without a privilege.
    fn program(&self, image: &Path) -> Command {
        let mut program = Command::new("setpriv");
        program.args(["--pdeathsig", "KILL", "--no-new-privs", "--inh-caps=-all"]).arg(image);
        program.args(["--memory", &self.memory.to_string()]);
        if let Some(initramfs) = &self.initramfs {
            program.arg("--initrd").arg(initramfs);
        }
        program.args(&self.options).arg(self.words());
        program
    }

    /// The kernel's command line, as far as it is not in the image.
    fn words(&self) -> String {
        if self.initramfs.is_some() { format!("{WORDS} {}", self.append) } else { self.append.clone() }
    }

    /// Xen's modules: the kernel with its words, then the initramfs. QEMU takes two commas for one
    /// that does not separate modules (hw/i386/multiboot.c).
    fn modules(&self, kernel: &Path) -> OsString {
        let kernel = format!("{} {}", kernel.display(), self.words());
        let initramfs = self.initramfs.iter().map(|initramfs| initramfs.display().to_string());
        let modules: Vec<_> =
            std::iter::once(kernel).chain(initramfs).map(|module| module.replace(',', ",,")).collect();
        modules.join(",").into()
    }

    /// Boots until the guest ends, and holds what it printed against the expectations. The log is
    /// kept in the cache.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started, the time runs out, or an expectation is not met; the message
    /// holds the end of the log and its path.
    pub fn boot(&self, name: &str, expectations: &Expectations) -> Result<String> {
        let path = cache::subdirectory("logs")?.join(format!("{name}.log"));
        let started = Instant::now();
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("monitor");
        let packed = self.packed(directory.path())?;
        let mut command = packed.as_ref().unwrap_or(self).command("stdio");
        if !self.commands.is_empty() {
            command.args(["-monitor", &format!("unix:{},server,nowait", socket.display())]);
        }
        let mut qemu = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let mut errors = qemu.0.stderr.take().context("QEMU's standard error")?;
        let lines = lines(&mut qemu.0)?;
        let (log, in_time) = self.collect(&lines, expectations, &socket)?;
        if in_time && self.last_line.is_none() {
            qemu.wait(FAREWELL)?;
        }
        drop(qemu);
        fs::write(&path, &log).with_context(|| format!("writing {}", path.display()))?;

        let mut complaint = String::new();
        errors.read_to_string(&mut complaint).context("QEMU's standard error")?;
        let verdict = expectations.check(&log);
        let verdict = if in_time {
            verdict
        } else {
            let late = format!("no end after {:.0} s", started.elapsed().as_secs_f64());
            Err(verdict.map_or_else(|error| error.context(late.clone()), |()| anyhow!(late.clone())))
        };
        verdict.with_context(|| {
            format!("boot {name}: {complaint}\n{}\nlog: {}", command::tail(&log, 40), path.display())
        })?;
        println!("boot {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
        Ok(log)
    }

    /// The log, and whether the guest ended before the time ran out.
    fn collect(&self, lines: &Receiver<String>, expectations: &Expectations, monitor: &Path) -> Result<(String, bool)> {
        let mut log = String::new();
        let mut deadline = Instant::now() + self.timeout;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if expectations.forbids(&line).is_some() {
                        deadline = deadline.min(Instant::now() + AFTERMATH);
                    }
                    for (_, command) in self.commands.iter().filter(|(text, _)| line.contains(text)) {
                        tell(monitor, command).with_context(|| format!("QEMU's monitor: {command}"))?;
                    }
                    log.push_str(&line);
                    log.push('\n');
                    if self.last_line.is_some_and(|last| line.starts_with(last)) {
                        return Ok((log, true));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok((log, true)),
                Err(RecvTimeoutError::Timeout) => return Ok((log, false)),
            }
        }
    }
}

/// Gives QEMU's monitor a command, and waits until it is done.
fn tell(monitor: &Path, command: &str) -> Result<()> {
    const PROMPT: &[u8] = b"(qemu) ";
    let mut monitor = UnixStream::connect(monitor)?;
    monitor.set_read_timeout(Some(Duration::from_secs(30)))?;
    let wait = |monitor: &mut UnixStream| -> Result<()> {
        let mut answer = Vec::new();
        while !answer.ends_with(PROMPT) {
            let mut byte = [0];
            monitor.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        Ok(())
    };
    wait(&mut monitor)?;
    monitor.write_all(format!("{command}\n").as_bytes())?;
    wait(&mut monitor)
}

/// A QEMU that is ended when this is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.spawn().map(Self).context("starting qemu-system-x86_64 through setpriv")
    }

    /// Waits for it to end by itself, but not longer than this.
    fn wait(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && self.0.try_wait().context("waiting for QEMU")?.is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of the serial console, as they come.
fn lines(qemu: &mut Child) -> Result<Receiver<String>> {
    let console = BufReader::new(qemu.stdout.take().context("QEMU's standard output")?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in console.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(machine: &Machine) -> Vec<String> {
        machine.command("stdio").get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    fn following<'a>(arguments: &'a [String], option: &str) -> &'a str {
        let at = arguments.iter().position(|argument| argument == option).expect("the option");
        &arguments[at + 1]
    }

    #[test]
    fn a_boot_that_does_not_end_fails_with_the_time_and_what_is_missing() {
        let machine = Machine { timeout: Duration::from_secs(1), ..Machine::firmware(Vec::new()) };
        let expectations = Expectations::read("nothing").unwrap();
        let error = format!("{:#}", machine.boot("nothing-to-boot", &expectations).unwrap_err());
        assert!(error.contains("no end after "), "{error}");
        assert!(error.contains(" s: after the start of the log, no line contains `Linux version 6.`"), "{error}");
    }

    /// A test that panics or is given up leaves no QEMU behind.
    #[test]
    fn qemu_ends_with_what_has_started_it() {
        let paused = || {
            let machine = Machine { options: vec!["-S".into()], ..Machine::firmware(Vec::new()) };
            Running::start(machine.command("null").stdin(Stdio::null())).unwrap()
        };
        let lives = |process: u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
        };
        // Before it becomes another program, the process has the name of this test.
        let is_qemu =
            |process: u32| fs::read_to_string(format!("/proc/{process}/comm")).unwrap().starts_with("qemu-system");
        let wait_until = |holds: &dyn Fn() -> bool| {
            for _ in 0..6000 {
                if holds() {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            panic!("a minute has gone by");
        };
        let dropped = paused();
        let number = dropped.0.id();
        wait_until(&|| is_qemu(number));
        drop(dropped);
        assert!(!lives(number));
        let forgotten = thread::spawn(move || {
            let running = paused();
            let number = running.0.id();
            wait_until(&|| is_qemu(number));
            std::mem::forget(running);
            number
        });
        let number = forgotten.join().unwrap();
        wait_until(&|| !lives(number));
    }

    #[test]
    fn below_xen_the_kernel_is_a_module_and_xen_has_memory_of_its_own() {
        let append = "earlyprintk=serial,keep".to_owned();
        let bare = Machine { append, ..Machine::new("/image", "/a,b") };
        let words = format!("{WORDS} earlyprintk=serial,keep");
        let of_bare = arguments(&bare);
        for (option, expected) in [("-m", "256"), ("-kernel", "/image"), ("-append", &words), ("-initrd", "/a,b")] {
            assert_eq!(following(&of_bare, option), expected);
        }
        let of_xen = arguments(&Machine { xen: Some("/xen".into()), ..bare });
        let modules = format!("/image {WORDS} earlyprintk=serial,,keep,/a,,b");
        let words = format!("{XEN_WORDS} dom0_mem=256M,max:256M");
        for (option, expected) in [("-m", "384"), ("-kernel", "/xen"), ("-append", &words), ("-initrd", &modules)] {
            assert_eq!(following(&of_xen, option), expected);
        }
    }
}
