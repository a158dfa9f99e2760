//! What becomes of a message.

use super::super::queue::{length, part, read, write};
use super::super::{GuestMemory, Piece};
use super::message::{Qid, Reader, Writer};
use super::{Answer, Changes, Errno, Files, LONGEST_TARGET, NewTime, Open, Time};

/// Kinds of messages. That of an answer is one more.
mod kind {
    pub(super) const ERROR: u8 = 6;
    pub(super) const STATFS: u8 = 8;
    pub(super) const OPEN: u8 = 12;
    pub(super) const CREATE: u8 = 14;
    pub(super) const SYMLINK: u8 = 16;
    pub(super) const MKNOD: u8 = 18;
    pub(super) const RENAME: u8 = 20;
    pub(super) const READLINK: u8 = 22;
    pub(super) const GETATTR: u8 = 24;
    pub(super) const SETATTR: u8 = 26;
    pub(super) const XATTRCREATE: u8 = 32;
    pub(super) const READDIR: u8 = 40;
    pub(super) const FSYNC: u8 = 50;
    pub(super) const LOCK: u8 = 52;
    pub(super) const GETLOCK: u8 = 54;
    pub(super) const LINK: u8 = 70;
    pub(super) const MKDIR: u8 = 72;
    pub(super) const RENAMEAT: u8 = 74;
    pub(super) const UNLINKAT: u8 = 76;
    pub(super) const VERSION: u8 = 100;
    pub(super) const ATTACH: u8 = 104;
    pub(super) const FLUSH: u8 = 108;
    pub(super) const WALK: u8 = 110;
    pub(super) const READ: u8 = 116;
    pub(super) const WRITE: u8 = 118;
    pub(super) const CLUNK: u8 = 120;
    pub(super) const REMOVE: u8 = 122;
}

/// The dialect that is spoken, and what is said of any other.
const VERSION: &[u8] = b"9P2000.L";
const UNKNOWN: &[u8] = b"unknown";

/// In front of each message: its length, its kind, and the tag that the answer has, too.
const HEADER: usize = 7;

/// In front of data that are read: how many. In front of data to be written: fid, offset, how many.
const READ_DATA: u64 = HEADER as u64 + 4;
const WRITE_DATA: u64 = HEADER as u64 + 16;

/// Bytes of a message and of an answer, without such data. The longest message makes a symbolic
/// link, and an answer that lists a directory may be cut anywhere.
const MESSAGE: usize = 5120;
const ANSWER: usize = 16384;

/// The most that a message may have with its data, and the least that it must be able to.
const MOST: u32 = 1 << 20;
const LEAST: u32 = 4096;

/// Names in a walk (`P9_MAXWELEM`).
const MOST_NAMES: u16 = 16;

/// What a fid is of. Zeros are a fid of nothing, so that a host can have a table from its system.
#[derive(Debug, Default)]
#[repr(u8)]
pub enum Fid<H> {
    /// Of nothing.
    #[default]
    Unused = 0,
    /// Of a file that was found.
    Found(H),
    /// Of one that is open.
    Open(H),
}

/// A server for one guest.
#[derive(Debug)]
pub struct Server<'a, H> {
    fids: &'a mut [Fid<H>],
    read_only: bool,
    /// Bytes of the longest message.
    longest: u32,
}

/// Answers a message with an error. How many bytes.
pub fn refuse(request: &[Piece], reply: &[Piece], error: Errno, memory: &mut impl GuestMemory) -> u32 {
    let mut header = [0; HEADER];
    if !read(request, 0, &mut header, memory) {
        return 0;
    }
    let [.., t0, t1] = header;
    let mut bytes = [0; HEADER + 4];
    let mut answer = Writer::new(&mut bytes);
    let _ = begin(&mut answer, kind::ERROR, [t0, t1]).and_then(|()| answer.number(error.0));
    finish(answer, 0, reply, memory)
}

/// Writes the header of an answer to this kind of message.
fn begin(answer: &mut Writer<'_>, kind: u8, tag: [u8; 2]) -> Answer {
    answer.number(0)?;
    answer.byte(kind.wrapping_add(1))?;
    answer.short(u16::from_le_bytes(tag))
}

/// Hands over an answer, behind which so many bytes are already there. How many bytes it has; none
/// if the guest has no room for it.
fn finish(mut answer: Writer<'_>, behind: u64, reply: &[Piece], memory: &mut impl GuestMemory) -> u32 {
    let all = u32::try_from(answer.bytes().len() as u64 + behind).unwrap_or(0);
    answer.correct(0, all);
    if write(reply, answer.bytes(), memory) { all } else { 0 }
}

impl<'a, H> Server<'a, H> {
    /// A server with room for so many fids, which are unused. If it is read-only, the guest cannot
    /// change anything.
    pub fn new(fids: &'a mut [Fid<H>], read_only: bool) -> Self {
        Self { fids, read_only, longest: MOST }
    }

    /// Answers a message: what the guest has written, and where the answer goes. How many bytes
    /// that has; none if there is no message, or no room for the answer.
    pub fn answer<F: Files<Handle = H>>(&mut self, request: &[Piece], reply: &[Piece], files: &mut F) -> u32 {
        let mut bytes = [0; MESSAGE];
        let there = length(request).min(MESSAGE as u64);
        #[expect(clippy::cast_possible_truncation, reason = "less than there is room for")]
        let bytes = &mut bytes[..there as usize];
        if !read(request, 0, bytes, files) {
            return 0;
        }
        let Some(([s0, s1, s2, s3, kind, t0, t1], _)) = bytes.split_first_chunk::<HEADER>() else { return 0 };
        let (kind, tag) = (*kind, [*t0, *t1]);
        let size = u32::from_le_bytes([*s0, *s1, *s2, *s3]);
        let mut room = [0; ANSWER];
        let mut answer = Writer::new(&mut room);
        let message = Message { request, reply, size: size.into() };
        let done = begin(&mut answer, kind, tag).and_then(|()| {
            let body = bytes.get(HEADER..(size as usize).min(bytes.len())).ok_or(Errno::INVALID)?;
            if u64::from(size) > length(request) {
                return Err(Errno::INVALID);
            }
            self.execute(kind, &message, Reader(body), &mut answer, files)
        });
        match done {
            Ok(behind) if answer.bytes().len() as u64 + behind <= length(reply) => finish(answer, behind, reply, files),
            Ok(_) => refuse(request, reply, Errno::INVALID, files),
            Err(error) => refuse(request, reply, error, files),
        }
    }

    /// Executes a message. How many bytes of data have been put behind the place for the answer.
    fn execute<F: Files<Handle = H>>(
        &mut self,
        kind: u8,
        message: &Message<'_>,
        mut body: Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer<u64> {
        let body = &mut body;
        if self.read_only && changes(kind) {
            return Err(Errno::READ_ONLY);
        }
        match kind {
            kind::VERSION => self.version(body, answer, files)?,
            kind::ATTACH => self.attach(body, answer, files)?,
            kind::WALK => self.walk(body, answer, files)?,
            kind::CLUNK => self.forget(body.number()?, files)?,
            // The guest takes a name away by `UNLINKAT`, and the fid has none; but it is gone.
            kind::REMOVE => {
                self.forget(body.number()?, files)?;
                return Err(Errno::UNSUPPORTED);
            }
            // Whatever it is about has been done.
            kind::FLUSH => {}
            kind::OPEN => self.open(body, answer, files)?,
            kind::CREATE => self.create(body, answer, files)?,
            kind::READ => return self.read(message, body, answer, files),
            kind::WRITE => self.write(message, body, answer, files)?,
            kind::FSYNC => files.flush(self.opened(body.number()?)?, body.number().unwrap_or(0) != 0)?,
            kind::READDIR => self.list(body, answer, files)?,
            kind::GETATTR => self.attributes(body, answer, files)?,
            kind::SETATTR => self.change(body, files)?,
            kind::STATFS => self.space(body, answer, files)?,
            kind::READLINK => {
                let mut target = [0; LONGEST_TARGET];
                let length = files.target(self.found(body.number()?)?, &mut target)?;
                answer.text(target.get(..length).ok_or(Errno::INVALID)?)?;
            }
            kind::MKDIR | kind::SYMLINK | kind::MKNOD => self.make(kind, body, answer, files)?,
            kind::LINK => {
                let (directory, file) = (body.number()?, body.number()?);
                files.link(self.found(file)?, self.found(directory)?, &body.name()?)?;
            }
            kind::RENAMEAT => {
                let (from, old) = (self.found(body.number()?)?, body.name()?);
                let (to, new) = (self.found(body.number()?)?, body.name()?);
                files.rename((from, &old), (to, &new))?;
            }
            kind::UNLINKAT => {
                const DIRECTORY: u32 = 0x200;
                let (directory, name) = (self.found(body.number()?)?, body.name()?);
                files.remove(directory, &name, body.number()? & DIRECTORY != 0)?;
            }
            kind::LOCK => {
                const SUCCESS: u8 = 0;
                self.opened(body.number()?)?;
                answer.byte(SUCCESS)?;
            }
            kind::GETLOCK => self.get_lock(body, answer)?,
            _ => return Err(Errno::UNSUPPORTED),
        }
        Ok(0)
    }

    /// How many fids are of something.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.fids.iter().filter(|fid| !matches!(fid, Fid::Unused)).count()
    }

    fn fid(&self, number: u32) -> Answer<&Fid<H>> {
        self.fids.get(number as usize).ok_or(Errno::BAD_FID)
    }

    /// What a fid is of.
    fn found(&self, number: u32) -> Answer<&H> {
        match self.fid(number)? {
            Fid::Unused => Err(Errno::BAD_FID),
            Fid::Found(file) | Fid::Open(file) => Ok(file),
        }
    }

    /// What it is of, if that is open.
    fn opened(&self, number: u32) -> Answer<&H> {
        match self.fid(number)? {
            Fid::Open(file) => Ok(file),
            _ => Err(Errno::BAD_FID),
        }
    }

    /// What it is of, if that is not open.
    fn not_opened(&self, number: u32) -> Answer<&H> {
        match self.fid(number)? {
            Fid::Found(file) => Ok(file),
            Fid::Open(_) => Err(Errno::INVALID),
            Fid::Unused => Err(Errno::BAD_FID),
        }
    }

    /// Makes a fid one of something else.
    fn set<F: Files<Handle = H>>(&mut self, number: u32, fid: Fid<H>, files: &mut F) {
        let old = self.fids.get_mut(number as usize).map(|place| core::mem::replace(place, fid));
        if let Some(Fid::Found(file) | Fid::Open(file)) = old {
            files.close(file);
        }
    }

    /// Has done with a fid.
    fn forget<F: Files<Handle = H>>(&mut self, number: u32, files: &mut F) -> Answer {
        self.found(number)?;
        self.set(number, Fid::Unused, files);
        Ok(())
    }

    /// Whether a fid may be made one of something, of nothing as yet.
    fn can_be_new(&self, number: u32) -> Answer {
        match self.fids.get(number as usize) {
            Some(Fid::Unused) => Ok(()),
            Some(_) => Err(Errno::BAD_FID),
            None => Err(Errno::TOO_MANY),
        }
    }

    /// A guest begins, or begins anew.
    fn version<F: Files<Handle = H>>(
        &mut self,
        body: &mut Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer {
        let (longest, version) = (body.number()?, body.text()?);
        if longest < LEAST {
            return Err(Errno::INVALID);
        }
        for fid in self.fids.iter_mut().filter(|fid| !matches!(fid, Fid::Unused)) {
            if let Fid::Found(file) | Fid::Open(file) = core::mem::take(fid) {
                files.close(file);
            }
        }
        self.longest = longest.min(MOST);
        answer.number(self.longest)?;
        answer.text(if version == VERSION { VERSION } else { UNKNOWN })
    }

    /// Who the guest's user is does not count: the files are those of the host's user.
    fn attach<F: Files<Handle = H>>(
        &mut self,
        body: &mut Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer {
        let fid = body.number()?;
        let (_, _, name) = (body.number()?, body.text()?, body.text()?);
        self.can_be_new(fid)?;
        if ![b"".as_slice(), b"/"].contains(&name) {
            return Err(Errno::NOT_FOUND);
        }
        let root = files.root()?;
        let attributes = files.attributes(&root);
        self.set(fid, Fid::Found(root), files);
        answer.qid(Qid::of(&attributes?))
    }

    /// Goes from a directory by names to a file, which gets a new fid. If only the first names are
    /// there, the answer has those, and there is no new fid.
    fn walk<F: Files<Handle = H>>(&mut self, body: &mut Reader<'_>, answer: &mut Writer<'_>, files: &mut F) -> Answer {
        let (fid, new, count) = (body.number()?, body.number()?, body.short()?);
        if new != fid {
            self.can_be_new(new)?;
        }
        if count > MOST_NAMES {
            return Err(Errno::INVALID);
        }
        let start = self.found(fid)?;
        let mut here = if count == 0 { Some(files.again(start)?) } else { None };
        let mut qids = [Qid::default(); MOST_NAMES as usize];
        let mut found = 0;
        let mut failed = None;
        for place in qids.iter_mut().take(count.into()) {
            match step(here.as_ref().unwrap_or(start), body, files) {
                Ok((next, qid)) => {
                    if let Some(passed) = here.replace(next) {
                        files.close(passed);
                    }
                    *place = qid;
                    found += 1;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        match here {
            Some(here) if found == count => self.set(new, Fid::Found(here), files),
            Some(here) => files.close(here),
            None => {}
        }
        if let Some(error) = failed.filter(|_| found == 0) {
            return Err(error);
        }
        answer.short(found)?;
        qids.iter().take(found.into()).try_for_each(|qid| answer.qid(*qid))
    }

    fn open<F: Files<Handle = H>>(&mut self, body: &mut Reader<'_>, answer: &mut Writer<'_>, files: &mut F) -> Answer {
        let (fid, how) = (body.number()?, Open::told(body.number()?));
        if self.read_only && how.changes() {
            return Err(Errno::READ_ONLY);
        }
        let open = files.open(self.not_opened(fid)?, how)?;
        self.opened_as(fid, open, answer, files)
    }

    fn create<F: Files<Handle = H>>(
        &mut self,
        body: &mut Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer {
        let (fid, name) = (body.number()?, body.name()?);
        let (how, permissions) = (Open::told(body.number()?), body.number()?);
        let open = files.create(self.not_opened(fid)?, &name, how, permissions)?;
        self.opened_as(fid, open, answer, files)
    }

    /// A fid is of an open file from now on.
    fn opened_as<F: Files<Handle = H>>(&mut self, fid: u32, open: H, answer: &mut Writer<'_>, files: &mut F) -> Answer {
        const ANY_LENGTH: u32 = 0;
        let attributes = files.attributes(&open);
        self.set(fid, Fid::Open(open), files);
        answer.qid(Qid::of(&attributes?))?;
        answer.number(ANY_LENGTH)
    }

    /// Reads data into the guest's memory.
    fn read<F: Files<Handle = H>>(
        &self,
        message: &Message<'_>,
        body: &mut Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer<u64> {
        let (file, at, count) = (self.opened(body.number()?)?, body.long()?, body.number()?);
        let room = length(message.reply).min(self.longest.into()).saturating_sub(READ_DATA);
        let end = READ_DATA + u64::from(count).min(room);
        let pieces = part(message.reply, READ_DATA..end);
        let done = transfer(pieces, at, |at, piece| files.read(file, at, piece))?;
        answer.number(done)?;
        Ok(done.into())
    }

    /// Writes data from the guest's memory.
    fn write<F: Files<Handle = H>>(
        &self,
        message: &Message<'_>,
        body: &mut Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer {
        let (file, at, count) = (self.opened(body.number()?)?, body.long()?, body.number()?);
        let end = WRITE_DATA + u64::from(count);
        if end > message.size {
            return Err(Errno::INVALID);
        }
        let pieces = part(message.request, WRITE_DATA..end);
        answer.number(transfer(pieces, at, |at, piece| files.write(file, at, piece))?)
    }

    /// Lists a directory, as much of it as there is room for.
    fn list<F: Files<Handle = H>>(&self, body: &mut Reader<'_>, answer: &mut Writer<'_>, files: &mut F) -> Answer {
        /// Bytes of an entry, without its name.
        const ENTRY: usize = 13 + 8 + 1 + 2;
        let (directory, from, count) = (self.opened(body.number()?)?, body.long()?, body.number()?);
        let most = (count.min(self.longest) as usize).min(answer.room() - 4);
        answer.number(0)?;
        let (mut left, mut is_short) = (most, false);
        files.list(directory, from, most, &mut |entry| {
            let Some(rest) = left.checked_sub(ENTRY + entry.name.len()) else {
                is_short = true;
                return false;
            };
            let put = answer
                .qid(Qid::of_entry(entry.number, entry.kind))
                .and_then(|()| answer.long(entry.next))
                .and_then(|()| answer.byte(entry.kind))
                .and_then(|()| answer.text(entry.name));
            left = rest;
            put.is_ok()
        })?;
        // No entry would mean that there are no more.
        if is_short && left == most {
            return Err(Errno::INVALID);
        }
        answer.correct(HEADER, u32::try_from(most - left).unwrap_or(0));
        Ok(())
    }

    fn attributes<F: Files<Handle = H>>(&self, body: &mut Reader<'_>, answer: &mut Writer<'_>, files: &F) -> Answer {
        /// All but the time of birth, the generation and the version of data (`P9_STATS_BASIC`).
        const BASIC: u64 = 0x7ff;
        let file = files.attributes(self.found(body.number()?)?)?;
        answer.long(BASIC)?;
        answer.qid(Qid::of(&file))?;
        [file.mode, file.owner, file.group].into_iter().try_for_each(|value| answer.number(value))?;
        let numbers = [file.links, file.device, file.size, file.block_size, file.blocks];
        let times = [file.accessed, file.modified, file.changed, Time::default()];
        let times = times.iter().flat_map(|time| [time.seconds, time.nanoseconds]);
        numbers.into_iter().chain(times).chain([0, 0]).try_for_each(|value| answer.long(value))
    }

    fn change<F: Files<Handle = H>>(&self, body: &mut Reader<'_>, files: &mut F) -> Answer {
        let (file, valid) = (self.found(body.number()?)?, body.number()?);
        let has = |bit: u32| valid & 1 << bit != 0;
        let [permissions, owner, group] = [body.number()?, body.number()?, body.number()?];
        let size = body.long()?;
        let mut moment = || Ok(Time { seconds: body.long()?, nanoseconds: body.long()? });
        let (accessed, modified) = (moment()?, moment()?);
        let time = |bit, set, time| has(bit).then_some(if has(set) { NewTime::At(time) } else { NewTime::Now });
        let changes = Changes {
            permissions: has(0).then_some(permissions),
            owner: has(1).then_some(owner),
            group: has(2).then_some(group),
            size: has(3).then_some(size),
            accessed: time(4, 7, accessed),
            modified: time(5, 8, modified),
        };
        files.change(file, &changes)
    }

    fn space<F: Files<Handle = H>>(&self, body: &mut Reader<'_>, answer: &mut Writer<'_>, files: &F) -> Answer {
        let space = files.space(self.found(body.number()?)?)?;
        answer.number(space.kind)?;
        answer.number(space.block_size)?;
        let numbers = [space.blocks, space.free, space.available, space.files, space.free_files, space.number];
        numbers.into_iter().try_for_each(|value| answer.long(value))?;
        answer.number(space.longest_name)
    }

    /// Makes what is no plain file.
    fn make<F: Files<Handle = H>>(
        &self,
        kind: u8,
        body: &mut Reader<'_>,
        answer: &mut Writer<'_>,
        files: &mut F,
    ) -> Answer {
        let (directory, name) = (self.found(body.number()?)?, body.name()?);
        match kind {
            kind::MKDIR => files.make_directory(directory, &name, body.number()?)?,
            kind::SYMLINK => {
                let mut target = [0; LONGEST_TARGET];
                let text = body.text()?;
                target[..LONGEST_TARGET - 1].get_mut(..text.len()).ok_or(Errno::LONG_NAME)?.copy_from_slice(text);
                let target = core::ffi::CStr::from_bytes_until_nul(&target).map_err(|_| Errno::INVALID)?;
                if target.count_bytes() != text.len() {
                    return Err(Errno::INVALID);
                }
                files.make_symlink(directory, &name, target)?;
            }
            _ => {
                let mode = body.number()?;
                files.make_node(directory, &name, mode, (body.number()?, body.number()?))?;
            }
        }
        let made = files.find(directory, &name)?;
        let attributes = files.attributes(&made);
        files.close(made);
        answer.qid(Qid::of(&attributes?))
    }

    /// Nobody else has a lock: those of the guest's programs the guest knows itself.
    fn get_lock(&self, body: &mut Reader<'_>, answer: &mut Writer<'_>) -> Answer {
        const UNLOCKED: u8 = 2;
        self.opened(body.number()?)?;
        let (_, start, length) = (body.byte()?, body.long()?, body.long()?);
        let (process, client) = (body.number()?, body.text()?);
        answer.byte(UNLOCKED)?;
        answer.long(start)?;
        answer.long(length)?;
        answer.number(process)?;
        answer.text(client)
    }
}

/// A message, with what lies behind its beginning.
struct Message<'a> {
    request: &'a [Piece],
    reply: &'a [Piece],
    /// How long it says that it is: no more than there is.
    size: u64,
}

/// Whether this kind of message changes something, whatever it says.
fn changes(kind: u8) -> bool {
    [
        kind::CREATE,
        kind::SYMLINK,
        kind::MKNOD,
        kind::RENAME,
        kind::SETATTR,
        kind::XATTRCREATE,
        kind::LINK,
        kind::MKDIR,
        kind::RENAMEAT,
        kind::UNLINKAT,
        kind::WRITE,
    ]
    .contains(&kind)
}

/// The next file of a walk.
fn step<F: Files>(here: &F::Handle, body: &mut Reader<'_>, files: &mut F) -> Answer<(F::Handle, Qid)> {
    let next = files.find(here, &body.name()?)?;
    match files.attributes(&next) {
        Ok(attributes) => Ok((next, Qid::of(&attributes))),
        Err(error) => {
            files.close(next);
            Err(error)
        }
    }
}

/// Moves pieces one after the other, until one is not moved whole. How many bytes; an error if it
/// is at the first.
fn transfer(
    pieces: impl Iterator<Item = Piece>,
    at: u64,
    mut step: impl FnMut(u64, Piece) -> Answer<u32>,
) -> Answer<u32> {
    let mut done = 0;
    for piece in pieces {
        let place = at.checked_add(done.into()).ok_or(Errno::INVALID)?;
        match step(place, piece) {
            Ok(moved) => {
                done += moved.min(piece.length);
                if moved < piece.length {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}
