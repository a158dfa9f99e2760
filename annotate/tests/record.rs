//! Records by themselves, and held against bytes.

use annotate::check::{Contradiction, check};
use annotate::instructions::{Class, TABLE, row_of, sequence};
use annotate::record::{
    AllegedSite, Flags, LiveFlags, LiveRegisters, Liveness, MINIMUM_SLOT, RECORD_SIZE, RawRecord, RecordError,
};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use proptest::prelude::*;

fn raw(length: u8, slot: u8, class: Class, flags: Flags) -> RawRecord {
    RawRecord {
        site: -8,
        length,
        slot,
        class: class as u8,
        live_flags: 0x7f,
        live_registers: 0xffff,
        flags: flags.bits(),
    }
}

fn alleged(length: u8, slot: u8, class: Class, flags: Flags) -> AllegedSite {
    raw(length, slot, class, flags).allegation(0x1000).expect("a well-formed record")
}

#[test]
fn a_well_formed_record_says_what_it_says() {
    let site = alleged(1, 7, Class::Cli, Flags::INIT);
    assert_eq!(
        site,
        AllegedSite {
            address: 0x1000,
            length: 1,
            slot: 7,
            class: Class::Cli,
            liveness: Liveness::UNKNOWN,
            flags: Flags::INIT
        }
    );
}

#[test]
fn a_malformed_record_is_refused() {
    let cli = raw(1, 5, Class::Cli, Flags::empty());
    let cases = [
        (RawRecord { class: 0, ..cli }, RecordError::Class(0)),
        (RawRecord { class: 255, ..cli }, RecordError::Class(255)),
        (RawRecord { flags: 1 << 15, ..cli }, RecordError::Flags(1 << 15)),
        (RawRecord { live_flags: 0x80, ..cli }, RecordError::LiveFlags(0x80)),
        (RawRecord { length: 0, ..cli }, RecordError::Length { length: 0, slot: 5 }),
        (RawRecord { length: 6, ..cli }, RecordError::Length { length: 6, slot: 5 }),
        (RawRecord { slot: 4, ..cli }, RecordError::ShortSlot(4)),
        (raw(1, 5, Class::Cli, Flags::CODE32), RecordError::PaddedYetUnpadded { length: 1, slot: 5 }),
    ];
    for (record, error) in cases {
        assert_eq!(record.allegation(0), Err(error), "{record:?}");
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn an_unpadded_site_may_be_short() {
    let site = alleged(1, 1, Class::Cli, Flags::CODE32);
    assert!(check(site, &[0xfa]).is_ok());
}

#[test]
fn registers_are_numbered_as_in_encodings() {
    assert_eq!(LiveRegisters::register(4), LiveRegisters::RSP);
    assert_eq!(LiveRegisters::register(15).bits(), 1 << 15);
    assert_eq!(LiveFlags::all().bits(), 0x7f);
}

#[test]
fn a_site_that_is_as_alleged_passes() {
    let cases: [(AllegedSite, &[u8]); 6] = [
        (alleged(1, 7, Class::Cli, Flags::empty()), &[0xfa, 0x66, 0x0f, 0x1f, 0x44, 0, 0]),
        (alleged(2, 5, Class::PushfPop, Flags::empty()), &[0x9c, 0x58, 0x0f, 0x1f, 0x00, 0xc3]),
        (alleged(2, 5, Class::PushPopf, Flags::empty()), &[0x57, 0x9d, 0x0f, 0x1f, 0x00]),
        (alleged(2, 5, Class::StiHlt, Flags::empty()), &[0xfb, 0xf4, 0x90, 0x66, 0x90]),
        (alleged(3, 5, Class::Swapgs, Flags::empty()), &[0x0f, 0x01, 0xf8, 0x66, 0x90]),
        // `mov %eax, %cr3` has no other operand size in 64-bit mode; here it is 32-bit code.
        (alleged(3, 3, Class::MovToCr, Flags::CODE32), &[0x0f, 0x22, 0xd8]),
    ];
    for (site, bytes) in cases {
        let checked = check(site, bytes).unwrap_or_else(|error| panic!("{site:?}: {error}"));
        assert_eq!(checked.site(), &site);
        assert_eq!(checked.instruction().ip(), 0x1000);
    }
}

#[test]
fn a_contradiction_is_named() {
    let cli = alleged(1, 5, Class::Cli, Flags::empty());
    let popped = alleged(2, 5, Class::PushfPop, Flags::empty());
    let cases: [(AllegedSite, &[u8], Contradiction); 8] = [
        (cli, &[0xfa, 0x90, 0x90, 0x90], Contradiction::OutOfText),
        (cli, &[0xfb, 0x90, 0x90, 0x90, 0x90], Contradiction::Class(Some(Class::Sti))),
        (cli, &[0x90; 5], Contradiction::Class(None)),
        (cli, &[0x06, 0x90, 0x90, 0x90, 0x90], Contradiction::Undecodable(0)),
        (cli, &[0xf3, 0xfa, 0x90, 0x90, 0x90], Contradiction::Length(2)),
        (cli, &[0xfa, 0x90, 0xc3, 0x90, 0x90], Contradiction::NotPadding(2)),
        (cli, &[0xfa, 0x0f, 0x1f, 0x44, 0x00], Contradiction::Undecodable(1)),
        (popped, &[0x9c, 0xfa, 0x90, 0x90, 0x90], Contradiction::Class(Some(Class::Cli))),
    ];
    for (site, bytes, contradiction) in cases {
        assert_eq!(check(site, bytes).map(|checked| *checked.site()), Err(contradiction), "{bytes:02x?}");
        assert!(!contradiction.to_string().is_empty());
    }
}

#[test]
fn numbers_and_names_lead_back_to_their_class() {
    for &class in Class::ALL {
        assert_eq!(Class::from_number(class as u8), Some(class));
        assert_eq!(Class::from_name(class.name()), Some(class));
        assert_eq!(sequence(class).is_some(), TABLE.iter().all(|row| row.class != class));
    }
}

proptest! {
    #[test]
    fn bytes_survive_being_read_and_written(bytes: [u8; RECORD_SIZE]) {
        prop_assert_eq!(RawRecord::from_bytes(&bytes).to_bytes(), bytes);
    }

    #[test]
    fn what_is_accepted_is_what_was_written(bytes: [u8; RECORD_SIZE], address: u64) {
        let raw = RawRecord::from_bytes(&bytes);
        if let Ok(site) = raw.allegation(address) {
            prop_assert_eq!(site.address, address);
            prop_assert_eq!([site.length, site.slot, site.class as u8], [raw.length, raw.slot, raw.class]);
            prop_assert_eq!(site.flags.bits(), { raw.flags });
            prop_assert_eq!(site.liveness.registers.bits(), { raw.live_registers });
            prop_assert_eq!(site.liveness.flags.bits(), raw.live_flags);
            prop_assert!(site.length <= site.slot);
            prop_assert!(site.slot >= MINIMUM_SLOT || site.flags.unpadded_reason().is_some());
        }
    }

    /// A checked site is a sensitive instruction or sequence followed by NOPs, whatever the record
    /// and the text.
    #[test]
    fn what_passes_is_sensitive_and_padded(
        class in proptest::sample::select(Class::ALL),
        start in prop_oneof![
            Just(vec![0xfa]), Just(vec![0x9c]), Just(vec![0x9c, 0x58]), Just(vec![0x0f, 0x30]), Just(vec![0x0f, 0x01, 0xf8]),
            proptest::collection::vec(any::<u8>(), 1..8),
        ],
        rest in proptest::collection::vec(prop_oneof![Just(0x90u8), any::<u8>()], 0..12),
        length in 1u8..8,
        slot in 5u8..16,
    ) {
        let text = [start, rest].concat();
        let Ok(site) = raw(length, slot, class, Flags::empty()).allegation(u64::MAX) else { return Ok(()) };
        if let Ok(checked) = check(site, &text) {
            let mut decoder = Decoder::with_ip(64, &text[..slot.into()], u64::MAX, DecoderOptions::NONE);
            let mut instructions = decoder.iter();
            prop_assert_eq!(instructions.next(), Some(*checked.instruction()));
            if let Some(sequence) = sequence(class) {
                prop_assert!(sequence.first.matches(checked.instruction()));
                prop_assert!(instructions.next().is_some_and(|second| sequence.second.matches(&second)));
            } else {
                prop_assert_eq!(row_of(checked.instruction()).map(|row| row.class), Some(class));
            }
            prop_assert!(instructions.all(|instruction| instruction.mnemonic() == Mnemonic::Nop));
        }
    }
}
