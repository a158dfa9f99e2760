//! What a process asks for: to stop, or to carry out what it was ordered.

use linux_raw_sys::general as raw;

use super::listener::Question;
use super::orders::{BY_INTERRUPT, OF_32_BITS, Order};
use super::stub::STOP;
use super::system::Errno;

/// Why Linux has refused an order, if that is what a process says: too many mappings, no memory.
pub(super) fn refused_order(question: &Question) -> Option<Errno> {
    match question.arguments[5].cast_signed() {
        error @ -4095..0 if is_stop(question) && question.arguments[4] == 0 => Some(Errno(error.unsigned_abs() as u32)),
        _ => None,
    }
}

/// Whether a process asks to stop.
pub(super) fn is_stop(question: &Question) -> bool {
    question.number == u64::from(raw::__NR_rt_sigprocmask) && question.arguments[..4] == STOP
}

/// Whether a question is about an order.
pub(super) fn is_order(question: &Question, order: &Order) -> bool {
    let arguments = if order[0] & BY_INTERRUPT == 0 { 6 } else { 1 };
    question.number == order[0] & !OF_32_BITS && question.arguments[..arguments] == order[1..=arguments]
}
