//! RFLAGS (SDM Vol. 1, 3.4.3; Vol. 3A, 2.3).

/// Always set.
pub const FIXED: u64 = 1 << 1;
/// ZF.
pub const ZERO: u64 = 1 << 6;
/// TF.
pub const TRAP: u64 = 1 << 8;
/// IF.
pub const INTERRUPT: u64 = 1 << 9;
/// DF.
pub const DIRECTION: u64 = 1 << 10;
/// IOPL, both bits.
pub const IOPL: u64 = 3 << 12;
/// NT.
pub const NESTED: u64 = 1 << 14;
/// RF.
pub const RESUME: u64 = 1 << 16;
/// VM.
pub const VIRTUAL_8086: u64 = 1 << 17;
/// AC.
pub const ALIGNMENT: u64 = 1 << 18;
/// VIF and VIP.
pub const VIRTUAL_INTERRUPT: u64 = 1 << 19 | 1 << 20;
/// ID.
pub const IDENTIFICATION: u64 = 1 << 21;
/// CF, PF, AF, ZF, SF, OF.
pub const STATUS: u64 = 0x8d5;
/// What any program may change: the status flags, TF, DF, NT, AC and ID.
pub const OF_USER: u64 = STATUS | TRAP | DIRECTION | NESTED | ALIGNMENT | IDENTIFICATION;

/// The I/O privilege level.
#[must_use]
pub const fn iopl(rflags: u64) -> u8 {
    (rflags >> 12 & 3) as u8
}
