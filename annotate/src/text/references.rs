//! Which labels the text names again.
//!
//! A label that nothing names is reached by nobody: neither a branch nor a table can lead to it.
//! Compilers put such labels between any two instructions when they are asked for debug
//! information, and name them there only. So what stands in debug sections does not count, and the
//! annotation of a text is the same with and without.
//!
//! The whole text has to be read to know. That is done once, and not before somebody asks; most
//! questions are about a label whose branch stands a few lines away, and are answered there.

use std::cell::OnceCell;
use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::inline::Inline;
use super::scan::{Item, Scanner, Statement, is_word, lowercase};
use super::sections::Sections;

/// How far around a label its branch is looked for, and then its type, before the whole text is
/// read.
const NEARBY: [usize; 2] = [512, 4096];
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
    whole: FxHashSet<&'a [u8]>,
    /// What stands before a macro parameter within a name: `.Ltable_\number` names all that starts
    /// so.
    starts: FxHashSet<&'a [u8]>,
    /// Those that a branch names, or that are typed as functions.
    branches: FxHashSet<&'a [u8]>,
    /// Those that are typed as objects.
    objects: FxHashSet<&'a [u8]>,
    /// Where numbers are defined (`1`) and named (`1b`, `1f`), in the order of the text.
    numbers: FxHashMap<&'a [u8], Vec<usize>>,
    /// Those of them that stand in bodies of macros.
    in_macros: FxHashSet<&'a [u8]>,
    /// The bodies of macros, and those of loops: the outermost, in the order of the text.
    macros: Vec<Range<usize>>,
    loops: Vec<Range<usize>>,
}

impl<'a> References<'a> {
    pub(super) fn of(source: &'a [u8], is_compiled: bool) -> Self {
        Self { source, is_compiled, names: OnceCell::new() }
    }

    fn all_names(&self) -> &Names<'a> {
        self.names.get_or_init(|| Names::of(self.source, self.is_compiled))
    }

    /// Whether anything names the label that is defined there. A label that is not local to the
    /// file is named by others.
    pub(super) fn names_local(&self, label: &Range<usize>) -> bool {
        let name = &self.source[label.clone()];
        let is_number = name.iter().all(u8::is_ascii_digit);
        if !is_number && !name.starts_with(b".L") || name.contains(&b'\\') {
            return true;
        }
        NEARBY.iter().any(|&distance| self.names_within(distance, label)) || self.names(name)
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

    /// Whether anything reaches the label that is defined there. A number may be defined again, and
    /// each time is another label (GAS manual, 5.3): what names it means the one before it, or the
    /// one behind it. In the body of a loop that may be one of another round, and what stands in
    /// the body of a macro may mean any.
    pub(super) fn reaches(&self, label: &Range<usize>) -> bool {
        let name = &self.source[label.clone()];
        if !name.iter().all(u8::is_ascii_digit) {
            return self.names(name) || self.is_branch_target(name);
        }
        let names = self.all_names();
        let [back, forth] = [b"b", b"f"].map(|way| [name, way.as_slice()].concat());
        if names.starts_number(name) || [&back, &forth].iter().any(|name| names.in_macros.contains(name.as_slice())) {
            return true;
        }
        let start = label.start;
        let (before, behind) = names.around(name, start);
        if let Some(body) = body_at(&names.macros, start) {
            return names.stands_in(&back, body.start..usize::MAX) || names.stands_in(&forth, before..usize::MAX);
        }
        let in_loop = body_at(&names.loops, start).unwrap_or(start..start);
        names.stands_in(&back, in_loop.start..behind.max(in_loop.end))
            || names.stands_in(&forth, before.min(in_loop.start)..start.max(in_loop.end))
    }

    /// Whether a branch goes to this symbol, or it is said to be a function.
    pub(super) fn is_branch_target(&self, name: &[u8]) -> bool {
        let names = self.all_names();
        let is_number = name.iter().all(u8::is_ascii_digit);
        let has = |name: &[u8]| names.branches.contains(name);
        if is_number { [b"b", b"f"].iter().any(|way| has(&[name, *way].concat())) } else { has(name) }
    }

    /// Whether the symbol that is defined there is said to be an object (GAS manual, 7.109
    /// "`.type`").
    pub(super) fn is_object(&self, label: &Range<usize>) -> bool {
        let name = &self.source[label.clone()];
        let nearby = self.within(NEARBY[1], label);
        let mut kinds = memchr::memmem::find_iter(nearby, b".type").filter_map(|at| {
            let mut words = words(&nearby[at..]).skip(1);
            words.next().filter(|word| *word == name).and_then(|_| words.next())
        });
        let kind = if self.is_compiled { kinds.next() } else { None };
        kind.map_or_else(|| self.all_names().objects.contains(name), is_object)
    }

    fn within(&self, distance: usize, label: &Range<usize>) -> &'a [u8] {
        &self.source[label.start.saturating_sub(distance)..self.source.len().min(label.end + distance)]
    }

    /// Whether an instruction near a label names it, or, if it is a number, data. (Debug
    /// information does not name numbers.)
    fn names_within(&self, distance: usize, label: &Range<usize>) -> bool {
        let (name, text) = (&self.source[label.clone()], self.within(distance, label));
        let is_number = name.iter().all(u8::is_ascii_digit);
        let ends = |rest: &[u8]| match rest {
            [b'b' | b'f', rest @ ..] if is_number => rest.first().is_some_and(|&byte| !is_word(byte)),
            _ => !is_number && rest.first().is_some_and(|&byte| !is_word(byte) && byte != b':'),
        };
        let is_in_statement = |at: usize| {
            let line = memchr::memrchr(b'\n', &text[..at]).map_or(&text[..at], |line| &text[line + 1..at]);
            let line = line.trim_ascii_start();
            let is_instruction = line.first().is_some_and(u8::is_ascii_alphabetic);
            let is_data = || is_number && memchr::memmem::find(line, b".long ").is_some();
            (is_instruction || is_data()) && !line.contains(&b'#')
        };
        memchr::memmem::find_iter(text, name).any(|at| {
            let is_start = at == 0 || !is_word(text[at - 1]);
            is_start && ends(&text[at + name.len()..]) && is_in_statement(at)
        })
    }
}

impl<'a> Names<'a> {
    fn of(source: &'a [u8], is_compiled: bool) -> Self {
        let mut names = Self::default();
        let mut sections = Sections::default();
        let inline = Inline::of(source);
        let mut scanner = Scanner::new(source, 0..source.len());
        let mut open = Vec::new();
        while let Some(item) = scanner.next() {
            let statement = match item {
                Item::Statement(statement) => statement,
                Item::Label(name) => {
                    names.place(&source[name.clone()], name.start);
                    continue;
                }
            };
            let head = statement.head(source);
            if head.first() == Some(&b'.') {
                let directive = lowercase(head);
                names.follow(&directive, statement.start, &mut open);
                if *directive == *b".type" {
                    names.describe(statement.operands(source));
                }
                if sections.follow(&directive, statement.operands(source)) {
                    if sections.current().debug {
                        scanner = scanner.behind(inline.end_of_debug(statement.end));
                    }
                    continue;
                }
                if is_description(&directive) {
                    continue;
                }
            }
            if !sections.current().debug {
                let operands = &source[statement.head_end..statement.end];
                let in_macro = open.iter().any(|(is_macro, _)| *is_macro);
                names.read(operands, statement.head_end, is_compiled, in_macro);
                if is_branch(source, &statement) {
                    names.branches.extend(words(operands).map(symbol));
                }
            }
        }
        names
    }

    /// Notes where a number stands, or what names one.
    fn place(&mut self, name: &'a [u8], at: usize) {
        if name.first().is_some_and(u8::is_ascii_digit) {
            self.numbers.entry(name).or_default().push(at);
        }
    }

    /// Follows where bodies begin and end: `open` are those that have begun, with whether they are
    /// of macros.
    fn follow(&mut self, directive: &[u8], at: usize, open: &mut Vec<(bool, usize)>) {
        match directive {
            b".macro" => open.push((true, at)),
            b".rept" | b".irp" | b".irpc" => open.push((false, at)),
            b".endm" | b".endr" => {
                let Some((is_macro, start)) = open.pop() else { return };
                if open.is_empty() {
                    let bodies = if is_macro { &mut self.macros } else { &mut self.loops };
                    bodies.push(start..at);
                }
            }
            _ => {}
        }
    }

    /// The places of a number or a name of one, in the order of the text.
    fn places(&self, name: &[u8]) -> &[usize] {
        self.numbers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether it stands in a part of the text.
    fn stands_in(&self, name: &[u8], part: Range<usize>) -> bool {
        let places = self.places(name);
        places.get(places.partition_point(|&at| at < part.start)).is_some_and(|&at| at < part.end)
    }

    /// Where the number that is defined at a place is defined before that, and behind it.
    fn around(&self, number: &[u8], at: usize) -> (usize, usize) {
        let places = self.places(number);
        let this = places.partition_point(|&place| place < at);
        let before = this.checked_sub(1).map_or(0, |before| places[before]);
        (before, places.get(this + 1).copied().unwrap_or(usize::MAX))
    }

    /// Whether a parameter may make a name of this number of what stands before it.
    fn starts_number(&self, number: &[u8]) -> bool {
        self.starts.len() > MOST_STARTS || self.starts.iter().any(|start| number.starts_with(start))
    }

    /// Takes the type of a symbol.
    fn describe(&mut self, operands: &'a [u8]) {
        let mut words = words(operands);
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { return };
        match kind {
            kind if is_object(kind) => drop(self.objects.insert(name)),
            b"@function" | b"function" | b"STT_FUNC" => drop(self.branches.insert(name)),
            _ => {}
        }
    }

    /// Takes the names from the operands of a statement.
    fn read(&mut self, operands: &'a [u8], start: usize, is_compiled: bool, in_macro: bool) {
        let is_number = |word: &[u8]| word.iter().all(u8::is_ascii_digit);
        let is_local = |word: &&[u8]| matches!(word[0], b'.' | b'0'..=b'9' | b'$' | b'\\') && !is_number(&word[1..]);
        for word in words(operands).filter(|word| !is_compiled || is_local(word)) {
            let name = symbol(word);
            self.place(name, start + (name.as_ptr().addr() - operands.as_ptr().addr()));
            if in_macro && name.first().is_some_and(u8::is_ascii_digit) {
                self.in_macros.insert(name);
            }
            match memchr::memchr(b'\\', word) {
                Some(0) => {}
                Some(at) => drop(self.starts.insert(&word[..at])),
                None => drop(self.whole.insert(symbol(word))),
            }
        }
    }
}

/// The body that a place is in.
fn body_at(bodies: &[Range<usize>], at: usize) -> Option<Range<usize>> {
    bodies.get(bodies.partition_point(|body| body.end <= at)).filter(|body| body.contains(&at)).cloned()
}

/// Whether a type is that of an object.
fn is_object(kind: &[u8]) -> bool {
    matches!(kind, b"@object" | b"object" | b"STT_OBJECT")
}

/// Directives that say something of a symbol, or compute with it how much room there is, but make
/// nobody reach it.
fn is_description(directive: &[u8]) -> bool {
    matches!(directive, b".type" | b".size" | b".loc" | b".file")
        || matches!(directive, b".ascii" | b".asciz" | b".string" | b".string8")
        || matches!(
            directive,
            b".skip" | b".space" | b".zero" | b".fill" | b".org" | b".balign" | b".p2align" | b".align"
        )
        || matches!(directive, b".rept" | b".elseif")
        || directive.starts_with(b".cfi_")
        || directive.starts_with(b".if")
}

/// The words of a text.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| !is_word(byte)).filter(|word| !word.is_empty())
}

/// The symbol that a word of an operand names: an immediate has a `$` before it, a relocation an
/// `@` behind.
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

    /// Which labels of a text are reached, as a letter each: `r` or `-`.
    fn reached(text: &str) -> String {
        let references = References::of(text.as_bytes(), false);
        let labels = Scanner::new(text.as_bytes(), 0..text.len()).filter_map(|item| match item {
            Item::Label(label) => Some(label),
            Item::Statement(_) => None,
        });
        labels.map(|label| if references.reaches(&label) { 'r' } else { '-' }).collect()
    }

    #[test]
    fn a_number_is_reached_by_what_means_it() {
        for (text, expected) in [
            ("1:\n\tjmp 1b\n1:\n\tnop", "r-"),
            ("1:\n\tjmp 1f\n1:\n\tnop\n1:\n", "-r-"),
            ("4:\n\tret\n\t. = 4b + 8\n4:\n\tret\n\t. = 4b + 8\n\t.macro m\n4:\n\tret\n\t.endm\n\tm\n", "rr-"),
            ("\t.macro m\n4:\n\tret\n\t.endm\n\tm\n\tjmp 4b\n", "r"),
            ("\tjmp 4f\n\t.macro m\n4:\n\tret\n\t.endm\n\tm\n", "r"),
            ("\t.macro m\n\tjmp 4f\n\t.endm\n4:\n\tm\n4:\n", "rr"),
            ("\t.rept 2\n4:\n\tjmp 4f\n\t.endr\n4:\n4:\n", "rr-"),
            ("\t.rept 2\n\tjmp 4b\n4:\n\t.endr\n4:\n", "r-"),
            ("4:\n\t.rept 2\n\tjmp 4b\n4:\n\t.endr\n", "rr"),
            ("\tmov $1, %eax\n1:\n\tmov 1b@GOTPCREL(%rip), %rax\n", "r"),
            ("\tjmp 1\\way\n1:\n", "r"),
        ] {
            assert_eq!(reached(text), expected, "{text}");
        }
    }

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
    fn symbols_that_are_said_to_be_objects() {
        let far = "\tnop\n".repeat(NEARBY[1]);
        for (text, is_object) in [
            ("\t.type\ta, @object\na:\n", true),
            ("\t.type\ta, @function\na:\n", false),
            ("\t.type\tab, @object\n\t.type\ta, @function\na:\n", false),
            ("a:\n\tnop\n\t.type a,@object\n", true),
            ("a:\n\tnop\n", false),
        ] {
            for text in [text.to_owned(), text.replace("a:\n", &format!("{far}a:\n{far}"))] {
                let label = text.find("a:").map_or(0..0, |at| at..at + 1);
                for is_compiled in [false, true] {
                    assert_eq!(References::of(text.as_bytes(), is_compiled).is_object(&label), is_object, "{text}");
                }
            }
        }
    }

    #[test]
    fn labels_that_nothing_names() {
        let far = "\tnop\n".repeat(NEARBY[1]);
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
            ("1:\n2:\n\tnop\n\t.section x\n3:\t.long 1b - .\n", vec!["2", "3"]),
            (".L1:\n\t.string \"...\\n\"\n\t.asciz \".\\t\"\n", vec![".L1"]),
        ] {
            assert_eq!(unnamed(text), expected, "{text}");
            let apart = text.replacen('\n', &format!("\n{far}"), 1);
            assert_eq!(unnamed(&apart), expected, "{text}, far apart");
        }
    }
}
