//! The end of a build before its time.
//!
//! A signal to the whole group, as Ctrl-C sends it, reaches make and all that make runs. One to
//! this process alone must end all of them as well: a compiler that goes on would race with the
//! next build. GNU make passes SIGTERM on to its recipes only, no other signal, and not to what
//! they run. So everything below this process is told, and what loses its parent comes to this
//! process, not to init (`PR_SET_CHILD_SUBREAPER`). Make stays in the group of this process: job
//! control works as ever.
//!
//! A signal that nobody can catch ends make by its parent-death signal, which `setpriv`
//! (util-linux) sets: to set it from here would need code between fork and exec, which is unsafe.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::tool;

/// How long what was told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often new processes are looked for meanwhile.
const PERIOD: Duration = Duration::from_millis(20);

/// Waits for a signal that would end this process, and ends what is below it.
pub(super) struct Interruption {
    signal: Arc<AtomicI32>,
    is_over: Arc<AtomicBool>,
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Interruption {
    /// From now on such signals are caught, but for those that were ignored when this process
    /// started (`nohup`, and SIGINT of what a shell runs in the background).
    pub(super) fn catch() -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        let ignored = ignored();
        let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let mut signals = Signals::new(caught)?;
        let handle = signals.handle();
        let (signal, is_over) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (signal, is_over) = (Arc::clone(&signal), Arc::clone(&is_over));
            move || {
                if let Some(caught) = signals.forever().next() {
                    signal.store(caught, Ordering::SeqCst);
                    end_all(caught, &is_over);
                }
            }
        });
        Ok(Self { signal, is_over, handle, thread })
    }

    /// Whether there was a signal.
    pub(super) fn has_come(&self) -> bool {
        self.signal.load(Ordering::SeqCst) != 0
    }

    /// Ends this process by the signal that there was, if there was one and everything else has
    /// ended.
    pub(super) fn finish(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.handle.close();
        let _ = self.thread.join();
        let signal = self.signal.load(Ordering::SeqCst);
        if signal != 0 {
            let _ = emulate_default_handler(signal);
        }
    }
}

/// A command that ends when this process does.
pub(super) fn bound(words: &[OsString]) -> Command {
    let Some((program, arguments)) = words.split_first() else { return Command::new("make") };
    let setpriv = |program: &OsStr| {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program);
        command
    };
    // Some have a setpriv without that option; and what cannot be run is to be found missing by
    // this process.
    let trial = setpriv("true".as_ref()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = tool::search(program).is_some_and(|path| path.is_file());
    let can_be_bound = is_there && trial.is_ok_and(|status| status.success());
    let mut command = if can_be_bound { setpriv(program) } else { Command::new(program) };
    command.args(arguments);
    command
}

/// The signals that this process ignores, as bits (proc(5), `/proc/pid/status`).
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Tells each process below this one once, then kills what takes too long, until `is_over` and
/// there is none.
fn end_all(signal: i32, is_over: &AtomicBool) {
    let deadline = Instant::now() + PATIENCE;
    let signal = Signal::from_named_raw(signal).unwrap_or(Signal::TERM);
    let mut told = HashSet::new();
    loop {
        let was_over = is_over.load(Ordering::SeqCst);
        let below = below();
        if was_over && below.is_empty() {
            return;
        }
        let signal = if Instant::now() < deadline { signal } else { Signal::KILL };
        for pid in below {
            if told.insert((pid, signal == Signal::KILL)) {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
            }
        }
        thread::sleep(PERIOD);
    }
}

/// The running processes below this one.
fn below() -> Vec<i32> {
    let mut children = BTreeMap::<i32, Vec<(i32, bool)>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let stat = fs::read(entry.path().join("stat")).ok();
        if let (Some(pid), Some((parent, is_running))) = (pid, stat.as_deref().and_then(parent)) {
            children.entry(parent).or_default().push((pid, is_running));
        }
    }
    let mut open = vec![process::id().cast_signed()];
    let mut below = Vec::new();
    while let Some(parent) = open.pop() {
        for (pid, is_running) in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            below.extend(is_running.then_some(pid));
        }
    }
    below
}

/// The parent of a process, and whether it runs (proc(5), `/proc/pid/stat`; the name in it may hold
/// anything).
fn parent(stat: &[u8]) -> Option<(i32, bool)> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace();
    let state = fields.next()?;
    Some((fields.next()?.parse().ok()?, !matches!(state, "Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_whatever_the_name() {
        assert_eq!(parent(b"7 (a) S (b) R 3 7 7 0"), Some((3, true)));
        assert_eq!(parent(b"7 (\xff) Z 3 7 7 0"), Some((3, false)));
        assert_eq!(parent(b"7 (x"), None);
        assert_eq!(parent(b"7 (x) S"), None);
    }

    #[test]
    fn children_are_below() -> io::Result<()> {
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let pid = child.id().cast_signed();
        assert!(below().contains(&pid));
        child.kill()?;
        child.wait()?;
        assert!(!below().contains(&pid));
        Ok(())
    }
}
