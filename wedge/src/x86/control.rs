//! Bits of the control registers (SDM Vol. 3A, 2.5 and 2.6), and of the debug registers (Vol. 3B,
//! 17.2).

/// CR0 (SDM Vol. 3A, 2.5).
#[expect(missing_docs, reason = "the architecture's names")]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    pub const ALL: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR3 with PCIDs (SDM Vol. 3A, 4.5.2, table 4-13; 4.10.4.1).
pub mod cr3 {
    /// The current PCID.
    pub const PCID: u64 = 0xfff;
    /// In what is moved there: keep what is cached for the PCID.
    pub const KEEP: u64 = 1 << 63;
}

/// CR4 (SDM Vol. 3A, 2.5), as far as it can be set.
#[expect(missing_docs, reason = "the architecture's names")]
pub mod cr4 {
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
}

/// `IA32_EFER` (SDM Vol. 3A, 2.2.1), as far as it can be set.
#[expect(missing_docs, reason = "the architecture's names")]
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// XCR0 (SDM Vol. 3A, 2.6), as far as it can be set.
#[expect(missing_docs, reason = "the architecture's names")]
pub mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const AVX512: u64 = 7 << 5;
    pub const ALL: u64 = X87 | SSE | AVX | AVX512;
}

/// The debug registers (SDM Vol. 3B, 17.2; Vol. 3A, table 9-1), of a processor that has neither RTM
/// nor detects bus locks.
pub mod debug {
    /// Bits of DR6 and DR7 that are 1, whatever is written.
    const STATUS_ONES: u64 = 0xffff_0ff0;
    const CONTROL_ONES: u64 = 1 << 10;
    /// DR6.B0 to B3, BD, BS, BT: the others stay.
    const STATUS: u64 = 0xe00f;
    /// DR7 without the bits 11, 12, 14 and 15, which are 0.
    const CONTROL: u64 = 0xffff_27ff;

    /// What they are at reset.
    pub const RESET: [u64; 8] = [0, 0, 0, 0, 0, 0, STATUS_ONES, CONTROL_ONES];

    /// What a register is when this has been written to it.
    #[must_use]
    pub const fn written(number: u8, value: u64) -> u64 {
        match number {
            6 => value & STATUS | STATUS_ONES,
            7 => value & CONTROL | CONTROL_ONES,
            _ => value,
        }
    }
}
