//! GAS text cut into labels and statements.
//!
//! GAS (manual, section 3, "Syntax"; `app.c`, the scrubber) is line-oriented but not line-based:
//! `;` separates statements, `/* */` comments span lines, strings hide all of these, and a
//! character constant (`'x`) hides one character. On x86 `#` starts a comment anywhere and `/` does
//! at the start of a statement. A NUL ends a statement, too (`read.c`, `lex_type`). The scanner
//! copies nothing: what it yields are offsets into the source, so that the annotated text is the
//! source with insertions and every byte that is not ours reaches the assembler as it was.

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
    /// Whether an operand may be a sum: there is a sign, or a string, which may hold one.
    pub(super) may_add: bool,
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
    /// Up to the end of the part.
    source: &'a [u8],
    position: usize,
}

/// Byte classes of operands.
const PLAIN: u8 = 0;
const BLANK: u8 = 1;
const SPECIAL: u8 = 2;

const KIND: [u8; 256] = {
    let mut kind = [PLAIN; 256];
    let mut blanks = b" \t\r\x0c\x0b".as_slice();
    while let [blank, rest @ ..] = blanks {
        kind[*blank as usize] = BLANK;
        blanks = rest;
    }
    let mut specials = b"\n;\0\"'#/+-".as_slice();
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
pub(super) fn lowercase(head: &[u8]) -> Cow<'_, [u8]> {
    if head.iter().any(u8::is_ascii_uppercase) { Cow::Owned(head.to_ascii_lowercase()) } else { Cow::Borrowed(head) }
}

fn is_plain(byte: u8) -> bool {
    KIND[usize::from(byte)] == PLAIN
}

fn is_blank(byte: u8) -> bool {
    KIND[usize::from(byte)] == BLANK
}

/// Whether the byte can stand in a word.
pub(super) fn is_word(byte: u8) -> bool {
    WORD[usize::from(byte)]
}

impl<'a> Scanner<'a> {
    pub(super) fn new(source: &'a [u8], range: Range<usize>) -> Self {
        Self { source: &source[..range.end], position: range.start }
    }

    /// A scanner of the same text that goes on behind `position`, the end of an item.
    pub(super) fn behind(&self, position: usize) -> Self {
        Self { position, ..self.clone() }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.source.get(at).copied()
    }

    /// The offset behind what separates statements: blanks, newlines, `;` and comments.
    fn separators(&self, mut at: usize) -> usize {
        while let Some(byte) = self.byte(at) {
            at = match byte {
                _ if is_blank(byte) => at + 1,
                b'\n' | b';' | 0 => at + 1,
                b'/' if self.byte(at + 1) == Some(b'*') => self.block_comment(at),
                b'#' | b'/' => self.line_end(at),
                _ => break,
            }
        }
        at
    }

    fn line_end(&self, from: usize) -> usize {
        memchr::memchr(b'\n', &self.source[from..]).map_or(self.source.len(), |length| from + length)
    }

    /// The offset after the `*/` of the comment that starts at `from`.
    fn block_comment(&self, from: usize) -> usize {
        memchr::memmem::find(&self.source[from + 2..], b"*/").map_or(self.source.len(), |length| from + 2 + length + 2)
    }

    /// The offset after the string that starts at `from`.
    fn string(&self, from: usize) -> usize {
        let mut at = from + 1;
        while let Some(length) = memchr::memchr2(b'"', b'\\', &self.source[at.min(self.source.len())..]) {
            at += length + 1;
            if self.source[at - 1] == b'"' {
                return at;
            }
            at += 1;
        }
        self.source.len()
    }

    /// The offset after the character constant that starts at `from`: `'x`, `'x'`, `'\n'`. A quote
    /// before a newline is left to the assembler's judgement.
    fn character(&self, from: usize) -> usize {
        let mut at = from + 1;
        match self.byte(at) {
            None | Some(b'\n') => return at,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
        if self.byte(at) == Some(b'\'') { at + 1 } else { at.min(self.source.len()) }
    }

    /// The offset of the first byte from `from` on that is of another kind.
    fn past(&self, from: usize, is_kind: impl Fn(u8) -> bool) -> usize {
        let mut at = from;
        while at < self.source.len() && is_kind(self.source[at]) {
            at += 1;
        }
        at
    }

    /// The end of the word at `from`; `\()`, which ends a macro parameter's name, belongs to it,
    /// and so does a pseudo-prefix (`{disp8}`) or a quoted symbol as a whole.
    fn word(&self, from: usize) -> usize {
        match self.byte(from) {
            Some(b'"') => return self.string(from),
            Some(b'{') => {
                let close = memchr::memchr2(b'}', b'\n', &self.source[from..]);
                return close.map_or(self.source.len(), |length| {
                    from + length + usize::from(self.source[from + length] == b'}')
                });
            }
            _ => {}
        }
        let mut at = from;
        loop {
            at = self.past(at, is_word);
            if at == from || self.source[at - 1] != b'\\' || !self.source[at..].starts_with(b"()") {
                return at;
            }
            at += 2;
        }
    }

    /// Reads the operands from `from` on, and sets the end of the statement's code; returns where
    /// the scan goes on.
    fn operands(&self, from: usize, statement: &mut Statement) -> usize {
        let mut at = from;
        while let Some(byte) = self.byte(at) {
            at = match byte {
                _ if is_plain(byte) => self.past(at, is_plain),
                _ if is_blank(byte) => {
                    at += 1;
                    continue;
                }
                b'\n' | b';' | 0 => return at,
                b'#' => return self.line_end(at),
                b'/' if self.byte(at + 1) == Some(b'*') => {
                    at = self.block_comment(at);
                    continue;
                }
                b'"' => {
                    statement.may_add = true;
                    self.string(at)
                }
                b'\'' => self.character(at),
                _ => {
                    statement.may_add |= byte != b'/';
                    at + 1
                }
            };
            statement.end = at;
        }
        self.source.len()
    }
}

impl Iterator for Scanner<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let start = self.separators(self.position);
        self.position = start;
        if start >= self.source.len() {
            return None;
        }
        let head_end = self.word(start);
        let after = self.past(head_end, is_blank);
        if self.byte(after) == Some(b':') && head_end > start {
            self.position = after + 1;
            let quotes = usize::from(self.source[start] == b'"' && head_end > start + 1);
            return Some(Item::Label(start + quotes..head_end - quotes));
        }
        let mut statement = Statement { start, head_end, end: head_end, may_add: false };
        // A byte that starts no word is a statement of its own, which only the assembler can judge.
        self.position = self.operands(after, &mut statement).max(start + 1);
        Some(Item::Statement(statement))
    }
}
