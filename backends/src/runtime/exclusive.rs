//! What lives in the wedge for good, and who may touch it when.
//!
//! The wedge is entered from outside, by the processor or a hypervisor: nothing hands it its state,
//! so its state is in statics. Rust lets a static be written to only by what proves that nobody
//! else does. There are two cases.
//!
//! * *The value is the wedge's own.* It is an [`Exclusive`]. Who wants it says so and gets the one
//!   `&mut` to it; whoever comes second is stopped with a message. That someone comes second is no
//!   mere theory: an exception in the wedge enters the wedge again. Then the first reference still
//!   lives, and a second one would be undefined behaviour.
//! * *Others access the same memory by themselves*: the processor, a hypervisor, user mode. There
//!   cannot be a `&mut` at all. Such memory is [`Pages`], which consist of atomic words. One word
//!   at a time is all that the other side promises, too.
#![expect(unsafe_code, reason = "this is where a static becomes something to write to")]

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is said to whoever comes second.
const IN_USE: &str = "entered while this is in use";

/// A value that has one user at a time.
#[derive(Debug)]
pub(crate) struct Exclusive<T> {
    in_use: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a reference to the value is made only by whoever set `in_use`, and `in_use` is cleared
// only when that reference is gone. So one processor at a time has the value, which may move
// between them, being `Send`.
unsafe impl<T: Send> Sync for Exclusive<T> {}

impl<T> Exclusive<T> {
    /// A value that nobody uses.
    pub(crate) const fn new(value: T) -> Self {
        Self { in_use: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, until what is returned is dropped; `None` if it is in use.
    pub(crate) fn try_borrow(&self) -> Option<Borrowed<'_, T>> {
        self.claim().then(|| Borrowed { of: self, value: PhantomData })
    }

    /// The value, until what is returned is dropped.
    ///
    /// # Panics
    ///
    /// If it is in use: the wedge was entered while it was in the wedge.
    #[track_caller]
    pub(crate) fn borrow(&self) -> Borrowed<'_, T> {
        self.try_borrow().expect(IN_USE)
    }

    /// The value, for good.
    ///
    /// # Panics
    ///
    /// If it is in use, or was taken before.
    #[expect(clippy::mut_from_ref, reason = "at most one: `claim` sees to that")]
    #[track_caller]
    pub(crate) fn take(&'static self) -> &'static mut T {
        assert!(self.claim(), "{IN_USE}");
        // SAFETY: `in_use` was clear, and stays set.
        unsafe { &mut *self.value.get() }
    }

    /// Whether it was free; it is not from here on.
    fn claim(&self) -> bool {
        !self.in_use.swap(true, Ordering::Acquire)
    }
}

/// An [`Exclusive`] value in use.
#[derive(Debug)]
pub(crate) struct Borrowed<'a, T> {
    of: &'a Exclusive<T>,
    /// It is shared between processors only if the value may be, as a `&mut` to it is.
    value: PhantomData<&'a mut T>,
}

impl<T> Deref for Borrowed<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `in_use` was clear, and is set as long as `self` is there.
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for Borrowed<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; `self` is borrowed as long as the reference is.
        unsafe { &mut *self.of.value.get() }
    }
}

impl<T> Drop for Borrowed<'_, T> {
    fn drop(&mut self) {
        self.of.in_use.store(false, Ordering::Release);
    }
}

/// A value that is made later. Until then it is zeros, unlike an `Option`, whose `None` may be any
/// number: the file of a program has no zeros at the end of its memory.
#[derive(Debug)]
#[repr(u8)]
pub(crate) enum Late<T> {
    /// It is not made yet.
    Missing = 0,
    /// This is it.
    Made(T),
}

impl<T> Late<T> {
    /// The value, once it is made.
    pub(crate) const fn made(&mut self) -> Option<&mut T> {
        match self {
            Self::Missing => None,
            Self::Made(value) => Some(value),
        }
    }
}

/// Words of a page.
pub(crate) const PAGE_WORDS: usize = 512;

/// Whole pages that others than the wedge access, too.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Pages<const COUNT: usize>([[AtomicU64; PAGE_WORDS]; COUNT]);

impl<const COUNT: usize> Pages<COUNT> {
    /// Pages of zeros.
    pub(crate) const fn new() -> Self {
        Self([const { [const { AtomicU64::new(0) }; PAGE_WORDS] }; COUNT])
    }

    /// The words of a page.
    pub(crate) const fn page(&self, number: usize) -> &[AtomicU64; PAGE_WORDS] {
        &self.0[number]
    }

    /// All words.
    pub(crate) const fn words(&self) -> &[AtomicU64] {
        self.0.as_flattened()
    }

    /// The first byte. It may be written to.
    pub(crate) const fn as_ptr(&self) -> *mut u8 {
        self.words().as_ptr().cast_mut().cast()
    }

    /// The address behind the last.
    pub(crate) fn end(&self) -> u64 {
        self.words().as_ptr_range().end.addr() as u64
    }

    /// The address of a page.
    pub(crate) fn address(&self, number: usize) -> u64 {
        self.page(number).as_ptr().addr() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Exclusive, Pages};
    use std::panic::catch_unwind;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_value_is_borrowed_again_once_it_is_free() {
        static VALUE: Exclusive<u32> = Exclusive::new(1);
        *VALUE.borrow() += 1;
        assert_eq!(*VALUE.borrow(), 2);
    }

    #[test]
    fn whoever_comes_second_is_stopped() {
        static VALUE: Exclusive<u32> = Exclusive::new(1);
        type Entry = fn() -> bool;
        let entries: [(&str, Entry); 2] = [("borrow", || *VALUE.borrow() == 1), ("take", || *VALUE.take() == 1)];
        let first = VALUE.try_borrow().unwrap();
        assert!(VALUE.try_borrow().is_none());
        for (name, entry) in entries {
            assert!(catch_unwind(entry).is_err(), "{name} while it is borrowed");
        }
        assert_eq!(*first, 1);
        drop(first);
        *VALUE.take() = 2;
        assert!(VALUE.try_borrow().is_none());
        for (name, entry) in entries {
            assert!(catch_unwind(entry).is_err(), "{name} when it was taken");
        }
    }

    #[test]
    fn a_panic_of_the_user_frees_the_value() {
        static VALUE: Exclusive<u32> = Exclusive::new(1);
        let panicked = catch_unwind(|| {
            let mut value = VALUE.borrow();
            *value = 2;
            panic!("a user's");
        });
        assert!(panicked.is_err());
        assert_eq!(*VALUE.borrow(), 2);
    }

    #[test]
    fn pages_are_pages() {
        static PAGES: Pages<2> = Pages::new();
        assert_eq!(PAGES.address(0) % 4096, 0);
        assert_eq!(PAGES.address(1), PAGES.address(0) + 4096);
        assert_eq!(PAGES.address(0), PAGES.as_ptr().addr() as u64);
        assert_eq!(PAGES.end(), PAGES.address(1) + 4096);
        assert_eq!(size_of::<Pages<2>>(), 2 * 4096);
        PAGES.page(1)[3].store(5, Ordering::Relaxed);
        assert_eq!(PAGES.words()[512 + 3].load(Ordering::Relaxed), 5);
    }
}
