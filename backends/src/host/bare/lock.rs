//! A lock that knows its holder.
//!
//! Whoever enters the wedge from the guest has interrupts off, but not NMIs: an NMI's handler may
//! execute a hooked site while the same processor is in the wedge. Waiting would then be for ever.
//! So an attempt of the holder itself is turned away, and what it wanted to do is done at the next
//! occasion.

use core::cell::UnsafeCell;
use core::hint;
use core::sync::atomic::{AtomicU32, Ordering};

/// A value that one processor at a time may use.
#[derive(Debug)]
pub(super) struct Lock<T> {
    /// 0, or one more than the APIC ID of the holder.
    holder: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives the value to one processor at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A lock that nobody holds.
    pub(super) const fn new(value: T) -> Self {
        Self { holder: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Uses the value; `None` if this processor is using it already.
    pub(super) fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> Option<R> {
        let own = processor() + 1;
        while let Err(holder) = self.holder.compare_exchange_weak(0, own, Ordering::Acquire, Ordering::Relaxed) {
            if holder == own {
                return None;
            }
            hint::spin_loop();
        }
        // SAFETY: the exchange succeeded for this processor only, until the store below.
        let result = action(unsafe { &mut *self.value.get() });
        self.holder.store(0, Ordering::Release);
        Some(result)
    }

    /// The value, whoever holds it.
    ///
    /// # Safety
    ///
    /// The holder does not write to it as long as the reference lives.
    pub(super) unsafe fn peek(&self) -> &T {
        // SAFETY: by the above.
        unsafe { &*self.value.get() }
    }
}

/// The initial APIC ID of this processor (CPUID 1, EBX bits 31 to 24: SDM Vol. 2A, CPUID).
pub(super) fn processor() -> u32 {
    core::arch::x86_64::__cpuid(1).ebx >> 24
}
