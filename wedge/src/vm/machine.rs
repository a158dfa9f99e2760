//! What the virtual CPU finds behind it.
//!
//! Each of its questions has one place where it is answered: memory and translations in the
//! [`Space`], ports in the platform or at the wedge port, registers by the host's processor. Here
//! they are told apart, and here stands what follows from an answer for the other parts: a port
//! that was accessed may have moved the platform's deadline, and a flush may concern modules.

use core::fmt;
use core::ops::Range;

use crate::cpu::{
    Context, ControlRegister, CpuidResult, DescriptorTable, Exception, FloatingPoint, Host as CpuHost, Segment, Size,
    VirtualCpu,
};
use crate::platform::Platform;
use crate::shadow::Mode;
use crate::x86::control::{cr0, cr4, efer};
use crate::x86::flags;

use super::account::{Account, Answers};
use super::port::{PORT, Port};
use super::{Board as _, End, Host, Memory as _, Processor as _, Profile, Space, Text, Vcpu, Vm};

/// A guest on a host: what all its processors share.
pub struct Machine<H: Host> {
    /// Memory.
    pub space: Space<H::Memory>,
    /// The devices of a PC.
    pub platform: Platform,
    /// Clock, interrupt lines, console.
    pub board: H::Board,
    /// The platform may have something to do: its deadline has moved, or an event came in.
    pub touched: bool,
    /// Something that may concern modules has been flushed since the last look at them.
    pub flushed: bool,
    /// Addresses of modules.
    pub modules: Range<u64>,
    /// The wedge port.
    pub port: Port,
    /// What it tells.
    pub account: Account,
    /// What the wedge is entered for, if that is counted.
    pub profile: Profile,
    /// The rewritten text of the guest's kernel and its modules.
    pub text: Text,
    /// What the host keeps.
    pub host: H::Kept,
}

impl<H: Host> fmt::Debug for Machine<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("host", &H::NAME).field("account", &self.account).finish_non_exhaustive()
    }
}

/// The paging mode of a CPU.
#[must_use]
pub fn paging_mode(cpu: &VirtualCpu) -> Mode {
    Mode {
        pcid: cpu.cr4 & cr4::PCIDE != 0,
        global: cpu.cr4 & cr4::PGE != 0,
        write_protect: cpu.cr0 & cr0::WP != 0,
        no_execute: cpu.efer & efer::NXE != 0,
        physical_bits: cpu.limits.physical_bits,
    }
}

/// What one virtual CPU finds behind it: the machine, and the processor that it really runs on.
pub struct Behind<'a, H: Host> {
    machine: &'a mut Machine<H>,
    processor: &'a mut H::Processor,
}

impl<H: Host> fmt::Debug for Behind<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(f)
    }
}

impl<H: Host> Machine<H> {
    /// The guest on one of its processors.
    #[inline]
    pub fn on<'a>(&'a mut self, vcpu: &'a mut Vcpu<H>) -> Vm<'a, H> {
        Vm { vcpu, machine: self }
    }

    /// This machine, behind a virtual CPU that runs on this processor.
    pub fn behind<'a>(&'a mut self, processor: &'a mut H::Processor) -> Behind<'a, H> {
        Behind { machine: self, processor }
    }

    /// The port's answers.
    fn answers(&mut self) -> (&mut Port, Answers<'_>) {
        let Self { port, account, profile, space, text, .. } = self;
        let Space { shadow, memory } = space;
        let (engine, shadow, refused) = (&mut text.engine, shadow.statistics(), memory.refused());
        (port, Answers { host: H::NAME, account, engine, profile, calls: H::calls(), shadow, refused })
    }
}

impl<H: Host> CpuHost for Behind<'_, H> {
    #[expect(clippy::inline_always, reason = "as `Space::read`")]
    #[inline(always)]
    fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
        self.machine.space.read(address, bytes, user)
    }

    #[inline]
    fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
        self.machine.space.write(address, bytes, user)
    }

    fn raw_cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        self.processor.cpuid(leaf, subleaf)
    }

    fn control_changed(&mut self, cpu: &VirtualCpu, register: ControlRegister, old: u64) {
        /// What makes translations void that are in all address spaces (SDM Vol. 3A, 4.10.4.1).
        const FLUSH_ALL: u64 = cr4::PGE | cr4::PCIDE;
        // Linux changes this bit with the thread. It has nothing to do with translations.
        if register != ControlRegister::Cr4 || (old ^ cpu.cr4) & !cr4::TSD != 0 {
            self.processor.flushed(None);
            self.machine.space.shadow.set_mode(paging_mode(cpu), &mut self.machine.space.memory);
        }
        self.processor.control_changed(cpu, register, old);
        self.machine.flushed |= register == ControlRegister::Cr4 && (old ^ cpu.cr4) & FLUSH_ALL != 0;
    }

    fn load_root(&mut self, cpu: &VirtualCpu, keep: bool) {
        self.machine.space.shadow.load_root(cpu.cr3, keep, &mut self.machine.space.memory);
    }

    fn flush_page(&mut self, address: u64) {
        self.machine.flushed |= self.machine.modules.contains(&address);
        self.processor.flushed(Some(address));
        self.machine.space.shadow.flush_page(address, &mut self.machine.space.memory);
    }

    fn flush_pcid_page(&mut self, pcid: u16, address: u64) {
        self.processor.flushed(Some(address));
        self.machine.space.shadow.flush_pcid_page(pcid, address, &mut self.machine.space.memory);
    }

    fn flush_pcid(&mut self, pcid: u16) {
        self.machine.space.shadow.flush_pcid(pcid, &mut self.machine.space.memory);
    }

    fn flush_all(&mut self, include_global: bool) {
        self.machine.flushed |= include_global;
        self.processor.flushed(None);
        self.machine.space.shadow.flush_all(include_global, &mut self.machine.space.memory);
    }

    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>) {
        self.processor.load_segment(segment, selector, descriptor, &mut self.machine.space);
    }

    fn read_segment(&mut self, segment: Segment) -> u16 {
        self.processor.read_segment(segment)
    }

    fn fs_base(&mut self) -> u64 {
        self.processor.fs_base()
    }

    fn set_fs_base(&mut self, base: u64) {
        self.processor.set_fs_base(base);
    }

    fn gs_base(&mut self) -> u64 {
        self.processor.gs_base(false)
    }

    fn set_gs_base(&mut self, base: u64) {
        self.processor.set_gs_base(false, base);
    }

    fn kernel_gs_base(&mut self) -> u64 {
        self.processor.gs_base(true)
    }

    fn set_kernel_gs_base(&mut self, base: u64) {
        self.processor.set_gs_base(true, base);
    }

    fn swap_gs(&mut self) {
        self.processor.swap_gs();
    }

    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable) {
        self.processor.tables_changed(cpu, what, &mut self.machine.space);
    }

    fn debug_register(&mut self, number: u8) -> u64 {
        self.processor.debug_register(number)
    }

    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        self.processor.set_debug_register(number, value)
    }

    fn port_in(&mut self, port: u16, size: Size) -> u32 {
        if (port, size) == (PORT, Size::Byte) {
            let (port, mut answers) = self.machine.answers();
            return port.read(&mut answers).into();
        }
        let value = self.machine.platform.read(port, size, &mut self.machine.board);
        self.machine.touched |= self.machine.platform.take_moved();
        value
    }

    fn port_out(&mut self, port: u16, size: Size, value: u32) {
        if (port, size) == (PORT, Size::Byte) {
            let (port, mut answers) = self.machine.answers();
            return port.write((value & 0xff) as u8, &mut answers);
        }
        self.machine.platform.write(port, size, value, &mut self.machine.board);
        self.machine.touched |= self.machine.platform.take_moved();
    }

    fn time_stamp(&mut self) -> u64 {
        self.processor.time_stamp()
    }

    fn set_xcr0(&mut self, value: u64) {
        self.processor.set_xcr0(value);
    }

    fn save_floating_point(&mut self, state: &mut FloatingPoint, wide: bool) -> bool {
        self.processor.save_floating_point(state, wide, &mut self.machine.space)
    }

    fn load_floating_point(&mut self, state: &FloatingPoint, wide: bool) {
        self.processor.load_floating_point(state, wide, &mut self.machine.space);
    }

    fn wait_for_interrupt(&mut self, _: &VirtualCpu, context: &Context) {
        if context.rflags & flags::INTERRUPT == 0 {
            self.machine.platform.advance(&mut self.machine.board);
            H::say(format_args!("halted with interrupts off at {:#x}", context.rip));
            H::stop(End::PowerOff);
        }
        self.machine.board.collect(&mut self.machine.platform);
        self.machine.platform.advance(&mut self.machine.board);
        self.machine.touched = true;
        while !self.machine.platform.has_interrupt() {
            self.machine.board.wait(&mut self.machine.platform);
        }
    }

    /// The host's business: its caches are coherent.
    fn write_back_caches(&mut self) {}
}
