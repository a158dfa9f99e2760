//! Exceptions, as instructions raise them (SDM Vol. 3A, 6.15).

use crate::x86::segment::Selector;
use crate::x86::vector;

/// An exception to deliver to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, if the exception has one.
    pub error: Option<u32>,
    /// What CR2 becomes, for a page fault.
    pub address: Option<u64>,
}

impl Exception {
    /// #DB.
    pub const DEBUG: Self = Self::plain(vector::DEBUG);
    /// #UD.
    pub const INVALID_OPCODE: Self = Self::plain(vector::INVALID_OPCODE);
    /// #DF.
    pub const DOUBLE_FAULT: Self = Self::with_error(vector::DOUBLE_FAULT, 0);
    /// #GP(0).
    pub const PROTECTION: Self = Self::with_error(vector::PROTECTION, 0);
    /// #SS(0).
    pub const STACK: Self = Self::with_error(vector::STACK, 0);

    /// An exception that has no error code.
    #[must_use]
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None, address: None }
    }

    /// An exception that has one.
    #[must_use]
    pub const fn with_error(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error), address: None }
    }

    /// #TS(selector).
    #[must_use]
    pub const fn invalid_tss(selector: Selector) -> Self {
        Self::of_selector(vector::INVALID_TSS, selector)
    }

    /// #NP(selector).
    #[must_use]
    pub const fn not_present(selector: Selector) -> Self {
        Self::of_selector(vector::NOT_PRESENT, selector)
    }

    /// #SS(selector).
    #[must_use]
    pub const fn stack(selector: Selector) -> Self {
        Self::of_selector(vector::STACK, selector)
    }

    /// #GP(selector).
    #[must_use]
    pub const fn protection(selector: Selector) -> Self {
        Self::of_selector(vector::PROTECTION, selector)
    }

    /// #PF.
    #[must_use]
    pub const fn page_fault(error: u32, address: u64) -> Self {
        Self { vector: vector::PAGE_FAULT, error: Some(error), address: Some(address) }
    }

    /// The error code names a selector without its RPL (SDM Vol. 3A, figure 6-7).
    const fn of_selector(vector: u8, selector: Selector) -> Self {
        Self::with_error(vector, (selector.0 & !3) as u32)
    }
}
