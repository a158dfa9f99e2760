//! Which parts of a compiler's output the compiler did not write: inline assembly, which stands between `#APP` and
//! `#NO_APP`. Where GCC puts several statements of it between the two, each ends with a line marker, `# 0 "" 2`: control may
//! come to the next from elsewhere than the one before (`asm goto`). The scanner takes all of these for comments.

use std::cell::{Cell, OnceCell};

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
            let mark = |at: usize| match &self.source[..at] {
                [.., b'#', b'N', b'O', b'_'] => Some((at, true)),
                [.., b'#'] => Some((at, false)),
                _ => None,
            };
            let ends = memchr::memmem::find_iter(self.source, b"# 0 \"\" 2").map(|at| (at, false));
            let mut marks: Vec<_> = memchr::memmem::find_iter(self.source, b"APP").filter_map(mark).collect();
            if !marks.is_empty() {
                marks.extend(ends);
                marks.sort_unstable();
            }
            marks
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
}
