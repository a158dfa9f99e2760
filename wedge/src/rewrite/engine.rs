//! The engine: what was written where, and how to take it back.
//!
//! The guest's text is the guest's. Others write to it as well: kprobes put an INT3 on a site, alternatives copy code over
//! it. So a slot is only ever changed from exactly what the engine expects there, and what somebody else has written stays.
//! Some text does not last: that of initialisation, and the replacements, of which only the copies do. After boot only what
//! lasts is touched.
//!
//! Between the stub and its site stands the *precise exception*: whoever sees RIP in a stub is told the address in the guest
//! ([`Engine::site_of`]), and a context that was interrupted inside a slot while that held its original instructions goes on
//! behind the branch that now stands there ([`Engine::resume`]).

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use annotate::check::Contradiction;
use annotate::instructions::Class;
use annotate::record::{AllegedSite, Flags, RawRecord};

use super::GuestText;
use super::bytes::Bytes;
use super::deprivileged::{self, Virtual};
use super::encoding::Shape;
use super::entry::{Entry, Key, Seen};
use super::fuse::{NOPS, Site, fuse};
use super::stub::{self, BRANCH, Hooks, INT3, STUB_SIZE};
use super::summary::Summary;
use super::templates::{self, Interrupted};
use super::way::{Form, Hook, Left, Mode, Way, way};
use crate::sites::{Reason, Refusal, SiteTable};

/// IRETQ (SDM Vol. 2A, IRET/IRETD/IRETQ).
const IRETQ: [u8; 2] = [0x48, 0xcf];

/// Text where the wedge cannot be called, or that must stay as it is.
const FIXED: Flags = Flags::COPIED.union(Flags::HEAD);

/// What the engine keeps its knowledge in. The number of a site is the index in all of them.
#[derive(Debug)]
pub struct Memory<'a> {
    /// One entry for each site.
    pub entries: &'a mut [Option<Entry>],
    /// One stub for each site.
    pub stubs: &'a mut [[u8; STUB_SIZE]],
    /// The address, at run time, of the first stub.
    pub stubs_address: u64,
    /// One counter for each site.
    pub counters: &'a [AtomicU64],
    /// The address, at run time, of the first counter.
    pub counters_address: u64,
    /// Room for all counters at one moment.
    pub snapshot: &'a mut [u64],
}

/// The rewriter.
#[derive(Debug)]
pub struct Engine<'a> {
    mode: Mode,
    hooks: Hooks,
    machine: Virtual,
    memory: Memory<'a>,
    capacity: usize,
    /// Entries of the kernel, ordered by address; those of modules follow.
    kernel: usize,
    /// No entry before this one is free.
    free_from: usize,
    on: bool,
}

/// What came of a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Slots that hold now what they should.
    pub changed: usize,
    /// Slots that somebody else has changed.
    pub busy: usize,
}

/// Where in the guest an instruction of a stub belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    /// At this address.
    At(u64),
    /// The stub was called, and the stack has the address behind the site: RIP is that plus the offset, and RSP is 8 more.
    Caller(i64),
}

/// What an attempt to change a slot has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Expected,
    FirstByteChanged,
    Other,
}

impl<'a> Engine<'a> {
    /// An engine that has no sites yet, for a guest that has its privileges: one of [`Mode::ALL`].
    #[must_use]
    pub fn new(mode: Mode, hooks: Hooks, memory: Memory<'a>) -> Self {
        let sizes = [memory.entries.len(), memory.stubs.len(), memory.counters.len(), memory.snapshot.len()];
        let capacity = sizes.into_iter().min().unwrap_or(0);
        Self { mode, hooks, machine: Virtual::default(), memory, capacity, kernel: 0, free_from: 0, on: true }
    }

    /// An engine that has no sites yet, for a guest whose kernel runs without privileges, on this virtual processor.
    #[must_use]
    pub fn deprivileged(machine: Virtual, memory: Memory<'a>) -> Self {
        Self { machine, ..Self::new(Mode::Virtual, Hooks::default(), memory) }
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the sites are rewritten.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Rewrites the sites of the kernel, before it runs. `copy` knows the sites in replacements, by the number of the record:
    /// where the kernel may copy one to that is all of its replacement (0 if that place is freed after boot).
    ///
    /// # Errors
    ///
    /// At the first record that does not hold. Nothing is written then.
    pub fn rewrite(
        &mut self,
        table: &SiteTable<'_>,
        copy: impl FnMut(usize) -> Option<u64>,
        text: &mut impl GuestText,
    ) -> Result<Summary, Refusal> {
        let planned = self.plan(table, copy, text);
        if planned.is_err() {
            self.memory.entries.iter_mut().for_each(|entry| *entry = None);
            self.free_from = 0;
        }
        let mut summary = planned?;
        self.kernel = self.free_from;
        for (index, entry) in self.memory.entries[..self.kernel].iter().flatten().enumerate() {
            let slot = text.slot(entry.address, entry.slot().into());
            if let (Some(rewritten), Some(slot)) = (self.rewritten(index, entry, entry.address), slot) {
                rewritten.write(slot);
            }
            summary.rewritten_as(entry.class, entry.form, entry.hook.is_some());
        }
        Ok(summary)
    }

    /// Takes all sites, or says why the table is refused.
    fn plan(
        &mut self,
        table: &SiteTable<'_>,
        mut copy: impl FnMut(usize) -> Option<u64>,
        text: &mut impl GuestText,
    ) -> Result<Summary, Refusal> {
        let mut summary = Summary::EMPTY;
        let mut seen = Seen::default();
        let mut free_from = 0;
        for (number, address, record) in table.records() {
            let refuse = |reason| Refusal::Record { number, address, reason };
            let key = Key::of(record);
            if address < free_from {
                return Err(refuse(Reason::Order));
            }
            let slot = text.slot(address, key.slot().into()).ok_or(refuse(Reason::OutOfText))?;
            free_from = address.wrapping_add(key.slot().into());
            let copy = if key.flags().contains(Flags::REPLACEMENT) { copy(number) } else { Some(0) };
            let bytes = Bytes::read(slot);
            let place = Seen::place(key, bytes);
            if let (Some(alike), Some(copy)) = (seen.like(place, key, bytes, self.memory.entries), copy) {
                if let Err(left) = self.keep_like(alike, address, copy) {
                    summary.leave(left);
                }
                continue;
            }
            let site = RawRecord::from_bytes(record).allegation(address);
            let site = site.map_err(|error| refuse(Reason::Record(error)))?;
            let taken = self.take(&site, key, copy, slot);
            let taken = taken.map_err(|contradiction| refuse(Reason::Contradiction(contradiction)))?;
            match taken {
                Ok(index) => seen.remember(place, index),
                Err(left) => summary.leave(left),
            }
        }
        Ok(summary)
    }

    /// Rewrites a site of a module, which the guest has loaded but not executed yet.
    ///
    /// # Errors
    ///
    /// When the record does not hold; and, inside, when the site is left as it is.
    pub fn add(&mut self, site: &AllegedSite, text: &mut impl GuestText) -> Result<Result<(), Left>, Reason> {
        if site.flags.contains(Flags::REPLACEMENT) {
            return Ok(Err(Left::Applied));
        }
        let slot = text.slot(site.address, site.slot.into()).ok_or(Reason::OutOfText)?;
        let key = Key::from_site(site);
        let taken = self.take(site, key, Some(0), slot).map_err(Reason::Contradiction)?;
        if let (Ok(index), true) = (taken, self.on)
            && let Some(Some(entry)) = self.memory.entries.get(index)
        {
            self.exchange(index, entry, entry.address, text);
        }
        Ok(taken.map(|_| ()))
    }

    /// Forgets the sites in a range that is no longer text. Returns how many.
    pub fn forget(&mut self, range: &Range<u64>) -> usize {
        let mut forgotten = 0;
        for index in self.kernel..self.capacity {
            let entry = &mut self.memory.entries[index];
            if entry.is_some_and(|entry| range.contains(&entry.address)) {
                *entry = None;
                self.free_from = self.free_from.min(index);
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Restores every slot that lasts, but for the sites that are to be kept. In virtual mode nothing is changed: without its
    /// privileges the guest cannot execute what would be restored.
    pub fn revert(&mut self, keep: impl Fn(&Entry) -> bool, text: &mut impl GuestText) -> Outcome {
        if self.mode == Mode::Virtual {
            return Outcome::default();
        }
        self.on = false;
        self.switch(keep, text)
    }

    /// Rewrites every slot that lasts once more, and puts a hook on the returns from interrupts, as there may be contexts
    /// that were interrupted in a slot.
    pub fn apply(&mut self, text: &mut impl GuestText) -> Outcome {
        if !self.on {
            self.hook_returns();
        }
        self.on = true;
        self.switch(|_| false, text)
    }

    fn switch(&self, keep: impl Fn(&Entry) -> bool, text: &mut impl GuestText) -> Outcome {
        let mut outcome = Outcome::default();
        for (index, entry) in self.entries().filter(|(_, entry)| !keep(entry)) {
            for place in entry.lasting() {
                match self.exchange(index, entry, place, text) {
                    Found::Expected => outcome.changed += 1,
                    // Of a copy nobody knows whether it was made; whether it was a replacement of ours, its other bytes say.
                    Found::Other if place == entry.copy => {}
                    Found::FirstByteChanged | Found::Other => outcome.busy += 1,
                }
            }
        }
        outcome
    }

    /// The sites, with their numbers.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries_from(0)
    }

    fn entries_from(&self, number: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let entries = self.memory.entries.iter().enumerate().take(self.capacity).skip(number);
        entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// The site with this number.
    #[must_use]
    pub fn entry(&self, number: usize) -> Option<&Entry> {
        self.memory.entries.get(number)?.as_ref()
    }

    /// The site that starts at an address, and its number.
    #[must_use]
    pub fn site_at(&self, address: u64) -> Option<(usize, &Entry)> {
        let (kernel, modules) = self.memory.entries.split_at_checked(self.kernel)?;
        let here = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.address == address);
        let index = kernel.partition_point(|entry| entry.is_some_and(|entry| entry.address < address));
        let index =
            if kernel.get(index).is_some_and(here) { index } else { self.kernel + modules.iter().position(here)? };
        Some((index, self.entry(index)?))
    }

    /// The site whose stub an address is in, such as the return address of a hook.
    #[must_use]
    pub fn at_stub(&self, address: u64) -> Option<&Entry> {
        self.locate(address).map(|(_, entry, _)| entry)
    }

    /// Where in the guest the instruction at an address in a stub belongs: what stands before the original, to the start of
    /// the site; what stands behind it, to the end of the slot. `None` outside stubs, and where a called stub counts: its
    /// return address is not on top of the stack there, and nothing can fault. In virtual mode ask [`Self::interrupted`].
    #[must_use]
    pub fn site_of(&self, address: u64) -> Option<Presented> {
        let (_, entry, offset) = self.locate(address).filter(|(_, entry, _)| entry.template.is_none())?;
        if entry.form == Form::Call && (1..entry.body).contains(&offset) {
            return None;
        }
        let inside = match offset.checked_sub(entry.body) {
            None => 0,
            Some(inside) if inside < entry.length() => inside,
            Some(_) => entry.slot(),
        };
        match entry.form {
            Form::Jump => Some(Presented::At(entry.address + u64::from(inside))),
            Form::Call => Some(Presented::Caller(i64::from(inside) - i64::from(BRANCH))),
            Form::Fused | Form::Inline | Form::Trap => None,
        }
    }

    /// Where in the guest a context is that was interrupted before the instruction at an address in a stub of virtual mode;
    /// `None` if there is none.
    #[must_use]
    pub fn interrupted(&self, address: u64) -> Option<Interrupted> {
        let (index, entry, offset) = self.locate(address).filter(|(_, entry, _)| entry.form.has_stub())?;
        let stub = templates::stub(entry.template?, entry, index, self.stub_address(index), &self.machine);
        stub.ok()?.interrupted(offset)
    }

    /// Where a context goes on that was interrupted at an address in the guest before the sites were rewritten; `None` if
    /// that is right as it is. In virtual mode there is no such context.
    #[must_use]
    pub fn resume(&self, address: u64) -> Option<u64> {
        if !self.on || self.mode == Mode::Virtual {
            return None;
        }
        let (index, entry, place) = self.around(address)?;
        let offset = u8::try_from(address - place).ok()?;
        if offset >= entry.length() {
            return Some(place + u64::from(entry.slot()));
        }
        let inside = entry.form == Form::Jump && offset == entry.second;
        inside.then(|| self.stub_address(index) + u64::from(entry.body + offset))
    }

    /// Copies all counters, at one moment if nothing else runs.
    pub fn snapshot(&mut self) {
        for (to, from) in self.memory.snapshot.iter_mut().zip(self.memory.counters) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    /// The counts of the last snapshot that are not zero, from the site with this number on: number, site, class, count.
    pub fn counts_from(&self, number: usize) -> impl Iterator<Item = (usize, u64, Class, u64)> {
        let counted = self.entries_from(number).filter(|(_, entry)| entry.count);
        counted.filter_map(|(index, entry)| {
            let count = *self.memory.snapshot.get(index)?;
            (count != 0).then_some((index, entry.address, entry.class, count))
        })
    }

    /// Counts from zero.
    pub fn zero(&self) {
        self.memory.counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// Checks a site and takes it, if there is a way. Returns its number.
    #[cold]
    fn take(
        &mut self,
        site: &AllegedSite,
        key: Key,
        copy: Option<u64>,
        slot: &[u8],
    ) -> Result<Result<usize, Left>, Contradiction> {
        if let Some(left) = Left::unpadded(site.flags) {
            return Ok(Err(left));
        }
        let bytes = Bytes::read(slot);
        let shape = Shape::of(site, slot, bytes)?;
        let Shape { second, displacement, filler, .. } = shape;
        let Some(original) = bytes else { return Ok(Err(Left::TooLong)) };
        let AllegedSite { address, slot, length, class, .. } = *site;
        let in_slot = Site { bytes: original, slot, length, second, displacement };
        let way = match self.mode {
            Mode::Virtual => deprivileged::way(site, shape, original, copy.is_some(), &self.machine),
            mode => way(site, shape, copy.is_some(), mode),
        };
        let entry = way.and_then(|way| {
            let (copy, Way { form, hook, count, flags_free, template }) = (copy.unwrap_or(0), way);
            let fixed = match form {
                Form::Trap => Bytes(INT3.into()).or(NOPS.before(slot).behind(1)),
                _ => fuse(&in_slot, filler).ok_or(Left::OutOfReach)?,
            };
            Ok(Entry {
                address,
                copy,
                original,
                fixed,
                key,
                class,
                second,
                displacement,
                form,
                hook,
                count,
                flags_free,
                template,
                body: 0,
            })
        });
        Ok(entry.and_then(|entry| self.keep(entry)))
    }

    /// Takes the next free entry. Returns its number.
    #[inline]
    fn keep(&mut self, mut entry: Entry) -> Result<usize, Left> {
        let index = self.next_free()?;
        if !entry.form.is_fixed() {
            self.prepare(index, &mut entry)?;
        }
        self.memory.entries[index] = Some(entry);
        self.free_from = index + 1;
        Ok(index)
    }

    /// Takes the next free entry for a site that is like another.
    #[inline]
    fn keep_like(&mut self, alike: usize, address: u64, copy: u64) -> Result<(), Left> {
        let index = self.next_free()?;
        let Some(like) = self.memory.entries[alike] else { return Ok(()) };
        let mut entry = Entry { address, copy, ..like };
        if !entry.form.is_fixed() {
            self.prepare(index, &mut entry)?;
        }
        self.memory.entries[index] = Some(entry);
        self.free_from = index + 1;
        Ok(())
    }

    /// The first free entry.
    #[inline]
    fn next_free(&self) -> Result<usize, Left> {
        let index = match self.memory.entries.get(self.free_from) {
            Some(None) => self.free_from,
            _ => self.memory.entries.iter().position(Option::is_none).unwrap_or(self.capacity),
        };
        if index < self.capacity { Ok(index) } else { Err(Left::NoStub) }
    }

    /// Makes sure that the entry's slot can become what it is to become.
    #[inline(never)]
    fn prepare(&mut self, index: usize, entry: &mut Entry) -> Result<(), Left> {
        match entry.form {
            Form::Fused | Form::Trap => Ok(()),
            Form::Inline => self.in_place(entry, entry.address).map(|_| ()).ok_or(Left::OutOfReach),
            Form::Jump | Form::Call => self.build(index, entry),
        }
    }

    /// Makes the entry's stub, and makes sure that its slot can branch to it.
    #[inline(never)]
    fn build(&mut self, index: usize, entry: &mut Entry) -> Result<(), Left> {
        let address = self.stub_address(index);
        let counter = self.memory.counters_address + 8 * index as u64;
        stub::branch(entry.form, entry.address, entry.slot(), address).ok_or(Left::OutOfReach)?;
        if let Some(template) = entry.template {
            self.memory.stubs[index] = *templates::stub(template, entry, index, address, &self.machine)?.bytes();
            return Ok(());
        }
        let made = stub::stub(entry, address, counter, &self.hooks)?;
        entry.body = made.body;
        self.memory.stubs[index] = made.code;
        self.memory.counters[index].store(0, Ordering::Relaxed);
        self.memory.snapshot[index] = 0;
        Ok(())
    }

    /// Gives the returns from interrupts their hook. A stub keeps its beginning, so that a processor which is in it goes on.
    fn hook_returns(&mut self) {
        for index in 0..self.capacity {
            let Some(mut entry) = self.memory.entries[index] else { continue };
            let iretq = entry.class == Class::Iret && entry.original.array().starts_with(&IRETQ);
            if iretq && entry.lasting().any(|place| place == entry.address) && !entry.flags().intersects(FIXED) {
                (entry.form, entry.hook) = (Form::Jump, Some(Hook::Return));
                if self.build(index, &mut entry).is_ok() {
                    self.memory.entries[index] = Some(entry);
                }
            }
        }
    }

    /// What the slot at a place becomes, if its code depends on where it is.
    #[inline(never)]
    fn in_place(&self, entry: &Entry, place: u64) -> Option<Bytes> {
        templates::inline(entry.template?, entry, place, &self.machine).ok()?.in_slot()
    }

    /// What the slot at a place becomes.
    #[inline]
    fn rewritten(&self, index: usize, entry: &Entry, place: u64) -> Option<Bytes> {
        if entry.form.is_fixed() { Some(entry.fixed) } else { self.placed(index, entry, place) }
    }

    #[inline(never)]
    fn placed(&self, index: usize, entry: &Entry, place: u64) -> Option<Bytes> {
        match entry.form {
            Form::Inline => self.in_place(entry, place),
            form => stub::branch(form, place, entry.slot(), self.stub_address(index)),
        }
    }

    /// Brings a slot into the state that it should be in.
    fn exchange(&self, index: usize, entry: &Entry, place: u64, text: &mut impl GuestText) -> Found {
        let rewritten = self.rewritten(index, entry, place);
        let (Some(rewritten), Some(slot)) = (rewritten, text.slot(place, entry.slot().into())) else {
            return Found::Other;
        };
        let Some(found) = Bytes::read(slot) else { return Found::Other };
        let (from, to) = if self.on { (entry.original, rewritten) } else { (rewritten, entry.original) };
        if found == from {
            to.write(slot);
        } else if found != to {
            let rest = |bytes: Bytes| bytes.behind(1);
            let ours = rest(found) == rest(from) || rest(found) == rest(to);
            return if ours { Found::FirstByteChanged } else { Found::Other };
        }
        Found::Expected
    }

    #[cfg(test)]
    pub(super) fn stub(&self, index: usize) -> &[u8; STUB_SIZE] {
        &self.memory.stubs[index]
    }

    fn stub_address(&self, index: usize) -> u64 {
        self.memory.stubs_address + (STUB_SIZE * index) as u64
    }

    /// The site whose stub an address is in, its number, and the offset in it.
    fn locate(&self, address: u64) -> Option<(usize, &Entry, u8)> {
        let distance = usize::try_from(address.checked_sub(self.memory.stubs_address)?).ok()?;
        let index = distance / STUB_SIZE;
        Some((index, self.entry(index)?, u8::try_from(distance % STUB_SIZE).ok()?))
    }

    /// The site that has an address strictly inside one of its lasting slots, and that slot's address.
    fn around(&self, address: u64) -> Option<(usize, &Entry, u64)> {
        let (kernel, modules) = self.memory.entries.split_at_checked(self.kernel)?;
        let behind = kernel.partition_point(|entry| entry.is_some_and(|entry| entry.address < address));
        let own = behind.checked_sub(1).and_then(|index| Some((index, kernel.get(index)?.as_ref()?)));
        let others = || {
            let copies = kernel.iter().enumerate().filter_map(|(index, entry)| Some((index, entry.as_ref()?)));
            let modules = modules.iter().enumerate();
            let modules = modules.filter_map(|(index, entry)| Some((self.kernel + index, entry.as_ref()?)));
            copies.filter(|(_, entry)| entry.copy != 0).chain(modules)
        };
        own.into_iter().chain(others()).find_map(|(index, entry)| {
            let inside = |place: &u64| *place < address && address - place < u64::from(entry.slot());
            entry.lasting().find(inside).map(|place| (index, entry, place))
        })
    }
}
