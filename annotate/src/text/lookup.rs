//! From a mnemonic to the rows of the instruction table.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::operands::Syntax;
use super::scan::{Item, Scanner, Statement};
use crate::instructions::{Row, TABLE, When};

/// What a mnemonic may be.
#[derive(Clone, Debug)]
pub(super) enum Mnemonic {
    /// A sensitive instruction, if the operands of one of these rows fit.
    Candidate(Vec<Candidate>),
    /// A prefix, which belongs to the instruction behind it.
    Prefix,
}

/// A row and the spelling that led to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) row: &'static Row,
    /// Length of the shortest encoding under this mnemonic and suffix.
    pub(super) length: u8,
}

/// Prefixes (SDM Vol. 2A, 2.1.1; GAS manual, 9.16.7 "Instruction Prefixes").
const PREFIXES: &[&str] = &[
    "rep", "repe", "repz", "repne", "repnz", "lock", "data16", "data32", "addr16", "addr32", "cs", "ds", "es", "fs",
    "gs", "ss", "bnd", "notrack", "xacquire", "xrelease", "rex", "rex64", "rex.w", "rex.r", "rex.x", "rex.b", "rex.wr",
    "rex.wx", "rex.wb", "rex.wrx", "rex.wrb", "rex.wxb", "rex.wrxb", "rex.rx", "rex.rb", "rex.xb", "rex.rxb",
];

/// Every mnemonic that matters.
#[derive(Default)]
struct Mnemonics {
    by_spelling: FxHashMap<Vec<u8>, Mnemonic>,
    /// By the first letter, the second ones: few other instructions start like one of these.
    starts: [u32; 32],
}

static MNEMONICS: LazyLock<Mnemonics> = LazyLock::new(|| {
    let mut mnemonics = Mnemonics::default();
    for prefix in PREFIXES {
        mnemonics.by_spelling.insert(prefix.as_bytes().to_vec(), Mnemonic::Prefix);
    }
    for (spelling, candidate) in spellings() {
        match mnemonics.by_spelling.entry(spelling).or_insert_with(|| Mnemonic::Candidate(Vec::new())) {
            Mnemonic::Candidate(candidates) => candidates.push(candidate),
            Mnemonic::Prefix => {}
        }
    }
    for spelling in mnemonics.by_spelling.keys() {
        mnemonics.starts[letter(spelling[0])] |= 1 << letter(spelling[1]);
    }
    mnemonics
});

/// The number of a letter, in either case.
fn letter(byte: u8) -> usize {
    usize::from(byte & 0x1f)
}

/// Every spelling of every sensitive instruction.
pub(super) fn spellings() -> impl Iterator<Item = (Vec<u8>, Candidate)> {
    TABLE.iter().flat_map(|row| {
        row.mnemonics.iter().flat_map(move |base| {
            let plain = (base.as_bytes().to_vec(), Candidate { row, length: row.length });
            let suffixed = row.suffixes.bytes().map(move |suffix| {
                let mut spelling = base.as_bytes().to_vec();
                spelling.push(suffix.to_ascii_lowercase());
                (spelling, Candidate { row, length: row.length + u8::from(suffix.is_ascii_uppercase()) })
            });
            std::iter::once(plain).chain(suffixed)
        })
    })
}

/// What the mnemonic before a suffix that a macro parameter supplies may be; GAS reads mnemonics
/// without regard to case.
pub(super) fn lookup(word: &[u8]) -> Option<&'static Mnemonic> {
    const LONGEST: usize = 12;
    let &[first, second, ..] = word else { return None };
    if MNEMONICS.starts[letter(first)] & 1 << letter(second) == 0 {
        return None;
    }
    let word = suffixless(word);
    if word.len() > LONGEST {
        return None;
    }
    let mut lower = [0; LONGEST];
    let lower = &mut lower[..word.len()];
    for (lower, byte) in lower.iter_mut().zip(word) {
        *lower = byte.to_ascii_lowercase();
    }
    MNEMONICS.by_spelling.get(&*lower)
}

/// The row of a statement that is sensitive, and a lower bound for its length.
pub(super) fn sensitive(source: &[u8], syntax: Syntax, statement: &Statement) -> Option<(&'static Row, u8)> {
    let mut head = statement.range();
    head.end = statement.head_end;
    let mut prefixes = 0;
    loop {
        let word = &source[head.clone()];
        let is_pseudo = word.first() == Some(&b'{');
        let mnemonic = if is_pseudo { Some(&Mnemonic::Prefix) } else { lookup(word) };
        match mnemonic? {
            Mnemonic::Candidate(candidates) => {
                let operands = source[head.end..statement.end].trim_ascii();
                // `in = 5` defines a symbol.
                if operands.starts_with(b"=") {
                    return None;
                }
                let read = syntax.read(operands);
                let candidate = candidates.iter().find(|candidate| {
                    read.fit(candidate.row.when, word)
                        && (word.len() == suffixless(word).len() || candidate.row.when != When::Always)
                })?;
                return Some((candidate.row, candidate.length + prefixes + syntax.least_extra_length(operands)));
            }
            Mnemonic::Prefix => {
                prefixes += u8::from(!is_pseudo);
                let rest = &source[head.end..statement.end];
                let start = head.end + rest.len() - rest.trim_ascii_start().len();
                let mut words = Scanner::new(source, start..statement.end);
                let Some(Item::Statement(next)) = words.next() else { return None };
                head = next.start..next.head_end;
            }
        }
    }
}

/// The mnemonic before a suffix that a macro parameter supplies (`mov\size`).
fn suffixless(word: &[u8]) -> &[u8] {
    word.split(|&byte| byte == b'\\').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_found_in_any_case() {
        for (spelling, candidate) in spellings() {
            let Some(Mnemonic::Candidate(found)) = lookup(&spelling.to_ascii_uppercase()) else {
                panic!("{} is not found", spelling.escape_ascii());
            };
            assert!(found.iter().any(|found| found.row.class == candidate.row.class), "{}", spelling.escape_ascii());
        }
    }

    #[test]
    fn ordinary_instructions_are_not_candidates() {
        for word in ["inc", "\\op", "m", "m\\op", "movs", "movsbl", "outer", "cmp", "ret", "popcnt", "pushfs", ""] {
            assert!(lookup(word.as_bytes()).is_none(), "{word}");
        }
    }
}
