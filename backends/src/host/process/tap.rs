//! A TAP interface of the Linux below, which its user may have (`ip tuntap add NAME mode tap user
//! USER`): what the guest sends comes in there, and what Linux sends out there, or a bridge, is the
//! guest's (Linux, `Documentation/networking/tuntap.rst`).
//!
//! The interface has to be there. Whoever may make interfaces would otherwise make a new one by a
//! name that was mistyped.
//!
//! A frame is one call. Linux keeps as many for the guest as the interface's queue has room for,
//! and drops the rest, as it does on any interface. What the guest sends while the interface is
//! down is lost, as on a cable that nobody has plugged in.
//!
//! Several guests may be at one bridge, so each card has an address of its own: its interface's,
//! which Linux has made at random or an administrator has chosen, with one bit turned over, for the
//! interface itself has that one.

use linux_raw_sys::errno::{EAGAIN, EBADFD, EBUSY, EINTR, EINVAL, EIO, ENODEV, EPERM};
use linux_raw_sys::if_tun::{IFF_NO_PI, IFF_TAP};
use linux_raw_sys::ioctl::{SIOCGIFHWADDR, SIOCGIFINDEX, TUNSETIFF};
use wedge::platform::virtio::{LONGEST_FRAME, SHORTEST_FRAME};

use super::arguments::{Interface, Net};
use super::network::{Cable, Refused, refused};
use super::system::{self, Answer, Carries, Errno, File, InterfaceRequest};
use crate::runtime::exclusive::Exclusive;

/// How often the interface is read for one frame: whoever sends nothing but what is dropped does
/// not keep the guest from running.
const MOST_READS: usize = 8;

/// One byte more than a frame may have: of a longer one Linux hands on no more than there is room
/// for.
type Incoming = [u8; LONGEST_FRAME + 1];

/// What comes is read to here.
static INCOMING: Exclusive<Incoming> = Exclusive::new([0; _]);

/// The interface, with a frame for each direction.
#[derive(Debug)]
pub(super) struct Tap {
    file: File,
    incoming: &'static mut Incoming,
    /// How long the one that has come is; 0 if there is none.
    came: usize,
    outgoing: [u8; LONGEST_FRAME],
    /// How long the one that is to be written is; 0 if there is none.
    goes: usize,
    dropped: u64,
}

impl Tap {
    /// Asks for the interface. With it comes the address of the card.
    pub(super) fn open(interface: Interface) -> Result<(Self, [u8; 6]), Refused> {
        let refused = |what| refused(Net::Tap(interface), what);
        let mut request = InterfaceRequest::new(interface);
        exists(&mut request).map_err(|error| match error {
            Errno(ENODEV) => refused("there is no such interface")(error),
            _ => refused("Linux does not look for interfaces")(error),
        })?;
        let file = File::open_at_once(c"/dev/net/tun", false).map_err(refused("/dev/net/tun cannot be opened"))?;
        request.set_flags((IFF_TAP | IFF_NO_PI) as u16);
        file.ask_interface(TUNSETIFF, &mut request).map_err(|error| {
            let what = match error.0 {
                EPERM => "this user may not have the interface",
                EBUSY => "another program has the interface",
                EINVAL => "this is no TAP interface, or one with several queues",
                _ => "Linux does not give the interface",
            };
            refused(what)(error)
        })?;
        // Somebody before may have said that he takes what the card has to complete.
        file.set_offload(0).map_err(refused("Linux does not complete frames"))?;
        file.ask_interface(SIOCGIFHWADDR, &mut request).map_err(refused("the interface has no address"))?;
        file.tell_of_input(system::process()).map_err(refused("Linux does not tell of frames"))?;
        let tap = Self { file, incoming: INCOMING.take(), came: 0, outgoing: [0; _], goes: 0, dropped: 0 };
        Ok((tap, card_address(request.address())))
    }
}

/// Whether there is an interface (`netdevice(7)`).
fn exists(request: &mut InterfaceRequest) -> Answer {
    let [socket, other] = system::socket_pair(Carries::Bytes)?;
    let answer = socket.ask_interface(SIOCGIFINDEX, request);
    socket.close();
    other.close();
    answer
}

/// The address of the card at an interface: "locally administered", and of one card (IEEE 802).
const fn card_address(interface: [u8; 6]) -> [u8; 6] {
    let [first, middle @ .., last] = interface;
    let [a, b, c, d] = middle;
    [first & !1 | 2, a, b, c, d, last ^ 0x80]
}

impl Cable for Tap {
    const ENDED: &'static str = "the interface is gone";
    const DROPS: &'static str = "the interface does not take a frame, or has one that is too long";

    fn file(&self) -> File {
        self.file
    }

    fn can_put(&self) -> bool {
        self.goes == 0
    }

    fn take_in(&mut self) -> Answer {
        Ok(())
    }

    fn takes_more(&self) -> bool {
        false
    }

    fn frames_wait(&self) -> bool {
        false
    }

    fn put(&mut self, frame: &[u8]) {
        if let Some(place) = self.outgoing.get_mut(..frame.len()) {
            place.copy_from_slice(frame);
            self.goes = frame.len();
        }
    }

    fn flush(&mut self) -> Answer {
        if self.goes == 0 {
            return Ok(());
        }
        match self.file.write_some(&self.outgoing[..self.goes]) {
            Err(error @ Errno(EAGAIN | EINTR | EBADFD)) => return Err(error),
            // It is down.
            Ok(_) | Err(Errno(EIO)) => {}
            Err(_) => self.dropped += 1,
        }
        self.goes = 0;
        Ok(())
    }

    fn has_frame(&mut self) -> Answer<bool> {
        for _ in 0..MOST_READS {
            if self.came > 0 {
                break;
            }
            match self.file.read(self.incoming)? {
                length @ SHORTEST_FRAME..=LONGEST_FRAME => self.came = length,
                _ => self.dropped += 1,
            }
        }
        Ok(self.came > 0)
    }

    fn take(&mut self, frame: &mut [u8; LONGEST_FRAME]) -> usize {
        frame[..self.came].copy_from_slice(&self.incoming[..self.came]);
        core::mem::take(&mut self.came)
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
