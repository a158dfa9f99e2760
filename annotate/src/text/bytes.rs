//! Instructions that the author encoded by hand: `.byte 0x0f, 0x01, 0xca`.
//!
//! Kernels do this for instructions that their oldest assembler does not know, and `clang -S` prints such a directive back
//! as one line per byte. So a run of `.byte` directives with nothing between them is taken together and decoded. Data in a
//! text section looks the same, and a pad would ruin it. So a run counts as code only if it is short, decodes into whole
//! instructions from its first byte to its last, and only what is at least two bytes long and starts and ends with a
//! directive is a site. Whatever else turns out to be sensitive, the census of the object finds.

use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions};

use super::scan::{Item, Scanner, Statement};
use crate::instructions::{Row, row_of};

/// Bytes. Two or three hand-encoded instructions in a row occur; an instruction is 15 bytes at most (SDM Vol. 2A, 2.3.11).
const LONGEST_RUN: usize = 32;

/// One directive of a run.
struct Directive {
    start: usize,
    end: usize,
    /// Bytes of the run up to its end.
    bytes: usize,
}

/// A run of `.byte` directives.
#[derive(Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    directives: Vec<Directive>,
    /// It is too long, or something in it is no plain number.
    is_data: bool,
}

/// A sensitive instruction of a run.
pub(super) struct Encoded {
    pub(super) row: &'static Row,
    pub(super) length: u8,
    /// Its directives.
    pub(super) range: Range<usize>,
    /// Whether it is what the run starts with.
    pub(super) is_first: bool,
}

impl Run {
    /// The run that starts with `first` and goes on in `scanner`, which is left behind it.
    pub(super) fn read(source: &[u8], first: &Statement, scanner: &mut Scanner<'_>) -> Self {
        let mut run = Self::default();
        run.append(source, first);
        let mut ahead = scanner.clone();
        while let Some(Item::Statement(next)) = ahead.next() {
            if !next.head(source).eq_ignore_ascii_case(b".byte") {
                break;
            }
            run.append(source, &next);
            *scanner = ahead.clone();
        }
        run
    }

    fn append(&mut self, source: &[u8], directive: &Statement) {
        for operand in directive.operands(source).split(|&byte| byte == b',') {
            match number(operand.trim_ascii()) {
                Some(byte) if !self.is_data && self.bytes.len() < LONGEST_RUN => self.bytes.push(byte),
                _ => self.is_data = true,
            }
        }
        if !self.is_data {
            self.directives.push(Directive { start: directive.start, end: directive.end, bytes: self.bytes.len() });
        }
    }

    /// The sensitive instructions of the run.
    pub(super) fn sensitive(&self) -> Vec<Encoded> {
        if self.is_data {
            return Vec::new();
        }
        let mut decoder = Decoder::new(64, &self.bytes, DecoderOptions::NONE);
        let mut found = Vec::new();
        while decoder.can_decode() {
            let start = decoder.position();
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return Vec::new();
            }
            let end = decoder.position();
            if let (Some(row), Some(range), Ok(length @ 2..)) =
                (row_of(&instruction), self.directives_of(start, end), u8::try_from(end - start))
            {
                found.push(Encoded { row, length, range, is_first: start == 0 });
            }
        }
        found
    }

    /// The directives that these bytes of the run are, if they are whole ones.
    fn directives_of(&self, start: usize, end: usize) -> Option<Range<usize>> {
        let first = match start {
            0 => 0,
            _ => self.directives.iter().position(|directive| directive.bytes == start)? + 1,
        };
        let last = self.directives.iter().find(|directive| directive.bytes == end)?;
        Some(self.directives.get(first)?.start..last.end)
    }

    /// Whether the run is nothing but prefixes for the instruction behind it.
    pub(super) fn is_prefix(&self) -> bool {
        // With an `int3` behind them, prefixes alone decode as one `int3`.
        let mut probe = self.bytes.clone();
        probe.push(0xcc);
        let instruction = Decoder::new(64, &probe, DecoderOptions::NONE).decode();
        !self.is_data && instruction.code() == Code::Int3 && instruction.len() == probe.len()
    }
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

    fn run(text: &str) -> Run {
        let mut scanner = Scanner::new(text.as_bytes(), 0..text.len());
        match scanner.next() {
            Some(Item::Statement(first)) => Run::read(text.as_bytes(), &first, &mut scanner),
            other => panic!("{text} starts with {other:?}"),
        }
    }

    #[test]
    fn sensitive_instructions_of_runs() {
        use Class::{Clac, Rdpkru, Stac, Xsaves};
        for (text, expected) in [
            (".byte 0x0f,0x01,0xca", vec![Clac]),
            ("\t.byte\t15\n\t.byte\t1\n # comment\n\t.byte\t238", vec![Rdpkru]),
            (".byte 0x48,0x0f,0xc7,0x2f", vec![Xsaves]),
            (".byte 017, 0b1, 0312; .byte 0x0f,0x01; .byte 0xcb", vec![Clac, Stac]),
            (".byte 0x90; .byte 0x0f,0x01,0xca", vec![Clac]),
            // Not whole directives.
            (".byte 0x0f,0x01,0xca,0x90", vec![]),
            // Not whole instructions.
            (".byte 0x0f,0x01", vec![]),
            (".byte 0x0f,0x01,0xca\n.byte 0x0f", vec![]),
            // Too short, too long, not numbers.
            (".byte 0xfa", vec![]),
            (".byte 0x0f,0x01,0xca\n.byte 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\n.byte 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0", vec![]),
            (".byte 0x0f,0x01,symbol", vec![]),
            (".byte 0x0f,0x01,256", vec![]),
        ] {
            let found: Vec<Class> = run(text).sensitive().iter().map(|encoded| encoded.row.class).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn prefixes() {
        assert!(run(".byte 0xf3").is_prefix());
        assert!(run(".byte 0x66,0x48").is_prefix());
        assert!(!run(".byte 0x0f").is_prefix());
        assert!(!run(".byte 0xf3, symbol").is_prefix());
    }
}
