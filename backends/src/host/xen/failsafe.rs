//! Contexts that Xen's failsafe callback hides.
//!
//! Xen enters `xen_failsafe` (`entry.rs`) in two cases: an IRETQ to user mode was refused, or Xen
//! came back to this domain, found that a selector was stale, and put null in its place. The
//! assembly code tells them apart.

use core::sync::atomic::Ordering;

use wedge::cpu::Context;

use super::cpu::CPU;
use super::entry::xen_failsafe;
use super::memory::pointer;

/// What Xen pushes when it enters `xen_failsafe` (`xen/arch/x86/domain.c`, `load_segments`).
#[derive(Clone, Copy)]
#[repr(C)]
struct FailsafeFrame {
    rcx: u64,
    r11: u64,
    selectors: [u64; 4],
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Xen may come back to a domain in the middle of an exception's delivery, and then find a stale
/// selector: the exception seems to be that of the failsafe handler, below which lies the context
/// that it is really of. Only where Xen says that it was in the guest's kernel: a program may jump
/// anywhere, with any RSP.
pub(super) fn look_through(context: &mut Context) {
    if context.cs & 3 != 0 || context.rip != xen_failsafe as *const () as u64 {
        return;
    }
    // SAFETY: the handler has been entered, by Xen, and has not executed an instruction, so RSP is
    // at the frame that Xen has pushed for it, on the wedge's stack or the guest's, which Xen has
    // just written to.
    let frame = unsafe { pointer::<FailsafeFrame>(context.rsp).read_unaligned() };
    let FailsafeFrame { rcx, r11, rip, cs, rflags, rsp, ss, .. } = frame;
    (context.registers.rcx, context.registers.r11) = (rcx, r11);
    *context = Context { rip, cs, rflags, rsp, ss, ..*context };
    // The selector may have been that of user mode's GS.
    CPU.users_gs_known.store(0, Ordering::Relaxed);
}
