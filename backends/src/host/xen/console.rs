//! The console: that of Xen itself for the first domain, a ring shared with the console daemon for
//! others.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};

use super::hypercall;

/// The ring (`io/console.h`, `struct xencons_interface`).
#[derive(Debug)]
#[repr(C)]
struct Ring {
    input: [u8; 1024],
    output: [u8; 2048],
    input_consumed: AtomicU32,
    input_produced: AtomicU32,
    output_consumed: AtomicU32,
    output_produced: AtomicU32,
}

/// The ring of a domain that has one.
static RING: AtomicPtr<Ring> = AtomicPtr::new(core::ptr::null_mut());
/// Its event channel.
static PORT: AtomicU32 = AtomicU32::new(0);

/// From here on the console is the ring at an address.
///
/// # Safety
///
/// Xen has mapped the ring there, and it stays mapped.
pub(super) unsafe fn use_ring(address: u64, port: u32) {
    RING.store(super::memory::pointer(address), Ordering::Relaxed);
    PORT.store(port, Ordering::Relaxed);
}

/// The event channel of the ring, if there is one.
pub(super) fn port() -> Option<u32> {
    (!RING.load(Ordering::Relaxed).is_null()).then(|| PORT.load(Ordering::Relaxed))
}

/// Writes bytes, all of them.
pub(super) fn write(bytes: &[u8]) {
    let ring = RING.load(Ordering::Relaxed);
    if ring.is_null() {
        let _ = hypercall::console_write(bytes);
        return;
    }
    for byte in bytes {
        put(ring, *byte);
    }
    hypercall::notify(PORT.load(Ordering::Relaxed));
}

fn put(ring: *mut Ring, byte: u8) {
    // SAFETY: by `use_ring`; the indices are atomic, and this end alone writes output.
    unsafe {
        let produced = (*ring).output_produced.load(Ordering::Relaxed);
        while produced.wrapping_sub((*ring).output_consumed.load(Ordering::Acquire)) >= 2048 {
            hypercall::notify(PORT.load(Ordering::Relaxed));
            hypercall::yield_now();
        }
        let place = (&raw mut (*ring).output).cast::<u8>().wrapping_add(produced as usize % 2048);
        place.write_volatile(byte);
        fence(Ordering::Release);
        (*ring).output_produced.store(produced.wrapping_add(1), Ordering::Release);
    }
}

/// A byte of input, if there is one.
pub(super) fn read() -> Option<u8> {
    let ring = RING.load(Ordering::Relaxed);
    if ring.is_null() {
        let mut byte = [0];
        return (hypercall::console_read(&mut byte) == 1).then_some(byte[0]);
    }
    // SAFETY: by `use_ring`; this end alone consumes input.
    unsafe {
        let consumed = (*ring).input_consumed.load(Ordering::Relaxed);
        if consumed == (*ring).input_produced.load(Ordering::Acquire) {
            return None;
        }
        let byte = (&raw const (*ring).input).cast::<u8>().wrapping_add(consumed as usize % 1024).read_volatile();
        (*ring).input_consumed.store(consumed.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}

/// Writes the wedge's own words: the terminal wants a carriage return before each new line, as the
/// guest sends it.
pub(super) fn write_log(text: &str) {
    for line in text.split_inclusive('\n') {
        match line.strip_suffix('\n') {
            Some(line) => {
                write(line.as_bytes());
                write(b"\r\n");
            }
            None => write(line.as_bytes()),
        }
    }
}
