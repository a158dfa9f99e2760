//! What may be loaded into a segment register (SDM Vol. 3A, 3.4).
//!
//! In 64-bit mode bases and limits of ES, CS, SS and DS count for nothing, but the checks of a load
//! do (SDM Vol. 3A, 5.2.1): a kernel relies on them when it restores the selectors of a user
//! program, which may have loaded anything. The tables are the guest's, in its memory; they are
//! read anew at each load, as the processor does.

use super::memory::{self, SYSTEM};
use super::{Exception, Host, VirtualCpu, is_canonical};
use crate::x86::segment::{Descriptor, Selector};

impl VirtualCpu {
    /// Where the descriptor of a selector is, if its table holds `bytes` bytes there.
    #[must_use]
    pub fn descriptor_address(&self, selector: Selector, bytes: u32) -> Option<u64> {
        let (base, limit) = match selector.is_local() {
            false => (self.gdt.base, u32::from(self.gdt.limit)),
            true if self.ldt.selector.is_null() => return None,
            true => (self.ldt.base, self.ldt.limit),
        };
        let offset = selector.offset();
        (offset + (bytes - 1) <= limit).then(|| base.wrapping_add(u64::from(offset)))
    }

    /// The descriptor of a selector that is not null.
    ///
    /// # Errors
    ///
    /// #GP(selector) outside the table; a page fault.
    pub fn descriptor(&self, selector: Selector, host: &mut impl Host) -> Result<Descriptor, Exception> {
        let address = self.descriptor_address(selector, 8).ok_or(Exception::protection(selector))?;
        memory::read_u64(host, address, SYSTEM).map(Descriptor)
    }

    /// Sets bits of the type field of a descriptor in its table: accessed, busy.
    pub(super) fn mark(
        &self,
        selector: Selector,
        descriptor: Descriptor,
        bits: u8,
        host: &mut impl Host,
    ) -> Result<Descriptor, Exception> {
        let marked = Descriptor(descriptor.0 | u64::from(bits) << 40);
        if let (true, Some(address)) = (marked != descriptor, self.descriptor_address(selector, 8)) {
            memory::write_bytes(host, address.wrapping_add(5), &[(marked.0 >> 40) as u8], SYSTEM)?;
        }
        Ok(marked)
    }

    /// What a load of ES, DS, FS or GS checks (SDM Vol. 2B, MOV); `None` is a null selector.
    ///
    /// # Errors
    ///
    /// #GP(selector), #NP(selector), a page fault.
    pub fn data_segment(
        &self,
        selector: Selector,
        cpl: u8,
        host: &mut impl Host,
    ) -> Result<Option<Descriptor>, Exception> {
        if selector.is_null() {
            return Ok(None);
        }
        let descriptor = self.descriptor(selector, host)?;
        if !descriptor.is_readable() || !may_use(descriptor, selector, cpl) {
            return Err(Exception::protection(selector));
        }
        if !descriptor.is_present() {
            return Err(Exception::not_present(selector));
        }
        self.mark(selector, descriptor, 1, host).map(Some)
    }

    /// What a load of SS checks for code of a privilege level (SDM Vol. 2B, MOV; IRET and RET check
    /// the same of the level that they return to). A null selector is for 64-bit code in the kernel
    /// only; it has an empty descriptor.
    ///
    /// # Errors
    ///
    /// #GP(selector), #SS(selector), a page fault.
    pub fn check_stack_segment(
        &self,
        selector: Selector,
        cpl: u8,
        long: bool,
        host: &mut impl Host,
    ) -> Result<Descriptor, Exception> {
        if selector.is_null() {
            return if long && cpl != 3 { Ok(Descriptor(0)) } else { Err(Exception::PROTECTION) };
        }
        let descriptor = self.descriptor(selector, host)?;
        if selector.rpl() != cpl || !descriptor.is_writable() || descriptor.dpl() != cpl {
            return Err(Exception::protection(selector));
        }
        if !descriptor.is_present() {
            return Err(Exception::stack(selector));
        }
        self.mark(selector, descriptor, 1, host)
    }

    /// A descriptor that has 16 bytes (SDM Vol. 3A, 3.5.2), for LLDT and LTR: with its base, whose
    /// upper half is the second eight bytes.
    ///
    /// # Errors
    ///
    /// #GP(selector), #NP(selector), a page fault.
    pub(super) fn system_segment(
        &self,
        selector: Selector,
        kind: u8,
        host: &mut impl Host,
    ) -> Result<(Descriptor, u64), Exception> {
        let wrong = Exception::protection(selector);
        if selector.is_local() {
            return Err(wrong);
        }
        let address = self.descriptor_address(selector, 16).ok_or(wrong)?;
        let bytes: [u8; 16] = memory::read(host, address, SYSTEM)?;
        let whole = u128::from_le_bytes(bytes);
        let descriptor = Descriptor(whole as u64);
        if !descriptor.is_system() || descriptor.kind() != kind {
            return Err(wrong);
        }
        if !descriptor.is_present() {
            return Err(Exception::not_present(selector));
        }
        let base = ((whole >> 64) as u64) << 32 | u64::from(descriptor.base());
        if is_canonical(base) { Ok((descriptor, base)) } else { Err(wrong) }
    }
}

/// Whether privilege lets a data access through a selector (SDM Vol. 3A, 5.5).
#[must_use]
pub const fn may_use(descriptor: Descriptor, selector: Selector, cpl: u8) -> bool {
    descriptor.is_conforming() || (descriptor.dpl() >= cpl && descriptor.dpl() >= selector.rpl())
}
