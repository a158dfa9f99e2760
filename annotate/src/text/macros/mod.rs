//! Assembler macros: what a parameter can stand for.
//!
//! The stage sees macro bodies, not expansions. A sensitive instruction spelled out in a body is
//! padded there, once, and every expansion carries the pad. What a body leaves to its parameters is
//! harder:
//!
//! * `ALTERNATIVE "", "stac"`: the parameter is a whole statement, the argument a quoted one. The
//!   argument is annotated inside its quotes ([`Macros::code_arguments`]).
//! * `\op %rax` or `mov \from, \to`: whether a site results depends on the expansion. If an
//!   argument somewhere in the file can make it one ([`Macros::expansions`]), the statement is
//!   dispatched at assembly time (see [`super::emit`]).
//!
//! And a macro may take the name of an instruction: then the assembler calls the macro, without a
//! word ([`Macros::is_call`]).
//!
//! GAS manual, 7.67 "`.macro`", 7.54 "`.irp`", 7.55 "`.irpc`", 7.90 "`.rept`", 7.2 "`.altmacro`".

mod arguments;
mod table;

use std::cell::OnceCell;
use std::ops::Range;

use rustc_hash::FxHashSet;

use self::arguments::{offset_in, parse_definition, references};
use self::table::Table;
use super::scan::{Statement, lowercase};

/// A body that the text is in.
struct Frame {
    /// Where the statement that opens it starts.
    opened: usize,
    /// The name that its end defines; loops have none.
    defines: Option<Vec<u8>>,
}

/// The macros defined so far, and the definitions that the text is in.
pub(super) struct Macros<'a> {
    source: &'a [u8],
    defined: FxHashSet<Vec<u8>>,
    frames: Vec<Frame>,
    /// Those of the frames that are bodies of a `.macro`.
    definitions: usize,
    alternate: bool,
    table: OnceCell<Table<'a>>,
}

impl<'a> Macros<'a> {
    pub(super) fn new(source: &'a [u8]) -> Self {
        Self {
            source,
            defined: FxHashSet::default(),
            frames: Vec::new(),
            definitions: 0,
            alternate: false,
            table: OnceCell::new(),
        }
    }

    fn table(&self) -> &Table<'a> {
        self.table.get_or_init(|| Table::of(self.source))
    }

    /// The innermost body that the text is in.
    fn scope(&self) -> Option<usize> {
        self.frames.last().and_then(|frame| self.table().scope(frame.opened))
    }

    /// Whether the text is in a body.
    pub(super) fn in_body(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Whether the text is in the body of a `.macro`, which can be expanded in any section.
    pub(super) fn in_macro(&self) -> bool {
        self.definitions > 0
    }

    /// Whether a name stands for a parameter without a backslash (`.altmacro`).
    pub(super) fn is_alternate(&self) -> bool {
        self.alternate
    }

    /// Whether references to the labels of an insertion (`28110b`) may be taken for ones to a
    /// parameter.
    pub(super) fn hides_labels(&self) -> bool {
        self.alternate && self.mentions_parameter(b"b")
    }

    /// Whether the text is in the body of a loop.
    pub(super) fn in_loop(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.defines.is_none())
    }

    /// How many bodies the text is in.
    pub(super) fn depth(&self) -> usize {
        self.frames.len()
    }

    /// The macro whose body the text is in, if it is not in that of a loop.
    pub(super) fn defining(&self) -> Option<&[u8]> {
        self.frames.last()?.defines.as_deref()
    }

    /// Follows a directive; `None` if it is not one of macros. At the end of a definition, the name
    /// that is defined.
    #[expect(clippy::option_option, reason = "a directive of macros, and what it defines")]
    pub(super) fn follow(&mut self, directive: &[u8], statement: &Statement) -> Option<Option<Vec<u8>>> {
        let operands = statement.operands(self.source);
        match directive {
            b".macro" => {
                let (name, _) = parse_definition(operands);
                self.frames.push(Frame { opened: statement.start, defines: Some(name) });
                self.definitions += 1;
            }
            b".irp" | b".irpc" | b".rept" => self.frames.push(Frame { opened: statement.start, defines: None }),
            b".endm" | b".endmacro" | b".endr" => {
                let name = self.frames.pop().and_then(|frame| frame.defines);
                if let Some(name) = &name {
                    self.definitions -= 1;
                    self.defined.insert(name.clone());
                }
                return Some(name);
            }
            b".purgem" => drop(self.defined.remove(operands.to_ascii_lowercase().as_slice())),
            b".altmacro" => self.alternate = true,
            b".noaltmacro" => self.alternate = false,
            _ => return None,
        }
        Some(None)
    }

    /// Whether any macro may be called here.
    pub(super) fn may_be_called(&self) -> bool {
        self.in_body() || !self.defined.is_empty()
    }

    /// Whether the assembler will take the statement of this name for a macro call. In a body,
    /// which is expanded later, that is so for every macro of the text.
    pub(super) fn is_call(&self, name: &[u8]) -> bool {
        self.may_be_called() && self.is_callable(&lowercase(name))
    }

    fn is_callable(&self, name: &[u8]) -> bool {
        self.defined.contains(name)
            || self.in_body() && self.table().is_macro(name)
            || self.table().is_named_by_parameters(name)
    }

    /// Whether a macro of the text has this name, wherever it is defined.
    pub(super) fn is_defined_anywhere(&self, name: &[u8]) -> bool {
        self.may_be_called() && self.table().is_macro(&lowercase(name))
    }

    /// Whether a parameter of a body around it may change the text.
    pub(super) fn mentions_parameter(&self, text: &[u8]) -> bool {
        self.in_body()
            && (memchr::memchr(b'\\', text).is_some()
                || self.alternate && self.scope().is_some_and(|scope| self.table().mentions_parameter(text, scope)))
    }

    /// The quoted arguments of a macro call that are code: the ranges inside their quotes.
    pub(super) fn code_arguments(&self, name: &[u8], arguments: &Range<usize>) -> Vec<Range<usize>> {
        let text = &self.source[arguments.clone()];
        if !self.may_be_called() || memchr::memchr(b'"', text).is_none() {
            return Vec::new();
        }
        let code = self.table().code_arguments(&lowercase(name), text, self.scope());
        let start = |part: &[u8]| arguments.start + offset_in(text, part);
        code.into_iter().map(|code| start(code)..start(code) + code.len()).collect()
    }

    /// Every text that `text` can become when its parameters are replaced; `None` if that cannot be
    /// told.
    pub(super) fn expansions(&self, text: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.table().expand(text, self.scope())
    }

    /// The text with a backslash before every parameter, so that it is replaced within quotes too.
    pub(super) fn named(&self, text: &[u8]) -> Vec<u8> {
        if !self.alternate {
            return text.to_vec();
        }
        let mut named = Vec::with_capacity(text.len() + 8);
        let mut copied = 0;
        for reference in references(text, true).filter(|reference| text[reference.start] != b'\\') {
            if self.mentions_parameter(reference.name) {
                named.extend_from_slice(&text[copied..reference.start]);
                named.push(b'\\');
                named.extend_from_slice(reference.name);
                named.extend_from_slice(b"\\()");
                copied = reference.end;
            }
        }
        named.extend_from_slice(&text[copied..]);
        named
    }
}
