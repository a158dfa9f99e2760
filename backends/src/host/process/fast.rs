//! Programs that run in this process (`--fast`), beside their kernel and the wedge: all is one
//! trust domain.
//!
//! Two things tell a program from the kernel: the wedge, or the code that a SYSRET leads to, has
//! entered it, and says so ([`CPU`]); and from there on the only ways out are a signal and the
//! entry point for calls. What is interrupted within these few instructions has a state that is
//! known, as if it had not begun or were done ([`Process::interrupted_program`]).
//!
//! What a program may access is what Linux has mapped. There is one address space for all that the
//! guest has, and so its lower part is that of the current space, and changes with it
//! ([`switch`](super::switch)).
//!
//! The extended state of the processor is the program's, also while the kernel runs, which saves it
//! by its own instructions. The wedge uses none of it. In a handler it is in the frame, from which
//! Linux takes it when the handler returns; and no handler is left in another way.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as raw;
use wedge::cpu::{Context, VirtualCpu};
use wedge::x86::control::efer;
use wedge::x86::paging::entry::{NO_EXECUTE, WRITABLE};
use wedge::x86::paging::{PAGE, fault};
use wedge::x86::{flags, vector};

use super::calls::{SYSCALL_LENGTH, is_system_call, nop_length};
use super::cpu::CPU;
use super::entry::{process_here_gap, process_here_gap_end, process_system_call};
use super::guest::{Process, REAL_CS, Vm};
use super::mappings::Mapping;
use super::registers::Frame;
use super::rewritten::{Dropped, at_trampoline};
use super::stops::Information;
use super::system::{self, Answer};
use super::tables::Tables;
use crate::host::soft::Found;
use crate::runtime::say;

impl Process {
    /// The program of this process that was interrupted, if one was, or was about to go on.
    pub(super) fn interrupted_program(frame: &Frame) -> Option<Context> {
        if CPU.user.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut context = frame.program();
        let plain = [&raw const process_here_gap, &raw const process_here_gap_end].map(|label| label.addr() as u64);
        if let Some([rip, cs, rflags, rsp, ss]) = Self::left_by(frame) {
            (context.rip, context.cs, context.rflags, context.rsp, context.ss) = (rip, cs, rflags, rsp, ss);
        } else if (plain[0]..=plain[1]).contains(&frame.rip()) {
            context.rip = context.registers.rcx;
            context.rflags = context.registers.r11;
            context.rsp = CPU.users_rsp.load(Ordering::Relaxed);
        } else if let Some((number, next)) = at_trampoline(frame.rip()) {
            context.registers.rax = number.unwrap_or(context.registers.rax);
            context.rip = next.wrapping_sub(SYSCALL_LENGTH);
        } else if frame.rip() == process_system_call as *const () as u64 {
            context.rip = context.registers.rcx.wrapping_sub(SYSCALL_LENGTH);
        }
        Some(context)
    }

    /// Whether a program of this process is on its way to the kernel. Single steps go on until it
    /// is there.
    fn is_on_its_way(vm: &Vm, frame: &Frame) -> bool {
        at_trampoline(frame.rip()).is_some() || vm.machine.text.window.contains(&frame.rip())
    }

    /// A program has come upon what is no instruction. If it was one, before text was changed, it
    /// is carried out. Whether it was. Only 64-bit code is changed: in 32-bit code SYSCALL itself
    /// is none, on most processors.
    fn rewritten(vm: &mut Vm, context: &mut Context) -> bool {
        if context.cs != REAL_CS {
            return false;
        }
        let mut bytes = [0; 15];
        let length = vm.fetch(context.rip, &mut bytes, true);
        if is_system_call(&bytes[..length]) {
            context.rip += SYSCALL_LENGTH;
            let at = context.rip;
            Self::system_call(vm, context, at);
            return true;
        }
        let nop = nop_length(&bytes[..length]);
        context.rip += nop.unwrap_or(0) as u64;
        nop.is_some()
    }

    /// A program of this process has stopped.
    pub(super) fn program_stopped(vm: &mut Vm, frame: &mut Frame, context: Context, signal: (u32, Information)) {
        let (number, information) = signal;
        if number == raw::SIGSYS {
            if context.cs == REAL_CS {
                vm.machine.space.memory.note_call(context.rip, context.registers.rax);
            }
            return Self::handle(vm, frame, context, |vm, context| Self::system_call(vm, context, information.address));
        }
        let (number, error) = frame.cause();
        if number == vector::DEBUG.into() && Self::is_on_its_way(vm, frame) {
            return;
        }
        if number == vector::PAGE_FAULT.into() {
            return Self::program_accessed(vm, frame, context, frame.is_without_memory(signal.0));
        }
        let is_step = information.code.cast_unsigned() == raw::TRAP_TRACE;
        Self::handle(vm, frame, context, |vm, context| {
            if number == vector::DEBUG.into() && is_step {
                vm.vcpu.processor.note_step();
            }
            if number == vector::INVALID_OPCODE.into() && Self::rewritten(vm, context) {
                return;
            }
            Self::program_exception(vm, context, number, error, 0);
        });
    }

    /// A program of this process has come upon a page fault. Most are accesses to what the tables
    /// map and Linux does not, yet, or not any more.
    fn program_accessed(vm: &mut Vm, frame: &mut Frame, context: Context, is_without_memory: bool) {
        let (number, error) = frame.cause();
        let address = frame.fault_address();
        let has = |bit: u32| error & u64::from(bit) != 0;
        let (write, fetch) = (has(fault::WRITE), has(fault::FETCH));
        if is_without_memory {
            say!("Linux has no memory for a program, at {address:#x}: its access is refused");
            return Self::handle(vm, frame, context, Self::refused_access);
        }
        if !has(fault::PROTECTION_KEY) {
            match vm.machine.space.memory.map_for_program(address, write, fetch) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    say!("Linux maps nothing at {address:#x}, {error}: a program's access is refused");
                    return Self::handle(vm, frame, context, Self::refused_access);
                }
            }
        }
        Self::handle(vm, frame, context, |vm, context| {
            Self::program_exception(vm, context, number, error, address);
        });
        if CPU.user.load(Ordering::Relaxed) != 0 {
            let _ = vm.machine.space.memory.map_for_program(address, write, fetch);
        }
    }
}

/// Where SYSCALL leads, if it does what Linux's does: the kernel begins with plain flags, and
/// SYSRET leads to what programs run with in CS and SS.
pub(super) fn direct_entry(cpu: &VirtualCpu) -> u64 {
    const CLEARED: u64 = flags::INTERRUPT | flags::TRAP | flags::DIRECTION | flags::NESTED | flags::ALIGNMENT;
    const USERS: u64 = (REAL_CS - 16) | 3;
    let is_plain = cpu.efer & efer::SCE != 0 && cpu.fmask & CLEARED == CLEARED && (cpu.star >> 48 | 3) == USERS;
    if is_plain { cpu.lstar } else { 0 }
}

impl Tables {
    /// The same, for a program that runs in this process.
    ///
    /// # Errors
    ///
    /// When Linux does not map it.
    pub(super) fn map_for_program(&mut self, address: u64, write: bool, fetch: bool) -> Answer<bool> {
        let found = self.soft.find_program(address);
        self.map_found(found, address, write, fetch)
    }

    /// Maps the pages of a mapping that have a copy with changed text over it.
    pub(super) fn map_rewritten(&mut self, mapping: &Mapping) -> Answer {
        for offset in (0..mapping.length).step_by(PAGE as usize) {
            let (address, physical) = (mapping.address + offset, mapping.physical + offset);
            let copy = self.copies.as_mut().and_then(|copies| copies.copy_of(address, physical, self.memory));
            let Some((file, offset)) = copy else { continue };
            if !self.budget.take() {
                self.drop_all();
                return Ok(());
            }
            let rights = raw::PROT_READ | raw::PROT_EXEC;
            // SAFETY: the address has just been mapped for the guest.
            unsafe { system::map(address, PAGE, rights, Some((file, offset)))? };
        }
        Ok(())
    }

    /// A program of this process has made a call of a number, which returns to `next`, by SYSCALL.
    /// It may be that the next goes to the kernel directly.
    pub(super) fn note_call(&mut self, next: u64, number: u64) {
        let memory = self.memory;
        if !self.copies.as_mut().is_some_and(|copies| copies.is_warm(next)) {
            return;
        }
        let at = next.wrapping_sub(SYSCALL_LENGTH);
        let is_text = |found: &Found| found.entry & (WRITABLE | NO_EXECUTE) == 0;
        let Some(found) = self.soft.find_program(at).filter(is_text) else { return };
        let Some(copies) = &mut self.copies else { return };
        let page = at & !(PAGE - 1);
        let dropped = copies.change(next, number, found.physical(page), memory);
        self.unmap(page..page + PAGE);
        match dropped {
            Dropped::None => {}
            Dropped::Page(page) => self.unmap(page..page + PAGE),
            Dropped::All => self.drop_all(),
        }
    }

    /// SYSCALL leads elsewhere than text that has been changed does: that is forgotten.
    pub(super) fn forget_calls(&mut self) {
        if let Some(copies) = &mut self.copies {
            copies.forget();
            self.drop_all();
        }
    }
}
