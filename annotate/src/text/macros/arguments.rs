//! How macros are written: their parameters, the arguments of a call, and references to parameters.
//!
//! GAS manual, 7.67 "`.macro`", 7.2 "`.altmacro`". In the alternate mode a parameter's name stands
//! for it without a backslash, angle brackets quote, and `%` has an expression evaluated.

use super::super::scan::is_word;

/// A parameter as it is declared.
#[derive(Clone, Copy)]
pub(super) struct Parameter<'a> {
    pub(super) name: &'a [u8],
    pub(super) default: Option<&'a [u8]>,
    pub(super) takes_rest: bool,
}

/// `NAME PARAMETER[=DEFAULT][:req|:vararg], ...`
pub(super) fn parse_definition(arguments: &[u8]) -> (Vec<u8>, Vec<Parameter<'_>>) {
    let mut words = split(arguments);
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    let parameters = words.map(|word| {
        let (declared, default) = split_at_byte(word, b'=');
        let (name, qualifier) = split_at_byte(declared, b':');
        Parameter { name, default, takes_rest: qualifier == Some(b"vararg") }
    });
    (name, parameters.collect())
}

/// Pairs the arguments of a call with the numbers of parameters, by keyword or position.
pub(super) fn bind<'p, 'a, 't>(
    parameters: &'p [Parameter<'a>],
    arguments: &'t [u8],
) -> impl Iterator<Item = (usize, &'t [u8])> + use<'p, 'a, 't> {
    let mut position = 0;
    split(arguments).filter_map(move |argument| {
        if let (keyword, Some(value)) = split_at_byte(argument, b'=')
            && let Some(number) = parameters.iter().position(|parameter| parameter.name == keyword)
        {
            return Some((number, value));
        }
        let parameter = parameters.get(position)?;
        if parameter.takes_rest {
            let rest = &arguments[offset_in(arguments, argument)..];
            let number = position;
            position = parameters.len();
            return Some((number, rest));
        }
        position += 1;
        Some((position - 1, argument))
    })
}

/// The arguments of a macro call: separated by a comma or blanks that no quote or bracket hides.
pub(super) fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text.trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut depth = 0_i32;
        let mut quoted = false;
        let mut escaped = false;
        let angled = rest[0] == b'<';
        let end = rest.iter().position(|&byte| {
            match byte {
                _ if escaped => {}
                b'"' => quoted = !quoted,
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'<' if angled => depth += 1,
                b'>' if angled => depth -= 1,
                _ => {}
            }
            escaped = (quoted && byte == b'\\' || angled && byte == b'!') && !escaped;
            !quoted && depth <= 0 && (byte == b',' || byte.is_ascii_whitespace())
        });
        let (argument, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let tail = tail.trim_ascii_start();
        rest = tail.strip_prefix(b",").unwrap_or(tail).trim_ascii_start();
        Some(argument)
    })
}

pub(super) fn split_at_byte(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(separator, text) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// What is in the quotes of an argument, if it is quoted.
pub(super) fn quoted(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// An argument as its parameter will show it.
pub(super) fn unquote(text: &[u8], alternate: bool) -> Vec<u8> {
    if let Some(inner) = quoted(text) {
        return inner.to_vec();
    }
    match text.strip_prefix(b"<").and_then(|text| text.strip_suffix(b">")).filter(|_| alternate) {
        Some(inner) => inner.iter().copied().filter(|&byte| byte != b'!').collect(),
        None => text.to_vec(),
    }
}

/// Where `part`, a slice of `whole`, starts in it.
pub(super) fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// A place in a text that may stand for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference<'t> {
    pub(super) name: &'t [u8],
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The places where a text names parameters: `\name` and, in the alternate mode, `name`. The `\()`
/// that may end a name belongs to it.
pub(super) fn references(text: &[u8], alternate: bool) -> impl Iterator<Item = Reference<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let start = at;
            let name_start = if text[at] == b'\\' { at + 1 } else { at };
            let is_bare = name_start == start;
            let end = name_start + name_length(&text[name_start..]);
            if is_bare && (!alternate || !begins_name(text[start])) {
                at = if alternate { start + 1 } else { end.max(start + 1) };
                continue;
            }
            at = end.max(start + 1);
            if end == name_start {
                continue;
            }
            if !is_bare && text[at..].starts_with(b"\\()") {
                at += 3;
            }
            return Some(Reference { name: &text[name_start..end], start, end: at });
        }
        None
    })
}

fn name_length(text: &[u8]) -> usize {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$' | b'@');
    text.iter().position(|byte| !is_name(byte)).unwrap_or(text.len())
}

/// Whether a name of the alternate mode can start with the byte. Digits do not hide one: in
/// `28110b` it is `b`.
fn begins_name(byte: u8) -> bool {
    is_word(byte) && !byte.is_ascii_digit() && byte != b'\\'
}

/// Replaces what stands for the parameter.
pub(super) fn substitute(text: &[u8], name: &[u8], value: &[u8], alternate: bool) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len() + value.len());
    let mut copied = 0;
    for reference in references(text, alternate).filter(|reference| reference.name == name) {
        result.extend_from_slice(&text[copied..reference.start]);
        result.extend_from_slice(value);
        copied = reference.end;
    }
    result.extend_from_slice(&text[copied..]);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_in_either_mode() {
        let names = |text: &'static str, alternate| -> Vec<&str> {
            references(text.as_bytes(), alternate).filter_map(|r| std::str::from_utf8(r.name).ok()).collect()
        };
        assert_eq!(names("mov \\from, 8(\\to\\()x)", false), ["from", "to"]);
        assert_eq!(names("\\a\\b: 140\\@", false), ["a", "b", "@"]);
        assert_eq!(names("add a, \\b", true), ["add", "a", "b"]);
        assert_eq!(names("28110b", true), ["b"]);
        assert_eq!(names("nothing", false), [""; 0]);
    }

    #[test]
    fn substitution() {
        let result = |text: &str, alternate| {
            String::from_utf8(substitute(text.as_bytes(), b"x", b"VALUE", alternate)).expect("UTF-8")
        };
        assert_eq!(result("\\x, \\xy, \\x\\()y, x", false), "VALUE, \\xy, VALUEy, x");
        assert_eq!(result("\\x, xy, x", true), "VALUE, xy, VALUE");
    }

    #[test]
    fn arguments_are_split_and_bound() {
        let arguments = |text: &'static str| -> Vec<&[u8]> { split(text.as_bytes()).collect() };
        assert_eq!(arguments("a b,c , \"d e\" f(g h)"), [&b"a"[..], b"b", b"c", b"\"d e\"", b"f(g h)"]);
        assert_eq!(arguments("<a, b>, <!>>"), [&b"<a, b>"[..], b"<!>>"]);
        let (name, parameters) = parse_definition(b"Name first=1, second:req rest:vararg");
        assert_eq!(name, b"name");
        let bound: Vec<_> = bind(&parameters, b"second=x, y, z, %rax").collect();
        assert_eq!(bound, [(1, &b"x"[..]), (0, b"y"), (1, b"z"), (2, b"%rax")]);
        assert_eq!(unquote(b"<!%rax>", true), b"%rax");
        assert_eq!(unquote(b"\"a b\"", false), b"a b");
    }
}
