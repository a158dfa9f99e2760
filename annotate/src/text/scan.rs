//! GAS text cut into labels and statements.
//!
//! GAS (manual, section 3, "Syntax"; `app.c`, the scrubber) is line-oriented but not line-based: `;` separates
//! statements, `/* */` comments span lines, strings hide all of these, and a character constant (`'x`) hides one
//! character. On x86 `#` starts a comment anywhere and `/` does at the start of a statement. A NUL ends a statement, too
//! (`read.c`, `lex_type`). The scanner copies nothing:
//! what it yields are offsets into the source, so that the annotated text is the source with insertions and every byte
//! that is not ours reaches the assembler as it was.

use std::borrow::Cow;
use std::ops::Range;

/// What a [`Scanner`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// `name:`; the range is that of the name, without its quotes if it has some.
    Label(Range<usize>),
    /// An instruction, directive, macro call or assignment.
    Statement(Statement),
}

/// One statement without its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Offset of the first byte.
    pub(super) start: usize,
    /// End of the first word: mnemonic, directive or macro name.
    pub(super) head_end: usize,
    /// End of the code, before blanks and comments.
    pub(super) end: usize,
}

impl Statement {
    pub(super) fn head<'a>(&self, source: &'a [u8]) -> &'a [u8] {
        &source[self.start..self.head_end]
    }

    pub(super) fn operands<'a>(&self, source: &'a [u8]) -> &'a [u8] {
        source[self.head_end..self.end].trim_ascii_start()
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Iterates over the items of a part of the source.
#[derive(Clone)]
pub(super) struct Scanner<'a> {
    source: &'a [u8],
    position: usize,
    end: usize,
}

/// Byte classes; a plain operand byte is [`PLAIN`].
const PLAIN: u8 = 0;
const BLANK: u8 = 1;
const TERMINATOR: u8 = 2;
const SPECIAL: u8 = 3;

const KIND: [u8; 256] = {
    let mut kind = [PLAIN; 256];
    let mut blanks = b" \t\r\x0c\x0b".as_slice();
    while let [blank, rest @ ..] = blanks {
        kind[*blank as usize] = BLANK;
        blanks = rest;
    }
    kind[b'\n' as usize] = TERMINATOR;
    kind[b';' as usize] = TERMINATOR;
    kind[0] = TERMINATOR;
    let mut specials = b"\"'#/".as_slice();
    while let [special, rest @ ..] = specials {
        kind[*special as usize] = SPECIAL;
        specials = rest;
    }
    kind
};

/// Bytes of a symbol (GAS manual, 3.4), and `\`, which stands before a macro parameter.
const WORD: [bool; 256] = {
    let mut word = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "byte < 256")]
        let b = byte as u8;
        word[byte] = b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$' | b'\\' | b'@' | b'?' | 0x80..);
        byte += 1;
    }
    word
};

/// The name of a directive, in lower case.
pub(super) fn lowercase(head: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(head) {
        Ok(name) if !head.iter().any(u8::is_ascii_uppercase) => Cow::Borrowed(name),
        _ => Cow::Owned(String::from_utf8_lossy(head).to_ascii_lowercase()),
    }
}

/// Whether the byte can stand in a word.
pub(super) fn is_word(byte: u8) -> bool {
    WORD[usize::from(byte)]
}

impl<'a> Scanner<'a> {
    pub(super) fn new(source: &'a [u8], range: Range<usize>) -> Self {
        Self { source, position: range.start, end: range.end }
    }

    /// A scanner of the same text that goes on behind `position`, the end of an item.
    pub(super) fn behind(&self, position: usize) -> Self {
        Self { position, ..self.clone() }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        if at < self.end { Some(self.source[at]) } else { None }
    }

    /// Skips what separates statements: blanks, newlines, `;` and comments.
    fn skip_separators(&mut self) {
        while let Some(byte) = self.byte(self.position) {
            match byte {
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c | b'\n' | b';' | 0 => self.position += 1,
                b'/' if self.byte(self.position + 1) == Some(b'*') => self.position = self.block_comment(self.position),
                b'#' | b'/' => self.position = self.line_end(self.position),
                _ => break,
            }
        }
    }

    fn line_end(&self, from: usize) -> usize {
        memchr::memchr(b'\n', &self.source[from..self.end]).map_or(self.end, |length| from + length)
    }

    /// The offset after the `*/` of the comment that starts at `from`.
    fn block_comment(&self, from: usize) -> usize {
        memchr::memmem::find(&self.source[from + 2..self.end], b"*/").map_or(self.end, |length| from + 2 + length + 2)
    }

    /// The offset after the string that starts at `from`.
    fn string(&self, from: usize) -> usize {
        let mut at = from + 1;
        while let Some(length) = memchr::memchr2(b'"', b'\\', &self.source[at.min(self.end)..self.end]) {
            at += length + 1;
            if self.source[at - 1] == b'"' {
                return at;
            }
            at += 1;
        }
        self.end
    }

    /// The offset after the character constant that starts at `from`: `'x`, `'x'`, `'\n'`. A quote before a newline is
    /// left to the assembler's judgement.
    fn character(&self, from: usize) -> usize {
        let mut at = from + 1;
        match self.byte(at) {
            None | Some(b'\n') => return at,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
        if self.byte(at) == Some(b'\'') { at + 1 } else { at.min(self.end) }
    }

    fn blanks(&self, mut at: usize) -> usize {
        while self.byte(at).is_some_and(|byte| KIND[usize::from(byte)] == BLANK) {
            at += 1;
        }
        at
    }

    /// The end of the word at `from`; `\()`, which ends a macro parameter's name, belongs to it, and so does a
    /// pseudo-prefix (`{disp8}`) or a quoted symbol as a whole.
    fn word(&self, from: usize) -> usize {
        match self.byte(from) {
            Some(b'"') => return self.string(from),
            Some(b'{') => {
                let close = memchr::memchr2(b'}', b'\n', &self.source[from..self.end]);
                return close
                    .map_or(self.end, |length| from + length + usize::from(self.source[from + length] == b'}'));
            }
            _ => {}
        }
        let mut at = from;
        while let Some(byte) = self.byte(at) {
            if WORD[usize::from(byte)] {
                at += 1;
            } else if byte == b'(' && at > from && self.source[at - 1] == b'\\' && self.byte(at + 1) == Some(b')') {
                at += 2;
            } else {
                break;
            }
        }
        at
    }

    /// The end of the code of the statement whose operands start at `from`, and where the scan goes on.
    fn statement_end(&self, from: usize, head_end: usize) -> (usize, usize) {
        let source = &self.source[..self.end];
        let mut at = from;
        let mut code_end = head_end;
        while let Some(&byte) = source.get(at) {
            match KIND[usize::from(byte)] {
                PLAIN => {
                    at += 1;
                    code_end = at;
                }
                BLANK => at += 1,
                TERMINATOR => return (code_end, at),
                _ => match byte {
                    b'"' => {
                        at = self.string(at);
                        code_end = at;
                    }
                    b'\'' => {
                        at = self.character(at);
                        code_end = at;
                    }
                    b'#' => return (code_end, self.line_end(at)),
                    b'/' if source.get(at + 1) == Some(&b'*') => at = self.block_comment(at),
                    _ => {
                        at += 1;
                        code_end = at;
                    }
                },
            }
        }
        (code_end, self.end)
    }
}

impl Iterator for Scanner<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        self.skip_separators();
        let start = self.position;
        if start >= self.end {
            return None;
        }
        let head_end = self.word(start);
        let after = self.blanks(head_end);
        if self.byte(after) == Some(b':') && head_end > start {
            self.position = after + 1;
            let quotes = usize::from(self.source[start] == b'"' && head_end > start + 1);
            return Some(Item::Label(start + quotes..head_end - quotes));
        }
        let (end, next) = self.statement_end(after, head_end);
        // A byte that starts no word is a statement of its own, which only the assembler can judge.
        self.position = next.max(start + 1);
        Some(Item::Statement(Statement { start, head_end, end: end.max(head_end) }))
    }
}
