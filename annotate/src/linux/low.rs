//! What a Linux in the lower half has otherwise, and no header or compiler's option can change.
//!
//! Linux 6.1 and 6.12, `arch/x86/kernel/head_64.S` and `head64.c`. The image's map is in entry 191
//! of the top-level page table and not in entry 511, the last; both files have that number as a
//! literal.

/// The symbols of the linker script that bound text (`kernel/vmlinux.lds.S`,
/// `include/asm-generic/sections.h`). C computes with them: `PFN_UP(_text)` is not the address of
/// an instruction.
pub const BOUNDS_OF_TEXT: [&str; 6] = ["_text", "_stext", "_etext", "_sinittext", "_einittext", "_end"];

/// The top-level page tables that the kernel starts on.
pub const FIRST_PAGE_TABLES: [&str; 2] = ["early_top_pgt", "init_top_pgt"];

/// The index of the image's map in them, as these files have it,
pub const IMAGE_INDEX: i64 = 511;

/// and as it is.
pub const LOW_IMAGE_INDEX: i64 = 191;

/// The table that this entry leads to.
pub const IMAGE_TABLE: &str = "level3_kernel_pgt";

/// Sections of compilers for data that holds addresses, which has to be moved where code is
/// position-independent. Linux's linker script (`include/asm-generic/vmlinux.lds.h`) does not know
/// them, for its kernel is linked where it runs: without that it would be in these. (It knows
/// `.data.rel.ro`.)
pub const SECTIONS_WITH_ADDRESSES: [(&str, &str); 2] = [(".data.rel.local", ".data"), (".data.rel", ".data")];

/// What the linker script says in a number: how far what belongs to the first processor is from
/// where it is loaded, which GS has (`vmlinux.lds.S`; 6.12's `head_64.S` asks for it as for an
/// address).
pub const DISTANCE_OF_FIRST_PROCESSOR: &str = "init_per_cpu__fixed_percpu_data";
