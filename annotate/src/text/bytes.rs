//! Instructions that the author encoded by hand: `.byte 0x0f, 0x01, 0xca`.
//!
//! Kernels do this for instructions that their oldest assembler does not know, and `clang -S` prints such a directive back
//! as one line per byte. So a run of `.byte` directives with nothing between them is taken together and decoded. Data in a
//! text section looks the same, and a pad would ruin it: a run counts as code only if it is at least two bytes and no
//! longer than an instruction can be (15 bytes, SDM Vol. 2A, 2.3.11), and is one sensitive instruction from its first byte
//! to its last. Whatever else turns out to be sensitive, the census of the object finds.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};

use super::scan::{Item, Scanner, Statement};
use crate::instructions::{Row, row_of};

const LONGEST_INSTRUCTION: usize = 15;

/// A run of `.byte` directives.
pub(super) struct Run {
    bytes: Vec<u8>,
    /// End of the last directive.
    pub(super) end: usize,
}

impl Run {
    /// The run that starts with `first` and goes on in `scanner`, which is left behind it; `None` if any of it is not a
    /// plain number or it is too long for one instruction.
    pub(super) fn read(source: &[u8], first: &Statement, scanner: &mut Scanner<'_>) -> Option<Self> {
        let mut run = Self { bytes: Vec::new(), end: first.end };
        let mut complete = run.append(first.operands(source));
        let mut ahead = scanner.clone();
        while let Some(Item::Statement(next)) = ahead.next() {
            if !next.head(source).eq_ignore_ascii_case(b".byte") {
                break;
            }
            complete = complete && run.append(next.operands(source));
            run.end = next.end;
            *scanner = ahead.clone();
        }
        complete.then_some(run)
    }

    fn append(&mut self, operands: &[u8]) -> bool {
        for operand in operands.split(|&byte| byte == b',') {
            let Some(byte) = number(operand.trim_ascii()) else { return false };
            if self.bytes.len() == LONGEST_INSTRUCTION {
                return false;
            }
            self.bytes.push(byte);
        }
        true
    }

    /// The row and length of the sensitive instruction that the run is.
    pub(super) fn sensitive(&self) -> Option<(&'static Row, u8)> {
        if self.bytes.len() < 2 {
            return None;
        }
        let instruction = decode(&self.bytes);
        let length = u8::try_from(self.bytes.len()).ok()?;
        (instruction.len() == self.bytes.len()).then(|| row_of(&instruction)).flatten().map(|row| (row, length))
    }

    /// Whether the run is nothing but prefixes for the instruction behind it.
    pub(super) fn is_prefix(&self) -> bool {
        // With an `int3` behind them, prefixes alone decode as one `int3`.
        let mut probe = self.bytes.clone();
        probe.push(0xcc);
        let instruction = decode(&probe);
        instruction.code() == Code::Int3 && instruction.len() == probe.len()
    }
}

fn decode(bytes: &[u8]) -> Instruction {
    Decoder::new(64, bytes, DecoderOptions::NONE).decode()
}

/// A byte as GAS reads an integer (manual, 3.6.2.1).
fn number(text: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        u8::from_str_radix(hexadecimal, 16).ok()
    } else if let Some(binary) = text.strip_prefix("0b") {
        u8::from_str_radix(binary, 2).ok()
    } else if text.len() > 1 && text.starts_with('0') {
        u8::from_str_radix(&text, 8).ok()
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instructions::Class;

    fn run(text: &str) -> Option<Run> {
        let mut scanner = Scanner::new(text.as_bytes(), 0..text.len());
        match scanner.next() {
            Some(Item::Statement(first)) => Run::read(text.as_bytes(), &first, &mut scanner),
            _ => None,
        }
    }

    #[test]
    fn runs_decode_as_a_whole() {
        for (text, class) in [
            (".byte 0x0f,0x01,0xca", Some(Class::Clac)),
            ("\t.byte\t15\n\t.byte\t1\n # comment\n\t.byte\t238", Some(Class::Rdpkru)),
            (".byte 0x48,0x0f,0xc7,0x2f", Some(Class::Xsaves)),
            (".byte 017, 0b1, 0312", Some(Class::Clac)),
            (".byte 0xfa", None),
            (".byte 0x0f,0x01,0xca,0x90", None),
            (".byte 0x0f,0x01", None),
        ] {
            let found = run(text).and_then(|run| run.sensitive()).map(|(row, _)| row.class);
            assert_eq!(found, class, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_plain_number_or_too_long_is_no_run() {
        assert!(run(".byte 0x0f,0x01,symbol").is_none());
        assert!(run(".byte 0x0f,0x01,256").is_none());
        assert!(run(".byte 0,0,0,0,0,0,0,0\n.byte 0,0,0,0,0,0,0,0").is_none());
    }

    #[test]
    fn prefixes() {
        assert!(run(".byte 0xf3").is_some_and(|run| run.is_prefix()));
        assert!(run(".byte 0x66,0x48").is_some_and(|run| run.is_prefix()));
        assert!(!run(".byte 0x0f").is_some_and(|run| run.is_prefix()));
    }
}
