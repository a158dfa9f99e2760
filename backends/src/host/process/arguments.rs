//! What the image is told when it is started as a program.

use core::ffi::CStr;
use core::fmt;

use wedge::loader::command_line::SIZE;
use wedge::platform::virtio::{MOST_DISKS, MOST_SHARES};

/// Memory of the guest in MB, unless it is said.
const MEMORY: u64 = 256;
/// With less not even a small kernel starts.
const LEAST: u64 = 32;

/// What is said of the way to say it.
pub(super) const USAGE: &str = "usage: IMAGE [--memory MB] [--initrd FILE] [--disk FILE[,ro|,snapshot]]... [--net user|tap:NAME] \
    [--share DIR[,ro]]... [--fast] [WORD...]\r\n\
    Words are added to the kernel's command line. The guest's serial port is standard input and output.\r\n\
    --fast runs the guest's programs in the process of its kernel: all of it is one trust domain then.\r\n";

/// The name of a file, which Linux does not want to be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a>(pub(super) &'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            if chunk.invalid().is_empty() { Ok(()) } else { f.write_str("\u{fffd}") }
        })
    }
}

/// What becomes of what the guest writes to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// It goes to the file.
    Kept,
    /// It is refused.
    Refused,
    /// It is there until the guest ends.
    Forgotten,
}

/// A disk of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskFile<'a> {
    /// The file that it is in.
    pub(super) name: Name<'a>,
    /// What becomes of what is written to it.
    pub(super) writes: Writes,
}

impl<'a> DiskFile<'a> {
    /// Reads what was said: a name, and what is behind its last comma if that is a word about it.
    fn parse(text: &'a CStr) -> Self {
        let words = [(",rw", Writes::Kept), (",ro", Writes::Refused), (",snapshot", Writes::Forgotten)];
        let (name, writes) = name_and_word(text, &words).unwrap_or((Name(text.to_bytes()), Writes::Kept));
        Self { name, writes }
    }
}

/// A name, and what is behind its last comma if that is one of some words.
fn name_and_word<'a, T: Copy>(text: &'a CStr, words: &[(&str, T)]) -> Option<(Name<'a>, T)> {
    let strip = |(word, meaning): &(&str, T)| Some((Name(text.to_bytes().strip_suffix(word.as_bytes())?), *meaning));
    words.iter().find_map(strip)
}

/// The name of an interface may have so many bytes, with the 0 at its end (`IFNAMSIZ`).
pub(super) const INTERFACE_LENGTH: usize = 16;

/// The name of an interface, with zeros behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interface(pub(super) [u8; INTERFACE_LENGTH]);

impl Interface {
    fn parse(text: &str) -> Option<Self> {
        let mut name = [0; INTERFACE_LENGTH];
        let is_possible = (1..INTERFACE_LENGTH).contains(&text.len());
        name.get_mut(..text.len()).filter(|_| is_possible)?.copy_from_slice(text.as_bytes());
        Some(Self(name))
    }
}

/// A network of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Net {
    /// By a program of the user's.
    User,
    /// By a TAP interface.
    Tap(Interface),
}

impl Net {
    fn parse(text: &str) -> Result<Self, Invalid<'_>> {
        match (text, text.strip_prefix("tap:")) {
            ("user", _) => Ok(Self::User),
            (_, Some(name)) => Interface::parse(name).map(Self::Tap).ok_or(Invalid::Interface(name)),
            _ => Err(Invalid::Network(text)),
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => write!(f, "--net user"),
            Self::Tap(Interface(name)) => {
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                write!(f, "--net tap:{}", Name(name))
            }
        }
    }
}

/// The disks of a guest, the first first.
pub(super) type DiskFiles<'a> = [Option<DiskFile<'a>>; MOST_DISKS];

/// A directory that the guest shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Directory<'a> {
    pub(super) name: Name<'a>,
    /// The guest cannot change anything in it.
    pub(super) read_only: bool,
}

impl<'a> Directory<'a> {
    /// Reads what was said, likewise.
    fn parse(text: &'a CStr) -> Self {
        let said = name_and_word(text, &[(",rw", false), (",ro", true)]);
        let (name, read_only) = said.unwrap_or((Name(text.to_bytes()), false));
        Self { name, read_only }
    }
}

/// The directories of a guest, the first first.
pub(super) type Directories<'a> = [Option<Directory<'a>>; MOST_SHARES];

/// The arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a> {
    /// Memory of the guest in MB.
    pub(super) memory: u64,
    /// An initramfs that goes over the image's own.
    pub(super) initrd: Option<&'a CStr>,
    /// Its disks.
    pub(super) disks: DiskFiles<'a>,
    /// Its network.
    pub(super) network: Option<Net>,
    /// The directories that it shares.
    pub(super) shares: Directories<'a>,
    /// Its programs run in this process, too: nothing keeps them from the kernel or the wedge.
    pub(super) fast: bool,
    words: [u8; SIZE],
    length: usize,
}

/// Arguments that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invalid<'a> {
    /// There is no such option.
    Unknown(&'a str),
    /// An option has no value.
    NoValue(&'a str),
    /// This is no size of memory, in MB, up to so many.
    Memory(&'a str, u64),
    /// There are more disks.
    Disks,
    /// There are more directories.
    Shares,
    /// There is no such network.
    Network(&'a str),
    /// No interface can have this name.
    Interface(&'a str),
    /// An argument is not UTF-8.
    Text,
    /// The words are more than the kernel reads.
    TooLong,
}

impl fmt::Display for Invalid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => {
                write!(f, "{option}: no such option; there are --memory, --initrd, --disk, --net, --share and --fast")
            }
            Self::NoValue(option) => write!(f, "{option}: a value is missing"),
            Self::Memory(value, most) => write!(f, "--memory {value}: not a number of MB from {LEAST} to {most}"),
            Self::Disks => write!(f, "--disk: there may be {MOST_DISKS} disks"),
            Self::Shares => write!(f, "--share: there may be {MOST_SHARES} directories"),
            Self::Network(value) => {
                write!(f, "--net {value}: there is no such network; there are `user` and `tap:NAME`")
            }
            Self::Interface(name) => {
                write!(f, "--net tap:{name}: the name of an interface has 1 to {} bytes", INTERFACE_LENGTH - 1)
            }
            Self::Text => write!(f, "an argument is not UTF-8"),
            Self::TooLong => write!(f, "the words have more than the {} bytes that a kernel reads", SIZE - 1),
        }
    }
}

impl<'a> Arguments<'a> {
    /// Reads what follows on the program's name. There may be so many MB of memory.
    ///
    /// # Errors
    ///
    /// When it is not understood.
    pub(super) fn parse(arguments: impl Iterator<Item = &'a CStr>, most: u64) -> Result<Self, Invalid<'a>> {
        let mut parsed = Self {
            memory: MEMORY,
            initrd: None,
            disks: [None; _],
            network: None,
            shares: [None; _],
            fast: false,
            words: [0; SIZE],
            length: 0,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let text = argument.to_str().map_err(|_| Invalid::Text)?;
            match text {
                "--memory" => {
                    let value = arguments.next().ok_or(Invalid::NoValue(text))?;
                    parsed.memory = megabytes(value.to_str().map_err(|_| Invalid::Text)?, most)?;
                }
                "--initrd" => parsed.initrd = Some(arguments.next().ok_or(Invalid::NoValue(text))?),
                "--disk" => {
                    let value = arguments.next().ok_or(Invalid::NoValue(text))?;
                    let free = parsed.disks.iter_mut().find(|disk| disk.is_none());
                    *free.ok_or(Invalid::Disks)? = Some(DiskFile::parse(value));
                }
                "--share" => {
                    let value = arguments.next().ok_or(Invalid::NoValue(text))?;
                    let free = parsed.shares.iter_mut().find(|share| share.is_none());
                    *free.ok_or(Invalid::Shares)? = Some(Directory::parse(value));
                }
                "--net" => {
                    let value = arguments.next().ok_or(Invalid::NoValue(text))?;
                    parsed.network = Some(Net::parse(value.to_str().map_err(|_| Invalid::Text)?)?);
                }
                "--fast" if parsed.length == 0 => parsed.fast = true,
                // What is behind `--` is for init.
                _ if text.starts_with("--") && text.len() > 2 && parsed.length == 0 => {
                    return Err(Invalid::Unknown(text));
                }
                _ => parsed.add(text)?,
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, word: &str) -> Result<(), Invalid<'a>> {
        let blank = if self.length == 0 { "" } else { " " };
        for part in [blank, word] {
            let end = self.length + part.len();
            let place = self.words.get_mut(self.length..end).ok_or(Invalid::TooLong)?;
            place.copy_from_slice(part.as_bytes());
            self.length = end;
        }
        Ok(())
    }

    /// Words for the kernel.
    pub(super) fn words(&self) -> &str {
        core::str::from_utf8(&self.words[..self.length]).unwrap_or_default()
    }
}

fn megabytes(text: &str, most: u64) -> Result<u64, Invalid<'_>> {
    let number = text.parse().ok().filter(|number| (LEAST..=most).contains(number));
    number.ok_or(Invalid::Memory(text, most))
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::string::ToString as _;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn options_and_words_are_told_apart() {
        for (arguments, expected) in [
            (&[][..], (256, None, "")),
            (&["--memory", "64", "quiet"], (64, None, "quiet")),
            (&["a=b", "--initrd", "/file", "c"], (256, Some("/file"), "a=b c")),
            (&["--", "single"], (256, None, "-- single")),
            (&["init=/bin/sh", "--", "--help"], (256, None, "init=/bin/sh -- --help")),
        ] {
            let arguments: Vec<_> = arguments.iter().map(|text| CString::new(*text).unwrap()).collect();
            let parsed = Arguments::parse(arguments.iter().map(CString::as_c_str), 1024).unwrap();
            let initrd = parsed.initrd.map(|name| name.to_str().unwrap());
            assert_eq!((parsed.memory, initrd, parsed.words()), expected);
        }
    }

    #[test]
    fn a_disk_is_a_file_and_a_word_about_it() {
        for (text, name, writes) in [
            (c"/disk", "/disk", Writes::Kept),
            (c"disk,ro", "disk", Writes::Refused),
            (c"disk,rw", "disk", Writes::Kept),
            (c"disk,snapshot", "disk", Writes::Forgotten),
            (c"a,b", "a,b", Writes::Kept),
            (c"disk,ro,rw", "disk,ro", Writes::Kept),
            (c",ro", "", Writes::Refused),
            (c"\xff,ro", "\u{fffd}", Writes::Refused),
        ] {
            let arguments = [c"--disk", c"first", c"--disk", text];
            let disks = Arguments::parse(arguments.into_iter(), 1024).unwrap().disks;
            assert!(disks[0].is_some_and(|disk| disk.name == Name(b"first") && disk.writes == Writes::Kept));
            let second = disks[1].map(|disk| (disk.name.to_string(), disk.writes));
            assert_eq!((second, disks[2]), (Some((name.into(), writes)), None));
        }
    }

    #[test]
    fn a_directory_may_be_read_only() {
        for (text, name, read_only) in [
            (c"/", "/", false),
            (c"a,ro", "a", true),
            (c"a,rw", "a", false),
            (c"a,ro,rw", "a,ro", false),
            (c"a,snapshot", "a,snapshot", false),
        ] {
            let arguments = [c"--share", c"first", c"--share", text];
            let shares = Arguments::parse(arguments.into_iter(), 1024).unwrap().shares;
            let expected = [(b"first".as_slice(), false), (name.as_bytes(), read_only)];
            let expected = expected.map(|(name, read_only)| Some(Directory { name: Name(name), read_only }));
            assert_eq!((shares[..2].as_array(), shares[2]), (Some(&expected), None));
        }
    }

    #[test]
    fn there_is_a_network_if_one_is_asked_for() {
        for (arguments, network) in [
            (&[c"quiet"][..], None),
            (&[c"--net", c"user"], Some("--net user")),
            (&[c"--net", c"tap:burn0"], Some("--net tap:burn0")),
            (&[c"--net", c"tap:fifteen bytes 1"], Some("--net tap:fifteen bytes 1")),
        ] {
            let found = Arguments::parse(arguments.iter().copied(), 1024).unwrap().network;
            assert_eq!(found.map(|net| net.to_string()).as_deref(), network);
        }
    }

    #[test]
    fn programs_are_kept_apart_unless_it_is_said() {
        for (arguments, fast) in
            [(&[c"quiet"][..], false), (&[c"--fast", c"quiet"], true), (&[c"--", c"--fast"], false)]
        {
            assert_eq!(Arguments::parse(arguments.iter().copied(), 1024).unwrap().fast, fast);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_reason() {
        let long = "x".repeat(SIZE);
        let many = ["--disk", "d"].repeat(MOST_DISKS + 1);
        let shares = ["--share", "d"].repeat(MOST_SHARES + 1);
        let cases: [(&[&str], &str); 15] = [
            (&["--help"], "--help: no such option; there are --memory, --initrd, --disk, --net, --share and --fast"),
            (&["--share"], "--share: a value is missing"),
            (&shares, "--share: there may be 8 directories"),
            (&["--memory"], "--memory: a value is missing"),
            (&["--initrd"], "--initrd: a value is missing"),
            (&["--disk"], "--disk: a value is missing"),
            (&many, "--disk: there may be 8 disks"),
            (&["--net"], "--net: a value is missing"),
            (&["--net", "tap"], "--net tap: there is no such network; there are `user` and `tap:NAME`"),
            (&["--net", "tap:"], "--net tap:: the name of an interface has 1 to 15 bytes"),
            (
                &["--net", "tap:sixteen bytes 12"],
                "--net tap:sixteen bytes 12: the name of an interface has 1 to 15 bytes",
            ),
            (&["--memory", "4"], "--memory 4: not a number of MB from 32 to 1024"),
            (&["--memory", "1025"], "--memory 1025: not a number of MB from 32 to 1024"),
            (&["--memory", "1G"], "--memory 1G: not a number of MB from 32 to 1024"),
            (&[&long, "y"], "the words have more than the 2047 bytes that a kernel reads"),
        ];
        for (arguments, expected) in cases {
            let arguments: Vec<_> = arguments.iter().map(|text| CString::new(*text).unwrap()).collect();
            let refused = Arguments::parse(arguments.iter().map(CString::as_c_str), 1024).unwrap_err();
            assert_eq!(refused.to_string(), expected);
        }
    }
}
