//! Stubs, and branches to them, in the memory of the engine.

use core::sync::atomic::{AtomicU64, Ordering};

use annotate::instructions::Class;
use annotate::record::Flags;

use super::engine::Engine;
use super::moves::{Fields, Place, Shift};
use super::policy::{Form, Hook, Left, Mode};
use super::site::Site;
use super::{stub, templates};

/// IRETQ (SDM Vol. 2A, IRET/IRETD/IRETQ).
const IRETQ: [u8; 2] = [0x48, 0xcf];

/// Text where the wedge cannot be called, or that must stay as it is.
const FIXED: Flags = Flags::COPIED.union(Flags::HEAD);

impl Engine<'_> {
    /// Makes the site's stub, and makes sure that its slot can branch to it. Returns what is
    /// different in that of one like it.
    #[inline(never)]
    pub(super) fn build(&mut self, index: usize, site: &mut Site) -> Result<Fields, Left> {
        let place = self.place(index, site.address);
        site.kind.rewritten = stub::branch(site.form(), place.site, site.slot(), place.stub)?;
        if let Some(template) = site.kind.template {
            let listing = templates::stub(template, site, index, place.stub, &self.policy)?;
            self.memory.stubs[index] = *listing.code().bytes();
            return Ok(listing.code().fields());
        }
        let (code, body) = stub::stub(site, place, self.mode == Mode::Profile, &self.hooks)?;
        site.kind.body = body;
        self.memory.stubs[index] = *code.bytes();
        self.reset(index);
        Ok(code.fields())
    }

    /// Makes what depends on the number and address of a site from that of one like it.
    #[inline(never)]
    pub(super) fn relocate(&mut self, fields: Fields, from: (usize, u64), to: (usize, u64)) -> Result<(), Left> {
        let (from, to) = (self.place(from.0, from.1), self.place(to.0, to.1));
        let Some(site) = &mut self.memory.sites[to.number] else { return Err(Left::NoStub) };
        let mut by = from.site.wrapping_sub(to.site);
        if site.form().has_stub() {
            by = by.wrapping_add(to.stub).wrapping_sub(from.stub);
            let (before, free) = self.memory.stubs.split_at_mut(to.number);
            let (Some(stub), Some(place)) = (before.get(from.number), free.first_mut()) else {
                return Err(Left::NoStub);
            };
            *place = *stub;
            fields.correct(place, &Shift::between(from, to))?;
        }
        site.kind.rewritten = site.kind.moved(by).ok_or(Left::OutOfReach)?;
        self.reset(to.number);
        Ok(())
    }

    /// Counts a site from zero.
    fn reset(&mut self, index: usize) {
        self.memory.counters[index].store(0, Ordering::Relaxed);
        self.memory.snapshot[index] = 0;
    }

    pub(super) fn place(&self, number: usize, site: u64) -> Place {
        let counter = self.memory.counters_address + (size_of::<AtomicU64>() * number) as u64;
        Place { number, site, stub: self.stub_address(number), counter }
    }

    /// Gives the returns from interrupts their hook. A stub keeps its beginning, so that a
    /// processor which is in it goes on.
    pub(super) fn hook_returns(&mut self) {
        for index in 0..self.memory.sites.len() {
            let Some(mut site) = self.memory.sites[index] else { continue };
            let iretq = site.class() == Class::Iret && site.kind.original.array().starts_with(&IRETQ);
            if iretq && site.lasting().any(|place| place == site.address) && !site.flags().intersects(FIXED) {
                (site.kind.form, site.kind.hook) = (Form::Jump, Some(Hook::Return));
                if self.build(index, &mut site).is_ok() {
                    self.memory.sites[index] = Some(site);
                }
            }
        }
    }
}
