//! The engine: what is known of each site that is taken.
//!
//! A site has a number, which is the index of all that is kept of it: itself, its stub, its
//! counter. What happens to sites is in modules of their own: [`plan`](super::plan) takes them,
//! [`build`](super::build) makes their stubs, [`live`](super::live) switches them while the guest
//! runs, [`present`](super::present) says where in the guest a stub's instruction belongs.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use annotate::instructions::Class;

use super::order::Order;
use super::policy::{Deprivileged, Form, Mode};
use super::site::Site;
use super::stub::{Hooks, STUB_SIZE};

/// What the engine keeps its knowledge in. The number of a site is the index in all of them.
#[derive(Debug)]
pub struct Memory<'a> {
    /// What is known of each site.
    pub sites: &'a mut [Option<Site>],
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

impl Memory<'_> {
    /// Bytes for each site.
    pub const EACH: usize =
        STUB_SIZE + size_of::<AtomicU64>() + size_of::<u64>() + size_of::<Option<Site>>() + size_of::<u32>();
}

/// The rewriter.
#[derive(Debug)]
pub struct Engine<'a> {
    pub(super) mode: Mode,
    pub(super) hooks: Hooks,
    /// The policy of deprivileged mode, with what its stubs refer to.
    pub(super) policy: Deprivileged,
    /// All parts of it are for the same number of sites.
    pub(super) memory: Memory<'a>,
    /// Sites of the kernel, ordered by address; those of modules follow.
    pub(super) kernel: usize,
    pub(super) modules: Order<'a>,
    /// Among these sites of the kernel are all whose copies are breakpoints.
    pub(super) copied_traps: Range<usize>,
    /// No number before this one is free.
    pub(super) free_from: usize,
    pub(super) on: bool,
}

impl<'a> Engine<'a> {
    /// An engine that has no sites yet, for a guest that has its privileges: one of [`Mode::ALL`].
    #[must_use]
    pub fn new(mode: Mode, hooks: Hooks, memory: Memory<'a>) -> Self {
        let Memory { sites, stubs, counters, snapshot, order, .. } = memory;
        let lengths = [sites.len(), stubs.len(), counters.len(), snapshot.len(), order.len()];
        let all = lengths.into_iter().min().unwrap_or(0);
        let (sites, stubs) = (&mut sites[..all], &mut stubs[..all]);
        let (counters, snapshot) = (&counters[..all], &mut snapshot[..all]);
        let modules = Order::new(&mut order[..all]);
        let memory = Memory { sites, stubs, counters, snapshot, order: &mut [], ..memory };
        Self {
            mode,
            hooks,
            policy: Deprivileged::default(),
            memory,
            kernel: 0,
            modules,
            copied_traps: 0..0,
            free_from: 0,
            on: true,
        }
    }

    /// An engine that has no sites yet, for a guest whose kernel runs without privileges, on this
    /// virtual CPU. The mode that was chosen says whether sites are counted.
    #[must_use]
    pub fn deprivileged(policy: Deprivileged, chosen: Mode, memory: Memory<'a>) -> Self {
        let policy = Deprivileged { counts: chosen == Mode::Profile, ..policy };
        Self { policy, ..Self::new(Mode::Deprivileged, Hooks::default(), memory) }
    }

    /// Whether sites are counted when they are executed.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.mode == Mode::Profile || self.policy.counts
    }

    /// A site has called, in deprivileged mode.
    #[inline]
    pub fn count(&self, number: usize) {
        if self.policy.counts
            && let Some(counter) = self.memory.counters.get(number)
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
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

    /// The sites, with their numbers.
    pub fn sites(&self) -> impl Iterator<Item = (usize, &Site)> {
        self.sites_from(0)
    }

    pub(super) fn sites_from(&self, number: usize) -> impl Iterator<Item = (usize, &Site)> {
        let sites = self.memory.sites.iter().enumerate().skip(number);
        sites.filter_map(|(index, site)| Some((index, site.as_ref()?)))
    }

    /// The site with this number.
    #[must_use]
    pub fn site(&self, number: usize) -> Option<&Site> {
        self.memory.sites.get(number)?.as_ref()
    }

    /// The number of the site that returns from system calls to 64-bit programs; should there be
    /// several, they differ by nothing but their address.
    #[must_use]
    pub fn sysret(&self) -> Option<usize> {
        const REX_W: u8 = 0x48;
        let returns = |site: &Site| site.class() == Class::Sysret && site.original().starts_with(&[REX_W]);
        self.sites().find(|(_, site)| returns(site)).map(|(number, _)| number)
    }

    /// The site that starts at an address, or whose breakpoint the kernel has copied there, and its
    /// number.
    #[must_use]
    pub fn site_at(&self, address: u64) -> Option<(usize, &Site)> {
        let kernel = self.memory.sites.get(..self.kernel)?;
        let index = kernel.partition_point(|site| site.is_some_and(|site| site.address < address));
        let own = kernel.get(index).and_then(Option::as_ref).filter(|site| site.address == address);
        let own = own.map(|site| (index, site)).or_else(|| self.modules.find(address, self.memory.sites));
        own.or_else(|| {
            let sites = self.copied_traps.clone().filter_map(|index| Some((index, self.site(index)?)));
            sites.filter(|(_, site)| site.form() == Form::Trap).find(|(_, site)| site.copy == address)
        })
    }

    #[cfg(test)]
    pub(super) fn stub(&self, index: usize) -> &[u8; STUB_SIZE] {
        &self.memory.stubs[index]
    }

    pub(super) fn stub_address(&self, index: usize) -> u64 {
        self.memory.stubs_address + (STUB_SIZE * index) as u64
    }
}
