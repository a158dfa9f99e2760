//! What the wedge asks the process that serves directories: which of them, and where in the guest's
//! memory the message is and the answer goes. A request is one packet of 64-bit words: the numbers,
//! and then an address and a length for each piece.
//!
//! Who is asked believes none of it, for the guest's kernel could have written it as well.

use wedge::platform::virtio::{MOST_PIECES, Piece};

/// Bytes of a request.
pub(super) const LENGTH: usize = 8 * (1 + 2 * MOST_PIECES);

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    directory: u8,
    pieces: [Piece; MOST_PIECES],
    readable: usize,
    count: usize,
}

impl Request {
    /// One about a directory, by its number. There are no more pieces than that.
    pub(super) fn new(directory: u8, request: &[Piece], reply: &[Piece]) -> Option<Self> {
        let mut pieces = [Piece::default(); MOST_PIECES];
        let count = request.len() + reply.len();
        for (place, piece) in pieces.get_mut(..count)?.iter_mut().zip(request.iter().chain(reply)) {
            *place = *piece;
        }
        Some(Self { directory, pieces, readable: request.len(), count })
    }

    /// Which directory it is about.
    pub(super) const fn directory(&self) -> usize {
        self.directory as usize
    }

    /// The pieces of the message,
    pub(super) fn request(&self) -> &[Piece] {
        &self.pieces[..self.readable]
    }

    /// and those for the answer.
    pub(super) fn reply(&self) -> &[Piece] {
        &self.pieces[self.readable..self.count]
    }

    /// Writes it as a packet.
    pub(super) fn encode<'a>(&self, bytes: &'a mut [u8; LENGTH]) -> &'a [u8] {
        let pieces = self.pieces[..self.count].iter();
        let words = pieces.flat_map(|piece| [piece.address, piece.length.into()]);
        let first = u64::from(self.directory) | (self.readable as u64) << 8;
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(core::iter::once(first).chain(words)) {
            *place = word.to_ne_bytes();
        }
        &bytes[..8 * (1 + 2 * self.count)]
    }

    /// Reads a packet, if it is one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks() else { return None };
        let (first, words) = words.split_first()?;
        let (pairs, []) = words.as_chunks::<2>() else { return None };
        let first = u64::from_ne_bytes(*first);
        let readable = usize::try_from(first >> 8).ok().filter(|readable| *readable <= pairs.len())?;
        let mut pieces = [Piece::default(); MOST_PIECES];
        for (place, pair) in pieces.get_mut(..pairs.len())?.iter_mut().zip(pairs) {
            let [address, length] = pair.map(u64::from_ne_bytes);
            let length = u32::try_from(length).ok()?;
            address.checked_add(length.into())?;
            *place = Piece { address, length };
        }
        Some(Self { directory: (first & 0xff) as u8, pieces, readable, count: pairs.len() })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let piece = (0..=u64::MAX - u64::from(u32::MAX), any::<u32>());
        prop::collection::vec(piece.prop_map(|(address, length)| Piece { address, length }), 0..=MOST_PIECES / 2)
    }

    proptest! {
        #[test]
        fn what_is_asked_arrives(number in 0..8_u8, request in pieces(), reply in pieces()) {
            let sent = Request::new(number, &request, &reply).unwrap();
            let mut bytes = [0; LENGTH];
            let received = Request::decode(sent.encode(&mut bytes)).unwrap();
            prop_assert_eq!(received.directory(), usize::from(number));
            prop_assert_eq!((received.request(), received.reply()), (&*request, &*reply));
        }

        #[test]
        fn whatever_arrives_is_a_request_or_none(
            words in prop::collection::vec(prop_oneof![0..2000_u64, any::<u64>()], 0..600),
            cut in 0..16_usize,
        ) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let bytes = &bytes[..bytes.len().saturating_sub(cut / 2)];
            if let Some(request) = Request::decode(bytes) {
                prop_assert!(request.request().len() + request.reply().len() <= MOST_PIECES);
                prop_assert!(request.request().iter().all(|piece| piece.address.checked_add(piece.length.into()).is_some()));
            }
        }
    }

    #[test]
    fn more_pieces_than_a_queue_has_are_none() {
        assert!(Request::new(0, &[Piece::default(); MOST_PIECES], &[Piece::default()]).is_none());
        assert!(Request::decode(&[0; LENGTH]).is_some());
        assert!(Request::decode(&[0; LENGTH + 16]).is_none());
    }
}
