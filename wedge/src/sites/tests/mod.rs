//! Tests of the rewriter as a whole, on a small kernel of a few sites.

extern crate std;

mod deprivileged;
mod encodings;
mod execution;
mod moves;
mod processor;
mod switching;
mod taking;
mod templates;

use std::boxed::Box;
use std::iter;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::vec::Vec;

use annotate::instructions::{Class, decode_next, row_of, sequence};
use annotate::record::{AllegedSite, Flags, LiveFlags, LiveRegisters, Liveness, RECORD_SIZE, RawRecord};
use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::*;
use crate::sites::{Refusal, SiteTable};

pub(super) const TEXT: u64 = 0xffff_ffff_8100_0000;
const STUBS: u64 = 0xffff_ffff_7f20_0000;
const COUNTERS: u64 = 0xffff_ffff_7f40_0000;
const HOOKS: Hooks = Hooks {
    port: 0xffff_ffff_7f00_0100,
    flush: 0xffff_ffff_7f00_0200,
    descriptor: 0xffff_ffff_7f00_0300,
    fault: 0xffff_ffff_7f00_0400,
    ret: 0xffff_ffff_7f00_0500,
};

pub(super) const MACHINE: Deprivileged = Deprivileged {
    mask: 0xffff_ffff_7f00_1001,
    pending: 0xffff_ffff_7f00_1000,
    gs_swapped: 0xffff_ffff_7f00_1002,
    control: [
        0xffff_ffff_7f00_1010,
        0,
        0xffff_ffff_7f00_1020,
        0xffff_ffff_7f00_1028,
        0xffff_ffff_7f00_1030,
        0,
        0,
        0,
        0,
    ],
    site: 0xffff_ffff_7f00_1004,
    emulate: 0xffff_ffff_7f00_0600,
    emulate_without_stack: 0xffff_ffff_7f00_0700,
    interrupt: 0xffff_ffff_7f00_0800,
    iret: 0xffff_ffff_7f00_0900,
    sysret: 0xffff_ffff_7f00_0a00,
    code_selector: 0xe033,
    stack_selector: 0xe02b,
    virtual_selectors: false,
    counts: false,
    own_floating_point: false,
};

/// Recommended NOPs by length.
const PADS: [&[u8]; 8] = [
    &[],
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
];

/// Instructions and sequences as kernels have them, one or more of every class.
pub(super) const PATTERNS: &[&[u8]] = &[
    &[0xfa],
    &[0xfb],
    &[0x9c],
    &[0x9d],
    &[0xf4],
    &[0x0f, 0x01, 0xca],
    &[0x0f, 0x01, 0xcb],
    &[0x0f, 0x01, 0xdc],
    &[0x0f, 0x01, 0xc8],
    &[0x0f, 0x01, 0xfa],
    &[0x66, 0x0f, 0xae, 0xf1],
    &[0x0f, 0x20, 0xc0],
    &[0x41, 0x0f, 0x20, 0xdc],
    &[0x0f, 0x22, 0xdf],
    &[0x0f, 0x22, 0xe0],
    &[0x0f, 0x22, 0xdc],
    &[0x41, 0x0f, 0x22, 0xc0],
    &[0x0f, 0x21, 0xf0],
    &[0x41, 0x0f, 0x23, 0xfc],
    &[0x0f, 0x01, 0xd0],
    &[0x48, 0x0f, 0xae, 0x46, 0x40],
    &[0x48, 0x0f, 0xae, 0x0f],
    &[0x0f, 0xae, 0x05, 0x90, 0xb5, 0x06, 0x00],
    &[0x48, 0x0f, 0xc7, 0x2f],
    &[0x48, 0x0f, 0xc7, 0x1f],
    &[0x48, 0x0f, 0xc7, 0x9f, 0x40, 0x01, 0x00, 0x00],
    &[0x41, 0x8c, 0xc6],
    &[0x66, 0x8c, 0xd8],
    &[0x8e, 0xe0],
    &[0x0f, 0x01, 0x44, 0x24, 0x06],
    &[0x0f, 0x01, 0x4d, 0xa2],
    &[0x0f, 0x00, 0x44, 0x24, 0x08],
    &[0x0f, 0x00, 0xca],
    &[0x0f, 0x01, 0x15, 0x0f, 0x6a, 0x82, 0x00],
    &[0x0f, 0x01, 0x1d, 0x09, 0x78, 0xe0, 0xff],
    &[0x0f, 0x01, 0x5c, 0x24, 0x06],
    &[0x0f, 0x00, 0xd6],
    &[0x0f, 0x00, 0xd8],
    &[0x0f, 0x02, 0x87, 0xa0, 0x00, 0x00, 0x00],
    &[0x48, 0x0f, 0x03, 0xc0],
    &[0x0f, 0x00, 0x2d, 0x03, 0xfe, 0xff, 0xff],
    &[0xf2, 0x0f, 0x00, 0xf7],
    &[0xf3, 0x48, 0x0f, 0xae, 0xc3],
    &[0xf3, 0x49, 0x0f, 0xae, 0xd4],
    &[0x0f, 0x01, 0xf8],
    &[0x48, 0xcf],
    &[0x48, 0xcb],
    &[0xff, 0x68, 0x18],
    &[0x48, 0x0f, 0x07],
    &[0x66, 0xed],
    &[0xe4, 0x21],
    &[0xec],
    &[0xed],
    &[0xe6, 0xa1],
    &[0xee],
    &[0x66, 0xef],
    &[0xf3, 0x6c],
    &[0xf3, 0x66, 0x6f],
    &[0x0f, 0x32],
    &[0x0f, 0x30],
    &[0x0f, 0xa2],
    &[0x0f, 0x31],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x33],
    &[0x0f, 0x01, 0xee],
    &[0x0f, 0x01, 0xef],
    &[0x0f, 0x01, 0x3f],
    &[0x66, 0x0f, 0x38, 0x82, 0x04, 0x24],
    &[0x66, 0x0f, 0x38, 0x82, 0x84, 0x24, 0x88, 0x00, 0x00, 0x00],
    &[0x0f, 0x09],
    &[0x0f, 0x01, 0xc1],
    &[0x0f, 0x01, 0xd9],
    &[0x9c, 0x41, 0x5c],
    &[0x9c, 0x5b],
    &[0x41, 0x54, 0x9d],
    &[0xfb, 0xf4],
    &[0xfb, 0x0f, 0x01, 0xc9],
];

/// A site to be.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) bytes: Vec<u8>,
    pub(super) slot: u8,
    pub(super) flags: Flags,
    pub(super) live: LiveFlags,
}

impl Planned {
    pub(super) fn new(bytes: &[u8], flags: Flags, live: LiveFlags) -> Self {
        let slot = if bytes == [0xfa] || bytes[0] == 0x9c && bytes.len() > 1 { 7 } else { 5 };
        Self { bytes: bytes.to_vec(), slot: slot.max(u8::try_from(bytes.len()).unwrap()), flags, live }
    }

    pub(super) fn class(&self) -> Class {
        class_of(&self.bytes)
    }

    /// The slot's bytes.
    pub(super) fn padded(&self) -> Vec<u8> {
        [&self.bytes, PADS[usize::from(self.slot) - self.bytes.len()]].concat()
    }

    pub(super) fn at(&self, address: u64) -> AllegedSite {
        AllegedSite {
            address,
            length: u8::try_from(self.bytes.len()).unwrap(),
            slot: self.slot,
            class: self.class(),
            liveness: Liveness { registers: LiveRegisters::all(), flags: self.live },
            flags: self.flags,
        }
    }
}

fn class_of(bytes: &[u8]) -> Class {
    let instructions: Vec<_> = decode(bytes, TEXT);
    let parts = |class: Class| {
        let sequence = sequence(class)?;
        (sequence.first.matches(&instructions[0]) && sequence.second.matches(&instructions[1])).then_some(class)
    };
    match instructions.len() {
        1 => row_of(&instructions[0]).unwrap().class,
        _ => Class::ALL.iter().copied().find_map(parts).unwrap(),
    }
}

pub(super) fn decode(bytes: &[u8], address: u64) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let next = || decoder.can_decode().then(|| decode_next(&mut decoder, bytes));
    let instructions: Vec<_> = iter::from_fn(next).collect();
    assert!(!instructions.iter().any(Instruction::is_invalid), "{bytes:02x?}");
    instructions
}

/// A kernel of some sites, each followed by a `ret`, and what it takes to rewrite it.
pub(super) struct Kernel {
    pub(super) engine: Engine<'static>,
    pub(super) text: Vec<u8>,
    pub(super) original: Vec<u8>,
    pub(super) sites: Vec<AllegedSite>,
    pub(super) summary: Summary,
}

impl Kernel {
    pub(super) fn new(mode: Mode, planned: &[Planned]) -> Self {
        Self::with_copies(mode, planned, 0, |_| Applied::Somewhere)
    }

    /// A kernel with some free bytes behind the text, for copies.
    pub(super) fn with_copies(
        mode: Mode,
        planned: &[Planned],
        free: usize,
        applied: impl FnMut(usize) -> Applied,
    ) -> Self {
        let (mut text, mut sites) = (Vec::new(), Vec::new());
        for site in planned {
            sites.push(site.at(TEXT + text.len() as u64));
            text.extend(site.padded());
            text.push(0xc3);
        }
        text.extend(iter::repeat_n(0xcc, free));
        let original = text.clone();
        let mut engine = engine(mode, planned.len() + 8);
        let table = table(&sites);
        let table = SiteTable::new(&table, TEXT).unwrap();
        let summary = engine.rewrite(&table, applied, &mut Piece { bytes: &mut text, address: TEXT }).unwrap();
        Self { engine, text, original, sites, summary }
    }

    pub(super) fn entry(&self, number: usize) -> Option<(usize, &Site)> {
        self.engine.sites().find(|(_, entry)| entry.address() == self.sites[number].address)
    }

    pub(super) fn place(&self, number: usize) -> Range<usize> {
        let start = usize::try_from(self.sites[number].address - TEXT).unwrap();
        start..start + usize::from(self.sites[number].slot)
    }

    pub(super) fn slot(&self, number: usize) -> &[u8] {
        &self.text[self.place(number)]
    }

    pub(super) fn original_slot(&self, number: usize) -> &[u8] {
        &self.original[self.place(number)]
    }

    pub(super) fn revert(&mut self) -> Outcome {
        self.engine.revert(|_| false, &mut Piece { bytes: &mut self.text, address: TEXT })
    }

    pub(super) fn apply(&mut self) -> Outcome {
        self.engine.apply(&mut Piece { bytes: &mut self.text, address: TEXT })
    }
}

/// An engine with room for so many sites.
pub(super) fn engine(mode: Mode, sites: usize) -> Engine<'static> {
    match mode {
        Mode::Deprivileged => Engine::deprivileged(MACHINE, Mode::default(), memory(sites)),
        mode => Engine::new(mode, HOOKS, memory(sites)),
    }
}

fn memory(sites: usize) -> Memory<'static> {
    Memory {
        sites: Box::leak(std::vec![None; sites].into()),
        stubs: Box::leak(std::vec![[0; STUB_SIZE]; sites].into()),
        stubs_address: STUBS,
        counters: Box::leak((0..sites).map(|_| AtomicU64::new(0)).collect()),
        counters_address: COUNTERS,
        snapshot: Box::leak(std::vec![0; sites].into()),
        order: Box::leak(std::vec![0; sites].into()),
    }
}

/// The table of these sites, to stand at the start of the text.
pub(super) fn table(sites: &[AllegedSite]) -> Vec<u8> {
    let record = |(number, site): (usize, &AllegedSite)| {
        let distance = site.address.wrapping_sub(TEXT).wrapping_sub((RECORD_SIZE * number) as u64);
        let raw = RawRecord {
            site: i32::try_from(distance.cast_signed()).unwrap(),
            length: site.length,
            slot: site.slot,
            class: site.class as u8,
            live_flags: site.liveness.flags.bits(),
            live_registers: site.liveness.registers.bits(),
            flags: site.flags.bits(),
        };
        RawRecord { site: raw.site.wrapping_add(raw.displacement()), ..raw }.to_bytes()
    };
    sites.iter().enumerate().flat_map(record).collect()
}

#[test]
fn a_table_with_one_wrong_record_changes_nothing() {
    let (cli, sti) = (Planned::new(&[0xfa], Flags::empty(), LiveFlags::all()), [0xfb, 0x0f, 0x1f, 0x40, 0x00]);
    let mut text = [cli.padded(), sti.to_vec()].concat();
    let before = text.clone();
    for wrong in [cli.at(TEXT + 7), AllegedSite { slot: 5, ..cli.at(TEXT + 6) }] {
        let table = table(&[cli.at(TEXT), wrong]);
        let mut engine = engine(Mode::Identity, 8);
        let mut piece = Piece { bytes: &mut text, address: TEXT };
        let refused = engine.rewrite(&SiteTable::new(&table, TEXT).unwrap(), |_| Applied::Somewhere, &mut piece);
        assert!(matches!(refused, Err(Refusal::Record { number: 1, .. })), "{refused:?}");
        assert_eq!(engine.sites().count(), 0);
        assert_eq!(text, before);
    }
}
