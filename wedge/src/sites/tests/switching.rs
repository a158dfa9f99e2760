//! Switching off and on, what others have written, copies of replacements, and modules that come
//! and go.

use proptest::prelude::*;

use super::taking::planned;
use super::*;
use crate::sites::Reason;

/// What Linux does with a replacement (`apply_alternatives`): copies it, and adjusts a lone call.
fn apply_alternative(kernel: &mut Kernel, number: usize, copy: u64) {
    let mut bytes = kernel.slot(number).to_vec();
    if let [0xe8, distance @ ..] = &mut bytes[..] {
        let moved = kernel.sites[number].address.wrapping_sub(copy);
        let target = i64::from(i32::from_le_bytes((&*distance).try_into().unwrap())) + moved.cast_signed();
        distance.copy_from_slice(&i32::try_from(target).unwrap().to_le_bytes());
    }
    let start = usize::try_from(copy - TEXT).unwrap();
    kernel.text[start..start + bytes.len()].copy_from_slice(&bytes);
}

/// The text as it is after boot: what does not last is gone.
fn free_initial(kernel: &mut Kernel) {
    for number in 0..kernel.sites.len() {
        if kernel.sites[number].flags.contains(Flags::INIT) {
            let place = kernel.place(number);
            kernel.text[place.clone()].fill(0xcc);
            kernel.original[place].fill(0xcc);
        }
    }
}

proptest! {
    #[test]
    fn off_restores_every_byte_and_on_rewrites_them_again(
        planned in prop::collection::vec(planned(), 1..60),
        mode in prop::sample::select(&Mode::ALL[..]),
    ) {
        let mut kernel = Kernel::new(mode, &planned);
        free_initial(&mut kernel);
        let rewritten = kernel.text.clone();
        prop_assert_eq!(kernel.revert().busy, 0);
        prop_assert_eq!(&kernel.text, &kernel.original);
        prop_assert_eq!(kernel.revert().busy, 0);
        prop_assert_eq!(kernel.apply().busy, 0);
        for (number, planned) in planned.iter().enumerate() {
            let place = kernel.place(number);
            if planned.bytes != [0x48, 0xcf] {
                prop_assert_eq!(&kernel.text[place.clone()], &rewritten[place]);
            }
        }
        let again = kernel.text.clone();
        prop_assert_eq!(kernel.apply().busy, 0);
        prop_assert_eq!(&kernel.text, &again);
        kernel.revert();
        prop_assert_eq!(&kernel.text, &kernel.original);
    }

    #[test]
    fn what_others_have_written_stays(
        planned in prop::collection::vec(planned(), 1..40),
        mode in prop::sample::select(&Mode::ALL[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut kernel = Kernel::new(mode, &planned);
        let rewritten = kernel.text.clone();
        for (index, value) in &changes {
            let place = index.index(kernel.text.len());
            kernel.text[place] = *value;
        }
        let changed = kernel.text.clone();
        let outcome = kernel.revert();
        let mut busy = 0;
        for number in 0..planned.len() {
            let place = kernel.place(number);
            let lasts = kernel.entry(number).is_some() && !kernel.sites[number].flags.contains(Flags::INIT);
            let ours = changed[place.clone()] == rewritten[place.clone()] || changed[place.clone()] == kernel.original[place.clone()];
            busy += usize::from(lasts && !ours);
            let expected = if lasts && ours { kernel.original_slot(number) } else { &changed[place.clone()] };
            prop_assert_eq!(kernel.slot(number), expected);
        }
        prop_assert_eq!(outcome.busy, busy);
    }

    #[test]
    fn any_address_can_be_asked_for(
        planned in prop::collection::vec(planned(), 1..40),
        mode in prop::sample::select(&Mode::ALL[..]),
        address in prop_oneof![any::<u64>(), TEXT..TEXT + 400, STUBS..STUBS + 4000],
    ) {
        let mut kernel = Kernel::new(mode, &planned);
        kernel.revert();
        kernel.apply();
        let _ = (kernel.engine.site_of(address), kernel.engine.at_stub(address));
        if let Some(resumed) = kernel.engine.resume(address) {
            prop_assert_eq!(kernel.engine.resume(resumed), None);
        }
    }
}

#[test]
fn the_copy_of_a_replacement_is_switched_with_it() {
    for mode in Mode::ALL {
        let stac = Planned::new(&[0x0f, 0x01, 0xcb], Flags::REPLACEMENT, LiveFlags::all());
        let cli = Planned::new(&[0xfa], Flags::empty(), LiveFlags::all());
        let copy = TEXT + 14;
        let mut kernel = Kernel::with_copies(mode, &[stac.clone(), cli], 16, |_| Applied::Whole(copy));
        let form = if mode == Mode::Native { Form::Fused } else { Form::Call };
        assert_eq!(kernel.entry(0).unwrap().1.form(), form);
        apply_alternative(&mut kernel, 0, copy);
        let applied = kernel.text.clone();
        if form == Form::Call {
            let index = kernel.entry(0).unwrap().0;
            let stub = STUBS + (STUB_SIZE * index) as u64;
            assert_eq!(decode(&kernel.text[14..19], copy)[0].near_branch_target(), stub);
            let body = (0..64).find(|at| kernel.engine.stub(index)[*at..].starts_with(&stac.bytes)).unwrap();
            let at = |offset: usize| kernel.engine.site_of(stub + offset as u64);
            assert_eq!(at(body), Some(Presented::Caller(-5)));
            assert_eq!(at(body + 3), Some(Presented::Caller(0)));
            assert_eq!(kernel.engine.stub(index)[body + 3], 0xc3);
        }
        let slot = kernel.slot(0).to_vec();
        assert_eq!(kernel.revert(), Outcome { changed: 2, busy: 0 });
        assert_eq!(kernel.text[14..19], stac.padded());
        assert_eq!(kernel.slot(0), slot, "the replacement itself is in freed memory");
        assert_eq!(kernel.apply(), Outcome { changed: 2, busy: 0 });
        assert_eq!(kernel.text, applied);
        assert_eq!(kernel.engine.resume(copy + 3), Some(copy + 5));

        kernel.text[14] = 0xcc;
        assert_eq!(kernel.revert(), Outcome { changed: 1, busy: 1 }, "a breakpoint");
    }
}

#[test]
fn a_replacement_that_was_not_applied_is_none_of_ours() {
    let clac = Planned::new(&[0x0f, 0x01, 0xca], Flags::REPLACEMENT, LiveFlags::all());
    let mut kernel = Kernel::with_copies(Mode::Identity, &[clac], 16, |_| Applied::Whole(TEXT + 8));
    kernel.text[8..13].copy_from_slice(&[0x0f, 0x1f, 0x44, 0x00, 0x00]);
    let before = kernel.text.clone();
    assert_eq!((kernel.revert(), kernel.apply()), (Outcome::default(), Outcome::default()));
    assert_eq!(kernel.text, before);
}

#[test]
fn an_interrupted_context_goes_on_behind_the_branch() {
    let plan = |bytes: &[u8]| Planned::new(bytes, Flags::empty(), LiveFlags::all());
    for mode in Mode::ALL {
        let mut kernel = Kernel::new(mode, &[plan(&[0xfa]), plan(&[0x9c, 0x41, 0x5c]), plan(&[0x0f, 0xa2])]);
        kernel.revert();
        assert_eq!(kernel.engine.resume(TEXT + 1), None, "the original is there");
        kernel.apply();
        let [cli, pushf, cpuid] = [0, 1, 2].map(|number| kernel.sites[number].address);
        for (address, expected) in [
            (cli, None),
            (cli + 1, Some(cli + 7)),
            (cli + 7, None),
            (pushf, None),
            (pushf + 3, Some(pushf + 7)),
            (cpuid + 2, Some(cpuid + 5)),
            (cpuid + 5, None),
        ] {
            assert_eq!(kernel.engine.resume(address), expected, "{mode} {:#x}", address - TEXT);
        }
        let between = kernel.engine.resume(pushf + 1);
        match between.and_then(|address| kernel.engine.site_of(address)) {
            None => assert_eq!(mode, Mode::Native, "the second instruction stands where it did"),
            Some(presented) => assert_eq!(presented, Presented::At(pushf + 1)),
        }
    }
}

#[test]
fn returns_get_their_hook_when_switched_on_again() {
    for (mode, flags) in
        [(Mode::Native, Flags::NO_STACK), (Mode::Identity, Flags::empty()), (Mode::Profile, Flags::empty())]
    {
        let iret = Planned::new(&[0x48, 0xcf], flags, LiveFlags::all());
        let mut kernel = Kernel::new(mode, &[iret]);
        assert_eq!(kernel.entry(0).unwrap().1.hook(), None);
        kernel.revert();
        assert_eq!(kernel.apply(), Outcome { changed: 1, busy: 0 });
        let (index, entry) = kernel.entry(0).unwrap();
        assert_eq!((entry.form(), entry.hook()), (Form::Jump, Some(Hook::Return)));
        let base = STUBS + (STUB_SIZE * index) as u64;
        let stub = decode(&kernel.engine.stub(index)[..22], base);
        let filter = usize::from(mode == Mode::Profile);
        let [test, branch, call, body] = &stub[filter..filter + 4] else { panic!("{stub:?}") };
        assert_eq!((test.memory_displacement32(), test.immediate8()), (8, 3));
        assert_eq!(branch.near_branch_target(), body.ip());
        assert_eq!(call.near_branch_target(), HOOKS.ret);
        assert_eq!(body.mnemonic(), iced_x86::Mnemonic::Iretq);
        assert_eq!(kernel.engine.site_of(body.ip()), Some(Presented::At(TEXT)));
        kernel.revert();
        assert_eq!(kernel.text, kernel.original);
    }
}

#[test]
fn modules_come_and_go_for_ever() {
    let plan = |bytes: &[u8]| Planned::new(bytes, Flags::empty(), LiveFlags::all());
    let mut kernel = Kernel::new(Mode::Profile, &[plan(&[0xfa]), plan(&[0xfb])]);
    let of_kernel = kernel.text.clone();
    let planned = [plan(&[0x0f, 0x32]), plan(&[0xfb]), plan(&[0x9c, 0x58])];
    for round in 0..10_000_u64 {
        let start = TEXT + 0x10_0000 + round % 7 * 0x1000;
        let (mut text, mut sites) = (Vec::new(), Vec::new());
        for site in &planned {
            sites.push(site.at(start + text.len() as u64));
            text.extend(site.padded());
        }
        let original = text.clone();
        for site in &sites {
            let taken = kernel.engine.add(site, &mut Piece { bytes: &mut text, address: start });
            assert_eq!(taken, Ok(Ok(())), "round {round}");
        }
        assert_ne!(text, original);
        let entries: Vec<_> = kernel.engine.sites().map(|(index, _)| index).collect();
        assert_eq!(entries, [0, 1, 2, 3, 4], "the same stubs every time");
        assert_eq!(kernel.engine.in_modules(), planned.len());
        kernel.engine.forget(&(start..start + text.len() as u64), |_| false);
        assert_eq!(kernel.engine.in_modules(), 0);
    }
    kernel.engine.forget(&(TEXT..TEXT + 0x1000), |_| false);
    assert_eq!(kernel.engine.sites().count(), 2, "the kernel stays");
    assert_eq!(kernel.text, of_kernel);
}

#[test]
fn a_module_that_comes_while_switched_off_is_rewritten_at_the_next_switch() {
    let cli = Planned::new(&[0xfa], Flags::empty(), LiveFlags::all());
    let mut engine = engine(Mode::Identity, 4);
    let mut text = cli.padded();
    let mut piece = Piece { bytes: &mut text, address: TEXT };
    engine.revert(|_| false, &mut piece);
    assert_eq!(engine.add(&cli.at(TEXT), &mut piece), Ok(Ok(())));
    assert_eq!(piece.bytes, cli.padded());
    assert_eq!(engine.apply(&mut piece), Outcome { changed: 1, busy: 0 });
    assert_eq!(piece.bytes[0], 0xe9);
    let replacement = Planned { flags: Flags::REPLACEMENT, ..cli };
    assert_eq!(engine.add(&replacement.at(TEXT), &mut piece), Ok(Err(Left::Applied)));
}

proptest! {
    /// What is taken is what a plain list of slots says, whichever numbers the sites get.
    #[test]
    fn sites_of_modules_are_found_and_do_not_overlap(
        steps in prop::collection::vec((any::<bool>(), 0..120_u64, 0..40_u64), 1..120),
    ) {
        let cli = Planned::new(&[0xfa], Flags::empty(), LiveFlags::all());
        let slot = u64::from(cli.at(TEXT).slot);
        let mut engine = engine(Mode::Native, 64);
        let mut slots: Vec<u64> = Vec::new();
        for (add, at, length) in steps {
            let (at, mut text) = (TEXT + at, cli.padded());
            if add {
                let free = slots.iter().all(|other| other.abs_diff(at) >= slot);
                let taken = engine.add(&cli.at(at), &mut Piece { bytes: &mut text, address: at });
                prop_assert_eq!(taken, if free { Ok(Ok(())) } else { Err(Reason::Overlap) });
                slots.extend(free.then_some(at));
            } else {
                engine.forget(&(at..at + length), |entry| entry.address().is_multiple_of(7));
                slots.retain(|site| site.is_multiple_of(7) || site + slot <= at || *site >= at + length);
            }
            prop_assert_eq!(engine.in_modules(), slots.len());
            for address in TEXT..TEXT + 130 {
                let found = engine.site_at(address).map(|(number, entry)| (number, entry.address()));
                let known = engine.sites().find(|(_, entry)| entry.address() == address);
                prop_assert_eq!(found, known.map(|(number, entry)| (number, entry.address())));
                prop_assert_eq!(found.is_some(), slots.contains(&address));
            }
        }
    }
}
