//! Which section the text is in, and whether it is executable.
//!
//! GAS manual, 7.97 "`.section name`", 7.88 "`.pushsection`", 7.84 "`.popsection`", 7.86
//! "`.previous`". A section keeps the flags of its first mention; without flags, the name decides
//! (bfd, `elf.c`, `special_sections_*`).

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::scan::lowercase;
use crate::record::Flags;

/// What matters of a section.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the section")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Whether its contents are executed.
    pub(super) executable: bool,
    /// What its name says of the sites in it.
    pub(super) flags: Flags,
    /// Whether it is a member of a section group, which the linker may drop (ELF gABI, "Section
    /// Groups").
    pub(super) grouped: bool,
    /// Whether the linker keeps one of this name and drops the others, although it is in no group.
    pub(super) link_once: bool,
    /// Whether it holds debug information.
    pub(super) debug: bool,
    /// Tells it from the others of the text.
    pub(super) number: usize,
}

impl Section {
    pub(super) const TEXT: Self =
        Self { executable: true, flags: Flags::empty(), grouped: false, link_once: false, debug: false, number: 0 };
    const DATA: Self = Self { executable: false, number: 1, ..Self::TEXT };

    fn new(name: &str, executable: bool, grouped: bool, number: usize) -> Self {
        let debug = [".debug", ".zdebug", ".stab"].iter().any(|start| name.starts_with(start));
        let link_once = name.starts_with(".gnu.linkonce.") && !grouped;
        Self { executable, flags: crate::linux::section_flags(name), grouped, link_once, debug, number }
    }
}

/// The current section and what `.popsection` and `.previous` go back to.
#[derive(Clone)]
pub(super) struct Sections {
    current: Section,
    previous: Section,
    stack: Vec<(Section, Section)>,
    known: Rc<RefCell<Known>>,
}

/// What names mean, to all that follow the same text.
#[derive(Default)]
struct Known {
    executable: FxHashMap<String, bool>,
    numbers: FxHashMap<(String, String), usize>,
    /// By number.
    names: Vec<String>,
    /// By the arguments of directives, but for those whose meaning depends on the current section.
    sections: FxHashMap<Vec<u8>, Section>,
}

impl Default for Sections {
    fn default() -> Self {
        let mut known = Known::default();
        let numbers = [".text", ".data"].map(|name| known.number(name, b""));
        debug_assert_eq!(numbers, [Section::TEXT.number, Section::DATA.number]);
        let known = Rc::new(RefCell::new(known));
        Self { current: Section::TEXT, previous: Section::TEXT, stack: Vec::new(), known }
    }
}

impl Sections {
    /// Whether an executable section of the text is in a group: the flags in a directive say so.
    /// (Compilers put debug information into groups, too.)
    pub(super) fn has_groups(source: &[u8]) -> bool {
        memchr::memmem::find_iter(source, b"section").any(|at| {
            let line = memchr::memchr(b'\n', &source[at..]).map_or(&source[at..], |end| &source[at..at + end]);
            let mut flags = line.split(|&byte| byte == b'"').skip(1).step_by(2);
            flags.any(|flags| {
                flags.contains(&b'G') && flags.contains(&b'x') && flags.iter().all(u8::is_ascii_alphabetic)
            })
        })
    }

    pub(super) fn current(&self) -> Section {
        self.current
    }

    /// The name of the current section.
    pub(super) fn name(&self) -> String {
        self.known.borrow().names[self.current.number].clone()
    }

    /// Puts the text into another section, as if by a directive; returns the one it was in.
    pub(super) fn replace(&mut self, section: Section) -> Section {
        std::mem::replace(&mut self.current, section)
    }

    /// Whether the directive of this name changes the section.
    pub(super) fn is_change(directive: &[u8]) -> bool {
        matches!(
            &*lowercase(directive),
            b".text"
                | b".data"
                | b".bss"
                | b".struct"
                | b".section"
                | b".pushsection"
                | b".popsection"
                | b".subsection"
                | b".previous"
        )
    }

    /// Follows a directive; `false` if it is not one that changes the section.
    pub(super) fn follow(&mut self, directive: &[u8], arguments: &[u8]) -> bool {
        match directive {
            b".text" => {
                let number = self.known.borrow_mut().number(".text", arguments);
                self.enter(Section { number, ..Section::TEXT });
            }
            b".data" | b".bss" | b".struct" | b".offset" => self.enter(Section::DATA),
            b".section" => {
                let section = self.named(arguments);
                self.enter(section);
            }
            b".pushsection" => {
                self.stack.push((self.current, self.previous));
                let section = self.named(arguments);
                self.enter(section);
            }
            b".popsection" => {
                if let Some((current, previous)) = self.stack.pop() {
                    (self.current, self.previous) = (current, previous);
                }
            }
            b".subsection" => {
                let name = self.name();
                let number = self.known.borrow_mut().number(&name, arguments);
                self.enter(Section { number, ..self.current });
            }
            b".previous" => std::mem::swap(&mut self.current, &mut self.previous),
            _ => return false,
        }
        true
    }

    fn enter(&mut self, section: Section) {
        self.previous = std::mem::replace(&mut self.current, section);
    }

    /// The section that the arguments of a directive name.
    fn named(&self, arguments: &[u8]) -> Section {
        let mut known = self.known.borrow_mut();
        if let Some(section) = known.sections.get(arguments) {
            return *section;
        }
        let section = known.section(&String::from_utf8_lossy(arguments), self.current.grouped);
        if !arguments.contains(&b'?') {
            known.sections.insert(arguments.to_vec(), section);
        }
        section
    }
}

impl Known {
    /// The number of a section's part: its name, with that of its group, and its subsection.
    fn number(&mut self, name: &str, subsection: &[u8]) -> usize {
        let subsection = String::from_utf8_lossy(subsection.trim_ascii()).into_owned();
        let subsection = if subsection.is_empty() { "0".to_owned() } else { subsection };
        let next = self.names.len();
        let number = *self.numbers.entry((name.to_owned(), subsection)).or_insert(next);
        if number == next {
            self.names.push(name.to_owned());
        }
        number
    }

    /// The section that `NAME[, SUBSECTION][, "FLAGS"...]` names, where the current one is in a
    /// group or not.
    fn section(&mut self, arguments: &str, in_group: bool) -> Section {
        let mut parts = arguments.split(',').map(str::trim).peekable();
        let name = parts.next().unwrap_or_default().trim_matches('"').to_owned();
        let subsection =
            parts.next_if(|part| part.starts_with(|first: char| first.is_ascii_digit())).unwrap_or_default();
        let flags = parts.find(|part| part.starts_with(['"', '#']));
        // `G` is followed by the group's name, `?` stands for the group of the current section.
        let grouped = flags
            .is_some_and(|flags| flags.starts_with('"') && (flags.contains('G') || flags.contains('?') && in_group));
        let executable = match flags {
            Some(flags) if flags.starts_with('#') => arguments.contains("#execinstr"),
            Some(flags) => flags.contains('x'),
            None => self.executable.get(&name).copied().unwrap_or_else(|| executable_by_name(&name)),
        };
        let group = if grouped { parts.collect::<Vec<_>>().join(",") } else { String::new() };
        let number = self.number(&format!("{name}{group}"), subsection.as_bytes());
        let section = Section::new(&name, executable, grouped, number);
        self.executable.entry(name).or_insert(executable);
        section
    }
}

fn executable_by_name(name: &str) -> bool {
    name == ".text"
        || name.starts_with(".text.")
        || name.starts_with(".gnu.linkonce.t")
        || name == ".init"
        || name == ".fini"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_arguments_name_the_same_section() {
        let mut sections = Sections::default();
        let mut number = |directive: &str, arguments: &str| {
            assert!(sections.follow(directive.as_bytes(), arguments.as_bytes()), "{directive}");
            let Section { number, executable, grouped, .. } = sections.current();
            (number, executable, grouped)
        };
        let text = number(".section", ".text");
        let named = number(".section", "a,\"ax\"");
        assert_eq!(number(".text", ""), text);
        assert_eq!(number(".section", "a"), named);
        assert_eq!(number(".section", "a, \"ax\" "), named);
        let (part, executable, _) = number(".subsection", "1");
        assert!(part != named.0 && executable);
        assert_eq!(number(".section", "a,1"), (part, true, false));
        // What `?` stands for depends on the current section.
        assert!(!number(".section", "b,\"a?\"").2);
        assert!(number(".section", "c,\"axG\",@progbits,g,comdat").2);
        assert!(number(".section", "b,\"a?\"").2);
    }
}
