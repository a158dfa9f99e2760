//! What the image is told when it is started as a program.

use core::ffi::CStr;
use core::fmt;

use wedge::loader::command_line::SIZE;

/// Memory of the guest in MB, unless it is said.
const MEMORY: u64 = 256;
/// With less not even a small kernel starts.
const LEAST: u64 = 32;

/// What is said of the way to say it.
pub(super) const USAGE: &str = "usage: IMAGE [--memory MB] [--initrd FILE] [WORD...]\r\n\
    Words are added to the kernel's command line. The guest's serial port is standard input and output.\r\n";

/// The arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a> {
    /// Memory of the guest in MB.
    pub(super) memory: u64,
    /// An initramfs that goes over the image's own.
    pub(super) initrd: Option<&'a CStr>,
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
    /// An argument is not UTF-8.
    Text,
    /// The words are more than the kernel reads.
    TooLong,
}

impl fmt::Display for Invalid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => write!(f, "{option}: no such option; there are --memory and --initrd"),
            Self::NoValue(option) => write!(f, "{option}: a value is missing"),
            Self::Memory(value, most) => write!(f, "--memory {value}: not a number of MB from {LEAST} to {most}"),
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
        let mut parsed = Self { memory: MEMORY, initrd: None, words: [0; SIZE], length: 0 };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let text = argument.to_str().map_err(|_| Invalid::Text)?;
            match text {
                "--memory" => {
                    let value = arguments.next().ok_or(Invalid::NoValue(text))?;
                    parsed.memory = megabytes(value.to_str().map_err(|_| Invalid::Text)?, most)?;
                }
                "--initrd" => parsed.initrd = Some(arguments.next().ok_or(Invalid::NoValue(text))?),
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
    fn what_is_not_understood_is_refused_with_a_reason() {
        let long = "x".repeat(SIZE);
        let cases: [(&[&str], &str); 7] = [
            (&["--help"], "--help: no such option; there are --memory and --initrd"),
            (&["--memory"], "--memory: a value is missing"),
            (&["--initrd"], "--initrd: a value is missing"),
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
