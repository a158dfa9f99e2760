//! What holds of every instruction, frame and event.
//!
//! | given | holds |
//! |---|---|
//! | any bytes, registers, level | what is sensitive is handled, nothing else; a fault changes nothing |
//! | any frame of IRETQ | a program never becomes the kernel, nor gets another IOPL; RIP is canonical |
//! | any event, any gates | a handler at a canonical address, of no outer level, or the CPU stops |

use annotate::instructions::row_of;
use iced_x86::{Mnemonic, OpKind};
use proptest::prelude::*;

use super::*;

/// Registers that point to memory, or anywhere.
fn values() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(KERNEL_DATA), Just(USER_DATA), Just(UNMAPPED), 0..0x200u64]
}

fn selector() -> impl Strategy<Value = u16> {
    prop_oneof![0..0xb0u16, any::<u16>()]
}

/// Bytes of which many are sensitive instructions.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(std::vec![&[][..], &[0x48], &[0x66], &[0xf3], &[0x67], &[0x65], &[0xf3, 0x48]]);
    let opcode = prop::sample::select(std::vec![
        &[][..],
        &[0x0f],
        &[0x0f, 0x00],
        &[0x0f, 0x01],
        &[0x0f, 0x20],
        &[0x0f, 0x22],
        &[0x8e],
        &[0xcf],
        &[0x6d],
        &[0xff],
    ]);
    (prefix, opcode, prop::collection::vec(any::<u8>(), 12)).prop_map(|(prefix, opcode, rest)| {
        let mut bytes = prefix.to_vec();
        bytes.extend_from_slice(opcode);
        bytes.extend(rest);
        bytes
    })
}

proptest! {
    /// Nothing is sensitive and unhandled, but far branches through call gates; nothing else is
    /// handled, but half a sequence: PUSH and POP of a register, and UD2; and a fault leaves the
    /// context as it was, but for strings and the trap of INT1.
    #[test]
    fn instructions(bytes in code(), user: bool, [rax, rcx, rdx, rdi] in prop::array::uniform4(values())) {
        let mut world = if user { World::user() } else { World::kernel() };
        let Some(instruction) = decode(&bytes, world.context.rip) else { return Ok(()) };
        world.context.registers = Registers { rax, rcx: rcx & 0xffff_ffff_0000_00ff, rdx, rdi, ..Registers::default() };
        let before = world.context;
        let outcome = emulate(&mut world.cpu, &mut world.context, &instruction, &mut world.host);
        let half = matches!(instruction.mnemonic(), Mnemonic::Push | Mnemonic::Pop);
        let register = half && instruction.op0_kind() == OpKind::Register;
        let sensitive = register || instruction.mnemonic() == Mnemonic::Ud2 || row_of(&instruction).is_some();
        match outcome {
            Ok(Flow::Unhandled) => {
                let far = instruction.is_jmp_far_indirect() || instruction.is_call_far_indirect();
                prop_assert!(!sensitive || far);
            }
            Ok(_) => prop_assert!(sensitive),
            Err(_) => {
                let partial = instruction.is_string_instruction() || instruction.mnemonic() == Mnemonic::Int1;
                prop_assert!(sensitive && (partial || world.context == before));
            }
        }
    }

    /// A program never becomes the kernel by a return, and whoever returns holds selectors of one
    /// level, canonical RIP.
    #[test]
    fn returns(
        user: bool,
        rip in values(),
        cs in selector(),
        rflags: u64,
        rsp: u64,
        ss in selector(),
    ) {
        let mut world = if user { World::user() } else { World::kernel() };
        let frame = Frame { rip, cs: cs.into(), rflags, rsp, ss: ss.into() };
        if let Ok(to) = check_return(&world.cpu, &world.context, &frame, &mut world.host) {
            prop_assert!(to.cpl() >= world.context.cpl());
            prop_assert!(is_canonical(to.frame.rip));
            prop_assert!(Selector(ss).is_null() || Selector(ss).rpl() == to.cpl());
            prop_assert!(!user || to.frame.rflags & flags::IOPL == world.context.rflags & flags::IOPL);
        }
    }

    /// Whatever is in the IDT: an event is delivered to a canonical address at no outer level, or
    /// the CPU stops.
    #[test]
    fn events(user: bool, vector: u8, entries in prop::collection::vec(any::<[u64; 2]>(), 16), rsp in values()) {
        let mut world = if user { World::user() } else { World::kernel() };
        world.context.rsp = rsp;
        for (at, entry) in (IDT..).step_by(16).zip(&entries) {
            world.host.put(at, entry);
        }
        let before = world.context;
        if world.deliver(Event::Interrupt(vector)).is_ok() {
            prop_assert!(is_canonical(world.context.rip) && world.context.cpl() <= before.cpl());
        } else {
            prop_assert_eq!(world.context, before);
        }
    }
}
