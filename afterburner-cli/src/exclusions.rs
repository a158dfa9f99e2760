//! The objects of a Linux build that must be left alone, and why.
//!
//! The make flags that bring the shim in do not reach most of them, for those directories set their
//! own flags; a clang wrapper, or a compiler that finds the shim in `PATH`, is asked for all of
//! them.

use std::path::Path;

/// Objects that are not part of the kernel proper: what their path contains, and the reason.
const EXCLUSIONS: &[(&str, &str)] = &[
    ("arch/x86/boot/", "boot loader stub: runs before the kernel, on real hardware or a full virtual machine"),
    ("arch/x86/realmode/rm/", "real-mode trampoline: copied below 1 MB and started by a bare processor"),
    ("arch/x86/purgatory/", "purgatory: runs between two kernels, in neither"),
    ("drivers/firmware/efi/libstub/", "EFI stub: an application of the firmware"),
    ("arch/x86/entry/vdso/vdso32/", VDSO),
    ("arch/x86/entry/vdso/vclock_gettime.", VDSO),
    ("arch/x86/entry/vdso/vgetcpu.", VDSO),
    ("arch/x86/entry/vdso/vgetrandom.", VDSO),
    ("arch/x86/entry/vdso/vgetrandom-chacha.", VDSO),
    ("arch/x86/entry/vdso/vdso-note.", VDSO),
    ("arch/x86/entry/vdso/vsgx.", VDSO),
];

/// Sources of those objects that a compiler calls by their last name alone (`.file`).
const EXCLUDED_FILES: &[(&str, &str)] = &[("vclock_gettime.c", VDSO), ("vgetcpu.c", VDSO), ("vgetrandom.c", VDSO)];

const VDSO: &str = "vDSO: code of user space";

/// The reason for leaving alone the object at this path, or an object made from the source at it.
pub(crate) fn of_path(path: &Path) -> Option<&'static str> {
    let path = path.to_str()?;
    let starts_name = |at: usize| at == 0 || path.as_bytes()[at - 1] == b'/';
    let excluded = |pattern: &str| path.match_indices(pattern).any(|(at, _)| starts_name(at));
    EXCLUSIONS.iter().find(|(pattern, _)| excluded(pattern)).map(|(_, reason)| *reason)
}

/// The reason for leaving alone the object made from this text, by what the text says of its
/// origin: distcc gives the object another name.
pub(crate) fn of_text(text: &[u8]) -> Option<&'static str> {
    const WITHIN: usize = 10;
    text.split(|&byte| byte == b'\n').take(WITHIN).find_map(of_line)
}

/// A line marker (`# 1 "path"`) or the `.file "name"` of a compiler.
fn of_line(line: &[u8]) -> Option<&'static str> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let is_marker = line.strip_prefix("# ").is_some_and(|rest| rest.starts_with(['0', '1']));
    let is_file = line.starts_with(".file");
    let (_, quoted) = line.split_once('"').filter(|_| is_marker || is_file)?;
    let (name, _) = quoted.split_once('"')?;
    let by_name = || EXCLUDED_FILES.iter().find(|(file, _)| is_file && name == *file).map(|(_, reason)| *reason);
    of_path(Path::new(name)).or_else(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_kernel_is_left_alone() {
        let excluded = |path: &str| of_path(Path::new(path)).is_some();
        assert!(excluded("arch/x86/boot/compressed/misc.o"));
        assert!(excluded("/src/linux/arch/x86/realmode/rm/trampoline_64.S"));
        assert!(excluded("./arch/x86/entry/vdso/vdso32/note.o"));
        assert!(excluded("arch/x86/entry/vdso/vclock_gettime.o"));
        assert!(!excluded("arch/x86/entry/vdso/vma.o"));
        assert!(!excluded("arch/x86/entry/vdso/extable.o"));
        assert!(!excluded("arch/x86/realmode/init.o"));
        assert!(!excluded("my-arch/x86/boot/x.o"));
    }

    #[test]
    fn the_text_tells_where_it_comes_from() {
        assert!(of_text(b"\t.file\t\"vclock_gettime.c\"\n\t.text\n").is_some());
        assert!(of_text(b"# 0 \"/l/arch/x86/entry/vdso/vdso-note.S\"\n").is_some());
        assert!(of_text(b"# 1 \"vgetcpu.c\"\n").is_none());
        assert!(of_text(b"\t.file\t\"vma.c\"\n").is_none());
        assert!(of_text(b"\xff\n#\n\n").is_none());
    }
}
