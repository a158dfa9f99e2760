//! Linux's own user-space tests of the x86 entry code, tools/testing/selftests/x86: all of those for 64-bit programs.
//!
//! The guest script `x86` runs each and says its verdict in one line, which [`crate::programs::verdicts`] reads. Some tests
//! fail or skip on a plain kernel too, depending on its configuration and the CPU model; what counts is that the verdicts
//! of two boots are the same.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::source;

/// `TARGETS_C_64BIT_ALL` of the tests' Makefile.
pub const NAMES: [&str; 21] = [
    "amx",
    "check_initial_reg_state",
    "corrupt_xstate_header",
    "fsgsbase",
    "fsgsbase_restore",
    "ioperm",
    "iopl",
    "ldt_gdt",
    "mov_ss_trap",
    "ptrace_syscall",
    "sigaltstack",
    "sigreturn",
    "sigtrap_loop",
    "single_step_syscall",
    "syscall_arg_fault",
    "syscall_nt",
    "syscall_numbering",
    "sysret_rip",
    "sysret_ss_attrs",
    "test_mremap_vdso",
    "test_vsyscall",
];

/// Builds them all as static programs into a directory.
///
/// # Errors
///
/// When there is no Linux tree, or one does not compile.
pub fn build(directory: &Path) -> Result<Vec<PathBuf>> {
    let tree = source::tree()?;
    NAMES.iter().map(|name| source::selftest(&tree, name, directory)).collect()
}
