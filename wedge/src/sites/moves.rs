//! A stub made from another one.
//!
//! The stubs of sites that are alike differ in a few fields of 32 bits: distances to what does not
//! move with the stub, and the number of the site. So the first is composed, and the others are its
//! copy with those fields corrected. Most stubs of a kernel are such copies.

use super::policy::Left;
use super::stub::STUB_SIZE;

/// What a field of a stub refers to, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A routine or variable of the wedge: the same for all stubs.
    Wedge(u64),
    /// Something of the guest's that is as far from each site: the end of its slot, or what its own
    /// displacement leads to.
    Guest(u64),
    /// The counter of the site.
    Counter(u64),
    /// The stub itself.
    Stub(u64),
}

impl Target {
    pub(super) const fn address(self) -> u64 {
        match self {
            Self::Wedge(address) | Self::Guest(address) | Self::Counter(address) | Self::Stub(address) => address,
        }
    }
}

/// A site's number and addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) site: u64,
    pub(super) stub: u64,
    pub(super) counter: u64,
}

/// By how much a field is greater in another stub, by what it refers to.
pub(super) struct Shift([u64; 4]);

impl Shift {
    const WEDGE: u64 = 0;
    const GUEST: u64 = 1;
    const COUNTER: u64 = 2;
    const NUMBER: u64 = 3;

    pub(super) fn between(from: Place, to: Place) -> Self {
        let wedge = from.stub.wrapping_sub(to.stub);
        let guest = to.site.wrapping_sub(from.site).wrapping_add(wedge);
        let counter = to.counter.wrapping_sub(from.counter).wrapping_add(wedge);
        Self([wedge, guest, counter, (to.number as u64).wrapping_sub(from.number as u64)])
    }
}

/// The fields of a stub that are different in another one, a byte for each, the last one lowest:
/// its offset in the stub and, in the upper two bits, its place in a [`Shift`]. No field is at
/// offset 0, where an instruction starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(u64);

impl Fields {
    /// Adds the distance to a target.
    pub(super) fn distance(&mut self, offset: usize, target: Target) -> Result<(), Left> {
        match target {
            Target::Wedge(_) => self.add(offset, Shift::WEDGE),
            Target::Guest(_) => self.add(offset, Shift::GUEST),
            Target::Counter(_) => self.add(offset, Shift::COUNTER),
            Target::Stub(_) => Ok(()),
        }
    }

    /// Adds the number of the site.
    pub(super) fn number(&mut self, offset: usize) -> Result<(), Left> {
        self.add(offset, Shift::NUMBER)
    }

    fn add(&mut self, offset: usize, shift: u64) -> Result<(), Left> {
        let free = self.0 >> 56 == 0 && (1..STUB_SIZE).contains(&offset);
        self.0 = self.0 << 8 | shift << 6 | offset as u64;
        if free { Ok(()) } else { Err(Left::TooLong) }
    }

    /// Makes the stub of another site of a copied one.
    pub(super) fn correct(self, stub: &mut [u8; STUB_SIZE], shift: &Shift) -> Result<(), Left> {
        let mut rest = self.0;
        while rest != 0 {
            let (offset, by) = ((rest & 0x3f) as usize, shift.0[(rest >> 6 & 3) as usize]);
            let field = stub.get_mut(offset..).and_then(<[u8]>::first_chunk_mut).ok_or(Left::TooLong)?;
            let value = i64::from(i32::from_le_bytes(*field)).wrapping_add(by.cast_signed());
            *field = i32::try_from(value).map_err(|_| Left::OutOfReach)?.to_le_bytes();
            rest >>= 8;
        }
        Ok(())
    }
}
