//! What the stage inserts around a site.
//!
//! A site becomes
//!
//! ```text
//! 28110:cli;28111:NOP;28112:.pushsection .note.afterburn;RECORD;.popsection
//! ```
//!
//! all on the line where the instruction stood, so that no line number of the user's moves. The choices behind it:
//!
//! * Numeric labels can be defined over and over (GAS manual, 5.3), which macro bodies need, and leave no symbol.
//! * The pad stands *behind* the instruction, because exception tables and symbols point at its start; and it is spelled
//!   out in constant bytes, so that the assembler can still fold label differences that span it.
//! * The lengths in a record are label differences: the assembler knows them, the text stage only a lower bound.
//! * No insertion contains a quote, for a site may stand inside one (`ALTERNATIVE "", "stac"`). Hence the section gets its
//!   flags in a prelude, once. The prelude also writes the note's header; the end of the records is a label in a later
//!   subsection, so that nothing has to be appended at the end of a text which may end anywhere.
//!
//! A statement of a macro body that is a site in some expansions only is *dispatched* when it is expanded:
//!
//! ```text
//! .ifdef ".Lafterburn.mnemonic.\op";28110:\op;...;.else;\op;.endif
//! ```
//!
//! where the prelude has defined one such symbol, with the class for value, per sensitive mnemonic and register. They are
//! `.L` symbols, which never reach the object.

use std::io::{self, Write};
use std::ops::Range;

use super::lookup::spellings;
use crate::instructions::{Class, When};
use crate::record::{Flags, Liveness, NOTE_NAME, NOTE_SECTION, UNPADDED_DISPLACEMENT, VERSION};

/// Recommended multi-byte NOPs (SDM Vol. 2B, NOP, Table 4-12), as `.byte` operands, by length.
const NOPS: [&str; 10] = [
    "",
    "0x90",
    "0x66,0x90",
    "0x0f,0x1f,0",
    "0x0f,0x1f,0x40,0",
    "0x0f,0x1f,0x44,0,0",
    "0x66,0x0f,0x1f,0x44,0,0",
    "0x0f,0x1f,0x80,0,0,0,0",
    "0x0f,0x1f,0x84,0,0,0,0,0",
    "0x66,0x0f,0x1f,0x84,0,0,0,0,0",
];

const SITE: &str = "28110";
const PAD: &str = "28111";
const END: &str = "28112";
const RECORDS: &str = "28113";
const RECORDS_END: &str = "28114";

/// The numeric labels of the insertions. A text that defines one of them itself is left alone.
pub(super) const LABELS: [&str; 5] = [SITE, PAD, END, RECORDS, RECORDS_END];

/// What decides at assembly time that a dispatched statement is a site, and of which class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// Its mnemonic.
    Mnemonic,
    /// A privileged register as source.
    From,
    /// A privileged register as destination.
    To,
    /// A segment register pushed.
    Push,
    /// A segment register popped.
    Pop,
}

impl Dispatch {
    fn prefix(self) -> &'static str {
        match self {
            Self::Mnemonic => ".Lafterburn.mnemonic.",
            Self::From => ".Lafterburn.from.",
            Self::To => ".Lafterburn.to.",
            Self::Push => ".Lafterburn.push.",
            Self::Pop => ".Lafterburn.pop.",
        }
    }

    /// Length of the shortest instruction that it can be.
    pub(super) fn least_length(self) -> u8 {
        if self == Self::Mnemonic { 1 } else { 2 }
    }
}

/// What is inserted around one site.
#[derive(Clone, Debug)]
pub(super) struct Insertion {
    /// Where the site starts in the source.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    /// What it is; of a dispatched one, the class is not known before assembly.
    pub(super) kind: Kind,
    /// Bytes of padding.
    pub(super) pad: u8,
    pub(super) liveness: Liveness,
    pub(super) flags: Flags,
    /// Number of the statement, to find neighbours by.
    pub(super) statement: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Site(Class),
    /// What may decide that it is a site, and where the deciding word stands in the source.
    Dispatched(Vec<(Dispatch, Range<usize>)>),
}

/// The definitions that stand before an annotated text.
pub(super) fn prelude(dispatched: bool, out: &mut impl Write) -> io::Result<()> {
    let name = NOTE_NAME.escape_ascii().to_string();
    write!(
        out,
        ".pushsection {NOTE_SECTION},\"a\",@note;.balign 4;.long {},{RECORDS_END}f-{RECORDS}f,{VERSION};.ascii \"{}\";\
         {RECORDS}:;.subsection 1;{RECORDS_END}:;.popsection",
        NOTE_NAME.len(),
        name.replace("\\x00", "\\0"),
    )?;
    if dispatched { definitions(out) } else { Ok(()) }
}

fn definitions(out: &mut impl Write) -> io::Result<()> {
    let mut define = |dispatch: Dispatch, word: &str, class: Class| {
        write!(out, ";.set \"{}{word}\",{}", dispatch.prefix(), class as u8)
    };
    for (spelling, candidate) in spellings().filter(|(_, candidate)| candidate.row.when == When::Always) {
        define(Dispatch::Mnemonic, &String::from_utf8_lossy(&spelling), candidate.row.class)?;
    }
    for number in 0..16 {
        define(Dispatch::From, &format!("%cr{number}"), Class::MovFromCr)?;
        define(Dispatch::To, &format!("%cr{number}"), Class::MovToCr)?;
        for name in ["dr", "db"] {
            define(Dispatch::From, &format!("%{name}{number}"), Class::MovFromDr)?;
            define(Dispatch::To, &format!("%{name}{number}"), Class::MovToDr)?;
        }
    }
    for name in ["%es", "%cs", "%ss", "%ds", "%fs", "%gs"] {
        define(Dispatch::From, name, Class::MovFromSeg)?;
        define(Dispatch::To, name, Class::MovToSeg)?;
        define(Dispatch::Push, name, Class::PushSeg)?;
        define(Dispatch::Pop, name, Class::PopSeg)?;
    }
    Ok(())
}

impl Insertion {
    /// Writes the site with what belongs before and behind it.
    pub(super) fn write(&self, source: &[u8], objtool_hints: bool, out: &mut impl Write) -> io::Result<()> {
        let statement = &source[self.start..self.end];
        match &self.kind {
            Kind::Site(class) => {
                write!(out, "{SITE}:")?;
                out.write_all(statement)?;
                self.behind(&(*class as u8).to_string(), objtool_hints, out)
            }
            Kind::Dispatched(dispatches) => {
                for (dispatch, word) in dispatches {
                    let symbol = format!("\"{}{}\"", dispatch.prefix(), String::from_utf8_lossy(&source[word.clone()]));
                    write!(out, ".ifdef {symbol};{SITE}:")?;
                    out.write_all(statement)?;
                    self.behind(&format!("0+{symbol}"), objtool_hints, out)?;
                    out.write_all(b";.else;")?;
                }
                out.write_all(statement)?;
                out.write_all(";.endif".repeat(dispatches.len()).as_bytes())
            }
        }
    }

    fn behind(&self, class: &str, objtool_hints: bool, out: &mut impl Write) -> io::Result<()> {
        write!(out, ";{PAD}:")?;
        if let Some(nop) = NOPS.get(usize::from(self.pad)).filter(|nop| !nop.is_empty()) {
            write!(out, ".byte {nop};")?;
        }
        let is_padded = !self.flags.intersects(Flags::UNPADDED);
        let displacement = if is_padded { 0 } else { UNPADDED_DISPLACEMENT };
        write!(
            out,
            "{END}:.pushsection {NOTE_SECTION};.long {SITE}b+{displacement}-.;\
             .byte {PAD}b-{SITE}b,{END}b-{SITE}b,{class},{};.short {},{};.popsection",
            self.liveness.flags.bits(),
            self.liveness.registers.bits(),
            self.flags.bits(),
        )?;
        // objtool takes the record's relocation for a code pointer that escapes, and asks for an ENDBR64 there.
        if objtool_hints && is_padded {
            write!(out, ";.pushsection .discard.noendbr;.quad {SITE}b;.popsection")?;
        }
        Ok(())
    }
}
