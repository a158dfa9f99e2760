//! Directories, as Linux's transport of 9P uses them (`net/9p/trans_virtio.c`).

use super::*;
use crate::platform::virtio::{MOST_SHARES, Share};

/// The ports of the first, and its slot.
const PORTS: u16 = 0xc240;
const SLOT: u32 = 10;

/// Whoever answers, with what was asked, and the guest's memory.
#[derive(Debug)]
pub(in crate::platform::tests) struct Echo {
    memory: Vec<u8>,
    asked: Vec<(Vec<Piece>, Vec<Piece>)>,
    faults: Vec<Fault>,
}

impl Echo {
    fn new() -> Self {
        Self { memory: vec![0; MEMORY], asked: Vec::new(), faults: Vec::new() }
    }
}

impl GuestMemory for Echo {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(range) = Disk::range(address, bytes.len()) else { return false };
        bytes.copy_from_slice(&self.memory[range]);
        true
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(range) = Disk::range(address, bytes.len()) else { return false };
        self.memory[range].copy_from_slice(bytes);
        true
    }
}

impl Share for Echo {
    fn answer(&mut self, request: &[Piece], reply: &[Piece]) -> u32 {
        self.asked.push((request.to_vec(), reply.to_vec()));
        77
    }

    fn broken(&mut self, fault: Fault) {
        self.faults.push(fault);
    }
}

fn pc(shares: usize) -> Pc {
    let board = Bench { shares: (0..shares).map(|_| Echo::new()).collect(), ..Bench::default() };
    let mut pc = Pc { platform: Platform::new(Pci::Virtual), board, access: 0 };
    pc.initialise(0xffff);
    pc
}

#[test]
fn each_has_a_slot_ports_and_a_tag() {
    let mut pc = pc(MOST_SHARES);
    let found = (1..32).filter(|slot| pc.configuration(*slot, 0, Size::Long) != u32::MAX).collect::<Vec<_>>();
    assert_eq!(found, (SLOT..SLOT + 8).collect::<Vec<_>>());
    for number in 0..8_u16 {
        let slot = SLOT + u32::from(number);
        assert_eq!(pc.configuration(slot, 0, Size::Long), 0x1009_1af4);
        assert_eq!((pc.configuration(slot, 8, Size::Byte), pc.configuration(slot, 0x2e, Size::Word)), (0, 9));
        let base = PORTS + 64 * number;
        assert_eq!(pc.configuration(slot, 0x10, Size::Long), u32::from(base) | 1);
        let mut read = |register: u16, size| pc.platform.read(base + register, size, &mut pc.board);
        assert_eq!((read(0, Size::Long), read(20, Size::Word)), (1, 6), "features, and length of the tag");
        let tag = (22..28).map(|register| read(register, Size::Byte) as u8).collect::<Vec<_>>();
        assert_eq!(tag, std::format!("share{number}").into_bytes());
    }
}

#[test]
fn a_message_is_handed_over_with_the_place_for_its_answer() {
    let mut pc = pc(1);
    pc.configure(SLOT, 4, Size::Word, 5);
    let out = |pc: &mut Pc, register: u16, size, value| pc.platform.write(PORTS + register, size, value, &mut pc.board);
    out(&mut pc, 8, Size::Long, PAGE);
    let memory = &mut pc.board.shares[0].memory;
    let mut put = |at: u64, bytes: &[u8]| memory[at as usize..][..bytes.len()].copy_from_slice(bytes);
    for (number, (address, length, flags, next)) in
        (0..).zip([(DATA, 7_u32, NEXT, 1_u16), (DATA + 0x1000, 100, NEXT, 2), (DATA + 0x2000, 50, WRITE, 0)])
    {
        let at = DESCRIPTORS + 16 * number;
        put(at, &address.to_le_bytes());
        put(at + 8, &length.to_le_bytes());
        put(at + 12, &flags.to_le_bytes());
        put(at + 14, &next.to_le_bytes());
    }
    put(AVAILABLE + 2, &1_u16.to_le_bytes());
    out(&mut pc, 16, Size::Word, 0);
    let piece = |address, length| Piece { address, length };
    let share = &pc.board.shares[0];
    assert_eq!(share.asked, [(vec![piece(DATA, 7), piece(DATA + 0x1000, 100)], vec![piece(DATA + 0x2000, 50)])]);
    assert_eq!((share.memory[USED as usize + 2], share.memory[USED as usize + 8]), (1, 77));
    assert_eq!(pc.take(), Some(10));
    // One that breaks the rules.
    pc.board.shares[0].memory[AVAILABLE as usize + 3] = 9;
    out(&mut pc, 16, Size::Word, 0);
    assert_eq!(pc.board.shares[0].faults, [Fault::Available]);
}
