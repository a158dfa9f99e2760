//! Operands: which register file they name, and how many bytes they add to an encoding.
//!
//! AT&T operands come source first, Intel ones destination first (GAS manual, 9.16.4.1). `.intel_syntax noprefix` and
//! `.att_syntax noprefix` drop the `%` of registers.

use super::expression::Sum;
use crate::instructions::{RegisterFile, When};

/// The vector of INT3 (SDM Vol. 3A, Table 6-1).
const BREAKPOINT: i64 = 3;

/// The control registers that there are (SDM Vol. 2B, MOV to/from Control Registers: others are undefined).
pub(super) const CONTROL_REGISTERS: [u8; 5] = [0, 2, 3, 4, 8];
/// The debug registers that there are (SDM Vol. 2B, MOV to/from Debug Registers).
pub(super) const DEBUG_REGISTERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// How the text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Syntax {
    /// Destination first.
    pub(super) intel: bool,
    /// Registers without `%`.
    pub(super) bare_registers: bool,
}

/// A general-purpose register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GeneralRegister {
    /// Number in an encoding.
    pub(super) number: u8,
    /// Width in bits.
    pub(super) bits: u8,
}

impl Syntax {
    /// The register's name, lower case, if the operand is nothing but a register.
    fn register_name<'b>(self, operand: &[u8], buffer: &'b mut [u8; 8]) -> Option<&'b str> {
        let operand = operand.trim_ascii();
        let name = match operand.strip_prefix(b"%") {
            Some(name) => name.trim_ascii_start(),
            None if self.bare_registers => operand,
            None => return None,
        };
        if name.is_empty() || name.len() > buffer.len() || !name.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        let buffer = &mut buffer[..name.len()];
        buffer.copy_from_slice(name);
        buffer.make_ascii_lowercase();
        std::str::from_utf8(buffer).ok()
    }

    /// The privileged register file that the operand is a register of.
    pub(super) fn register_file(self, operand: &[u8]) -> Option<RegisterFile> {
        let mut buffer = [0; 8];
        let name = self.register_name(operand, &mut buffer)?;
        if matches!(name, "es" | "cs" | "ss" | "ds" | "fs" | "gs") {
            return Some(RegisterFile::SegmentRegisters);
        }
        let numbered = |prefix, numbers: &[u8]| {
            let number = name.strip_prefix(prefix).and_then(|number: &str| number.parse::<u8>().ok());
            number.is_some_and(|number| numbers.contains(&number))
        };
        if numbered("cr", &CONTROL_REGISTERS) {
            Some(RegisterFile::ControlRegisters)
        } else if numbered("dr", &DEBUG_REGISTERS) || numbered("db", &DEBUG_REGISTERS) {
            Some(RegisterFile::DebugRegisters)
        } else {
            None
        }
    }

    /// The general-purpose register that the operand is.
    pub(super) fn general_register(self, operand: &[u8]) -> Option<GeneralRegister> {
        let mut buffer = [0; 8];
        general_register(self.register_name(operand, &mut buffer)?)
    }

    /// Whether the operands are those that make the instruction sensitive.
    pub(super) fn fits(self, when: When, mnemonic: &[u8], operands: &[u8]) -> bool {
        match when {
            When::Always => true,
            When::Vector => {
                let vector = operands.strip_prefix(b"$").unwrap_or(operands);
                Sum::read(vector).and_then(|vector| vector.constant()).is_some_and(|vector| vector != BREAKPOINT)
            }
            When::Source(file) => {
                let source = if self.intel { split(operands).last() } else { split(operands).next() };
                source.and_then(|operand| self.register_file(operand)) == Some(file)
            }
            When::Destination(file) => {
                let destination = if self.intel { split(operands).next() } else { split(operands).last() };
                // A move to CS is undefined (SDM Vol. 2B, MOV).
                let is_code_segment = |operand| self.register_name(operand, &mut [0; 8]) == Some("cs");
                destination
                    .is_some_and(|operand| self.register_file(operand) == Some(file) && !is_code_segment(operand))
            }
            When::Far => {
                mnemonic.first().is_some_and(|l| l.eq_ignore_ascii_case(&b'l')) || (self.intel && is_far(operands))
            }
        }
    }

    /// A lower bound for the bytes that the operands add to the shortest encoding: REX for R8-R15, a SIB byte, a
    /// displacement (SDM Vol. 2A, 2.1.5 and 2.2.1).
    pub(super) fn least_extra_length(self, operands: &[u8]) -> u8 {
        let extended = split(operands).any(|operand| self.general_register(operand).is_some_and(|r| r.number >= 8));
        let memory =
            if self.intel || self.bare_registers { 0 } else { split(operands).map(memory_length).max().unwrap_or(0) };
        u8::from(extended) + memory
    }
}

/// Intel syntax says `far`, or gives a 6- or 10-byte pointer's size.
fn is_far(operands: &[u8]) -> bool {
    let operands = operands.to_ascii_lowercase();
    operands.split(u8::is_ascii_whitespace).any(|word| matches!(word, b"far" | b"fword" | b"tbyte"))
}

/// A lower bound for the bytes that an AT&T operand adds as displacement and SIB byte.
fn memory_length(operand: &[u8]) -> u8 {
    let operand = operand.trim_ascii();
    let operand = operand.strip_prefix(b"*").unwrap_or(operand);
    if operand.is_empty() || operand.contains(&b'\\') {
        return 0;
    }
    // `int $3` has an encoding without the immediate.
    if operand[0] == b'$' || (operand[0] == b'%' && !operand.contains(&b':')) {
        return 0;
    }
    let Some(open) = memchr::memrchr(b'(', operand) else { return 4 };
    let (displacement, address) = operand.split_at(open);
    let displacement = displacement.trim_ascii();
    let sib = u8::from(address.starts_with(b"(%rsp") || address.starts_with(b"(%r12") || address.contains(&b','));
    if address.starts_with(b"(%rip") {
        return 4;
    }
    let number = std::str::from_utf8(displacement).ok().and_then(|text| text.parse::<i64>().ok());
    match number {
        // An expression may turn out to be zero.
        Some(0) | None => sib,
        Some(-128..=127) => 1 + sib,
        Some(_) => 4 + sib,
    }
}

/// The operands, cut at commas that no bracket or quote hides.
pub(super) fn split(operands: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(operands).filter(|operands| !operands.trim_ascii().is_empty());
    std::iter::from_fn(move || {
        let operands = rest?;
        let mut depth = 0_i32;
        let mut quoted = false;
        let comma = operands.iter().position(|&byte| {
            match byte {
                b'"' => quoted = !quoted,
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                _ => {}
            }
            byte == b',' && depth <= 0 && !quoted
        });
        let operand = &operands[..comma.unwrap_or(operands.len())];
        rest = comma.map(|comma| &operands[comma + 1..]);
        Some(operand)
    })
}

/// The general-purpose register of this name (SDM Vol. 1, Table 3-2).
fn general_register(name: &str) -> Option<GeneralRegister> {
    const LEGACY: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    const LOW_BYTES: [&str; 8] = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
    const HIGH_BYTES: [&str; 4] = ["ah", "ch", "dh", "bh"];
    let position = |names: &[&str], name: &str| -> Option<u8> {
        names.iter().position(|candidate| *candidate == name).and_then(|number| u8::try_from(number).ok())
    };
    if let Some(number) = position(&LOW_BYTES, name).or_else(|| position(&HIGH_BYTES, name)) {
        return Some(GeneralRegister { number, bits: 8 });
    }
    let (bits, legacy) = match name.as_bytes() {
        [b'r', ..] => (64, &name[1..]),
        [b'e', ..] => (32, &name[1..]),
        _ => (16, name),
    };
    if let Some(number) = position(&LEGACY, legacy) {
        return Some(GeneralRegister { number, bits });
    }
    let digits = name.strip_prefix('r')?;
    let (digits, bits) = match digits.as_bytes().last()? {
        b'b' => (&digits[..digits.len() - 1], 8),
        b'w' => (&digits[..digits.len() - 1], 16),
        b'd' => (&digits[..digits.len() - 1], 32),
        _ => (digits, 64),
    };
    digits.parse().ok().filter(|number| (8..16).contains(number)).map(|number| GeneralRegister { number, bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use RegisterFile::{ControlRegisters, DebugRegisters, SegmentRegisters};

    const ATT: Syntax = Syntax { intel: false, bare_registers: false };
    const INTEL: Syntax = Syntax { intel: true, bare_registers: true };

    #[test]
    fn register_files() {
        for (operand, file) in [
            ("%cr0", Some(ControlRegisters)),
            (" % CR8 ", Some(ControlRegisters)),
            ("%db7", Some(DebugRegisters)),
            ("%dr6", Some(DebugRegisters)),
            ("%gs", Some(SegmentRegisters)),
            ("%gs:0", None),
            ("%cr16", None),
            ("%cr1", None),
            ("%db8", None),
            ("cr0", None),
            ("%ecx", None),
            ("8(%rax)", None),
        ] {
            assert_eq!(ATT.register_file(operand.as_bytes()), file, "{operand}");
        }
        assert_eq!(INTEL.register_file(b"cr0"), Some(ControlRegisters));
    }

    #[test]
    fn general_registers() {
        for (name, number, bits) in [
            ("al", 0, 8),
            ("ch", 1, 8),
            ("dil", 7, 8),
            ("sp", 4, 16),
            ("edi", 7, 32),
            ("rax", 0, 64),
            ("r8", 8, 64),
            ("r15d", 15, 32),
            ("r9b", 9, 8),
        ] {
            assert_eq!(general_register(name), Some(GeneralRegister { number, bits }), "{name}");
        }
        for name in ["rip", "r16", "cr0", "xmm0", "e", "r", "st"] {
            assert_eq!(general_register(name), None, "{name}");
        }
    }

    #[test]
    fn operands_split_at_top_level_commas() {
        let operands: Vec<_> = split(b"8(%rax,%rbx,4), \"a,b\", %rcx").map(<[u8]>::trim_ascii).collect();
        assert_eq!(operands, [b"8(%rax,%rbx,4)".as_slice(), b"\"a,b\"", b"%rcx"]);
        assert_eq!(split(b"  ").count(), 0);
    }

    #[test]
    fn memory_operands_add_at_least() {
        for (operand, length) in [
            ("(%rax)", 0),
            ("8(%rax)", 1),
            ("(%rsp)", 1),
            ("400(%rbx)", 4),
            ("table(%rip)", 4),
            ("table", 4),
            ("%cr0", 0),
            ("$3", 0),
            ("symbol(%rax)", 0),
            ("\\param", 0),
            ("-8(%rbp)", 1),
        ] {
            assert_eq!(memory_length(operand.as_bytes()), length, "{operand}");
        }
    }
}
