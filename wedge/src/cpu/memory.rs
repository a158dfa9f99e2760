//! Guest memory as numbers. Descriptor tables and the TSS are read with the kernel's rights at any
//! privilege level, as the processor does (SDM Vol. 3A, 4.6.1, implicit supervisor-mode accesses).
//!
//! What is not canonical is refused here (SDM Vol. 1, 3.3.7.1), so that a host sees only ranges
//! that can be mapped.

use super::{Exception, Host, is_canonical};

/// Rights of an access: [`Context::is_user`](super::Context::is_user), or this.
pub(super) const SYSTEM: bool = false;

/// Whether a short range, of at least one byte, is canonical and does not pass the end of the
/// address space.
pub(super) const fn is_range(address: u64, bytes: usize) -> bool {
    let last = address.wrapping_add(bytes as u64 - 1);
    is_canonical(address) && is_canonical(last) && address <= last
}

/// Reads bytes.
pub(super) fn read_bytes(host: &mut impl Host, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
    if is_range(address, bytes.len()) { host.read(address, bytes, user) } else { Err(Exception::PROTECTION) }
}

/// Writes bytes.
pub(super) fn write_bytes(host: &mut impl Host, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
    if is_range(address, bytes.len()) { host.write(address, bytes, user) } else { Err(Exception::PROTECTION) }
}

/// Reads so many bytes.
pub(super) fn read<const N: usize>(host: &mut impl Host, address: u64, user: bool) -> Result<[u8; N], Exception> {
    let mut bytes = [0; N];
    read_bytes(host, address, &mut bytes, user)?;
    Ok(bytes)
}

/// Reads two bytes.
pub(super) fn read_u16(host: &mut impl Host, address: u64, user: bool) -> Result<u16, Exception> {
    read(host, address, user).map(u16::from_le_bytes)
}

/// Reads eight bytes.
pub(super) fn read_u64(host: &mut impl Host, address: u64, user: bool) -> Result<u64, Exception> {
    read(host, address, user).map(u64::from_le_bytes)
}

/// Reads so many bytes, at most eight, as a number.
pub(super) fn read_number(host: &mut impl Host, address: u64, bytes: usize, user: bool) -> Result<u64, Exception> {
    let mut number = [0; 8];
    read_bytes(host, address, &mut number[..bytes], user)?;
    Ok(u64::from_le_bytes(number))
}

/// Writes the lower bytes, at most eight, of a number.
pub(super) fn write_number(
    host: &mut impl Host,
    address: u64,
    bytes: usize,
    number: u64,
    user: bool,
) -> Result<(), Exception> {
    write_bytes(host, address, &number.to_le_bytes()[..bytes], user)
}
