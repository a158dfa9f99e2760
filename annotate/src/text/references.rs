//! Which labels the text names again.
//!
//! A label that nothing names is reached by nobody: neither a branch nor a table can lead to it. Compilers put such labels
//! between any two instructions when they are asked for debug information, and name them there only. So what stands in
//! debug sections does not count, and the annotation of a text is the same with and without.
//!
//! The whole text has to be read to know. That is done once, and not before somebody asks; most questions are about a
//! label whose branch stands a few lines away, and are answered there.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ops::Range;

use super::scan::{Item, Scanner, Statement, is_word, lowercase};
use super::sections::Sections;

/// How far around a label its branch is looked for before the whole text is read.
const NEARBY: usize = 4096;
/// Where names start in more ways, every label counts as named.
const MOST_STARTS: usize = 64;

/// The names in a text, but for those in its debug information.
pub(super) struct References<'a> {
    source: &'a [u8],
    /// Only local labels matter: a compiler wrote the text.
    is_compiled: bool,
    names: OnceCell<Names<'a>>,
}

#[derive(Default)]
struct Names<'a> {
    whole: HashSet<&'a [u8]>,
    /// What stands before a macro parameter within a name: `.Ltable_\number` names all that starts so.
    starts: HashSet<&'a [u8]>,
    /// Those that a branch names, or that are typed as functions.
    branches: HashSet<&'a [u8]>,
    /// Those that are typed as objects.
    objects: HashSet<&'a [u8]>,
}

impl<'a> References<'a> {
    pub(super) fn of(source: &'a [u8], is_compiled: bool) -> Self {
        Self { source, is_compiled, names: OnceCell::new() }
    }

    fn all_names(&self) -> &Names<'a> {
        self.names.get_or_init(|| Names::of(self.source, self.is_compiled))
    }

    /// Whether anything names the label that is defined there. A label that is not local to the file is named by others.
    pub(super) fn names_local(&self, label: &Range<usize>) -> bool {
        let name = &self.source[label.clone()];
        let is_number = name.iter().all(u8::is_ascii_digit);
        if !is_number && !name.starts_with(b".L") || name.contains(&b'\\') {
            return true;
        }
        self.names_nearby(label) || self.names(name)
    }

    /// Whether anything names this symbol, and be it to make it global.
    pub(super) fn names(&self, name: &[u8]) -> bool {
        let names = self.all_names();
        let is_whole = if name.iter().all(u8::is_ascii_digit) {
            ["b", "f"].iter().any(|direction| names.whole.contains([name, direction.as_bytes()].concat().as_slice()))
        } else {
            names.whole.contains(name)
        };
        is_whole
            || name.contains(&b'\\')
            || names.starts.len() > MOST_STARTS
            || names.starts.iter().any(|start| name.starts_with(start))
    }

    /// Whether a branch goes to this symbol, or it is said to be a function.
    pub(super) fn is_branch_target(&self, name: &[u8]) -> bool {
        let names = self.all_names();
        let is_number = name.iter().all(u8::is_ascii_digit);
        let has = |name: &[u8]| names.branches.contains(name);
        if is_number { [b"b", b"f"].iter().any(|way| has(&[name, *way].concat())) } else { has(name) }
    }

    /// Whether this symbol is said to be an object (GAS manual, 7.109 "`.type`").
    pub(super) fn is_object(&self, name: &[u8]) -> bool {
        self.all_names().objects.contains(name)
    }

    /// Whether an instruction near a label names it.
    fn names_nearby(&self, label: &Range<usize>) -> bool {
        let name = &self.source[label.clone()];
        let nearby = label.start.saturating_sub(NEARBY)..self.source.len().min(label.end + NEARBY);
        let text = &self.source[nearby];
        memchr::memmem::find_iter(text, name).any(|at| {
            let is_start = at == 0 || !is_word(text[at - 1]);
            let is_end = text.get(at + name.len()).is_some_and(|&byte| !is_word(byte) && byte != b':');
            let line = memchr::memrchr(b'\n', &text[..at]).map_or(&text[..at], |line| &text[line + 1..at]);
            let line = line.trim_ascii_start();
            is_start && is_end && line.first().is_some_and(u8::is_ascii_alphabetic) && !line.contains(&b'#')
        })
    }
}

impl<'a> Names<'a> {
    fn of(source: &'a [u8], is_compiled: bool) -> Self {
        let mut names = Self::default();
        let mut sections = Sections::default();
        for item in Scanner::new(source, 0..source.len()) {
            let Item::Statement(statement) = item else { continue };
            let head = statement.head(source);
            if head.first() == Some(&b'.') {
                let directive = lowercase(head);
                if directive == ".type" {
                    names.describe(statement.operands(source));
                }
                if sections.follow(&directive, statement.operands(source)) || is_description(&directive) {
                    continue;
                }
            }
            if !sections.current().debug {
                let operands = &source[statement.head_end..statement.end];
                names.read(operands, is_compiled);
                if is_branch(source, &statement) {
                    names.branches.extend(words(operands).map(symbol));
                }
            }
        }
        names
    }

    /// Takes the type of a symbol.
    fn describe(&mut self, operands: &'a [u8]) {
        let mut words = words(operands);
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { return };
        match kind.strip_prefix(b"@").unwrap_or(kind) {
            b"object" | b"STT_OBJECT" => drop(self.objects.insert(name)),
            b"function" | b"STT_FUNC" => drop(self.branches.insert(name)),
            _ => {}
        }
    }

    /// Takes the names from the operands of a statement.
    fn read(&mut self, operands: &'a [u8], is_compiled: bool) {
        let is_local = |word: &&[u8]| matches!(word[0], b'.' | b'0'..=b'9' | b'$' | b'\\');
        for word in words(operands).filter(|word| !is_compiled || is_local(word)) {
            match memchr::memchr(b'\\', word) {
                Some(0) => {}
                Some(at) => drop(self.starts.insert(&word[..at])),
                None => drop(self.whole.insert(symbol(word))),
            }
        }
    }
}

/// Directives that say something of a symbol, or compute with it how much room there is, but make nobody reach it.
fn is_description(directive: &str) -> bool {
    const ROOM: [&str; 10] =
        [".skip", ".space", ".zero", ".fill", ".org", ".balign", ".p2align", ".align", ".rept", ".elseif"];
    matches!(directive, ".type" | ".size" | ".loc" | ".file")
        || matches!(directive, ".ascii" | ".asciz" | ".string" | ".string8")
        || directive.starts_with(".cfi_")
        || directive.starts_with(".if")
        || ROOM.contains(&directive)
}

/// The words of a text.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| !is_word(byte)).filter(|word| !word.is_empty())
}

/// The symbol that a word of an operand names: an immediate has a `$` before it, a relocation an `@` behind.
pub(super) fn symbol(word: &[u8]) -> &[u8] {
    let word = word.strip_prefix(b"$").unwrap_or(word);
    memchr::memchr(b'@', word).map_or(word, |at| &word[..at])
}

/// Whether the statement is a direct or indirect branch.
pub(super) fn is_branch(source: &[u8], statement: &Statement) -> bool {
    let head = statement.head(source);
    let starts = |start: &[u8]| head.len() >= start.len() && head[..start.len()].eq_ignore_ascii_case(start);
    starts(b"j") || starts(b"call") || starts(b"loop") || starts(b"xbegin")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The labels of a text that nothing names.
    fn unnamed(text: &str) -> Vec<&str> {
        let references = References::of(text.as_bytes(), false);
        Scanner::new(text.as_bytes(), 0..text.len())
            .filter_map(|item| match item {
                Item::Label(label) if !references.names_local(&label) => Some(&text[label]),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn labels_that_nothing_names() {
        let far = "\tnop\n".repeat(NEARBY);
        for (text, expected) in [
            (".L1:\n\tnop\n", vec![".L1"]),
            (".L1:\n\tjmp .L1\n", vec![]),
            (".L1:\n\tjmp .L10\n", vec![".L1"]),
            (".L1:\n\t.quad .L1\n", vec![]),
            (".L1:\n\tlea .L1(%rip), %rax\n", vec![]),
            (".L1:\n\tmov $.L1, %rax\n", vec![]),
            ("1:\n2:\n\tjmp 1b\n", vec!["2"]),
            ("global:\n\tnop\n", vec![]),
            (".L1:\n\tnop # .L1\n", vec![".L1"]),
            (".L1:\n.L2:\n\t.section .debug_info\n\t.quad .L1\n\t.text\n\t.quad .L2", vec![".L1"]),
            (".L1:\n\t.size f, .L1-f\n\t.loc 1 2 3 view .L1\n", vec![".L1"]),
            (".Lx_1:\n.Ly_1:\n\t.irp n, 1\n\tjmp .Lx_\\n\n\t.endr\n", vec![".Ly_1"]),
            (".L\\@:\n", vec![]),
            (".L1:\n\t.string \"...\\n\"\n\t.asciz \".\\t\"\n", vec![".L1"]),
        ] {
            assert_eq!(unnamed(text), expected, "{text}");
            let apart = text.replacen('\n', &format!("\n{far}"), 1);
            assert_eq!(unnamed(&apart), expected, "{text}, far apart");
        }
    }
}
