//! Assembler macros: what a parameter can stand for.
//!
//! The stage sees macro bodies, not expansions. A sensitive instruction spelled out in a body is padded there, once, and
//! every expansion carries the pad. What a body leaves to its parameters is harder:
//!
//! * `ALTERNATIVE "", "stac"`: the parameter is a whole statement, the argument a quoted one. The argument is annotated
//!   inside its quotes ([`Macros::code_arguments`]).
//! * `\op %rax` or `mov \from, \to`: whether a site results depends on the expansion. If an argument somewhere in the file
//!   can make it one ([`Macros::expansions`]), the statement is dispatched at assembly time (see [`super::emit`]).
//!
//! GAS manual, 7.67 "`.macro`", 7.54 "`.irp`", 7.55 "`.irpc`", 7.90 "`.rept`".

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::ops::Range;

use super::scan::{Item, Scanner};

/// More combinations than this count as "anything".
const MOST_EXPANSIONS: usize = 512;
/// Macros that pass their parameters on are followed this deep.
const DEEPEST_NESTING: usize = 8;
/// Arguments looked at for one file before everything further counts as "anything": keeps the stage linear.
const MOST_WORK: usize = 1 << 20;

struct Parameter<'a> {
    name: &'a [u8],
    default: Option<&'a [u8]>,
    takes_rest: bool,
    /// The body has the parameter as a whole statement.
    is_statement: bool,
    /// The body has it anywhere else.
    is_used_otherwise: bool,
}

enum Frame<'a> {
    /// `.macro`
    Macro { name: Vec<u8>, parameters: Vec<Parameter<'a>> },
    /// `.irp`
    Loop { parameter: &'a [u8], values: Vec<&'a [u8]> },
    /// `.rept`, `.irpc`
    Repeat,
}

struct Call<'a> {
    arguments: &'a [u8],
    /// The macro whose body the call stands in.
    within: Option<Vec<u8>>,
}

/// Every macro of the file with its parameters, and every call of it.
#[derive(Default)]
struct Calls<'a> {
    parameters: HashMap<Vec<u8>, Vec<Parameter<'a>>>,
    calls: HashMap<Vec<u8>, Vec<Call<'a>>>,
}

/// The macros defined so far, and the definitions that the text is in.
pub(super) struct Macros<'a> {
    source: &'a [u8],
    definitions: HashMap<Vec<u8>, Vec<Parameter<'a>>>,
    frames: Vec<Frame<'a>>,
    calls: OnceCell<Calls<'a>>,
    work: Cell<usize>,
}

impl<'a> Macros<'a> {
    pub(super) fn new(source: &'a [u8]) -> Self {
        Self { source, definitions: HashMap::new(), frames: Vec::new(), calls: OnceCell::new(), work: Cell::new(0) }
    }

    /// Whether the text is in a body.
    pub(super) fn in_body(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Whether the text is in the body of a `.macro`, which can be expanded in any section.
    pub(super) fn in_macro(&self) -> bool {
        self.frames.iter().any(|frame| matches!(frame, Frame::Macro { .. }))
    }

    /// Follows a directive; `false` if it is not one of macros.
    pub(super) fn follow(&mut self, directive: &str, arguments: Range<usize>) -> bool {
        let arguments = &self.source[arguments];
        match directive {
            ".macro" => {
                let (name, parameters) = parse_definition(arguments);
                self.frames.push(Frame::Macro { name, parameters });
            }
            ".irp" => {
                let mut values = split_arguments(arguments);
                let parameter = values.next().unwrap_or_default();
                self.frames.push(Frame::Loop { parameter, values: values.collect() });
            }
            ".rept" | ".irpc" => self.frames.push(Frame::Repeat),
            ".endm" | ".endmacro" | ".endr" => {
                if let Some(Frame::Macro { name, parameters }) = self.frames.pop() {
                    self.definitions.insert(name, parameters);
                }
            }
            _ => return false,
        }
        true
    }

    /// Notes how the statement uses the parameters of the macros that it stands in.
    pub(super) fn note_use(&mut self, statement: &[u8]) {
        for frame in &mut self.frames {
            if let Frame::Macro { parameters, .. } = frame {
                note_use(parameters, statement);
            }
        }
    }

    /// The quoted arguments of a macro call that are code: the ranges inside their quotes.
    pub(super) fn code_arguments(&self, name: &[u8], arguments: &Range<usize>) -> Vec<Range<usize>> {
        let text = &self.source[arguments.clone()];
        if self.definitions.is_empty() || memchr::memchr(b'"', text).is_none() {
            return Vec::new();
        }
        let Some(parameters) = self.definitions.get(&name.to_ascii_lowercase()) else { return Vec::new() };
        let mut code = Vec::new();
        for (parameter, argument) in bind(parameters, text) {
            if is_quoted_code(parameter, argument) {
                let start = arguments.start + offset_in(text, argument) + 1;
                code.push(start..start + argument.len() - 2);
            }
        }
        code
    }

    /// Every text that `text` can become when its parameters are replaced; `None` if that cannot be told.
    pub(super) fn expansions(&self, text: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut expansions = vec![text.to_vec()];
        for name in references(text) {
            let values = self.values(name)?;
            if expansions.len() * values.len() > MOST_EXPANSIONS {
                return None;
            }
            expansions =
                expansions.iter().flat_map(|text| values.iter().map(|value| substitute(text, name, value))).collect();
        }
        Some(expansions)
    }

    /// What the parameter can be in the innermost body that has it.
    fn values(&self, name: &[u8]) -> Option<Vec<&'a [u8]>> {
        for frame in self.frames.iter().rev() {
            match frame {
                Frame::Loop { parameter, values } if *parameter == name => {
                    return values.iter().all(|value| !value.contains(&b'\\')).then(|| values.clone());
                }
                Frame::Macro { name: in_macro, parameters } if parameters.iter().any(|p| p.name == name) => {
                    let mut values = Vec::new();
                    self.collect(in_macro, name, DEEPEST_NESTING, &mut values)?;
                    return Some(values);
                }
                _ => {}
            }
        }
        None
    }

    /// Collects what the calls of the macro give its parameter.
    fn collect(&self, in_macro: &[u8], name: &[u8], depth: usize, values: &mut Vec<&'a [u8]>) -> Option<()> {
        let calls = self.calls.get_or_init(|| Calls::of(self.source));
        let parameters = calls.parameters.get(in_macro)?;
        values.extend(parameters.iter().filter(|p| p.name == name).filter_map(|p| p.default));
        for call in calls.calls.get(in_macro).into_iter().flatten() {
            self.work.set(self.work.get() + 1);
            if depth == 0 || self.work.get() > MOST_WORK {
                return None;
            }
            let Some((parameter, value)) = bind(parameters, call.arguments).find(|(p, _)| p.name == name) else {
                continue;
            };
            if is_quoted_code(parameter, value) {
                continue;
            }
            let value = unquote(value);
            let mut passed_on = references(value);
            match (passed_on.next(), &call.within) {
                (None, _) => values.push(value),
                (Some(outer), Some(within)) if value.len() == outer.len() + 1 => {
                    self.collect(within, outer, depth - 1, values)?;
                }
                _ => return None,
            }
        }
        values.sort_unstable();
        values.dedup();
        Some(())
    }
}

impl<'a> Calls<'a> {
    fn of(source: &'a [u8]) -> Self {
        let mut all = Self::default();
        let mut within: Vec<Vec<u8>> = Vec::new();
        for item in Scanner::new(source, 0..source.len()) {
            let text = match &item {
                Item::Label(name) => &source[name.start..=name.end],
                Item::Statement(statement) => &source[statement.range()],
            };
            if let Some(parameters) = within.last().and_then(|name| all.parameters.get_mut(name)) {
                note_use(parameters, text);
            }
            let Item::Statement(statement) = item else { continue };
            let head = statement.head(source).to_ascii_lowercase();
            match head.as_slice() {
                b".macro" => {
                    let (name, parameters) = parse_definition(statement.operands(source));
                    within.push(name.clone());
                    all.parameters.insert(name, parameters);
                }
                b".endm" | b".endmacro" => {
                    within.pop();
                }
                _ if all.parameters.contains_key(&head) => {
                    let call = Call { arguments: statement.operands(source), within: within.last().cloned() };
                    all.calls.entry(head).or_default().push(call);
                }
                _ => {}
            }
        }
        all
    }
}

/// Notes how a statement of the body uses the parameters.
fn note_use(parameters: &mut [Parameter<'_>], text: &[u8]) {
    for name in references(text) {
        if let Some(parameter) = parameters.iter_mut().find(|parameter| parameter.name == name) {
            let is_statement = text.len() == name.len() + 1;
            parameter.is_statement |= is_statement;
            parameter.is_used_otherwise |= !is_statement;
        }
    }
}

/// Whether an argument is code in quotes, which is annotated where it stands.
fn is_quoted_code(parameter: &Parameter<'_>, argument: &[u8]) -> bool {
    let is_quoted = argument.len() >= 2 && argument.starts_with(b"\"") && argument.ends_with(b"\"");
    parameter.is_statement && !parameter.is_used_otherwise && is_quoted && !argument.contains(&b'\\')
}

/// `NAME PARAMETER[=DEFAULT][:req|:vararg], ...`
fn parse_definition(arguments: &[u8]) -> (Vec<u8>, Vec<Parameter<'_>>) {
    let mut words = split_arguments(arguments);
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    let parameters = words.map(|word| {
        let (declared, default) = split_at_byte(word, b'=');
        let (name, qualifier) = split_at_byte(declared, b':');
        Parameter {
            name,
            default,
            takes_rest: qualifier == Some(b"vararg"),
            is_statement: false,
            is_used_otherwise: false,
        }
    });
    (name, parameters.collect())
}

/// Pairs the arguments of a call with parameters, by keyword or position.
fn bind<'p, 'a>(
    parameters: &'p [Parameter<'a>],
    arguments: &'a [u8],
) -> impl Iterator<Item = (&'p Parameter<'a>, &'a [u8])> {
    let mut position = 0;
    split_arguments(arguments).filter_map(move |argument| {
        if let (keyword, Some(value)) = split_at_byte(argument, b'=')
            && let Some(parameter) = parameters.iter().find(|parameter| parameter.name == keyword)
        {
            return Some((parameter, value));
        }
        let parameter = parameters.get(position)?;
        if parameter.takes_rest {
            let rest = &arguments[offset_in(arguments, argument)..];
            position = parameters.len();
            return Some((parameter, rest));
        }
        position += 1;
        Some((parameter, argument))
    })
}

/// The arguments of a macro call: separated by a comma or blanks that no quote or bracket hides.
fn split_arguments(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text.trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut depth = 0_i32;
        let mut quoted = false;
        let mut escaped = false;
        let end = rest.iter().position(|&byte| {
            match byte {
                _ if escaped => {}
                b'"' => quoted = !quoted,
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            escaped = quoted && byte == b'\\' && !escaped;
            !quoted && depth <= 0 && (byte == b',' || byte.is_ascii_whitespace())
        });
        let (argument, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let tail = tail.trim_ascii_start();
        rest = tail.strip_prefix(b",").unwrap_or(tail).trim_ascii_start();
        Some(argument)
    })
}

fn split_at_byte(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(separator, text) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn unquote(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)
}

/// Where `part`, a slice of `whole`, starts in it.
fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// The names behind the backslashes of a text.
fn references(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\\')
        .skip(1)
        .map(|name| {
            let length = name
                .iter()
                .position(|&byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$' | b'@')));
            &name[..length.unwrap_or(name.len())]
        })
        .filter(|name| !name.is_empty())
}

/// Replaces `\name`, and `\name\()` where that ends the name.
fn substitute(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut reference = vec![b'\\'];
    reference.extend_from_slice(name);
    let mut result = Vec::new();
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, &reference) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(value);
        rest = &rest[at + reference.len()..];
        rest = rest.strip_prefix(b"\\()").unwrap_or(rest);
    }
    result.extend_from_slice(rest);
    result
}
