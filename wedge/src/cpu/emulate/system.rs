//! Idling, TLBs and caches.

use super::{Flow, Machine, Outcome};
use crate::cpu::control::legal;
use crate::cpu::memory::read;
use crate::cpu::{Host, is_canonical};
use crate::x86::control::cr4;

impl<H: Host> Machine<'_, H> {
    /// HLT. With interrupts off it is for ever, which is the host's to see to.
    pub(super) fn halt(&mut self) -> Outcome {
        self.privileged()?;
        self.host.wait_for_interrupt(self.cpu, self.context);
        Ok(Flow::Next)
    }

    /// INVLPG. An address that is not canonical has no translation.
    pub(super) fn invalidate_page(&mut self) -> Outcome {
        self.privileged()?;
        let address = self.linear_address();
        if is_canonical(address) {
            self.host.flush_page(address);
        }
        Ok(Flow::Next)
    }

    /// INVPCID (SDM Vol. 2A, INVPCID). A PCID other than 0 needs CR4.PCIDE.
    pub(super) fn invalidate_pcid(&mut self) -> Outcome {
        self.privileged()?;
        let kind = self.get(self.instruction.op0_register());
        let at = self.address()?;
        let [pcid, address] = invalidation(read(self.host, at, false)?);
        legal(kind <= 3 && pcid < 1 << 12)?;
        let of_pcid = || legal(pcid == 0 || self.cpu.cr4 & cr4::PCIDE != 0);
        match kind {
            0 => {
                of_pcid()?;
                legal(is_canonical(address))?;
                self.host.flush_pcid_page(pcid as u16, address);
            }
            1 => {
                of_pcid()?;
                self.host.flush_pcid(pcid as u16);
            }
            _ => self.host.flush_all(kind == 2),
        }
        Ok(Flow::Next)
    }

    /// INVD, WBINVD, WBNOINVD. The caches are shared with the host, so nothing in them is thrown
    /// away unwritten.
    pub(super) fn write_back_caches(&mut self) -> Outcome {
        self.privileged()?;
        self.host.write_back_caches();
        Ok(Flow::Next)
    }
}

/// The PCID and the address in INVPCID's descriptor.
const fn invalidation(bytes: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_le_bytes(bytes);
    [whole as u64, (whole >> 64) as u64]
}
