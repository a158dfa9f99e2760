//! Sites while the guest runs: those of modules come and go, and all can be switched off and on.
//!
//! The guest's text is the guest's. Others write to it as well: kprobes put an INT3 on a site,
//! alternatives copy code over it. So a slot is only ever changed from exactly what the engine
//! expects there, and what somebody else has written stays. Some text does not last: that of
//! initialisation, and the replacements, of which only the copies do. After boot only what lasts is
//! touched.

use core::ops::Range;
use core::sync::atomic::Ordering;

use annotate::instructions::Class;
use annotate::record::{AllegedSite, Flags};

use super::bytes::Bytes;
use super::engine::Engine;
use super::policy::{Left, Mode};
use super::site::{Key, Site};
use super::{Applied, GuestText, Reason};

/// What came of a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Slots that hold now what they should.
    pub changed: usize,
    /// Slots that somebody else has changed.
    pub busy: usize,
}

/// What an attempt to change a slot has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Expected,
    FirstByteChanged,
    Other,
}

impl Engine<'_> {
    /// Rewrites a site of a module, which the guest has loaded but not executed yet.
    ///
    /// # Errors
    ///
    /// When the record does not hold; and, inside, when the site is left as it is.
    pub fn add(&mut self, site: &AllegedSite, text: &mut impl GuestText) -> Result<Result<(), Left>, Reason> {
        if site.flags.contains(Flags::REPLACEMENT) {
            return Ok(Err(Left::Applied));
        }
        // Whatever text of a module it is in, it is there until it is forgotten.
        let site = AllegedSite { flags: site.flags.difference(Flags::INIT), ..*site };
        let range = site.address..site.address.wrapping_add(site.slot.into());
        if self.modules.overlaps(&range, self.memory.sites) {
            return Err(Reason::Overlap);
        }
        let slot = text.slot(site.address, site.slot.into()).ok_or(Reason::OutOfText)?;
        let key = Key::from_site(&site);
        let taken = self.take(&site, key, Applied::Never, slot).map_err(Reason::Contradiction)?;
        let (index, _) = match taken {
            Ok(taken) => taken,
            Err(left) => return Ok(Err(left)),
        };
        self.modules.insert(index, site.address, self.memory.sites);
        if let (Some(site), true) = (self.site(index), self.on) {
            self.exchange(site, site.address, text);
        }
        Ok(Ok(()))
    }

    /// Forgets the sites of modules in a range that is no longer text, unless they are to be kept.
    pub fn forget(&mut self, range: &Range<u64>, keep: impl Fn(&Site) -> bool) {
        let free_from = &mut self.free_from;
        self.modules.remove(range, self.memory.sites, keep, |number| *free_from = number.min(*free_from));
    }

    /// How many sites of modules are taken.
    #[must_use]
    pub fn in_modules(&self) -> usize {
        self.modules.count()
    }

    /// Restores every slot that lasts, but for the sites that are to be kept. In deprivileged mode
    /// nothing is changed: without its privileges the guest cannot execute what would be restored.
    pub fn revert(&mut self, keep: impl Fn(&Site) -> bool, text: &mut impl GuestText) -> Outcome {
        if self.mode == Mode::Deprivileged {
            return Outcome::default();
        }
        self.on = false;
        self.switch(keep, text)
    }

    /// Rewrites every slot that lasts once more, and puts a hook on the returns from interrupts, as
    /// there may be contexts that were interrupted in a slot.
    pub fn apply(&mut self, text: &mut impl GuestText) -> Outcome {
        if !self.on {
            self.hook_returns();
        }
        self.on = true;
        self.switch(|_| false, text)
    }

    fn switch(&self, keep: impl Fn(&Site) -> bool, text: &mut impl GuestText) -> Outcome {
        let mut outcome = Outcome::default();
        for (_, site) in self.sites().filter(|(_, site)| !keep(site)) {
            for place in site.lasting() {
                match self.exchange(site, place, text) {
                    Found::Expected => outcome.changed += 1,
                    // Of a copy nobody knows whether it was made; whether it was a replacement of
                    // ours, its other bytes say.
                    Found::Other if place == site.copy => {}
                    Found::FirstByteChanged | Found::Other => outcome.busy += 1,
                }
            }
        }
        outcome
    }

    /// Brings a slot into the state that it should be in.
    fn exchange(&self, site: &Site, place: u64, text: &mut impl GuestText) -> Found {
        let rewritten = site.kind.moved(site.address.wrapping_sub(place));
        let (Some(rewritten), Some(slot)) = (rewritten, text.slot(place, site.slot().into())) else {
            return Found::Other;
        };
        let Some(found) = Bytes::read(slot) else { return Found::Other };
        let (from, to) = if self.on { (site.kind.original, rewritten) } else { (rewritten, site.kind.original) };
        if found == from {
            to.write(slot);
        } else if found != to {
            let rest = |bytes: Bytes| bytes.behind(1);
            let ours = rest(found) == rest(from) || rest(found) == rest(to);
            return if ours { Found::FirstByteChanged } else { Found::Other };
        }
        Found::Expected
    }

    /// Copies all counters, at one moment if nothing else runs.
    pub fn snapshot(&mut self) {
        for (to, from) in self.memory.snapshot.iter_mut().zip(self.memory.counters) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    /// The counts of the last snapshot that are not zero, from the site with this number on:
    /// number, site, class, count.
    pub fn counts_from(&self, number: usize) -> impl Iterator<Item = (usize, u64, Class, u64)> {
        self.sites_from(number).filter_map(|(index, site)| {
            let count = *self.memory.snapshot.get(index)?;
            (count != 0).then_some((index, site.address, site.class(), count))
        })
    }

    /// Counts from zero.
    pub fn zero(&self) {
        self.memory.counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }
}
