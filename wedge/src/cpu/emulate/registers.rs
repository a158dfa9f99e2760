//! Control, debug and extended control registers.

use iced_x86::Register;

use super::{Flow, Machine, Outcome};
use crate::cpu::control::Control;
use crate::cpu::{Exception, Host};
use crate::x86::control::{cr0, cr4, debug};

/// DR7.GD: the next access to a debug register is #DB (SDM Vol. 3B, 17.2.4).
const GENERAL_DETECT: u64 = 1 << 13;
/// DR6.BD: it was.
const DETECTED: u64 = 1 << 13;

impl<H: Host> Machine<'_, H> {
    /// MOV from CR0, CR2, CR3, CR4, CR8.
    pub(super) fn move_from_control(&mut self, source: Register, destination: Register) -> Outcome {
        let register = control(source)?;
        self.privileged()?;
        self.set(destination, self.cpu.control(register));
        Ok(Flow::Next)
    }

    /// MOV to CR0, CR2, CR3, CR4, CR8.
    pub(super) fn move_to_control(&mut self, destination: Register, source: Register) -> Outcome {
        let register = control(destination)?;
        self.privileged()?;
        let value = self.get(source);
        self.cpu.set_control(register, value, self.host)?;
        Ok(Flow::Next)
    }

    /// CLTS.
    pub(super) fn clear_task_switched(&mut self) -> Outcome {
        self.privileged()?;
        self.cpu.set_control(Control::Cr0, self.cpu.cr0 & !cr0::TS, self.host)?;
        Ok(Flow::Next)
    }

    /// SMSW. Without UMIP anybody may.
    pub(super) fn store_machine_status(&mut self) -> Outcome {
        self.store(self.cpu.cr0)?;
        Ok(Flow::Next)
    }

    /// LMSW: PE, MP, EM and TS, of which PE cannot be cleared.
    pub(super) fn load_machine_status(&mut self) -> Outcome {
        self.privileged()?;
        let status = u64::from(self.load_selector()?);
        let loaded = cr0::MP | cr0::EM | cr0::TS;
        self.cpu.set_control(Control::Cr0, self.cpu.cr0 & !loaded | status & loaded, self.host)?;
        Ok(Flow::Next)
    }

    /// MOV from a debug register.
    pub(super) fn move_from_debug(&mut self, source: Register, destination: Register) -> Outcome {
        let number = self.debug(source)?;
        let value = self.host.debug_register(number);
        self.set(destination, value);
        Ok(Flow::Next)
    }

    /// MOV to a debug register. The upper halves of DR6 and DR7 are reserved, and some of their
    /// bits stand still: Linux writes 0 to all of them as it starts.
    pub(super) fn move_to_debug(&mut self, destination: Register, source: Register) -> Outcome {
        let number = self.debug(destination)?;
        let value = self.get(source);
        let written = debug::written(number, value);
        if (number >= 6 && value >> 32 != 0) || !self.host.set_debug_register(number, written) {
            return Err(Exception::PROTECTION);
        }
        Ok(Flow::Next)
    }

    /// The number of a debug register that may be accessed. DR4 and DR5 are other names of DR6 and
    /// DR7 while CR4.DE is 0 (SDM Vol. 3B, 17.2.2).
    fn debug(&mut self, register: Register) -> Result<u8, Exception> {
        let number = match register.number() as u8 {
            number @ (0..=3 | 6 | 7) => number,
            number @ (4 | 5) if self.cpu.cr4 & cr4::DE == 0 => number + 2,
            _ => return Err(Exception::INVALID_OPCODE),
        };
        self.privileged()?;
        let control = self.host.debug_register(7);
        if control & GENERAL_DETECT != 0 {
            let status = self.host.debug_register(6);
            self.host.set_debug_register(6, status | DETECTED);
            self.host.set_debug_register(7, control & !GENERAL_DETECT);
            return Err(Exception::DEBUG);
        }
        Ok(number)
    }

    /// XGETBV of XCR0, or of the components in use, which may be all that are enabled (SDM Vol. 1,
    /// 13.6).
    pub(super) fn get_extended_control(&mut self) -> Outcome {
        self.has_extended_state()?;
        if self.context.registers.rcx as u32 > 1 {
            return Err(Exception::PROTECTION);
        }
        self.set_pair(self.cpu.xcr0);
        Ok(Flow::Next)
    }

    /// XSETBV.
    pub(super) fn set_extended_control(&mut self) -> Outcome {
        self.has_extended_state()?;
        self.privileged()?;
        if self.context.registers.rcx as u32 != 0 {
            return Err(Exception::PROTECTION);
        }
        self.cpu.set_xcr0(self.pair(), self.host)?;
        Ok(Flow::Next)
    }

    fn has_extended_state(&self) -> Result<(), Exception> {
        if self.cpu.cr4 & cr4::OSXSAVE == 0 { Err(Exception::INVALID_OPCODE) } else { Ok(()) }
    }

    /// EDX:EAX.
    pub(super) const fn pair(&self) -> u64 {
        let registers = &self.context.registers;
        registers.rdx << 32 | registers.rax & 0xffff_ffff
    }

    /// Sets EDX:EAX.
    pub(super) const fn set_pair(&mut self, value: u64) {
        self.context.registers.rax = value & 0xffff_ffff;
        self.context.registers.rdx = value >> 32;
    }
}

/// CR1, CR5-CR7 and CR9-CR15 do not exist, whoever asks.
fn control(register: Register) -> Result<Control, Exception> {
    Ok(match register {
        Register::CR0 => Control::Cr0,
        Register::CR2 => Control::Cr2,
        Register::CR3 => Control::Cr3,
        Register::CR4 => Control::Cr4,
        Register::CR8 => Control::Cr8,
        _ => return Err(Exception::INVALID_OPCODE),
    })
}
