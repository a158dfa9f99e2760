//! The assembler stage: GAS text in, the same text with padded and recorded sites out.
//!
//! It works on text because that is the only place where every sensitive instruction of a kernel,
//! compiled or hand-written, passes by before any address is decided. It is deliberately not an
//! assembler: it finds the statements that are sensitive, inserts around them, and copies every
//! other byte. What it does not understand it leaves alone, and the census of the object (see
//! [`crate::object`]) tells what it missed. So each rule here may be simple as long as it errs to
//! the side of leaving a statement alone; what it must never do is change what the text means.
//!
//! * `scan` cuts the text into labels and statements; `sections` follows where they go, `stage`
//!   what they are.
//! * `lookup` and `operands` decide whether a statement is sensitive, `bytes` and `encoded` whether
//!   a hand-encoded one is; `sequences` joins two that share a slot.
//! * `gaps` tells what may stand between two instructions as if there were nothing; `references`
//!   which labels are reached.
//! * `distance` and `flow` find where the text counts bytes, which a pad must not change;
//!   `expression` reads sums.
//! * `macros` knows what parameters can stand for, `dispatch` which statements they decide.
//! * `liveness` finds what matters after a site, `inline` what a compiler wrote; [`crate::linux`]
//!   knows the names that tell more of it.
//! * `includes` finds what the assembler would read by itself.
//! * `emit` is the only one that knows what is inserted.
//!
//! `low` is another stage, before this one: a kernel for the lower half of the address space.

mod bytes;
mod dispatch;
mod distance;
mod emit;
mod encoded;
mod expression;
mod flow;
mod gaps;
mod includes;
mod inline;
mod liveness;
mod lookup;
mod low;
mod macros;
mod operands;
mod references;
mod scan;
mod sections;
mod sequences;
mod stage;

use std::collections::HashSet;
use std::io::{self, Write};

use self::emit::{Insertion, Kind};
pub use self::includes::{Include, includes};
pub use self::low::to_lower_half;
use self::stage::{Found, Stage};
use crate::instructions::{Class, ClassSet};
use crate::record::Flags;

/// What to annotate, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The classes that are padded. A site of another class is recorded as switched off.
    pub classes: ClassSet,
    /// Emit what keeps Linux's objtool from taking a record for a code pointer
    /// (`.discard.noendbr`).
    pub objtool_hints: bool,
}

/// A site that the text stage has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its class; of a statement whose parameters decide when it is expanded, `None`.
    pub class: Option<Class>,
    /// Line of the text, from 1.
    pub line: u32,
    /// What the text tells of it.
    pub flags: Flags,
}

/// A text and what is to be inserted into it.
#[derive(Debug)]
pub struct Annotated<'a> {
    source: &'a [u8],
    insertions: Vec<Insertion>,
    objtool_hints: bool,
    is_certain: bool,
    is_doubtful: bool,
    /// Mnemonics that are names of macros.
    macros: HashSet<Vec<u8>>,
}

/// Finds the sites of a text.
#[must_use]
pub fn annotate<'a>(source: &'a [u8], options: &'a Options) -> Annotated<'a> {
    let mut stage = Stage::new(source, options);
    stage.run(0..source.len());
    let Found { insertions, is_certain, is_doubtful, macros } = stage.finish();
    let is_dispatched = insertions.iter().any(|insertion| matches!(insertion.kind, Kind::Dispatched(_)));
    let spellings = lookup::spellings().map(|(spelling, _)| spelling).filter(|_| is_dispatched);
    let macros = spellings.filter(|spelling| macros.is_defined_anywhere(spelling)).collect();
    let objtool_hints = options.objtool_hints;
    Annotated { source, insertions, objtool_hints, is_certain, is_doubtful, macros }
}

impl<'a> Annotated<'a> {
    /// Whether there is anything to insert.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        !self.insertions.is_empty()
    }

    /// Whether the object will certainly have a record. Otherwise every site stands in a macro body
    /// or a conditional, which may never be assembled.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.is_certain && self.is_changed()
    }

    /// Whether only the object can tell that a pad changes nothing, if it is compared with the
    /// plain one: people wrote the text, and may have counted bytes in any way, or decide something
    /// by a distance.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful && self.is_changed()
    }

    /// Whether a site is padded.
    #[must_use]
    pub fn is_padded(&self) -> bool {
        self.insertions.iter().any(|insertion| !insertion.flags.intersects(Flags::UNPADDED))
    }

    /// The same with every site recorded and none padded, for a text whose distances allow no pad.
    #[must_use]
    pub fn unpadded(&self) -> Annotated<'a> {
        let mut insertions = self.insertions.clone();
        insertions.iter_mut().for_each(Insertion::unpad);
        Annotated { insertions, macros: self.macros.clone(), ..*self }
    }

    /// The sites, in the order of the text.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        let mut line = 1;
        let mut counted = 0;
        self.insertions.iter().flat_map(move |insertion| {
            line += memchr::memchr_iter(b'\n', &self.source[counted..insertion.start]).count();
            counted = insertion.start;
            let line = u32::try_from(line).unwrap_or(u32::MAX);
            insertion.classes().into_iter().map(move |class| Site { class, line, flags: insertion.flags })
        })
    }

    /// Writes the annotated text. `name` is what the assembler is to call it in messages and debug
    /// information.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_to(&self, name: &str, out: &mut impl Write) -> io::Result<()> {
        if !self.is_changed() {
            return out.write_all(self.source);
        }
        emit::prelude(&self.insertions, &|spelling| self.macros.contains(spelling), self.objtool_hints, out)?;
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        writeln!(out, "\n# 1 \"{name}\"")?;
        let mut written = 0;
        for insertion in &self.insertions {
            out.write_all(&self.source[written..insertion.start])?;
            insertion.write(self.source, self.objtool_hints, out)?;
            written = insertion.end;
        }
        out.write_all(&self.source[written..])
    }
}
