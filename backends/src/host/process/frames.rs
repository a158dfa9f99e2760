//! Frames on a stream, as QEMU sends them (`-netdev stream`): in front of each is its length, four
//! bytes, the highest first.
//!
//! A stream has no borders: a read may end within a frame, or within its length, and so may a
//! write. What has come stays here until a frame is whole, and a frame that was written in part
//! stays until the rest of it is.

use wedge::platform::virtio::{LONGEST_FRAME, SHORTEST_FRAME};

/// Bytes of the length in front of a frame.
const PREFIX: usize = 4;

/// A frame with its length.
const WITH_PREFIX: usize = PREFIX + LONGEST_FRAME;

/// How often the stream is read for one frame: whoever sends nothing but what is dropped does not
/// keep the guest from running.
const MOST_READS: usize = 8;

/// What has come, and was not taken yet.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    bytes: &'a mut [u8],
    start: usize,
    end: usize,
    /// So much of what comes next belongs to a frame that is dropped.
    left_out: u64,
    /// How many frames were.
    dropped: u64,
}

impl<'a> Incoming<'a> {
    /// Nothing yet. There has to be room for a frame.
    pub(super) const fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, start: 0, end: 0, left_out: 0, dropped: 0 }
    }

    /// How many frames were dropped, for their length.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether there is a whole frame. More is read where that is needed, by a function that says
    /// how much it has read.
    ///
    /// # Errors
    ///
    /// That of the function.
    pub(super) fn has_frame<E>(&mut self, mut read: impl FnMut(&mut [u8]) -> Result<usize, E>) -> Result<bool, E> {
        for _ in 0..MOST_READS {
            self.leave_out();
            if self.frame().is_some() {
                return Ok(true);
            }
            if self.bytes.len() - self.start < WITH_PREFIX || self.start == self.end {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            self.end += read(&mut self.bytes[self.end..])?;
        }
        self.leave_out();
        Ok(self.frame().is_some())
    }

    /// Whether there is room for another portion.
    pub(super) fn has_room(&self) -> bool {
        self.end - self.start <= self.bytes.len() / 2
    }

    /// Reads all that has come, while there is room.
    ///
    /// # Errors
    ///
    /// That of the function, as when nothing more has come.
    pub(super) fn fill<E>(&mut self, mut read: impl FnMut(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        while self.has_room() {
            if self.end > self.bytes.len() / 2 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            self.end += read(&mut self.bytes[self.end..])?;
        }
        Ok(())
    }

    /// Takes the frame that there is. Its length; 0 if there is none.
    pub(super) fn take(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize {
        let Some(next) = self.frame() else { return 0 };
        frame[..next.len()].copy_from_slice(next);
        let length = next.len();
        self.start += PREFIX + length;
        length
    }

    /// The next frame, if it is whole.
    fn frame(&self) -> Option<&[u8]> {
        let length = self.next_length()?;
        self.bytes[self.start..self.end].get(PREFIX..PREFIX + length)
    }

    fn next_length(&self) -> Option<usize> {
        let prefix = self.bytes[self.start..self.end].first_chunk::<PREFIX>()?;
        Some(u32::from_be_bytes(*prefix) as usize)
    }

    /// Leaves out frames that are too long or too short.
    fn leave_out(&mut self) {
        loop {
            let now = usize::try_from(self.left_out).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += now;
            self.left_out -= now as u64;
            match self.next_length() {
                Some(length) if self.left_out == 0 && !(SHORTEST_FRAME..=LONGEST_FRAME).contains(&length) => {
                    self.start += PREFIX;
                    self.left_out = length as u64;
                    self.dropped += 1;
                }
                _ => return,
            }
        }
    }
}

/// A frame that is being written.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: [u8; WITH_PREFIX],
    start: usize,
    end: usize,
}

impl Outgoing {
    /// None.
    pub(super) const fn new() -> Self {
        Self { bytes: [0; _], start: 0, end: 0 }
    }

    /// Whether all of it is written: then there is room for another.
    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there is one of which nothing is written.
    pub(super) const fn is_whole(&self) -> bool {
        self.start == 0 && self.end > 0
    }

    /// The next frame, when there is room for one.
    pub(super) fn put(&mut self, frame: &[u8]) {
        let end = PREFIX + frame.len();
        if self.is_empty() && end <= WITH_PREFIX {
            self.bytes[..PREFIX].copy_from_slice(&(frame.len() as u32).to_be_bytes());
            self.bytes[PREFIX..end].copy_from_slice(frame);
            (self.start, self.end) = (0, end);
        }
    }

    /// Writes what there is, by a function that says how much it has written.
    ///
    /// # Errors
    ///
    /// That of the function: the rest stays here.
    pub(super) fn flush<E>(&mut self, mut write: impl FnMut(&[u8]) -> Result<usize, E>) -> Result<(), E> {
        while !self.is_empty() {
            self.start += write(&self.bytes[self.start..self.end])?;
        }
        Ok(())
    }
}

/// Whether a frame begins or ends a TCP connection (RFC 791, 9293): SYN, FIN or RST.
pub(super) fn begins_or_ends(frame: &[u8]) -> bool {
    const IP: usize = 14;
    const TCP: u8 = 6;
    const FLAGS: u8 = 1 | 1 << 1 | 1 << 2;
    let flags = IP + 13 + 4 * usize::from(frame.get(IP).map_or(0, |byte| byte & 0xf));
    frame.get(12..IP) == Some(&[8, 0])
        && frame.get(IP + 9) == Some(&TCP)
        && frame.get(flags).is_some_and(|byte| byte & FLAGS != 0)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// There is nothing more now.
    #[derive(Debug, PartialEq)]
    struct Blocked;

    /// A stream that hands on so many bytes at a time.
    struct Stream {
        bytes: Vec<u8>,
        at: usize,
        portions: Vec<usize>,
        reads: usize,
    }

    impl Stream {
        fn read(&mut self, into: &mut [u8]) -> Result<usize, Blocked> {
            let portion = self.portions[self.reads % self.portions.len()];
            let length = portion.min(into.len()).min(self.bytes.len() - self.at);
            self.reads += 1;
            assert!(!into.is_empty(), "there is room for more");
            if length == 0 {
                return Err(Blocked);
            }
            into[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
            self.at += length;
            Ok(length)
        }
    }

    fn stream(lengths: &[usize]) -> Vec<u8> {
        let frame = |length: &usize| {
            let body = (0..*length).map(|at| (at * 7 + length) as u8);
            (*length as u32).to_be_bytes().into_iter().chain(body).collect::<Vec<_>>()
        };
        lengths.iter().flat_map(frame).collect()
    }

    /// The frames that come out, as a stream again, and how many were dropped.
    fn received(lengths: &[usize], portions: &[usize], room: usize, ahead: bool) -> (Vec<u8>, u64) {
        let mut bytes = vec![0; room];
        let mut incoming = Incoming::new(&mut bytes);
        let mut from = Stream { bytes: stream(lengths), at: 0, portions: portions.to_vec(), reads: 0 };
        let mut frames = Vec::new();
        loop {
            if ahead && incoming.fill(|into| from.read(into)).is_ok() {
                assert!(!incoming.has_room(), "more could be read");
            }
            let before = from.reads;
            match incoming.has_frame(|into| from.read(into)) {
                Ok(true) => {
                    let mut frame = [0; LONGEST_FRAME];
                    let length = incoming.take(&mut frame);
                    frames.extend((length as u32).to_be_bytes());
                    frames.extend(&frame[..length]);
                }
                Ok(false) => assert_eq!(from.reads - before, MOST_READS),
                Err(Blocked) => return (frames, incoming.dropped()),
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_left_out_and_the_next_is_whole() {
        for (lengths, good, dropped) in [
            (&[60, 1518, 14][..], &[60, 1518, 14][..], 0),
            (&[60, 1519, 61], &[60, 61], 1),
            (&[0, 13, 70000, 0, 62], &[62], 4),
            (&[200_000, 1_000_000], &[], 2),
        ] {
            for portion in [1, 3, 4, 5, 1522, 65536] {
                assert_eq!(
                    received(lengths, &[portion], 4096, false),
                    (stream(good), dropped),
                    "{lengths:?} by {portion}"
                );
            }
        }
    }

    #[test]
    fn without_a_frame_there_is_none_to_take() {
        let mut bytes = [0; WITH_PREFIX];
        let mut incoming = Incoming::new(&mut bytes);
        assert_eq!(incoming.has_frame(|_| Err(Blocked)), Err(Blocked));
        assert_eq!(incoming.take(&mut [0; LONGEST_FRAME]), 0);
    }

    #[test]
    fn a_connection_begins_and_ends_with_flags() {
        for (version, protocol, flags, expected) in [
            (0x45, 6, 0x02, true),
            (0x45, 6, 0x12, true),
            (0x45, 6, 0x11, true),
            (0x45, 6, 0x14, true),
            (0x4f, 6, 0x02, true),
            (0x45, 6, 0x18, false),
            (0x4f, 6, 0x10, false),
            (0x45, 17, 0x02, false),
        ] {
            let mut frame = vec![0; 14 + 60 + 20];
            frame[12] = 8;
            (frame[14], frame[23]) = (version, protocol);
            frame[14 + 4 * usize::from(version & 0xf) + 13] = flags;
            assert_eq!(begins_or_ends(&frame), expected, "{version:x} {protocol} {flags:x}");
            assert!((0..34).all(|length| !begins_or_ends(&frame[..length])), "it is cut off");
            frame[13] = 6;
            assert!(!begins_or_ends(&frame), "it is another protocol's");
        }
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_how_the_stream_is_read(
            lengths in prop::collection::vec(prop_oneof![8 => 14..1519_usize, 1 => 0..14_usize, 1 => 1519..9000_usize], 0..30),
            portions in prop::collection::vec(1..5000_usize, 1..8),
            room in WITH_PREFIX..8000,
            ahead in any::<bool>(),
        ) {
            let good: Vec<_> = lengths.iter().copied().filter(|length| (14..1519).contains(length)).collect();
            let dropped = (lengths.len() - good.len()) as u64;
            prop_assert_eq!(received(&lengths, &portions, room, ahead), (stream(&good), dropped));
        }

        #[test]
        fn a_frame_that_is_written_in_part_is_finished_before_the_next(
            lengths in prop::collection::vec(14..1519_usize, 1..20),
            portions in prop::collection::vec(0..900_usize, 1..8),
        ) {
            prop_assume!(portions.iter().any(|portion| *portion > 0));
            let (mut written, mut writes) = (Vec::<u8>::new(), 0);
            let mut outgoing = Outgoing::new();
            let mut write = |bytes: &[u8]| {
                let length = portions[writes % portions.len()].min(bytes.len());
                writes += 1;
                written.extend(&bytes[..length]);
                if length == 0 { Err(Blocked) } else { Ok(length) }
            };
            for length in &lengths {
                outgoing.put(&stream(&[*length])[PREFIX..]);
                // Another one has no room before this is written.
                while outgoing.flush(&mut write).is_err() {
                    outgoing.put(&[0xff; 20]);
                }
            }
            prop_assert_eq!(written, stream(&lengths));
        }
    }
}
