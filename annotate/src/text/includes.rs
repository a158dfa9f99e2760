//! The directives that have the assembler read another file in the middle of a text.
//!
//! What stands in that file does not pass by the text stage unless somebody puts it in the
//! directive's place. That can be done where the assembler would read it once, on its way through
//! the text; in a macro body or a repetition it reads the file when that is expanded, perhaps under
//! another name.

use std::ops::Range;

use super::scan::{Item, Scanner};

/// A `.include "file"` outside of macro bodies and repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Include {
    /// Where the directive stands.
    pub statement: Range<usize>,
    /// Where the name of the file stands in it, without quotes.
    pub file: Range<usize>,
}

/// Finds the `.include` directives of a text (GAS manual, 7.48). A name with escape sequences is
/// passed over.
#[must_use]
pub fn includes(source: &[u8]) -> Vec<Include> {
    let mentions = |word: &[u8]| memchr::memmem::find(source, word).is_some();
    if !mentions(b"nclude") && !mentions(b"NCLUDE") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut depth = 0_usize;
    for item in Scanner::new(source, 0..source.len()) {
        let Item::Statement(statement) = item else { continue };
        let head = statement.head(source).to_ascii_lowercase();
        match head.as_slice() {
            b".macro" | b".rept" | b".irp" | b".irpc" | b".irep" | b".irepc" => depth += 1,
            b".endm" | b".endmacro" | b".endr" => depth = depth.saturating_sub(1),
            b".include" if depth == 0 => {
                let quoted = statement.operands(source);
                let name = quoted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
                if let Some(name) = name.filter(|name| !name.iter().any(|byte| b"\"\\\n".contains(byte))) {
                    let end = statement.end - 1;
                    found.push(Include { file: end - name.len()..end, statement: statement.range() });
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(source: &str) -> Vec<&str> {
        includes(source.as_bytes()).into_iter().map(|include| &source[include.file]).collect()
    }

    #[test]
    fn directives_are_told_from_what_looks_like_one() {
        assert_eq!(files("\t.include \"a.inc\"\n"), ["a.inc"]);
        assert_eq!(files("x: 1: .include\t\"dir/a b.inc\" # comment\n.INCLUDE\"b\";nop"), ["dir/a b.inc", "b"]);
        assert_eq!(files("nop; .include \"a\" ; /* */ .include \"b\""), ["a", "b"]);
        assert_eq!(files("# .include \"a\"\n/* .include \"b\" */\n.ascii \".include \\\"c\\\"\"\n"), [""; 0]);
        assert_eq!(
            files(".include a\n.include \"a\\\"b\"\n.include \"a\" \"b\"\n.include\n.includes \"a\"\n"),
            [""; 0]
        );
        assert_eq!(files(".if 0\n.include \"a\"\n.endif\n"), ["a"]);
    }

    #[test]
    fn bodies_are_left_to_the_assembler() {
        let source = ".macro m\n.rept 2\n.include \"a\"\n.endr\n.include \"b\"\n.endm\n.include \"c\"\n.irp x,1\n.include \"d\"\n.endr\n";
        assert_eq!(files(source), ["c"]);
        let include = includes(b"\tnop; .include \"a\" ;nop").pop();
        assert_eq!(include, Some(Include { statement: 6..18, file: 16..17 }));
    }
}
