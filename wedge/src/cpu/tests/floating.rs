//! FXSAVE and FXRSTOR, where a program's registers are kept apart from those of the kernel.
//!
//! | dimension | values |
//! |---|---|
//! | registers | kept apart; those of the processor |
//! | form | with addresses of 64 bits; with selectors |
//! | CR0 | TS or EM set |
//! | memory | mapped; at no multiple of 16; unmapped |
//! | MXCSR | bits that there are; that there are not |

use super::*;
use crate::x86::control::cr0;
use crate::x86::vector;

const FXSAVE: &[u8] = &[0x0f, 0xae, 0x00];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x00];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x08];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x08];

/// Registers that are not what they are at first.
fn state() -> FloatingPoint {
    let mut state = FloatingPoint::INITIAL;
    for (at, byte) in state.0.iter_mut().enumerate().skip(32) {
        *byte = at as u8;
    }
    state
}

fn world() -> World {
    let mut world = World::kernel();
    world.context.registers.rax = KERNEL_DATA + 0x100;
    world.host.floating_point = Some((state(), true));
    world
}

#[test]
fn what_is_saved_is_what_is_kept() {
    for bytes in [FXSAVE, FXSAVE64] {
        let mut world = world();
        world.next(bytes);
        let mut saved = [0; 416];
        world.host.read(KERNEL_DATA + 0x100, &mut saved, false).unwrap();
        assert_eq!(saved, state().0[..416], "{bytes:02x?}");
    }
}

#[test]
fn what_is_loaded_is_kept() {
    for (bytes, wide) in [(FXRSTOR, false), (FXRSTOR64, true)] {
        let mut world = world();
        world.host.floating_point = Some((FloatingPoint::INITIAL, true));
        world.host.write(KERNEL_DATA + 0x100, &state().0, false).unwrap();
        world.next(bytes);
        assert_eq!(world.host.floating_point, Some((state(), wide)), "{bytes:02x?}");
    }
}

#[test]
fn registers_of_the_processor_are_the_instructions_own() {
    for bytes in [FXSAVE, FXSAVE64, FXRSTOR, FXRSTOR64] {
        let mut world = world();
        world.host.floating_point = None;
        assert_eq!(world.execute(bytes), Ok(Flow::Unhandled), "{bytes:02x?}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    const MXCSR_RESERVED: usize = 27;
    type Change = fn(&mut World);
    let cases: [(Change, u8); 5] = [
        (|world| world.cpu.cr0 |= cr0::TS, vector::DEVICE_NOT_AVAILABLE),
        (|world| world.cpu.cr0 |= cr0::EM, vector::DEVICE_NOT_AVAILABLE),
        (|world| world.context.registers.rax += 8, vector::PROTECTION),
        (|world| world.context.registers.rax = 1 << 62, vector::PROTECTION),
        (|world| world.context.registers.rax = UNMAPPED, vector::PAGE_FAULT),
    ];
    for (change, expected) in cases {
        for bytes in [FXSAVE, FXSAVE64, FXRSTOR, FXRSTOR64] {
            let mut world = world();
            change(&mut world);
            let found = world.execute(bytes).map_err(|exception| exception.vector);
            assert_eq!(found, Err(expected), "{bytes:02x?}");
            assert_eq!(world.host.floating_point, Some((state(), true)));
        }
    }
    let mut world = world();
    let mut wrong = state();
    wrong.0[MXCSR_RESERVED] = 1;
    world.host.write(KERNEL_DATA + 0x100, &wrong.0, false).unwrap();
    assert_eq!(world.execute(FXRSTOR64), Err(Exception::PROTECTION));
    assert_eq!(world.host.floating_point, Some((state(), true)));
}
