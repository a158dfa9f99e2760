//! Model-specific registers, CPUID, the time-stamp counter.

use super::{Flow, Machine, Outcome};
use crate::cpu::{CpuidResult, Host, cpuid};
use crate::x86::control::cr4;

impl<H: Host> Machine<'_, H> {
    /// RDMSR.
    pub(super) fn read_msr(&mut self) -> Outcome {
        self.privileged()?;
        let value = self.cpu.read_msr(self.context.registers.rcx as u32, self.host)?;
        self.set_pair(value);
        Ok(Flow::Next)
    }

    /// WRMSR.
    pub(super) fn write_msr(&mut self) -> Outcome {
        self.privileged()?;
        self.cpu.write_msr(self.context.registers.rcx as u32, self.pair(), self.host)?;
        Ok(Flow::Next)
    }

    /// CPUID. A program reads the real XCR0, by XGETBV, and XSAVE writes what that says: so it is
    /// told how long that is.
    pub(super) fn cpuid(&mut self) -> Flow {
        const STATE: u32 = 0xd;
        let user = self.context.is_user();
        let registers = &mut self.context.registers;
        let (leaf, subleaf) = (registers.rax as u32, registers.rcx as u32);
        let CpuidResult { eax, mut ebx, ecx, edx } = cpuid(self.cpu, self.host, leaf, subleaf);
        if user && leaf == STATE && subleaf < 2 && ebx != 0 {
            ebx = self.host.raw_cpuid(leaf, subleaf).ebx;
        }
        registers.rax = eax.into();
        registers.rbx = ebx.into();
        registers.rcx = ecx.into();
        registers.rdx = edx.into();
        Flow::Next
    }

    /// RDTSC.
    pub(super) fn read_time_stamp(&mut self) -> Outcome {
        if self.cpu.cr4 & cr4::TSD != 0 {
            self.privileged()?;
        }
        let now = self.host.time_stamp();
        self.set_pair(now);
        Ok(Flow::Next)
    }

    /// RDTSCP.
    pub(super) fn read_time_stamp_and_processor(&mut self) -> Outcome {
        self.read_time_stamp()?;
        self.context.registers.rcx = self.cpu.tsc_aux.into();
        Ok(Flow::Next)
    }

    /// RDPID.
    pub(super) fn read_processor(&mut self) -> Flow {
        self.set(self.instruction.op0_register(), self.cpu.tsc_aux.into());
        Flow::Next
    }
}
