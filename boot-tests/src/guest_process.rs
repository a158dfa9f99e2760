//! Guests that are processes of the build machine, seen from outside: what they say, what other
//! processes they have, and how all of them end.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// A guest, by its processes.
#[derive(Debug)]
pub struct GuestProcess {
    process: Child,
    log: tempfile::NamedTempFile,
}

impl GuestProcess {
    /// Starts one whose programs come and go without an end.
    ///
    /// # Errors
    ///
    /// When it does not say that they do.
    pub fn start(image: &Path, initramfs: &Path) -> Result<Self> {
        Self::start_with(image, initramfs, &[])
    }

    /// The same, with options of the image.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn start_with(image: &Path, initramfs: &Path, options: &[&str]) -> Result<Self> {
        Self::start_saying(image, initramfs, options, "forks: begins")
    }

    /// Starts one, and waits until it says something.
    ///
    /// # Errors
    ///
    /// When it does not, within a minute.
    pub fn start_saying(image: &Path, initramfs: &Path, options: &[&str], first: &str) -> Result<Self> {
        Self::start_by(Command::new(image), initramfs, options, first)
    }

    /// Starts one where Linux allows its user some twelve processes: another user's if this one may
    /// do anything, and is not counted.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn start_among_few(image: &Path, initramfs: &Path, first: &str) -> Result<Self> {
        const FEW: usize = 12;
        const OTHER: &str = "54321";
        let place = tempfile::tempdir()?;
        fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
        let [image, initramfs] =
            [("image", image, 0o755), ("initramfs", initramfs, 0o644)].map(|(name, from, mode)| {
                let to = place.path().join(name);
                fs::copy(from, &to)?;
                fs::set_permissions(&to, Permissions::from_mode(mode))?;
                anyhow::Ok(to)
            });
        let user = fs::metadata("/proc/self")?.uid();
        let count = if user == 0 { 0 } else { processes_of(user)? };
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={}", count + FEW));
        if user == 0 {
            let ids = [format!("--reuid={OTHER}"), format!("--regid={OTHER}")];
            command.arg("setpriv").args(ids).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        }
        command.arg(image?);
        Self::start_by(command, &initramfs?, &[], first)
    }

    fn start_by(mut command: Command, initramfs: &Path, options: &[&str], first: &str) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        command.args(options).args(["--memory", "128", "--initrd"]).arg(initramfs).args([
            "quiet",
            "panic=-1",
            "printk.devkmsg=on",
        ]);
        let output: File = log.reopen()?;
        let process = command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output).spawn()?;
        let guests = Self { process, log };
        guests.wait_for(first, 1)?;
        Ok(guests)
    }

    /// What it has said so far.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log.path())?).into_owned())
    }

    /// Waits until it has said something so many times.
    ///
    /// # Errors
    ///
    /// When it has not, within a minute.
    pub fn wait_for(&self, what: &str, times: usize) -> Result<()> {
        let start = Instant::now();
        while self.said()?.matches(what).count() < times {
            ensure!(start.elapsed() < Duration::from_secs(60), "not {times} times `{what}`:\n{}", self.said()?);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether its programs, which come and go, still do.
    ///
    /// # Errors
    ///
    /// When they do not.
    pub fn goes_on(&self) -> Result<()> {
        let already = self.said()?.matches("forks: alive").count();
        self.wait_for("forks: alive", already + 2)
    }

    /// The number of its kernel's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The processes that its programs run in.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn stubs(&self) -> Result<Vec<String>> {
        let id = self.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        Ok(children.split_whitespace().map(str::to_owned).collect())
    }

    /// The memory of its guest.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn memory(&self) -> Result<File> {
        for descriptor in fs::read_dir(format!("/proc/{}/fd", self.id()))? {
            let path = descriptor?.path();
            if fs::read_link(&path)?.as_os_str() == "/memfd:afterburner guest (deleted)" {
                return Ok(File::options().write(true).open(path)?);
            }
        }
        bail!("its memory is not open");
    }

    /// Ends it as nothing can prevent, and waits until processes that it has started are gone.
    ///
    /// # Errors
    ///
    /// When they are not, within a minute.
    pub fn kill(self, others: &[String]) -> Result<()> {
        kill("KILL", &[self.id().to_string()])?;
        self.end()?;
        let start = Instant::now();
        while others.iter().any(runs) {
            ensure!(start.elapsed() < Duration::from_secs(60), "killed: other processes are left");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// How it ends, within a minute.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn end(mut self) -> Result<(Option<i32>, String)> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok((status.code(), self.said()?));
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "it does not end:\n{}", self.said()?);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How many processes a user has.
fn processes_of(user: u32) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        let tasks = entry?.path().join("task");
        let is_users = fs::metadata(&tasks).is_ok_and(|metadata| metadata.uid() == user);
        count += if is_users { fs::read_dir(&tasks).map_or(0, Iterator::count) } else { 0 };
    }
    Ok(count)
}

/// Sends a signal.
///
/// # Errors
///
/// When there is no such process.
pub fn kill(signal: &str, processes: &[String]) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).args(processes).status()?;
    ensure!(status.success(), "kill -{signal} {processes:?}: {status}");
    Ok(())
}

/// Whether a process is there, and has not ended.
#[must_use]
pub fn runs(process: &String) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}
