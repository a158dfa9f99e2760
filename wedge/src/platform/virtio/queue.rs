//! A split virtqueue (virtio 1.1, section 2.6; "Legacy Interfaces: A Note on Virtqueue Layout").
//!
//! The queue is three tables in the guest's memory: descriptors, each a piece of memory and the
//! number of the next; the *available* ring, in which the driver puts the first descriptor of each
//! chain; and the *used* ring, in which the device gives it back. The driver says in which page the
//! first begins, and the others follow.
//!
//! All of it is an allegation: indices may be out of range, chains may have no end, addresses may
//! be of no memory, and what the device writes for one request may change the tables themselves. So
//! a chain is read once, whole and into the device's own memory, before anything is done with it;
//! it has no more pieces than there are descriptors; and how many chains there are is asked once a
//! notification. Therefore every notification ends. A driver that breaks the rules gets no answer,
//! and nothing more until it resets the device, for who knows what it believes.

use core::fmt;
use core::ops::Range;

use super::GuestMemory;
use crate::x86::paging::PAGE;

/// Descriptors of a queue. Linux takes what it is told.
pub(super) const SIZE: u16 = 256;

/// So many pieces a request has at most.
pub const MOST_PIECES: usize = SIZE as usize;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;

/// Where the two rings are, from the page on that the driver names.
const AVAILABLE: u64 = (DESCRIPTOR * SIZE as usize) as u64;
const USED: u64 = (AVAILABLE + 6 + 2 * SIZE as u64).next_multiple_of(PAGE);

/// Flags of a descriptor: there is a next; the device writes here; here are descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The flag of the available ring by which the driver asks for no interrupt.
const NO_INTERRUPT: u16 = 1;

/// How a driver has broken the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The tables are not in memory.
    Tables,
    /// There are more chains than descriptors.
    Available,
    /// There is no descriptor of this number.
    Descriptor(u16),
    /// A chain has more pieces than there are descriptors.
    Endless,
    /// A table of descriptors, which was not offered.
    Indirect,
    /// A piece for the device to read, behind one for it to write.
    Order,
    /// A piece goes on beyond the last address.
    Address(u64),
    /// The header of a request is cut short, or not in memory.
    Header,
    /// There is no memory for the status of a request.
    Status,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tables => write!(f, "the queue is not in memory"),
            Self::Available => write!(f, "there are more requests in the queue than it has room for"),
            Self::Descriptor(number) => write!(f, "there is no descriptor {number}"),
            Self::Endless => write!(f, "a chain of descriptors has no end"),
            Self::Indirect => write!(f, "a descriptor is of a kind that was not offered"),
            Self::Order => write!(f, "a request goes on behind the place for its answer"),
            Self::Address(address) => write!(f, "a descriptor of {address:#x} goes on beyond the last address"),
            Self::Header => write!(f, "a request has no header"),
            Self::Status => write!(f, "a request has no place for its status"),
        }
    }
}

/// A piece of the guest's memory, by its guest-physical address. Whether there is such memory is
/// for [`GuestMemory`] to say; its end can be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
}

/// The pieces of a request, in their order.
#[derive(Debug)]
pub(super) struct Chain {
    /// The number of its first descriptor.
    head: u16,
    pieces: [Piece; SIZE as usize],
    /// How many the device reads,
    readable: usize,
    /// and how many there are.
    count: usize,
}

impl Chain {
    /// What the device reads.
    pub(super) fn readable(&self) -> &[Piece] {
        &self.pieces[..self.readable]
    }

    /// What the device writes.
    pub(super) fn writable(&self) -> &[Piece] {
        &self.pieces[self.readable..self.count]
    }
}

/// The bytes of pieces, taken together.
pub(super) fn length(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.length)).sum()
}

/// Some of the bytes of pieces, taken together.
pub(super) fn part(pieces: &[Piece], range: Range<u64>) -> impl Iterator<Item = Piece> {
    let mut end = 0;
    pieces.iter().filter_map(move |piece| {
        let start = end;
        end += u64::from(piece.length);
        let (from, to) = (range.start.max(start), range.end.min(end));
        let length = u32::try_from(to.checked_sub(from)?).ok().filter(|length| *length > 0)?;
        Some(Piece { address: piece.address + (from - start), length })
    })
}

/// Reads bytes of pieces, from one on. Whether all are there, and in memory.
pub(super) fn read(pieces: &[Piece], from: u64, bytes: &mut [u8], memory: &impl GuestMemory) -> bool {
    let end = from + bytes.len() as u64;
    let mut rest = bytes;
    for piece in part(pieces, from..end) {
        let (now, behind) = rest.split_at_mut(piece.length as usize);
        if !memory.load(piece.address, now) {
            return false;
        }
        rest = behind;
    }
    rest.is_empty()
}

/// Writes bytes to the start of pieces. Whether there is room for all, in memory.
pub(super) fn write(pieces: &[Piece], bytes: &[u8], memory: &mut impl GuestMemory) -> bool {
    let mut rest = bytes;
    for piece in part(pieces, 0..bytes.len() as u64) {
        let (now, behind) = rest.split_at(piece.length as usize);
        if !memory.store(piece.address, now) {
            return false;
        }
        rest = behind;
    }
    rest.is_empty()
}

/// A queue, as the device knows it.
#[derive(Debug)]
pub(super) struct Queue {
    /// The number of the page in which it begins; 0 while there is none.
    page: u32,
    /// How many chains were taken, and given back, modulo 65536.
    taken: u16,
    given_back: u16,
    /// The driver has broken the rules.
    broken: bool,
}

impl Queue {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self { page: 0, taken: 0, given_back: 0, broken: false }
    }

    /// The driver says where the queue is: a new one.
    pub(super) fn place(&mut self, page: u32) {
        *self = Self { page, ..Self::new() };
    }

    /// Where it is.
    pub(super) const fn page(&self) -> u32 {
        self.page
    }

    /// Executes all requests that there are, as long as the host is ready for one more. `execute`
    /// says how many bytes it has written into a chain. Whether the driver is to be interrupted.
    ///
    /// # Errors
    ///
    /// When the driver breaks the rules, now; it is told once.
    pub(super) fn serve<M: GuestMemory>(
        &mut self,
        memory: &mut M,
        mut is_ready: impl FnMut(&mut M) -> bool,
        mut execute: impl FnMut(&Chain, &mut M) -> Result<u32, Fault>,
    ) -> Result<bool, Fault> {
        if self.page == 0 || self.broken {
            return Ok(false);
        }
        let before = self.given_back;
        let mut serve_all = || {
            for _ in 0..self.waiting(memory)? {
                if !is_ready(memory) {
                    break;
                }
                let chain = self.take(memory)?;
                let written = execute(&chain, memory)?;
                self.give_back(chain.head, written, memory)?;
            }
            self.word(AVAILABLE, memory)
        };
        let flags = serve_all().inspect_err(|_| self.broken = true)?;
        Ok(self.given_back != before && flags & NO_INTERRUPT == 0)
    }

    /// Whether there is a chain to be taken.
    pub(super) fn has_chain(&self, memory: &impl GuestMemory) -> bool {
        self.page != 0 && !self.broken && self.waiting(memory).is_ok_and(|waiting| waiting > 0)
    }

    /// How many chains there are to be taken.
    fn waiting(&self, memory: &impl GuestMemory) -> Result<u16, Fault> {
        let waiting = self.word(AVAILABLE + 2, memory)?.wrapping_sub(self.taken);
        if waiting <= SIZE { Ok(waiting) } else { Err(Fault::Available) }
    }

    /// Takes the next chain.
    fn take(&mut self, memory: &impl GuestMemory) -> Result<Chain, Fault> {
        let head = self.word(AVAILABLE + 4 + 2 * u64::from(self.taken % SIZE), memory)?;
        let mut chain = Chain { head, pieces: [Piece::default(); _], readable: 0, count: 0 };
        let mut next = Some(head);
        while let Some(number) = next {
            let (piece, flags, following) = self.descriptor(number, memory)?;
            let writable = flags & WRITE != 0;
            if flags & INDIRECT != 0 {
                return Err(Fault::Indirect);
            }
            if !writable && chain.count > chain.readable {
                return Err(Fault::Order);
            }
            *chain.pieces.get_mut(chain.count).ok_or(Fault::Endless)? = piece;
            chain.count += 1;
            chain.readable += usize::from(!writable);
            next = (flags & NEXT != 0).then_some(following);
        }
        self.taken = self.taken.wrapping_add(1);
        Ok(chain)
    }

    /// A descriptor: its piece, its flags, and the number of the next.
    fn descriptor(&self, number: u16, memory: &impl GuestMemory) -> Result<(Piece, u16, u16), Fault> {
        if number >= SIZE {
            return Err(Fault::Descriptor(number));
        }
        let mut bytes = [0; DESCRIPTOR];
        self.load(DESCRIPTOR as u64 * u64::from(number), &mut bytes, memory)?;
        let [address @ .., l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        let address = u64::from_le_bytes(address);
        let piece = Piece { address, length: u32::from_le_bytes([l0, l1, l2, l3]) };
        if address.checked_add(piece.length.into()).is_none() {
            return Err(Fault::Address(address));
        }
        Ok((piece, u16::from_le_bytes([f0, f1]), u16::from_le_bytes([n0, n1])))
    }

    /// Gives a chain back.
    fn give_back(&mut self, head: u16, written: u32, memory: &mut impl GuestMemory) -> Result<(), Fault> {
        let place = USED + 4 + 8 * u64::from(self.given_back % SIZE);
        let entry = u64::from(head) | u64::from(written) << 32;
        self.store(place, &entry.to_le_bytes(), memory)?;
        self.given_back = self.given_back.wrapping_add(1);
        self.store(USED + 2, &self.given_back.to_le_bytes(), memory)
    }

    fn word(&self, offset: u64, memory: &impl GuestMemory) -> Result<u16, Fault> {
        let mut bytes = [0; 2];
        self.load(offset, &mut bytes, memory)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn load(&self, offset: u64, bytes: &mut [u8], memory: &impl GuestMemory) -> Result<(), Fault> {
        if memory.load(self.start() + offset, bytes) { Ok(()) } else { Err(Fault::Tables) }
    }

    fn store(&self, offset: u64, bytes: &[u8], memory: &mut impl GuestMemory) -> Result<(), Fault> {
        if memory.store(self.start() + offset, bytes) { Ok(()) } else { Err(Fault::Tables) }
    }

    fn start(&self) -> u64 {
        u64::from(self.page) * PAGE
    }
}
