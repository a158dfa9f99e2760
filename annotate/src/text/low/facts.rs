//! What a text says of its names: which are macros, numbers, registers, and what nobody may define.
//!
//! A name that stands for itself in an operand is an address unless the text says otherwise. It may
//! say so before or behind, by a definition, a macro that defines, or a structure's field.

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::distance::definition;
use super::super::expression::Sum;
use super::super::scan::{Item, Scanner, is_word, lowercase};
use super::super::sections::Sections;
use super::operands::{Value, resolved, symbol, value};
use super::rules::LABEL;

/// What a text says of its names.
pub(super) struct Facts<'a> {
    macros: FxHashSet<Vec<u8>>,
    numbers: FxHashMap<&'a [u8], i64>,
    /// Names that stand for numbers, which only the assembler knows.
    unknown: FxHashSet<&'a [u8]>,
    /// Names of registers,
    registers: FxHashSet<&'a [u8]>,
    /// and those that may be names of general-purpose registers,
    general: FxHashSet<&'a [u8]>,
    /// and how names start that macros put together and define.
    made: FxHashSet<&'a [u8]>,
    labels: FxHashSet<&'a [u8]>,
    weak: FxHashSet<&'a [u8]>,
    /// The text defines the label of the constants.
    pub(super) has_label: bool,
}

impl<'a> Facts<'a> {
    pub(super) fn of(source: &'a [u8]) -> Self {
        let mut facts = Self {
            macros: FxHashSet::default(),
            numbers: FxHashMap::default(),
            unknown: FxHashSet::default(),
            registers: FxHashSet::default(),
            general: FxHashSet::default(),
            made: FxHashSet::default(),
            labels: FxHashSet::default(),
            weak: FxHashSet::default(),
            has_label: false,
        };
        let mut definitions = Vec::new();
        let mut defined = FxHashSet::default();
        let mut definers = FxHashSet::default();
        let (mut within, mut is_structure) = (None, false);
        for item in Scanner::new(source, 0..source.len()) {
            let statement = match item {
                Item::Statement(statement) => statement,
                Item::Label(name) => {
                    facts.has_label |= &source[name.clone()] == LABEL.as_bytes();
                    facts.unknown.extend(is_structure.then_some(&source[name.clone()]));
                    facts.labels.insert(&source[name]);
                    continue;
                }
            };
            let head = lowercase(statement.head(source));
            let mut words = statement.operands(source).split(|&byte| !is_word(byte));
            match &*head {
                b".macro" => {
                    within = words.next().map(<[u8]>::to_ascii_lowercase);
                    facts.macros.extend(within.clone());
                }
                b".endm" => within = None,
                b".weak" => facts.weak.extend(words.filter(|word| !word.is_empty())),
                b".struct" | b".offset" => is_structure = true,
                _ if Sections::is_change(&head) => is_structure = false,
                _ if definers.contains(&*head) => {
                    let words = words.filter(|word| !word.is_empty());
                    facts.general.extend(words.clone());
                    facts.unknown.extend(words);
                    definers.extend(within.clone());
                }
                _ => {
                    if let Some((name, value)) = definition(source, &statement) {
                        match memchr::memchr(b'\\', name) {
                            None => _ = defined.insert(name),
                            Some(0) => definers.extend(within.clone()),
                            Some(parameter) => _ = facts.made.insert(&name[..parameter]),
                        }
                        definitions.push((name, value));
                    }
                }
            }
        }
        facts.weak.retain(|name| !defined.contains(name) && !facts.labels.contains(name));
        facts.classify(&definitions);
        facts
    }

    /// Finds what is no address, wherever the text says so: a macro may be used later than it is
    /// defined.
    fn classify(&mut self, definitions: &[(&'a [u8], &'a [u8])]) {
        let is_vector = |value: &[u8]| matches!(value, [b'%', b'x' | b'y' | b'z', b'm', b'm', ..]);
        loop {
            let before = self.registers.len() + self.general.len() + self.unknown.len();
            for &(name, value) in definitions {
                let is_register = value.starts_with(b"%") && !is_vector(value);
                if is_register || value.starts_with(b"\\") || self.is_name_of(value, &self.general) {
                    self.general.insert(name);
                }
                if value.starts_with(b"%") || self.is_name_of(value, &self.registers) {
                    self.registers.insert(name);
                } else if !self.may_be_address(value) {
                    self.unknown.insert(name);
                }
            }
            if self.registers.len() + self.general.len() + self.unknown.len() == before {
                break;
            }
        }
    }

    /// Whether it is the sum of a symbol's address and numbers, as far as can be told.
    fn may_be_address(&self, value: &[u8]) -> bool {
        let is_number = |name: &&&[u8]| self.unknown.contains(**name) || name.contains(&b'\\');
        let addresses = |names: &[&[u8]]| names.iter().filter(|name| !is_number(name)).count();
        Sum::read(value).is_some_and(|sum| addresses(&sum.added) > addresses(&sum.subtracted))
    }

    /// Follows a definition.
    pub(super) fn define(&mut self, name: &'a [u8], value: &'a [u8]) {
        let sum = Sum::read(value).map(|sum| resolved(sum, |name| self.number(name)));
        match sum.and_then(|sum| sum.constant()) {
            Some(number) => self.numbers.insert(name, number),
            None => self.numbers.remove(name),
        };
    }

    pub(super) fn number(&self, name: &[u8]) -> Option<i64> {
        self.numbers.get(name).copied()
    }

    pub(super) fn is_macro(&self, head: &[u8]) -> bool {
        self.macros.contains(head)
    }

    pub(super) fn value(&self, expression: &[u8]) -> Value {
        match symbol(expression) {
            Some((name, _)) if self.unknown.contains(name) && self.number(name).is_none() => Value::Other,
            _ => value(expression, |name| self.number(name)),
        }
    }

    /// Whether an operand has another name of a register, as far as can be told.
    pub(super) fn names_register(&self, operand: &[u8]) -> bool {
        self.has_name(operand, &self.registers)
    }

    /// Whether it is of one that might be saved.
    pub(super) fn names_general_register(&self, operand: &[u8]) -> bool {
        self.has_name(operand, &self.general)
    }

    fn has_name(&self, operand: &[u8], names: &FxHashSet<&[u8]>) -> bool {
        let may_be = !names.is_empty() || !self.made.is_empty();
        may_be && operand.split(|&byte| !is_word(byte)).any(|word| self.is_name_of(word, names))
    }

    /// Whether a word is one of these names, or of those that a macro makes.
    fn is_name_of(&self, word: &[u8], names: &FxHashSet<&[u8]>) -> bool {
        let is_made = || self.made.iter().any(|start| word.starts_with(start)) && !self.labels.contains(word);
        names.contains(word) || is_made()
    }

    pub(super) fn is_address(&self, expression: &[u8]) -> bool {
        self.value(expression) == Value::Address && !self.names_register(expression)
    }

    pub(super) fn is_weak(&self, expression: &[u8]) -> bool {
        symbol(expression).is_some_and(|(name, _)| self.weak.contains(name))
    }
}
