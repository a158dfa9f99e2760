//! The plan: which sites are taken, and how, before anything is written.
//!
//! A table is taken as a whole or not at all. Most of its sites are like one before, and take over
//! what was found out about that one; the others are examined, and the policy of the engine's mode
//! decides.

use core::ops::Range;

use annotate::check::Contradiction;
use annotate::record::{AllegedSite, Flags, RECORD_SIZE, RawRecord};

use super::bytes::Bytes;
use super::encoding::Shape;
use super::engine::Engine;
use super::fuse::{SINGLE_NOPS, fuse};
use super::moves::Fields;
use super::policy::{Case, Form, Left, Mode, Native, Policy as _, Probe, Way, is_lost};
use super::site::{Key, Kind, Seen, Site};
use super::stub::INT3;
use super::summary::Summary;
use super::{Applied, GuestText, Reason, Refusal, SiteTable, templates};

/// The number of a site that is taken, and what is different in the stub of one like it.
pub(super) type Taken = Result<(usize, Fields), Left>;

impl Engine<'_> {
    /// Rewrites the sites of the kernel, before it runs. `applied` knows the sites in replacements,
    /// by the number of the record.
    ///
    /// # Errors
    ///
    /// At the first record that does not hold. Nothing is written then.
    pub fn rewrite(
        &mut self,
        table: &SiteTable<'_>,
        applied: impl FnMut(usize) -> Applied,
        text: &mut impl GuestText,
    ) -> Result<Summary, Refusal> {
        let planned = self.plan(table, applied, text);
        if planned.is_err() {
            self.memory.sites.iter_mut().for_each(|site| *site = None);
            (self.free_from, self.copied_traps) = (0, 0..0);
        }
        let mut summary = planned?;
        self.kernel = self.free_from;
        for site in self.memory.sites[..self.kernel].iter().flatten() {
            if let Some(slot) = text.slot(site.address, site.slot().into()) {
                site.kind.rewritten.write(slot);
            }
            summary.rewritten_as(site.class(), site.form(), site.hook().is_some());
        }
        Ok(summary)
    }

    /// Takes all sites, or says why the table is refused.
    fn plan(
        &mut self,
        table: &SiteTable<'_>,
        mut applied: impl FnMut(usize) -> Applied,
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
            let applied = if key.flags().contains(Flags::REPLACEMENT) { applied(number) } else { Applied::Never };
            let copy = match applied {
                Applied::Never => Some(0),
                Applied::Whole(copy) => Some(copy),
                Applied::Part(_) | Applied::Somewhere => None,
            };
            let short = Bytes::read_short(slot);
            let place = Seen::place(key, short);
            let kept = if let (Some(bytes), Some(copy)) = (short, copy)
                && let Some((alike, fields)) = seen.like(place, key, bytes, self.memory.sites)
            {
                self.keep_like(alike, fields, address, copy)
            } else {
                let taken = self.examine(record, address, key, applied, slot).map_err(refuse)?;
                taken.map(|(index, fields)| copy.map_or((), |_| seen.remember(place, index, fields)))
            };
            if let Err(left) = kept {
                summary.leave(left);
                let site = RawRecord::from_bytes(record).allegation(address);
                if let Some(site) =
                    site.ok().filter(|site| self.mode == Mode::Deprivileged && is_lost(site.class, left))
                {
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
        applied: Applied,
        slot: &[u8],
    ) -> Result<Taken, Reason> {
        let site = RawRecord::from_bytes(record).allegation(address).map_err(Reason::Record)?;
        self.take(&site, key, applied, slot).map_err(Reason::Contradiction)
    }

    /// Checks a site and takes it, if there is a way.
    pub(super) fn take(
        &mut self,
        site: &AllegedSite,
        key: Key,
        applied: Applied,
        slot: &[u8],
    ) -> Result<Taken, Contradiction> {
        let unpadded = Left::unpadded(site.flags);
        if let Some(left) = unpadded
            && !(self.mode == Mode::Deprivileged && left.fits_trap())
        {
            return Ok(Err(left));
        }
        let bytes = Bytes::read(slot);
        let shape = Shape::of(site, slot, bytes)?;
        let Shape { second, displacement, filler, .. } = shape;
        let Some(original) = bytes else { return Ok(Err(Left::TooLong)) };
        let AllegedSite { address, class, .. } = *site;
        let case = Case { site, shape, original, applied };
        let way = match self.mode {
            Mode::Native => Native.way(&case),
            Mode::Identity => Probe { counts: false }.way(&case),
            Mode::Profile => Probe { counts: true }.way(&case),
            Mode::Deprivileged => self.policy.way(&case),
        };
        Ok(way.and_then(|Way { form, hook, flags_free, template }| {
            let (rewritten, body) = (original, 0);
            let kind =
                Kind { original, rewritten, key, class, second, displacement, form, hook, flags_free, template, body };
            self.keep(Site { address, copy: applied.address(), kind }, filler)
        }))
    }

    /// Takes the next free site.
    fn keep(&mut self, mut site: Site, filler: u8) -> Taken {
        let index = self.next_free()?;
        let mut fields = Fields::default();
        match site.form() {
            Form::Fused => site.kind.rewritten = fuse(&site.in_slot(), filler).ok_or(Left::OutOfReach)?,
            Form::Trap => {
                site.kind.rewritten = Bytes(INT3.into()).or(SINGLE_NOPS.before(site.slot()).behind(1));
                if site.copy != 0 {
                    let Range { start, end } = &mut self.copied_traps;
                    (*start, *end) = (if *start == *end { index } else { *start }, index + 1);
                }
            }
            Form::Inline => {
                let template = site.kind.template.ok_or(Left::NoStub)?;
                let inline = templates::inline(template, &site, &self.policy)?;
                site.kind.rewritten = inline.in_slot().ok_or(Left::TooLong)?;
            }
            Form::Jump | Form::Call => fields = self.build(index, &mut site)?,
        }
        self.memory.sites[index] = Some(site);
        self.free_from = index + 1;
        Ok((index, fields))
    }

    /// Takes the next free site for a site that is like the one with the number `alike`, with this
    /// difference between their stubs.
    #[inline]
    fn keep_like(&mut self, alike: usize, fields: Fields, address: u64, copy: u64) -> Result<(), Left> {
        let index = self.next_free()?;
        let (before, free) = self.memory.sites.split_at_mut(index);
        let (Some(Some(like)), Some(place)) = (before.get(alike), free.first_mut()) else { return Err(Left::NoStub) };
        let from = like.address;
        let site = place.insert(*like);
        (site.address, site.copy) = (address, copy);
        if !site.form().is_fixed()
            && let Err(left) = self.relocate(fields, (alike, from), (index, address))
        {
            self.memory.sites[index] = None;
            return Err(left);
        }
        self.free_from = index + 1;
        Ok(())
    }

    /// The first free site.
    #[inline]
    fn next_free(&self) -> Result<usize, Left> {
        match self.memory.sites.get(self.free_from) {
            Some(None) => Ok(self.free_from),
            _ => self.memory.sites.iter().position(Option::is_none).ok_or(Left::NoStub),
        }
    }
}
