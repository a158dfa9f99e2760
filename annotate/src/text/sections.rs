//! Which section the text is in, and whether it is executable.
//!
//! GAS manual, 7.97 "`.section name`", 7.88 "`.pushsection`", 7.84 "`.popsection`", 7.86 "`.previous`". A section keeps
//! the flags of its first mention; without flags, the name decides (bfd, `elf.c`, `special_sections_*`).

use std::collections::HashMap;

use crate::record::Flags;

/// What matters of a section.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the section")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Whether its contents are executed.
    pub(super) executable: bool,
    /// What its name says of the sites in it.
    pub(super) flags: Flags,
    /// Whether it is a member of a section group, which the linker may drop (ELF gABI, "Section Groups").
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
    executable: HashMap<String, bool>,
    numbers: HashMap<(String, String), usize>,
    /// By number.
    names: Vec<String>,
}

impl Default for Sections {
    fn default() -> Self {
        let mut sections = Self {
            current: Section::TEXT,
            previous: Section::TEXT,
            stack: Vec::new(),
            executable: HashMap::new(),
            numbers: HashMap::new(),
            names: Vec::new(),
        };
        let numbers = [".text", ".data"].map(|name| sections.number(name, b""));
        debug_assert_eq!(numbers, [Section::TEXT.number, Section::DATA.number]);
        sections
    }
}

impl Sections {
    /// Whether an executable section of the text is in a group: the flags in a directive say so. (Compilers put debug
    /// information into groups, too.)
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
    pub(super) fn name(&self) -> &str {
        &self.names[self.current.number]
    }

    /// Puts the text into another section, as if by a directive; returns the one it was in.
    pub(super) fn replace(&mut self, section: Section) -> Section {
        std::mem::replace(&mut self.current, section)
    }

    /// Whether the directive of this name changes the section.
    pub(super) fn is_change(directive: &[u8]) -> bool {
        const CHANGES: [&[u8]; 9] = [
            b".text",
            b".data",
            b".bss",
            b".struct",
            b".section",
            b".pushsection",
            b".popsection",
            b".subsection",
            b".previous",
        ];
        CHANGES.iter().any(|change| directive.eq_ignore_ascii_case(change))
    }

    /// Follows a directive; `false` if it is not one that changes the section.
    pub(super) fn follow(&mut self, directive: &str, arguments: &[u8]) -> bool {
        match directive {
            ".text" => {
                let number = self.number(".text", arguments);
                self.enter(Section { number, ..Section::TEXT });
            }
            ".data" | ".bss" | ".struct" | ".offset" => self.enter(Section::DATA),
            ".section" => {
                let section = self.named(arguments);
                self.enter(section);
            }
            ".pushsection" => {
                self.stack.push((self.current, self.previous));
                let section = self.named(arguments);
                self.enter(section);
            }
            ".popsection" => {
                if let Some((current, previous)) = self.stack.pop() {
                    (self.current, self.previous) = (current, previous);
                }
            }
            ".subsection" => {
                let name = self.names[self.current.number].clone();
                let number = self.number(&name, arguments);
                self.enter(Section { number, ..self.current });
            }
            ".previous" => std::mem::swap(&mut self.current, &mut self.previous),
            _ => return false,
        }
        true
    }

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

    fn enter(&mut self, section: Section) {
        self.previous = std::mem::replace(&mut self.current, section);
    }

    /// The section that `NAME[, SUBSECTION][, "FLAGS"...]` names.
    fn named(&mut self, arguments: &[u8]) -> Section {
        let arguments = String::from_utf8_lossy(arguments);
        let mut parts = arguments.split(',').map(str::trim).peekable();
        let name = parts.next().unwrap_or_default().trim_matches('"').to_owned();
        let subsection =
            parts.next_if(|part| part.starts_with(|first: char| first.is_ascii_digit())).unwrap_or_default();
        let flags = parts.find(|part| part.starts_with(['"', '#']));
        // `G` is followed by the group's name, `?` stands for the group of the current section.
        let grouped = flags.is_some_and(|flags| {
            flags.starts_with('"') && (flags.contains('G') || flags.contains('?') && self.current.grouped)
        });
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
