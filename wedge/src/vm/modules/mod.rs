//! Finds text that the kernel loads while it runs, and the records that came with it.
//!
//! A kernel does not tell anybody when it loads a module, and nothing in its source is to be
//! changed. But a processor cannot execute what its page tables do not let it, and a kernel that
//! changes page tables flushes the TLB, which is a site. So at every flush that may concern it the
//! wedge looks at the range that modules are loaded to: which pages are executable, and
//! which *constant*, that is, neither executable nor writable.
//!
//! * Pages that have become constant are searched for notes. Whatever writes to a module's data
//!   cannot write records.
//! * Text that has become executable is final: relocated, alternatives applied, not yet executed.
//!   Its sites are rewritten.
//! * Pages that are no longer executable take their sites with them. No kernel may use an address
//!   again before it has flushed the TLB, so each look finds either what the last one found, or
//!   nothing.
//!
//! Which notes speak of which text? A module's memory may be one piece or several (since Linux 6.4
//! each kind of section has its own), and the part that initialises it is freed while its records
//! stay; another module's text may come to lie there. But all of a module is mapped before anything
//! of it becomes constant. So when notes are found, the pieces of mapped memory that their records
//! point into are *claimed* for them: until all of their sites there can be executed, which is when
//! they are rewritten, or until a page of the piece is gone. Later text at the same address is of
//! no concern to these notes.
//!
//! The records are allegations like all others. One that does not hold costs its site: that can
//! still run on its NOPs.

mod account;
mod claims;
mod notes;
mod tables;

use core::ops::Range;

use annotate::record::AllegedSite;

pub use account::{Cause, Event, Tally};
use claims::{Claim, Cut};
use tables::{Mapped, Seen, Tables};
pub use tables::{ModuleMemory, PAGE, PAGE_LENGTH, REGION, translate};

use crate::sites::{Left, Reason};

/// What becomes of sites that are found and lost.
pub trait Rewriter {
    /// Rewrites a site, if its record holds and there is a way.
    ///
    /// # Errors
    ///
    /// When the record does not hold; and, inside, when the site is left as it is.
    fn add(&mut self, site: &AllegedSite) -> Result<Result<(), Left>, Reason>;

    /// The text in a range is gone.
    fn forget(&mut self, range: &Range<u64>);
}

/// What 64 pages were at the last look, and are at this one.
#[derive(Clone, Copy, Debug)]
struct Watch {
    before: Seen,
    now: Seen,
}

/// What is kept of the pages that one page table maps.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pieces: [Watch; 8],
    /// Whether any bit is set.
    occupied: bool,
}

impl Region {
    /// Of pages that nothing is known of.
    pub const EMPTY: Self = Self { pieces: [Watch { before: Seen::NOTHING, now: Seen::NOTHING }; 8], occupied: false };
}

/// As many as there can be: no branch reaches farther than 2 GB.
pub const REGIONS: usize = ((2 << 30) / REGION) as usize;

/// Claims at one time. Linux needs two, since it makes one module executable after the other.
const CLAIMS: usize = 64;

/// What is known of the memory of modules.
#[derive(Debug)]
pub struct Modules<'a> {
    /// Address of the first page.
    start: u64,
    regions: &'a mut [Region],
    claims: [Claim; CLAIMS],
    claimed: usize,
    cuts: [Cut; 4],
    tally: Tally,
    /// What is new at the next look may have been executed, and the initialising part of a module
    /// is not new.
    anew: bool,
    /// Whether any region is occupied: mostly none is, and they need not be looked through.
    occupied: bool,
}

impl<'a> Modules<'a> {
    /// Nothing is known of this range of addresses yet. It is watched in units of [`REGION`], as
    /// far as there are `regions`, which are empty.
    #[must_use]
    pub fn new(range: Range<u64>, regions: &'a mut [Region]) -> Self {
        let start = range.start.next_multiple_of(REGION);
        let count = (range.end.saturating_sub(start) / REGION) as usize;
        let count = count.min(regions.len());
        Self {
            start,
            regions: &mut regions[..count],
            claims: [const { Claim::NONE }; CLAIMS],
            claimed: 0,
            cuts: [Cut::NONE; 4],
            tally: Tally::default(),
            anew: false,
            occupied: false,
        }
    }

    /// What became of all sites so far, those that are gone included.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The watched range.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.regions.len() as u64 * REGION
    }

    /// Modules may have come and gone without a look in between. The next one looks at everything
    /// anew.
    pub fn forget(&mut self) {
        self.regions.fill(Region::EMPTY);
        self.occupied = false;
        self.claimed = 0;
        self.cuts = [Cut::NONE; 4];
        self.anew = true;
    }

    /// Looks at the range again, by the tables at `root`. Returns whether anything there has
    /// changed.
    pub fn look<M: ModuleMemory>(
        &mut self,
        root: u64,
        memory: &mut M,
        rewriter: &mut impl Rewriter,
        mut tell: impl FnMut(&Event),
    ) -> bool {
        let mut tables = Tables { root, memory };
        if !self.read(&mut tables) {
            return false;
        }
        self.forget_gone(rewriter);
        self.drop_claims(&mut tables);
        let claimed = self.claimed;
        let mut from = self.start;
        while let Some(text) = self.next(from, |watch| watch.now.executable & !watch.before.executable) {
            self.search_beside(&text, &mut tables, rewriter, &mut tell);
            from = text.end;
        }
        for number in (0..claimed).rev() {
            self.take(number, &mut tables, rewriter, &mut tell);
        }
        from = self.start;
        while let Some(pages) = self.next(from, |watch| watch.now.constant & !watch.before.constant) {
            self.search(&pages, &mut tables, rewriter, &mut tell);
            from = pages.end;
        }
        for region in self.regions.iter_mut().filter(|region| region.occupied) {
            region.pieces.iter_mut().for_each(|watch| watch.before = watch.now);
            region.occupied = region.pieces.iter().any(|watch| watch.now != Seen::NOTHING);
        }
        self.occupied = self.regions.iter().any(|region| region.occupied);
        self.anew = false;
        true
    }

    /// Reads what all pages are now. Returns whether that is another than at the last look.
    fn read<M: ModuleMemory>(&mut self, tables: &mut Tables<'_, M>) -> bool {
        let mut changed = false;
        let mut number = 0;
        while let Some(rest) = self.regions.get_mut(number..)
            && !rest.is_empty()
        {
            let mapped = tables.region(self.start + number as u64 * REGION);
            let count = if let Mapped::Absent(count) = mapped { count.min(rest.len()) } else { 1 };
            number += count;
            let empty = matches!(mapped, Mapped::Absent(_));
            if empty && !self.occupied {
                continue;
            }
            for region in rest[..count].iter_mut().filter(|region| region.occupied || !empty) {
                for (piece, watch) in region.pieces.iter_mut().enumerate() {
                    watch.now = mapped.seen(piece, tables.memory);
                    changed |= watch.now != watch.before;
                    region.occupied |= watch.now != Seen::NOTHING;
                }
                self.occupied |= region.occupied;
            }
        }
        changed
    }

    /// The first pages in a row, from an address on, that are picked.
    fn next(&self, from: u64, pick: impl Fn(&Watch) -> u64) -> Option<Range<u64>> {
        let address = |page: usize| self.start + page as u64 * PAGE;
        let first = self.find(((from - self.start) / PAGE) as usize, &pick)?;
        let end = self.find(first, |watch| !pick(watch)).unwrap_or(512 * self.regions.len());
        Some(address(first)..address(end))
    }

    /// The number of the first page, from one on, that is picked.
    fn find(&self, from: usize, pick: impl Fn(&Watch) -> u64) -> Option<usize> {
        let mut page = from;
        while let Some(region) = self.regions.get(page / 512) {
            if page.is_multiple_of(512) && !region.occupied && pick(&region.pieces[0]) == 0 {
                page += 512;
                continue;
            }
            let bits = pick(&region.pieces[page / 64 % 8]) >> (page % 64);
            if bits != 0 {
                return Some(page + bits.trailing_zeros() as usize);
            }
            page = (page | 63) + 1;
        }
        None
    }

    /// What a page was and is.
    fn watch(&self, address: u64) -> Option<(Watch, u64)> {
        let page = (address.checked_sub(self.start)? / PAGE) as usize;
        let region = self.regions.get(page / 512)?;
        Some((region.pieces[page / 64 % 8], 1 << (page % 64)))
    }

    /// Forgets what was text.
    fn forget_gone(&self, rewriter: &mut impl Rewriter) {
        let mut from = self.start;
        while let Some(text) = self.next(from, |watch| watch.before.executable & !watch.now.executable) {
            rewriter.forget(&text);
            from = text.end;
        }
    }
}

#[cfg(test)]
mod tests;
