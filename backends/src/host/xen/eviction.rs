//! Stacks that are evicted all the time, for a test.
//!
//! Where a frame is to be pushed on a page that the shadow has dropped, the guest ends (`stacks`).
//! Whether whoever maps such pages again does so, load shows by chance only: a page must be dropped
//! just before it is needed. With `afterburn.evict=` the table that maps one of these stacks is
//! dropped each time that somebody has to see to it: by the shadow's own code, and counted as any
//! other. What is dropped are tables, and so 2 MB around the page.
//!
//! It begins with the first program. If the page is not mapped again in time, mostly Xen ends the
//! domain, and cannot say why; where it can be told before, the wedge does, with the name.

use wedge::cpu::Context;
use wedge::vm::Memory as _;

use super::guest::{Eviction, Moment, Pages, STACK_LENGTH, Vm, Xen};
use crate::boot::options::Stack;

impl Moment {
    const fn is_exit(self) -> bool {
        matches!(self, Self::Kernel | Self::User)
    }
}

/// Ways through the wedge are so many that all but one in this number go without an eviction, which
/// takes the real TLB along. It is a prime, so that none of a loop's is always left out.
const EXITS: u32 = 17;

/// One address.
const fn one(address: u64) -> Pages {
    [address, 0, 0, 0, 0, 0, 0]
}

impl Eviction {
    /// Of this stack.
    pub(super) const fn new(stack: Stack) -> Self {
        Self { stack, exits: 0, interrupts: 0, missing: [0; _] }
    }
}

/// The stacks that `keep_stacks` maps, whoever uses them next.
pub(super) const KEPT: [Stack; 5] = [Stack::TssRsp0, Stack::TssIst, Stack::Syscall, Stack::Interrupted, Stack::Sysret];

impl Xen {
    /// Evicts what is to be evicted at this moment.
    #[inline]
    pub(super) fn evict(vm: &mut Vm, moment: Moment, context: &Context) {
        if vm.machine.host.eviction.is_some() && vm.vcpu.has_run_user {
            Self::evict_stack(vm, moment, context);
        }
    }

    /// [`enter_kernel`](wedge::vm::Host::enter_kernel), with what is to be evicted evicted.
    #[cold]
    pub(super) fn enter_kernel_evicting(vm: &mut Vm, context: &Context) {
        Self::evict(vm, Moment::Kernel, context);
        Self::reach_stack(vm, context.rsp);
        Self::check_eviction(vm, &[Stack::Current], context);
        Self::keep_stacks(vm, context, Some(context.rsp));
        Self::check_eviction(vm, &KEPT, context);
    }

    #[cold]
    fn evict_stack(vm: &mut Vm, moment: Moment, context: &Context) {
        let Some(eviction) = &mut vm.machine.host.eviction else { return };
        if moment.is_exit() {
            eviction.missing = [0; _];
            eviction.exits = (eviction.exits + 1) % EXITS;
        }
        if moment != Moment::Unwritable && eviction.exits != 0 {
            return;
        }
        let stack = eviction.stack;
        let stacks = Self::pages(vm, stack, moment, context);
        let missing = stacks.map(|page| if vm.machine.space.memory.is_mapped(page, false) { page } else { 0 });
        let entry = if moment.is_exit() { Self::entry_code(vm, stack) } else { [0; _] };
        for page in stacks.into_iter().chain(entry) {
            vm.machine.space.shadow.evict(page, &mut vm.machine.space.memory);
        }
        if let Some(eviction) = vm.machine.host.eviction.as_mut().filter(|_| moment.is_exit()) {
            eviction.missing = missing;
        }
    }

    /// On which pages, if at this moment, frames can be pushed next.
    fn pages(vm: &mut Vm, stack: Stack, moment: Moment, context: &Context) -> Pages {
        let named = Self::named_stacks(vm);
        let is_on = |top: u64| top.wrapping_sub(context.rsp) <= STACK_LENGTH;
        let is_thread = moment != Moment::Kernel || is_on(named.entry);
        let is_interrupt = !is_thread && !is_on(named.rsp0) && !named.ist.into_iter().any(is_on);
        match (stack, moment) {
            (Stack::TssRsp0, Moment::Entry | Moment::Kernel | Moment::User) => one(named.rsp0.wrapping_sub(8)),
            (Stack::TssIst, Moment::Entry | Moment::Kernel | Moment::User) => named.ist.map(|top| top.wrapping_sub(8)),
            (Stack::Unwritable, Moment::Unwritable) => one(context.registers.rax),
            (Stack::Current | Stack::Thread, Moment::Kernel) => one(context.rsp.wrapping_sub(8)),
            (Stack::Syscall | Stack::Syscall32, Moment::Kernel | Moment::User) => one(named.entry.wrapping_sub(8)),
            (Stack::Interrupted, Moment::Kernel) if is_interrupt => one(named.entry.wrapping_sub(8)),
            (Stack::Interrupts, Moment::Kernel | Moment::User) => {
                Self::interrupt_stack(vm, is_interrupt.then_some(context.rsp))
            }
            (Stack::Sysret, Moment::Kernel | Moment::User) => {
                let [first, second] = vm.machine.host.stacks.returns();
                [first, second, 0, 0, 0, 0, 0]
            }
            _ => [0; _],
        }
    }

    /// The stack of interrupts, if it is not in use, once it has been seen.
    fn interrupt_stack(vm: &mut Vm, current: Option<u64>) -> Pages {
        match (&mut vm.machine.host.eviction, current) {
            (Some(eviction), Some(rsp)) => {
                eviction.interrupts = rsp;
                [0; _]
            }
            (Some(eviction), None) => one(eviction.interrupts),
            (None, _) => [0; _],
        }
    }

    /// The entry code that loads a stack, and from where it does.
    fn entry_code(vm: &Vm, stack: Stack) -> [u64; 2] {
        let entry = match stack {
            Stack::Syscall => vm.vcpu.cpu.lstar,
            Stack::Syscall32 => vm.vcpu.cpu.cstar,
            _ => return [0; 2],
        };
        [entry, vm.machine.host.stacks.named_by_entry().unwrap_or(0)]
    }

    /// Ends the guest if what was evicted is missing still, and it is one of the stacks that must
    /// be mapped by now.
    #[inline]
    pub(super) fn check_eviction(vm: &mut Vm, of: &[Stack], context: &Context) {
        if vm.machine.host.eviction.is_some() {
            Self::check_missing(vm, of, context);
        }
    }

    #[cold]
    fn check_missing(vm: &mut Vm, of: &[Stack], context: &Context) {
        if let Some(Eviction { stack, missing, .. }) = vm.machine.host.eviction
            && of.contains(&stack)
            && let Some(page) =
                missing.into_iter().find(|&page| page != 0 && !vm.machine.space.memory.is_mapped(page, false))
        {
            Vm::die(context, format_args!("with {page:#x} missing, evicted for afterburn.evict={stack}"));
        }
    }
}
