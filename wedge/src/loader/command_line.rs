//! The kernel's command line: as words, and as one line made of two.
//!
//! The wedge reads the same line as the kernel, and must see the same words in it: a quoted space
//! does not end a word, and a word `--` ends them all, for what follows are arguments of init
//! (`next_arg()` in `lib/cmdline.c`, `parse_args()` in `kernel/params.c`). One thing differs: to
//! the kernel, byte 0xa0 is a space in any encoding, and here it is not.
//!
//! There are two lines, that of the image and that of the boot loader, which comes behind it, since
//! of two contradicting words the kernel takes the last. If the image's ends in arguments of init,
//! the boot loader's words belong before these. The kernel copies a fixed number of bytes; a line
//! that is longer would lose its end in silence, so it is refused.

use core::fmt;

/// Bytes that the kernel copies, a terminating NUL included (`COMMAND_LINE_SIZE`,
/// `arch/x86/include/asm/setup.h`).
pub const SIZE: usize = 2048;

/// A word: `name` or `name=value`, without the quotes around either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// What stands before the first `=`.
    pub name: &'a str,
    /// What stands behind it.
    pub value: Option<&'a str>,
}

impl<'a> Word<'a> {
    const DASHES: Self = Self { name: "--", value: None };

    fn new(raw: &'a str) -> Self {
        let (word, quoted) = raw.strip_prefix('"').map_or((raw, false), |word| (word, true));
        let unquote = |text: &'a str| text.strip_suffix('"').unwrap_or(text);
        // A `=` in front is part of the name.
        let Some((at, _)) = word.match_indices('=').find(|(at, _)| *at > 0) else {
            return Self { name: if quoted { unquote(word) } else { word }, value: None };
        };
        let (name, value) = (&word[..at], &word[at + 1..]);
        let value = match value.strip_prefix('"') {
            Some(value) => unquote(value),
            None if quoted => unquote(value),
            None => value,
        };
        Self { name, value: Some(value) }
    }
}

/// The words of a command line that are meant for the kernel.
pub fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
    let mut rest = line;
    core::iter::from_fn(move || {
        let (raw, behind) = next(rest)?;
        rest = behind;
        Some(Word::new(raw))
    })
    .take_while(|word| *word != Word::DASHES)
}

/// The next word, quotes included, and what follows.
fn next(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(is_space);
    let mut quoted = false;
    let end = line.find(|c| {
        quoted ^= c == '"';
        is_space(c) && !quoted
    });
    (!line.is_empty()).then(|| line.split_at(end.unwrap_or(line.len())))
}

/// As in the C locale.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Whether each quote has its counterpart.
fn is_closed(text: &str) -> bool {
    text.matches('"').count().is_multiple_of(2)
}

/// The part for the kernel, and the arguments of init.
fn split(line: &str) -> (&str, &str) {
    let mut rest = line;
    while let Some((raw, behind)) = next(rest) {
        if Word::new(raw) == Word::DASHES {
            return (&line[..line.len() - behind.len() - raw.len()], behind);
        }
        rest = behind;
    }
    (line, "")
}

/// A command line for the kernel.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine {
    bytes: [u8; SIZE],
    length: usize,
}

/// Why two lines do not make a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandLineError {
    /// There are more bytes than the kernel reads.
    TooLong,
    /// A quote is not closed before the words of the other line.
    OpenQuote,
    /// There is a NUL in one, which would end it for the kernel.
    Nul,
}

impl CommandLine {
    /// The image's command line, and behind it the boot loader's.
    ///
    /// # Errors
    ///
    /// When the kernel would not read it to its end, or not as the words of the two.
    pub fn join(image: &str, boot_loader: &str) -> Result<Self, CommandLineError> {
        let (image, image_arguments) = split(image);
        let (boot_loader, boot_loader_arguments) = split(boot_loader);
        let arguments = [image_arguments, boot_loader_arguments];
        let dashes = if arguments.iter().any(|part| next(part).is_some()) { Word::DASHES.name } else { "" };
        let mut line = Self { bytes: [0; SIZE], length: 0 };
        for part in [image, boot_loader, dashes].iter().chain(&arguments) {
            line.push(part)?;
        }
        Ok(line)
    }

    /// A line of words that are not texts yet.
    ///
    /// # Errors
    ///
    /// When they are too long.
    pub fn written(words: fmt::Arguments<'_>) -> Result<Self, CommandLineError> {
        let mut line = Self { bytes: [0; SIZE], length: 0 };
        fmt::write(&mut line, words).map_err(|fmt::Error| CommandLineError::TooLong)?;
        Ok(line)
    }

    fn push(&mut self, part: &str) -> Result<(), CommandLineError> {
        let part = part.trim_start_matches(is_space);
        let part = if is_closed(part) { part.trim_end_matches(is_space) } else { part };
        if part.is_empty() {
            return Ok(());
        }
        if part.contains('\0') {
            return Err(CommandLineError::Nul);
        }
        let before = self.as_str();
        if !is_closed(before) {
            return Err(CommandLineError::OpenQuote);
        }
        let start = if before.is_empty() { 0 } else { self.length + 1 };
        let end = start + part.len();
        // The last byte stays NUL.
        let room = self.bytes[..SIZE - 1].get_mut(self.length..end).ok_or(CommandLineError::TooLong)?;
        room.fill(b' ');
        self.bytes[start..end].copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }

    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }

    /// The line, and NULs up to the number of bytes that the kernel copies.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    /// The words that are meant for the kernel.
    pub fn words(&self) -> impl Iterator<Item = Word<'_>> {
        words(self.as_str())
    }
}

impl fmt::Write for CommandLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        // Behind it is a NUL.
        let place = self.bytes[..SIZE - 1].get_mut(self.length..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl fmt::Display for CommandLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the command line is longer than {} bytes", SIZE - 1),
            Self::OpenQuote => write!(f, "a quote in the command line is not closed"),
            Self::Nul => write!(f, "the command line has a NUL in it"),
        }
    }
}

impl core::error::Error for CommandLineError {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn pairs(line: &str) -> Vec<(&str, Option<&str>)> {
        words(line).map(|word| (word.name, word.value)).collect()
    }

    fn join(image: &str, boot_loader: &str) -> Result<String, CommandLineError> {
        CommandLine::join(image, boot_loader).map(|line| line.as_str().to_string())
    }

    #[test]
    fn a_line_is_written_as_far_as_the_kernel_reads() {
        let written = |words: fmt::Arguments<'_>| CommandLine::written(words).map(|line| line.as_str().to_string());
        assert_eq!(written(format_args!("{}={} c", "a", 3)), Ok("a=3 c".to_string()));
        let length = SIZE - 1;
        assert_eq!(written(format_args!("{:length$}", "a")).map(|line| line.len()), Ok(length));
        assert_eq!(written(format_args!("{:SIZE$}", "a")), Err(CommandLineError::TooLong));
    }

    #[test]
    fn words_are_what_the_kernel_takes_for_words() {
        for (line, expected) in [
            ("", &[][..]),
            (" \t\n\x0b\x0c\r", &[]),
            ("quiet", &[("quiet", None)]),
            ("  a\tb=c  ", &[("a", None), ("b", Some("c"))]),
            ("a= b", &[("a", Some("")), ("b", None)]),
            ("a=b=c", &[("a", Some("b=c"))]),
            ("=a =b=c", &[("=a", None), ("=b", Some("c"))]),
            (r#"a="b c" d"#, &[("a", Some("b c")), ("d", None)]),
            (r#""a=b c" d"#, &[("a", Some("b c")), ("d", None)]),
            (r#""a b" c"#, &[("a b", None), ("c", None)]),
            (r#"a=b" c"d e"#, &[("a", Some("b\" c\"d")), ("e", None)]),
            (r#"a="b c"#, &[("a", Some("b c"))]),
            (r#"a="" b"#, &[("a", Some("")), ("b", None)]),
            (r#"a=" b"#, &[("a", Some(" b"))]),
            (r#"""#, &[("", None)]),
            ("a -- b", &[("a", None)]),
            (r#""--" b"#, &[]),
            ("--=a b", &[("--", Some("a")), ("b", None)]),
            (r#"a="-- b" c"#, &[("a", Some("-- b")), ("c", None)]),
            ("\u{e9}=\u{e0} b", &[("\u{e9}", Some("\u{e0}")), ("b", None)]),
        ] {
            assert_eq!(pairs(line), expected, "{line:?}");
        }
    }

    #[test]
    fn the_boot_loaders_words_come_behind_those_of_the_image() {
        for (image, boot_loader, joined) in [
            ("", "", ""),
            ("a", "", "a"),
            ("", " a ", "a"),
            ("a b ", "  c", "a b c"),
            ("a -- x", "b", "a b -- x"),
            ("a", "b -- y", "a b -- y"),
            ("a -- x", "b -- y", "a b -- x y"),
            ("-- x", "", "-- x"),
            ("a --", "b", "a b"),
            (r#"a="b -- c""#, "d", r#"a="b -- c" d"#),
            ("a", r#"b="c "#, r#"a b="c "#),
        ] {
            assert_eq!(join(image, boot_loader).as_deref(), Ok(joined), "{image:?}, {boot_loader:?}");
        }
    }

    #[test]
    fn what_the_kernel_would_not_read_as_it_is_meant_is_refused() {
        for (image, boot_loader, error) in [
            (r#"a="b"#, "c", CommandLineError::OpenQuote),
            ("a -- x", r#"b="c"#, CommandLineError::OpenQuote),
            ("a\0b", "", CommandLineError::Nul),
            ("a", "-- b\0", CommandLineError::Nul),
        ] {
            assert_eq!(join(image, boot_loader), Err(error), "{image:?}, {boot_loader:?}");
        }
    }

    #[test]
    fn a_line_is_never_cut() {
        let long = "x".repeat(2045);
        let line = CommandLine::join(&long, "y").unwrap();
        assert_eq!(line.as_str(), std::format!("{long} y"));
        assert_eq!(line.as_bytes()[2046..], *b"y\0");
        for (image, boot_loader) in [(&*long, "yy"), (&*"x".repeat(2048), ""), ("", &*"x".repeat(5000))] {
            assert_eq!(join(image, boot_loader), Err(CommandLineError::TooLong));
        }
    }

    proptest! {
        #[test]
        fn the_words_of_a_joined_line_are_those_of_the_two(image in "[a-c=\" \u{e9}-]{0,30}", boot_loader in "[a-c=\" -]{0,30}") {
            if let Ok(line) = CommandLine::join(&image, &boot_loader) {
                let expected: Vec<_> = words(&image).chain(words(&boot_loader)).collect();
                prop_assert_eq!(line.words().collect::<Vec<_>>(), expected);
                prop_assert!(line.as_bytes()[line.length..].iter().all(|byte| *byte == 0));
            }
        }

        #[test]
        fn no_line_makes_it_panic(image in any::<String>(), boot_loader in any::<String>()) {
            let _ = words(&image).count();
            let _ = join(&image, &boot_loader);
        }
    }
}
