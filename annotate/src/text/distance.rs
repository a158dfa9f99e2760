//! Distances that the text counts in bytes.
//!
//! A pad moves what stands behind it. The assembler moves every label, and every difference of
//! labels, with it; what it cannot know is that a number counts bytes of code. The principle:
//! **wherever the text reaches a place by a number, no site in between is padded**. It is recorded
//! all the same, with the reason. Numbers are met in three forms:
//!
//! * a place and a number (`jmp .+4`, `lea label+7(%rip)`, `target = . + 9`): nothing is padded
//!   between the two, here.
//! * code that no name leads to, behind a branch: an entry of a table that is found by its number
//!   and size ([`super::flow`]).
//! * a decision about a distance (`.if end - start > 4`), which may fall otherwise: whoever
//!   assembles the text compares the object with the plain one.
//!
//! What bytes lie between a place and its number is known to the assembler only. Every instruction
//! and every directive that puts data has one byte at least, so that N of them are enough. A MOV of
//! a number that takes 8 bytes has ten, which matters because a kernel names that number by its
//! distance from the end (Linux, `runtime-const.h`). A macro call may put anything; where one lies
//! on the way, or the number is not known, no site of the text is padded.

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::expression::Sum;
use super::gaps::is_silent;
use super::inline::Inline;
use super::macros::Macros;
use super::operands::{Syntax, split};
use super::references::{is_branch, symbol};
use super::scan::{Item, Scanner, Statement, is_word, lowercase};
use super::sections::Sections;

/// A place in the text, and a number of bytes from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// Where it is said.
    at: usize,
    /// The name of the place; without one it is here.
    name: Option<Range<usize>>,
    /// The name of what is subtracted: another place, and then this is a distance, or a number.
    less: Option<Range<usize>>,
    /// The number; `None` is any.
    bytes: Option<i64>,
}

impl Counted {
    /// A number of bytes from where it is said.
    pub(super) fn from_here(at: usize, bytes: i64) -> Self {
        Self { at, name: None, less: None, bytes: Some(bytes) }
    }
}

/// What the places and numbers of a text reach.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Nothing of the text may be padded.
    pub(super) everything: bool,
    /// Nothing in these parts of it.
    pub(super) parts: Vec<Range<usize>>,
}

/// The places with a number in the operands of a statement; `whole` if each operand is an
/// expression (data, a definition), and not an instruction's.
pub(super) fn counted(
    source: &[u8],
    syntax: Syntax,
    statement: &Statement,
    operands: &[u8],
    whole: bool,
) -> Vec<Counted> {
    if !has_sum(operands) || is_text(statement.head(source)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for operand in split(operands) {
        let expression = if whole { operand.trim_ascii() } else { displacement(syntax, operand.trim_ascii()) };
        let (expression, is_quoted) = match expression.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")) {
            Some(inner) => (inner, true),
            None => (expression, false),
        };
        // Compilers write jump tables and ranges of debug information so.
        if whole && is_local_difference(expression) {
            continue;
        }
        let number = expression.strip_prefix(b"-").unwrap_or(expression);
        if number.first().is_some_and(u8::is_ascii_digit) && number.iter().all(u8::is_ascii_hexdigit) {
            continue;
        }
        let start = |name: &[u8]| name.as_ptr().addr() - source.as_ptr().addr();
        let range = |name: &[u8]| start(symbol(name))..start(symbol(name)) + symbol(name).len();
        let place = |name: &[u8], bytes| {
            let is_here = matches!(symbol(name), b"." | b"$");
            Counted { at: statement.start, name: (!is_here).then(|| range(name)), less: None, bytes }
        };
        let is_parametric = memchr::memchr(b'\\', expression).is_some();
        match Sum::read(expression) {
            // Where a branch goes that a parameter and a number say, nobody knows here.
            sum if is_parametric => {
                let is_place = sum.is_none_or(|sum| sum.added.len() > sum.subtracted.len() && sum.number != 0);
                if is_place && is_branch(source, statement) {
                    found.push(Counted { at: statement.start, name: None, less: None, bytes: None });
                }
            }
            Some(Sum { added, subtracted, number }) if subtracted.len() < added.len() => {
                let others = added.len() + subtracted.len() > 1;
                if number != 0 || others {
                    let bytes = (!others).then_some(number);
                    found.extend(added.iter().chain(&subtracted).map(|name| place(name, bytes)));
                }
            }
            // The address of a place and a number, less that of another place; but a field of a
            // branch is counted from its end.
            Some(Sum { added, subtracted, number }) if added.len() == 1 && subtracted.len() == 1 => {
                let is_distance = number == 0 && is_data(&lowercase(statement.head(source))) && is_local(subtracted[0]);
                if !is_distance && !is_from_end(source, statement, number) {
                    let less = Some(range(subtracted[0]));
                    found.push(Counted { less, ..place(added[0], Some(number)) });
                }
            }
            Some(_) => {}
            None if is_quoted => {}
            // Not understood. What it names is reached by any number, if it is a place.
            None => found.extend(names(expression).map(|name| place(name, None))),
        }
    }
    found
}

/// Whether there is a `+` or `-` that is more than the sign of a number.
fn has_sum(operands: &[u8]) -> bool {
    let is_sign = |at: usize| {
        let digits = operands[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0
            && matches!(operands.get(at + 1 + digits), None | Some(b',' | b'('))
            && matches!(operands[..at].trim_ascii_end().last(), None | Some(b',' | b'$'))
    };
    operands.iter().enumerate().any(|(at, byte)| matches!(byte, b'+' | b'-') && !is_sign(at))
}

/// Whether the directive puts characters.
fn is_text(head: &[u8]) -> bool {
    [&b".ascii"[..], b".asciz", b".string"].iter().any(|name| head.starts_with(name))
}

/// Whether an expression is the distance of two local labels, and nothing more.
fn is_local_difference(expression: &[u8]) -> bool {
    let Some(minus) = memchr::memchr(b'-', expression) else { return false };
    let is_label =
        |name: &[u8]| name.starts_with(b".L") && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.');
    is_label(&expression[..minus]) && is_label(&expression[minus + 1..])
}

/// Whether a name is surely that of a place: the current one, or a local label.
fn is_local(name: &[u8]) -> bool {
    name == b"." || name.starts_with(b".L") || name.first().is_some_and(u8::is_ascii_digit)
}

/// Whether the number is the size of the field, negative: `.long target - . - 4`.
fn is_from_end(source: &[u8], statement: &Statement, number: i64) -> bool {
    let size = match statement.head(source) {
        b".byte" => 1,
        b".word" | b".short" | b".value" | b".2byte" => 2,
        b".long" | b".int" | b".4byte" => 4,
        _ => return false,
    };
    number == -size
}

/// The part of an instruction's operand that is an expression (GAS manual, 9.16.1.2 and 9.16.7
/// "Memory References").
fn displacement(syntax: Syntax, operand: &[u8]) -> &[u8] {
    if syntax.intel {
        return operand;
    }
    let operand = operand.strip_prefix(b"*").unwrap_or(operand).trim_ascii();
    let operand = operand.strip_prefix(b"$").unwrap_or(operand);
    let operand = match memchr::memchr(b':', operand) {
        Some(colon) if operand.first() == Some(&b'%') => &operand[colon + 1..],
        _ => operand,
    };
    // The last bracket holds registers, if it does.
    match memchr::memrchr(b'(', operand) {
        Some(open) if operand[open + 1..].trim_ascii_start().starts_with(b"%") => &operand[..open],
        Some(open) if operand[open + 1..].trim_ascii_start().starts_with(b",") => &operand[..open],
        _ => operand,
    }
}

/// The words of an expression that may name a place.
fn names(expression: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_place = |word: &&[u8]| !word.is_empty() && !word.contains(&b'\\') && !word[0].is_ascii_digit();
    expression.split(|&byte| !is_word(byte)).filter(is_place)
}

/// A label, or a name that stands for one.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    executable: bool,
}

/// Where the labels of a text are, and what on the way from one place to another may be code or
/// data.
#[derive(Default)]
struct Positions<'a> {
    labels: FxHashMap<&'a [u8], Vec<Place>>,
    /// Starts of what has one byte at least, each so often as it surely has bytes.
    solid: Vec<usize>,
    /// Starts of what may have any number of bytes.
    calls: Vec<usize>,
    /// Bodies of macros and loops, the outermost.
    bodies: Vec<Range<usize>>,
    /// Names that are defined by another one.
    aliases: FxHashMap<&'a [u8], &'a [u8]>,
}

/// What the counted places of a text reach.
///
/// `labels` are those in code, and `aliases` what else may be the name of one; most counted places
/// are not there, and then there is nothing more to find out.
pub(super) fn reach<'a>(
    source: &'a [u8],
    counted: &[Counted],
    labels: &[Range<usize>],
    aliases: &FxHashSet<&'a [u8]>,
) -> Reach {
    let mut reach = Reach::default();
    let places = counted.iter().map(|one| one.name.as_ref().map_or(&b"."[..], |name| &source[name.clone()]));
    let names: FxHashSet<&[u8]> = places.collect();
    let may_be_code = |name: &&[u8]| matches!(name[..], [b'.'] | [b'0'..=b'9', ..]) || aliases.contains(name);
    if !names.iter().any(may_be_code) && !labels.iter().any(|label| names.contains(&source[label.clone()])) {
        return reach;
    }
    let positions = Positions::of(source);
    for one in counted {
        let place = match &one.name {
            Some(name) => positions.place(&source[name.clone()], one.at),
            None => Some(Place { offset: one.at, executable: true }),
        };
        let Some(place) = place.filter(|place| place.executable) else { continue };
        let is_place = |less: &Range<usize>| {
            let name = &source[less.clone()];
            name == b"." || positions.place(name, one.at).is_some()
        };
        let bytes = match &one.less {
            Some(less) if !is_place(less) => None,
            Some(_) if one.bytes == Some(0) => continue,
            _ => one.bytes,
        };
        if bytes.is_some_and(|bytes| positions.is_far(bytes)) {
            continue;
        }
        match bytes.and_then(|bytes| positions.range(place.offset, bytes)) {
            Some(part) if !positions.is_in_the_way(&part, one.at) => reach.parts.push(part),
            _ => reach.everything = true,
        }
    }
    reach
}

impl<'a> Positions<'a> {
    fn of(source: &'a [u8]) -> Self {
        let mut positions = Self::default();
        let mut sections = Sections::default();
        let mut macros = Macros::new(source);
        let inline = Inline::of(source);
        let mut body = None;
        let mut scanner = Scanner::new(source, 0..source.len());
        while let Some(item) = scanner.next() {
            let executable = sections.current().executable;
            match item {
                Item::Label(name) => {
                    let place = Place { offset: name.start, executable };
                    positions.labels.entry(&source[name]).or_default().push(place);
                }
                Item::Statement(statement) => {
                    let head = statement.head(source);
                    let directive = lowercase(head);
                    if sections.follow(&directive, statement.operands(source)) {
                        if sections.current().debug {
                            scanner = scanner.behind(inline.end_of_debug(statement.end));
                        }
                        continue;
                    }
                    if macros.follow(&directive, &statement).is_some() {
                        match (macros.in_body(), body) {
                            (true, None) => body = Some(statement.start),
                            (false, Some(start)) => {
                                positions.bodies.push(start..statement.end);
                                body = None;
                            }
                            _ => {}
                        }
                        continue;
                    }
                    positions.statement(source, &statement, executable, &macros);
                }
            }
        }
        positions
    }

    fn statement(&mut self, source: &'a [u8], statement: &Statement, executable: bool, macros: &Macros<'a>) {
        if let Some((name, value)) = definition(source, statement) {
            return self.define(name, value, statement.start, executable);
        }
        let head = statement.head(source);
        if is_silent(source, statement) {
        } else if macros.is_call(head) || macros.is_defined_anywhere(head) {
            self.calls.push(statement.start);
        } else if head.first() != Some(&b'.') || is_data(&lowercase(head)) {
            let bytes = if moves_long_number(head, statement.operands(source)) { 10 } else { 1 };
            self.solid.extend([statement.start; 10].iter().take(bytes));
        }
    }

    fn define(&mut self, name: &'a [u8], value: &'a [u8], offset: usize, executable: bool) {
        match Sum::read(value) {
            Some(Sum { added, .. }) if added == [b"."] => {
                self.labels.entry(name).or_default().push(Place { offset, executable });
            }
            Some(Sum { added, .. }) => {
                if let Some(other) = added.first() {
                    self.aliases.insert(name, other);
                }
            }
            None => {}
        }
    }

    /// The place that a name means to a statement at `at`.
    fn place(&self, name: &[u8], at: usize) -> Option<Place> {
        const LONGEST_CHAIN: usize = 16;
        if let [digits @ .., direction @ (b'b' | b'f')] = name
            && !digits.is_empty()
            && digits.iter().all(u8::is_ascii_digit)
        {
            let labels = self.labels.get(digits)?;
            let after = labels.partition_point(|place| place.offset < at);
            return if *direction == b'f' { labels.get(after) } else { labels[..after].last() }.copied();
        }
        let mut name = name;
        for _ in 0..LONGEST_CHAIN {
            if let Some(places) = self.labels.get(name) {
                return places.last().copied();
            }
            name = self.aliases.get(name)?;
        }
        None
    }

    /// Whether a number is no distance within the text: it turns an address into a physical one.
    fn is_far(&self, bytes: i64) -> bool {
        const LONGEST_INSTRUCTION: u64 = 15;
        const PADDING: u64 = 1 << 20;
        bytes.unsigned_abs() > self.solid.len() as u64 * LONGEST_INSTRUCTION + PADDING
    }

    /// The part of the text that lies a number of bytes behind or before a place.
    fn range(&self, offset: usize, bytes: i64) -> Option<Range<usize>> {
        let count = usize::try_from(bytes.unsigned_abs()).ok()?;
        let here = self.solid.partition_point(|&start| start < offset);
        Some(if bytes >= 0 {
            let end = here.checked_add(count).and_then(|end| self.solid.get(end)).copied();
            offset..end.unwrap_or(usize::MAX)
        } else {
            let start = here.checked_sub(count).and_then(|start| self.solid.get(start)).copied();
            start.unwrap_or(0)..offset
        })
    }

    /// Whether something in a part of the text may have any number of bytes, or it is reached from
    /// or to a body, which is expanded elsewhere.
    fn is_in_the_way(&self, part: &Range<usize>, at: usize) -> bool {
        let call = self.calls.partition_point(|&start| start < part.start);
        let crosses = |body: &Range<usize>| {
            let inside = body.start < part.start && part.end <= body.end && body.contains(&at);
            let outside = part.end <= body.start || body.end <= part.start;
            !inside && (!outside || body.contains(&at))
        };
        let near = |place: usize| self.bodies.partition_point(|body| body.end <= place);
        let touched = self.bodies[near(part.start)..].iter().take_while(|body| body.start < part.end);
        let around = self.bodies[near(at)..].iter().take(1);
        self.calls.get(call).is_some_and(|&start| start < part.end) || touched.chain(around).any(crosses)
    }
}

/// Whether an instruction is a MOV of a number that only a field of 8 bytes holds: REX.W, an
/// opcode, and the field (SDM Vol. 2B, MOV).
fn moves_long_number(head: &[u8], operands: &[u8]) -> bool {
    let is_move = [&b"mov"[..], b"movq", b"movabs", b"movabsq"].iter().any(|name| head.eq_ignore_ascii_case(name));
    let source = || operands.strip_prefix(b"$").and_then(|rest| rest.split(|byte| *byte == b',').next());
    let number = || Sum::read(source()?)?.constant();
    is_move && number().is_some_and(|number| i32::try_from(number).is_err() && u32::try_from(number).is_err())
}

/// The name and value of a definition: `name = value`, `.set name, value` and the like.
pub(super) fn definition<'a>(source: &'a [u8], statement: &Statement) -> Option<(&'a [u8], &'a [u8])> {
    let head = statement.head(source);
    let operands = statement.operands(source);
    if let Some(value) = operands.strip_prefix(b"=") {
        let value = value.strip_prefix(b"=").unwrap_or(value);
        return Some((head, value.trim_ascii()));
    }
    if !matches!(head, [b'.', b's' | b'S' | b'e' | b'E', ..])
        || !matches!(&*lowercase(head), b".set" | b".equ" | b".equiv" | b".eqv")
    {
        return None;
    }
    let comma = memchr::memchr(b',', operands)?;
    Some((operands[..comma].trim_ascii(), operands[comma + 1..].trim_ascii()))
}

/// Whether the directive of this name, in lower case, puts data, of which each operand has one byte
/// at least.
#[rustfmt::skip]
pub(super) fn is_data(directive: &[u8]) -> bool {
    matches!(
        directive,
        b".byte" | b".2byte" | b".4byte" | b".8byte" | b".word" | b".short" | b".value" | b".hword" | b".long" | b".int"
            | b".quad" | b".octa" | b".ascii" | b".asciz" | b".string" | b".float" | b".double" | b".single" | b".uleb128"
            | b".sleb128" | b".dc" | b".tfloat"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(text: &str) -> Reach {
        let source = text.as_bytes();
        let statements = Scanner::new(source, 0..source.len()).filter_map(|item| match item {
            Item::Statement(statement) => Some(statement),
            Item::Label(_) => None,
        });
        let mut aliases = FxHashSet::default();
        let all: Vec<Counted> = statements
            .flat_map(|statement| {
                let head = statement.head(source);
                let definition = definition(source, &statement);
                aliases.extend(definition.map(|(name, _)| name));
                let operands = definition.map_or_else(|| statement.operands(source), |(_, value)| value);
                let whole = is_data(head) || definition.is_some() || head == b"m";
                counted(source, Syntax::default(), &statement, operands, whole)
            })
            .collect();
        let labels: Vec<_> = Scanner::new(source, 0..source.len())
            .filter_map(|item| if let Item::Label(name) = item { Some(name) } else { None })
            .collect();
        reach(source, &all, &labels, &aliases)
    }

    #[test]
    fn signs_of_numbers_make_no_sum() {
        for text in ["-8(%rbp), %rax", "$-1, %eax", "$ -1", "-1,-2", "$+4096", "%rax, %rbx", "1, -2(%rsp)"] {
            assert!(!has_sum(text.as_bytes()), "{text}");
        }
        for text in [".+4", "a -4", "-4+a", "-a", "-4*a", "-4\\x", "4-a(%rip)", "*-8(%rax)", "-"] {
            assert!(has_sum(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_a_number_reaches_is_not_padded() {
        for (text, expected) in [
            ("jmp .+4\nnop\nnop\nnop\nnop\nLAST", "jmp .+4\nnop\nnop\nnop\n"),
            ("a: nop\nb: nop\nnop\njmp b+1\n", "b: nop\n"),
            ("lea 2+b(%rip), %rax\nb: nop\nnop\nnop\n", "b: nop\nnop\n"),
            ("1: nop\nnop\n1: jmp 1b+1\nnop\n", "1: jmp 1b+1\n"),
            ("x: nop\nnop\ny: nop\njmp y-1\n", "nop\n"),
            (".data\nt: .quad b+1\n.text\nb: nop\nnop\n", "b: nop\n"),
            ("x = b\nb: nop\nnop\njmp x+1\n", "b: nop\n"),
            ("x = 3f+1\njmp x\n3: nop\nnop\n", "3: nop\n"),
            (".set x, 3f+1\njmp x\n3: nop\nnop\n", "3: nop\n"),
            ("mov $b + 1, %eax\nb: nop\nnop\n", "b: nop\n"),
            ("movb $1, %gs:b+1\nb: nop\nnop\n", "b: nop\n"),
            (".data\n.long b+1-.\n.text\nb: nop\nnop\n", "b: nop\n"),
            (".macro m to\njmp \\to\n.endm\nm \"b+1\"\nb: nop\nnop\n", "b: nop\n"),
            (
                ".macro m\nnop\nmov $0x123456789abcdef, %rax\n1: .pushsection t\n.long 1b - 8 - .\n.popsection\n.endm\nm\n",
                "mov $0x123456789abcdef, %rax\n",
            ),
        ] {
            let part = reached(text).parts.pop().unwrap_or_default();
            assert_eq!(text[part.start..part.end.min(text.len())].trim_end(), expected.trim_end(), "{text}");
        }
    }

    #[test]
    fn what_is_no_distance_over_code() {
        for text in [
            "mov -8(%rbp), %rax\n",
            "mov $-1, %eax\n",
            ".data\nd: .quad 0\n.text\nmov d+8(%rip), %rax\n",
            ".long 1f - .\n1:\n",
            "a: nop\nb: mov $(b - a), %eax\n c = b - a\n",
            "a: nop\n.byte 0xe8\n.long a - . - 4\n",
            "mov external+4(%rip), %eax\n",
            "a: nop\nb: .ascii \"a+b\"\n",
            "ljmp $8, $((1f) - 0xffffffff80000000)\n1: nop\n",
            ".macro m to\n.long \\to - .\nmov \\to+8(%rsp), %rax\n.endm\n",
            "mov 8+4(%rax,%rbx,2), %eax\n",
        ] {
            assert_eq!(reached(text), Reach::default(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_told_reaches_everything() {
        for text in [
            "a: jmp a+SIZE\n",
            "a: nop\njmp a+1-b\n b = 3\n",
            "b = 3\nnop\njmp .-b\n",
            "b = 3\n.data\n.quad a-b\n.text\na: nop\n",
            ".macro m to\njmp \\to+2\n.endm\n",
            "jmp .+N*2\n",
            ".macro m\nnop\n.endm\njmp .+3\nm\nnop\nnop\nnop\n",
            ".macro m\njmp .+4\n.endm\nm\nnop\n",
        ] {
            assert!(reached(text).everything, "{text}");
        }
    }
}
