//! Vectors of exceptions, and what goes with each (SDM Vol. 3A, table 6-1; APM Vol. 2, table 8-1).

#![expect(missing_docs, reason = "the architecture's names")]

pub const DIVIDE_ERROR: u8 = 0;
pub const DEBUG: u8 = 1;
pub const NMI: u8 = 2;
pub const BREAKPOINT: u8 = 3;
pub const OVERFLOW: u8 = 4;
pub const BOUND: u8 = 5;
pub const INVALID_OPCODE: u8 = 6;
pub const DEVICE_NOT_AVAILABLE: u8 = 7;
pub const DOUBLE_FAULT: u8 = 8;
pub const INVALID_TSS: u8 = 10;
pub const NOT_PRESENT: u8 = 11;
pub const STACK: u8 = 12;
pub const PROTECTION: u8 = 13;
pub const PAGE_FAULT: u8 = 14;
pub const X87: u8 = 16;
pub const ALIGNMENT: u8 = 17;
pub const MACHINE_CHECK: u8 = 18;
pub const SIMD: u8 = 19;
pub const VIRTUALIZATION: u8 = 20;
pub const CONTROL_PROTECTION: u8 = 21;
/// AMD's, of encrypted virtual machines.
pub const VMM_COMMUNICATION: u8 = 29;
/// AMD's.
pub const SECURITY: u8 = 30;

/// How many vectors are the processor's.
pub const COUNT: usize = 32;

/// A set of exceptions: bit n is vector n. Assembly tests it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors(pub u32);

impl Vectors {
    /// The set of some.
    #[must_use]
    pub const fn of(vectors: &[u8]) -> Self {
        let (mut set, mut number) = (0, 0);
        while number < vectors.len() {
            set |= 1 << vectors[number];
            number += 1;
        }
        Self(set)
    }

    /// How many they are.
    #[must_use]
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether a vector is one of them.
    #[must_use]
    pub const fn contains(self, vector: u8) -> bool {
        (vector as usize) < COUNT && self.0 >> vector & 1 != 0
    }
}

/// Exceptions with an error code.
pub const WITH_ERROR: Vectors = Vectors::of(&[
    DOUBLE_FAULT,
    INVALID_TSS,
    NOT_PRESENT,
    STACK,
    PROTECTION,
    PAGE_FAULT,
    ALIGNMENT,
    CONTROL_PROTECTION,
    VMM_COMMUNICATION,
    SECURITY,
]);

/// Faults: RIP is that of the instruction. A double fault and a machine check are aborts; a debug
/// exception, which may be either, is told apart by what raised it.
pub const FAULTS: Vectors = Vectors::of(&[
    DIVIDE_ERROR,
    BOUND,
    INVALID_OPCODE,
    DEVICE_NOT_AVAILABLE,
    INVALID_TSS,
    NOT_PRESENT,
    STACK,
    PROTECTION,
    PAGE_FAULT,
    X87,
    ALIGNMENT,
    SIMD,
    VIRTUALIZATION,
    CONTROL_PROTECTION,
]);

/// Contributory exceptions: the second of two is a double fault (SDM Vol. 3A, table 6-4).
pub const CONTRIBUTORY: Vectors =
    Vectors::of(&[DIVIDE_ERROR, INVALID_TSS, NOT_PRESENT, STACK, PROTECTION, CONTROL_PROTECTION]);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of() {
        let set = Vectors::of(&[0, 13, 31]);
        let members: Vec<u8> = (0..=255).filter(|vector| set.contains(*vector)).collect();
        assert_eq!(members, [0, 13, 31], "and no vector above the processor's");
        assert_eq!(set.count(), 3);
    }
}
