//! What is known of Linux.
//!
//! The wedge goes by the architecture and by the records. A kernel that keeps to these, and to the
//! boot protocol, needs nothing of what follows but that. All of it, with where Linux says so
//! (`arch/x86/` unless it starts otherwise) and for which releases it was looked up there:
//!
//! | what | for | Linux | releases |
//! |---|---|---|---|
//! | [`boot_params`] | what the kernel is told | `include/uapi/asm/bootparam.h` | 6.1, 6.12 |
//! | entry in 64-bit mode, [`BOOT_CS`] | how it is entered | `Documentation/x86/boot.rst` (since 6.3 `Documentation/arch/`) | 6.1, 6.12 |
//! | [`symbol`] | what `afterburner pack` asks a kernel for | `kernel/head_64.S`, `entry/entry_64.S` | 6.1, 6.12 |
//! | [`KERNEL_CS`], [`USER_CS`], [`TLS_ENTRIES`] | a deprivileged kernel's segments | `include/asm/segment.h` | 6.1, 6.12 |
//! | [`SYSTEM_CALL`] | 32-bit system calls | `include/asm/irq_vectors.h` | 6.1, 6.12 |
//! | [`FREE_ROOT_ENTRY`] | room in a deprivileged kernel's root | `Documentation/x86/x86_64/mm.rst` | 6.1, 6.12 |
//! | [`BEHIND_MODULES`] | flushes that do not concern modules | `include/asm/pgtable_64_types.h`, `include/asm/fixmap.h` | 6.1, 6.12 |
//! | [`NMI_WORDS`] | an NMI that the wedge takes | `entry/entry_64.S`, `asm_exc_nmi` | 6.1, 6.12 |
//! | [`executed_for`] | what stays in ring 3 | `include/asm/msr.h`, `include/asm/nospec-branch.h` | 6.1, 6.12 |
//! | [`unwritable_stack`] | where Linux does what ring 3 cannot | `entry/entry_64.S`, `native_irq_return_ldt` | 6.1, 6.12 |
//! | [`stack_switch`] | where it changes stacks | `entry/entry_64.S`, `__switch_to_asm` | since 4.9 |
//! | [`annotate::linux`] | sections, tables and functions that a site may be in | `kernel/vmlinux.lds.S` and others | 6.1, 6.12 |
//!
//! What a command line means to Linux is in [`loader`](crate::loader), where the kernel and its
//! modules lie in [`layout`](super::layout), and how it is mapped in `afterburner pack`; a note in
//! the instruction's policy says where Linux copies replacements to.

pub mod boot_params;

use core::ops::Range;

use annotate::instructions::Class;

/// What is in CS at the entry in 64-bit mode, and in the other segment registers (`__BOOT_CS`,
/// `__BOOT_DS`).
pub const BOOT_CS: u16 = 0x10;
/// See [`BOOT_CS`].
pub const BOOT_DS: u16 = 0x18;

/// Symbols of a kernel.
pub mod symbol {
    /// The page-directory-pointer table of its image, which it boots with.
    pub const POINTERS: &str = "level3_kernel_pgt";
    /// The directory that maps its image.
    pub const DIRECTORY: &str = "level2_kernel_pgt";
    /// The root, and behind it that of user mode if page tables are isolated
    /// (`PGD_ALLOCATION_ORDER`, `include/asm/pgalloc.h`).
    pub const ROOT: &str = "init_top_pgt";
    /// Where it is entered in 64-bit mode.
    pub const ENTRY: &str = "startup_64";
    /// Where it goes from one thread's stack to another's; see
    /// [`stack_switch`](super::stack_switch).
    pub const STACK_SWITCH: &str = "__switch_to_asm";
    /// Its table of calls that ftrace may switch on: where it starts and ends. Since 6.15, and in
    /// older releases that were given the change (6.12.117 has it), the build puts zeros where a
    /// call is of a weak function that another has replaced, in words that are relocated all the
    /// same (`scripts/sorttable.c`, `sort_mcount_loc`).
    pub const CALLS: [&str; 2] = ["__start_mcount_loc", "__stop_mcount_loc"];
    /// Where its vDSOs are, of which programs of x32 and of 32 bits have their own: address and
    /// length first (`include/asm/vdso.h`, `struct vdso_image`).
    pub const VDSOS: [&str; 3] = ["vdso_image_64", "vdso_image_x32", "vdso_image_32"];
    /// In one, what says on which processor a program runs; 6.1's of 32 bits has none.
    pub const GETCPU: &str = "__vdso_getcpu";
}

/// Words of its command line (6.1 to 6.12, `Documentation/admin-guide/kernel-parameters.txt`) by
/// which a host tells the kernel what it could not find out.
pub mod word {
    /// How fast the time-stamp counter is, in kHz, so that it is not measured by a timer.
    pub const TSC_FREQUENCY: &str = "tsc_early_khz";
    /// The time-stamp counter need not be watched.
    pub const TSC_IS_RELIABLE: &str = "tsc=reliable";
    /// The name of the word about isolated page tables.
    pub const ISOLATION: &str = "pti";
    /// Page tables are not to be isolated.
    pub const NO_ISOLATION: &str = "pti=off";
    /// Interrupts by messages, of which Linux takes for granted on a PC that they are there, are
    /// not.
    pub const NO_MESSAGES: &str = "pci=nomsi";
    /// The lowest address that programs can have.
    pub const LOWEST_ADDRESS: &str = "sysctl.vm.mmap_min_addr";
    /// How much each TCP connection keeps of what has come: the least, the usual, the most, in
    /// bytes (`Documentation/networking/ip-sysctl.rst`).
    pub const RECEIVE_MEMORY: &str = "sysctl.net.ipv4.tcp_rmem";
}

/// The entry of the root that is the first behind a hypervisor's own. Linux leaves it empty unless
/// page tables are isolated: then it maps local descriptor tables.
pub const FREE_ROOT_ENTRY: usize = 272;

/// Bytes of the address space behind the range of modules. There is the fixmap, whose pages Linux
/// maps and flushes by the ten thousand.
pub const BEHIND_MODULES: u32 = 16 << 20;

/// Words right below the frame of an NMI that have to stay as they are: Linux keeps a mark there,
/// by which it tells nested NMIs, and two frames more. Those are twelve.
pub const NMI_WORDS: usize = 16;

/// What Linux executes an instruction of this class for, where its result may be another's: RDTSCP
/// for the time (`rdtsc_ordered`), but not for `IA32_TSC_AUX`; VERW for its side effect
/// (`mds_clear_cpu_buffers`).
#[must_use]
pub const fn executed_for(class: Class) -> Option<&'static str> {
    match class {
        Class::Rdtscp => Some("executed for the time"),
        Class::Verw => Some("executed for its side effect"),
        _ => None,
    }
}

/// What the kernel has in CS and SS (`arch/x86/include/asm/segment.h`, `__KERNEL_CS`,
/// `__KERNEL_DS`).
pub const KERNEL_CS: u64 = 0x10;
/// See [`KERNEL_CS`].
pub const KERNEL_DS: u64 = 0x18;
/// What its 64-bit programs have there (`__USER_CS`, `__USER_DS`).
pub const USER_CS: u64 = 0x33;
/// See [`USER_CS`].
pub const USER_DS: u64 = 0x2b;

/// The vector by which 32-bit programs call the kernel (`arch/x86/include/asm/irq_vectors.h`,
/// `IA32_SYSCALL_VECTOR`).
pub const SYSTEM_CALL: u8 = 0x80;

/// The entries of its GDT that belong to the thread that runs: stores without a word, at each
/// switch (6.1, `arch/x86/include/asm/desc.h`, `native_load_tls`; `segment.h`,
/// `GDT_ENTRY_TLS_MIN`).
pub const TLS_ENTRIES: Range<usize> = 12..15;

/// A stack of the kernel's has so many pages at most (`arch/x86/include/asm/page_64_types.h`,
/// `THREAD_SIZE`, `IRQ_STACK_SIZE`, `EXCEPTION_STKSZ`).
pub const STACK_PAGES: u64 = 4;

/// The SWAPGS behind which Linux puts RSP on a stack that cannot be written and has never been
/// touched (6.1, `native_irq_return_ldt`, to hide the upper half of RSP from 16-bit user mode): a
/// page fault there could be pushed nowhere.
///
/// `image` is the kernel's, at `address`; `sites` are those of SWAPGS. Where the site is, is `None`
/// in a kernel without.
#[must_use]
pub fn unwritable_stack(image: &[u8], address: u64, mut sites: impl Iterator<Item = Range<u64>>) -> Option<u64> {
    /// `pop %rdi; mov %rax, %rsp`
    const BEHIND: [u8; 4] = [0x5f, 0x48, 0x89, 0xc4];
    let behind = |site: &Range<u64>| usize::try_from(site.end.wrapping_sub(address)).ok();
    let goes_there = |at: usize| image.get(at..).is_some_and(|text| text.starts_with(&BEHIND));
    sites.find(|site| behind(site).is_some_and(goes_there)).map(|site| site.start)
}

/// Where Linux goes from one thread's stack to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackSwitch {
    /// The instruction that loads RSP.
    pub load: u64,
    /// The one behind it.
    pub next: u64,
    /// From where: this far behind RSI.
    pub displacement: i32,
}

/// Linux's `__switch_to_asm` (`arch/x86/entry/entry_64.S`, since 4.9): it stores RSP in the old
/// thread's structure, to which RDI points, and loads it from the same place in the new one's, to
/// which RSI points.
///
/// `image` is the kernel's, at `address`. `None` in a kernel that does this in another way, or in
/// several places.
#[must_use]
pub fn stack_switch(image: &[u8], address: u64) -> Option<StackSwitch> {
    /// `mov %rsp, displacement(%rdi)` and `mov displacement(%rsi), %rsp`, each before 4 bytes of
    /// displacement.
    const STORE: [u8; 3] = [0x48, 0x89, 0xa7];
    const LOAD: [u8; 3] = [0x48, 0x8b, 0xa6];
    const LENGTH: usize = 14;
    let is_switch = |code: &[u8]| code[..3] == STORE && code[7..10] == LOAD && code[3..7] == code[10..];
    let mut found = image.windows(LENGTH).enumerate().filter(|(_, code)| is_switch(code));
    let (at, code) = found.next().filter(|_| found.next().is_none())?;
    let load = address + at as u64 + 7;
    let displacement = i32::from_le_bytes([code[3], code[4], code[5], code[6]]);
    Some(StackSwitch { load, next: load + 7, displacement })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `native_irq_return_ldt`, its end, and an ordinary way to user mode before it.
    const TEXT: [u8; 20] = [
        0x0f, 0x01, 0xf8, 0x90, 0x90, // swapgs
        0x48, 0xcf, // iretq
        0x0f, 0x01, 0xf8, 0x90, 0x90, // swapgs
        0x5f, // pop %rdi
        0x48, 0x89, 0xc4, // mov %rax, %rsp
        0x58, // pop %rax
        0x48, 0xcf, // iretq
        0x90,
    ];

    #[test]
    fn the_change_of_the_stack_is_found() {
        let sites = || [0x1000..0x1005, 0x1007..0x100c].into_iter();
        assert_eq!(unwritable_stack(&TEXT, 0x1000, sites()), Some(0x1007));
        assert_eq!(unwritable_stack(&TEXT[..15], 0x1000, sites()), None);
        assert_eq!(unwritable_stack(&TEXT, 0x1000, sites().take(1)), None);
    }

    #[test]
    fn the_change_of_threads_is_found() {
        /// The middle of `__switch_to_asm`.
        const SWITCH: [u8; 18] = [
            0x41, 0x57, // push %r15
            0x48, 0x89, 0xa7, 0x98, 0x14, 0, 0, // mov %rsp, 0x1498(%rdi)
            0x48, 0x8b, 0xa6, 0x98, 0x14, 0, 0, // mov 0x1498(%rsi), %rsp
            0x41, 0x5f, // pop %r15
        ];
        let found = StackSwitch { load: 0x1009, next: 0x1010, displacement: 0x1498 };
        assert_eq!(stack_switch(&SWITCH, 0x1000), Some(found));
        assert_eq!(stack_switch(&SWITCH[..15], 0x1000), None);
        assert_eq!(stack_switch(&[SWITCH, SWITCH].concat(), 0x1000), None, "two are none");
        let mut other = SWITCH;
        other[12] = 0x90;
        assert_eq!(stack_switch(&other, 0x1000), None, "another place");
    }

    #[test]
    fn a_site_outside_the_image_is_not_looked_behind() {
        let sites = [0xff0..0xff5, 0x2000..0x2005, u64::MAX - 4..u64::MAX];
        assert_eq!(unwritable_stack(&TEXT, 0x1000, sites.into_iter()), None);
    }
}
