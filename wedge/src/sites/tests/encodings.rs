//! The list of encodings held against the decoder, and fused slots against two decoders.

use std::fs;
use std::process::Command;
use std::string::String;

use annotate::check::check as full_check;
use iced_x86::OpKind;
use proptest::prelude::*;

use super::super::bytes::Bytes;
use super::super::encoding::{CS_OVERRIDE, Shape};
use super::super::fuse::{InSlot, fuse};
use super::*;

/// Bytes that often are a listed instruction.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(std::vec![&[][..], &[0xf3], &[0x66], &[0xf3, 0x66], &[0xf2], &[0x2e], &[0x65]]);
    let rex = prop_oneof![Just(None), (0x40_u8..0x50).prop_map(Some)];
    let map = prop::sample::select(std::vec![&[][..], &[0x0f], &[0x0f], &[0x0f, 0x01], &[0x0f, 0x38]]);
    (prefix, rex, map, prop::collection::vec(any::<u8>(), 14))
        .prop_map(|(prefix, rex, map, rest)| [prefix, rex.as_slice(), map, &rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_the_list_accepts_the_decoder_accepts_with_the_same_shape(
        first in instruction(),
        second in instruction(),
        class in prop::sample::select(Class::ALL),
        off_by in prop_oneof![9 => Just(0), 1 => 0_u8..3],
        pad in 0_usize..8,
        as_decoded in prop::bool::weighted(0.9),
    ) {
        let length_of = |bytes: &[u8]| Decoder::new(64, bytes, DecoderOptions::NONE).decode().len();
        let mut bytes = first[..length_of(&first)].to_vec();
        let decoded = row_of(&Decoder::new(64, &bytes, DecoderOptions::NONE).decode()).map(|row| row.class);
        let class = match decoded {
            Some(decoded) if as_decoded && sequence(class).is_none() => decoded,
            _ => class,
        };
        if sequence(class).is_some() {
            bytes.extend(&second[..length_of(&second)]);
        }
        let length = u8::try_from(bytes.len()).unwrap() + off_by;
        let bytes = [&bytes, PADS[pad]].concat();
        let slot = u8::try_from(bytes.len()).unwrap();
        let site = AllegedSite {
            address: TEXT, length, slot, class, liveness: Liveness::UNKNOWN, flags: Flags::empty(),
        };
        if let Some(shape) = Bytes::read(&bytes).and_then(|bytes| Shape::known(&site, bytes)) {
            prop_assert!(full_check(site, &bytes).is_ok(), "{:02x?} {:?}", bytes, site);
            let decoded = Shape::decoded(&site, &bytes).unwrap();
            prop_assert!(shape.stack || !decoded.stack);
            prop_assert_eq!(Shape { stack: decoded.stack, ..shape }, decoded, "{:02x?}", bytes);
        }
    }
}

#[test]
fn what_kernels_consist_of_is_listed() {
    for pattern in PATTERNS {
        let planned = Planned::new(pattern, Flags::empty(), LiveFlags::all());
        let site = planned.at(TEXT);
        let known = Shape::known(&site, Bytes::read(&planned.padded()).unwrap()).unwrap();
        let decoded = Shape::decoded(&site, &planned.padded()).unwrap();
        // The list takes the last bits of a longer opcode for a register; RSP by mistake is on the
        // safe side.
        let stack = known.stack && planned.class() == Class::Stgi || decoded.stack;
        assert_eq!(known, Shape { stack, ..decoded }, "{pattern:02x?}");
    }
}

/// The slot of a pattern, fused.
fn fused(planned: &Planned) -> Vec<u8> {
    let shape = Shape::of(&planned.at(TEXT), &planned.padded(), None).unwrap();
    let site = InSlot {
        bytes: Bytes::read(&planned.padded()).unwrap(),
        slot: planned.slot,
        length: u8::try_from(planned.bytes.len()).unwrap(),
        second: shape.second,
        displacement: shape.displacement,
    };
    let fused = fuse(&site, shape.filler).unwrap();
    fused.array()[..usize::from(planned.slot)].to_vec()
}

/// What an instruction does, without where it stands and how long it is.
fn meaning(instruction: &Instruction) -> impl PartialEq + std::fmt::Debug + use<> {
    let memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    let operands: Vec<_> = (0..instruction.op_count())
        .map(|operand| (instruction.op_kind(operand), instruction.op_register(operand)))
        .collect();
    let address = memory.then(|| {
        let target = instruction.memory_displacement64();
        (instruction.memory_base(), instruction.memory_index(), instruction.memory_index_scale(), target)
    });
    (instruction.code(), operands, address, instruction.immediate8(), instruction.has_rep_prefix())
}

#[test]
fn a_fused_slot_is_the_same_instruction_and_nothing_else() {
    for pattern in PATTERNS {
        for longer in [0, 1, 2] {
            let mut planned = Planned::new(pattern, Flags::empty(), LiveFlags::all());
            planned.slot += longer * u8::from(usize::from(planned.slot) - pattern.len() + usize::from(longer) < 8);
            let (before, after) = (decode(pattern, TEXT), decode(&fused(&planned), TEXT));
            assert_eq!(after.len(), before.len(), "{pattern:02x?}: {:02x?}", fused(&planned));
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(meaning(after), meaning(before), "{pattern:02x?}");
            }
            assert_eq!(after.iter().map(Instruction::len).sum::<usize>(), usize::from(planned.slot));
            if after.len() == 2 {
                assert_eq!(after[0].len(), before[0].len(), "a context between the two goes on at the same address");
            }
        }
    }
}

#[test]
fn a_segment_override_is_repeated() {
    // verw %gs:0x10(%rax), in a slot of 7; then an override of DS, which is ignored but for the
    // last one counting
    for (bytes, prefix) in [(&[0x65, 0x0f, 0x00, 0x68, 0x10][..], 0x65), (&[0x3e, 0x0f, 0x00, 0x68, 0x10], 0x3e)] {
        let mut planned = Planned::new(bytes, Flags::empty(), LiveFlags::all());
        planned.slot = 7;
        assert_eq!(fused(&planned), [&[prefix; 2], bytes].concat());
    }
    let plain = Planned::new(&[0x0f, 0x32], Flags::empty(), LiveFlags::all());
    assert_eq!(fused(&plain), [CS_OVERRIDE, CS_OVERRIDE, CS_OVERRIDE, 0x0f, 0x32]);
}

/// `objdump`'s word for each instruction, without prefixes that it shows as words.
pub(super) fn objdump(bytes: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let mut objdump = Command::new("objdump");
    objdump.args(["-D", "-z", "-bbinary", "-mi386:x86-64", "--no-show-raw-insn", "--adjust-vma=0x81000000"]);
    let output = objdump.arg(file.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(":\t"));
    let words = |line: String| line.split_whitespace().filter(|word| *word != "cs").collect::<Vec<_>>().join(" ");
    lines.map(|(_, instruction)| words(instruction.replace("%cs:", ""))).collect()
}

#[test]
fn objdump_sees_the_same_instruction_too() {
    for pattern in PATTERNS {
        let planned = Planned::new(pattern, Flags::empty(), LiveFlags::all());
        let (before, after) = (objdump(pattern), objdump(&fused(&planned)));
        // A displacement from RIP is shown as it is encoded; the other decoder has compared what it
        // means.
        let shape = Shape::of(&planned.at(TEXT), &planned.padded(), None).unwrap();
        if shape.displacement == 0 || usize::from(planned.slot) == pattern.len() {
            assert_eq!(after, before, "{pattern:02x?}");
        }
    }
}
