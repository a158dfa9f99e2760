//! What a host is that runs a guest's kernel without its privileges.
//!
//! A guest on a host is [`Vm<H>`](super::Vm): all that the guest sees is in there, and what really
//! happens is behind the one type `H`. What a host gives falls into four parts, for they are used
//! by different parts of the machine: page tables and memory ([`Memory`]), the processor's own
//! registers ([`Processor`]), clock, lines and console ([`Board`]), and the host itself ([`Host`]):
//! how it enters and leaves the guest. Everything is dispatched statically.

use core::fmt;

use super::modules::ModuleMemory;
use super::{Calls, Reached, Space, Vm};
use crate::cpu::{Context, ControlRegister, CpuidResult, DescriptorTable, FloatingPoint, Segment, VirtualCpu};
use crate::platform;
use crate::shadow;

/// How a guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It halts, and nothing can wake it.
    PowerOff,
    /// Its processor has shut down (SDM Vol. 3A, 6.15, "Interrupt 8").
    Reset,
    /// The wedge cannot go on.
    Crash,
}

/// A host.
pub trait Host: Sized {
    /// The name by which the command line and the wedge port know it.
    const NAME: &'static str;
    /// What the guest's kernel really has in CS,
    const KERNEL_CS: u64;
    /// and in SS.
    const KERNEL_SS: u64;
    /// Page tables, and the guest's memory.
    type Memory: Memory;
    /// The processor's registers.
    type Processor: Processor<Self::Memory>;
    /// Clock, interrupt lines, console.
    type Board: Board;
    /// What else the host keeps of a guest.
    type Kept;

    /// A line of the log.
    fn say(line: fmt::Arguments<'_>);

    /// The end.
    fn stop(end: End) -> !;

    /// The address that the latest page fault was about.
    fn fault_address() -> u64;

    /// A page fault that may be about something that only the host knows of. Whether it was.
    fn own_page_fault(vm: &mut Vm<'_, Self>, context: &mut Context, address: u64) -> bool;

    /// A breakpoint at an address in the kernel's text that may be the host's own. Whether it was;
    /// the context then goes on.
    fn own_breakpoint(vm: &mut Vm<'_, Self>, context: &mut Context, at: u64) -> bool;

    /// A context may have been interrupted in a routine that stubs lead to, before that has done
    /// anything but push: what it has pushed is taken back, and the context is in the stub, or at
    /// the site.
    fn present_routine(vm: &mut Vm<'_, Self>, context: &mut Context);

    /// A page is to be mapped before a program runs: the next exit must not be by the shortest way.
    fn note_work(vm: &mut Vm<'_, Self>);

    /// An interrupt waits for the next instruction that sets IF.
    fn note_pending(vm: &mut Vm<'_, Self>);

    /// Registers of the virtual CPU may have changed that sites read in place; with `system_calls`,
    /// also those that say where SYSCALL and SYSRET lead.
    fn registers_changed(vm: &mut Vm<'_, Self>, system_calls: bool);

    /// The guest's kernel is about to go on.
    fn enter_kernel(vm: &mut Vm<'_, Self>, context: &mut Context);

    /// A program is about to go on.
    fn enter_user(vm: &mut Vm<'_, Self>, context: &mut Context);

    /// How often the host was called.
    fn calls() -> Calls;
}

/// Page tables that the hardware reads, and the guest's memory.
pub trait Memory: shadow::Host + Peephole {
    /// The guest's memory by its physical addresses, for those who look for modules.
    type Physical: ModuleMemory + Copy;

    /// That memory.
    fn physical(&self) -> Self::Physical;

    /// Whether an address of the kernel's is known to be mapped, without looking.
    fn is_known(&self, address: u64, write: bool) -> bool;

    /// Whether an address of the kernel's is mapped.
    fn is_mapped(&mut self, address: u64, write: bool) -> bool;

    /// Copies from an address of the kernel's. The bytes lie in one page.
    fn load(&self, from: Reached, bytes: &mut [u8]);

    /// Copies to an address of the kernel's. The bytes lie in one page.
    fn store(&mut self, to: Reached, bytes: &[u8]);

    /// Whether there is memory at a guest-physical address, of a length within a page.
    fn has_physical(&self, address: u64, length: usize) -> bool;

    /// Copies from a guest-physical address, within a page. Whether there is memory.
    fn load_physical(&self, address: u64, bytes: &mut [u8]) -> bool;

    /// Copies to a guest-physical address, within a page. Whether there is memory.
    fn store_physical(&mut self, address: u64, bytes: &[u8]) -> bool;

    /// How many entries of page tables the host has refused.
    fn refused(&self) -> u64;
}

/// The guest's text, where the guest itself may not write it.
pub trait Peephole {
    /// The bytes that begin in the first of these pages, at this offset. They lie in no more than
    /// two pages, whose guest-physical addresses are given.
    fn open(&mut self, pages: &[u64], offset: usize, length: usize) -> Option<&mut [u8]>;
}

/// The processor's registers, as far as a guest has its own. All checks are done when one of these
/// is called.
pub trait Processor<M: shadow::Host> {
    /// What CPUID says.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult;

    /// CR0, CR4 or EFER has a new value.
    fn control_changed(&mut self, cpu: &VirtualCpu, register: ControlRegister, old: u64);

    /// The translation of a page may have changed, or of all pages.
    fn flushed(&mut self, page: Option<u64>);

    /// A segment register is loaded; `None` is a null selector.
    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>, space: &mut Space<M>);

    /// The selector in a segment register.
    fn read_segment(&mut self, segment: Segment) -> u16;

    /// FS base.
    fn fs_base(&mut self) -> u64;

    /// Sets the FS base.
    fn set_fs_base(&mut self, base: u64);

    /// The GS base that is in force, or the one that SWAPGS would put in force.
    fn gs_base(&mut self, other: bool) -> u64;

    /// Sets the GS base that is in force, or the other.
    fn set_gs_base(&mut self, other: bool, base: u64);

    /// SWAPGS.
    fn swap_gs(&mut self);

    /// A table register has a new value.
    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable, space: &mut Space<M>);

    /// A debug register: 0-3, 6 or 7.
    fn debug_register(&mut self, number: u8) -> u64;

    /// Sets a debug register; `false` if the host refuses the value.
    fn set_debug_register(&mut self, number: u8, value: u64) -> bool;

    /// The time-stamp counter.
    fn time_stamp(&mut self) -> u64;

    /// XCR0 has a new, legal value.
    fn set_xcr0(&mut self, value: u64);

    /// The program's x87 and SSE registers, where they are not in those of the processor while the
    /// kernel runs; `false` where they are.
    fn save_floating_point(&mut self, _state: &mut FloatingPoint, _wide: bool, _space: &mut Space<M>) -> bool {
        false
    }

    /// Sets them.
    fn load_floating_point(&mut self, _state: &FloatingPoint, _wide: bool, _space: &mut Space<M>) {}
}

/// Clock, interrupt lines, console.
pub trait Board: platform::Board + Sized {
    /// Hands the platform what has come in.
    fn collect(&mut self, platform: &mut platform::Platform);

    /// Waits until something comes in, or the platform's next moment has come, and hands it over.
    fn wait(&mut self, platform: &mut platform::Platform);

    /// Has the guest interrupted when the platform's next moment has come.
    fn set_timer(&mut self, platform: &platform::Platform);
}
