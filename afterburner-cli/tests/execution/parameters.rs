//! Statements in parts: whatever way a statement takes to the assembler, it computes the same with
//! pads.
//!
//! A statement starts as it is. Then parts of it become parameters of a macro, whose body is a
//! statement again, with the parameters in it, of which parts become parameters. So calls stand in
//! bodies of macros, with `\arg` in their arguments.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle::{Least, all_compute_the_same, nothing_is_silently_wrong};
use crate::statements::{INNOCENT, SENSITIVE, Statement, function, line, statement};

/// How a macro declares its parameters, and how it is called.
#[derive(Clone, Copy, Debug)]
enum Style {
    Commas,
    Blanks,
    Required,
    Vararg,
    Keywords,
    /// The first argument is the default.
    Default,
}

const STYLES: &[Style] =
    &[Style::Commas, Style::Blanks, Style::Required, Style::Vararg, Style::Keywords, Style::Default];

/// What is done to a statement.
#[derive(Clone, Debug)]
enum Wrap {
    /// It becomes the body of a macro.
    Body(Style),
    /// One piece of it becomes a parameter.
    Piece(usize, Style),
    /// One letter does.
    Letter(usize, usize, Style),
    /// Each piece does.
    Every(Style),
    /// All operands together do.
    Operands,
    /// The whole statement does, in quotes.
    Quoted(Style),
    /// The whole statement does, without.
    Code,
    /// A piece becomes a value of an `.irp`.
    Irp(usize),
    /// A letter becomes one of an `.irpc`.
    Irpc(usize, usize),
    /// It is repeated.
    Rept(u8),
    /// It depends on an argument.
    If(bool, Style),
}

/// A number that chooses a piece, or a letter of it.
const PLACE: std::ops::Range<usize> = 0..12;

fn wrap() -> impl Strategy<Value = Wrap> + Clone {
    let style = select(STYLES);
    prop_oneof![
        style.clone().prop_map(Wrap::Body),
        (PLACE, style.clone()).prop_map(|(piece, style)| Wrap::Piece(piece, style)),
        (PLACE, PLACE, style.clone()).prop_map(|(piece, at, style)| Wrap::Letter(piece, at, style)),
        style.clone().prop_map(Wrap::Every),
        Just(Wrap::Operands),
        style.clone().prop_map(Wrap::Quoted),
        Just(Wrap::Code),
        PLACE.prop_map(Wrap::Irp),
        (PLACE, PLACE).prop_map(|(piece, at)| Wrap::Irpc(piece, at)),
        (1..3_u8).prop_map(Wrap::Rept),
        (any::<bool>(), style).prop_map(|(really, style)| Wrap::If(really, style)),
    ]
}

/// Macros that were defined, and a number for the next parameter.
#[derive(Default)]
struct Definitions {
    text: String,
    number: usize,
}

impl Definitions {
    fn number(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    /// Defines a macro and calls it. `new` are parameters with what they are here; others that the
    /// body mentions are what they are here.
    fn call(&mut self, new: &[(String, String)], body: &str, style: Style) -> String {
        let mut parameters = new.to_vec();
        for name in references(body) {
            // What an `.irp` in the body binds is not this macro's.
            let bound = body.contains(&format!(".irp {name},")) || body.contains(&format!(".irpc {name},"));
            if !bound && parameters.iter().all(|(other, _)| *other != name) {
                parameters.push((name.clone(), format!("\\{name}")));
            }
        }
        let last = parameters.len().saturating_sub(1);
        let declare = |(place, (name, value)): (usize, &(String, String))| match style {
            Style::Required => format!("{name}:req"),
            Style::Vararg if place == last => format!("{name}:vararg"),
            Style::Default if place == 0 && !value.contains('\\') => format!("{name}={}", quoted(value)),
            _ => name.clone(),
        };
        let argue = |(place, (name, value)): (usize, &(String, String))| match style {
            Style::Keywords => format!("{name}={}", quoted(value)),
            Style::Vararg if place == last => value.clone(),
            Style::Default if place == 0 && !value.contains('\\') => String::new(),
            _ => quoted(value),
        };
        let separator = if matches!(style, Style::Blanks) { " " } else { ", " };
        let declared: Vec<_> = parameters.iter().enumerate().map(declare).collect();
        let arguments: Vec<_> = parameters.iter().enumerate().map(argue).collect();
        let name = format!("m{}x%%", self.number());
        write!(self.text, "\t.macro {name} {}\n{body}\t.endm\n", declared.join(separator)).expect("a string");
        format!("\t{name} {}\n", arguments.join(separator))
    }
}

/// An argument, in quotes if it has to be.
fn quoted(value: &str) -> String {
    if value.contains([' ', ',']) || value.contains("\\q") { format!("\"{value}\"") } else { value.to_owned() }
}

/// The parameters that a text mentions.
fn references(text: &str) -> Vec<String> {
    let name = |rest: &str| rest.split(|letter: char| !letter.is_ascii_alphanumeric()).next().map(str::to_owned);
    text.split('\\').skip(1).filter_map(name).filter(|name| !name.is_empty()).collect()
}

/// A piece with one of its letters replaced by a parameter, and that letter.
fn without_letter(piece: &str, at: usize, parameter: &str) -> Option<(String, String)> {
    let letters: Vec<_> = piece.char_indices().filter(|(_, letter)| letter.is_ascii_lowercase()).collect();
    if piece.contains(['\\', ' ']) || letters.is_empty() {
        return None;
    }
    let (place, letter) = letters[at % letters.len()];
    Some((format!("{}\\{parameter}\\(){}", &piece[..place], &piece[place + 1..]), letter.to_string()))
}

/// The statement after all that is done to it, the first of which is the outermost.
fn wrapped(pieces: &[String], wraps: &[Wrap], definitions: &mut Definitions) -> String {
    let Some((wrap, inner)) = wraps.split_first() else { return line(pieces) };
    let number = definitions.number();
    let name = format!("p{number}");
    let replaced = |at: usize, by: &str| {
        let mut pieces = pieces.to_vec();
        by.clone_into(&mut pieces[at]);
        pieces
    };
    let reference = format!("\\{name}");
    let whole = || line(pieces).trim().to_owned();
    match wrap {
        Wrap::Body(style) => {
            let body = wrapped(pieces, inner, definitions);
            definitions.call(&[], &body, *style)
        }
        Wrap::Piece(index, style) => {
            let at = index % pieces.len();
            let body = wrapped(&replaced(at, &reference), inner, definitions);
            definitions.call(&[(name, pieces[at].clone())], &body, *style)
        }
        Wrap::Letter(index, place, style) => {
            let at = index % pieces.len();
            let Some((rest, letter)) = without_letter(&pieces[at], *place, &name) else {
                return wrapped(pieces, inner, definitions);
            };
            let body = wrapped(&replaced(at, &rest), inner, definitions);
            definitions.call(&[(name, letter)], &body, *style)
        }
        Wrap::Every(style) => {
            let names: Vec<_> = (0..pieces.len()).map(|piece| format!("{name}n{piece}")).collect();
            let body = wrapped(&names.iter().map(|name| format!("\\{name}")).collect::<Vec<_>>(), inner, definitions);
            let parameters: Vec<_> = names.into_iter().zip(pieces.iter().cloned()).collect();
            definitions.call(&parameters, &body, *style)
        }
        Wrap::Operands if pieces.len() > 1 => {
            let (mnemonic, operands) = (format!("p{number}m"), format!("q{number}o"));
            let body = line(&[format!("\\{mnemonic}"), format!("\\{operands}")]);
            definitions.call(&[(mnemonic, pieces[0].clone()), (operands, pieces[1..].join(", "))], &body, Style::Vararg)
        }
        Wrap::Quoted(style) => {
            let body = wrapped(&[format!("\\q{number}")], inner, definitions);
            definitions.call(&[(format!("q{number}"), whole())], &body, *style)
        }
        Wrap::Code | Wrap::Operands => {
            let body = format!("\t\\q{number}\n");
            definitions.call(&[(format!("q{number}"), whole())], &body, Style::Vararg)
        }
        Wrap::Irp(index) => {
            let at = index % pieces.len();
            let value = quoted(&pieces[at]);
            let body = wrapped(&replaced(at, &reference), inner, definitions);
            format!("\t.irp {name}, {value}, {value}\n{body}\t.endr\n")
        }
        Wrap::Irpc(index, place) => {
            let at = index % pieces.len();
            let Some((rest, letter)) = without_letter(&pieces[at], *place, &name) else {
                return wrapped(pieces, inner, definitions);
            };
            let body = wrapped(&replaced(at, &rest), inner, definitions);
            format!("\t.irpc {name}, {letter}{letter}\n{body}\t.endr\n")
        }
        Wrap::Rept(times) => format!("\t.rept {times}\n{}\t.endr\n", wrapped(pieces, inner, definitions)),
        Wrap::If(really, style) => {
            let body = wrapped(pieces, inner, definitions);
            let body = format!("\t.if {reference}\n{body}\t.else\n\tinc %r8d\n\t.endif\n");
            definitions.call(&[(name, u8::from(*really).to_string())], &body, *style)
        }
    }
}

/// A function of statements with what is done to each.
fn parametrized(statements: &[(Statement, Vec<Wrap>)]) -> String {
    let mut definitions = Definitions::default();
    let mut body = String::new();
    for (statement, wraps) in statements {
        let pieces: Vec<_> = statement.iter().map(|piece| (*piece).to_owned()).collect();
        body += &wrapped(&pieces, wraps, &mut definitions);
    }
    format!("{}{}", definitions.text, function(&body))
}

pub(crate) fn fragments() -> impl Strategy<Value = String> {
    let wrapped_statement = (statement(), prop::collection::vec(wrap(), 0..4));
    prop::collection::vec(wrapped_statement, 1..4).prop_map(|statements| parametrized(&statements))
}

/// All that can be done to a statement, each thing with each style.
fn every_wrap() -> Vec<Wrap> {
    let mut wraps =
        vec![Wrap::Operands, Wrap::Code, Wrap::Rept(2), Wrap::Irp(0), Wrap::Irp(1), Wrap::Irpc(0, 0), Wrap::Irpc(1, 0)];
    for style in STYLES.iter().copied() {
        wraps.extend([
            Wrap::Body(style),
            Wrap::Every(style),
            Wrap::Quoted(style),
            Wrap::If(true, style),
            Wrap::If(false, style),
        ]);
        wraps.extend([
            Wrap::Piece(0, style),
            Wrap::Piece(1, style),
            Wrap::Letter(0, 1, style),
            Wrap::Letter(1, 0, style),
        ]);
    }
    wraps
}

#[test]
fn each_way_to_pass_a_statement_computes_the_same() {
    let with = |wraps: &[Wrap]| {
        let statements: Vec<_> =
            [SENSITIVE[0], INNOCENT[0], SENSITIVE[4]].map(|statement| (statement, wraps.to_vec())).into();
        parametrized(&statements)
    };
    let mut texts: Vec<_> = every_wrap().into_iter().map(|wrap| with(&[wrap])).collect();
    // One within the other: what the inner call passes on is what the outer macro got.
    for inner in [
        Wrap::Every(Style::Commas),
        Wrap::Operands,
        Wrap::Piece(1, Style::Keywords),
        Wrap::Body(Style::Blanks),
        Wrap::Quoted(Style::Commas),
        Wrap::Letter(1, 0, Style::Commas),
    ] {
        for outer in
            [Wrap::Every(Style::Commas), Wrap::Piece(1, Style::Vararg), Wrap::Quoted(Style::Commas), Wrap::Irp(1)]
        {
            texts.push(with(&[outer.clone(), inner.clone()]));
        }
    }
    all_compute_the_same(&texts);
}

#[test]
fn statements_in_parts_compute_the_same() {
    nothing_is_silently_wrong(fragments(), &Least { recorded: 40, padded: 40 });
}
