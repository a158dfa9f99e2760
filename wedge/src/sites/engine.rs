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
use annotate::record::{AllegedSite, Flags, RECORD_SIZE, RawRecord};

use super::GuestText;
use super::bytes::Bytes;
use super::deprivileged::{self, Virtual, is_lost};
use super::encoding::Shape;
use super::entry::{Entry, Key, Kind, Seen};
use super::fuse::{NOPS, fuse};
use super::moves::{Fields, Place, Shift};
use super::order::Order;
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
    /// Room for the numbers of the sites of modules.
    pub order: &'a mut [u32],
}

/// The rewriter.
#[derive(Debug)]
pub struct Engine<'a> {
    mode: Mode,
    hooks: Hooks,
    machine: Virtual,
    /// All parts of it are for the same number of sites.
    memory: Memory<'a>,
    /// Entries of the kernel, ordered by address; those of modules follow.
    kernel: usize,
    modules: Order<'a>,
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

/// The number of a site that is taken, and what is different in the stub of one like it.
type Taken = Result<(usize, Fields), Left>;

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
        let Memory { entries, stubs, counters, snapshot, order, .. } = memory;
        let lengths = [entries.len(), stubs.len(), counters.len(), snapshot.len(), order.len()];
        let all = lengths.into_iter().min().unwrap_or(0);
        let (entries, stubs) = (&mut entries[..all], &mut stubs[..all]);
        let (counters, snapshot) = (&counters[..all], &mut snapshot[..all]);
        let modules = Order::new(&mut order[..all]);
        let memory = Memory { entries, stubs, counters, snapshot, order: &mut [], ..memory };
        Self { mode, hooks, machine: Virtual::default(), memory, kernel: 0, modules, free_from: 0, on: true }
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
        for entry in self.memory.entries[..self.kernel].iter().flatten() {
            if let Some(slot) = text.slot(entry.address, entry.slot().into()) {
                entry.kind.rewritten.write(slot);
            }
            summary.rewritten_as(entry.class(), entry.form(), entry.hook().is_some());
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
            let short = Bytes::read_short(slot);
            let place = Seen::place(key, short);
            let kept = if let (Some(bytes), Some(copy)) = (short, copy)
                && let Some((alike, fields)) = seen.like(place, key, bytes, self.memory.entries)
            {
                self.keep_like(alike, fields, address, copy)
            } else {
                let taken = self.examine(record, address, key, copy, slot).map_err(refuse)?;
                taken.map(|(index, fields)| seen.remember(place, index, fields))
            };
            if let Err(left) = kept {
                summary.leave(left);
                let site = RawRecord::from_bytes(record).allegation(address);
                if let Some(site) = site.ok().filter(|site| self.mode == Mode::Virtual && is_lost(site.class, left)) {
                    summary.lose(address, site.class, left);
                }
            }
        }
        Ok(summary)
    }

    /// Reads a record, checks its site and takes it, if there is a way.
    #[cold]
    #[inline(never)]
    fn examine(
        &mut self,
        record: &[u8; RECORD_SIZE],
        address: u64,
        key: Key,
        copy: Option<u64>,
        slot: &[u8],
    ) -> Result<Taken, Reason> {
        let site = RawRecord::from_bytes(record).allegation(address).map_err(Reason::Record)?;
        self.take(&site, key, copy, slot).map_err(Reason::Contradiction)
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
        // Whatever text of a module it is in, it is there until it is forgotten.
        let site = AllegedSite { flags: site.flags.difference(Flags::INIT), ..*site };
        let range = site.address..site.address.wrapping_add(site.slot.into());
        if self.modules.overlaps(&range, self.memory.entries) {
            return Err(Reason::Overlap);
        }
        let slot = text.slot(site.address, site.slot.into()).ok_or(Reason::OutOfText)?;
        let key = Key::from_site(&site);
        let taken = self.take(&site, key, Some(0), slot).map_err(Reason::Contradiction)?;
        let (index, _) = match taken {
            Ok(taken) => taken,
            Err(left) => return Ok(Err(left)),
        };
        self.modules.insert(index, site.address, self.memory.entries);
        if let (Some(entry), true) = (self.entry(index), self.on) {
            self.exchange(entry, entry.address, text);
        }
        Ok(Ok(()))
    }

    /// Forgets the sites of modules in a range that is no longer text, unless they are to be kept.
    pub fn forget(&mut self, range: &Range<u64>, keep: impl Fn(&Entry) -> bool) {
        let free_from = &mut self.free_from;
        self.modules.remove(range, self.memory.entries, keep, |number| *free_from = number.min(*free_from));
    }

    /// How many sites of modules are taken.
    #[must_use]
    pub fn in_modules(&self) -> usize {
        self.modules.count()
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
        for (_, entry) in self.entries().filter(|(_, entry)| !keep(entry)) {
            for place in entry.lasting() {
                match self.exchange(entry, place, text) {
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
        let entries = self.memory.entries.iter().enumerate().skip(number);
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
        let kernel = self.memory.entries.get(..self.kernel)?;
        let index = kernel.partition_point(|entry| entry.is_some_and(|entry| entry.address < address));
        let own = kernel.get(index).and_then(Option::as_ref).filter(|entry| entry.address == address);
        own.map(|entry| (index, entry)).or_else(|| self.modules.find(address, self.memory.entries))
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
        let (_, entry, offset) = self.locate(address).filter(|(_, entry, _)| entry.kind.template.is_none())?;
        if entry.form() == Form::Call && (1..entry.kind.body).contains(&offset) {
            return None;
        }
        let inside = match offset.checked_sub(entry.kind.body) {
            None => 0,
            Some(inside) if inside < entry.length() => inside,
            Some(_) => entry.slot(),
        };
        match entry.form() {
            Form::Jump => Some(Presented::At(entry.address + u64::from(inside))),
            Form::Call => Some(Presented::Caller(i64::from(inside) - i64::from(BRANCH))),
            Form::Fused | Form::Inline | Form::Trap => None,
        }
    }

    /// Where in the guest a context is that was interrupted before the instruction at an address in a stub of virtual mode;
    /// `None` if there is none.
    #[must_use]
    pub fn interrupted(&self, address: u64) -> Option<Interrupted> {
        let (index, entry, offset) = self.locate(address).filter(|(_, entry, _)| entry.form().has_stub())?;
        let stub = templates::stub(entry.kind.template?, entry, index, self.stub_address(index), &self.machine);
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
        let inside = entry.form() == Form::Jump && offset == entry.kind.second;
        inside.then(|| self.stub_address(index) + u64::from(entry.kind.body + offset))
    }

    /// Copies all counters, at one moment if nothing else runs.
    pub fn snapshot(&mut self) {
        for (to, from) in self.memory.snapshot.iter_mut().zip(self.memory.counters) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    /// The counts of the last snapshot that are not zero, from the site with this number on: number, site, class, count.
    pub fn counts_from(&self, number: usize) -> impl Iterator<Item = (usize, u64, Class, u64)> {
        self.entries_from(number).filter_map(|(index, entry)| {
            let count = *self.memory.snapshot.get(index)?;
            (count != 0).then_some((index, entry.address, entry.class(), count))
        })
    }

    /// Counts from zero.
    pub fn zero(&self) {
        self.memory.counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// Checks a site and takes it, if there is a way.
    fn take(&mut self, site: &AllegedSite, key: Key, copy: Option<u64>, slot: &[u8]) -> Result<Taken, Contradiction> {
        let unpadded = Left::unpadded(site.flags);
        if let Some(left) = unpadded
            && !(self.mode == Mode::Virtual && left.fits_trap())
        {
            return Ok(Err(left));
        }
        let bytes = Bytes::read(slot);
        let shape = Shape::of(site, slot, bytes)?;
        let Shape { second, displacement, filler, .. } = shape;
        let Some(original) = bytes else { return Ok(Err(Left::TooLong)) };
        let AllegedSite { address, class, .. } = *site;
        let way = match self.mode {
            Mode::Virtual => deprivileged::way(site, shape, original, copy.is_some(), &self.machine),
            mode => way(site, shape, copy.is_some(), mode),
        };
        Ok(way.and_then(|Way { form, hook, flags_free, template }| {
            let (rewritten, body) = (original, 0);
            let kind =
                Kind { original, rewritten, key, class, second, displacement, form, hook, flags_free, template, body };
            self.keep(Entry { address, copy: copy.unwrap_or(0), kind }, filler)
        }))
    }

    /// Takes the next free entry.
    fn keep(&mut self, mut entry: Entry, filler: u8) -> Taken {
        let index = self.next_free()?;
        let mut fields = Fields::default();
        match entry.form() {
            Form::Fused => entry.kind.rewritten = fuse(&entry.in_slot(), filler).ok_or(Left::OutOfReach)?,
            Form::Trap => entry.kind.rewritten = Bytes(INT3.into()).or(NOPS.before(entry.slot()).behind(1)),
            Form::Inline => {
                let template = entry.kind.template.ok_or(Left::NoStub)?;
                let inline = templates::inline(template, &entry, &self.machine)?;
                entry.kind.rewritten = inline.in_slot().ok_or(Left::TooLong)?;
            }
            Form::Jump | Form::Call => fields = self.build(index, &mut entry)?,
        }
        self.memory.entries[index] = Some(entry);
        self.free_from = index + 1;
        Ok((index, fields))
    }

    /// Takes the next free entry for a site that is like the one with the number `alike`, with this difference between their
    /// stubs.
    #[inline]
    fn keep_like(&mut self, alike: usize, fields: Fields, address: u64, copy: u64) -> Result<(), Left> {
        let index = self.next_free()?;
        let (before, free) = self.memory.entries.split_at_mut(index);
        let (Some(Some(like)), Some(place)) = (before.get(alike), free.first_mut()) else { return Err(Left::NoStub) };
        let from = like.address;
        let entry = place.insert(*like);
        (entry.address, entry.copy) = (address, copy);
        if !entry.form().is_fixed()
            && let Err(left) = self.relocate(fields, (alike, from), (index, address))
        {
            self.memory.entries[index] = None;
            return Err(left);
        }
        self.free_from = index + 1;
        Ok(())
    }

    /// Makes what depends on the number and address of a site from that of one like it.
    #[inline(never)]
    fn relocate(&mut self, fields: Fields, from: (usize, u64), to: (usize, u64)) -> Result<(), Left> {
        let (from, to) = (self.place(from.0, from.1), self.place(to.0, to.1));
        let Some(entry) = &mut self.memory.entries[to.number] else { return Err(Left::NoStub) };
        let mut by = from.site.wrapping_sub(to.site);
        if entry.form().has_stub() {
            by = by.wrapping_add(to.stub).wrapping_sub(from.stub);
            let (before, free) = self.memory.stubs.split_at_mut(to.number);
            let (Some(stub), Some(place)) = (before.get(from.number), free.first_mut()) else {
                return Err(Left::NoStub);
            };
            *place = *stub;
            fields.correct(place, &Shift::between(from, to))?;
        }
        entry.kind.rewritten = entry.kind.moved(by).ok_or(Left::OutOfReach)?;
        self.reset(to.number);
        Ok(())
    }

    /// The first free entry.
    #[inline]
    fn next_free(&self) -> Result<usize, Left> {
        match self.memory.entries.get(self.free_from) {
            Some(None) => Ok(self.free_from),
            _ => self.memory.entries.iter().position(Option::is_none).ok_or(Left::NoStub),
        }
    }

    /// Makes the entry's stub, and makes sure that its slot can branch to it. Returns what is different in that of one like it.
    #[inline(never)]
    fn build(&mut self, index: usize, entry: &mut Entry) -> Result<Fields, Left> {
        let place = self.place(index, entry.address);
        entry.kind.rewritten = stub::branch(entry.form(), place.site, entry.slot(), place.stub)?;
        if let Some(template) = entry.kind.template {
            let listing = templates::stub(template, entry, index, place.stub, &self.machine)?;
            self.memory.stubs[index] = *listing.code().bytes();
            return Ok(listing.code().fields());
        }
        let (code, body) = stub::stub(entry, place, self.mode == Mode::Profile, &self.hooks)?;
        entry.kind.body = body;
        self.memory.stubs[index] = *code.bytes();
        self.reset(index);
        Ok(code.fields())
    }

    /// Counts a site from zero.
    fn reset(&mut self, index: usize) {
        self.memory.counters[index].store(0, Ordering::Relaxed);
        self.memory.snapshot[index] = 0;
    }

    fn place(&self, number: usize, site: u64) -> Place {
        let counter = self.memory.counters_address + (size_of::<AtomicU64>() * number) as u64;
        Place { number, site, stub: self.stub_address(number), counter }
    }

    /// Gives the returns from interrupts their hook. A stub keeps its beginning, so that a processor which is in it goes on.
    fn hook_returns(&mut self) {
        for index in 0..self.memory.entries.len() {
            let Some(mut entry) = self.memory.entries[index] else { continue };
            let iretq = entry.class() == Class::Iret && entry.kind.original.array().starts_with(&IRETQ);
            if iretq && entry.lasting().any(|place| place == entry.address) && !entry.flags().intersects(FIXED) {
                (entry.kind.form, entry.kind.hook) = (Form::Jump, Some(Hook::Return));
                if self.build(index, &mut entry).is_ok() {
                    self.memory.entries[index] = Some(entry);
                }
            }
        }
    }

    /// Brings a slot into the state that it should be in.
    fn exchange(&self, entry: &Entry, place: u64, text: &mut impl GuestText) -> Found {
        let rewritten = entry.kind.moved(entry.address.wrapping_sub(place));
        let (Some(rewritten), Some(slot)) = (rewritten, text.slot(place, entry.slot().into())) else {
            return Found::Other;
        };
        let Some(found) = Bytes::read(slot) else { return Found::Other };
        let (from, to) = if self.on { (entry.kind.original, rewritten) } else { (rewritten, entry.kind.original) };
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
        let kernel = self.memory.entries.get(..self.kernel)?;
        let behind = kernel.partition_point(|entry| entry.is_some_and(|entry| entry.address < address));
        let own = behind.checked_sub(1).and_then(|index| Some((index, kernel.get(index)?.as_ref()?)));
        let own = own.into_iter().chain(self.modules.last_before(address, self.memory.entries));
        let others = || {
            let copies = kernel.iter().enumerate().filter_map(|(index, entry)| Some((index, entry.as_ref()?)));
            copies.filter(|(_, entry)| entry.copy != 0)
        };
        own.chain(others()).find_map(|(index, entry)| {
            let inside = |place: &u64| *place < address && address - place < u64::from(entry.slot());
            entry.lasting().find(inside).map(|place| (index, entry, place))
        })
    }
}
