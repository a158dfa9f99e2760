//! Linux's own user-space tests of the x86 entry code, tools/testing/selftests/x86: all of them,
//! for 64-bit and 32-bit programs.
//!
//! The guest script `x86` runs each and says its verdict in one line, which
//! [`crate::programs::verdicts`] reads. Some tests fail or skip on a plain kernel too, depending on
//! its configuration and the CPU model; what counts is that the verdicts of two boots are the same.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::programs;
use crate::source::{self, Release};

/// `TARGETS_C_64BIT_ALL` and `TARGETS_C_32BIT_ALL` of the tests' Makefile, of Linux 6.1 and 6.12:
/// not all are in both.
pub const NAMES: [&str; 48] = [
    "amx",
    "check_initial_reg_state",
    "corrupt_xstate_header",
    "fsgsbase",
    "fsgsbase_restore",
    "ioperm",
    "iopl",
    "lam",
    "ldt_gdt",
    "mov_ss_trap",
    "nx_stack",
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
    "test_shadow_stack",
    "test_vsyscall",
    "check_initial_reg_state_32",
    "entry_from_vm86_32",
    "fsgsbase_restore_32",
    "ioperm_32",
    "iopl_32",
    "ldt_gdt_32",
    "mov_ss_trap_32",
    "nx_stack_32",
    "ptrace_syscall_32",
    "sigaltstack_32",
    "sigreturn_32",
    "sigtrap_loop_32",
    "single_step_syscall_32",
    "syscall_arg_fault_32",
    "syscall_nt_32",
    "sysret_ss_attrs_32",
    "test_FCMOV_32",
    "test_FCOMI_32",
    "test_FISTTP_32",
    "test_mremap_vdso_32",
    "test_syscall_vdso_32",
    "test_vsyscall_32",
    "unwind_vdso_32",
    "vdso_restorer_32",
];

/// Builds them all as static programs into a directory, and with them one of this project's own of
/// the same kind.
///
/// # Errors
///
/// When there is no Linux tree, or one does not compile.
pub fn build(directory: &Path) -> Result<Vec<PathBuf>> {
    let tree = Release::Chosen.tree()?;
    let there = NAMES.into_iter().filter(|name| source::has_selftest(&tree, name));
    let theirs = there.map(|name| source::selftest(&tree, name, directory)).collect::<Result<Vec<_>>>()?;
    Ok([theirs, programs::build(&["programs-32"], directory)?].concat())
}
