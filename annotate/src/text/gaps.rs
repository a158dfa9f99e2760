//! What may stand between two instructions and assemble to nothing.
//!
//! Some instructions belong together: the interrupt shadow of `sti` covers the next instruction, a
//! prefix the one behind it, and `pushf` with `pop` has a short replacement. What compilers write
//! between them when they are asked for debug information (places, unwind directives, labels for
//! ranges) puts no byte there, and must not part them: otherwise the same source would run
//! otherwise with `-g`.

use super::distance::definition;
use super::expression::Sum;
use super::scan::{Item, Scanner, Statement, lowercase};
use super::sections::Sections;
use super::stage::Stage;

/// Whether the statement puts nothing into a section and does not say where it stands.
pub(super) fn is_silent(source: &[u8], statement: &Statement) -> bool {
    // A name that is given a number, but not one that is given the current place.
    let is_number = |(_, value)| Sum::read(value).is_some_and(|sum| sum.constant().is_some());
    puts_nothing(&lowercase(statement.head(source)), statement.operands(source))
        || definition(source, statement).is_some_and(is_number)
}

/// Whether the directive of this name, in lower case, puts nothing into a section.
pub(super) fn puts_nothing(directive: &[u8], operands: &[u8]) -> bool {
    let nothing = match directive {
        b".loc" | b".file" | b".ident" | b".type" | b".size" | b".globl" | b".global" | b".weak" | b".local"
        | b".hidden" | b".internal" | b".protected" | b".symver" | b".weakref" | b".addrsig" | b".addrsig_sym"
        | b".line" | b".ln" | b".loc_mark_labels" | b".stabd" | b".stabn" | b".stabs" => return true,
        b".skip" | b".space" | b".zero" | b".p2align" => 0,
        b".balign" => 1,
        _ => return directive.starts_with(b".cfi_"),
    };
    match operands.split(|&byte| byte == b',').next().unwrap_or_default() {
        [digit @ b'0'..=b'9'] => i64::from(digit - b'0') == nothing,
        number => Sum::read(number).and_then(|sum| sum.constant()) == Some(nothing),
    }
}

impl<'a> Stage<'a> {
    /// The next statement that may put something into the section, as long as nobody can reach it
    /// but by what stands before.
    pub(super) fn next_code(&self, scanner: &mut Scanner<'a>) -> Option<Statement> {
        self.next_statement(scanner, true)
    }

    /// The same, whether somebody can reach it or not, if it does not have to be `private`.
    pub(super) fn next_statement(&self, scanner: &mut Scanner<'a>, private: bool) -> Option<Statement> {
        loop {
            match scanner.next()? {
                Item::Label(name) if private && self.references.names_local(&name) => return None,
                Item::Label(_) => {}
                Item::Statement(statement) if is_silent(self.source, &statement) => {}
                Item::Statement(statement) => {
                    let name = lowercase(statement.head(self.source));
                    if name.first() != Some(&b'.')
                        || !self.repeats_mode(&name, &statement) && !self.excursion(&statement, scanner)?
                    {
                        return Some(statement);
                    }
                }
            }
        }
    }

    /// Steps over data that goes into other sections, where no site can be, until the text is back;
    /// `false` if the statement does not change the section, and nothing if more is on the way.
    fn excursion(&self, away: &Statement, scanner: &mut Scanner<'a>) -> Option<bool> {
        if !Sections::is_change(away.head(self.source)) {
            return Some(false);
        }
        let mut sections = self.sections.clone();
        let mut next = away.clone();
        loop {
            let head = next.head(self.source);
            if head.first() != Some(&b'.') || self.macros.is_call(head) {
                return None;
            }
            let name = lowercase(head);
            let has_changed = sections.follow(&name, next.operands(self.source));
            let current = sections.current();
            if has_changed && current.number == self.sections.current().number {
                return Some(true);
            }
            if current.executable {
                return None;
            }
            next = loop {
                match scanner.next()? {
                    Item::Statement(statement) => break statement,
                    Item::Label(_) => {}
                }
            };
        }
    }
}
