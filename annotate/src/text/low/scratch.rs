//! A register for an address.

use super::operands::register64;
use crate::text::operands::Syntax;

/// Registers that no instruction uses without naming it, in the order in which they are tried.
const REGISTERS: [(&[u8], u8); 4] = [(b"%r11", 11), (b"%r10", 10), (b"%r9", 9), (b"%r8", 8)];

/// The stack pointer's number in an encoding (SDM Vol. 2A, Table 2-2).
pub(super) const STACK_POINTER: u8 = 4;

/// A register that an address can be in while an instruction runs.
pub(super) enum Scratch {
    /// The instruction overwrites it anyway.
    Destination(Vec<u8>),
    /// It is saved on the stack meanwhile.
    Saved(&'static [u8]),
}

impl Scratch {
    /// One that an instruction with these operands does not name, if the stack pointer serves only
    /// as a base in it.
    pub(super) fn saved(mnemonic: &[u8], operands: &[u8]) -> Option<Self> {
        let uses_stack =
            [&b"push"[..], b"pop", b"call", b"lcall", b"jmp", b"ljmp", b"ret", b"lret", b"iret", b"enter", b"leave"];
        if uses_stack.iter().any(|name| mnemonic.starts_with(name)) && !mnemonic.starts_with(b"popcnt") {
            return None;
        }
        let names = |number: u8| registers(operands).any(|(_, register)| register == number);
        let is_base = |at: usize| {
            operands[..at].ends_with(b"(")
                && operands[at..].get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"%rsp"))
        };
        if registers(operands).any(|(at, register)| register == STACK_POINTER && !is_base(at)) {
            return None;
        }
        REGISTERS.iter().find(|(_, number)| !names(*number)).map(|(name, _)| Self::Saved(name))
    }

    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::Destination(name) => name,
            Self::Saved(name) => name,
        }
    }

    /// How far the register that has been saved has moved what a base register leads to.
    pub(super) fn moved(&self, base: &[u8]) -> &'static [u8] {
        let is_moved = matches!(self, Self::Saved(_)) && register64(base) == Some(STACK_POINTER);
        if is_moved { b"8" } else { b"" }
    }
}

/// The general-purpose registers that a text names, of any width, and where.
fn registers(text: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    memchr::memchr_iter(b'%', text).filter_map(|at| {
        let name = &text[at..];
        let length = name[1..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(name.len(), |end| end + 1);
        Some((at, Syntax::default().general_register(&name[..length])?.number))
    })
}
