//! On which processor of the machine the guest runs.
//!
//! A guest has one CPU, and is several processes that wait for each other: this one while a program
//! runs, and its stub process otherwise. Where Linux puts them on different processors, which it
//! does if one is idle, each change waits until that has been woken: tens of microseconds instead
//! of one. So all stay on one. Which one Linux decides, whenever the guest has been idle: while it
//! sleeps, this process may be on any that it was given.

use super::system::{self, Answer, Mask};

/// The processor that the guest runs on.
#[derive(Debug)]
pub(super) struct Affinity {
    /// The processors that the process was given.
    given: Mask,
    /// The one that it is on; `None` if it may be on any.
    current: Option<u32>,
}

impl Affinity {
    /// Stays on the processor that this runs on.
    pub(super) fn new() -> Answer<Self> {
        let mut affinity = Self { given: system::affinity()?, current: None };
        affinity.settle();
        Ok(affinity)
    }

    /// The guest is going to sleep.
    pub(super) fn leave(&mut self) {
        self.current = None;
        system::set_affinity(0, &self.given);
    }

    /// It has woken, wherever that is.
    pub(super) fn settle(&mut self) {
        let number = system::processor();
        self.current = Some(number);
        Self::move_to(0, number);
    }

    /// Moves a stub process that was on a processor, if it was on any, to that of the guest. Where
    /// it is now.
    pub(super) fn fetch(&self, process: u32, from: Option<u32>) -> Option<u32> {
        if let Some(number) = self.current
            && from != self.current
        {
            Self::move_to(process, number);
        }
        self.current
    }

    fn move_to(process: u32, number: u32) {
        let mut mask = [0; _];
        if let Some(word) = mask.get_mut(number as usize / 64) {
            *word = 1 << (number % 64);
            system::set_affinity(process, &mask);
        }
    }
}
