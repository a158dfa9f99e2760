//! Which runs of bytes are code, and what becomes of them.
//!
//! Data in a text section looks like code, and a pad would ruin it. What tells the two apart is how
//! they are reached: code is fallen into or branched to, data is named by its address. Where a run
//! may be either, it stays as it is, and the census of the object reports what looks sensitive in
//! it.

use std::ops::Range;

use super::bytes::{Decoded, Encoded, Run};
use super::distance::Counted;
use super::emit::Kind;
use super::flow::is_filler;
use super::scan::{Scanner, Statement};
use super::stage::{Candidate, Stage};
use crate::instructions::ClassSet;
use crate::record::{Flags, Liveness};

impl<'a> Stage<'a> {
    /// A run of bytes. `false` if it is not taken for code.
    pub(super) fn bytes(&mut self, statement: &Statement, scanner: &mut Scanner<'a>) -> bool {
        if !self.sections.current().executable || !self.long_mode || statement.start < self.no_sites_until {
            return false;
        }
        let mut behind = scanner.clone();
        let run = Run::read(self, statement, &mut behind);
        self.no_sites_until = run.end();
        if run.is_emulation_prefix(b"") {
            let is_site = self.forced(statement.start, &mut behind);
            if is_site {
                *scanner = behind;
            }
            return is_site;
        }
        if run.is_prefix() {
            let is_site = self.prefixed(statement.start, &mut behind);
            if is_site {
                *scanner = behind;
            }
            return is_site;
        }
        if self.data(&run, &behind) {
            self.flow.data();
            *scanner = behind;
            return true;
        }
        let Some(Decoded { sensitive: mut sites, is_transfer, distances }) = run.decode() else {
            self.flow.data();
            return false;
        };
        if self.is_table(&behind) {
            self.flow.data();
            return false;
        }
        self.flow.code(is_transfer, self.inline.part(statement.start));
        self.counted.extend(distances.into_iter().map(|bytes| Counted::from_here(statement.start, bytes)));
        sites.retain(|site| ClassSet::default().contains(site.class));
        if sites.is_empty() {
            return false;
        }
        *scanner = behind;
        self.object = None;
        if sites.iter().all(|site| site.range.is_some()) {
            self.whole_directives(&run, &sites, scanner);
        } else {
            self.spelled(&run, &sites, scanner);
        }
        true
    }

    /// Records that a run is data, if a disassembler would find something sensitive in it. What
    /// could be code may be an entry that is reached by its number, unless it is written as
    /// characters.
    fn data(&mut self, run: &Run, behind: &Scanner<'a>) -> bool {
        let Some(class) = run.looks_like() else { return false };
        let is_behind_trap = self.is_unlabelled() && is_trap(self.previous_head());
        if !(run.is_text() || run.decode().is_none()) || !is_behind_trap && !self.is_table(behind) {
            return false;
        }
        let (Some(range), Some(flags)) = (run.range(), self.flags(class)) else { return false };
        self.object = None;
        self.insert(range, Kind::Site(class), 0, Liveness::UNKNOWN, flags | Flags::DATA);
        true
    }

    /// The sites of a run that are whole directives.
    fn whole_directives(&mut self, run: &Run, sites: &[Encoded], scanner: &mut Scanner<'a>) {
        for site in sites {
            if !site.is_first() {
                self.labels.clear();
            }
            let Some(range) = site.range.clone() else { continue };
            let mut behind = scanner.behind(range.end);
            let mut found = Candidate { class: site.class, range, least_length: site.length(), slot: site.slot };
            if run.ends_with(site) {
                found = self.joined(found, &mut behind);
                *scanner = behind.clone();
            }
            self.site(&found, &behind);
        }
    }

    /// A run of whose directives some hold only a part of a site.
    fn spelled(&mut self, run: &Run, sites: &[Encoded], scanner: &Scanner<'a>) {
        let (Some(range), Some(last)) = (run.range().filter(|_| !run.is_computed() && !run.has_gaps()), sites.last())
        else {
            return;
        };
        let Some(mut flags) = self.flags(last.class) else { return };
        if sites.iter().any(|site| self.flags(site.class) != Some(flags)) {
            return;
        }
        if run.ends_with(last) && self.casts_shadow(last.class, scanner) {
            flags |= Flags::SHADOW;
        }
        self.insert(range, Kind::Spelled(run.pieces(sites)), 0, Liveness::UNKNOWN, flags);
    }

    /// Whether a run is data, although it could be code: nothing but its address leads to it.
    pub(super) fn is_table(&self, behind: &Scanner<'a>) -> bool {
        if self.object.as_ref().is_some_and(|label| self.references.is_object(label)) {
            return true;
        }
        let before = if self.is_unlabelled() { self.previous_head() } else { b"" };
        let names = |label: &Range<usize>| self.references.is_branch_target(&self.source[label.clone()]);
        // What is called may take its return address for that of data.
        if before.starts_with(b"call")
            || self.macros.in_loop() && !self.flow.has_code() && self.flow.is_behind_interrupted()
        {
            return true;
        }
        let is_reached =
            self.flow.has_code() && !self.flow.is_behind_transfer() && !before.eq_ignore_ascii_case(b"ud2");
        // An alternative is named by its address only, and the one before it may branch.
        let is_replacement = self.sections.current().flags.contains(Flags::REPLACEMENT) && !self.is_unlabelled();
        let is_first =
            !self.flow.has_code() && self.is_unlabelled() && !self.references.names(self.sections.name().as_bytes());
        if is_reached || is_replacement || is_first || self.in_argument {
            return false;
        }
        let mut ahead = behind.clone();
        let code = std::iter::from_fn(|| self.next_code(&mut ahead)).find(|next| !is_filler(next.head(self.source)));
        let goes_on = code.is_some_and(|next| next.head(self.source).first() != Some(&b'.'));
        self.is_unlabelled() || !goes_on && !self.labels.iter().any(names)
    }

    /// The name of the instruction before the statement, whatever other sections stand in between.
    fn previous_head(&self) -> &'a [u8] {
        let here = self.sections.current().number;
        let before = self.before.as_ref().filter(|(section, _)| *section == here);
        before.map_or(&[][..], |(_, previous)| previous.head(self.source))
    }
}

/// Whether whoever gets control at the instruction of this name decides where it goes on.
fn is_trap(head: &[u8]) -> bool {
    [&b"ud2"[..], b"int3", b"int1", b"icebp"].iter().any(|trap| head.eq_ignore_ascii_case(trap))
}
