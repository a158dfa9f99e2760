//! What a virtio network card does with frames (virtio 1.1, section 5.1; "Legacy Interface").
//!
//! Of two queues, the driver puts buffers to be filled into the first, and frames into the second.
//! In front of each frame is a header, of what a card can do for a system that this one cannot: it
//! is all zeros, and none of it is read. A frame lies in one chain, whole.
//!
//! A frame waits on the side that it comes from: with the host until the guest has a buffer, and
//! with the guest until the host can send it. Nothing is lost when one side is slow. What can go
//! nowhere, because it is no frame or does not fit into the buffer that it would go to, is dropped,
//! and the host is told.

use core::fmt;

use super::Network;
use super::function::{Device, Kind, REGISTERS, Served};
use super::queue::{Chain, Fault, Queue, length, read, write};

/// Bytes of a frame at least: two addresses and a type.
pub const SHORTEST_FRAME: usize = 14;
/// And at most, with a tag of a virtual LAN (`GOOD_PACKET_LEN` in `drivers/net/virtio_net.c`).
pub const LONGEST_FRAME: usize = SHORTEST_FRAME + 4 + 1500;

/// In front of a frame (`struct virtio_net_hdr`), where buffers are not merged.
const HEADER: usize = 10;

/// Features: the card has an address, and says whether its link is up.
const ADDRESS: u32 = 1 << 5;
const LINK: u32 = 1 << 16;

/// The link is up.
const UP: u8 = 1;

/// A legacy network device, in the class of network controllers.
pub(super) const KIND: Kind = Kind { identity: 0x1000_1af4, class: 0x0200_0000, subsystem: 0x0001_1af4 };

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The guest sends so many bytes, which are no frame.
    Length(u64),
    /// The guest's buffer has room for so many bytes.
    Room(u64),
    /// The guest's buffer, or what it sends, is not in memory.
    Memory,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => {
                write!(f, "the guest sends {length} bytes, and a frame has {SHORTEST_FRAME} to {LONGEST_FRAME}")
            }
            Self::Room(room) => write!(f, "the guest's buffer has room for {room} bytes"),
            Self::Memory => write!(f, "the guest's buffer is not in memory"),
        }
    }
}

/// Whether the guest has a buffer.
pub(super) fn has_room([receive, _]: &[Queue; 2], network: &impl Network) -> bool {
    receive.has_chain(network)
}

/// A network card, with what is behind it.
#[derive(Debug)]
pub(super) struct Card<'a, N>(pub(super) &'a mut N);

impl<N: Network> Device<2> for Card<'_, N> {
    fn features(&self) -> u32 {
        ADDRESS | LINK
    }

    /// The address, and the state of the link.
    fn registers(&self) -> [u8; REGISTERS] {
        let mut bytes = [0; REGISTERS];
        bytes[..6].copy_from_slice(&self.0.address());
        bytes[6] = if self.0.is_up() { UP } else { 0 };
        bytes
    }

    fn serve(&mut self, [receiving, sending]: &mut [Queue; 2], _: u32) -> Served {
        let served = [
            sending.serve(self.0, N::can_send, send),
            receiving.serve(self.0, N::has_frame, |chain, network| Ok(receive(chain, network))),
        ];
        let queue = served.map(|served| {
            served.unwrap_or_else(|fault| {
                self.0.broken(fault);
                false
            })
        });
        Served { queue: queue.contains(&true), configuration: self.0.link_has_changed() }
    }
}

/// Sends what is in a chain.
fn send(chain: &Chain, network: &mut impl Network) -> Result<u32, Fault> {
    let pieces = chain.readable();
    let all = length(pieces).checked_sub(HEADER as u64).ok_or(Fault::Header)?;
    let mut buffer = [0; LONGEST_FRAME];
    let frame = usize::try_from(all).ok().filter(|all| *all >= SHORTEST_FRAME).and_then(|all| buffer.get_mut(..all));
    let Some(frame) = frame else {
        network.dropped(Dropped::Length(all));
        return Ok(0);
    };
    if read(pieces, HEADER as u64, frame, network) {
        network.send(frame);
    } else {
        network.dropped(Dropped::Memory);
    }
    Ok(0)
}

/// Puts a frame that has come into a chain. How many bytes: all, or none.
fn receive(chain: &Chain, network: &mut impl Network) -> u32 {
    let mut frame = [0; LONGEST_FRAME];
    let mut bytes = [0; HEADER + LONGEST_FRAME];
    let all = HEADER + network.receive(&mut frame);
    let bytes = &mut bytes[..all];
    bytes[HEADER..].copy_from_slice(&frame[..all - HEADER]);
    let room = length(chain.writable());
    if room < all as u64 {
        network.dropped(Dropped::Room(room.saturating_sub(HEADER as u64)));
        return 0;
    }
    if !write(chain.writable(), bytes, network) {
        network.dropped(Dropped::Memory);
        return 0;
    }
    u32::try_from(all).unwrap_or(0)
}
