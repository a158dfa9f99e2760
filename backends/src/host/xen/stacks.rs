//! The stacks that Xen pushes frames on.
//!
//! An exception or event that comes in while the guest's kernel runs is pushed on the kernel's own
//! stack, as a processor does. If the stack is not mapped, Xen has no other to use and ends the
//! domain (`xen/arch/x86/x86_64/entry.S`, `create_bounce_frame`). A page that the shadow has not
//! filled, or has dropped for want of tables, is fatal there, and nowhere else: any other costs a
//! fault.
//!
//! So whatever RSP can come to is mapped before it does. By whom:
//!
//! | RSP comes to | mapped by | `afterburn.evict=` |
//! |---|---|---|
//! | where it is when the kernel goes on | `reach_stack`, each time | `current` |
//! | the TSS's RSP0, by an entry or by Linux's way out | the wedge, which writes the frame; `keep_stacks` | `tss-rsp0` |
//! | a stack of the TSS's IST | the wedge, which writes the frame; and `keep_stacks` what lies below | `tss-ist` |
//! | the stack that SYSCALL's entry code loads | `prepare_gap` before the first SYSCALL; then `keep_stacks` | `syscall` |
//! | the same, by SYSCALL from 32-bit code | `prepare_gap` before the first since `keep_stacks` | `syscall32` |
//! | the interrupted stack, from that of interrupts | it is the same one | `interrupted` |
//! | the stack of interrupts, that of softirqs | the kernel, which has stored to it what it comes back to | `interrupts` |
//! | the stack of another thread | `change_stacks` | `thread` |
//! | a stack that cannot be written (return to 16 bits) | `reach_unwritable_stack` | `unwritable` |
//! | a program's, just before SYSRET | only fetches can fault there: `keep_stacks` maps that code | `sysret` |
//!
//! The words in the last column have the stack of that row evicted all the time (`eviction`).
//!
//! A stack's first touch fills its whole block (`wedge/src/shadow/fill.rs`), so all that is left
//! are tables that were dropped. After that has happened in the kernel's part, `keep_stacks` maps
//! again what is named here, and it has the tables dropped last. Threads that sleep are too many
//! for that. Linux goes from one to another in one place, which touches nothing of the new stack
//! beforehand: from the first time on that a table is dropped there is a breakpoint there.

use core::sync::atomic::Ordering;

use annotate::instructions::Class;
use iced_x86::{Instruction, OpKind, Register};
use wedge::cpu::{Context, decode};
use wedge::guest::linux::{STACK_PAGES, StackSwitch};
use wedge::shadow::OutOfTables;
use wedge::sites::{Engine, INT3};
use wedge::vm::{Memory as _, Processor as _};

use super::cpu::CPU;
use super::entry::xen_syscall_slow;
use super::guest::{Machine, Moment, NamedStacks, Stacks, Vm, Xen};
use super::memory::pointer;
use crate::runtime::{PAGE, say};

/// What Xen pushes at once: a frame, an error code, and RCX and R11 below it (Xen,
/// `create_bounce_frame`), with room to spare.
const PUSHED: u64 = 128;

impl Stacks {
    /// Of a kernel with these sites, in whose text there is a breakpoint at `unwritable`.
    pub(super) fn new(engine: &Engine<'_>, unwritable: Option<u64>, switch: Option<StackSwitch>) -> Self {
        let mut sites = engine.sites().filter(|(_, entry)| entry.class() == Class::Sysret);
        let returns = [(); 2].map(|()| sites.next().map_or(0, |(_, entry)| entry.address()));
        Self { unwritable, returns, evictions: 0, switch, watched: false, named_by_entry: None, prepared32: None }
    }

    /// The sites of SYSRET.
    pub(super) const fn returns(&self) -> [u64; 2] {
        self.returns
    }

    /// The word from which SYSCALL's entry code loads RSP, once that has been looked at.
    pub(super) const fn named_by_entry(&self) -> Option<u64> {
        self.named_by_entry
    }

    /// Whether the kernel is about to leave its stack for an unwritable one, at this site.
    pub(super) fn is_left_behind(&self, site: u64) -> bool {
        self.unwritable == Some(site)
    }
}

impl Xen {
    /// Maps the stack that the kernel goes on with, below RSP.
    pub(super) fn reach_stack(vm: &mut Vm, rsp: u64) {
        let top = rsp.wrapping_sub(8);
        if vm.vcpu.has_run_user && !vm.machine.space.shadow.is_kernel(top) {
            return;
        }
        vm.machine.space.shadow.hold(top);
        vm.machine.space.reach_for_writing(top);
        if top % PAGE < PUSHED {
            vm.machine.space.reach_for_writing(rsp.wrapping_sub(PUSHED));
        }
    }

    /// If tables of the kernel's part have been dropped, maps the stacks that the kernel can come
    /// to, and looks after the others. `current` is the RSP that the kernel goes on with, if it
    /// does.
    #[inline]
    pub(super) fn keep_stacks(vm: &mut Vm, context: &Context, current: Option<u64>) {
        if vm.machine.space.shadow.statistics().kernel_evictions != vm.machine.host.stacks.evictions {
            Self::map_stacks(vm, context, current);
        }
    }

    #[cold]
    fn map_stacks(vm: &mut Vm, context: &Context, current: Option<u64>) {
        vm.machine.host.stacks.prepared32 = None;
        CPU.syscall_target.store(xen_syscall_slow as *const () as u64, Ordering::Relaxed);
        Self::watch_the_switch(vm);
        let kept = Self::keep_named_stacks(vm).and_then(|()| current.map_or(Ok(()), |rsp| Self::keep_stack(vm, rsp)));
        if kept.is_err() {
            Vm::die(context, "without a page table left for a stack");
        }
        vm.machine.host.stacks.evictions = vm.machine.space.shadow.statistics().kernel_evictions;
    }

    /// Those that the TSS (SDM Vol. 3A, 8.7, figure 8-11) and the entry code name, and the code
    /// behind which SYSRET is.
    fn keep_named_stacks(vm: &mut Vm) -> Result<(), OutOfTables> {
        let NamedStacks { rsp0, ist, entry } = Self::named_stacks(vm);
        for stack in [rsp0, entry].into_iter().chain(ist) {
            Self::keep_stack(vm, stack)?;
        }
        for site in vm.machine.host.stacks.returns {
            // The instructions before it, which load the program's RSP, and the site.
            Self::require(vm, site.wrapping_sub(16), false)?;
            Self::require(vm, site, false)?;
        }
        Ok(())
    }

    pub(super) fn named_stacks(vm: &mut Vm) -> NamedStacks {
        const RSP0: u64 = 4;
        const IST1: u64 = 36;
        let mut stacks = NamedStacks::default();
        let tss = vm.vcpu.cpu.tr;
        if u64::from(tss.limit) >= IST1 + 7 * 8 - 1 {
            stacks.rsp0 = vm.machine.space.word(tss.base + RSP0).unwrap_or(0);
            stacks.ist = vm.machine.space.words(tss.base + IST1).unwrap_or_default();
        }
        stacks.entry = vm.machine.host.stacks.named_by_entry.and_then(|word| vm.machine.space.word(word)).unwrap_or(0);
        stacks
    }

    /// Maps a stack, from its top down, as far as the guest does.
    fn keep_stack(vm: &mut Vm, top: u64) -> Result<(), OutOfTables> {
        for page in 0..STACK_PAGES {
            let address = top.wrapping_sub(8).wrapping_sub(page * PAGE);
            if !vm.machine.space.shadow.is_kernel(top) || !Self::require(vm, address, true)? {
                break;
            }
        }
        Ok(())
    }

    fn require(vm: &mut Vm, address: u64, write: bool) -> Result<bool, OutOfTables> {
        vm.machine.space.shadow.require(address, write, &mut vm.machine.space.memory)
    }

    /// The kernel is about to leave its stack for one that cannot be written: the address of that
    /// is in RAX.
    pub(super) fn reach_unwritable_stack(vm: &mut Vm, context: &Context) {
        Self::evict(vm, Moment::Unwritable, context);
        let stack = context.registers.rax;
        if !vm.machine.space.memory.is_mapped(stack, false) && Self::require(vm, stack, false).is_err() {
            Vm::die(context, "without a page table left for a stack");
        }
    }

    /// Puts a breakpoint where the kernel goes from one thread's stack to another's.
    fn watch_the_switch(vm: &mut Vm) {
        if core::mem::replace(&mut vm.machine.host.stacks.watched, true) {
            return;
        }
        let Machine { space, text, host, .. } = &*vm.machine;
        let physical = |switch: &StackSwitch| switch.load.wrapping_add(text.head_distance);
        let at = host.stacks.switch.as_ref().map(physical);
        let Some(place) = at.and_then(|at| space.memory.memory.place(at)) else {
            say!("page tables are short, and where this kernel changes stacks is unknown: a thread may end it");
            return;
        };
        // SAFETY: the instruction in the kernel's text, in the guest's memory; the guest does not
        // run.
        unsafe { pointer::<u8>(place).write(INT3) };
    }

    /// A breakpoint at `at`: if the kernel goes to another thread's stack there, maps that, and
    /// goes there.
    pub(super) fn change_stacks(vm: &mut Vm, context: &mut Context, at: u64) -> bool {
        let Some(StackSwitch { load, next, displacement }) = vm.machine.host.stacks.switch else { return false };
        if at != load {
            return false;
        }
        let Some(stack) = vm.machine.space.word(context.registers.rsi.wrapping_add_signed(displacement.into())) else {
            Vm::die(context, "at a change of stacks, without the new one");
        };
        if Self::keep_stack(vm, stack).is_err() {
            Vm::die(context, "without a page table left for a stack");
        }
        (context.rsp, context.rip) = (stack, next);
        true
    }

    /// SYSCALL, for the first time since the guest said where that goes.
    pub(super) fn syscall(vm: &mut Vm, context: &mut Context) {
        Self::prepare_gap(vm, context, vm.vcpu.cpu.lstar);
        CPU.syscall_target.store(vm.vcpu.cpu.lstar, Ordering::Relaxed);
        context.rip = vm.vcpu.cpu.lstar;
    }

    /// SYSCALL from compatibility mode.
    pub(super) fn syscall32(vm: &mut Vm, context: &mut Context) {
        if vm.machine.host.stacks.prepared32 != Some(vm.vcpu.cpu.cstar) {
            Self::prepare_gap(vm, context, vm.vcpu.cpu.cstar);
            vm.machine.host.stacks.prepared32 = Some(vm.vcpu.cpu.cstar);
        }
        vm.transfer(context, |cpu, context| {
            let next = context.rip;
            context.rip = next.wrapping_sub(2);
            wedge::cpu::transfer::syscall(cpu, context, next, false)
        });
    }

    /// From the first instruction behind SYSCALL on nothing may fault until a stack is loaded,
    /// since what Xen pushed then would be pushed on the program's stack; and that one must be
    /// there.
    fn prepare_gap(vm: &mut Vm, context: &Context, entry: u64) {
        let prepared = Self::follow_gap(vm, entry).and_then(|()| Self::keep_named_stacks(vm));
        if prepared.is_err() {
            Vm::die(context, "without a page table left for the entry of system calls");
        }
    }

    fn follow_gap(vm: &mut Vm, entry: u64) -> Result<(), OutOfTables> {
        let mut address = entry;
        for _ in 0..16 {
            Self::require(vm, address, false)?;
            if let Some((_, entry)) = vm.machine.text.engine.site_at(address) {
                address = entry.end();
                continue;
            }
            let mut bytes = [0; 15];
            let length = vm.fetch(address, &mut bytes, false);
            let Some(instruction) = decode(&bytes[..length], address) else { return Ok(()) };
            let operand = Self::operand(vm, &instruction);
            if let Some(operand) = operand {
                Self::require(vm, operand, true)?;
            }
            address = instruction.next_ip();
            if instruction.op0_register() == Register::RSP && operand.is_some() {
                vm.machine.host.stacks.named_by_entry = operand;
                Self::require(vm, address, false)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The address of an operand in memory, if it is constant but for GS.
    fn operand(vm: &mut Vm, instruction: &Instruction) -> Option<u64> {
        let in_memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let constant = matches!(instruction.memory_base(), Register::None | Register::RIP);
        // At SYSCALL the kernel's base is the one that SWAPGS makes active.
        let base = if instruction.segment_prefix() == Register::GS { vm.vcpu.processor.gs_base(true) } else { 0 };
        (in_memory && constant).then(|| base.wrapping_add(instruction.memory_displacement64()))
    }
}
