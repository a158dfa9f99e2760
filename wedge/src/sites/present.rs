//! The *precise exception*: where in the guest a context belongs that was interrupted at a site.
//!
//! Whoever sees RIP in a stub is told the address in the guest ([`Engine::site_of`]), and a context
//! that was interrupted inside a slot while that held its original instructions goes on behind the
//! branch that now stands there ([`Engine::resume`]).

use super::engine::Engine;
use super::policy::{Form, Mode};
use super::site::Site;
use super::stub::{BRANCH, STUB_SIZE};
use super::templates::{self, Interrupted};

/// Where in the guest an instruction of a stub belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    /// At this address.
    At(u64),
    /// The stub was called, and the stack has the address behind the site: RIP is that plus the
    /// offset, and RSP is 8 more.
    Caller(i64),
}

impl Engine<'_> {
    /// The site whose stub an address is in, such as the return address of a hook, and its number.
    #[must_use]
    pub fn at_stub(&self, address: u64) -> Option<(usize, &Site)> {
        self.locate(address).map(|(index, site, _)| (index, site))
    }

    /// Where in the guest the instruction at an address in a stub belongs: what stands before the
    /// original, to the start of the site; what stands behind it, to the end of the slot. `None`
    /// outside stubs, and where a called stub counts: its return address is not on top of the stack
    /// there, and nothing can fault. In deprivileged mode ask [`Self::interrupted`].
    #[must_use]
    pub fn site_of(&self, address: u64) -> Option<Presented> {
        let (_, site, offset) = self.locate(address).filter(|(_, site, _)| site.kind.template.is_none())?;
        if site.form() == Form::Call && (1..site.kind.body).contains(&offset) {
            return None;
        }
        let inside = match offset.checked_sub(site.kind.body) {
            None => 0,
            Some(inside) if inside < site.length() => inside,
            Some(_) => site.slot(),
        };
        match site.form() {
            Form::Jump => Some(Presented::At(site.address + u64::from(inside))),
            Form::Call => Some(Presented::Caller(i64::from(inside) - i64::from(BRANCH))),
            Form::Fused | Form::Inline | Form::Trap => None,
        }
    }

    /// Where in the guest a context is that was interrupted before the instruction at an address in
    /// a stub of deprivileged mode; `None` if there is none.
    #[must_use]
    pub fn interrupted(&self, address: u64) -> Option<Interrupted> {
        let (index, site, offset) = self.locate(address).filter(|(_, site, _)| site.form().has_stub())?;
        let stub = templates::stub(site.kind.template?, site, index, self.stub_address(index), &self.policy);
        stub.ok()?.interrupted(offset)
    }

    /// Where a context goes on that was interrupted at an address in the guest before the sites
    /// were rewritten; `None` if that is right as it is. In deprivileged mode there is no such
    /// context.
    #[must_use]
    pub fn resume(&self, address: u64) -> Option<u64> {
        if !self.on || self.mode == Mode::Deprivileged {
            return None;
        }
        let (index, site, place) = self.around(address)?;
        let offset = u8::try_from(address - place).ok()?;
        if offset >= site.length() {
            return Some(place + u64::from(site.slot()));
        }
        let inside = site.form() == Form::Jump && offset == site.kind.second;
        inside.then(|| self.stub_address(index) + u64::from(site.kind.body + offset))
    }

    /// The site whose stub an address is in, its number, and the offset in it.
    fn locate(&self, address: u64) -> Option<(usize, &Site, u8)> {
        let distance = usize::try_from(address.checked_sub(self.memory.stubs_address)?).ok()?;
        let index = distance / STUB_SIZE;
        Some((index, self.site(index)?, u8::try_from(distance % STUB_SIZE).ok()?))
    }

    /// The site that has an address strictly inside one of its lasting slots, and that slot's
    /// address.
    fn around(&self, address: u64) -> Option<(usize, &Site, u64)> {
        let kernel = self.memory.sites.get(..self.kernel)?;
        let behind = kernel.partition_point(|site| site.is_some_and(|site| site.address < address));
        let own = behind.checked_sub(1).and_then(|index| Some((index, kernel.get(index)?.as_ref()?)));
        let own = own.into_iter().chain(self.modules.last_before(address, self.memory.sites));
        let others = || {
            let copies = kernel.iter().enumerate().filter_map(|(index, site)| Some((index, site.as_ref()?)));
            copies.filter(|(_, site)| site.copy != 0)
        };
        own.chain(others()).find_map(|(index, site)| {
            let inside = |place: &u64| *place < address && address - place < u64::from(site.slot());
            site.lasting().find(inside).map(|place| (index, site, place))
        })
    }
}
