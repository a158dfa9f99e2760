//! A writer for initramfs archives: cpio in the "newc" format.
//!
//! An initramfs may be several archives end to end, compressed or not: the kernel unpacks them over
//! each other ([`concatenate`]).
//!
//! The format is that of Linux's Documentation/driver-api/early-userspace/buffer-format.rst: a
//! header of `070701` and 13 fields of 8 hexadecimal digits, the name with its NUL, the data; name
//! and data each padded with NULs to 4 bytes.

use std::fmt::Write as _;

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR_FILE: u32 = 0o100_000;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a character device.
    #[must_use]
    pub fn character_device(self, name: &str, major: u32, minor: u32) -> Self {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, permissions: u32, contents: &[u8]) -> Self {
        self.entry(name, REGULAR_FILE | permissions, (0, 0), contents)
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]).bytes
    }

    fn entry(mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> Self {
        self.entries += 1;
        let size = |length: usize| u32::try_from(length).expect("an archive member is smaller than 4 GB");
        let fields = [
            self.entries, // c_ino
            mode,
            0, // c_uid
            0, // c_gid
            1, // c_nlink
            0, // c_mtime
            size(contents.len()),
            0, // c_maj
            0, // c_min
            device.0,
            device.1,
            size(name.len() + 1),
            0, // c_chksum
        ];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}").expect("writing to a string does not fail");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Puts archives end to end. Each starts at a multiple of 4 bytes, or the kernel
/// (`unpack_to_rootfs`, init/initramfs.c) takes one that is not compressed for garbage.
#[must_use]
pub fn concatenate(archives: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(archives.iter().map(|archive| archive.len() + 3).sum());
    for archive in archives.iter().filter(|archive| !archive.is_empty()) {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(archive);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// GNU cpio lists what was put in.
    #[test]
    fn cpio_reads_the_archive() {
        let archive = Archive::default()
            .directory("dev")
            .character_device("dev/console", 5, 1)
            .file("init", 0o755, b"#!/bin/sh\n")
            .finish();
        let mut cpio = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((lines[0][0], lines[0].last()), ("drwxr-xr-x", Some(&"dev")));
        assert_eq!((lines[1][0], lines[1][4], lines[1][5]), ("crw-------", "5,", "1"));
        assert_eq!((lines[2][0], lines[2][4], lines[2].last()), ("-rwxr-xr-x", "10", Some(&"init")));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn archives_start_at_multiples_of_4() {
        assert_eq!(concatenate(&[b"12345", b"", b"6"]), b"12345\0\0\x006");
        assert_eq!(concatenate(&[b"1", b""]), b"1");
        assert!(concatenate(&[]).is_empty());
    }
}
