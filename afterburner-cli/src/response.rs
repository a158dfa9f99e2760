//! Response files: `@FILE` on a command line stands for the arguments in the file.
//!
//! The rules are those of libiberty (`libiberty/argv.c`, `expandargv` and `buildargv`), which every
//! GNU tool uses, and clang for what its driver passes on.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::scratch::Scratch;

/// How many files libiberty reads before it suspects that they include each other.
const MOST_FILES: usize = 2000;

/// The arguments with every response file replaced by what it holds. `None` where the tool would
/// complain.
pub(crate) fn expand(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let mut expanded = Vec::with_capacity(arguments.len());
    let mut rest: Vec<OsString> = arguments.iter().rev().cloned().collect();
    let mut files = 0;
    while let Some(argument) = rest.pop() {
        let content = argument.as_bytes().strip_prefix(b"@").map(|path| content(OsStr::from_bytes(path)));
        match content {
            None | Some(Content::NoFile) => expanded.push(argument),
            Some(Content::Unusable) => return None,
            Some(Content::Arguments(inner)) => {
                files += 1;
                if files == MOST_FILES {
                    return None;
                }
                rest.extend(inner.into_iter().rev());
            }
        }
    }
    Some(expanded)
}

/// Arguments that the kernel takes, with the file that some of them may stand in: it has to live as
/// long as the tool.
pub(crate) fn shorten(arguments: Vec<OsString>) -> anyhow::Result<(Vec<OsString>, Option<Scratch>)> {
    /// The kernel's limits are 128 KB for one argument and, on most machines, 2 MB for all with the
    /// environment and the pointers to them.
    const MOST: usize = 1 << 16;
    if arguments.iter().map(|argument| argument.len() + size_of::<usize>()).sum::<usize>() <= MOST {
        return Ok((arguments, None));
    }
    let file = Scratch::with(&arguments.iter().flat_map(|argument| quote(argument)).collect::<Vec<u8>>())?;
    Ok((vec![OsString::from_iter([OsStr::new("@"), file.path().as_os_str()])], Some(file)))
}

/// The line that [`split`] makes this argument of.
fn quote(argument: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for &byte in argument.as_bytes() {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.extend(b"\"\n");
    quoted
}

enum Content {
    /// Then the argument is meant literally.
    NoFile,
    /// A directory, a pipe that can be read only once.
    Unusable,
    Arguments(Vec<OsString>),
}

fn content(path: &OsStr) -> Content {
    match fs::metadata(path) {
        Err(_) => Content::NoFile,
        Ok(metadata) if !metadata.is_file() => Content::Unusable,
        Ok(_) => fs::read(path).map_or(Content::NoFile, |bytes| Content::Arguments(split(&bytes))),
    }
}

/// Splits at white space, outside of quotes; a backslash takes the next byte literally, within
/// quotes too.
fn split(bytes: &[u8]) -> Vec<OsString> {
    // libiberty's string ends at a NUL.
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut arguments = Vec::new();
    let mut argument: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = bytes.iter().copied();
    while let Some(byte) = bytes.next() {
        if quote.is_none() && is_space(byte) {
            arguments.extend(argument.take());
            continue;
        }
        let argument = argument.get_or_insert_default();
        match byte {
            b'\\' => argument.extend(bytes.next()),
            b'\'' | b'"' if quote.is_none() => quote = Some(byte),
            _ if quote == Some(byte) => quote = None,
            _ => argument.push(byte),
        }
    }
    arguments.extend(argument.as_mut().map(mem::take));
    arguments.into_iter().map(OsString::from_vec).collect()
}

/// The C locale's white space.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_as_libiberty_does() {
        let arguments = split(b" -o 'a b.o'\n-I\\ x \"q\\\"r\"'s' '' \x0b\\\\");
        assert_eq!(arguments, ["-o", "a b.o", "-I x", "q\"rs", "", "\\"]);
        assert!(split(b" \n\t").is_empty());
        assert_eq!(split(b"a\0b"), ["a"]);
    }

    #[test]
    fn many_arguments_go_through_a_file() -> anyhow::Result<()> {
        let odd = ["-I", "a b", "", "q\"u'o\\te", "@x", "tab\t", "new\nline"].map(OsString::from);
        let (same, file) = shorten(odd.to_vec())?;
        assert!(same == odd && file.is_none());
        let many: Vec<OsString> = odd.iter().cycle().take(100_000).cloned().collect();
        let (short, file) = shorten(many.clone())?;
        assert!(short.len() == 1 && file.is_some());
        assert_eq!(expand(&short).unwrap_or_default(), many);
        Ok(())
    }

    #[test]
    fn files_may_include_files() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let (outer, inner) = (directory.path().join("outer"), directory.path().join("inner"));
        fs::write(&outer, format!("-L @{} last", inner.display()))?;
        fs::write(&inner, "-R @/no/such/file")?;
        let expanded = expand(&[format!("@{}", outer.display()).into(), "x.s".into()]);
        assert_eq!(expanded.unwrap_or_default(), ["-L", "-R", "@/no/such/file", "last", "x.s"]);
        fs::write(&inner, format!("@{}", outer.display()))?;
        assert_eq!(expand(&[format!("@{}", outer.display()).into()]), None);
        assert_eq!(expand(&[format!("@{}", directory.path().display()).into()]), None);
        Ok(())
    }
}
