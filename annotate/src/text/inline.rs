//! Which parts of a compiler's output the compiler did not write: inline assembly, which stands
//! between `#APP` and `#NO_APP`. Where GCC puts several statements of it between the two, each ends
//! with a line marker, `# 0 "" 2`: control may come to the next from elsewhere than the one before
//! (`asm goto`). The scanner takes all of these for comments.

use std::cell::{Cell, OnceCell};

use super::scan::is_word;
use super::sections::Sections;

/// The marks of a text.
pub(super) struct Inline<'a> {
    source: &'a [u8],
    /// Where each mark stands, and whether inline assembly ends there.
    marks: OnceCell<Vec<(usize, bool)>>,
    /// The part that was asked for last, where the next question is likely to be.
    last: Cell<usize>,
}

impl<'a> Inline<'a> {
    pub(super) fn of(source: &'a [u8]) -> Self {
        Self { source, marks: OnceCell::new(), last: Cell::new(0) }
    }

    fn marks(&self) -> &[(usize, bool)] {
        self.marks.get_or_init(|| {
            let mark = |at: usize| match &self.source[at..] {
                [b'#', b'N', b'O', b'_', b'A', b'P', b'P', ..] => Some((at, true)),
                [b'#', b'A', b'P', b'P', ..] => Some((at, false)),
                text => text.starts_with(b"# 0 \"\" 2").then_some((at, false)),
            };
            let marks: Vec<_> = memchr::memchr_iter(b'#', self.source).filter_map(mark).collect();
            let is_compiled = marks.iter().any(|&(at, _)| self.source[at + 1] != b' ');
            if is_compiled { marks } else { Vec::new() }
        })
    }

    /// The number of the part that a place is in, from 0; each mark starts one.
    pub(super) fn part(&self, at: usize) -> usize {
        let (marks, last) = (self.marks(), self.last.get());
        let is_before = |part: usize| part == 0 || marks[part - 1].0 < at;
        let is_behind = |part: usize| marks.get(part).is_none_or(|&(mark, _)| at <= mark);
        if !is_before(last) || !is_behind(last) {
            self.last.set(marks.partition_point(|&(mark, _)| mark < at));
        }
        self.last.get()
    }

    /// Whether a compiler wrote what stands at a place. A text without marks may be anybody's.
    pub(super) fn is_compiled(&self, at: usize) -> bool {
        self.part(at).checked_sub(1).is_some_and(|part| self.marks()[part].1)
    }

    /// Where the debug information ends that goes on at a place, or that place, if no compiler
    /// wrote it. What compilers write has one directive a line, so that only the start of each line
    /// has to be looked at.
    pub(super) fn end_of_debug(&self, at: usize) -> usize {
        if !self.is_compiled(at) {
            return at;
        }
        let may_end = |start: &usize| match self.source[*start..].trim_ascii_start() {
            [b'#', ..] => true,
            // Few directives start like one that changes the section.
            line @ ([b'.', b's', b'e' | b'u' | b't', ..]
            | [b'.', b'p', b'o' | b'r' | b'u', ..]
            | [b'.', b't', b'e', ..]
            | [b'.', b'd', b'a', ..]
            | [b'.', b'b', b's', ..]) => {
                Sections::is_change(line.split(|&byte| !is_word(byte)).next().unwrap_or_default())
            }
            _ => false,
        };
        let mut starts = memchr::memchr_iter(b'\n', &self.source[at..]).map(|length| at + length + 1);
        starts.find(may_end).unwrap_or(self.source.len())
    }

    /// Whether the text comes from a compiler.
    pub(super) fn has_marks(&self) -> bool {
        !self.marks().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Inline;

    #[test]
    fn parts() {
        let text = b"a\n#APP\nb\n# 0 \"\" 2\ne\n#NO_APP\nc\nAPP d\n";
        let inline = Inline::of(text);
        let of = |letter: u8| {
            text.iter().position(|&byte| byte == letter).map(|at| (inline.part(at), inline.is_compiled(at)))
        };
        let expected = [(0, false), (1, false), (2, false), (3, true), (3, true)];
        assert_eq!(b"abecd".map(of), expected.map(Some));
        assert!(inline.has_marks() && !Inline::of(b"APP").has_marks());
    }

    #[test]
    fn debug_information_is_passed_by_up_to_what_ends_it() {
        for (text, rest) in [
            (
                "#NO_APP\n.section .debug_info\n.L1:\n\t.byte 1\n\t.string \"; .text\"\n\t.section .text\nnop",
                "\t.section .text\nnop",
            ),
            ("#NO_APP\n.section .debug_info\n\t.long 1\n\t.text\nnop", "\t.text\nnop"),
            ("#NO_APP\n.section .debug_info\n\t.long 1\n#APP\n\t.long 2; .text", "#APP\n\t.long 2; .text"),
            ("#NO_APP\n.section .debug_info\n\t.sleb128 1\n\t.struct_ 0\n", ""),
            ("#APP\n.section .debug_info\n\t.long 1; .text", "\n\t.long 1; .text"),
            (".section .debug_info\n\t.long 1; .text", "\n\t.long 1; .text"),
        ] {
            let directive = text.find(".debug_info").map_or(0, |at| at + ".debug_info".len());
            assert_eq!(&text[Inline::of(text.as_bytes()).end_of_debug(directive)..], rest, "{text}");
        }
    }
}
