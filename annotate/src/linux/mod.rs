//! What the crate knows of Linux: what a kernel calls its sections, the code that it copies, and,
//! in [`tables`], what points into its text. The names are those of Linux 6.1 (`arch/x86` unless
//! said otherwise), which 6.12 has as well; what only one of them has says so.
//!
//! Nothing breaks where a guest has other names. What the text stage cannot tell of a site, for it
//! sees one file at a time and macro bodies without knowing where they will be expanded, the object
//! side completes; and the wedge takes an unflagged site for an ordinary one.

#[cfg(feature = "std")]
pub mod low;
#[cfg(feature = "std")]
pub mod originals;
#[cfg(feature = "std")]
pub mod patched;
#[cfg(feature = "std")]
pub mod tables;

use crate::record::Flags;

/// The exception table: entries of three words, the places of the instruction and of the fix-up,
/// relative to themselves, and data (`struct exception_table_entry`, `include/asm/extable.h`).
pub const EXCEPTION_TABLE: &str = "__ex_table";
/// The words of an entry.
pub const EXCEPTION_TABLE_FIELDS: usize = 3;

/// Alternative instructions (`kernel/vmlinux.lds.S`), copied over their originals at boot and at
/// `insmod`.
pub const REPLACEMENTS: &str = ".altinstr_replacement";

/// What the unwinder is told of a place (`include/linux/objtool.h`), and how the names of the
/// macros start that tell it (`include/asm/unwind_hints.h`).
pub const UNWIND_HINTS: &str = ".discard.unwind_hints";
/// See [`UNWIND_HINTS`].
pub const UNWIND_HINT_MACRO: &str = "UNWIND_HINT";

/// Freed when the kernel is up, or thrown away with `rmmod` (`include/linux/init.h`).
const INIT: [&str; 2] = [".init.text", ".exit.text"];

/// Entry code: runs on the user's stack pointer, on trampoline stacks and on IST stacks
/// (`entry/entry_64.S`).
const ENTRY: [&str; 1] = [".entry.text"];

/// Code that runs at its physical address (`kernel/head_64.S`).
const HEAD: [&str; 1] = [".head.text"];

/// Functions that the kernel copies elsewhere and runs there, where a relative branch leads astray;
/// and the labels inside them, for text does not tell a label from a function.
const COPIED_FUNCTIONS: [&str; 14] = [
    // kernel/ftrace_64.S, copied by create_trampoline() in kernel/ftrace.c
    "ftrace_caller",
    "ftrace_caller_op_ptr",
    "ftrace_call",
    "ftrace_regs_caller",
    "ftrace_regs_caller_op_ptr",
    "ftrace_regs_call",
    "ftrace_regs_caller_jmp",
    // kernel/relocate_kernel_64.S, copied to the control page by machine_kexec()
    "relocate_kernel",
    "identity_mapped",
    "virtual_mapped",
    "swap_pages",
    // power/hibernate_asm_64.S, copied by relocate_restore_code() in power/hibernate.c
    "core_restore_code",
    // mm/mem_encrypt_boot.S, copied by sme_encrypt_execute()
    "__enc_copy",
    // kernel/kprobes/opt.c, copied by arch_prepare_optimized_kprobe(); lies in .rodata since 4.13
    "optprobe_template_func",
];

/// What a section's name says of the sites in it.
#[must_use]
pub fn section_flags(section: &str) -> Flags {
    let mut flags = Flags::empty();
    flags.set(Flags::REPLACEMENT, section == REPLACEMENTS);
    flags.set(Flags::INIT, in_family(section, &INIT));
    flags.set(Flags::NO_STACK, in_family(section, &ENTRY));
    flags.set(Flags::HEAD, in_family(section, &HEAD));
    flags
}

/// What a function's name says of the sites in it.
#[must_use]
pub fn function_flags(function: &str) -> Flags {
    if COPIED_FUNCTIONS.contains(&function) { Flags::COPIED } else { Flags::empty() }
}

/// Whether a section is of a name, or of one with a suffix, as `-ffunction-sections` gives.
fn in_family(section: &str, names: &[&str]) -> bool {
    names.iter().any(|name| section.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
