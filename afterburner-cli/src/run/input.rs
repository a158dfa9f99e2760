//! What the user wants to boot.
//!
//! A file is known by what is in it. An image of `afterburner pack` is an ELF file with a segment
//! that starts as a payload does, or an ISO 9660 file with GRUB and such an image in it. A kernel
//! is a vmlinux, or a bzImage (Linux, Documentation/arch/x86/boot.rst). Anything else is an error
//! that says what it is.

use std::ops::Range;

use object::elf::{
    EM_X86_64, ET_CORE, ET_DYN, ET_EXEC, ET_REL, FileHeader64, FileType, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader64,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, FileKind};
use wedge::image::MAGIC;

/// In the first bytes of a payload, the digits of its version are behind so many others.
const NAME: usize = MAGIC.len() - 4;

/// The number of the Xen note that holds the entry of a PV kernel (`XEN_ELFNOTE_ENTRY`,
/// xen/include/public/elfnote.h).
const XEN_ENTRY: u32 = 1;

/// A file that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// An image: where the payload lies in the file, and whether Xen can enter it as a PV kernel.
    Image { payload: Range<usize>, xen: bool },
    /// An image on a CD or USB stick, behind GRUB.
    Iso,
    /// A kernel without a wedge.
    Kernel,
}

impl Input {
    /// Finds out what a file is.
    pub(crate) fn of(data: &[u8]) -> Result<Self, String> {
        const ISO_IDENTIFIER: Range<usize> = 0x8001..0x8006; // ECMA-119, 8.1: the first volume descriptor is sector 16
        const BZIMAGE_HEADER: Range<usize> = 0x202..0x206; // boot.rst, "header"
        if data.get(ISO_IDENTIFIER) == Some(b"CD001") {
            return Ok(Self::Iso);
        }
        if data.get(BZIMAGE_HEADER) == Some(b"HdrS") {
            return Ok(Self::Kernel);
        }
        match FileKind::parse(data) {
            Ok(FileKind::Elf64) => elf(data).map_err(|error| format!("a malformed ELF file: {error}"))?,
            Ok(FileKind::Elf32) => Err("a 32-bit ELF file, and not an x86-64 kernel".to_owned()),
            _ => Err(format!("{}, and not a kernel or an image", other(data))),
        }
    }
}

fn elf(data: &[u8]) -> object::Result<Result<Input, String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    if machine != EM_X86_64 {
        return Ok(Err(format!("an ELF file for another machine (number {}) than x86-64", machine.0)));
    }
    let segments = header.program_headers(endian, data)?;
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let (offset, size) = segment.file_range(endian);
        let payload = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(size)).ok());
        let Some((start, end)) = payload else { continue };
        let end = end.min(data.len());
        match data.get(start..end).and_then(<[u8]>::first_chunk) {
            Some(&MAGIC) => {
                return Ok(Ok(Input::Image { payload: start..end, xen: has_xen_entry(segments, endian, data) }));
            }
            Some(other) if other[..NAME] == MAGIC[..NAME] => {
                let versions = [other, &MAGIC].map(|magic| magic[NAME..].escape_ascii());
                let [other, ours] = versions;
                return Ok(Err(format!(
                    "an image of another version of Afterburner: its payload is of version {other}, not {ours}"
                )));
            }
            _ => {}
        }
    }
    if segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP) {
        return Ok(Err("a program, and not a kernel".to_owned()));
    }
    Ok(match header.e_type(endian) {
        ET_EXEC | ET_DYN if !segments.is_empty() => Ok(Input::Kernel),
        other => Err(format!("{}, and not a kernel", elf_type(other))),
    })
}

/// Whether an image can be entered as a Xen PV kernel.
fn has_xen_entry(segments: &[ProgramHeader64<Endianness>], endian: Endianness, data: &[u8]) -> bool {
    let notes = segments.iter().filter(|segment| segment.p_type(endian) == PT_NOTE);
    notes.filter_map(|segment| segment.notes(endian, data).ok().flatten()).any(|mut notes| {
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(endian).0 == XEN_ENTRY {
                return true;
            }
        }
        false
    })
}

fn elf_type(file_type: FileType) -> String {
    match file_type {
        ET_REL => "an object or a module".to_owned(),
        ET_CORE => "a core dump".to_owned(),
        ET_EXEC | ET_DYN => "an ELF file without segments".to_owned(),
        other => format!("an ELF file of type {}", other.0),
    }
}

/// What a file is that cannot be booted.
fn other(data: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"\x1f\x8b", "gzip-compressed data"),
        (b"\xfd7zXZ\0", "xz-compressed data"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
        (b"BZh", "bzip2-compressed data"),
        (b"07070", "a cpio archive"),
        (b"!<arch>\n", "an ar archive"),
        (b"#!", "a script"),
        (b"MZ", "a PE file"),
        (&MAGIC, "a bare payload"),
    ];
    if data.is_empty() {
        return "an empty file".to_owned();
    }
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| data.starts_with(magic)) {
        return (*name).to_owned();
    }
    let start: Vec<String> = data.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("a file that starts with the bytes {}", start.join(" "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An ELF file of this type and machine with these segments: their types and contents.
    pub(in crate::run) fn elf_file(file_type: u16, machine: u16, segments: &[(u32, &[u8])]) -> Vec<u8> {
        const HEADER: usize = 64;
        const SEGMENT: usize = 56;
        let word = |number: usize| u64::try_from(number).expect("a small file").to_le_bytes();
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([file_type.to_le_bytes(), machine.to_le_bytes()].concat());
        file.extend(1_u32.to_le_bytes());
        file.extend([word(0), word(HEADER), word(0)].concat()); // e_entry, e_phoff, e_shoff
        let count = u16::try_from(segments.len()).expect("a few segments");
        for half in [0, 0, 64, 56, count, 64, 0, 0] {
            file.extend(u16::to_le_bytes(half)); // e_flags (two of them), e_ehsize, e_phentsize, e_phnum ...
        }
        let mut offset = HEADER + segments.len() * SEGMENT;
        for (kind, contents) in segments {
            file.extend([kind.to_le_bytes(), 0_u32.to_le_bytes()].concat());
            file.extend([word(offset), word(0), word(0), word(contents.len()), word(contents.len()), word(4)].concat());
            offset += contents.len();
        }
        for (_, contents) in segments {
            file.extend_from_slice(contents);
        }
        file
    }

    /// A note of Xen's, of this type.
    fn note(kind: u32) -> Vec<u8> {
        let mut note = [4_u32, 8, kind].map(u32::to_le_bytes).concat();
        note.extend(b"Xen\0\0\0\0\0\0\0\0\0");
        note
    }

    const X86_64: u16 = EM_X86_64.0;

    #[test]
    fn a_file_is_known_by_what_is_in_it() {
        let image = |xen, start: usize| Ok(Input::Image { payload: start..start + 20, xen });
        let payload = [&MAGIC[..], b"rest"].concat();
        let mut bzimage = vec![0; 0x400];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        let mut iso = vec![0; 0x8800];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        let load = PT_LOAD.0;
        for (file, expected) in [
            (bzimage, Ok(Input::Kernel)),
            (iso, Ok(Input::Iso)),
            (elf_file(2, X86_64, &[(load, b"text")]), Ok(Input::Kernel)),
            (elf_file(2, X86_64, &[(load, b"wedge"), (load, &payload)]), image(false, 64 + 2 * 56 + 5)),
            (elf_file(2, X86_64, &[(PT_NOTE.0, &note(18)), (load, &payload)]), image(false, 64 + 2 * 56 + 24)),
            (elf_file(2, X86_64, &[(PT_NOTE.0, &note(1)), (load, &payload)]), image(true, 64 + 2 * 56 + 24)),
        ] {
            assert_eq!(Input::of(&file), expected);
        }
    }

    #[test]
    fn anything_else_is_named() {
        for (file, what) in [
            (elf_file(2, X86_64, &[(PT_LOAD.0, b"Afterburner 9999")]), "an image of another version of Afterburner: "),
            (elf_file(1, X86_64, &[]), "an object or a module, and not a kernel"),
            (elf_file(4, X86_64, &[]), "a core dump, and not a kernel"),
            (elf_file(2, X86_64, &[]), "an ELF file without segments, and not a kernel"),
            (elf_file(3, X86_64, &[(PT_INTERP.0, b"/lib64/ld")]), "a program, and not a kernel"),
            (elf_file(2, 183, &[]), "an ELF file for another machine (number 183) than x86-64"),
            (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(), "a malformed ELF file: "),
            (b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(), "a 32-bit ELF file"),
            (b"\x1f\x8b\x08".to_vec(), "gzip-compressed data, and not a kernel or an image"),
            (b"#!/bin/sh\n".to_vec(), "a script, and not"),
            (vec![], "an empty file, and not"),
            (b"text".to_vec(), "a file that starts with the bytes 74 65 78 74, and not"),
        ] {
            let error = Input::of(&file).expect_err("no kernel");
            assert!(error.starts_with(what), "{error}");
        }
    }
}
