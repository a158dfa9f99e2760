//! SYSENTER and SYSCALL of 32-bit programs.
//!
//! Linux has a system call of such a program come back to one place, in its vDSO, wherever the
//! instruction was (`do_fast_syscall_32`, `arch/x86/entry/common.c`). So it is there that a stub
//! process says it was, and for it that place is above 4 GB, where no 32-bit code is. By that the
//! call is told. The guest's kernel does the same, and asks nobody where the instruction was: with
//! the other registers as they were it has all that it needs.
//!
//! What it does ask for is the last argument, which is on the stack: Linux takes it from there
//! before it asks anybody about the call. If it finds nothing, it makes no call, and returns with
//! an error and without the number of the call to a place where the processor takes nothing, so
//! that there is a #GP. Where the guest has nothing either, it comes to the same end by itself. But
//! it may have what this Linux has not mapped. So the top of the stack is always mapped when such a
//! program goes on, as it is when its own vDSO has pushed there.

use wedge::cpu::{Context, syscall, sysenter};
use wedge::shadow::Access;
use wedge::x86::segment::Selector;
use wedge::x86::vector;

use super::guest::Vm;
use super::registers::COMPATIBILITY_CS;

/// What of an address 32-bit code has.
const LOWER: u64 = 0xffff_ffff;

/// Whether a program runs 32-bit code.
fn is_compatible(context: &Context) -> bool {
    context.cs == u64::from(COMPATIBILITY_CS)
}

/// Whether a program has stopped where only Linux has led it.
pub(super) fn is_behind_call(context: &Context) -> bool {
    is_compatible(context) && context.rip > LOWER
}

/// The system call that a program has made which stopped there. Of the two instructions a processor
/// has one in 32-bit code of a 64-bit system: AMD's SYSCALL (APM Vol. 3), the others SYSENTER. What
/// Linux has in other registers then is in `entry_SYSCALL_compat` and `do_SYSENTER_32`.
pub(super) fn call(vm: &mut Vm, context: &mut Context) {
    context.rip &= LOWER;
    if vm.machine.host.has_syscall {
        context.registers.rbp = context.registers.rcx & LOWER;
        let next = context.rip;
        vm.transfer(context, |cpu, context| syscall(cpu, context, next, false));
    } else {
        context.registers.rbp = context.rsp & LOWER;
        vm.transfer(context, sysenter);
    }
}

/// The same of a program whose last argument Linux has not found. If the guest would, #GP is all
/// that it can get: nobody knows any more what it has called.
pub(super) fn call_without_argument(vm: &mut Vm, context: &mut Context) {
    if vm.machine.space.read(context.rsp & LOWER, &mut [0; 4], true).is_err() {
        return call(vm, context);
    }
    context.rip &= LOWER;
    (context.vector, context.error) = (vector::PROTECTION.into(), 0);
    vm.exception(context);
}

/// Where the top of the stack of a 32-bit program begins and ends: the tables have it from here on,
/// so that it can be mapped. What they had may be stale then, so this comes before the orders.
pub(super) fn find_stack(vm: &mut Vm, context: &Context) -> Option<[u64; 2]> {
    // Whatever CS its code has, Linux looks there.
    if !is_compatible(context) && !Selector::of(context.cs).is_local() {
        return None;
    }
    let ends = [context.rsp & LOWER, context.rsp.wrapping_add(3) & LOWER];
    let space = &mut vm.machine.space;
    for address in ends {
        if space.memory.soft.lacks(address) {
            let access = Access { write: false, user: true, fetch: false };
            let _ = space.shadow.fault(address, access, &mut space.memory);
        }
    }
    Some(ends)
}

/// Whether 32-bit code has SYSCALL. It is asked once: where Linux is a guest itself, CPUID costs as
/// much as a few system calls.
pub(super) fn has_syscall() -> bool {
    const OF_THESE: [&[u8; 4]; 2] = [b"Auth", b"Hygo"];
    let name = core::arch::x86_64::__cpuid(0).ebx.to_le_bytes();
    OF_THESE.contains(&&name)
}
