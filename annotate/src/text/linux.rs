//! What the text stage knows of Linux: the names of its sections and of the code it copies.
//!
//! Nothing breaks where a guest has other names: flags that the text stage cannot tell, the object side completes, and
//! the wedge takes an unflagged site for an ordinary one.

use crate::record::Flags;

/// Fields of an entry of the exception table: instruction, fix-up, type (`arch/x86/include/asm/extable.h`).
pub(super) const EXCEPTION_TABLE_FIELDS: u32 = 3;

/// Whether a section directive's arguments name the exception table.
pub(super) fn is_exception_table(arguments: &[u8]) -> bool {
    memchr::memmem::find(arguments, b"__ex_table").is_some()
}

/// Functions whose code runs from a copy (`ftrace_64.S`, `relocate_kernel_64.S`, `hibernate_asm_64.S`,
/// `mem_encrypt_boot.S`).
const COPIED: &[&[u8]] =
    &[b"ftrace_caller", b"ftrace_regs_caller", b"relocate_kernel", b"core_restore_code", b"__enc_copy"];

/// What a section's name says of the sites in it (`include/asm-generic/vmlinux.lds.h`).
pub(super) fn section_flags(name: &str) -> Flags {
    let in_family =
        |family: &str| name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if name == ".altinstr_replacement" {
        Flags::REPLACEMENT
    } else if in_family(".init.text") || in_family(".exit.text") {
        Flags::INIT
    } else if in_family(".head.text") {
        Flags::HEAD
    } else if in_family(".entry.text") {
        Flags::NO_STACK
    } else {
        Flags::empty()
    }
}

/// What a function's name says of the sites in it.
pub(super) fn function_flags(name: &[u8]) -> Flags {
    if COPIED.contains(&name) { Flags::COPIED } else { Flags::empty() }
}
