//! Instructions that the author encoded by hand: `.byte 0x0f, 0x01, 0xca`.
//!
//! Kernels do this for instructions that their oldest assembler does not know, and `clang -S`
//! prints such a directive back as one line per byte. So a run of directives that put numbers or
//! characters, with nothing between them, is taken together and decoded. It counts as code only if
//! it decodes into whole instructions from its first byte to its last; and whether it is data that
//! only looks like code, `stage` decides by what leads there. Whatever else turns out to be
//! sensitive, the census of the object finds.
//!
//! Where an instruction starts or ends within a directive, the whole run is spelled again, byte by
//! byte.

use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, OpKind};

use super::emit::Piece;
use super::expression::Sum;
use super::operands::split;
use super::scan::{Item, Scanner, Statement, lowercase};
use super::stage::Stage;
use crate::instructions::{Class, EMULATION_PREFIXES, Part, SEQUENCES, decode_next, row_of};
use crate::record::MINIMUM_SLOT;

/// Bytes. What is longer is data, or a program of its own.
const LONGEST_RUN: usize = 128;

/// One directive of a run.
struct Directive {
    start: usize,
    end: usize,
    /// Bytes of the run up to its end.
    bytes: usize,
}

/// A run of directives.
#[derive(Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    directives: Vec<Directive>,
    /// Bytes that the assembler will compute.
    computed: Vec<Range<usize>>,
    /// It is too long, or something in it is neither a number nor an expression.
    is_data: bool,
    /// Something that puts nothing stands between its directives.
    has_gaps: bool,
    /// It has numbers.
    has_numbers: bool,
    /// Where the last directive ends.
    end: usize,
}

/// A run as code.
#[derive(Default)]
pub(super) struct Decoded {
    pub(super) sensitive: Vec<Encoded>,
    /// Whether control does not go on behind it.
    pub(super) is_transfer: bool,
    /// Where its branches and operands lead, in bytes from its start.
    pub(super) distances: Vec<i64>,
}

/// A sensitive instruction of a run, or a sequence of them.
pub(super) struct Encoded {
    pub(super) class: Class,
    pub(super) slot: u8,
    /// Its bytes in the run.
    pub(super) bytes: Range<usize>,
    /// Its directives, if they are whole ones.
    pub(super) range: Option<Range<usize>>,
}

impl Encoded {
    pub(super) fn is_first(&self) -> bool {
        self.bytes.start == 0
    }

    /// An instruction is 15 bytes at most (SDM Vol. 2A, 2.3.11), and a sequence twice that.
    pub(super) fn length(&self) -> u8 {
        u8::try_from(self.bytes.len()).unwrap_or(u8::MAX)
    }
}

/// How a directive puts what it is given.
#[derive(Clone, Copy)]
enum Put {
    /// Each operand as a number of this many bytes, the lowest first.
    Number(usize),
    /// Strings, with this behind each.
    Text(&'static [u8]),
}

impl Put {
    /// GAS manual, 7 "Assembler Directives"; 9.16.3 for `.value`.
    fn of(directive: &[u8]) -> Option<Self> {
        Some(match directive {
            b".byte" | b".dc.b" => Self::Number(1),
            b".word" | b".value" | b".short" | b".hword" | b".2byte" => Self::Number(2),
            b".long" | b".int" | b".4byte" => Self::Number(4),
            b".quad" | b".8byte" => Self::Number(8),
            b".ascii" => Self::Text(b""),
            b".asciz" | b".string" | b".string8" => Self::Text(b"\0"),
            _ => return None,
        })
    }
}

/// Whether the directive of this name, in lower case, may be part of a run.
pub(super) fn puts_bytes(directive: &[u8]) -> bool {
    Put::of(directive).is_some()
}

impl Run {
    /// The run that starts with `first` and goes on in `scanner`, which is left behind it.
    pub(super) fn read<'a>(stage: &Stage<'a>, first: &Statement, scanner: &mut Scanner<'a>) -> Self {
        let mut run = Self::default();
        run.append(stage.source, first);
        let mut ahead = scanner.clone();
        loop {
            let direct = ahead.clone().next();
            let Some(next) = stage.next_code(&mut ahead).filter(|next| puts_bytes(&lowercase(next.head(stage.source))))
            else {
                break;
            };
            run.has_gaps |= direct != Some(Item::Statement(next.clone()));
            run.append(stage.source, &next);
            *scanner = ahead.clone();
        }
        run
    }

    fn append(&mut self, source: &[u8], directive: &Statement) {
        self.end = directive.end;
        if self.is_data {
            return;
        }
        let put = Put::of(&lowercase(directive.head(source)));
        for operand in split(directive.operands(source)) {
            let operand = operand.trim_ascii();
            let bytes = match put {
                Some(Put::Number(size)) => number(operand, size).or_else(|| {
                    self.computed.push(self.bytes.len()..self.bytes.len() + size);
                    Sum::read(operand).filter(|sum| sum.constant().is_none()).map(|_| vec![0; size])
                }),
                Some(Put::Text(end)) => characters(operand).map(|text| [text.as_slice(), end].concat()),
                None => None,
            };
            self.has_numbers |= !operand.starts_with(b"'") && !matches!(put, Some(Put::Text(_)));
            match bytes {
                Some(bytes) if !self.is_data && self.bytes.len() + bytes.len() <= LONGEST_RUN => {
                    self.bytes.extend(bytes);
                }
                _ => self.is_data = true,
            }
        }
        if !self.is_data {
            self.directives.push(Directive { start: directive.start, end: directive.end, bytes: self.bytes.len() });
        }
    }

    /// Where the run ends, whatever it is.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The text of the run.
    pub(super) fn range(&self) -> Option<Range<usize>> {
        Some(self.directives.first()?.start..self.directives.last()?.end)
    }

    /// What the run is, if it is code.
    pub(super) fn decode(&self) -> Option<Decoded> {
        if self.is_data || self.bytes.is_empty() {
            return None;
        }
        let mut decoder = Decoder::new(64, &self.bytes, DecoderOptions::NONE);
        let mut found: Vec<Encoded> = Vec::new();
        let (mut is_transfer, mut distances) = (false, Vec::new());
        while decoder.can_decode() {
            let start = decoder.position();
            let mut instruction = decode_next(&mut decoder, &self.bytes);
            let is_forced = Part::EmulationPrefix.matches(&instruction);
            let opcode = if is_forced { decoder.position() } else { start };
            if is_forced {
                instruction = decoder.decode();
            }
            let offsets = decoder.get_constant_offsets(&instruction);
            let fields = [
                (offsets.displacement_offset(), offsets.displacement_size()),
                (offsets.immediate_offset(), offsets.immediate_size()),
            ];
            let is_field = |computed: &Range<usize>| {
                fields.iter().any(|&(at, size)| opcode + at <= computed.start && computed.end <= opcode + at + size)
            };
            let mut computed =
                self.computed.iter().filter(|computed| computed.start < decoder.position() && start < computed.end);
            // What is computed may be a part of an instruction that does not decide what it is.
            if instruction.is_invalid() || !computed.clone().all(is_field) {
                return None;
            }
            if computed.next().is_some() {
                // Where it leads, the expression says.
            } else if instruction.op0_kind() == OpKind::NearBranch64 || instruction.is_ip_rel_memory_operand() {
                let target = if instruction.is_ip_rel_memory_operand() {
                    instruction.ip_rel_memory_address()
                } else {
                    instruction.near_branch_target()
                };
                distances.push(target.cast_signed());
            }
            is_transfer = matches!(
                instruction.flow_control(),
                FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
            );
            let bytes = start..decoder.position();
            if is_forced {
                let (class, slot) = (Class::ForcedEmulation, MINIMUM_SLOT);
                found.push(Encoded { class, slot, bytes, range: None });
            } else if let Some(row) = row_of(&instruction) {
                match found.last_mut().and_then(|last| Some((sequence(last, row.class, start)?, last))) {
                    Some(((class, slot), last)) => (last.class, last.slot, last.bytes.end) = (class, slot, bytes.end),
                    None => found.push(Encoded { class: row.class, slot: row.slot, bytes, range: None }),
                }
            }
        }
        for encoded in &mut found {
            encoded.range = self.directives_of(&encoded.bytes);
        }
        Some(Decoded { sensitive: found, is_transfer, distances })
    }

    /// Whether it was written as characters.
    pub(super) fn is_text(&self) -> bool {
        !self.has_numbers
    }

    /// The class of the first sensitive instruction that a disassembler finds in it, whether it is
    /// code or not.
    pub(super) fn looks_like(&self) -> Option<Class> {
        let bytes = if self.is_data { &[][..] } else { &self.bytes };
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let mut start = 0;
        while decoder.set_position(start).is_ok() && decoder.can_decode() {
            let instruction = decode_next(&mut decoder, bytes);
            if let Some(row) = row_of(&instruction) {
                return Some(row.class);
            }
            start += if instruction.is_invalid() { 1 } else { instruction.len() };
        }
        None
    }

    /// Whether what stands between its directives would be lost if it were spelled again.
    pub(super) fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// Whether some of its bytes are known to the assembler only.
    pub(super) fn is_computed(&self) -> bool {
        !self.computed.is_empty()
    }

    /// The directives that these bytes of the run are, if they are whole ones.
    fn directives_of(&self, bytes: &Range<usize>) -> Option<Range<usize>> {
        let first = match bytes.start {
            0 => 0,
            start => self.directives.iter().position(|directive| directive.bytes == start)? + 1,
        };
        let last = self.directives.iter().find(|directive| directive.bytes == bytes.end)?;
        Some(self.directives.get(first)?.start..last.end)
    }

    /// Whether the bytes are the last of the run.
    pub(super) fn ends_with(&self, encoded: &Encoded) -> bool {
        encoded.bytes.end == self.bytes.len()
    }

    /// The run as pieces around its sites.
    pub(super) fn pieces(&self, sites: &[Encoded]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for site in sites {
            pieces.push(Piece::Bytes(self.bytes[at..site.bytes.start].to_vec()));
            pieces.push(Piece::Site(site.class, self.bytes[site.bytes.clone()].to_vec()));
            at = site.bytes.end;
        }
        pieces.push(Piece::Bytes(self.bytes[at..].to_vec()));
        pieces
    }

    /// Whether the run, behind `start`, is one of the [`EMULATION_PREFIXES`] and nothing else.
    pub(super) fn is_emulation_prefix(&self, start: &[u8]) -> bool {
        let is_rest = |prefix: &[u8; 5]| prefix.strip_prefix(start) == Some(self.bytes.as_slice());
        !self.is_data && !self.is_computed() && EMULATION_PREFIXES.iter().any(is_rest)
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

/// The class and slot of the sequence that an instruction behind the last one makes of both.
fn sequence(last: &Encoded, class: Class, start: usize) -> Option<(Class, u8)> {
    let is_made = |first, second| first == Part::Class(last.class) && second == Part::Class(class);
    let made = SEQUENCES.iter().find(|sequence| is_made(sequence.first, sequence.second))?;
    (last.bytes.end == start).then_some((made.class, made.slot))
}

/// The lowest bytes of a number.
fn number(operand: &[u8], size: usize) -> Option<Vec<u8>> {
    let number = Sum::read(operand)?.constant()?;
    let bits = u32::try_from(size * 8).ok()?;
    let fits = bits == i64::BITS || (-(1_i64 << (bits - 1))..1_i64 << bits).contains(&number);
    fits.then(|| number.to_le_bytes()[..size].to_vec())
}

/// The characters of a string (GAS manual, 3.6.1.1 "Strings").
fn characters(operand: &[u8]) -> Option<Vec<u8>> {
    let mut rest = operand.strip_prefix(b"\"")?.strip_suffix(b"\"")?.iter().copied().peekable();
    let mut characters = Vec::new();
    while let Some(character) = rest.next() {
        if character != b'\\' {
            characters.push(character);
            continue;
        }
        characters.push(match rest.next()? {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            escaped @ (b'\\' | b'"') => escaped,
            b'x' | b'X' => {
                let mut value = None;
                while let Some(digit) = rest.peek().and_then(|&digit| char::from(digit).to_digit(16)) {
                    rest.next();
                    value = Some(value.unwrap_or(0_u8).wrapping_shl(4) | u8::try_from(digit).ok()?);
                }
                value?
            }
            digit @ b'0'..=b'7' => {
                let mut value = digit - b'0';
                for _ in 0..2 {
                    let Some(digit) = rest.peek().and_then(|&digit| char::from(digit).to_digit(8)) else { break };
                    rest.next();
                    value = value.wrapping_shl(3) | u8::try_from(digit).ok()?;
                }
                value
            }
            _ => return None,
        });
    }
    Some(characters)
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn run(text: &str) -> Run {
        let options = Options::default();
        let stage = Stage::new(text.as_bytes(), &options);
        let mut scanner = Scanner::new(text.as_bytes(), 0..text.len());
        match scanner.next() {
            Some(Item::Statement(first)) => Run::read(&stage, &first, &mut scanner),
            other => panic!("{text} starts with {other:?}"),
        }
    }

    #[test]
    fn sensitive_instructions_of_runs() {
        use Class::{Clac, Cli, MovFromCr, Rdpkru, Stac, StiHlt, Wrmsr, Xsaves};
        for (text, expected) in [
            (".byte 0x0f,0x01,0xca", vec![Clac]),
            ("\t.byte\t15\n\t.byte\t1\n # comment\n\t.byte\t238", vec![Rdpkru]),
            ("\t.byte\t15\n\t.loc 1 2\n\t.byte\t1\n.L5:\n\t.byte\t238", vec![Rdpkru]),
            (".byte 0x48,0x0f,0xc7,0x2f", vec![Xsaves]),
            (".byte 017, 0b1, 0312; .byte 0x0f,0x01; .byte 0xcb", vec![Clac, Stac]),
            (".byte 0x90; .byte 0x0f,0x01,0xca", vec![Clac]),
            (".byte 0xfa", vec![Cli]),
            (".byte 0xfb,0xf4", vec![StiHlt]),
            (".byte (0x0f), 1, 0xc0+10", vec![Clac]),
            (".word 0x010f; .byte 0xcb", vec![Stac]),
            (".ascii \"\\x0f\\x20\\300\"", vec![MovFromCr]),
            (".long 0x9090300f", vec![Wrmsr]),
            (".quad 0x300ffa300f", vec![]),
            (".quad 0x9090300ffa300f", vec![]),
            (".quad 0x909090300ffa300f", vec![Wrmsr, Cli, Wrmsr]),
            (".byte -6, 'z", vec![]),
            (".byte -6", vec![Cli]),
            // Not whole instructions.
            (".byte 0x0f,0x01", vec![]),
            (".byte 0x0f,0x01,0xca\n.byte 0x0f", vec![]),
            // Not numbers.
            (".byte 0x0f,0x01,symbol", vec![]),
            (".byte symbol,0xfa", vec![]),
            (".byte symbol; .byte 0; .byte 0xfa", vec![]),
            (".byte 0xe8; .long symbol-.-4; .byte 0xfa", vec![Cli]),
            (".byte 0xb9; .word 0x8c + 0xda * 256; .word 0", vec![]),
            (".byte 0x0f,0x01,256", vec![]),
        ] {
            let found: Vec<Class> =
                run(text).decode().unwrap_or_default().sensitive.iter().map(|encoded| encoded.class).collect();
            assert_eq!(found, expected, "{text}");
        }
        let long = format!(".byte 0xfa\n.byte {}0x90", "0x90,".repeat(LONGEST_RUN));
        assert!(run(&long).decode().unwrap_or_default().sensitive.is_empty());
    }

    #[test]
    fn whole_directives() {
        let ranges = |text: &'static str| -> Vec<Option<&str>> {
            run(text)
                .decode()
                .unwrap_or_default()
                .sensitive
                .into_iter()
                .map(|encoded| Some(&text[encoded.range?]))
                .collect()
        };
        assert_eq!(ranges(".byte 0xfa; .byte 0xfb"), [Some(".byte 0xfa"), Some(".byte 0xfb")]);
        assert_eq!(ranges(".byte 0xfa, 0xfb"), [None, None]);
        assert_eq!(ranges(".long 0x9090300f"), [None]);
    }

    #[test]
    fn prefixes() {
        assert!(run(".byte 0xf3").is_prefix());
        assert!(run(".byte 0x66,0x48").is_prefix());
        assert!(!run(".byte 0x0f").is_prefix());
        assert!(!run(".byte 0xf3, symbol").is_prefix());
    }
}
