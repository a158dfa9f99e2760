//! Expressions as GAS reads them (manual, 6.2 "Expressions"), as far as they are sums of names and
//! numbers.

use super::scan::is_word;

/// A sum: the names in it, each added or subtracted, and a number. Arithmetic wraps at 64 bits, as
/// the assembler's does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum<'a> {
    /// The names that are added.
    pub(super) added: Vec<&'a [u8]>,
    /// The names that are subtracted.
    pub(super) subtracted: Vec<&'a [u8]>,
    pub(super) number: i64,
}

impl<'a> Sum<'a> {
    /// Reads a whole text; `None` if it is not a sum.
    pub(super) fn read(text: &'a [u8]) -> Option<Self> {
        // Most are a number.
        if !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
            return number(text).map(Self::of);
        }
        let mut reader = Reader { text, at: 0, depth: 0 };
        let mut sum = reader.sum()?;
        reader.blanks();
        sum.cancel();
        (reader.at == text.len()).then_some(sum)
    }

    /// Leaves out what is both added and subtracted.
    fn cancel(&mut self) {
        let subtracted = &mut self.subtracted;
        self.added.retain(|name| match subtracted.iter().position(|other| other == name) {
            Some(at) => {
                subtracted.swap_remove(at);
                false
            }
            None => true,
        });
    }

    /// The number, if there are no names.
    pub(super) fn constant(&self) -> Option<i64> {
        (self.added.is_empty() && self.subtracted.is_empty()).then_some(self.number)
    }

    fn of(number: i64) -> Self {
        Self { number, ..Self::default() }
    }

    fn plus(mut self, other: Self) -> Self {
        self.added.extend(other.added);
        self.subtracted.extend(other.subtracted);
        self.number = self.number.wrapping_add(other.number);
        self
    }

    fn negated(self) -> Self {
        Self { added: self.subtracted, subtracted: self.added, number: self.number.wrapping_neg() }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.blanks();
        self.text.get(self.at).copied()
    }

    /// Takes an operator, if it comes next.
    fn operator(&mut self, operator: &[u8]) -> bool {
        self.blanks();
        let is_next = self.text[self.at..].starts_with(operator);
        self.at += if is_next { operator.len() } else { 0 };
        is_next
    }

    /// The lowest precedence (manual, 6.2.4 "Infix Operators"). Comparisons are not read.
    fn sum(&mut self) -> Option<Sum<'a>> {
        let mut sum = self.bits()?;
        loop {
            sum = match self.peek() {
                Some(b'+') => {
                    self.at += 1;
                    sum.plus(self.bits()?)
                }
                Some(b'-') => {
                    self.at += 1;
                    sum.plus(self.bits()?.negated())
                }
                _ => return Some(sum),
            };
        }
    }

    fn bits(&mut self) -> Option<Sum<'a>> {
        let mut left = self.product()?;
        loop {
            let operation: fn(i64, i64) -> i64 = match self.peek() {
                Some(b'|') => |a, b| a | b,
                Some(b'&') => |a, b| a & b,
                Some(b'^') => |a, b| a ^ b,
                _ => return Some(left),
            };
            self.at += 1;
            left = Sum::of(operation(left.constant()?, self.product()?.constant()?));
        }
    }

    fn product(&mut self) -> Option<Sum<'a>> {
        let mut left = self.prefixed()?;
        loop {
            left = match self.peek() {
                Some(b'<') if self.operator(b"<<") => {
                    let (number, by) = (left.constant()?, self.prefixed()?.constant()?);
                    Sum::of(u32::try_from(by).ok().and_then(|by| number.checked_shl(by)).unwrap_or(0))
                }
                Some(b'>') if self.operator(b">>") => {
                    let (number, by) = (left.constant()?, self.prefixed()?.constant()?);
                    let number = u32::try_from(by).ok().and_then(|by| number.cast_unsigned().checked_shr(by));
                    Sum::of(number.unwrap_or(0).cast_signed())
                }
                Some(b'*') => {
                    self.at += 1;
                    Sum::of(left.constant()?.wrapping_mul(self.prefixed()?.constant()?))
                }
                Some(b'/') => {
                    self.at += 1;
                    Sum::of(left.constant()?.checked_div(self.prefixed()?.constant()?)?)
                }
                Some(b'%') => {
                    self.at += 1;
                    Sum::of(left.constant()?.checked_rem(self.prefixed()?.constant()?)?)
                }
                _ => return Some(left),
            };
        }
    }

    fn prefixed(&mut self) -> Option<Sum<'a>> {
        const DEEPEST: u32 = 64;
        if self.depth == DEEPEST {
            return None;
        }
        self.depth += 1;
        let value = match self.peek()? {
            b'-' => {
                self.at += 1;
                self.prefixed()?.negated()
            }
            b'+' => {
                self.at += 1;
                self.prefixed()?
            }
            b'~' => {
                self.at += 1;
                Sum::of(!self.prefixed()?.constant()?)
            }
            b'(' => {
                self.at += 1;
                let inner = self.sum()?;
                if !self.operator(b")") {
                    return None;
                }
                inner
            }
            b'\'' => Sum::of(self.character()?),
            _ => self.word()?,
        };
        self.depth -= 1;
        Some(value)
    }

    /// `'x`, and `'x'`, which newer versions take (manual, 3.6.1.2 "Characters").
    fn character(&mut self) -> Option<i64> {
        let character = *self.text.get(self.at + 1)?;
        if character == b'\\' {
            return None;
        }
        self.at += 2;
        self.at += usize::from(self.text.get(self.at) == Some(&b'\''));
        Some(character.into())
    }

    fn word(&mut self) -> Option<Sum<'a>> {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
        let word = &rest[..length];
        if word.is_empty() {
            return None;
        }
        self.at += length;
        if !word[0].is_ascii_digit() {
            return Some(Sum { added: vec![word], ..Sum::default() });
        }
        let is_local = matches!(word, [digits @ .., b'b' | b'f'] if digits.iter().all(u8::is_ascii_digit));
        if is_local { Some(Sum { added: vec![word], ..Sum::default() }) } else { number(word).map(Sum::of) }
    }
}

/// An integer (manual, 3.6.2.1 "Integers").
fn number(text: &[u8]) -> Option<i64> {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        [b'0', b'b' | b'B', digits @ ..] => (digits, 2),
        [b'0', _, ..] => (text, 8),
        _ => (text, 10),
    };
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok().map(u64::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants() {
        for (text, expected) in [
            ("12", Some(12)),
            ("0x0F", Some(15)),
            ("017", Some(15)),
            ("0b101", Some(5)),
            ("(0x0f)", Some(15)),
            ("-1", Some(-1)),
            ("~0", Some(-1)),
            ("1+2*3", Some(7)),
            ("(1 + 2) * 3", Some(9)),
            ("0xf0 | 0xa", Some(0xfa)),
            ("1 << 4 >> 2", Some(4)),
            ("'z+18", Some(140)),
            ("'a'", Some(97)),
            ("0xffffffffffffffff", Some(-1)),
            ("7 / 0", None),
            ("1 2", None),
            ("(1", None),
            ("", None),
            ("\\x", None),
            ("8(", None),
            ("09", None),
        ] {
            assert_eq!(Sum::read(text.as_bytes()).and_then(|sum| sum.constant()), expected, "{text}");
        }
        assert_eq!(Sum::read(&b"(".repeat(100_000)), None);
    }

    #[test]
    fn sums() {
        let sum = |text: &'static str| {
            let Sum { added, subtracted, number } = Sum::read(text.as_bytes()).expect("a sum");
            let texts =
                |names: Vec<&'static [u8]>| names.into_iter().map(|n| std::str::from_utf8(n).unwrap()).collect();
            let (added, subtracted): (Vec<&str>, Vec<&str>) = (texts(added), texts(subtracted));
            (added, subtracted, number)
        };
        assert_eq!(sum(".+4"), (vec!["."], vec![], 4));
        assert_eq!(sum("1f - 2b + 3"), (vec!["1f"], vec!["2b"], 3));
        assert_eq!(sum("8*2-(end-start)"), (vec!["start"], vec!["end"], 16));
        assert_eq!(sum("a+(b-a)+1"), (vec!["b"], vec![], 1));
        assert_eq!(sum("0b"), (vec!["0b"], vec![], 0));
        assert_eq!(sum("\\end - ."), (vec!["\\end"], vec!["."], 0));
    }
}
