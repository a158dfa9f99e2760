//! Which section the text is in, and whether it is executable.
//!
//! GAS manual, 7.97 "`.section name`", 7.88 "`.pushsection`", 7.84 "`.popsection`", 7.86 "`.previous`". A section keeps
//! the flags of its first mention; without flags, the name decides (bfd, `elf.c`, `special_sections_*`).

use std::collections::HashMap;

use crate::record::Flags;

/// What matters of a section.
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
}

impl Section {
    pub(super) const TEXT: Self =
        Self { executable: true, flags: Flags::empty(), grouped: false, link_once: false, debug: false };
    const DATA: Self = Self { executable: false, ..Self::TEXT };

    fn new(name: &str, executable: bool, grouped: bool) -> Self {
        let debug = [".debug", ".zdebug", ".stab"].iter().any(|start| name.starts_with(start));
        let link_once = name.starts_with(".gnu.linkonce.") && !grouped;
        Self { executable, flags: crate::linux::section_flags(name), grouped, link_once, debug }
    }
}

/// The current section and what `.popsection` and `.previous` go back to.
#[derive(Clone)]
pub(super) struct Sections {
    current: Section,
    previous: Section,
    stack: Vec<(Section, Section)>,
    executable: HashMap<String, bool>,
}

impl Default for Sections {
    fn default() -> Self {
        Self { current: Section::TEXT, previous: Section::TEXT, stack: Vec::new(), executable: HashMap::new() }
    }
}

impl Sections {
    /// Whether a section of the text may be in a group: only `.section` and `.pushsection` say so, by a flag.
    pub(super) fn has_groups(source: &[u8]) -> bool {
        memchr::memmem::find(source, b"comdat").is_some()
            || memchr::memmem::find_iter(source, b"section").any(|at| {
                let line = memchr::memchr(b'\n', &source[at..]).map_or(&source[at..], |end| &source[at..at + end]);
                let flags = line.split(|&byte| byte == b'"').skip(1).step_by(2);
                flags.into_iter().any(|flags| flags.contains(&b'G') && flags.iter().all(u8::is_ascii_alphabetic))
            })
    }

    pub(super) fn current(&self) -> Section {
        self.current
    }

    /// Puts the text into another section, as if by a directive; returns the one it was in.
    pub(super) fn replace(&mut self, section: Section) -> Section {
        std::mem::replace(&mut self.current, section)
    }

    /// Follows a directive; `false` if it is not one that changes the section.
    pub(super) fn follow(&mut self, directive: &str, arguments: &[u8]) -> bool {
        match directive {
            ".text" => self.enter(Section::TEXT),
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
            ".subsection" => self.previous = self.current,
            ".previous" => std::mem::swap(&mut self.current, &mut self.previous),
            _ => return false,
        }
        true
    }

    /// The section that the operands of a directive name.
    pub(super) fn follow_into(&mut self, arguments: &[u8]) -> Section {
        self.named(arguments)
    }

    fn enter(&mut self, section: Section) {
        self.previous = std::mem::replace(&mut self.current, section);
    }

    /// The section that `NAME[, SUBSECTION][, "FLAGS"...]` names.
    fn named(&mut self, arguments: &[u8]) -> Section {
        let arguments = String::from_utf8_lossy(arguments);
        let mut parts = arguments.split(',').map(str::trim);
        let name = parts.next().unwrap_or_default().trim_matches('"').to_owned();
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
        let section = Section::new(&name, executable, grouped);
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
