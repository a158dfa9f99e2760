//! QEMU as a process: started, listened to, and ended, whatever ends us.
//!
//! QEMU sets the terminal to raw mode, and sets it back when it ends, but not when it is killed: so
//! it is asked to end (SIGTERM) before it is made to. That holds for our own end too. A signal that
//! would end us ends QEMU first; if we have not come to that after a while, because nobody reads
//! what the guest prints, it ends us. For an end that leaves us no time QEMU has a parent-death
//! signal ([`parent_death`]): one that nothing can put off, unless it has a terminal to set back.

use std::ffi::OsString;
use std::io::{Read as _, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use super::console::Console;
use super::parent_death;

/// What the console holds back is shown after this much silence.
const SILENCE: Duration = Duration::from_millis(50);

/// The wedge has stopped the machine if this much silence follows its last word.
const LONG_SILENCE: Duration = Duration::from_secs(2);

/// How long the guest may take to end after its last word, and QEMU after the guest: its plugins
/// write what they have counted then.
const FAREWELL: Duration = Duration::from_secs(20);

/// How long QEMU may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long we may take to end after a signal.
const RESPITE: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By itself.
    Ended(ExitStatus),
    /// The time was up.
    TimedOut,
    /// The wedge stopped the machine.
    Stopped,
    /// We got this signal.
    Signal(i32),
}

enum Event {
    Output(Vec<u8>),
    Closed,
    Signal(i32),
}

/// Runs QEMU to its end, its console going through `console` to `out`.
pub(crate) fn watch(
    program: &Path,
    arguments: &[OsString],
    terminal: bool,
    timeout: Option<Duration>,
    (console, out): (&mut Console, &mut dyn Write),
) -> anyhow::Result<Outcome> {
    let mut deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let (sender, events) = mpsc::channel();
    let _signals = Interruptions::catch(sender.clone()).context("cannot catch signals")?;
    let mut qemu = Qemu::start(program, arguments, terminal)?;
    qemu.listen(sender);
    loop {
        let until_deadline = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let patience = until_deadline.unwrap_or(Duration::from_secs(3600));
        let silence = match (console.holds_back(), console.has_stopped()) {
            (true, _) => SILENCE,
            (false, true) => LONG_SILENCE,
            (false, false) => patience,
        };
        let patience = patience.min(silence);
        match events.recv_timeout(patience) {
            Ok(Event::Output(bytes)) => {
                console.take(&bytes, out).context("cannot write what the guest printed")?;
                if console.verdict().is_some() {
                    let last = Instant::now() + FAREWELL;
                    deadline = Some(deadline.map_or(last, |deadline| deadline.min(last)));
                }
            }
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => {
                console.show_all(out).context("cannot write what the guest printed")?;
                return qemu.wait(FAREWELL).map(|status| status.map_or(Outcome::TimedOut, Outcome::Ended));
            }
            Ok(Event::Signal(signal)) => return Ok(Outcome::Signal(signal)),
            Err(RecvTimeoutError::Timeout) if until_deadline.is_some_and(|left| left <= patience) => {
                return Ok(Outcome::TimedOut);
            }
            Err(RecvTimeoutError::Timeout) if console.has_stopped() => return Ok(Outcome::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                console.show_all(out).context("cannot write what the guest printed")?;
            }
        }
    }
}

/// A running QEMU; it ends when this is dropped.
struct Qemu {
    child: Child,
    console: Option<ChildStdout>,
}

impl Qemu {
    fn start(program: &Path, arguments: &[OsString], terminal: bool) -> anyhow::Result<Self> {
        let mut command = parent_death::command(program, if terminal { Signal::TERM } else { Signal::KILL });
        let input = if terminal { Stdio::inherit() } else { Stdio::null() };
        command.args(arguments).stdin(input).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let console = child.stdout.take();
        Ok(Self { child, console })
    }

    /// Has the console read by a thread of its own.
    fn listen(&mut self, events: Sender<Event>) {
        let Some(mut console) = self.console.take() else { return };
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                if events.send(Event::Output(buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Closed);
        });
    }

    /// Its status, if it ends in this time.
    fn wait(&mut self, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.child.try_wait().context("cannot wait for QEMU")?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Not waited for yet, so the number is still its own.
            let asked = kill_process(Pid::from_child(&self.child), Signal::TERM).is_ok();
            if !asked || !matches!(self.wait(PATIENCE), Ok(Some(_))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// The signals that would end us, as events.
struct Interruptions(Handle);

impl Interruptions {
    fn catch(events: Sender<Event>) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        let handle = signals.handle();
        thread::spawn(move || {
            for signal in signals.forever() {
                let _ = events.send(Event::Signal(signal));
                thread::sleep(RESPITE);
                let _ = emulate_default_handler(signal);
            }
        });
        Ok(Self(handle))
    }
}

impl Drop for Interruptions {
    fn drop(&mut self) {
        self.0.close();
    }
}
