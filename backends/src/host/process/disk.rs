//! Disks of the guest: files, or block devices, of the Linux below, raw.
//!
//! What the guest reads and writes goes between its memory and the file by one system call a piece,
//! and what it flushes is on the disk below when it is told so (`fdatasync`). What Linux refuses,
//! as when its own disk is full, is an I/O error of the guest's, of which the log has the reason.
//!
//! A disk whose writes are forgotten is a private mapping of the file: Linux keeps what differs.
//! The wedge does not access it, for it would get a signal where the file cannot be read. It has
//! Linux move data between the mapping and the file that the guest's memory is, by the same system
//! calls.
//!
//! The files are opened when there is the first process for programs, which therefore has none of
//! them. They are locked, for two systems that write to one disk destroy it.

use core::fmt;

use linux_raw_sys::errno::EAGAIN;
use linux_raw_sys::general as raw;
use wedge::platform::virtio::{Block, Fault, GuestMemory, IoError, MOST_DISKS, Piece, SECTOR};

use super::arguments::{DiskFile, DiskFiles, Name, Writes};
use super::memory::{Memory, OWN, SNAPSHOT_LENGTH, SNAPSHOTS, pointer};
use super::names::Path;
use super::system::{Errno, File, map_copy};
use crate::host::seen::Seen;
use crate::runtime::say;

/// Why a disk is refused.
#[derive(Debug)]
pub(super) struct Refused {
    name: Name<'static>,
    why: Why,
}

#[derive(Clone, Copy, Debug)]
enum Why {
    Linux(Errno),
    /// Neither a file nor a block device.
    Kind,
    InUse,
    Empty,
    /// It has so many bytes.
    Length(u64),
    /// It has more than can be mapped.
    Long(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--disk {}: ", self.name)?;
        match self.why {
            Why::Linux(error) => write!(f, "cannot be opened, {error}"),
            Why::Kind => write!(f, "neither a file nor a block device"),
            Why::InUse => write!(f, "another process has locked it, as a guest whose disk it is does"),
            Why::Empty => write!(f, "has no bytes; `truncate --size` gives it some"),
            Why::Length(length) => write!(f, "has {length} bytes, which is no multiple of {SECTOR}"),
            Why::Long(length) => write!(f, "has {length} bytes; for a snapshot, {SNAPSHOT_LENGTH} are the most"),
        }
    }
}

/// A disk.
#[derive(Debug)]
pub(super) struct Disk {
    name: Name<'static>,
    file: File,
    sectors: u64,
    read_only: bool,
    /// Where it is mapped, if what is written to it is forgotten.
    mapped: Option<u64>,
    memory: Memory,
    /// The log has been told that Linux refuses something.
    told: bool,
}

/// The way of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    FromDisk,
    ToDisk,
}

const _: () = assert!(SNAPSHOTS + MOST_DISKS as u64 * SNAPSHOT_LENGTH <= OWN.end);

/// All disks of a guest.
pub(super) type Disks = [Option<Disk>; MOST_DISKS];

/// Opens them.
pub(super) fn open(given: &DiskFiles<'static>, memory: Memory) -> Result<Disks, Refused> {
    let mut disks = [const { None }; MOST_DISKS];
    let mappings = (SNAPSHOTS..OWN.end).step_by(SNAPSHOT_LENGTH as usize);
    for ((place, given), mapping) in disks.iter_mut().zip(given.iter().flatten()).zip(mappings) {
        *place = Some(Disk::open(given, memory, mapping).map_err(|why| Refused { name: given.name, why })?);
    }
    Ok(disks)
}

impl Disk {
    fn open(given: &DiskFile<'static>, memory: Memory, mapping: u64) -> Result<Self, Why> {
        let DiskFile { name, writes } = *given;
        let may_write = writes == Writes::Kept;
        let file = File::open_at_once(Path::new(name).text(), !may_write).map_err(Why::Linux)?;
        let mode = file.mode().map_err(Why::Linux)?;
        if ![raw::S_IFREG, raw::S_IFBLK].contains(&(mode & raw::S_IFMT)) {
            return Err(Why::Kind);
        }
        // A file system that has no locks is no reason not to use it.
        if file.lock(may_write) == Err(Errno(EAGAIN)) {
            return Err(Why::InUse);
        }
        let length = file.length().map_err(Why::Linux)?;
        if length == 0 {
            return Err(Why::Empty);
        }
        if !length.is_multiple_of(SECTOR) {
            return Err(Why::Length(length));
        }
        let mapped = (writes == Writes::Forgotten).then_some(mapping);
        if let Some(mapping) = mapped {
            if length > SNAPSHOT_LENGTH {
                return Err(Why::Long(length));
            }
            // SAFETY: nothing is there.
            unsafe { map_copy(mapping, length, file) }.map_err(Why::Linux)?;
        }
        let read_only = writes == Writes::Refused;
        Ok(Self { name, file, sectors: length / SECTOR, read_only, mapped, memory, told: false })
    }

    /// Moves a piece from a byte of the disk on, or to there. A system call may move less than it
    /// is told.
    fn transfer(&mut self, at: u64, piece: Piece, way: Way) -> Result<(), IoError> {
        let length = u64::from(piece.length);
        let place = self.memory.range(piece.address, length).ok_or(IoError)?;
        // What is in a file, for the call, and what is in memory: of a mapped disk, the other way
        // round.
        let (file, offset, place, reads) = match self.mapped {
            None => (self.file, at, place, way == Way::FromDisk),
            Some(mapping) => (self.memory.file(), piece.address, pointer(mapping + at), way == Way::ToDisk),
        };
        let what = if way == Way::FromDisk { "read it" } else { "write it" };
        let mut done = 0;
        while done < length {
            let (place, offset, rest) = (place.wrapping_add(done as usize), offset + done, length - done);
            let moved = if reads {
                // SAFETY: the guest's memory, or the mapping of a disk; neither is a Rust object.
                unsafe { file.read_at(place, offset, rest) }
            } else {
                file.write_at(place, offset, rest)
            };
            match moved {
                Ok(0) => return Err(self.tell(what, None)),
                Ok(moved) => done += moved,
                Err(error) => return Err(self.tell(what, Some(error))),
            }
        }
        Ok(())
    }

    /// Tells the log that Linux has refused something, the first time.
    fn tell(&mut self, what: &str, error: Option<Errno>) -> IoError {
        if !core::mem::replace(&mut self.told, true) {
            if let Some(error) = error {
                say!("--disk {}: Linux refuses to {what}, {error}", self.name);
            } else {
                say!("--disk {}: it has become shorter", self.name);
            }
        }
        IoError
    }
}

impl GuestMemory for Disk {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.load_all(address, bytes)
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.memory.store_all(address, bytes)
    }
}

impl Block for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, at: u64, into: Piece) -> Result<(), IoError> {
        self.transfer(at, into, Way::FromDisk)
    }

    fn write(&mut self, at: u64, from: Piece) -> Result<(), IoError> {
        self.transfer(at, from, Way::ToDisk)
    }

    fn flush(&mut self) -> Result<(), IoError> {
        if self.mapped.is_some() {
            return Ok(());
        }
        self.file.flush().map_err(|error| self.tell("flush it", Some(error)))
    }

    fn broken(&mut self, fault: Fault) {
        say!("--disk {}: the guest's driver breaks virtio's rules: {fault}", self.name);
    }
}
