//! The x87 and SSE registers, where the host keeps those of programs apart from those that are
//! there while the kernel runs (SDM Vol. 2A, FXSAVE, FXRSTOR; Vol. 1, 10.5).

use iced_x86::Mnemonic;

use super::{Machine, Outcome};
use crate::cpu::{Exception, FloatingPoint, Flow, Host};
use crate::x86::control::cr0;
use crate::x86::vector;

/// Where in the state MXCSR is, and the mask of the bits that it can have.
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// The mask of processors that say 0 (SDM Vol. 1, 11.6.6).
const USUAL_MASK: u32 = 0xffbf;
/// What the instructions leave alone, at the end.
const RESERVED: usize = 416;

impl<H: Host> Machine<'_, H> {
    /// FXSAVE.
    pub(super) fn save_floating_point(&mut self) -> Outcome {
        let address = self.floating_point_address()?;
        let mut state = FloatingPoint::INITIAL;
        let wide = self.instruction.mnemonic() == Mnemonic::Fxsave64;
        if !self.host.save_floating_point(&mut state, wide) {
            return Ok(Flow::Unhandled);
        }
        self.host.write(address, &state.0[..RESERVED], self.context.is_user())?;
        Ok(Flow::Next)
    }

    /// FXRSTOR.
    pub(super) fn load_floating_point(&mut self) -> Outcome {
        let address = self.floating_point_address()?;
        let mut state = FloatingPoint::INITIAL;
        self.host.read(address, &mut state.0, self.context.is_user())?;
        let mut known = FloatingPoint::INITIAL;
        let wide = self.instruction.mnemonic() == Mnemonic::Fxrstor64;
        if !self.host.save_floating_point(&mut known, wide) {
            return Ok(Flow::Unhandled);
        }
        let mask = match known.word(MXCSR_MASK) {
            0 => USUAL_MASK,
            mask => mask,
        };
        if state.word(MXCSR) & !mask != 0 {
            return Err(Exception::PROTECTION);
        }
        self.host.load_floating_point(&state, wide);
        Ok(Flow::Next)
    }

    /// The operand's address, if the registers may be used, and it is one of a multiple of 16.
    fn floating_point_address(&mut self) -> Result<u64, Exception> {
        const ALIGNMENT: u64 = 16;
        if self.cpu.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(Exception::plain(vector::DEVICE_NOT_AVAILABLE));
        }
        let address = self.address()?;
        if address.is_multiple_of(ALIGNMENT) { Ok(address) } else { Err(Exception::PROTECTION) }
    }
}
