//! From notes to sites: which memory the records of some notes speak of, and when.

use core::ops::Range;

use annotate::record::{Flags, RawRecord};

use super::account::{Account, Cause, Event};
use super::notes::{self, Records};
use super::tables::{ModuleMemory, PAGE, PAGE_LENGTH, Tables};
use super::{CLAIMS, Modules, Rewriter};
use crate::sites::Reason;

/// Mapped memory whose sites wait for being executable, and the notes with their records.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) memory: Range<u64>,
    pub(super) notes: Range<u64>,
}

/// Notes that may go on behind the memory that was constant when they were found: where they start,
/// and where that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Claim {
    pub(super) const NONE: Self = Self { memory: 0..0, notes: 0..0 };
}

impl Cut {
    pub(super) const NONE: Self = Self { start: 0, end: 0 };
}

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It cannot be executed yet.
    Waiting,
    /// It has just become executable.
    New,
    /// It was executable at the last look already.
    Past,
}

impl Modules<'_> {
    /// Drops claims on memory that is gone, or was gone in between, and notes that were cut.
    pub(super) fn drop_claims<M: ModuleMemory>(&mut self, tables: &mut Tables<'_, M>) {
        let mut kept = 0;
        for number in 0..self.claimed {
            let Claim { memory, notes } = self.claims[number].clone();
            let mut is_there = |range: Range<u64>| range.step_by(PAGE_LENGTH).all(|page| tables.page(page).is_some());
            if is_there(memory) && is_there(notes.start & !(PAGE - 1)..notes.end) {
                self.claims.swap(kept, number);
                kept += 1;
            }
        }
        self.claimed = kept;
        for number in 0..self.cuts.len() {
            let seen = self.watch(self.cuts[number].start);
            if seen.is_none_or(|(watch, bit)| watch.now.constant & bit == 0) {
                self.cuts[number] = Cut::NONE;
            }
        }
    }

    /// Searches memory for notes, and takes what they speak of. Returns whether there are any.
    pub(super) fn search<M: ModuleMemory>(
        &mut self,
        pages: &Range<u64>,
        tables: &mut Tables<'_, M>,
        rewriter: &mut impl Rewriter,
        tell: &mut impl FnMut(&Event),
    ) -> bool {
        let cut = self.cuts.iter_mut().find(|cut| cut.end == pages.start);
        let start = cut.map(|cut| core::mem::replace(cut, Cut::NONE).start);
        let mut range = start.unwrap_or(pages.start)..pages.end;
        let mut found = false;
        loop {
            match notes::find(tables, &range) {
                Ok(notes) => {
                    found = true;
                    self.claim(&notes, tables, rewriter, tell);
                    range.start = notes.end;
                }
                Err(Some(start)) => {
                    self.cuts.rotate_right(1);
                    self.cuts[0] = Cut { start, end: pages.end };
                    range.start = start + 4;
                }
                Err(None) => return found,
            }
        }
    }

    /// Whoever can write to text could as well write its records: if they are not known, they are
    /// looked for in what lies in one piece with it.
    pub(super) fn search_beside<M: ModuleMemory>(
        &mut self,
        text: &Range<u64>,
        tables: &mut Tables<'_, M>,
        rewriter: &mut impl Rewriter,
        tell: &mut impl FnMut(&Event),
    ) {
        let is_claimed = self.claims[..self.claimed].iter().any(|claim| claim.memory.contains(&text.start));
        if is_claimed || tables.page(text.start).is_none_or(|page| !page.writable) {
            return;
        }
        let Some(memory) = self.piece(text.start, tables) else { return };
        let mut found = false;
        let mut data = memory.start..memory.start;
        while data.start < memory.end {
            while data.end < memory.end && tables.page(data.end).is_some_and(|page| page.writable && !page.executable) {
                data.end += PAGE;
            }
            found |= !data.is_empty() && self.search(&data, tables, rewriter, tell);
            data = data.end + PAGE..data.end + PAGE;
        }
        if !found {
            tell(&Event::Writable { text: text.clone() });
        }
    }

    /// Claims the memory that the records of some notes point into, and takes what can be executed
    /// already.
    fn claim<M: ModuleMemory>(
        &mut self,
        notes: &Range<u64>,
        tables: &mut Tables<'_, M>,
        rewriter: &mut impl Rewriter,
        tell: &mut impl FnMut(&Event),
    ) {
        let (mut own, mut account) = (self.claimed, Account::default());
        let mut records = Records::of(notes);
        while let Some((site, _)) = self.next_record(&mut records, tables) {
            if self.claims[own..self.claimed].iter().any(|claim| claim.memory.contains(&site)) {
                continue;
            }
            let Some(memory) = self.piece(site, tables) else {
                account.count(site, Err(Cause::Record(Reason::OutOfText)));
                continue;
            };
            if self.claimed == CLAIMS {
                self.give_up(tables, tell);
                own = own.saturating_sub(1);
            }
            self.claims[self.claimed] = Claim { memory, notes: notes.clone() };
            self.claimed += 1;
        }
        self.close(&account, notes, tell);
        for number in (own..self.claimed).rev() {
            self.take(number, tables, rewriter, tell);
        }
    }

    /// Rewrites the sites of a claim that have become executable. If none is left to wait for, the
    /// claim is dropped, and the last one gets its number.
    pub(super) fn take<M: ModuleMemory>(
        &mut self,
        number: usize,
        tables: &mut Tables<'_, M>,
        rewriter: &mut impl Rewriter,
        tell: &mut impl FnMut(&Event),
    ) {
        let Claim { memory, notes } = self.claims[number].clone();
        let (mut waiting, mut account) = (false, Account::default());
        let mut records = Records::of(&notes);
        while let Some((site, record)) = self.next_record(&mut records, tables) {
            if !memory.contains(&site) {
                continue;
            }
            match self.stage(site, record.slot) {
                Stage::Waiting => waiting = true,
                Stage::Past => {}
                Stage::New => {
                    let alleged = record.allegation(site).map_err(Reason::Record);
                    let outcome = alleged.and_then(|site| rewriter.add(&site)).map_err(Cause::Record);
                    account.count(site, outcome.and_then(|taken| taken.map_err(Cause::Left)));
                }
            }
        }
        self.close(&account, &memory, tell);
        if !waiting {
            self.claimed -= 1;
            self.claims.swap(number, self.claimed);
        }
    }

    /// Gives up the oldest claim.
    fn give_up<M: ModuleMemory>(&mut self, tables: &mut Tables<'_, M>, tell: &mut impl FnMut(&Event)) {
        let Claim { memory, notes } = self.claims[0].clone();
        let mut account = Account::default();
        let mut records = Records::of(&notes);
        while let Some((site, record)) = self.next_record(&mut records, tables) {
            if memory.contains(&site) && self.stage(site, record.slot) == Stage::Waiting {
                account.count(site, Err(Cause::Forgotten));
            }
        }
        self.close(&account, &memory, tell);
        self.claims.rotate_left(1);
        self.claimed -= 1;
    }

    /// The next record that says something of text which may be taken.
    fn next_record<M: ModuleMemory>(
        &self,
        records: &mut Records,
        tables: &mut Tables<'_, M>,
    ) -> Option<(u64, RawRecord)> {
        loop {
            let (site, record) = records.next(tables)?;
            if !(self.anew && Flags::from_bits_retain(record.flags).contains(Flags::INIT)) {
                return Some((site, record));
            }
        }
    }

    /// The pages without a hole around an address.
    fn piece<M: ModuleMemory>(&self, address: u64, tables: &mut Tables<'_, M>) -> Option<Range<u64>> {
        let range = self.range();
        let page = address & !(PAGE - 1);
        let mut is_there = |page: u64| range.contains(&page) && tables.page(page).is_some();
        if !is_there(page) {
            return None;
        }
        let (mut start, mut end) = (page, page + PAGE);
        while is_there(start.wrapping_sub(PAGE)) {
            start -= PAGE;
        }
        while is_there(end) {
            end += PAGE;
        }
        Some(start..end)
    }

    fn stage(&self, site: u64, slot: u8) -> Stage {
        let last = site.saturating_add(u64::from(slot.max(1)) - 1);
        let (mut now, mut before) = (true, true);
        for address in [site, last] {
            let Some((watch, bit)) = self.watch(address) else { return Stage::Waiting };
            now &= watch.now.executable & bit != 0;
            before &= watch.before.executable & bit != 0;
        }
        match (now, before) {
            (false, _) => Stage::Waiting,
            (true, false) => Stage::New,
            (true, true) => Stage::Past,
        }
    }

    /// Takes an account over into the whole, and tells of it if anything is left.
    fn close(&mut self, account: &Account, memory: &Range<u64>, tell: &mut impl FnMut(&Event)) {
        self.tally.add(&account.tally);
        if let Some(first) = account.first {
            tell(&Event::Left { memory: memory.clone(), tally: account.tally, first });
        }
    }
}
