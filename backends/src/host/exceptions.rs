//! What the guest's kernel is told of an exception of a program's: vector and error code.
//!
//! The host says what the processor has said; or the program does, where it can be made to
//! claim anything. So what a program cannot cause is told as what it can.
#![expect(clippy::cast_possible_truncation, reason = "a number that has been found to be small enough")]

use wedge::x86::paging::fault;
use wedge::x86::{flags, vector};

/// #GP without a selector: what a program gets for what its kernel knows nothing of.
pub(crate) const REFUSED: (u64, u64) = (vector::PROTECTION as u64, 0);

/// What is told of an exception that a program has come upon with these flags.
pub(crate) const fn told(number: u64, error: u64, rflags: u64) -> (u64, u64) {
    const PAGE_FAULT_BITS: u64 = (fault::WRITE | fault::FETCH) as u64;
    const SELECTOR: u64 = 0xffff;
    if number > u8::MAX as u64 {
        return REFUSED;
    }
    match number as u8 {
        // The guest has no keys, and would look for a page that is missing, again and again.
        vector::PAGE_FAULT if error & fault::PROTECTION_KEY as u64 != 0 => REFUSED,
        vector::PAGE_FAULT => (number, error & PAGE_FAULT_BITS | fault::USER as u64),
        vector::PROTECTION | vector::STACK | vector::NOT_PRESENT => (number, error & SELECTOR),
        vector::DIVIDE_ERROR
        | vector::DEBUG
        | vector::BREAKPOINT
        | vector::OVERFLOW
        | vector::BOUND
        | vector::INVALID_OPCODE
        | vector::X87
        | vector::SIMD => (number, 0),
        // Without AC it would be a split lock (SDM Vol. 3A, 6.15), which the host keeps to itself.
        vector::ALIGNMENT if rflags & flags::ALIGNMENT != 0 => (number, 0),
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_program_can_cause_is_told() {
        for (number, error, rflags, expected) in [
            (14, 0b0_0100, 0, (14, 0b0_0100)),
            (14, 0b0_0111, 0, (14, 0b0_0110)),
            (14, 0b1_0101, 0, (14, 0b1_0100)),
            // As if it had come from the kernel, or from reserved bits.
            (14, 0b0_1010, 0, (14, 0b0_0110)),
            // By a protection key, in user mode, for reading and for writing.
            (14, 0b10_0101, 0, (13, 0)),
            (14, 0b10_0111, 0, (13, 0)),
            (13, 0x1_0028, 0, (13, 0x28)),
            (12, 0, 0, (12, 0)),
            (11, 0x18, 0, (11, 0x18)),
            (0, 7, 0, (0, 0)),
            (1, 7, 0, (1, 0)),
            (3, 7, 0, (3, 0)),
            (6, 7, 0, (6, 0)),
            (16, 7, 0, (16, 0)),
            (19, 7, 0, (19, 0)),
            (17, 7, flags::ALIGNMENT, (17, 0)),
            (17, 7, 0, (13, 0)),
            // NMI, double fault, machine check, an interrupt, and what is no vector.
            (2, 7, 0, (13, 0)),
            (8, 7, 0, (13, 0)),
            (18, 7, 0, (13, 0)),
            (0x80, 7, 0, (13, 0)),
            (0x100, 7, 0, (13, 0)),
            (u64::MAX, 7, 0, (13, 0)),
        ] {
            assert_eq!(told(number, error, rflags), expected, "{number} {error:#x} {rflags:#x}");
        }
    }
}
