//! Why a deprivileged wedge was entered, where that was no exception, which has its vector: what
//! the ways in (`entry.rs` of each host) put in a vector's place.

/// Something has come in from outside, or was pending when a site set IF.
pub(crate) const EVENT: u64 = 256;
/// A site calls; the return address says which.
pub(crate) const SITE: u64 = 257;
/// A site that has no stack; its number says which.
pub(crate) const SITE_WITHOUT_STACK: u64 = 258;
/// An IRETQ that is not plain.
pub(crate) const IRET: u64 = 259;
/// A SYSRET that is not plain.
pub(crate) const SYSRET: u64 = 260;
/// The first that is a host's own.
pub(crate) const OWN: u64 = 261;
