//! Gates of the IDT in 64-bit mode (SDM Vol. 3A, 6.14.1, figure 6-8), and the stacks in the TSS
//! that they lead to (8.7, figure 8-11).

use super::memory::{self, SYSTEM};
use super::{Exception, Host, VirtualCpu};
use crate::x86::segment::system::{INTERRUPT_GATE, TRAP_GATE};
use crate::x86::segment::{Descriptor, Selector};
use crate::x86::vector;

/// An interrupt or trap gate that was found to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The handler.
    pub offset: u64,
    /// Its code segment.
    pub selector: Selector,
    /// Number of the stack to use always, 1-7; 0 is none.
    pub stack: u8,
    /// Privilege level that INT n needs.
    pub dpl: u8,
    /// Whether IF is cleared.
    pub is_interrupt: bool,
}

impl VirtualCpu {
    /// The gate of a vector, for software that asks for it at a privilege level, or for the
    /// processor.
    ///
    /// # Errors
    ///
    /// #GP or #NP with the vector as the selector in the error code; a page fault.
    pub fn gate(&self, vector: u8, software: Option<u8>, host: &mut impl Host) -> Result<Gate, Exception> {
        let offset = u16::from(vector) * 16;
        let wrong = Exception::with_error(vector::PROTECTION, entry_error(vector));
        if offset + 15 > self.idt.limit {
            return Err(wrong);
        }
        let bytes = memory::read(host, self.idt.base.wrapping_add(u64::from(offset)), SYSTEM)?;
        let bits = u128::from_le_bytes(bytes);
        let kind = (bits >> 40 & 0x1f) as u8;
        let gate = Gate {
            offset: (bits & 0xffff) as u64 | (bits >> 32 & 0xffff_ffff_ffff_0000) as u64,
            selector: Selector((bits >> 16) as u16),
            stack: (bits >> 32 & 7) as u8,
            dpl: Descriptor(bits as u64).dpl(),
            is_interrupt: kind == INTERRUPT_GATE,
        };
        if (kind != INTERRUPT_GATE && kind != TRAP_GATE) || software.is_some_and(|cpl| cpl > gate.dpl) {
            return Err(wrong);
        }
        let present = bits >> 47 & 1 != 0;
        if present { Ok(gate) } else { Err(Exception::with_error(vector::NOT_PRESENT, entry_error(vector))) }
    }

    /// The stack of an inner privilege level, RSP0-RSP2.
    ///
    /// # Errors
    ///
    /// #TS if the TSS is too short; a page fault.
    pub fn stack_of_level(&self, level: u8, host: &mut impl Host) -> Result<u64, Exception> {
        self.stack_at(4 + 8 * u32::from(level), host)
    }

    /// A stack of the interrupt stack table, IST1-IST7.
    ///
    /// # Errors
    ///
    /// #TS if the TSS is too short; a page fault.
    pub fn interrupt_stack(&self, number: u8, host: &mut impl Host) -> Result<u64, Exception> {
        self.stack_at(0x1c + 8 * u32::from(number), host)
    }

    fn stack_at(&self, offset: u32, host: &mut impl Host) -> Result<u64, Exception> {
        if self.tr.selector.is_null() || offset + 7 > self.tr.limit {
            return Err(Exception::invalid_tss(self.tr.selector));
        }
        memory::read_u64(host, self.tr.base.wrapping_add(u64::from(offset)), SYSTEM)
    }
}

/// An error code that names an entry of the IDT (SDM Vol. 3A, 6.13).
const fn entry_error(vector: u8) -> u32 {
    (vector as u32) << 3 | 2
}
