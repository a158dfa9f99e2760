//! What has to be known of Linux's code.
//!
//! The wedge goes by the architecture, by the records, and by the boot protocol; a kernel that keeps to these needs nothing of
//! what follows. What is left: selectors that are nowhere recorded, and one place where Linux does what a kernel
//! in ring 3 cannot.

use core::ops::Range;

/// What the kernel has in CS and SS (`arch/x86/include/asm/segment.h`, `__KERNEL_CS`, `__KERNEL_DS`).
pub const KERNEL_CS: u64 = 0x10;
/// See [`KERNEL_CS`].
pub const KERNEL_DS: u64 = 0x18;
/// What its 64-bit programs have there (`__USER_CS`, `__USER_DS`).
pub const USER_CS: u64 = 0x33;
/// See [`USER_CS`].
pub const USER_DS: u64 = 0x2b;

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
    fn a_site_outside_the_image_is_not_looked_behind() {
        let sites = [0xff0..0xff5, 0x2000..0x2005, u64::MAX - 4..u64::MAX];
        assert_eq!(unwritable_stack(&TEXT, 0x1000, sites.into_iter()), None);
    }
}
