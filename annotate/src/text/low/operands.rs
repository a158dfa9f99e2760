//! AT&T operands, cut into the parts that an address can be in (GAS manual, 9.16.7 "Memory
//! References").

use super::super::expression::Sum;
use super::super::operands::Syntax;

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand<'a> {
    /// `$expression`
    Immediate(&'a [u8]),
    /// `*%segment:displacement(registers)`
    Memory(Memory<'a>),
    /// A register, or what is none of these.
    Other,
}

/// A reference to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory<'a> {
    /// A star, which marks the target of an indirect branch, and a segment override.
    pub(super) prefix: &'a [u8],
    pub(super) displacement: &'a [u8],
    /// What stands in the brackets; `None` if there are none.
    pub(super) registers: Option<&'a [u8]>,
}

impl<'a> Operand<'a> {
    pub(super) fn read(operand: &'a [u8]) -> Self {
        let operand = operand.trim_ascii();
        if let Some(expression) = operand.strip_prefix(b"$") {
            return Self::Immediate(expression.trim_ascii());
        }
        let star = usize::from(operand.starts_with(b"*"));
        let rest = operand[star..].trim_ascii_start();
        let start = operand.len() - rest.len();
        let start = match memchr::memchr(b':', rest) {
            Some(colon) if rest.starts_with(b"%") => start + colon + 1,
            None if rest.starts_with(b"%") => return Self::Other,
            _ => start,
        };
        let (prefix, rest) = operand.split_at(start);
        let (displacement, registers) = brackets(rest);
        Self::Memory(Memory { prefix, displacement: displacement.trim_ascii(), registers })
    }
}

/// Parts `displacement(registers)`. Brackets without a register belong to the displacement.
fn brackets(operand: &[u8]) -> (&[u8], Option<&[u8]>) {
    let whole = (operand, None);
    let Some(inside) = operand.strip_suffix(b")") else { return whole };
    let Some(open) = memchr::memrchr(b'(', inside) else { return whole };
    let registers = inside[open + 1..].trim_ascii();
    if registers.starts_with(b"%") || registers.starts_with(b",") { (&operand[..open], Some(registers)) } else { whole }
}

impl Memory<'_> {
    pub(super) fn is_indirect_branch(&self) -> bool {
        self.prefix.starts_with(b"*")
    }

    pub(super) fn is_relative(&self) -> bool {
        self.registers.is_some_and(|registers| registers.eq_ignore_ascii_case(b"%rip"))
    }

    /// Base and index; the scale belongs to the index.
    pub(super) fn base_and_index(&self) -> (&[u8], &[u8]) {
        let registers = self.registers.unwrap_or_default();
        let comma = memchr::memchr(b',', registers);
        let (base, index) = comma.map_or((registers, &b""[..]), |at| (&registers[..at], &registers[at + 1..]));
        (base.trim_ascii(), index.trim_ascii())
    }
}

/// The 64-bit register that an operand is: its number in an encoding.
pub(super) fn register64(operand: &[u8]) -> Option<u8> {
    let register = Syntax::default().general_register(operand.trim_ascii())?;
    (register.bits == 64).then_some(register.number)
}

/// What the value of an expression is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// An address in the kernel.
    Address,
    /// A number that no sign-extended 32 bits hold.
    Wide,
    /// Anything else: a number, a distance, a physical address, a macro's parameter.
    Other,
}

/// What an expression is, where `number` knows the names that stand for numbers.
pub(super) fn value(expression: &[u8], number: impl Fn(&[u8]) -> Option<i64>) -> Value {
    let Some(sum) = Sum::read(expression).map(|sum| resolved(sum, number)) else { return Value::Other };
    let is_near = i32::try_from(sum.number).is_ok();
    match (sum.added.as_slice(), sum.subtracted.as_slice()) {
        ([], []) if !is_near => Value::Wide,
        ([name], []) if is_near && is_name(name) => Value::Address,
        _ => Value::Other,
    }
}

/// A sum with the numbers in place of names that stand for them.
pub(super) fn resolved(mut sum: Sum<'_>, number: impl Fn(&[u8]) -> Option<i64>) -> Sum<'_> {
    let mut total = sum.number;
    let mut is_other = |name: &&[u8], sign: i64| match number(name) {
        Some(value) => {
            total = total.wrapping_add(value.wrapping_mul(sign));
            false
        }
        None => true,
    };
    sum.added.retain(|name| is_other(name, 1));
    sum.subtracted.retain(|name| is_other(name, -1));
    sum.number = total;
    sum
}

/// The symbol in an expression that is an address.
pub(super) fn symbol(expression: &[u8]) -> Option<(&[u8], i64)> {
    let sum = Sum::read(expression)?;
    let [name] = sum.added.as_slice() else { return None };
    sum.subtracted.is_empty().then_some((*name, sum.number))
}

/// The current place has another value elsewhere, a parameter any; what a relocation's name follows
/// is no address.
fn is_name(name: &[u8]) -> bool {
    name != b"." && !name.contains(&b'\\') && !name.contains(&b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_fall_into_parts() {
        let memory = |prefix: &'static str, displacement: &'static str, registers: Option<&'static str>| {
            let registers = registers.map(str::as_bytes);
            Operand::Memory(Memory { prefix: prefix.as_bytes(), displacement: displacement.as_bytes(), registers })
        };
        for (text, expected) in [
            ("$sym+4", Operand::Immediate(b"sym+4")),
            (" %rax ", Operand::Other),
            ("%st(1)", Operand::Other),
            ("sym", memory("", "sym", None)),
            ("(sym)", memory("", "(sym)", None)),
            ("(sym + (3 * 8))", memory("", "(sym + (3 * 8))", None)),
            ("%gs:sym", memory("%gs:", "sym", None)),
            ("*%gs:8(%rax)", memory("*%gs:", "8", Some("%rax"))),
            ("*sym(,%rax,8)", memory("*", "sym", Some(",%rax,8"))),
            ("(5*8)(%rsp)", memory("", "(5*8)", Some("%rsp"))),
            ("*%rax", Operand::Other),
        ] {
            assert_eq!(Operand::read(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn expressions_are_addresses_or_not() {
        let number = |name: &[u8]| match name {
            b"number" => Some(5),
            b"map" => Some(0x5fff_8000_0000),
            _ => None,
        };
        for (text, expected) in [
            ("sym", Value::Address),
            ("sym + 8*3", Value::Address),
            ("(sym)", Value::Address),
            ("1f", Value::Address),
            ("number", Value::Other),
            ("sym + number", Value::Address),
            ("sym - map", Value::Other),
            ("map + number", Value::Wide),
            ("sym - 0x5fff80000000", Value::Other),
            ("a - b", Value::Other),
            ("0x5fff80000000", Value::Wide),
            ("-1", Value::Other),
            ("0xffffffff80000000", Value::Other),
            ("~(0x1fffff)", Value::Other),
            ("\\sym", Value::Other),
            (".", Value::Other),
            ("sym@GOTPCREL", Value::Other),
        ] {
            assert_eq!(value(text.as_bytes(), number), expected, "{text}");
        }
    }
}
