//! Instructions that cannot get others before them.
//!
//! A prefix may be a statement of its own, bytes, or the end of a macro; it is for the one
//! instruction that comes next. And an instruction that may fault is known by its address, which
//! Linux looks up in a table (`_ASM_EXTABLE`, `arch/x86/include/asm/asm.h`). The text names it by a
//! label, which would be that of what stands before it. Nor would what stands behind it run.

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::expression::Sum;
use super::super::operands::split;
use super::super::scan::{Item, Scanner, Statement, is_word, lowercase};
use super::super::sections::Sections;
use super::super::stage::is_instruction;
use super::rules::is_prefix;

/// The section of the table, whose entries are each a place that may fault, where to go on, and a
/// number.
const TABLE: &str = "__ex_table";

/// Whether a statement is prefixes and nothing else.
fn is_lone_prefix(source: &[u8], statement: &Statement) -> bool {
    let text = &source[statement.range()];
    let is_words = || text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).all(is_prefix);
    is_words() || lowercase(statement.head(source)) == &b".byte"[..] && split(statement.operands(source)).all(is_byte)
}

/// Whether it is the byte of a prefix (SDM Vol. 2A, 2.1.1 and 2.2.1).
fn is_byte(operand: &[u8]) -> bool {
    let number = Sum::read(operand.trim_ascii()).and_then(|sum| sum.constant());
    matches!(number, Some(0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3))
}

/// Where a text has such instructions.
#[derive(Default)]
pub(super) struct Places<'a> {
    /// Macros that end in a prefix.
    prefixes: FxHashSet<Vec<u8>>,
    /// Macros that make entries of the table.
    entries: FxHashSet<Vec<u8>>,
    /// Where the labels stand that the table names.
    labels: FxHashSet<usize>,
    /// Where each label stood last,
    last: FxHashMap<&'a [u8], usize>,
    /// and those that the table has named before.
    awaited: FxHashSet<&'a [u8]>,
}

impl<'a> Places<'a> {
    pub(super) fn of(source: &'a [u8]) -> Self {
        let mut places = Self::default();
        let mut sections = Sections::default();
        let mut within: Option<Vec<u8>> = None;
        // How many names the table has got since the text came to it.
        let (mut in_table, mut named) = (false, 0);
        let mut is_prefixed = false;
        for item in Scanner::new(source, 0..source.len()) {
            let statement = match item {
                Item::Statement(statement) => statement,
                Item::Label(name) => {
                    places.label(&source[name.clone()], name.start);
                    continue;
                }
            };
            let (head, operands) = (lowercase(statement.head(source)), statement.operands(source));
            match &*head {
                b".macro" => within = operands.split(|&byte| !is_word(byte)).next().map(<[u8]>::to_ascii_lowercase),
                b".endm" => {
                    let name = within.take();
                    places.prefixes.extend(name.filter(|_| is_prefixed));
                }
                _ => {}
            }
            if places.is_prefix(source, &statement) {
                is_prefixed = true;
            } else if is_instruction(source, &statement) {
                is_prefixed = false;
            }
            let is_entry = places.entries.contains(&*head);
            let is_data = in_table && super::super::distance::is_data(&head);
            if is_entry || is_data {
                places.entries.extend(within.clone());
                for operand in split(operands) {
                    let words = || operand.split(|&byte| !is_word(byte)).filter(|word| is_name(word));
                    if is_entry || words().next().is_some() && named % 2 == 0 {
                        words().for_each(|word| places.name(word));
                    }
                    named += usize::from(words().next().is_some());
                }
            }
            if sections.follow(&head, operands) {
                (in_table, named) = (sections.name() == TABLE, 0);
            }
        }
        places
    }

    fn is_prefix(&self, source: &[u8], statement: &Statement) -> bool {
        is_lone_prefix(source, statement) || self.prefixes.contains(&*lowercase(statement.head(source)))
    }

    fn label(&mut self, name: &'a [u8], at: usize) {
        self.last.insert(name, at);
        if self.awaited.contains(name) {
            self.labels.insert(at);
            if name.first().is_some_and(u8::is_ascii_digit) {
                self.awaited.remove(name);
            }
        }
    }

    /// The table names a label.
    fn name(&mut self, word: &'a [u8]) {
        let (name, is_before) = match word {
            [number @ .., direction @ (b'b' | b'f')] if number.iter().all(u8::is_ascii_digit) => {
                (number, *direction == b'b')
            }
            _ => (word, self.last.contains_key(word)),
        };
        if is_before {
            self.labels.extend(self.last.get(name));
        } else {
            self.awaited.insert(name);
        }
    }
}

/// A name in an expression, and neither a number nor the current place.
fn is_name(word: &[u8]) -> bool {
    let Some((last, number)) = word.split_last() else { return false };
    let is_numeric = word[0].is_ascii_digit();
    let is_reference = matches!(last, b'b' | b'f') && !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    word != b"." && (!is_numeric || is_reference)
}

/// What is known of the next instruction.
#[derive(Default)]
pub(super) struct Next {
    /// A prefix of it stands before it.
    pub(super) is_prefixed: bool,
    /// It may fault.
    pub(super) may_fault: bool,
}

impl Next {
    pub(super) fn follow_label(&mut self, places: &Places<'_>, at: usize) {
        self.may_fault |= places.labels.contains(&at);
    }

    pub(super) fn follow(&mut self, places: &Places<'_>, source: &[u8], statement: &Statement, is_instruction: bool) {
        if places.is_prefix(source, statement) {
            self.is_prefixed = true;
        } else if is_instruction {
            *self = Self::default();
        }
    }
}
