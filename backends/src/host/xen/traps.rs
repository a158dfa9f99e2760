//! What happens when Xen, or a site, enters the wedge.
//!
//! What is common to all hosts is in [`wedge::vm`]. Here is what differs: where the values come
//! from that an entry point saves, which entry points there are, and what is to be done before the
//! guest goes on.

use core::fmt;
use core::sync::atomic::Ordering;

use wedge::cpu::{Context, Event, Exception};
use wedge::guest::linux;
use wedge::sites::Site;
use wedge::vm::{Calls, End, Exit, Host, Vcpu};
use wedge::x86::{flags, vector};

use super::board::Board;
use super::cpu::CPU;
use super::entry::{cause, exit, xen_emulate, xen_emulate_without_stack, xen_iret, xen_syscall_slow, xen_unmasked};
use super::eviction::KEPT;
use super::failsafe;
use super::guest::{Kept, Machine, Moment, Vm, Xen};
use super::hypercall::{self, Reason, shutdown};
use super::interface::{KERNEL_CS, KERNEL_SS};
use super::processor::Processor;
use super::tables::Tables;
use crate::Backend;
use crate::runtime::exclusive::{Exclusive, Late};
use crate::runtime::say;

/// The guest: what its processors share. Events are masked in the wedge; an exception there is the
/// end.
static MACHINE: Exclusive<Option<Machine>> = Exclusive::new(None);

/// From here on traps find the guest, on this processor.
pub(super) fn stay(mut machine: Machine, mut vcpu: Vcpu<Xen>) {
    Xen::registers_changed(&mut machine.on(&mut vcpu), true);
    // What is counted does not go the shortest way.
    CPU.work.store(u8::from(machine.profile.is_on()), Ordering::Relaxed);
    *MACHINE.borrow() = Some(machine);
    *CPU.vcpu.borrow() = Late::Made(vcpu);
}

/// Where all entry points lead. Returns one of [`exit`].
#[unsafe(no_mangle)]
extern "C" fn xen_entered(context: &mut Context) -> u64 {
    let (mut vcpu, mut machine) = (CPU.vcpu.try_borrow(), MACHINE.try_borrow());
    match (vcpu.as_deref_mut(), machine.as_deref_mut()) {
        (Some(Late::Made(vcpu)), Some(Some(machine))) => Xen::enter(&mut machine.on(vcpu), context),
        (Some(_), Some(_)) => Vm::die(context, "before the guest runs"),
        _ => {
            take(context);
            Vm::die(context, "in the wedge")
        }
    }
}

impl Xen {
    fn enter(vm: &mut Vm, context: &mut Context) -> u64 {
        take(context);
        if vm.vcpu.processor.steps {
            vm.vcpu.processor.steps = false;
            context.rflags |= flags::TRAP;
        }
        if Self::is_step_in_window(vm, context) {
            return Self::step_on(vm, context);
        }
        Self::leave_springboard(vm, context);
        Self::evict(vm, Moment::Entry, context);
        match context.vector {
            cause::EVENT => vm.event(context),
            cause::SITE => vm.site_called(context),
            cause::IRET => Self::iret(vm, context),
            cause::SITE_WITHOUT_STACK => vm.site_jumped(context, CPU.site.load(Ordering::Relaxed) as usize),
            cause::SYSRET => vm.site_jumped(context, vm.machine.host.sysret),
            cause::SYSCALL => Self::syscall(vm, context),
            cause::SYSCALL32 => Self::syscall32(vm, context),
            cause::SYSENTER => vm.transfer(context, wedge::cpu::transfer::sysenter),
            cause::FAILSAFE => vm.deliver(context, Event::Exception(Exception::PROTECTION)),
            _ => vm.exception(context),
        }
        match vm.leave(context) {
            Exit::Kernel => exit::KERNEL,
            Exit::User => exit::USER,
        }
    }

    /// Whether a single step has ended in the wedge: within a site, which to the guest is one
    /// instruction. SYSENTER leaves TF set, so that any program can have the kernel's entry stepped
    /// through.
    fn is_step_in_window(vm: &Vm, context: &Context) -> bool {
        /// DR6.BS (SDM Vol. 3B, 17.2.3).
        const SINGLE_STEP: u64 = 1 << 14;
        context.vector == vector::DEBUG.into()
            && !context.is_user()
            && vm.machine.text.window.contains(&context.rip)
            && hypercall::get_debug_register(6) & SINGLE_STEP != 0
    }

    /// Goes on in the window: to the end of a stub. What a stub calls does not step; the context
    /// that it is called for does.
    fn step_on(vm: &mut Vm, context: &mut Context) -> u64 {
        if vm.machine.text.engine.at_stub(context.rip).is_none() {
            context.rflags &= !flags::TRAP;
            // These lead here, and nowhere else.
            let leads_here = [xen_emulate, xen_emulate_without_stack].map(|routine| routine as *const () as u64);
            vm.vcpu.processor.steps = leads_here.contains(&context.rip);
        }
        (context.cs, context.ss) = (KERNEL_CS, KERNEL_SS);
        exit::KERNEL
    }

    /// An IRETQ that `xen_iret` has turned away: often for nothing but the work to be done before
    /// user mode.
    fn iret(vm: &mut Vm, context: &mut Context) {
        let number = CPU.site.load(Ordering::Relaxed) as usize;
        if CPU.gs_swapped.load(Ordering::Relaxed) == 0 || !vm.return_plainly(context, number) {
            vm.site_jumped(context, number);
        }
    }
}

impl Host for Xen {
    const NAME: &'static str = Backend::Xen.name();
    const KERNEL_CS: u64 = KERNEL_CS;
    const KERNEL_SS: u64 = KERNEL_SS;
    type Memory = Tables;
    type Processor = Processor;
    type Board = Board;
    type Kept = Kept;

    fn say(line: fmt::Arguments<'_>) {
        say!("{line}");
    }

    fn stop(end: End) -> ! {
        match end {
            End::PowerOff => shutdown(Reason::PowerOff),
            End::Reset => shutdown(Reason::Reboot),
            End::Crash => crate::runtime::log::stop(),
        }
    }

    fn fault_address() -> u64 {
        CPU.shared.vcpu().cr2.load(Ordering::Relaxed)
    }

    /// At an entry of the real local table somebody has loaded its selector, or a program has only
    /// accessed that address, where to it there is nothing. Then the next fault says so, for the
    /// entry is not missing any more.
    fn own_page_fault(vm: &mut Vm, context: &mut Context, address: u64) -> bool {
        let Some(index) = vm.vcpu.processor.segments.ldt.entry_at(address) else { return false };
        match vm.vcpu.processor.show_local(index, &mut vm.machine.space) {
            Ok(missed) => missed,
            Err(exception) => {
                vm.present(context);
                vm.deliver(context, Event::Exception(exception));
                true
            }
        }
    }

    /// Where the kernel goes from one stack to another.
    fn own_breakpoint(vm: &mut Vm, context: &mut Context, at: u64) -> bool {
        if Self::change_stacks(vm, context, at) {
            return true;
        }
        if !vm.machine.host.stacks.is_left_behind(at) {
            return false;
        }
        let Some(number) = vm.machine.text.engine.site_at(at).map(|(number, _)| number) else { return false };
        Self::reach_unwritable_stack(vm, context);
        vm.emulate_site(context, number, at);
        true
    }

    fn present_routine(vm: &mut Vm, context: &mut Context) {
        let routine = |routine: unsafe extern "C" fn()| routine as *const () as u64;
        let number = CPU.site.load(Ordering::Relaxed) as usize;
        let site = vm.machine.text.engine.site(number).map_or(0, Site::address);
        if context.rip == routine(xen_iret) {
            return vm.present_return(context, site);
        }
        if context.rip == routine(xen_emulate_without_stack) {
            context.rip = site;
            return;
        }
        // SAFETY: filled in by the assembler.
        let [emulate, interrupt] = unsafe { xen_unmasked };
        let pushed = |addresses: [u64; 5]| addresses.into_iter().position(|address| address == context.rip);
        let (pushed, called) = match (pushed(emulate), pushed(interrupt)) {
            (Some(pushed), _) => (pushed, 5),
            (_, Some(pushed)) => (pushed, 0),
            _ => return,
        };
        let words = pushed.min(3) as u64;
        if pushed == 4 {
            context.registers.rax = vm.machine.space.word(context.rsp + 16).unwrap_or(0);
        }
        context.rsp += 8 * words;
        // Before the call of `emulate`, nothing of the site has been done; behind that of
        // `interrupt`, all.
        context.rip = vm.machine.space.word(context.rsp).unwrap_or(0) - called;
        context.rsp += 8;
    }

    fn note_work(_: &mut Vm) {
        CPU.work.store(1, Ordering::Relaxed);
    }

    fn note_pending(_: &mut Vm) {
        CPU.shared.vcpu().pending.store(1, Ordering::Relaxed);
    }

    fn registers_changed(vm: &mut Vm, system_calls: bool) {
        let cpu = &vm.vcpu.cpu;
        let registers = [cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4];
        for (place, value) in CPU.control.iter().zip(registers) {
            place.store(value, Ordering::Relaxed);
        }
        if !system_calls {
            return;
        }
        let base = cpu.star >> 48 | 3;
        CPU.sysret_selectors[0].store(base + 16, Ordering::Relaxed);
        CPU.sysret_selectors[1].store(base + 8, Ordering::Relaxed);
        let target = CPU.syscall_target.load(Ordering::Relaxed);
        let slow = xen_syscall_slow as *const () as u64;
        if target != slow && target != cpu.lstar {
            CPU.syscall_target.store(slow, Ordering::Relaxed);
        }
    }

    #[inline]
    fn enter_kernel(vm: &mut Vm, context: &mut Context) {
        if vm.machine.host.eviction.is_some() {
            return Self::enter_kernel_evicting(vm, context);
        }
        Self::reach_stack(vm, context.rsp);
        Self::keep_stacks(vm, context, Some(context.rsp));
    }

    #[inline]
    fn enter_user(vm: &mut Vm, context: &mut Context) {
        CPU.work.store(u8::from(vm.machine.profile.is_on()), Ordering::Relaxed);
        Self::evict(vm, Moment::User, context);
        vm.vcpu.processor.update_descriptors(&vm.vcpu.cpu, context, &mut vm.machine.space);
        Self::use_springboard(vm, context);
        Self::keep_stacks(vm, context, None);
        Self::check_eviction(vm, &KEPT, context);
    }

    fn calls() -> Calls {
        hypercall::calls()
    }
}

/// Makes Xen's values the guest's.
fn take(context: &mut Context) {
    failsafe::look_through(context);
    // The upper half of CS has the event mask. The kernel's selectors are told with a privilege
    // level of 0, user mode's have 3.
    let selector = context.cs & 0xffff;
    if selector.trailing_zeros() < 2 {
        context.cs = selector;
        CPU.gs_swapped.store(0xff, Ordering::Relaxed);
        CPU.users_gs_known.store(0, Ordering::Relaxed);
    } else {
        context.cs = linux::KERNEL_CS;
        context.ss = linux::KERNEL_DS;
    }
}
