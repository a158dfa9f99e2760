//! Sites that are like another: what is made from that one is what would have been made without it.

use super::*;

const FLAGS: [Flags; 6] =
    [Flags::empty(), Flags::NO_STACK, Flags::EXTABLE, Flags::HEAD, Flags::COPIED, Flags::REPLACEMENT];

/// A site in a slot as long as that one's, which is not like it.
fn unlike(planned: &Planned) -> Planned {
    let others: [&[u8]; 3] = [&[0x0f, 0x32], &[0x0f, 0x30], &[0x0f, 0x01, 0x15, 0, 0, 0, 0]];
    let fits = |other: &&[u8]| planned.bytes != **other && usize::from(planned.slot) - other.len() < PADS.len();
    let bytes = others.into_iter().find(fits).unwrap();
    Planned { slot: planned.slot, ..Planned::new(bytes, Flags::empty(), LiveFlags::all()) }
}

/// The second of two sites: what its slot and stub are, and where the original is in the stub.
fn second(mode: Mode, first: &Planned, second: &Planned) -> Option<(Vec<u8>, [u8; STUB_SIZE], u8)> {
    let kernel = Kernel::with_copies(mode, &[first.clone(), second.clone()], 0, |_| Applied::Whole(0));
    let (index, entry) = kernel.entry(1)?;
    assert_eq!(index, 1, "the first site is left");
    Some((kernel.slot(1).to_vec(), *kernel.engine.stub(index), entry.kind.body))
}

#[test]
fn a_site_becomes_the_same_whether_another_one_is_like_it() {
    let mut stubs = 0;
    for mode in [Mode::Native, Mode::Identity, Mode::Profile, Mode::Deprivileged] {
        for (bytes, flags) in PATTERNS.iter().flat_map(|bytes| FLAGS.map(|flags| (bytes, flags))) {
            for live in [LiveFlags::all(), LiveFlags::empty()] {
                let long = Planned::new(bytes, flags, live);
                let slot = if flags == Flags::REPLACEMENT && bytes.len() < 6 { 5 } else { long.slot };
                let planned = Planned { slot, ..long };
                let alone = second(mode, &unlike(&planned), &planned);
                stubs += usize::from(alone.as_ref().is_some_and(|(_, stub, _)| *stub != [0; STUB_SIZE]));
                if alone.is_some() {
                    assert_eq!(second(mode, &planned, &planned), alone, "{mode} {bytes:02x?} {flags:?}");
                }
            }
        }
    }
    assert!(stubs > 1000, "{stubs} stubs");
}

#[test]
fn a_number_is_that_of_its_own_site() {
    // Without a stack the stub says which site it is.
    let cpuid = Planned::new(&[0x0f, 0xa2], Flags::NO_STACK, LiveFlags::all());
    let kernel = Kernel::new(Mode::Deprivileged, &std::vec![cpuid; 300]);
    for (index, _) in kernel.engine.sites() {
        let store = decode(&kernel.engine.stub(index)[..10], STUBS + (STUB_SIZE * index) as u64);
        assert_eq!((store[0].ip_rel_memory_address(), store[0].immediate32() as usize), (MACHINE.site, index));
    }
}

#[test]
fn one_that_is_out_of_reach_takes_no_entry() {
    // More than from stub to stub.
    const DISTANCE: u64 = 100;
    let (port, cli) = ([0xec], [0xfa]);
    let planned = [&port[..], &port, &port, &cli].map(|bytes| Planned::new(bytes, Flags::empty(), LiveFlags::all()));
    let sites: Vec<_> = (0..).zip(&planned).map(|(number, planned)| planned.at(TEXT + DISTANCE * number)).collect();
    let mut text = planned.map(|planned| [planned.padded(), std::vec![0xcc; 100]].concat()[..100].to_vec()).concat();
    // The first branch is as long as one can be.
    let memory = Memory { stubs_address: TEXT + 5 - (1 << 31), ..memory(8) };
    let hooks = Hooks { port: memory.stubs_address, ..HOOKS };
    let mut engine = Engine::new(Mode::Native, hooks, memory);
    let table = table(&sites);
    let mut piece = Piece { bytes: &mut text, address: TEXT };
    let summary = engine.rewrite(&SiteTable::new(&table, TEXT).unwrap(), |_| Applied::Somewhere, &mut piece).unwrap();
    assert_eq!(summary.left().collect::<Vec<_>>(), [(Left::OutOfReach, 2)]);
    let taken: Vec<_> = engine.sites().map(|(index, entry)| (index, entry.address())).collect();
    assert_eq!(taken, [(0, TEXT), (1, TEXT + 3 * DISTANCE)]);
}
