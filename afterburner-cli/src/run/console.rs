//! The guest's console: what it shows goes on to the user as it comes, what the guest's init says
//! to us does not.
//!
//! Lines end with a mere newline: the guest's terminal has put a carriage return before it, and so
//! does the user's, if it is one.
//!
//! A message from init is a record of the kernel's log, on a line of the console:
//!
//! ```text
//! [    0.712022] MARK status 3
//! ```
//!
//! The kernel writes a record in one piece, but not always at the start of a line: a program may
//! have printed half of one. So a message starts where the kernel's time stamp does, wherever in a
//! line that is, and ends with the line. Before a line is complete, what could still become a
//! message is held back; but a user who types `[` wants to see it, so after a moment of silence
//! ([`Console::show_all`]) it is shown.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write};

/// A line that was shown is remembered up to this length, for what may follow it.
const LONGEST: usize = 1 << 16;

/// The wedge's last word, when it refuses to go on. It cannot end the machine: on real hardware
/// somebody has to read why.
const LAST_WORD: &[u8] = b"afterburner: stopped";

/// What every line of the wedge's starts with.
const WEDGE: &[u8] = b"afterburner: ";

/// The last words of seL4 when it does not come to its root task, and the first of several when that
/// has come upon a fault which nobody is told of (`handleDoubleFault`).
const HALTING: [&[u8]; 2] = [b"halting...", b"Huge page not supported by the processor"];
const FAULT: &[u8] = b"Caught cap fault in send phase";

/// Whose console it is until the wedge says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The guest's.
    Guest,
    /// seL4's, which does not end the machine when it cannot go on.
    SeL4,
}

/// What init puts before a message. It depends on the command, so that it is the same in every run
/// and yet not in the output of another.
pub(crate) fn mark(command: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    command.hash(&mut hasher);
    format!("afterburner-{:016x} ", hasher.finish())
}

/// The console.
#[derive(Debug)]
pub(crate) struct Console {
    mark: Option<String>,
    /// What came since the last newline.
    line: Vec<u8>,
    /// So much of it was shown.
    shown: usize,
    /// What init said.
    messages: Vec<String>,
    /// Whether the last line was the wedge's last word.
    stopped: bool,
    /// Whose the console is, as long as it is,
    first: First,
    /// and whether that has said that it does not go on.
    failed: bool,
}

impl Console {
    /// A console with messages that start with `mark`, if there are any.
    pub(crate) fn new(mark: Option<String>, first: First) -> Self {
        Self { mark, line: Vec::new(), shown: 0, messages: Vec::new(), stopped: false, first, failed: false }
    }

    /// What init said.
    pub(crate) fn messages(&self) -> &[String] {
        &self.messages
    }

    /// The status that the command ended with.
    pub(crate) fn verdict(&self) -> Option<u8> {
        self.messages.iter().find_map(|message| message.strip_prefix("status ")?.parse().ok())
    }

    /// Takes what came from the guest, and shows what is to be shown.
    pub(crate) fn take(&mut self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line(out)?;
            } else {
                self.show(self.doubtful_from(), out)?;
            }
        }
        out.flush()
    }

    /// Whether the wedge has stopped the machine, if nothing more comes, or never came to it.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped && self.line.is_empty() || self.has_not_begun()
    }

    /// Whether seL4 has stopped in front of the wedge, if nothing more comes.
    pub(crate) fn has_not_begun(&self) -> bool {
        self.first == First::SeL4 && (self.failed || self.is_halting())
    }

    /// Whether the line ends with last words of seL4's. In front of them there may be what the
    /// machine has written before seL4 came.
    fn is_halting(&self) -> bool {
        // The last one ends with a NUL.
        let line = self.line.strip_suffix(b"\0").unwrap_or(&self.line).trim_ascii_end();
        HALTING.iter().any(|words| line.ends_with(words))
    }

    /// Whether the wedge has said nothing yet.
    pub(crate) fn is_before_the_wedge(&self) -> bool {
        self.first == First::SeL4
    }

    /// Whether something is held back.
    pub(crate) fn holds_back(&self) -> bool {
        self.shown < self.line.len()
    }

    /// Shows what was held back.
    pub(crate) fn show_all(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.show(self.line.len(), out)?;
        out.flush()
    }

    fn show(&mut self, until: usize, out: &mut dyn Write) -> io::Result<()> {
        if let Some(bytes) = self.line.get(self.shown..until) {
            out.write_all(bytes)?;
            self.shown = until;
        }
        if self.shown == self.line.len() && self.shown > LONGEST {
            self.forget_line();
        }
        Ok(())
    }

    fn forget_line(&mut self) {
        self.line.clear();
        self.shown = 0;
    }

    fn end_line(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.stopped = self.line.trim_ascii() == LAST_WORD;
        self.failed |= self.line.trim_ascii_start().starts_with(FAULT) || self.is_halting();
        if self.line.trim_ascii_start().starts_with(WEDGE) {
            self.first = First::Guest;
        }
        if let Some((start, message)) = self.message() {
            self.messages.push(message);
            self.show(start, out)?;
        } else {
            let end = self.line.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
            self.show(end, out)?;
            out.write_all(b"\n")?;
        }
        self.forget_line();
        Ok(())
    }

    /// The message in a complete line, and where it starts.
    fn message(&self) -> Option<(usize, String)> {
        let mark = self.mark.as_ref()?.as_bytes();
        let at = self.line.windows(mark.len()).position(|window| window == mark)?;
        let text = String::from_utf8_lossy(&self.line[at + mark.len()..]);
        Some((stamp_start(&self.line[..at]), text.trim_end().to_owned()))
    }

    /// From where on an incomplete line may be part of a message, or of the end of the line.
    fn doubtful_from(&self) -> usize {
        let mark = self.mark.as_deref().unwrap_or_default().as_bytes();
        let rest = &self.line[self.shown..];
        let doubtful = (0..rest.len()).find(|&start| {
            let rest = &rest[start..];
            rest.iter().all(|byte| *byte == b'\r') || !mark.is_empty() && may_become_message(rest, mark)
        });
        self.shown + doubtful.unwrap_or(rest.len())
    }
}

/// The characters between the brackets of a time stamp, and of the name of the task or CPU that may
/// follow it (`print_prefix`, kernel/printk/printk.c): `[ 0.712022][ T1] `.
fn is_of_stamp(byte: u8) -> bool {
    byte.is_ascii_digit() || b" .TC".contains(&byte)
}

/// Where the stamp at the end of this text starts: at its end, if there is none.
fn stamp_start(text: &[u8]) -> usize {
    let mut start = text.len();
    let mut rest = text.strip_suffix(b" ").unwrap_or_default();
    while let Some(inner) = rest.strip_suffix(b"]") {
        let Some(open) = inner.iter().rposition(|byte| *byte == b'[') else { break };
        if !inner[open + 1..].iter().copied().all(is_of_stamp) {
            break;
        }
        start = open;
        rest = &inner[..open];
    }
    start
}

fn may_become_message(text: &[u8], mark: &[u8]) -> bool {
    let mut rest = text;
    while let Some(inner) = rest.strip_prefix(b"[") {
        let stamp = inner.iter().take_while(|byte| is_of_stamp(**byte)).count();
        match inner.get(stamp) {
            None => return true,
            Some(b']') => rest = &inner[stamp + 1..],
            Some(_) => return false,
        }
    }
    if rest.len() < text.len() {
        rest = rest.strip_prefix(b" ").unwrap_or(rest);
    }
    mark.starts_with(rest) || rest.starts_with(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "afterburner-0123 ";

    /// What is shown, and what init said, when the text comes in pieces of this size.
    fn relay(text: &str, size: usize) -> (String, Vec<String>) {
        let mut console = Console::new(Some(MARK.to_owned()), First::Guest);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            console.take(piece, &mut out).expect("memory");
        }
        console.show_all(&mut out).expect("memory");
        (String::from_utf8(out).expect("text"), console.messages().to_vec())
    }

    #[test]
    fn messages_are_heard_and_not_shown() {
        let said = |status: &str| vec![format!("status {status}")];
        for (console, shown, messages) in [
            ("hello\r\n[    0.712022] afterburner-0123 status 3\r\n", "hello\n", said("3")),
            ("[    0.712022][    T1] afterburner-0123 status 3\r\nafter\r\n", "after\n", said("3")),
            ("afterburner-0123 status 0\n", "", said("0")),
            ("half[   10.712022] afterburner-0123 status 3\r\n", "half", said("3")),
            ("$ [ [    1.5] afterburner-0123 status 3\r\n", "$ [ ", said("3")),
            ("x] afterburner-0123 status 3\r\n", "x] ", said("3")),
            ("[    0.7] afterburner-4567 status 3\r\n", "[    0.7] afterburner-4567 status 3\n", vec![]),
            ("[    0.7] Kernel panic\r\r\n[    0.8] Rebooting", "[    0.7] Kernel panic\n[    0.8] Rebooting", vec![]),
            ("afterburner-0123 status 3", "afterburner-0123 status 3", vec![]),
            ("a\rb\r\n \r\n", "a\rb\n \n", vec![]),
        ] {
            for size in [1, 2, 7, 1000] {
                assert_eq!(relay(console, size), (shown.to_owned(), messages.clone()), "{console:?} by {size}");
            }
        }
    }

    #[test]
    fn the_verdict_is_a_status() {
        for (messages, verdict) in [
            (&["status 3"] as &[&str], Some(3)),
            (&["zero ended 0 1", "status 255"], Some(255)),
            (&["status"], None),
            (&["status 256"], None),
            (&["status x"], None),
            (&["zero: status 3"], None),
            (&[], None),
        ] {
            let mut console = Console::new(Some(MARK.to_owned()), First::Guest);
            for message in messages {
                let line = format!("[ 0.1] {MARK}{message}\r\n");
                console.take(line.as_bytes(), &mut io::sink()).expect("nothing to fail");
            }
            assert_eq!(console.verdict(), verdict, "{messages:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_message_is_shown_at_once() {
        for (text, shown) in [
            ("guest# ", "guest# "),
            ("guest# [", "guest# "),
            ("[ -e x", "[ -e x"),
            ("[    0.7", ""),
            ("[    0.7] Linux", "[    0.7] Linux"),
            ("[    0.7] aft", ""),
            ("x\r", "x"),
        ] {
            let mut console = Console::new(Some(MARK.to_owned()), First::Guest);
            let mut out = Vec::new();
            console.take(text.as_bytes(), &mut out).expect("memory");
            assert_eq!(out, shown.as_bytes(), "{text:?}");
            assert_eq!(console.holds_back(), text != shown);
        }
    }

    #[test]
    fn the_wedge_has_stopped_if_its_last_word_is_the_last() {
        for (text, stopped) in [
            ("afterburner: damaged\r\nafterburner: stopped\r\n", true),
            ("afterburner: stopped\r\nand on\r\n", false),
            ("afterburner: stopped\r\n$ ", false),
            ("afterburner: stopped", false),
            ("not afterburner: stopped\r\n", false),
        ] {
            let mut console = Console::new(None, First::Guest);
            console.take(text.as_bytes(), &mut io::sink()).expect("nothing to fail");
            assert_eq!(console.has_stopped(), stopped, "{text:?}");
        }
    }

    #[test]
    fn sel4_has_stopped_if_it_says_so_before_the_wedge_says_anything() {
        let fault = "Caught cap fault in send phase at address 0x0\r\nwhile trying to handle:\r\n0x1: 0x0\r\n";
        for (text, below, stopped) in [
            ("lies outside of usable physical memory\r\nhalting...", First::SeL4, true),
            ("halting...\r\n", First::SeL4, true),
            ("Huge page not supported by the processor ", First::SeL4, true),
            ("\u{1b}c\u{1b}[?7lHuge page not supported by the processor\0", First::SeL4, true),
            (fault, First::SeL4, true),
            (&format!("\n\r{fault}"), First::SeL4, true),
            (&fault[..20], First::SeL4, false),
            (fault, First::Guest, false),
            ("halting...", First::Guest, false),
            (&format!("afterburner: backend l4\r\n{fault}"), First::SeL4, false),
            ("afterburner: backend l4\r\nhalting...", First::SeL4, false),
            ("Booting all finished, dropped to user space\r\n", First::SeL4, false),
        ] {
            let mut console = Console::new(None, below);
            console.take(text.as_bytes(), &mut io::sink()).expect("nothing to fail");
            assert_eq!((console.has_stopped(), console.has_not_begun()), (stopped, stopped), "{text:?}");
        }
    }

    #[test]
    fn a_message_is_heard_though_its_start_was_shown() {
        let mut console = Console::new(Some(MARK.to_owned()), First::Guest);
        let mut out = Vec::new();
        console.take(b"[    0.7] after", &mut out).expect("memory");
        console.show_all(&mut out).expect("memory");
        console.take(b"burner-0123 status 4\r\nend\r\n", &mut out).expect("memory");
        assert_eq!((console.verdict(), out.as_slice()), (Some(4), b"[    0.7] afterend\n".as_slice()));
    }
}
