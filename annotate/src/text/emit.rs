//! What the stage inserts around a site.
//!
//! A site becomes
//!
//! ```text
//! 28110:cli;28111:NOP;28112:.pushsection .note.afterburn;RECORD;.popsection
//! ```
//!
//! all on the line where the instruction stood, so that no line number of the user's moves. The
//! choices behind it:
//!
//! * Numeric labels can be defined over and over (GAS manual, 5.3), which macro bodies need, and
//!   leave no symbol.
//! * The pad stands *behind* the instruction, because exception tables and symbols point at its
//!   start; and it is spelled out in constant bytes, so that the assembler can still fold label
//!   differences that span it.
//! * The lengths in a record are label differences: the assembler knows them, the text stage only a
//!   lower bound.
//! * No insertion contains a quote, for a site may stand inside one (`ALTERNATIVE "", "stac"`).
//!   Hence the section gets its flags in a prelude, once. The prelude also writes the note's
//!   header; the end of the records is a label in a later subsection, so that nothing has to be
//!   appended at the end of a text which may end anywhere.
//!
//! A statement of a macro body that is a site in some expansions only is *dispatched* when it is
//! expanded:
//!
//! ```text
//! .ifdef ".Lafterburn.mnemonic.\op";28110:\op;...;.else;\op;.endif
//! ```
//!
//! where the prelude has defined one such symbol, with the class for value, per sensitive mnemonic
//! and register; or, where no single word decides, per text that the statement can become. They are
//! `.L` symbols, which never reach the object.
//!
//! A record of a site in a section group has to be dropped with the site. It is a note of its own,
//! in a section of the same group, which GAS and LLVM find by the flag `?` (GAS manual, 7.97).
//! Where a section is not known, in a macro body, the same flag gives a section of no group if the
//! site is in none.
//!
//! Where an insertion may hold no quote, or no name that a parameter could replace (`.altmacro`, a
//! parameter `b`), a macro of the prelude stands for the record.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::lookup::{Candidate, spellings};
use super::operands::{CONTROL_REGISTERS, DEBUG_REGISTERS};
use crate::instructions::{Class, When};
use crate::pad::NOPS;
use crate::record::{
    Flags, Liveness, MINIMUM_SLOT, NOTE_NAME, NOTE_SECTION, RECORD_SIZE, UNPADDED_DISPLACEMENT, VERSION,
};

const SITE: &str = "28110";
const PAD: &str = "28111";
const END: &str = "28112";
const RECORDS: &str = "28113";
const RECORDS_END: &str = "28114";

/// The section of the records that are dropped with their group.
const GROUP_SECTION: &str = ".note.afterburn.group";

/// The macros of the prelude: what puts a record, and what puts one into a group.
const RECORD_MACRO: &str = "afterburn_record";
const GROUP_RECORD_MACRO: &str = "afterburn_group_record";

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
    /// All of it.
    Statement,
}

impl Dispatch {
    fn prefix(self) -> &'static str {
        match self {
            Self::Mnemonic => ".Lafterburn.mnemonic.",
            Self::From => ".Lafterburn.from.",
            Self::To => ".Lafterburn.to.",
            Self::Push => ".Lafterburn.push.",
            Self::Pop => ".Lafterburn.pop.",
            Self::Statement => ".Lafterburn.statement.",
        }
    }
}

/// One way for a statement of a macro body to be a site.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) dispatch: Dispatch,
    /// What decides, as it stands in the body.
    pub(super) word: Vec<u8>,
    /// What it can become, if that is not the same for all texts.
    pub(super) texts: Vec<(Vec<u8>, Class)>,
    /// Length of the shortest instruction that it can be.
    pub(super) least_length: u8,
}

impl Decision {
    fn symbol(&self) -> String {
        format!("\"{}{}\"", self.dispatch.prefix(), String::from_utf8_lossy(&self.word))
    }
}

/// A part of a run of bytes that is spelled again.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// No site.
    Bytes(Vec<u8>),
    /// A site of this class.
    Site(Class, Vec<u8>),
}

/// How a record gets to its section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carrier {
    /// The site is in a section group, or may be.
    pub(super) grouped: bool,
    /// A macro of the prelude puts it.
    pub(super) by_macro: bool,
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
    pub(super) carrier: Carrier,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Site(Class),
    /// What may decide that it is a site.
    Dispatched(Vec<Decision>),
    /// Bytes among which sites are.
    Spelled(Vec<Piece>),
}

/// The definitions that stand before an annotated text. `is_macro` tells the names that are no
/// mnemonics in it.
pub(super) fn prelude(
    insertions: &[Insertion],
    is_macro: &dyn Fn(&[u8]) -> bool,
    objtool_hints: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    write!(out, ".pushsection {NOTE_SECTION},\"a\",@note;")?;
    note_header(&format!("{RECORDS_END}f-{RECORDS}f"), out)?;
    write!(out, ";{RECORDS}:;.subsection 1;{RECORDS_END}:;.popsection")?;
    let decisions: Vec<&Decision> = insertions
        .iter()
        .filter_map(|insertion| if let Kind::Dispatched(decisions) = &insertion.kind { Some(decisions) } else { None })
        .flatten()
        .collect();
    if !decisions.is_empty() {
        definitions(&decisions, is_macro, out)?;
    }
    for grouped in [false, true] {
        if insertions.iter().any(|insertion| insertion.carrier == Carrier { grouped, by_macro: true }) {
            let name = if grouped { GROUP_RECORD_MACRO } else { RECORD_MACRO };
            writeln!(out, "\n.macro {name} displacement, class, live_flags, registers, flags")?;
            record("\\displacement", "\\class,\\live_flags", "\\registers,\\flags", grouped, out)?;
            if objtool_hints {
                write!(out, "\n.ifeq \\displacement\n")?;
                hint(grouped, out)?;
                write!(out, "\n.endif")?;
            }
            write!(out, "\n.endm")?;
        }
    }
    Ok(())
}

/// The header of a note with a descriptor of this size (ELF gABI, "Note Section").
fn note_header(size: &str, out: &mut impl Write) -> io::Result<()> {
    let name = NOTE_NAME.escape_ascii().to_string();
    let name = name.replace("\\x00", "\\0");
    write!(out, ".balign 4;.long {},{size},{VERSION};.ascii \"{name}\"", NOTE_NAME.len())
}

/// The record of the site that was defined last. `fields` are the bytes behind its lengths, `more`
/// the words behind these.
fn record(displacement: &str, fields: &str, more: &str, grouped: bool, out: &mut impl Write) -> io::Result<()> {
    if grouped {
        write!(out, ".pushsection {GROUP_SECTION},\"a?\",@note;")?;
        note_header(&RECORD_SIZE.to_string(), out)?;
        write!(out, ";")?;
    } else {
        write!(out, ".pushsection {NOTE_SECTION};")?;
    }
    write!(out, ".long {SITE}b+{displacement}-.;.byte {PAD}b-{SITE}b,{END}b-{SITE}b,{fields};.short {more};.popsection")
}

/// objtool takes the record's relocation for a code pointer that escapes, and asks for an ENDBR64
/// there.
fn hint(grouped: bool, out: &mut impl Write) -> io::Result<()> {
    let flags = if grouped { ",\"?\"" } else { "" };
    write!(out, ".pushsection .discard.noendbr{flags};.quad {SITE}b;.popsection")
}

fn definitions(decisions: &[&Decision], is_macro: &dyn Fn(&[u8]) -> bool, out: &mut impl Write) -> io::Result<()> {
    let mut define = |dispatch: Dispatch, word: &str, class: Class| {
        write!(out, ";.set \"{}{word}\",{}", dispatch.prefix(), class as u8)
    };
    let texts: BTreeMap<&[u8], Class> =
        decisions.iter().flat_map(|decision| &decision.texts).map(|(text, class)| (text.as_slice(), *class)).collect();
    for (text, class) in texts {
        define(Dispatch::Statement, &String::from_utf8_lossy(text), class)?;
    }
    if decisions.iter().all(|decision| decision.dispatch == Dispatch::Statement) {
        return Ok(());
    }
    let is_mnemonic =
        |spelling: &[u8], candidate: &Candidate| candidate.row.when == When::Always && !is_macro(spelling);
    for (spelling, candidate) in spellings().filter(|(spelling, candidate)| is_mnemonic(spelling, candidate)) {
        define(Dispatch::Mnemonic, &String::from_utf8_lossy(&spelling), candidate.row.class)?;
    }
    for number in CONTROL_REGISTERS {
        define(Dispatch::From, &format!("%cr{number}"), Class::MovFromCr)?;
        define(Dispatch::To, &format!("%cr{number}"), Class::MovToCr)?;
    }
    for number in DEBUG_REGISTERS {
        for name in ["dr", "db"] {
            define(Dispatch::From, &format!("%{name}{number}"), Class::MovFromDr)?;
            define(Dispatch::To, &format!("%{name}{number}"), Class::MovToDr)?;
        }
    }
    for name in ["%es", "%cs", "%ss", "%ds", "%fs", "%gs"] {
        define(Dispatch::From, name, Class::MovFromSeg)?;
        // A move to CS is undefined.
        if name != "%cs" {
            define(Dispatch::To, name, Class::MovToSeg)?;
        }
        define(Dispatch::Push, name, Class::PushSeg)?;
        define(Dispatch::Pop, name, Class::PopSeg)?;
    }
    Ok(())
}

impl Insertion {
    /// The classes of its sites; `None` where it is not known before assembly.
    pub(super) fn classes(&self) -> Vec<Option<Class>> {
        match &self.kind {
            Kind::Site(class) => vec![Some(*class)],
            Kind::Dispatched(_) => vec![None],
            Kind::Spelled(pieces) => pieces
                .iter()
                .filter_map(|piece| if let Piece::Site(class, _) = piece { Some(Some(*class)) } else { None })
                .collect(),
        }
    }

    fn is_padded(&self) -> bool {
        !self.flags.intersects(Flags::UNPADDED)
    }

    /// Keeps the site as it is, and its record, which says why.
    pub(super) fn unpad(&mut self) {
        if self.is_padded() {
            self.flags |= Flags::COUNTED;
        }
        self.pad = 0;
    }

    /// Writes the site with what belongs before and behind it.
    pub(super) fn write(&self, source: &[u8], objtool_hints: bool, out: &mut impl Write) -> io::Result<()> {
        let statement = &source[self.start..self.end];
        match &self.kind {
            Kind::Site(class) => {
                write!(out, "{SITE}:")?;
                out.write_all(statement)?;
                self.behind(&(*class as u8).to_string(), self.pad, objtool_hints, out)
            }
            Kind::Dispatched(decisions) => {
                for decision in decisions {
                    let symbol = decision.symbol();
                    write!(out, ".ifdef {symbol};{SITE}:")?;
                    out.write_all(statement)?;
                    self.behind(&format!("0+{symbol}"), self.pad, objtool_hints, out)?;
                    out.write_all(b";.else;")?;
                }
                out.write_all(statement)?;
                out.write_all(";.endif".repeat(decisions.len()).as_bytes())
            }
            Kind::Spelled(pieces) => {
                for piece in pieces {
                    self.piece(piece, objtool_hints, out)?;
                }
                // What was there stays, for its lines.
                out.write_all(b".if 0;")?;
                out.write_all(statement)?;
                out.write_all(b";.endif")
            }
        }
    }

    fn piece(&self, piece: &Piece, objtool_hints: bool, out: &mut impl Write) -> io::Result<()> {
        match piece {
            Piece::Bytes(bytes) if bytes.is_empty() => return Ok(()),
            Piece::Bytes(bytes) => spell(bytes, out)?,
            Piece::Site(class, bytes) => {
                write!(out, "{SITE}:")?;
                spell(bytes, out)?;
                let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
                let pad = if self.is_padded() { MINIMUM_SLOT.saturating_sub(length) } else { 0 };
                self.behind(&(*class as u8).to_string(), pad, objtool_hints, out)?;
            }
        }
        out.write_all(b";")
    }

    fn behind(&self, class: &str, pad: u8, objtool_hints: bool, out: &mut impl Write) -> io::Result<()> {
        write!(out, ";{PAD}:")?;
        if let Some([first, rest @ ..]) = NOPS.get(usize::from(pad)) {
            write!(out, ".byte {first:#04x}")?;
            for byte in rest {
                if *byte == 0 { out.write_all(b",0")? } else { write!(out, ",{byte:#04x}")? }
            }
            out.write_all(b";")?;
        }
        write!(out, "{END}:")?;
        let displacement = if self.is_padded() { 0 } else { UNPADDED_DISPLACEMENT };
        let (displacement, live_flags) = (displacement.to_string(), self.liveness.flags.bits());
        let (registers, flags) = (self.liveness.registers.bits(), self.flags.bits());
        let Carrier { grouped, by_macro } = self.carrier;
        if by_macro {
            let name = if grouped { GROUP_RECORD_MACRO } else { RECORD_MACRO };
            return write!(out, "{name} {displacement},({class}),({live_flags}),({registers}),({flags})");
        }
        record(&displacement, &format!("{class},{live_flags}"), &format!("{registers},{flags}"), grouped, out)?;
        if objtool_hints && self.is_padded() {
            write!(out, ";")?;
            hint(grouped, out)?;
        }
        Ok(())
    }
}

fn spell(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:#x}")).collect();
    write!(out, ".byte {}", bytes.join(","))
}
