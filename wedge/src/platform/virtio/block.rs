//! What a virtio block device does with a request (virtio 1.1, section 5.2).
//!
//! A request is a header of 16 bytes, data, and a status of one byte. How they lie in the pieces of
//! a chain is the driver's business: what the device reads is taken as one text, and what it writes
//! as another.

use super::function::{Device, Kind, REGISTERS, Served};
use super::queue::{Chain, Fault, Piece, Queue, length, part, read};
use super::{Block, IoError};

/// Bytes of a sector, whatever the host's disk has.
pub const SECTOR: u64 = 512;

/// Features: how many pieces a request may have; it cannot be written; it can be flushed.
const SEG_MAX: u32 = 1 << 2;
const READ_ONLY: u32 = 1 << 5;
const FLUSH: u32 = 1 << 9;

/// Kinds of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_DISK: u32 = 4;
const GET_ID: u32 = 8;

/// What becomes of one.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

const HEADER: usize = 16;
const ID: usize = 20;

/// A legacy block device, in the class of mass storage.
pub(super) const KIND: Kind = Kind { identity: 0x1001_1af4, class: 0x0100_0000, subsystem: 0x0002_1af4 };

/// A disk.
#[derive(Debug)]
pub(super) struct Disk<'a, B> {
    pub(super) disk: &'a mut B,
    /// Which of the disks it is: one digit.
    pub(super) number: u8,
}

impl<B: Block> Device<1> for Disk<'_, B> {
    fn features(&self) -> u32 {
        SEG_MAX | FLUSH | if self.disk.is_read_only() { READ_ONLY } else { 0 }
    }

    /// Capacity, the longest piece, most pieces. A request has a descriptor for its header and one
    /// for its status beside those of its data.
    fn registers(&self) -> [u8; REGISTERS] {
        const MOST_PIECES: u32 = super::queue::SIZE as u32 - 2;
        let mut bytes = [0; REGISTERS];
        bytes[..8].copy_from_slice(&self.disk.sectors().to_le_bytes());
        bytes[12..].copy_from_slice(&MOST_PIECES.to_le_bytes());
        bytes
    }

    fn serve(&mut self, [queue]: &mut [Queue; 1], features: u32) -> Served {
        let (number, flushes) = (self.number, features & FLUSH != 0);
        let served = queue.serve(self.disk, |_| true, |chain, disk| execute(chain, disk, number, flushes));
        let queue = served.unwrap_or_else(|fault| {
            self.disk.broken(fault);
            false
        });
        Served { queue, configuration: false }
    }
}

/// Executes a request. A driver that does not know of flushing must find everything flushed. How
/// many bytes were written, from the start of what the device writes.
fn execute(chain: &Chain, disk: &mut impl Block, number: u8, flushes: bool) -> Result<u32, Fault> {
    let mut header = [0; HEADER];
    if !read(chain.readable(), 0, &mut header, disk) {
        return Err(Fault::Header);
    }
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
    let place = length(chain.writable()).checked_sub(1).ok_or(Fault::Status)?;
    let request = Request {
        sector: u64::from_le_bytes(sector),
        from: (chain.readable(), HEADER as u64..length(chain.readable())),
        to: (chain.writable(), 0..place),
    };
    let (done, status) = match u32::from_le_bytes([k0, k1, k2, k3]) {
        IN => request.read(disk),
        OUT => request.write(disk, flushes),
        FLUSH_DISK => (0, status(disk.flush())),
        GET_ID => request.identify(disk, number),
        _ => (0, UNSUPPORTED),
    };
    for piece in part(chain.writable(), place..place + 1) {
        if !disk.store(piece.address, &[status]) {
            return Err(Fault::Status);
        }
    }
    // The status counts if nothing before it was left out.
    Ok(u32::try_from(done + u64::from(done == place)).unwrap_or(u32::MAX))
}

const fn status(result: Result<(), IoError>) -> u8 {
    if result.is_ok() { DONE } else { FAILED }
}

/// A request, without its header and status.
struct Request<'a> {
    sector: u64,
    /// The data that goes to the disk,
    from: (&'a [Piece], core::ops::Range<u64>),
    /// and that comes from it.
    to: (&'a [Piece], core::ops::Range<u64>),
}

impl Request<'_> {
    /// Where data of this length lies on the disk, if it does.
    fn place(&self, length: u64, disk: &impl Block) -> Result<u64, IoError> {
        let end = self.sector.checked_add(length / SECTOR).filter(|end| *end <= disk.sectors());
        let place = end.and_then(|_| self.sector.checked_mul(SECTOR));
        place.filter(|_| length.is_multiple_of(SECTOR)).ok_or(IoError)
    }

    /// Reads from the disk. How many bytes, and what became of it.
    fn read(&self, disk: &mut impl Block) -> (u64, u8) {
        let (pieces, range) = &self.to;
        let Ok(place) = self.place(range.end, disk) else { return (0, FAILED) };
        let mut done = 0;
        for piece in part(pieces, range.clone()) {
            if disk.read(place + done, piece).is_err() {
                return (done, FAILED);
            }
            done += u64::from(piece.length);
        }
        (done, DONE)
    }

    /// Writes to the disk.
    fn write(&self, disk: &mut impl Block, flushes: bool) -> (u64, u8) {
        let (pieces, range) = &self.from;
        let mut write = || {
            if disk.is_read_only() {
                return Err(IoError);
            }
            let mut place = self.place(range.end - range.start, disk)?;
            for piece in part(pieces, range.clone()) {
                disk.write(place, piece)?;
                place += u64::from(piece.length);
            }
            if flushes { Ok(()) } else { disk.flush() }
        };
        (0, status(write()))
    }

    /// Says which disk it is.
    fn identify(&self, disk: &mut impl Block, number: u8) -> (u64, u8) {
        let mut name = *b"afterburner-0\0\0\0\0\0\0\0";
        name[12] += number;
        let (pieces, range) = &self.to;
        let mut rest = name.as_slice();
        for piece in part(pieces, 0..range.end.min(ID as u64)) {
            let (bytes, behind) = rest.split_at(piece.length as usize);
            if !disk.store(piece.address, bytes) {
                return (0, FAILED);
            }
            rest = behind;
        }
        ((ID - rest.len()) as u64, DONE)
    }
}
