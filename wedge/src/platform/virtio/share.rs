//! A virtio device that brings messages of 9P to a server of files (virtio 1.1, section 5 names it,
//! by its number; Linux, `net/9p/trans_virtio.c` and `include/uapi/linux/virtio_9p.h`).
//!
//! A request is a message, what the device reads, and room for the answer, what it writes.

use super::Share;
use super::function::{Device, Kind, REGISTERS, Served};
use super::queue::Queue;

/// The only feature: the device says by which tag it is mounted (`VIRTIO_9P_MOUNT_TAG`).
const MOUNT_TAG: u32 = 1;

/// A legacy 9P transport, of no class that Linux knows anything about.
pub(super) const KIND: Kind = Kind { identity: 0x1009_1af4, class: 0x0002_0000, subsystem: 0x0009_1af4 };

/// What the guest mounts it by, with the length in front; the last digit is the directory's number.
const TAG: [u8; 8] = *b"\x06\0share0";

/// A directory.
#[derive(Debug)]
pub(super) struct Directory<'a, S> {
    pub(super) share: &'a mut S,
    /// Which of the directories it is: one digit.
    pub(super) number: u8,
}

impl<S: Share> Device<1> for Directory<'_, S> {
    fn features(&self) -> u32 {
        MOUNT_TAG
    }

    /// The tag.
    fn registers(&self) -> [u8; REGISTERS] {
        let mut bytes = [0; REGISTERS];
        bytes[..TAG.len()].copy_from_slice(&TAG);
        bytes[TAG.len() - 1] += self.number;
        bytes
    }

    fn serve(&mut self, [queue]: &mut [Queue; 1], _: u32) -> Served {
        let served =
            queue.serve(self.share, |_| true, |chain, share| Ok(share.answer(chain.readable(), chain.writable())));
        let queue = served.unwrap_or_else(|fault| {
            self.share.broken(fault);
            false
        });
        Served { queue, configuration: false }
    }
}
