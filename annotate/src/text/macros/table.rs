//! Every macro of a text: its parameters, what its body does with them, and every call of it.
//!
//! What a parameter can be is followed from calls to bodies, and from the bodies that calls stand
//! in to their own calls. All of it is bounded, so that no text makes it slow: where a bound is
//! reached, a parameter may be anything.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::lookup::sensitive;
use super::super::operands::Syntax;
use super::super::scan::{Item, Scanner, Statement, lowercase};
use super::arguments::{Parameter, bind, offset_in, parse_definition, quoted, references, split, substitute, unquote};

/// More combinations than this count as "anything".
const MOST_EXPANSIONS: usize = 4096;
/// Calls and bodies looked at for one file before everything further counts as "anything": keeps
/// the stage linear.
const MOST_WORK: usize = 1 << 20;
/// Bodies that pass their parameters on are followed this deep.
const DEEPEST: usize = 64;

/// What texts a parameter can stand for; `None` is any.
type Values = Option<Rc<Vec<Vec<u8>>>>;

#[derive(Default)]
struct Macro<'a> {
    parameters: Vec<Parameter<'a>>,
    /// By parameter.
    uses: Vec<Vec<Use<'a>>>,
    calls: Vec<Call<'a>>,
    /// Another definition has other parameters.
    is_ambiguous: bool,
}

/// What a body does with a parameter.
enum Use<'a> {
    /// It is a whole statement.
    Statement,
    /// It is a whole quoted argument of another macro.
    Passed {
        name: Vec<u8>,
        arguments: &'a [u8],
        argument: &'a [u8],
    },
    Other,
}

struct Call<'a> {
    arguments: &'a [u8],
    scope: Option<usize>,
}

/// A body: what it defines, and the body that it stands in.
struct Scope<'a> {
    parent: Option<usize>,
    kind: Kind<'a>,
    alternate: bool,
}

enum Kind<'a> {
    /// `.macro`
    Macro(Vec<u8>),
    /// `.irp`, and `.irpc`, where each character is a value
    Loop { parameter: &'a [u8], values: &'a [u8], by_character: bool },
    /// `.rept`
    Repeat,
}

/// The macros of a text.
#[derive(Default)]
pub(super) struct Table<'a> {
    macros: FxHashMap<Vec<u8>, Macro<'a>>,
    scopes: Vec<Scope<'a>>,
    /// Scopes by the offset of the statement that opens them.
    opened: FxHashMap<usize, usize>,
    values: RefCell<FxHashMap<(Vec<u8>, usize), Values>>,
    code: RefCell<FxHashMap<(Vec<u8>, usize), bool>>,
    work: Cell<usize>,
    named_by_parameters: FxHashSet<Vec<u8>>,
}

impl<'a> Table<'a> {
    pub(super) fn of(source: &'a [u8]) -> Self {
        let mut reader = Reader {
            source,
            table: Self::default(),
            current: None,
            alternate: false,
            visible: FxHashMap::default(),
            shown: Vec::new(),
        };
        reader.names();
        for item in Scanner::new(source, 0..source.len()) {
            match item {
                Item::Label(name) => reader.note_uses(&source[name.start..=name.end], None),
                Item::Statement(statement) => reader.statement(&statement),
            }
        }
        let mut table = reader.table;
        table.named_by_parameters = table.names_by_parameters();
        table
    }

    /// The body that the statement at this offset opens.
    pub(super) fn scope(&self, offset: usize) -> Option<usize> {
        self.opened.get(&offset).copied()
    }

    pub(super) fn is_macro(&self, name: &[u8]) -> bool {
        self.macros.contains_key(name)
    }

    /// Whether a macro gets this name from a parameter (`.macro \name`).
    pub(super) fn is_named_by_parameters(&self, name: &[u8]) -> bool {
        self.named_by_parameters.contains(name)
    }

    fn names_by_parameters(&self) -> FxHashSet<Vec<u8>> {
        let mut names = FxHashSet::default();
        for scope in &self.scopes {
            if let Kind::Macro(name) = &scope.kind
                && name.contains(&b'\\')
            {
                names.extend(self.expand(name, scope.parent).into_iter().flatten());
            }
        }
        names
    }

    /// Whether the text refers to a parameter of the body or those around it.
    pub(super) fn mentions_parameter(&self, text: &[u8], scope: usize) -> bool {
        references(text, self.scopes[scope].alternate)
            .any(|reference| self.resolve(reference.name, Some(scope)).is_some())
    }

    /// Every text that `text` can become when its parameters are replaced; `None` if that cannot be
    /// told.
    pub(super) fn expand(&self, text: &[u8], scope: Option<usize>) -> Option<Vec<Vec<u8>>> {
        self.expand_within(text, scope, &mut Vec::new())
    }

    fn expand_within(
        &self,
        text: &[u8],
        scope: Option<usize>,
        visiting: &mut Vec<(Vec<u8>, usize)>,
    ) -> Option<Vec<Vec<u8>>> {
        let mut expansions = vec![text.to_vec()];
        let Some(scope) = scope else {
            return (!text.contains(&b'\\') || quoted(text).is_some()).then_some(expansions);
        };
        let alternate = self.scopes[scope].alternate;
        let mut names: Vec<&[u8]> = references(text, alternate).map(|reference| reference.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let Some((owner, parameter)) = self.resolve(name, Some(scope)) else {
                // A word that only looks like a parameter; but what a backslash names must be
                // known.
                let is_named = references(text, false).any(|reference| reference.name == name);
                if is_named {
                    return None;
                }
                continue;
            };
            let values = self.values(owner, parameter, visiting)?;
            if expansions.len() * values.len() > MOST_EXPANSIONS {
                return None;
            }
            expansions = expansions
                .iter()
                .flat_map(|text| values.iter().map(|value| substitute(text, name, value, alternate)))
                .collect();
        }
        // What ends a parameter's name may stand alone, too.
        for text in expansions.iter_mut().filter(|text| memchr::memchr(b'\\', text).is_some()) {
            while let Some(at) = memchr::memmem::find(text, b"\\()") {
                text.drain(at..at + 3);
            }
        }
        Some(expansions)
    }

    /// The scope that a parameter belongs to, and its number there.
    fn resolve(&self, name: &[u8], mut scope: Option<usize>) -> Option<(usize, usize)> {
        while let Some(number) = scope {
            self.work.set(self.work.get() + 1);
            let Scope { parent, kind, .. } = &self.scopes[number];
            match kind {
                Kind::Macro(in_macro) => {
                    let parameters = &self.macros.get(in_macro)?.parameters;
                    if let Some(parameter) = parameters.iter().position(|parameter| parameter.name == name) {
                        return Some((number, parameter));
                    }
                }
                Kind::Loop { parameter, .. } if *parameter == name => return Some((number, 0)),
                Kind::Loop { .. } | Kind::Repeat => {}
            }
            if self.work.get() > MOST_WORK {
                return None;
            }
            scope = *parent;
        }
        None
    }

    fn values(&self, scope: usize, parameter: usize, visiting: &mut Vec<(Vec<u8>, usize)>) -> Values {
        let Scope { parent, kind, alternate } = &self.scopes[scope];
        match kind {
            Kind::Repeat => None,
            Kind::Loop { values, by_character, .. } => {
                let mut all = Vec::new();
                for values in self.expand_within(values, *parent, visiting)? {
                    if *by_character {
                        all.extend(unquote(&values, *alternate).into_iter().map(|character| vec![character]));
                    } else {
                        all.extend(split(&values).map(|value| unquote(value, *alternate)));
                    }
                }
                Some(Rc::new(all))
            }
            Kind::Macro(name) => {
                let key = (name.clone(), parameter);
                if let Some(values) = self.values.borrow().get(&key) {
                    return values.clone();
                }
                if visiting.contains(&key) {
                    return Some(Rc::default());
                }
                if visiting.len() == DEEPEST {
                    return None;
                }
                visiting.push(key.clone());
                let values = self.collect(name, parameter, *alternate, visiting).map(Rc::new);
                visiting.pop();
                if visiting.is_empty() {
                    self.values.borrow_mut().insert(key, values.clone());
                }
                values
            }
        }
    }

    /// Collects what the calls of the macro give its parameter.
    fn collect(
        &self,
        name: &[u8],
        parameter: usize,
        alternate: bool,
        visiting: &mut Vec<(Vec<u8>, usize)>,
    ) -> Option<Vec<Vec<u8>>> {
        let Macro { parameters, calls, is_ambiguous, .. } = self.macros.get(name)?;
        if *is_ambiguous {
            return None;
        }
        let is_code = self.is_code(name, parameter);
        let mut values: FxHashSet<Vec<u8>> = FxHashSet::default();
        values.extend(parameters[parameter].default.map(|default| unquote(default, alternate)));
        for call in calls {
            self.work.set(self.work.get() + 1);
            if self.work.get() > MOST_WORK || values.len() > MOST_EXPANSIONS {
                return None;
            }
            let Some((_, value)) = bind(parameters, call.arguments).find(|(number, _)| *number == parameter) else {
                values.insert(Vec::new());
                continue;
            };
            if is_code && self.is_placeable(value, call.scope) {
                continue;
            }
            let expanded = self.expand_within(value, call.scope, visiting)?;
            values.extend(expanded.iter().map(|value| unquote(value, alternate)));
        }
        Some(values.into_iter().collect())
    }

    /// The quoted arguments of a macro call that are code: the inside of their quotes.
    pub(super) fn code_arguments<'t>(&self, name: &[u8], text: &'t [u8], scope: Option<usize>) -> Vec<&'t [u8]> {
        let Some(Macro { parameters, .. }) = self.macros.get(name) else { return Vec::new() };
        bind(parameters, text)
            .filter(|(number, argument)| self.is_code(name, *number) && self.is_placeable(argument, scope))
            .filter_map(|(_, argument)| quoted(argument))
            .collect()
    }

    /// Whether an argument is quoted, and what the quotes hold can be annotated there: it has no
    /// parameters, or a site whatever they are.
    fn is_placeable(&self, argument: &[u8], scope: Option<usize>) -> bool {
        let Some(inner) = quoted(argument) else { return false };
        let is_site = |item| matches!(item, Item::Statement(statement) if sensitive(inner, Syntax::default(), &statement).is_some());
        if inner.contains(&b'\\') && !Scanner::new(inner, 0..inner.len()).any(is_site) {
            return false;
        }
        let parameters =
            references(inner, false).filter(|reference| self.resolve(reference.name, scope).is_some()).count();
        memchr::memchr(b'"', inner).is_none() && parameters == backslashes(inner)
    }

    /// Whether a parameter is code: all that the body does with it is to have it as a statement, or
    /// to have another macro do so.
    fn is_code(&self, name: &[u8], parameter: usize) -> bool {
        let key = (name.to_vec(), parameter);
        if let Some(&known) = self.code.borrow().get(&key) {
            return known;
        }
        // Of a macro that passes it to itself, the other uses decide.
        self.code.borrow_mut().insert(key.clone(), true);
        let is_code = self.macros.get(name).is_some_and(|definition| {
            let uses = &definition.uses[parameter];
            !definition.is_ambiguous && !uses.is_empty() && uses.iter().all(|one| self.is_use_as_code(one))
        });
        self.code.borrow_mut().insert(key, is_code);
        is_code
    }

    fn is_use_as_code(&self, one: &Use<'_>) -> bool {
        match one {
            Use::Statement => true,
            Use::Other => false,
            Use::Passed { name, arguments, argument } => self.macros.get(name).is_some_and(|definition| {
                let bound = bind(&definition.parameters, arguments).find(|(_, bound)| {
                    offset_in(arguments, bound) == offset_in(arguments, argument) && bound.len() == argument.len()
                });
                bound.is_some_and(|(number, _)| self.is_code(name, number))
            }),
        }
    }
}

/// The backslashes of a text, but for those of `\()`.
fn backslashes(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\\', text).filter(|&at| !text[at..].starts_with(b"\\()")).count()
}

/// Reads the table from the text.
struct Reader<'a> {
    source: &'a [u8],
    table: Table<'a>,
    current: Option<usize>,
    alternate: bool,
    /// For each parameter, the macros that have it and that the text is in, the innermost last.
    visible: FxHashMap<&'a [u8], Vec<(Vec<u8>, usize)>>,
    /// The parameters of each body that the text is in.
    shown: Vec<Vec<&'a [u8]>>,
}

impl<'a> Reader<'a> {
    /// Notes the names of all macros, for a body may call one that is defined behind it.
    fn names(&mut self) {
        const DIRECTIVE: &[u8] = b".macro";
        for at in memchr::memmem::find_iter(self.source, DIRECTIVE) {
            let from = at + DIRECTIVE.len();
            if let Some(Item::Statement(words)) = Scanner::new(self.source, from..self.source.len()).next() {
                self.table.macros.entry(words.head(self.source).to_ascii_lowercase()).or_default();
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        let head = &*lowercase(statement.head(self.source));
        let operands = statement.operands(self.source);
        match head {
            b".macro" => self.define(statement, operands),
            b".irp" | b".irpc" => {
                let mut arguments = split(operands);
                let parameter = arguments.next().unwrap_or_default();
                let values = arguments.next().map_or(&[][..], |first| &operands[offset_in(operands, first)..]);
                self.visible.entry(parameter).or_default().push((Vec::new(), 0));
                self.open(statement, Kind::Loop { parameter, values, by_character: head == b".irpc" }, vec![parameter]);
            }
            b".rept" => self.open(statement, Kind::Repeat, Vec::new()),
            b".endm" | b".endmacro" | b".endr" => self.close(),
            b".altmacro" => self.alternate = true,
            b".noaltmacro" => self.alternate = false,
            _ => {
                let call = self.table.macros.get_mut(head).map(|called| {
                    called.calls.push(Call { arguments: operands, scope: self.current });
                    (head, operands)
                });
                self.note_uses(&self.source[statement.range()], call);
            }
        }
    }

    fn define(&mut self, statement: &Statement, operands: &'a [u8]) {
        let (name, parameters) = parse_definition(operands);
        let definition = self.table.macros.entry(name.clone()).or_default();
        let shown: Vec<&[u8]> = parameters.iter().map(|parameter| parameter.name).collect();
        for (number, parameter) in shown.iter().enumerate() {
            self.visible.entry(parameter).or_default().push((name.clone(), number));
        }
        let names = |parameters: &[Parameter<'a>]| parameters.iter().map(|p| (p.name, p.default)).collect::<Vec<_>>();
        if definition.uses.is_empty() {
            definition.uses = parameters.iter().map(|_| Vec::new()).collect();
            definition.parameters = parameters;
        } else if names(&definition.parameters) != names(&parameters) {
            definition.is_ambiguous = true;
        }
        self.open(statement, Kind::Macro(name), shown);
    }

    fn open(&mut self, statement: &Statement, kind: Kind<'a>, shown: Vec<&'a [u8]>) {
        self.shown.push(shown);
        let number = self.table.scopes.len();
        self.table.scopes.push(Scope { parent: self.current, kind, alternate: self.alternate });
        self.table.opened.insert(statement.start, number);
        self.current = Some(number);
    }

    fn close(&mut self) {
        let Some(number) = self.current else { return };
        self.current = self.table.scopes[number].parent;
        for name in self.shown.pop().unwrap_or_default() {
            self.visible.get_mut(name).and_then(Vec::pop);
        }
    }

    /// Notes what a statement does with the parameters of the macros that it stands in.
    fn note_uses(&mut self, text: &'a [u8], call: Option<(&[u8], &'a [u8])>) {
        if self.current.is_none() || !self.alternate && !text.contains(&b'\\') {
            return;
        }
        for reference in references(text, self.alternate) {
            let Some((name, number)) = self.visible.get(reference.name).and_then(|scopes| scopes.last()) else {
                continue;
            };
            let Some(uses) = self.table.macros.get_mut(name).and_then(|owner| owner.uses.get_mut(*number)) else {
                continue;
            };
            uses.push(match call {
                _ if reference.start == 0 && reference.end == text.len() => Use::Statement,
                Some((called, arguments)) => match quoting(text, reference.start, reference.end) {
                    Some(argument) => Use::Passed { name: called.to_vec(), arguments, argument },
                    None => Use::Other,
                },
                None => Use::Other,
            });
        }
    }
}

/// The quoted argument that is nothing but this reference.
fn quoting(text: &[u8], start: usize, end: usize) -> Option<&[u8]> {
    let argument = text.get(start.checked_sub(1)?..=end)?;
    quoted(argument).map(|_| argument)
}
