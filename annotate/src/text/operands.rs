//! Operands: which register file they name, and how many bytes they add to an encoding.
//!
//! AT&T operands come source first, Intel ones destination first (GAS manual, 9.16.4.1).
//! `.intel_syntax noprefix` and `.att_syntax noprefix` drop the `%` of registers.

use super::expression::Sum;
use crate::instructions::{RegisterFile, When};

/// The vector of INT3 (SDM Vol. 3A, Table 6-1).
const BREAKPOINT: i64 = 3;

/// The control registers that there are (SDM Vol. 2B, MOV to/from Control Registers: others are
/// undefined).
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

/// The operands of an instruction, and the files of the privileged registers among them.
pub(super) struct Operands<'a> {
    syntax: Syntax,
    text: &'a [u8],
    source: Option<RegisterFile>,
    destination: Option<RegisterFile>,
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
    /// The register's name, if the operand is nothing but a register.
    fn register_name(self, operand: &[u8]) -> Option<&[u8]> {
        let operand = operand.trim_ascii();
        match operand {
            [b'%', name @ ..] => Some(name.trim_ascii_start()),
            _ => self.bare_registers.then_some(operand),
        }
    }

    /// The privileged register file that the operand is a register of.
    pub(super) fn register_file(self, operand: &[u8]) -> Option<RegisterFile> {
        let (kind, number) = self.register_name(operand)?.split_at_checked(2)?;
        let has_number = |numbers: &[u8]| matches!(number, [digit] if numbers.contains(&digit.wrapping_sub(b'0')));
        match [kind[0].to_ascii_lowercase(), kind[1].to_ascii_lowercase()] {
            [b'e' | b'c' | b's' | b'd' | b'f' | b'g', b's'] if number.is_empty() => {
                Some(RegisterFile::SegmentRegisters)
            }
            [b'c', b'r'] if has_number(&CONTROL_REGISTERS) => Some(RegisterFile::ControlRegisters),
            [b'd', b'r' | b'b'] if has_number(&DEBUG_REGISTERS) => Some(RegisterFile::DebugRegisters),
            _ => None,
        }
    }

    /// The general-purpose register that the operand is.
    pub(super) fn general_register(self, operand: &[u8]) -> Option<GeneralRegister> {
        let name = self.register_name(operand).filter(|name| name.iter().all(u8::is_ascii_alphanumeric))?;
        let mut buffer = [0; 8];
        let lower = buffer.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        general_register(std::str::from_utf8(lower).ok()?)
    }

    /// The operands of an instruction, read for what can make it sensitive.
    pub(super) fn read(self, text: &[u8]) -> Operands<'_> {
        // No register holds a comma: if the first or last operand is one, nothing else stands
        // before or behind a comma.
        let is_comma = |byte: &u8| *byte == b',';
        let first = text.split(is_comma).next().unwrap_or_default();
        let last = text.rsplit(is_comma).next().unwrap_or_default();
        let (source, destination) = if self.intel { (last, first) } else { (first, last) };
        // A move to CS is undefined (SDM Vol. 2B, MOV).
        let is_code_segment =
            |operand| self.register_name(operand).is_some_and(|name| name.eq_ignore_ascii_case(b"cs"));
        Operands {
            syntax: self,
            text,
            source: self.register_file(source),
            destination: self.register_file(destination).filter(|_| !is_code_segment(destination)),
        }
    }

    /// A lower bound for the bytes that the operands add to the shortest encoding: REX for R8-R15,
    /// a SIB byte, a displacement (SDM Vol. 2A, 2.1.5 and 2.2.1).
    pub(super) fn least_extra_length(self, operands: &[u8]) -> u8 {
        let extended = split(operands).any(|operand| self.general_register(operand).is_some_and(|r| r.number >= 8));
        let memory =
            if self.intel || self.bare_registers { 0 } else { split(operands).map(memory_length).max().unwrap_or(0) };
        u8::from(extended) + memory
    }
}

impl Operands<'_> {
    /// Whether the operands are those that make the instruction sensitive.
    pub(super) fn fit(&self, when: When, mnemonic: &[u8]) -> bool {
        match when {
            When::Always => true,
            When::Vector => {
                let vector = self.text.strip_prefix(b"$").unwrap_or(self.text);
                Sum::read(vector).and_then(|vector| vector.constant()).is_some_and(|vector| vector != BREAKPOINT)
            }
            When::Source(file) => self.source == Some(file),
            When::Destination(file) => self.destination == Some(file),
            When::Far => {
                mnemonic.first().is_some_and(|l| l.eq_ignore_ascii_case(&b'l'))
                    || (self.syntax.intel && is_far(self.text))
            }
        }
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
        assert_eq!(INTEL.general_register(b"r+9"), None);
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
