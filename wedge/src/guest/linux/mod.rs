//! What has to be known of Linux's code.
//!
//! The wedge goes by the architecture, by the records, and by the boot protocol; a kernel that keeps to these needs nothing of
//! what follows, which holds of Linux 6.1 to 6.12. What is left: selectors that are nowhere recorded, and two places where
//! Linux does what a kernel in ring 3 cannot.

use core::ops::Range;

/// What the kernel has in CS and SS (`arch/x86/include/asm/segment.h`, `__KERNEL_CS`, `__KERNEL_DS`).
pub const KERNEL_CS: u64 = 0x10;
/// See [`KERNEL_CS`].
pub const KERNEL_DS: u64 = 0x18;
/// What its 64-bit programs have there (`__USER_CS`, `__USER_DS`).
pub const USER_CS: u64 = 0x33;
/// See [`USER_CS`].
pub const USER_DS: u64 = 0x2b;

/// The vector by which 32-bit programs call the kernel (`arch/x86/include/asm/irq_vectors.h`, `IA32_SYSCALL_VECTOR`).
pub const SYSTEM_CALL: u8 = 0x80;

/// The entries of its GDT that belong to the thread that runs: stores without a word, at each switch (6.1,
/// `arch/x86/include/asm/desc.h`, `native_load_tls`; `segment.h`, `GDT_ENTRY_TLS_MIN`).
pub const TLS_ENTRIES: Range<usize> = 12..15;

/// A stack of the kernel's has so many pages at most (`arch/x86/include/asm/page_64_types.h`, `THREAD_SIZE`, `IRQ_STACK_SIZE`,
/// `EXCEPTION_STKSZ`).
pub const STACK_PAGES: u64 = 4;

/// The SWAPGS behind which Linux puts RSP on a stack that cannot be written and has never been touched (6.1,
/// `native_irq_return_ldt`, to hide the upper half of RSP from 16-bit user mode): a page fault there could be pushed nowhere.
///
/// `image` is the kernel's, at `address`; `sites` are those of SWAPGS. Where the site is, is `None` in a kernel without.
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

/// Linux's `__switch_to_asm` (`arch/x86/entry/entry_64.S`, since 4.9): it stores RSP in the old thread's structure, to which
/// RDI points, and loads it from the same place in the new one's, to which RSI points.
///
/// `image` is the kernel's, at `address`. `None` in a kernel that does this in another way, or in several places.
#[must_use]
pub fn stack_switch(image: &[u8], address: u64) -> Option<StackSwitch> {
    /// `mov %rsp, displacement(%rdi)` and `mov displacement(%rsi), %rsp`, each before 4 bytes of displacement.
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
